"""The training loops that training_peers.py compares: each a program of its own that waits at updates.

    python benchmarks/training_loops.py NAME READ WRITE SETTINGS

NAME is one of `LOOPS`, READ and WRITE are file descriptors, SETTINGS is JSON. The program sets up its library as
its authors' Atari example does and trains. At its first update, and then after as many updates as it was last
told, it writes a line and waits for the next number; 0 ends it.
"""

from __future__ import annotations

import json
import os
import runpy
import sys
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

GAMES = 8
STEPS_PER_UPDATE = 4

CLEANRL_MENDS = (
    ("import gymnasium as gym\n", "import gymnasium as gym\nimport ale_py\ngym.register_envs(ale_py)\n"),
    ("gym.wrappers.GrayScaleObservation(env)", "gym.wrappers.GrayscaleObservation(env)"),
    ("gym.wrappers.FrameStack(env, 4)", "gym.wrappers.FrameStackObservation(env, 4)"),
    (
        "for i in range(args.num_envs)]\n",
        "for i in range(args.num_envs)], autoreset_mode=gym.vector.AutoresetMode.SAME_STEP\n",
    ),
    ('infos["final_observation"]', 'infos["final_obs"]'),
    ('if "final_info" in infos:', 'if isinstance(infos.get("final_info"), list):'),
)
"""What `dqn_atari.py` has to have changed: it was written for Gymnasium 0.29 and Python 3.8 to 3.10."""


class Gate:
    """Counts updates, and stops the program where it was told to.

    Args:
        commands: File descriptor that numbers of updates are read from, a line each.
        replies: File descriptor that a line is written to when they are done.
    """

    def __init__(self, commands: int, replies: int) -> None:
        self._commands, self._replies = os.fdopen(commands), os.fdopen(replies, "w")
        self._left = 1

    def passed(self, *_: Any) -> None:
        """Take note of an update."""
        self._left -= 1
        if self._left:
            return
        print(json.dumps(threads()), file=self._replies, flush=True)
        self._left = int(self._commands.readline() or 0)
        if not self._left:
            os._exit(0)  # without what the library would still save


def threads() -> dict[str, int]:
    """Return how many threads PyTorch computes with."""
    import torch

    return {"torch_threads": torch.get_num_threads()}


def watch_optimizers(gate: Gate) -> None:
    """Count the steps of every optimizer of PyTorch's."""
    from torch.optim.optimizer import register_optimizer_step_post_hook

    register_optimizer_step_post_hook(gate.passed)


def fastdqn(gate: Gate, settings: dict[str, Any], precision: str = "fp32") -> None:
    """Our command, with Nature's network and Adam as the others have it."""
    from fastdqn.openmp import shorten_waits

    shorten_waits()  # before torch, as the command does; the patch below imports torch
    from fastdqn.cli import main
    from fastdqn.engine.learner import Learner

    launch = Learner.launch

    def counted(self: Learner, *arguments: Any) -> Any:
        results = launch(self, *arguments)
        gate.passed()
        return results

    Learner.launch = counted  # type: ignore[method-assign]
    words = f"""train {settings["game"]}-v5 --preset nature --optimizer.name adam --optimizer.learning-rate 1e-4
        --env.num-envs {GAMES} --learner.steps-per-update {STEPS_PER_UPDATE}
        --replay.capacity {settings["capacity"]} --replay.warmup-steps {settings["warmup_steps"]}
        --exploration.max {settings["epsilon"]} --exploration.min {settings["epsilon"]}
        --pipeline.precision {precision} --progress plain --run-dir {Path.cwd() / "run"}"""
    sys.argv = ["fastdqn", *words.split()]
    main()


def stable_baselines3(gate: Gate, settings: dict[str, Any], games: int) -> None:
    """Stable-Baselines3's DQN with the numbers of its zoo, all but the buffer's length and the number of games."""
    from stable_baselines3 import DQN
    from stable_baselines3.common import env_util, vec_env

    watch_optimizers(gate)
    envs = env_util.make_atari_env(f"ale_py:{settings['game']}NoFrameskip-v4", games)
    several = games > 1  # `train_freq` counts passes of all games
    DQN(
        "CnnPolicy",
        vec_env.VecFrameStack(envs, 4),
        learning_rate=1e-4,
        buffer_size=settings["capacity"],
        batch_size=32,
        learning_starts=settings["warmup_steps"],
        target_update_interval=1_000,
        train_freq=(1 if several else STEPS_PER_UPDATE, "step"),
        gradient_steps=games // STEPS_PER_UPDATE if several else 1,
        exploration_initial_eps=settings["epsilon"],
        exploration_final_eps=settings["epsilon"],
        seed=1,
        device="cpu",
    ).learn(10_000_000)


