"""What an update launches on a GPU, by its generated code, is no more than the committed tables say."""

from __future__ import annotations

import copy
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from fastdqn.presets import PRESETS

ROOT = Path(__file__).parents[1]
SCRIPT = ROOT / "benchmarks/kernels.py"
TABLES = sorted((ROOT / "benchmarks/results").glob("kernels-*.json"))
CASES = [*PRESETS, "gpu"]
AT_MOST = {"nature": 40, "gpu": 48, "quick": 50}
"""Launches of an update that the tables may not go above, whoever commits them."""
NONE = ("fallbacks", "on_the_host", "synchronising", "against_capture", "timed")


def rises(committed: list[dict[str, Any]], now: list[dict[str, Any]]) -> list[str]:
    """What grew, or is new, or is gone."""
    kept = {(row["case"], row["what"]): row for row in committed}
    found = {(row["case"], row["what"]): row for row in now}
    wrong = [f"{key}: only in one of the tables" for key in sorted(kept.keys() ^ found.keys())]
    for key in sorted(kept.keys() & found.keys()):
        for name in ("launches", "bytes"):
            if found[key][name] > kept[key][name]:
                wrong.append(f"{key}: {name} {found[key][name]}, committed {kept[key][name]}")
        wrong += [f"{key}: {name} {found[key][name]}" for name in NONE if found[key][name]]
    return wrong


def test_there_are_tables_of_two_versions() -> None:
    assert [table.stem for table in TABLES] == ["kernels-2.11.0", "kernels-2.13.0"]


@pytest.mark.parametrize("table", TABLES, ids=lambda table: table.stem)
def test_the_tables_hold_what_was_promised(table: Path) -> None:
    data = json.loads(table.read_text())
    assert data["versions"]["torch"].startswith(table.stem.removeprefix("kernels-"))
    rows = data["results"]
    assert [(row["case"], row["what"]) for row in rows] == [(c, w) for c in CASES for w in ("update", "act")]
    updates = {row["case"]: row["launches"] for row in rows if row["what"] == "update"}
    assert {name: updates[name] for name in AT_MOST if updates[name] > AT_MOST[name]} == {}
    assert rises(rows, rows) == []


def test_what_rose_is_named() -> None:
    rows = json.loads(TABLES[0].read_text())["results"]
    worse = copy.deepcopy(rows)
    worse[0]["launches"] += 1
    worse[1]["bytes"] += 4
    worse[2]["fallbacks"] = ["aten.sort.default"]
    gone = worse.pop()
    told = rises(rows, worse)
    assert len(told) == 4
    assert any(str((gone["case"], gone["what"])) in line for line in told)


def test_a_cpu_build_is_told_what_is_missing() -> None:
    torch = pytest.importorskip("torch")
    if torch.version.cuda is not None:
        pytest.skip("this torch is a CUDA build: nothing is missing")
    done = subprocess.run([sys.executable, str(SCRIPT)], capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.count("\n") == 1
    assert "CPU build" in done.stderr


def run(table: Path, *words: str) -> subprocess.CompletedProcess[str]:
    """Run the script by the CUDA build of torch that a table names; skip where it is not there."""
    version = table.stem.removeprefix("kernels-")
    python = ROOT / f".offline/venv-{version}/bin/python"
    if not python.exists():
        pytest.skip(
            f"no CUDA build of torch {version} in .offline/; benchmarks/kernels.py says how to get it"
        )
    command = [str(python), str(SCRIPT), *words]
    return subprocess.run(command, capture_output=True, text=True, cwd=ROOT)


@pytest.mark.slow
@pytest.mark.parametrize("table", TABLES, ids=lambda table: table.stem)
def test_no_count_rises(table: Path, tmp_path: Path) -> None:
    """Compiles every preset for an H100 by the torch that the table names."""
    out = tmp_path / "kernels.json"
    done = run(table, "--out", str(out))
    assert done.returncode == 0, done.stderr
    committed, now = (json.loads(path.read_text()) for path in (table, out))
    assert now["versions"]["torch"] == committed["versions"]["torch"]
    assert rises(committed["results"], now["results"]) == []
    found = [row[name] for row in now["results"] for name in ("index_checks", "wide_powers") if row[name]]
    assert found == []


@pytest.mark.slow
@pytest.mark.parametrize("table", TABLES, ids=lambda table: table.stem)
def test_every_kernel_compiles_to_machine_code(table: Path, tmp_path: Path) -> None:
    """In every configuration that a GPU would try. Fault: one that wants more shared memory than there is."""
    out = tmp_path / "kernels.json"
    done = run(table, "--cubin", "--out", str(out))
    assert done.returncode == 0, done.stderr
    made = [row["machine_code"] for row in json.loads(out.read_text())["results"]]
    assert len(made) == 2 * len(CASES)
    assert all(one["configurations"] == one["compiled"] >= one["kernels"] > 0 for one in made)


def documented(case: str) -> str:
    """A case's line in docs/gpu.md: launches and megabytes of an update and an act, for each version."""
    cells = []
    for what in ("update", "act"):
        for table in TABLES:
            rows = json.loads(table.read_text())["results"]
            (row,) = (row for row in rows if (row["case"], row["what"]) == (case, what))
            kinds = row["by_kind"]
            parts = [kinds.get(kind, 0) for kind in ("triton", "convolution", "convolution backward", "mm")]
            assert sum(parts) == row["launches"]
            cells.append(f"{row['launches']} ({' + '.join(str(part) for part in parts)})")
            cells.append(f"{row['bytes'] / 1e6:.1f}")
    return f"| {case} | {' | '.join(cells)} |"


@pytest.mark.parametrize("case", CASES)
def test_the_documentation_has_the_tables(case: str) -> None:
    assert documented(case) in (ROOT / "docs/gpu.md").read_text().splitlines()
