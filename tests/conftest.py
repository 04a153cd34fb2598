"""Settings of every test."""

from __future__ import annotations

import os

# Tests use tiny networks, where a second thread costs more than it gives, above all beside other processes.
# Set before anything imports torch; it holds for the processes that tests start, too.
os.environ.setdefault("OMP_NUM_THREADS", "1")
