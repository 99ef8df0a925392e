"""SANA-FE's file, read back and simulated by the rules of its format, against the emulator; and SANA-FE itself where it is."""

from __future__ import annotations

import os
import sys
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from exporters.errors import DeployError
from exporters.graph import IF, LIF, Conv2d, Flatten, Input, Linear, Output, SpikingGraph, chain
from exporters.passes.chain import to_chain
from hardware import emulator, sanafe
from hardware.chips import fit, limits
from hardware.chips.blocks import as_grid
from hardware.chips.placement import position
from hardware.sanafe import description as describing
from tests.networks import random_frames, random_integer_chain

rng = np.random.default_rng(11)


def weights(*shape: int) -> np.ndarray:
    return rng.integers(-30, 41, shape).astype(np.int32)


def bias(n: int, size: int = 40) -> np.ndarray:
    return rng.integers(-size, size + 1, n).astype(np.int32)


def deep(*neurons: Any, biases: int = 60, output: Output | None = None, T: int = 5) -> SpikingGraph:
    """Spikes come in; convolution, then dense layers, with biases that let neurons fire before any spike arrives."""
    borders = rng.integers(-biases, biases + 1, (3, 4, 4)).astype(np.int32)  # a whole map of biases
    nodes: list[Any] = [("input", Input((2, 4, 4), "spikes"))]
    nodes += [("a", Conv2d(weights(3, 2, 3, 3), borders, (1, 1), (1, 1))), ("a.if", neurons[0]), ("flat", Flatten())]
    sizes = [48, *(7 for _ in neurons[1:])]
    for k, node in enumerate(neurons[1:]):
        nodes += [(f"d{k}", Linear(weights(7, sizes[k]), bias(7, biases))), (f"d{k}.if", node)]
    if output is not None and output.readout == "membrane":
        nodes += [("last", Linear(weights(4, 7), bias(4, biases)))]
    return chain([*nodes, ("output", output or Output())], T)


NETWORKS = {
    "hard": deep(IF(60), IF(50), IF(40), IF(30)),
    "soft": deep(IF(60, "soft"), IF(50, "soft"), IF(45, "soft")),
    "leaking": deep(LIF(60, 3000 / 4096), LIF(50, 4000 / 4096), LIF(45, 1 / 4096), LIF(40, 2048 / 4096)),
    "read-out": deep(IF(60), IF(50), output=Output("membrane", 8.0)),
    "leaking read-out": deep(IF(60), IF(50), output=Output("membrane", 8.0, 3000 / 4096, "mean")),
    "starting": deep(IF(60, start=30.0), IF(50, start=-20.0), LIF(45, 3000 / 4096, start=17.0)),
    "one step": deep(IF(60), IF(50), T=1),
}


def described(graph: SpikingGraph) -> tuple[sanafe.Description, Any]:
    placement = fit.check(graph, limits.target("loihi1")).placement
    assert placement is not None
    return sanafe.describe(graph, placement), placement


class Reading:
    """The file as its format says: groups of neurons with attributes, edges with weights, a core for each neuron.

    In a step every neuron takes in what arrived in the step before, leaks first (but for the first step), is cut off to
    64ths, fires above its threshold; spikes are delivered in the same step.
    """

    def __init__(self, text: str) -> None:
        loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
        self.file = yaml.load(text, loader)
        self.neurons: dict[str, dict[int, dict[str, Any]]] = {}
        for group in self.file["network"]["groups"]:
            own = self.neurons[group["name"]] = {}
            for entry in group["neurons"]:
                ((which, attributes),) = entry.items()
                first, _, last = str(which).partition("..")
                for n in range(int(first), int(last or first) + 1):
                    assert n not in own
                    soma = {**group["attributes"].get("soma", {}), **attributes.get("soma", {})}
                    own[n] = {**group["attributes"], **attributes, "soma": soma}
        self.edges: dict[tuple[str, str], list[tuple[int, int, float]]] = defaultdict(list)
        for entry in self.file["network"]["edges"]:
            ((ends, edge),) = entry.items()
            before, after = ends.split(" -> ")
            assert edge["type"] == "sparse" and len(edge["source_target_pairs"]) == len(edge["weight"])
            self.edges[before, after] += [
                (*p, w) for p, w in zip(edge["source_target_pairs"], edge["weight"], strict=True)
            ]
        self.core: dict[tuple[str, int], tuple[str, str]] = {}
        for entry in self.file["mappings"]:
            ((which, mapping),) = entry.items()
            group, _, numbers = which.partition(".")
            first, _, last = numbers.partition("..")
            for n in range(int(first), int(last or first) + 1):
                self.core[group, n] = (str(mapping["core"]), mapping.get("soma", ""))

    def run(self, sent: np.ndarray, steps: int) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
        """Spikes and membranes (steps, neurons) of every group, for what the group `input` sends, (T, neurons)."""
        sizes = {name: len(own) for name, own in self.neurons.items()}
        fired = {name: np.zeros((steps, size), bool) for name, size in sizes.items()}
        after = {name: np.zeros((steps, size)) for name, size in sizes.items()}
        for name, own in self.neurons.items():
            for n, attributes in own.items():
                for step, spike in enumerate(attributes.get("spikes", ())):
                    fired[name][step, n] = bool(spike)
        fired["input"][: len(sent)] = sent != 0
        v = {name: np.zeros(size) for name, size in sizes.items()}
        arriving = {name: np.zeros(size) for name, size in sizes.items()}
        for step in range(steps):
            for name in (g for g in sizes if g not in ("input", "lead")):
                soma = [self.neurons[name][n]["soma"] for n in range(sizes[name])]
                if step:
                    v[name] *= [float(s["leak_decay"]) for s in soma]
                v[name] = np.trunc(v[name] * 64) / 64
                v[name] += [float(s.get("bias", 0)) for s in soma]
                v[name] += arriving[name]
                threshold = np.array([float(s["threshold"]) for s in soma])
                over = v[name] > threshold
                fired[name][step] = over
                soft = np.array([s["reset_mode"] == "soft" for s in soma])
                v[name] = np.where(over, np.where(soft, v[name] - threshold, 0.0), v[name])
                v[name] = np.maximum(v[name], [float(s["reverse_threshold"]) for s in soma])
                after[name][step] = v[name]
            arriving = {name: np.zeros(size) for name, size in sizes.items()}
            for (before, to), edges in self.edges.items():
                for source, neuron, weight in edges:
                    if fired[before][step, source]:
                        arriving[to][neuron] += weight
        return fired, after


