"""Strided 1×1 convolutions of few channels, whose gradient oneDNN computes wrongly (or crashes in) without `strides_safe`."""

import pytest
import torch
from spikingjelly.activation_based import layer
from torch import nn

from kdsnn.train.host import strides_safe

SHAPES = [
    (4, 8, 2, 16, 16),
    (6, 8, 2, 32, 4),
    (7, 14, 2, 14, 4),
    (3, 3, 4, 16, 4),
    (6, 6, 2, 15, 4),
    (12, 16, 2, 64, 8),
]


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize(("inputs", "outputs", "stride", "size", "batch"), SHAPES)
def test_the_gradient_of_a_narrow_strided_convolution(inputs, outputs, stride, size, batch, threads):
    torch.manual_seed(0)
    conv = nn.Conv2d(inputs, outputs, 1, stride, bias=False)
    x = torch.rand(batch, inputs, size, size)
    grad = torch.rand_like(conv(x))
    weight, given = conv.weight.detach().double().requires_grad_(), x.double().requires_grad_()
    expected = nn.functional.conv2d(given, weight, stride=stride)
    expected.backward(grad.double())

    conv.to(memory_format=torch.channels_last)
    x = x.to(memory_format=torch.channels_last).requires_grad_()
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        plain = conv(x).detach()
        with strides_safe(conv):
            y = conv(x)
        y.backward(grad.to(memory_format=torch.channels_last))
    finally:
        torch.set_num_threads(before)
    assert torch.equal(y, plain) and not conv._forward_pre_hooks
    torch.testing.assert_close(conv.weight.grad, weight.grad.float(), rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(x.grad, given.grad.float(), rtol=1e-5, atol=1e-6)


def test_only_what_is_needed_is_cut():
    def seen(module, x):
        sizes = []
        with strides_safe(module):
            last = module.register_forward_pre_hook(lambda _, inputs: sizes.append(tuple(inputs[0].shape[-2:])))
            module(x)
            last.remove()
        return sizes[0]

    x = torch.rand(2, 2, 4, 8, 6)
    multi = layer.Conv2d(4, 8, 1, 2, step_mode="m")
    assert seen(multi, x) == (7, 5)
    with torch.no_grad():
        assert seen(multi, x) == (8, 6)
    assert seen(nn.Conv2d(4, 8, 1, (1, 3)), x[0]) == (8, 4)
    assert seen(nn.Conv2d(4, 8, 3, 2, padding=1), x[0]) == (8, 6)
    assert seen(nn.Conv2d(4, 8, 1), x[0]) == (8, 6)
    assert seen(nn.Conv2d(16, 8, 1, 2), torch.rand(2, 16, 8, 6)) == (8, 6)
