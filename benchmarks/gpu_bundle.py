"""What a GPU machine without a package registry lacks, in one folder, 16 MB or so.

    python benchmarks/gpu_bundle.py .offline --python 3.12

To be run where a registry can be reached; benchmarks/gpu.sh then finds `.offline/site`. The machine itself has
to have PyTorch, numpy, rich, safetensors, pytest, pybind11, scikit-build-core, cmake, ninja and a compiler.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

WHEELS = [
    "envpool==1.2.7",
    "envpool-assets",
    "gymnasium",
    "farama-notifications",
    "cloudpickle",
    "dm-env",
    "dm-tree",
    "optree",
    "tyro",
    "docstring-parser",
    "typeguard",
]
PLATFORMS = ("manylinux_2_28", "manylinux_2_27", "manylinux_2_24", "manylinux_2_17", "manylinux2014")


def wanted(name: str) -> bool:
    """Whether a file of a wheel is taken: of EnvPool, its core, the Atari suite and the games."""
    top, _, rest = name.partition("/")
    if top not in ("envpool", "envpool_assets"):
        return top != "envpool.libs"
    return "/" not in rest or rest.startswith(("atari/", "python/"))


def download(requirement: str, python: str, folder: Path) -> None:
    """Fetch one wheel, without what it requires."""
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:"]
    command += ["--python-version", python, "--implementation", "cp", "--dest", str(folder)]
    for platform in PLATFORMS:
        command += ["--platform", f"{platform}_x86_64"]
    subprocess.run([*command, requirement], check=True)


def unpack(wheels: Path, site: Path) -> None:
    """Unpack what is wanted of all wheels in a folder."""
    for wheel in sorted(wheels.glob("*.whl")):
        with zipfile.ZipFile(wheel) as archive:
            archive.extractall(site, [name for name in archive.namelist() if wanted(name)])
    # EnvPool's own imports every suite; here there is one.
    (site / "envpool" / "entry.py").write_text("import envpool.atari.registration  # noqa: F401\n")


def main() -> None:
    """Make the folder."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path)
    parser.add_argument("--python", default="3.12", help="that of the machine")
    options = parser.parse_args()
    site = options.folder / "site"
    shutil.rmtree(site, ignore_errors=True)
    site.mkdir(parents=True)
    with tempfile.TemporaryDirectory() as wheels:
        for requirement in WHEELS:
            download(requirement, options.python, Path(wheels))
        unpack(Path(wheels), site)
    print(f"{site}: {sum(f.stat().st_size for f in site.rglob('*') if f.is_file()) / 1e6:.0f} MB")


if __name__ == "__main__":
    main()
