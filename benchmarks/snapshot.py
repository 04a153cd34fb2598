"""How fast is a full buffer saved and loaded, beside dd on the same disk, and in how much memory?

    python benchmarks/snapshot.py --folder runs --out benchmarks/results/snapshot.json

It needs disk for two files and memory for one buffer, 7.1 GB each for a million frames; the files are deleted in
the end. Saving and dd write until the bytes are on the disk (dd with conv=fsync), random bytes both of them, since
some disks are faster with zeros; loading and dd read a file that the system has been told to drop from its cache.
They take turns. Time is of the clock, since it is the disk that is measured.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import common
import numpy as np

from fastdqn.replay import ReplayBuffer

ENVS, STACK, BLOCK = 8, 4, 1 << 20  # dd's blocks are as large as the snapshot's system calls


def filled(frames: int) -> ReplayBuffer:
    """Make a prioritised buffer and fill every slot of it."""
    replay = ReplayBuffer(frames, ENVS, alpha=0.5)
    random = np.random.default_rng(0)
    frame = random.integers(0, 256, (256, ENVS, 84, 84), np.uint8)
    action, reward, flags = np.zeros(ENVS, np.int64), np.zeros(ENVS, np.float32), np.zeros(ENVS, bool)
    observation = np.repeat(frame[0][:, None], STACK, axis=1)
    replay.begin(observation)
    for step in range(1, replay.ring + 10):
        observation = np.concatenate([observation[:, 1:], frame[step % len(frame)][:, None]], axis=1)
        replay.add(action, observation, reward, flags, flags)
    return replay


def status_bytes(field: str) -> int:
    """Return a figure of /proc/self/status, such as VmRSS."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(field + ":"):
            return int(line.split()[1]) * 1024
    raise KeyError(field)


def timed(work: Callable[[], Any]) -> tuple[float, int]:
    """Run it; return its seconds, and the most memory above what was there before, in bytes."""
    Path("/proc/self/clear_refs").write_text("5")  # VmHWM starts anew
    before, start = status_bytes("VmRSS"), time.perf_counter()
    work()
    return time.perf_counter() - start, status_bytes("VmHWM") - before


def dd(*operands: str, descriptors: Sequence[int] = ()) -> float:
    """Seconds of a dd, which is given the open files `descriptors`."""
    start = time.perf_counter()
    subprocess.run(["dd", f"bs={BLOCK}", "status=none", *operands], check=True, pass_fds=descriptors)
    return time.perf_counter() - start


def dd_random(path: Path, size: int) -> float:
    """Seconds in which dd writes random bytes to the disk, from a file in memory again and again."""
    source = os.memfd_create("random")
    try:
        blocks = min(256, size // BLOCK)
        os.write(source, np.random.default_rng(1).bytes(blocks * BLOCK))
        operands = (f"if=/proc/self/fd/{source}", f"of={path}", "conv=notrunc,fsync")
        seeks = range(0, size // BLOCK, blocks)
        return sum(dd(*operands, f"seek={seek}", descriptors=[source]) for seek in seeks)
    finally:
        os.close(source)


def remove(path: Path) -> None:
    """Delete a file, and wait until the disk has done so: otherwise the next to write would pay for it."""
    path.unlink(missing_ok=True)
    os.sync()


def drop_from_cache(path: Path) -> None:
    """Make the next reading come from the disk."""
    with path.open("rb") as file:
        os.fsync(file.fileno())
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def load(path: Path) -> tuple[float, int, int]:
    """Load in a process that has nothing else: seconds, most memory, and the buffer's own memory, in bytes."""
    kept = []
    seconds, memory = timed(lambda: kept.append(ReplayBuffer.from_file(path)))
    return seconds, memory, kept[0].stats().allocated_bytes


def saving(frames: int, trials: int, file: Path) -> dict[str, Any]:
    """Save and write with dd by turns; `file` stays."""
    replay, plain = filled(frames), file.with_name("dd")
    saves, writes = [], []
    for _ in range(trials):
        remove(file)
        saves.append(timed(partial(replay.save, file)))
        writes.append(dd_random(plain, file.stat().st_size))
        remove(plain)
    seconds, memory = zip(*saves, strict=True)
    return {
        "file_bytes": file.stat().st_size,
        "save_seconds": common.spread(list(seconds)),
        "dd_write_seconds": common.spread(writes),
        "save_over_dd": statistics.median(a / b for a, b in zip(seconds, writes, strict=True)),
        "save_extra_memory_bytes": max(memory),
    }


def loading(trials: int, file: Path) -> dict[str, Any]:
    """Load, each time in a new process, and read with dd by turns."""
    loads, reads = [], []
    for _ in range(trials):
        drop_from_cache(file)
        with multiprocessing.get_context("spawn").Pool(1) as pool:
            loads.append(pool.apply(load, (file,)))
        drop_from_cache(file)
        reads.append(dd(f"if={file}", "of=/dev/null"))
    seconds, memory, own = zip(*loads, strict=True)
    return {
        "buffer_bytes": own[0],
        "load_seconds": common.spread(list(seconds)),
        "dd_read_seconds": common.spread(reads),
        "load_over_dd": statistics.median(a / b for a, b in zip(seconds, reads, strict=True)),
        "load_extra_memory_bytes": max(memory) - own[0],
    }


def main() -> None:
    """Measure, print the figures, and write the JSON."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--frames", type=int, default=1_000_000, help="frame slots of the buffer")
    parser.add_argument("--trials", type=int, default=3, help="of each")
    parser.add_argument("--folder", type=Path, default=Path(), help="where the files are made for a time")
    parser.add_argument("--out", type=Path, help="file for the figures; standard output without it")
    arguments = parser.parse_args()
    needed = int(arguments.frames * 84 * 84 * 2.1)
    if shutil.disk_usage(arguments.folder).free < needed:
        print(
            f"--folder {arguments.folder}: {needed / 1e9:.1f} GB of free disk are needed, for the saved buffer "
            "and dd's file. Name another folder, or fewer --frames.",
            file=sys.stderr,
        )
        sys.exit(2)
    with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
        file = Path(folder) / "replay.safetensors"
        results = saving(arguments.frames, arguments.trials, file) | loading(arguments.trials, file)
    for name, value in results.items():
        print(f"{name:38} {value['median'] if isinstance(value, dict) else value:,.2f}")
    common.write("snapshot", {"frames": arguments.frames, "trials": arguments.trials}, results, arguments.out)


if __name__ == "__main__":
    main()
