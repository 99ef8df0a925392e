"""Running the network's own forward on symbolic input, the way it wants to be called."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Hashable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor, nn

from exporters.errors import DeployError
from exporters.from_torch import arithmetic, layers, spikes
from exporters.from_torch.execution import Factories, executor
from exporters.from_torch.flat_outputs import dense_at_the_end
from exporters.from_torch.lowering import Constants, Lowering
from exporters.from_torch.neurons import known_kind
from exporters.from_torch.readout import Chosen, Returned, chosen, read_out
from exporters.from_torch.refusals import ENTRIES, LoweringError, MixedSamplesError, explained, node_name, raised_line
from exporters.from_torch.settling import settle
from exporters.from_torch.symbolic import Symbolic
from exporters.from_torch.values import Affine, Gather, Origin, concatenated, elements, forget_runs, laid_out
from exporters.from_torch.watching import PLACE, Modules, modules_of, unwrapped, watched
from exporters.graph import Encoding, Input, Neuron, Shape, SpikingGraph, Synapse

Way = Literal["step", "image", "frames", "frames, samples first", "frames, time last"]
"""One call a step with (N, …), or one call in all, with (N, …), (T, N, …), (N, T, …) or (N, …, T)."""

ALONE = (
    "its membranes, as those of other layers perhaps, run on from sample to sample of a batch, since time and samples are one axis "
    "where it is called (neurons inside seq_to_ann_forward): the graph is the network on one sample at a time, and in larger "
    "batches the network gives other results; call neurons with (T, N, …) and train again"
)

HANDLERS = {**arithmetic.HANDLERS, **layers.HANDLERS, **spikes.HANDLERS}


@dataclass(frozen=True)
class Calling:
    """How a network is called, and what comes back.

    Attributes:
        way: "step": one call a step with (N, …), T in all; else one call: "image" with (N, …), "frames" with (T, N, …),
            "frames, samples first" with (N, T, …), "frames, time last" with (N, …, T).
        returned: see `exporters.from_torch.readout.Returned`; of each call, if there is one a step.
        factor: the mean over time of what comes back (or its mean or sum itself) is this times the graph's score.
        output: which of several outputs is meant, as it was given.
        declared: classes that the user declared to be neurons.
        alone: one sample at a time: the network's membranes run on from sample to sample of a batch.
        shape: of a sample as the network takes it, where the graph's is another, (C, 1, L) for (C, L); else empty.
    """

    way: Way
    returned: Returned
    factor: float = 1.0
    output: Chosen = None
    declared: tuple[str, ...] = ()
    alone: bool = False
    shape: Shape = ()


@dataclass(frozen=True, eq=False)
class LoweredModule:
    """A lowered network is its graph, how to run the module beside it, and what the user should know of some nodes."""

    graph: SpikingGraph
    calling: Calling
    notes: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class Task:
    """What is to be lowered: see `exporters.from_torch.lower_module`."""

    module: nn.Module
    shape: Shape
    T: int
    encoding: Encoding
    output: Chosen
    declared: Mapping[str, Constants]
    metadata: Mapping[str, Any]


class RaisedError(LoweringError):
    """What the network's own forward raised."""


def run(task: Task) -> LoweredModule:
    """Lower a network by the first way of calling it that gives a consistent graph.

    Raises:
        LoweringError: none does; the message is that of the way that came furthest.
        GraphError: the graph cannot be built.
    """
    root = unwrapped(task.module)
    modules = modules_of(root)
    failures: list[tuple[int, bool, DeployError]] = []
    waiting = [(way, batch_size(task.T, task.shape)) for way in _ways(task, modules)]
    try:
        while waiting:
            way, samples = waiting.pop(0)
            lowering = Lowering(task.T, samples, [t for _, m in modules for t in _tensors(m)])
            lowering.execute = executor(lowering, HANDLERS)
            try:
                return _lowered(lowering, task, root, modules, way)
            except DeployError as error:
                if isinstance(error, MixedSamplesError):
                    waiting.append((way, 1))
                is_meant = lowering.progress > 0 and not isinstance(error, RaisedError)
                # a network that is not meant so may come far with time last: its layers take that for features
                progress = -1 if way == "frames, time last" else lowering.progress
                failures.append((progress, is_meant, error))
            finally:
                lowering.close()
        # of those that came equally far, an error that a way of calling provokes says less than what a layer is refused for
        raise max(failures, key=lambda failure: failure[:2])[2]
    finally:
        failures.clear()  # their tracebacks lead back here
        forget_runs()


def _tensors(module: nn.Module) -> list[Tensor]:
    return [t for t in (*module._parameters.values(), *module._buffers.values()) if t is not None]


def _ways(task: Task, modules: Modules) -> tuple[Way, ...]:
    """The ways to call a network, the likeliest first."""
    single: Way = "image" if task.encoding == "direct" else "step"  # if one call proves to be one step, T follow
    many = any(known_kind(m) and getattr(m, "step_mode", "s") == "m" for _, m in modules)
    likeliest: tuple[Way, ...] = ("frames", single) if many else (single, "frames")
    return (*likeliest, "frames, samples first", "frames, time last")


def batch_size(T: int, shape: Shape) -> int:
    """How many samples are pushed through a network: a size that no other axis has, so that nothing that is confused goes unnoticed."""
    taken = {T, *shape}
    return next(n for n in (2, 3, 5, 7, 11, 13) if n not in taken)


