"""Exported policies: the run's values, in a process that has torch and nothing of ours."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("envpool")

from fastdqn.algorithm.networks import QNetwork
from fastdqn.cli import main
from fastdqn.config import NetworkConfig
from fastdqn.engine.acting import PolicyNetwork
from fastdqn.errors import RunFailedError, UserError
from fastdqn.runs import checkpoint
from fastdqn.runs.evaluation import policy_network
from fastdqn.runs.folder import RunFolder
from fastdqn.views import export as exporting
from fastdqn.views.export import BOUND, PlainPolicy, Values, export, largest_difference, real_frames

FORMATS = ("safetensors", "pt2", "torchscript")

# What a stranger does with the files. For the programs only torch is imported, and fastdqn cannot be.
ALONE = """
import sys
sys.modules["fastdqn"] = None
import torch
frames, *paths = sys.argv[1:]
obs = torch.load(frames, weights_only=True)
two = obs[:2]
bad = (two.float(), two.to(torch.int8), two[:, :3], two[:, :, 1:], two[:, :, :, 1:], two[0], two[:, None])
for path in paths:
    if path.endswith(".pt"):
        policy = torch.jit.load(path)
    elif path.endswith(".pt2"):
        policy = torch.export.load(path).module()
    else:
        del sys.modules["fastdqn"]
        import fastdqn
        policy = fastdqn.load_policy(path)
    with torch.no_grad():
        parts = [policy(obs[:1]).clone(), policy(obs[1:4]).clone(), policy(obs[4:]).clone()]
    torch.save(torch.cat(parts), path + ".values")
    refused = 0
    for one in bad:
        try:
            policy(one)
        except Exception:
            refused += 1
    print(refused)
