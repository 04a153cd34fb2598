"""How many threads compute beside other programs."""

from __future__ import annotations

import json
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest

from fastdqn import openmp
from fastdqn.openmp import OtherPrograms, busy_note, threads_beside


class Cores:
    """Stands for a machine of which others take so many cores, up to a moment, and this process one."""

    def __init__(
        self, monkeypatch: pytest.MonkeyPatch, others: float, usable: int = 2, until: float = 1e9
    ) -> None:
        self.now, self._others, self._until = 0.0, others, until
        clock = SimpleNamespace(sleep=self.sleep, perf_counter=lambda: 100.0 + self.now)
        monkeypatch.setattr(openmp, "_seconds", self._seconds)
        monkeypatch.setattr(openmp, "time", clock)
        monkeypatch.setattr(openmp.os, "sched_getaffinity", lambda process: set(range(usable)))

    def sleep(self, seconds: float) -> None:
        assert seconds > 0
        self.now += seconds

    def _seconds(self, usable: set[int]) -> tuple[float, float, float]:
        theirs = self._others * min(self.now, self._until)
        return 100.0 + self.now, 7.0 + theirs + self.now, 3.0 + self.now


@pytest.mark.parametrize(
    ("usable", "most", "others", "threads"),
    [
        (2, 2, 0.0, 2),
        (2, 2, 0.4, 2),  # a clock, a shell
        (2, 2, 0.6, 1),
        (2, 2, 1.0, 1),
        (2, 2, 2.0, 1),  # one at least
        (2, 1, 1.0, 1),
        (16, 16, 3.4, 13),
        (16, 16, 40.0, 1),
        (16, 8, 3.4, 8),  # two threads of the processor a core: PyTorch takes one of each
        (16, 8, 9.0, 7),
        (64, 4, 10.0, 4),  # set by the caller
    ],
)
def test_a_thread_for_each_core_that_nobody_else_is_using(monkeypatch, usable, most, others, threads):
    cores = Cores(monkeypatch, others, usable)
    seen = OtherPrograms()
    cores.sleep(0.1)
    assert threads_beside(seen, most) == (threads, pytest.approx(others))
    assert cores.now == pytest.approx(0.5 if threads == most else 2.0)
    cores.sleep(10)
    assert seen.cores() == pytest.approx(others)


def test_what_ends_within_a_second_decides_nothing(monkeypatch):
    """A command before this one, say, that still writes."""
    Cores(monkeypatch, 1.0, until=0.6)
    assert threads_beside(OtherPrograms(), 2) == (2, pytest.approx(0.1 / 1.5))


def test_a_look_that_took_long_enough_waits_for_nothing(monkeypatch):
    cores = Cores(monkeypatch, 0.0)
    seen = OtherPrograms()
    cores.sleep(3)
    threads_beside(seen, 2)
    assert cores.now == 3


def test_a_look_begins_with_the_process_unless_that_is_long_ago(monkeypatch):
    cores = Cores(monkeypatch, 0.0)
    for slept, usable, age in ((2, 2, 2), (11, 2, 0), (2, 1, 0)):
        monkeypatch.setattr(openmp, "_AT_START", [OtherPrograms()])
        cores.sleep(slept)
        monkeypatch.setattr(openmp.os, "sched_getaffinity", lambda process, usable=usable: set(range(usable)))
        assert openmp.looked_at().age == pytest.approx(age)
        assert openmp.looked_at().age == 0  # a second run's


def test_people_are_told_of_a_busy_machine():
    assert busy_note(0.49) == ""
    assert busy_note(1.04) == "other programs take 1.0 cores"


def test_only_the_cores_that_this_process_may_use_are_looked_at(monkeypatch, tmp_path):
    stat = tmp_path / "stat"
    stat.write_text("cpu 900 90 9 0 0\ncpu0 100 20 3 9999 9\ncpu1 1000 200 30 9 9\ncpu10 1 1 1 9\nintr 5 6\n")
    monkeypatch.setattr(openmp, "STAT", str(stat))
    monkeypatch.setattr(openmp.os, "sched_getaffinity", lambda process: {0, 10})
    monkeypatch.setattr(openmp.os, "sysconf", lambda name: 100)
    assert openmp._seconds(OtherPrograms().usable)[1] == pytest.approx(1.26)


@pytest.mark.parametrize("text", [None, "cpu0 a b c\n"])
def test_a_system_that_does_not_tell_is_taken_to_be_idle(monkeypatch, tmp_path, text):
    if text:
        (tmp_path / "stat").write_text(text)
    monkeypatch.setattr(openmp, "STAT", str(tmp_path / "stat"))
    assert OtherPrograms().cores() == 0.0


def tiny(**pipeline: Any) -> Any:
    fastdqn = pytest.importorskip("fastdqn")
    config = fastdqn.PRESETS["quick"].config
    return replace(
        config,
        game="Pong-v5",
        total_frames=640,
        stop_at_return=None,
        env=replace(config.env, num_envs=2, threads=1),
        network=replace(config.network, width=1 / 16),
        replay=replace(config.replay, capacity=1_000, warmup_steps=32),
        pipeline=replace(config.pipeline, **{"accelerate": "eager", "precision": "fp32", **pipeline}),
    )


