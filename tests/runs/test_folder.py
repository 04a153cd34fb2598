"""A run belongs to one process at a time, and --overwrite removes what fastdqn wrote, nothing else."""

from __future__ import annotations

import errno
import importlib.util
import json
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from fastdqn.errors import RunFailedError, UserError
from fastdqn.presets import PRESETS
from fastdqn.runs import folder as run_folder
from fastdqn.runs import lock as run_lock
from fastdqn.runs.folder import RunFolder
from fastdqn.runs.metrics import JsonLines

CONFIG = PRESETS["quick"].config

HOLDER = """
import os, signal, sys
from pathlib import Path
from fastdqn.runs.folder import RunFolder
run = RunFolder.open(Path(sys.argv[1]))
run.lock()
if len(sys.argv) < 3:
    print(0, flush=True)
elif os.fork() == 0:  # the child speaks, so that whoever hears it knows that it runs
    print(os.getpid(), flush=True)
signal.pause()
"""


def put(folder: Path, *names: str) -> None:
    """Make files, and the folders that they lie in."""
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text("precious")


def everything(folder: Path) -> dict[str, bytes | str]:
    """What a folder holds: the bytes of its files, the targets of its links."""
    found: dict[str, bytes | str] = {}
    for path in sorted(folder.rglob("*")):
        name = str(path.relative_to(folder))
        found[name] = os.readlink(path) if path.is_symlink() else path.read_bytes() if path.is_file() else ""
    return found


@pytest.fixture
def run(tmp_path: Path) -> RunFolder:
    """A run that nobody trains."""
    run = RunFolder.create(tmp_path / "run", CONFIG)
    run.unlock()
    return run


@contextmanager
def another_process(run: RunFolder, *words: str) -> Iterator[tuple[subprocess.Popen[str], int]]:
    """Have another process hold a run's lock; give it, and the pid of its child if it has one."""
    command = [sys.executable, "-c", HOLDER, str(run.path), *words]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout
        child = int(process.stdout.readline())
        try:
            yield process, child
        finally:
            process.kill()
            if child:
                os.kill(child, signal.SIGKILL)


# One process at a time


def test_the_folder_of_an_older_version_is_refused_with_what_to_do(run: RunFolder) -> None:
    file = run.path / "config.json"
    values = json.loads(file.read_text())
    values["learner"] |= {"accelerate": values.pop("pipeline")["accelerate"], **values.pop("optimizer")}
    values["learner"]["optimizer"] = values["learner"].pop("name")
    file.write_text(json.dumps(values))
    with pytest.raises(UserError) as refused:
        RunFolder.open(run.path)
    lines = str(refused.value).splitlines()
    assert lines[0].startswith(f"{file}: this is a configuration of an older fastdqn: learner.")
    assert lines[0].endswith(" now (and 8 more).")
    assert lines[1].endswith(f"`train(..., weights={str(run.path)!r})`")


def test_a_run_that_another_process_trains_is_refused_and_left_as_it_is(run: RunFolder) -> None:
    """Fails when a second process takes the first one's metrics away, or empties its folder."""
    put(run.path, "metrics.jsonl")
    with another_process(run) as (process, _):
        before = everything(run.path)
        wanted = rf"is being trained by process {process.pid} on \S+ \(kill {process.pid} "
        with pytest.raises(UserError, match=wanted) as refused:
            RunFolder.reopen(run.path, {"total_frames": 10**9}, lambda config: None)
        assert "\n" not in str(refused.value)
        with pytest.raises(UserError, match=wanted):
            RunFolder.create(run.path, CONFIG, overwrite=True)
        assert everything(run.path) == before
        RunFolder.open(run.path)  # readers may


def test_the_lock_ends_with_a_process_that_is_killed(run: RunFolder) -> None:
    with another_process(run) as (process, _):
        process.kill()
        process.wait()
        RunFolder.reopen(run.path, {}, lambda config: None)[0].unlock()


def test_a_child_that_outlives_its_parent_does_not_keep_the_lock(run: RunFolder) -> None:
    """Fails where forked children (workers of torch.compile may be such) hold their parent's descriptor."""
    with another_process(run, "fork") as (process, child):
        process.kill()
        process.wait()
        os.kill(child, 0)  # it lives
        RunFolder.reopen(run.path, {}, lambda config: None)[0].unlock()


def test_the_lock_is_for_other_threads_of_the_process_too_and_is_given_back(run: RunFolder) -> None:
    first, second = RunFolder.open(run.path), RunFolder.open(run.path)
    first.lock()
    first.lock()  # held already
    with pytest.raises(UserError, match=f"process {os.getpid()} on"):
        second.lock()
    first.unlock()
    second.lock()
    del second
    first.lock()


