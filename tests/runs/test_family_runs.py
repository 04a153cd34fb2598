"""Presets of the value-based family as whole runs: stopped and resumed, evaluated, exported and filmed."""

from __future__ import annotations

from dataclasses import replace

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("envpool")

from fastdqn.config import Config, EvaluationSettings, FilmSettings
from fastdqn.presets import PRESETS
from fastdqn.runs import checkpoint
from fastdqn.runs.evaluation import evaluate, policy_network
from fastdqn.runs.folder import RunFolder
from fastdqn.runs.trainer import train
from fastdqn.views import export
from tests.runs.test_resume import differences, interrupted, outcome, tiny

FAMILY = ("noisy", "c51", "qrdqn", "iqn", "m-dqn", "m-iqn", "rainbow", "btr", "quick-rainbow")
IN_CI = ("rainbow", "m-iqn")  # between them noise, fractions and a policy's draws


def small(preset: str) -> Config:
    """A preset's algorithm and rules of the game, in a run of two games and some 300 passes."""
    config, like = PRESETS[preset].config, tiny(total_frames=2_400)
    rules, policy = config.env, "softmax" if preset == "m-iqn" else "greedy"
    return replace(
        like,
        preset=preset,
        env=replace(
            like.env,
            life_loss=rules.life_loss,
            fire_reset=rules.fire_reset,
            noop_max=rules.noop_max,
            sticky_actions=rules.sticky_actions,
        ),
        replay=replace(like.replay, alpha=config.replay.alpha, beta_final=config.replay.beta_final),
        network=replace(config.network, width=1 / 16, quantiles=min(config.network.quantiles, 9)),
        learner=replace(config.learner, batch_size=4, steps_per_update=4, target_period_updates=37),
        optimizer=config.optimizer,
        exploration=replace(config.exploration, decay_frames=2_000, off_frames=None, policy=policy),
        evaluation=replace(config.evaluation, max_episode_frames=400),
    )


@pytest.mark.parametrize(
    "preset",
    [pytest.param(name, marks=pytest.mark.long if name in IN_CI else pytest.mark.slow) for name in FAMILY],
)
def test_a_presets_run_resumes_exactly_and_is_exported(preset, tmp_path, monkeypatch):
    """Fails where noise, fractions or a layer's state depend on anything that a checkpoint has not."""
    whole = RunFolder.create(tmp_path / "whole", small(preset))
    assert train(whole).updates > 100
    halves = interrupted(tmp_path / "halves", small(preset), [57, 90])
    differing = differences(outcome(halves), outcome(whole))
    assert differing == []
    monkeypatch.setattr(export, "_CHECKED_STEPS", 2)
    for format in ("pt2", "torchscript", "safetensors"):
        exported = export.export(whole, format, tmp_path / f"p.{format}")
        assert exported.largest_difference < 1e-4
    # What is exported is the means and even fractions, not a draw.
    network = policy_network(checkpoint.load_policy(whole.path))
    frames = torch.from_numpy(export.real_frames(whole.config, 2)[:4])
    assert torch.equal(network(frames), network.network.q_values(frames))


@pytest.mark.slow
@pytest.mark.parametrize("preset", FAMILY)
def test_a_presets_run_is_evaluated_and_filmed(preset, tmp_path):
    """Evaluations of one seed are alike, though most of them draw."""
    pytest.importorskip("imageio_ffmpeg")
    from fastdqn.views.record import record

    run = RunFolder.create(tmp_path / "run", small(preset))
    train(run)
    scores = [evaluate(run, EvaluationSettings(episodes=2)).returns for _ in range(2)]
    assert scores[0] == scores[1]
    film = record(run, FilmSettings(max_seconds=1.0, gif_seconds=0.5, scale=2), out=tmp_path)
    assert film.frames == 60