"""


@pytest.fixture(scope="module")
def frames(tiny_run):
    return real_frames(tiny_run.config, 64)


def values_of(run, frames):
    return policy_network(checkpoint.load_policy(run.path))(torch.from_numpy(frames))


def test_the_frames_are_real_and_many(frames):
    assert frames.shape == (1_024, 4, 84, 84)
    assert len(np.unique(frames.reshape(1_024, -1), axis=0)) > 500


@pytest.mark.long
@pytest.mark.parametrize("dueling", [True, False])
def test_a_fresh_process_gets_the_runs_values(dueling, tiny_run, frames, tmp_path, monkeypatch):
    """Fails when an operator of ours is left in a program, when a batch size is, or when bad input passes."""
    monkeypatch.setattr(exporting, "real_frames", lambda config, steps: frames)  # played once for all
    run = tiny_run if dueling else plain_run(tmp_path / "plain", tiny_run)
    wanted = values_of(run, frames)
    assert float(wanted.std()) > 100 * BOUND  # values that hardly differ would prove nothing
    torch.save(torch.from_numpy(frames), tmp_path / "frames")
    files = {"torchscript": "p.pt", "pt2": "p.pt2", "safetensors": "p.safetensors"}
    results = [export(run, format, tmp_path / file) for format, file in files.items()]
    words = [sys.executable, "-c", ALONE, str(tmp_path / "frames"), *(result.path for result in results)]
    done = subprocess.run(words, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["7", "7", "7"]
    for result in results:
        given = torch.load(result.path + ".values", weights_only=True)
        assert given.dtype == torch.float32
        assert given.shape == wanted.shape == (1_024, 6)
        assert float((wanted - given).abs().max()) <= BOUND * max(1.0, float(wanted.abs().max()))
        assert result.frames_checked == 1_024


def plain_run(path, like: RunFolder) -> RunFolder:
    """A run whose network has a single stream."""
    from fastdqn.runs.trainer import train

    run = RunFolder.create(path, replace(like.config, network=replace(like.config.network, dueling=False)))
    train(run)
    return run


def test_safetensors_are_the_runs_weights_to_the_bit(tiny_run, frames, tmp_path, monkeypatch):
    monkeypatch.setattr(exporting, "real_frames", lambda config, steps: frames)
    result = export(tiny_run, "safetensors", tmp_path / "p.safetensors")
    assert result.largest_difference == 0.0
    network = policy_network(checkpoint.load_policy(tmp_path / "p.safetensors"))
    assert torch.equal(network(torch.from_numpy(frames)), values_of(tiny_run, frames))


@pytest.mark.parametrize("format", FORMATS)
def test_a_policy_that_differs_is_not_written(format, tiny_run, tmp_path, monkeypatch):
    file = tmp_path / "p"
    file.write_text("the old one")
    write = exporting._WRITERS[format]

    def wrong(network, policy, path):
        load = write(network, policy, path)

        def tilted(path):
            values = load(path)
            return lambda obs: values(obs) + 1e-3

        return tilted

    monkeypatch.setitem(exporting._WRITERS, format, wrong)
    monkeypatch.setattr(exporting, "_CHECKED_STEPS", 2)
    with pytest.raises(RunFailedError, match=r"differs from the run's network .* Nothing was written"):
        export(tiny_run, format, file)
    assert [path.name for path in tmp_path.iterdir()] == ["p"]
    assert file.read_text() == "the old one"


def test_the_check_sees_one_wrong_row_and_what_is_no_number(frames):
    network = PolicyNetwork(QNetwork(NetworkConfig(width=1 / 16, dueling=True), 6))
    assert largest_difference(network, PlainPolicy(Values(network.network)), frames[:100]) < BOUND

    def one_wrong(obs):
        values = network(obs).clone()
        if len(obs) == 1:
            values[0, 3] += 1e-3
        return values

    with pytest.raises(RunFailedError, match="differs"):
        largest_difference(network, one_wrong, frames[:100])
    with pytest.raises(RunFailedError, match="no numbers"):
        largest_difference(network, lambda obs: network(obs) * float("nan"), frames[:100])


@pytest.mark.parametrize(
    ("words", "wanted"),
    [
        ("export", "needs the folder of a run"),
        ("export nowhere", "nowhere is not a run"),
        ("export RUN --format onnx", "one of safetensors, pt2, torchscript is wanted"),
        ("export RUN --fromat pt2", "Did you mean --format?"),
        ("export RUN --out RUN", "that is a folder"),
    ],
)
def test_mistakes_are_answered(words, wanted, tiny_run, capsys):
    assert main(words.replace("RUN", str(tiny_run.path)).split()) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert wanted in err


def test_an_unknown_format_is_refused_in_python_too(tiny_run):
    with pytest.raises(UserError, match="must be one of safetensors, pt2, torchscript"):
        export(tiny_run, "onnx")


@pytest.mark.long
def test_the_command_says_how_to_use_the_file(tiny_run, tmp_path, capsys, monkeypatch):
    assert (
        main(["export", str(tiny_run.path), "--format", "torchscript", "--out", str(tmp_path / "x.pt")]) == 0
    )
    assert f"torch.jit.load('{tmp_path}/x.pt')" in capsys.readouterr().out
    monkeypatch.setattr(exporting, "_CHECKED_STEPS", 2)
    assert main(["export", str(tiny_run.path), "--json", "--out", str(tmp_path / "x")]) == 0
    assert json.loads(capsys.readouterr().out)["num_actions"] == 6


def test_the_help_says_that_torchscript_is_deprecated(capsys):
    assert main(["export", "--help"]) == 0
    assert "PyTorch has deprecated TorchScript" in capsys.readouterr().out


def test_a_policy_may_lie_beside_checksums_that_are_not_its_own(tiny_run, frames, tmp_path, monkeypatch):
    """As in the folder of a release. Fault: it counts as damaged, and people are told to remove the folder."""
    monkeypatch.setattr(exporting, "real_frames", lambda config, steps: frames)
    (tmp_path / "SHA256SUMS").write_text("0" * 64 + " *another.zip\n")
    export(tiny_run, "safetensors", tmp_path / "policy.safetensors")
    assert checkpoint.load_policy(tmp_path / "policy.safetensors").num_actions == 6
    # Those of a checkpoint hold for its own file, however it is named on the way.
    own = checkpoint.newest(tiny_run.checkpoints)
    copy = tmp_path / "copy"
    shutil.copytree(own, copy)
    (copy / "online.safetensors").write_bytes((tmp_path / "policy.safetensors").read_bytes() + b"x")
    with pytest.raises(UserError, match="damaged"):
        checkpoint.load_policy(copy / "online.safetensors")
