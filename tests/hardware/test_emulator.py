"""The emulator against arithmetic written out in Python integers, registers and all."""

from __future__ import annotations

import itertools
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from exporters.errors import DeployError
from exporters.graph import IF, LIF, AvgPool2d, Conv2d, Flatten, Input, Linear, MaxPool2d, Output, SpikingGraph, chain
from hardware.emulator import Recorder, membranes, run
from hardware.emulator.byte_products import _multiplies_exactly
from tests.networks import random_integer_chain


def lava_neuron(
    currents: list[int], bias: int, threshold: int, decay: int = 0, current_decay: int = 4096, *, dense: bool = False
) -> list[int]:
    """`PyConvModelFixed` or `PyDenseModelBitAcc`, and `PyLifModelBitAcc` of lava-nc 0.10 for one neuron, in Python integers."""
    u, v, spikes = 0, 0, []
    for a in currents:
        if not dense:
            a = (a + 2**23) % 2**24 - 2**23
        a = ((a << 6) + 2**31) % 2**32 - 2**31  # all of it in int32
        u = (1 if u >= 0 else -1) * ((abs(u) * (4096 - current_decay)) >> 12) + a
        u = (u + 2**31) % 2**32 - 2**31
        if u > 2**23:
            u -= 2**24
        if u <= -(2**23):
            u += 2**24
        v = (1 if v >= 0 else -1) * ((abs(v) * (4096 - decay)) >> 12)
        v = min(max(v + u + (bias << 6), -(2**23 - 1)), 2**23 - 1)
        fires = v > (threshold - 1) << 6
        v = 0 if fires else v
        spikes.append(int(fires))
    return spikes


def brute_force(graph: SpikingGraph, frames: np.ndarray) -> dict[str, np.ndarray]:
    """Every layer of a chain, one synapse at a time, Python integers throughout."""
    T = graph.T
    values = [[x.astype(object) for _ in range(T)] for x in frames.astype(int)]  # [sample][t]
    layers: dict[str, np.ndarray] = {}
    bias = np.zeros(1, int)
    for name, node in graph.nodes.items():
        match node:
            case Flatten():
                values = [[v.reshape(-1) for v in s] for s in values]
            case Linear():
                values = [
                    [
                        np.array(
                            [int(sum(int(w) * int(x) for w, x in zip(row, v, strict=True))) for row in node.weight],
                            object,
                        )
                        for v in s
                    ]
                    for s in values
                ]
                bias = node.bias if node.bias is not None else np.zeros(len(node.weight), int)
            case Conv2d():
                values = [[convolve(v, node, graph.shapes[name]) for v in s] for s in values]
                b = node.bias if node.bias is not None else np.zeros(len(node.weight), int)
                bias = np.broadcast_to(b[:, None, None], graph.shapes[name])
            case MaxPool2d():
                values = [[pool(v, node, graph.shapes[name]) for v in s] for s in values]
            case IF() | LIF():
                decay, current_decay = 0, 4096
                if isinstance(node, LIF):
                    decay, current_decay = (4096 - round(leak * 4096) for leak in (node.leak, node.current_leak))
                shape = graph.shapes[name]
                for s in values:
                    fired = np.zeros((T, *shape), int)
                    for i in itertools.product(*map(range, shape)):
                        fired[(slice(None), *i)] = lava_neuron(
                            [int(s[t][i]) for t in range(T)], int(bias[i]), round(node.threshold), decay, current_decay
                        )
                    s[:] = list(fired)
                layers[name] = np.array([[v.astype(int) for v in s] for s in values])
    return layers


