"""Signals: the first has a run stop and save, the second stops it at once."""

from __future__ import annotations

import signal
from collections.abc import Callable
from types import FrameType
from typing import Any

_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class StopRequest:
    """Turns SIGINT, SIGTERM and SIGHUP (a closed terminal) into a flag that the loop checks.

    A signal that is ignored when the block is entered stays so: nohup and `&` in scripts rely on it.

    Args:
        say: Called once, from the loop, after the first signal.
    """

    def __init__(self, say: Callable[[str], None]) -> None:
        self.signal: signal.Signals | None = None
        self._say = say
        self._announced = False
        self._before: dict[signal.Signals, Any] = {}

    def __enter__(self) -> StopRequest:
        for number in _SIGNALS:
            if signal.getsignal(number) != signal.SIG_IGN:
                self._before[number] = signal.signal(number, self._on_signal)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def requested(self) -> bool:
        """Whether a signal has come."""
        if self.signal and not self._announced:
            self._announced = True
            self._say(f"{self.signal.name}: saving, then stopping; once more stops at once, without saving")
        return self.signal is not None

    @property
    def exit_code(self) -> int:
        """What a shell expects of a process that a signal ended: 130 for SIGINT, 143 for SIGTERM."""
        return 128 + (self.signal or 0)

    def _on_signal(self, number: int, _: FrameType | None) -> None:
        again = self.signal is not None
        self.signal = signal.Signals(number)
        if again:
            raise KeyboardInterrupt(number)
