"""Every command and snippet of README.md, CONTRIBUTING.md, docs/ and replay.py's docstring runs as it is written.

They run in a folder that looks like a checkout, with runs where the pages name them, and with short budgets: the
command `fastdqn` found there adds `BUDGETS`, the long numbers of Python and C++ are cut (`SHORTER`), make prints
what it would do (`.ci/run` does it), pip resolves without installing. `NOT_RUN` names what is left out, and why.
"""

from __future__ import annotations

import os
import re
import runpy
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest

from fastdqn.cli.config_file import base_config

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted(ROOT.glob("docs/*.md"))]

TINY = (
    "--total-frames 400 --env.num-envs 2 --env.max-episode-frames 400 --replay.capacity 1000 "
    "--replay.warmup-steps 50 --network.width 0.0625 --pipeline.accelerate eager "
    "--evaluation.episodes 1 --evaluation.max-episode-frames 400"
)
BUDGETS = {  # added to a command, after its own flags
    "train": TINY,
    "train --resume": "--total-frames 800",
    "evaluate": "--episodes 1 --max-episode-frames 400",
    "record": "--max-seconds 6",
    "sweep": "--dry-run",
}
SHORTER = {"1_000_000": "10_000", "10_000_000": "800", "1'000'000": "1'000", '"cuda"': '"cpu"'}
NOT_RUN = {  # the beginning of a command: why it is not run here
    "python benchmarks/": "minutes and a quiet machine; tests/test_benchmarks.py runs them short",
    "python -m pytest -p tests.engine.cuda_standin": "minutes; tests/engine/test_cuda_standin.py runs it",
    "benchmarks/gpu.sh": "needs a GPU; tests/test_benchmarks.py rehearses it",
    "python -m pip install --no-index": "for a machine that reaches no registry, set up by hand",
    "python tests/golden/make.py": "ten minutes; tests/golden/test_golden.py runs it, a preset at a time",
    "python tests/pythons.py": "minutes and gigabytes for each Python; .ci/run runs it",
    "fastdqn train Pong-v5 --trackers": "needs packages that are not set up; tests/runs/test_trackers.py does it",
    "fastdqn report": "needs sweeps that have ended; tests/views/test_sweep_report.py runs it",
    "reliability.py": "minutes to an hour; tests/runs/test_reliability.py runs it short",
    "ray start": "starts servers; tests/runs/test_sweep_cluster.py has a cluster of two nodes",
    "tensorboard": "a server, of a package that the tests do not need",
    "find_package": "tests/embed/run builds it",
    "add_subdirectory": "tests/embed/run builds it",
}
NAMES = [f"fastdqn {name}" for name in ("train", "sweep", "evaluate", "record", "plot", "report", "export")]
LINES = runpy.run_path(str(ROOT / "docs/lines.py"))
FENCE = re.compile(r"^```(\w+)\n(.*?)^```", re.DOTALL | re.MULTILINE)
SPAN = re.compile(
    r"`((?:\.venv/bin/)?(?:fastdqn|make|python|pip|tensorboard|sha256sum|reliability\.py) [^`]+)`"
)


class Snippet(NamedTuple):
    """A piece of a page: where it is, its language and what it says."""

    place: str
    language: str
    text: str


def logical_lines(text: str) -> list[str]:
    lines = (re.sub(r"(^|\s+)#.*", "", line) for line in text.replace("\\\n", " ").splitlines())
    return [line for line in lines if line]


def snippets() -> list[Snippet]:
    found = []
    for page in PAGES:
        text = page.read_text()
        for fence in FENCE.finditer(text):
            line = text.count("\n", 0, fence.start()) + 1
            if fence[1] == "sh" and "cd " not in fence[2]:  # one command a line, unless one needs another
                found += [Snippet(f"{page.name}:{line}", "sh", one) for one in logical_lines(fence[2])]
            elif fence[1] != "eval":
                found.append(Snippet(f"{page.name}:{line}", fence[1], fence[2]))
        prose = FENCE.sub(lambda fence: "\n" * fence[0].count("\n"), text)
        for number, line_text in enumerate(prose.splitlines(), 1):
            typed = re.findall(r"^    (?:\$ )?((?:fastdqn|python|make) [^#]+)", line_text)
            found += [Snippet(f"{page.name}:{number}", "sh", one) for one in typed + SPAN.findall(line_text)]
    return found


