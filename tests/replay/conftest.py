"""Every test of the replay runs over both ways of keeping frames."""

from __future__ import annotations

import pytest

from fastdqn.replay import ReplayBuffer

# For tests of several seconds: plain storage is left to the long ones.
raw_is_long = pytest.mark.parametrize(
    "storage", [pytest.param("raw", marks=pytest.mark.long), "delta"], indirect=True
)


@pytest.fixture(params=["raw", "delta"], autouse=True)
def storage(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """The storage that a buffer has in this test where it asks for none."""
    monkeypatch.setitem(ReplayBuffer.__init__.__kwdefaults__, "storage", request.param)
    name: str = request.param
    return name
