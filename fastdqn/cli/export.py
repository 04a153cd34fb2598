"""`fastdqn export`: a policy file for other programs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

from tyro.conf import FlagCreatePairsOff, Positional, arg

from fastdqn import api
from fastdqn.cli.command import Command, answer, open_run
from fastdqn.cli.counts import which_of
from fastdqn.config import PolicyFormat

_ABOUT = """Write the policy of a checkpoint to one file. What is written takes
uint8 [N, 4, 84, 84], N from 1, and gives float32 [N, actions]; another dtype or
shape is refused. It is compared with the run's own network on 1,024 frames of
the run's game before the file gets its name.

  fastdqn export RUN --format pt2

safetensors  the weights; read with fastdqn.load_policy(FILE)
pt2          a program; torch.export.load(FILE).module(), needs torch alone
torchscript  a program; torch.jit.load(FILE), needs torch alone, also from C++.
             PyTorch has deprecated TorchScript: take it only where pt2 cannot
             be read."""

_USE = {
    "safetensors": "fastdqn.load_policy({path!r})",
    "pt2": "torch.export.load({path!r}).module()",
    "torchscript": "torch.jit.load({path!r})",
}


@dataclass(frozen=True)
class ExportArguments:
    """What `fastdqn export` takes."""

    run: Annotated[str, Positional, arg(metavar="RUN", help_behavior_hint="")] = ""
    """Folder of the run; nothing else is needed."""
    format: PolicyFormat = "safetensors"
    """What to write (PyTorch has deprecated TorchScript)."""
    checkpoint: Annotated[str, arg(metavar="{last,best,FRAMES}")] = "last"
    """last; best: the best by the evaluations while it trained; or the frames of one."""
    out: Annotated[
        str, arg(metavar="FILE", help_behavior_hint="(default: policy.safetensors, .pt2 or .pt in the run)")
    ] = ""
    """The file; one that exists is replaced."""
    json: Annotated[bool, FlagCreatePairsOff, arg(help_behavior_hint="")] = False
    """Write one JSON object to stdout instead of sentences."""


COMMAND = Command(
    "export", ExportArguments, _ABOUT, "fastdqn export RUN --format pt2", positional="run", needs=("train",)
)


def main(words: Sequence[str]) -> int:
    """Run the command; return the exit code."""
    arguments = COMMAND.read(words)
    run = open_run(arguments.run, "fastdqn.views.export")
    result = api.export(
        arguments.run, arguments.format, arguments.out or None, checkpoint=which_of(arguments.checkpoint)
    )
    lines = [
        str(result.path),
        f"  {result.num_actions} actions of {run.config.game}, weights {result.weights}",
        f"  differs from the run's network by {result.largest_difference:.1e} at most, in "
        f"{result.frames_checked:,} frames",
        f"  to use it: {_USE[result.format].format(path=result.path)}",
    ]
    return answer(result.row(), lines, as_json=arguments.json)