def convolve(x: np.ndarray, node: Conv2d, shape: tuple[int, ...]) -> np.ndarray:
    out = np.zeros(shape, object)
    per_in, per_out = node.weight.shape[1], len(node.weight) // node.groups
    for o, i, j in itertools.product(*map(range, shape)):
        for c, a, b in itertools.product(*map(range, node.weight.shape[1:])):
            y = i * node.stride[0] - node.padding[0] + a * node.dilation[0]
            z = j * node.stride[1] - node.padding[1] + b * node.dilation[1]
            if 0 <= y < x.shape[1] and 0 <= z < x.shape[2]:
                out[o, i, j] += int(node.weight[o, c, a, b]) * int(x[o // per_out * per_in + c, y, z])
    return out


def pool(x: np.ndarray, node: MaxPool2d, shape: tuple[int, ...]) -> np.ndarray:
    out = np.zeros(shape, object)
    for c, i, j in itertools.product(*map(range, shape)):
        y, z = i * node.stride[0] - node.padding[0], j * node.stride[1] - node.padding[1]
        out[c, i, j] = x[c, max(y, 0) : y + node.kernel[0], max(z, 0) : z + node.kernel[1]].max()
    return out


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**31))
def test_random_networks_equal_brute_force(seed: int) -> None:
    graph = random_integer_chain(seed)
    frames = np.random.default_rng(seed).integers(0, 256, (2, *graph.input.shape)).astype(np.float32)
    recorder = Recorder(graph)
    run(graph, frames, observe=recorder)
    for name, expected in brute_force(graph, frames).items():
        np.testing.assert_array_equal(recorder.spikes[name], expected, err_msg=name)


@settings(max_examples=40, deadline=None)
@given(
    w=st.lists(st.integers(-40_000, 40_000), min_size=2, max_size=5),
    bias=st.integers(-32_767, 32_767),
    threshold=st.integers(1, 131_072),
    x=st.lists(st.integers(0, 255), min_size=5, max_size=5),
    decay=st.one_of(st.none(), st.integers(0, 4096)),
    current_decay=st.one_of(st.just(4096), st.integers(0, 4096)),
    dense=st.booleans(),
)
def test_registers_wrap_and_saturate_as_lava(
    w: list[int], bias: int, threshold: int, x: list[int], decay: int | None, current_decay: int, dense: bool
) -> None:
    """Weights far beyond what `quantize` makes: a foreign .net file may hold them."""
    T, F = 6, len(w)
    if decay is None or (decay == 0 and current_decay == 4096):
        node, decays = IF(threshold), (0, 4096)
    else:
        decays = (decay, current_decay)
        node = LIF(threshold, (4096 - decay) / 4096, current_leak=(4096 - current_decay) / 4096)
    weight, b = np.array([w], np.int32), np.array([bias], np.int32)
    synapse = Linear(weight, b) if dense else Conv2d(weight[:, :, None, None], b)
    shape = (F,) if dense else (F, 1, 1)
    graph = chain([("in", Input(shape, scale=255)), ("syn", synapse), ("sn", node), ("out", Output())], T)
    current = sum(a * b for a, b in zip(w, x, strict=False))
    found = run(graph, np.array([x[:F]], np.float32).reshape(1, *shape)).output.reshape(T)
    assert found.tolist() == lava_neuron([current] * T, bias, threshold, *decays, dense=dense)


def test_current_that_persists_in_real_numbers() -> None:
    """By hand: x = 1, 0, 0, 0 and the bias −0.25 past u. u = 1, ½, ¼, ⅛; v = 0.75, 1.0 → spike, 0, −0.125; the spike leaves u alone."""
    synapse = Linear(np.array([[1.0]]), np.array([-0.25]))
    node = LIF(1.0, 1.0, current_leak=0.5)
    graph = chain([("in", Input((1,), "spikes")), ("fc", synapse), ("sn", node), ("out", Output())], 4)
    x = np.array([[[1], [0], [0], [0]]], np.float32)
    assert run(graph, x).output[0, :, 0].tolist() == [0, 1, 0, 0]
    again = graph.with_nodes({"sn": LIF(0.12, 0.5, current_leak=0.5)})
    # v = 0.75 → spike; ½ − ¼ = 0.25 → spike; 0; −0.125
    assert run(again, x).output[0, :, 0].tolist() == [1, 1, 0, 0]


