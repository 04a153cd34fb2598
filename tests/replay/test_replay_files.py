"""Files of the replay: damaged and hostile ones, those of older versions, and what saving must not touch."""

from __future__ import annotations

import os
import re
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fastdqn.replay import ReplayBuffer

VERSION_1, VERSION_2 = (
    Path(__file__).parents[1] / "reference" / f"replay-version-{version}.safetensors"  # of played()
    for version in (1, 2)
)
OPTIONS: dict[str, Any] = {"frame_shape": (1, 2), "stack": 2, "n_step": 2, "alpha": 0.5, "seed": 77}
MASK = 2**64 - 1


def played(steps: int = 30) -> ReplayBuffer:
    """A small buffer that wrapped; what `VERSION_1` was saved from."""
    replay = ReplayBuffer(40, 2, **OPTIONS)
    frames = np.arange(124, dtype=np.uint8).reshape(31, 2, 1, 2)
    replay.begin(frames[[0, 0]].swapaxes(0, 1))
    flags = np.zeros(2, bool)
    for k in range(steps):
        done = np.array([k % 7 == 3, k % 11 == 5])
        reward = np.array([k / 2, -k])
        replay.add(np.array([k, -k]), frames[[k, k + 1]].swapaxes(0, 1), reward, done, flags)
    replay.update_priorities(replay.sample(9).row, np.linspace(0.1, 3, 9))
    return replay


def saved(folder: Path, replay: ReplayBuffer | None = None) -> bytes:
    """What `save` writes."""
    path = folder / "saved"
    (played() if replay is None else replay).save(path)
    return path.read_bytes()


def checksum(data: bytes) -> str:
    """The format's checksum, written a second time."""
    chains = [1, 2, 3, 4]
    whole = len(data) // 32 * 32
    words = [(int.from_bytes(data[at : at + 8], "little"), 0) for at in range(0, whole, 8)]
    tail = data[whole:].ljust(32, b"\0")
    words += [(int.from_bytes(tail[at : at + 8], "little"), len(data) - whole) for at in range(0, 32, 8)]
    for i, (word, count) in enumerate(words):
        chain = (chains[i % 4] ^ ((word + count) & MASK)) * 0x9E3779B97F4A7C15 & MASK
        chains[i % 4] = chain ^ (chain >> 29)
    total = 0
    for chain in chains:
        total = (total + chain) & MASK
        total = ((total ^ (total >> 30)) * 0xBF58476D1CE4E5B9) & MASK
        total = ((total ^ (total >> 27)) * 0x94D049BB133111EB) & MASK
        total ^= total >> 31
    return f"{total:016x}"


