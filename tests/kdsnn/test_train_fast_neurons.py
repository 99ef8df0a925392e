"""The kernels that fuse BatchNorm, neurons and maxima against SpikingJelly's modules one after the other.

Every kind of layer runs uncompiled, as the Python that numba is given; the kinds of a small network also compiled.
"""

import copy
import itertools
from collections.abc import Iterator
from contextlib import contextmanager

import numba
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numba.core import caching
from spikingjelly.activation_based import functional, layer, neuron, surrogate
from torch import nn

from kdsnn.models import Network, build
from kdsnn.train import fast_neurons
from kdsnn.train.fast_neurons import compiled, fused, kernels
from kdsnn.train.learner import laid_out

FACTORIES = (kernels.sums, kernels.forward, kernels.backward, kernels.normalized)


@pytest.fixture(scope="module", autouse=True)
def small_layers_too():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(compiled, "SMALLEST", 1)
        yield


@contextmanager
def plain_python() -> Iterator[None]:
    """Kernels as plain Python, a thousand times slower, with nothing to compile."""
    with pytest.MonkeyPatch.context() as patch:
        for name in ("jit", "inline"):
            patch.setattr(kernels, name, lambda function: function)
        for factory in FACTORIES:
            factory.cache_clear()
        yield
    for factory in FACTORIES:
        factory.cache_clear()


@pytest.fixture
def interpreted():
    with plain_python():
        yield


def node_of(charge, slope, soft, detached):
    kinds = {
        "surrogate_function": surrogate.ATan(3.0) if slope == "atan" else surrogate.Sigmoid(),
        "detach_reset": detached, "step_mode": "m", "v_reset": None if soft else 0.0, "v_threshold": 0.75,
    }  # fmt: skip
    if charge == "integrate":
        return neuron.IFNode(**kinds)
    return neuron.LIFNode(tau=3.0, decay_input=charge == "decay", **kinds)


def network(node, channels, *, normed=True, pooled=True, first=True):
    """BatchNorm, neurons, maximum, in a network of this project; `first`: in the part that runs once for all steps."""
    layers = [layer.BatchNorm2d(channels, step_mode="m")] if normed else []
    behind = [node, *([layer.MaxPool2d(2, step_mode="m")] if pooled else [])]
    if first:
        return Network(nn.Sequential(*layers), nn.Sequential(*behind), (), spiking=True)
    return Network(nn.Sequential(), nn.Sequential(*layers, *behind), (), spiking=True)


def innermost(x):
    return x.permute(0, 1, 3, 4, 2).contiguous().permute(0, 1, 4, 2, 3)


def both_ways(net, x, steps=0):
    """Outputs, gradients and buffers without fusing and with; `steps`: x (N, C, H, W) is the same at all of them.

    Without fusing in torch's usual layout: in others its BatchNorm has wrong gradients where a map is one row high.
    """
    found = []
    for fast in (False, True):
        own, current = copy.deepcopy(net).train(), (x if fast else x.contiguous()).detach().requires_grad_()
        with fused(own) if fast else torch.enable_grad():
            out = own.forward_static(current, steps) if steps else own(current)
            weights = torch.rand(out.shape, generator=torch.Generator().manual_seed(1))
            (out * weights.to(out.dtype)).sum().backward()
        found.append([out, current.grad, *(p.grad for p in own.parameters()), *own.buffers()])
    return found


def assert_same(found, **tolerance):
    assert 0 < found[0][0].mean() < 1
    assert torch.equal(found[0][0], found[1][0])
    for a, b in zip(*found, strict=True):
        torch.testing.assert_close(a, b, **tolerance)


KINDS = list(itertools.product(("integrate", "leak", "decay"), ("atan", "sigmoid"), (False, True), (False, True)))


@given(st.data())
@settings(max_examples=30, deadline=None)
def test_every_kind_is_spikingjellys_in_float64(interpreted_for_all, data):
    kind = data.draw(st.sampled_from(KINDS))
    T, N, C, H, W = (data.draw(st.integers(1, most)) for most in (4, 2, 3, 4, 4))
    normed, pooled, static, first = (data.draw(st.booleans()) for _ in range(4))
    pooled, normed = pooled and min(H, W) > 1, normed and N * H * W > 1
    torch.manual_seed(data.draw(st.integers(0, 1000)))
    net = network(node_of(*kind), C, normed=normed, pooled=pooled, first=first).double()
    if normed:
        bn = next(module for module in net.modules() if isinstance(module, nn.BatchNorm2d))
        nn.init.uniform_(bn.weight, -1, 2), nn.init.uniform_(bn.bias)
    x = innermost(torch.randn(1 if static else T, N, C, H, W, dtype=torch.float64) * 2 + 0.5)
    found = both_ways(net, x[0].contiguous(memory_format=torch.channels_last) if static else x, T if static else 0)
    assert torch.equal(found[0][0], found[1][0])
    for a, b in zip(*found, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-9)


@pytest.fixture(scope="module")
def interpreted_for_all():
    with plain_python():
        yield


@pytest.mark.parametrize("kind", KINDS)
def test_neurons_of_a_foreign_module_keep_their_membranes(interpreted, kind):
    x = torch.rand(4, 3, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) * 3
    found = []
    for fast in (False, True):
        node, current = node_of(*kind), x.clone().requires_grad_()
        with fused(nn.Sequential(node)) if fast else torch.enable_grad():
            spikes = node(current)
            (spikes * torch.arange(60).reshape(4, 3, 5)).sum().add(3 * node.v.square().sum()).backward()
        found.append((spikes, node.v, current.grad))
    assert 0 < found[0][0].mean() < 1
    for a, b in zip(*found, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-9)


