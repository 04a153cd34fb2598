"""The benchmark scripts still run and write what the README's table reads. Their figures here mean nothing."""

from __future__ import annotations

import csv
import json
import os
import re
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
def test_start(tmp_path):
    flags = "--flags=--pipeline.accelerate eager --replay.warmup-steps 100"
    results = run("start.py", "--turns", "1", flags, out=tmp_path / "start.json")
    assert 0 < results["later_seconds"]["median"] < 600
    assert 0 < results["first_seconds"]["median"] < 600


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


@pytest.mark.slow
def test_presets(tmp_path):
    rows = run("presets.py", "--small", out=tmp_path / "presets.json")
    assert [row["preset"] for row in rows] == ["double", "iqn"]
    assert all(row["over_nature"]["median"] > 0 for row in rows)


@pytest.mark.slow
def test_the_family_is_trained_and_drawn(tmp_path):
    words = ("--seeds", "1", "--variants", "quick-m-iqn", "quick-rainbow", "--total-frames", "24k")
    out = tmp_path / "pong"
    command = [sys.executable, BENCHMARKS / "family.py", *words, "--out", out, "--runs", tmp_path / "runs"]
    subprocess.run([str(word) for word in command], check=True)
    for name in ("quick-m-iqn", "quick-rainbow"):
        (result,) = json.loads((tmp_path / f"pong-{name}.json").read_text())["results"]
        assert result["frames"] >= 24_000
    assert (tmp_path / "pong.png").stat().st_size > 10_000


@pytest.mark.slow
@pytest.mark.skipif(torch.cuda.is_available(), reason="nothing has to stand in for a GPU")
def test_a_gpu_session_is_rehearsed_end_to_end(tmp_path):
    """Every part of gpu.py and gpu.sh's own course, cut off after a short budget and taken up again."""

    def session(budget: int) -> int:
        command = [
            BENCHMARKS / "gpu.sh",
            "--rehearse",
            "--budget",
            str(budget),
            "--results",
            str(tmp_path / "r"),
        ]
        command += ["--copy-to", str(tmp_path / "copy")]
        return subprocess.run(command, env=os.environ | {"PYTHON": sys.executable}).returncode

    assert session(45) == 3
    for _ in range(6):
        if (code := session(570)) != 3:
            break
    assert code == 0, (tmp_path / "r" / "state").read_text()
    state = (tmp_path / "copy" / "state").read_text()
    assert all(state.count(f"{name} done") == 1 for name in ("machine", "build", "tests", *GPU_PARTS))
    results = {name: json.loads((tmp_path / "copy" / f"gpu-{name}.json").read_text()) for name in GPU_PARTS}
    assert all(part["results"]["rehearsal"] for part in results.values())
    assert all(results["first"]["results"]["correctness"].values())
    assert {"cold", "warm"} == results["micro"]["results"]["ready_in_a_new_process"].keys()


@pytest.mark.long
def test_a_gpu_session_is_cut_and_goes_on(tmp_path):
    """With a Python that does nothing: one step takes longer than the budget, one fails each time."""
    fake, log = tmp_path / "python", tmp_path / "log"
    fake.write_text(
        f'#!/bin/bash\necho "$*" >>{log}\n'
        f'case "$*" in *profile*) exit 1;; *micro*) [ $(grep -c micro {log}) = 2 ] || sleep 60;; esac\n'
    )
    fake.chmod(0o755)
    words = [BENCHMARKS / "gpu.sh", "--rehearse", "--budget", "40", "--results", str(tmp_path / "r")]

    def session() -> int:
        return subprocess.run(words, env=os.environ | {"PYTHON": str(fake)}).returncode

    assert session() == 3
    state = (tmp_path / "r" / "state").read_text()
    assert "micro cut-off" in state  # which is no failure: it may be cut off again
    assert "micro failed" not in state
    assert session() == 1  # all is done but what failed twice
    words_of = log.read_text()
    assert [words_of.count(f"--part {name}") for name in GPU_PARTS] == [1, 2, 1, 2, 1]
    assert session() == 1
    assert log.read_text() == words_of  # and nothing is done again


