"""How long PyTorch's CPU threads wait awake for each other."""

from __future__ import annotations

import os


def shorten_waits() -> None:
    """Have OpenMP threads sleep soon instead of spinning; to be called before torch is imported.

    GNU's OpenMP spins for milliseconds at the end of each parallel loop when it believes that every thread has a
    core of its own. Emulator threads and other programs use those cores too: with the emulator alone beside it
    training gains a tenth, on a busy machine it doubles. What the user has set stays.
    """
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", "5000")