def reason_not_run(snippet: Snippet) -> str | None:
    starts = [start for start in NOT_RUN if snippet.text.startswith(start)]
    return starts[0] if starts else None


def commands() -> list[str]:
    """Each command once; `fastdqn train` without a game is the command's name."""
    typed = [one.text for one in snippets() if one.language == "sh" and not reason_not_run(one)]
    once = dict.fromkeys(text.strip().removeprefix(".venv/bin/") for text in typed)
    return [command for command in once if command not in NAMES]


COMMANDS = commands()
FAST = ("fastdqn games", "fastdqn presets", "make ")


def test_the_pages_are_read_and_nothing_is_left_out_in_vain():
    found = snippets()
    assert {snippet.language for snippet in found} == {"sh", "python", "cmake", "cpp", "toml"}
    assert len(COMMANDS) > 30
    assert {reason_not_run(snippet) for snippet in found} - {None} == set(NOT_RUN)


FASTDQN = f"""#!/bin/bash
{{ declare -A budgets=({" ".join(f"['{name}']='{flags}'" for name, flags in BUDGETS.items())}); }}
name=$1
[[ "$1 $2" == "train --resume" ]] && name="train --resume"
exec {shlex.quote(sys.executable)} -m fastdqn "$@" ${{budgets[$name]}}
"""


def write_program(path: Path, text: str) -> None:
    path.write_text(text)
    path.chmod(0o755)


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with what a checkout has, and the budgeted `fastdqn`, as `.venv/bin/fastdqn` too."""
    folder = tmp_path_factory.mktemp("docs") / "checkout"
    (folder / ".venv/bin").mkdir(parents=True)
    for path in ROOT.iterdir():
        if path.name not in (".venv", ".git", "runs", "build", "dist"):
            (folder / path.name).symlink_to(path)
    write_program(folder / ".venv/bin/fastdqn", FASTDQN)
    write_program(folder / ".venv/bin/python", f'#!/bin/bash\nexec {shlex.quote(sys.executable)} "$@"\n')
    write_program(
        folder / ".venv/bin/pip",
        f'#!/bin/bash\nexec {shlex.quote(sys.executable)} -m pip "$1" --dry-run "${{@:2}}"\n',
    )
    return folder


def run(checkout: Path, command: str) -> subprocess.CompletedProcess[str]:
    env = os.environ | {
        "PATH": f"{checkout / '.venv/bin'}:{os.environ['PATH']}",
        "PYTHONPATH": str(ROOT),
        "MAKEFLAGS": "n",
        "GIT_CONFIG_COUNT": "1",
        "GIT_CONFIG_KEY_0": "safe.directory",
        "GIT_CONFIG_VALUE_0": "*",
    }
    command = command.replace("[RUN ...]", "").replace("ADDRESS", str(ROOT))
    folder = checkout / "clones" if command.startswith("git clone") else checkout
    folder.mkdir(exist_ok=True)
    return subprocess.run(
        ["bash", "-ec", command],
        cwd=folder,
        env=env,
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )


def check_command(checkout: Path, command: str) -> None:
    done = run(checkout, command)
    assert done.returncode == 0, f"{command}\n{done.stdout[-2000:]}\n{done.stderr[-3000:]}"


@pytest.mark.parametrize("command", [one for one in COMMANDS if one.startswith(FAST)])
def test_a_quick_command_runs(checkout, command):
    check_command(checkout, command)


@pytest.fixture(scope="module")
def runs(checkout: Path) -> Path:
    """The checkout with runs, evaluated once while they trained, where the pages name them."""
    pytest.importorskip("envpool")
    check_command(checkout, "fastdqn train Pong-v5 --run-dir RUN --evaluate-every-frames 200")
    for seed in (1, 2):
        shutil.copytree(checkout / "RUN", checkout / f"runs/Pong-v5-quick-seed{seed}")
    (checkout / "RUN_OR_FILE").symlink_to("RUN")
    return checkout


@pytest.mark.slow
@pytest.mark.parametrize("command", [one for one in COMMANDS if not one.startswith(FAST)])
def test_a_command_runs(runs, command):
    check_command(
        runs, command.replace("sha256sum", 'cd "$(ls -d RUN/checkpoints/frame-* | tail -1)" && sha256sum')
    )


STEPS = 210  # the last ends no game, so that a page can go on where its loop was ended


class EnoughError(Exception):
    """Ends a snippet's endless loop."""


