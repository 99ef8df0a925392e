"""Calibrated quantization: the scale it chooses against brute force, and the registers on random networks."""

from __future__ import annotations

import itertools
import math
import re
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from spikingjelly.activation_based import layer, neuron
from torch import nn

from exporters.errors import DeployError
from exporters.from_torch import from_torch
from exporters.graph import (
    IF,
    LIF,
    AvgPool2d,
    Conv2d,
    Flatten,
    Input,
    Linear,
    Node,
    Output,
    SpikingGraph,
    Synapse,
    chain,
)
from exporters.graph.bounds import input_bounds, sum_bound
from exporters.graph.registers import BIAS_LIMIT, CURRENT_LIMIT, THRESHOLD_LIMIT
from exporters.passes.chain import member_spikes, to_chain
from exporters.passes.exact import make_exact
from exporters.passes.moments import InputMoments
from exporters.passes.quantize import CLIP_RATIOS, LayerScale, quantize
from hardware.emulator import Recorder, run
from hardware.emulator.calibration import calibrate
from tests.networks import Case, Residual, random_integer_network, randomize, spiking_modules


def bernoulli(rates: np.ndarray) -> InputMoments:
    """Spikes that arrive with these rates."""
    return InputMoments(rates, rates * (1 - rates))


def every_pattern(rates: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Every pattern of spikes that can arrive, and the chance of each."""
    patterns = np.array(list(itertools.product([0, 1], repeat=len(rates))))
    return patterns, np.prod(np.where(patterns == 1, rates, 1 - rates), axis=1)


def weights_and_rates(synapse: Synapse, rates: np.ndarray, o: int) -> tuple[np.ndarray, np.ndarray]:
    """The weights of one output, flat, and the rate of what each multiplies."""
    flat = synapse.weight[o].reshape(-1)
    if not isinstance(synapse, Conv2d):
        return flat, rates
    each = synapse.weight.shape[1]
    group = o // (len(synapse.weight) // synapse.groups)
    return flat, np.repeat(rates[group * each : (group + 1) * each], flat.size // each)


def expectation(change: np.ndarray, shift: float, rates: np.ndarray) -> float:
    """E[(Σ change·x + shift)²] over independent spikes x, by going through every pattern."""
    patterns, chances = every_pattern(rates)
    return float(chances @ (patterns @ change + shift) ** 2)


def brute_error(synapses: dict[str, Synapse], rates: dict[str, np.ndarray], scale: float, largest: int) -> float | None:
    """The expected squared error of a group's current at a scale, None where it does not fit: no formula, all patterns."""
    outputs = len(next(iter(synapses.values())).weight)
    total, current = 0.0, np.zeros(outputs)
    for o in range(outputs):
        changes, chances, shift = [], [], 0.0
        for name, synapse in synapses.items():
            flat, p = weights_and_rates(synapse, rates[name], o)
            whole = np.clip(np.round(scale * flat), -largest, largest)
            change = whole / scale - flat
            bias = 0.0 if synapse.bias is None else float(synapse.bias[o])
            integer_bias = np.round(scale * (bias - change @ p))
            if abs(scale * bias) > BIAS_LIMIT + 0.5 or abs(integer_bias) > BIAS_LIMIT:
                return None
            shift += integer_bias / scale - bias
            changes.append(change)
            chances.append(p)
            current[o] += max(whole[whole > 0].sum(), -whole[whole < 0].sum())
        total += expectation(np.concatenate(changes), shift, np.concatenate(chances))
    gone = any(not np.round(scale * s.weight).any() for s in synapses.values())
    return None if gone or current.max() > CURRENT_LIMIT else total


def brute_slope(synapses: dict[str, Synapse], rates: dict[str, np.ndarray], scale: float, largest: int) -> float:
    """Least squares over every pattern of every output: the slope of a group's quantized current over its current."""
    both = own = 0.0
    for name, synapse in synapses.items():
        for o in range(len(synapse.weight)):
            flat, p = weights_and_rates(synapse, rates[name], o)
            patterns, chances = every_pattern(p)
            before, after = patterns @ flat, patterns @ np.clip(np.round(scale * flat), -largest, largest) / scale
            both += chances @ (before * after) - (chances @ before) * (chances @ after)
            own += chances @ before**2 - (chances @ before) ** 2
    return both / own


def heavy_tailed(rng: np.random.Generator, *shape: int) -> np.ndarray:
    return rng.standard_t(3, shape) * 10 ** rng.uniform(-2, 1)


@settings(max_examples=12, deadline=None)
@given(st.integers(0, 2**31), st.integers(2, 8))
def test_no_candidate_errs_less_than_the_chosen_scale(seed: int, bits: int) -> None:
    """A dense layer, a grouped convolution and two layers into one membrane, each by every pattern of its inputs."""
    rng = np.random.default_rng(seed)
    kernel = Conv2d(heavy_tailed(rng, 4, 2, 2, 1), rng.normal(0, 0.2, 4), groups=2)
    fc, skip = Linear(heavy_tailed(rng, 3, 4), rng.normal(0, 0.1, 3)), Linear(heavy_tailed(rng, 3, 4))
    first, second = Linear(heavy_tailed(rng, 4, 4 * 3 * 4)), Linear(heavy_tailed(rng, 4, 4), rng.normal(0, 0.3, 4))
    nodes: dict[str, Node] = {
        "in": Input((4, 4, 4), "spikes"), "conv": kernel, "n1": IF(1.0), "flat": Flatten(), "first": first, "n2": IF(1.0),
        "second": second, "n3": IF(1.0), "fc": fc, "skip": skip, "n4": IF(1.0), "out": Output(),
    }  # fmt: skip
    edges = [
        ("in", "conv"), ("conv", "n1"), ("n1", "flat"), ("flat", "first"), ("first", "n2"), ("n2", "second"), ("second", "n3"),
        ("n3", "fc"), ("fc", "n4"), ("n2", "skip"), ("skip", "n4"), ("n4", "out"),
    ]  # fmt: skip
    graph = SpikingGraph(nodes, tuple(edges), 2)
    rates = {name: rng.uniform(0, 0.6, graph.in_shape(name)[0]) for name in graph.synapses}
    try:
        _, report = quantize(graph, bits=bits, moments={name: bernoulli(p) for name, p in rates.items()})
    except DeployError as error:
        assert "round to zero" in str(error)
        return
    found = {row.name: row for row in report}
    for group in (["conv"], ["second"], ["fc", "skip"]):
        synapses = {name: graph.synapses[name] for name in group}
        largest = 2 ** (bits - 1) - 1
        uncut = largest / max(np.abs(s.weight).max() for s in synapses.values())
        errors = {ratio: brute_error(synapses, rates, uncut / ratio, largest) for ratio in CLIP_RATIOS}
        least = min(e for e in errors.values() if e is not None)
        row = found[group[0]]
        chosen = next(ratio for ratio, error in errors.items() if error is not None and error <= least * (1 + 1e-9))
        # thresholds and biases follow what the weights still make of their inputs
        assert row.scale == pytest.approx(
            uncut / chosen * brute_slope(synapses, rates, uncut / chosen, largest), rel=1e-9
        )
        assert row.limited_by == ("weights" if chosen == 1 else "calibration")
        for name in group:
            cut = np.abs(np.round(uncut / chosen * graph.synapses[name].weight)) > largest
            assert found[name].clipped == pytest.approx(cut.mean())


def float_network(seed: int) -> SpikingGraph:
    """A random network of everything that a chain holds, in real weights."""
    graph, rng = random_integer_network(seed), np.random.default_rng(seed)
    unit = 10 ** rng.uniform(-4, 1)
    changed: dict[str, Node] = {}
    for name, node in graph.nodes.items():
        if isinstance(node, Conv2d | Linear):
            noise = rng.standard_t(3, node.weight.shape) * 5
            changed[name] = replace(
                node, weight=(node.weight + noise) * unit, bias=None if node.bias is None else node.bias * unit
            )
        elif name in graph.neurons:
            changed[name] = replace(graph.neurons[name], threshold=graph.neurons[name].threshold * unit)
        elif isinstance(node, AvgPool2d):
            changed[name] = replace(node, divisor=math.prod(node.kernel))
        elif isinstance(node, Input):
            changed[name] = replace(node, scale=None)
    return graph.with_nodes(changed)


def assert_fits_registers(graph: SpikingGraph, report: tuple[LayerScale, ...], bits: int) -> None:
    assert graph.is_integer and {row.name for row in report} == set(graph.synapses)
    bounds = input_bounds(graph)
    for end in [*graph.neurons, graph.output_name]:
        is_output = end == graph.output_name
        feeding = [s for s in graph.sources(end) if s in graph.synapses]
        kept = 1.0 if is_output else graph.neurons[end].current_leak
        current = sum(sum_bound(graph.synapses[s], bounds[s], bias=is_output) for s in feeding)
        assert current * sum(kept**t for t in range(graph.T)) <= CURRENT_LIMIT
        for s in feeding:
            synapse = graph.synapses[s]
            assert np.abs(synapse.weight).max() <= 2 ** (bits - 1) - 1
            assert synapse.bias is None or np.abs(synapse.bias).max() <= BIAS_LIMIT
    assert all(1 <= n.threshold <= THRESHOLD_LIMIT for n in graph.neurons.values())


REFUSALS = "round to zero|no scale fits"


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**31), st.integers(2, 8), st.sampled_from([1, 4, 8]), st.sampled_from([0.0, 1.0, 1e3]))
def test_calibrated_networks_cannot_overflow(seed: int, bits: int, input_bits: int, exaggerate: float) -> None:
    """Also where the moments are nonsense, so that the corrected biases would pass any register."""
    graph, rng = float_network(seed), np.random.default_rng(seed)
    exact = make_exact(graph, input_scale=2**input_bits - 1)
    shape = (3, *([graph.T] if graph.input.encoding == "spikes" else []), *graph.input.shape)
    x = rng.integers(0, 2, shape) if graph.input.encoding == "spikes" else rng.integers(0, 256, shape) / 255
    moments = calibrate(exact, exact.encode(x)).inputs
    if exaggerate:
        moments = {
            n: InputMoments(m.mean * exaggerate + rng.normal(size=m.mean.shape), m.variance) for n, m in moments.items()
        }
    try:
        integer, report = quantize(graph, bits=bits, input_bits=input_bits, moments=moments)
    except DeployError as error:
        assert re.search(REFUSALS, str(error)), error
        return
    assert_fits_registers(integer, report, bits)
    # and what is seen is what was promised
    seen = calibrate(integer, integer.encode(x)).peaks
    assert max(seen.values()) <= CURRENT_LIMIT + BIAS_LIMIT


