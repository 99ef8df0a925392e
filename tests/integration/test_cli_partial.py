"""A format's limits are its own: what can be written is written, what can run runs, and the rest is named."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from spikingjelly.activation_based import layer, neuron
from torch import nn

import kdsnn
from exporters.errors import DeployError
from kdsnn.deploy import export as exporting
from tests.integration.test_cli import cli

OPTIONS = ["--input-shape", "1,8,8", "--timesteps", 3]
REASON = "reset by subtraction does not exist in Lava's LIF, nor in netx; train with v_reset=0.0 (hard reset)"


def soft() -> nn.Module:
    """Resets by subtraction: ONNX, NIR and the emulator take it, netx and Lava do not."""
    torch.manual_seed(0)
    return nn.Sequential(layer.Flatten(), layer.Linear(64, 10), neuron.IFNode(v_reset=None))


def maps() -> nn.Module:
    """Ends in maps."""
    torch.manual_seed(0)
    return nn.Sequential(layer.Conv2d(1, 2, 3), neuron.IFNode(v_threshold=0.3))


@pytest.fixture(autouse=True)
def factories(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "factories_in_part", sys.modules[__name__])


def test_what_can_be_written_is_written(tmp_path: Path) -> None:
    words = ["export", "factories_in_part:soft", *OPTIONS, "--to", "onnx,netx,nir", "--out", tmp_path]
    found = json.loads(cli(*words, "--json", "--form", "sequence,step", "--quantized", code=1).stdout)
    assert [f["format"] for f in found["files"]] == ["onnx", "onnx", "onnx", "onnx", "nir"]
    assert all(f["mismatches"] == 0 and f["verified"] > 0 for f in found["files"])
    written = ["soft.int8.onnx", "soft.int8.step.onnx", "soft.nir", "soft.onnx", "soft.step.onnx"]
    assert sorted(p.name for p in tmp_path.iterdir()) == written
    assert [(f["format"], f["without"]) for f in found["unwritten"]] == [("netx", "netx")]
    assert all(REASON in f["reason"] for f in found["unwritten"])
    table = " ".join(cli(*words, code=1).stdout.split())
    assert "not written" in table and "leave out netx" in table
    # without it nothing is missing
    cli("export", "factories_in_part:soft", *OPTIONS, "--to", "onnx,nir", "--out", tmp_path / "again")


def test_nothing_that_can_be_written_is_an_error(tmp_path: Path) -> None:
    words = ["export", "factories_in_part:soft", *OPTIONS, "--out", tmp_path]
    assert (
        cli(*words, "--to", "netx", code=2).stderr.splitlines(keepends=True)[-1].startswith(f"error: ifnode2: {REASON}")
    )
    assert not list(tmp_path.iterdir())


def test_a_file_that_does_not_verify_is_no_limit_of_its_format(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    one = exporting.FORMATS["nir"]

    def wrong(*given: object) -> object:
        written = one.write(*given)  # type: ignore[arg-type]
        return replace(written, run=lambda x: {name: 1 - spikes for name, spikes in written.run(x).items()})

    changed = {**exporting.FORMATS, "nir": exporting.FORMATS["nir"].__class__(one.suffix, wrong, one.problems)}  # type: ignore[arg-type]
    monkeypatch.setattr(exporting, "FORMATS", changed)
    with pytest.raises(DeployError, match="spikes differ from the network it was made from"):
        kdsnn.export(soft(), tmp_path, to=["onnx", "nir"], input_shape=(1, 8, 8), T=3)


def test_back_ends_that_can_run_run(tmp_path: Path) -> None:
    words = ["run", "factories_in_part:soft", *OPTIONS, "--samples", 5]
    found = json.loads(cli(*words, "--on", "torch,onnx,emulator,lava", "--json", code=1).stdout)
    assert [r["backend"] for r in found["runs"]] == ["spikingjelly", "torch", "onnx", "emulator"]
    assert [r["backend"] for r in found["refused"]] == ["lava"] and REASON in found["refused"][0]["reason"]
    assert {c["backend"] for c in found["comparisons"]} == {"torch", "onnx", "emulator"} and all(
        c["ok"] for c in found["comparisons"]
    )
    table = " ".join(cli(*words, "--on", "torch,lava", code=1).stdout.split())
    assert "not run" in table and "leave out lava" in table
    assert cli(*words, "--on", "lava", code=2).stderr.splitlines()[-1].startswith(f"error: ifnode2: {REASON}")


def test_scores_of_maps_are_one_for_each_neuron(tmp_path: Path) -> None:
    """A class for each neuron, in the order of a flattened output; SpikingJelly, torch and the emulator alike."""
    result = kdsnn.run(maps(), "digits", on=["torch", "onnx", "emulator"], samples=4, input_shape=(1, 8, 8), T=3)
    assert (
        result.ok
        and {r.output.shape for r in result.runs} == {(4, 3, 72)}
        and {r.scores.shape for r in result.runs} == {(4, 72)}
    )
    for r in result.runs:
        np.testing.assert_allclose(r.scores, r.output.mean(axis=1), rtol=1e-6)
