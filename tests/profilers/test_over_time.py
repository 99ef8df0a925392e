"""What a report says of every time step, and of input with fewer events, against counts over every synapse."""

from __future__ import annotations

import dataclasses
from itertools import pairwise

import numpy as np
import profilers_brute as brute
import profilers_example as example
import pytest
import torch

from exporters.errors import DeployError
from exporters.graph import Encoding, Input, SpikingGraph
from hardware import emulator
from profilers import profiling, report
from profilers.counting.thinning import KEPT, Thinned
from profilers.energy import models as energy_models
from profilers.energy.evaluation import energy
from profilers.report import html, tables
from profilers.report.numbers import percent, quantity


def by_hand(graph: SpikingGraph, samples: np.ndarray) -> dict[str, np.ndarray]:
    """(N, T) of everything that is counted, by a loop over every synapse, and the spikes of the last layer (N, T, F)."""
    encoded = torch.from_numpy(graph.encode(samples)).double()
    values = brute.run(graph, encoded.movedim(1, 0) if graph.input.over_time else encoded, lambda name, value: None)
    found = {
        "events": (values["input"] != 0).flatten(2).sum(2).T.numpy(),
        "spikes": sum(values[name].flatten(2).sum(2).T.numpy() for name in graph.neurons),
        "out": values["output"].movedim(0, 1).numpy(),
    }
    operations = {name: brute.count(graph, values, name)[0] for name in graph.synapses}
    analog = [] if graph.input.encoding == "spikes" else ["conv"]
    found["macs"] = sum((operations[name] for name in analog), np.zeros_like(operations["fc"]))
    found["synops"] = sum(counts for name, counts in operations.items() if name not in analog)
    return found


@pytest.mark.parametrize("encoding", ["spikes", "frames", "direct"])
def test_every_step_is_counted_as_by_hand(encoding: Encoding) -> None:
    graph = example.watching(encoding)
    x, labels = example.frames(7)
    if encoding != "spikes":
        x = x * np.random.default_rng(1).integers(0, 16, x.shape) / np.float32(15)
    x = x[:, 0] if encoding == "direct" else x
    run = profiling.count("s", graph, x, labels, run=emulator.run).deployed
    expected = by_hand(graph, x)
    assert run.events_in_by_step == (() if encoding == "direct" else pytest.approx(expected["events"].mean(0)))
    assert run.spikes_by_step == pytest.approx(expected["spikes"].mean(0))
    assert run.synops_by_step == pytest.approx(expected["synops"].mean(0))
    assert run.macs_by_step == pytest.approx(expected["macs"].mean(0))
    right = [(expected["out"][:, :t].sum(1).argmax(1) == labels).mean() for t in range(1, 5)]
    assert run.accuracy_by_step == pytest.approx(right)
    # no test by accident: everything happens, and differently at different steps
    assert min(map(min, (run.spikes_by_step, run.synops_by_step))) > 0 and len(set(run.synops_by_step)) > 1
    assert any(run.macs_by_step) == (encoding != "spikes")
    table = tables.steps(report.Student("s", run))
    headings = ["Step", "Accuracy", "Events in", "Spikes", "SynOps", "MACs", "SynOps so far"]
    missing = {"spikes": ["MACs"], "frames": [], "direct": ["Events in"]}[encoding]
    assert [cell.text for cell in table.columns] == [h for h in headings if h not in missing]
    shown = {c.text: [row.cells[i].text for row in table.rows] for i, c in enumerate(table.columns[1:])}
    assert shown["SynOps so far"] == [quantity(sum(run.synops_by_step[: t + 1])) for t in range(4)]
    assert shown["Accuracy"] == [percent(a) for a in right]
    if encoding != "direct":
        assert shown["Events in"] == [quantity(float(e)) for e in expected["events"].mean(0)]
    assert bool(table.notes) == (encoding != "spikes")