def test_the_page_has_the_limits_of_a_gpu_session():
    """And the first part's is three minutes. Fault: a limit that is changed in one of the two."""
    script = (BENCHMARKS / "gpu.sh").read_text()
    limits = {name: int(seconds) for name, seconds in re.findall(r"^step (\S+) (\d+) ", script, re.MULTILINE)}
    page = (BENCHMARKS.parent / "docs" / "gpu.md").read_text()
    told = {
        name: int(minutes) for name, minutes in re.findall(r"^\| `(\S+)` \| (\d+) \| ", page, re.MULTILINE)
    }
    assert told == {name: -(-limits[name] // 60) for name in ("tests", *GPU_PARTS)}
    assert limits["first"] == 180


GPU_PARTS = ("first", "profile", "end-to-end", "micro", "learn")


@pytest.mark.long
def test_gpu_takes_up_what_is_there_and_keeps_rehearsals_apart(tmp_path):
    """Fault: a part that measures again what it has, or a rehearsal's figures where a GPU's lie."""
    if torch.cuda.is_available():
        pytest.skip("nothing has to stand in for a GPU")
    out = tmp_path / "gpu.json"
    words = ("--part", "ready", "--rehearse")
    once = run("gpu.py", *words, out=out)
    assert run("gpu.py", *words, out=out) == once
    assert once["rehearsal"]
    command = [
        sys.executable,
        str(BENCHMARKS / "gpu.py"),
        *words,
        "--out",
        str(BENCHMARKS / "results" / "x.json"),
    ]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 1
    assert "rehearsal" in done.stderr


@pytest.mark.slow
def test_contiguous_rows_are_contiguous(monkeypatch):
    """In the code that Inductor generates. Fault: its layout optimisation, which makes them channels-last."""
    monkeypatch.syspath_prepend(BENCHMARKS)
    import gpu

    from fastdqn.algorithm import layers

    def code(name: str) -> str:
        torch.compiler.reset()
        pixels = torch.rand(8, 4, 84, 84).contiguous(memory_format=layers.MEMORY_FORMAT)
        weights = [torch.rand(32, 4, 8, 8), torch.rand(64, 32, 4, 4), torch.rand(32), torch.rand(64)]

        def two(pixels, first, second, bias, other):
            maps = layers.convolve(pixels, first, bias, 4)
            return layers.convolve(maps, second, other, 2).sum()

        compiled = torch.compile(two, fullgraph=True, dynamic=False)
        with torch.no_grad():
            _, codes = torch._inductor.utils.run_and_get_code(compiled, pixels, *weights)
        return "\n".join(codes)

    for name, found in (("channels_last", {"channels_last": 2}), ("contiguous_format", {"contiguous": 2})):
        with gpu.memory_format(name):
            assert gpu.layouts(code(name)) == found
    monkeypatch.setattr(
        layers, "MEMORY_FORMAT", torch.contiguous_format
    )  # the setting without the compiler's
    assert gpu.layouts(code("planted")) == {"channels_last": 2}


def event(cat: str, name: str, ts: float, dur: float, **args) -> dict:
    return {"ph": "X", "cat": cat, "name": name, "ts": ts, "dur": dur, "tid": 7, "args": args}


def test_a_profile_is_read(monkeypatch):
    """Floors from shapes, the idle time of the busier stream, the host's calls, all by hand."""
    monkeypatch.syspath_prepend(BENCHMARKS)
    import gpu_profile

    floats = {"Input type": ["float", "float"]}
    trace = gpu_profile.Trace(
        [
            event("cpu_op", "fastdqn::launch", 0, 100),  # without shapes: not asked
            event("cpu_op", "aten::mm", 1, 10, **floats, **{"Input Dims": [[32, 512], [512, 1000]]}),
            event("cuda_runtime", "cudaLaunchKernel", 2, 4, correlation=1),
            event("cpu_op", "triton_poi", 20, 10, **floats, **{"Input Dims": [[1000], [20_000_000]]}),
            event("cuda_driver", "cuLaunchKernel", 21, 6, correlation=2),
            event("cuda_runtime", "cudaLaunchKernel", 40, 4, correlation=3),
            event("kernel", "gemm", 10, 20, stream=7, correlation=1),
            event("kernel", "pointwise", 35, 10, stream=7, correlation=2),
            event("kernel", "beside", 20, 15, stream=9, correlation=3),
            event("user_annotation", gpu_profile.PASS, 0, 50),
            {"ph": "M", "name": "process_name"},
        ]
    )
    rows = gpu_profile.kernel_rows(trace, gpu_profile.Peaks(1_000.0, 10.0, 100.0))
    gemm, beside, pointwise = rows
    assert (gemm["flop"], gemm["bytes"]) == (2 * 32 * 512 * 1000, 4 * (32 * 512 + 512 * 1000))
    assert gemm["floor_microseconds"] == pytest.approx(gemm["bytes"] / 1e6)  # its arithmetic takes 0.33
    assert (pointwise["flop"], pointwise["bytes"]) == (0, 4_000)  # without the store of frames
    assert beside["floor_microseconds"] is None
    assert "3 kernels" in gpu_profile.table(rows)
    figures = gpu_profile.loop_figures(trace)
    assert figures["learner_idle_microseconds"] == 50 - 20 - 10
    assert figures["host_calls"]["cudaLaunchKernel"] == {"per_pass": 2, "median_microseconds": 4}


def test_a_profile_of_this_pytorch_has_the_shapes(monkeypatch, tmp_path):
    """The names and shapes that floors are made of, in a trace of the CPU. Fault: PyTorch names them otherwise."""
    monkeypatch.syspath_prepend(BENCHMARKS)
    import gpu_profile

    with torch.profiler.profile(record_shapes=True) as profiler:
        torch.nn.functional.conv2d(torch.rand(8, 4, 84, 84), torch.rand(32, 4, 8, 8), stride=4)
        torch.rand(3, 5) @ torch.rand(5, 7)
    profiler.export_chrome_trace(str(tmp_path / "t.json"))
    found = {e["name"]: e for e in gpu_profile.Trace.read(tmp_path / "t.json").operators}
    assert gpu_profile._flop(found["aten::mm"]) == 2 * 3 * 5 * 7
    assert gpu_profile._bytes(found["aten::mm"]) == 4 * (3 * 5 + 5 * 7)
    assert gpu_profile._flop(found["aten::conv2d"]) == 2 * 8 * 32 * 20 * 20 * 4 * 8 * 8


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
def test_scaling(tmp_path):
    """Faults: a replay that is not full, capacities that share one."""
    words = [
        "--capacities",
        "400",
        "800",
        "--games",
        "2",
        "--threads",
        "1",
        "--rounds",
        "1",
        "--seconds",
        "0.2",
        "--accelerate",
        "eager",
    ]
    results = run("scaling.py", *words, out=tmp_path / "scaling.json")
    assert [row["capacity"] for row in results] == [400, 800]
    for row in results:
        assert row["filled"] == 1.0
        assert row["playing_frames_per_second"]["median"] > 0
        assert row["training_frames_per_second"]["median"] > 0


@pytest.mark.slow
def test_training_peers(tmp_path):
    """Ours beside Stable-Baselines3's, both stopped after one update."""
    pytest.importorskip("stable_baselines3")
    words = [
        "--only",
        "fastdqn",
        "sb3",
        "--rounds",
        "2",
        "--updates",
        "2",
        "--warmup-steps",
        "100",
        "--capacity",
        "1000",
    ]
    results = run("training_peers.py", *words, out=tmp_path / "training-peers.json")
    assert list(results) == ["fastdqn", "sb3"]
    assert results["fastdqn"]["fastdqn_over_this"]["median"] == 1.0
    for row in results.values():
        assert row["steps_per_second"]["median"] > 0
        assert row["first_update_seconds"] > 0


def test_another_script_of_cleanrl_is_not_mended(monkeypatch):
    """Faults: a passage that has gone from the script, or is there twice, and is passed over."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import training_loops

    script = "\n".join(old for old, _ in training_loops.CLEANRL_MENDS)
    mended = training_loops.mend(script)
    assert all(new in mended for _, new in training_loops.CLEANRL_MENDS)
    with pytest.raises(ValueError, match="not there once"):
        training_loops.mend(script + script)
    with pytest.raises(ValueError, match="not there once"):
        training_loops.mend(script.replace("FrameStack", "Stack"))


def test_minutes_to_the_goal_of_a_record(monkeypatch, tmp_path):
    """Faults: the last row instead of the first, a seed's rows in another's figure, an empty mean."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import performance_page

    rows = ["seed,minutes,return_mean_20", "1,0.1,", "1,2.5,17.9", "1,3.0,18.0", "1,4.0,19.0", "2,9.0,17.0"]
    path = tmp_path / "record.csv"
    path.write_text("\n".join(rows))
    assert performance_page.at_goal(path, "minutes") == {1: 3.0, 2: None}


@pytest.mark.long
def test_snapshot(tmp_path):
    results = run("snapshot.py", "--frames", "400", "--trials", "2", out=tmp_path / "snapshot.json")
    assert results["file_bytes"] > 400 * 84 * 84
    assert results["save_over_dd"] > 0
    assert results["load_over_dd"] > 0


@pytest.mark.parametrize("script", ["table.py", "replay_table.py", "performance_page.py"])
def test_the_page_has_the_committed_figures(script):
    """Fault: a JSON file made anew, or a table edited by hand, without the other."""
    command = [sys.executable, str(BENCHMARKS / script), "--check"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