@settings(max_examples=25, deadline=None)
@given(spiking_modules(leaky=False), st.integers(2, 8))
def test_calibrated_networks_become_chains_spike_for_spike(case: Case, bits: int) -> None:
    graph = from_torch(case.module, case.shape, case.T)
    exact, x = make_exact(graph), case.input(4).numpy()
    try:
        integer, _ = quantize(graph, bits=bits, moments=calibrate(exact, exact.encode(x)).inputs)
        chained = to_chain(integer)
    except DeployError as error:
        assert re.search(f"{REFUSALS}|does not tile|past a strided layer", str(error)), error
        return
    before, after = Recorder(integer), Recorder(chained)
    run(integer, integer.encode(x), observe=before)
    run(chained, chained.encode(x), observe=after)
    found = member_spikes(chained, after.spikes)
    for name, spikes in before.spikes.items():
        np.testing.assert_array_equal(found[name], spikes, err_msg=name)


def test_an_outlier_that_hardly_matters_is_cut() -> None:
    """Nine weights of 1 and 0.5, and a tenth of 8 whose input never varies: by hand, in 3 bits (−3…3)."""
    weight = np.array([[1.0, 0.5, 1.0, 0.5, 1.0, 0.5, 1.0, 0.5, 1.0, 8.0]])
    graph = chain([("in", Input((10,), "spikes")), ("fc", Linear(weight)), ("n", IF(1.0)), ("out", Output())], 2)
    rates = np.array([0.5] * 9 + [0.0])
    plain, calibrated = quantize(graph, bits=3), quantize(graph, bits=3, moments={"fc": bernoulli(rates)})
    np.testing.assert_array_equal(plain[0].synapses["fc"].weight, [[0, 0, 0, 0, 0, 0, 0, 0, 0, 3]])
    np.testing.assert_array_equal(calibrated[0].synapses["fc"].weight, [[2, 1, 2, 1, 2, 1, 2, 1, 2, 3]])
    assert plain[1][0].clipped == 0 and plain[1][0].limited_by == "weights"
    assert calibrated[1][0].clipped == 0.1 and calibrated[1][0].limited_by == "calibration"