def test_sums_beyond_float32_are_exact() -> None:
    """2²⁴ + 1 is no float32: the emulator must notice from the weights and use float64."""
    w = np.array([[65_793, 1]], np.int32)  # 255 · 65,793 = 2²⁴ − 1
    shape, kernel = (2, 1, 1), w[:, :, None, None]
    graph = chain([("in", Input(shape, scale=255)), ("c", Conv2d(kernel)), ("out", Output("membrane"))], 1)
    # the 24-bit accumulator wraps: 2²⁴ − 1 + 1 → 0, then membrane 0; one less → −1
    frames = np.array([[255, 1], [255, 0]], np.float32).reshape(2, *shape)
    assert run(graph, frames).output.reshape(2).tolist() == [0.0, -1.0]


def test_sums_of_currents_beyond_float32_are_exact() -> None:
    """A layer behind a layer reads currents of both signs: 2¹⁵·2⁸ − (−2¹⁵)·2⁸ + 1 = 2²⁴ + 1, which wraps to 1."""
    first = Conv2d(np.array([256, -256, 0], np.int32).reshape(3, 1, 1, 1), np.array([0, 0, 1], np.int32))
    second = Conv2d(np.array([[256, -256, 1]], np.int32)[:, :, None, None])
    graph = chain([("in", Input((1, 1, 1), scale=255)), ("a", first), ("b", second), ("out", Output("membrane"))], 1)
    assert run(graph, np.full((1, 1, 1, 1), 128, np.float32)).output.item() == 1


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 2**31), st.sampled_from([1, 2, 7]))
def test_batch_size_does_not_matter(seed: int, batch: int) -> None:
    graph = random_integer_chain(seed)
    frames = np.random.default_rng(seed).integers(0, 256, (5, *graph.input.shape)).astype(np.float32)
    whole, parts = Recorder(graph), Recorder(graph)
    run(graph, frames, observe=whole)
    run(graph, frames, observe=parts, batch_size=batch)
    for name, spikes in whole.spikes.items():
        np.testing.assert_array_equal(spikes, parts.spikes[name])


def test_spike_input_and_scores() -> None:
    graph = chain(
        [
            ("in", Input((2,), "spikes")),
            ("fc", Linear(np.array([[2, 1], [0, 3]], np.int32))),
            ("sn", IF(3)),
            ("out", Output()),
        ],
        3,
    )
    frames = np.array([[[1, 0], [1, 1], [0, 1]]], np.float32)
    result = run(graph, frames)
    assert result.output.tolist() == [[[0, 0], [1, 1], [0, 1]]]
    np.testing.assert_allclose(result.scores(), [[1 / 3, 2 / 3]])
    assert result.scores(1).tolist() == [[0, 0]] and result.accuracy(np.array([1])) == 1


@pytest.mark.parametrize("shape", [(0, 2), (3,), (2, 3), (2, 4, 2)])
def test_wrong_frames_are_refused(shape: tuple[int, ...]) -> None:
    graph = chain(
        [("in", Input((2,), scale=255)), ("fc", Linear(np.eye(2, dtype=np.int32))), ("sn", IF(3)), ("out", Output())], 3
    )
    with pytest.raises(DeployError, match=r"needs frames of shape \(N, 2\)"):
        run(graph, np.zeros(shape, np.float32))


def test_callers_precision_settings_survive() -> None:
    graph = random_integer_chain(1)
    before = torch.get_float32_matmul_precision()
    run(graph, np.zeros((1, *graph.input.shape), np.float32))
    assert torch.get_float32_matmul_precision() == before


def test_soft_reset_keeps_the_rest() -> None:
    graph = chain(
        [("in", Input((1,))), ("fc", Linear(np.array([[0.75]]))), ("sn", IF(1.0, "soft")), ("out", Output())], 4
    )
    assert run(graph, np.ones((1, 1), np.float32)).output[0, :, 0].tolist() == [0, 1, 1, 1]
    hard = graph.with_nodes({"sn": replace(graph.nodes["sn"], reset="hard")})
    assert run(hard, np.ones((1, 1), np.float32)).output[0, :, 0].tolist() == [0, 1, 0, 1]