class Envs:
    """Eight games of 40 steps, as Gymnasium's vector environments answer (autoreset in the next step)."""

    def __init__(self) -> None:
        self.rng, self.steps = np.random.default_rng(1), 0

    def frame(self) -> np.ndarray:
        return self.rng.integers(0, 256, (8, 1, 84, 84), np.uint8)

    def next_observation(self) -> np.ndarray:
        self.stack = np.concatenate([self.stack[:, 1:], self.frame()], axis=1)
        return self.stack

    def reset(self) -> tuple[np.ndarray, dict[str, Any]]:
        self.stack = np.repeat(self.frame(), 4, axis=1)
        return self.stack, {}

    def step(self, action: np.ndarray) -> tuple[Any, ...]:
        assert action.shape == (8,)
        self.steps += 1
        if self.steps > STEPS:
            raise EnoughError
        ended = np.arange(8) == self.steps % 40 - 20
        return self.next_observation(), np.ones(8, np.float32), ended, np.zeros(8, bool), {}


def names_of_snippets() -> dict[str, Any]:
    """What the pages leave to the reader: environments, a policy and a learner."""
    from fastdqn.replay import ReplayBuffer

    envs = Envs()
    observation, _ = envs.reset()
    return {
        "ReplayBuffer": ReplayBuffer,
        "np": np,
        "envs": envs,
        "act": lambda observation: np.zeros(len(observation), np.int64),
        "learn": lambda batch: np.ones(len(batch.row)),
        "observation": observation,
    }


def run_python(source: str, names: dict[str, Any]) -> None:
    for written, short in SHORTER.items():
        source = re.sub(rf"(?<![\w]){re.escape(written)}(?![\w])", short, source)
    try:
        exec(compile(source, "snippet", "exec"), names)
    except EnoughError:
        assert names["envs"].steps > STEPS


def python_of(page: str) -> list[str]:
    return [one.text for one in snippets() if one.language == "python" and one.place.startswith(page)]


def test_places_in_the_code_get_the_line_where_a_name_begins(tmp_path):
    (tmp_path / "a.hpp").write_text("class Ring;\n\nclass Ring {\n};\n")
    (tmp_path / "a.py").write_text('"""def f"""\nRING: int = 3\n\n\nclass Ring:\n    def f(self): ...\n')
    stale = (
        "[`Ring`, a.hpp:1](a.hpp#L1), [`RING`, a.py:9](a.py#L9), [`f`, a.py:1](a.py#L1) and [`f`](a.py#L1)"
    )
    true = "[`Ring`, a.hpp:3](a.hpp#L3), [`RING`, a.py:2](a.py#L2), [`f`, a.py:6](a.py#L6) and [`f`](a.py#L1)"
    assert LINES["renewed"](stale, tmp_path) == LINES["renewed"](true, tmp_path) == true


@pytest.mark.parametrize("source", ["", "def f(): ...\ndef f(): ...\n"])
def test_a_place_of_no_name_or_two_is_an_error(tmp_path, source):
    (tmp_path / "a.py").write_text(source)
    with pytest.raises(ValueError, match=r"f is defined [02] times in .*a\.py"):
        LINES["renewed"]("[`f`, a.py:1](a.py#L1)", tmp_path)


