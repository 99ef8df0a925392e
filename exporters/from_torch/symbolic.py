"""The tensor that is pushed through a network: a real shape and type, and a symbolic value in the place of numbers.

PyTorch itself breaks what the network's forward does down into the operations of its ATen library, which arrive here one
by one; whatever Python did to get there (hooks, overridden and patched methods, parametrizations, loops) has been done.
Of each operation a copy without data ("meta") runs first, so that shapes, types and strides, and the errors of what does
not fit, are those of torch. Views know whose memory they show: what is written through them is seen everywhere.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

from exporters.from_torch.lowering import Lowering
from exporters.from_torch.values import Affine, concatenated, constant, expanded, laid_out, real, tidied

Move = Callable[[Tensor], Tensor]
Handler = Callable[..., Any]


class Symbolic(torch.Tensor):
    """A tensor without numbers.

    Attributes:
        lowering: the run that it belongs to.
        shadow: a tensor of the same shape, strides and type without data.
        root: the tensor whose memory it shows; itself where it is no view.
        moves: what takes the root's elements to its own.
        refusal: why nothing may read it, or nothing.
    """

    lowering: Lowering
    shadow: Tensor
    root: Symbolic
    moves: tuple[Move, ...]
    refusal: str
    known: Affine  # what it held when it was last looked at, and how often the root had been written by then
    written: int

    @staticmethod
    def __new__(cls, shadow: Tensor, value: Affine, lowering: Lowering, refusal: str = "") -> Symbolic:
        """A tensor with a value of the shadow's shape."""
        made = torch.Tensor._make_wrapper_subclass(
            cls, shadow.shape, strides=shadow.stride(), dtype=shadow.dtype, device="cpu", requires_grad=False
        )
        made.lowering, made.shadow, made.refusal = lowering, shadow, refusal
        made.root, made.moves = made, ()
        made.known, made.written = value, 0
        return made

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        pass

    def __repr__(self, **_: Any) -> str:
        return f"{type(self).__name__}({tuple(self.shape)}, {self.dtype})"

    @classmethod
    def __torch_dispatch__(
        cls, func: Any, types: Sequence[type], args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Do an operation on symbolic values."""
        kwargs = kwargs or {}
        first = next(a for a in tree_leaves((args, kwargs)) if isinstance(a, Symbolic))
        with first.lowering.busy():
            return execute(first.lowering, func, args, kwargs)

    __torch_function__ = torch._C._disabled_torch_function_impl

    @property
    def value(self) -> Affine:
        """What it holds now."""
        if self.root is not self and self.written != self.root.written:
            value = self.root.value
            for move in self.moves:
                value = laid_out(value, move)
            self.known, self.written = value, self.root.written
        return self.known

    def write(self, value: Affine) -> None:
        """Put a value of its own shape in the place of what it held."""
        if self.root is self:
            self.known = value
            self.written += 1
            return
        places = torch.arange(self.root.numel()).view(self.root.shape)
        for move in self.moves:
            places = move(places)
        self.root.write(_overwritten(self.root.value, places, value))
        self.known, self.written = value, self.root.written


def _overwritten(old: Affine, places: Tensor, new: Affine) -> Affine:
    """The old value with the new one in some places."""
    size = torch.Size(old.shape).numel()

    def rest(value: Affine) -> Affine:
        return laid_out(value, lambda t: t.reshape(-1))

    flat_new = rest(new)
    # one after another, then each place takes its own: what torch does with indices it does with all that stands there
    both = concatenated([rest(old), flat_new], 0)
    order = torch.arange(size)
    order[places.reshape(-1)] = size + torch.arange(places.numel())
    return tidied(laid_out(both, lambda t: t[order].view(old.shape)))


# -- operations --------------------------------------------------------------------------------------

LAYOUT = frozenset(
    """view _unsafe_view reshape permute transpose t squeeze unsqueeze expand repeat select slice index_select split
    split_with_sizes unsafe_split chunk unbind flip roll clone alias detach lift_fresh pixel_shuffle pixel_unshuffle
    native_channel_shuffle channel_shuffle diagonal unfold swapaxes movedim narrow take_along_dim gather _reshape_alias
    tile view_as _to_copy contiguous index""".split()
)
"""Operations that only move elements: torch does them to the indices."""
READS_NUMBERS = frozenset(
    """_local_scalar_dense item is_nonzero equal nonzero masked_select allclose unique _unique2 argmax argmin sort topk
    bincount""".split()
)
"""Operations whose result, or its shape, depends on the numbers."""

HANDLERS: dict[str, Handler] = {}
"""Operation → what it does to values; called with the lowering, the result's shadow and the operation's arguments."""


def execute(lowering: Lowering, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Do one ATen operation on symbolic values.

    Raises:
        LoweringError: it has no counterpart in a spiking network, or depends on numbers.
    """
    name = func._schema.name.split("::")[1]
    symbols = [a for a in tree_leaves((args, kwargs)) if isinstance(a, Symbolic)]
    for symbol in symbols:
        if symbol.refusal:
            raise lowering.error(symbol.refusal)
    mutates = func._schema.is_mutable
    if mutates and not isinstance(args[0], Symbolic):
        raise lowering.error(
            "it writes what the network computes into a tensor that is not made of its input; make it with "
            "torch.zeros_like of it, or collect a list and stack it"
        )
    if all(s.value.is_constant for s in symbols):
        return _really(lowering, name, func, args, kwargs, mutates=mutates)
    if name in READS_NUMBERS:
        raise lowering.error(_depends_on_numbers(name))
    if mutates:
        return _in_place(lowering, name, args, kwargs)
    handler = HANDLERS.get(name)
    if handler is None and name not in LAYOUT:
        result = func.decompose(*args, **kwargs)
        if result is not NotImplemented:
            return result
    shadow = func(*tree_map(_shadow, args), **_on_meta(tree_map(_shadow, kwargs)))
    if name in LAYOUT:
        return _rearranged(lowering, name, func, args, kwargs, shadow)
    if handler is None:
        raise lowering.unknown(name)
    return _wrapped(lowering, shadow, handler(lowering, shadow, *tree_map(_operand, args), **tree_map(_operand, kwargs)))


def _depends_on_numbers(name: str) -> str:
    return (
        "its forward reads numbers that the network computes"
        f" ({name.strip('_')}), as an if, a while, int() or .item() on them does; a graph is the same for every input"
    )


def _shadow(a: Any) -> Any:
    if isinstance(a, Symbolic):
        return a.shadow
    if isinstance(a, Tensor):
        if not a.is_floating_point():
            return a if a.ndim == 0 else a.to("meta")
        return torch.empty_strided(a.shape, a.stride(), dtype=a.dtype, device="meta")
    return a


def _on_meta(kwargs: dict[str, Any]) -> dict[str, Any]:
    return kwargs | ({"device": "meta"} if "device" in kwargs else {})


def _operand(a: Any) -> Any:
    """What handlers get: values of what depends on the input, tensors of what does not."""
    if isinstance(a, Symbolic):
        value = a.value
        return real(value, a.dtype) if value.is_constant else value
    return a


def _wrapped(lowering: Lowering, shadow: Any, value: Any) -> Any:
    """The result of an operation as tensors."""
    if isinstance(shadow, Tensor):
        return Symbolic(shadow, value, lowering) if isinstance(value, Affine) else value
    return type(shadow)(
        Symbolic(s, v, lowering) if isinstance(v, Affine) else Symbolic(s, Affine(tuple(s.shape)), lowering, str(v))
        for s, v in zip(shadow, value, strict=True)
    )


def _really(
    lowering: Lowering, name: str, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], *, mutates: bool
) -> Any:
    """An operation on what does not depend on the input: its numbers are known, so that it is simply done."""

    def number(a: Any) -> Any:
        return real(a.value, a.dtype) if isinstance(a, Symbolic) else a

    arguments = tree_map(number, args)
    result = func(*arguments, **tree_map(number, kwargs))
    if mutates:
        args[0].write(constant(arguments[0]))
        return args[0]
    if func.is_view:
        return _rearranged(lowering, name, func, args, kwargs, None)
    return tree_map(
        lambda r: Symbolic(r.to("meta"), constant(r), lowering) if isinstance(r, Tensor) and r.is_floating_point() else r,
        result,
    )


