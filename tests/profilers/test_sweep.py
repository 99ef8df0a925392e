"""Sweeps: prefixes of a run against runs of their own, the front by its definition, what hangs on bits, and what is shown."""

from __future__ import annotations

import json
import xml.etree.ElementTree as ET
from dataclasses import replace
from pathlib import Path

import numpy as np
import profilers_example as made
import pytest
import torch
from spikingjelly.activation_based import functional, layer, neuron
from torch import nn

from exporters.errors import DeployError
from exporters.from_torch import from_torch
from hardware import emulator
from profilers import profiling
from profilers.counting.prefix import first_steps
from profilers.counting.sizes import graph_size
from profilers.energy import models, time_models
from profilers.energy.bit_dependence import energy_dependence, time_dependence
from profilers.energy.evaluation import energy
from profilers.energy.models import Range
from profilers.energy.movement import snn_movement, with_movement
from profilers.energy.operations import snn_counts
from profilers.report import sweep_labels, sweep_picture
from profilers.report.counted_run import word_sizes
from profilers.report.sweep import (
    equal_accuracy,
    pareto,
    sweep_point,
)
from profilers.report.sweep_result import known_sweep_formats

POINTS, AXES, ann, example, point = made.SWEEP_POINTS, made.AXES, made.ann, made.sweep, made.sweep_point
SVG = "{http://www.w3.org/2000/svg}"


# -- prefixes ----------------------------------------------------------------------------------------


def test_the_first_steps_of_a_run_are_the_shorter_run_of_spikingjelly_itself() -> None:
    """Weights and pixels are multiples of 1/64, so that no sum rounds: spikes and answers must be equal."""
    rng = np.random.default_rng(1)
    net = nn.Sequential(
        layer.Conv2d(1, 4, 3, padding=1), neuron.IFNode(), layer.MaxPool2d(2), layer.Flatten(),
        layer.Linear(36, 12), neuron.LIFNode(tau=2.0, v_reset=0.0), layer.Linear(12, 5), neuron.IFNode(v_threshold=0.5),
    )  # fmt: skip
    functional.set_step_mode(net, "m")
    for parameter in net.parameters():
        parameter.data = torch.from_numpy(rng.integers(-40, 60, parameter.shape) / 64).float()
    graph = from_torch(net.eval(), (1, 6, 6), 5)
    x, labels = (rng.integers(0, 65, (30, 1, 6, 6)) / 64).astype(np.float32), rng.integers(0, 5, 30)
    whole, accuracies = profiling.activity(graph, x, labels, run=emulator.run)
    assert len(set(accuracies)) > 1 and whole.spikes.any()
    for t in range(1, 6):
        spikes: list[torch.Tensor] = []
        hooks = [
            module.register_forward_hook(lambda module, given, out, spikes=spikes: spikes.append(out))
            for module in net
            if isinstance(module, neuron.BaseNode)
        ]
        functional.reset_net(net)
        with torch.no_grad():
            out = net(torch.from_numpy(x).expand(t, *x.shape))
        for hook in hooks:
            hook.remove()
        assert accuracies[t - 1] == float((out.mean(0).argmax(1).numpy() == labels).mean())
        part = first_steps(whole, t)
        assert t == part.T and part.spikes.shape == (30, t)
        for mine, theirs in zip(part.neurons.values(), spikes, strict=True):
            np.testing.assert_array_equal(mine.spikes.T, theirs.flatten(2).sum(2).numpy())


@pytest.mark.parametrize("t", [1, 3])
def test_everything_counted_is_that_of_a_run_of_its_own(t: int) -> None:
    graph = made.network(integer=True)
    x, labels = np.random.default_rng(7).random((12, 1, 8, 8)), np.arange(12) % 10
    whole, accuracies = profiling.activity(graph, x, labels, run=emulator.run)
    alone, of_alone = profiling.activity(replace(graph, T=t), x, labels, run=emulator.run)
    part, words = first_steps(whole, t), word_sizes(graph, graph_size(graph))
    assert accuracies[:t] == of_alone
    assert snn_counts(part) == snn_counts(alone) and snn_movement(part, words) == snn_movement(alone, words)
    for name in graph.synapses:
        for field in ("events", "operations", "operations_nonzero", "rate_macs", "weight_reads"):
            np.testing.assert_array_equal(getattr(part.synapses[name], field), getattr(alone.synapses[name], field))


def test_steps_that_a_run_does_not_have() -> None:
    graph = made.network(integer=True)
    x = np.zeros((2, 1, 8, 8))
    whole, _ = profiling.activity(graph, x, np.zeros(2, int), run=emulator.run)
    for t in (0, 5):
        with pytest.raises(DeployError, match="give 1 to 4"):
            first_steps(whole, t)


# -- bits --------------------------------------------------------------------------------------------


