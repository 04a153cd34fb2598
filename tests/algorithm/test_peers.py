"""Loss and gradient of an update beside those of other libraries, on the same weights, batch and fractions.

    pip install -c constraints.txt -e '.[train,bench]'
    python -m pytest -m slow tests/algorithm/test_peers.py

Their own code runs: Tianshou's `_target_q`, `_target_dist` and `_update_with_batch`, sb3-contrib's `QRDQN.train`.
Only the network is ours. What differs stands in docs/algorithms.md.
"""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from fastdqn.algorithm import update as update_module
from fastdqn.algorithm.layers import NO_DRAWS
from fastdqn.algorithm.networks import QNetwork
from fastdqn.algorithm.update import Transitions
from fastdqn.engine.learner import Learner
from tests.algorithm.test_family import ACTIONS, ROWS, small
from tests.engine.test_learner import batch, copy_of, update

pytestmark = pytest.mark.slow


def our_update(preset: str, rule: str, monkeypatch: pytest.MonkeyPatch, **changes: Any) -> SimpleNamespace:
    """A learner's second update, on changes of a batch: what went in, and its loss, gradient and priorities.

    Before it the last layers of both networks are drawn anew, so wide that they choose different actions, and that
    it matters for the loss which.
    """
    config = small(preset)
    config = replace(config, learner=replace(config.learner, rule=rule))
    whole, gradients = update_module.clip_by_norm, []

    def keep(gradient: Tensor, *given: Any) -> Any:
        gradients.append(gradient.clone())
        return whole(gradient, *given)

    monkeypatch.setattr(update_module, "clip_by_norm", keep)
    one = Learner(config, ACTIONS, seed=3)
    update(one, batch(0))
    generator = torch.Generator().manual_seed(4)
    for which in ("online", "target"):
        one.state_tensors()[f"{which}.head.advantage.weight"].normal_(std=2.0, generator=generator)
    before, rows = copy_of(one.state_tensors()), replace(batch(1), **changes)
    results = update(one, rows)
    return SimpleNamespace(
        rows=rows,
        draws={name: dict(part) for name, part in one._draws.parts[0].items()},
        online=network_of(one, before, "online"),
        target=network_of(one, before, "target"),
        gradient=one.layout.parameters.split(gradients[-1]),
        loss=results["loss"].item(),
        priority=results["priority"],
    )


def network_of(one: Learner, tensors: dict[str, Tensor], which: str) -> QNetwork:
    network = QNetwork(one.network.config, ACTIONS)
    prefix = f"{which}."
    network.load_state_dict({n.removeprefix(prefix): v for n, v in tensors.items() if n.startswith(prefix)})
    return network


def assert_same_gradient(ours: SimpleNamespace, network: nn.Module, tolerance: float) -> None:
    """All parameters at once: the distance beside the gradient's length."""
    theirs = {name: parameter.grad for name, parameter in network.named_parameters()}
    assert theirs.keys() == ours.gradient.keys()
    distance = sum(float((theirs[name] - value).square().sum()) for name, value in ours.gradient.items())
    length = sum(float(value.square().sum()) for value in ours.gradient.values())
    assert length > 0
    assert (distance / length) ** 0.5 < tolerance


# Tianshou


class Model(nn.Module):
    """Our network as Tianshou calls one: probabilities for C51, quantiles, and quantiles with their fractions."""

    def __init__(self, network: QNetwork, draws: list[dict[str, Tensor]]) -> None:
        super().__init__()
        self.network, self.draws = network, draws

    def forward(self, obs: Tensor, state: Any = None, info: Any = None, sample_size: int = 0) -> Any:
        draws = self.draws.pop(0) if self.network.head.samples else NO_DRAWS
        z = self.network(obs, draws)
        if self.network.config.head == "categorical":
            return z.softmax(2), state
        return ((z, draws["head.fractions"]), state) if draws else (z, state)


def tianshou_of(ours: SimpleNamespace) -> tuple[Any, Model]:
    """Tianshou's algorithm for our head, its target network ours, its optimizer one that keeps the gradient."""
    gym = pytest.importorskip("gymnasium")
    pytest.importorskip("tianshou")
    from tianshou.algorithm.modelfree.c51 import C51, C51Policy
    from tianshou.algorithm.modelfree.iqn import IQN, IQNPolicy
    from tianshou.algorithm.modelfree.qrdqn import QRDQN, QRDQNPolicy
    from tianshou.algorithm.optim import AdamOptimizerFactory

    network = ours.online.config
    model = Model(ours.online, [])
    count = {"sample_size": network.quantiles, "online_sample_size": network.quantiles}
    given: dict[str, Any] = {"model": model, "action_space": gym.spaces.Discrete(ACTIONS)}
    rules: dict[str, Any] = {"optim": AdamOptimizerFactory(lr=1e-3), "target_update_freq": 10**9}
    algorithm: Any = {
        "categorical": lambda: C51(policy=C51Policy(**given, num_atoms=network.atoms), **rules),
        "quantile": lambda: QRDQN(policy=QRDQNPolicy(**given), num_quantiles=network.quantiles, **rules),
        "implicit": lambda: IQN(
            policy=IQNPolicy(**given, **count, target_sample_size=network.quantiles), **rules
        ),
    }[network.head]()
    algorithm._iter = 1  # its first update copies the network
    old = next(module for module in algorithm.model_old.modules() if isinstance(module, Model))
    old.network.load_state_dict(ours.target.state_dict())
    old.draws = model.draws
    algorithm.optim = SimpleNamespace(step=lambda loss: loss.backward())
    return algorithm, model


