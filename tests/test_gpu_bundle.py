"""The folder for a GPU machine that reaches no registry: what is taken of wheels, and that nothing is missing."""

from __future__ import annotations

import re
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
THE_MACHINE_HAS = {"torch", "numpy", "rich", "safetensors"}


@pytest.fixture
def gpu_bundle(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    import gpu_bundle

    return gpu_bundle


def test_of_envpool_the_core_the_atari_suite_and_its_games_are_taken(
    gpu_bundle, monkeypatch, tmp_path, capsys
):
    """The command on wheels made here. Fault: a suite of hundreds of megabytes, or a core that is left out."""
    files = {
        "envpool": [
            "envpool/__init__.py",
            "envpool/entry.py",
            "envpool/atari/registration.py",
            "envpool/atari/atari_envpool.so",
            "envpool/python/envpool.py",
            "envpool/mujoco/mujoco_envpool.so",
            "envpool.libs/libQt5.so",
        ],
        "envpool-assets": [
            "envpool_assets/__init__.py",
            "envpool_assets/atari/pong.bin",
            "envpool_assets/vizdoom/a.wad",
        ],
    }

    def download(requirement: str, python: str, folder: Path) -> None:
        assert python == "3.13"
        name = re.split("[=<>]", requirement)[0]
        with zipfile.ZipFile(folder / f"{name}.whl", "w") as wheel:
            for file in files.get(name, [f"{name}/__init__.py"]):
                wheel.writestr(file, "import envpool.mujoco" if file.endswith("entry.py") else "x")

    monkeypatch.setattr(gpu_bundle, "download", download)
    monkeypatch.setattr(sys, "argv", ["gpu_bundle.py", str(tmp_path), "--python", "3.13"])
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "old.py").write_text("of an earlier call")
    gpu_bundle.main()
    site = tmp_path / "site"
    found = {str(path.relative_to(site)) for path in site.rglob("*") if path.is_file()}
    left_out = {"envpool/mujoco/mujoco_envpool.so", "envpool.libs/libQt5.so", "envpool_assets/vizdoom/a.wad"}
    others = {
        f"{re.split('[=<>]', name)[0]}/__init__.py" for name in gpu_bundle.WHEELS if "envpool" not in name
    }
    assert found == {*files["envpool"], *files["envpool-assets"], *others} - left_out
    assert (site / "envpool" / "entry.py").read_text().startswith("import envpool.atari.registration")
    assert str(site) in capsys.readouterr().out


def test_all_that_training_requires_is_in_it_or_on_the_machine(gpu_bundle):
    """Fault: a new requirement of the project, which the machine then lacks."""
    import tomllib

    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    required = {
        re.split("[ =<>;]", line)[0]
        for line in (*project["dependencies"], *project["optional-dependencies"]["train"])
    }
    brought = {re.split("[ =<>;]", line)[0] for line in gpu_bundle.WHEELS}
    assert required - brought == THE_MACHINE_HAS