def _lowered(lowering: Lowering, task: Task, root: nn.Module, modules: Modules, way: Way) -> LoweredModule:
    inputs = _inputs(lowering, task, way)
    with (
        watched(lowering, modules, task.declared),
        torch.no_grad(),
        _uncompiled(),
        Factories(lowering),
    ):
        results = [_call(lowering, root, x) for x in inputs]
        if way == "image" and all(layer.steps == 1 for layer in lowering.neurons.values()) and task.T > 1:
            way = "step"
            results += [_call(lowering, root, inputs[0]) for _ in range(task.T - 1)]
    lowering.stack.append(("", root))
    with lowering.busy():
        tensors = [chosen(lowering, result, task.output) for result in results]
        value = tensors[0].value
        if way == "step":
            value = concatenated([laid_out(t.value, lambda t: t.unsqueeze(0)) for t in tensors], 0)
        for layer in lowering.neurons.values():
            if layer.steps != task.T:
                what = f"it runs {layer.steps} steps, but T is {task.T}; make them the same"
                if any(w.layer is layer and w.found is None for w in lowering.written.values()):
                    what += (
                        ", and have its own spikes reset it, as those of a neuron do that the network writes out itself"
                    )
                raise lowering.error(what, layer.name)
        settle(lowering)
        answer = read_out(lowering, value)
    alone = lowering.samples == 1
    if alone:
        first = min(lowering.firing, key=list(lowering.builder.draft.nodes).index)
        lowering.notes[first] = ALONE
    shape = task.shape if len(task.shape) == 2 else ()
    calling = Calling(way, answer.returned, answer.factor, task.output, tuple(task.declared), alone, shape)
    return LoweredModule(_graph(lowering, task), calling, dict(lowering.notes))


def _inputs(lowering: Lowering, task: Task, way: Way) -> list[Symbolic]:
    """What the network is called with. A constant image that is given as frames is told apart step by step all the same."""
    N, T, shape = lowering.samples, task.T, task.shape
    inner = (shape[0], 1, shape[1]) if len(shape) == 2 else shape  # a graph has no (C, L)
    static = task.encoding == "direct" and way in ("image", "step")
    lowering.builder.add("input", Input(inner, task.encoding), [])
    origin = Origin("input", inner, 1 if static else T, N, ("input",), is_binary=task.encoding == "spikes")

    def tensor(index: Tensor) -> Symbolic:
        value = Affine(tuple(index.shape), (Gather(origin, index),))
        return Symbolic(torch.empty(index.shape, dtype=lowering.dtype, device="meta"), value, lowering)

    match way:
        case "image":
            return [tensor(elements(0, (N, *shape)))]
        case "step":
            return [tensor(elements(t * N * math.prod(shape), (N, *shape))) for t in range(T)]
        case "frames":
            return [tensor(elements(0, (T, N, *shape)))]
        case "frames, samples first":
            return [tensor(elements(0, (T, N, *shape)).transpose(0, 1).contiguous())]
        case "frames, time last":
            return [tensor(elements(0, (T, N, *shape)).movedim(0, -1).contiguous())]


def _call(lowering: Lowering, root: nn.Module, x: Symbolic) -> Any:
    try:
        return root(x)
    except DeployError:
        raise
    except Exception as error:  # whatever a user's forward raises
        path, module, args = getattr(error, PLACE, ("", root, (x,)))
        with lowering.busy():
            what = explained(module, args, error)
        where = node_name(path, module) if path else type(module).__name__
        raise RaisedError(f"{where}: {what}{raised_line(error)}") from error


def _uncompiled() -> AbstractContextManager[Any]:
    """While it is entered, what torch.compile made runs as it was written; where nothing is compiled its import is spared."""
    return torch.compiler.set_stance("force_eager") if "torch._dynamo" in sys.modules else nullcontext()


ENTRIES.update({_call.__code__, run.__code__})


# -- the graph ---------------------------------------------------------------------------------------


def _graph(lowering: Lowering, task: Task) -> SpikingGraph:
    """The graph, without what leads nowhere."""
    nodes, edges = lowering.builder.draft.nodes, lowering.builder.draft.edges
    sources: dict[str, list[str]] = {}
    for a, b in edges:
        sources.setdefault(b, []).append(a)
    needed: set[str] = set()
    waiting = ["output"]
    while waiting:
        name = waiting.pop()
        if name not in needed:
            needed.add(name)
            waiting += sources.get(name, [])
    if "input" not in needed:
        raise lowering.error("what its forward returns does not depend on its input")
    if not any(isinstance(nodes[name], Synapse | Neuron) and not name.endswith(".identity") for name in needed):
        raise lowering.error("it has no layer of weights and no neurons; analog arrives at its end as it came in")
    kept = [(a, b) for a, b in edges if b in needed]
    metadata = {**task.metadata, **_facts(lowering, needed)}
    graph = SpikingGraph({n: node for n, node in nodes.items() if n in needed}, tuple(kept), task.T, metadata)
    return dense_at_the_end(graph)


def _facts(lowering: Lowering, needed: set[str]) -> dict[str, Any]:
    """What the graph itself should tell: layers that share weights, and neurons that had to be understood."""
    owners: dict[Hashable, list[str]] = {}
    for node, weights in lowering.weights_of.items():
        if node in needed:
            owners.setdefault(weights, []).append(node)
    shared = [names for names in owners.values() if len(names) > 1]
    recognized = {name: text for name, text in lowering.notes.items() if name in needed}
    facts = {"shared": shared, "recognized": recognized}
    return json.loads(json.dumps({key: value for key, value in facts.items() if value}))  # type: ignore[no-any-return]
