"""What may import what: the algorithm knows no engine, and neither knows files, games or consoles."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "fastdqn"
BELOW = {f"fastdqn.{name}" for name in ("config", "errors", "json_files", "limits", "openmp", "outputs")}
ALLOWED = {
    "algorithm": {"fastdqn.algorithm", *BELOW},
    "engine": {"fastdqn.engine", "fastdqn.algorithm", "fastdqn.replay", *BELOW},
    "games": {"fastdqn.games", *BELOW},
}
ALLOWED["runs"] = {"fastdqn.runs", *ALLOWED["engine"], *ALLOWED["games"]}
ALLOWED["views"] = {"fastdqn.views", *ALLOWED["runs"]}
"""What each folder may import: itself, and what lies below it."""


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


def strangers(folder: str, source: str) -> set[str]:
    ours = {name for name in imported(source) if name.partition(".")[0] == "fastdqn"}
    return {n for n in ours if not any(n == one or n.startswith(one + ".") for one in ALLOWED[folder])}


@pytest.mark.parametrize("folder", ALLOWED)
def test_a_folder_imports_only_what_lies_below_it(folder):
    files = sorted((PACKAGE / folder).glob("*.py"))
    assert len(files) > 3
    assert {file.name: strangers(folder, file.read_text()) for file in files} == {
        f.name: set() for f in files
    }


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
    assert strangers(folder, line)