def test_every_algorithm_has_its_line_and_its_test():
    page = (ROOT / "docs/algorithms.md").read_text()
    sections = re.findall(r"^## (.+)$", page, re.MULTILINE)
    algorithms = sections[sections.index("Where each is") + 1 : sections.index("Beside other libraries")]
    rows = re.findall(r"^\| \[([^]]+)\]\(#[^)]+\) \|(.+)\|(.+)\|$", page, re.MULTILINE)
    assert [name for name, *_ in rows] == [name.replace("`", "") for name in algorithms]
    for _, code, test in rows:
        assert LINES["PLACE"].search(code)
        assert "/tests/" in test
        assert LINES["PLACE"].search(test)


def test_the_readmes_replay_runs():
    (source,) = python_of("README.md")
    names = names_of_snippets()
    run_python(source, names)
    assert len(names["batch"].row) == 32


def test_the_embedding_pages_python_runs():
    torch = pytest.importorskip("torch")
    names = names_of_snippets()
    for source in python_of("embedding.md"):
        names["observation"] = names["envs"].next_observation()
        names |= {"torch": torch, "device_observation": torch.from_numpy(names["observation"])}
        run_python(source, names)
    assert names["obs"].shape == (32, 4, 84, 84)


def test_the_docstring_of_the_replay_runs():
    import fastdqn.replay

    (source,) = re.findall(r"::\n\n((?:    .*\n|\n)+)", fastdqn.replay.__doc__ or "")
    names = names_of_snippets()
    run_python("\n".join(line[4:] for line in source.splitlines()), names)
    assert len(names["batch"].row) == 32


def test_the_configuration_file_of_runs_is_read(tmp_path):
    (source,) = [one.text for one in snippets() if one.language == "toml"]
    (tmp_path / "c.toml").write_text(source)
    config = base_config(str(tmp_path / "c.toml"), None)
    assert (config.game, config.preset, config.learner.batch_size) == ("Breakout-v5", "nature", 64)


@pytest.mark.slow
def test_the_python_of_runs_runs(tmp_path):
    pytest.importorskip("envpool")
    (source,) = python_of("runs.md")
    code = re.sub(r"(?<!\w)10_000_000", "800", source)
    wrapped = f"""
import numpy as np, fastdqn, fastdqn.presets
from dataclasses import replace as put
quick = fastdqn.PRESETS["quick"]
tiny = put(quick.config, total_frames=400, env=put(quick.config.env, num_envs=2, max_episode_frames=400),
    replay=put(quick.config.replay, capacity=1000, warmup_steps=50),
    network=put(quick.config.network, width=1 / 16), pipeline=put(quick.config.pipeline, accelerate="eager"))
fastdqn.PRESETS["quick"] = put(quick, config=tiny)
obs = np.zeros((3, 4, 84, 84), np.uint8)
{code}
assert policy(obs).shape == (3, 4)
"""
    env = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-c", wrapped], cwd=tmp_path, env=env, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert (tmp_path / "runs/breakout/summary.json").exists()


@pytest.mark.slow
def test_the_cpp_of_the_embedding_page_compiles_and_runs(tmp_path):
    (source,) = [one.text for one in snippets() if one.language == "cpp"]
    include, body = source.split("\n\n", 1)
    for written, short in SHORTER.items():
        body = body.replace(written, short)
    (tmp_path / "main.cpp").write_text(f"""{include}
#include <cstdint>
#include <vector>
int main() {{
  constexpr int kPixels = 32 * 4 * 84 * 84;
  std::vector<std::uint8_t> pixels(3 * kPixels);
  std::uint8_t *observation = pixels.data(), *obs = observation + kPixels, *next_obs = obs + kPixels;
  std::int64_t action[8] = {{}};
  float reward[8] = {{}}, rewards[32], discounts[32], weights[32];
  bool terminated[8] = {{}}, truncated[8] = {{}};
  std::int64_t actions[32], rows[32];
{body}
  return replay.size() == 8 ? 0 : 1;
}}
""")
    sources = [str(path) for path in sorted(ROOT.glob("csrc/src/*.cpp"))]
    compiler = ["g++", "-std=c++17", "-O0", "-pthread", f"-I{ROOT / 'csrc/include'}"]
    subprocess.run(
        [*compiler, str(tmp_path / "main.cpp"), *sources, "-o", str(tmp_path / "main")], check=True
    )
    subprocess.run([str(tmp_path / "main")], check=True)
