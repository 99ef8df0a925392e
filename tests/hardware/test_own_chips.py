"""Chips of a user's own: a JSON file says how synapses are stored and shared, and every core is counted one synapse at
a time."""

from __future__ import annotations

import itertools
import json
import math
from collections import defaultdict
from dataclasses import replace
from pathlib import Path
from typing import Any

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings

from exporters.graph import IF, Conv2d, Flatten, Input, Linear, Output, SpikingGraph, chain
from exporters.passes.chain import to_chain
from hardware.chips import fit, limits
from hardware.chips.placement import Placement, place
from hardware.chips.search import WINDOW, PlacementError
from tests.hardware import by_enumeration as counted
from tests.networks import random_integer_chain

EXAMPLES = settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def number(value: int) -> dict[str, Any]:
    return {"value": value, "unit": "", "source": "made up", "confidence": "inference", "note": "for a test"}


def own_chip(folder: Path, memory: dict[str, Any], **numbers: int) -> limits.Target:
    """A chip from a file as a user would write it."""
    common = {
        "compartments": 40, "soft_reset_compartments": 1, "weight_bits": 8, "threshold_bits": 17, "bias_bits": 13,
        "cores_per_chip": 16, "max_chips": 1000, "room": 10**6,
    }  # fmt: skip
    if memory["storage"] == "lists":
        common |= {"synapses_per_entry": 7, "entry_prefix_bits": 5, "min_index_bits": 2, "list_end_bits": 3}
    data = {
        "name": "own", "title": "Own chip", "graded_spikes": True,
        "memory": {"limit": "room", "word_bits": 16, "unit": "words", **memory},
        "sources": {"made up": {"citation": "a test", "url": "https://example.org"}},
        "limits": {key: number(value) | {"unit": "units"} for key, value in (common | numbers).items()},
    }  # fmt: skip
    path = folder / "own.json"
    path.write_text(json.dumps(data), encoding="utf-8")
    return limits.target(str(path))


@st.composite
def chips(draw: st.DrawFn) -> dict[str, Any]:
    """Arguments of `own_chip`: any storage, any sharing, axons of any kind or none."""
    shared = [axis for axis in ("rows", "columns") if draw(st.booleans())]
    memory = {"storage": draw(st.sampled_from(["lists", "weights"])), "shared_along": shared}
    memory |= {"word_bits": draw(st.sampled_from([8, 13, 64])), "stores_zeros": draw(st.booleans())}
    numbers = {
        "compartments": draw(st.sampled_from([9, 24, 60])),
        "soft_reset_compartments": draw(st.sampled_from([1, 2])),
        "room": draw(st.sampled_from([150, 400, 10**6])),
    }
    if draw(st.booleans()):
        numbers["neuron_bytes"] = draw(st.sampled_from([1, 3]))
    if draw(st.booleans()):
        numbers["stored_weight_bits"] = draw(st.sampled_from([4, 9]))
    if memory["storage"] == "weights" and draw(st.booleans()):
        numbers["synapse_overhead_bits"] = draw(st.sampled_from([0, 5]))
    if memory["storage"] == "lists" and draw(st.booleans()):
        numbers["words_per_list"] = draw(st.sampled_from([4, 20]))
    if draw(st.booleans()):
        numbers["input_axons"] = draw(st.sampled_from([30, 80, 4000]))
    if draw(st.booleans()):
        numbers["output_axons"] = draw(st.sampled_from([60, 200, 4000]))
    if draw(st.booleans()):
        numbers |= {
            "population_entries": draw(st.sampled_from([1, 2])),
            "population_size": draw(st.sampled_from([4, 50])),
        }
    return {"memory": memory, **numbers}


