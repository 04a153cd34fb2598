"""fastdqn's own functions, and the examples of them."""

from __future__ import annotations

import inspect
import os
import runpy
import subprocess
import sys
import typing
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("envpool")

import fastdqn
from fastdqn.config import EvaluationSettings
from fastdqn.errors import UserError
from fastdqn.runs import checkpoint, evaluation

EXAMPLES = Path(__file__).parent.parent / "examples"


def test_importing_fastdqn_stays_light():
    """Fails when a name that is not used loads what it needs, and when asking for one loads torch."""
    code = (
        "import sys, fastdqn\n"
        "[getattr(fastdqn, name) for name in fastdqn.__all__]\n"
        "heavy = ('torch', 'envpool', 'rich', 'matplotlib', 'PIL', 'imageio_ffmpeg', 'tyro', 'safetensors')\n"
        "print([name for name in heavy if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.stdout.strip() == "[]", done.stderr


_WAITS = ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY")

# Stands for torch: tells what OpenMP would read, and goes no further.
_WATCH_TORCH = """
import os, sys
class Watch:
    def find_spec(self, name, path=None, target=None):
        if name == 'torch':
            raise SystemExit(f"torch is loaded with {os.environ.get('GOMP_SPINCOUNT')}")
sys.meta_path.insert(0, Watch())
import fastdqn
"""


@pytest.mark.parametrize(
    "call",
    [
        "fastdqn.train(fastdqn.PRESETS['quick'].config)",
        "fastdqn.resume_training('run')",
        "fastdqn.evaluate('run')",
        "fastdqn.export('run')",
        "fastdqn.load_policy('run')",
        "from fastdqn import evaluate; import torch",
    ],
)
@pytest.mark.parametrize(("users", "read"), [(None, "5000"), ("7", "7")])
def test_every_function_shortens_openmps_waits_before_torch_is_loaded(call, users, read, tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "config.json").write_text(fastdqn.Config().to_json())
    env = {name: value for name, value in os.environ.items() if name not in _WAITS}
    env |= {} if users is None else {"GOMP_SPINCOUNT": users}
    done = subprocess.run(
        [sys.executable, "-c", _WATCH_TORCH + call],
        capture_output=True,
        text=True,
        timeout=60,
        env=env,
        cwd=tmp_path,
    )
    assert done.stderr.strip() == f"torch is loaded with {read}"


@pytest.mark.parametrize(("threads", "warned"), [(2, True), (1, False)])
def test_who_imports_torch_first_is_warned_once(threads, warned):
    code = (
        "import sys, types\n"
        f"sys.modules['torch'] = types.SimpleNamespace(get_num_threads=lambda: {threads})\n"
        "import fastdqn\n"
        "fastdqn.train, fastdqn.evaluate\n"
    )
    env = {name: value for name, value in os.environ.items() if name not in _WAITS}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, env=env)
    assert done.returncode == 0
    assert done.stderr.count("torch was imported before") == warned


