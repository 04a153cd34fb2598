"""Exact accounting of frames, steps and updates."""

from __future__ import annotations

import random

import pytest

from fastdqn.runs.clock import Clock, Marks


@pytest.mark.parametrize("steps_per_update", [1, 3, 4, 7])
def test_updates_are_owed_exactly_whatever_the_size_of_a_pass(steps_per_update):
    """Fails when the rest of a division is dropped at each pass."""
    rng = random.Random(5)
    clock = Clock(frame_skip=4, warmup_steps=10, steps_per_update=steps_per_update)
    for _ in range(500):
        clock.add_steps(rng.randint(0, 8))  # autoreset rows make passes uneven
        for _ in range(clock.updates_due()):
            clock.add_updates(1)
        assert clock.updates == max(0, (clock.steps - 10) // steps_per_update)
        assert clock.updates_due() == 0
    assert clock.frames == 4 * clock.steps


def test_planned_updates_are_those_that_are_done():
    clock = Clock(frame_skip=4, warmup_steps=100, steps_per_update=4)
    planned = clock.updates_planned(total_frames=8_000)
    while clock.frames < 8_000:
        clock.add_steps(8)
        for _ in range(clock.updates_due()):
            clock.add_updates(1)
    assert planned == clock.updates == (2_000 - 100) // 4


def test_restarted_warmup_owes_nothing_at_first():
    """Fails when a resumed run makes up for the steps that fill its new replay."""
    clock = Clock(frame_skip=4, warmup_steps=100, steps_per_update=4, steps=1_000, updates=225)
    clock.restart_warmup()
    clock.add_steps(99)
    assert clock.updates_due() == 0
    clock.add_steps(9)
    assert clock.updates_due() == 2


def test_what_follows_frames_is_due_once_for_each_multiple_however_uneven_the_passes():
    """Fails when a pass that jumps over a multiple is not seen, or one multiple is seen twice."""
    rng, clock, marks, done = random.Random(3), Clock(4, 0, 4), Marks(), []
    while clock.frames < 10_000:
        clock.add_steps(rng.randint(0, 8))
        if clock.passed(100, since=marks.logged):
            marks.logged = clock.frames
            done.append(clock.frames // 100)
        assert not clock.passed(None, since=0)
    assert done == list(range(1, 101))
