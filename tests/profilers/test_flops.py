from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from torch import nn

from exporters.errors import DeployError
from exporters.graph import IF, Conv2d, Flatten, Input, Linear, Output, chain
from profilers.counting.flops import ModuleCounts, count_module
from profilers.counting.sizes import MEMBRANE_BITS, graph_size


def small_net() -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(3, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8), nn.ReLU())


def test_thops_convention_on_one_layer_by_hand() -> None:
    macs = 10 * 10 * 8 * 3 * 3 * 3  # positions × output channels × weights per output, padding included
    elements = 10 * 10 * 8
    assert count_module(small_net(), (3, 10, 10)) == ModuleCounts(
        thop=macs + 4 * elements, macs=macs, parameters=8 * 27 + 16, parameters_without_batchnorm=8 * 27
    )


def test_a_batchnorm_without_affine_counts_half() -> None:
    net = nn.Sequential(nn.Linear(6, 5), nn.BatchNorm1d(5, affine=False))
    assert count_module(net, (6,)) == ModuleCounts(30 + 2 * 5, 30, 35, 35)


def test_equals_thop_on_a_residual_network_of_plain_layers() -> None:
    import thop

    class Block(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body = nn.Sequential(
                nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 4, 3, padding=1, groups=2), nn.Dropout(0.5)
            )
            self.pool = nn.AdaptiveAvgPool2d(1)
            self.fc = nn.Linear(4, 10)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.fc(self.pool(x + self.body(x)).flatten(1))

    net = Block()
    expected, _ = thop.profile(copy.deepcopy(net), (torch.zeros(1, 4, 6, 6),), verbose=False)
    counts = count_module(net, (4, 6, 6))
    assert counts.thop == int(expected) == 36 * 4 * 2 * 9 + 40 + 4 * 144 + (36 + 1) * 4
    assert counts.macs == 36 * 4 * 2 * 9 + 40


def test_spikingjelly_layers_count_as_the_layers_they_extend() -> None:
    from spikingjelly.activation_based import layer

    def net(step_mode: str) -> nn.Sequential:
        return nn.Sequential(
            layer.Conv2d(3, 8, 3, padding=1, bias=False, step_mode=step_mode),
            layer.BatchNorm2d(8, step_mode=step_mode),
            nn.ReLU(),
        )

    assert count_module(net("s"), (3, 10, 10)) == count_module(small_net(), (3, 10, 10))
    multi = net("m")
    assert count_module(multi, (3, 10, 10)) == count_module(small_net(), (3, 10, 10))
    assert multi[0].step_mode == "m"


def test_the_module_is_left_as_it_was() -> None:
    net = small_net().train()
    state = {name: value.clone() for name, value in net.state_dict().items()}
    count_module(net, (3, 10, 10))
    assert net.training
    assert net.state_dict().keys() == state.keys()
    assert all(torch.equal(value, state[name]) for name, value in net.state_dict().items())
    assert not any(m._forward_hooks for m in net.modules())


def test_a_wrong_input_shape_is_one_readable_error() -> None:
    with pytest.raises(DeployError, match=r"Sequential does not run on a sample of shape \(1, 10, 10\): .*channels"):
        count_module(small_net(), (1, 10, 10))


def test_graph_size() -> None:
    def graph(dtype: type, scale: int | None) -> dict[str, int]:
        top, low = (100, -128) if scale else (1.0, -1.0)
        conv = np.full((4, 1, 3, 3), top, dtype)
        fc = np.full((10, 64), low, dtype)
        nodes = [
            ("in", Input((2, 4, 4), scale=scale)),
            ("conv", Conv2d(conv, np.zeros(4, dtype), padding=(1, 1), groups=2)),
            ("n", IF(1.0)),
            ("flat", Flatten()),
            ("fc", Linear(fc)),
            ("m", IF(1.0)),
            ("out", Output()),
        ]
        size = graph_size(chain(nodes, T=2))
        assert [(s.parameters, s.macs) for s in size.layers.values()] == [(40, 4 * 16 * 9), (640, 640)]
        assert (size.parameters, size.macs, size.neurons) == (680, 576 + 640, 74)
        return {"weights": size.weight_bits, "state": size.state_bits}

    assert graph(np.float32, None) == {"weights": 32 * 676, "state": 32 * 74}
    assert graph(np.int32, 255) == {"weights": 8 * 676, "state": MEMBRANE_BITS * 74}


@pytest.mark.parametrize(
    ("weights", "bits"), [([127, -128], 8), ([128, 0], 9), ([-129], 9), ([-256, 254], 9), ([1, -1], 2), ([0], 1)]
)
def test_integer_weights_take_the_narrowest_word(weights: list[int], bits: int) -> None:
    fc = Linear(np.array([weights], np.int64).T)
    graph = chain([("in", Input((1,), "spikes")), ("fc", fc), ("n", IF(1.0)), ("o", Output())], T=1)
    assert graph_size(graph).layers["fc"].bits_per_weight == bits


def test_sizes_are_counted_without_weights() -> None:
    with torch.device("meta"):
        net = small_net()
    assert count_module(net, (3, 10, 10)) == count_module(small_net(), (3, 10, 10))
