"""The README's test command under other Pythons and PyTorches: the table of docs/pythons.md.

    python tests/pythons.py                        # each other Python that is found, with the pinned PyTorch
    python tests/pythons.py --all                  # the whole table
    python tests/pythons.py --only 3.12,2.13.0,1.2.7 --args "-n 0 tests/runs/test_resume.py"

Each environment is a clean clone with a .venv of its own, set up and tested by `make test`, and then removed; with
PyPI's CUDA build of PyTorch it takes 7 GB of disk. Then the resuming of runs is tried between versions: in each
environment a run is left alone, another is stopped, and those that were stopped in the environments before it are
resumed there. Prints two tables; exits with 1 if a test failed or an environment could not be set up.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import xml.etree.ElementTree as ElementTree
from dataclasses import dataclass, replace
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
MINORS = ("3.11", "3.12", "3.13", "3.14")
PINNED = "2.13.0"
KINDS = ("eager", "compile")


@dataclass(frozen=True)
class Wanted:
    """Versions of one environment; `newest` is whatever pip takes."""

    python: str
    torch: str
    envpool: str


ALL = (
    Wanted("3.11", PINNED, "1.2.5"),
    Wanted("3.11", "2.11.0", "1.2.5"),
    Wanted("3.12", PINNED, "1.2.5"),
    Wanted("3.12", PINNED, "1.2.7"),
    Wanted("3.13", PINNED, "1.2.7"),
    Wanted("3.13", "2.14.1", "1.2.7"),
    Wanted("3.13", "newest", "newest"),
)


def main() -> int:
    """Make the environments one by one; return the exit code."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--all", action="store_true", help="the whole table, instead of the Pythons that are found"
    )
    parser.add_argument(
        "--only", action="append", metavar="PYTHON,TORCH,ENVPOOL", help="one environment; repeatable"
    )
    parser.add_argument("--args", default="", help="what pytest is given; the default suite if nothing")
    parser.add_argument("--no-resume", action="store_true", help="do not try resuming between versions")
    parser.add_argument("--run", nargs=3, metavar=("WHAT", "KIND", "FOLDER"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.run:
        return run_in_here(*arguments.run)
    wanted = [Wanted(*words.split(",")) for words in arguments.only or []]
    wanted = wanted or (list(ALL) if arguments.all else others())
    if not wanted:
        print("tests/pythons.py: no other Python with headers is here, so none was tried")
        return 0
    with tempfile.TemporaryDirectory() as folder:
        return try_all(wanted, Path(folder), arguments.args, resume=not arguments.no_resume)


def others() -> list[Wanted]:
    """Return an environment for each other Python that is found, with the pinned PyTorch and EnvPool."""
    here = "{}.{}".format(*sys.version_info)
    found = [minor for minor in MINORS if minor != here and find_python(minor)]
    return [Wanted(minor, PINNED, "1.2.5" if minor == "3.11" else "1.2.7") for minor in found]


def find_python(minor: str) -> str | None:
    """Return a Python of this version that can build extensions: on PATH, or among pyenv's."""
    candidates = [shutil.which(f"python{minor}"), *pyenv(minor)]
    check = (
        "import sys, sysconfig, venv, pathlib as p; print(sys.executable);"
        "sys.exit(not p.Path(sysconfig.get_path('include'), 'Python.h').exists())"
    )
    for candidate in filter(None, candidates):
        answer = subprocess.run([candidate, "-c", check], capture_output=True, text=True)
        if answer.returncode == 0:  # pyenv's shims are there for every version and work for some
            return answer.stdout.strip()
    return None


def pyenv(minor: str) -> list[str]:
    """Return pyenv's Pythons of this version, newest first."""
    if not shutil.which("pyenv"):
        return []
    root = subprocess.run(["pyenv", "root"], capture_output=True, text=True, check=True).stdout.strip()
    found = Path(root, "versions").glob(f"{minor}.[0-9]*")
    numbered = [path for path in found if path.name.rpartition(".")[2].isdigit()]
    numbered.sort(key=lambda path: int(path.name.rpartition(".")[2]), reverse=True)
    return [str(path / "bin" / "python") for path in numbered]


def try_all(wanted: list[Wanted], folder: Path, args: str, *, resume: bool) -> int:
    """Try one environment after the other, and print what came of it."""
    suites = [
        "| Python | PyTorch | EnvPool | NumPy | passed | failed | skipped |",
        "|---|---|---|---|---|---|---|",
    ]
    runs: list[Runs] = []
    failed = False
    for number, one in enumerate(wanted):
        print(f"== Python {one.python}, PyTorch {one.torch}, EnvPool {one.envpool}", flush=True)
        python = find_python(one.python)
        if python is None:
            suites.append(f"| {one.python} | {one.torch} | {one.envpool} | | not here | | |")
            continue
        clone = folder / "fastdqn"
        try:
            row, good = suite(one, python, clone, folder / f"junit-{number}.xml", args)
            suites.append(row)
            failed |= not good
            if resume:
                runs.append(runs_of(clone, folder / f"runs-{number}", runs))
        except subprocess.CalledProcessError as error:
            print(f"{' '.join(error.cmd)}: exit code {error.returncode}", flush=True)
            suites.append(f"| {one.python} | {one.torch} | {one.envpool} | | not set up | | |")
            failed = True
        shutil.rmtree(clone, ignore_errors=True)
    resumes, good = resume_table(runs)
    print("\n".join(["", *suites, "", *resumes]))
    return int(failed or not good)


def suite(one: Wanted, python: str, clone: Path, junit: Path, args: str) -> tuple[str, bool]:
    """Clone, set up and run the tests; return a row of the table, and whether all passed.

    Raises:
        subprocess.CalledProcessError: It cannot be set up.
    """
    subprocess.run(["git", "clone", "--quiet", str(ROOT), str(clone)], check=True)
    (clone / "constraints.txt").write_text("\n".join(constraints(one)) + "\n")
    environment = {
        name: value for name, value in os.environ.items() if name not in ("MAKEFLAGS", "MAKELEVEL")
    }
    make = ["make", "-C", str(clone), f"PYTHON={python}"]
    subprocess.run([*make, "setup"], check=True, env=environment)
    subprocess.run([*make, "test", f"ARGS=--junitxml={junit} {args}"], env=environment)
    counts = ElementTree.parse(junit).getroot().find("testsuite").attrib
    failures, skipped = int(counts["failures"]) + int(counts["errors"]), int(counts["skipped"])
    passed = int(counts["tests"]) - failures - skipped
    here = versions_of(clone)
    names = " | ".join(here[name] for name in ("python", "torch", "envpool", "numpy"))
    return f"| {names} | {passed} | {failures} | {skipped} |", failures == 0 and passed > 0


def constraints(one: Wanted) -> list[str]:
    """Return the pins: === takes what PyPI calls by that name, never a build with a suffix that lies on disk."""
    pins = {"torch": f"==={one.torch}", "envpool": f"=={one.envpool}"}
    return [name + pin for name, pin in pins.items() if "newest" not in pin]


def versions_of(clone: Path) -> dict[str, str]:
    """Return the versions in a clone's environment."""
    code = "import json; from fastdqn.runs.folder import versions; print(json.dumps(dict(versions())))"
    python = clone / ".venv" / "bin" / "python"
    return json.loads(subprocess.run([python, "-c", code], capture_output=True, text=True, check=True).stdout)


# Resuming between versions


@dataclass(frozen=True)
class Runs:
    """What one environment left.

    Attributes:
        versions: By package.
        folder: Runs that were stopped, one of each kind.
        whole: What the runs that were left alone came to, by kind.
        resumed: By environment's folder and kind, what a run that was stopped there came to here.
    """

    versions: dict[str, str]
    folder: Path
    whole: dict[str, str]
    resumed: dict[tuple[Path, str], str]

    @property
    def name(self) -> str:
        """The versions that matter, for people."""
        return "Python {python}, PyTorch {torch}, EnvPool {envpool}".format(**self.versions)


def runs_of(clone: Path, folder: Path, before: list[Runs]) -> Runs:
    """Run in a clone's environment: one left alone, one stopped, and on from those of the environments before."""
    done = Runs(versions_of(clone), folder, {}, {})
    for kind in KINDS:
        done.whole[kind] = answer_of(clone, "whole", kind, folder / f"{kind}-whole")
        answer_of(clone, "stop", kind, folder / f"{kind}-stopped")
        for earlier in [*before, done]:
            copy = folder / f"{kind}-on"
            shutil.copytree(earlier.folder / f"{kind}-stopped", copy)
            done.resumed[earlier.folder, kind] = answer_of(clone, "resume", kind, copy)
            shutil.rmtree(copy)
    return done


def answer_of(clone: Path, what: str, kind: str, folder: Path) -> str:
    """Run `run_in_here` in a clone's environment and return what it printed last."""
    command = [
        clone / ".venv" / "bin" / "python",
        clone / "tests" / "pythons.py",
        "--run",
        what,
        kind,
        folder,
    ]
    return subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout.splitlines()[-1]


def run_in_here(what: str, kind: str, folder: str) -> int:
    """Begin a run and leave it alone, or stop it, or resume one; print a digest of all that it left."""
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    sys.path.insert(0, str(ROOT))  # for a script, where it lies is first
    from fastdqn.runs.folder import RunFolder
    from fastdqn.runs.trainer import train
    from tests.runs.test_resume import digest, tiny

    path = Path(folder)
    if what == "resume":
        train(RunFolder.open(path), resume=True, inexact=True)
    else:
        config = tiny()
        config = replace(config, pipeline=replace(config.pipeline, accelerate=kind))
        passes = iter(range(10**9))
        train(
            RunFolder.create(path, config),
            stop_requested=lambda: what == "stop" and next(passes) >= 300,
        )
    print(digest(RunFolder.open(path)))
    return 0


def resume_table(runs: list[Runs]) -> tuple[list[str], bool]:
    """Return what became of each stopped run, and whether all that `--resume` lets go on were equal."""
    lines = ["| stopped with | resumed with | eager | compiled |", "|---|---|---|---|"]
    good = True
    for number, there in enumerate(runs):
        for here in runs[number:]:
            same = [here.resumed[there.folder, kind] == there.whole[kind] for kind in KINDS]
            became = " | ".join("equal" if one else "differs" for one in same)
            lines.append(f"| {there.name} | {here.name} | {became} |")
            allowed = all(
                there.versions[name] == here.versions[name] for name in ("fastdqn", "torch", "envpool")
            )
            good &= all(same) or not allowed
    return lines if runs else [], good


if __name__ == "__main__":
    sys.exit(main())
