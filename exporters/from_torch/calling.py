"""Running the network's own forward on symbolic input, the way it wants to be called, and leaving it as it was."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from exporters.errors import DeployError
from exporters.from_torch import operations as operations
from exporters.from_torch.dynamics import settled
from exporters.from_torch.lowering import Lowering
from exporters.from_torch.neurons import known_kind, run_neuron
from exporters.from_torch.readout import Chosen, chosen, read_out
from exporters.from_torch.refusals import (
    ENTRIES,
    LoweringError,
    explained,
    first_line,
    node_name,
    raised_line,
)
from exporters.from_torch.symbolic import Factories, Symbolic
from exporters.from_torch.values import Affine, Gather, Source, concatenated, elements, laid_out
from exporters.graph import Input, Node, Shape, SpikingGraph


@dataclass(frozen=True)
class Calling:
    """How a network is called, and what comes back.

    Attributes:
        input: "step" (one call a step, with (N, …)), "image" (one call with (N, …)), "frames" (one call with (T, N, …)) or
            "frames, samples first" (one call with (N, T, …)).
        output: "steps", "steps, samples first", "steps, flattened", "mean" or "sum".
        factor: what the graph's score is to be multiplied with to give the mean over time of what comes back (or its sum).
    """

    input: str
    output: str
    factor: float


@dataclass(frozen=True, eq=False)
class Lowered:
    """A lowered network: the graph, and how to run the module beside it."""

    graph: SpikingGraph
    calling: Calling
    notes: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class Task:
    """What is to be lowered."""

    module: nn.Module
    shape: Shape
    T: int
    encoding: str
    output: Chosen
    metadata: Mapping[str, Any]


def run_all(task: Task) -> Lowered:
    """Lower a network by the first way of calling it that gives a consistent graph.

    Raises:
        LoweringError: none does; the message is that of the way that came furthest.
        GraphError: the graph cannot be built.
    """
    root = unwrapped(task.module)
    modules = named(root)
    many = any(known_kind(m) and getattr(m, "step_mode", "s") == "m" for _, m in modules)
    has_neurons = any(known_kind(m) for _, m in modules)
    ways = ["frames", "image", "frames, samples first"] if many or not has_neurons else ["image", "frames", "frames, samples first"]
    if not has_neurons:
        ways = ["image", "frames", "frames, samples first"]
    if task.encoding != "direct" and "image" in ways:
        ways = ["frames", "step", "frames, samples first"] if many else ["step", "frames", "frames, samples first"]
    failures: list[tuple[int, int, DeployError]] = []
    for way in ways:
        lowering = Lowering(task.T, samples_for(task), [*root.parameters(), *root.buffers()])
        try:
            return _lowered(lowering, task, root, modules, way)
        except LoweringError as error:
            meant = 0 if isinstance(error, RaisedError) else 1
            failures.append((meant, lowering.progress, error))
        except DeployError as error:
            failures.append((1, lowering.progress, error))
    best = max(failures, key=lambda f: f[:2])
    raise best[2]


class RaisedError(LoweringError):
    """What the network's own forward raised."""


def samples_for(task: Task) -> int:
    """A batch whose size is not that of another axis, so that nothing that is confused goes unnoticed."""
    taken = {task.T, *task.shape}
    return next(n for n in (2, 3, 5, 7, 11, 13, 17) if n not in taken)


