"""The strict twin of a GPU: what it catches, and that nothing of ours is caught by it."""

from __future__ import annotations

from collections.abc import Callable

import pytest

torch = pytest.importorskip("torch")

from fastdqn.engine.device import CpuBackend
from tests.engine.strict_twin import StrictTwin


class Machine:
    """A state of one number, an input and an output, with a step that may be at fault."""

    def __init__(self) -> None:
        self.state = torch.zeros(3)
        self.input = torch.zeros(3)
        self.output = torch.zeros(3)
        self.calls = 0
        self.flag = True

    def good(self) -> None:
        self.state.add_(2 * self.input)
        self.output.copy_(self.state * self.state)

    def frozen_counter(self) -> None:
        self.calls += 1
        self.state.add_(self.input, alpha=self.calls)
        self.output.copy_(self.state)

    def host_branch(self) -> None:
        if self.flag:
            self.state.add_(self.input)
        self.output.copy_(self.state)

    def rebinding(self) -> None:
        self.state = self.state + self.input
        self.output.copy_(self.state)

    def unwritten_output(self) -> None:
        self.state.add_(self.input)


def outputs(work_of: Callable[[Machine], Callable[[], None]], *, captured: bool) -> list[torch.Tensor]:
    """What four runs on fresh input put out, the flag turned after two."""
    machine, twin = Machine(), StrictTwin()
    work = work_of(machine)
    if captured:
        work = twin.capture(work, [machine.output], twin.learn)
        machine.state.zero_()
        machine.calls = 0
    seen = []
    for turn in range(4):
        machine.input.fill_(turn + 1)
        machine.flag = turn < 2
        work()
        seen.append(machine.output.clone())
    return seen


def same(first: list[torch.Tensor], second: list[torch.Tensor]) -> bool:
    return all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


def test_a_capture_replays_the_function():
    def of(machine):
        return machine.good

    plain = outputs(of, captured=False)
    assert same(outputs(of, captured=True), plain)
    assert len({float(value[0]) for value in plain}) == 4


@pytest.mark.parametrize("fault", ["frozen_counter", "host_branch", "rebinding", "unwritten_output"])
def test_a_capture_shows_a_planted_fault(fault):
    """Fails when the twin runs the function again instead of replaying what it did."""

    def of(machine):
        return getattr(machine, fault)

    assert not same(outputs(of, captured=True), outputs(of, captured=False))


def test_a_tensor_that_was_rebound_after_the_capture_is_not_seen():
    machine, twin = Machine(), StrictTwin()
    replay = twin.capture(machine.good, [machine.output], twin.learn)
    machine.state = torch.full((3,), 5.0)  # what load_state_dict(assign=True) does
    replay()
    assert (machine.state == 5.0).all()


def test_gradients_are_captured():
    weight, target, loss = torch.ones(3), torch.zeros(3), torch.zeros(())

    def descend():
        def objective(w):
            return ((w * w - target) ** 2).sum()

        gradient, value = torch.func.grad_and_value(objective)(weight)
        weight.sub_(0.1 * gradient)
        loss.copy_(value)

    replay = StrictTwin().capture(descend, [loss], StrictTwin().learn)
    weight.fill_(1.0)
    target.fill_(0.25)
    replay()
    assert loss == 3 * 0.75**2
    assert torch.allclose(weight, torch.full((3,), 1 - 0.1 * 4 * 0.75))


def test_work_is_put_off_until_somebody_waits():
    twin, done = StrictTwin(), []
    twin.learn.submit(lambda: done.append("first"))
    middle = twin.learn.record()
    twin.learn.submit(lambda: done.append("second"))
    assert done == []
    twin.act.submit(lambda: done.append("other"))
    middle.wait()
    assert done == ["first"]
    twin.synchronize()
    assert sorted(done) == ["first", "other", "second"]


def test_a_stream_that_waits_for_another_does_so_in_its_turn():
    twin, done = StrictTwin(), []
    twin.copy.submit(lambda: done.append("copy"))
    copied = twin.copy.record()
    twin.learn.submit(lambda: done.append("before"))
    twin.learn.wait(copied)
    twin.learn.submit(lambda: done.append("after"))
    twin.learn.record().wait()
    assert done == ["before", "copy", "after"]


def test_a_missing_wait_reads_stale_memory():
    """The fault that the late streams are for: a reader that does not wait for its writer."""
    twin, box, seen = StrictTwin(), torch.zeros(1), torch.zeros(1)
    twin.copy.submit(lambda: box.fill_(7))
    twin.learn.submit(lambda: seen.copy_(box))
    twin.learn.record().wait()
    assert seen == 0


def test_the_cpu_does_work_at_once_and_captures_nothing():
    cpu, done = CpuBackend(), []
    cpu.learn.submit(lambda: done.append(1))
    assert done == [1]
    with pytest.raises(RuntimeError, match="needs a CUDA device"):
        cpu.capture(lambda: None, [], cpu.learn)
