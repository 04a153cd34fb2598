"""The commands that only list something: presets and info."""

from __future__ import annotations

import json
import re
import sys
import types
from dataclasses import replace
from pathlib import Path

import pytest

from fastdqn.cli import main
from fastdqn.config import Config
from fastdqn.presets import PRESETS
from fastdqn.runs.machine import with_precision
from tests.cli.fakes import FakeTrainer, python


def test_presets_stand_in_one_table(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["presets"]) == 0
    out = capsys.readouterr().out
    assert max(map(len, out.splitlines())) <= 120
    table = out.partition("\n\n")[0].splitlines()
    titles, *rows = (re.split(r" {2,}", line) for line in table)
    assert titles[0] == "preset"
    assert [row[0] for row in rows] == list(PRESETS)
    shown = {row[0]: dict(zip(titles, row, strict=True)) for row in rows}
    for name, preset in PRESETS.items():
        assert shown[name]["n"] == str(preset.config.learner.n_step)
        assert float(shown[name]["step"]) == preset.config.optimizer.learning_rate
        assert preset.source.startswith(shown[name]["source"])
    assert shown["btr"] | {"head": "implicit", "noise": "0.5", "alpha": "0.2", "batch": "256"} == shown["btr"]
    assert shown["c51"] | {"noise": "-", "alpha": "-", "duel": "-"} == shown["c51"]


def test_the_flags_under_a_preset_make_it_of_nature(
    capsys: pytest.CaptureFixture[str], trainer: FakeTrainer
) -> None:
    assert main(["presets"]) == 0
    described = re.split(r"\n\n(?=\S)", capsys.readouterr().out)[2:]
    assert [text.split()[0] for text in described] == list(PRESETS)
    for text, preset in zip(described, PRESETS.values(), strict=True):
        assert preset.source.split()[-1] in text
    for name in ("quick-rainbow", "m-iqn", "btr"):
        _, _, flags = described[list(PRESETS).index(name)].partition(" --")
        words = f"--{flags}".split()
        assert main(["train", "Pong-v5", "--run-dir", name, "--preset", "nature", *words]) == 0
        assert replace(trainer.config, preset=name) == with_precision(PRESETS[name].config)


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


@pytest.mark.usefixtures("light_torch")
@pytest.mark.parametrize(
    ("flags", "told"),
    [
        ("flags\t\t: fpu avx2 avx512_bf16 amx_bf16\n", "amx_bf16"),
        ("flags\t\t: fpu avx512f avx512_bf16\n", "avx512_bf16"),
        ("Features\t: fp asimd bf16 i8mm\n", "bf16"),
        ("flags\t\t: fpu avx2 avx512f\n", "none"),
        (None, "unknown"),
    ],
)
def test_info_tells_what_the_cpu_has_for_bfloat16(
    flags: str | None,
    told: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    monkeypatch.setattr("fastdqn.cpu.CPU_INFO", tmp_path / "cpuinfo")
    if flags is not None:
        (tmp_path / "cpuinfo").write_text(
            f"processor\t: 0\nmodel name\t: One\n{flags}\nprocessor\t: 1\n{flags}"
        )
    assert main(["info", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["bfloat16"] == f"{told} (instructions of the CPU)"


def test_games_are_listed_without_those_of_other_libraries() -> None:
    """By a process of the command's own; `import fastdqn` leaves EnvPool as it is."""
    code = (
        "import sys; sys.argv = ['fastdqn', 'games']\n"
        "from fastdqn.cli import main\n"
        "code = main(); other = [name for name in sys.modules if name.startswith('envpool.jumanji')]\n"
        "print(code, other)\n"
    )
    done = python(code)
    assert "Pong-v5" in done.stdout
    assert done.stdout.endswith("0 []\n")
    code = "import fastdqn.games.envs, envpool; print('CartPole-v1' in envpool.list_all_envs())"
    assert python(code).stdout == "True\n"