def test_biases_take_up_the_shift_of_the_mean() -> None:
    """3 weights of 0.6 at scale 1 become 1: with rates of ½ the mean current rises by 0.6, which the bias takes back."""
    weight = np.array([[0.6, 0.6, 0.6, -1.0]])
    graph = chain(
        [("in", Input((4,), "spikes")), ("fc", Linear(weight, np.array([3.0]))), ("n", IF(1.0)), ("out", Output())], 2
    )
    rates = np.array([0.5, 0.5, 0.5, 0.999])
    integer, (row,) = quantize(graph, bits=2, moments={"fc": bernoulli(rates)})
    change = integer.synapses["fc"].weight / row.scale - weight
    assert np.abs(change).max() > 0.1
    assert integer.synapses["fc"].bias == np.rint(row.scale * (3.0 - change[0] @ rates))


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 2**31))
def test_weights_on_the_grid_already_stay_as_they_are(seed: int) -> None:
    """What quantization-aware training leaves: calibration has nothing to improve."""
    rng = np.random.default_rng(seed)
    weight = rng.integers(-7, 8, (5, 8)).astype(float)
    weight.flat[0] = 7
    graph = chain([("in", Input((8,), "spikes")), ("fc", Linear(weight * 0.03)), ("n", IF(1.0)), ("out", Output())], 3)
    integer, (row,) = quantize(graph, bits=4, moments={"fc": bernoulli(rng.uniform(0.1, 0.9, 8))})
    np.testing.assert_array_equal(integer.synapses["fc"].weight, weight)
    assert integer.synapses["fc"].bias is None and (row.limited_by, row.clipped) == ("weights", 0)


