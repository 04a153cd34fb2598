"""Flat buffers: what goes in comes out, and an arranged one lies as a GPU's libraries read it."""

from __future__ import annotations

import pytest
import torch

from fastdqn.algorithm.networks import QNetwork
from fastdqn.algorithm.parameters import FlatLayout
from fastdqn.config import NetworkConfig

NETWORK = QNetwork(NetworkConfig(width=0.25, dueling=True), 5, generator=torch.Generator().manual_seed(1))
PARAMETERS = dict(NETWORK.named_parameters())


def layout(arranged: bool) -> FlatLayout:
    return FlatLayout(PARAMETERS.items(), arranged=arranged)


@pytest.mark.parametrize("arranged", [False, True])
def test_what_goes_in_comes_out(arranged: bool) -> None:
    own = layout(arranged)
    flat = own.join(PARAMETERS).detach()
    parts = own.split(flat)
    assert parts.keys() == PARAMETERS.keys()
    assert all(torch.equal(parts[name], value) for name, value in PARAMETERS.items())
    assert torch.equal(own.join(parts), flat)
    assert own.size == sum(value.numel() for value in PARAMETERS.values())
    flat += 1
    assert all(torch.equal(parts[name], value + 1) for name, value in PARAMETERS.items())


def test_an_arranged_buffer_lies_as_libraries_read_it() -> None:
    own = layout(True)
    flat = own.join(PARAMETERS).detach()
    parts = own.split(flat)
    assert own.row is not None
    assert len(flat) % own.row == 0
    assert own.size < len(flat) < own.size + own.row
    assert (flat[own.size :] == 0).all()
    for name, value in parts.items():
        if value.dim() == 4:
            assert value.is_contiguous(memory_format=torch.channels_last), name
        if value.dim() > 1:
            assert value.storage_offset() % 16 == 0, name
    largest = max(parts.values(), key=torch.Tensor.numel)
    assert largest.storage_offset() == 0


def test_a_plain_buffer_lies_as_listed() -> None:
    own = layout(False)
    flat = own.join(PARAMETERS).detach()
    assert own.row is None
    assert list(own.shapes) == list(PARAMETERS)
    assert torch.equal(flat, torch.cat([value.detach().reshape(-1) for value in PARAMETERS.values()]))
