"""The user's modules while they run: known by their paths, in eval mode, with fresh memories; then put back as they were."""

from __future__ import annotations

import copy
import inspect
from collections import OrderedDict
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from exporters.from_torch.declared import check_declared
from exporters.from_torch.lowering import Constants, Lowering
from exporters.from_torch.neurons import constants_of, known_kind, run_neuron
from exporters.from_torch.refusals import WITHOUT_COUNTERPART, LoweringError, first_line
from exporters.from_torch.symbolic import Symbolic
from exporters.from_torch.values import laid_out

PLACE = "_module_that_raised"
"""The attribute of an error that says which module raised it, with what."""

Modules = Sequence[tuple[str, nn.Module]]


def unwrapped(module: nn.Module) -> nn.Module:
    """The network inside what only wraps it: torch.compile's module, DataParallel.

    Raises:
        LoweringError: a compiled script, or layers that have no weights yet.
    """
    while True:
        if "_orig_mod" in module._modules:
            module = module._modules["_orig_mod"]  # type: ignore[assignment]
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


def modules_of(root: nn.Module) -> Modules:
    """All modules with their paths, those that stand in plain lists and dicts of others too."""
    found = list(root.named_modules())
    known = {id(m) for _, m in found}
    for path, module in found:  # it grows while it is walked
        for key, value in vars(module).items():
            for name, inner in _held(key, value):
                if id(inner) in known:
                    continue
                prefix = f"{path}.{name}" if path else name
                more = [(f"{prefix}.{p}" if p else prefix, m) for p, m in inner.named_modules()]
                found += [(p, m) for p, m in more if id(m) not in known]
                known |= {id(m) for _, m in more}
    return found


def _held(key: str, value: Any) -> Iterator[tuple[str, nn.Module]]:
    """The modules in a plain list or dict."""
    items: Sequence[tuple[Any, Any]] = ()
    if isinstance(value, list | tuple):
        items = list(enumerate(value))
    elif isinstance(value, dict) and not key.startswith("_"):
        items = list(value.items())
    for name, inner in items:
        if isinstance(inner, nn.Module):
            yield f"{key}.{name}", inner


@contextmanager
def uncompiled(module: nn.Module) -> Iterator[None]:
    """While it lasts, what torch.compile made of a module or its parts runs as it was written: the same, and nothing is compiled."""
    parts = [m for _, m in modules_of(module)]
    if not any("_orig_mod" in m._modules or m.__dict__.get("_compiled_call_impl") is not None for m in parts):
        yield  # without the import of torch's compiler
        return
    with torch.compiler.set_stance("force_eager"):
        yield


@contextmanager
def watched(lowering: Lowering, modules: Modules, declared: Mapping[str, Constants]) -> Iterator[None]:
    """While it lasts the modules are in eval mode and at rest, and the lowering knows which of them runs.

    `declared`: class name → the neuron that the user says it is.
    """
    kept = [_Kept(module) for _, module in modules]
    try:
        put_at_rest(modules)
        for _, module in modules:
            module.__dict__["_compiled_call_impl"] = None
        for path, module in modules:
            module.__dict__["forward"] = _forward(lowering, path, module, declared)
        yield
    finally:
        for one in kept:
            one.restore()


def put_at_rest(modules: Modules) -> None:
    """The modules, of which the first is the network, are in eval mode, whatever their classes make of it, and are reset as
    SpikingJelly's `reset_net` does it. A `reset` that wants arguments is the network's own business.

    Raises:
        LoweringError: a reset fails.
    """
    modules[0][1].eval()
    for path, module in modules:
        reset = getattr(module, "reset", None)
        if not callable(reset) or _wants_arguments(reset):
            continue
        try:
            reset()
        except Exception as error:  # whatever a user's own reset raises
            raise LoweringError(f"{path or type(module).__name__}: its reset() fails: {first_line(error)}") from error


def _wants_arguments(method: Callable[..., Any]) -> bool:
    parameters = inspect.signature(method).parameters.values()
    return any(p.default is p.empty and p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD) for p in parameters)


