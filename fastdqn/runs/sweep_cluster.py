"""Sweeps on other machines, over a folder that all of them share: tasks of Ray, or jobs of Slurm by submitit.

A task does on its machine what `launch.train` does here, with the cores and the GPU that the cluster gives it.
Whoever submits it follows the runs' folders, and asks for a stop by a file there. A task that is started again on
another machine goes on from the run's newest checkpoint, so the end is the same.

What a task imports stands at the top: not torch, of which each run's process has its own.
"""

from __future__ import annotations

import logging
import math
import shutil
import signal
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Protocol

from fastdqn.errors import UserError
from fastdqn.runs import launch
from fastdqn.runs.launch import Outcome
from fastdqn.runs.sweep import PlannedRun, State, Sweep, can_resume, is_done
from fastdqn.runs.sweep_engines import TICK_SECONDS, Watch

STOP_FILE = "stop"
"""While it lies in a sweep's folder its runs are saved and stopped, on whichever machine."""

RETRIES = 20
"""How often Ray starts a task again whose node or process was lost. A run that takes its node down each time must
not do so forever; one that is lost more often is told as failed, and goes on when the sweep is typed again."""

MINUTES = 1440
"""A Slurm job's time, where nothing else is asked for. A run that needs more is submitted again, and goes on."""

_MOST_TIMES = 1_000  # that a run is submitted again because its time was over


def train(sweep: Sweep, run: PlannedRun) -> Outcome:
    """Train a run on the machine that this is; what Ray calls.

    Args:
        sweep: Its sweep, whose path all machines share.
        run: It.
    """
    return launch.train(sweep, run, None, (sweep.path / STOP_FILE).exists)


class Job:
    """What submitit calls and pickles: `train`, which saves and stops the run when Slurm is about to end the job.

    Args:
        sweep: The run's sweep, whose path all machines share.
        run: It.
    """

    def __init__(self, sweep: Sweep, run: PlannedRun) -> None:
        self.sweep, self.run = sweep, run

    def __call__(self) -> Outcome:
        """Train it; return how its process ended."""
        asked = self.sweep.path / STOP_FILE
        with postponed(signal.SIGUSR2) as ending:
            return launch.train(self.sweep, self.run, None, lambda: ending() or asked.exists())

    def checkpoint(self) -> Any:
        """Answer submitit, which then submits this again."""
        import submitit

        return submitit.helpers.DelayedSubmission(self)


@contextmanager
def postponed(number: signal.Signals) -> Iterator[Callable[[], bool]]:
    """Keep a signal from its handler until the block has ended.

    Yields:
        Whether it has come.
    """
    came = False

    def note(*_: object) -> None:
        nonlocal came
        came = True

    before = signal.signal(number, note)
    try:
        yield lambda: came
    finally:
        signal.signal(number, before)
        if came:
            signal.raise_signal(number)


class Cluster(Protocol):
    """Where tasks are submitted to; what a handle is, it alone knows."""

    def submit(self, runs: Sequence[PlannedRun]) -> Sequence[Any]:
        """Submit runs; return a handle for each, which can be hashed."""

    def ended(self, handles: list[Any]) -> Sequence[Any]:
        """Return those that have ended, without waiting."""

    def result(self, handle: Any) -> Outcome:
        """Return how one ended that has; it may raise anything."""

    def cancel(self, handle: Any) -> None:
        """Withdraw one that has not begun."""


def on_ray(
    sweep: Sweep,
    *,
    jobs: int | None = None,
    runs_per_gpu: int = 1,
    watch: Watch = lambda known: None,
    stop_requested: Callable[[], bool] = lambda: False,
) -> dict[str, Outcome]:
    """Train the runs of a sweep as tasks of the Ray cluster that this machine belongs to, or RAY_ADDRESS names.

    Args:
        sweep: It, in a folder that every node has under the same name.
        jobs: Tasks that are submitted at once; `None` leaves it to the cluster's cores, GPUs and memory.
        runs_per_gpu: Tasks that share a GPU, where the cluster has some.
        watch: As in `sweep_engines.local`, like `stop_requested`.
        stop_requested: Asked twice a second.

    Raises:
        UserError: There is no cluster, or no node of it has what a run needs.
    """
    import ray

    on_sigterm = signal.getsignal(signal.SIGTERM)
    try:
        context = ray.init(address="auto", log_to_driver=False, logging_level=logging.ERROR)
    except (ConnectionError, RuntimeError, ValueError) as error:
        raise UserError(
            f"engine = ray: no cluster answers: {' '.join(str(error).split())}\n"
            "`ray start` makes one; docs/scale.md has a recipe."
        ) from None
    finally:
        signal.signal(signal.SIGTERM, on_sigterm)  # Ray has put its own there, which ends this process
    with context:
        return _followed(sweep, _Ray(sweep, runs_per_gpu), jobs, watch, stop_requested)