@pytest.mark.parametrize("name", [*NETWORKS, *range(5)])
def test_the_file_says_what_the_emulator_computes(name: str | int) -> None:
    graph = NETWORKS[name] if isinstance(name, str) else to_chain(random_integer_chain([1, 2, 7, 11, 12][name]))
    found, _ = described(graph)
    frames = random_frames(graph, 2, 3)
    recorder = emulator.Recorder(graph)
    ran = emulator.run(graph, frames, observe=recorder)
    sent = recorder.spikes.get(found.source, frames)
    reading = Reading(found.text)
    spikes = 0
    for n in range(2):
        fired, membranes = reading.run(sent[n].reshape(graph.T, -1), found.steps)
        for layer in found.layers:
            own = slice(layer.delay, layer.delay + graph.T)
            if layer.membrane:
                assert (membranes[layer.group][own] / graph.output.scale == ran.output[n]).all()
                continue
            expected = recorder.spikes[layer.neurons_name][n].reshape(graph.T, -1)
            assert (fired[layer.group][own] == expected).all(), layer
            spikes += expected.sum()
    assert spikes > 10
    assert sum(len(edges) for ends, edges in reading.edges.items() if ends[0] != "lead") == found.synapses
    assert len(reading.edges) >= len(found.layers)


def test_every_neuron_lies_where_it_was_placed() -> None:
    graph = NETWORKS["soft"]
    found, placement = described(graph)
    reading = Reading(found.text)
    chip = reading.file["architecture"]
    rows, width = chip["attributes"]["height"], chip["attributes"]["width"]
    assert (rows, width) == (4, 9)  # 8 columns of tiles, and one of the host
    for layer, group in zip(placement.layers, found.layers, strict=True):
        core_of = np.empty(as_grid(layer.shape), int)
        for core, block in enumerate(layer.blocks, layer.first_core):
            core_of[block.slices] = core
        for n, core in enumerate(core_of.ravel()):
            at = position(placement.target, int(core))
            assert at is not None
            assert reading.core[group.group, n] == (f"{at[0] * rows + at[1]}.{core % 4}", "")
    senders = [soma for (group, _), (core, soma) in reading.core.items() if group in ("input", "lead")]
    assert len(set(senders)) == len(senders) and all(s.startswith("sender[") for s in senders)
    tiles = sum(int(t["name"].split("..")[1].rstrip("]")) + 1 for t in chip["tile"])
    assert tiles <= rows * width


def test_a_bias_that_would_fire_too_early_comes_as_spikes() -> None:
    """A layer behind two others: its bias would make it fire in each of three steps before its first."""
    graph = deep(IF(60), IF(50), IF(40), biases=0)
    last = Linear(graph.synapses["d1"].weight, np.array([45, 39, 9, 0, -90, 12, 14], np.int32))
    graph = graph.with_nodes({"d1": last})
    found, _ = described(graph)
    reading = Reading(found.text)
    own = [reading.neurons["layer3"][n]["soma"].get("bias", 0) for n in range(7)]
    assert own == [0, 0, 9, 0, -90, 12, 0]  # 45; 39 + 39; and 14 three times, reach 40; 12 three times does not
    sent = reading.edges["lead", "layer3"]
    assert sorted((n, w) for _, n, w in sent) == [(0, 45), (1, 39), (2, -27), (4, 270), (5, -36), (6, 14)]
    trains = [reading.neurons["lead"][k]["spikes"] for k in sorted(reading.neurons["lead"])]
    assert trains == [[0, 0, 1], [0, 0, 1, 1, 1, 1, 1]]


