"""Initial weights of a spiking student: those of the same architecture, an ANN or another student; of an ANN, a copy.

The two have the same parameters under the same names, so a student is a plain copy. An ANN's activations are no firing
rates: they may be larger than 1, and a neuron fires at most once a step. As in the conversion of ANNs (Diehl et al.,
IJCNN 2015; Rueckauer et al., Front. Neurosci. 2017) each layer's are therefore divided by a λ, in the weights, so that
every threshold stays what it is. λ is not a percentile near the largest activation, which suits hundreds of steps and
leaves a network of four silent, but what makes rates err least in T steps on calibration images. A ReLU commutes with a
positive factor, so the ANN with the new weights computes what it did before, up to the factor of its output.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping
from dataclasses import dataclass
from operator import add, getitem, iadd
from typing import Any

import numpy as np
import torch
from spikingjelly.activation_based import layer
from spikingjelly.activation_based.functional import reset_net
from torch import Tensor, fx, nn
from torch.nn.modules.batchnorm import _BatchNorm as BatchNorm

from kdsnn.data import DataSet
from kdsnn.data.device import floats
from kdsnn.errors import KdsnnError
from kdsnn.train.calling import convention_of, device_of, in_eval, is_neuron_layer, neuron_layers, trial
from kdsnn.train.fast_neurons import fused
from kdsnn.train.learner import still

CALIBRATION = 512
"""Training images, spread over the set, on which activations are measured."""

LOGITS = 10.0
"""Percentile of the largest logit of an image, which an output neuron's rate of 1 stands for: low, because a logit that
fires at no step of few ones tells nothing."""

CANDIDATES = 33
"""Values of λ that are tried, from the largest activation down to a hundredth of it."""

BATCH = 64
"""Images that are measured at once."""

MOST_VALUES = 1 << 17
"""Values of one activation that its percentile is taken of, spread evenly."""

Weighted = (nn.Conv1d, nn.Conv2d, nn.Linear)
Homogeneous = (
    nn.ReLU, nn.MaxPool1d, nn.MaxPool2d, nn.AvgPool1d, nn.AvgPool2d, nn.AdaptiveAvgPool1d, nn.AdaptiveAvgPool2d,
    nn.Flatten, nn.Identity, nn.Dropout, nn.Dropout2d, nn.ZeroPad2d, nn.ZeroPad3d, nn.PixelUnshuffle,
)  # fmt: skip
"""Layers that commute with a positive factor."""

Commuting = (
    add, iadd, torch.add, torch.flatten, torch.relu, nn.functional.relu, nn.functional.max_pool2d,
    nn.functional.avg_pool2d, nn.functional.adaptive_avg_pool2d, nn.functional.dropout, getattr, getitem,
)  # fmt: skip
METHODS = ("flatten", "view", "reshape", "mean", "relu", "contiguous", "add", "size")
"""Methods of a tensor that do, too; `size` is a number that a shape is made of."""


def initialize(student: nn.Module, source: nn.Module, data: DataSet, T: int) -> None:
    """Give a student, or an ANN, the weights of another network of the same form, in place.

    Args:
        student: spiking, as `kdsnn.train.distill` takes it; or an ANN, which no spiking network gives its weights.
        source: a spiking network, copied as it is; or an ANN, whose layers are scaled to the student's neurons, after
            which the student's BatchNorm statistics are measured anew, on spikes. It is left as it was.
        data: its training images are what is measured on.
        T: time steps.

    Raises:
        KdsnnError: the two differ in a parameter, which is named; or the ANN does something that does not commute with
            a factor.
    """
    layers = [part for _, part in neuron_layers(student)]
    if neuron_layers(source) and not layers:
        raise KdsnnError("it has spiking neurons and the network that is trained has none; give an ANN")
    weights = {name: tensor.detach().clone() for name, tensor in source.state_dict().items()}
    _require_same(_voted(weights, student), student.state_dict())
    if not layers or neuron_layers(source):
        student.load_state_dict(_voted(weights, student))
        return
    images = calibration_images(data)
    with in_eval(source):
        scaled = scaled_weights(source, still(images), T=T, neurons=layers[0], rate=_fires_at_its_end(student))
    student.load_state_dict(_voted({**weights, **scaled}, student))
    remeasure(student, images, T)


def calibration_images(data: DataSet) -> Tensor:
    """Float32 training images (n, C, H, W), or frames (n, T, C, H, W), n ≤ `CALIBRATION`, at even distances, so that sorted classes all come in."""
    chosen = np.linspace(0, len(data.x_train) - 1, min(CALIBRATION, len(data.x_train))).astype(int)
    return floats(torch.from_numpy(np.ascontiguousarray(data.x_train[chosen])), data.graded)


def _voted(source: Mapping[str, Tensor], student: nn.Module) -> dict[str, Tensor]:
    """Repeat the last layer's rows for each of the neurons that vote for a class, where a student has such.

    Equal neurons would fire alike and stay equal for ever, so their gains differ, evenly between 1 and 2: together they
    tell apart more values of the current than one does. A `VotingLayer` takes the mean of
    neighbors.
    """
    voters = next((part.voting_size for part in student.modules() if isinstance(part, layer.VotingLayer)), 1)
    found, own = dict(source), student.state_dict()
    gains = 1 + (torch.arange(voters) + 0.5) / voters
    for name, tensor in source.items():
        rows = len(tensor) if tensor.ndim else 0
        if voters > 1 and rows and name in own and own[name].shape == (rows * voters, *tensor.shape[1:]):
            gain = gains.to(tensor).repeat(rows).reshape(-1, *(1 for _ in tensor.shape[1:]))
            found[name] = tensor.repeat_interleave(voters, 0) * gain
    return found


def _require_same(source: Mapping[str, Tensor], student: Mapping[str, Tensor]) -> None:
    """Compare names and shapes.

    Raises:
        KdsnnError: the first that differs.
    """
    for name in [*student, *source]:
        ours, theirs = (tuple(one[name].shape) if name in one else None for one in (student, source))
        if ours != theirs:
            raise KdsnnError(
                f"{name} is {theirs or 'absent' if theirs != () else 'a number'} in it and "
                f"{ours or 'absent' if ours != () else 'a number'} in the network that is trained: take one of its form"
            )


def _fires_at_its_end(student: nn.Module) -> bool:
    """Say whether the last layer of a student in the order of registration is one of neurons."""
    leaves = [part for part in student.modules() if not list(part.children()) or is_neuron_layer(part)]
    spiking = [part for part in leaves if is_neuron_layer(part) or isinstance(part, nn.Linear | nn.Conv2d)]
    return bool(spiking) and is_neuron_layer(spiking[-1])


@dataclass(frozen=True, eq=False)
class _Traced:
    """An ANN's operations, and of each the number of the set whose values must all have one factor.

    Attributes:
        graph, calls: them, in order of execution.
        factor_set: operation → number.
    """

    graph: fx.Graph
    calls: tuple[fx.Node, ...]
    factor_set: Mapping[fx.Node, int]


@torch.no_grad()
def scaled_weights(ann: nn.Module, images: Tensor, *, T: int, neurons: nn.Module, rate: bool) -> dict[str, Tensor]:
    """Compute the weights with which an ANN's activations are currents of neurons that fire at their rate.

    Args:
        ann: in eval mode; every layer is used once.
        images: float32 (N, C, H, W).
        T: time steps.
        neurons: a layer of the student's, see `rate_one`.
        rate: scale the logits too, as `LOGITS` says; without, they stay.

    Returns:
        The parameters and buffers that change, by name.

    Raises:
        KdsnnError: the ANN cannot be traced, uses a layer twice, or does what does not commute with a factor.
    """
    traced, modules = _trace(ann), dict(ann.named_modules())
    scales = _scales(ann, traced, images, T=T, neurons=neurons, rate=rate)
    found: dict[str, Tensor] = {}
    for node in traced.calls:
        if node.op != "call_module":
            continue
        module, path = modules[str(node.target)], str(node.target)
        if not isinstance(module, (*Weighted, BatchNorm)):
            continue
        before, after = (scales.get(traced.factor_set[one], 1.0) for one in (node.all_input_nodes[0], node))
        change = _normalization if isinstance(module, BatchNorm) else _weights
        found |= {f"{path}.{name}": tensor for name, tensor in change(module, before, after).items()}
    return found


def _weights(module: Any, before: float, after: float) -> dict[str, Tensor]:
    """Scale a weighted layer whose input is divided by `before` and whose output is to be divided by `after`."""
    found = {"weight": module.weight * (before / after)}
    return found if module.bias is None else {**found, "bias": module.bias / after}


def _normalization(module: Any, before: float, after: float) -> dict[str, Tensor]:
    """Scale a BatchNorm in the same way; what ε adds to the variance is made up for."""
    if not module.affine or not module.track_running_stats:
        raise KdsnnError("a BatchNorm has no scale or no statistics, and cannot be fitted to thresholds")
    variance = module.running_var / before**2
    ratio = ((variance + module.eps) / (module.running_var + module.eps)).sqrt() * before
    return {
        "running_mean": module.running_mean / before, "running_var": variance,
        "weight": module.weight * ratio / after, "bias": module.bias / after,
    }  # fmt: skip


def _trace(ann: nn.Module) -> _Traced:
    try:
        graph = fx.Tracer().trace(ann)
    except Exception as error:  # whatever a user's own forward raises on symbols
        raise KdsnnError(
            f"its operations cannot be followed ({(str(error).splitlines() or ['?'])[0][:200]})"
        ) from error
    modules = dict(ann.named_modules())
    parent: dict[fx.Node, fx.Node] = {}
    calls = tuple(graph.nodes)
    for node in calls:
        parent[node] = node
    used: set[Any] = set()

    def root(node: fx.Node) -> fx.Node:
        while parent[node] is not node:
            node = parent[node]
        return node

    for node in calls:
        module = modules.get(str(node.target)) if node.op == "call_module" else None
        if isinstance(module, (*Weighted, BatchNorm)):
            if module in used:
                raise KdsnnError(f"its layer {node.target} is used twice, and can be scaled for one place only")
            used.add(module)
        elif node.op not in ("placeholder", "output") and not _commutes(node, module):
            raise KdsnnError(f"its operation {_called(node, module)} does not commute with a factor")
        else:
            for one in node.all_input_nodes:
                parent[root(one)] = root(node)
    roots = {root(node): number for number, node in enumerate(calls)}
    return _Traced(graph, calls, {node: roots[root(node)] for node in calls})


def _called(node: fx.Node, module: nn.Module | None) -> str:
    return str(getattr(node.target, "__name__", node.target)) if module is None else type(module).__name__


def _commutes(node: fx.Node, module: nn.Module | None) -> bool:
    if module is not None:
        return isinstance(module, Homogeneous)
    if node.op == "call_function":
        numbers = [one for one in node.args if isinstance(one, int | float)]
        return node.target in Commuting and (node.target not in (add, iadd, torch.add) or not numbers)
    return node.op == "call_method" and node.target in METHODS


class _Watched(fx.Interpreter):
    """An interpreter of an ANN keeps a sample of the values of its activations, and of the largest logits."""

    def __init__(self, ann: nn.Module, graph: fx.Graph, per_batch: int) -> None:
        super().__init__(ann, graph=graph)
        self.per_batch = per_batch
        self.samples: dict[fx.Node, list[Tensor]] = {}

    def run_node(self, n: fx.Node) -> Any:
        """Run one operation."""
        result = super().run_node(n)
        if _activates(n, self.submodules):
            flat = result.flatten()
            self.samples.setdefault(n, []).append(flat[:: math.ceil(len(flat) / self.per_batch)].clone())
        elif n.op == "output":
            self.samples.setdefault(n.all_input_nodes[0], []).append(result.amax(-1).flatten())
        return result


def _activates(node: fx.Node, modules: Mapping[str, nn.Module]) -> bool:
    if node.op == "call_module":
        return isinstance(modules[str(node.target)], nn.ReLU)
    return node.target in (torch.relu, nn.functional.relu, "relu")


def _scales(
    ann: nn.Module, traced: _Traced, images: Tensor, *, T: int, neurons: nn.Module, rate: bool
) -> dict[int, float]:
    """Compute what the values of each set are divided by; of one that is not listed, by 1."""
    parts = torch.split(images, BATCH)
    watched = _Watched(ann, traced.graph, MOST_VALUES // len(parts))
    for part in parts:
        watched.run(part.to(device_of(ann)))
    values: dict[int, list[Tensor]] = {}
    logits = traced.factor_set[traced.calls[-1].all_input_nodes[0]]
    for node, samples in watched.samples.items():
        if rate or traced.factor_set[node] != logits:
            values.setdefault(traced.factor_set[node], []).extend(samples)
    image = traced.factor_set[traced.calls[0]]
    if image in values:
        raise KdsnnError("its images reach an activation or the output without a layer that has weights")
    joined = {number: torch.cat(samples).float().cpu() for number, samples in values.items()}
    return {
        number: float(np.percentile(sample.numpy(), LOGITS)) if number == logits else rate_one(sample, T, neurons)
        for number, sample in joined.items()
    }


@torch.no_grad()
def rate_one(values: Tensor, T: int, neurons: Any) -> float:
    """Which activation a neuron's rate of 1 is to stand for: λ > 0 with the least mean of (max(x, 0) - λ r(x/λ))².

    Args:
        values: x, before ReLU or behind it, any shape.
        T: time steps.
        neurons: a layer of SpikingJelly, left as it was; r(c) is its rate in T steps of the constant current c.
    """
    x = values.clamp_min(0)
    largest = float(x.max())
    if not largest:
        return 1.0
    node = copy.deepcopy(neurons)
    candidates = [largest * 10 ** (-2 * i / (CANDIDATES - 1)) for i in range(CANDIDATES)]

    def error(scale: float) -> float:
        node.reset()
        currents = (x / scale).expand(T, *x.shape)
        spikes = node(currents) if node.step_mode == "m" else torch.stack([node(current) for current in currents])
        return float((x - scale * spikes.mean(0)).square().mean())

    return min(candidates, key=error)


def remeasure(student: nn.Module, images: Tensor, T: int) -> None:
    """Measure the BatchNorm statistics of a spiking network anew, in place: the mean over batches of `images`."""
    norms = [part for part in student.modules() if isinstance(part, BatchNorm) and part.track_running_stats]
    convention = convention_of(student, tuple(images.shape[1:]), T)
    momenta = [part.momentum for part in norms]
    with trial(student):
        for norm in norms:
            norm.reset_running_stats()
            norm.momentum = None
            norm.train()
        try:
            with fused(student):
                for batch in torch.split(images, BATCH):
                    reset_net(student)
                    convention.run(student, batch.to(device_of(student)), T)
        finally:
            for norm, momentum in zip(norms, momenta, strict=True):
                norm.momentum = momentum
