from __future__ import annotations

import copy
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from exporters.errors import DeployError
from exporters.graph import IF, Conv2d, Flatten, Input, Linear, Output, chain
from profilers.counting.activity import Activity, ActivityCounter
from profilers.counting.sizes import LayerShape
from profilers.energy import models as energy_models
from profilers.energy.count_names import COUNTS, SIZED
from profilers.energy.evaluation import Counts, ann_counts, baseline, break_even, energy, snn_counts
from profilers.energy.model_files import interpolated
from profilers.energy.models import Range, built_in, load
from profilers.energy.operations import Access, dense_ann, placed, quantized_twin, twin_bits, zero_skipping_ann

MODELS = built_in()
PICO = 1e-12

# per model: MAC and accumulate in pJ, low–nominal–high, as printed in (or summed from) the source's table
ARITHMETIC = {
    "horowitz-45nm-fp32": ((4.6, 4.6, 4.6), (0.9, 0.9, 0.9)),
    "horowitz-45nm-fp16": ((1.5, 1.5, 1.5), (0.4, 0.4, 0.4)),
    "horowitz-45nm-int32": ((3.2, 3.2, 3.2), (0.1, 0.1, 0.1)),
    "horowitz-45nm-int8": ((0.23, 0.23, 0.3), (0.03, 0.03, 0.1)),
    "jouppi-7nm-fp32": ((1.69, 1.69, 1.69), (0.38, 0.38, 0.38)),
    "jouppi-7nm-fp16": ((0.5, 0.5, 0.5), (0.16, 0.16, 0.16)),
    "jouppi-7nm-bf16": ((0.32, 0.32, 0.32), (0.11, 0.11, 0.11)),
    "jouppi-7nm-int32": ((1.51, 1.51, 1.51), (0.03, 0.03, 0.03)),
    "jouppi-7nm-int8": ((0.077, 0.077, 0.1), (0.007, 0.007, 0.03)),
}

# per device of KerasSpiking: synaptic event and neuron update in pJ, and whether silence is free
DEVICES = {
    "keras-spiking-cpu": (8600, 8600, False),
    "keras-spiking-gpu": (300, 300, False),
    "keras-spiking-arm": (900, 900, False),
    "keras-spiking-loihi": (23.6 + 3.5, 81, True),
    "keras-spiking-spinnaker": (13300, 26000, True),
    "keras-spiking-spinnaker2": (450, 2190, True),
}


def approx(values: tuple[float, ...]) -> Any:
    return pytest.approx([v * PICO for v in values])


def test_every_model_is_tested_by_hand() -> None:
    assert set(MODELS) == {*ARITHMETIC, "loihi1-events", "loihi1-sanafe", "lemaire2022", "yan2026", *DEVICES}


@pytest.mark.parametrize("name", ARITHMETIC)
def test_arithmetic_models_by_hand(name: str) -> None:
    mac, add = ARITHMETIC[name]
    ann = energy(MODELS[name], ann_counts(1000))
    assert [ann.low, ann.nominal, ann.high] == approx(tuple(1000 * m for m in mac))
    # an SNN of 200 SynOps whose encoder has 10 MACs, reused or repeated in 4 steps
    snn = energy(MODELS[name], Counts("snn", {"macs": Range(10, 40, 40), "synops": Range.exactly(200)}))
    assert [snn.low, snn.nominal, snn.high] == approx(
        tuple(n * m + 200 * a for n, m, a in zip((10, 40, 40), mac, add, strict=True))
    )
    assert sum(line.joules.nominal for line in snn.breakdown) == pytest.approx(snn.nominal)
    assert snn.left_out == ()


def test_kdsnn_resnet18_in_fp32() -> None:
    """The mean numbers of facts: 555 M MACs are 2.55 mJ, 439 M SynOps 0.395 mJ."""
    model = MODELS["horowitz-45nm-fp32"]
    assert energy(model, ann_counts(555_422_720)).nominal == pytest.approx(2.55e-3, rel=5e-3)
    snn = Counts("snn", {"macs": Range.exactly(0), "synops": Range.exactly(439e6)})
    assert energy(model, snn).nominal == pytest.approx(0.395e-3, rel=5e-3)


