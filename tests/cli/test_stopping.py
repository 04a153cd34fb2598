"""Signals: the first stops a run and saves it, the second stops at once; none is answered with a traceback."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from fastdqn.cli import main
from fastdqn.cli.stopping import StopRequest
from tests.cli.fakes import FAKE_TRAINER, FakeTrainer, raising


@pytest.mark.parametrize(
    ("number", "code"),
    [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129), (signal.SIGUSR2, 140)],
)
def test_the_first_signal_stops_and_names_the_resume_command(
    number: signal.Signals, code: int, trainer: FakeTrainer, capsys: pytest.CaptureFixture[str]
) -> None:
    before = signal.getsignal(number)
    trainer.during = lambda _: os.kill(os.getpid(), number)
    assert main(["train", "Pong-v5", "--run-dir", "r", "--progress", "none"]) == code
    out, err = capsys.readouterr()
    assert json.loads(out)["interrupted"] is True
    assert "fastdqn train --resume r" in err
    assert signal.getsignal(number) == before


def test_the_second_signal_stops_at_once(trainer: FakeTrainer, capsys: pytest.CaptureFixture[str]) -> None:
    def twice(_: Any) -> None:
        os.kill(os.getpid(), signal.SIGTERM)
        os.kill(os.getpid(), signal.SIGTERM)
        raise AssertionError("still running")

    trainer.during = twice
    assert main(["train", "Pong-v5", "--progress", "none"]) == 143
    out, err = capsys.readouterr()
    assert out == ""
    assert "stopped at once" in err


def test_an_ignored_signal_stays_ignored() -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with StopRequest(lambda line: None) as stop:
            os.kill(os.getpid(), signal.SIGHUP)
            assert not stop.requested()
        assert signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)


def test_the_stop_is_told_once() -> None:
    said: list[str] = []
    with StopRequest(said.append) as stop:
        assert not stop.requested()
        os.kill(os.getpid(), signal.SIGINT)
        assert stop.requested()
        assert stop.requested()
    assert len(said) == 1
    assert "SIGINT" in said[0]


def test_the_end_of_a_pipe_is_a_request_and_a_signal_after_it_the_first_one() -> None:
    said: list[str] = []
    reader, writer = os.pipe()
    with StopRequest(said.append, reader) as stop:
        assert not stop.requested()
        os.write(writer, b"ignored")
        assert not stop.requested()
        os.close(writer)
        assert stop.requested()
        assert stop.exit_code == 129
        os.kill(os.getpid(), signal.SIGINT)  # Ctrl-C reaches the whole group; it is no second request
        assert stop.requested()
        assert stop.exit_code == 130
    os.close(reader)
    assert said == ["stdin has ended: saving, then stopping"]


def test_a_closed_stdin_has_ended() -> None:
    reader, writer = os.pipe()
    os.close(reader)
    os.close(writer)
    with StopRequest(lambda line: None, reader) as stop:
        assert stop.requested()


def test_training_stops_when_stdin_ends(
    trainer: FakeTrainer, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[int | None] = []

    class Watching(StopRequest):
        def __init__(self, say: Any, watched: int | None = None) -> None:
            asked.append(watched)
            super().__init__(say, watched)

    monkeypatch.setattr("fastdqn.cli.train.StopRequest", Watching)
    for flags in ([], ["--stop-on-eof"]):
        main(["train", "Pong-v5", "--run-dir", f"r{len(flags)}", "--progress", "none", *flags])
    assert asked == [None, 0]


_SLOW_TRAINER = (
    FAKE_TRAINER
    + """
def during(call):
    print("running", file=sys.stderr, flush=True)
    for _ in range(2000):
        time.sleep(0.01)
        if call["stop_requested"]():
            return
fake.during = during
sys.exit(main(["train", "Pong-v5", "--run-dir", sys.argv[1]]))
"""
)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_from_outside_ends_a_real_process(number: signal.Signals, code: int, tmp_path: Path) -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", _SLOW_TRAINER, str(tmp_path / "r")],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=Path(__file__).parents[2],
    )
    assert process.stderr
    while "running" not in process.stderr.readline():
        assert process.poll() is None
    process.send_signal(number)
    out, err = process.communicate(timeout=30)
    assert process.returncode == code
    assert json.loads(out)["interrupted"] is True
    assert f"fastdqn train --resume {tmp_path / 'r'}" in err
    assert "Traceback" not in err


_INTERRUPTED_IMPORT = """
import os, signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)
class Finder:
    def find_spec(self, name, path=None, target=None):
        if name == sys.argv[1]:
            sys.meta_path.remove(self)
            os.kill(os.getpid(), signal.SIGINT)
sys.meta_path.insert(0, Finder())
from fastdqn.cli import main
code = main(["games"])
print("done", file=sys.stderr)
sys.exit(code)
"""


@pytest.mark.parametrize("module", ["fastdqn.errors", "fastdqn.openmp", "fastdqn.cli.games", "tyro"])
def test_an_interrupt_while_something_is_imported_ends_with_130_and_without_a_traceback(module: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", _INTERRUPTED_IMPORT, module], capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 130, done.stderr
    assert "Traceback" not in done.stderr
    assert len(done.stderr.splitlines()) <= 2


@pytest.mark.long
@pytest.mark.parametrize("file", [1, 2], ids=["update", "acting"])
def test_ctrl_c_while_a_run_compiles_saves_it(file: int, tmp_path: Path) -> None:
    """A terminal sends it to the compiler, too, which has to go on."""
    compiler, seen = tmp_path / "cxx", tmp_path / "seen"
    compiler.write_text(f"""#!/bin/sh
case "$*" in *.main.cpp*)
  echo >> {seen}
  [ $(wc -l < {seen}) != {file} ] || kill -INT 0 ;;
esac
exec g++ "$@"
""")
    compiler.chmod(0o755)
    flags = "--network.width 0.125 --replay.warmup-steps 500 --pipeline.accelerate compile --run-dir r"
    done = subprocess.run(
        [sys.executable, "-m", "fastdqn", "train", "Pong-v5", *flags.split(), "--progress", "plain"],
        env={**os.environ, "CXX": str(compiler), "TORCHINDUCTOR_CACHE_DIR": str(tmp_path / "cache")},
        capture_output=True,
        text=True,
        cwd=tmp_path,
        timeout=600,
        start_new_session=True,
    )
    assert len(seen.read_text()) == file
    assert done.returncode == 130, done.stderr
    assert "stopped and saved" in done.stderr
    assert list((tmp_path / "r" / "checkpoints").glob("frame-*"))


def test_an_import_error_made_of_an_interrupt_is_one(
    trainer: FakeTrainer, capsys: pytest.CaptureFixture[str]
) -> None:
    error = ImportError("numpy's C-extensions failed", name="torch")
    error.__cause__ = KeyboardInterrupt()
    trainer.during = raising(error)
    assert main(["train", "Pong-v5", "--progress", "none"]) == 130
    assert "pip install" not in capsys.readouterr().err


def test_an_interrupt_while_the_command_line_is_looked_for_is_quiet(tmp_path: Path) -> None:
    """The script that pip makes imports it outside of any `try`."""
    script = tmp_path / "fastdqn"
    script.write_text(_INTERRUPTED_IMPORT)
    done = subprocess.run(
        [sys.executable, str(script), "fastdqn.cli"], capture_output=True, text=True, timeout=300
    )
    assert done.returncode == -signal.SIGINT  # a shell calls it 130
    assert done.stderr == ""
