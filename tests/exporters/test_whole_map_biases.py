"""Biases of a value at every position: every pass and format keeps every spike of networks that have them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from exporters import netx, nir
from exporters import onnx as onnx_files
from exporters.errors import DeployError
from exporters.from_torch import from_torch
from exporters.graph import IF, AvgPool2d, Conv2d, Flatten, GraphError, Input, Linear, Output, SpikingGraph, chain
from exporters.graph.bounds import input_bounds, sum_bound
from exporters.graph.registers import BIAS_LIMIT
from exporters.passes.chain import member_spikes, to_chain
from exporters.passes.exact import make_exact
from exporters.passes.quantize import quantize
from exporters.passes.split import split_encoder
from hardware.emulator import Recorder, run
from hardware.emulator.calibration import calibrate
from profilers.counting.sizes import graph_size
from tests.networks import Case, random_integer_chain, random_integer_network, spiking_modules

SHARED = settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
SEEDS = st.integers(0, 2**31)


def with_maps(graph: SpikingGraph, seed: int) -> SpikingGraph:
    """The network with a whole map for the bias of about two of three convolutions, as large as biases are in it."""
    rng = np.random.default_rng(seed)
    changed = {}
    for name, node in graph.nodes.items():
        if isinstance(node, Conv2d) and rng.random() < 0.7:
            shape = graph.shapes[name]
            bias = np.zeros(shape[0]) if node.bias is None else node.bias
            values = rng.normal(0, 1 + np.abs(node.weight).mean(), shape) + bias.reshape(-1, 1, 1)
            whole = np.rint(values).astype(np.int32) if node.weight.dtype.kind == "i" else values / 4
            changed[name] = replace(node, bias=whole)
    return graph.with_nodes(changed)


def spread(graph: SpikingGraph) -> SpikingGraph:
    """The same network with every bias of a convolution written out at every position."""
    changed = {}
    for name, node in graph.nodes.items():
        if isinstance(node, Conv2d) and node.bias is not None:
            whole = np.broadcast_to(node.bias.reshape(-1, 1, 1), graph.shapes[name])
            changed[name] = replace(node, bias=np.ascontiguousarray(whole))
    return graph.with_nodes(changed)


def frames_for(graph: SpikingGraph, seed: int, samples: int = 3) -> np.ndarray:
    rng = np.random.default_rng(seed)
    shape = (graph.T, *graph.input.shape) if graph.input.encoding == "spikes" else graph.input.shape
    return rng.integers(0, (graph.input.scale or 1) + 1, (samples, *shape)).astype(np.float32)


def spikes_of(graph: SpikingGraph, frames: np.ndarray, **options) -> tuple[dict[str, np.ndarray], np.ndarray]:
    recorder = Recorder(graph)
    output = run(graph, frames, observe=recorder, **options).output
    return recorder.spikes, output


def assert_same_spikes(a: dict[str, np.ndarray], b: dict[str, np.ndarray]) -> None:
    for name, spikes in a.items():
        np.testing.assert_array_equal(b[name], spikes, err_msg=name)


def chain_of(graph: SpikingGraph) -> SpikingGraph:
    """The chain; maps may make biases of layers side by side too large for a common threshold, which is refused."""
    try:
        return to_chain(graph)
    except DeployError as error:
        assert "no threshold can stand for those of layers of one depth" in str(error)
        assume(False)
        raise


def by_hand(graph: SpikingGraph, frames: np.ndarray) -> dict[str, np.ndarray]:
    """The spikes of a chain of convolutions, max-pools, dense layers and IF neurons, in float64 and step by step."""
    found: dict[str, list[np.ndarray]] = {name: [] for name in graph.neurons}
    v = {name: np.zeros((len(frames), *graph.shapes[name])) for name in graph.neurons}
    for _ in range(graph.T):
        x = torch.from_numpy(frames.astype(np.float64))
        for name, node in graph.nodes.items():
            if isinstance(node, Conv2d):
                weight = torch.from_numpy(node.weight.astype(np.float64))
                x = F.conv2d(x, weight, None, node.stride, node.padding, node.dilation, node.groups)
                if node.bias is not None:
                    for c in range(len(node.bias)):
                        x[:, c] += torch.from_numpy(np.asarray(node.bias[c], np.float64))
            elif isinstance(node, Linear):
                bias = np.zeros(len(node.weight)) if node.bias is None else node.bias
                x = x @ torch.from_numpy(node.weight.T.astype(np.float64)) + torch.from_numpy(bias.astype(np.float64))
            elif isinstance(node, IF):
                v[name] = v[name] + x.numpy()
                spikes = v[name] >= node.threshold
                v[name][spikes] = 0
                found[name].append(spikes)
                x = torch.from_numpy(spikes.astype(np.float64))
            elif isinstance(node, Flatten):
                x = x.flatten(1)
            elif not isinstance(node, Input | Output):
                x = F.max_pool2d(x, node.kernel, node.stride, node.padding)
    return {name: np.stack(steps, axis=1) for name, steps in found.items()}


@SHARED
@given(SEEDS)
def test_the_emulator_adds_the_map(seed: int) -> None:
    graph = with_maps(random_integer_chain(seed), seed)
    frames = frames_for(graph, seed)
    assert_same_spikes(by_hand(graph, frames), spikes_of(graph, frames)[0])


@SHARED
@given(SEEDS)
def test_chains_of_all_kinds_of_networks(seed: int) -> None:
    """Average pools, relays, ORs, leaks and current-based neurons, read as spikes and as membranes; a file of the chain too."""
    graph = with_maps(random_integer_network(seed), seed)
    chained, frames = chain_of(graph), frames_for(graph, seed)
    expected, output = spikes_of(graph, frames)
    found, chain_output = spikes_of(chained, frames)
    assert_same_spikes(expected, member_spikes(chained, found))
    np.testing.assert_array_equal(chain_output.reshape(output.shape), output)


@SHARED
@given(SEEDS)
def test_netx_files_read_back(tmp_path: Path, seed: int) -> None:
    chained = chain_of(with_maps(random_integer_network(seed), seed))
    again = netx.read(netx.write(chained, tmp_path / f"{seed}.net"))
    for name, synapse in chained.synapses.items():
        np.testing.assert_array_equal(again.synapses[name].weight, synapse.weight)
        if synapse.bias is None:
            assert again.synapses[name].bias is None
        else:
            np.testing.assert_array_equal(again.synapses[name].bias, synapse.bias)


@SHARED
@given(SEEDS)
def test_the_encoder_on_the_host(seed: int) -> None:
    graph = with_maps(random_integer_network(seed), seed)
    assume(graph.input.encoding == "direct" and len(graph.neurons) > 1 and graph.output.readout == "rate")
    host, chip = split_encoder(graph)
    frames = frames_for(graph, seed)
    expected, output = spikes_of(graph, frames)
    between = run(host, frames).output.astype(np.float32)
    found, chip_output = spikes_of(chip, between)
    np.testing.assert_array_equal(chip_output, output)
    assert_same_spikes(found, expected)


@SHARED
@given(spiking_modules(leaky=False))
def test_exact_graphs_do_not_depend_on_precision(case: Case) -> None:
    graph = make_exact(with_maps(from_torch(case.module, case.shape, case.T), case.seed))
    frames = graph.encode(case.input(4).numpy())
    single, double = (spikes_of(graph, frames, dtype=kind)[0] for kind in (torch.float32, torch.float64))
    assert_same_spikes(single, double)


@SHARED
@given(SEEDS)
def test_weights_and_maps_that_are_integers_already_keep_every_spike(seed: int) -> None:
    """A float network on the grid of eight bits: quantization must change nothing at all, average pools included."""
    rng = np.random.default_rng(seed)
    scale = 2.0 ** -rng.integers(3, 8)
    kernel = rng.integers(-127, 128, (3, 2, 3, 3))
    second = rng.integers(-127, 128, (4, 3, 2, 2))
    kernel.flat[0] = second.flat[0] = 127
    first = Conv2d(kernel * scale, rng.integers(-300, 300, (3, 6, 4)) * scale, padding=(1, 1))
    graph = chain(
        [("in", Input((2, 6, 4), "spikes")), ("c", first), ("s", IF(150 * scale)), ("pool", AvgPool2d((2, 2), (2, 2), divisor=4)),
         ("d", Conv2d(second * scale, rng.integers(-90, 90, (4, 2, 1)) * scale / 4)), ("t", IF(40 * scale)), ("flat", Flatten()),
         ("fc", Linear(np.ones((2, 8)))), ("out", Output("membrane"))],
        5,
    )  # fmt: skip
    x = rng.integers(0, 2, (8, 5, 2, 6, 4)).astype(np.float32)
    integer, report = quantize(graph)
    assert [row.rms_error for row in report[:2]] == [0, 0]
    assert_same_spikes(spikes_of(graph, x)[0], spikes_of(integer, x)[0])


@SHARED
@given(spiking_modules(leaky=False), st.integers(4, 8))
def test_quantized_numbers_respect_the_registers(case: Case, bits: int) -> None:
    graph = with_maps(from_torch(case.module, case.shape, case.T), case.seed)
    exact = make_exact(graph)
    moments = calibrate(exact, exact.encode(case.input(4).numpy())).inputs
    for options in ({}, {"moments": moments}):
        try:
            integer, _ = quantize(graph, bits=bits, **options)
        except DeployError as error:
            assert "round to zero" in str(error) or "do not fit" in str(error)
            continue
        assert integer.is_integer
        bounds = input_bounds(integer)
        frames = integer.encode(case.input(4).numpy())
        currents: dict[str, float] = {}

        def observe(name: str, values: torch.Tensor, currents: dict[str, float] = currents) -> None:
            currents[name] = float(values.abs().max())

        run(integer, frames, observe=observe, dtype=torch.float64)
        for name, synapse in integer.synapses.items():
            assert synapse.bias is None or np.abs(synapse.bias).max() <= BIAS_LIMIT
            assert currents[name] <= sum_bound(synapse, bounds[name])  # no position passes what the bound allows


def same_node(a, b, shape: tuple[int, ...]) -> None:
    """Nodes that are equal, but for biases that one of them writes out."""
    assert type(a) is type(b)
    for key, value in vars(a).items():
        other = vars(b)[key]
        if key == "bias" and value is not None and np.ndim(value) == 1 and len(shape) == 3:
            value = np.broadcast_to(value.reshape(-1, 1, 1), shape)
        np.testing.assert_array_equal(other, value)


def quantized_with_moments(graph: SpikingGraph) -> SpikingGraph:
    """Bias correction included; what is measured does not depend on how biases are written."""
    exact = make_exact(graph)
    samples = np.random.default_rng(0).integers(0, 256, (5, *graph.input.shape)) / 255
    return quantize(graph, bits=5, moments=calibrate(exact, exact.encode(samples)).inputs)[0]


@SHARED
@given(spiking_modules(), st.sampled_from([make_exact, lambda g: quantize(g)[0], quantized_with_moments]))
def test_a_map_of_one_value_is_that_value(case: Case, lower: Callable[[SpikingGraph], SpikingGraph]) -> None:
    """Written out at every position or once per channel, biases come out of the passes the same."""
    graph = from_torch(case.module, case.shape, case.T)
    once, everywhere = refusal_or(lower, graph), refusal_or(lower, spread(graph))
    if isinstance(once, str) or isinstance(everywhere, str):
        assert once == everywhere
        return
    assert list(once.nodes) == list(everywhere.nodes)
    for name, node in once.nodes.items():
        given_map = np.ndim(getattr(everywhere.nodes[name], "bias", None)) == 3
        same_node(node, everywhere.nodes[name], once.shapes[name] if given_map else ())


def refusal_or(lower: Callable[[SpikingGraph], SpikingGraph], graph: SpikingGraph) -> SpikingGraph | str:
    try:
        return lower(graph)
    except DeployError as error:
        return str(error)


@settings(SHARED, max_examples=8)
@given(SEEDS)
def test_integer_onnx(tmp_path: Path, seed: int) -> None:
    graph = with_maps(random_integer_network(seed), seed)
    frames = frames_for(graph, seed)
    samples = frames / np.float32(graph.input.scale or 1)
    expected, _ = spikes_of(graph, graph.encode(samples))
    for form in onnx_files.FORMS:
        path = onnx_files.write(graph, tmp_path / f"{form}.onnx", form)
        assert not any(onnx_files.verify(path, samples, expected).values()), form


@settings(SHARED, max_examples=8)
@given(spiking_modules())
def test_float_onnx(tmp_path: Path, case: Case) -> None:
    graph = make_exact(with_maps(from_torch(case.module, case.shape, case.T), case.seed))
    x = case.input(3).numpy().astype(np.float32)
    expected, _ = spikes_of(graph, graph.encode(x))
    for form in onnx_files.FORMS:
        path = onnx_files.write(graph, tmp_path / f"{form}.onnx", form)
        assert not any(onnx_files.verify(path, x, expected).values()), form


def one_map(bias: np.ndarray) -> SpikingGraph:
    kernel = np.ones((2, 1, 3, 3), np.int32)
    return chain(
        [("in", Input((1, 4, 5), scale=255)), ("c", Conv2d(kernel, bias, padding=(1, 1))), ("s", IF(9)), ("flat", Flatten()),
         ("fc", Linear(np.ones((2, 40), np.int32))), ("o", IF(3)), ("out", Output())],
        2,
    )  # fmt: skip


def test_shapes() -> None:
    assert one_map(np.ones((2, 4, 5), np.int32)).shapes["c"] == (2, 4, 5)
    for wrong in ((2, 5, 4), (2, 1, 1), (4, 5), (1, 4, 5), (2, 4, 5, 1)):
        with pytest.raises(
            GraphError, match=r"c: the bias must have shape \(2,\), or \(2, 4, 5\) for a value at every"
        ):
            one_map(np.ones(wrong, np.int32))


def test_netx_keeps_maps_in_lavas_order(tmp_path: Path) -> None:
    bias = np.arange(40, dtype=np.int32).reshape(2, 4, 5)
    path = netx.write(to_chain(one_map(bias)), tmp_path / "map.net")
    with h5py.File(path, "r+") as file:
        np.testing.assert_array_equal(file["layer/1/bias"][()], bias.transpose(2, 1, 0))
        del file["layer/1/bias"]
        file["layer/1/bias"] = bias.astype(np.float32)
    (finding,) = netx.validate(path)
    assert "the bias has shape (2, 4, 5), expected (2,) or (5, 4, 2), width before height before channels" in finding


def test_nir_refuses_by_name(tmp_path: Path) -> None:
    with pytest.raises(nir.NirError, match="c: its bias differs between positions, and NIR's Conv2d has one for each"):
        nir.write(one_map(np.arange(40, dtype=np.int32).reshape(2, 4, 5)), tmp_path / "map.nir")


def test_every_position_is_a_parameter() -> None:
    whole, once = (graph_size(one_map(np.ones(shape, np.int32))) for shape in ((2, 4, 5), (2,)))
    assert whole.layers["c"].biases == 40 and whole.parameters - once.parameters == 38
