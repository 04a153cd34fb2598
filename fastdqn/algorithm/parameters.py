"""Named tensors as one flat buffer, and the check that two sets of them are alike."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor

_ROW = 1024


class FlatLayout:
    """Where each of some named tensors lies in one flat buffer.

    Args:
        tensors: By name, such as a module's `named_parameters()`.
        arranged: Lay out the buffer as the libraries and compilers of a GPU read it: the largest tensors first, so
            that all but the last few begin at multiples of 64 bytes; those of four dimensions (the weights of
            convolutions) channels last, as `torch.channels_last` has them; zeros at the end, up to a whole
            number of rows. Otherwise the tensors lie in the order given, each contiguous.

    Attributes:
        shapes: Shape of each tensor, by name, in the order of the buffer.
        size: Numbers in the tensors.
        row: Numbers of a row, of which an arranged buffer is whole ones; `None` for another.
    """

    def __init__(self, tensors: Iterable[tuple[str, Tensor]], *, arranged: bool = False) -> None:
        named = list(tensors)
        self._arranged = arranged
        if arranged:
            named.sort(key=lambda item: -item[1].numel())
        self.shapes = {name: value.shape for name, value in named}
        self._sizes = [shape.numel() for shape in self.shapes.values()]
        self.size = sum(self._sizes)
        self.row = _ROW if arranged else None
        self._padding = -self.size % _ROW if arranged else 0

    def split(self, flat: Tensor) -> dict[str, Tensor]:
        """Return the tensors as views of `flat`."""
        parts = flat[: self.size].split(self._sizes)  # type: ignore[no-untyped-call]
        return {
            name: self._view(part, shape)
            for (name, shape), part in zip(self.shapes.items(), parts, strict=True)
        }

    def join(self, parts: Mapping[str, Tensor]) -> Tensor:
        """Return a new flat buffer that holds the tensors."""
        if not self.shapes:
            return torch.zeros(0)
        flat = [self._flat(parts[name]) for name in self.shapes]
        if self._padding:
            flat.append(flat[0].new_zeros(self._padding))
        return torch.cat(flat)

    def _view(self, part: Tensor, shape: torch.Size) -> Tensor:
        if self._arranged and len(shape) == 4:
            out, channels, height, width = shape
            return part.view(out, height, width, channels).permute(0, 3, 1, 2)
        return part.view(shape)

    def _flat(self, part: Tensor) -> Tensor:
        if self._arranged and part.dim() == 4:
            part = part.permute(0, 2, 3, 1)
        return part.reshape(-1)


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