def cleanrl(gate: Gate, settings: dict[str, Any]) -> None:
    """CleanRL's `dqn_atari.py`, mended (`CLEANRL_MENDS`): one game, as it has it."""
    checkout = Path(settings["cleanrl"])
    script = checkout / "cleanrl" / "dqn_atari.py"
    mended = mend(script.read_text())
    watch_optimizers(gate)
    copy = Path.cwd() / script.name
    copy.write_text(mended)
    sys.path.insert(0, str(checkout))
    words = f"""--env-id {settings["game"]}NoFrameskip-v4 --no-cuda --buffer-size {settings["capacity"]}
        --learning-starts {settings["warmup_steps"]} --train-frequency {STEPS_PER_UPDATE}
        --start-e {settings["epsilon"]} --end-e {settings["epsilon"]}"""
    sys.argv = [script.name, *words.split()]
    runpy.run_path(str(copy), run_name="__main__")


def mend(script: str) -> str:
    """Return CleanRL's script as it runs here.

    Raises:
        ValueError: A passage that is to be mended is not there once.
    """
    for old, new in CLEANRL_MENDS:
        if script.count(old) != 1:
            raise ValueError(
                f"dqn_atari.py is another than the one that was mended: {old!r} is not there once"
            )
        script = script.replace(old, new)
    return script


def tianshou(gate: Gate, settings: dict[str, Any]) -> None:
    """Tianshou's DQN with EnvPool, as its example `atari_dqn.py` puts it together."""
    import ale_py
    import gymnasium
    from tianshou.algorithm import DQN
    from tianshou.algorithm.modelfree.dqn import DiscreteQLearningPolicy
    from tianshou.algorithm.optim import AdamOptimizerFactory
    from tianshou.data import Collector, VectorReplayBuffer
    from tianshou.env.atari import atari_wrapper
    from tianshou.env.atari.atari_network import DQNet, ScaledObsInputActionReprNet
    from tianshou.trainer import OffPolicyTrainerParams

    watch_optimizers(gate)
    gymnasium.register_envs(ale_py)  # it makes one game of Gymnasium's, beside EnvPool's
    # NumPy 2.4 takes no abstract type, `np.integer`, for that of an observation.
    atari_wrapper.get_space_dtype = lambda space: space.dtype.type
    env, envs, _ = atari_wrapper.make_atari_env(
        f"{settings['game']}NoFrameskip-v4", 1, GAMES, 1, scale=0, frame_stack=4
    )
    channels, height, width = env.observation_space.shape
    net = ScaledObsInputActionReprNet(DQNet(channels, height, width, env.action_space.n))
    policy = DiscreteQLearningPolicy(
        model=net, action_space=env.action_space, eps_training=settings["epsilon"]
    )
    algorithm = DQN(
        policy=policy,
        optim=AdamOptimizerFactory(lr=1e-4),
        target_update_freq=1_000 // STEPS_PER_UPDATE,
        is_double=False,
    )
    buffer = VectorReplayBuffer(
        settings["capacity"], GAMES, ignore_obs_next=True, save_only_last_obs=True, stack_num=4
    )
    collector = Collector(algorithm, envs, buffer, exploration_noise=True)
    collector.reset()
    collector.collect(n_step=settings["warmup_steps"])
    algorithm.run_training(
        OffPolicyTrainerParams(
            training_collector=collector,
            max_epochs=1,
            epoch_num_steps=10_000_000,
            collection_step_num_env_steps=GAMES,
            update_step_num_gradient_steps_per_sample=1 / STEPS_PER_UPDATE,
            batch_size=32,
            show_progress=False,
        )
    )


LOOPS: dict[str, Callable[[Gate, dict[str, Any]], None]] = {
    "fastdqn": fastdqn,
    "fastdqn-bf16": partial(fastdqn, precision="bf16"),
    "sb3": partial(stable_baselines3, games=GAMES),
    "sb3-one-game": partial(stable_baselines3, games=1),
    "cleanrl": cleanrl,
    "tianshou": tianshou,
}


def main() -> None:
    """Train until told to end, in an empty folder."""
    name, commands, replies, settings = sys.argv[1:]
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        LOOPS[name](Gate(int(commands), int(replies)), json.loads(settings))


if __name__ == "__main__":
    main()
