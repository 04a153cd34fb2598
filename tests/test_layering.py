"""What may import what, and that docs/architecture.md is true: it names every room, and nothing else."""

from __future__ import annotations

import ast
import importlib
import inspect
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "fastdqn"
BELOW = {
    f"fastdqn.{name}"
    for name in ("config", "cpu", "errors", "json_files", "limits", "openmp", "outputs", "torchrun")
}
ALLOWED = {
    "algorithm": {"fastdqn.algorithm", "fastdqn._core", *BELOW},
    "engine": {"fastdqn.engine", "fastdqn.algorithm", "fastdqn.replay", *BELOW},
    "games": {"fastdqn.games", *BELOW},
}
ALLOWED["runs"] = {"fastdqn.runs", *ALLOWED["engine"], *ALLOWED["games"]}
ALLOWED["views"] = {"fastdqn.views", *ALLOWED["runs"]}
"""What each folder may import: itself, and what lies below it."""
AT_THE_BOTTOM = {**dict.fromkeys(BELOW, BELOW), "fastdqn.presets": BELOW, "fastdqn.replay": {"fastdqn._core"}}
"""What the modules that all stands on may import. `api.py` stands above all folders but `cli`."""


def imported(source: str) -> set[str]:
    """The modules that a file imports, those inside functions included."""
    found = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            # `from fastdqn import x` may name a module.
            inner = (
                {f"{node.module}.{alias.name}" for alias in node.names} if node.module == "fastdqn" else set()
            )
            found |= inner or {node.module or ""}
    return found


def strangers(allowed: set[str], source: str) -> set[str]:
    ours = {name for name in imported(source) if name.partition(".")[0] == "fastdqn"}
    return {n for n in ours if not any(n == one or n.startswith(one + ".") for one in allowed)}


@pytest.mark.parametrize("folder", ALLOWED)
def test_a_folder_imports_only_what_lies_below_it(folder):
    files = sorted((PACKAGE / folder).glob("*.py"))
    assert len(files) > 3
    found = {file.name: strangers(ALLOWED[folder], file.read_text()) for file in files}
    assert found == {file.name: set() for file in files}


@pytest.mark.parametrize("module", sorted(AT_THE_BOTTOM))
def test_what_all_stands_on_imports_no_folder(module):
    source = (ROOT / f"{module.replace('.', '/')}.py").read_text()
    assert strangers(AT_THE_BOTTOM[module], source) == set()


def test_the_core_includes_neither_python_nor_what_embedders_do_not_have():
    includes = {
        f"{path.name}: {line}"
        for path in (ROOT / "csrc").rglob("*.?pp")
        if path.parent.name != "python"
        for line in re.findall(r'^#include [<"](.+)[>"]', path.read_text(), re.MULTILINE)
        if not re.fullmatch(r"[a-z_]+|(sys/)?[a-z]+\.h|fastdqn/(detail/)?[a-z_]+\.hpp|[a-z_]+\.inl", line)
    }
    assert includes == set()


@pytest.mark.parametrize(
    ("folder", "line"),
    [
        ("algorithm", "from fastdqn.engine.device import Backend"),
        ("algorithm", "from fastdqn.runs import checkpoint"),
        ("engine", "import fastdqn.runs.trainer"),
        ("engine", "def f():\n    from fastdqn.cli import main"),
        ("engine", "from fastdqn.games import envs"),
        ("games", "from fastdqn.algorithm.networks import STACK"),
        ("runs", "from fastdqn.views.chart import chart"),
        ("views", "from fastdqn import cli"),
    ],
)
def test_a_planted_import_is_seen(folder, line):
    assert strangers(ALLOWED[folder], line)


# The map --------------------------------------------------------------------------------------------------

MAP = (ROOT / "docs/architecture.md").read_text()
FENCE = re.compile(r"^```(\w*)\n(.*?)^```\n", re.DOTALL | re.MULTILINE)
SPAN = re.compile(r"`([^`\n]+)`")
PROSE = FENCE.sub("", MAP)
SEAMS = [fence[2] for fence in FENCE.finditer(MAP) if fence[2].startswith("# fastdqn/")]
CODE = "\n".join(
    path.read_text()
    for top in (PACKAGE, ROOT / "csrc")
    for path in sorted(top.rglob("*"))
    if path.suffix in (".py", ".hpp", ".cpp", ".txt")
)
FOLDERS = ["fastdqn/", *(f"fastdqn/{name}/" for name in (*ALLOWED, "cli"))]
DETAIL = "csrc/include/fastdqn/detail/"


