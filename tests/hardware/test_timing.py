"""Latency, throughput and energy-delay product, against loops over every synapse, core and chip step."""

from __future__ import annotations

import itertools
import json
import re
from collections import Counter, defaultdict
from pathlib import Path

import numpy as np
import pytest

from exporters.errors import DeployError
from exporters.graph import IF, Conv2d, Flatten, Input, Linear, Output, SpikingGraph, chain
from exporters.passes.chain import to_chain
from hardware import emulator
from hardware.chips import limits
from hardware.chips.placement import Placement, place, position
from hardware.chips.work import CoreCounter, farthest, tiles
from kdsnn.deploy.on_chip import timed_network
from profilers.counting.activity import ActivityCounter
from profilers.energy import models as energy_models
from profilers.energy import operations, time_models, timing
from profilers.energy.models import Range
from tests.hardware import by_enumeration
from tests.networks import random_frames, random_integer_chain

NANO = 1e-9
rng = np.random.default_rng(3)


def small_chip(folder: Path, name: str, **numbers: int) -> limits.Target:
    data = json.loads((Path(limits.__file__).parent / "data" / f"{name}.json").read_text(encoding="utf-8"))
    for key, value in {"compartments": 6, **numbers}.items():
        data["limits"][key]["value"] = value
    (folder / "chip.json").write_text(json.dumps(data), encoding="utf-8")
    return limits.load(folder / "chip.json")


def network(T: int = 3) -> SpikingGraph:
    a = Conv2d(rng.integers(-3, 4, (4, 2, 3, 3)).astype(np.int32), None, (2, 2), (1, 1))
    b = Conv2d(rng.integers(-3, 4, (6, 2, 2, 2)).astype(np.int32), None, (1, 1), (1, 1), groups=2)
    c = Linear(rng.integers(-2, 3, (7, 6 * 4 * 4)).astype(np.int32))
    nodes = [
        ("input", Input((2, 6, 6), "spikes")),
        *(("a", a), ("a.if", IF(3)), ("b", b), ("b.if", IF(4, "soft")), ("flat", Flatten())),
        *(("c", c), ("c.if", IF(3)), ("output", Output())),
    ]
    return chain(nodes, T)


def placed_and_run(graph: SpikingGraph, target: limits.Target, samples: int = 3):
    placement = place(graph, target)
    frames = random_frames(graph, samples, 5)
    cores, activity, recorder = CoreCounter(placement, graph), ActivityCounter(graph), emulator.Recorder(graph)

    def observe(name: str, values) -> None:
        for one in (cores, activity, recorder):
            one(name, values)

    emulator.run(graph, frames, observe=observe, batch_size=2)
    return placement, cores.result(), activity.result(), {"input": frames, **recorder.spikes}


def source_of(graph: SpikingGraph, name: str) -> str:
    source = graph.sources(name)[0]
    return graph.sources(source)[0] if source == "flat" else source


def by_loops(graph: SpikingGraph, placement: Placement, spikes: dict[str, np.ndarray], n: int, t: int):
    """Core → what it does at the network's step t of sample n, synapse by synapse and spike by spike."""
    found: dict[int, Counter[str]] = defaultdict(Counter)
    core_of = {}
    for layer in placement.layers:
        for core, block in enumerate(layer.blocks, layer.first_core):
            for neuron in itertools.product(*(range(*span) for span in (block.channels, block.rows, block.columns))):
                core_of[layer.name, neuron] = core
    for layer in placement.layers:
        listening = defaultdict(set)
        events = spikes[source_of(graph, layer.name)][n, t].ravel()
        zeros = placement.target.memory.stores_zeros
        for source, neuron, _ in by_enumeration.connections(graph, layer.name, zeros=zeros):
            core = core_of[layer.name, neuron]
            listening[source].add(core)
            found[core]["synops"] += int(events[source] != 0)
        for source, cores in listening.items():
            for core in cores:
                found[core]["messages_in"] += int(events[source] != 0)
        shape = layer.shape if len(layer.shape) == 3 else (*layer.shape, 1, 1)
        before = next((p for p in placement.layers if p.neurons_name == source_of(graph, layer.name)), None)
        for flat, cores in listening.items():
            if before is not None and events[flat]:
                grid = before.shape if len(before.shape) == 3 else (*before.shape, 1, 1)
                sender = core_of[before.name, tuple(int(k) for k in np.unravel_index(flat, grid))]
                found[sender]["messages_out"] += len(cores)
        for neuron in itertools.product(*map(range, shape)):
            fired = spikes[layer.neurons_name][n, t].reshape(shape)[neuron]
            found[core_of[layer.name, neuron]]["spikes"] += int(fired)
    return found


