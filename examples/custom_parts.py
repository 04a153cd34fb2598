"""A network and a target rule of one's own: train with them, go on, evaluate, export.

    python examples/custom_parts.py

A run's folder holds the names of the parts, so this file registers them before it does anything with the run.
"""

import sys
from dataclasses import replace
from functools import partial
from pathlib import Path

from torch import nn

import fastdqn
from fastdqn.algorithm.layers import convolve
from fastdqn.algorithm.targets import Next
from fastdqn.algorithm.torsos import GREY_LEVELS, Torso


class TwoConvolutions(Torso):
    """The network of Mnih et al. 2013: 16 filters 8x8 stride 4, 32 of 4x4 stride 2."""

    def __init__(self, config, stack):
        super().__init__()
        self.conv1 = nn.Conv2d(stack, round(16 * config.width), 8, stride=4)
        self.conv2 = nn.Conv2d(self.conv1.out_channels, round(32 * config.width), 4, stride=2)
        self.features = 9 * 9 * self.conv2.out_channels

    def forward(self, pixels, draws):
        """Return [B, features]."""
        maps = convolve(pixels, self.conv1.weight / GREY_LEVELS, self.conv1.bias, 4)
        return convolve(maps, self.conv2.weight, self.conv2.bias, 2).flatten(1)


def soft_rule(temperature, values):
    """Value the next observation by all actions, the better ones more (Boltzmann's policy)."""
    q = values.target_next()
    every = q.argsort(dim=1, descending=True)
    weight = (q / temperature).softmax(dim=1).gather(1, every)
    return Next(every, weight, penalty=q.new_zeros(q.shape), bonus=q.new_zeros(len(q)))


fastdqn.register_torso("two-convolutions", TwoConvolutions)
fastdqn.register_rule("soft-example", lambda config: partial(soft_rule, 0.1))

if __name__ == "__main__":
    quick = fastdqn.PRESETS["quick"].config
    frames = int(sys.argv[1]) if len(sys.argv) > 1 else quick.total_frames
    config = replace(
        quick,
        total_frames=frames,
        stop_at_return=None,  # or there is nothing to go on with once Pong is solved
        network=replace(quick.network, torso="two-convolutions"),
        learner=replace(quick.learner, rule="soft-example"),
    )
    run = Path(fastdqn.train(config).run)
    fastdqn.resume_training(run, total_frames=frames + 4_000)
    print(fastdqn.evaluate(run, episodes=2))
