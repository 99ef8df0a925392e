from __future__ import annotations

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from exporters.errors import DeployError
from exporters.graph import IF, Conv2d, Flatten, Input, Linear, Output, chain
from profilers import energy_models
from profilers.counts import ActivityCounter
from profilers.energy import Counts, ann_counts, break_even, energy, snn_counts
from profilers.energy_models import COUNTS, Range, built_in, load

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


def approx(values: tuple[float, ...]) -> Any:
    return pytest.approx([v * PICO for v in values])


def test_every_model_is_tested_by_hand() -> None:
    assert set(MODELS) == {*ARITHMETIC, "loihi1-events"}


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
    assert estimate.left_out == ()


def test_loihi1_says_what_it_lacks_instead_of_inventing() -> None:
    model = MODELS["loihi1-events"]
    with pytest.raises(DeployError, match="no estimate for an ANN: an ANN does not run on Loihi 1"):
        energy(model, ann_counts(1000))
    estimate = energy(model, Counts("snn", {"synops": Range.exactly(1)}))
    assert "hop between tiles, east-west" in estimate.left_out
    assert break_even(model, ann_counts(1000), Counts("snn", {"synops": Range.exactly(1)}, 0.1)) is None
    assert any("104 mW" in remark.text for remark in model.remarks)


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
    assert counts.values == {
        "macs": Range(8, 32, 32),
        "synops": Range.exactly(6),  # 4 spikes × 3 synapses in one of two samples
        "graded_ops": Range.exactly(4),  # 1 pixel × 2 synapses × 4 steps in one of two samples
        "spikes": Range.exactly(2),
        "active_updates": Range.exactly(2),
        "inactive_updates": Range.exactly(30),
    }
    assert set(counts.values) <= set(COUNTS)
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
    (lambda m: m["constants"]["op"].update(low=3), r"constants.op: low 3.0 ≤ value 2.0 ≤ high 2.0 does not hold"),
    (lambda m: m["constants"]["op"].update(source="you"), "constants.op.source is 'you', which is not defined"),
    (lambda m: m.update(sources={}), "sources is empty"),
    (lambda m: m["sources"]["me"].update(url="javascript:alert(1)"), "sources.me.url .* starts with https"),
    (lambda m: m["snn"][0].update(count="joules"), r"snn\[0\].count is 'joules'; it must be one of macs, synops"),
    (
        lambda m: m["snn"][0].update(constants=["on"]),
        r"snn\[0\].constants\[0\] is 'on', which is not defined; defined: op",
    ),
    (lambda m: m.update(snn=[]), "snn is empty"),
    (lambda m: m.update(snn=3), "snn must be a list"),
    (lambda m: m.update(constants=[]), "constants must be an object"),
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
