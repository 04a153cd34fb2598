"""Train from Python.

Type: python examples/train.py [RUN_DIR] [FRAMES]. The preset's own number of frames takes half an hour or more;
100000 show that it runs.
"""

from __future__ import annotations

import sys
from dataclasses import replace

import fastdqn


def main() -> None:
    """Change a preset, train, and tell how it went."""
    run_dir = sys.argv[1] if len(sys.argv) > 1 else None
    config = replace(fastdqn.PRESETS["quick"].config, game="Breakout-v5", seed=3)
    if len(sys.argv) > 2:
        config = replace(config, total_frames=int(sys.argv[2]))
    summary = fastdqn.train(config, run_dir, say=print)
    print(
        f"{summary.frames:,} frames, {summary.updates:,} updates; mean of 20 games {summary.mean_return_20}"
    )
    print(f"now: python examples/evaluate.py {summary.run}")


if __name__ == "__main__":
    main()
