"""The tensor that is pushed through a network: a real shape and type, and a symbolic value in the place of numbers.

PyTorch itself breaks what the network's forward does down into the operations of its ATen library, which arrive at
`exporters.from_torch.execution` one by one; whatever Python did to get there (hooks, overridden and patched methods,
parametrizations, loops) has been done. Views know whose memory they show: what is written through one is seen in all.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves

from exporters.from_torch.lowering import Lowering
from exporters.from_torch.values import Affine, concatenated, laid_out, real, tidied

Move = Callable[[Tensor], Tensor]
"""Something that moves elements."""


IN_NUMPY = (
    "its forward hands what the network computes to numpy or a list, which says nothing of what it does with it; write that in torch, or "
    "declare a neuron that does so (neuron_as)"
)


class Symbolic(torch.Tensor):
    """A symbolic tensor has no numbers.

    Attributes:
        lowering: the run that it belongs to.
        shadow: a tensor of the same shape, strides and type without data.
        viewed: the tensor whose memory it shows, None where that is its own: a tensor that named itself would wait for the
            garbage collector, with the numbers of all its elements.
        moves: what takes the root's elements to its own.
        refusal: why nothing may read it, or nothing.
        known: what it held when it was last looked at.
        written: how often the root had been written by then.
    """

    lowering: Lowering
    shadow: Tensor
    viewed: Symbolic | None
    moves: tuple[Move, ...]
    refusal: str
    known: Affine
    written: int

    @staticmethod
    def __new__(cls, shadow: Tensor, value: Affine, lowering: Lowering, refusal: str = "") -> Symbolic:
        """A tensor with a value of the shadow's shape."""
        made: Symbolic = torch.Tensor._make_wrapper_subclass(  # type: ignore[attr-defined]
            cls,
            shadow.shape,
            strides=shadow.stride(),
            dtype=shadow.dtype,
            device=torch.device("cpu"),
            requires_grad=False,
        )
        made.lowering, made.shadow, made.refusal = lowering, shadow, refusal
        made.viewed, made.moves = None, ()
        made.known, made.written = value, 0
        return made

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        pass

    def __repr__(self, *, tensor_contents: Any = None) -> str:  # type: ignore[override]
        return f"{type(self).__name__}({tuple(self.shape)}, {self.dtype})"

    __torch_function__ = torch._C._disabled_torch_function_impl  # type: ignore[assignment]

    @classmethod
    def __torch_dispatch__(  # type: ignore[override]
        cls, func: Any, types: Sequence[type], args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Do an operation on symbolic values."""
        first = next(a for a in tree_leaves((args, kwargs)) if isinstance(a, Symbolic))
        with first.lowering.busy():
            return first.lowering.execute(func, args, kwargs or {})

    def numpy(self, *args: Any, **how: Any) -> Any:
        """The numbers of what does not depend on the input.

        Raises:
            LoweringError: it does.
        """
        if self.value.is_constant and not self.refusal:
            return real(self.value, self.dtype).numpy(*args, **how)
        is_layer = self.lowering.where.replace(".", "").isdigit()  # a bare number says too little
        raise self.lowering.error(self.refusal or IN_NUMPY, self.lowering.name if is_layer else None)

    def tolist(self) -> Any:
        """The numbers of what does not depend on the input, as `numpy`.

        Raises:
            LoweringError: it does.
        """
        return self.numpy().tolist()

    @property
    def root(self) -> Symbolic:
        """The tensor whose memory it shows; itself where it is no view."""
        return self if self.viewed is None else self.viewed

    @property
    def value(self) -> Affine:
        """What it holds now."""
        if self.viewed is not None and self.written != self.viewed.written:
            value = self.viewed.value
            for move in self.moves:
                value = laid_out(value, move)
            self.known, self.written = value, self.viewed.written
        return self.known

    def become(self, view: Symbolic) -> None:
        """Show what a view of this tensor shows. What is written through either is seen in both."""
        if self.viewed is None:
            self.viewed = Symbolic(self.shadow, self.known, self.lowering)
            self.viewed.written = self.written
        self.moves = (*self.moves, view.moves[-1])
        self.shadow, self.known, self.written = view.shadow, view.known, self.viewed.written

    def write(self, value: Affine) -> None:
        """Put a value of its own shape in the place of what it held."""
        if self.viewed is None:
            self.known = value
            self.written += 1
            return
        places = torch.arange(self.viewed.numel()).view(self.viewed.shape)
        for move in self.moves:
            places = move(places)
        self.viewed.write(overwritten(self.viewed.value, places, value))
        self.known, self.written = value, self.viewed.written


def overwritten(old: Affine, places: Tensor, new: Affine) -> Affine:
    """The old value with the new one in some places, which are numbered in C order."""
    size = torch.Size(old.shape).numel()
    if places.numel() == size and torch.equal(places.reshape(-1), torch.arange(size)):
        return laid_out(new, lambda t: t.reshape(old.shape))
    # one after the other, from which each place takes its own
    both = concatenated([laid_out(v, lambda t: t.reshape(-1)) for v in (old, new)], 0)
    order = torch.arange(size)
    order[places.reshape(-1)] = size + torch.arange(places.numel())
    return tidied(laid_out(both, lambda t: t[order].view(old.shape)))
