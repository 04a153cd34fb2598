"""How a command ends: its exit code, one message, and no traceback, whatever has become of its streams."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest

from fastdqn import cli
from fastdqn.cli import main
from fastdqn.errors import RefusedError, RunFailedError, UserError
from tests.cli.fakes import FAKE_TRAINER, FakeTrainer, python, raising


@pytest.mark.parametrize(
    ("rank", "error", "said"),
    [
        ("1", UserError("this machine has 1 GPU"), "fastdqn train (rank 1): this machine has 1 GPU"),
        ("0", UserError("this machine has 1 GPU"), "fastdqn train: this machine has 1 GPU"),
        ("1", RefusedError("what rank 0 says"), ""),
        ("0", RefusedError("what all refuse"), "fastdqn train: what all refuse"),
    ],
)
def test_what_one_of_several_processes_finds_is_said_by_it_and_what_all_find_once(
    rank: str,
    error: UserError,
    said: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def run(words: list[str]) -> int:
        raise error

    monkeypatch.setenv("RANK", rank)
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setattr(cli, "_run", run)
    assert main(["train", "Pong-v5", "--progress", "none"]) == 2
    assert capsys.readouterr().err.strip() == said


@pytest.mark.parametrize(
    ("error", "code", "wanted"),
    [
        (RunFailedError("the loss is nan at frame 5"), 1, "the loss is nan"),
        (UserError("the checkpoint is of another network"), 2, "another network"),
        (
            OSError(28, "No space left on device", "/data/metrics.jsonl"),
            1,
            "/data/metrics.jsonl: No space left",
        ),
        (KeyboardInterrupt(), 130, "stopped at once"),
    ],
)
def test_a_run_that_fails_says_why(
    error: BaseException, code: int, wanted: str, trainer: FakeTrainer, capsys: pytest.CaptureFixture[str]
) -> None:
    trainer.during = raising(error)
    assert main(["train", "Pong-v5", "--progress", "none"]) == code
    out, err = capsys.readouterr()
    assert out == ""
    assert wanted in err


def test_a_bug_is_not_hidden(trainer: FakeTrainer) -> None:
    trainer.during = raising(ZeroDivisionError())
    with pytest.raises(ZeroDivisionError):
        main(["train", "Pong-v5", "--progress", "none"])


@pytest.mark.parametrize(
    ("number", "code"),
    [("ENAMETOOLONG", 2), ("ENOTDIR", 2), ("EACCES", 2), ("EROFS", 2), ("ENOSPC", 1), ("EIO", 1)],
)
def test_a_path_that_cannot_be_is_the_users_and_a_broken_disk_is_not(
    number: str, code: int, trainer: FakeTrainer, capsys: pytest.CaptureFixture[str]
) -> None:
    wrong = getattr(errno, number)
    trainer.during = raising(OSError(wrong, os.strerror(wrong), "/some/path"))
    assert main(["train", "Pong-v5", "--progress", "none"]) == code
    assert f"/some/path: {os.strerror(wrong)}" in capsys.readouterr().err


def test_a_broken_pipe_ends_quietly() -> None:
    read, write = os.pipe()
    os.close(read)
    done = python(
        "import sys; from fastdqn.cli import main; sys.exit(main(['presets']))",
        stdout=write,
        stderr=subprocess.PIPE,
    )
    os.close(write)
    assert done.stderr == ""
    assert done.returncode == 1


@pytest.mark.parametrize(("words", "code"), [([], 0), (["--seed", "-1"], 2)])
@pytest.mark.parametrize("progress", ["plain", pytest.param("json", marks=pytest.mark.long)])
def test_a_lost_reader_of_stderr_changes_no_exit_code(
    words: list[str], code: int, progress: str, tmp_path: Path
) -> None:
    """Fails when a training that is complete and saved ends with 1, or with Python's own 120."""
    read, write = os.pipe()
    os.close(read)
    words = ["train", "Pong-v5", "--run-dir", str(tmp_path / "r"), "--progress", progress, *words]
    done = subprocess.run(
        [sys.executable, "-c", FAKE_TRAINER + "sys.exit(main(sys.argv[1:]))", *words],
        stdout=subprocess.PIPE,
        stderr=write,
        cwd=Path(__file__).parents[2],
    )
    os.close(write)
    assert done.returncode == code
    assert bool(done.stdout) == (code == 0)


@pytest.mark.parametrize("stream", [1, 2])
def test_a_closed_stream_does_no_harm(stream: int) -> None:
    code = f"exec {sys.executable} -m fastdqn presets {stream}>&-"
    done = subprocess.run(["bash", "-c", code], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0
    assert done.stderr == ""


@pytest.mark.parametrize(("encoding", "wanted"), [("utf-8", b"r\xff"), ("ascii", b"r\\udcff")])
def test_a_name_that_is_no_text_is_written_all_the_same(encoding: str, wanted: bytes) -> None:
    code = (
        "import sys, types\n"
        "from fastdqn import cli\n"
        "sys.modules['fastdqn.cli.info'] = types.SimpleNamespace(main=lambda words: print(words[0]) or 0)\n"
        "sys.exit(cli.main(['info', 'r\\udcff']))"
    )
    environment = {**os.environ, "PYTHONIOENCODING": encoding}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, env=environment, timeout=60)
    assert (done.returncode, done.stderr) == (0, b"")
    assert done.stdout.strip() == wanted


@pytest.mark.parametrize("words", [["games"], ["presets", "--json"], ["--version"]])
def test_an_answer_that_the_disk_does_not_take_is_told_in_one_line(words: list[str]) -> None:
    """Fault: Python's own flush at exit complains once more, and the exit code is 120."""
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            [sys.executable, "-m", "fastdqn", *words],
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            timeout=60,
        )
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert "No space left on device" in line


def test_a_mistaken_flag_may_have_any_letters(capsys: pytest.CaptureFixture[str]) -> None:
    """Fault: taken for a pattern's replacement, where backslashes mean something."""
    assert main(["train", "Pong-v5", r"--x\d"]) == 2
    assert r"there is no flag --x\d" in capsys.readouterr().err