class _Whole(dict[None, SimpleNamespace]):
    """A buffer that gives the same rows whatever indices are asked for."""

    def __getitem__(self, indices: Any) -> SimpleNamespace:
        return super().__getitem__(None)


def tianshou_update(ours: SimpleNamespace) -> tuple[float, Model, Tensor]:
    """Its loss, the model with its gradient, and its priorities."""
    algorithm, model = tianshou_of(ours)
    from tianshou.data import Batch

    rows: Transitions = ours.rows
    # In the order of its calls: it chooses the next action by the online network.
    model.draws += [ours.draws[name] for name in ("online_next", "target_next", "online")]
    buffer = {None: SimpleNamespace(obs_next=rows.next_obs)}
    with torch.no_grad():
        next_z = algorithm._target_q(_Whole(buffer), np.arange(ROWS))
    # As its `compute_nstep_return` for n = 1.
    returns = rows.reward[:, None] + rows.discount[:, None] * next_z
    given = Batch(
        obs=rows.obs,
        obs_next=rows.next_obs,
        act=rows.action.numpy(),
        returns=returns,
        weight=rows.weight,
        info=[None] * ROWS,
    )
    loss = algorithm._update_with_batch(given).loss
    return float(loss), model, torch.as_tensor(np.asarray(given.weight))


@pytest.mark.parametrize(
    ("preset", "tolerance"),
    [
        ("c51", 1e-4),
        ("qrdqn", 1e-5),
        ("iqn", 1e-5),
    ],  # C51: it adds 1e-8 to probabilities before the logarithm
)
def test_tianshous_loss_and_gradient_are_those_of_the_double_rule(
    preset: str, tolerance: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    ours = our_update(preset, "double", monkeypatch)
    loss, model, priority = tianshou_update(ours)
    assert loss == pytest.approx(ours.loss, rel=tolerance)
    assert_same_gradient(ours, model.network, tolerance)
    if preset == "c51":
        torch.testing.assert_close(priority, ours.priority, rtol=1e-4, atol=0)
    else:  # Huber's function of the TD errors, without the fractions' weights; ours is their size
        assert not torch.allclose(priority.float(), ours.priority, rtol=0.1)


@pytest.mark.parametrize("preset", ["c51", "qrdqn", "iqn"])
def test_tianshou_has_no_maximum_of_the_target_network(preset: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the papers' rule gives is another loss: Tianshou's three algorithms are double ones."""
    ours = our_update(preset, "max", monkeypatch)
    double = our_update(preset, "double", monkeypatch)
    ours.draws["online_next"] = double.draws["online_next"]
    loss, _, _ = tianshou_update(ours)
    assert loss != pytest.approx(ours.loss, rel=1e-3)


def test_tianshous_c51_ends_at_the_logarithm_of_a_hundred_millionth(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where a probability is far below 1e-8 its loss stays at 18.4 and has no gradient; a log softmax goes on."""
    pytest.importorskip("tianshou")
    logits = torch.tensor([[40.0, 0.0]], requires_grad=True)
    goal = torch.tensor([[0.0, 1.0]])
    theirs = -(goal * torch.log(logits.softmax(1) + 1e-8)).sum()
    (flat,) = torch.autograd.grad(theirs, logits)
    steep = torch.autograd.grad(-(goal * logits.log_softmax(1)).sum(), logits)[0]
    assert theirs.item() == pytest.approx(18.42, abs=0.01)
    assert flat.abs().max() < 1e-8
    assert steep.abs().max() == pytest.approx(1)


# sb3-contrib


def test_sb3s_qrdqn_has_our_loss_and_gradient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its `train` on networks of ours; it knows no weights."""
    contrib = pytest.importorskip("sb3_contrib")
    ours = our_update("qrdqn", "max", monkeypatch, weight=torch.ones(ROWS))
    rows, losses = ours.rows, []
    data = SimpleNamespace(
        observations=rows.obs,
        next_observations=rows.next_obs,
        actions=rows.action[:, None],
        rewards=rows.reward[:, None],
        dones=torch.zeros(ROWS, 1),
        discounts=rows.discount[:, None],
    )
    nothing = lambda *_, **__: None  # noqa: E731
    agent = SimpleNamespace(
        policy=SimpleNamespace(
            set_training_mode=nothing,
            optimizer=SimpleNamespace(zero_grad=nothing, step=nothing),
        ),
        replay_buffer=SimpleNamespace(sample=lambda *_, **__: data),
        quantile_net=lambda obs: ours.online(obs).transpose(1, 2),
        quantile_net_target=lambda obs: ours.target(obs).transpose(1, 2),
        n_quantiles=ours.online.config.quantiles,
        gamma=0.99,
        max_grad_norm=None,
        logger=SimpleNamespace(record=lambda name, value, **_: losses.append((name, value))),
        _update_learning_rate=nothing,
        _vec_normalize_env=None,
        _n_updates=0,
    )
    contrib.QRDQN.train(agent, 1, ROWS)
    assert dict(losses)["train/loss"] == pytest.approx(ours.loss, rel=1e-5)
    assert_same_gradient(ours, ours.online, 1e-5)
