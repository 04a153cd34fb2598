"""Checkpoints: tensors as safetensors, the rest as JSON.

A checkpoint is a folder `frame-N`: online.safetensors (the policy, enough to play), target.safetensors,
optimizer.safetensors, loop.safetensors, state.json and, in the newest one, replay.safetensors. Where a run keeps
an average of its weights, average.safetensors has that one and is the policy. The best policy by evaluation is a
folder `best-N` with online.safetensors and evaluation.json. Either is a `checkpoint_folder`.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors import torch as safetensors

from fastdqn.config import Config, NetworkConfig
from fastdqn.errors import UserError
from fastdqn.json_files import checked, parse_object, read_object, shown
from fastdqn.runs import checkpoint_folder
from fastdqn.runs.checkpoint_folder import ANOTHER, AVERAGE, BEST, CHECKPOINT, PARTS, REPLAY, SUMS

FORMAT = 4
POLICY_FORMAT = "fastdqn-2"
ONLINE_FILE, AVERAGE_FILE = "online.safetensors", f"{AVERAGE}.safetensors"
"""The policy; where there is an average, that one."""
LARGEST_HEADER_BYTES = 2**20
"""Of a safetensors file; ours are a few kilobytes."""
_MOST_ACTIONS = 18  # the whole joystick


@dataclass(frozen=True)
class SavedPolicy:
    """What it takes to play: the weights, and the network that they fit.

    Attributes:
        weights: Named tensors as the network's `state_dict` has them.
        network: Shape of the network.
        num_actions: Size of its output.
        source: The file, or what else it came from.
        frames: Emulator frames that it was trained for, `None` where the file does not say.
    """

    weights: dict[str, torch.Tensor]
    network: NetworkConfig
    num_actions: int
    source: Path
    frames: int | None = None

    def online(self) -> dict[str, torch.Tensor]:
        """Return the weights under the names that they have in a learner's state, `online.<name>`."""
        return {f"online.{name}": tensor for name, tensor in self.weights.items()}


@dataclass(frozen=True)
class Checkpoint:
    """What `load` read.

    Attributes:
        path: Its folder.
        tensors: Named as in `save`.
        state: Everything else, as JSON values.
        replay: The replay's file, `None` if the checkpoint has none.
    """

    path: Path
    tensors: dict[str, torch.Tensor]
    state: dict[str, Any]
    replay: Path | None


def save(
    folder: Path,
    frames: int,
    tensors: Mapping[str, torch.Tensor],
    state: Mapping[str, Any],
    network: NetworkConfig,
    num_actions: int,
    keep: int,
    write_replay: Callable[[Path], None] | None = None,
    say: Callable[[str], None] = lambda line: None,
    *,
    parts: Sequence[str] = PARTS,
    replaces_older: Callable[[], bool] = lambda: True,
) -> Path:
    """Write a checkpoint; drop those older than the newest `keep`, and the replay of all but this one.

    Args:
        folder: Where a run's checkpoints lie.
        frames: Emulator frames played; names the checkpoint.
        tensors: Named `online.*`, `target.*`, `optimizer.*`, `loop.*` and, where it is kept, `average.*`.
        state: Everything else, as JSON values.
        network: Shape of the network, kept beside the weights.
        num_actions: Size of its output.
        keep: Checkpoints that stay.
        write_replay: Writes the replay to the path it is given; `None` leaves it out.
        say: Called with a line for each old checkpoint that cannot be removed: the new one is saved all the same.
        parts: The files of tensors that it gets: the others of `tensors` lie in another checkpoint.
        replaces_older: Called once it is on the disk; whether what is older may be dropped.

    Returns:
        The new checkpoint's folder.

    Raises:
        OSError: The disk is full or failed; what was there before is as it was.
    """
    about = _about(network, num_actions, frames)
    files = {f"{part}.safetensors": _packed(tensors, part, about) for part in parts}
    files["state.json"] = _json({"format": FORMAT, "frames": frames, **state})
    final = checkpoint_folder.write(folder, f"{CHECKPOINT}{frames:012d}", files, write_replay)
    if not replaces_older():
        return final
    found = find(folder)
    for old in found[:-keep]:
        checkpoint_folder.remove(old, say)
    for old in found[-keep:]:
        if old != final:
            with suppress(OSError):  # a full disk may not even take a shorter list; the next save tries again
                checkpoint_folder.drop_replay(old)
    return final


def save_best(
    folder: Path,
    policy: SavedPolicy,
    evaluation: Mapping[str, Any],
    say: Callable[[str], None] = lambda line: None,
) -> Path:
    """Write the policy that did best so far, and drop the one that did before.

    Args:
        folder: Where a run's checkpoints lie.
        policy: It; `frames` must be known.
        evaluation: How it did, as JSON values.
        say: As in `save`.

    Raises:
        OSError: As in `save`.
    """
    assert policy.frames is not None
    files = {ONLINE_FILE: pack(policy), "evaluation.json": _json(evaluation)}
    final = checkpoint_folder.write(folder, f"{BEST}{policy.frames:012d}", files)
    for old in find(folder, BEST):
        if old != final:
            checkpoint_folder.remove(old, say)
    return final


