"""Sweeps on Ray and on Slurm, for real: two Ray nodes of this machine, submitit's local executor."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from fastdqn.errors import UserError
from fastdqn.runs import launch, sweep_cluster, sweep_engines
from fastdqn.runs.launch import Outcome
from fastdqn.runs.sweep import PlannedRun, Sweep, can_resume, grid, opened, read
from tests.runs.test_sweep import FAKE, ROOT, TINY, planned, slots

MINUTE = 60  # of waiting for what takes seconds on a machine that has nothing else to do
MANY = 10**8  # frames that nobody waits for


# What follows the tasks, with a stand-in for a cluster ------------------------------------------------------


class Here:
    """A cluster of this process: a thread a task, of which so many have room at once. It may lose a run."""

    def __init__(self, sweep: Sweep, room: int, lost: str = "") -> None:
        self.sweep, self.room, self.lost = sweep, threading.Semaphore(room), lost
        self.submitted: list[str] = []
        self.cancelled: list[str] = []

    def submit(self, runs):
        return [self.begin(run) for run in runs]

    def begin(self, run: PlannedRun) -> Any:
        task = SimpleNamespace(run=run, outcome=None, withdrawn=threading.Event())

        def work() -> None:
            with self.room:
                if not task.withdrawn.is_set():
                    task.outcome = sweep_cluster.train(self.sweep, run)

        self.submitted.append(run.name)
        task.thread = threading.Thread(target=work)
        task.thread.start()
        return Handle(task)

    def ended(self, handles):
        return [handle for handle in handles if not handle.task.thread.is_alive()]

    def result(self, handle):
        if handle.task.run.name == self.lost:
            raise RuntimeError("a trace\nthe node is lost")
        return handle.task.outcome

    def cancel(self, handle):
        self.cancelled.append(handle.task.run.name)
        handle.task.withdrawn.set()


class Handle:
    """What can be hashed."""

    def __init__(self, task: Any) -> None:
        self.task = task


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(launch, "PROGRAM", (sys.executable, str(FAKE)))
    monkeypatch.setattr(launch, "POLL_SECONDS", 0.01)
    monkeypatch.setattr(sweep_cluster, "TICK_SECONDS", 0.02)


def follow(
    sweep: Sweep,
    cluster: Here,
    jobs: int | None = None,
    watch: Callable[[Any], None] = lambda known: None,
    stop_requested: Callable[[], bool] = lambda: False,
) -> dict[str, Outcome]:
    deadline = time.monotonic() + MINUTE

    def watch_the_clock(known: Any) -> None:
        assert time.monotonic() < deadline
        watch(known)

    return sweep_cluster._followed(sweep, cluster, jobs, watch_the_clock, stop_requested)


@pytest.mark.usefixtures("fake")
def test_tasks_are_followed_and_one_that_is_lost_ends_no_other(tmp_path):
    most = 0

    def watch(known: dict[str, Any]) -> None:
        nonlocal most
        most = max(most, len(cluster.submitted) - sum(isinstance(one, Outcome) for one in known.values()))

    with opened(tmp_path / "s", planned(4, frames=100), threads=1) as sweep:
        cluster = Here(sweep, room=4, lost=sweep.runs[1].name)
        ended = follow(sweep, cluster, jobs=2, watch=watch)
        assert most == 2
        assert [ended[run.name].state for run in sweep.runs] == ["done", "failed", "done", "done"]
        assert ended[sweep.runs[1].name].message == "the node is lost"
        cluster = Here(sweep, room=4)
        assert {one.state for one in follow(sweep, cluster).values()} == {"done"}
        assert cluster.submitted == []


@pytest.mark.usefixtures("fake")
def test_a_stop_saves_what_has_begun_and_withdraws_what_has_not(tmp_path):
    """Fails where a stop waits for tasks that the cluster has no room for, for days perhaps."""
    seen: list[list[str]] = []
    with opened(tmp_path / "s", planned(2, frames=MANY), threads=1) as sweep:
        cluster = Here(sweep, room=1)
        first, second = sweep.runs
        ended = follow(
            sweep,
            cluster,
            watch=lambda known: seen.append([str(known[run.name]) for run in sweep.runs]),
            stop_requested=lambda: can_resume(sweep.folder(first)),
        )
        assert [ended[run.name].state for run in sweep.runs] == ["stopped", "waiting"]
        assert cluster.cancelled == [second.name]
        assert seen[0] == ["waiting", "waiting"]
        assert ["running", "waiting"] in seen


@pytest.mark.usefixtures("fake")
def test_whoever_is_ended_leaves_the_request_to_stop(tmp_path):
    def burst(known: object) -> None:
        if can_resume(sweep.folder(sweep.runs[0])):
            raise KeyboardInterrupt

    with opened(tmp_path / "s", planned(1, frames=MANY), threads=1) as sweep:
        cluster, before = Here(sweep, room=1), threading.enumerate()
        with pytest.raises(KeyboardInterrupt):
            follow(sweep, cluster, watch=burst)
        for thread in threading.enumerate():
            if thread not in before:
                thread.join(MINUTE)
        assert json.loads((sweep.folder(sweep.runs[0]) / "summary.json").read_text())["interrupted"]


def test_a_task_imports_no_torch():
    """Each would have a quarter of a gigabyte of it for nothing."""
    code = "import sys, fastdqn.runs.sweep_cluster; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0


def test_a_signal_waits_for_the_end_of_the_block():
    got: list[bool] = []
    before = signal.signal(signal.SIGUSR2, lambda *_: got.append(inside))
    try:
        inside = True
        with sweep_cluster.postponed(signal.SIGUSR2) as came:
            assert not came()
            os.kill(os.getpid(), signal.SIGUSR2)
            assert came()
            inside = False
        assert got == [False]
        with sweep_cluster.postponed(signal.SIGUSR2):
            pass
        assert got == [False]
    finally:
        signal.signal(signal.SIGUSR2, before)


def test_a_run_that_no_node_has_room_for_is_told():
    pytest.importorskip("torch")
    nodes = [{"CPU": 4.0, "memory": 2.0 * 2**30}, {"CPU": 1.0, "GPU": 1.0, "memory": 8.0 * 2**30}]
    for need in ({"CPU": 4, "GPU": 0.0, "memory": 2**30}, {"CPU": 1, "GPU": 0.5, "memory": 2**33}):
        sweep_cluster._check_room("a", need, nodes)
    with pytest.raises(UserError) as told:
        sweep_cluster._check_room("a", {"CPU": 2, "GPU": 0.5, "memory": 2**30}, nodes)
    assert str(told.value) == (
        "engine = ray: a needs 2 cores, 0.5 GPU and 1.0 GiB, and no node has that. "
        "They have: 1 core, 1 GPU and 8.0 GiB; 4 cores and 2.0 GiB"
    )


# Real runs --------------------------------------------------------------------------------------------------


def real(seeds: int, frames: int) -> list[PlannedRun]:
    """Return tiny runs of Pong, with a checkpoint in every 100 steps of each of two games."""
    from tests.runs.test_resume import tiny

    config = tiny(total_frames=frames, log_every_frames=200)
    config = replace(config, checkpoint=replace(config.checkpoint, every_frames=800))
    return grid([config], ["Pong-v5"], range(1, seeds + 1), {})


def unlike(sweep: Sweep, path: Path) -> dict[str, list[str]]:
    """Train the same runs undisturbed, by the local engine; return what differs, by the names of runs."""
    from fastdqn.runs.folder import RunFolder
    from tests.runs.test_resume import differences, outcome

    with opened(path, sweep.runs, threads=1) as alone:
        ended = sweep_engines.local(alone, slots(2))
        assert {one.state for one in ended.values()} == {"done"}
    found = {}
    for run in sweep.runs:
        one, other = (outcome(RunFolder.open(those.folder(run))) for those in (sweep, alone))
        found[run.name] = differences(one, other)
    return {name: what for name, what in found.items() if what}


def processes() -> dict[int, tuple[int, list[str]]]:
    """Return the parent and the command line of every process, by its number."""
    found = {}
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            try:
                parent = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
                found[int(folder.name)] = parent, (folder / "cmdline").read_text(errors="replace").split("\0")
            except OSError:  # it has ended
                continue
    return found


def below(root: int) -> dict[int, str]:
    """Return the processes that descend from one, and of those that train the name of the run, else nothing."""
    table, tree = processes(), {root: ""}
    while new := {pid for pid, (parent, _) in table.items() if parent in tree} - tree.keys():
        for pid in new:
            parent, line = table[pid]
            name = next((Path(b).name for a, b in pairwise(line) if a in ("--run-dir", "--resume")), "")
            tree[pid] = "" if tree[parent] else name  # a child of it that has not become another program yet
    return tree


def trained(root: int) -> list[str]:
    """Return the names of the runs that are trained below a process."""
    return [name for name in below(root).values() if name]


def kill(root: int) -> None:
    """End a process and all that descend from it at once, as the loss of their machine does."""
    for pid in below(root):
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def newest(sweep: Sweep, name: str) -> Path | None:
    """Return the newest checkpoint of a run."""
    return max((sweep.path / name / "checkpoints").glob("frame-*"), default=None)


def until(condition: Callable[[], Any], process: subprocess.Popen[str] | None = None) -> Any:
    """Return what a condition comes to, as soon as that is something; a process has to live until then."""
    deadline = time.monotonic() + 4 * MINUTE
    while not (found := condition()):
        assert time.monotonic() < deadline, "it did not come"
        assert process is None or process.poll() is None, process.communicate()
        time.sleep(0.05)
    return found


# Ray --------------------------------------------------------------------------------------------------------


@pytest.fixture
def ray_folder(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Ray with a folder of its own, so that it neither finds nor spoils a cluster that this machine belongs to."""
    pytest.importorskip("envpool")
    pytest.importorskip("ray")
    folder = tempfile.mkdtemp(prefix="ray-")  # pytest's is longer than the name of a socket may be
    monkeypatch.setenv("RAY_TMPDIR", folder)
    monkeypatch.setenv("RAY_worker_niceness", "0")  # beside other tests a run would wait for minutes
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    yield
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def cluster(ray_folder: None) -> Iterator[list[int]]:
    """Two nodes with a core each, as the numbers of their first processes; the second can be killed."""
    from ray.cluster_utils import Cluster

    small = {"num_cpus": 1, "object_store_memory": 80_000_000}
    cluster = Cluster(initialize_head=True, head_node_args={"include_dashboard": False, **small})
    try:
        nodes = [cluster.head_node, cluster.add_node(**small)]
        yield [node.all_processes["raylet"][0].process.pid for node in nodes]
    finally:
        cluster.shutdown()