def small_network(seed: int) -> SpikingGraph:
    """A convolution, strided or dilated or grouped, and a dense layer; small enough for every cut to be counted."""
    rng = np.random.default_rng(seed)
    channels, size, kernel = int(rng.choice([2, 4])), int(rng.integers(4, 7)), int(rng.integers(1, 4))
    groups, reset = int(rng.choice([1, 2])), str(rng.choice(["hard", "soft"]))
    geometry = ((int(rng.integers(1, 3)),) * 2, (int(rng.integers(0, 2)),) * 2, (int(rng.integers(1, 3)),) * 2)
    if (kernel - 1) * geometry[2][0] + 1 > size:
        geometry = ((1, 1), (0, 0), (1, 1))

    def weights(*shape: int) -> np.ndarray:
        values = rng.integers(-40, 60, shape) * (rng.random(shape) < 0.8)
        values.flat[0] = 33
        return values.astype(np.int32)

    conv = Conv2d(weights(4, channels // groups, kernel, kernel), None, *geometry, groups)
    before = chain([("input", Input((channels, size, size), "spikes")), ("a", conv), ("n", IF(50)), ("o", Output())], 2)
    features = math.prod(before.shapes["n"])
    return chain(
        [
            ("input", Input((channels, size, size), "spikes")), ("a", conv), ("a.if", IF(50, reset)),
            ("flat", Flatten()), ("b", Linear(weights(5, features))), ("b.if", IF(50, reset)), ("output", Output()),
        ],
        2,
    )  # fmt: skip


def soft(graph: SpikingGraph) -> SpikingGraph:
    return graph.with_nodes({name: replace(neurons, reset="soft") for name, neurons in graph.neurons.items()})


@EXAMPLES
@given(how=chips(), seed=st.integers(0, 10_000), is_soft=st.booleans())
def test_every_core_of_any_chip_against_enumeration(
    tmp_path: Path, how: dict[str, Any], seed: int, is_soft: bool
) -> None:
    target = own_chip(tmp_path, **how)
    graph = to_chain(random_integer_chain(seed, T=2))
    graph = soft(graph) if is_soft else graph
    try:
        placement = place(graph, target)
    except PlacementError as error:
        assert error.layer in graph.synapses and str(error).startswith(error.layer)
        return
    assert_cores(graph, placement, target)


def assert_cores(graph: SpikingGraph, placement: Placement, target: limits.Target) -> None:
    """What every core takes, from every synapse."""
    zeros = target.memory.stores_zeros
    core_of = [
        {
            neuron: core
            for core, block in enumerate(layer.blocks)
            for neuron in itertools.product(*(range(*span) for span in (block.channels, block.rows, block.columns)))
        }
        for layer in placement.layers
    ]
    for k, layer in enumerate(placement.layers):
        assert sorted(core_of[k]) == sorted(itertools.product(*map(range, (*layer.shape, 1, 1)[:3])))
        following = placement.layers[k + 1 :][:1]
        outgoing = feeds(graph, following[0].name, core_of[k + 1], zeros=zeros) if following else {}
        line = counted.lines(graph, following[0].name, target) if following else hash
        axons = following[0].axons if following else "discrete"
        expected = usage(
            graph, layer.name, layer.neurons_name, core_of[k], layer.axons, (outgoing, line, axons), target
        )
        for core, used in enumerate(layer.usage):
            found = (used.neurons, used.compartments, used.memory, used.longest, used.input_axons, used.output_axons)
            assert found == expected[core], (layer.name, core)


def feeds(graph: SpikingGraph, name: str, core_of: Any, *, zeros: bool) -> dict[int, set[int]]:
    found: dict[int, set[int]] = defaultdict(set)
    for source, neuron, _ in counted.connections(graph, name, zeros=zeros):
        found[source].add(core_of[neuron])
    return found


def usage(
    graph: SpikingGraph, name: str, neurons_name: str, core_of: Any, axons: str, outgoing: Any, target: limits.Target
) -> list[tuple[int, ...]]:
    """Per core: neurons, compartments, words, longest list, input and output axons."""
    loop = counted.loops(graph, neurons_name, target)
    reached = feeds(graph, name, core_of, zeros=target.memory.stores_zeros)
    holds: dict[int, list[int]] = defaultdict(list)
    here: dict[int, set[counted.Neuron]] = defaultdict(set)
    for flat, neuron in enumerate(sorted(core_of)):
        holds[core_of[neuron]].append(flat)
        here[core_of[neuron]].add(neuron)
    line, (goes, next_line, next_axons) = counted.lines(graph, name, target), outgoing
    counts = target.get("input_axons") is not None or target.get("output_axons") is not None
    found = []
    for core in sorted(holds):
        n = len(holds[core])
        words = counted.words(graph, name, here[core], target, loop=loop)
        own = n if loop else 0
        comes = counted.input_axons(reached, core, line, axons, target, loop=own) if counts else 0
        leaves = counted.output_axons(holds[core], goes, next_line, next_axons, target, loop=own) if counts else 0
        found.append((n, n * (1 + loop), *words, comes, leaves))
    return found


def test_weights_of_one_bit_hold_no_two_signs(tmp_path: Path) -> None:
    found = fit.check(small_network(3), own_chip(tmp_path, {"storage": "weights", "shared_along": []}, weight_bits=1))
    assert not found.fits and found.excess == math.inf
    assert any("holds ±0" in finding.what for finding in found.findings)


# -- the search, by trying everything ------------------------------------------------------------------


@settings(EXAMPLES, max_examples=12)
@given(how=chips(), seed=st.integers(0, 10_000))
def test_the_search_finds_what_trying_every_cut_finds(tmp_path: Path, how: dict[str, Any], seed: int) -> None:
    target, graph = own_chip(tmp_path, **how), small_network(seed)
    outgoing: Any = ({}, hash, "discrete")
    expected = []
    for name, neurons_name in (("b", "b.if"), ("a", "a.if")):
        best = slow_search(graph, name, neurons_name, outgoing, target)
        if best is None:
            with pytest.raises(PlacementError, match=f"^{name}: "):
                place(graph, target)
            return
        core_of, axons, used = best
        expected.append((axons, used))
        goes = feeds(graph, name, core_of, zeros=target.memory.stores_zeros)
        outgoing = (goes, counted.lines(graph, name, target), axons)
    placement = place(graph, target)
    for layer, (axons, used) in zip(reversed(placement.layers), expected, strict=True):
        found = [(u.neurons, u.compartments, u.memory, u.longest, u.input_axons, u.output_axons) for u in layer.usage]
        assert layer.axons == axons and found == used


def slow_search(graph: SpikingGraph, name: str, neurons_name: str, outgoing: Any, target: limits.Target) -> Any:
    """The cheapest cut among those with few cores: (neuron → core, axons, usage), by counting every one whole."""
    grid = (*graph.shapes[neurons_name], 1, 1)[:3]
    loop = counted.loops(graph, neurons_name, target)
    tried = []
    for step in itertools.product(
        *([*sorted({math.ceil(n / k) for k in range(1, n + 1)}, reverse=True)] for n in grid)
    ):
        starts = [range(0, n, s) for n, s in zip(grid, step, strict=True)]
        if math.prod(step) * (1 + loop) <= target["compartments"]:
            tried.append((math.prod(map(len, starts)), -step[0], step))
    best, least, fewest = None, math.inf, math.inf
    for cores, _, step in sorted(tried, key=lambda t: t[:2]):
        if cores > fewest * WINDOW or cores >= least:
            break
        corners = itertools.product(*(range(0, n, s) for n, s in zip(grid, step, strict=True)))
        number = {corner: core for core, corner in enumerate(corners)}
        core_of = {
            neuron: number[tuple(n // s * s for n, s in zip(neuron, step, strict=True))]
            for neuron in itertools.product(*map(range, grid))
        }
        both = target.get("population_entries") is not None and not loop
        both = both and (target.get("input_axons") or target.get("output_axons")) is not None
        for axons in ("discrete", "population") if both else ("discrete",):
            used = usage(graph, name, neurons_name, core_of, axons, outgoing, target)
            if not all(within(core, target) for core in used):
                continue
            fewest = min(fewest, cores)
            cost = cores + 0.0
            if target.get("output_axons") is not None:
                entries = target["population_entries"] if axons == "population" else 1
                cost += entries * sum(core[4] for core in used) / target["output_axons"]
            if cost < least:
                best, least = (core_of, axons, used), cost
    return best


def within(used: tuple[int, ...], target: limits.Target) -> bool:
    _, compartments, words, longest, comes, leaves = used
    return (
        compartments <= target["compartments"]
        and words <= target["room"]
        and longest <= (target.get("words_per_list") or math.inf)
        and comes <= (target.get("input_axons") or math.inf)
        and leaves <= (target.get("output_axons") or math.inf)
    )