def test_loihi1_by_hand() -> None:
    model = MODELS["loihi1-events"]
    counts = Counts(
        "snn",
        {
            "macs": Range.exactly(999),  # not a term of this model
            "synops": Range.exactly(1000),
            "graded_ops": Range.exactly(100),
            "spikes": Range.exactly(50),
            "active_updates": Range.exactly(50),
            "inactive_updates": Range.exactly(350),
            "hops_ew": Range.exactly(10),
            "hops_ns": Range.exactly(20),
        },
    )
    estimate = energy(model, counts)
    nominal = 23.6 * 1100 + 81 * 50 + 52 * 350 + 1.7 * 50 + 3.0 * 10 + 4.0 * 20
    high = 35.5 * 1100 + 81 * 400 + 1.7 * 50 + 3.0 * 10 + 4.2 * 20
    assert [estimate.low, estimate.nominal, estimate.high] == approx((nominal, nominal, high))
    assert estimate.left_out == ("static power × run time of all chips",)


def test_loihi1_says_what_it_lacks_instead_of_inventing() -> None:
    model = MODELS["loihi1-events"]
    with pytest.raises(DeployError, match="no estimate for an ANN: an ANN does not run on Loihi 1"):
        energy(model, ann_counts(1000))
    estimate = energy(model, Counts("snn", {"synops": Range.exactly(1)}))
    assert "hop between tiles, east-west" in estimate.left_out
    assert break_even(model, ann_counts(1000), Counts("snn", {"synops": Range.exactly(1)}, 0.1)) is None
    assert any("104 mW" in remark.text for remark in model.remarks)


def test_static_power_is_a_line_of_its_own() -> None:
    model, nothing = MODELS["loihi1-events"], Counts("snn", {})
    assert "static power × run time of all chips" in energy(model, nothing).left_out
    estimate = energy(model, placed(nothing, chips=2, seconds=Range(1e-3, 2e-3, 5e-3)))
    (line,) = estimate.breakdown
    assert line.name == "static power × run time of all chips"
    assert [estimate.low, estimate.nominal, estimate.high] == pytest.approx(
        [0.0297 * 2e-3, 0.104 * 4e-3, 0.104 * 10e-3]
    )
    # 32 chips of Pohoiki Springs: 3.34 W
    assert energy(model, placed(nothing, chips=32, seconds=1)).nominal == pytest.approx(3.34, rel=5e-3)
    with pytest.raises(DeployError, match="give both"):
        placed(nothing, chips=1)


def test_placed_adds_what_a_placement_knows() -> None:
    counts = placed(Counts("snn", {"spikes": Range.exactly(1)}), hops_ew=3, hops_ns=Range(1, 2, 3), messages=5)
    assert counts.values == {
        "spikes": Range.exactly(1),
        "hops_ew": Range.exactly(3),
        "hops_ns": Range(1, 2, 3),
        "messages": Range.exactly(5),
    }


def test_sanafe_by_hand() -> None:
    counted = {
        "synops_conv": 1000,
        "synops_linear": 200,
        "graded_conv": 100,
        "graded_linear": 10,
        "neuron_updates": 400,
        "spikes": 50,
    }
    counts = Counts("snn", {name: Range.exactly(value) for name, value in counted.items()})
    model = MODELS["loihi1-sanafe"]
    assert energy(model, counts).left_out == (
        "message to a core",
        "hop between tiles, east-west",
        "hop between tiles, north-south",
    )
    estimate = energy(model, placed(counts, messages=60, hops_ew=10, hops_ns=20))
    rest = 24.0 * 1100 + (51.2 + 21.6) * 400 + 69.3 * 50 + 111 * 60 + 3.0 * 10
    low, nominal = rest + 33.6 * 210 + 4.0 * 20, rest + 35.5 * 210 + 4.2 * 20
    assert [estimate.low, estimate.nominal, estimate.high] == approx((low, nominal, nominal))


@pytest.mark.parametrize("name", DEVICES)
def test_keras_spiking_by_hand(name: str) -> None:
    synapse, neuron, silence_is_free = DEVICES[name]
    values = {"stepped_macs": 4000, "rate_macs": 300, "graded_ops": 20, "neuron_updates": 40}
    snn = energy(MODELS[name], Counts("snn", {key: Range.exactly(value) for key, value in values.items()}))
    assert snn.nominal == pytest.approx((synapse * (320 if silence_is_free else 4000) + neuron * 40) * PICO)
    dense = dense_ann([LayerShape(False, 100, 10, 1000, 0, 1000, 0)])
    if silence_is_free:
        assert baseline(MODELS[name], dense) is None
        return
    ann = energy(MODELS[name], dense)
    assert ann.nominal == pytest.approx((synapse * 1000 + neuron * 10) * PICO)
    assert snn.nominal == pytest.approx(4 * ann.nominal)  # KerasSpiking: T times the ANN


