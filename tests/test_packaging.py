"""What a release shows: versions that agree, links that lead somewhere, and an address that is written once."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from contextlib import suppress
from importlib import metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement

import fastdqn

ROOT = Path(__file__).parents[1]
PAGES = sorted(
    [*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), ROOT / "benchmarks/results/README.md"],
    key=lambda page: page.name,
)
LINK = re.compile(r"\[[^][]*\]\(([^)\s]+)\)")


def links(markdown: str) -> list[str]:
    prose = re.sub(r"^```.*?^```", "", markdown, flags=re.DOTALL | re.MULTILINE)
    return LINK.findall(prose)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_each_relative_link_leads_to_a_file(page):
    targets = [link.partition("#")[0] for link in links(page.read_text()) if "://" not in link]
    assert [target for target in targets if not (page.parent / target).exists()] == []


def test_the_version_is_the_same_everywhere():
    version = fastdqn.__version__
    assert f"\nversion: {version}\n" in (ROOT / "CITATION.cff").read_text()
    changelog = (ROOT / "CHANGELOG.md").read_text()
    date = re.search(rf"^## {re.escape(version)} - (\d{{4}}-\d{{2}}-\d{{2}})$", changelog, re.MULTILINE)
    assert date, f"CHANGELOG.md has no section for {version} with its date"
    assert f"\ndate-released: {date[1]}\n" in (ROOT / "CITATION.cff").read_text()
    assert changelog.index("\n## Unreleased\n") < date.start()


def test_a_release_names_the_repository_that_it_was_made_in(tmp_path):
    (tmp_path / ".ci").mkdir()
    for name in ("README.md", "pyproject.toml", "CITATION.cff", ".ci/set_address.py"):
        shutil.copy(ROOT / name, tmp_path / name)
    command = [sys.executable, ".ci/set_address.py", "https://forge.example/some/fork/", "v9.9"]
    subprocess.run(command, cwd=tmp_path, check=True)

    address = "https://forge.example/some/fork"
    before, after = ((root / "README.md").read_text() for root in (ROOT, tmp_path))
    assert f"git clone {address} fastdqn" in after
    for old, new in zip(links(before), links(after), strict=True):
        assert new == old or new in (f"{address}/raw/v9.9/{old}", f"{address}/blob/v9.9/{old}")
        assert "://" in new
    assert f"![The dashboard while Pong is being learned]({address}/raw/v9.9/docs/dashboard.svg)" in after
    assert f"[docs/replay.md]({address}/blob/v9.9/docs/replay.md)" in after

    old, new = (tomllib.loads((root / "pyproject.toml").read_text()) for root in (ROOT, tmp_path))
    urls = new["project"].pop("urls")
    assert set(urls) == {"Source", "Documentation", "Changelog", "Issues"}
    assert all(url.startswith(address) for url in urls.values())
    assert new == old
    assert (tmp_path / "CITATION.cff").read_text().endswith(f"\nrepository-code: {address}\n")

    again = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert again.returncode == 1
    assert "has an address already" in again.stderr


def brought(extra: str) -> set[str]:
    """Return all packages that an extra brings along, by the metadata of those that are installed here."""
    seen: set[tuple[str, str]] = set()
    left = [("fastdqn", extra)]
    while left:
        package, extra = left.pop()
        if (package, extra) in seen:
            continue
        seen.add((package, extra))
        with suppress(metadata.PackageNotFoundError):
            wanted = map(Requirement, metadata.requires(package) or ())
            needed = [one for one in wanted if not one.marker or one.marker.evaluate({"extra": extra})]
            left += [(one.name.lower(), more) for one in needed for more in one.extras or [""]]
    return {package for package, _ in seen}


def test_training_installs_neither_ray_nor_submitit():
    found = brought("train")
    assert {"torch", "envpool", "numpy", "jinja2"} <= found  # the last one by way of torch
    assert not {"ray", "submitit"} & found
    assert "ray" in brought("ray")
    assert "submitit" in brought("slurm")
    assert "torch" not in brought("ray") | brought("slurm")


FOUND = re.search(r"^torch==([^=\s]+)$", (ROOT / "constraints.txt").read_text(), re.MULTILINE)
PIN = FOUND and FOUND[1]
pinned = pytest.mark.skipif(PIN is None, reason="constraints.txt is not ours: tests/pythons.py wrote another")


def write_wheel(folder: Path, version: str) -> None:
    """Write a wheel of a torch with nothing in it."""
    about = f"torch-{version}.dist-info"
    with zipfile.ZipFile(folder / f"torch-{version}-py3-none-any.whl", "w") as wheel:
        wheel.writestr(f"{about}/METADATA", f"Metadata-Version: 2.1\nName: torch\nVersion: {version}\n")
        wheel.writestr(f"{about}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        wheel.writestr(f"{about}/RECORD", "")


@pinned
@pytest.mark.parametrize(
    ("there", "installs"),
    [
        (f"{PIN}+cpu", []),
        (f"{PIN}+cu130", []),
        ("2.11.0+cpu", [PIN]),
        ("99.0+cpu", [PIN]),
    ],
)
def test_setting_up_keeps_whichever_build_of_the_pinned_pytorch_is_there(there, installs, tmp_path):
    """By pip itself, with the Makefile's options, in front of an index that has the pinned version and a newer."""
    index, site = tmp_path / "index", tmp_path / "site"
    for folder in (index, site):
        folder.mkdir()
    for version in (PIN, "99.1"):
        write_wheel(index, version)
    write_wheel(site, there)
    with zipfile.ZipFile(site / f"torch-{there}-py3-none-any.whl") as wheel:
        wheel.extractall(site)

    options = re.search(r"-m (pip install .*) -e '\.\[\$\(EXTRAS\)\]'", (ROOT / "Makefile").read_text())[1]
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    (wanted,) = (requirement for requirement in extras["train"] if requirement.startswith("torch>"))
    command = [sys.executable, "-m", *options.split(), "--dry-run", "--report", str(tmp_path / "report.json")]
    command += ["--no-index", "--find-links", str(index), wanted]
    kept = {name: value for name, value in os.environ.items() if not name.startswith("PIP_")}
    own = {"PYTHONPATH": str(site), "PIP_CONFIG_FILE": os.devnull}
    subprocess.run(command, cwd=ROOT, env={**kept, **own}, check=True)
    report = json.loads((tmp_path / "report.json").read_text())
    assert [one["metadata"]["version"] for one in report["install"]] == installs


@pinned
def test_the_page_names_the_pinned_pytorch():
    page = (ROOT / "docs/pythons.md").read_text()
    assert f"`{PIN}+cpu` is a {PIN}" in page
    assert f"for torch=={PIN} and CPU" in page