def _in_place(lowering: Lowering, name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """An operation that writes into its first argument."""
    target = args[0]
    if name == "copy_":
        source = args[1]
        value = source.value if isinstance(source, Symbolic) else constant(source)
        target.write(expanded(value, tuple(target.shape)))
    elif name in ("zero_", "fill_"):
        fill = float(args[1]) if name == "fill_" else 0.0
        target.write(Affine(tuple(target.shape), (), fill))
    elif hasattr(torch.ops.aten, name.removesuffix("_")):
        result = getattr(torch.ops.aten, name.removesuffix("_"))(*args, **kwargs)
        value = result.value if isinstance(result, Symbolic) else constant(result)
        target.write(expanded(value, tuple(target.shape)))
    else:
        raise lowering.unknown(name)
    return target


def _rearranged(
    lowering: Lowering, name: str, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], shadow: Any
) -> Any:
    """An operation that only moves elements."""
    if name == "_to_copy":
        return _converted(lowering, args[0], shadow)
    source = args[0]
    others, keywords = tree_map(_plain, args[1:]), tree_map(_plain, kwargs)
    if shadow is None:
        shadow = func(source.shadow, *others, **keywords)

    def move(tensor: Tensor, at: int | None = None) -> Tensor:
        if tensor.dtype == torch.int64 and name.startswith("pixel"):  # which moves numbers of no integer type
            moved = func(tensor.double(), *others, **keywords).long()
        elif name in ("view", "_unsafe_view", "_reshape_alias"):
            moved = tensor.reshape(others[0])
        else:
            moved = func(tensor, *others, **keywords)
        return moved if at is None else moved[at]

    is_view = func.is_view

    def made(part: Tensor, at: int | None) -> Symbolic:
        def own(tensor: Tensor) -> Tensor:
            return move(tensor, at)

        flat = _flattening(lowering, source, part)
        tensor = Symbolic(part, laid_out(source.value, own, flat=flat), lowering)
        if is_view:
            tensor.root, tensor.moves, tensor.written = source.root, (*source.moves, own), source.root.written
        return tensor

    if isinstance(shadow, Tensor):
        return made(shadow, None)
    return type(shadow)(made(part, i) for i, part in enumerate(shadow))


