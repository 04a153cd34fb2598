"""Check an installed fastdqn with nothing but numpy: the buffer against a recording, and no other package.

python tests/embed/check_wheel.py

The recording is 400 steps of two EnvPool Breakout games with lost lives, game ends and truncations. The expected
answers are worked out here, slowly, from the recording alone.
"""

from __future__ import annotations

import importlib.util
import tempfile
from pathlib import Path

import numpy as np

from fastdqn.replay import Batch, ReplayBuffer

N_STEP, GAMMA = 3, 0.9
Expected = dict[int, tuple[np.ndarray, np.ndarray, int, float, float]]


def expected_rows(data: dict[str, np.ndarray]) -> Expected:
    """Every transition's observation, next observation, action, return and discount, by row number."""
    rows: Expected = {}
    envs = data["action"].shape[1]
    for env in range(envs):
        done = data["terminated"][:, env] | data["truncated"][:, env]
        steps = [t for t in range(len(done)) if t == 0 or not done[t - 1]]  # the row after a done is a reset
        for sequence, start in enumerate(steps):
            window = [start]
            while len(window) < N_STEP and not done[window[-1]] and window[-1] + 1 < len(done):
                window.append(window[-1] + 1)
            if len(window) < N_STEP and not done[window[-1]]:
                continue  # the recording ends before the window does
            total = sum(GAMMA**k * float(data["reward"][t, env]) for k, t in enumerate(window))
            discount = 0.0 if data["terminated"][window[-1], env] else GAMMA ** len(window)
            rows[sequence * envs + env] = (
                data["observation"][start, env],
                data["observation"][window[-1] + 1, env],
                int(data["action"][start, env]),
                total,
                discount,
            )
    return rows


def check_batch(batch: Batch, rows: Expected) -> None:
    """Compare every row of a batch with what it must be."""
    for i, row in enumerate(batch.row):
        obs, next_obs, action, reward, discount = rows[int(row)]
        assert np.array_equal(batch.obs[i], obs), f"observation of row {row}"
        assert np.array_equal(batch.next_obs[i], next_obs), f"next observation of row {row}"
        assert batch.action[i] == action, f"action of row {row}"
        assert abs(batch.reward[i] - reward) < 1e-6, f"reward of row {row}"
        assert abs(batch.discount[i] - discount) < 1e-6, f"discount of row {row}"


def check_recording() -> int:
    """Replay the recording through buffers that wrap, and sample all along."""
    with np.load(Path(__file__).parent / "recording.npz") as file:
        data = {name: file[name] for name in file.files}
    rows, checked = expected_rows(data), 0
    for capacity, alpha in ((60, 0.0), (200, 0.6), (2000, 0.0)):
        replay = ReplayBuffer(
            capacity, 2, frame_shape=data["observation"].shape[3:], n_step=N_STEP, gamma=GAMMA, alpha=alpha
        )
        replay.begin(data["observation"][0])
        for t in range(len(data["action"])):
            columns = (data[name][t] for name in ("reward", "terminated", "truncated"))
            replay.add(data["action"][t].astype(np.int64), data["observation"][t + 1], *columns)
            if len(replay):
                batch = replay.sample(8)
                check_batch(batch, rows)
                replay.update_priorities(batch.row, batch.reward + 0.1)
                checked += len(batch.row)
        assert replay.invariant_violation() == ""
    return checked


def check_snapshot() -> None:
    """Save a buffer, load it, and sample the same from both."""
    replay = ReplayBuffer(100, 1, frame_shape=(2, 2), alpha=0.6, seed=7)
    observation = np.zeros((1, 4, 2, 2), np.uint8)
    replay.begin(observation)
    for step in range(150):
        frame = np.full((1, 1, 2, 2), step, np.uint8)
        observation = np.concatenate([observation[:, 1:], frame], axis=1)
        done = np.array([step % 40 == 39])
        replay.add(np.array([step]), observation, np.ones(1, np.float32), done, np.array([False]))
    with tempfile.TemporaryDirectory() as folder:
        replay.save(Path(folder) / "replay.safetensors")
        restored = ReplayBuffer.from_file(Path(folder) / "replay.safetensors")
    one, other = replay.sample(32), restored.sample(32)
    assert np.array_equal(one.row, other.row)
    assert np.array_equal(one.obs, other.obs)


def main() -> None:
    """Run the checks and say what they saw."""
    present = [name for name in ("torch", "envpool", "rich") if importlib.util.find_spec(name)]
    assert not present, f"installed without being asked for: {present}"
    check_snapshot()
    print(
        f"{check_recording()} sampled rows are right, saved and loaded too; torch, envpool and rich are absent"
    )


if __name__ == "__main__":
    main()
