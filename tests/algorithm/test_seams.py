"""Parts of one's own in every place where a run has some: random numbers, state, several numbers an action."""

from __future__ import annotations

import importlib.util
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("envpool")

from torch import nn

from fastdqn import api, config
from fastdqn.algorithm import heads, targets, torsos
from fastdqn.algorithm.heads import ScalarHead
from fastdqn.algorithm.layers import Draw, draws_of
from fastdqn.algorithm.networks import QNetwork
from fastdqn.algorithm.targets import Next
from fastdqn.algorithm.torsos import NatureTorso
from fastdqn.config import EvaluationSettings, NetworkConfig
from fastdqn.engine.acting import ActingNetwork, PolicyNetwork
from fastdqn.engine.device import CpuBackend
from fastdqn.engine.draws import DrawBuffer
from fastdqn.engine.learner import Learner
from fastdqn.errors import UserError
from fastdqn.runs.evaluation import evaluate
from fastdqn.runs.folder import RunFolder
from fastdqn.runs.trainer import train
from fastdqn.views import export
from tests.engine.strict_twin import StrictTwin
from tests.engine.test_learner import ACTIONS, assert_same_bits, batch, copy_of, learner, update, updates_of
from tests.runs.test_resume import differences, interrupted, outcome, tiny


class Restless(nn.Module):
    """A layer that takes random numbers and has a state: features times (1 + noise * level)."""

    def __init__(self, features: int) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.zeros(features))
        self.level = nn.Buffer(torch.full((1,), 0.5))
        self.features = features

    def draws(self, rows: int) -> dict[str, Draw]:
        return {"noise": Draw("normal", (self.features,)), "coin": Draw("uniform", (rows, 1))}

    def advance(self, tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        return {"level": 0.5 * tensors["level"] + 0.01 + tensors["gain"].abs().mean()}

    def forward(self, features: torch.Tensor, draws: dict[str, torch.Tensor]) -> torch.Tensor:
        if not draws:
            return features
        noise = 0.1 * draws["noise"] + (draws["coin"] - 0.5)
        return features * (1 + self.gain + self.level * noise)


class RestlessTorso(NatureTorso):
    """Nature's with the layer above behind it."""

    def __init__(self, config: NetworkConfig, stack: int) -> None:
        super().__init__(config, stack)
        self.restless = Restless(self.features)

    def initialize(self, generator: torch.Generator | None) -> None:
        for layer in (self.conv1, self.conv2, self.conv3):
            torsos.draw_weights(layer, 6.0, generator)

    def forward(self, pixels: torch.Tensor, draws: dict[str, torch.Tensor]) -> torch.Tensor:
        restless = {name.removeprefix("restless."): value for name, value in draws.items()}
        return self.restless(super().forward(pixels, draws), restless)


class ThreeValues(ScalarHead):
    """Three numbers an action, whose mean is its value."""

    size = 3

    def q(self, z: torch.Tensor) -> torch.Tensor:
        return z.mean(2)

    def goal(self, next_z, next_actions, reward, discount):
        value = (next_actions.weight.unsqueeze(2) * (next_z - next_actions.penalty.unsqueeze(2))).sum(1)
        return reward.unsqueeze(1) + discount.unsqueeze(1) * value

    def loss(self, z, goal, draws, elementwise):
        losses = elementwise(goal - z).mean(1)
        return losses, losses.detach() + 1e-3


def soft(values: targets.Values) -> Next:
    """All actions, weighted; and a bonus from the target network's values of the observation."""
    q = values.target_next()
    every = torch.arange(q.shape[1], device=q.device).expand(len(q), -1)
    bonus = 0.1 * values.target_now().softmax(1).gather(1, values.action.unsqueeze(1)).squeeze(1)
    return Next(every, q.softmax(1), 0.1 * q.log_softmax(1), bonus)


@pytest.fixture(autouse=True)
def _registered(monkeypatch):
    """The parts above, known for one test."""
    torch.compiler.reset()
    monkeypatch.setattr(torsos, "TORSOS", known := dict(torsos.TORSOS))
    for module in ("fastdqn.algorithm.networks",):
        monkeypatch.setattr(f"{module}.TORSOS", known)
    monkeypatch.setattr(heads, "HEADS", dict(heads.HEADS))
    monkeypatch.setattr("fastdqn.algorithm.networks.HEADS", heads.HEADS)
    monkeypatch.setattr(targets, "RULES", dict(targets.RULES))
    monkeypatch.setattr("fastdqn.algorithm.update.RULES", targets.RULES)
    for names in (config.TORSO_NAMES, config.HEAD_NAMES, config.RULE_NAMES):
        monkeypatch.setattr(names, "known", list(names.known))
    api.register_torso("restless", RestlessTorso)
    api.register_head("three-values", ThreeValues)
    api.register_rule("soft", lambda config: soft)


EXAMPLE = Path(__file__).parents[2] / "examples" / "custom_parts.py"
OWN = NetworkConfig(torso="restless", head="three-values", width=1 / 8, dueling=True)


def own_learner(machine=None, accelerate="eager") -> Learner:
    like = learner()._config
    config = replace(like, network=OWN, learner=replace(like.learner, rule="soft"))
    return Learner(config, ACTIONS, seed=3, backend=machine, accelerate=accelerate)


def test_captured_is_eager_bit_for_bit_and_a_restored_state_goes_on_the_same():
    plain, captured = own_learner(), own_learner(StrictTwin(), "graph")
    kept = None
    for seed in range(6):
        want, got = update(plain, batch(seed)), update(captured, batch(seed))
        assert all(torch.equal(got[name], value) for name, value in want.items())
        if seed == 2:
            kept = copy_of(plain.state_tensors())
    assert_same_bits(captured.state_tensors(), plain.state_tensors())
    again = own_learner()
    again.load_state_tensors(kept)
    for seed in range(3, 6):
        update(again, batch(seed), index=seed)
    assert_same_bits(again.state_tensors(), plain.state_tensors())


@pytest.mark.long
def test_compiled_is_eager_within_the_bound():
    eager, compiled = own_learner(), own_learner(accelerate="compile")
    for seed in range(4):
        want, got = update(eager, batch(seed)), update(compiled, batch(seed))
        torch.testing.assert_close(got["priority"], want["priority"], rtol=2e-5, atol=2e-5)
    for name, value in eager.state_tensors().items():
        torch.testing.assert_close(compiled.state_tensors()[name], value, rtol=1e-4, atol=1e-5)


def test_each_launch_and_each_pass_draws_anew():
    """Fails when a graph freezes its random numbers, or two passes share them."""
    one = own_learner(StrictTwin(), "graph")
    first = update(one, batch(0), 0.0)
    second = update(one, batch(0), 0.0)
    assert not torch.equal(first["priority"], second["priority"])
    parts = one._draws.parts[0]
    noises = [draws["torso.restless.noise"] for draws in parts.values()]
    assert set(parts) == {"online", "target_next", "target_now"}  # those that the rule reads
    assert not any(torch.equal(a, b) for i, a in enumerate(noises) for b in noises[:i])


def test_draws_are_what_they_are_called():
    """Seed 1, a million of each: mean and variance within 5 standard errors; uniform ones in [0, 1).

    A normal number that is cut at 2 has the variance 0.7737 and the fourth moment 1.4162, so that the standard
    error of its variance is (1.4162 - 0.7737^2)^(1/2) / 1,000 = 0.0009.
    """
    size = 1_000_000
    draws = {
        "a": Draw("normal", (size,)),
        "b": Draw("uniform", (size // 2, 2)),
        "c": Draw("truncated", (size,)),
    }
    buffer = DrawBuffer({"one": draws}, seed=1)
    buffer.fill(0)
    normal, uniform = buffer.parts[0]["one"]["a"].clone(), buffer.parts[0]["one"]["b"].clone()
    assert abs(normal.mean()) < 5e-3
    assert abs(normal.var() - 1) < 5 * 2**0.5 * 1e-3
    assert abs(uniform.mean() - 0.5) < 5 * 12**-0.5 * 1e-3
    assert uniform.min() >= 0
    assert uniform.max() < 1
    truncated = buffer.parts[0]["one"]["c"].clone()
    assert abs(truncated.mean()) < 5 * 0.7737**0.5 * 1e-3
    assert abs(truncated.var() - 0.7737) < 5 * 9e-4
    assert 1.9999 < truncated.abs().max() <= 2
    assert not {*truncated[:1000].tolist()} & {*normal[:1000].tolist()}
    buffer.fill(1)
    assert not torch.equal(buffer.parts[0]["one"]["a"], normal)
    buffer.fill(0)
    assert torch.equal(buffer.parts[0]["one"]["a"], normal)
    other = DrawBuffer({"one": draws}, seed=2)
    other.fill(0)
    assert not torch.equal(other.parts[0]["one"]["a"], normal)


def test_state_moves_on_once_an_update_and_not_while_acting():
    one = own_learner()
    acting = ActingNetwork(one, 8, partial(updates_of, one), seed=5)
    levels = []
    for seed in range(3):
        update(one, batch(seed))
        before = copy_of(one.state_tensors())
        acting(batch(9).obs.numpy(), seed)
        assert_same_bits(before, one.state_tensors())
        levels.append(float(before["online.torso.restless.level"]))
    assert levels[0] == pytest.approx(0.5 * 0.5 + 0.01)
    assert len(set(levels)) == 3
    assert "optimizer.mean.torso.restless.level" not in one.state_tensors()
    # The target's copy, made at the third update, has it too.
    state = one.state_tensors()
    assert torch.equal(state["target.torso.restless.level"], state["online.torso.restless.level"])


@pytest.mark.parametrize("lag", [0, 2])
def test_acting_on_the_twin_is_acting_at_once(lag):
    taken = []
    for machine, accelerate in ((CpuBackend(), "eager"), (StrictTwin(), "graph")):
        one = own_learner(machine, accelerate)
        acting = ActingNetwork(one, 6, partial(updates_of, one), lag_updates=lag, seed=5)
        update(one, batch(0))
        acting.prepare()
        actions = []
        for act in range(12):
            update(one, batch(act), 0.1)
            actions.append(acting(batch(100, rows=6).obs.numpy(), act).tolist())
        taken.append(actions)
    assert taken[0] == taken[1]
    assert len({tuple(action) for action in taken[0]}) > 1


def test_a_policy_draws_by_seed_and_act():
    network = QNetwork(OWN, ACTIONS, generator=torch.Generator().manual_seed(1))
    obs = batch(0).obs
    one, same, other = (
        PolicyNetwork(network, seed=1),
        PolicyNetwork(network, seed=1),
        PolicyNetwork(network, seed=2),
    )
    assert torch.equal(one(obs, 3), same(obs, 3))
    assert not torch.equal(one(obs, 3), one(obs, 4))
    assert not torch.equal(one(obs, 3), other(obs, 3))
    assert set(draws_of(network, 2)) == {"torso.restless.noise", "torso.restless.coin"}


def own_run():
    like = tiny()
    return replace(
        like,
        network=replace(OWN, width=1 / 16),
        learner=replace(like.learner, rule="soft"),
        total_frames=3_000,
    )


@pytest.mark.long
def test_a_run_with_parts_of_ones_own_resumes_exactly_evaluates_and_exports(tmp_path, monkeypatch):
    whole = RunFolder.create(tmp_path / "whole", own_run())
    train(whole)
    halves = interrupted(tmp_path / "halves", own_run(), [170, 90])
    assert differences(outcome(halves), outcome(whole)) == []
    rules = replace(whole.config.evaluation, max_episode_frames=400)
    whole.config = replace(whole.config, evaluation=rules)
    scores = [evaluate(whole, EvaluationSettings(episodes=2)).returns for _ in range(2)]
    assert scores[0] == scores[1]
    monkeypatch.setattr(export, "_CHECKED_STEPS", 2)
    for format in ("pt2", "torchscript", "safetensors"):
        assert export.export(whole, format, tmp_path / f"p.{format}").largest_difference < 1e-4


def test_the_examples_parts_train_and_go_on(tmp_path, monkeypatch):
    """The example's own torso and rule in a short run, stopped and resumed as its last lines do."""
    spec = importlib.util.spec_from_file_location("custom_parts", EXAMPLE)
    example = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(example)
    like = tiny()
    config = replace(
        like,
        total_frames=1_500,
        network=replace(like.network, torso="two-convolutions"),
        learner=replace(like.learner, rule="soft-example"),
    )
    run = RunFolder.create(tmp_path / "run", config)
    train(run)
    before = outcome(run)["tensors"]
    longer = api.resume_training(run.path, total_frames=2_000)
    assert longer.frames >= 2_000
    after = outcome(RunFolder.open(run.path))["tensors"]
    assert any(after[name] != before[name] for name in after if name.startswith("online.torso.conv2"))


def test_a_part_that_nobody_registered_is_named(tmp_path):
    run = RunFolder.create(tmp_path / "run", own_run())
    config.TORSO_NAMES.known.remove("restless")
    with pytest.raises(
        UserError, match=r"network\.torso = 'restless': must be one of nature, impala; a part of your own"
    ):
        train(run)


def test_a_name_is_one_parts_alone():
    api.register_torso("restless", RestlessTorso)  # the same again is nothing new
    with pytest.raises(ValueError, match=r"network\.torso = 'nature' is another part's;"):
        api.register_torso("nature", RestlessTorso)


def test_a_head_or_torso_that_lacks_something_is_refused_where_it_is_made():
    class Half(heads.Head):
        def q(self, z):
            return z.squeeze(2)

    with pytest.raises(TypeError, match=r"abstract.*goal"):
        Half(OWN, 10, 3)
    with pytest.raises(TypeError, match=r"abstract.*forward"):
        type("Empty", (torsos.Torso,), {})()