def test_events_are_counted_where_no_weights_read_them() -> None:
    """A max-pool or a neuron layer behind the input has no synapses of which they could be the input."""
    graph = example.watching()
    pooled = dataclasses.replace(
        graph,
        nodes={"input": Input((4, 6, 6), "spikes"), **{k: v for k, v in graph.nodes.items() if k not in ("input", "conv")}},
        edges=(("input", "conv.neuron"), *[e for e in graph.edges if "conv" not in e and "input" not in e]),
    )  # fmt: skip
    x = np.repeat(example.frames(5)[0], 2, axis=2)
    run = profiling.count("s", pooled, x, run=emulator.run).deployed
    assert run.events_in_by_step == pytest.approx(x.sum((2, 3, 4)).mean(0))


def test_thinning_drops_events_one_by_one() -> None:
    x, _ = example.frames(200)
    rows = np.arange(200)
    thinned = {kept: Thinned(x, rows, kept)[:] for kept in (*KEPT, 0.0)}
    np.testing.assert_array_equal(thinned[1.0], x)
    assert not thinned[0.0].any()
    for more, fewer in pairwise(KEPT):
        assert ((thinned[more] - thinned[fewer]) >= 0).all()  # what is kept of fewer is kept of more
    events = x.sum()
    for kept, found in thinned.items():
        assert found.dtype == x.dtype and set(np.unique(found)) <= {0, 1} and (found <= x).all()
        assert abs(found.sum() - kept * events) <= 5 * np.sqrt(events * kept * (1 - kept))
    # neither the slices that are read nor the samples around change what becomes of one
    pieces = Thinned(x, rows, 0.5)
    np.testing.assert_array_equal(np.concatenate([pieces[0:3], pieces[3:190], pieces[190:250]]), thinned[0.5])
    few = np.array([3, 50, 199])
    np.testing.assert_array_equal(Thinned(x[few], few, 0.5)[:], thinned[0.5][few])
    assert (Thinned(x, rows, 0.5, seed=1)[:] != thinned[0.5]).any()
    same = np.ones((2, 4, 2, 6, 6), np.float32)
    first, second = Thinned(same, np.arange(2), 0.5)[:]
    assert (first != second).any()


def test_a_sweep_has_the_counts_of_every_density() -> None:
    made = example.events()
    sweep = made.density
    assert sweep is not None and report.Report.from_json(made.to_json()) == made
    assert [point.kept for point in sweep.points] == list(KEPT)
    assert (sweep.student, sweep.samples, sweep.arithmetic) == ("watching", 20, "integer")
    model = energy_models.built_in()["loihi1-events"]
    assert (
        sweep.model_title == model.title
        and sweep.placed_on == ""
        and "static power × run time of all chips" in sweep.left_out
    )
    x, labels = example.frames(20)
    for point in sweep.points:
        fewer = Thinned(x, np.arange(20), point.kept)[:]
        expected = by_hand(example.watching(), fewer)
        assert point.events_in == pytest.approx(fewer.sum((1, 2, 3, 4)).mean())
        assert point.spikes.mean == pytest.approx(expected["spikes"].sum(1).mean())
        assert point.synops.mean == pytest.approx(expected["synops"].sum(1).mean())
        assert point.accuracy == pytest.approx((expected["out"].sum(1).argmax(1) == labels).mean())
        estimate = energy(model, profiling.count("s", example.watching(), fewer, run=emulator.run).deployed.counts)
        assert point.energy is not None and point.energy.nominal == pytest.approx(estimate.nominal)
    counted = [point.synops.mean for point in sweep.points]
    assert counted == sorted(counted, reverse=True) and counted[-1] < counted[0] / 2
    page = html.render(made)
    assert "With fewer events" in page and 'aria-label="Accuracy and cost against the share' in page
    assert "With fewer events" not in html.render(dataclasses.replace(made, density=None))
    table = tables.density(sweep)
    assert [row.label for row in table.rows] == [
        "all events",
        *(f"{kept} of events" for kept in ("3/4", "1/2", "1/4", "1/8")),
    ]
    assert table.rows[2].cells[3].small[0] == f"{percent(counted[2] / counted[0], 0)} of all"


def test_images_have_no_events_to_thin() -> None:
    student = profiling.count("still", example.watching("direct"), example.frames(3)[0][:, 0], run=emulator.run)
    with pytest.raises(DeployError, match="still: no events come in"):
        report.build("t", "", [student], thinned={1.0: student})