@pytest.mark.parametrize("name", ["loihi1", "loihi2"])
def test_every_core_and_step_against_loops(tmp_path: Path, name: str) -> None:
    graph = network()
    placement, work, activity, spikes = placed_and_run(graph, small_chip(tmp_path, name))
    assert all(layer.cores > 1 for layer in placement.layers)
    for n, t in itertools.product(range(3), range(3)):
        expected = by_loops(graph, placement, spikes, n, t)
        for layer, done in zip(placement.layers, work, strict=True):
            for core in range(layer.cores):
                for what in ("synops", "messages_in", "messages_out", "spikes"):
                    assert getattr(done, what)[n, t, core] == expected[layer.first_core + core][what], (what, core)
    # together the cores do what the network's own counter counts
    total = sum(done.synops.sum(axis=2) for done in work)
    stored = activity.synops if placement.target.memory.stores_zeros else activity.synops_nonzero
    assert (total == stored).all() and total.any()


def slow_steps(model: time_models.TimeModel, graph, placement, own, bound: str, folded: bool):
    """Chip step → seconds of every core, from the loops' counts: layers are pipelined, one step each."""
    depth = len(placement.layers)
    steps = []
    for step in range(graph.T if folded else graph.T + depth):
        seconds = {}
        for k, layer in enumerate(placement.layers):
            for core, used in enumerate(layer.usage, layer.first_core):
                seen: Counter[str] = Counter()
                for what, shift in (("synops", k), ("messages_in", k), ("spikes", k + 1), ("messages_out", k + 1)):
                    t = (step - shift) % graph.T if folded else step - shift
                    if 0 <= t < graph.T:
                        seen[what] = own[t][core][what]
                conv = isinstance(graph.nodes[layer.name], Conv2d)
                seen["synops_conv"], seen["synops_linear"] = (seen["synops"], 0) if conv else (0, seen["synops"])
                seen["updates"], seen["active_updates"] = used.compartments, seen["spikes"]
                seen["inactive_updates"] = used.compartments - seen["spikes"]
                units = [
                    sum(
                        seen[t.count] * getattr(model.constants[c].seconds, bound) for t in u.terms for c in t.constants
                    )
                    for u in model.core
                ]
                together = bound == "low" or (bound == "nominal" and model.overlapping)
                seconds[core] = max(units) if together else sum(units)
        steps.append(seconds)
    return steps


