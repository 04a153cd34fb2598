"""What has to be installed, and what to say where it is not."""

from __future__ import annotations

import importlib.util

from fastdqn.errors import UserError

PACKAGES = ("torch", "envpool", "rich", "safetensors", "tyro")
"""The import names of the `train` extra."""

_EXTRAS = {
    "train": ("training", PACKAGES),
    "plot": ("plotting", ("matplotlib",)),
    "tensorboard": ("writing events", ("tensorboard",)),
    "wandb": ("tracking with Weights & Biases", ("wandb",)),
    "mlflow": ("tracking with MLflow", ("mlflow",)),
    "ray": ("sweeping on Ray", ("ray",)),
    "slurm": ("sweeping on Slurm", ("submitit",)),
    "video": ("recording", ("imageio_ffmpeg", "PIL")),
}
"""What each extra is for, and the import names of its packages."""

_PIP_NAMES = {"imageio_ffmpeg": "imageio-ffmpeg", "PIL": "pillow"}


def require(extra: str = "train") -> None:
    """Raise where a package of an extra is not installed, before anything is made on disk.

    Raises:
        UserError: It names all that are missing, and the line that installs them.
    """
    message = what_is_missing(extra)
    if message:
        raise UserError(message)


def what_is_missing(extra: str = "train") -> str | None:
    """Return which packages of an extra are not installed and the line that installs them; `None` if all are."""
    missing = _missing(extra)
    return _message(extra, missing) if missing else None


def explain(error: ImportError) -> str | None:
    """Return what to type about an import that failed, `None` where the failure is a bug of ours."""
    name = error.name or ""
    package = name.partition(".")[0]
    for extra, (_, packages) in _EXTRAS.items():
        if package not in packages:
            continue
        missing = _missing(extra)
        if package in missing:
            return _message(extra, missing)
        again = f"{_pip_line(extra)} --force-reinstall"
        return f"{package} is installed but cannot be loaded: {error}\n  Type: {again}"
    if name == "fastdqn._core" or "_core" in str(error):
        return (
            f"the C++ extension fastdqn._core cannot be loaded: {error}\n"
            "  In a checkout, type: make setup. Elsewhere: pip install --force-reinstall fastdqn"
        )
    return None


def _missing(extra: str) -> list[str]:
    return [package for package in _EXTRAS[extra][1] if importlib.util.find_spec(package) is None]


def _pip_line(extra: str) -> str:
    return f'pip install "fastdqn[{extra}]"'


def _message(extra: str, missing: list[str]) -> str:
    names = ", ".join(_PIP_NAMES.get(package, package) for package in missing)
    are = "is" if len(missing) == 1 else "are"
    purpose = _EXTRAS[extra][0]
    return f"{names} {are} not installed; {purpose} needs the extra {extra}.\n  Type: {_pip_line(extra)}"
