"""Layers that multiply bytes against the same layers on floats and in whole numbers: not one current may differ."""

from __future__ import annotations

import gc
import weakref
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from exporters.graph import (
    IF,
    AvgPool2d,
    Conv2d,
    Flatten,
    Input,
    Linear,
    MaxPool2d,
    Output,
    Shape,
    SpikingGraph,
    Synapse,
    chain,
)
from exporters.graph.bounds import input_bounds
from hardware.emulator import Recorder, byte_products, plan, run
from hardware.emulator.byte_products import Multiply, byte_product
from tests.networks import random_integer_chain


def on_bytes(synapse: Synapse, in_shape: Shape, largest: float, frames: int) -> Multiply:
    """The layer, or a skip where the processor or this version of torch lacks exact kernels for it."""
    product = byte_product(synapse, in_shape, largest)
    if product is None or not product.is_exact(frames):
        pytest.skip("no exact products of bytes on this machine")
    return product.multiply


def currents(graph: SpikingGraph, frames: np.ndarray, **options: object) -> dict[str, torch.Tensor]:
    found: dict[str, list[torch.Tensor]] = {name: [] for name in graph.nodes}

    def keep(name: str, values: torch.Tensor) -> None:
        found[name].append(values.float() if values.dtype == torch.uint8 else values)

    run(graph, frames, observe=keep, **options)  # type: ignore[arg-type]
    return {name: torch.cat(parts, 1) for name, parts in found.items()}


def on_floats(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plan, "byte_product", lambda *_: None)


