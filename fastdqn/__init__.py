"""fastdqn: Deep Q-Networks on Atari, trained fast, and a replay buffer to embed.

Importing this package imports neither torch nor envpool; names below load when they are first used.
"""

from __future__ import annotations

import importlib
import sys

# Nothing that takes milliseconds: `typing` and `pathlib` would, and a Ctrl-C meanwhile finds no handler yet.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from fastdqn.api import (
        Policy,
        evaluate,
        export,
        load_policy,
        plot,
        record,
        register_head,
        register_rule,
        register_torso,
        report,
        resume_training,
        train,
    )
    from fastdqn.config import Config
    from fastdqn.presets import PRESETS
    from fastdqn.replay import ReplayBuffer

__all__ = [
    "PRESETS",
    "Config",
    "Policy",
    "ReplayBuffer",
    "__version__",
    "evaluate",
    "export",
    "get_include",
    "load_policy",
    "plot",
    "record",
    "register_head",
    "register_rule",
    "register_torso",
    "report",
    "resume_training",
    "train",
]

_HOMES = {
    **dict.fromkeys(
        (
            "Policy",
            "evaluate",
            "export",
            "load_policy",
            "plot",
            "record",
            "register_head",
            "register_rule",
            "register_torso",
            "report",
            "resume_training",
            "train",
        ),
        "fastdqn.api",
    ),
    "Config": "fastdqn.config",
    "PRESETS": "fastdqn.presets",
    "ReplayBuffer": "fastdqn.replay",
    "__version__": "fastdqn._core",
}


def _quiet_about_interrupts(kind: type[BaseException], error: BaseException, trace: Any) -> None:
    """Stand for `sys.excepthook` until the command line can answer a Ctrl-C itself."""
    if not issubclass(kind, KeyboardInterrupt):
        sys.__excepthook__(kind, error, trace)


if getattr(sys, "argv", [""])[0].endswith("/fastdqn"):  # our program, not one that imports us
    sys.excepthook = _quiet_about_interrupts


def get_include() -> str:
    """Return the folder of the C++ headers, for `-I`."""
    from pathlib import Path

    from fastdqn import _core

    # In an editable install the headers lie beside the extension, not beside this file.
    return str(Path(_core.__file__).parent / "include")


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'fastdqn' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)
