"""`kdsnn.summary` counts what others count: thop and torch the module's, brute force the graph's, `check` the cores."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import kdsnn
from exporters import nir
from exporters.graph import IF, LIF, Conv2d, Flatten, Input, Linear, MaxPool2d, Output, chain
from kdsnn import checkpoint, models
from kdsnn.checkpoint import CheckpointInfo
from kdsnn.errors import KdsnnError
from profilers.counting.flops import count_module
from tests.networks import randomize

OPTIONS = {"channels": (4, 6), "hidden": 8}


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A student and an ANN of the same shape, as checkpoints and exported."""
    folder = tmp_path_factory.mktemp("summary")
    found = {}
    for name, spiking in (("snn", True), ("ann", False)):
        module = models.build("cnn2", spiking=spiking, input_shape=(1, 8, 8), classes=10, **OPTIONS)
        randomize(module, 0)
        kinds = {"readout": "rate", "neuron": "if", "T": 3} if spiking else {}
        info = CheckpointInfo(
            "cnn2", spiking, (1, 8, 8), 10, "digits", OPTIONS, metrics={"test_accuracy": 0.1}, **kinds  # type: ignore[arg-type]
        )  # fmt: skip
        found[name] = folder / f"{name}.safetensors"
        checkpoint.save(found[name], module.float(), info)
        kdsnn.export(found[name], folder, to=["onnx", *(["netx", "nir"] if spiking else [])], quantized=spiking)
    return found | {suffix: folder / f"snn.{suffix}" for suffix in ("nir", "net", "onnx", "int8.onnx")} | {
        "ann.onnx": folder / "ann.onnx"
    }  # fmt: skip


def macs_by_hand() -> list[int]:
    """Of the two convolutions (3×3, padded, pooled by two behind each) and the two dense layers."""
    return [64 * 4 * 9, 16 * 6 * 4 * 9, 24 * 8, 8 * 10]


def test_an_ann_has_the_counts_of_thop_and_torch(files: dict[str, Path]) -> None:
    module = kdsnn.load(files["ann"]).module
    counted = count_module(module, (1, 8, 8))
    for source in (files["ann"], files["ann.onnx"], kdsnn.load(files["ann"])):
        found = kdsnn.summary(source)
        assert found.T is None and found.neurons is None and found.cores is None
        assert found.macs == counted.macs == sum(macs_by_hand())
        folded = sum(x.parameters for x in found.layers)
        assert found.parameters == folded
        if source != files["ann.onnx"]:  # torch's exporter folds BatchNorm
            assert folded == counted.parameters
            for row in found.layers:
                part = module.get_submodule(row.name)
                assert (row.kind, row.parameters) == (type(part).__name__, sum(p.numel() for p in part.parameters()))


@pytest.mark.parametrize("form", ["snn", "nir", "onnx", "int8.onnx"])
def test_a_student_has_the_counts_of_its_shape(files: dict[str, Path], form: str) -> None:
    found = kdsnn.summary(files[form])
    assert [x.macs for x in found.layers if x.macs] == macs_by_hand()
    weights = sum(p.numel() for name, p in kdsnn.load(files["snn"]).module.named_parameters() if p.dim() > 1)
    assert found.parameters == weights + 4 + 6  # a bias for each channel that BatchNorm had
    assert found.neurons == 4 * 64 + 6 * 16 + 8 + 10 and found.T == 3
    fired = [x for x in found.layers if x.neurons]
    assert [x.shape for x in fired] == [(4, 8, 8), (6, 4, 4), (8,), (10,)] and {x.reset for x in fired} == {"hard"}
    assert {x.leak for x in fired} == {1.0}


@pytest.mark.parametrize("form", ["nir", "net"])
def test_cores_are_those_that_check_finds(files: dict[str, Path], form: str) -> None:
    for target in ("loihi1", "loihi2"):
        found, checked = kdsnn.summary(files[form], target=target), kdsnn.check(files[form], target)
        placed = checked.fit.placement
        assert placed is not None and found.cores == placed.cores > 0 and found.chips == placed.chips
        cores = {x.name: x.cores for x in found.layers if x.cores}
        assert sum(cores.values()) == placed.cores  # type: ignore[arg-type]
        for layer in placed.layers:
            assert cores[layer.neurons_name if layer.neurons_name in cores else layer.name] == layer.cores