@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_convolutions_in_whole_numbers(data: st.DataObject) -> None:
    """Dense and depthwise, largest and random weights, exponents, biases, pixels up to 255; int64 is the reference."""
    kernel = data.draw(st.tuples(st.sampled_from([1, 2, 3, 5]), st.sampled_from([1, 3, 3])))
    padding = (data.draw(st.integers(0, kernel[0] // 2)), data.draw(st.integers(0, kernel[1] // 2)))
    stride = data.draw(st.tuples(st.integers(1, 3), st.integers(1, 3)))
    size = (kernel[0] + stride[0] + data.draw(st.integers(0, 9)), kernel[1] + stride[1] + data.draw(st.integers(0, 9)))
    cin, cout = data.draw(st.tuples(st.integers(1, 70), st.integers(1, 70)))
    groups = 1
    if data.draw(st.booleans()):
        groups = cout = cin
    largest = data.draw(st.sampled_from([1, 4, 127, 255]))
    exponent = data.draw(st.integers(0, 3))
    rng = np.random.default_rng(data.draw(st.integers(0, 2**31)))
    shape = (cout, cin // groups, *kernel)
    extreme = rng.choice([-127, 127], shape)
    weight = (rng.integers(-127, 128, shape) if data.draw(st.booleans()) else extreme) << exponent
    bias = rng.integers(-9999, 10000, cout) if data.draw(st.booleans()) else None
    x = torch.from_numpy(rng.choice([0, largest], (3, cin, *size)))
    b = None if bias is None else torch.from_numpy(bias)
    expected = F.conv2d(x, torch.from_numpy(weight), b, stride, padding, 1, groups)
    assume(int(expected.abs().max()) < 2**24)

    product = on_bytes(Conv2d(weight.astype(np.int32), bias, stride, padding, groups=groups), (cin, *size), largest, 3)
    found = product(x.to(torch.uint8), None if b is None else b.float())
    assert found.dtype == torch.float32 and torch.equal(found.long(), expected)


@pytest.mark.parametrize(
    ("channels", "size", "geometry"),
    [
        ((16, 4), (6, 1), {"stride": (3, 2), "padding": (1, 1)}),  # a 1×1 kernel whose window leaves the image
        ((2, 1), (8, 1), {"stride": (2, 3), "padding": (2, 2), "dilation": (3, 2)}),
        ((79, 158), (3, 3), {"stride": (1, 2), "groups": 79}),
        ((4, 4), (9, 9), {"dilation": (2, 2)}),
    ],
    ids=["crashes oneDNN", "crashes oneDNN too", "wrong in oneDNN", "dilated"],
)
def test_odd_geometries_are_left_to_floats(
    channels: tuple[int, int], size: tuple[int, int], geometry: dict[str, Any]
) -> None:
    cin, cout = channels
    rng = np.random.default_rng(0)
    weight = rng.integers(-127, 128, (cout, cin // geometry.get("groups", 1), 1, 1))
    conv = Conv2d(weight, None, **geometry)
    assert byte_product(conv, (cin, *size), 255) is None
    graph = chain(
        [("input", Input((cin, *size), scale=255)), ("conv", conv), ("act", IF(500)), ("output", Output())], 2
    )
    frames = rng.integers(0, 256, (3, cin, *size)).astype(np.float32)
    options = geometry | {"input": torch.from_numpy(frames).long(), "weight": torch.from_numpy(weight)}
    assert torch.equal(currents(graph, frames)["conv"][0].long(), F.conv2d(**options))


@pytest.mark.parametrize("exponent", [0, 2])
@pytest.mark.parametrize("samples", [1, 2, 50])
def test_dense_layers_in_whole_numbers(samples: int, exponent: int) -> None:
    rng = np.random.default_rng(samples)
    weight = rng.integers(-127, 128, (33, 200)) << exponent
    weight[0] = 127 << exponent
    bias = rng.integers(-9999, 10000, 33)
    x = rng.choice([0, 100, 127], (samples, 200))
    product = on_bytes(Linear(weight.astype(np.int32), bias), (200,), 127, samples)
    found = product(torch.from_numpy(x).to(torch.uint8), torch.from_numpy(bias).float())
    np.testing.assert_array_equal(found.numpy(), x @ weight.T + bias)


def has_vnni() -> bool:
    return torch.backends.cpu.get_cpu_capability() == "AVX512" and bool(
        getattr(torch.cpu, "_is_vnni_supported", lambda: False)()
    )


@pytest.mark.skipif(not has_vnni(), reason="products of four bytes in one instruction need VNNI")
def test_every_layer_of_a_student_multiplies_bytes() -> None:
    graph = pooled()
    arriving = input_bounds(graph)
    made = {n: byte_product(s, graph.in_shape(n), arriving[n]) for n, s in graph.synapses.items()}
    fit = {name: product is not None and product.is_exact(5) for name, product in made.items()}
    assert fit == {"conv1": True, "conv2": True, "fc1": True, "fc2": False}  # 33 inputs are too few to gain anything


@pytest.mark.parametrize(
    ("weight", "largest"),
    [(127, 256), (129, 1), (128 + 2, 300), (32_767, 1)],
    ids=["input too large", "odd weight too large", "both", "sixteen bits"],
)
def test_what_is_no_byte_is_left_to_floats(weight: int, largest: int) -> None:
    kernel = np.array([weight, 1]).reshape(1, 2, 1, 1)
    assert byte_product(Conv2d(kernel, None), (2, 4, 4), largest) is None


def test_weights_at_the_end_of_their_own_type() -> None:
    """−128 is no ±127, but 128 times −1; and its absolute value is not an int8."""
    product = on_bytes(Conv2d(np.array([-128, 0], np.int8).reshape(1, 2, 1, 1), None), (2, 2, 2), 255, 1)
    assert product(torch.full((1, 2, 2, 2), 255, dtype=torch.uint8), None).unique().item() == -128 * 255


def pooled(T: int = 5) -> SpikingGraph:
    """Overlapping and padded pools, max and average, on pixels and on spikes; a sum of spikes into a dense layer."""
    rng = np.random.default_rng(5)
    return chain(
        [
            ("input", Input((3, 14, 14), "direct", 255)),
            ("pool0", MaxPool2d((2, 3), (1, 2), (1, 1))),
            ("conv1", Conv2d(rng.integers(-9, 10, (16, 3, 3, 3)), rng.integers(-99, 100, 16), padding=(1, 1))),
            ("act1", IF(900)),
            ("pool1", AvgPool2d((3, 3), (2, 2), (1, 1), divisor=1)),
            ("conv2", Conv2d(rng.integers(-127, 128, (24, 16, 3, 3)), None, padding=(1, 1))),
            ("act2", IF(700)),
            ("pool2", MaxPool2d((3, 3), (2, 2), (1, 1))),
            ("flatten", Flatten()),
            ("fc1", Linear(rng.integers(-127, 128, (33, 24 * 4 * 2)), rng.integers(-99, 100, 33))),
            ("act3", IF(300)),
            ("fc2", Linear(rng.integers(-127, 128, (10, 33)))),
            ("output", Output("membrane")),
        ],
        T=T,
    )


@pytest.mark.parametrize("threads", [1, 2])
def test_a_network_of_pools_as_on_floats(monkeypatch: pytest.MonkeyPatch, threads: int) -> None:
    graph, before = pooled(), torch.get_num_threads()
    frames = np.random.default_rng(0).integers(0, 256, (9, 3, 14, 14)).astype(np.float32)
    torch.set_num_threads(threads)
    try:
        found = currents(graph, frames, batch_size=4)
    finally:
        torch.set_num_threads(before)
    on_floats(monkeypatch)
    for name, values in currents(graph, frames, batch_size=9).items():
        assert values.any() and values.dtype == found[name].dtype and torch.equal(values, found[name]), name


@pytest.mark.parametrize("odd", [0.5, -3.0, 300.0, 256.0], ids=["fraction", "negative", "too large", "one too large"])
def test_frames_that_are_no_bytes_are_not_rounded(monkeypatch: pytest.MonkeyPatch, odd: float) -> None:
    """Frames are the caller's: one value that is no pixel, and the batch is multiplied as it stands."""
    graph = pooled()
    frames = np.random.default_rng(0).integers(0, 256, (3, 3, 14, 14)).astype(np.float32)
    frames[1, 2, 7, 7] = odd
    found = currents(graph, frames)
    on_floats(monkeypatch)
    for name, values in currents(graph, frames).items():
        assert torch.equal(values, found[name]), name
    assert (found["input"] == odd).any()


def test_sums_that_pass_a_byte(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pixels added to pixels, and an average pool over 17×17 spikes: 510 and 289 are no bytes."""
    rng = np.random.default_rng(0)
    nodes = {
        "input": Input((2, 17, 17), "direct", 255),
        "twice": MaxPool2d((1, 1), (1, 1)),
        "conv": Conv2d(rng.integers(-9, 10, (8, 2, 1, 1)), np.full(8, 2000)),
        "act": IF(1),
        "pool": AvgPool2d((17, 17), (1, 1), divisor=1),
        "flatten": Flatten(),
        "fc": Linear(rng.integers(-9, 10, (5, 8))),
        "output": Output("membrane"),
    }
    edges = [("input", "twice"), ("input", "conv"), ("twice", "conv"), ("conv", "act"), ("act", "pool")]
    edges += [("pool", "flatten"), ("flatten", "fc"), ("fc", "output")]
    graph = SpikingGraph(nodes, tuple(edges), T=3)
    frames = np.full((2, 2, 17, 17), 255, np.float32)
    found = currents(graph, frames)
    assert found["pool"].max() > 255
    weight = graph.synapses["conv"].weight.sum((1, 2, 3))
    np.testing.assert_array_equal(found["conv"][0, 0, :, 0, 0].numpy(), 510 * weight + 2000)
    on_floats(monkeypatch)
    for name, values in currents(graph, frames).items():
        assert torch.equal(values, found[name]), name


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 2**31))
def test_random_networks_as_in_float64(seed: int) -> None:
    graph = random_integer_chain(seed)
    frames = np.random.default_rng(seed).integers(0, 256, (3, *graph.input.shape)).astype(np.float32)
    exact, found = currents(graph, frames, dtype=torch.float64), currents(graph, frames)
    for name, values in exact.items():
        assert torch.equal(values, found[name].double()), name


def test_what_observers_see_stays_as_it_is() -> None:
    """Bytes and floats, which no later layer writes into."""
    graph = pooled()
    frames = np.random.default_rng(0).integers(0, 256, (4, 3, 14, 14)).astype(np.float32)
    seen: list[tuple[torch.Tensor, torch.Tensor]] = []
    run(graph, frames, observe=lambda name, values: seen.append((values, values.clone())))
    assert len(seen) == len(graph.nodes)
    assert {values.dtype for values, _ in seen} <= {torch.float32, torch.uint8}
    assert all(torch.equal(values, then) for values, then in seen)


def test_inexact_kernels_are_found_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """A processor that saturates sums of two products at 16 bits, as those without VNNI do, multiplies floats."""

    def saturating(weight: torch.Tensor, step: int, *_: object) -> Multiply:
        def multiply(x: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
            products = torch.einsum("ni...,oi->nio...", x.int(), weight.flatten(1).int())
            pairs = products.unflatten(1, (-1, 2)).sum(2).clamp(-(2**15), 2**15 - 1)
            return step * pairs.sum(1).float() + bias.reshape(-1, *[1] * (x.ndim - 2))

        return multiply

    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "AVX2")
    monkeypatch.setattr(byte_products, "_convolution", saturating)
    monkeypatch.setattr(byte_products, "_dense", saturating)
    byte_products._convolves_exactly.cache_clear()
    byte_products._multiplies_exactly.cache_clear()
    weight = np.random.default_rng(0).integers(-127, 128, (16, 64))
    try:
        for layer, shape, largest, exact in [
            (Conv2d(weight[:, :, None, None], None), (64, 2, 2), 255, False),
            (Conv2d(weight[:, :, None, None], None), (64, 2, 2), 1, True),  # spikes: 2 · 127 fits
            (Linear(weight), (64,), 1, True),
            # a single pair of weights, which a trial of random signs may give two
            *(
                (Conv2d(np.full((1, 2, 1, 1), w), None), (2, n, n), 255, False)
                for w in (127, -127)
                for n in (2, 3, 4, 5)
            ),
            (Conv2d(np.full((1, 2, 1, 1), 127), None), (2, 5, 5), 129, True),  # 2 · 127 · 129 < 2¹⁵
        ]:
            product = byte_product(layer, shape, largest)
            assert product is not None and product.is_exact(3) == exact
    finally:
        byte_products._convolves_exactly.cache_clear()
        byte_products._multiplies_exactly.cache_clear()


@pytest.mark.parametrize("capability", ["DEFAULT", "SVE256"])
def test_other_processors_multiply_floats(monkeypatch: pytest.MonkeyPatch, capability: str) -> None:
    graph = pooled()
    frames = np.random.default_rng(0).integers(0, 256, (2, 3, 14, 14)).astype(np.float32)
    here = Recorder(graph)
    run(graph, frames, observe=here)
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: capability)
    there, again = Recorder(graph), pooled()
    run(again, frames, observe=there)
    assert byte_product(again.synapses["conv2"], (16, 8, 4), 9) is None
    assert all((here.spikes[name] == there.spikes[name]).all() for name in graph.neurons)


def test_arranged_weights_go_with_their_layer() -> None:
    synapse = Conv2d(np.ones((4, 4, 3, 3), np.int32), None)
    assert byte_product(synapse, (4, 5, 5), 1) is byte_product(synapse, (4, 5, 5), 1)
    gone = weakref.ref(synapse)
    del synapse
    gc.collect()
    assert gone() is None


@pytest.mark.parametrize("tried_before", [False, True])
def test_torch_s_default_type_is_the_user_s(tried_before: bool) -> None:
    """In a program that works in float64, layers multiply bytes as they do elsewhere, whenever their kernels were tried."""
    rng = np.random.default_rng(7)
    dense = Linear(rng.integers(-127, 128, (6, 96 + tried_before)).astype(np.int32))
    maps = Conv2d(rng.integers(-127, 128, (4, 3, 3, 3 + tried_before)).astype(np.int32), padding=(1, 1))
    for layer, shape in ((dense, dense.weight.shape[1:]), (maps, (3, 9, 9))):
        if tried_before:
            on_bytes(layer, shape, 1, 5)
        again = type(layer)(layer.weight.copy(), **({} if layer is dense else {"padding": (1, 1)}))
        x = torch.from_numpy(rng.integers(0, 2, (5, *shape)).astype(np.uint8))
        torch.set_default_dtype(torch.float64)
        try:
            found = on_bytes(again, shape, 1, 5)(x, None)
        finally:
            torch.set_default_dtype(torch.float32)
        weight = torch.from_numpy(again.weight).double()
        expected = F.linear(x.double(), weight) if layer is dense else F.conv2d(x.double(), weight, padding=1)
        assert torch.equal(found.double(), expected)
