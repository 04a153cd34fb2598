"""What the presets compute is what it was, to the bit."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from fastdqn.presets import PRESETS

pytest.importorskip("torch")
pytest.importorskip("envpool")

FIGURES = json.loads(Path(__file__).with_name("figures.json").read_text())


def test_every_preset_has_figures() -> None:
    assert all(figures.keys() == PRESETS.keys() for figures in FIGURES.values())


@pytest.mark.slow
@pytest.mark.parametrize("preset", PRESETS)
def test_a_preset_computes_what_it_did(preset: str) -> None:
    script = Path(__file__).with_name("make.py")
    done = subprocess.run(
        [sys.executable, str(script), "--presets", preset],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout
