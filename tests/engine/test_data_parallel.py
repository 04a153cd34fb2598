"""Several ranks with a part of a batch each are one process with all of it, and equal to each other."""

from __future__ import annotations

import dataclasses
import os
import subprocess
import sys
from contextlib import nullcontext
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")

from fastdqn.algorithm.update import METRICS, Transitions
from fastdqn.config import Config, LearnerConfig, NetworkConfig, OptimizerConfig
from fastdqn.engine.data_parallel import ALONE, Alone, Ranks, joined, together
from fastdqn.engine.device import CudaBackend
from fastdqn.engine.learner import LaunchInputs, Learner
from fastdqn.errors import UserError
from tests.engine.cuda_standin import installed
from tests.engine.strict_twin import StrictTwin
from tests.engine.test_learner import ACTIONS, batch

BATCH, UPDATES, RANKS, AVERAGED = 32, 6, 2, 3
ROOT = Path(__file__).parents[2]


def learned(
    accelerate: str, ranks: Ranks = ALONE, rows: slice = slice(None), backend=None
) -> dict[str, torch.Tensor]:
    """The learner's state after some updates on some rows of the batches, its metrics, and its priorities."""
    config = Config(
        network=NetworkConfig(width=0.125, dueling=True),
        learner=LearnerConfig(
            rule="double",
            reduction="sum",
            batch_size=BATCH,
            target_period_updates=3,
            average_updates=AVERAGED,
        ),
        # Below the norm of most gradients: what is clipped before it is summed is another step.
        optimizer=OptimizerConfig(name="adam", learning_rate=1e-3, epsilon=1e-2, max_grad_norm=0.5),
    )
    one = Learner(config, ACTIONS, backend=backend, seed=7 + ranks.index, accelerate=accelerate, ranks=ranks)

    def share(update: int) -> tuple[torch.Tensor, ...]:
        whole = batch(update, BATCH)
        return tuple(
            getattr(whole, f.name)[rows].clone().to(one.backend.device)
            for f in dataclasses.fields(Transitions)
        )

    buffers = share(0)
    one.prepare(LaunchInputs([buffers], Transitions))
    result: dict[str, torch.Tensor] = {}
    for update in range(UPDATES):
        for kept, value in zip(buffers, share(update), strict=True):
            kept.copy_(value)
        one.backend.synchronize()
        reported = one.launch(AVERAGED + update)  # the first weights of a run would be all of the average
        one.backend.synchronize()
        for name in METRICS:
            result[f"{name}.{update}"] = reported.metrics[name].clone()
        result[f"priority.{update}"] = reported.priority[0].clone()
    result |= {name: value.clone() for name, value in one.state_tensors().items()}
    return {name: value.cpu() for name, value in result.items()}


# Two processes ----------------------------------------------------------------------------------------------

_START = """
import sys, time, torch
from fastdqn.engine import data_parallel
from fastdqn.engine.data_parallel import Group
folder, index, word = sys.argv[1], int(sys.argv[2]), sys.argv[3]
group = Group(f"file://{folder}/store", index, 2)
"""
_LEARN = """
from tests.engine.test_data_parallel import BATCH, learned
rows = slice(index * BATCH // 2, (index + 1) * BATCH // 2)
torch.save(learned(word, group, rows), f"{folder}/{index}.pt")
group.leave()
"""
_COLLECTIVES = """
from fastdqn.engine.data_parallel import together
from fastdqn.errors import UserError
assert group.sum(index, 5) == (1, 10)
assert group.gather(f"of {index}") == ["of 0", "of 1"]
tensor = torch.full((3,), float(index))
group.broadcast(tensor)
assert tensor.tolist() == [0, 0, 0]
for refuses in (0, 1, 2):  # one of them before it gathers, or nobody
    try:
        with together(group):
            if index == refuses:
                raise UserError("no room")
            group.gather(index)
    except UserError as error:
        assert str(error) == "no room" and refuses < 2
    else:
        assert refuses == 2
assert group.sum(1) == (2,)
group.leave()
"""
_LOSE = """
data_parallel.GRACE_SECONDS = 0.5
if index == 1:
    time.sleep(0.5)
    import os; os._exit(9)
if word == "stuck":
    time.sleep(600)
try:
    group.sum(1)
finally:
    group.give_up()
"""


