"""Stands for `fastdqn train` where the subject is who starts it: no torch, no game, a tenth of a second a run.

A run is a chain of numbers; each follows from the seed and the one before, as weights do. One that is stopped
saves and goes on from there; one that is killed goes on from its newest checkpoint. Seed 13 fails.
"""

from __future__ import annotations

import hashlib
import json
import os
import select
import sys
import time
from pathlib import Path

BLOCK = 10  # frames
SAVED_EVERY = 50


def main(words: list[str]) -> int:
    flags = dict(zip(words[1::2], words[2::2], strict=False))
    resuming = "--resume" in flags
    folder = Path(flags["--resume" if resuming else "--run-dir"])
    if resuming:
        config = json.loads((folder / "config.json").read_text())
        state = json.loads((max(folder.glob("checkpoints/frame-*")) / "state.json").read_text())
    else:
        folder.mkdir(exist_ok=True)
        config = json.loads(Path(flags["--config"]).read_text())
        write(folder / "config.json", config)
        (folder / "metrics.jsonl").unlink(missing_ok=True)
        state = {"frames": 0, "value": str(config["seed"])}
    if config["seed"] == 13:
        print("fastdqn train: seed 13 fails.\n  Try another.", file=sys.stderr)
        return 1
    about = {
        "start": time.monotonic(),
        "cores": sorted(os.sched_getaffinity(0)),
        "threads": os.environ["OMP_NUM_THREADS"],
        "gpu": os.environ.get("CUDA_VISIBLE_DEVICES"),
        "pid": os.getpid(),
        "resumed": resuming,
    }
    write(folder / "about.json", about)
    print("going on" if resuming else "beginning", flush=True)
    while state["frames"] < config["total_frames"]:
        time.sleep(0.004)
        state["value"] = hashlib.sha256(state["value"].encode()).hexdigest()
        state["frames"] += BLOCK
        if state["frames"] % SAVED_EVERY == 0:
            save(folder, state)
        if select.select([0], [], [], 0)[0] and not os.read(0, 1):
            save(folder, state)
            write(folder / "summary.json", {"interrupted": True})
            return 129
    save(folder, state)
    write(folder / "about.json", about | {"end": time.monotonic()})
    write(folder / "summary.json", {"interrupted": False})
    return 0


def write(path: Path, content: dict) -> None:
    """Replace the file in one step: tests read it as soon as it is there."""
    new = path.with_name(f"{path.name}.new")
    new.write_text(json.dumps(content))
    new.replace(path)


def save(folder: Path, state: dict) -> None:
    row = {"frames": state["frames"], "return_mean": 1.5, "timing": {"fps_recent": 2_500.0}}
    with (folder / "metrics.jsonl").open("a") as file:
        file.write(json.dumps(row) + "\n")
    final = folder / f"checkpoints/frame-{state['frames']:012d}"
    if final.exists():
        return
    new = final.with_name("tmp-new")
    new.mkdir(parents=True, exist_ok=True)
    (new / "state.json").write_text(json.dumps(state))
    new.rename(final)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