def rooms() -> dict[str, list[str]]:
    """What stands in the first column of each section's table, by the folder in the section's title."""
    found: dict[str, list[str]] = {}
    for section in PROSE.split("\n### ")[1:]:
        rows = re.findall(r"^\| (`.*?) \|", section, re.MULTILINE)
        title = SPAN.findall(section.splitlines()[0])
        found[title[0] if title else "the rest"] = [name for row in rows for name in SPAN.findall(row)]
    return found


def folders_with(pattern: str, top: Path) -> list[str]:
    """The folders that have files of a kind, as the map writes them."""
    return sorted({f"{path.parent.relative_to(ROOT).as_posix()}/" for path in top.rglob(pattern)})


def exists(name: str) -> bool:
    """Whether there is such a file, folder, class, function, field or function of CMake."""
    word = name.partition("(")[0]
    if "/" in word or Path(word).suffix in (".py", ".hpp", ".cpp", ".md", ".toml"):
        tops = (PACKAGE, ROOT / "csrc", ROOT / "tests", ROOT / "docs")
        return (ROOT / word).exists() or any(any(top.rglob(word.rstrip("/"))) for top in tops)
    return re.search(rf"\b{re.escape(word.rpartition('.')[2])}\b", CODE) is not None


@pytest.mark.parametrize("folder", FOLDERS)
def test_every_module_is_a_room_of_the_map(folder):
    modules = [path.name for path in (ROOT / folder).glob("*.py") if not path.name.startswith("__")]
    assert sorted(rooms()[folder]) == sorted(modules)


def test_every_folder_of_the_package_is_on_the_map():
    assert folders_with("*.py", PACKAGE) == sorted(FOLDERS)


def test_every_folder_and_every_header_of_the_core_is_on_the_map():
    folders = [folder for folder in folders_with("*.*", ROOT / "csrc") if folder != "csrc/"]
    headers = {folder: sorted(path.name for path in (ROOT / folder).glob("*.hpp")) for folder in folders}
    assert sorted(rooms()["csrc/"]) == folders
    assert sorted(rooms()[DETAIL]) == headers[DETAIL]
    assert headers["csrc/include/fastdqn/"] == ["replay.hpp", "span.hpp", "version.hpp"]


def test_every_other_folder_is_on_the_map():
    named = {name.removeprefix("tests/") for name in SPAN.findall(PROSE)}
    for folder in folders_with("*.py", ROOT / "tests"):
        assert folder.removeprefix("tests/") in {"", *named}, folder
    assert {"benchmarks/", "docs/", "examples/", ".ci/", ".github/"} <= named


def test_the_map_names_nothing_that_does_not_exist():
    names = [name for name in SPAN.findall(PROSE) if " " not in name]
    assert len(names) > 150
    assert [name for name in names if not exists(name)] == []


@pytest.mark.parametrize("name", ["fastdqn/runs/nowhere.py", "nowhere.py", "NoSuchHead", "envs.no_such(x)"])
def test_what_does_not_exist_is_noticed(name):
    assert not exists(name)


@pytest.mark.parametrize("seam", SEAMS, ids=lambda seam: seam.split()[1])
def test_the_signatures_of_the_map_are_those_of_the_code(seam):
    pytest.importorskip("torch")
    module = importlib.import_module(seam.split()[1].removesuffix(".py").replace("/", "."))
    for node in ast.parse(seam).body:
        real = getattr(module, node.name)  # type: ignore[attr-defined]
        if not isinstance(node, ast.ClassDef):
            assert names_of(node) == list(inspect.signature(real).parameters), node
            continue
        for method in node.body:
            wanted = list(inspect.signature(getattr(real, method.name)).parameters)  # type: ignore[attr-defined]
            assert names_of(method) == wanted, method


def names_of(function: ast.stmt) -> list[str]:
    """The names of a function's parameters, in order."""
    assert isinstance(function, ast.FunctionDef)
    rest = function.args
    return [one.arg for one in (*rest.args, *([rest.vararg] if rest.vararg else ()), *rest.kwonlyargs)]


def test_the_map_shows_the_seams():
    shown = {seam.split()[1].rpartition("/")[2] for seam in SEAMS}
    assert shown >= {"heads.py", "torsos.py", "targets.py", "optimizers.py", "device.py", "feed.py"}