def test_a_published_ratio_that_applied_the_rate_twice() -> None:
    """Front. Neurosci. 2023 (PMC10242054), table 3: 18.39 M MACs, 2.51 M ACs that hold the rate 0.1366 already."""
    model = MODELS["horowitz-45nm-fp32"]
    ann = energy(model, ann_counts(18_390_000)).nominal

    def snn(synops: float) -> float:
        return energy(model, Counts("snn", {"macs": Range.exactly(0), "synops": Range.exactly(synops)})).nominal

    assert ann / snn(2.51e6) == pytest.approx(37.4, abs=0.1)
    assert ann / snn(2.51e6 * 0.1366) == pytest.approx(273.8, rel=2e-3)


def fully_active(T: int) -> Activity:
    """Ten inputs that spike at every step, into three neurons that never do."""
    graph = chain(
        [("in", Input((10,), "spikes")), ("fc", Linear(np.ones((3, 10)))), ("n", IF(1e9)), ("o", Output())], T
    )
    counter = ActivityCounter(graph)
    counter("in", torch.ones(T, 2, 10))
    counter("n", torch.zeros(T, 2, 3))
    return counter.result()


@pytest.mark.parametrize(("T", "bits"), [(1, 1), (2, 2), (3, 2), (4, 3), (7, 3), (8, 4), (15, 4), (16, 5)])
def test_quantized_twin_has_as_many_levels_as_t_spikes(T: int, bits: int) -> None:
    assert twin_bits(T) == bits == math.ceil(math.log2(T + 1))
    activity = fully_active(T)
    counts = quantized_twin(activity)
    assert counts.values == {"macs": Range.exactly(0), "synops": Range.exactly(bits * 30)}
    model = MODELS["horowitz-45nm-int8"]
    twin = baseline(model, counts)
    assert twin is not None
    assert energy(model, snn_counts(activity)).nominal / twin.nominal == pytest.approx(T / bits)


def test_quantized_twin_at_15_steps() -> None:
    """Yan et al. (arXiv 2409.08290): T / ⌈log2(T + 1)⌉ = 15 / 4 = 3.75."""
    model, activity = MODELS["jouppi-7nm-int8"], fully_active(15)
    twin = baseline(model, quantized_twin(activity))
    assert twin is not None
    assert energy(model, snn_counts(activity)).nominal / twin.nominal == pytest.approx(3.75)


def test_quantized_twin_by_hand() -> None:
    """4 pixels → 8 neurons → 3 outputs, T = 4: 3 bits; 6 of 32 possible spikes, so a rate of 3/16."""
    graph = chain(
        [
            ("in", Input((4,))),
            ("a", Linear(np.ones((8, 4)))),
            ("n", IF(1.0)),
            ("b", Linear(np.ones((3, 8)))),
            ("o", Output("membrane")),
        ],
        T=4,
    )
    counter = ActivityCounter(graph)
    spikes = torch.zeros(4, 1, 8)
    spikes.view(-1)[:6] = 1
    counter("in", torch.ones(1, 1, 4))
    counter("n", spikes)
    counts = quantized_twin(counter.result())
    assert counts.values["macs"] == Range.exactly(32)  # the encoder, once
    assert counts.values["synops"] == Range(3 * 24 * 6 / 32, 72, 72)
    estimate = baseline(MODELS["horowitz-45nm-int8"], counts)
    assert estimate is not None
    assert [estimate.low, estimate.nominal, estimate.high] == approx(
        (32 * 0.23 + 13.5 * 0.03, 32 * 0.23 + 72 * 0.03, 32 * 0.3 + 72 * 0.1)
    )
    # models that price more than arithmetic have no such twin
    assert baseline(MODELS["loihi1-events"], counts) is None
    assert baseline(MODELS["lemaire2022"], counts) is None