def test_a_model_hangs_on_the_bits_if_and_only_if_its_number_does() -> None:
    """The same spikes with weights of 4 and of 8 bits, through every built-in model."""
    graph = made.network(integer=True)
    x = np.random.default_rng(7).random((4, 1, 8, 8))
    activity, _ = profiling.activity(graph, x, np.zeros(4, int), run=emulator.run)
    words, kinds = word_sizes(graph, graph_size(graph)), set()
    for model in models.built_in().values():
        found = set()
        for bits in (4, 8):
            moved = snn_movement(activity, replace(words, weights=dict.fromkeys(words.weights, bits)))
            estimate = energy(model, with_movement(snn_counts(activity), moved))
            found.add((estimate.low, estimate.nominal, estimate.high))
        assert (len(found) == 2) == (energy_dependence(model) == "weights"), model.name
        kinds.add(energy_dependence(model))
    assert kinds == {"weights", "placement", "none"}


def test_what_counts_hops_or_cores_hangs_on_the_placement() -> None:
    found = {name: energy_dependence(model) for name, model in models.built_in().items()}
    assert found["yan2026"] == "weights" and found["horowitz-45nm-int8"] == "none"
    assert found["loihi1-events"] == found["loihi1-sanafe"] == "placement"
    times = {name: time_dependence(model) for name, model in time_models.built_in().items()}
    assert times["loihi1-sanafe-times"] == times["loihi2-peak"] == "placement"
    assert times["loihi1-measured"] == times["loihi2-measured"] == "none"


# -- the front ---------------------------------------------------------------------------------------


def test_the_front_by_its_definition() -> None:
    rng = np.random.default_rng(0)
    points = [point(a / 10, c, T=i + 1) for i, (a, c) in enumerate(rng.integers(1, 10, (60, 2)).tolist())]
    front = pareto(points, "synops")
    for one in points:
        better = [
            other
            for other in points
            if (other.accuracy >= one.accuracy and other.costs["synops"].nominal <= one.costs["synops"].nominal)
            and (other.accuracy > one.accuracy or other.costs["synops"].nominal < one.costs["synops"].nominal)
        ]
        assert (one in front) == (not better)
    assert [p.costs["synops"].nominal for p in front] == sorted(p.costs["synops"].nominal for p in front)


def test_equal_points_are_both_on_the_front_and_a_cost_that_is_missing_is_on_none() -> None:
    twins = [point(0.9, 5, T=1), point(0.9, 5, T=2), point(0.8, 5, T=3)]
    assert pareto(twins, "synops") == twins[:2]
    assert pareto(twins, "energy:nobody") == []


# -- equal accuracy ----------------------------------------------------------------------------------


def test_costs_are_interpolated_along_the_front_at_the_accuracy_of_the_ann() -> None:
    found = {row.cost: row for row in equal_accuracy(POINTS, [ann(0.93)], AXES)}
    assert "cores:loihi1" not in found  # cores are whole
    # halfway between the points of 20 and 40; the beaten one of 30 plays no part
    assert found["synops"].points is not None and found["synops"].points.nominal == pytest.approx(30)
    assert found["synops"].ann is None and found["energy:yan2026"].ann == Range(1, 2, 3)
    joules = found["energy:yan2026"].points
    assert joules is not None
    assert (joules.low, joules.nominal, joules.high) == pytest.approx((30e-12, 60e-12, 90e-12))
    assert found["energy:lemaire2022"].refusal == "no point has this cost"


def test_outside_the_range_it_says_so() -> None:
    above, below = (
        {row.cost: row for row in equal_accuracy(POINTS, [ann(accuracy)], AXES)} for accuracy in (0.97, 0.5)
    )
    assert above["synops"].points is None and "no point is as accurate" in above["synops"].refusal
    assert below["synops"].points is None and "even the cheapest is more accurate" in below["synops"].refusal
    assert equal_accuracy(POINTS, [ann(0.93, kind="teacher")], AXES) == ()


# -- what is shown -----------------------------------------------------------------------------------


def test_the_table_says_what_is_on_the_front_and_what_hangs_on_the_bits() -> None:
    text = str(example())
    assert "* on the Pareto front of accuracy and that cost: no other point is at least as accurate" in text
    rows = [line.split() for line in text.splitlines() if line.split()[:2] in (["4", "1"], ["8", "1"], ["8", "2"])]
    assert [row[5] for row in rows] == ["10*", "30", "40*"]
    assert rows[0][2:5] == ["80.0", "%", "75.0–83.0"]
    assert "Count the bits of the weights: Weight memory; Energy: 22 nm with data movement" in text
    assert "only the spikes differ: SynOps" in text
    assert "The same for all points that have it: Loihi 1 cores 3." in text
    assert "at equal accuracy" in text and "93.00 %" in text
    one = replace(example(), points=tuple(replace(p, bits=8) for p in POINTS[2:]))
    assert "bits of the weights" not in str(one).split("at equal")[0]


def test_an_ann_that_no_point_reaches_has_one_row() -> None:
    references = (ann(0.99),)
    sweep = example(references=references, equal=equal_accuracy(POINTS, references, AXES))
    sweep = replace(sweep, axes=tuple(axis for axis in AXES if axis.name in POINTS[0].costs))
    (table,) = [t for t in sweep.tables() if "at equal" in t.title]
    assert [row[2:4] for row in table.rows] == [("all", "outside: no point is as accurate, the best has 96.00 %")]


