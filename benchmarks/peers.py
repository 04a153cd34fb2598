"""Our replay buffer beside those that pip installs, all fed with the same recorded EnvPool frames.

    pip install -c constraints.txt -e '.[train,bench]'
    python benchmarks/peers.py --out benchmarks/results/peers.json
    python benchmarks/replay_table.py    # the table and the plot of docs/replay.md

Breakout is recorded first, with a seed: with lost lives as ends of episodes, without, and with a step limit.
Each library then works in a process of its own, on one thread. How fast it is stands beside a C memcpy of the
frames (benchmarks/floor.cpp, two runs of four a row) in the same process: short trials of both take turns at
random, medians count, and so does processor time alone, since a machine is seldom idle. Memory is what the process
got from the system until the buffer was full. Whether rows are right is found by comparing every byte of what
is sampled, from a buffer that has wrapped, with the whole stacks that were recorded.
"""

from __future__ import annotations

import argparse
import gc
import importlib.util
import multiprocessing
import sys
import tempfile
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from importlib import metadata
from pathlib import Path
from typing import Any

import common
import numpy as np
import replay
from peers_adapters import LIBRARIES, Buffer, UnavailableError
from peers_recording import ENVS, SETTINGS, Recording, record

DISTRIBUTIONS = ("cpprb", "stable-baselines3", "tianshou", "torchrl", "tensordict")
CHECKED_BATCH = 512


def resident_bytes() -> int:
    """Return the memory of this process that no file backs."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return sum(int(line.split()[1]) * 1024 for line in lines if line.startswith(("RssAnon", "RssShmem")))


def fed(name: str, capacity: int, recording: Recording, steps: int, prioritised: bool = False) -> Buffer:
    """Make a library's buffer and feed it with the first `steps` steps."""
    buffer = LIBRARIES[name].make(capacity, prioritised)
    for index in range(steps):
        buffer.add(recording.step(index))
    return buffer


def wrong_shares(name: str, folder: Path, capacity: int, batches: int) -> dict[str, float]:
    """Feed a buffer until its ring has wrapped; return the shares of wrong rows in `batches` (see `wrong`)."""
    recording = Recording(folder)
    buffer = fed(name, capacity, recording, steps_to_wrap(capacity))
    counts: dict[str, int] = {}
    for _ in range(batches):
        for what, count in recording.wrong(buffer.unpack(buffer.sample(CHECKED_BATCH))).items():
            counts[what] = counts.get(what, 0) + count
    return {what: count / (batches * CHECKED_BATCH) for what, count in counts.items()}


def steps_to_wrap(capacity: int) -> int:
    """Steps after which the oldest third of every ring is overwritten."""
    return capacity // ENVS * 4 // 3


def bytes_per_transition(name: str, recording: Recording, capacity: int, steps: int) -> tuple[float, Buffer]:
    """Memory that a full buffer got from the system, by transitions that can be sampled; and the buffer."""
    fed(name, 20 * ENVS, recording, 40)  # what the library itself takes is not the buffer's
    gc.collect()
    before = resident_bytes()
    buffer = fed(name, capacity, recording, steps)
    gc.collect()
    return (resident_bytes() - before) / len(buffer), buffer


def settle_allocator() -> None:
    """Free a large block, after which the C library keeps blocks of a batch's size instead of returning them.

    A training process soon comes to this by itself. Without it a library that allocates its batches may, by
    the order of calls alone, be seven times slower: every page of every batch is asked for anew.
    """
    np.ones(31 << 20, np.uint8)