def test_of_equal_values_the_first_is_the_maximum(interpreted):
    x = innermost(torch.tensor([0.9, 2.0, 1.5, 0.2]).reshape(1, 1, 1, 2, 2))
    x = torch.cat([x, 0 * x])
    found = both_ways(network(neuron.IFNode(step_mode="m"), 1, normed=False), x)
    # at the first step the second pixel, which fires before the third; at the next, where none does, the first
    assert (found[1][1][0] != 0).flatten().tolist() == [True, True, False, False]
    assert_same(found)


def test_bfloat16_is_rounded_to_even_and_computed_in_float32(interpreted):
    load, store = kernels._load("bfloat16"), kernels._store("bfloat16")
    bits = np.random.default_rng(0).integers(0, 2**32, 2000, dtype=np.uint64).astype(np.uint32)
    for value in (*bits.view(np.float32), np.float32("inf"), np.float32("nan")):
        with np.errstate(over="ignore"):
            rounded = store(value)
        expected = torch.tensor(value).bfloat16()
        assert torch.equal(torch.tensor(float(load(rounded))).nan_to_num(7), expected.float().nan_to_num(7))
    x = innermost(torch.randn(3, 2, 4, 4, 4)).bfloat16()
    net = network(node_of("integrate", "atan", False, True), 4, first=False)
    (_, of_x, *rest), (wide, *others) = both_ways(net, x)[1], both_ways(net.double(), x.double())[0]
    assert of_x.dtype == torch.bfloat16
    torch.testing.assert_close(of_x.double(), others[0], rtol=0.02, atol=0.02)
    assert 0 < wide.mean() < 1 and len(rest) == len(others[1:])


def trained(net, *, fast, threads=1, steps=10):
    """The weights after a few steps, and whether a kernel ran."""
    net = copy.deepcopy(net).train()
    laid_out(net, torch.channels_last)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.05, momentum=0.9)
    generator = torch.Generator().manual_seed(3)
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        with fused(net) if fast else torch.enable_grad():
            for _ in range(steps):
                functional.reset_net(net)
                x = torch.rand(6, 1, 9, 9, generator=generator, dtype=torch.float64)
                loss = nn.functional.cross_entropy(net.forward_static(x, 4).mean(0), torch.arange(6) % 4)
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
    finally:
        torch.set_num_threads(before)
    return net.state_dict()


def test_ten_steps_of_a_network_compiled(monkeypatch):
    torch.manual_seed(0)
    net = build("cnn2", spiking=True, input_shape=(1, 9, 9), classes=4, channels=(4, 8), hidden=16).double()
    expected = trained(net, fast=False)
    calls = []
    apply = compiled.Layer.apply
    monkeypatch.setattr(compiled.Layer, "apply", lambda *args: calls.append(args[-1]) or apply(*args))
    found = trained(net, fast=True)
    assert [(plan.batch is not None, plan.pooled) for plan in calls[:4]] == [(True, True)] * 2 + [(False, False)] * 2
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, rtol=1e-8, atol=1e-10, msg=name)
    assert not torch.equal(found["stem.conv.weight"], net.stem.conv.weight)
    for threads in (1, 3):  # the same to the last bit, whatever the threads
        assert all(torch.equal(value, found[name]) for name, value in trained(net, fast=True, threads=threads).items())


@pytest.mark.parametrize("name", ["resnet14", "wrn16-2", "pyramidnet18"])
def test_blocks_say_which_layers_follow(name):
    net = build(name, spiking=True, input_shape=(1, 8, 8), classes=4)
    with fused(net):
        exchanged = {type(module) for module in net.modules() if "forward" in vars(module)}
    assert exchanged == {neuron.IFNode, layer.BatchNorm2d}
    assert not any("forward" in vars(module) for module in net.modules())


def test_who_looks_between_sees_what_is_there(interpreted):
    """A hook on BatchNorm or neurons sees what they give without fusing."""
    net = network(node_of("integrate", "atan", False, True), 2, first=False).double()
    x = innermost(torch.randn(3, 2, 2, 4, 4, dtype=torch.float64))
    seen = []
    for module in net.body:
        module.register_forward_hook(lambda module, args, out: seen.append(out.detach()))
    with fused(net):
        net(x)
    looked, seen[:] = list(seen), []
    functional.reset_net(net)
    net(x)
    for a, b in zip(looked, seen, strict=True):
        torch.testing.assert_close(a, b)


def test_without_numba_the_plain_way_is_gone(monkeypatch):
    monkeypatch.setattr(fast_neurons.compiled, "kernels", lambda: None)
    assert not compiled.usable(torch.zeros(4))
    torch.manual_seed(0)
    net = network(neuron.IFNode(surrogate_function=surrogate.ATan(), detach_reset=True, step_mode="m"), 2)
    assert_same(both_ways(net, innermost(torch.randn(3, 2, 2, 4, 4))), rtol=1e-5, atol=1e-6)


def test_where_nothing_can_be_kept_on_disk_kernels_are_compiled_each_time(monkeypatch):
    monkeypatch.setattr(caching.CacheImpl, "_locator_classes", [])
    with pytest.raises(RuntimeError, match="cannot cache"):
        numba.njit(cache=True)(lambda x: x + 1)
    assert kernels.jit(lambda x: x + 1)(1) == 2
