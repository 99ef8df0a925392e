"""Placement of layers that are recurrent or delayed: against the same synapses fed forward, and counted one by one."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from exporters.graph import IF, Delay, Input, Linear, Node, Output, SpikingGraph, chain
from hardware.chips import fit, limits
from hardware.chips.placement import Placement, hops, messages, place, position
from hardware.chips.search import PlacementError

LOIHI1 = limits.target("loihi1")


def small_chip(tmp_path: Path, **numbers: int) -> limits.Target:
    """Loihi 1 with other limits, so that small networks are cut."""
    data = json.loads((Path(limits.__file__).parent / "data" / "loihi1.json").read_text())
    for key, value in numbers.items():
        data["limits"][key]["value"] = value
    path = tmp_path / "small.json"
    path.write_text(json.dumps(data))
    return limits.load(path)


def sparse(n: int, f: int, seed: int, share: float) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return (rng.integers(-60, 61, (n, f)) * (rng.random((n, f)) < share)).astype(np.int32)


def recurrent(F: int, N: int, seed: int, share: float) -> tuple[SpikingGraph, SpikingGraph, np.ndarray]:
    """A recurrent network, the one that has its own spikes as more inputs, and the recurrent weights."""
    w, u, o = sparse(N, F, seed, share), sparse(N, N, seed + 1, share), sparse(5, N, seed + 2, share)
    nodes: dict[str, Node] = {"in": Input((F,), "spikes"), "w": Linear(w), "n": IF(90), "back": Delay(np.ones(N, int))}
    nodes |= {"u": Linear(u), "o": Linear(o), "m": IF(90), "out": Output()}
    edges = ("in w", "w n", "n back", "back u", "u n", "n o", "o m", "m out")
    forward = [("in", Input((F + N,), "spikes")), ("w", Linear(np.hstack((w, u)))), ("n", IF(90)), ("o", Linear(o))]
    loop = SpikingGraph(nodes, tuple((a, b) for a, b in map(str.split, edges)), 4)
    return loop, chain([*forward, ("m", IF(90)), ("out", Output())], 4), u


def own_cores(placement: Placement, u: np.ndarray) -> list[list[int]]:
    """Each neuron's spikes go back to these cores of its own layer."""
    layer = placement.layers[0]
    where = {n: layer.first_core + k for k, b in enumerate(layer.blocks) for n in range(*b.channels)}
    return [sorted({where[int(to)] for to in np.flatnonzero(u[:, n])}) for n in range(len(u))]


@pytest.mark.parametrize(("seed", "share", "axons"), [(0, 0.2, 400), (3, 0.6, 400), (6, 1.0, 400), (9, 0.05, 4096)])
def test_a_recurrent_layer_is_one_more_source_of_its_cores(tmp_path: Path, seed: int, share: float, axons: int) -> None:
    target = small_chip(tmp_path, compartments=8, input_axons=axons, output_axons=axons, population_size=16)
    graph, forward, u = recurrent(20, 30, seed, share)
    found, same = place(graph, target), place(forward, target)
    layer, other = found.layers[0], same.layers[0]
    assert layer.blocks == other.blocks and layer.axons == other.axons and layer.cores >= 4
    to = own_cores(found, u)
    for k, (used, usage) in enumerate(zip(layer.usage, other.usage, strict=True)):
        assert replace(used, output_axons=0) == replace(usage, output_axons=0)
        entries, shared = 0, set()
        for n in range(*layer.blocks[k].channels):
            if len(to[n]) == 1 or layer.axons == "population":
                shared |= {((20 + n) // 16, core) for core in to[n]}
            else:
                entries += len(to[n])
        assert used.output_axons == usage.output_axons + entries + 2 * len(shared)
    assert layer.messages_per_spike == pytest.approx(other.messages_per_spike + np.mean([len(cores) for cores in to]))
    assert messages(found, {"n": 30.0}) == pytest.approx(messages(same, {"n": 30.0}) + sum(map(len, to)))
    own = np.zeros(2)
    core_of = [layer.first_core + k for k, b in enumerate(layer.blocks) for _ in range(*b.channels)]
    for n, cores in enumerate(to):
        for core in cores:
            own += np.abs(np.array(position(target, core_of[n])) - np.array(position(target, core)))
    np.testing.assert_allclose(np.array(hops(found, {"n": 30.0})) - hops(same, {"n": 30.0}), own)


def test_a_recurrent_layer_needs_axons_for_its_way_back(tmp_path: Path) -> None:
    graph, forward, _ = recurrent(8, 60, 0, 1.0)
    target = small_chip(tmp_path, compartments=4, output_axons=20)
    assert place(forward, target).layers[0].cores == 15
    with pytest.raises(PlacementError, match=r"w: its spikes go back to its own 15 cores as well, \d+ output axons"):
        place(graph, target)


def delayed(steps: int, largest: int) -> SpikingGraph:
    weight = sparse(60, 40, 0, 0.7) % 8
    weight[0, :2] = largest, -8
    late = [("d", Delay(np.arange(40) % (steps + 1)))] if steps else []
    return chain(
        [("in", Input((40,), "spikes")), *late, ("w", Linear(weight.astype(np.int32))), ("n", IF(90)), ("out", Output())], 4
    )


def test_a_delay_takes_its_bits_beside_each_weight() -> None:
    """Weights of 5 bits with delays of up to 5 steps (3 bits) are as wide as weights of 8 bits."""
    for target in (LOIHI1, limits.target("loihi2")):
        (late,), (wide,), (narrow,) = (place(delayed(*how), target).layers for how in ((5, 15), (0, 127), (0, 15)))
        assert late.usage == wide.usage
        assert late.usage[0].memory > narrow.usage[0].memory


def test_delays_are_held_against_the_chip() -> None:
    found = {f.severity: f.what for f in fit.check(delayed(39, 15), LOIHI1).findings if "delay" in f.what}
    assert found.keys() == {"note"} and "1 layer(s), this one first, with delays of up to 39 steps" in found["note"]
    weight = np.ones((2, 2), np.int32)
    far = chain([("in", Input((2,), "spikes")), ("d", Delay(np.array([63, 0]))), ("w", Linear(weight)), ("n", IF(1)), ("out", Output())], 4)
    errors = [f for f in fit.check(far, LOIHI1).findings if f.severity == "error"]
    assert [(f.layer, f.what) for f in errors] == [("w", "a delay of 63 steps; Loihi 1 holds 62")]


def test_recurrent_weights_are_held_against_the_chip() -> None:
    graph, _, u = recurrent(6, 8, 0, 0.9)
    heavy = graph.with_nodes({"u": Linear(np.where(u == u.max(), 200, u).astype(np.int32))})
    errors = [f for f in fit.check(heavy, LOIHI1).findings if f.severity == "error"]
    assert [(f.layer, f.what) for f in errors] == [("w", "a weight of 200; Loihi 1 holds ±127")]
    assert fit.check(heavy, LOIHI1).excess == pytest.approx(200 / 127)
