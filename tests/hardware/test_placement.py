"""Placement against connections counted one by one, the limits themselves, and what NxTF's compiler reported."""

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
import torch
from hypothesis import HealthCheck, given, settings

from exporters.errors import DeployError
from exporters.from_torch import from_torch
from exporters.graph import IF, Conv2d, Flatten, Input, Linear, Node, Output, SpikingGraph, chain
from exporters.passes.chain import chain_layers, to_chain
from exporters.passes.quantize import quantize
from hardware.chips import axons as chip_axons
from hardware.chips import fit, limits
from hardware.chips.blocks import blocks
from hardware.chips.placement import Placement, hops, place, position
from hardware.chips.projection import projection
from hardware.chips.search import PlacementError
from kdsnn import models
from tests.hardware.by_enumeration import connections, lines, weight_bits, words
from tests.networks import random_integer_chain

LOIHI1, LOIHI2 = limits.target("loihi1"), limits.target("loihi2")


def small_chip(tmp_path: Path, **numbers: int) -> limits.Target:
    """Loihi 1 with other limits, so that small networks are cut."""
    data = json.loads((Path(limits.__file__).parent / "data" / "loihi1.json").read_text())
    for key, value in numbers.items():
        data["limits"][key]["value"] = value
    path = tmp_path / "small.json"
    path.write_text(json.dumps(data))
    return limits.load(path)


# -- every connection, one by one ----------------------------------------------------------------------


def core_maps(placement: Placement) -> list[dict[tuple[int, int, int], int]]:
    """Per layer: neuron → core. Fails where a neuron is on no core or on two."""
    maps = []
    for layer in placement.layers:
        where: dict[tuple[int, int, int], int] = {}
        for k, block in enumerate(layer.blocks):
            for neuron in itertools.product(*(range(*span) for span in (block.channels, block.rows, block.columns))):
                assert neuron not in where
                where[neuron] = layer.first_core + k
        grid = layer.shape if len(layer.shape) == 3 else (*layer.shape, 1, 1)
        assert set(where) == set(itertools.product(*map(range, grid)))
        maps.append(where)
    return maps


def assert_counts(graph: SpikingGraph, placement: Placement, target: limits.Target) -> None:
    """Axons of every core from the definition; memory against the smallest that the synapses could take."""
    maps = core_maps(placement)
    names = [layer.name for layer in placement.layers]
    feeds: list[dict[int, set[int]]] = []  # per layer: flat source → cores it feeds
    for name, where in zip(names, maps, strict=True):
        cores: dict[int, set[int]] = defaultdict(set)
        for source, neuron, _ in connections(graph, name):
            cores[source].add(where[neuron])
        feeds.append(cores)
    for k, layer in enumerate(placement.layers):
        line = lines(graph, layer.name, target)
        for core, usage in enumerate(layer.usage, layer.first_core):
            sources = [s for s, to in feeds[k].items() if core in to]
            alone = [s for s in sources if len(feeds[k][s]) == 1 or layer.axons == "population"]
            assert usage.input_axons == len(sources) - len(alone) + len({line(s) for s in alone})
            assert usage.neurons == sum(c == core for c in maps[k].values())
            if k + 1 < len(names):
                line_out, axons = lines(graph, names[k + 1], target), placement.layers[k + 1].axons
                entries, shared = 0, set()
                for flat, neuron in enumerate(sorted(maps[k])):
                    to = feeds[k + 1].get(flat, set())
                    if maps[k][neuron] != core or not to:
                        continue
                    if len(to) == 1 or axons == "population":
                        shared |= {(line_out(flat), c) for c in to}
                    else:
                        entries += len(to)
                assert usage.output_axons == entries + 2 * len(shared)
            here = {neuron for neuron, c in maps[k].items() if c == core}
            assert (usage.memory, usage.longest) == words(graph, layer.name, here, target, loop=False)


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    seed=st.integers(0, 10_000),
    compartments=st.sampled_from([8, 24, 64]),
    axons=st.sampled_from([24, 60, 4096]),
    synaptic=st.sampled_from([60, 200, 16384]),
)
def test_every_core_against_enumeration(
    tmp_path: Path, seed: int, compartments: int, axons: int, synaptic: int
) -> None:
    graph = to_chain(random_integer_chain(seed, T=2))
    target = small_chip(
        tmp_path, compartments=compartments, input_axons=axons, output_axons=axons, synaptic_words=synaptic
    )
    try:
        placement = place(graph, target)
    except PlacementError as error:
        assert error.layer in graph.synapses and str(error).startswith(error.layer)
        return
    assert_counts(graph, placement, target)
    for layer in placement.layers:
        for usage in layer.usage:
            assert usage.compartments <= compartments and usage.memory <= synaptic
            assert max(usage.input_axons, usage.output_axons) <= axons
        assert layer.cores >= max(layer.needed().values())
        assert all(share <= 1 for share in layer.utilization().values())