@pytest.mark.parametrize("bits", [3, 4, 6, 8])
def test_parallel_layers_get_one_threshold_and_the_best_one(bits: int) -> None:
    """A SEW block with a downsample branch: of the thresholds on offer, none errs less on the two layers together."""
    torch.manual_seed(0)
    net = nn.Sequential(
        layer.Conv2d(1, 3, 3, 1, 1), neuron.IFNode(), Residual(3, 6, 2, True, neuron.IFNode), layer.Flatten(),
        layer.Linear(6 * 16, 4), neuron.IFNode(),
    )  # fmt: skip
    randomize(net, 0)
    graph = from_torch(net, (1, 8, 8), 4)
    exact = make_exact(graph)
    x = np.random.default_rng(0).integers(0, 256, (5, 1, 8, 8)) / 255
    moments = calibrate(exact, exact.encode(x)).inputs
    integer, report = quantize(graph, bits=bits, moments=moments)
    rows = {row.name: row for row in report}
    pair = ("2.conv1", "2.down.0")
    V = rows[pair[0]].threshold
    assert V == rows[pair[1]].threshold == integer.neurons["2.sn1"].threshold == integer.neurons["2.down.2"].threshold

    largest = 2 ** (bits - 1) - 1
    uncut = {name: largest / np.abs(graph.synapses[name].weight).max() for name in pair}

    def rounded(scale: float, name: str) -> np.ndarray:
        return np.clip(np.rint(scale * graph.synapses[name].weight), -largest, largest)

    def error(scale: float, name: str) -> float:
        w, b, m = graph.synapses[name].weight, graph.synapses[name].bias, moments[name]
        change = rounded(scale, name) / scale - w
        wanted = b - np.einsum("oikl,i->o", change, m.mean)
        return float(
            np.einsum("oikl,i->", change**2, m.variance) + np.sum((np.rint(scale * wanted) / scale - wanted) ** 2)
        )

    offers = []
    for ratio in CLIP_RATIOS:
        common = max(1, math.floor(min(uncut.values()) / ratio))
        scales = {name: min(uncut[name] / ratio, common) for name in pair}
        offers.append((sum(error(scale, name) for name, scale in scales.items()), scales))
    scales = min(offers, key=lambda offer: offer[0])[1]
    slopes = []
    for name, scale in scales.items():
        w, m = graph.synapses[name].weight, moments[name]
        np.testing.assert_array_equal(integer.synapses[name].weight, rounded(scale, name))
        slope = np.einsum("oikl,i->", rounded(scale, name) / scale * w, m.variance) / np.einsum(
            "oikl,i->", w**2, m.variance
        )
        slopes.append(scale * slope)
    assert round(np.mean(slopes)) == V


