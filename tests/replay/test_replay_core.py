"""What takes minutes of the core's own tests: hostile files and random operations under the sanitizers.

`make test-cpp` runs both programs for less; here they are built with the same presets in the same folders.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]


def built(program: str, preset: str) -> Path:
    """A program of tests/cpp/, built with a preset."""
    tools = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    cmake, ninja = (shutil.which(name, path=tools) for name in ("cmake", "ninja"))
    assert cmake is not None, "the extra `dev` brings cmake and ninja: run `make setup`"
    words = [cmake, "--preset", preset, "-G", "Ninja", f"-DCMAKE_MAKE_PROGRAM={ninja}"]
    for command in (words, [cmake, "--build", "--preset", preset, "--target", program]):
        subprocess.run(command, check=True, capture_output=True, cwd=REPOSITORY / "csrc")
    return REPOSITORY / "build" / preset / "tests" / program


def run(program: Path, *words: str, **environment: str) -> None:
    """Run it; what it prints is in the failure."""
    done = subprocess.run(
        [program, *words],
        env={**os.environ, **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout


@pytest.mark.slow
@pytest.mark.parametrize("storage", ["delta"], indirect=True)
def test_ten_minutes_of_hostile_files() -> None:
    """Fault: a file whose checksums fit that is taken though it is not sound, or changes what refuses it."""
    run(built("fuzz_snapshot", "asan"), "--seconds", "600", "--seed", "1")


@pytest.mark.slow
@pytest.mark.parametrize("preset", ["asan", "tsan"])
def test_a_million_random_operations(preset: str, storage: str) -> None:
    """Fault: any row, byte or count that differs from the oracle's, or what a sanitizer sees."""
    variables = {"FASTDQN_TEST_OPERATIONS": "1000000"}
    if storage == "delta":
        variables["FASTDQN_TEST_STORAGE"] = storage
    run(built("test_replay_random", preset), **variables)