def test_relays_are_told_and_their_cores_counted() -> None:
    module = models.build("resnet14", spiking=True, input_shape=(1, 8, 8), classes=4, widths=(2, 4, 4))
    network = kdsnn.lower(module, input_shape=(1, 8, 8), T=2, bits=4)
    found, placed = kdsnn.summary(network, target="loihi2"), kdsnn.check(network, "loihi2").fit.placement
    assert placed is not None and found.bits == 4 and found.cores == placed.cores
    assert network.graph is not None and {x.name for x in found.layers} <= set(network.graph.nodes)
    extra = sum(layer.neurons for layer in placed.layers) - (found.neurons or 0)
    assert extra > 0 and f", {extra:,} of which pool spikes or relay them" in found.notes[-1]


def test_neurons_are_told_as_they_are(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    graph = chain(
        [
            ("in", Input((2, 6, 6))), ("conv", Conv2d(rng.normal(size=(4, 1, 3, 3)).astype(np.float32), groups=2)),
            ("lif", LIF(1.5, 0.5, "soft")), ("flat", Flatten()),
            ("fc", Linear(rng.normal(size=(3, 64)).astype(np.float32))), ("if", IF(2.0)), ("out", Output()),
        ],
        2,
    )  # fmt: skip
    for source in (graph, nir.write(graph, tmp_path / "x.nir")):
        found = kdsnn.summary(source)
        rows = {x.name: x for x in found.layers}
        assert rows["conv"].macs == 4 * 16 * 9 and rows["fc"].macs == 3 * 64  # of one input channel each
        assert (rows["lif"].threshold, rows["lif"].leak, rows["lif"].reset) == (1.5, 0.5, "soft")
        assert (rows["if"].threshold, rows["if"].leak, rows["if"].reset) == (2.0, 1.0, "hard")
        assert "leak" in str(found)


def test_what_has_no_place_on_the_chip_says_why() -> None:
    weight = np.ones((3, 9), np.float32)
    nodes = [("in", Input((1, 6, 6))), ("pool", MaxPool2d((2, 2), (2, 2))), ("flat", Flatten()), ("fc", Linear(weight))]
    found = kdsnn.summary(chain([*nodes, ("if", IF(2.0)), ("out", Output())], 2))
    assert found.cores is None and "cores" not in str(found).splitlines()[2]
    assert "Not placed on Loihi 1: pool: a max-pool over analog input" in found.notes[-1]


class Attention(nn.Module):
    """Multiplies outside its layers, and has a parameter of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(6))
        self.fc = nn.Linear(6, 6)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc(x) @ torch.ones(6, 4)


def test_what_no_layer_does_is_counted_too() -> None:
    found = kdsnn.summary(Attention(), input_shape=(6,))
    assert found.macs == 36 + 24 and found.parameters == 42 + 6
    assert found.layers[-1].macs == 24 and found.layers[-1].parameters == 6


def test_mistakes_are_told_in_one_line(files: dict[str, Path], tmp_path: Path) -> None:
    def told(*arguments: object, **options: object) -> str:
        with pytest.raises(KdsnnError) as caught:
            kdsnn.summary(*arguments, **options)  # type: ignore[arg-type]
        assert "\n" not in str(caught.value)
        return str(caught.value)

    spiking = models.build("cnn2", spiking=True, input_shape=(1, 8, 8), classes=10, **OPTIONS)
    assert "needs T" in told(spiking, input_shape=(1, 8, 8))
    assert "leave it out" in told(files["ann"], bits=4)
    assert "leave it out" in told(files["onnx"], calibrate="digits")
    assert "does not take a sample" in told(Attention(), input_shape=(5,))


def test_it_prints_and_goes_to_json(files: dict[str, Path]) -> None:
    found = kdsnn.summary(files["nir"])
    assert repr(found) == str(found) and str(found).rstrip().endswith(found.notes[-1])
    told = json.loads(json.dumps(found.to_dict(), allow_nan=False))
    assert told["macs"] == found.macs and told["cores"] == found.cores and len(told["layers"]) == len(found.layers)
    assert len(found.to_frame()) == len(found.layers) and found._repr_html_().count("<table>") == 1


def test_files_of_graphs_need_no_torch(files: dict[str, Path]) -> None:
    code = (
        "import sys, kdsnn\n"
        "for file in sys.argv[1:]: str(kdsnn.summary(file))\n"
        "assert not {'torch', 'pandas', 'spikingjelly'} & set(sys.modules)\n"
    )
    arguments = [str(files[name]) for name in ("nir", "net", "onnx", "ann.onnx")]
    done = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
