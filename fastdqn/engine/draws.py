"""Random numbers for passes through a network: filled before a launch, never drawn inside one."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from fastdqn.algorithm.layers import Draw

_GOLDEN = 0x9E3779B97F4A7C15
_MASK = 2**64 - 1


class DrawBuffer:
    """Memory for the random numbers of some passes, which a compiler or a graph can read.

    What `fill` draws follows from the seed and an index alone: a run that goes on needs no state, and eager,
    compiled and captured passes of one device read the same bits. (CPU and GPU draw different ones.)

    Args:
        passes: What each pass takes, by the names of the pass and of the draw.
        device: Where the passes run.
        seed: Of all that is drawn.
        copies: Launches of several updates take each pass several times.

    Attributes:
        parts: For each copy, by the names of pass and draw: float32 views, which `fill` writes.
    """

    def __init__(
        self,
        passes: Mapping[str, Mapping[str, Draw]],
        device: torch.device | str = "cpu",
        seed: int = 0,
        copies: int = 1,
    ) -> None:
        self._seed = seed
        self._generator = torch.Generator(device)
        sizes = dict.fromkeys(_FILLS, 0)
        for draws in passes.values():
            for draw in draws.values():
                sizes[draw.kind] += copies * math.prod(draw.shape)
        self._flat = {kind: torch.zeros(size, device=device) for kind, size in sizes.items()}
        self.parts = self._split(passes, copies)

    def fill(self, index: int) -> None:
        """Draw anew; work of the stream whose passes read the numbers.

        Args:
            index: Which launch, or act, of the run it is for.
        """
        for number, (kind, flat) in enumerate(self._flat.items()):
            if len(flat):
                self._generator.manual_seed(_mixed(self._seed, index, number))
                _FILLS[kind](flat, self._generator)

    def _split(
        self, passes: Mapping[str, Mapping[str, Draw]], copies: int
    ) -> list[dict[str, dict[str, Tensor]]]:
        at = dict.fromkeys(self._flat, 0)

        def take(draw: Draw) -> Tensor:
            start, size = at[draw.kind], math.prod(draw.shape)
            at[draw.kind] += size
            return self._flat[draw.kind][start : start + size].view(draw.shape)

        return [
            {name: {part: take(draw) for part, draw in draws.items()} for name, draws in passes.items()}
            for _ in range(copies)
        ]


def _fill_truncated(flat: Tensor, generator: torch.Generator) -> None:
    """Draw normal numbers between -2 and 2: the inverse of the distribution function, of uniform ones.

    Here and not in the layer: a compiler computes it anew for each weight that the number is a factor of.
    """
    share = math.erf(2 / math.sqrt(2))
    # float32's nearest number to the bound may lie a little beyond it.
    flat.uniform_(-share, share, generator=generator).erfinv_().mul_(math.sqrt(2)).clamp_(-2.0, 2.0)


_FILLS: dict[str, Callable[[Tensor, torch.Generator], object]] = {
    "uniform": lambda flat, generator: flat.uniform_(generator=generator),
    "normal": lambda flat, generator: flat.normal_(generator=generator),
    "truncated": _fill_truncated,
}
"""How each kind is drawn; a kind's seed is by its place."""


def _mixed(seed: int, index: int, kind: int) -> int:
    """Return a seed unlike those of the indices beside it (splitmix64; Steele et al. 2014).

    PyTorch's generator for CPUs keeps 32 of its bits, so that twelve thousand or so of ten million draws repeat
    another.
    """
    word = (seed * len(_FILLS) + kind) & _MASK
    for number in (index, 1):
        word = (word + (number + 1) * _GOLDEN) & _MASK
        word = ((word ^ (word >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
        word = ((word ^ (word >> 27)) * 0x94D049BB133111EB) & _MASK
        word ^= word >> 31
    return word >> 1
