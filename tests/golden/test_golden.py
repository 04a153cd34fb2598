"""What the presets compute is what it was, to the bit."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("torch")
pytest.importorskip("envpool")

FIGURES = json.loads(Path(__file__).with_name("figures.json").read_text())
PRESETS = sorted({preset for figures in FIGURES.values() for preset in figures})
"""Those that have figures; later ones are held by the oracles of tests/algorithm/test_family.py alone."""


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