@contextmanager
def typed(path: Path, *flags: str, frames: int = 2_400) -> Iterator[subprocess.Popen[str]]:
    """Type a sweep of two games, as the leader of a group of its own, as a shell has it."""
    words = ["sweep", "--games", "Pong-v5", "Breakout-v5", "--out", str(path), *flags]
    process = subprocess.Popen(
        [sys.executable, "-m", "fastdqn", *words, "--set", f"total-frames={frames}", *TINY[1:]],
        start_new_session=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    )
    try:
        yield process
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


@pytest.mark.parametrize(
    ("flags", "count"),
    [
        pytest.param(("--seeds", "1"), 2, marks=pytest.mark.long),
        pytest.param(("--seeds", "1-3", "--preset", "quick,rainbow"), 12, marks=pytest.mark.slow),
    ],
)
def test_a_ray_node_is_killed_and_its_run_goes_on_on_the_other(tmp_path, cluster, flags, count):
    """Fails when what is lost is not tried again, or from its beginning, and when two runs share a core."""
    lost: dict[str, Path] = {}
    most, over = [0, 0], threading.Event()

    def disturb() -> None:
        """Count what is trained on either node, and kill the second as soon as its run has saved something."""
        while not over.wait(0.05):
            names = [trained(node) for node in cluster]
            most[:] = [max(known, len(those)) for known, those in zip(most, names, strict=True)]
            if not lost and names[1] and (saved := newest(sweep, names[1][0])):
                kill(cluster[1])
                lost[names[1][0]] = newest(sweep, names[1][0]) or saved

    sweep = Sweep(tmp_path / "s", ())
    thread = threading.Thread(target=disturb)
    thread.start()
    try:
        with typed(sweep.path, *flags, "--engine", "ray", "--progress", "json") as process:
            out, err = process.communicate(timeout=10 * MINUTE)
    finally:
        over.set()
        thread.join()
    assert process.returncode == 0, err
    states = [run["state"] for run in json.loads(out)["runs"]]  # stdout has nothing else
    assert states == ["done"] * count
    assert all(json.loads(line) for line in err.splitlines())
    assert most == [1, 1]
    ((name, saved),) = lost.items()
    assert f"going on from {saved}" in (sweep.path / "logs" / f"{name}.txt").read_text()
    assert unlike(read(sweep.path), tmp_path / "alone") == {}


