"""A spiking network layer by layer as a chip holds it: BatchNorm folded away, every set of synapses by itself.

Made from a trained student by the command line (`kdsnn.cli.folding`), and again by `kdsnn.checkpoint` from the
layers that a quantized checkpoint lists. It runs as any `Network` does, has the same names, and can be
distilled, exported and traced like one. An identity shortcut is a depthwise 1×1 convolution here; where several
BatchNorms read one sum, each has synapses of its own.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from spikingjelly.activation_based import layer
from spikingjelly.activation_based.functional import reset_net
from torch import Tensor, nn
from torch.func import functional_call

from kdsnn.models import Network, Tap
from kdsnn.models.kit import Kit

INPUT, OUTPUT = "input", "output"
"""Where the images come in; the kind of the last layer."""

Pair = tuple[int, int]
Weights = Mapping[str, Mapping[str, Tensor]]
"""Layer → its parameters ("weight", "bias")."""


@dataclass(frozen=True)
class Layer:
    """One layer; several `sources` add up.

    Attributes:
        name: where its module is in the network, e.g. "body.stage1.0.conv2".
        kind: "conv", "linear", "max_pool", "avg_pool", "flatten", "if", "lif" or "output".
        sources: names of earlier layers, or "input".
        arguments: what the kind needs, as `torch.nn` names it: a convolution's channels, a neuron's
            `v_threshold`, a leaky one's `tau`.
    """

    name: str
    kind: str
    sources: tuple[str, ...]
    arguments: Mapping[str, Any] = field(default_factory=dict)

    @property
    def is_synapse(self) -> bool:
        """Whether it has weights."""
        return self.kind in ("conv", "linear")

    @property
    def is_neuron(self) -> bool:
        """Whether it fires."""
        return self.kind in ("if", "lif")


class FoldedNetwork(Network):
    """The network of some layers: (T, N, C, H, W) → (T, N, classes), see `Network`.

    Attributes:
        layers: what it was made of, in order of execution; the last one is the output.

    Raises:
        ValueError: layers that are no network: unknown kinds or sources, a threshold that is not positive.
        TypeError: arguments that the kind does not have.
    """

    def __init__(self, layers: tuple[Layer, ...], taps: tuple[Tap, ...]) -> None:
        root = nn.Module()
        known = {INPUT}
        for one in layers:
            if one.kind not in (*_KINDS, OUTPUT):
                raise ValueError(f"layer {one.name} is of the unknown kind {one.kind!r}")
            if not one.sources or not known.issuperset(one.sources) or one.name in known:
                raise ValueError(f"layer {one.name} does not follow from those before it")
            known.add(one.name)
            if one.kind != OUTPUT:
                _place(root, one.name, _KINDS[one.kind](**one.arguments))
        children = dict(root.named_children())
        if not children.keys() >= {"stem", "body"} or [one.kind for one in layers].index(OUTPUT) != len(layers) - 1:
            raise ValueError("the layers are not a stem, a body and one output")
        super().__init__(children.pop("stem"), children.pop("body"), taps, spiking=True)
        for name, module in children.items():  # a stem that several BatchNorms read: stem_2, …
            self.add_module(name, module)
        self.layers = layers

    def description(self) -> tuple[dict[str, Any], ...]:
        """The layers as JSON can hold them; `described` is the way back."""
        return tuple(asdict(one) for one in self.layers)

    def forward(self, x: Tensor) -> Tensor:
        """Run on a sequence of T images."""
        return self._run(x, None, {})

    def forward_static(self, x: Tensor, T: int) -> Tensor:
        """Run on images that stay the same for T steps: (N, C, H, W) → (T, N, classes); up to the first neurons once."""
        return self._run(x.unsqueeze(0), T, {})

    def _run(self, x: Tensor, T: int | None, weights: Weights) -> Tensor:
        """`weights` stand in for the layers' own. `T`: what is one step long is repeated before neurons and the output."""
        values = {INPUT: x}
        for one in self.layers:
            arriving = values[one.sources[0]]
            for source in one.sources[1:]:
                arriving = arriving + values[source]
            if T is not None and (one.is_neuron or one.kind == OUTPUT):
                arriving = arriving.expand(T, *arriving.shape[1:])
            if one.kind == OUTPUT:
                return arriving
            module = self.get_submodule(one.name)
            if one.name in weights:
                values[one.name] = functional_call(module, dict(weights[one.name]), (arriving,))
            else:
                values[one.name] = module(arriving)
        raise AssertionError("the last layer is the output")


