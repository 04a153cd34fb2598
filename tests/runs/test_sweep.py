"""Sweeps: the grid, the manifest, and the scheduler with a stand-in for `fastdqn train`; a real one is slow."""

from __future__ import annotations

import hashlib
import json
import os
import random
import signal
import subprocess
import sys
import time
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest

from fastdqn.config import Config
from fastdqn.errors import UserError
from fastdqn.games.actions import known_games
from fastdqn.games.suites import SUITES
from fastdqn.presets import PRESETS
from fastdqn.runs import launch, sweep_engines
from fastdqn.runs.sweep import PlannedRun, can_resume, grid, is_done, opened, read, status

FAKE = Path(__file__).with_name("fake_train.py")
ROOT = Path(__file__).parents[2]


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(launch, "PROGRAM", (sys.executable, str(FAKE)))
    monkeypatch.setattr(launch, "POLL_SECONDS", 0.01)
    monkeypatch.setattr(sweep_engines, "TICK_SECONDS", 0.02)


def planned(seeds: int = 3, frames: int = 200) -> list[PlannedRun]:
    config = replace(Config(), total_frames=frames)
    return grid([config], ["Pong-v5"], range(1, seeds + 1), {})


def slots(count: int) -> list:
    cores = sorted(os.sched_getaffinity(0))
    return [SimpleNamespace(cores=(cores[slot % len(cores)],), gpu=None) for slot in range(count)]


def value(folder: Path) -> str:
    """What a run of the stand-in has come to."""
    return json.loads((max(folder.glob("checkpoints/frame-*")) / "state.json").read_text())["value"]


