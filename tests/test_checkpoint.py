"""Checkpoints: whole or not there, and refused with a sentence when they are not ours."""

from __future__ import annotations

import json

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
    }


def save(folder, frames, keep=3, value=1.0):
    state = {"clock": {"steps": frames // 4}}
    return checkpoint.save(folder, frames, tensors(value), state, NETWORK, 6, keep)


def test_what_is_saved_is_loaded(tmp_path):
    loaded, state = checkpoint.load(save(tmp_path, 400))
    assert loaded.keys() == tensors().keys()
    assert all(torch.equal(loaded[name], tensors()[name]) for name in loaded)
    assert state["clock"] == {"steps": 100}


def test_channels_last_weights_come_back_in_their_shape(tmp_path):
    weight = torch.arange(24.0).reshape(1, 2, 3, 4).contiguous(memory_format=torch.channels_last)
    own = {**tensors(), "online.w": weight}
    path = checkpoint.save(tmp_path, 4, own, {}, NETWORK, 6, 1)
    assert torch.equal(checkpoint.load(path)[0]["online.w"], weight)


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
    assert checkpoint.load(path)[0]["online.w"][0, 0] == 5.0


def test_no_checkpoint_is_said(tmp_path):
    with pytest.raises(UserError, match="has no checkpoint"):
        checkpoint.newest(tmp_path)


@pytest.mark.parametrize("name", ["online", "target", "optimizer"])
def test_a_truncated_file_is_refused(tmp_path, name):
    path = save(tmp_path, 4)
    file = path / f"{name}.safetensors"
    file.write_bytes(file.read_bytes()[:-3])
    with pytest.raises(UserError, match=rf"{name}\.safetensors is damaged"):
        checkpoint.load(path)


def test_a_missing_file_is_refused(tmp_path):
    path = save(tmp_path, 4)
    (path / "target.safetensors").unlink()
    with pytest.raises(UserError, match="does not exist"):
        checkpoint.load(path)


def test_a_foreign_safetensors_file_is_refused(tmp_path):
    save_file({"w": torch.zeros(3)}, tmp_path / "other.safetensors")
    with pytest.raises(UserError, match="was not written by fastdqn"):
        checkpoint.load_policy(tmp_path / "other.safetensors")


def test_a_file_that_is_no_safetensors_is_refused(tmp_path):
    (tmp_path / "w.pt").write_bytes(b"PK\x03\x04 whatever torch.save writes")
    with pytest.raises(UserError, match="no safetensors file"):
        checkpoint.load_policy(tmp_path / "w.pt")


@pytest.mark.parametrize("text", ["{", "[]", '{"clock": {}}', json.dumps({"format": 99})])
def test_a_state_that_is_not_ours_is_refused(tmp_path, text):
    path = save(tmp_path, 4)
    (path / "state.json").write_text(text)
    with pytest.raises(UserError, match=r"state\.json"):
        checkpoint.load(path)


def test_a_policy_knows_its_network(tmp_path):
    path = save(tmp_path / "checkpoints", 4)
    for place in (tmp_path, path, path / "online.safetensors"):
        policy = checkpoint.load_policy(place)
        assert policy.network == NETWORK
        assert policy.num_actions == 6
        assert policy.weights.keys() == {"w"}