def processes(folder: Path, script: str, word: str = "") -> list[subprocess.Popen[str]]:
    words = [sys.executable, "-c", _START + script, str(folder)]
    return [
        subprocess.Popen([*words, str(index), word], cwd=ROOT, stderr=subprocess.PIPE, text=True)
        for index in range(RANKS)
    ]


def ended(ranks: list[subprocess.Popen[str]]) -> list[tuple[int, str]]:
    try:
        said = [rank.communicate(timeout=300)[1] for rank in ranks]
    finally:
        for rank in ranks:
            rank.kill()
    return [(rank.returncode, text) for rank, text in zip(ranks, said, strict=True)]


@pytest.mark.parametrize(
    "accelerate",
    [pytest.param("eager", marks=pytest.mark.long), pytest.param("compile", marks=pytest.mark.slow)],
)
def test_two_ranks_are_one_process_with_both_their_batches(tmp_path, accelerate):
    """A gradient that is not averaged, or clipped before it is, is off by a hundred times the bound."""
    alone = learned(accelerate)
    ends = ended(processes(tmp_path, _LEARN, accelerate))
    assert [code for code, _ in ends] == [0, 0], ends
    ranks = [torch.load(tmp_path / f"{index}.pt") for index in range(RANKS)]
    for name, value in ranks[0].items():
        if name.startswith("priority"):
            both = torch.cat([rank[name] for rank in ranks])
            torch.testing.assert_close(both, alone[name], rtol=1e-4, atol=1e-5)
            continue
        assert torch.equal(value, ranks[1][name]), name
        torch.testing.assert_close(
            value, alone[name], rtol=1e-4, atol=1e-5, msg=lambda m, n=name: f"{n}: {m}"
        )
    assert not torch.equal(alone["priority.0"][:16], alone["priority.0"][16:])


@pytest.mark.long
def test_sums_values_and_refusals_reach_every_rank(tmp_path):
    ends = ended(processes(tmp_path, _COLLECTIVES))
    assert [code for code, _ in ends] == [0, 0], ends


@pytest.mark.long
@pytest.mark.parametrize("where", ["waits", "stuck"])
def test_a_rank_that_is_lost_ends_the_other(tmp_path, where):
    """Fault, where it is stuck in something else than a collective: nobody watches, and it stays for ever."""
    ranks = processes(tmp_path, _LOSE, where)
    ranks[1].wait(300)
    (code, said), _ = ended(ranks)
    assert code == 1
    assert "rank 0 of 2 cannot go on without another one" in said


# One process ------------------------------------------------------------------------------------------------


class Twins(Alone):
    """One of two ranks that do the same."""

    count = 2
    sums = 0

    def all_reduce(self, tensor):
        self.sums += 1
        tensor.mul_(2)

    def sum(self, *counts):
        return tuple(2 * count for count in counts)

    def gather(self, value):
        return [value, value]


@pytest.mark.parametrize(
    ("machine", "backend", "sums"),
    [(nullcontext, StrictTwin, 2), (installed, CudaBackend, 4)],
    ids=["strict twin", "stand-in"],
)
def test_the_sum_is_a_part_of_the_capture(machine, backend, sums):
    """Two ranks of the same batches are one, to the bit: half of a number is exact."""
    with machine() as gpu:
        alone = learned("graph", backend=backend())
        ranks = Twins()
        captured = learned("graph", ranks, backend=backend())
        assert ranks.sums == sums  # the runs before the capture, and that of the capture: no launch calls it
        for name, value in alone.items():
            assert torch.equal(captured[name], value), name
        if gpu:
            gpu.check()


def test_ranks_are_wanted_where_torchrun_started_some_and_only_there(monkeypatch):
    for name in [name for name in os.environ if name.endswith(("RANK", "WORLD_SIZE"))]:
        monkeypatch.delenv(name)
    with joined(False) as ranks:
        assert ranks is ALONE
    with pytest.raises(UserError, match="nobody has started several"), joined(True):
        pass
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "1")
    with joined(True) as ranks:
        assert ranks is ALONE
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(UserError, match="torchrun has started 2 processes"), joined(False):
        pass
    monkeypatch.setenv("RANK", "2")
    with (
        pytest.raises(UserError, match="RANK=2, WORLD_SIZE=2, LOCAL_RANK=0, LOCAL_WORLD_SIZE=1"),
        joined(True),
    ):
        pass


def test_one_process_refuses_alone():
    with pytest.raises(UserError, match="no"), together(ALONE):
        raise UserError("no")
