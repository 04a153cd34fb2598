"""What a configuration takes of memory is refused before it is taken, with the arithmetic."""

from __future__ import annotations

import re
import resource
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from fastdqn import _core
from fastdqn.config import Config, NetworkConfig
from fastdqn.presets import PRESETS
from fastdqn.runs import memory

GIB = 2**30


def changed(**settings: Any) -> Config:
    """Return quick with settings such as `learner__batch_size`."""
    config = PRESETS["quick"].config
    for name, value in settings.items():
        section, _, leaf = name.partition("__")
        value = replace(getattr(config, section), **{leaf: value}) if leaf else value
        config = replace(config, **{section: value})
    assert config.validate() == []
    return config


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "host_bytes", lambda: 4 * GIB)


@pytest.mark.usefixtures("machine")
@pytest.mark.parametrize("preset", ["quick"])
def test_a_small_run_fits_a_small_machine(preset: str) -> None:
    assert memory.problems(PRESETS[preset].config) == []


@pytest.mark.usefixtures("machine")
@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"replay__capacity": 2**62}, "replay.capacity"),
        ({"env__num_envs": 4096}, "env.num_envs"),
        ({"env__restart_steps": 2**62, "total_frames": 2**62}, "env.restart_steps"),
        ({"learner__batch_size": 65_536}, "learner.batch_size"),
        ({"network__width": 16}, "network.width"),
        (
            {
                "pipeline__updates_per_launch": 1024,
                "learner__batch_size": 2048,
                "learner__target_period_updates": 1024,
            },
            "pipeline.updates_per_launch",
        ),
    ],
)
def test_every_setting_that_sizes_memory_is_bounded_by_it(settings: dict[str, Any], named: str) -> None:
    problem = next(line for line in memory.problems(changed(**settings)) if line.startswith(f"{named} = "))
    assert " x " in problem or "record of" in problem
    assert "and this machine has 4.0 GiB to spare" in problem
    assert f"try `{named} = " in problem


@pytest.mark.usefixtures("machine")
@pytest.mark.parametrize(
    ("name", "value"),
    [("replay__capacity", 10_000_000), ("learner__batch_size", 65_536), ("network__width", 16.0)],
)
def test_the_value_that_is_named_fits(name: str, value: float) -> None:
    (problem,) = memory.problems(changed(**{name: value}))
    fits = type(value)(problem.split()[-1].rstrip("`"))
    assert 0 < fits < value
    section, _, leaf = name.partition("__")
    assert not any(line.startswith(f"{section}.{leaf}") for line in memory.problems(changed(**{name: fits})))


@pytest.mark.usefixtures("machine")
def test_settings_that_fit_only_one_by_one_are_refused_together() -> None:
    config = changed(replay__capacity=350_000, replay__storage="raw", learner__batch_size=3_000)
    (problem,) = memory.problems(config)
    assert problem.startswith("memory: ")
    assert "GiB for replay.capacity = 350,000" in problem
    assert "GiB for learner.batch_size = 3,000" in problem


@pytest.mark.usefixtures("machine")
def test_numbers_are_whole_and_those_that_were_set() -> None:
    """A capacity is no 4.6e+18, and a record that the run's length bounds is not the setting."""
    huge = "4,611,686,018,427,387,904"
    config = changed(
        replay__capacity=2**62,
        replay__storage="raw",
        env__restart_steps=2**62,
        total_frames=2**50,
        network__width=16.0,
    )
    capacity, record, width = memory.problems(config)
    assert capacity.startswith(f"replay.capacity = {huge}: {huge} frames x 7,090 bytes = 30,451,")
    assert record.startswith(f"env.restart_steps = {huge}: a record of 281,474,976,710,664 actions")
    assert width.startswith("network.width = 16.0: ")


@pytest.mark.usefixtures("machine")
def test_a_gpu_holds_the_learning_and_the_host_the_rest() -> None:
    config = changed(learner__batch_size=8_192)
    assert memory.problems(config, 20 * GIB) == []
    (problem,) = memory.problems(config, 2 * GIB)
    assert "and the GPU has 2.0 GiB to spare" in problem
    (problem,) = memory.problems(changed(replay__capacity=10_000_000), 20 * GIB)
    assert problem.startswith("replay.capacity")


def test_a_limit_of_the_shell_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_core, "available_memory_bytes", lambda: 8 * GIB)
    monkeypatch.setattr(resource, "getrlimit", lambda kind: (resource.RLIM_INFINITY,) * 2)
    assert memory.host_bytes() == 8 * GIB
    taken = 1024 * int(re.findall(r"VmSize:\s+(\d+)", Path("/proc/self/status").read_text())[0])
    monkeypatch.setattr(resource, "getrlimit", lambda kind: (taken + 2 * GIB, resource.RLIM_INFINITY))
    assert memory.host_bytes() == pytest.approx(2 * GIB, rel=0.1)
    monkeypatch.setattr(resource, "getrlimit", lambda kind: (taken // 2, resource.RLIM_INFINITY))
    assert memory.host_bytes() == 0


@pytest.mark.parametrize("width", [1 / 32, 0.5, 1.0, 2.3])
@pytest.mark.parametrize("dueling", [False, True])
def test_weights_are_counted_as_the_network_has_them(width: float, dueling: bool) -> None:
    pytest.importorskip("torch")
    from fastdqn.algorithm.networks import QNetwork, count_parameters

    network = QNetwork(NetworkConfig(width=width, dueling=dueling), 18)
    counted = sum(parameter.numel() for parameter in network.parameters())
    assert count_parameters(NetworkConfig(width=width, dueling=dueling), 18) == counted


@pytest.mark.usefixtures("machine")
@pytest.mark.parametrize(
    ("preset", "settings"),
    [
        ("iqn", {"learner": {"batch_size": 1_024}}),
        ("btr", {"learner": {"batch_size": 1_024}}),
        ("qrdqn", {"network": {"quantiles": 1_000}, "learner": {"batch_size": 256}}),
        ("c51", {"network": {"atoms": 1_000}, "learner": {"batch_size": 512}}),
        ("c51", {"network": {"atoms": 1_000}, "learner": {"rule": "munchausen"}}),
    ],
)
def test_heads_and_torsos_take_memory_too(preset: str, settings: dict[str, Any]) -> None:
    """By benchmarks/memory.py a transition takes 7.0 MB in `iqn`, 9.4 in `btr`, 77 with 1,000 quantiles."""
    config = PRESETS[preset].config
    for name, changes in settings.items():
        config = replace(config, **{name: replace(getattr(config, name), **changes)})
    config = replace(config, replay=replace(config.replay, capacity=100_000))
    (problem,) = memory.problems(config)
    assert problem.startswith(("learner.batch_size", "memory: "))
    assert "learner.batch_size" in problem
