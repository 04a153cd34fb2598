"""What torchrun tells each of the processes that it starts, by the environment."""

from __future__ import annotations

import os
from dataclasses import dataclass

from fastdqn.errors import UserError


@dataclass(frozen=True)
class Place:
    """A process among those that were started together.

    Attributes:
        rank: Its number.
        count: How many there are.
        local_rank: Its number among those of this machine.
        local_count: How many this machine has.
    """

    rank: int
    count: int
    local_rank: int
    local_count: int


ALONE = Place(0, 1, 0, 1)


def place() -> Place | None:
    """Return this process' place, `None` where nobody has started several.

    Raises:
        UserError: The environment says something that cannot be.
    """
    if "RANK" not in os.environ or "WORLD_SIZE" not in os.environ:
        return None
    # Who starts processes in another way may leave out what is local: then each has a machine of its own.
    usual = {"RANK": "", "WORLD_SIZE": "", "LOCAL_RANK": "0", "LOCAL_WORLD_SIZE": "1"}
    own = {name: os.environ.get(name, value) for name, value in usual.items()}
    try:
        found = Place(*(int(value) for value in own.values()))
    except ValueError:
        found = Place(0, 0, 0, 0)
    if not (0 <= found.rank < found.count and 0 <= found.local_rank < found.local_count <= found.count):
        said = ", ".join(f"{name}={value}" for name, value in own.items())
        raise UserError(f"the environment has {said}, which torchrun would not set.")
    return found


def speaks() -> bool:
    """Return whether this is the one of several processes that speaks to people."""
    return os.environ.get("RANK", "0") == "0" or "WORLD_SIZE" not in os.environ