def test_maximum_of_pixels() -> None:
    """A max-pool before the first neurons has numbers to compare, not spikes."""
    rng = np.random.default_rng(8)
    graph = chain(
        [
            ("in", Input((2, 7, 6), scale=255)), ("pool", MaxPool2d((3, 2), (2, 2), (1, 1))),
            ("c", Conv2d(rng.integers(-9, 12, (3, 2, 2, 2)).astype(np.int32))), ("sn", IF(900)), ("out", Output()),
        ],
        4,
    )  # fmt: skip
    frames = rng.integers(0, 256, (5, 2, 7, 6)).astype(np.float32)
    recorder = Recorder(graph)
    run(graph, frames, observe=recorder)
    np.testing.assert_array_equal(recorder.spikes["sn"], brute_force(graph, frames)["sn"])
    assert 0.05 < recorder.spikes["sn"].mean() < 0.95


def test_a_processor_that_saturates_products_of_bytes_is_found_out(monkeypatch: pytest.MonkeyPatch) -> None:
    onednn = torch.ops.onednn
    if not hasattr(onednn, "qlinear_pointwise"):
        pytest.skip("this torch multiplies no bytes")
    exact = onednn.qlinear_pointwise
    monkeypatch.setattr(onednn, "qlinear_pointwise", lambda *given: exact(*given).clamp(max=2**15 - 1))
    assert not _multiplies_exactly.__wrapped__((8, 128), largest=127, frames=3, threads=1)


@pytest.mark.parametrize("bias", [False, True])
def test_products_of_bytes_are_those_of_floats(monkeypatch: pytest.MonkeyPatch, bias: bool) -> None:
    """Layers may multiply bytes: every spike must be as without; sums of spikes through a pool included."""
    rng = np.random.default_rng(0)
    fc = rng.integers(-127, 128, (33, 4 * 5 * 5))
    fc[0] = 127
    graph = chain(
        [
            ("input", Input((1, 10, 10), "direct", 255)),
            ("conv", Conv2d(rng.integers(-9, 10, (4, 1, 3, 3)), None, padding=(1, 1))),
            ("act1", IF(600)),
            ("pool", AvgPool2d((2, 2), (2, 2), divisor=1)),
            ("flatten", Flatten()),
            ("fc1", Linear(fc, rng.integers(-300, 300, 33) if bias else None)),
            ("act2", IF(900)),
            ("fc2", Linear(rng.integers(-127, 128, (10, 33)))),
            ("act3", IF(100)),
            ("output", Output("rate")),
        ],
        T=6,
    )
    frames = rng.integers(0, 256, (37, 1, 10, 10)).astype(np.float32)
    found = []
    for exact in (True, False):
        if not exact:
            monkeypatch.setattr("hardware.emulator.plan.byte_product", lambda synapse, in_shape, largest: None)
        recorder = Recorder(graph)
        run(graph, frames, observe=recorder, batch_size=16)
        found.append(recorder.spikes)
    for name, spikes in found[0].items():
        assert spikes.any() and (spikes == found[1][name]).all(), name


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("numerator", [1, 256, 2048, 2049, 4095, 0])
def test_a_membrane_leaks_as_the_register_does_in_either_way(numerator: int, dtype: torch.dtype) -> None:
    """Whole numbers of 23 bits times 12, cut off toward zero; the quick way is for powers of two."""
    registers = np.random.default_rng(0).integers(-(2**23) + 1, 2**23, 4000)
    expected = [int(abs(int(r)) * numerator // 4096) * (1 if r > 0 else -1) for r in registers]
    v = (torch.from_numpy(registers) / 64).to(dtype)
    membranes._leak(v, numerator / 4096, integer=True)
    assert (v.double() * 64).tolist() == expected
