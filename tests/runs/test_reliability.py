"""The script of docs/reliability.md still runs, and finds nothing: a short round of each part."""

from __future__ import annotations

import os

import pytest

pytest.importorskip("torch")
pytest.importorskip("envpool")

import reliability

pytestmark = pytest.mark.slow


def test_kills(tmp_path):
    assert reliability.kills(6, seed=5, folder=tmp_path)["ok"]


def test_damages(tmp_path):
    assert reliability.damages(100, seed=5, folder=tmp_path)["ok"]


@pytest.mark.skipif(os.geteuid() != 0, reason="mounts a tmpfs")
def test_a_disk_that_fills_up(tmp_path):
    assert reliability.full_disk(tmp_path)["ok"]
