"""`profile` with a trained ANN of few bits: what is counted, by hand; the refusals."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

import kdsnn
from kdsnn import checkpoint
from kdsnn.checkpoint import CheckpointInfo
from kdsnn.data import DataSet
from kdsnn.errors import OptionError
from kdsnn.models import build
from kdsnn.train.quantized_ann import QuantizedAnn

OPTIONS = {"channels": (6, 4), "hidden": 12}


@pytest.fixture(scope="module")
def data() -> DataSet:
    full = kdsnn.load_data("digits")
    return replace(full, x_test=full.x_test[:40], y_test=full.y_test[:40])


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, data: DataSet) -> Path:
    """Untrained: a student, an ANN, and two of few bits."""
    folder = tmp_path_factory.mktemp("few")
    shape = {"input_shape": (1, 8, 8), "classes": 10}
    torch.manual_seed(0)
    student = build("cnn2", spiking=True, **shape, **OPTIONS)
    info = CheckpointInfo("cnn2", True, (1, 8, 8), 10, "digits", OPTIONS, "rate", "if", 4)
    checkpoint.save(folder / "student.safetensors", student, info)
    plain = replace(info, spiking=False, readout=None, neuron=None, T=None)
    checkpoint.save(folder / "ann.safetensors", build("cnn2", spiking=False, **shape, **OPTIONS), plain)
    for bits, activation_bits in ((8, 3), (4, 2)):
        network = build("cnn2", spiking=False, **shape, **OPTIONS)
        images = torch.from_numpy(data.x_train[:64]).float() / 255
        made = QuantizedAnn(network, bits, activation_bits, images).deployed()
        few = replace(plain, quantized={"bits": bits, "activation_bits": activation_bits})
        checkpoint.save(folder / f"q{activation_bits}.safetensors", made, few)
    return folder


def test_what_an_ann_of_few_bits_does_and_moves(folder: Path, data: DataSet) -> None:
    made = kdsnn.profile(
        str(folder / "student.safetensors"), data, qann=[folder / "q3.safetensors", folder / "q2.safetensors"]
    )
    assert [(a.name, a.bits, a.activation_bits) for a in made.few_bit] == [("q3", 8, 3), ("q2", 4, 2)]
    ann, loaded = made.few_bit[0], kdsnn.load(folder / "q3.safetensors")
    assert ann.accuracy == kdsnn.evaluate(loaded, data).accuracy
    # by hand: every layer's inputs, one multiply-accumulate after the other
    images = torch.from_numpy(data.x_test).float() / 255
    seen: list[tuple[nn.Module, torch.Tensor]] = []
    for part in loaded.module.modules():
        if isinstance(part, nn.Conv2d | nn.Linear):
            part.register_forward_pre_hook(lambda layer, args: seen.append((layer, args[0].detach())))
    with torch.no_grad():
        loaded.module(images)
    active, macs = [], [64 * 6 * 9, 16 * 4 * 6 * 9, 16 * 12, 12 * 10]
    for layer, x in seen:
        ones = torch.ones_like(layer.weight)
        hits = (x != 0).float()
        out = (
            nn.functional.linear(hits, ones)
            if isinstance(layer, nn.Linear)
            else nn.functional.conv2d(hits, ones, padding=1)
        )
        active.append(float(out.sum()) / len(images))
    assert ann.active == pytest.approx(sum(active)) and ann.counts.macs == sum(macs)
    assert ann.weight_bits == 8 * (6 * 9 + 4 * 6 * 9 + 16 * 12 + 12 * 10)
    inputs = [8, 3, 3, 3]  # pixels, then activations
    assert ann.budget.dense == sum(m * 8 * b for m, b in zip(macs, inputs, strict=True))
    assert ann.budget.done == pytest.approx(sum(a * 8 * b for a, b in zip(active, inputs, strict=True)))
    values = ann.dense.values
    assert values["weight_bits"].nominal == 8 * sum(macs)
    assert values["activation_bits"].nominal == sum(m * b for m, b in zip(macs, inputs, strict=True))
    assert values["result_bits"].nominal == 3 * (64 * 6 + 16 * 4 + 12 + 10)
    assert ann.zero_skipping.values["weight_bits"].nominal == pytest.approx(8 * sum(active))
    assert ann.zero_skipping.values["activation_bits"] == values["activation_bits"]

    energies = {m.name: m.few_bit[0] for m in made.energies}
    assert energies["horowitz-45nm-fp32"].dense is None and energies["loihi1-events"].dense is None
    for name in ("yan2026", "lemaire2022", "horowitz-45nm-int8"):
        found = energies[name]
        assert found.dense and found.zero_skipping and found.zero_skipping.nominal < found.dense.nominal
        assert found.break_even is not None
    # at the break-even rate, spikes alone make the difference between the ANN and a silent student
    run, model = made.students[0].deployed, next(m for m in made.energies if m.name == "yan2026")
    student, even = model.students[0].estimate, energies["yan2026"].break_even
    assert student is not None and even is not None and run.spikes_per_synapse is not None
    per_synop = (0.05448 + 3.0) * 1e-12
    spiking = sum(
        line.joules.nominal
        for line in student.breakdown
        if line.name in ("synaptic operation", "weight", "spike moved", "reset")
    )
    assert spiking > run.synops.mean * per_synop
    silent = student.nominal - spiking
    expected = (energies["yan2026"].dense.nominal - silent) / spiking * run.spikes_per_synapse
    assert even.nominal == pytest.approx(max(0.0, expected))  # 0: membranes and pixels at every step cost more already
    assert even.high > 0  # the image is read once


def test_refusals(folder: Path, data: DataSet) -> None:
    student = str(folder / "student.safetensors")
    for name, kind in (("student", "a spiking network"), ("ann", "an ANN with float activations")):
        with pytest.raises(OptionError, match=kind):
            kdsnn.profile(student, data, qann=folder / f"{name}.safetensors")
    with pytest.raises(OptionError, match="give a spiking student first"):
        kdsnn.profile(str(folder / "ann.safetensors"), data, qann=folder / "q3.safetensors")
    with pytest.raises(kdsnn.UserError, match="takes input of shape"):
        kdsnn.profile(
            student,
            replace(data, x_test=data.x_test[..., :6], x_train=data.x_train[..., :6]),
            qann=folder / "q3.safetensors",
        )
