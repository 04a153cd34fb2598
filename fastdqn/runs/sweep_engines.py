"""Who trains the runs of a sweep: this machine's processes."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from typing import TYPE_CHECKING

from fastdqn.errors import RunFailedError, UserError
from fastdqn.runs import launch
from fastdqn.runs.launch import Outcome
from fastdqn.runs.sweep import PlannedRun, State, Sweep, is_done

if TYPE_CHECKING:
    from fastdqn.runs.placement import Slot

TICK_SECONDS = 0.5
"""Time between two looks at the runs."""

Watch = Callable[[dict[str, Outcome | State]], None]
"""Takes, by the names of runs, how each ended, or `running`; the others have not begun."""


def local(
    sweep: Sweep,
    slots: Sequence[Slot],
    watch: Watch = lambda known: None,
    stop_requested: Callable[[], bool] = lambda: False,
) -> dict[str, Outcome]:
    """Train the runs of a sweep in processes of this machine, as many at once as there are slots.

    One that fails ends no other.

    Args:
        sweep: It; runs that have ended are passed over.
        slots: What each process has to itself; at least one, if there is anything to be trained.
        watch: Called about twice a second, and at the end.
        stop_requested: Asked as often; every run is saved and stopped when it says yes.

    Returns:
        How each ended, by name.
    """
    stop, kill = threading.Event(), threading.Event()
    free: queue.SimpleQueue[Slot] = queue.SimpleQueue()
    for slot in slots:
        free.put(slot)
    left = [run for run in sweep.runs if not is_done(sweep.folder(run), run.config)]
    outcomes = {run.name: Outcome("done") for run in sweep.runs if run not in left}
    known: dict[str, Outcome | State] = {**outcomes}

    def train(run: PlannedRun) -> Outcome:
        slot = free.get()
        try:
            if not stop.is_set():
                known[run.name] = "running"
            return launch.train(sweep, run, slot, stop.is_set, kill.is_set)
        except (OSError, UserError, RunFailedError) as error:
            return Outcome("failed", next(iter(str(error).splitlines()), type(error).__name__))
        finally:
            free.put(slot)

    with ThreadPoolExecutor(max(1, len(slots))) as pool:
        try:
            futures: dict[Future[Outcome], PlannedRun] = {pool.submit(train, run): run for run in left}
            pending = set(futures)
            while pending:
                ended, pending = wait(pending, TICK_SECONDS, FIRST_COMPLETED)
                for future in ended:
                    outcomes[futures[future].name] = known[futures[future].name] = future.result()
                watch(dict(known))
                if stop_requested():
                    stop.set()
        except BaseException:  # a second signal, or a bug: nothing is left behind
            kill.set()
            pool.shutdown(wait=True, cancel_futures=True)
            raise
    return outcomes