def _plain(a: Any) -> Any:
    return real(a.value, a.dtype) if isinstance(a, Symbolic) else a


def _flattening(lowering: Lowering, source: Tensor, part: Tensor) -> str:
    """The name of the node that flattens maps, where an operation does that."""
    if part.ndim >= source.ndim or part.ndim == 0 or part.shape[-1] == source.shape[-1]:
        return ""
    if not lowering.stack:
        return ""
    return lowering.name if isinstance(lowering.stack[-1][1], torch.nn.Flatten) else f"{lowering.where}.flatten"


def _converted(lowering: Lowering, source: Symbolic, shadow: Tensor) -> Symbolic:
    """Another type. Whole numbers hold spikes as well as floats do."""
    if not shadow.is_floating_point() and not _is_binary(source.value):
        raise lowering.error("it rounds what the network computes to whole numbers, which a spiking network does not")
    return Symbolic(shadow, source.value, lowering)


def _is_binary(value: Affine) -> bool:
    return all(g.source.is_binary for g in value.gathers)


class Factories(TorchDispatchMode):
    """While it is entered, tensors that the network makes to write into (torch.zeros, …) are symbolic from the start."""

    NAMES: ClassVar = frozenset(["zeros", "ones", "full", "empty", "zeros_like", "ones_like", "empty_like", "full_like"])

    def __init__(self, lowering: Lowering) -> None:
        super().__init__()
        self.lowering = lowering

    def __torch_dispatch__(
        self, func: Any, types: Sequence[type], args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Wrap what factories make."""
        result = func(*args, **(kwargs or {}))
        name = func._schema.name.split("::")[1]
        if self.lowering.is_busy or name not in self.NAMES or isinstance(result, Symbolic):
            return result
        if not result.is_floating_point() or result.device.type == "meta":
            return result
        with self.lowering.busy():
            if name.startswith("empty"):
                result.zero_()
            return Symbolic(result.to("meta"), constant(result), self.lowering)