def test_the_help_of_every_command_is_light():
    code = (
        "import sys\n"
        "from fastdqn.cli import COMMANDS, main\n"
        "codes = [main([command, '--help']) for command in COMMANDS]\n"
        "heavy = ('torch', 'envpool', 'rich', 'matplotlib', 'PIL', 'imageio_ffmpeg', 'safetensors')\n"
        "print(codes, [name for name in heavy if name in sys.modules], file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.stderr.strip() == f"{[0] * 11} []"


def test_every_name_is_there_typed_and_explained():
    for name in fastdqn.__all__:
        assert getattr(fastdqn, name) is not None
    for function in (
        *(fastdqn.train, fastdqn.resume_training, fastdqn.evaluate, fastdqn.load_policy),
        *(fastdqn.record, fastdqn.plot, fastdqn.export),
    ):
        assert "Args:" in function.__doc__
        signature = inspect.signature(function)
        assert signature.return_annotation is not inspect.Signature.empty
        assert all(one.annotation is not inspect.Parameter.empty for one in signature.parameters.values())


def test_a_function_is_no_module_after_its_module_was_imported(tiny_run):
    """Fails when a submodule is called like a function: importing it would take the name."""
    for _ in range(2):
        assert callable(fastdqn.evaluate)
        fastdqn.evaluate(tiny_run.path, episodes=1, epsilon=1.0)
    names = {path.stem for path in Path(fastdqn.__file__).parent.iterdir()}
    assert not names & {name for name in fastdqn.__all__ if name != "__version__"}


def test_training_and_its_mistakes(tiny_run, tmp_path):
    config = replace(tiny_run.config, total_frames=200)
    said: list[str] = []
    summary = fastdqn.train(config, tmp_path / "r", weights=tiny_run.path, say=said.append)
    assert summary.frames == 200
    assert Path(summary.run) == tmp_path / "r"
    assert any("weights from" in line for line in said)
    with pytest.raises(UserError, match="exists already"):
        fastdqn.train(config, str(tmp_path / "r"))
    with pytest.raises(UserError, match="did you mean Pong-v5"):
        fastdqn.train(replace(config, game="Pnog-v5"), tmp_path / "r", overwrite=True)
    assert (tmp_path / "r" / "summary.json").exists()  # a run is replaced only by one that can begin


def test_a_run_goes_on_and_grows(tiny_run, tmp_path):
    config = replace(tiny_run.config, total_frames=200)
    path = tmp_path / "r"
    stopped = fastdqn.train(config, path, stop_requested=lambda: True)
    assert stopped.interrupted
    assert stopped.frames < 200
    summary = fastdqn.resume_training(str(path))
    assert not summary.interrupted
    assert summary.frames == 200
    assert fastdqn.resume_training(path, total_frames=240).frames == 240
    assert '"total_frames": 240' in (path / "config.json").read_text()
    with pytest.raises(UserError, match="total_frames"):
        fastdqn.resume_training(path, total_frames=0)
    with pytest.raises(UserError, match="is complete"):
        fastdqn.resume_training(path, total_frames=100)
    assert '"total_frames": 240' in (path / "config.json").read_text()
    with pytest.raises(UserError, match="is not a run"):
        fastdqn.resume_training(tmp_path)


@pytest.mark.long
def test_evaluation_is_the_commands(tiny_run):
    result = fastdqn.evaluate(str(tiny_run.path), episodes=2, epsilon=0.5, seed=3)
    assert result == evaluation.evaluate(tiny_run, EvaluationSettings(episodes=2, epsilon=0.5), seed=3)
    with pytest.raises(UserError, match=r"^seed = -1: must be a whole number from 0 to 2147483647$"):
        fastdqn.evaluate(tiny_run.path, seed=-1)
    with pytest.raises(UserError, match=r"^epsilon = 2: must be from 0 to 1\nnoop_max = 0: must be"):
        fastdqn.evaluate(tiny_run.path, epsilon=2, noop_max=0)
    for function in (fastdqn.evaluate, fastdqn.record, fastdqn.plot, fastdqn.export):
        with pytest.raises(UserError, match="nowhere is not a run"):
            function("nowhere")


@pytest.mark.long
def test_films_curves_and_exports_are_the_commands(tiny_run, tmp_path):
    pytest.importorskip("matplotlib")
    pytest.importorskip("imageio_ffmpeg")
    film = fastdqn.record(tiny_run.path, tmp_path / "video", max_seconds=1, gif_seconds=0.5, scale=2)
    assert Path(film.mp4).parent == tmp_path / "video"
    assert film.seconds == 1.0
    one = fastdqn.plot(str(tiny_run.path), tmp_path / "one.png")
    assert one == fastdqn.plot([tiny_run.path], tmp_path / "one.png")
    assert Path(one.path).exists()
    assert len(one.curves) == 1
    exported = fastdqn.export(tiny_run.path, out=str(tmp_path / "policy"))
    assert fastdqn.load_policy(exported.path).num_actions == exported.num_actions == 6


def test_a_policy_gives_the_networks_values(tiny_run):
    obs = np.random.default_rng(0).integers(0, 256, (5, 4, 84, 84), dtype=np.uint8)
    policy = fastdqn.load_policy(tiny_run.path)
    with torch.no_grad():
        wanted = evaluation.policy_network(checkpoint.load_policy(tiny_run.path))(torch.from_numpy(obs))
    assert torch.equal(policy(obs), wanted)
    assert torch.equal(policy(torch.from_numpy(obs)), wanted)
    assert not policy(obs).requires_grad
    assert policy.act(obs).tolist() == wanted.argmax(1).tolist()
    assert policy.num_actions == wanted.shape[1] == 6
    for bad, error in (
        (obs.astype(np.float32), TypeError),
        (obs.astype(np.int8), TypeError),
        (obs[0], ValueError),
        (obs[:, :3], ValueError),
        (obs.transpose(0, 2, 3, 1), ValueError),
    ):
        with pytest.raises(error, match="obs"):
            policy(bad)
    with pytest.raises(UserError, match="does not exist"):
        fastdqn.load_policy("nowhere")


def run_example(name: str, words: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", [name, *words])
    runpy.run_path(str(EXAMPLES / name), run_name="__main__")


@pytest.mark.long
def test_the_examples_run(tiny_run, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    run_example("train.py", ["r", "800"], monkeypatch)
    assert " frames, 0 updates; mean of 20 games None" in capsys.readouterr().out
    run_example("evaluate.py", [str(tiny_run.path), "1"], monkeypatch)
    assert "Pong-v5, 1 games: [" in capsys.readouterr().out
    run_example("load_policy.py", [str(tiny_run.path), "Pong-v5", "20"], monkeypatch)
    assert "points in 20 steps of four games" in capsys.readouterr().out


def test_annotations_can_be_resolved():
    """Fails when an annotation names what is not there: type checkers of users would see Any."""
    from fastdqn import api
    from fastdqn.runs.checkpoint import SavedPolicy
    from fastdqn.runs.evaluation import Evaluation
    from fastdqn.runs.metrics import Snapshot
    from fastdqn.runs.report import Summary

    names = {"SavedPolicy": SavedPolicy, "Evaluation": Evaluation, "Snapshot": Snapshot, "Summary": Summary}
    assert typing.get_type_hints(api.train, {**vars(api), **names})["return"] is Summary
    assert typing.get_type_hints(api.evaluate, {**vars(api), **names})["return"] is Evaluation
