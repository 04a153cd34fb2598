"""How many CPU threads PyTorch computes with, and how long they wait awake for each other."""

from __future__ import annotations

import os
import sys
import time
from contextlib import suppress

STAT = "/proc/stat"
"""Where Linux counts what each core has done."""

_LOOKED_AT_SECONDS = 0.5
_LOOKED_AGAIN_SECONDS = 1.5
_BUSY = 0.5
"""Of a core: what other programs take at least, before anything is made of it."""


def shorten_waits() -> bool:
    """Have OpenMP threads sleep soon instead of spinning; to be called before torch is imported.

    GNU's OpenMP spins for milliseconds at the end of each parallel loop when it believes that every thread has a
    core of its own. Emulator threads and other programs use those cores too: with the emulator alone beside it
    training gains a tenth, on a busy machine it doubles. What the user has set stays.

    Returns:
        Whether it came in time: OpenMP reads its environment once, when torch is loaded. True as well where
        nothing was to be done, because the user has chosen or torch has one thread.
    """
    if "OMP_WAIT_POLICY" in os.environ or "GOMP_SPINCOUNT" in os.environ:
        return True
    os.environ["GOMP_SPINCOUNT"] = "5000"
    torch = sys.modules.get("torch")
    return torch is None or torch.get_num_threads() == 1


class OtherPrograms:
    """How many of the cores that this process may use others are using.

    From the moment that an object is made, or was last asked. Where the system does not say, nobody uses any.

    Attributes:
        usable: The cores that this process may use, as it was made.
    """

    def __init__(self) -> None:
        self.usable = os.sched_getaffinity(0)
        self._last = _seconds(self.usable)

    @property
    def age(self) -> float:
        """Seconds since then."""
        return time.perf_counter() - self._last[0]

    def wait_until(self, age: float) -> None:
        """Sleep until so many seconds have passed since then."""
        left = age - self.age
        if left > 0:
            time.sleep(left)

    def cores(self) -> float:
        """Return the cores that other programs have taken since then, on the mean."""
        (then, busy_then, own_then), (now, busy, own) = self._last, _seconds(self.usable)
        self._last = (now, busy, own)
        elapsed = now - then
        return max(0.0, (busy - busy_then - (own - own_then)) / elapsed) if elapsed > 0 else 0.0


def threads_beside(others: OtherPrograms, most: int) -> tuple[int, float]:
    """Return how many threads to compute with, and the cores that other programs take.

    Threads that share every small operation wait for the one that has no core: two beside a program that takes
    one of two cores are a third as fast as one.

    Args:
        others: Looked at for half a second at least, and where they take cores that threads would want, again for
            longer: it decides for hours, and a command that was about to end is no neighbour.
        most: Threads on an idle machine.
    """

    def count(busy: float) -> int:
        return max(1, min(most, len(others.usable) - int(busy + 0.5)))

    others.wait_until(_LOOKED_AT_SECONDS)
    busy = others.cores()
    if count(busy) < count(0.0):
        others.wait_until(_LOOKED_AGAIN_SECONDS)
        busy = min(busy, others.cores())
    return count(busy), busy


def busy_note(cores: float) -> str:
    """Say that the machine is busy; nothing where it is not."""
    return f"other programs take {cores:.1f} cores" if cores >= _BUSY else ""


def _seconds(usable: set[int]) -> tuple[float, float, float]:
    """Return the time now, the seconds that these cores have computed, and this process' own."""
    busy = 0.0
    with suppress(OSError, ValueError):
        names = {f"cpu{core}" for core in usable}
        with open(STAT, encoding="ascii") as file:
            for line in file:
                name, *counts = line.split()
                if name in names:
                    user, nice, system = (int(count) for count in counts[:3])
                    busy += user + nice + system
    ticks = os.sysconf("SC_CLK_TCK")
    times = os.times()
    return time.perf_counter(), busy / ticks, times.user + times.system


_AT_START = [OtherPrograms()]
_STILL_TELLS_SECONDS = 10.0


def looked_at() -> OtherPrograms:
    """Return a look that began when this module was imported, the first time and soon after; else one from now on.

    A command looks while it imports PyTorch, and need not wait for what it will see.
    """
    now = OtherPrograms()
    if _AT_START:
        first = _AT_START.pop()
        if first.age < _STILL_TELLS_SECONDS and first.usable == now.usable:
            return first
    return now