@pytest.fixture
def two_threads(monkeypatch):
    torch = pytest.importorskip("torch")
    pytest.importorskip("envpool")
    monkeypatch.setattr(
        "fastdqn.engine.device.has_cuda", lambda: False
    )  # threads are chosen where a CPU computes
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    monkeypatch.delenv("OMP_NUM_THREADS")
    yield torch
    torch.set_num_threads(before)


@pytest.mark.parametrize(("others", "threads"), [(0.0, 2), (1.0, 1)])
def test_a_new_run_chooses_its_threads_and_keeps_them(monkeypatch, two_threads, tmp_path, others, threads):
    import fastdqn

    Cores(monkeypatch, others)
    seen, said = set(), []
    summary = fastdqn.train(
        tiny(),
        tmp_path / "run",
        report=lambda snapshot: seen.add(two_threads.get_num_threads()),
        say=said.append,
        stop_requested=iter([False] * 40 + [True] * 9).__next__,
    )
    assert seen == {threads}
    assert two_threads.get_num_threads() == 2  # the caller's
    assert json.loads((tmp_path / "run/config.json").read_text())["pipeline"]["threads"] == threads
    told = "other programs take 1.0 cores: computing with 1 of 2 threads, which is faster beside them"
    assert any(told in line for line in said) == (threads == 1)
    assert (told in (tmp_path / "run/log.txt").read_text()) == (threads == 1)
    assert any(f", eager, {threads} thread" in line for line in said)

    Cores(monkeypatch, 0.0)  # they are gone, and sums are to round as before
    seen.clear()
    fastdqn.resume_training(summary.run, report=lambda snapshot: seen.add(two_threads.get_num_threads()))
    assert seen == {threads}


@pytest.mark.parametrize(
    ("change", "others", "threads"),
    [
        ({}, 0.0, 1),
        ({}, 1.0, 1),
        ({"precision": "fp32"}, 0.0, 2),
        ({"width": 0.5}, 0.0, 2),
        ({"normalization": "layer"}, 0.0, 2),
        ({"torso": "impala"}, 0.0, 2),
        ({"head": "quantile"}, 0.0, 2),
        ({"batch_size": 64}, 0.0, 2),
    ],
)
@pytest.mark.usefixtures("two_threads")
def test_one_thread_where_the_extension_convolves(monkeypatch, change, others, threads):
    """Two are slower there, busy neighbour or not, and nobody is told of one as if it were taken away."""
    from fastdqn import PRESETS
    from fastdqn.algorithm import narrow
    from fastdqn.runs.machine import with_threads

    monkeypatch.setattr(narrow, "_HERE", True)
    Cores(monkeypatch, others)
    config = PRESETS["quick"].config
    assert config.pipeline.precision == "auto"
    parts = {
        "pipeline": replace(config.pipeline, precision="bf16"),
        "network": config.network,
        "learner": config.learner,
    }
    for name, value in change.items():
        (part,) = (part for part, values in parts.items() if hasattr(values, name))
        parts[part] = replace(parts[part], **{name: value})
    config = replace(config, **parts)
    chosen, told = with_threads(config, OtherPrograms())
    assert (chosen.pipeline.threads, told) == (threads, "")

    monkeypatch.setattr(narrow, "_HERE", False)
    Cores(monkeypatch, 0.0)
    assert with_threads(config, OtherPrograms())[0].pipeline.threads == 2


@pytest.mark.usefixtures("two_threads")
def test_a_new_run_chooses_its_precision_and_keeps_it_on_another_cpu(monkeypatch, tmp_path):
    import fastdqn

    Cores(monkeypatch, 0.0)
    monkeypatch.setattr("fastdqn.cpu.CPU_INFO", tmp_path / "cpuinfo")
    (tmp_path / "cpuinfo").write_text("flags : avx512_bf16")
    stops = iter([False] * 40 + [True] * 9).__next__
    said = []
    summary = fastdqn.train(tiny(precision="auto"), tmp_path / "run", say=said.append, stop_requested=stops)
    assert any(", eager, bf16, 2 threads" in line for line in said)
    assert json.loads((tmp_path / "run/config.json").read_text())["pipeline"]["precision"] == "bf16"
    (tmp_path / "cpuinfo").write_text("flags : avx2")
    said.clear()
    fastdqn.resume_training(summary.run, say=said.append)
    assert any(", eager, bf16, 2 threads" in line for line in said)
    assert any("no instructions for bfloat16" in line for line in said)


def test_what_the_user_has_set_counts(monkeypatch, two_threads, tmp_path):
    import fastdqn

    Cores(monkeypatch, 1.0)
    seen = set()

    def train(config: Any, name: str) -> int:
        seen.clear()
        fastdqn.train(
            config, tmp_path / name, report=lambda snapshot: seen.add(two_threads.get_num_threads())
        )
        (count,) = seen
        return int(count)

    from fastdqn.runs.machine import with_threads

    shared = tiny(data_parallel=True)  # whose ranks' configurations have to be one
    assert with_threads(shared, OtherPrograms()) == (shared, "")
    assert train(tiny(threads=2), "flag") == 2
    monkeypatch.setenv("OMP_NUM_THREADS", "2")  # read when torch was loaded
    assert train(tiny(), "environment") == 2
    assert json.loads((tmp_path / "environment/config.json").read_text())["pipeline"]["threads"] == 0
