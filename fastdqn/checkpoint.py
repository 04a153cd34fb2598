"""Checkpoints: tensors as safetensors, the rest as JSON, on disk whole or not at all.

A checkpoint is a folder `frame-N`: online.safetensors (the policy, enough to play), target.safetensors,
optimizer.safetensors and state.json. It is written under a temporary name, synced, and renamed.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from fastdqn.config import NetworkConfig
from fastdqn.errors import UserError

FORMAT = 1
PARTS = ("online", "target", "optimizer")
_PREFIX = "frame-"


@dataclass(frozen=True)
class Policy:
    """What it takes to play: the weights, and the network that they fit.

    Attributes:
        weights: Named tensors as the network's `state_dict` has them.
        network: Shape of the network.
        num_actions: Size of its output.
        source: The file.
    """

    weights: dict[str, torch.Tensor]
    network: NetworkConfig
    num_actions: int
    source: Path


def save(
    folder: Path,
    frames: int,
    tensors: Mapping[str, torch.Tensor],
    state: Mapping[str, Any],
    network: NetworkConfig,
    num_actions: int,
    keep: int,
) -> Path:
    """Write a checkpoint and drop those older than the newest `keep`.

    Args:
        folder: Where a run's checkpoints lie.
        frames: Emulator frames played; names the checkpoint.
        tensors: Named `online.*`, `target.*` and `optimizer.*`.
        state: Everything else, as JSON values.
        network: Shape of the network, kept beside the weights.
        num_actions: Size of its output.
        keep: Checkpoints that stay.

    Returns:
        The new checkpoint's folder.
    """
    final = folder / f"{_PREFIX}{frames:012d}"
    temporary = folder / f"tmp-{final.name}"
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    about = {
        "format": f"fastdqn-{FORMAT}",
        "width": repr(network.width),
        "dueling": str(int(network.dueling)),
        "centered": str(int(network.centered)),
        "num_actions": str(num_actions),
    }
    for part in PARTS:
        own = {
            name.removeprefix(part + "."): tensor.detach().cpu().contiguous()
            for name, tensor in tensors.items()
            if name.startswith(part + ".")
        }
        save_file(own, temporary / f"{part}.safetensors", metadata=about)
    (temporary / "state.json").write_text(json.dumps({"format": FORMAT, **state}, indent=1) + "\n")
    for path in (*temporary.iterdir(), temporary):
        _sync(path)
    if final.exists():  # saved twice at one frame: on resuming and stopping at once
        shutil.rmtree(final)
    temporary.rename(final)
    _sync(folder)
    for old in find(folder)[:-keep]:
        shutil.rmtree(old)
    return final


def find(folder: Path) -> list[Path]:
    """Return a run's checkpoints, oldest first."""
    found = [path for path in folder.glob(_PREFIX + "*") if path.name.removeprefix(_PREFIX).isdigit()]
    return sorted(found, key=lambda path: int(path.name.removeprefix(_PREFIX)))


def newest(folder: Path) -> Path:
    """Return a run's newest checkpoint.

    Raises:
        UserError: There is none.
    """
    found = find(folder)
    if not found:
        raise UserError(f"{folder} has no checkpoint: the run stopped before it saved one. Train it again.")
    return found[-1]


def load(path: Path) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """Read a checkpoint's folder: tensors named as in `save`, and the state.

    Raises:
        UserError: A file is missing, damaged or not ours.
    """
    tensors: dict[str, torch.Tensor] = {}
    for part in PARTS:
        own, _ = _read(path / f"{part}.safetensors")
        tensors.update({f"{part}.{name}": tensor for name, tensor in own.items()})
    file = path / "state.json"
    try:
        state = json.loads(file.read_text())
    except (OSError, ValueError) as error:
        raise UserError(f"{file} cannot be read: {error}") from None
    if not isinstance(state, dict) or "format" not in state:
        raise UserError(f"{file} was not written by fastdqn.")
    if state["format"] != FORMAT:
        raise UserError(f"{file} has format {state['format']}; this fastdqn reads format {FORMAT}.")
    return tensors, state


def load_policy(path: Path) -> Policy:
    """Read the weights to play with.

    Args:
        path: A run's folder (its newest checkpoint is taken), a checkpoint's folder, or an online.safetensors.

    Raises:
        UserError: There is nothing of the kind, or it is damaged.
    """
    if (path / "checkpoints").is_dir():
        path = newest(path / "checkpoints")
    if path.is_dir():
        path = path / "online.safetensors"
    weights, about = _read(path)
    network = NetworkConfig(
        width=float(about["width"]),
        dueling=about["dueling"] == "1",
        centered=about.get("centered") == "1",
    )
    return Policy(weights, network, int(about["num_actions"]), path)


def _read(path: Path) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
    if not path.is_file():
        raise UserError(
            f"{path} does not exist. Name a run's folder, a checkpoint's, or an online.safetensors."
        )
    try:
        with safe_open(path, framework="pt") as file:
            about = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - no mapping
    except (SafetensorError, OSError) as error:
        raise UserError(f"{path} is damaged or no safetensors file: {error}") from None
    if not about.get("format", "").startswith("fastdqn-"):
        raise UserError(f"{path} was not written by fastdqn: its header does not say what network it fits.")
    if about["format"] != f"fastdqn-{FORMAT}":
        raise UserError(f"{path} has format {about['format']}; this fastdqn reads fastdqn-{FORMAT}.")
    return tensors, about


def _sync(path: Path) -> None:
    """Have the disk hold a file or a folder's entries before going on."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