@pytest.mark.slow
def test_signals_stop_a_sweep_on_ray_and_all_is_saved(tmp_path, cluster):
    """The second by SIGTERM, for which Ray has a handler of its own."""
    sweep = Sweep(tmp_path / "s", ())
    before: dict[str, Path | None] = {}

    def under_way() -> list[str]:
        return trained(cluster[0]) + trained(cluster[1])

    def saved() -> list[str]:
        return [name for name in under_way() if newest(sweep, name) not in (None, before.get(name))]

    for number in (signal.SIGINT, signal.SIGTERM):
        with typed(sweep.path, "--seeds", "1-2", "--engine", "ray", frames=MANY) as process:
            names = until(lambda: len(found := saved()) == 2 and found, process)
            os.killpg(process.pid, number)
            out, err = process.communicate(timeout=4 * MINUTE)
        assert process.returncode == 128 + number, err
        assert "Traceback" not in err
        assert under_way() == []
        states = {run["name"]: run["state"] for run in json.loads(out)["runs"]}
        assert {name: states[name] for name in names} == dict.fromkeys(names, "stopped")
        assert sorted(states.values()) == ["stopped", "stopped", "waiting", "waiting"]
        for name in names:
            assert json.loads((sweep.path / name / "summary.json").read_text())["interrupted"]
            before[name] = newest(sweep, name)


