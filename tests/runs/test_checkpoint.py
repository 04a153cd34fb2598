"""Checkpoints: whole or not there, and refused with a sentence when they are not ours."""

from __future__ import annotations

import hashlib
import os
import subprocess
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("safetensors")

from safetensors.torch import save_file

from fastdqn.config import NetworkConfig
from fastdqn.errors import UserError
from fastdqn.runs import checkpoint, checkpoint_folder

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
    policy = checkpoint.SavedPolicy(weights, NETWORK, 6, folder, frames)
    return checkpoint.save_best(folder, policy, {"frames": frames, "mean": mean})


def test_what_is_saved_is_loaded(tmp_path):
    saved = checkpoint.load(save(tmp_path, 400, replay=b"frames"))
    assert saved.tensors.keys() == tensors().keys()
    assert all(torch.equal(saved.tensors[name], tensors()[name]) for name in saved.tensors)
    assert saved.state["clock"] == {"steps": 100}
    assert saved.replay.read_bytes() == b"frames"


WITH_AVERAGE = (*checkpoint_folder.PARTS, checkpoint_folder.AVERAGE)


def averaged(folder, parts=WITH_AVERAGE):
    """A checkpoint of a run that keeps an average of its weights, and its replay."""
    own = {**tensors(), "average.w": torch.full((2, 3), 9.0)}
    return checkpoint.save(
        folder, 400, own, {}, NETWORK, 6, 3, lambda path: path.write_bytes(b"frames"), parts=parts
    )


def test_an_average_is_saved_with_the_rest(tmp_path):
    path = averaged(tmp_path)
    assert torch.equal(checkpoint.load(path).tensors["average.w"], torch.full((2, 3), 9.0))
    (path / "average.safetensors").unlink()
    with pytest.raises(UserError, match=r"average\.safetensors does not exist"):
        checkpoint.load(path)
    loop = averaged(tmp_path / "loop", parts=("loop",))
    assert not (loop / "average.safetensors").exists()
    assert checkpoint.load(loop, ("loop",)).tensors.keys() == {"loop.observation"}


def test_an_average_is_the_policy_where_there_is_one(tmp_path):
    """By the run, the checkpoint and its own file; the newest weights are read where their file is named."""
    path = averaged(tmp_path / "checkpoints")
    for place in (tmp_path, path, path / "average.safetensors"):
        policy = checkpoint.load_policy(place)
        assert policy.weights["w"][0, 0] == 9
        assert (policy.network, policy.source.name) == (NETWORK, "average.safetensors")
    assert checkpoint.load_policy(path / "online.safetensors").weights["w"][0, 0] == 1
    sums = (path / "SHA256SUMS").read_text()
    for damaged in (sums.replace("average", "averagf"), sums.partition("\n")[2]):  # another policy would play
        (path / "SHA256SUMS").write_text(damaged)
        for place in (tmp_path, path, path / "average.safetensors"):
            with pytest.raises(UserError, match=r"average\.safetensors is damaged"):
                checkpoint.load_policy(place)
    (path / "SHA256SUMS").write_text(sums)
    (path / "average.safetensors").write_bytes(b"")
    for place in (tmp_path, path, path / "average.safetensors"):
        with pytest.raises(UserError, match=r"average\.safetensors is damaged"):
            checkpoint.load_policy(place)


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
    monkeypatch.setattr(checkpoint_folder, "_sync", lambda path: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        save(tmp_path, 8)
    assert [path.name for path in checkpoint.find(tmp_path)] == ["frame-000000000004"]
    monkeypatch.undo()
    save(tmp_path, 8)
    assert checkpoint.newest(tmp_path).name == "frame-000000000008"


def test_what_a_killed_process_left_is_removed(tmp_path):
    """Fault: gigabytes of replays that were never finished."""
    for name in (
        "tmp-frame-000000000004-0123456789abcdef",
        "tmp-old-best-000000000004",
        "tmp-frame-000000000002",
    ):
        (tmp_path / name).mkdir()
        for file in ("online.safetensors", "replay.safetensors.0123456789abcdef.partial", "SHA256SUMS"):
            (tmp_path / name / file).touch()
    save(tmp_path, 8)
    assert [path.name for path in tmp_path.iterdir()] == ["frame-000000000008"]


def test_a_users_own_temporary_things_are_left_alone(tmp_path):
    """Fault: every name that begins with tmp- taken for a rest, and removed with all that is in it."""
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "online.safetensors").write_text("mine")
    folder = tmp_path / "checkpoints"
    for name in ("tmp-notes", "tmp-frame-000000000004", "tmp-frame-000000000008-mine"):
        (folder / name).mkdir(parents=True)
        (folder / name / "notes.txt").write_text("mine")
    (folder / "tmp-file").write_text("mine")
    (folder / "tmp-frame-000000000006").symlink_to(outside)
    (folder / "tmp-best-000000000006").symlink_to("nothing")
    before = {path: path.lstat().st_ino for path in tmp_path.rglob("*")}
    save(folder, 4, keep=1)
    save_best(folder, 4, 1.0)
    after = {path: path.lstat().st_ino for path in tmp_path.rglob("*")}
    assert before.items() <= after.items()
    assert {path.name for path in folder.iterdir()} - {path.name for path in before} == {
        "frame-000000000004",
        "best-000000000004",
    }


