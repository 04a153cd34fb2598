from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

__version__: str
COLUMNS: dict[str, str]

def saved_options(path: bytes) -> dict[str, Any]: ...
def available_memory_bytes() -> int: ...
def grey_levels(stacks: object, centered: bool, out: object) -> None: ...
def has_narrow_torso() -> bool: ...
def narrow_torso(pixels: object, layers: Sequence[object], maps: Sequence[object]) -> None: ...
def narrow_torsos(pixels: object, layers: Sequence[object], features: object) -> None: ...
def narrow_torso_backward(
    gradient: object,
    pixels: object,
    layers: Sequence[object],
    maps: Sequence[object],
    gradients: Sequence[object],
) -> None: ...
def has_linear() -> bool: ...
def linear(
    rows: object, weights: object, biases: object, out: object, threads: int, parallel_for: int
) -> None: ...
def has_winograd_torso() -> bool: ...
def winograd_torso(
    stacks: object,
    centered: bool,
    layers: Sequence[object],
    maps: Sequence[object],
    threads: int,
    parallel_for: int,
) -> None: ...
def winograd_torso_backward(
    gradient: object,
    stacks: object,
    centered: bool,
    layers: Sequence[object],
    maps: Sequence[object],
    gradients: Sequence[object],
    threads: int,
    parallel_for: int,
) -> None: ...

class Replay:
    def __init__(
        self,
        capacity: int,
        num_envs: int,
        frame_shape: Sequence[int],
        stack: int,
        n_step: int,
        gamma: float,
        alpha: float,
        autoreset: int,
        layout: int,
        storage: int,
        guard_frames: int,
        seed: int,
    ) -> None: ...
    def begin(
        self, observation: object, env_id: object
    ) -> tuple[
        npt.NDArray[np.int64],
        npt.NDArray[np.int64],
        npt.NDArray[np.int64],
        npt.NDArray[np.bool_],
        int,
    ]: ...
    def add(
        self,
        action: object,
        observation: object,
        reward: object,
        terminated: object,
        truncated: object,
        env_id: object,
        final_observation: object,
    ) -> tuple[
        npt.NDArray[np.int64],
        npt.NDArray[np.int64],
        npt.NDArray[np.int64],
        npt.NDArray[np.bool_],
        int,
    ]: ...
    def sample(self, batch_size: int, beta: float, out: object) -> None: ...
    def plan(self, batch_size: int, beta: float, out: object) -> None: ...
    def gather(self, row: object, out: object) -> None: ...
    def read_frames(self, first_slot: int, out: object) -> None: ...
    def update_priorities(self, row: object, priority: object) -> int: ...
    def save(self, path: bytes) -> None: ...
    def load(self, path: bytes) -> None: ...
    def stats(self) -> dict[str, int]: ...
    def invariant_violation(self) -> str: ...
    def __len__(self) -> int: ...
    @property
    def ring(self) -> int: ...
