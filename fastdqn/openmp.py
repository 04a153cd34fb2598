"""How long PyTorch's CPU threads wait awake for each other."""

from __future__ import annotations

import os
import sys


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
