"""One ATen operation on symbolic tensors: torch does it to their shadows and to indices, or a handler does it to values."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils._mode_utils import no_dispatch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

from exporters.from_torch.lowering import Lowering
from exporters.from_torch.refusals import LoweringError
from exporters.from_torch.shadows import shadow_of
from exporters.from_torch.symbolic import Symbolic
from exporters.from_torch.unknown import PASSED_ON, WITHOUT_FORM, unknown_of, unknown_value
from exporters.from_torch.values import Affine, constant, expanded, laid_out, real

Handler = Callable[..., Any]
"""Called with the lowering, the shadow of the result and the operation's arguments; gives values, or reasons why not."""

LAYOUT = frozenset(
    [
        "view", "_unsafe_view", "_reshape_alias", "reshape", "permute", "transpose", "t", "squeeze", "unsqueeze",
        "expand", "repeat", "select", "slice", "index", "index_select", "split", "split_with_sizes", "unsafe_split",
        "chunk", "unbind", "flip", "roll", "clone", "alias", "detach", "lift_fresh", "diagonal", "unfold", "gather", "reflection_pad1d", "reflection_pad2d", "replication_pad1d", "replication_pad2d",
        "pixel_shuffle", "pixel_unshuffle", "native_channel_shuffle", "channel_shuffle", "upsample_nearest1d",
        "upsample_nearest2d", "_upsample_nearest_exact1d", "_upsample_nearest_exact2d", "rot90",
    ]
)  # fmt: skip
"""Operations that only move elements: torch does them to the indices."""

OF_FLOATS = frozenset(
    [
        "pixel_shuffle", "pixel_unshuffle", "reflection_pad1d", "reflection_pad2d", "replication_pad1d", "replication_pad2d",
        "upsample_nearest1d", "upsample_nearest2d", "_upsample_nearest_exact1d", "_upsample_nearest_exact2d",
    ]
)  # fmt: skip
"""Those of them that torch does not have for integers, such as indices are."""

READS_NUMBERS = frozenset(
    [
        "_local_scalar_dense", "item", "is_nonzero", "equal", "nonzero", "masked_select", "allclose", "unique",
        "_unique2", "argmax", "argmin", "sort", "topk", "bincount", "max", "min", "any", "all",
    ]
)  # fmt: skip
"""Operations whose result, or its shape, depends on the numbers."""

FACTORIES = frozenset(["zeros", "ones", "full", "empty", "zeros_like", "ones_like", "empty_like", "full_like"])
"""Operations that make tensors which a network may write into."""

SHORT = (torch.float16, torch.bfloat16)
"""Types that round by more than a neuron at its threshold stands."""

RANDOM = (
    "it draws random numbers, so that the network is another one at every run; dropout must end with training, and what "
    "codes images as spikes belongs on the host"
)