def _lowered(lowering: Lowering, task: Task, root: nn.Module, modules: list[tuple[str, nn.Module]], way: str) -> Lowered:
    spikes = task.encoding != "direct"
    inner = task.shape if len(task.shape) in (1, 3) else (task.shape[0], 1, *task.shape[1:])
    given = Source("input", inner, 1 if not spikes and way in ("image", "step") else task.T, lowering.samples, ("input",))
    node: Node = Input(inner, "spikes" if spikes else "direct")
    lowering.builder.add("input", node, [])
    given.is_binary = spikes
    lowering.dtype = _kind_of(root)
    inputs = _inputs(lowering, given, task, way, _kind_of(root))
    with prepared(lowering, root, modules), torch.no_grad(), Factories(lowering), torch.compiler.set_stance("force_eager"):
        results = []
        for x in inputs:
            results.append(_call(lowering, root, x))
            if way == "image" and _wants_steps(lowering):
                way = "step"
                results += [_call(lowering, root, x) for _ in range(task.T - 1)]
        where = type(root).__name__
        lowering.stack.append(("", root))
        tensors = [chosen(lowering, r, task.output) for r in results]
        if way == "step":
            value = concatenated([laid_out(t.value, lambda t: t.unsqueeze(0)) for t in tensors], 0)
        else:
            value = tensors[0].value
        for layer in lowering.neurons.values():
            if layer.steps != task.T:
                raise lowering.error(
                    f"it runs {layer.steps} steps, but T is {task.T}; make them the same", layer.name
                )
        settled(lowering)
        found = read_out(lowering, value)
        _ = where
    graph = finished(lowering, task)
    return Lowered(graph, Calling(way, found["output"], found["factor"]), dict(lowering.notes))


def _kind_of(root: nn.Module) -> torch.dtype:
    return next((p.dtype for p in (*root.parameters(), *root.buffers()) if p.is_floating_point()), torch.float32)


def _inputs(lowering: Lowering, given: Source, task: Task, way: str, dtype: torch.dtype) -> list[Symbolic]:
    N, T, shape = lowering.samples, task.T, tuple(task.shape)
    count = math.prod(shape)

    def tensor(index: Tensor) -> Symbolic:
        value = Affine(tuple(index.shape), (Gather(given, index),))
        return Symbolic(torch.empty(index.shape, dtype=dtype, device="meta"), value, lowering)

    match way:
        case "image":
            return [tensor(elements(0, (N, *shape)))]
        case "step":
            return [tensor(elements(t * N * count, (N, *shape))) for t in range(T)]
        case "frames":
            return [tensor(elements(0, (T, N, *shape)))]
        case _:
            return [tensor(elements(0, (T, N, *shape)).transpose(0, 1).contiguous())]


def _wants_steps(lowering: Lowering) -> bool:
    """Whether one call was one step."""
    return lowering.T > 1 and all(layer.steps == 1 for layer in lowering.neurons.values())


def _call(lowering: Lowering, root: nn.Module, x: Symbolic) -> Any:
    try:
        return root(x)
    except DeployError:
        raise
    except Exception as error:
        path, module, args = getattr(error, "_lowering_place", ("", root, (x,)))
        with lowering.busy():
            what = explained(module, args, error)
        raise RaisedError(f"{node_name(path, module) if path else type(module).__name__}: {what}{raised_line(error)}") from error


ENTRIES.update({_call.__code__, run_all.__code__})


def finished(lowering: Lowering, task: Task) -> SpikingGraph:
    """The graph, without what leads nowhere."""
    nodes, edges = lowering.builder.draft.nodes, lowering.builder.draft.edges
    needed, waiting = set(), ["output"]
    while waiting:
        name = waiting.pop()
        if name not in needed:
            needed.add(name)
            waiting += [a for a, b in edges if b == name]
    if "input" not in needed:
        raise lowering.error("what it returns does not depend on its input")
    metadata = dict(task.metadata)
    return SpikingGraph(
        {n: node for n, node in nodes.items() if n in needed},
        tuple((a, b) for a, b in edges if a in needed and b in needed),
        task.T,
        metadata,
    )


# -- the module --------------------------------------------------------------------------------------