def expected(seed: int, frames: int) -> str:
    chain = str(seed)
    for _ in range(frames // 10):
        chain = hashlib.sha256(chain.encode()).hexdigest()
    return chain


# The grid ---------------------------------------------------------------------------------------------------


def test_the_grid_has_every_combination_once():
    presets = [PRESETS["quick"].config, PRESETS["rainbow"].config]
    values = {"learner.n_step": [1, 3], "total_frames": [1000]}
    runs = grid(presets, ["Pong-v5", "Breakout-v5"], [1, 2, 3], values)
    assert len(runs) == len({run.name for run in runs}) == 2 * 2 * 2 * 3
    assert runs[0].name == "Pong-v5-quick-learner.n_step=1-seed1"
    last = runs[-1]
    assert last.name == "Breakout-v5-rainbow-learner.n_step=3-seed3"
    wanted = replace(presets[1], game="Breakout-v5", seed=3, total_frames=1000)
    assert last.config == replace(wanted, learner=replace(wanted.learner, n_step=3))
    with pytest.raises(UserError, match="twice"):
        grid(presets[:1], ["Pong-v5"], [1, 1], {})


def test_names_are_files():
    (run,) = grid([Config(game="x")], ["../Pöng/" + "a" * 300], [7], {})
    assert len(run.name) < 180
    assert "/" not in run.name
    assert run.name.endswith("-seed7")


def test_the_suites_are_games_that_there_are():
    assert {name: len(games) for name, games in SUITES.items()} == {"atari5": 5, "atari26": 26, "atari57": 57}
    for games in SUITES.values():
        assert set(games) <= set(known_games())
        assert set(games) <= set(SUITES["atari57"])


# The manifest -----------------------------------------------------------------------------------------------


def test_a_sweep_is_opened_again_and_extended(tmp_path):
    with opened(tmp_path / "s", planned(2), threads=1) as sweep:
        assert sweep.config_file(sweep.runs[0]).exists()
    first = (tmp_path / "s/sweep.json").read_bytes()
    with opened(tmp_path / "s", planned(2), threads=1):
        assert (tmp_path / "s/sweep.json").read_bytes() == first
    with opened(tmp_path / "s", planned(3)[2:], threads=1) as sweep:
        assert [run.name for run in sweep.runs] == ["Pong-v5-quick-seed3"]
    assert read(tmp_path / "s").runs == tuple(planned(3))
    manifest = json.loads((tmp_path / "s/sweep.json").read_text())
    assert manifest["versions"]["python"]
    assert manifest["machine"]["cores"] == os.cpu_count()


def test_what_does_not_belong_together_is_refused(tmp_path):
    with opened(tmp_path / "s", planned(2), threads=1):
        pass
    longer = [replace(run, config=replace(run.config, total_frames=999)) for run in planned(2)]
    with pytest.raises(UserError, match="total_frames 200 instead of 999"), opened(tmp_path / "s", longer, 1):
        pass
    with pytest.raises(UserError, match="threads = 2"), opened(tmp_path / "s", planned(2), 2):
        pass
    (tmp_path / "other").mkdir()
    (tmp_path / "other/thesis.tex").touch()
    with pytest.raises(UserError, match="not a sweep"), opened(tmp_path / "other", planned(), 1):
        pass
    with pytest.raises(UserError, match="does not exist"):
        read(tmp_path / "none")
    (tmp_path / "s/configs/Pong-v5-quick-seed1.json").write_text("[]")
    with pytest.raises(UserError, match=r"seed1\.json: an object is wanted"):
        read(tmp_path / "s")


def test_one_process_at_a_time_works_on_a_sweep(tmp_path):
    with (
        opened(tmp_path / "s", planned(), 1),
        pytest.raises(UserError, match="process"),
        opened(tmp_path / "s", planned(), 1),
    ):
        pass


# The local engine -------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("fake")
def test_all_runs_are_trained_pinned_and_no_more_at_once_than_slots(tmp_path):
    states: set[tuple[str, ...]] = set()
    with opened(tmp_path / "s", planned(5), threads=3) as sweep:
        ended = sweep_engines.local(
            sweep, slots(2), lambda known: states.add(tuple(sorted(map(str, known.values()))))
        )
        assert {outcome.state for outcome in ended.values()} == {"done"}
        abouts = [json.loads((sweep.folder(run) / "about.json").read_text()) for run in sweep.runs]
        for seed, run in enumerate(sweep.runs, 1):
            assert value(sweep.folder(run)) == expected(seed, 200)
            assert status(sweep, run).state == "done"
    assert {about["threads"] for about in abouts} == {"3"}
    assert {tuple(about["cores"]) for about in abouts} == {slot.cores for slot in slots(2)}
    at_once = [sum(a["start"] <= b["start"] < a["end"] for a in abouts) for b in abouts]
    assert max(at_once) == 2
    assert any("running" in one for one in states)


@pytest.mark.usefixtures("fake")
def test_what_is_done_is_passed_over_also_without_a_slot(tmp_path):
    with opened(tmp_path / "s", planned(2), threads=1) as sweep:
        sweep_engines.local(sweep, slots(1))
        before = [(sweep.folder(run) / "about.json").read_bytes() for run in sweep.runs]
        ended = sweep_engines.local(sweep, [])
        assert {outcome.state for outcome in ended.values()} == {"done"}
        assert [(sweep.folder(run) / "about.json").read_bytes() for run in sweep.runs] == before


@pytest.mark.usefixtures("fake")
def test_a_stop_saves_all_and_the_same_again_ends_as_if_there_had_been_none(tmp_path):
    with opened(tmp_path / "s", planned(3, frames=2_000), threads=1) as sweep:
        ended = sweep_engines.local(
            sweep,
            slots(2),
            stop_requested=lambda: all(can_resume(sweep.folder(run)) for run in sweep.runs[:2]),
        )
        states = [ended[run.name].state for run in sweep.runs]
        assert states == ["stopped", "stopped", "waiting"]
        assert all(can_resume(sweep.folder(run)) for run in sweep.runs[:2])
        assert [status(sweep, run).state for run in sweep.runs] == states
        sweep_engines.local(sweep, slots(2))
        assert [value(sweep.folder(run)) for run in sweep.runs] == [
            expected(seed, 2_000) for seed in (1, 2, 3)
        ]
        resumed = [
            json.loads((sweep.folder(run) / "about.json").read_text())["resumed"] for run in sweep.runs
        ]
        assert resumed == [True, True, False]


@pytest.mark.usefixtures("fake")
def test_a_run_that_fails_ends_no_other_and_is_tried_again(tmp_path):
    runs = grid([replace(Config(), total_frames=100)], ["Pong-v5"], [13, 1], {})
    with opened(tmp_path / "s", runs, threads=1) as sweep:
        for _ in range(2):
            ended = sweep_engines.local(sweep, slots(1))
            assert [ended[run.name].state for run in runs] == ["failed", "done"]
            assert ended[runs[0].name].message == "fastdqn train: seed 13 fails. Try another."
        assert sweep.log_file(runs[0]).read_text().count("seed 13") == 2


@pytest.mark.usefixtures("fake")
def test_a_run_that_cannot_even_begin_ends_no_other(tmp_path):
    """Its log cannot be opened: so it is with a full disk, or a folder that nobody may write to."""
    with opened(tmp_path / "s", planned(3, frames=100), threads=1) as sweep:
        sweep.log_file(sweep.runs[0]).mkdir()
        ended = sweep_engines.local(sweep, slots(1))
        assert [ended[run.name].state for run in sweep.runs] == ["failed", "done", "done"]
        assert "Is a directory" in ended[sweep.runs[0].name].message


def test_a_disk_that_does_not_answer_is_no_run_without_checkpoints(tmp_path, monkeypatch):
    def scandir(path):
        raise PermissionError(13, "Permission denied", str(path))

    assert not can_resume(tmp_path)
    monkeypatch.setattr(os, "scandir", scandir)
    with pytest.raises(PermissionError):
        can_resume(tmp_path)


def test_a_sweep_killed_before_its_manifest_is_begun_again(tmp_path):
    for name in ("configs", "logs"):
        (tmp_path / "s" / name).mkdir(parents=True)
    with opened(tmp_path / "s", planned(2), threads=1) as sweep:
        assert len(sweep.runs) == 2
    assert len(read(tmp_path / "s").runs) == 2


@pytest.mark.usefixtures("fake")
def test_a_bug_or_a_second_signal_leaves_no_process_behind(tmp_path):
    def burst(known: object) -> None:
        if all((sweep.folder(run) / "about.json").exists() for run in sweep.runs):
            raise KeyboardInterrupt

    with opened(tmp_path / "s", planned(2, frames=10**6), threads=1) as sweep:
        with pytest.raises(KeyboardInterrupt):
            sweep_engines.local(sweep, slots(2), burst)
        for run in sweep.runs:
            with pytest.raises(ProcessLookupError):
                os.kill(json.loads((sweep.folder(run) / "about.json").read_text())["pid"], 0)


def test_a_run_killed_between_its_last_checkpoint_and_its_summary_is_done(tmp_path):
    config = replace(Config(), total_frames=200)
    saved = tmp_path / "checkpoints/frame-000000000200"
    saved.mkdir(parents=True)
    games = {"count": 0, "best": None, "recent": [], "since_logged": []}
    (saved / "state.json").write_text(json.dumps({"frames": 200, "games": games}))
    assert is_done(tmp_path, config)
    assert not is_done(tmp_path, replace(config, total_frames=201))
    games["recent"] = [20.0] * 20
    (saved / "state.json").write_text(json.dumps({"frames": 200, "games": games}))
    assert is_done(tmp_path, replace(config, total_frames=201, stop_at_return="auto"))
    (tmp_path / "summary.json").write_text('{"interrupted": true}')
    assert not is_done(tmp_path, replace(config, total_frames=201))


_TYPED = f"""
import sys
from pathlib import Path
sys.path.insert(0, {str(ROOT)!r})
from fastdqn.runs import folder, launch, sweep_engines
from fastdqn.runs.sweep import opened
folder.versions = dict  # no torch
from tests.runs.test_sweep import planned, slots
launch.PROGRAM = (sys.executable, {str(FAKE)!r})
with opened(Path(sys.argv[1]), planned(4, frames=int(sys.argv[2])), 1) as sweep:
    ended = sweep_engines.local(sweep, slots(2))
sys.exit({{outcome.state for outcome in ended.values()}} != {{"done"}})
"""


_HOLDS = """
from pathlib import Path
from fastdqn.runs.lock import RunLock
lock = RunLock(Path(sys.argv[1]))
print("held", flush=True)
sys.stdin.read()
"""


def typed(path: Path, frames: int = 400) -> subprocess.Popen[bytes]:
    """A sweep of the stand-in, as the leader of a group of its own."""
    words = [sys.executable, "-c", _TYPED, str(path), str(frames)]
    return subprocess.Popen(words, start_new_session=True, cwd=ROOT)


def test_a_group_that_is_killed_and_typed_again_ends_with_the_same_weights(tmp_path):
    rng, path = random.Random(3), tmp_path / "s"
    for _ in range(3):
        process = typed(path)
        kill_at = rng.randrange(2, 12)
        while len(list(path.glob("*/checkpoints/frame-*"))) < kill_at and process.poll() is None:
            time.sleep(0.01)
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    assert typed(path).wait(60) == 0
    sweep = read(path)
    assert [value(sweep.folder(run)) for run in sweep.runs] == [expected(seed, 400) for seed in (1, 2, 3, 4)]


def test_runs_save_and_stop_when_the_sweep_alone_is_killed(tmp_path):
    path = tmp_path / "s"
    process = typed(path, frames=10**6)
    try:
        while len(list(path.glob("*/about.json"))) < 2:
            assert process.poll() is None
            time.sleep(0.01)
        process.kill()
        process.wait()
        deadline = time.monotonic() + 60
        while len(list(path.glob("*/summary.json"))) < 2 and time.monotonic() < deadline:
            time.sleep(0.01)
        summaries = [json.loads(file.read_text()) for file in path.glob("*/summary.json")]
        assert summaries == [{"interrupted": True}] * 2
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)