@settings(max_examples=10, deadline=None)
@given(seed=st.integers(0, 10_000))
def test_loihi2_memory_against_enumeration(seed: int) -> None:
    graph = to_chain(random_integer_chain(seed, T=2))
    placement = place(graph, LOIHI2)
    for layer, where in zip(placement.layers, core_maps(placement), strict=True):
        node = graph.synapses[layer.name]
        size = weight_bits(node.weight, LOIHI2)
        for core, usage in enumerate(layer.usage, layer.first_core):
            kernels = {k for _, neuron, k in connections(graph, layer.name) if where[neuron] == core}
            assert usage.memory == 24 * usage.neurons + math.ceil(len(kernels) * size / 8)


@pytest.mark.parametrize("axons", ["discrete", "population"])
@pytest.mark.parametrize("soft", [False, True])
def test_output_axons_to_more_cores_than_a_word_has_bits(axons: str, soft: bool) -> None:
    """A layer that 72 cores listen to: what a source feeds, and the entries of its core, by one loop over synapses."""
    rng = np.random.default_rng(3)
    weight = (rng.random((9, 3, 3, 3)) < 0.3).astype(np.int32)
    graph = one_layer(Conv2d(weight, None, (1, 1), (1, 1)), (3, 8, 8))
    synapses = projection(graph.synapses["layer"], (3, 8, 8), (9, 8, 8), LOIHI1, soft=soft)
    parts = blocks((9, 8, 8), (1, 1, 8))
    outgoing = chip_axons.fan_out(synapses, parts, axons, (3, 8, 8))
    core_of = {
        (c, y, x): k for k, b in enumerate(parts) for c in range(*b.channels) for y in range(*b.rows) for x in range(8)
    }
    feeds: dict[int, set[int]] = defaultdict(set)
    for source, neuron, _ in connections(graph, "layer"):
        feeds[source].add(core_of[neuron])
    assert outgoing.cores == len(parts) == 72 and outgoing.feeds.max() > 8
    assert outgoing.feeds.ravel().tolist() == [len(feeds[s]) for s in range(3 * 64)]
    senders = blocks((3, 8, 8), (2, 3, 8))
    expected = []
    for k, block in enumerate(senders):
        inside = [
            (c * 8 + y) * 8 + x
            for c in range(*block.channels)
            for y in range(*block.rows)
            for x in range(*block.columns)
        ]
        listening = [sum(core in feeds[s] for s in inside) for core in range(72)]
        assert outgoing.messages(senders[k]).tolist() == listening
        shared = [s for s in inside if feeds[s] and (axons == "population" or len(feeds[s]) == 1)]
        lone = sum(len(feeds[s]) for s in inside if s not in shared)
        pairs = {(s // 64, s % 8, core) for s in shared for core in feeds[s]}
        expected.append(sum(listening) + len(inside) if soft else lone + 2 * len(pairs))
    assert outgoing.entries(LOIHI1, senders, loops=soft).tolist() == expected


STUDENTS = [
    ("cnn2", (1, 28, 28), 179, 61), ("cnn2", (3, 32, 32), 198, 79), ("resnet14", (3, 32, 32), 182, 34),
    ("wrn16-2", (3, 32, 32), 901, 74),
]  # fmt: skip


@pytest.mark.parametrize(("name", "shape", "loihi1", "loihi2"), STUDENTS)
def test_students_of_full_width(name: str, shape: tuple[int, int, int], loihi1: int, loihi2: int) -> None:
    """The cores of docs/check.md, which searching faster must not change."""
    torch.manual_seed(0)
    net = models.build(name, spiking=True, input_shape=shape, classes=10).eval()
    chained = to_chain(quantize(from_torch(net, shape, 4))[0])
    found = {t.name: place(chained, t, host_layers=fit.host_layers(chained, t)).cores for t in (LOIHI1, LOIHI2)}
    assert found == {"loihi1": loihi1, "loihi2": loihi2}


# -- hops ------------------------------------------------------------------------------------------------


def test_hops_against_enumeration(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    first = Conv2d(rng.integers(-1, 2, (6, 2, 3, 3)).astype(np.int32), None, (1, 1), (1, 1))
    second = Conv2d(rng.integers(-1, 2, (3, 6, 2, 2)).astype(np.int32), None, (2, 2))
    parts: list[tuple[str, Node]] = [("input", Input((2, 6, 6), "spikes")), ("a", first), ("a.if", IF(3))]
    parts += [("b", second), ("b.if", IF(3)), ("flat", Flatten())]
    dense = Linear(rng.integers(-1, 2, (5, 27)).astype(np.int32))
    graph = chain([*parts, ("c", dense), ("c.if", IF(3)), ("output", Output())], 2)
    target = small_chip(tmp_path, compartments=8, cores_per_tile=2, mesh_columns=3, cores_per_chip=12)
    placement = place(graph, target)
    assert placement.chips > 1 and len(placement.layers) > 1
    maps = core_maps(placement)
    events = {layer.neurons_name: 10.0 * (k + 1) for k, layer in enumerate(placement.layers)}
    east = north = 0.0
    for k, layer in enumerate(placement.layers[:-1]):
        goes: dict[int, set[int]] = defaultdict(set)
        for source, neuron, _ in connections(graph, placement.layers[k + 1].name):
            goes[source].add(maps[k + 1][neuron])
        each = events[layer.neurons_name] / layer.neurons
        for flat, neuron in enumerate(sorted(maps[k])):
            x, y = tile(maps[k][neuron])
            east += each * sum(abs(tile(core)[0] - x) for core in goes.get(flat, ()))
            north += each * sum(abs(tile(core)[1] - y) for core in goes.get(flat, ()))
    assert hops(placement, events) == pytest.approx((east, north))
    by_synapse = {layer.name: events[layer.neurons_name] for layer in placement.layers}
    assert hops(placement, by_synapse) == pytest.approx((east, north))
    assert east > 0 and north > 0


def tile(core: int) -> tuple[int, int]:
    """Chips of 12 cores, 2 to a tile, 3 tiles to a row."""
    chip, rest = divmod(core, 12)
    row, column = divmod(rest // 2, 3)
    return chip * 3 + column, row


def test_no_hops_where_no_mesh_is_published() -> None:
    placement = place(to_chain(random_integer_chain(1)), LOIHI2)
    assert position(LOIHI2, 0) is None
    with pytest.raises(DeployError, match="mesh is not published"):
        hops(placement, {})


# -- published placements ----------------------------------------------------------------------------------


def mobile_net(rows: list[tuple[str, int, int, int, int]]) -> SpikingGraph:
    """(depthwise "d" or full "c", channels, kernel, stride, padding) on 3 × 32 × 32, dense to 10, soft reset."""
    rng = np.random.default_rng(0)
    nodes: list[tuple[str, Node]] = [("input", Input((3, 32, 32), "spikes"))]
    c = 3
    for i, (kind, out, k, stride, padding) in enumerate(rows):
        groups = c if kind == "d" else 1
        weight = rng.integers(-127, 128, (out, c // groups, k, k)).astype(np.int32)
        nodes += [(f"conv{i}", Conv2d(weight, None, (stride,) * 2, (padding,) * 2, (1, 1), groups))]
        nodes += [(f"if{i}", IF(200, "soft"))]
        c = out
    dense = Linear(rng.integers(-127, 128, (10, 4 * c)).astype(np.int32))
    return chain([*nodes, ("flat", Flatten()), ("dense", dense), ("if", IF(200, "soft")), ("output", Output())], 4)


def test_nxtf_cifar10_tutorial() -> None:
    """NxTF's CIFAR-10 tutorial prints 76,810 neurons and 157 cores, 128 on one chip and 29 on the next.

    Its input layer, on the chip there, is 3072 neurons, 6 of these cores. (intel-nrc-ecosystem/models,
    nxsdk_modules_ncl/dnn/tutorials/b_image_classification_cifar.ipynb, soft reset.)
    """
    graph = mobile_net(
        [
            ("c", 32, 3, 2, 1), ("d", 32, 3, 1, 1), ("c", 64, 1, 1, 0), ("d", 64, 3, 2, 1), ("c", 128, 1, 1, 0),
            ("d", 128, 3, 1, 1), ("c", 128, 1, 1, 0), ("d", 128, 3, 2, 1), ("c", 256, 1, 1, 0), ("d", 256, 3, 1, 1),
            ("c", 256, 1, 1, 0), ("d", 256, 2, 2, 0),
        ]
    )  # fmt: skip
    placement = place(graph, LOIHI1)
    assert sum(layer.neurons for layer in placement.layers) == 76_810
    assert placement.cores + math.ceil(2 * 3072 / 1024) == 157
    assert placement.chips == 2


def one_layer(node: Node, shape: tuple[int, ...], reset: str = "hard") -> SpikingGraph:
    parts: list[tuple[str, Node]] = [("input", Input(shape, "spikes")), ("layer", node)]
    return chain([*parts, ("if", IF(2, reset)), ("output", Output())], 1)


def test_soft_reset_takes_two_compartments() -> None:
    node = Conv2d(np.ones((4, 1, 1, 1), np.int32))
    hard = place(one_layer(node, (1, 32, 32)), LOIHI1)
    soft = place(one_layer(node, (1, 32, 32), "soft"), LOIHI1)
    assert hard.cores == 4 and soft.cores == 8
    assert soft.layers[0].usage[0].compartments == 2 * soft.layers[0].usage[0].neurons
    assert place(one_layer(node, (1, 32, 32), "soft"), LOIHI2).cores == 1


def test_host_layers_are_not_placed() -> None:
    graph = to_chain(random_integer_chain(3))
    whole, rest = place(graph, LOIHI1), place(graph, LOIHI1, host_layers=1)
    first = chain_layers(graph)[0].name
    assert rest.host == (first,) and [p.name for p in rest.layers] == [p.name for p in whole.layers[1:]]


def test_a_known_placement_is_kept_where_it_holds(tmp_path: Path) -> None:
    chip = small_chip(tmp_path, compartments=60)
    dense = Conv2d(np.random.default_rng(5).integers(1, 100, (8, 4, 3, 3)).astype(np.int32), None, (1, 1), (1, 1))
    sparse = Conv2d(np.where(dense.weight > 50, 3, 0), None, (1, 1), (1, 1))
    first = place(one_layer(dense, (4, 8, 8)), chip)
    # other blocks than the search's, which the chip holds too
    columns = replace(first.layers[0], blocks=tuple(blocks((8, 8, 8), (3, 4, 4))))
    again = place(one_layer(sparse, (4, 8, 8)), chip, known=replace(first, layers=(columns,)))
    assert again.layers[0].blocks == columns.blocks != first.layers[0].blocks
    assert again.layers[0].totals()["memory"] < first.layers[0].totals()["memory"]
    too_large = replace(first.layers[0], blocks=tuple(blocks((8, 8, 8), (8, 8, 8))))
    searched = place(one_layer(dense, (4, 8, 8)), chip, known=replace(first, layers=(too_large,)))
    assert searched.layers[0].blocks == first.layers[0].blocks


def test_one_neuron_that_reads_too_much_is_refused_by_name() -> None:
    conv = Conv2d(np.ones((1, 4800, 1, 1), np.int32))
    with pytest.raises(PlacementError, match="layer: one neuron needs 4,800 input axons, a core has 4,096"):
        place(one_layer(conv, (4800, 1, 1)), LOIHI1)
    # a list takes a word at least, a core has 16,384
    dense = Linear(np.ones((2, 20_000), np.int32))
    with pytest.raises(PlacementError, match="layer: one neuron needs 20,000 words of synaptic memory"):
        place(one_layer(dense, (20_000,)), LOIHI1)
    assert place(one_layer(dense, (20_000,)), LOIHI2).cores == 1


def test_what_cannot_be_placed_is_a_finding() -> None:
    """A list takes a word of synaptic memory at least, a core has 16,384."""
    found = fit.check(one_layer(Linear(np.ones((2, 20_000), np.int32)), (20_000,)), LOIHI1)
    assert not found.fits and found.placement is None
    (error,) = (f for f in found.findings if f.severity == "error")
    assert error.layer == "layer" and error.what.startswith(
        "one neuron needs 20,000 words of synaptic memory, a core has"
    )
    assert "fan-in" in error.change and "layer:" not in error.what


# -- target files ------------------------------------------------------------------------------------------


def test_targets_state_a_source_for_every_number() -> None:
    assert list(limits.targets()) == ["loihi1", "loihi2"]
    for target in limits.targets().values():
        for limit in target.limits.values():
            assert limit.source.url.startswith("https://") and limit.confidence in ("A", "B", "inference")
            assert limit.confidence != "inference" or limit.note
    with pytest.raises(
        DeployError,
        match=r"^there is no target 'loihi3'; choose from loihi1, loihi2, or give a \.json file of your own$",
    ):
        limits.target("loihi3")


def built_in(name: str) -> dict[str, Any]:
    data: dict[str, Any] = json.loads((Path(limits.__file__).parent / "data" / f"{name}.json").read_text("utf-8"))
    return data


def message(folder: Path, data: object) -> str:
    """What reading a target file says, behind the file's name."""
    path = folder / "t.json"
    path.write_text(data if isinstance(data, str) else json.dumps(data), encoding="utf-8")
    with pytest.raises(DeployError) as caught:
        limits.target(str(path))
    where, _, what = str(caught.value).partition(".json: ")
    assert where == str(path).removesuffix(".json") and "\n" not in what
    return what


def test_target_files_that_cannot_be_read(tmp_path: Path) -> None:
    assert message(tmp_path, "{").startswith("not a readable JSON file (")
    assert message(tmp_path, "[" * 100_000).startswith("not a readable JSON file (")
    assert message(tmp_path, []) == "the target: it must be an object, not []"
    with pytest.raises(DeployError, match=r"none\.json: no such file$"):
        limits.target(str(tmp_path / "none.json"))
    (tmp_path / "folder.json").mkdir()
    with pytest.raises(DeployError, match=r"folder\.json: cannot be read: Is a directory$"):
        limits.target(str(tmp_path / "folder.json"))


def test_target_files_need_every_field_and_know_no_other(tmp_path: Path) -> None:
    whole = built_in("loihi2")
    for field in whole:
        assert message(tmp_path, {k: v for k, v in whole.items() if k != field}) == f"the target lacks {field!r}"
    assert message(tmp_path, whole | {"sharing": "rows"}) == "the target: the field 'sharing' is not known"
    for field in whole["memory"]:
        part = {k: v for k, v in whole["memory"].items() if k != field}
        assert message(tmp_path, whole | {"memory": part}) == f"memory lacks {field!r}"
    (tmp_path / "bom.json").write_text("\ufeff" + json.dumps(whole), encoding="utf-8")  # as Windows writes it
    assert limits.target(str(tmp_path / "bom.json")) == limits.target("loihi2")


@pytest.mark.parametrize(
    ("place", "value", "words"),
    [
        ("name", "", "name: '' must be text"),
        ("title", 3, "title: 3 must be text"),
        ("graded_spikes", "false", "graded_spikes: 'false' must be true or false"),
        ("memory", "lines", "memory: it must be an object, not 'lines'"),
        ("memory.limit", "bytes", "memory.limit: 'bytes' is not among the limits"),
        ("memory.word_bits", 0, "memory.word_bits 0 must be a whole number of at least 1"),
        ("memory.storage", "rows", "memory.storage: 'rows' must be one of lists, weights"),
        ("memory.shared_along", "rows", "memory.shared_along: 'rows' must be a list of rows, columns, or []"),
        ("memory.shared_along", ["time"], "memory.shared_along: ['time'] must be a list of rows, columns, or []"),
        ("memory.stores_zeros", 1, "memory.stores_zeros: 1 must be true or false"),
        ("sources.lava.url", None, "sources.lava.url: None must be text"),
        ("limits", [], "limits: it must be an object, not []"),
        ("limits.compartments", 1024, "limits.compartments: it must be an object, not 1024"),
        ("limits.compartments.value", 0, "limits.compartments: value 0 must be a whole number of at least 1"),
        ("limits.compartments.value", 8.0, "limits.compartments: value 8.0 must be a whole number of at least 1"),
        ("limits.compartments.value", True, "limits.compartments: value True must be a whole number of at least 1"),
        (
            "limits.compartments.value", 2**31,
            "limits.compartments: value 2147483648 is larger than 2,147,483,647, the most that is counted with",
        ),
        ("limits.compartments.confidence", "C", "limits.compartments: confidence 'C' must be one of A, B, inference"),
        ("limits.compartments.source", "x", "limits.compartments: source 'x' is not among the sources"),
        ("limits.compartments.source", [], "limits.compartments: source [] is not among the sources"),
        ("limits.compartments.unit", None, "limits.compartments.unit: None must be text"),
        ("limits.compartments.comment", "", "limits.compartments: the field 'comment' is not known"),
        ("limits.input_axon", {}, "limits.input_axon: not a limit that is known; is input_axons meant?"),
        ("limits.words_per_list", {}, 'limits.words_per_list: nothing reads it with storage "weights"'),
        ("limits.price", {}, "limits.price: not a limit that is known"),
        ("limits.mesh_columns", {}, "limits.mesh_columns: it says nothing without cores_per_tile"),
    ],
)  # fmt: skip
def test_a_wrong_field_of_a_target_file_is_named(tmp_path: Path, place: str, value: object, words: str) -> None:
    data = built_in("loihi2")
    *path, last = place.split(".")
    within = data
    for step in path:
        within = within[step]
    within[last] = value
    assert message(tmp_path, data) == words


def test_limits_that_are_missing_are_named(tmp_path: Path) -> None:
    data = built_in("loihi1")
    del data["limits"]["list_end_bits"], data["limits"]["compartments"]
    assert message(tmp_path, data) == "limits: compartments, list_end_bits missing"
    assert limits.target("loihi1")["list_end_bits"] == 6


def test_a_network_that_reads_pixels_in_its_only_layer_is_no_network_for_loihi1() -> None:
    """The host would run all of it: no core, no chip, and no answer of the chip's."""
    only = to_chain(
        chain(
            [
                ("in", Input((4,), "direct", 255)),
                ("w", Linear(np.array([[3, -2, 5, 1]]))),
                ("n", IF(9)),
                ("out", Output()),
            ],
            2,
        )
    )
    found = fit.check(only, LOIHI1)
    assert not found.fits and found.placement is None
    assert [(f.layer, "would run all of it" in f.what) for f in found.findings if f.severity == "error"] == [
        ("w", True)
    ]
    assert fit.check(only, LOIHI2).fits