def test_zero_skipping_ann_by_hand() -> None:
    shapes = {"a": LayerShape(False, 4, 8, 32, 8, 32, 0), "b": LayerShape(False, 8, 3, 24, 3, 24, 0)}
    counts = zero_skipping_ann(shapes, {"a": 32.0, "b": 9.0})
    estimate = energy(MODELS["horowitz-45nm-fp32"], counts)
    assert estimate.nominal == pytest.approx(41 * 4.6 * PICO)
    assert energy(MODELS["horowitz-45nm-fp32"], dense_ann(shapes.values())).nominal == pytest.approx(56 * 4.6 * PICO)
    assert counts.accesses["weight_reads"] == (Access(32, Range.exactly(32)), Access(24, Range.exactly(9)))
    assert counts.accesses["input_reads"] == (Access(4, Range.exactly(4)), Access(8, Range.exactly(8)))
    with pytest.raises(DeployError, match="same layers"):
        zero_skipping_ann(shapes, {"a": 1.0})


def test_break_even_by_hand() -> None:
    """100 encoder MACs and 900 spike-fed ones, T = 4; the run had 0.5 spikes per synapse."""
    snn = Counts("snn", {"macs": Range(100, 400, 400), "synops": Range.exactly(450)}, spikes_per_synapse=0.5)
    rate = break_even(MODELS["horowitz-45nm-fp32"], ann_counts(1000), snn)
    assert rate is not None
    repeated, once = 4.6 * (1000 - 400) / (0.9 * 900), 4.6 * (1000 - 100) / (0.9 * 900)
    assert [rate.low, rate.nominal, rate.high] == pytest.approx([repeated, repeated, once])
    # at that rate both cost the same
    there = Counts("snn", {"macs": Range.exactly(400), "synops": Range.exactly(repeated * 900)}, repeated)
    model = MODELS["horowitz-45nm-fp32"]
    assert energy(model, there).nominal == pytest.approx(energy(model, ann_counts(1000)).nominal)


def test_break_even_where_there_is_none() -> None:
    model = MODELS["horowitz-45nm-int8"]
    encoder_only = Counts("snn", {"macs": Range.exactly(4000), "synops": Range.exactly(10)}, 0.1)
    assert break_even(model, ann_counts(1000), encoder_only) == Range(0.0, 0.0, 0.0)
    assert break_even(model, ann_counts(1000), Counts("snn", {"synops": Range.exactly(0)}, 0.0)) is None
    assert break_even(model, ann_counts(1000), Counts("snn", {"synops": Range.exactly(0)}, None)) is None


def test_break_even_needs_the_whole_ann() -> None:
    snn = snn_counts(fully_active(4))
    model = MODELS["lemaire2022"]
    assert break_even(model, ann_counts(30), snn) is None  # its memory accesses are not known
    assert break_even(model, dense_ann([LayerShape(False, 10, 3, 30, 0, 30, 0)]), snn) is not None


def test_break_even_scales_everything_that_a_spike_causes(tmp_path: Path) -> None:
    data = json.loads(next(p for p in energy_models._DATA.iterdir() if "loihi" in p.name).read_text())
    data["ann"] = [{"name": "mac", "count": "macs", "constants": ["synop"]}]
    (tmp_path / "m.json").write_text(json.dumps(data))
    model = load(tmp_path / "m.json")
    values = {"synops": 500, "spikes": 50, "active_updates": 50, "inactive_updates": 150}
    snn = Counts("snn", {k: Range.exactly(v) for k, v in values.items()}, spikes_per_synapse=0.5)
    rate = break_even(model, ann_counts(1000), snn)
    assert rate is not None
    per_rate = (23.6 * 500 + 1.7 * 50 + (81 - 52) * 50) / 0.5
    assert rate.nominal == pytest.approx((23.6 * 1000 - 52 * 200) / per_rate)