def edited(content: bytes, **entries: str) -> bytes:
    """A file with other values in its header and a checksum that fits them."""
    length = int.from_bytes(content[:8], "little")
    header = content[8 : 8 + length].rstrip()
    for name, value in entries.items():
        header = re.sub(rb'"%s":"[^"]*"' % name.encode(), f'"{name}":"{value}"'.encode(), header)
    header = re.sub(rb'"header_checksum":"\w*"', b'"header_checksum":"' + b"0" * 16 + b'"', header)
    header = header.ljust(-(-len(header) // 8) * 8)
    head = len(header).to_bytes(8, "little") + header
    zeros = b'"header_checksum":"' + b"0" * 16
    return head.replace(zeros, zeros[:-16] + checksum(head).encode()) + content[8 + length :]


# Damaged files --------------------------------------------------------------------------------------------


def damaged(content: bytes, path: Path, every_bit: int) -> Iterator[None]:
    """Write a file with one bit flipped, again and again: each bit of the first bytes, then one a byte.

    The C++ tests flip each bit of the whole file.
    """
    path.write_bytes(content)
    with path.open("r+b", buffering=0) as file:
        for at, byte in enumerate(content):
            for bit in range(8) if at < every_bit else [at % 8]:
                os.pwrite(file.fileno(), bytes([byte ^ 1 << bit]), at)
                yield
            os.pwrite(file.fileno(), bytes([byte]), at)


def test_every_flipped_bit_is_refused(tmp_path: Path) -> None:
    """Fault: a header that no checksum covers, so that another gamma, seed or capacity is taken for true."""
    content = saved(tmp_path)
    path = tmp_path / "damaged"
    for _ in damaged(content, path, every_bit=8 + int.from_bytes(content[:8], "little")):
        with pytest.raises(ValueError, match=r"^path: "):
            ReplayBuffer.from_file(path)
    assert ReplayBuffer.from_file(path).stats() == played().stats()


def test_a_buffer_is_as_it_was_after_every_damaged_file(tmp_path: Path) -> None:
    path = tmp_path / "damaged"
    replay, twin = played(3), played(3)
    for _ in damaged(saved(tmp_path), path, every_bit=0):
        with pytest.raises(ValueError, match=r"^path: "):
            replay.load(path)
    assert replay.invariant_violation() == ""
    assert saved(tmp_path, replay) == saved(tmp_path, twin)


def test_every_truncation_is_refused(tmp_path: Path) -> None:
    content = saved(tmp_path)
    path = tmp_path / "damaged"
    path.write_bytes(content)
    replay = played(3)
    for length in reversed(range(len(content))):
        os.truncate(path, length)
        with pytest.raises(ValueError, match=r"^path: "):
            ReplayBuffer.from_file(path)
        with pytest.raises(ValueError, match=r"^path: "):
            replay.load(path)
    assert saved(tmp_path, replay) == saved(tmp_path, played(3))
    path.write_bytes(content + b"\0")
    with pytest.raises(ValueError, match="bytes instead of"):
        ReplayBuffer.from_file(path)


# Hostile files: their checksums fit -----------------------------------------------------------------------

HOSTILE = """
import re, sys
from fastdqn.replay import ReplayBuffer
def peak():  # since this program began: ru_maxrss begins with that of who started it
    return int(re.search(r"VmHWM:\\s+(\\d+)", open("/proc/self/status").read())[1])
before = peak()
try:
    ReplayBuffer.from_file(sys.argv[1])
except (ValueError, MemoryError) as error:
    print(type(error).__name__, error)
print(peak() - before)
"""


@pytest.mark.parametrize(
    ("entries", "reason"),
    [
        ({"num_envs": str(2**26), "capacity": str(2**29)}, "environments"),
        ({"capacity": str(2**25)}, ""),  # of few bytes a frame: memory for them is there, but not touched
        ({"capacity": str(2**32 - 2)}, "capacity"),
        ({"capacity": str(2**70)}, "capacity|damaged"),
        ({"frame_shape": "x".join(["1"] * 100_000)}, "contradicts|frame_shape"),
        ({"frame_shape": "4294967296x4294967296x4294967296"}, "frame_shape"),
        ({"frame_shape": ""}, "frame_shape|damaged"),
        ({"frame_shape": "4096x4096"}, "contradicts"),  # 16 MiB, some of which are working memory
        ({"num_envs": "0"}, "num_envs"),
        ({"num_envs": "-1"}, "num_envs|environments"),
        ({"stack": str(2**32 + 2)}, "stack"),
        ({"n_step": str(2**32 - 1)}, "n_step|capacity"),
        ({"gamma": "nan"}, "gamma"),
        ({"alpha": "1e999"}, "alpha"),
    ],
)
def test_a_small_file_takes_little_memory_whatever_it_says(
    tmp_path: Path, entries: dict[str, str], reason: str, storage: str
) -> None:
    """Fault: memory for what a file says that it holds, before asking whether it is long enough for that."""
    if storage == "delta" and entries.get("frame_shape") in ("", "4096x4096"):
        reason = ""  # none of these frames is there: nothing contradicts that
    empty = ReplayBuffer(40, 2, **OPTIONS)
    path = tmp_path / "hostile"
    path.write_bytes(edited(saved(tmp_path, empty), **entries))
    done = subprocess.run(
        [sys.executable, "-c", HOSTILE, path], check=True, capture_output=True, text=True, timeout=300
    )
    *message, kibibytes = done.stdout.splitlines()
    assert re.search(reason, " ".join(message))
    assert bool(message) == bool(reason)
    assert int(kibibytes) < 16_000


def test_the_edited_files_of_these_tests_are_good_ones(tmp_path: Path) -> None:
    """What makes the hostile files above must itself be right."""
    content = saved(tmp_path)
    assert edited(content) == content
    path = tmp_path / "edited"
    path.write_bytes(edited(content, gamma="0.5", seed="3"))
    replay = ReplayBuffer.from_file(path)
    assert (replay.gamma, replay.seed) == (0.5, 3)


@pytest.mark.parametrize(
    "name", ["capacity", "num_envs", "frame_shape", "stack", "n_step", "guard_frames", "seed"]
)
@pytest.mark.parametrize("value", ["", "x", "-1", "1e3", " 40", "040", str(2**64), "nan"])
def test_numbers_that_save_never_writes_are_refused(tmp_path: Path, name: str, value: str) -> None:
    path = tmp_path / "odd"
    path.write_bytes(edited(saved(tmp_path), **{name: value}))
    with pytest.raises(ValueError, match=r"^[a-z_]+: "):
        ReplayBuffer.from_file(path)


# Versions -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("storage", ["raw"], indirect=True)
@pytest.mark.parametrize("path", [VERSION_1, VERSION_2], ids=["1", "2"])
def test_older_versions_are_still_loaded(tmp_path: Path, path: Path) -> None:
    """Runs that were saved before the header had a checksum, or named a storage, go on."""
    replay, expected = ReplayBuffer(40, 2, **OPTIONS), played()
    replay.load(path)
    assert replay.invariant_violation() == ""
    assert saved(tmp_path, replay) == saved(tmp_path, expected)


@pytest.mark.parametrize("storage", ["raw"], indirect=True)
def test_options_are_taken_from_the_second_version(tmp_path: Path) -> None:
    assert saved(tmp_path, ReplayBuffer.from_file(VERSION_2)) == saved(tmp_path)


@pytest.mark.parametrize("storage", ["delta"], indirect=True)
@pytest.mark.parametrize("path", [VERSION_1, VERSION_2], ids=["1", "2"])
def test_raw_frames_are_not_loaded_into_a_buffer_of_the_other_storage(path: Path) -> None:
    """Fault: pixels taken for records. A buffer of this version says of its own file what it is."""
    replay = ReplayBuffer(40, 2, **OPTIONS)
    with pytest.raises(ValueError, match="saved with storage raw, but this buffer has delta"):
        replay.load(path)


@pytest.mark.parametrize(("one", "other"), [("raw", "delta"), ("delta", "raw")])
def test_a_file_of_the_other_storage_is_refused_by_name(tmp_path: Path, one: str, other: str) -> None:
    path = tmp_path / "replay"
    ReplayBuffer(40, 2, **OPTIONS, storage=one).save(path)
    with pytest.raises(ValueError, match=f"saved with storage {one}, but this buffer has {other}"):
        ReplayBuffer(40, 2, **OPTIONS, storage=other).load(path)
    assert ReplayBuffer.from_file(path).storage == one


def test_options_are_not_taken_from_the_first_version() -> None:
    with pytest.raises(
        ValueError, match=r"^path: .*older: version 1,.*version 3: make a buffer with the options"
    ):
        ReplayBuffer.from_file(VERSION_1)


@pytest.mark.parametrize("storage", ["raw"], indirect=True)
@pytest.mark.parametrize("good", [VERSION_1, VERSION_2], ids=["1", "2"])
def test_a_damaged_file_of_an_older_version_is_refused(tmp_path: Path, good: Path) -> None:
    path = tmp_path / "damaged"
    replay = ReplayBuffer(40, 2, **OPTIONS)
    for _ in damaged(good.read_bytes(), path, every_bit=0):
        with pytest.raises(ValueError, match=r"^path: "):
            replay.load(path)
    replay.load(path)


@pytest.mark.parametrize(
    ("version", "reason"), [("4", "newer: version 4, .* knows 3"), ("2", ""), ("0", "unknown"), ("", "")]
)
def test_other_versions_are_refused_by_name(tmp_path: Path, version: str, reason: str) -> None:
    path = tmp_path / "other"
    path.write_bytes(edited(saved(tmp_path), version=version))
    for read in (ReplayBuffer.from_file, played().load):
        with pytest.raises(ValueError, match=rf"^path: .*{reason}"):
            read(path)


# What is no file ------------------------------------------------------------------------------------------


def make_link(path: Path) -> None:
    (path.parent / "precious").write_bytes(b"precious")
    path.symlink_to("precious")


def make_socket(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as unix:
        unix.bind(os.fspath(path))


NO_FILES: dict[str, Callable[[Path], None]] = {
    "link": make_link,
    "link, dangling": lambda path: path.symlink_to("nothing"),
    "link, to a device": lambda path: path.symlink_to("/dev/null"),
    "folder": Path.mkdir,
    "FIFO": lambda path: os.mkfifo(path),
    "socket": make_socket,
}


def contents(folder: Path) -> dict[str, Any]:
    """Every entry of a folder with its inode and, of files, what it holds."""
    return {
        path.name: (path.lstat().st_ino, path.read_bytes() if path.is_file() else path.lstat().st_mode)
        for path in folder.iterdir()
    }


@pytest.mark.parametrize("kind", NO_FILES)
def test_saving_neither_follows_nor_replaces_what_is_no_file(tmp_path: Path, kind: str) -> None:
    """Fault: a rename onto a link or a FIFO, which is then gone."""
    NO_FILES[kind](tmp_path / "replay")
    before = contents(tmp_path)
    with pytest.raises(ValueError, match=rf"^path: .*replay: it is a {kind.split(',')[0]}, which"):
        played().save(tmp_path / "replay")
    assert contents(tmp_path) == before


@pytest.mark.parametrize("make", [make_link, lambda path: path.write_bytes(b"mine")])
def test_saving_leaves_other_files_alone(tmp_path: Path, make: Callable[[Path], Any]) -> None:
    """Fault: a temporary file by a fixed name, which a user may have or have linked to something."""
    make(tmp_path / "replay.partial")
    before = contents(tmp_path)
    played().save(tmp_path / "replay")
    played().save(tmp_path / "replay")
    after = contents(tmp_path)
    assert after.pop("replay")
    assert after == before


def test_a_save_that_fails_leaves_nothing(tmp_path: Path, storage: str) -> None:
    """Fault: a file that is half written left behind, or taken for the old one."""
    path = tmp_path / "replay"
    path.write_bytes(b"the old one")
    program = (
        "import resource, sys; sys.path.insert(0, sys.argv[2]); import signal\n"
        "from tests.replay.test_replay_files import played\n"
        "from fastdqn.replay import ReplayBuffer\n"
        "ReplayBuffer.__init__.__kwdefaults__['storage'] = sys.argv[3]\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN); resource.setrlimit(resource.RLIMIT_FSIZE, (900, 900))\n"
        "try: played().save(sys.argv[1])\n"
        "except OSError as error: print(error.errno)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, path, Path(__file__).parents[2], storage],
        check=True,
        capture_output=True,
        text=True,
    )
    assert done.stdout.split()
    assert contents(tmp_path).keys() == {"replay"}
    assert path.read_bytes() == b"the old one"


def test_saves_of_several_buffers_to_one_file_do_not_mix(tmp_path: Path) -> None:
    """Fault: two saves that write into the same temporary file."""
    path = tmp_path / "replay"
    buffers = [played(steps) for steps in (5, 12, 30)]
    threads = [
        threading.Thread(target=lambda replay=replay: [replay.save(path) for _ in range(30)])
        for replay in buffers
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert ReplayBuffer.from_file(path).stats() in [replay.stats() for replay in buffers]
    assert contents(tmp_path).keys() == {"replay"}


def test_a_fifo_is_refused_and_not_read(tmp_path: Path) -> None:
    """Fault: waiting for a writer, or taking what somebody else was to read."""
    path = tmp_path / "fifo"
    os.mkfifo(path)
    for read in (ReplayBuffer.from_file, played().load):
        with pytest.raises(ValueError, match="it is a FIFO"):
            read(path)
    descriptor = os.open(path, os.O_RDWR)
    try:
        os.write(descriptor, b"for another")
        with pytest.raises(ValueError, match="it is a FIFO"):
            ReplayBuffer.from_file(path)
        assert os.read(descriptor, 100) == b"for another"
    finally:
        os.close(descriptor)


@pytest.mark.parametrize("path", ["/dev/zero", "/dev/null", "/dev/tty", "/dev", "/proc/self/fd/0"])
def test_devices_and_folders_are_refused(path: str) -> None:
    for read in (ReplayBuffer.from_file, played().load):
        with pytest.raises(ValueError, match=r"^path: "):
            read(path)


def test_names_may_be_any_bytes(tmp_path: Path) -> None:
    """Fault: a name that is no UTF-8 can be neither saved to nor named in a message."""
    path = Path(os.fsdecode(os.fsencode(tmp_path) + b"/replay-\xff"))
    played().save(path)
    assert ReplayBuffer.from_file(path).stats() == played().stats()
    path.write_bytes(b"damaged")
    with pytest.raises(ValueError, match=r"^path: .*replay-\udcff: "):
        ReplayBuffer.from_file(path)
    path.unlink()
    with pytest.raises(FileNotFoundError, match="replay-\udcff"):
        ReplayBuffer.from_file(path)


def test_a_link_to_a_file_may_be_read(tmp_path: Path) -> None:
    played().save(tmp_path / "replay")
    (tmp_path / "link").symlink_to("replay")
    assert ReplayBuffer.from_file(tmp_path / "link").stats() == played().stats()