class _Ray:
    """Tasks of the Ray cluster that this process is connected to."""

    def __init__(self, sweep: Sweep, runs_per_gpu: int) -> None:
        import ray

        all_nodes: Any = ray.nodes  # which has no types
        nodes = [node["Resources"] for node in all_nodes() if node["Alive"]]
        gpus = 1 / runs_per_gpu if any(node.get("GPU") for node in nodes) else 0.0
        self._sweep = sweep
        self._needs = {run.name: _needs(sweep, run, gpus) for run in sweep.runs}
        for name, need in self._needs.items():
            _check_room(name, need, nodes)
        self._task = ray.remote(max_retries=RETRIES)(train)

    def submit(self, runs: Sequence[PlannedRun]) -> Sequence[Any]:
        return [self._options(run).remote(self._sweep, run) for run in runs]

    def _options(self, run: PlannedRun) -> Any:
        need = self._needs[run.name]
        return self._task.options(
            name=run.name, num_cpus=need["CPU"], num_gpus=need["GPU"], memory=need["memory"]
        )

    def ended(self, handles: list[Any]) -> Sequence[Any]:
        import ray

        done, _ = ray.wait(handles, num_returns=len(handles), timeout=0.0)
        return done

    def result(self, handle: Any) -> Outcome:
        import ray

        outcome: Outcome = ray.get(handle)
        return outcome

    def cancel(self, handle: Any) -> None:
        import ray

        ray.cancel(handle)


def _needs(sweep: Sweep, run: PlannedRun, gpus: float) -> dict[str, float]:
    """Return what a run needs, by Ray's names of it: cores, GPUs, bytes."""
    from fastdqn.runs.placement import host_need

    return {"CPU": sweep.threads, "GPU": gpus, "memory": host_need(run.config, on_gpu=gpus > 0)}


def _check_room(name: str, need: Mapping[str, float], nodes: Sequence[Mapping[str, float]]) -> None:
    """Raise where no node can ever have a run: Ray would wait for one that does, and say nothing."""
    if any(all(node.get(what, 0) >= amount for what, amount in need.items()) for node in nodes):
        return
    has = "; ".join(sorted({_in_words(node) for node in nodes}))
    raise UserError(f"engine = ray: {name} needs {_in_words(need)}, and no node has that. They have: {has}")


def _in_words(amounts: Mapping[str, float]) -> str:
    from fastdqn.runs.memory import gib

    cores = amounts.get("CPU", 0)
    gpus = f", {amounts['GPU']:g} GPU" if amounts.get("GPU") else ""
    return f"{cores:g} core{'s' * (cores != 1)}{gpus} and {gib(int(amounts.get('memory', 0)))}"


def on_slurm(
    sweep: Sweep,
    *,
    jobs: int | None = None,
    options: Mapping[str, Any] | None = None,
    cluster: str = "slurm",
    watch: Watch = lambda known: None,
    stop_requested: Callable[[], bool] = lambda: False,
) -> dict[str, Outcome]:
    """Train the runs of a sweep as one array of Slurm jobs, by submitit.

    Args:
        sweep: It, in a folder that every node has under the same name.
        jobs: Jobs that run at once; `None` leaves it to submitit and Slurm.
        options: More of submitit's parameters, such as `{"timeout_min": 1440, "gpus_per_node": 1}`.
        cluster: `slurm`, or `local` for processes of this machine.
        watch: As in `sweep_engines.local`, like `stop_requested`.
        stop_requested: Asked twice a second.

    Raises:
        UserError: There is no Slurm here, or submitit or Slurm refuses an option.
    """
    if cluster == "slurm" and not (shutil.which("sbatch") and shutil.which("srun")):
        raise UserError("engine = slurm: this machine has no Slurm (no sbatch, no srun).")
    parameters = {"slurm_array_parallelism": jobs} if jobs else {}
    return _followed(
        sweep, _Slurm(sweep, cluster, {**parameters, **(options or {})}), None, watch, stop_requested
    )