def test_counts_of_a_run() -> None:
    graph = chain(
        [
            ("in", Input((1, 2, 2))),
            ("conv", Conv2d(np.ones((2, 1, 1, 1)))),
            ("n", IF(1.0)),
            ("flat", Flatten()),
            ("fc", Linear(np.ones((3, 8)))),
            ("out", Output("membrane")),
        ],
        T=4,
    )
    counter = ActivityCounter(graph)
    image = torch.zeros(1, 2, 1, 2, 2)
    image[0, 0, 0, 0, 0] = 0.5  # one pixel of the first sample, none of the second
    spikes = torch.zeros(4, 2, 2, 2, 2)
    spikes[1::2, 0, :, 0, 0] = 1
    counter("in", image)
    counter("n", spikes)
    counts = snn_counts(counter.result())
    assert {name: count for name, count in counts.values.items() if count != Range.exactly(0)} == {
        "macs": Range(8, 32, 32),
        "stepped_macs": Range.exactly(4 * (8 + 24)),
        "rate_macs": Range.exactly(6),
        "synops": Range.exactly(6),  # 4 spikes × 3 synapses in one of two samples
        "synops_linear": Range.exactly(6),
        "synops_lemaire": Range.exactly(6),
        "graded_conv": Range.exactly(4),
        "address_adds": Range(14, 56, 56),  # 4 pixels + 8 outputs + 2 × 1 kernel words
        "spike_address_adds": Range.exactly(6),
        "spike_reads": Range.exactly(2),
        "spike_writes": Range.exactly(2),
        "neuron_updates": Range.exactly(32),
        "graded_ops": Range.exactly(4),  # 1 pixel × 2 synapses × 4 steps in one of two samples
        "spikes": Range.exactly(2),
        "active_updates": Range.exactly(2),
        "inactive_updates": Range.exactly(30),
    }
    assert counts.accesses == {
        "bias_reads": (),
        "input_reads": (Access(4, Range(8, 32, 32)),),
        "membrane_accesses": (Access(8, Range.exactly(32)),),
        "output_writes": (),
        "spike_membrane_accesses": (Access(3, Range.exactly(6)),),
        "spike_weight_reads": (Access(24, Range.exactly(6)),),
        "weight_reads": (Access(2, Range(8, 32, 32)),),
    }
    # everything that a model may count is counted, but for what a placement knows
    moved = {
        "bit_macs",
        "weight_bits",
        "spike_weight_bits",
        "activation_bits",
        "membrane_bits",
        "result_bits",
    }  # see test_movement
    assert set(COUNTS) - {*counts.values, *counts.accesses} - moved == {
        "hops_ew",
        "hops_ns",
        "messages",
        "chip_seconds",
    }
    assert {*counts.accesses} == SIZED
    assert counts.spikes_per_synapse == 6 / 24


def good() -> dict[str, Any]:
    return {
        "name": "mine",
        "title": "My chip",
        "technology": "5 nm",
        "precision": "INT4",
        "arithmetic": "integer",
        "basis": "measured",
        "boundary": "everything",
        "sources": {"me": {"citation": "me", "url": "https://example.org"}},
        "constants": {"op": {"value": 2, "unit": "fJ", "low": 1, "source": "me"}},
        "ann": "not supported.",
        "snn": [{"name": "operation", "count": "synops", "constants": ["op"]}],
    }


def test_a_users_model(tmp_path: Path) -> None:
    (tmp_path / "mine.json").write_text(json.dumps(good()))
    estimate = energy(load(tmp_path / "mine.json"), Counts("snn", {"synops": Range.exactly(10)}))
    assert [estimate.low, estimate.nominal, estimate.high] == pytest.approx([1e-14, 2e-14, 2e-14])


def sized(model: dict[str, Any], points: list[Any], word_bits: int | None = 16) -> None:
    model["constants"]["op"]["value"] = points
    if word_bits is not None:
        model["word_bits"] = word_bits


def test_energy_by_memory_size(tmp_path: Path) -> None:
    """2 pJ up to 100 bits, 6 pJ from 300 on, low half of that, high 7 pJ throughout."""
    model = good()
    model["constants"]["op"] = {
        **{"value": [[100, 2], [300, 6]], "low": [[100, 1], [300, 3]], "high": 7, "unit": "pJ", "source": "me"},
    }
    model.update(word_bits=10, snn=[{"name": "read", "count": "weight_reads", "constants": ["op"]}])
    (tmp_path / "mine.json").write_text(json.dumps(model))
    loaded = load(tmp_path / "mine.json")
    reads = tuple(Access(words, Range.exactly(1)) for words in (1, 10, 15, 30, 1000))
    estimate = energy(loaded, Counts("snn", {}, accesses={"weight_reads": reads}))
    assert estimate.breakdown[0].count == Range.exactly(5)
    assert [estimate.low, estimate.nominal, estimate.high] == approx((1 + 1 + 1.5 + 3 + 3, 2 + 2 + 3 + 6 + 6, 35))
    assert loaded.constants["op"].joules == Range(*(pytest.approx(v * PICO) for v in (1, 2, 7)))


Change = Callable[[dict[str, Any]], Any]