@pytest.mark.parametrize("model", [m for m in time_models.built_in().values() if m.core], ids=lambda m: m.name)
def test_latency_throughput_and_critical_core_against_loops(
    tmp_path: Path, model: time_models.TimeModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    graph = network()
    placement, work, activity, spikes = placed_and_run(graph, small_chip(tmp_path, model.target))
    timed = timed_network(placement, work, graph.T)
    assert timed is not None
    found = timing.estimate(model, timed, operations.snn_counts(activity))
    assert found.steps == 3 + 3
    own = [[by_loops(graph, placement, spikes, n, t) for t in range(3)] for n in range(3)]
    on_top = 0.0 if model.target == "loihi2" else None
    bounds = ["low"] if model.at_least else ["low", "nominal", "high"]
    for bound in bounds:
        if on_top is None or model.target == "loihi1":
            far = farthest(placement)
            assert far is not None
            ways = far[0] * 4.1e-9 + far[1] * 6.5e-9
            used = tiles(placement)
            assert used is not None and placement.chips == 1
            sync = (113 + (465 - 113) * (used - 1) / 31) * NANO
            if (
                model.name == "loihi1-sanafe-times"
            ):  # SANA-FE's own reading of its table: the last entry that is not larger
                sync = {1: 0.6e-6, 2: 1.0e-6, 4: 1.4e-6, 29: 1.8e-6}[max(k for k in (1, 2, 4, 29) if k <= used)]
            on_top = ways + sync
        for folded, of in ((False, found.latency), (True, found.period)):
            each = [
                sum(max(s.values()) + on_top for s in slow_steps(model, graph, placement, own[n], bound, folded))
                for n in range(3)
            ]
            assert getattr(of, bound) == pytest.approx(np.mean(each)), (bound, folded)
    decides = Counter(
        max(seconds, key=lambda core: (seconds[core], -core))
        for n in range(3)
        for seconds in slow_steps(model, graph, placement, own[n], "low" if model.at_least else "nominal", True)
    )
    assert found.core is not None and decides[found.core] == max(decides.values())
    assert found.share == pytest.approx(decides[found.core] / 9)
    owner = next(x for x in placement.layers if x.first_core <= found.core < x.first_core + x.cores)
    assert found.layer == owner.name
    assert found.step.nominal == pytest.approx(found.period.nominal / 3)
    monkeypatch.setattr(timing, "_AT_ONCE", 1)  # one sample after the other
    assert timing.estimate(model, timed, operations.snn_counts(activity)) == found


def test_ways_and_tiles_against_every_pair_of_cores(tmp_path: Path) -> None:
    graph = network()
    target = small_chip(tmp_path, "loihi1", compartments=3, cores_per_tile=2, mesh_columns=3, cores_per_chip=18)
    placement, _, _, spikes = placed_and_run(graph, target, 1)
    assert placement.chips > 1
    everything = {name: np.ones_like(values) for name, values in spikes.items()}
    assert everything
    ways = set()
    for before, after in itertools.pairwise(placement.layers):
        sender = {}
        for core, block in enumerate(before.blocks, before.first_core):
            for c, y, x in itertools.product(*(range(*s) for s in (block.channels, block.rows, block.columns))):
                sender[int(np.ravel_multi_index((c, y, x), before.shape))] = core
        receiver = {}
        for core, block in enumerate(after.blocks, after.first_core):
            for neuron in itertools.product(*(range(*s) for s in (block.channels, block.rows, block.columns))):
                receiver[neuron] = core
        for source, neuron, _ in by_enumeration.connections(graph, after.name):
            here, there = position(target, sender[source]), position(target, receiver[neuron])
            assert here is not None and there is not None
            ways.add((abs(here[0] - there[0]), abs(here[1] - there[1])))
    far = farthest(placement)
    assert far in ways and sum(far) == max(map(sum, ways))
    tiles_used = {(core // 18, core % 18 // 2) for core in range(placement.cores)}
    assert tiles(placement) == len(tiles_used)


def test_energy_and_its_product_with_delay_by_hand(tmp_path: Path) -> None:
    graph = network()
    placement, work, activity, _ = placed_and_run(graph, small_chip(tmp_path, "loihi1"))
    timed = timed_network(placement, work, graph.T)
    assert timed is not None
    counts = operations.snn_counts(activity)
    known = energy_models.built_in()
    model = time_models.built_in()["loihi1-measured"]
    found = timing.estimate(model, timed, counts, list(known.values()))
    # 6 steps alone and 3 back to back, of 5.8, 66.5 and 850 µs
    assert [found.latency.low, found.latency.nominal, found.latency.high] == pytest.approx(
        [6 * 5.8e-6, 6 * 66.5e-6, 6 * 850e-6]
    )
    assert found.period.nominal == pytest.approx(3 * 66.5e-6) and found.core is None
    (events, sanafe) = found.products
    assert (events.model, events.static, sanafe.static) == ("loihi1-events", True, False)
    bare = timing.energy(known["loihi1-events"], counts)
    assert events.energy.nominal == pytest.approx(bare.nominal + 0.104 * found.latency.nominal)
    assert events.energy.low == pytest.approx(bare.low + 0.0297 * found.latency.low)
    assert events.back_to_back.nominal == pytest.approx(bare.nominal + 0.104 * found.period.nominal)
    assert events.product.high == pytest.approx(events.energy.high * found.latency.high)
    assert sanafe.energy.nominal == pytest.approx(timing.energy(known["loihi1-sanafe"], counts).nominal)


def test_layers_in_turn_take_the_sum_of_their_slowest_cores(tmp_path: Path) -> None:
    graph = network()
    placement, work, activity, _ = placed_and_run(graph, small_chip(tmp_path, "loihi2"))
    timed = timed_network(placement, work, graph.T)
    assert timed is not None
    data = json.loads(next((Path(time_models.__file__).parent / "step_times").glob("*loihi2-peak*")).read_text("utf-8"))
    data |= {"layers": "in turn", "nominal": "in turn", "at_least": False}
    (tmp_path / "m.json").write_text(json.dumps(data), encoding="utf-8")
    found = timing.estimate(time_models.load(tmp_path / "m.json"), timed, operations.snn_counts(activity))
    each = [w.synops * 0.37e-9 + w.compartments * 0.586e-9 for w in work]
    assert found.steps == 3
    assert found.latency.high == pytest.approx(sum(e.max(axis=2) for e in each).sum(axis=1).mean())
    assert found.latency == found.period


def test_random_chains_have_times(tmp_path: Path) -> None:
    target = small_chip(tmp_path, "loihi1", compartments=16)
    for seed in range(4):
        graph = to_chain(random_integer_chain(seed))
        placement, work, activity, _ = placed_and_run(graph, target, 2)
        timed = timed_network(placement, work, graph.T)
        assert timed is not None
        for model in time_models.built_in().values():
            if model.target == "loihi1":
                found = timing.estimate(model, timed, operations.snn_counts(activity))
                assert 0 < found.period.low <= found.period.nominal <= found.period.high
                assert all(getattr(found.latency, b) > getattr(found.period, b) for b in timing.BOUNDS)


CHANGES = (
    ({"layers": "both"}, "layers is 'both'; it must be one of pipelined, in turn"),
    ({"core": [], "step": []}, "core and step are both empty; list what takes time"),
    ({"at_least": 1}, "at_least is 1; it must be true or false"),
    ({"sources": {}}, "sources is empty; say where the numbers come from"),
    ({"core": [{"unit": "x", "terms": []}]}, r"core[0].terms is empty; list what the unit does"),
    (
        {"core": [{"unit": "x", "terms": [{"name": "y", "count": "steps", "constants": ["synop"]}]}]},
        r"core[0].terms[0].count is 'steps'; it must be one of synops",
    ),
    (
        {"core": [{"unit": "x", "terms": [{"name": "y", "count": "synops", "constants": ["barrier"]}]}]},
        "core[0].terms[0] is of one core, but barrier depends on the tiles; use it in step",
    ),
    ({"step": [{"name": "y", "count": "steps", "constants": []}]}, "step[0].constants is empty"),
    ({"speed": 1}, "the model has speed, which means nothing here"),
)


@pytest.mark.parametrize(("change", "message"), CHANGES)
def test_malformed_models_are_explained(tmp_path: Path, change: dict[str, object], message: str) -> None:
    (path,) = (Path(time_models.__file__).parent / "step_times").glob("01-*")
    (tmp_path / "m.json").write_text(json.dumps(json.loads(path.read_text("utf-8")) | change), encoding="utf-8")
    with pytest.raises(DeployError, match=re.escape(f"m.json: {message}")):
        time_models.load(tmp_path / "m.json")


def test_what_a_chip_does_not_publish_is_a_refusal(tmp_path: Path) -> None:
    network_ = timing.TimedNetwork("loihi1", 1, 2, ())
    model = time_models.built_in()["loihi1-davies2018"]
    counts = operations.Counts("snn", {"synops": Range.exactly(0)})
    with pytest.raises(DeployError, match="is a model of loihi1, and the network is placed on loihi2"):
        timing.estimate(model, timing.TimedNetwork("loihi2", 1, 2, ()), counts)
    layer = timing.TimedLayer(
        "x", 0, np.ones(1), {name: np.ones((1, 2, 1), int) for name in ("synops", "spikes", "messages_out")}
    )
    with pytest.raises(DeployError, match="counts hops between tiles, and the mesh of loihi1 is not published"):
        timing.estimate(model, timing.TimedNetwork("loihi1", 1, 2, (layer,), 1, None), counts)
    with pytest.raises(DeployError, match="counts tiles, and those of loihi1 are not published"):
        timing.estimate(model, timing.TimedNetwork("loihi1", 1, 2, (layer,), None, (0, 0)), counts)
    assert network_.layers == ()
