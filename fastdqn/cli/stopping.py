"""Signals: the first has a run stop and save, the second stops it at once. The end of stdin stops it, too."""

from __future__ import annotations

import os
import select
import signal
from collections.abc import Callable
from types import FrameType
from typing import Any

_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR2)


class StopRequest:
    """Turns SIGINT, SIGTERM, SIGHUP (a closed terminal) and SIGUSR2 (Slurm, before it ends a job) into a flag.

    A signal that is ignored when the block is entered stays so: nohup and `&` in scripts rely on it.

    Args:
        say: Called once, from the loop, after the first signal.
        watched: A pipe whose end is a request, too, as that of whoever started this process: a signal that follows
            is still the first one. Whatever comes through it before is dropped.
    """

    def __init__(self, say: Callable[[str], None], watched: int | None = None) -> None:
        self.signal: signal.Signals | None = None
        self._say, self._watched = say, watched
        self._ended = False
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
        """Whether a signal has come, or the end of what is watched."""
        self._ended = self._ended or self._has_ended()
        requested = self.signal is not None or self._ended
        if requested and not self._announced:
            self._announced = True
            if self.signal:
                self._say(
                    f"{self.signal.name}: saving, then stopping; once more stops at once, without saving"
                )
            else:
                self._say("stdin has ended: saving, then stopping")
        return requested

    @property
    def exit_code(self) -> int:
        """What a shell expects of a process that a signal ended: 130 for SIGINT, 143 for SIGTERM.

        The end of stdin is as that of a terminal: SIGHUP, 129.
        """
        return 128 + (self.signal or signal.SIGHUP)

    def _has_ended(self) -> bool:
        """Look without waiting, about 2 us a pass of the loop; nothing is done where nothing is watched."""
        if self._watched is None:
            return False
        try:
            readable, _, _ = select.select([self._watched], [], [], 0)
            return bool(readable) and not os.read(self._watched, 4096)
        except OSError:  # it was closed before this process began
            return True

    def _on_signal(self, number: int, _: FrameType | None) -> None:
        again = self.signal is not None
        self.signal = signal.Signals(number)
        if again:
            raise KeyboardInterrupt(number)
