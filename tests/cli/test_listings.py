"""The commands that only list something: presets and info."""

from __future__ import annotations

import json
import sys
import types

import pytest

from fastdqn.cli import main
from fastdqn.config import Config
from fastdqn.presets import PRESETS


def test_presets_shows_where_they_differ(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["presets"]) == 0
    out = capsys.readouterr().out
    assert max(len(line) for line in out.splitlines()) <= 80
    for name, preset in PRESETS.items():
        assert name in out
        assert preset.source.split()[0] in out
    tables = out.split("\n\n")[1:-1]
    assert [name for table in tables for name in table.splitlines()[0].split()] == list(PRESETS)
    shown = {}
    for table in tables:
        names, *rows = (line.split() for line in table.splitlines())
        shown |= {(name, row[0]): value for row in rows for name, value in zip(names, row[1:], strict=True)}
    for name, preset in PRESETS.items():
        assert shown.get((name, "--learner.n-step"), "1") == str(preset.config.learner.n_step)
    assert ("btr", "--learner.batch-size") in shown
    assert ("c51", "--learner.batch-size") not in shown  # as nature has it, and its neighbours
    assert "--env.frame-skip" not in out  # the same in all


def test_presets_as_json(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["presets", "--json"]) == 0
    data = json.loads(capsys.readouterr().out)
    assert list(data) == list(PRESETS)
    for name, preset in PRESETS.items():
        assert Config.from_json(json.dumps(data[name]["config"])) == preset.config


@pytest.fixture
def light_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    """Stands for torch and envpool, whose import takes seconds."""
    cuda = types.SimpleNamespace(is_available=lambda: False)
    version = types.SimpleNamespace(cuda=None)
    torch = types.SimpleNamespace(cuda=cuda, version=version, get_num_threads=lambda: 2, __spec__="found")
    monkeypatch.setitem(sys.modules, "torch", torch)
    for name in ("envpool", "safetensors"):
        monkeypatch.setitem(sys.modules, name, types.SimpleNamespace(__spec__="found"))
    monkeypatch.setitem(sys.modules, "fastdqn.engine.device", types.SimpleNamespace(gpu_name=lambda: None))


@pytest.mark.usefixtures("light_torch")
def test_info(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["info"]) == 0
    out = capsys.readouterr().out
    for wanted in ("fastdqn", "python", "torch build", "CPU only", "cores", "memory", "envpool", "tyro"):
        assert wanted in out


@pytest.mark.usefixtures("light_torch")
def test_info_as_json_tells_what_is_missing(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "envpool", None)
    monkeypatch.setenv("PATH", "")
    assert main(["info", "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert len(facts["missing"]) == 2
    assert facts["missing"][0].startswith("envpool is not installed")
    assert 'pip install "fastdqn[train]"' in facts["missing"][0]
    assert facts["missing"][1].startswith("a C++ compiler (g++)")


@pytest.mark.usefixtures("light_torch")
@pytest.mark.parametrize(("load", "told"), [(0.2, False), (1.4, True)])
def test_info_tells_of_a_busy_machine(
    load: float, told: bool, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("os.getloadavg", lambda: (load, 9.0, 9.0))
    assert main(["info", "--json"]) == 0
    said = json.loads(capsys.readouterr().out)["load"]
    assert said.startswith(f"{load:.1f} of ")
    assert ("training shares the cores" in said) == told