def pack(policy: SavedPolicy) -> bytes:
    """Return a policy as the bytes of a safetensors file, with the header that names its network."""
    return _packed(policy.online(), "online", _about(policy.network, policy.num_actions, policy.frames))


def find(folder: Path, kind: str = CHECKPOINT) -> list[Path]:
    """Return a run's checkpoints, oldest first."""
    found = [path for path in folder.glob(kind + "*") if path.name.removeprefix(kind).isdigit()]
    return sorted(found, key=lambda path: int(path.name.removeprefix(kind)))


def exists(folder: Path, frames: int) -> bool:
    """Whether a run has a checkpoint of this frame."""
    return (folder / f"{CHECKPOINT}{frames:012d}").is_dir()


def newest(folder: Path) -> Path:
    """Return a run's newest checkpoint.

    Raises:
        UserError: There is none.
    """
    with suppress(FileNotFoundError):
        os.scandir(folder).close()  # raises where it cannot be read, which `find` takes for empty
    found = find(folder)
    if not found:
        raise UserError(f"{folder} has no checkpoint: the run stopped before it saved one. Train it again.")
    return found[-1]


def best(folder: Path) -> Path | None:
    """Return the folder of a run's best policy by evaluation, `None` if there was no evaluation."""
    found = find(folder, BEST)
    return found[-1] if found else None


def best_mean(folder: Path) -> float | None:
    """Return the mean return of a run's best policy, `None` if there is none.

    Raises:
        UserError: Its file is damaged.
    """
    path = best(folder)
    if path is None:
        return None
    file = path / "evaluation.json"
    checkpoint_folder.verify(file, checkpoint_folder.read_sums(path))
    try:
        return float(checked(read_object(file).get("mean"), float, "mean"))
    except ValueError as error:
        raise UserError(f"{file} cannot be read: {error}") from None


def choose(folder: Path, which: str | int) -> Path:
    """Return one of a run's checkpoints.

    Args:
        folder: Where they lie.
        which: `last`, `best`, or the frames of one.

    Raises:
        UserError: There is no such one.
    """
    if which == "last":
        return newest(folder)
    if which == "best":
        path = best(folder)
        if path is None:
            raise UserError(
                f"{folder} has no best checkpoint: the run was not evaluated while it trained "
                "(`evaluation.every_frames`, `confirm_stop`). Name last, or the frames of a checkpoint."
            )
        return path
    frames = {int(path.name.rpartition("-")[2]): path for path in (*find(folder, BEST), *find(folder))}
    if which not in frames:
        there = ", ".join(str(number) for number in sorted(frames)) or "none"
        raise UserError(f"{folder} has no checkpoint of frame {which}. There are: {there}.")
    return frames[int(which)]


def load(path: Path, parts: Sequence[str] = PARTS) -> Checkpoint:
    """Read a checkpoint's folder, every byte of it checked.

    Args:
        path: The folder.
        parts: As it was saved; an average is found by itself.

    Raises:
        UserError: A file is missing, damaged, of another checkpoint, not ours, or newer than this version.
    """
    sums = checkpoint_folder.read_sums(path)
    if AVERAGE_FILE in sums:
        parts = (*parts, AVERAGE)
    if set(sums) - {REPLAY} != {"state.json", *(f"{part}.safetensors" for part in parts)}:
        raise UserError(f"{path / SUMS} is damaged: it does not list what a checkpoint has.\n{ANOTHER}")
    if REPLAY in sums:
        checkpoint_folder.verify(path / REPLAY, sums)
    tensors: dict[str, torch.Tensor] = {}
    for part in parts:
        own, _ = _read(path / f"{part}.safetensors", sums)
        tensors.update({f"{part}.{name}": tensor for name, tensor in own.items()})
    file = path / "state.json"
    checkpoint_folder.verify(file, sums)
    try:
        state = read_object(file)
    except ValueError as error:
        raise UserError(f"{file} cannot be read: {error}") from None
    if not all(isinstance(state.get(n), int) for n in ("format", "frames")):
        raise UserError(f"{file} was not written by fastdqn.")
    if state["format"] != FORMAT:
        age = "a newer" if state["format"] > FORMAT else "an older"
        raise UserError(
            f"{file} has format {state['format']}, of {age} fastdqn; this one reads format {FORMAT}.\n"
            "Go on with the fastdqn that wrote it, or start a new run from its weights: "
            f"`train(..., weights={str(path)!r})`"
        )
    if f"{CHECKPOINT}{state['frames']:012d}" != path.name:
        raise UserError(f"{path} holds the checkpoint of frame {state['frames']}: it was renamed.")
    return Checkpoint(path, tensors, state, path / REPLAY if REPLAY in sums else None)


