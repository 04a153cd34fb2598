"""Values that change over a run, as pure functions of the frame count."""

from __future__ import annotations


def linear(frame: int, start: float, end: float, first_frame: int, last_frame: int) -> float:
    """Go from `start` at `first_frame` to `end` at `last_frame` in a straight line, constant outside.

    Args:
        frame: Emulator frames played so far.
        start: Value up to `first_frame`.
        end: Value from `last_frame` on.
        first_frame: Where the line starts, in frames.
        last_frame: Where the line ends, in frames.

    Returns:
        The value at `frame`; exactly `end` from `last_frame` on.
    """
    if frame >= last_frame:
        return end
    if frame <= first_frame:
        return start
    return start + (end - start) * (frame - first_frame) / (last_frame - first_frame)


def epsilon(frame: int, maximum: float, minimum: float, warmup_frames: int, decay_frames: int) -> float:
    """Exploration after `frame` frames (Mnih et al. 2015): it falls from the end of warm-up on."""
    return linear(frame, maximum, minimum, warmup_frames, warmup_frames + decay_frames)