def unwrapped(module: nn.Module) -> nn.Module:
    """The network inside what only wraps it.

    Raises:
        LoweringError: a compiled script, or layers without weights yet.
    """
    while True:
        if hasattr(module, "_orig_mod"):
            module = module._orig_mod
        elif isinstance(module, nn.DataParallel | nn.parallel.DistributedDataParallel):
            module = module.module
        else:
            break
    for path, part in module.named_modules():
        if isinstance(part, torch.jit.ScriptModule):
            raise LoweringError(
                f"{path or type(part).__name__}: a TorchScript module hides what it computes; lower the module it was made from"
            )
    for path, parameter in (*module.named_parameters(), *module.named_buffers()):
        if nn.parameter.is_lazy(parameter):
            raise LoweringError(f"{path}: this lazy layer has no weights yet; run the network once on a sample before")
    return module


def named(root: nn.Module) -> list[tuple[str, nn.Module]]:
    """All modules with their paths, those that stand in plain lists and dicts too."""
    found = list(root.named_modules())
    known = {id(m) for _, m in found}
    for path, module in found:  # it grows while it is walked
        for key, value in vars(module).items():
            items: list[tuple[str, Any]] = []
            if isinstance(value, list | tuple):
                items = [(str(i), v) for i, v in enumerate(value)]
            elif isinstance(value, dict) and not key.startswith("_"):
                items = [(str(k), v) for k, v in value.items()]
            for k, v in items:
                if isinstance(v, nn.Module) and id(v) not in known:
                    prefix = ".".join(p for p in (path, key, k) if p)
                    more = [(f"{prefix}.{p}" if p else prefix, m) for p, m in v.named_modules()]
                    found += [(p, m) for p, m in more if id(m) not in known]
                    known |= {id(m) for _, m in more}
    return found


@contextmanager
def prepared(lowering: Lowering, root: nn.Module, modules: list[tuple[str, nn.Module]]) -> Iterator[None]:
    """The modules in eval mode, their memories fresh, their forwards watched; all of it put back at the end."""
    kept = [_Kept(m) for _, m in modules]
    try:
        for path, module in modules:
            module.training = False
            if module.__dict__.get("_compiled_call_impl") is not None:
                module._compiled_call_impl = None
            if "_memories" in module.__dict__:
                module._memories = {k: copy.deepcopy(v) for k, v in module._memories_rv.items()}
        kinds = {id(m): known_kind(m) for _, m in modules}
        for path, module in modules:
            module.__dict__["forward"] = _watched(lowering, path, module, kinds[id(module)])
        yield
    finally:
        for one in kept:
            one.restore()


def _watched(lowering: Lowering, path: str, module: nn.Module, kind: str | None) -> Callable[..., Any]:
    original = module.forward

    def forward(*args: Any, **kwargs: Any) -> Any:
        lowering.stack.append((path, module))
        try:
            if kind is None:
                return original(*args, **kwargs)
            if len(args) + len(kwargs) != 1:
                raise lowering.error(f"it is called with {len(args) + len(kwargs)} inputs; neurons have one")
            with lowering.busy():
                return run_neuron(lowering, module, kind, args[0] if args else next(iter(kwargs.values())))
        except Exception as error:
            if not hasattr(error, "_lowering_place"):
                error._lowering_place = (path, module, args)  # type: ignore[attr-defined]
            raise
        finally:
            lowering.stack.pop()

    return forward


class _Kept:
    """What a module holds, to be put back: attributes, what stands in its containers, and the numbers of its buffers."""

    def __init__(self, module: nn.Module) -> None:
        self.module = module
        self.attributes = dict(module.__dict__)
        self.containers = [(v, copy.copy(v)) for v in module.__dict__.values() if type(v) in (list, dict, set) or hasattr(v, "move_to_end")]
        self.numbers = [(b, b._version, b.detach().clone()) for b in module._buffers.values() if b is not None and b.numel() < 1 << 20]

    def restore(self) -> None:
        """Put it back."""
        self.module.__dict__.clear()
        self.module.__dict__.update(self.attributes)
        for container, before in self.containers:
            container.clear()
            container.extend(before) if isinstance(container, list) else container.update(before)
        for buffer, version, numbers in self.numbers:
            if buffer._version != version:
                with torch.no_grad():
                    buffer.copy_(numbers)