def choose_policy(folder: Path, which: str | int) -> SavedPolicy:
    """Read the policy of one of a run's checkpoints, also of a run that is being trained.

    Args:
        folder: Where they lie.
        which: As in `choose`.

    Raises:
        UserError: There is no such one, or it is damaged.
    """
    while True:
        path = choose(folder, which)
        try:
            return load_policy(path)
        except UserError:
            # Newer ones replaced it while it was read: then another is chosen, or there is none of the name.
            if choose(folder, which) == path and os.path.lexists(path):
                raise


def load_policy(path: Path) -> SavedPolicy:
    """Read the weights to play with.

    Args:
        path: A run's folder (its newest checkpoint is taken), a checkpoint's folder, or a file of one:
            online.safetensors, average.safetensors. Of a folder that has both the average is taken.

    Raises:
        UserError: There is nothing of the kind, or it is damaged.
    """
    if (path / "checkpoints").is_dir():
        return choose_policy(path / "checkpoints", "last")
    in_folder = path.is_dir()
    # Another file that lies beside checksums is none of a checkpoint's.
    has_sums = in_folder or (path.name in (ONLINE_FILE, AVERAGE_FILE) and (path.parent / SUMS).exists())
    sums = checkpoint_folder.read_sums(path if in_folder else path.parent) if has_sums else None
    if in_folder:
        averaged = sums is not None and (AVERAGE_FILE in sums or os.path.lexists(path / AVERAGE_FILE))
        path = path / (AVERAGE_FILE if averaged else ONLINE_FILE)  # in doubt the one that is then refused
    weights, about = _read(path, sums)
    try:
        network = checked(parse_object(about["network"]), NetworkConfig, "network")
        frames = int(about["frames"]) if "frames" in about else None
        num_actions = int(about["num_actions"])
    except (KeyError, ValueError):
        raise UserError(f"{path} is damaged: its header does not say what network it fits.") from None
    problems = replace(Config(), network=network).validate()
    if not 1 <= num_actions <= _MOST_ACTIONS:
        problems.append(f"num_actions = {shown(num_actions)}: must be from 1 to {_MOST_ACTIONS}")
    if frames is not None and not 0 <= frames <= 2**62:
        problems.append(f"frames = {shown(frames)}: must be 0 or above, and at most 2^62")
    if problems:
        raise UserError(f"{path} is damaged: its header says {problems[0]}.")
    return SavedPolicy(weights, network, num_actions, path, frames)


def _about(network: NetworkConfig, num_actions: int, frames: int | None) -> dict[str, str]:
    about = {
        "format": POLICY_FORMAT,
        "network": json.dumps(asdict(network)),
        "num_actions": str(num_actions),
    }
    return about if frames is None else {**about, "frames": str(frames)}


def _packed(tensors: Mapping[str, torch.Tensor], part: str, about: dict[str, str]) -> bytes:
    own = {
        name.removeprefix(part + "."): tensor.detach().cpu().contiguous()
        for name, tensor in tensors.items()
        if name.startswith(part + ".")
    }
    return safetensors.save(own, metadata=about)


def _json(values: Mapping[str, Any]) -> bytes:
    return (json.dumps(values, indent=1) + "\n").encode()


def _read(path: Path, sums: Mapping[str, str] | None) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
    """Read tensors and header of a file of ours; without checksums if it lies alone."""
    if not path.is_file():
        raise UserError(
            f"{path} does not exist. Name a run's folder, a checkpoint's, or the policy's file in it."
        )
    if sums is not None:
        checkpoint_folder.verify(path, sums)
    try:
        about = _header(path)
        if not str(about.get("format", "")).startswith("fastdqn-"):
            raise UserError(
                f"{path} was not written by fastdqn: its header does not say what network it fits."
            )
        tensors = safetensors.load(path.read_bytes())  # its own reading of files wants names in UTF-8
    except (SafetensorError, OSError, ValueError) as error:
        raise UserError(f"{path} is damaged or no safetensors file: {error}") from None
    if about["format"] != POLICY_FORMAT:
        raise UserError(f"{path} has format {about['format']}; this fastdqn reads {POLICY_FORMAT}.")
    return tensors, about


def _header(path: Path) -> dict[str, Any]:
    """Read what a safetensors file says of itself. Nothing else of it, which may be larger than the memory."""
    with path.open("rb") as file:
        size = int.from_bytes(file.read(8), "little")
        if size > LARGEST_HEADER_BYTES:
            raise ValueError(f"a header of {size} bytes")
        about = parse_object(file.read(size)).get("__metadata__", {})
    if not isinstance(about, dict):
        raise ValueError("its __metadata__ is no object")
    return about