@pytest.mark.parametrize(
    ("moments", "message"),
    [
        ({}, "fc: the calibration has nothing for this layer"),
        ({"fc": bernoulli(np.full(3, 0.5))}, r"fc: the calibration has \(3,\) means .* for 4 input features"),
        ({"fc": InputMoments(np.full(4, np.nan), np.ones(4))}, "fc: the calibration holds NaN"),
        ({"fc": InputMoments(np.ones(4), -np.ones(4))}, "fc: the calibration holds NaN, infinite values or negative"),
    ],
)
def test_moments_of_another_network_are_refused(moments: dict[str, InputMoments], message: str) -> None:
    graph = chain([("in", Input((4,), "spikes")), ("fc", Linear(np.eye(4))), ("n", IF(1.0)), ("out", Output())], 2)
    with pytest.raises(DeployError, match=message):
        quantize(graph, moments=moments)


@pytest.mark.parametrize("calibrated", [False, True])
@pytest.mark.parametrize("kind", ["step", "persisting current", "membrane read-out"])
def test_every_register_is_used_up_to_its_end_and_no_further(kind: str, calibrated: bool) -> None:
    """Pixels of 8 bits into 8-bit weights: 12·255·127 is three times what a register holds, in one step of several."""
    rng = np.random.default_rng(0)
    fc = Linear(rng.uniform(0.5, 1, (2, 12)), rng.normal(0, 0.1, 2))
    last = {"step": IF(3.0), "persisting current": LIF(3.0, 0.9, current_leak=0.75), "membrane read-out": None}[kind]
    end: list[tuple[str, Node]] = [("out", Output("membrane"))] if last is None else [("n", last), ("out", Output())]
    graph = chain([("in", Input((12,))), ("fc", fc), *end], 4)
    moments = {"fc": InputMoments(rng.uniform(0, 255, 12), rng.uniform(0, 9999, 12))} if calibrated else None
    integer, (row,) = quantize(graph, moments=moments)
    synapse = integer.synapses["fc"]
    assert synapse.bias is not None
    one = 255 * synapse.weight.sum(axis=1) + (np.maximum(synapse.bias, 0) if last is None else 0)
    steps = {"step": 1, "persisting current": 1 + 0.75 + 0.75**2 + 0.75**3, "membrane read-out": 4}[kind]
    assert 0.97 * CURRENT_LIMIT < steps * one.max() <= CURRENT_LIMIT
    assert row.limited_by == "current"


def test_a_correction_stops_where_the_bias_register_ends() -> None:
    weight = np.array([[0.6, 1.0, -0.3], [0.3, -0.7, 1.0]])
    graph = chain([("in", Input((3,), "spikes")), ("fc", Linear(weight)), ("n", IF(1.0)), ("out", Output())], 2)
    moments = InputMoments(np.array([1e9, -1e9, 3e9]), np.ones(3))
    integer, _ = quantize(graph, bits=3, moments={"fc": moments})
    bias = integer.synapses["fc"].bias
    assert bias is not None and np.abs(bias).max() == BIAS_LIMIT