@pytest.mark.usefixtures("fake")
def test_each_run_has_its_slots_gpu_and_one_that_is_killed_is_told(tmp_path):
    def burst(known: object) -> None:
        about = sweep.folder(sweep.runs[2]) / "about.json"
        if about.exists():
            with suppress(ProcessLookupError):
                os.kill(json.loads(about.read_text())["pid"], signal.SIGKILL)

    runs = [*planned(2), planned(3, frames=10**6)[2]]
    with opened(tmp_path / "s", runs, threads=1) as sweep:
        named = [SimpleNamespace(cores=(), gpu=name) for name in ("GPU-7", "GPU-9", "GPU-11")]
        ended = sweep_engines.local(sweep, named, burst)
        gpus = [json.loads((sweep.folder(run) / "about.json").read_text())["gpu"] for run in sweep.runs]
        assert sorted(gpus) == ["GPU-11", "GPU-7", "GPU-9"]
        assert [ended[run.name].state for run in sweep.runs] == ["done", "done", "failed"]
        assert ended[sweep.runs[2].name].message.startswith("killed by SIGKILL")


def test_a_run_that_another_process_still_saves_is_waited_for(tmp_path, monkeypatch):
    """As the runs of a sweep that was killed do, when it is typed again."""
    looked = []
    held = subprocess.Popen(
        [sys.executable, "-c", f"import sys; sys.path.insert(0, {str(ROOT)!r}); " + _HOLDS, str(tmp_path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    try:
        assert held.stdout.readline() == b"held\n"

        def look(seconds: float) -> None:
            looked.append(seconds)
            if len(looked) == 3:
                held.communicate()

        monkeypatch.setattr(launch, "time", SimpleNamespace(sleep=look))
        launch.wait_until_free(tmp_path, lambda: False)
        assert len(looked) == 3
        launch.wait_until_free(tmp_path, lambda: False)
        assert len(looked) == 3
    finally:
        held.kill()


# A real one -------------------------------------------------------------------------------------------------

TINY = [
    *("total-frames=1600", "env.num-envs=2", "env.max-episode-frames=1000"),
    *("replay.capacity=600", "replay.warmup-steps=60", "network.width=0.0625", "pipeline.accelerate=eager"),
    *("learner.batch-size=4", "learner.target-period-updates=37"),
    *("log-every-frames=300", "checkpoint.every-frames=400"),
]


@pytest.mark.slow
def test_a_real_sweep_killed_three_times_ends_as_an_undisturbed_one(tmp_path):
    """2 games x 3 seeds x 2 presets, `--jobs 2`; SIGKILL of the whole group at random moments."""
    pytest.importorskip("envpool")
    from fastdqn.runs.folder import RunFolder
    from tests.runs.test_resume import differences, outcome

    def command(out: str) -> subprocess.Popen[bytes]:
        flags = ["--games", "Pong-v5", "Breakout-v5", "--seeds", "1-3", "--preset", "quick,rainbow"]
        words = [
            sys.executable,
            "-m",
            "fastdqn",
            "sweep",
            *flags,
            "--jobs",
            "2",
            "--out",
            out,
            "--set",
            *TINY,
        ]
        return subprocess.Popen(
            words, cwd=tmp_path, start_new_session=True, env=os.environ | {"PYTHONPATH": str(ROOT)}
        )

    assert command("alone").wait() == 0
    rng = random.Random(7)
    for _ in range(3):
        process = command("killed")
        rows = 4 + rng.randrange(12) + count_rows(tmp_path / "killed")
        while count_rows(tmp_path / "killed") < rows and process.poll() is None:
            time.sleep(0.05)
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    assert command("killed").wait() == 0
    alone, killed = read(tmp_path / "alone"), read(tmp_path / "killed")
    assert len(alone.runs) == 12
    for run in alone.runs:
        one, other = (RunFolder.open(sweep.folder(run)) for sweep in (alone, killed))
        assert differences(outcome(one), outcome(other)) == [], run.name


def count_rows(path: Path) -> int:
    return sum(file.read_bytes().count(b"\n") for file in path.glob("*/metrics.jsonl"))