def test_what_is_refused_gives_the_lock_back(run: RunFolder) -> None:
    def refuse(config: Any) -> None:
        raise UserError("too long")

    with pytest.raises(UserError, match="too long") as kept:
        RunFolder.reopen(run.path, {"total_frames": 10**9}, refuse)
    assert RunFolder.open(run.path).config == CONFIG
    RunFolder.open(run.path).lock()
    del kept


@pytest.mark.parametrize("text", [b"", b"process x on y\n", b"\xff" * 500, b"process 1 on \xff\n"])
def test_a_holder_that_cannot_be_named_is_no_secret(run: RunFolder, text: bytes) -> None:
    run.lock()
    (run.path / "lock").write_bytes(text)
    with pytest.raises(UserError, match=r"is being trained by (another process|process 1 on \\xff):"):
        RunFolder.open(run.path).lock()


def test_without_locks_a_run_is_trained_and_people_are_told(
    run: RunFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    def flock(descriptor: int, how: int) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(run_lock.fcntl, "flock", flock)
    assert re.search(r"has no locks \(No locks available\)", run.lock() or "")


@pytest.mark.parametrize("make", [lambda lock: lock.mkdir(), lambda lock: lock.symlink_to("../elsewhere")])
def test_a_lock_that_is_no_file_is_refused(tmp_path: Path, run: RunFolder, make: Any) -> None:
    (run.path / "lock").unlink()
    make(run.path / "lock")
    with pytest.raises(UserError, match="cannot be locked"):
        run.lock()
    assert not (tmp_path / "elsewhere").exists()


def test_a_folder_that_was_replaced_while_its_lock_was_taken_is_locked_itself(
    run: RunFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Fails when two processes hold two files of one name."""
    real, calls = run_lock.fcntl.flock, []

    def flock(descriptor: int, how: int) -> None:
        real(descriptor, how)
        calls.append(descriptor)
        if len(calls) == 1:
            (run.path / "lock").unlink()
            (run.path / "lock").touch()

    monkeypatch.setattr(run_lock.fcntl, "flock", flock)
    run.lock()
    with pytest.raises(UserError, match="is being trained"):
        RunFolder.open(run.path).lock()


# A folder that goes elsewhere


def test_a_renamed_folder_is_followed_and_a_removed_one_is_told(run: RunFolder, tmp_path: Path) -> None:
    run.lock()
    assert not run.follow()
    run.path.rename(tmp_path / "other")
    put(tmp_path, "run/config.json")  # another one that has its name now
    assert run.follow()
    assert run.path == tmp_path / "other"
    assert not run.follow()
    (run.path / "config.json").unlink()
    with pytest.raises(RunFailedError, match="other was removed"):
        run.follow()
    shutil.rmtree(run.path)
    with pytest.raises(RunFailedError, match="other was removed"):
        run.follow()
    assert everything(tmp_path) == {"run": "", "run/config.json": b"precious"}


# --overwrite


@pytest.mark.parametrize(
    ("error", "gone"), [(errno.ESTALE, False), (errno.EACCES, False), (errno.ENOENT, True)]
)
def test_a_disk_that_does_not_answer_for_a_moment_ends_no_run(
    run: RunFolder, error: int, gone: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    run.lock()
    real = Path.stat

    def stat(path: Path, **follow: Any) -> os.stat_result:
        if path.name == "config.json":
            raise OSError(error, os.strerror(error), str(path))
        return real(path, **follow)

    with monkeypatch.context() as patched:
        patched.setattr(Path, "stat", stat)
        if gone:
            with pytest.raises(RunFailedError, match="was removed"):
                run.follow()
        else:
            assert not run.follow()
    run.unlock()


def test_overwrite_replaces_all_that_fastdqn_writes(run: RunFolder) -> None:
    put(
        run.path,
        "metrics.jsonl",
        "evaluations.jsonl",
        "metrics.tmp",
        "log.txt",
        "summary.json",
        "summary.json.tmp",
        "checkpoints/frame-000000001500/online.safetensors",
        "checkpoints/frame-000000001500/average.safetensors",
        "checkpoints/frame-000000001500/SHA256SUMS.tmp",
        "checkpoints/best-000000001500/evaluation.json",
        "checkpoints/tmp-frame-000000003000/replay.safetensors.partial",
        "tensorboard/metrics/events.out.tfevents.1700000000.host.1.0",
        "video/best-000000001500-seed3.mp4",
        "video/tmp-frame-000000001500-seed3.gif",
        "curves.png",
        "tmp-policy.pt2",
        "policy.safetensors",
        ".fastdqn-0123456789ab",
        "video/.fastdqn-ba9876543210",
    )
    new = RunFolder.create(run.path, PRESETS["nature"].config, overwrite=True)
    assert set(everything(run.path)) == {"checkpoints", "config.json", "lock", "meta.json"}
    assert RunFolder.open(run.path).config == new.config == PRESETS["nature"].config


def test_overwrite_takes_the_folder_one_is_in(run: RunFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    put(run.path, "metrics.jsonl")
    monkeypatch.chdir(run.path)
    RunFolder.create(Path(), CONFIG, overwrite=True)
    assert not Path("metrics.jsonl").exists()


@pytest.mark.parametrize(
    "name",
    [
        "notes.md",
        "checkpoints/mine.txt",
        "checkpoints/frame-000000001500/mine.txt",
        "checkpoints/frame-copy/online.safetensors",
        "video/holiday.mp4",
        "curves.png/mine.txt",
        "deep/er/metrics.jsonl",
        "metrics.jsonl.bak",
    ],
)
def test_overwrite_leaves_a_run_with_files_of_others_alone_and_names_them(run: RunFolder, name: str) -> None:
    put(run.path, "metrics.jsonl", name)
    before = everything(run.path)
    with pytest.raises(UserError, match=re.escape(name)):
        RunFolder.create(run.path, CONFIG, overwrite=True)
    assert everything(run.path) == before
    RunFolder.open(run.path).lock()


@pytest.mark.parametrize("inside", ["checkpoints", "metrics.jsonl", "video/frame-1-seed0.gif"])
def test_overwrite_follows_no_link(run: RunFolder, tmp_path: Path, inside: str) -> None:
    put(tmp_path, "elsewhere/metrics.jsonl")
    link = run.path / inside
    link.parent.mkdir(exist_ok=True)
    if link.is_dir():
        link.rmdir()
    link.symlink_to(tmp_path / "elsewhere")
    before = everything(tmp_path)
    with pytest.raises(UserError, match=f"fastdqn did not write .*{inside}"):
        RunFolder.create(run.path, CONFIG, overwrite=True)
    (tmp_path / "latest").symlink_to("run")
    with pytest.raises(UserError, match="latest is a link"):
        RunFolder.create(tmp_path / "latest", CONFIG, overwrite=True)
    (tmp_path / "latest").unlink()
    assert everything(tmp_path) == before


@pytest.mark.parametrize(
    "config",
    [
        None,
        "",
        "[" * 100_000,
        "[1]",
        '{"name": "webpack"}',
        '{"game": "Pong-v5", "preset": "quick", "env": {}}',
    ],
)
def test_overwrite_leaves_the_folder_of_another_project_alone(
    tmp_path: Path, config: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Fails when any config.json makes a folder a run, or when `.` is emptied."""
    put(tmp_path, "checkpoints/model.pt", "metrics.jsonl")
    if config is not None:
        (tmp_path / "config.json").write_text(config)
    before = everything(tmp_path)
    monkeypatch.chdir(tmp_path)
    for path in (Path(), tmp_path, Path("metrics.jsonl")):
        with pytest.raises(UserError, match="is not a run"):
            RunFolder.create(path, CONFIG, overwrite=True)
    assert everything(tmp_path) == before


@pytest.mark.parametrize("weights", ["run", "run/checkpoints/frame-1/online.safetensors", "other/../run"])
def test_overwrite_keeps_a_run_whose_weights_the_new_one_starts_from(
    run: RunFolder, tmp_path: Path, weights: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Fails when the weights are gone before they are read."""
    put(tmp_path, "other/metrics.jsonl", "run/metrics.jsonl")
    before = everything(run.path)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=f"{weights} lies in run, which `overwrite` would remove"):
        RunFolder.create(Path("run"), CONFIG, overwrite=True, weights=Path(weights))
    assert everything(run.path) == before
    RunFolder.create(Path("run"), CONFIG, overwrite=True, weights=Path("other"))


def test_what_is_written_anew_follows_no_link(run: RunFolder, tmp_path: Path) -> None:
    """Fails where the name that a file has while it is written is opened though it leads elsewhere."""
    run.unlock()
    other = tmp_path / "theirs"
    other.write_text("of someone else")
    row = json.dumps({"frames": 8}) + "\n"
    run.metrics.write_text(row * 2)
    for name in ("summary.json.tmp", "metrics.tmp"):
        (run.path / name).symlink_to(other)
    (run.path / "summary.json").symlink_to(other)
    run.write_summary({"frames": 8})
    JsonLines(run.metrics, keep_frames=8).close()
    assert other.read_text() == "of someone else"
    assert json.loads((run.path / "summary.json").read_text()) == {"frames": 8}
    assert run.metrics.read_text() == row * 2
    assert not list(run.path.glob("*.tmp"))


def test_overwrite_leaves_the_root_and_the_home_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / ".profile").touch()  # in an empty home there is nothing to lose
    for path in (Path("/"), Path.home(), Path("/tmp"), Path("/dev/null")):
        with pytest.raises(UserError, match="is not a run"):
            run_folder._what_goes(path, overwrite=True)  # which removes nothing, should it be wrong


def test_a_kill_while_overwriting_leaves_a_run_that_can_be_overwritten(
    run: RunFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(run.path, "metrics.jsonl", "log.txt", "summary.json")
    real = Path.unlink

    def unlink(path: Path, missing_ok: bool = False) -> None:
        if path.name == "metrics.jsonl":
            raise KeyboardInterrupt
        real(path, missing_ok)

    monkeypatch.setattr(Path, "unlink", unlink)
    with pytest.raises(KeyboardInterrupt):
        RunFolder.create(run.path, CONFIG, overwrite=True)
    monkeypatch.undo()
    assert not (run.path / "log.txt").exists()
    RunFolder.create(run.path, CONFIG, overwrite=True)
    assert set(everything(run.path)) == {"checkpoints", "config.json", "lock", "meta.json"}


def test_a_folder_whose_first_process_was_killed_at_once_is_taken(tmp_path: Path) -> None:
    put(tmp_path / "run", "lock", "config.json.tmp")
    RunFolder.create(tmp_path / "run", CONFIG)


def test_a_folder_that_another_process_fills_before_the_lock_is_there_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = RunFolder.lock

    def lock(run: RunFolder) -> str | None:
        put(run.path, "config.json")
        return real(run)

    monkeypatch.setattr(RunFolder, "lock", lock)
    with pytest.raises(UserError, match="exists already"):
        RunFolder.create(tmp_path / "run", CONFIG)
    assert (tmp_path / "run/config.json").read_text() == "precious"


# Names


def test_a_folder_whose_name_is_not_utf8_is_written_in_any_locale(tmp_path: Path) -> None:
    path = Path(os.fsdecode(bytes(tmp_path) + b"/r\xff"))
    run = RunFolder.create(path, CONFIG)
    run.log(f"saved {path}")
    run.write_summary({"run": str(path)})
    assert r"/r\udcff" in (path / "log.txt").read_text("utf-8")
    assert json.loads((path / "summary.json").read_text())["run"] == str(path)


QUICK_FLAGS = (
    "--total-frames 400 --env.num-envs 2 --replay.capacity 1000 --replay.warmup-steps 60 --network.width 0.1 "
    "--pipeline.accelerate eager --learner.batch-size 4 --log-every-frames 200 --checkpoint.every-frames 200 "
    "--evaluation.every-frames 200 --evaluation.episodes 1 --evaluation.max-episode-frames 400"
)


@pytest.mark.parametrize(
    ("name", "format"),
    [
        pytest.param(b"r", "safetensors", marks=pytest.mark.long),
        pytest.param(b"r\xff", "torchscript", marks=pytest.mark.long),
        pytest.param(b"r\xff", "safetensors", marks=pytest.mark.slow),
        pytest.param(b"r\xff", "pt2", marks=pytest.mark.slow),
    ],
)
def test_every_command_takes_a_run_whatever_its_name_and_overwrite_knows_its_files(
    name: bytes, format: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """Fails when nothing is saved in a folder whose name is not UTF-8, or --overwrite does not know a file."""
    for module in ("torch", "envpool", "matplotlib", "imageio_ffmpeg"):
        pytest.importorskip(module)
    from fastdqn.cli import main

    path = os.fsdecode(bytes(tmp_path) + b"/" + name)
    train = ["train", "Pong-v5", "--run-dir", path, *QUICK_FLAGS.split()]
    for words in (
        train,
        ["train", "--resume", path, "--total-frames", "600"],
        ["evaluate", path, "--episodes", "1", "--checkpoint", "best", "--max-episode-frames", "400"],
        ["plot", path],
        ["record", path, "--max-seconds", "1"],
        ["export", path, "--format", format],
        [*train, "--overwrite"],
    ):
        own, foreign = run_folder._sorted_out(Path(path)) if words is not train else ([], [])
        assert not foreign
        assert main(words) == 0, capfd.readouterr().err
    assert len([file for file in own if file.parent != Path("checkpoints")]) > 20
    assert {path.name for path in Path(path).iterdir()} == {
        *("config.json", "meta.json", "lock", "checkpoints", "log.txt", "summary.json"),
        *("metrics.jsonl", "evaluations.jsonl"),
        *({"tensorboard"} if name.isascii() and importlib.util.find_spec("tensorboard") else ()),
    }