REFUSED = (
    (deep(LIF(60, 0.5, current_leak=0.5), IF(50)), "a.if: SANA-FE rounds a current that persists differently"),
    (deep(LIF(60, 0.5, "soft"), IF(50)), "a.if: leaking neurons that reset by subtraction cannot be written"),
)


@pytest.mark.parametrize(("graph", "message"), REFUSED, ids=["current", "leak"])
def test_what_cannot_be_exact_is_refused(graph: SpikingGraph, message: str) -> None:
    with pytest.raises(DeployError, match=message):
        described(graph)


def test_registers_that_could_overflow_are_refused() -> None:
    graph = deep(IF(60), IF(50))
    wide = graph.with_nodes({"d0": Linear(np.full((7, 48), 4000, np.int32))})
    with pytest.raises(DeployError, match="d0: its current can leave Loihi's register"):
        describing._require_exact(wide, describing.chain_layers(wide))
    long = deep(IF(60), IF(50, "soft"), T=600)
    with pytest.raises(DeployError, match=r"d0\.if: its membrane can reach the end of Loihi's register"):
        described(long)


def test_too_many_synapses_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(describing, "MOST_SYNAPSES", 700)
    with pytest.raises(DeployError, match=r"d0: up to here the network has [0-9]+ synapses, .* 700 are the most"):
        described(NETWORKS["hard"])


def test_without_sana_fe_it_is_said_how_to_get_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    found, _ = described(NETWORKS["one step"])
    frames = random_frames(NETWORKS["one step"], 1, 3)
    monkeypatch.delenv("KDSNN_SANAFE", raising=False)
    with pytest.raises(DeployError, match=r"make an environment of its own .* KDSNN_SANAFE=DIR/bin/python"):
        sanafe.run(found, frames)
    monkeypatch.setenv("KDSNN_SANAFE", str(tmp_path / "none"))
    with pytest.raises(DeployError, match="there is no such file; set it to the Python that has SANA-FE"):
        sanafe.run(found, frames)
    (tmp_path / "text").write_text("no program", encoding="utf-8")
    monkeypatch.setenv("KDSNN_SANAFE", str(tmp_path / "text"))
    with pytest.raises(DeployError, match="cannot be run"):
        sanafe.run(found, frames)


@pytest.mark.skipif(bool(os.environ.get("KDSNN_SANAFE")), reason="this Python may have it")
def test_a_python_without_sana_fe_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    found, _ = described(NETWORKS["one step"])
    monkeypatch.setenv("KDSNN_SANAFE", sys.executable)
    with pytest.raises(DeployError, match="there is no SANA-FE in this environment; install it there"):
        sanafe.run(found, random_frames(NETWORKS["one step"], 1, 3))


def test_a_failure_of_sana_fe_is_one_line(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Something that is called like SANA-FE and stops."""
    fake = tmp_path / "python"
    fake.write_text("#!/bin/sh\necho 'some words' >&2\necho 'RuntimeError: no tile 7' >&2\nexit 1\n", encoding="utf-8")
    fake.chmod(0o755)
    monkeypatch.setenv("KDSNN_SANAFE", str(fake))
    found, _ = described(NETWORKS["one step"])
    with pytest.raises(DeployError, match=r"^SANA-FE failed: RuntimeError: no tile 7$"):
        sanafe.run(found, random_frames(NETWORKS["one step"], 1, 3))


@pytest.mark.skipif(
    not os.environ.get("KDSNN_SANAFE"), reason="needs SANA-FE: set KDSNN_SANAFE to the Python that has it"
)
@pytest.mark.parametrize("name", [*NETWORKS, *range(3)])
def test_sana_fe_itself_equals_the_emulator(name: str | int) -> None:
    graph = NETWORKS[name] if isinstance(name, str) else to_chain(random_integer_chain([1, 7, 11][name]))
    found, _ = described(graph)
    frames = random_frames(graph, 3, 3)
    recorder = emulator.Recorder(graph)
    ran = emulator.run(graph, frames, observe=recorder)
    result = sanafe.run(found, recorder.spikes.get(found.source, frames))
    for layer in found.layers:
        if not layer.membrane:
            assert (result.spikes[layer.neurons_name] == recorder.spikes[layer.neurons_name]).all()
    if found.layers[-1].membrane:
        assert result.membranes is not None
        assert (result.membranes / graph.output.scale == ran.output).all()
    assert result.joules.shape == result.seconds.shape == (3, found.steps)
    assert (result.joules > 0).all() and (result.seconds > 0).all()