@pytest.mark.slow
def test_no_cluster_is_told(tmp_path, ray_folder):
    with typed(tmp_path / "s", "--engine", "ray") as process:
        out, err = process.communicate(timeout=4 * MINUTE)
    assert (process.returncode, out) == (2, "")
    assert err.count("fastdqn sweep: --engine ray: no cluster answers") == 1
    assert "Traceback" not in err
    assert "`ray start` makes one" in err


# Slurm ------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_jobs_that_slurm_ends_go_on_to_the_same_end(tmp_path):
    """By submitit's local executor: one is told to end, one is with its run, one is killed and typed again."""
    pytest.importorskip("envpool")
    pytest.importorskip("submitit")
    going_on: dict[str, Path] = {}
    over = threading.Event()

    def disturb() -> None:
        table = processes()
        for pid, name in below(os.getpid()).items():
            if name and name not in going_on and (saved := newest(sweep, name)):
                going_on[name] = saved
                job = table[pid][0]
                os.kill(job, signal.SIGKILL if name.endswith("3") else signal.SIGUSR2)
                if not name.endswith("1"):
                    os.kill(pid, signal.SIGKILL if name.endswith("3") else signal.SIGUSR2)

    def keep_disturbing() -> None:
        while not over.wait(0.05):
            disturb()

    with opened(tmp_path / "s", real(3, frames=2_400), threads=1) as sweep:
        thread = threading.Thread(target=keep_disturbing)
        thread.start()
        try:
            # So short that submitit takes each signal for the end of the job's time.
            ended = sweep_cluster.on_slurm(sweep, cluster="local", options={"timeout_min": 10})
        finally:
            over.set()
            thread.join()
        assert [ended[run.name].state for run in sweep.runs] == ["done", "done", "failed"]
        again = sweep_cluster.on_slurm(sweep, cluster="local")
        assert {one.state for one in again.values()} == {"done"}
    logs = [sweep.log_file(run).read_text() for run in sweep.runs]
    assert "stdin has ended: saving" in logs[0]
    assert "SIGUSR2: saving" in logs[1]
    for run, log in zip(sweep.runs, logs, strict=True):
        assert log.count("going on from") == 1
        assert Path(log.partition("going on from ")[2].split()[0]) >= going_on[run.name]
    assert unlike(sweep, tmp_path / "alone") == {}


@pytest.mark.slow
def test_a_stop_reaches_slurm_jobs_through_the_folder(tmp_path):
    pytest.importorskip("envpool")
    pytest.importorskip("submitit")
    with opened(tmp_path / "s", real(2, frames=MANY), threads=1) as sweep:
        ended = sweep_cluster.on_slurm(
            sweep,
            cluster="local",
            stop_requested=lambda: all(newest(sweep, run.name) for run in sweep.runs),
        )
    assert {one.state for one in ended.values()} == {"stopped"}
    for run in sweep.runs:
        assert json.loads((sweep.folder(run) / "summary.json").read_text())["interrupted"]


def test_slurm_is_not_replaced_by_anything_else(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    with opened(tmp_path / "s", planned(1), threads=1) as sweep, pytest.raises(UserError, match="no sbatch"):
        sweep_cluster.on_slurm(sweep)


def test_slurm_is_asked_for_one_array_and_its_refusal_is_told(tmp_path, monkeypatch):
    pytest.importorskip("envpool")
    pytest.importorskip("submitit")
    for name, text in (("srun", ""), ("sbatch", f"cp $1 {tmp_path}/asked; echo sbatch: no gpu >&2; exit 1")):
        (tmp_path / name).write_text(f"#!/bin/sh\n{text}\n")
        (tmp_path / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    with opened(tmp_path / "s", planned(3), threads=2) as sweep:
        with pytest.raises(UserError, match="engine = slurm: sbatch: no gpu"):
            sweep_cluster.on_slurm(sweep, jobs=2, options={"slurm_partition": "gpu", "gpus_per_node": 1})
        with pytest.raises(UserError, match="in parameter 'slurm_no'"):
            sweep_cluster.on_slurm(sweep, options={"slurm_no": 1})
    asked = (tmp_path / "asked").read_text()
    for flag in (
        "array=0-2%2",
        "cpus-per-task=2",
        "gpus-per-node=1",
        "partition=gpu",
        "time=1440",
        "mem=3GB",
    ):
        assert f"#SBATCH --{flag}\n" in asked
    assert "#SBATCH --signal=USR2@90\n" in asked