def test_a_checkpoint_of_what_is_no_file_is_refused(tmp_path):
    """Fault: waiting for ever for somebody who writes into a FIFO."""
    path = save(tmp_path, 4)
    (path / "state.json").unlink()
    os.mkfifo(path / "state.json")
    with pytest.raises(UserError, match=r"state\.json is no file"):
        checkpoint.load(path)


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
    unlink = Path.unlink

    def killed(path, missing_ok=False):
        if path.name == checkpoint.REPLAY:
            raise KeyboardInterrupt
        unlink(path, missing_ok)

    monkeypatch.setattr(Path, "unlink", killed)
    with pytest.raises(KeyboardInterrupt):
        save(tmp_path, 8, replay=b"frames")
    monkeypatch.undo()
    assert checkpoint.load(older).replay is None
    assert checkpoint.load(checkpoint.newest(tmp_path)).replay is not None
    save(tmp_path, 12, replay=b"frames")
    assert not (older / "replay.safetensors").exists()


def stuck(monkeypatch, name):
    """Have nothing in the folders of this name be removed, as where another user owns them."""
    real = checkpoint_folder.shutil.rmtree

    def rmtree(path, ignore_errors=False):
        if path.name.endswith(name):
            if ignore_errors:
                return
            raise PermissionError(13, "Permission denied", str(path))
        real(path, ignore_errors=ignore_errors)

    monkeypatch.setattr(checkpoint_folder.shutil, "rmtree", rmtree)


def test_an_old_one_that_cannot_be_removed_is_told_and_the_new_one_is_saved(tmp_path, monkeypatch):
    """Fails when the save fails with it, or when those after it stay as well."""
    said: list[str] = []
    save(tmp_path, 4, keep=4)
    save(tmp_path, 8, keep=4)
    save(tmp_path, 12, keep=4, replay=b"frames")
    stuck(monkeypatch, "frame-000000000004")
    path = checkpoint.save(tmp_path, 16, tensors(), {}, NETWORK, 6, 2, None, said.append)
    assert said == [
        f"{tmp_path / 'tmp-frame-000000000004'} cannot be removed and takes up space: Permission denied"
    ]
    assert [old.name for old in checkpoint.find(tmp_path)] == ["frame-000000000012", path.name]
    assert checkpoint.load(checkpoint.find(tmp_path)[0]).replay is None
    save(tmp_path, 20, keep=2)
    monkeypatch.undo()
    save(tmp_path, 24, keep=2)
    assert len(list(tmp_path.iterdir())) == 2


def test_one_that_was_made_read_only_keeps_its_name(tmp_path, monkeypatch):
    said: list[str] = []
    old = save(tmp_path, 4, keep=1)
    monkeypatch.setattr(checkpoint_folder.os, "access", lambda path, mode: path != old)
    checkpoint.save(tmp_path, 8, tensors(), {}, NETWORK, 6, 1, None, said.append)
    assert said == [f"{old} cannot be removed and takes up space: Permission denied"]
    assert checkpoint.load(old).state["frames"] == 4