def described(
    layers: Sequence[Mapping[str, Any]], taps: tuple[Tap, ...], input_shape: tuple[int, int, int], classes: int
) -> FoldedNetwork:
    """The network that a checkpoint lists: mappings with the entries of `Layer`; tried once, so that it runs.

    Raises:
        ValueError, TypeError, KeyError, RuntimeError: they make no network for such images and classes.
    """
    network = FoldedNetwork(tuple(Layer(**one) for one in layers), taps)
    with torch.no_grad():
        shape = network.eval().forward_static(torch.zeros(1, *input_shape), 1).shape
    reset_net(network)
    if shape != (1, 1, classes):
        raise ValueError(f"its layers end in {tuple(shape[2:])}, not in {classes} classes")
    return network


def _place(root: nn.Module, path: str, module: nn.Module) -> None:
    """Put a module at a dotted path, with plain containers on the way."""
    *containers, last = path.split(".")
    for name in containers:
        if name not in dict(root.named_children()):
            root.add_module(name, nn.Module())
        root = root.get_submodule(name)
    root.add_module(last, module)


def _conv(
    *,
    in_channels: int,
    out_channels: int,
    kernel_size: Pair,
    stride: Pair,
    padding: Pair,
    dilation: Pair,
    groups: int,
    bias: bool,
) -> nn.Module:
    made: nn.Module = layer.Conv2d(
        in_channels, out_channels, kernel_size, stride, padding, dilation, groups, bias, step_mode="m"
    )
    return made


def _linear(*, in_features: int, out_features: int, bias: bool) -> nn.Module:
    made: nn.Module = layer.Linear(in_features, out_features, bias, step_mode="m")
    return made


def _max_pool(*, kernel_size: Pair, stride: Pair, padding: Pair) -> nn.Module:
    made: nn.Module = layer.MaxPool2d(kernel_size, stride, padding, step_mode="m")
    return made


def _avg_pool(*, kernel_size: Pair, stride: Pair, padding: Pair, divisor_override: int) -> nn.Module:
    made: nn.Module = layer.AvgPool2d(kernel_size, stride, padding, divisor_override=divisor_override, step_mode="m")
    return made


def _flatten() -> nn.Module:
    made: nn.Module = layer.Flatten(step_mode="m")
    return made


def _if(*, v_threshold: float) -> nn.Module:
    return _with_threshold(Kit(True, neuron="if").act(), v_threshold)


def _lif(*, v_threshold: float, tau: float) -> nn.Module:
    node: Any = _with_threshold(Kit(True, neuron="lif").act(), v_threshold)
    node.tau = _positive(tau)
    return node  # type: ignore[no-any-return]


def _with_threshold(node: Any, threshold: float) -> nn.Module:
    node.v_threshold = _positive(threshold)
    return node  # type: ignore[no-any-return]


def _positive(value: float) -> float:
    if not 0 < value < math.inf:
        raise ValueError(f"{value} is not a threshold or time constant")
    return float(value)


_KINDS: dict[str, Callable[..., nn.Module]] = {
    "conv": _conv,
    "linear": _linear,
    "max_pool": _max_pool,
    "avg_pool": _avg_pool,
    "flatten": _flatten,
    "if": _if,
    "lif": _lif,
}
