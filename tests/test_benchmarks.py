"""The benchmark scripts still run and write what the README's table reads. Their figures here mean nothing."""

from __future__ import annotations

import csv
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
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


@pytest.mark.long
def test_env(tmp_path):
    results = run("env.py", "--passes", "5", "--trials", "2", "--num-envs", "2", out=tmp_path / "env.json")
    assert results["ours_over_raw"]["median"] > 0


@pytest.mark.long
def test_train(tmp_path):
    words = ("--accelerate", "eager", "--window-seconds", "0.6", "--settle-seconds", "0.1")
    results = run("train.py", *words, out=tmp_path / "train.json")
    assert results["frames_per_second"] > 0
    assert results["updates_per_second"] > 0
    assert (results["batch_size"], results["frames_per_update"]) == (32, 16)
    assert sum(results["phase_share"].values()) > 0.5


@pytest.mark.long
def test_learn(tmp_path, tiny_run):
    """With a run that is there already; no game of it ended in training."""
    shutil.copytree(tiny_run.path, tmp_path / "runs" / "Pong-v5-quick-learn-seed7")
    words = ("--seeds", "7", "--episodes", "2", "--epsilons", "0.05", "--reuse")
    (result,) = run("learn.py", *words, out=tmp_path / "pong.json")
    assert (result["seed"], result["frames"], result["mean_return_20_in_training"]) == (7, 400, None)
    (evaluation,) = result["evaluations"]
    assert evaluation["mean"] == sum(evaluation["returns"]) / 2
    assert [row["frames"] for row in csv.DictReader((tmp_path / "pong.csv").open())] == ["400"]
    assert (tmp_path / "pong.png").stat().st_size > 10_000


@pytest.mark.slow
def test_commits(tmp_path):
    """A checkout against itself; both compile four updates."""
    checkout = BENCHMARKS.parent
    if not (checkout / ".venv").exists():
        pytest.skip("it takes a checkout that is set up")
    words = ("--before", str(checkout), "--rounds", "2", "--updates", "1", "--passes", "2")
    results = run("commits.py", *words, out=tmp_path / "commits.json")
    assert {name: kind["now_over_before"]["median"] > 0 for name, kind in results.items()} == dict.fromkeys(
        ("update_quick", "update_nature", "loop"), True
    )


@pytest.mark.long
def test_update(tmp_path):
    (result,) = run("update.py", "--small", out=tmp_path / "update.json")
    assert result["eager_over_plain"] > 0


@pytest.mark.long
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


@pytest.mark.long
def test_gpu_refuses_to_measure_without_one(tmp_path):
    if torch.cuda.is_available():
        pytest.skip("only without a GPU")
    command = [sys.executable, str(BENCHMARKS / "gpu.py")]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 1
    assert "needs a CUDA GPU" in done.stderr


PEERS = ("--steps", "80", "--capacity", "400", "--checked-capacity", "400", "--batches", "2", "--trials", "2")


@pytest.mark.long
def test_peers_with_ours_alone(tmp_path):
    results = run("peers.py", "--libraries", "fastdqn-window", *PEERS, out=tmp_path / "peers.json")
    ours = results["fastdqn-window"]
    assert set(ours["wrong"]) == {"lives", "games", "truncation"}
    assert all(share == 0.0 for shares in ours["wrong"].values() for share in shares.values())
    assert ours["bytes_per_transition"] > 84 * 84
    assert all(ours[key]["share_of_floor"] > 0 for key in ("sample_32", "add_8", "sample_and_update_32"))
    assert results["memcpy"]["sample_512"]["share_of_floor"] > 0


def test_peers_names_the_dependency_group_where_a_library_is_missing(tmp_path):
    """Fault: a traceback, or a table that leaves a library out without a word."""
    program = (
        "import sys; sys.modules['cpprb'] = None; import peers;"
        "sys.argv = ['peers.py', '--libraries', 'fastdqn', 'cpprb']; peers.main()"
    )
    command = [sys.executable, "-c", program]
    environment = os.environ | {"PYTHONPATH": str(BENCHMARKS)}
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, env=environment)
    assert done.returncode == 2
    assert "not installed: cpprb" in done.stderr
    assert "pip install -c constraints.txt -e '.[train,bench]'" in done.stderr


def test_peers_counts_planted_faults(tmp_path, monkeypatch):
    """Fault: an oracle that misses a wrong byte, a wrong end or an invented row, or sees one elsewhere."""
    monkeypatch.syspath_prepend(BENCHMARKS)
    import peers
    from peers_adapters import LIBRARIES, Fastdqn, Library
    from peers_recording import Recording, record

    record(tmp_path / "recording", 80, 3, "truncation")
    recording = Recording(tmp_path / "recording")
    ended = (recording.terminated | recording.truncated).ravel()
    planted = dict.fromkeys(("obs", "next_obs", "next_obs_anywhere", "ended", "unknown"), 0)

    class Wrong(Fastdqn):
        """Changes a byte of some stacks, loses last observations, takes truncations for ends, invents rows."""

        def unpack(self, batch):
            right = super().unpack(batch)
            number = right.action
            changed, itself, invented = number % 3 == 0, ended[number], number % 7 == 0
            right.obs[changed, 0, 40, 40] ^= 1
            right.next_obs[itself] = right.obs[itself] + 1
            planted["obs"] += np.count_nonzero(changed | invented)
            planted["next_obs"] += np.count_nonzero(recording.truncated.ravel()[number] | invented)
            planted["next_obs_anywhere"] += np.count_nonzero(itself | invented)
            planted["ended"] += np.count_nonzero(recording.truncated.ravel()[number] | invented)
            planted["unknown"] += np.count_nonzero(invented)
            return right._replace(ended=itself, action=np.where(invented, -1 - number, number))

    monkeypatch.setitem(LIBRARIES, "wrong", Library("wrong", "fastdqn", Wrong))
    shares = peers.wrong_shares("wrong", tmp_path / "recording", 400, 4)
    assert {what: round(share * 4 * peers.CHECKED_BATCH) for what, share in shares.items()} == planted
    assert all(planted.values())
    right = peers.wrong_shares("fastdqn", tmp_path / "recording", 400, 4)
    assert right == dict.fromkeys(planted, 0.0)


@pytest.mark.long
def test_snapshot(tmp_path):
    results = run("snapshot.py", "--frames", "400", "--trials", "2", out=tmp_path / "snapshot.json")
    assert results["file_bytes"] > 400 * 84 * 84
    assert results["save_over_dd"] > 0
    assert results["load_over_dd"] > 0


@pytest.mark.parametrize("script", ["table.py", "replay_table.py"])
def test_the_page_has_the_committed_figures(script):
    """Fault: a JSON file made anew, or a table edited by hand, without the other."""
    command = [sys.executable, str(BENCHMARKS / script), "--check"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
