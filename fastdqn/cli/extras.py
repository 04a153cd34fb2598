"""What has to be installed, and what to say where it is not."""

from __future__ import annotations

import importlib.util

from fastdqn.errors import UserError

PACKAGES = ("torch", "envpool", "rich", "safetensors", "tyro")
"""The import names of the `train` extra."""

PIP_LINE = 'pip install "fastdqn[train]"'


def require() -> None:
    """Raise where a package of the `train` extra is not installed, before anything is made on disk.

    Raises:
        UserError: It names all that are missing, and the line that installs them.
    """
    missing = _missing()
    if missing:
        raise UserError(_message(missing))


def explain(error: ImportError) -> str | None:
    """Return what to type about an import that failed, none where the failure is a bug of ours."""
    name = error.name or ""
    package = name.partition(".")[0]
    if package in PACKAGES:
        missing = _missing()
        if package in missing:
            return _message(missing)
        return f"{package} is installed but cannot be loaded: {error}\n  Type: {PIP_LINE} --force-reinstall"
    if name == "fastdqn._core" or "_core" in str(error):
        return (
            f"the C++ extension fastdqn._core cannot be loaded: {error}\n"
            "  In a checkout, type: make setup. Elsewhere: pip install --force-reinstall fastdqn"
        )
    return None


def _missing() -> list[str]:
    return [package for package in PACKAGES if importlib.util.find_spec(package) is None]


def _message(missing: list[str]) -> str:
    names, are = ", ".join(missing), "is" if len(missing) == 1 else "are"
    return f"{names} {are} not installed; training needs the `train` extra.\n  Type: {PIP_LINE}"