def test_a_best_one_that_cannot_be_removed_is_told(tmp_path, monkeypatch):
    said: list[str] = []
    save_best(tmp_path, 4, 1.0)
    stuck(monkeypatch, "best-000000000004")
    policy = checkpoint.SavedPolicy({"w": torch.ones(1)}, NETWORK, 6, tmp_path, 8)
    path = checkpoint.save_best(tmp_path, policy, {"mean": 2.0}, said.append)
    assert "best-000000000004 cannot be removed" in said[0]
    assert checkpoint.best(tmp_path) == path


def test_a_run_that_is_gone_is_not_made_again(tmp_path):
    with pytest.raises(FileNotFoundError):
        save(tmp_path / "run" / "checkpoints", 4)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("which", ["last", "best"])
@pytest.mark.parametrize(
    ("module", "reads"),
    [(checkpoint_folder, "read_sums"), (checkpoint_folder, "_hash"), (checkpoint, "_header")],
    ids=["sums", "hash", "header"],
)
def test_a_reader_takes_the_one_that_replaces_what_it_was_reading(
    tmp_path, monkeypatch, which, module, reads
):
    """Fails when a run that saves while its policy is read makes the reader fail."""

    def put(frames):
        save(tmp_path, frames, keep=1)
        save_best(tmp_path, frames, frames)

    real, frames = getattr(module, reads), [8, 12]

    def replaced(*args, **kwargs):
        if frames:
            number = frames.pop(0)
            monkeypatch.setattr(module, reads, real)
            put(number)
            monkeypatch.setattr(module, reads, replaced)
        return real(*args, **kwargs)

    put(4)
    monkeypatch.setattr(module, reads, replaced)
    assert checkpoint.choose_policy(tmp_path, which).frames == 12
    assert not frames


def test_a_reader_of_one_by_its_frames_is_told_that_it_is_gone(tmp_path, monkeypatch):
    save(tmp_path, 4)
    real = checkpoint_folder._hash

    def replaced(path):
        monkeypatch.setattr(checkpoint_folder, "_hash", real)
        save(tmp_path, 8, keep=1)
        return real(path)

    monkeypatch.setattr(checkpoint_folder, "_hash", replaced)
    with pytest.raises(UserError, match=r"no checkpoint of frame 4\. There are: 8"):
        checkpoint.choose_policy(tmp_path, 4)


def test_a_damaged_one_is_refused_and_not_read_for_ever(tmp_path):
    (save(tmp_path, 4) / "online.safetensors").write_bytes(b"")
    with pytest.raises(UserError, match="is damaged"):
        checkpoint.choose_policy(tmp_path, "last")


def test_a_link_to_nowhere_is_refused_and_not_read_for_ever(tmp_path):
    save(tmp_path, 4)
    (tmp_path / "frame-000000000008").symlink_to("nowhere")
    with pytest.raises(UserError, match="frame-000000000008"):
        checkpoint.choose_policy(tmp_path, "last")


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
    with pytest.raises(UserError, match=r"`evaluation\.every_frames`"):
        checkpoint.choose(tmp_path, "best")


FILES = [f"{part}.safetensors" for part in (*WITH_AVERAGE, "replay")] + ["state.json", "SHA256SUMS"]


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("damage", ["truncated", "flipped", "missing", "empty"])
def test_a_damaged_file_is_refused(tmp_path, name, damage):
    path = averaged(tmp_path)
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
        ("[]", "cannot be read: an object is wanted"),
        ('{"clock": {}}', "not written by fastdqn"),
        ('{"format": 2}', "not written by fastdqn"),
        (
            '{"format": 99, "frames": 4}',
            "format 99, of a newer fastdqn; .*\nGo on with the fastdqn that wrote it",
        ),
        (
            '{"format": 3, "frames": 4}',
            "format 3, of an older fastdqn; .*\n.*: `train\\(\\.\\.\\., weights=",
        ),
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
    assert checkpoint.load_policy(path).num_actions == 6  # so a new run can start from its weights


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