def executor(lowering: Lowering, handlers: Mapping[str, Handler]) -> Callable[..., Any]:
    """What does operations on symbolic tensors, with these handlers by operation."""

    def execute(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        return _execute(lowering, handlers, func, args, kwargs)

    return execute


def _execute(
    lowering: Lowering, handlers: Mapping[str, Handler], func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> Any:
    """Do one operation.

    Raises:
        LoweringError: it has no counterpart in a spiking network, or depends on numbers.
    """
    name = func._schema.name.split("::")[1]
    symbols = [a for a in tree_leaves((args, kwargs)) if isinstance(a, Symbolic)]
    refusal = next((s.refusal for s in symbols if s.refusal), "")
    if refusal:
        if name.rstrip("_") in ("detach", "alias"):
            return args[0]
        if name in LAYOUT and symbols == [args[0]]:  # another shape of what nobody may read, and nobody reads as yet
            shadow = shadow_of(lowering, name, func, args, kwargs)
            if isinstance(shadow, Tensor):
                return Symbolic(shadow, Affine(tuple(shadow.shape)), lowering, refusal)
        raise lowering.error(refusal)
    if isinstance(kwargs.get("out"), Tensor):
        raise lowering.error("it writes into a tensor that it is given (out=); use what the operation returns instead")
    if torch.Tag.nondeterministic_seeded in func.tags:
        raise lowering.error(RANDOM)
    if name == "detach_":
        return args[0]
    mutates = func._schema.is_mutable
    if mutates and not isinstance(args[0], Symbolic):
        raise lowering.error(
            "it writes what the network computes into a tensor that is not made in its forward; make it with "
            "torch.zeros_like of it, or collect a list and stack it"
        )
    if torch.Tag.inplace_view in func.tags:
        return _reshaped(lowering, name, func, args, kwargs)
    if all(s.value.is_constant for s in symbols):
        return _really(lowering, name, func, args, kwargs, mutates=mutates)
    unknown = unknown_of([s.value for s in symbols])
    if unknown is not None and name.removesuffix("_") not in PASSED_ON | LAYOUT and name not in PASSED_ON:
        raise unknown
    if name in READS_NUMBERS and not (name in ("max", "min") and len(args) > 1):
        raise lowering.error(_depends_on_numbers(name))
    if mutates:
        return _in_place(lowering, name, func, args, kwargs)
    if name in LAYOUT and any(not s.value.is_constant for s in symbols if s is not args[0]):
        raise lowering.error(_depends_on_numbers(name))
    if name not in handlers and name not in LAYOUT and name != "_to_copy":
        result = func.decompose(*args, **kwargs)
        if result is NotImplemented:
            raise lowering.unknown(name)
        return result
    shadow = shadow_of(lowering, name, func, args, kwargs)
    if name == "_to_copy":
        return _converted(lowering, args[0], shadow)
    if name in LAYOUT:
        return _rearranged(lowering, name, func, args, kwargs, shadow)
    operands, keywords = tree_map(_operand, args), tree_map(_operand, kwargs)
    try:
        values = handlers[name](lowering, shadow, *operands, **keywords)
    except LoweringError as error:
        if name not in WITHOUT_FORM:
            raise
        values = unknown_value(lowering, name, (*operands, *keywords.values()), shadow.shape, unknown or error)
    return _wrapped(lowering, shadow, values)


def _depends_on_numbers(name: str) -> str:
    return (
        f"its forward reads numbers that the network computes ({name.strip('_')}), as an if, a while, int() or .item() on "
        "them does; a graph is the same for every input"
    )


# -- results -----------------------------------------------------------------------------------------


def _operand(a: Any) -> Any:
    """What handlers get: values of what depends on the input, tensors of what does not."""
    if isinstance(a, Symbolic):
        value = a.value
        return real(value, a.dtype) if value.is_constant else value
    return a


def _wrapped(lowering: Lowering, shadow: Any, value: Any) -> Any:
    """The result of an operation as tensors; a text in the place of a value says why there is none."""
    if isinstance(shadow, Tensor):
        return Symbolic(shadow, value, lowering)
    return type(shadow)(
        Symbolic(s, v, lowering) if isinstance(v, Affine) else Symbolic(s, Affine(tuple(s.shape)), lowering, str(v))
        for s, v in zip(shadow, value, strict=True)
    )


def _converted(lowering: Lowering, tensor: Symbolic, shadow: Tensor) -> Symbolic:
    """Another type. Whole numbers and short floats hold spikes as well as others do."""
    if all(g.origin.is_binary for g in tensor.value.gathers):
        return Symbolic(shadow, tensor.value, lowering)
    if not shadow.is_floating_point():
        raise lowering.error("it rounds what the network computes to whole numbers, which a spiking network does not")
    if shadow.dtype in SHORT and lowering.dtype not in SHORT:
        raise lowering.error(
            f"it rounds what the network computes to {str(shadow.dtype).removeprefix('torch.')}, as autocast does, while its weights are "
            f"{str(lowering.dtype).removeprefix('torch.')}; leave that out, or convert the whole network"
        )
    return Symbolic(shadow, tensor.value, lowering)


# -- numbers, memory and places ------------------------------------------------------------------------


def _number(a: Any) -> Any:
    return real(a.value, a.dtype) if isinstance(a, Symbolic) else a


def _really(
    lowering: Lowering, name: str, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], *, mutates: bool
) -> Any:
    """An operation on what does not depend on the input: its numbers are known, so that it is simply done."""
    if func.is_view:
        return _rearranged(lowering, name, func, args, kwargs, None)
    arguments = tree_map(_number, args)
    result = func(*arguments, **tree_map(_number, kwargs))
    if mutates:
        args[0].write(constant(arguments[0]))
        return args[0]

    def wrapped(r: Any) -> Any:
        return Symbolic(r.to("meta"), constant(r), lowering) if isinstance(r, Tensor) and r.is_floating_point() else r

    return tree_map(wrapped, result)


def _in_place(lowering: Lowering, name: str, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """An operation that writes into its first argument."""
    target, shape = args[0], tuple(args[0].shape)
    if name == "copy_":
        given = args[1]
        value = given.value if isinstance(given, Symbolic) else constant(given)
    elif name in ("zero_", "fill_") and not isinstance(args[-1 if name == "fill_" else 0], Tensor | None):
        value = Affine((), (), float(args[1]))
    elif name == "zero_":
        value = Affine(())
    elif hasattr(torch.ops.aten, name.removesuffix("_")):
        alone = getattr(getattr(torch.ops.aten, name.removesuffix("_")), func._overloadname)
        result = lowering.execute(alone, args, kwargs)
        value = result.value if isinstance(result, Symbolic) else constant(result)
    else:
        raise lowering.unknown(name)
    target.write(expanded(value, shape))
    return target


def _reshaped(lowering: Lowering, name: str, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """An operation that gives a tensor another shape in place, as `unsqueeze_` does."""
    tensor, alone = args[0], name.removesuffix("_")
    if alone not in LAYOUT:
        raise lowering.unknown(name)
    packet = getattr(torch.ops.aten, alone)
    overload = func._overloadname if func._overloadname in packet.overloads() else packet.overloads()[0]
    result = lowering.execute(getattr(packet, overload), args, kwargs)
    with no_dispatch():
        func(*args, **kwargs)  # the shape that Python sees
    tensor.become(result)
    return tensor


def _rearranged(
    lowering: Lowering, name: str, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], shadow: Any
) -> Any:
    """An operation that only moves elements."""
    tensor = args[0]
    others, keywords = tree_map(_number, args[1:]), tree_map(_number, kwargs)
    if shadow is None:
        shadow = func(tensor.shadow, *others, **keywords)

    def move(t: Tensor, at: int | None = None) -> Tensor:
        if name in ("view", "_unsafe_view", "_reshape_alias"):
            moved = t.reshape(others[0])  # what torch shows in place an expanded index has to copy
        elif t.dtype == torch.int64 and name in OF_FLOATS:
            moved = func(t.double(), *others, **keywords).long()
        else:
            moved = func(t, *others, **keywords)
        return moved if at is None else moved[at]

    def made(part: Tensor, at: int | None) -> Symbolic:
        def own(t: Tensor) -> Tensor:
            return move(t, at)

        result = Symbolic(part, laid_out(tensor.value, own, flat=_flattening(lowering, tensor, part)), lowering)
        if func.is_view:
            result.viewed, result.moves, result.written = tensor.root, (*tensor.moves, own), tensor.root.written
        return result

    if isinstance(shadow, Tensor):
        return made(shadow, None)
    return type(shadow)(made(part, i) for i, part in enumerate(shadow))


def _flattening(lowering: Lowering, tensor: Tensor, part: Tensor) -> str:
    """The name of the node that flattens maps, where an operation does that."""
    if part.ndim >= tensor.ndim or part.ndim == 0 or part.shape[-1] == tensor.shape[-1] or not lowering.stack:
        return ""
    return lowering.name if isinstance(lowering.stack[-1][1], torch.nn.Flatten) else f"{lowering.where}.flatten"


class Factories(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """While it is entered, tensors that the network makes to write into (torch.zeros, …) are symbolic from the start."""

    def __init__(self, lowering: Lowering) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.lowering = lowering

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        """Spare the import of torch's compiler, which takes longer than the lowering."""
        return False

    def __torch_dispatch__(
        self, func: Any, types: Sequence[type], args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Wrap what factories make, and refuse what draws random numbers."""
        lowering = self.lowering
        if any(isinstance(a, Symbolic) for a in tree_leaves((args, kwargs))):
            with lowering.busy():
                return lowering.execute(func, args, kwargs or {})
        if not lowering.is_busy and torch.Tag.nondeterministic_seeded in func.tags:
            raise lowering.error(RANDOM)
        result = func(*args, **(kwargs or {}))
        name = func._schema.name.split("::")[1]
        if lowering.is_busy or name not in FACTORIES or isinstance(result, Symbolic):
            return result
        if not result.is_floating_point() or result.device.type == "meta":
            return result
        with lowering.busy():
            return Symbolic(
                result.to("meta"), constant(result.zero_() if name.startswith("empty") else result), lowering
            )
