"""The benchmark scripts still run and write what the README's table reads. Their figures here mean nothing."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("envpool")

BENCHMARKS = Path(__file__).parent.parent / "benchmarks"


def run(script: str, *words: str, out: Path) -> dict:
    command = [sys.executable, str(BENCHMARKS / script), *words, "--out", str(out)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=out.parent)
    assert done.returncode == 0, done.stderr
    data = json.loads(out.read_text())
    assert {"command", "machine", "versions", "git_commit", "settings"} <= data.keys()
    return data["results"]


def test_env(tmp_path):
    results = run("env.py", "--passes", "5", "--trials", "2", "--num-envs", "2", out=tmp_path / "env.json")
    assert results["ours_over_raw"]["median"] > 0


def test_train(tmp_path):
    words = ("--accelerate", "eager", "--window-seconds", "0.6", "--settle-seconds", "0.1")
    results = run("train.py", *words, out=tmp_path / "train.json")
    assert results["frames_per_second"] > 0
    assert results["updates_per_second"] > 0
    assert (results["batch_size"], results["frames_per_update"]) == (32, 16)
    assert sum(results["phase_share"].values()) > 0.5


def test_update(tmp_path):
    (result,) = run("update.py", "--small", out=tmp_path / "update.json")
    assert result["eager_over_plain"] > 0


@pytest.mark.parametrize(
    ("part", "figure"),
    [("micro", "3_update_captured_batch_8"), ("end-to-end", "Pong-v5_4_envs"), ("learn", "Breakout-v5")],
)
def test_gpu(tmp_path, part, figure):
    """The parts that need no GPU; the figures are of the twin that stands for one."""
    results = run("gpu.py", "--part", part, "--small", out=tmp_path / "gpu.json")
    assert results["device"] == "cpu" or results["torch_cuda"]
    assert figure in results
    if part == "micro":
        assert all(results["2_correctness"].values())


def test_gpu_refuses_to_measure_without_one(tmp_path):
    if torch.cuda.is_available():
        pytest.skip("there is one")
    command = [sys.executable, str(BENCHMARKS / "gpu.py")]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 1
    assert "needs a CUDA GPU" in done.stderr
