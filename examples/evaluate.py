"""Score a run from Python: python examples/evaluate.py RUN [EPISODES]."""

from __future__ import annotations

import sys

import fastdqn


def main() -> None:
    """Play some games and print their scores."""
    episodes = int(sys.argv[2]) if len(sys.argv) > 2 else 5
    result = fastdqn.evaluate(sys.argv[1], episodes=episodes, epsilon=0.05, seed=1)
    print(f"{result.game}, {len(result.returns)} games: {result.returns}")
    print(f"mean {result.row()['mean']:.1f}, longest {max(result.lengths_frames) / 60:.0f} s")


if __name__ == "__main__":
    main()