def test_numbers_go_to_pandas_and_json() -> None:
    sweep = example(missing=("net in 6 bits",))
    frame = sweep.to_frame()
    assert frame["bits"].tolist() == [4, 4, 8, 8] and frame["T"].tolist() == [1, 2, 1, 2]
    assert frame["synops front"].tolist() == [True, True, False, True]
    assert frame["synops low"].tolist() == pytest.approx([9, 18, 27, 36])
    assert "memory low" not in frame and frame["memory"].tolist() == [400, 400, 800, 800]
    data = json.loads(json.dumps(sweep.to_dict(), allow_nan=False))
    assert data["version"] == 1 and "synops" in data["points"][1]["front"]
    assert "synops" not in data["points"][2]["front"]
    assert repr(sweep) == str(sweep) and "Not finished: net in 6 bits are missing." in str(sweep)
    shown = sweep._repr_html_()
    assert shown.count("<table>") == len(sweep.tables()) == 2 and shown.startswith("<svg")


def test_files_are_whole_and_escape_what_users_wrote(tmp_path: Path) -> None:
    sweep = example()
    paths = sweep.write(tmp_path)
    assert list(paths) == ["sweep.html", "sweep.json", "sweep.csv", "sweep.svg"]
    page = paths["sweep.html"].read_text(encoding="utf-8")
    assert "<script" not in page and "a&lt;b&gt; on digits" in page and "<b>" not in page
    assert "does not depend on the bits" in page and "counts the bits of the weights" in page
    assert "no other point is at least as accurate" in page
    assert json.loads(paths["sweep.json"].read_text(encoding="utf-8")) == sweep.to_dict()
    with pytest.raises(DeployError, match="not written as 'latex'; choose from html"):
        known_sweep_formats(["html", "latex"])


def test_the_picture_names_every_point_in_every_panel_and_marks_the_front() -> None:
    sweep = example()
    root = ET.fromstring(sweep_picture.standalone(sweep))
    panels = [node for node in root.iter(f"{SVG}svg") if node.get("role") == "img"][1:]
    titles = [panel.findtext(f"{SVG}svg/{SVG}text/{SVG}title") for panel in panels]
    assert titles == ["SynOps", "Weight memory", "Energy: 22 nm with data movement (Yan et al.)"]
    for panel in panels:
        names = [node.text for node in panel.iter(f"{SVG}text") if node.get("class") == "name"]
        assert sorted(names) == ["1", "1", "2", "2"]
        marks = [node for node in panel.iter(f"{SVG}path") if "reference" not in node.get("class", "")]
        assert len(marks) == 4
    off = [node for node in panels[0].iter(f"{SVG}path") if "off" in node.get("class", "").split()]
    assert len(off) == 1 and "8 bits, T = 1" in (off[0].findtext(f"{SVG}title") or "").replace("\u00a0", " ")
    texts = [node.text or "" for node in root.iter(f"{SVG}text")]
    assert any("does not depend on the bits" in text for text in texts)
    assert "var(" not in ET.tostring(root, encoding="unicode")  # other programs know no names of colors


def test_costs_that_lie_far_apart_are_logarithmic_and_say_so() -> None:
    far = example(points=(point(0.5, 1, network="a"), point(0.99, 1000, network="b")), references=(), equal=())
    picture = far._repr_html_()
    assert "logarithmic" in picture and "logarithmic in its error" in picture
    assert "logarithmic" not in example(references=(), points=POINTS[1:3], equal=())._repr_html_()


def test_labels_do_not_touch_points_or_each_other() -> None:
    labels = [sweep_labels.Label(50 + 2 * i, 60 + 3 * (i % 2), f"{i}") for i in range(6)]
    found = list(sweep_labels.placed(labels, (0, 100, 0, 200)))
    boxes = [sweep_labels._box((x * sweep_labels.NARROWEST / 100, y, anchor), 6.4) for _, x, y, anchor in found]
    for i, box in enumerate(boxes):
        assert all(sweep_labels._shared(box, other) == 0 for other in boxes[:i])
        for label in labels:
            near = sweep_labels._around(label.x * sweep_labels.NARROWEST / 100, label.y, 12)
            assert sweep_labels._shared(box, near) == 0


def test_a_point_is_the_run_that_a_report_has() -> None:
    graph = made.network(integer=True)
    x = np.random.default_rng(7).random((20, 1, 8, 8))
    activity, _ = profiling.activity(graph, x, np.zeros(20, int), run=emulator.run)
    run, known = made.run(graph, 0.9), list(models.built_in().values())
    found = sweep_point("n", 8, graph, activity, 0.9, known, [])
    assert found.costs["synops"] == Range(run.synops.low, run.synops.mean, run.synops.high)
    assert found.costs["memory"].nominal * 8 == run.weight_bits and found.spikes == run.spikes.mean
    for model in known:
        if model.arithmetic == "integer":
            estimate = energy(model, run.counts)
            assert found.costs[f"energy:{model.name}"] == Range(estimate.low, estimate.nominal, estimate.high)
    assert not any("fp32" in name for name in found.costs)  # models of floats