BAD: list[tuple[Change, str]] = [
    (lambda m: m.pop("boundary"), "the model lacks boundary"),
    (lambda m: m.update(static=3), "the model has static, which means nothing here; known: name, title"),
    (lambda m: m.update(title=""), "title must be a text that is not empty"),
    (lambda m: m.update(basis="guessed"), "basis is 'guessed'; it must be one of measured, simulated, estimated"),
    (lambda m: m.update(arithmetic=["float"]), "arithmetic must be a text"),
    (lambda m: m["constants"]["op"].update(unit="cal"), "constants.op.unit is 'cal'; it must be one of J, mJ"),
    (lambda m: m["constants"]["op"].update(unit=[]), r"constants.op.unit is \[\]; it must be one of"),
    (lambda m: m["constants"]["op"].update(value="2"), "constants.op.value is '2'; it must be a number"),
    (lambda m: m["constants"]["op"].update(value=True), "constants.op.value is True"),
    (lambda m: m["constants"]["op"].update(value=-1), "constants.op.value is -1"),
    (lambda m: m["constants"]["op"].update(value=float("nan")), "constants.op.value is nan"),
    (lambda m: m["constants"]["op"].update(low=3), "constants.op: low 3 ≤ value 2 ≤ high 2 does not hold"),
    (lambda m: m["constants"]["op"].update(source="you"), "constants.op.source is 'you', which is not defined"),
    (lambda m: m.update(sources={}), "sources is empty"),
    (lambda m: m["sources"]["me"].update(url="javascript:alert(1)"), "sources.me.url .* starts with https"),
    (
        lambda m: m["snn"][0].update(count="joules"),
        r"snn\[0\].count is 'joules'; it must be one of macs, stepped_macs, synops",
    ),
    (
        lambda m: m["snn"][0].update(constants=["on"]),
        r"snn\[0\].constants\[0\] is 'on', which is not defined; defined: op",
    ),
    (lambda m: m.update(snn=[]), "snn is empty"),
    (lambda m: m.update(snn=3), "snn must be a list"),
    (lambda m: m.update(constants=[]), "constants must be an object"),
    (lambda m: m["snn"][0].update(constants=[]), r"snn\[0\].constants is empty"),
    (lambda m: m.update(word_bits=0), "word_bits is 0; it must be a whole number of at least 1"),
    (lambda m: m.update(word_bits=8.0), "word_bits is 8.0"),
    (lambda m: sized(m, [[0, 2], [8, 3]], None), "constants.op depends on the size of a memory; give word_bits"),
    (lambda m: sized(m, []), "constants.op.value is empty"),
    (lambda m: sized(m, [[0, 2], 3]), r"constants.op.value\[1\] must be \[bits of memory, number\]"),
    (lambda m: sized(m, [[8, 2], [8, 3]]), r"constants.op.value\[1\]: the sizes must grow, but 8 bits follow 8"),
    (lambda m: sized(m, [[0, -2]]), r"constants.op.value\[0\]\[1\] is -2; it must be a number of at least 0"),
    (
        lambda m: sized(m, [[0, 2], [8, 0.5]]),
        "constants.op: low 1 ≤ value 0.5 ≤ high 0.5 does not hold at 8 bits",
    ),
    (
        lambda m: sized(m, [[0, 2], [8, 3]]),
        r"snn\[0\] counts synops, which has no memory size, but op depends on one; use it with bias_reads",
    ),
    (lambda m: m.update(remarks=[{"text": "x"}]), r"remarks\[0\] lacks source"),
]


@pytest.mark.parametrize(("change", "message"), BAD)
def test_malformed_models_are_explained(tmp_path: Path, change: Change, message: str) -> None:
    data = copy.deepcopy(good())
    change(data)
    path = tmp_path / "bad.json"
    path.write_text(json.dumps(data))
    with pytest.raises(DeployError, match=f"bad.json: {message}"):
        load(path)


def test_files_that_are_no_models(tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    with pytest.raises(DeployError, match=r"x.json: cannot read this energy model \(No such file"):
        load(path)
    path.write_text('{"name": }')
    with pytest.raises(DeployError, match="not valid JSON at line 1"):
        load(path)
    path.write_text("[1, 2]")
    with pytest.raises(DeployError, match="the model must be an object"):
        load(path)
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(DeployError, match="UTF-8"):
        load(path)


def test_between_sizes_numbers_lie_where_numpy_has_them() -> None:
    sizes, numbers = [8.0, 1024.0, 8e6], [1.5, 20.0, 3.0]
    for at in (0.0, 8.0, 9.1, 1023.9, 1024.0, 5e5, 8e6, 9e9):
        assert interpolated(at, sizes, numbers) == np.interp(at, sizes, numbers)
        assert interpolated(at, [8.0], [2.0]) == 2.0
