"""What has to be installed, and what to say where it is not."""

from __future__ import annotations

PACKAGES = ("torch", "envpool", "rich", "safetensors", "tyro")
"""The import names of the `train` extra."""

PIP_LINE = 'pip install "fastdqn[train]"'


def explain(error: ImportError) -> str | None:
    """Return what to type about an import that failed, none where the failure is a bug of ours."""
    name = error.name or ""
    package = name.partition(".")[0]
    if package in PACKAGES:
        missing = isinstance(error, ModuleNotFoundError) and name == package
        state = "is not installed" if missing else f"cannot be loaded ({error})"
        return f"{package} {state}; training needs it.\n  Type: {PIP_LINE}"
    if name == "fastdqn._core" or "_core" in str(error):
        return (
            f"the C++ extension fastdqn._core cannot be loaded ({error}).\n"
            "  In a checkout, type: make setup. Elsewhere: pip install --force-reinstall fastdqn"
        )
    return None
