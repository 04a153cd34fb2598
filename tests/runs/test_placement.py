"""Cores, GPUs and memory divided among runs: the arithmetic, and what is said where it does not come out."""

from __future__ import annotations

import subprocess
from dataclasses import replace
from types import SimpleNamespace

import pytest

pytest.importorskip("torch")

from fastdqn.config import Config
from fastdqn.engine import device
from fastdqn.engine.device import Gpu
from fastdqn.errors import UserError
from fastdqn.runs import memory
from fastdqn.runs.placement import PROCESS_BYTES, gpu_need, host_need, slots

GIB = 2**30
SMALL = replace(Config(), replay=replace(Config().replay, capacity=1_000), total_frames=10_000)


def divided(runs: int, **given) -> list[tuple[tuple[int, ...], str | None]]:
    asked = {"jobs": None, "threads": 1, "cores": range(8), "host_bytes": 64 * GIB, **given}
    return [(slot.cores, slot.gpu) for slot in slots([SMALL] * runs, **asked)]


def test_cores_are_divided_without_overlap_and_without_rest():
    assert divided(3, jobs=3) == [((0, 1), None), ((2, 3, 4), None), ((5, 6, 7), None)]
    assert [cores for cores, _ in divided(100)] == [(core,) for core in range(8)]
    assert [cores for cores, _ in divided(100, threads=4)] == [(0, 1, 2, 3), (4, 5, 6, 7)]
    assert len(divided(2)) == 2
    assert divided(0) == []


def test_runs_share_gpus():
    gpus = [Gpu("0", 80 * GIB), Gpu("MIG-1", 80 * GIB)]
    assert divided(100, gpus=gpus) == [((0, 1, 2, 3), "0"), ((4, 5, 6, 7), "MIG-1")]
    shared = divided(100, gpus=gpus, runs_per_gpu=2)
    assert [gpu for _, gpu in shared] == ["0", "MIG-1", "0", "MIG-1"]


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (
            {"jobs": 9},
            "jobs = 9: 9 runs x 1 threads = 9, and this machine has 8 cores for them; try `jobs = 8`",
        ),
        ({"jobs": 3, "threads": 3}, "3 runs x 3 threads = 9"),
        (
            {"jobs": 3, "gpus": [Gpu("0", 80 * GIB)], "runs_per_gpu": 2},
            "1 GPUs x 2 runs = 2; try `runs_per_gpu = 3`",
        ),
    ],
)
def test_what_there_is_not_enough_of_is_told(given, said):
    with pytest.raises(UserError) as error:
        divided(10, **given)
    assert said in str(error.value)


def test_memory_is_checked_before_with_the_arithmetic():
    need = host_need(SMALL, on_gpu=False)
    assert need == PROCESS_BYTES + sum(one.size for one in memory.host_needs(SMALL, on_gpu=False))
    assert len(divided(9, jobs=4, host_bytes=4 * need)) == 4
    with pytest.raises(UserError) as error:
        divided(9, jobs=4, host_bytes=4 * need - 1)
    each = memory.gib(need)
    total = memory.gib(4 * need)
    assert str(error.value) == (
        f"jobs = 4: the 4 largest runs need 4 x {each} = {total}, and this machine has "
        f"{memory.gib(4 * need - 1)} to spare; try `jobs = 3`"
    )
    assert len(divided(9, host_bytes=4 * need - 1)) == 3
    with pytest.raises(UserError, match="not even one fits"):
        divided(9, host_bytes=need - 1)


def test_the_largest_runs_are_counted():
    large = replace(SMALL, replay=replace(SMALL.replay, capacity=500_000, storage="raw"))
    assert host_need(large, on_gpu=False) > host_need(SMALL, on_gpu=False)
    enough = host_need(large, on_gpu=False) + host_need(SMALL, on_gpu=False)
    given = {"jobs": 2, "threads": 1, "cores": range(8)}
    assert len(slots([SMALL, large, SMALL], host_bytes=enough, **given)) == 2
    with pytest.raises(UserError, match="2 largest runs"):
        slots([SMALL, large, SMALL], host_bytes=enough - 1, **given)


def test_the_memory_of_a_gpu_is_divided_too():
    need = gpu_need(SMALL)
    assert len(divided(9, gpus=[Gpu("0", 3 * need)], runs_per_gpu=3)) == 3
    with pytest.raises(UserError, match=r"runs_per_gpu = 4: .* try `runs_per_gpu = 3`"):
        divided(9, gpus=[Gpu("0", 3 * need)], runs_per_gpu=4)
    resident = replace(SMALL, pipeline=replace(SMALL.pipeline, frames_on="cuda"))
    assert gpu_need(resident) == need + 1_000 * memory.FRAME_BYTES


def test_gpus_are_listed_by_the_names_that_were_given(monkeypatch):
    assert device.list_gpus() == [] or device.has_cuda()
    monkeypatch.setattr(device, "has_cuda", lambda: True)
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: SimpleNamespace(stdout="5 7\n"))
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert device.list_gpus() == [Gpu("0", 5), Gpu("1", 7)]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3,GPU-a1")
    assert device.list_gpus() == [Gpu("3", 5), Gpu("GPU-a1", 7)]
