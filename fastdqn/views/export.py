"""Policy files that other programs load: safetensors with our header, or a program that needs torch alone."""

from __future__ import annotations

import io
import warnings
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from fastdqn.algorithm.layers import plain_operators
from fastdqn.algorithm.networks import FRAME_SIZE, STACK, QNetwork
from fastdqn.config import Config, PolicyFormat
from fastdqn.engine.acting import PolicyNetwork
from fastdqn.errors import RunFailedError, UserError
from fastdqn.games.envs import AtariEnvs
from fastdqn.outputs import new_file
from fastdqn.runs import checkpoint
from fastdqn.runs.evaluation import load_played, policy_network
from fastdqn.runs.folder import RunFolder
from fastdqn.runs.seeds import evaluation_seed

BOUND = 1e-4
"""Largest difference to the run's own action values that is let pass, where those are at most 1 in size; it
grows with them. float32 sums of 3,000 products in another order differ by about 1e-6."""

_CHECKED_STEPS = 64
_SUFFIX = {"safetensors": ".safetensors", "pt2": ".pt2", "torchscript": ".pt"}


@dataclass(frozen=True)
class Exported:
    """A file that was written.

    Attributes:
        path: The file.
        format: What it is.
        weights: File that the weights came from.
        num_actions: Size of the output.
        frames_checked: Observations of the run's game on which it was compared with the run's network.
        largest_difference: Between their action values.
    """

    path: str
    format: str
    weights: str
    num_actions: int
    frames_checked: int
    largest_difference: float

    def row(self) -> dict[str, Any]:
        """Return the fields, for JSON."""
        return asdict(self)


class Values(nn.Module):
    """A network's action values from PyTorch's own operators, without random numbers.

    Args:
        network: Whose.
    """

    def __init__(self, network: QNetwork) -> None:
        super().__init__()
        self.network = network

    def forward(self, obs: Tensor) -> Tensor:
        """Return float32 [N, num_actions] for uint8 [N, 4, 84, 84]."""
        with plain_operators():
            return self.network.q_values(obs)


class PlainPolicy(nn.Module):
    """A policy that can be made into a program which needs nothing of ours.

    Takes uint8 [N, 4, 84, 84] and gives float32 [N, num_actions].

    Args:
        values: Makes the one of the other; traced for a TorchScript program.
    """

    def __init__(self, values: nn.Module) -> None:
        super().__init__()
        self.values = values

    def forward(self, obs: Tensor) -> Tensor:
        """Return the value of each action."""
        if torch.jit.is_scripting():  # type: ignore[attr-defined]
            if obs.dtype != torch.uint8:
                raise TypeError("obs: uint8 grey levels are wanted")
            if obs.dim() != 4 or obs.size(1) != 4 or obs.size(2) != 84 or obs.size(3) != 84:
                raise ValueError("obs: shape [N, 4, 84, 84] is wanted")
        else:
            # torch.export keeps this as a node of its graph; the shape it guards by itself.
            torch.ops.aten._assert_tensor_metadata(obs, dtype=torch.uint8)
        values: Tensor = self.values(obs)
        return values


def export(
    run: RunFolder, format: PolicyFormat, out: Path | None = None, *, which: str | int = "last"
) -> Exported:
    """Write the policy of a checkpoint to a file, once it was seen to give the same values.

    Args:
        run: The run; only its folder is needed.
        format: `safetensors` (read it with `fastdqn.load_policy`), `pt2` (`torch.export.load(path).module()`)
            or `torchscript` (`torch.jit.load(path)`).
        out: The file; `policy` in the run's folder with the format's usual ending if `None`.
        which: The checkpoint: `last`, `best` by evaluation, or the frames of one.

    Raises:
        UserError: The format is unknown, the run has no checkpoint, or the file cannot be written.
        RunFailedError: The file's values differ from those of the run's network.
    """
    if format not in get_args(PolicyFormat):
        raise UserError(f"format = {format!r}: must be one of {', '.join(get_args(PolicyFormat))}")
    policy = load_played(run, which)
    network = policy_network(policy)
    path = out or run.path / f"policy{_SUFFIX[format]}"
    with new_file(path, "out") as temporary:
        load = _WRITERS[format](network, policy, temporary)
        frames = real_frames(run.config, _CHECKED_STEPS)
        difference = largest_difference(network, load(temporary), frames)
    return Exported(str(path), format, str(policy.source), policy.num_actions, len(frames), difference)