class _Slurm:
    """Jobs of Slurm, or of submitit's stand-in for it, submitted as one array."""

    def __init__(self, sweep: Sweep, cluster: str, options: Mapping[str, Any]) -> None:
        import submitit

        from fastdqn.runs.placement import host_need

        self._sweep = sweep
        memory = max(host_need(run.config, on_gpu=False) for run in sweep.runs)
        parameters: dict[str, Any] = {
            "name": sweep.path.name,
            "cpus_per_task": sweep.threads,
            "mem_gb": math.ceil(memory / 2**30),
            "timeout_min": MINUTES,
            **options,
        }
        try:
            self._executor = submitit.AutoExecutor(
                folder=sweep.path / "slurm", cluster=cluster, slurm_max_num_timeout=_MOST_TIMES
            )
            self._executor.update_parameters(**parameters)
        except (AssertionError, NameError, ValueError) as error:
            raise UserError(
                f"engine = slurm: {str(error).splitlines()[0]}\n"
                "What is Slurm's own begins with slurm_, such as slurm_partition."
            ) from None

    def submit(self, runs: Sequence[PlannedRun]) -> Sequence[Any]:
        import submitit

        try:
            with self._executor.batch():
                return [self._executor.submit(Job(self._sweep, run)) for run in runs]
        except (TypeError, submitit.core.utils.FailedJobError) as error:
            raise UserError(f"engine = slurm: {error}") from None

    def ended(self, handles: list[Any]) -> Sequence[Any]:
        return [job for job in handles if job.done()]

    def result(self, handle: Any) -> Outcome:
        outcome: Outcome = handle.result()
        return outcome

    def cancel(self, handle: Any) -> None:
        handle.cancel()


def _followed(
    sweep: Sweep,
    cluster: Cluster,
    jobs: int | None,
    watch: Watch,
    stop_requested: Callable[[], bool],
) -> dict[str, Outcome]:
    """Submit the runs that have not ended, and follow them to their ends."""
    (sweep.path / STOP_FILE).unlink(missing_ok=True)
    left = [run for run in sweep.runs if not is_done(sweep.folder(run), run.config)]
    known: dict[str, Outcome | State] = {run.name: Outcome("done") for run in sweep.runs if run not in left}
    under_way: dict[Any, tuple[PlannedRun, int]] = {}
    try:
        while left or under_way:
            room = len(left) if jobs is None else jobs - len(under_way)
            new, left = left[:room], left[room:]
            if new:
                begun = [(run, _said(sweep, run)) for run in new]
                under_way |= zip(cluster.submit(new), begun, strict=True)
            for handle in cluster.ended(list(under_way)):
                known[under_way.pop(handle)[0].name] = _outcome(cluster, handle)
            for run, said in under_way.values():
                known[run.name] = "running" if _said(sweep, run) > said else "waiting"
            watch(dict(known))
            if stop_requested():
                (sweep.path / STOP_FILE).touch()
                left = []
                for handle in [one for one, (run, _) in under_way.items() if known[run.name] == "waiting"]:
                    del under_way[handle]
                    cluster.cancel(handle)
            time.sleep(TICK_SECONDS)
    except BaseException:
        (sweep.path / STOP_FILE).touch()  # nobody follows them any more
        raise
    watch(dict(known))
    unbegun = {
        run.name: Outcome("stopped" if can_resume(sweep.folder(run)) else "waiting") for run in sweep.runs
    }
    return unbegun | {name: one for name, one in known.items() if isinstance(one, Outcome)}


def _outcome(cluster: Cluster, handle: Any) -> Outcome:
    """Return how a task ended; one that was lost for good, or that has a bug, ends no other."""
    try:
        return cluster.result(handle)
    except Exception as error:  # Ray and submitit have a dozen kinds, beside what the task raised
        return Outcome("failed", str(error).strip().splitlines()[-1])


def _said(sweep: Sweep, run: PlannedRun) -> int:
    """Return how much a run has said so far, bytes; more means that it has begun, or gone on."""
    try:
        return sweep.log_file(run).stat().st_size
    except FileNotFoundError:
        return 0