def _forward(lowering: Lowering, path: str, module: nn.Module, declared: Mapping[str, Constants]) -> Callable[..., Any]:
    """The module's forward, with the lowering knowing that it runs; that of a neuron gives symbolic spikes."""
    original: Callable[..., Any] = module.forward
    if isinstance(module, nn.DataParallel):
        original = module.module
    kind, constants = known_kind(module), _declared(module, declared)
    refused = _without_counterpart(module)
    integrates = any(k.__name__ == "NonSpikingBaseNode" for k in type(module).__mro__)

    def forward(*args: Any, **kwargs: Any) -> Any:
        lowering.stack.append((path, module))
        try:
            given = [*args, *kwargs.values()]
            if not any(isinstance(a, Symbolic) for a in given):
                return original(*args, **kwargs)
            if refused:
                raise lowering.error(refused, lowering.name)
            if integrates:
                _require_time_first(lowering, given[0])
            if kind is None and constants is None:
                return original(*args, **kwargs)
            with lowering.busy():
                return _as_neuron(lowering, module, kind, constants, original, given)
        except Exception as error:
            if not hasattr(error, PLACE):
                setattr(error, PLACE, (path, module, args))
            raise
        finally:
            lowering.stack.pop()

    return forward


def _without_counterpart(module: nn.Module) -> str:
    """Why a layer of SpikingJelly's is refused by name; nothing for all others."""
    kinds = [kind.__name__ for kind in type(module).__mro__ if kind.__module__.startswith("spikingjelly.")]
    return next((WITHOUT_COUNTERPART[name] for name in kinds if name in WITHOUT_COUNTERPART), "")


def is_called(module: nn.Module, names: Collection[str]) -> bool:
    """Whether the class of a module has one of these names, with or without that of its package."""
    return any(name in names for name in _names(module))


def _names(module: nn.Module) -> tuple[str, str]:
    kind = type(module)
    return f"{kind.__module__}.{kind.__qualname__}", kind.__qualname__


def _declared(module: nn.Module, declared: Mapping[str, Constants]) -> Constants | None:
    return next((declared[name] for name in _names(module) if name in declared), None)


def _as_neuron(
    lowering: Lowering,
    module: nn.Module,
    kind: str | None,
    constants: Constants | None,
    original: Callable[..., Any],
    given: Sequence[Any],
) -> Symbolic:
    if len(given) != 1:
        raise lowering.error(f"it is called with {len(given)} inputs; neurons have one", lowering.name)
    x = given[0]
    if constants is None:
        assert kind is not None
        return run_neuron(lowering, module, constants_of(lowering, module, kind), x, many=module.step_mode == "m")
    many = x.ndim > 2 and tuple(x.shape[:2]) == (lowering.T, lowering.samples)
    if id(module) not in lowering.neurons:
        with as_at_first(module):
            found = check_declared(lowering, original, constants, tuple(x.shape), many=many)
        lowering.declared[id(module)] = found
        firing = ", which fires above its threshold," if found is not constants else ""
        lowering.notes[lowering.name] = f"declared by the user{firing} and checked on random currents"
    constants = lowering.declared[id(module)]
    return run_neuron(lowering, module, constants, x, many=many)


@contextmanager
def as_at_first(module: nn.Module) -> Iterator[None]:
    """What runs meanwhile leaves no trace in the module."""
    kept = [_Kept(m) for _, m in modules_of(module)]
    try:
        yield
    finally:
        for one in kept:
            one.restore()


def _require_time_first(lowering: Lowering, x: Any) -> None:
    """Neurons that only integrate take every first axis for time, in either step mode."""
    if x.ndim < 2 or x.shape[0] != lowering.T:
        raise lowering.error(
            f"it takes the first axis of its input {tuple(x.shape)} for the {lowering.T} time steps; use multi-step mode",
            lowering.name,
        )
    first = laid_out(x.value, lambda t: t[0])
    for gather in first.gathers:
        steps = gather.index // (lowering.samples * gather.origin.size)
        if not gather.origin.is_static and bool((steps != 0).any()):
            raise lowering.error(
                "the first axis of its input is not that of time, for which it takes it", lowering.name
            )


class _Kept:
    """What a module held is kept, to be put back: attributes, what stands in its containers, the numbers of its buffers."""

    def __init__(self, module: nn.Module) -> None:
        self.module = module
        self.attributes = dict(module.__dict__)
        self.containers = [
            (v, copy.copy(v)) for v in module.__dict__.values() if type(v) in (list, dict, set, OrderedDict)
        ]
        self.numbers = [(b, b._version, b.detach().clone()) for b in module._buffers.values() if b is not None]

    def restore(self) -> None:
        """Put it back."""
        self.module.__dict__.clear()
        self.module.__dict__.update(self.attributes)
        for container, before in self.containers:
            container.clear()
            if isinstance(container, list):
                container.extend(before)
            else:
                container.update(before)
        for buffer, version, numbers in self.numbers:
            if buffer._version != version:
                with torch.no_grad():
                    buffer.copy_(numbers)