def cost(name: str, folder: Path, capacity: int, trials: int) -> dict[str, Any]:
    """Memory and speed of one library, its ring wrapped."""
    recording, floor = Recording(folder), replay.Floor(capacity)
    steps = capacity // ENVS + 500
    memory, buffer = bytes_per_transition(name, recording, capacity, steps)
    result: dict[str, Any] = {"bytes_per_transition": memory, "transitions": len(buffer)}
    settle_allocator()
    plain = {size: floor.sampling(size, "separate") for size in (32, 512)}
    for size, copies in plain.items():
        calls = max(4, 1000 // size)
        result[f"sample_{size}"] = replay.compare(partial(buffer.sample, size), copies, calls, trials)
    adds = replay.compare(adding(buffer, recording, steps), floor.adding(newest(recording)), 100, trials)
    result["add_8"] = adds | {"rows_per_second": ENVS * adds["calls_per_second"]["median"]}
    del buffer  # room for the next
    try:
        prioritised = fed(name, capacity, recording, steps, prioritised=True)
    except UnavailableError as reason:
        return result | {"sample_and_update_32": None, "without_priorities": str(reason)}
    work = partial(prioritised.sample_and_update, 32, np.random.default_rng(2).random(32))
    return result | {"sample_and_update_32": replay.compare(work, plain[32], 31, trials)}


def adding(buffer: Buffer, recording: Recording, first: int) -> replay.Work:
    """One step a call, from where the feeding stopped."""
    indices = iter(range(first, 2**62))
    return lambda: buffer.add(recording.step(next(indices)))


def newest(recording: Recording) -> list[np.ndarray]:
    """Stacks for the floor of adding."""
    return [step.after for step in recording.steps[: replay.INPUT_CALLS]]


def floors(capacity: int, trials: int) -> dict[str, Any]:
    """The memcpy of one run of five frames beside that of two runs of four."""
    floor = replay.Floor(capacity)
    return {
        f"sample_{size}": replay.compare(
            floor.sampling(size, "window"), floor.sampling(size, "separate"), max(4, 1000 // size), trials
        )
        for size in (32, 512)
    }


def alone(function: Any, *arguments: Any) -> Any:
    """Call a function in a new process, so that nothing of another library is in memory, and return its result."""
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=context) as executor:
        return executor.submit(function, *arguments).result()


def measure(names: list[str], arguments: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """All figures, by library."""
    results: dict[str, Any] = {name: {"title": LIBRARIES[name].title, "wrong": {}} for name in names}
    for setting in reversed(SETTINGS):  # "lives" comes last and stays for the speed
        recording = folder / setting
        alone(record, recording, arguments.steps, arguments.seed, setting)
        for name in names:
            shares = alone(wrong_shares, name, recording, arguments.checked_capacity, arguments.batches)
            results[name]["wrong"][setting] = shares
            print(f"{name:18} {setting:12} wrong: " + ", ".join(f"{k} {v:.2%}" for k, v in shares.items()))
        if setting != "lives":
            for file in recording.iterdir():
                file.unlink()
    results["memcpy"] = {"title": "memcpy, one run of five"} | alone(
        floors, arguments.capacity, arguments.trials
    )
    for name in names:
        results[name] |= alone(cost, name, folder / "lives", arguments.capacity, arguments.trials)
        print(line(name, results[name]))
    return results


def line(name: str, result: dict[str, Any]) -> str:
    """One library's cost in a line."""
    parts = [f"{result['bytes_per_transition']:.0f} B"]
    for key in ("sample_32", "sample_512", "sample_and_update_32"):
        rate = result[key]
        parts.append(f"{key} {rate['calls_per_second']['median']:.0f}/s" if rate else f"{key} -")
    parts.append(f"adds {result['add_8']['rows_per_second']:.0f}/s")
    return f"{name:18} " + ", ".join([*parts, *filter(None, [result.get("without_priorities")])])


def missing(names: list[str]) -> dict[str, str]:
    """Return the chosen libraries that are not installed, and the module that each lacks."""
    return {n: LIBRARIES[n].module for n in names if importlib.util.find_spec(LIBRARIES[n].module) is None}


def versions() -> dict[str, str | None]:
    """Return the versions of the libraries that are installed."""
    found = {d.metadata["Name"].lower().replace("_", "-"): d.version for d in metadata.distributions()}
    return {name: found.get(name) for name in DISTRIBUTIONS}


def main() -> None:
    """Record, measure, print a line a figure, and write the JSON."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--libraries", nargs="+", choices=LIBRARIES, default=list(LIBRARIES))
    parser.add_argument("--skip-missing", action="store_true", help="go on without those not installed")
    parser.add_argument("--capacity", type=int, default=100_000, help="transitions, for memory and speed")
    parser.add_argument("--checked-capacity", type=int, default=16_000, help="transitions, for wrong rows")
    parser.add_argument("--batches", type=int, default=64, help=f"of {CHECKED_BATCH} rows, for wrong rows")
    parser.add_argument("--steps", type=int, default=2700, help="recorded transitions of each environment")
    parser.add_argument("--trials", type=int, default=51, help="pairs of trials")
    parser.add_argument("--seed", type=int, default=1, help="of the games and the actions")
    parser.add_argument("--out", type=Path, help="file for the figures; standard output without it")
    arguments = parser.parse_args()
    absent = missing(arguments.libraries)
    lacking = {"envpool"} if importlib.util.find_spec("envpool") is None else set()  # not to be skipped
    if absent or lacking:
        print(f"not installed: {', '.join(sorted({*absent.values(), *lacking}))}", file=sys.stderr)
    if lacking or (absent and not arguments.skip_missing):
        print(
            "peers.py compares with them, on frames of EnvPool. Install them, from the repository's root, with\n"
            "    pip install -c constraints.txt -e '.[train,bench]'\n"
            "or compare with the others alone: --skip-missing.",
            file=sys.stderr,
        )
        sys.exit(2)
    names = [name for name in arguments.libraries if name not in absent]
    with tempfile.TemporaryDirectory() as folder:
        results = measure(names, arguments, Path(folder))
    settings = {k: v for k, v in vars(arguments).items() if k != "out"}
    settings |= {"library_versions": versions(), "not_installed": absent}
    common.write("peers", settings, results, arguments.out)


if __name__ == "__main__":
    main()
