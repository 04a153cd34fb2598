"""Checkpoints: whole or not there, and refused with a sentence when they are not ours."""

from __future__ import annotations

import hashlib
import subprocess
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("safetensors")

from safetensors.torch import save_file

from fastdqn import checkpoint
from fastdqn.config import NetworkConfig
from fastdqn.errors import UserError

NETWORK = NetworkConfig(width=0.5, dueling=True)


def tensors(value: float = 1.0):
    return {
        "online.w": torch.full((2, 3), value),
        "target.w": torch.full((2, 3), value + 1),
        "optimizer.m": torch.full((6,), value + 2),
        "loop.observation": torch.full((4,), 7, dtype=torch.uint8),
    }


def save(folder, frames, keep=3, value=1.0, replay=None):
    state = {"clock": {"steps": frames // 4}}
    write = (lambda path: path.write_bytes(replay)) if replay is not None else None
    return checkpoint.save(folder, frames, tensors(value), state, NETWORK, 6, keep, write)


def save_best(folder, frames, mean):
    weights = {"w": torch.full((2, 3), mean)}
    policy = checkpoint.Policy(weights, NETWORK, 6, folder, frames)
    return checkpoint.save_best(folder, policy, {"frames": frames, "mean": mean})


def test_what_is_saved_is_loaded(tmp_path):
    saved = checkpoint.load(save(tmp_path, 400, replay=b"frames"))
    assert saved.tensors.keys() == tensors().keys()
    assert all(torch.equal(saved.tensors[name], tensors()[name]) for name in saved.tensors)
    assert saved.state["clock"] == {"steps": 100}
    assert saved.replay.read_bytes() == b"frames"


def test_the_checksums_are_what_sha256sum_reads(tmp_path):
    path = save(tmp_path, 400, replay=b"frames")
    done = subprocess.run(["sha256sum", "--check", "--strict", "SHA256SUMS"], cwd=path, capture_output=True)
    assert done.returncode == 0
    assert done.stdout.count(b": OK") == 6


def test_channels_last_weights_come_back_in_their_shape(tmp_path):
    weight = torch.arange(24.0).reshape(1, 2, 3, 4).contiguous(memory_format=torch.channels_last)
    own = {**tensors(), "online.w": weight}
    path = checkpoint.save(tmp_path, 4, own, {}, NETWORK, 6, 1)
    assert torch.equal(checkpoint.load(path).tensors["online.w"], weight)


def test_only_the_newest_stay_in_order_of_frames(tmp_path):
    for frames in (4, 400, 40, 4000):
        save(tmp_path, frames, keep=2)
    assert [path.name for path in checkpoint.find(tmp_path)] == ["frame-000000000400", "frame-000000004000"]
    assert checkpoint.newest(tmp_path).name == "frame-000000004000"


def test_a_kill_while_saving_leaves_the_previous_one(tmp_path, monkeypatch):
    """Fails when a checkpoint is written under its final name."""
    save(tmp_path, 4)
    monkeypatch.setattr(checkpoint, "_sync", lambda path: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        save(tmp_path, 8)
    assert [path.name for path in checkpoint.find(tmp_path)] == ["frame-000000000004"]
    monkeypatch.undo()
    save(tmp_path, 8)
    assert checkpoint.newest(tmp_path).name == "frame-000000000008"


def test_saving_twice_at_one_frame_keeps_the_later(tmp_path):
    save(tmp_path, 4, value=1.0)
    path = save(tmp_path, 4, value=5.0)
    assert checkpoint.load(path).tensors["online.w"][0, 0] == 5.0


def test_no_checkpoint_is_said(tmp_path):
    with pytest.raises(UserError, match="has no checkpoint"):
        checkpoint.newest(tmp_path)


def test_only_the_newest_keeps_its_replay_and_the_others_stay_good(tmp_path):
    """Fails when disk use grows with `keep`, or when dropping a replay leaves checksums that fit no more."""
    for frames in (4, 8, 12):
        save(tmp_path, frames, replay=b"frames")
    assert [(path / "replay.safetensors").exists() for path in checkpoint.find(tmp_path)] == [
        False,
        False,
        True,
    ]
    assert [checkpoint.load(path).replay is None for path in checkpoint.find(tmp_path)] == [True, True, False]


def test_a_kill_while_a_replay_is_dropped_leaves_a_good_checkpoint(tmp_path, monkeypatch):
    """Fails when the file goes before its checksum does."""
    older = save(tmp_path, 4, replay=b"frames")
    monkeypatch.setattr(
        Path, "unlink", lambda path, missing_ok=False: (_ for _ in ()).throw(KeyboardInterrupt)
    )
    with pytest.raises(KeyboardInterrupt):
        save(tmp_path, 8, replay=b"frames")
    monkeypatch.undo()
    assert checkpoint.load(older).replay is None
    assert checkpoint.load(checkpoint.newest(tmp_path)).replay is not None
    save(tmp_path, 12, replay=b"frames")
    assert not (older / "replay.safetensors").exists()


def test_a_full_disk_leaves_the_previous_one_and_no_rest(tmp_path):
    before = save(tmp_path, 4, replay=b"frames")

    def full(path):
        path.write_bytes(b"half")
        raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match="No space"):
        checkpoint.save(tmp_path, 8, tensors(), {}, NETWORK, 6, 3, full)
    assert list(tmp_path.iterdir()) == [before]
    assert checkpoint.load(before).replay is not None


def test_the_best_stays_alone_and_is_named(tmp_path):
    save(tmp_path, 4)
    assert checkpoint.best_mean(tmp_path) is None
    save_best(tmp_path, 4, 1.5)
    path = save_best(tmp_path, 40, 2.5)
    for frames in (44, 48, 52, 56):
        save(tmp_path, frames, keep=2)
    assert checkpoint.best_mean(tmp_path) == 2.5
    assert [entry.name for entry in sorted(tmp_path.iterdir())] == [
        *("best-000000000040", "frame-000000000052", "frame-000000000056")
    ]
    assert checkpoint.choose(tmp_path, "best") == path
    assert checkpoint.choose(tmp_path, "last") == checkpoint.choose(tmp_path, 56)
    assert checkpoint.choose(tmp_path, 52).name == "frame-000000000052"
    policy = checkpoint.load_policy(path)
    assert policy.frames == 40
    assert policy.weights["w"][0, 0] == 2.5
    with pytest.raises(UserError, match=r"no checkpoint of frame 5\. There are: 40, 52, 56"):
        checkpoint.choose(tmp_path, 5)


def test_no_best_is_said(tmp_path):
    save(tmp_path, 4)
    with pytest.raises(UserError, match="--evaluate-every-frames"):
        checkpoint.choose(tmp_path, "best")


FILES = [f"{part}.safetensors" for part in (*checkpoint.PARTS, "replay")] + ["state.json", "SHA256SUMS"]


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("damage", ["truncated", "flipped", "missing", "empty"])
def test_a_damaged_file_is_refused(tmp_path, name, damage):
    path = save(tmp_path, 4, replay=b"frames")
    file = path / name
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes({"truncated": data[:-3], "flipped": data}.get(damage, b""))
    if damage == "missing":
        file.unlink()
    with pytest.raises(UserError, match=r"damaged|cannot be read"):
        checkpoint.load(path)


def test_a_file_of_another_checkpoint_is_refused(tmp_path):
    """Fails when each file is looked at alone: weights of one moment would meet an optimizer of another."""
    other, path = save(tmp_path, 4, value=1.0), save(tmp_path, 8, value=2.0)
    (path / "optimizer.safetensors").write_bytes((other / "optimizer.safetensors").read_bytes())
    with pytest.raises(UserError, match=r"optimizer\.safetensors is damaged"):
        checkpoint.load(path)


def test_a_renamed_checkpoint_is_refused(tmp_path):
    path = save(tmp_path, 4)
    with pytest.raises(UserError, match="holds the checkpoint of frame 4"):
        checkpoint.load(path.rename(tmp_path / "frame-000000000044"))


def test_a_foreign_safetensors_file_is_refused(tmp_path):
    save_file({"w": torch.zeros(3)}, tmp_path / "other.safetensors")
    with pytest.raises(UserError, match="was not written by fastdqn"):
        checkpoint.load_policy(tmp_path / "other.safetensors")


def test_a_file_that_is_no_safetensors_is_refused(tmp_path):
    (tmp_path / "w.pt").write_bytes(b"PK\x03\x04 whatever torch.save writes")
    with pytest.raises(UserError, match="no safetensors file"):
        checkpoint.load_policy(tmp_path / "w.pt")


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("{", "cannot be read"),
        ("[]", "not written by fastdqn"),
        ('{"clock": {}}', "not written by fastdqn"),
        ('{"format": 2}', "not written by fastdqn"),
        ('{"format": 99, "frames": 4}', "a newer fastdqn"),
        ('{"format": 1, "frames": 4}', "an older fastdqn"),
    ],
)
def test_a_state_that_is_not_ours_is_refused(tmp_path, text, wanted):
    path = save(tmp_path, 4)
    old = hashlib.sha256((path / "state.json").read_bytes()).hexdigest()
    (path / "state.json").write_text(text)
    sums = (path / "SHA256SUMS").read_text()
    (path / "SHA256SUMS").write_text(sums.replace(old, hashlib.sha256(text.encode()).hexdigest()))
    with pytest.raises(UserError, match=rf"state\.json.*{wanted}"):
        checkpoint.load(path)


def test_a_policy_that_lies_alone_is_read_without_checksums(tmp_path):
    file = tmp_path / "mine.safetensors"
    file.write_bytes((save(tmp_path / "checkpoints", 4) / "online.safetensors").read_bytes())
    assert checkpoint.load_policy(file).num_actions == 6


def test_a_policy_knows_its_network(tmp_path):
    path = save(tmp_path / "checkpoints", 4)
    for place in (tmp_path, path, path / "online.safetensors"):
        policy = checkpoint.load_policy(place)
        assert policy.network == NETWORK
        assert policy.num_actions == 6
        assert policy.weights.keys() == {"w"}
