"""Named tensors as one flat buffer, and the check that two sets of them are alike."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor


class FlatLayout:
    """Where each of some named tensors lies in one flat buffer.

    Args:
        tensors: By name, in the order of the buffer; such as a module's `named_parameters()`.

    Attributes:
        shapes: Shape of each tensor, by name, in the order of the buffer.
        size: Numbers in the buffer.
    """

    def __init__(self, tensors: Iterable[tuple[str, Tensor]]) -> None:
        self.shapes = {name: value.shape for name, value in tensors}
        self._sizes = [shape.numel() for shape in self.shapes.values()]
        self.size = sum(self._sizes)

    def split(self, flat: Tensor) -> dict[str, Tensor]:
        """Return the tensors as views of `flat`."""
        parts = flat.split(self._sizes)  # type: ignore[no-untyped-call]
        return {
            name: part.view(shape) for (name, shape), part in zip(self.shapes.items(), parts, strict=True)
        }

    def join(self, parts: Mapping[str, Tensor]) -> Tensor:
        """Return a new flat buffer that holds the tensors."""
        if not self.shapes:
            return torch.zeros(0)
        return torch.cat([parts[name].reshape(-1) for name in self.shapes])


def check_same(expected: Mapping[str, Tensor], given: Mapping[str, Tensor]) -> None:
    """Raise unless `given` has exactly the names, shapes and dtypes of `expected`.

    Raises:
        KeyError: A name is missing, or is not an expected one.
        ValueError: A shape or a dtype differs.
    """
    for name, value in expected.items():
        if name not in given:
            raise KeyError(f"{name}: missing; shape {list(value.shape)} is wanted")
        other = given[name]
        if other.shape != value.shape:
            raise ValueError(f"{name}: shape {list(value.shape)} is wanted, not {list(other.shape)}")
        if other.dtype != value.dtype:
            raise ValueError(f"{name}: dtype {value.dtype} is wanted, not {other.dtype}")
    foreign = sorted(set(given) - set(expected))
    if foreign:
        raise KeyError(
            f"{foreign[0]}: not a tensor of this learner; its shape is {list(given[foreign[0]].shape)}"
        )