def real_frames(config: Config, steps: int, seed: int = 0) -> NDArray[np.uint8]:
    """Return observations of a run's game under random actions, uint8 [16 * steps, 4, 84, 84]."""
    envs = AtariEnvs(config.game, replace(config.env, num_envs=16), evaluation_seed(seed))
    random = np.random.default_rng(seed)
    seen = [envs.reset()]
    while len(seen) < steps:
        envs.send(random.integers(envs.num_actions, size=16))
        seen.append(envs.recv().observation)
    envs.close()
    return np.concatenate(seen)


def largest_difference(
    network: PolicyNetwork, exported: Callable[[Tensor], Tensor], frames: NDArray[np.uint8]
) -> float:
    """Compare in batches of several sizes, 1 among them; return the largest difference.

    Raises:
        RunFailedError: It is beyond `BOUND`.
    """
    worst, largest, start = 0.0, 1.0, 0
    sizes = [1, 2, 5, 32]
    while start < len(frames):
        obs = torch.from_numpy(frames[start : start + sizes[0]])
        with torch.no_grad():
            wanted, given = network(obs), exported(obs)
        if given.shape != wanted.shape or given.dtype != wanted.dtype or not bool(given.isfinite().all()):
            raise RunFailedError(
                f"the exported policy gives {given.dtype} {list(given.shape)}, or no numbers"
            )
        worst = max(worst, float((wanted - given).abs().max()))
        largest = max(largest, float(wanted.abs().max()))
        start += sizes[0]
        sizes = [*sizes[1:], sizes[0]]
    if worst > BOUND * largest:
        raise RunFailedError(
            f"the exported policy differs from the run's network by {worst:.2g} in {len(frames):,} frames; "
            f"at most {BOUND * largest:.2g} is let pass. Nothing was written."
        )
    return worst


def _safetensors(network: PolicyNetwork, policy: checkpoint.SavedPolicy, path: Path) -> Callable[[Path], Any]:
    path.write_bytes(checkpoint.pack(policy))
    return lambda path: policy_network(checkpoint.load_policy(path))


def _pt2(network: PolicyNetwork, policy: checkpoint.SavedPolicy, path: Path) -> Callable[[Path], Any]:
    # Two rows, because torch.export takes a dimension of one for a constant; one row is accepted all the same.
    rows = torch.export.Dim("rows", min=1)
    program = torch.export.export(
        PlainPolicy(Values(network.network)), (_example(),), dynamic_shapes=({0: rows},)
    )
    # PyTorch's own writer of files wants names in UTF-8, and aborts the process where the disk is full.
    # (A view of the bytes would outlive them in the error's traceback, which Python 3.12 does not survive.)
    buffer = io.BytesIO()
    torch.export.save(program, buffer)
    path.write_bytes(buffer.getvalue())
    return lambda path: torch.export.load(io.BytesIO(path.read_bytes())).module()


def _torchscript(network: PolicyNetwork, policy: checkpoint.SavedPolicy, path: Path) -> Callable[[Path], Any]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that it is deprecated: the help says so
        buffer = io.BytesIO()  # as above
        values = torch.jit.trace(  # type: ignore[no-untyped-call]
            Values(network.network), _example(), check_trace=False
        )
        torch.jit.save(torch.jit.freeze(torch.jit.script(PlainPolicy(values).eval())), buffer)
    path.write_bytes(buffer.getvalue())
    return lambda path: torch.jit.load(io.BytesIO(path.read_bytes()))  # type: ignore[no-untyped-call]


def _example() -> Tensor:
    return torch.zeros(2, STACK, FRAME_SIZE, FRAME_SIZE, dtype=torch.uint8)


_WRITERS: dict[str, Callable[[PolicyNetwork, checkpoint.SavedPolicy, Path], Callable[[Path], Any]]] = {
    "safetensors": _safetensors,
    "pt2": _pt2,
    "torchscript": _torchscript,
}
