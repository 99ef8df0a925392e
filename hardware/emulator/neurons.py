"""Neuron layers fire, by the compiled kernel where there is one and enough to compute, else by torch's operations.

The kernel also adds up what arrives and pools what leaves, so that currents are read once and spikes written once, as small as
they go on. Before it is used it is tried against `membranes` for the number types at hand; where it differs, or where no
compiler is, all is left to torch. No spike depends on which.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from types import ModuleType
from typing import Any

import numpy as np
import torch
from torch import Tensor

from exporters.compiled import spread
from exporters.graph import IF, LIF, AnyNeuron, AnyPool, Array, AvgPool2d, MaxPool2d
from hardware.emulator import membranes
from hardware.emulator.membranes import MEMBRANE_MAX, register_factor

PAYS = 2**29
"""Values of neurons, over all samples and steps, for which a compiler pays: torch's own operations take a second longer for so
many, which is what numba takes to start with kernels from its cache (and a few more, once, to compile them)."""

UNIT = 4096
"""Neurons whose membranes, currents and spikes stay in the nearest caches while the steps go by."""

SHARE = 2**15
"""A thread that computes fewer values than this costs more than it gives."""

_INNERMOST, _BACK = (0, 1, 3, 4, 2), (0, 1, 4, 2, 3)

_expected = [0]


def expect(values: int) -> None:
    """So many values of neurons are to be computed next."""
    _expected[0] += values


@dataclass(frozen=True, eq=False)
class Firing:
    """How a layer fires.

    Attributes:
        node: the neurons.
        integer: whether membranes are Lava's registers.
        saturates: whether they can reach the end of these.
        dtype: of spikes.
    """

    node: AnyNeuron
    integer: bool
    saturates: bool
    dtype: torch.dtype


def fire(layer: Firing, x: Tensor, v: Tensor, T: int) -> Tensor:
    """Neurons integrate and fire over the time axis of x, (T or 1, N, *shape) to spikes (T, N, *shape); their membranes
    v (N, *shape) are those before the first step, and become those after the last."""
    order, kernels = _order([x, v[None]]), _kernels_for(x)
    if order is None or kernels is None:
        return membranes.fire(layer.node, x, v, T, integer=layer.integer, saturates=layer.saturates, dtype=layer.dtype)
    spikes, _ = _fire_compiled(kernels, layer, [x], v, T, order)
    return spikes


def fire_from_rest(
    layer: Firing, currents: Sequence[Tensor], T: int, pool: AnyPool | None, *, keep: bool
) -> tuple[Tensor | None, Tensor | None] | None:
    """Neurons fire from where they start, fed by the sum of currents, each (T or 1, N, *shape), and forget their membranes.

    Args:
        layer: the neurons.
        currents: what arrives, in the order in which it adds up.
        T: steps.
        pool: one that `fits` behind these neurons; None for none.
        keep: whether the spikes (T, N, *shape) are wanted beside what the pool makes of them.

    Returns:
        Spikes, and what the pool makes of them (T, N, *shape); None for either that is not wanted or not to be had. None where
        there is no kernel, or these tensors do not lie in one order of memory.
    """
    first, *others = currents
    if len(others) > 2:
        first, others = sum(others[:-2], first), others[-2:]
    order, kernels = _order([first, *others]), _kernels_for(first)
    if order is None or kernels is None:
        return None
    if pool is not None and not order and _order([first, *others], innermost=True):
        order = True
    if not order:
        pool = None
    spikes, pooled = _fire_compiled(kernels, layer, [first, *others], None, T, order, pool, keep=keep or pool is None)
    return (spikes if keep or pool is None else None), pooled


def fits(pool: AnyPool, largest: int) -> bool:
    """Whether the kernel takes this pool of spikes: windows side by side, and of sums none above `largest`."""
    if pool.kernel != pool.stride or any(pool.padding):
        return False
    return isinstance(pool, MaxPool2d) or (pool.divisor == 1 and pool.kernel[0] * pool.kernel[1] <= largest)


def _kernels_for(x: Tensor) -> ModuleType | None:
    """The kernels for these currents, where so much is to be computed that they pay."""
    if x.device.type != "cpu" or _expected[0] < PAYS or x.dtype not in _NUMBERS:
        return None
    return _tried(x.dtype)


_NUMBERS = {torch.float32: np.float32, torch.float64: np.float64}


def _order(tensors: Sequence[Tensor], *, innermost: bool | None = None) -> bool | None:
    """Whether channels are innermost in the one order of memory that tensors (S, N, *shape) share; None if they share none."""
    for found in (False, True) if innermost is None else (innermost,):
        if all((not found or x.ndim == 5) and _memory(x, found).is_contiguous() for x in tensors):
            return found
    return None


def _memory(x: Tensor, innermost: bool) -> Tensor:
    return x.permute(_INNERMOST) if innermost else x


def _fire_compiled(
    kernels: ModuleType,
    layer: Firing,
    currents: Sequence[Tensor],
    v: Tensor | None,
    T: int,
    innermost: bool,
    pool: AnyPool | None = None,
    *,
    keep: bool = True,
) -> tuple[Tensor, Tensor | None]:
    """Spikes, empty if not kept, and what the pool makes of them."""
    first = _memory(currents[0], innermost)
    number = _NUMBERS[first.dtype]
    samples, shape = first.shape[1], first.shape[2:]
    length = _length(first[0].numel(), samples) if pool is None else shape[1] * shape[2]
    arrays = [_rows(_memory(x, innermost), length) for x in currents]
    none = np.empty((0, 0, 0), number)
    spikes = torch.empty((T, *first.shape[1:]) if keep else (0, 0, 0), dtype=torch.uint8)
    window, high, operation = (1, 1), 1, kernels.NO_POOL
    pooled = torch.empty((T, 0, 0, 0), dtype=torch.uint8)
    if pool is not None:
        window, high = pool.kernel, shape[0]
        operation = kernels.LARGEST if isinstance(pool, MaxPool2d) else kernels.SUM
        size = (samples, shape[0] // window[0], shape[1] // window[1], shape[2])
        pooled = torch.empty((T, *size), dtype=torch.uint8)
    units = arrays[0].shape[1] if pool is None else pooled.shape[1] * pooled.shape[2]
    spread(
        kernels.fire, units, max(1, min(torch.get_num_threads(), T * first[0].numel() // SHARE)), *arrays, *[none] * (3 - len(arrays)),
        np.empty((0, 0), number) if v is None else _memory(v[None], innermost).reshape(-1, length).numpy(), number(layer.node.start),
        _rows(spikes, length) if keep else spikes.numpy(), *_constants(kernels, layer, number), operation, window, high,
        pooled.view(T, -1, *pooled.shape[-2:]).numpy() if pool is not None else pooled.numpy(),
    )  # fmt: skip
    back = spikes.permute(_BACK) if innermost and keep else spikes
    return back.to(layer.dtype), None if pool is None else pooled.permute(_BACK).to(layer.dtype)


def _constants(kernels: ModuleType, layer: Firing, number: Any) -> tuple[Any, ...]:
    """What the kernel is told about a layer: `level` to `largest`."""
    node = layer.node
    level = number(membranes.level(node, integer=layer.integer))
    kind, leak, decay = kernels.NO_LEAK, number(1), 1.0
    if layer.integer:  # what lies above it
        level = np.nextafter(level, number(np.inf))
    if node.leak < 1 and layer.integer:
        kind, decay = kernels.REGISTER, register_factor(node.leak)
    elif node.leak < 1:
        kind, leak = kernels.PLAIN, number(node.leak)
    largest = number(MEMBRANE_MAX if layer.saturates else np.inf)
    return level, number(node.threshold), node.reset != "hard", kind, leak, decay, largest


def _rows(memory: Tensor, length: int) -> Array:
    rows: Array = memory.view(len(memory), -1, length).numpy()
    return rows


@cache
def _length(neurons: int, samples: int) -> int:
    """The neurons of a batch are cut into equal units of about `UNIT`; where they cannot be, into samples."""
    fewest = -(-neurons // UNIT)
    return next((neurons // n for n in range(fewest, 16 * fewest) if neurons % n == 0), neurons // samples)


@cache
def _tried(number: torch.dtype) -> ModuleType | None:
    """The kernels, where they are to be had and give what `membranes` gives for numbers of this type."""
    try:
        from hardware.emulator import kernels

        return kernels if all(_agrees(kernels, *trial) for trial in _trials(number)) else None
    except Exception:  # numba raises ImportError, and others, for a numpy, a processor or a disk that it cannot use
        return None


def _trials(number: torch.dtype) -> Iterator[tuple[Firing, Sequence[Tensor], AnyPool | None]]:
    """Layers of every kind, with currents that come near all thresholds and registers: more pixels than windows cover, and rows
    that fill no vector."""
    rng = np.random.default_rng(0)
    nodes: list[AnyNeuron] = [
        IF(30.0), IF(30.0, reset="soft"), LIF(30.0, leak=0.5), LIF(30.0, leak=1 / 3, reset="soft"),
    ]  # fmt: skip
    for node in nodes:
        for integer in (True, False):
            for pool in (None, MaxPool2d((2, 2), (2, 2)), AvgPool2d((3, 2), (3, 2), divisor=1)):
                currents = [
                    torch.tensor(rng.integers(-40, 60, (T, 2, 7, 5, 13)) * scale, dtype=number).permute(_BACK)
                    for T, scale in ((3, 1 if pool else 2**16), (1, 1 if integer else 0.37))
                ]
                yield Firing(node, integer, integer, torch.uint8), currents, pool


def _agrees(kernels: ModuleType, layer: Firing, currents: Sequence[Tensor], pool: AnyPool | None) -> bool:
    T, x = 3, currents[0] + currents[1]
    v = torch.full_like(x[0], layer.node.start)
    expected = membranes.fire(layer.node, x, v, T, integer=layer.integer, saturates=layer.saturates, dtype=layer.dtype)
    going_on = torch.full_like(x[0], layer.node.start)
    spikes, _ = _fire_compiled(kernels, layer, [x], going_on, T, True)
    kept, pooled = _fire_compiled(kernels, layer, currents, None, T, True, pool)
    same = torch.equal(spikes, expected) and torch.equal(going_on, v) and torch.equal(kept, expected)
    if pool is None:
        return same
    (down, across), frames = pool.kernel, expected.flatten(0, 1)
    windows = frames.unfold(2, down, down).unfold(3, across, across)
    wanted = windows.amax((-2, -1)) if isinstance(pool, MaxPool2d) else windows.sum((-2, -1)).to(layer.dtype)
    _, alone = _fire_compiled(kernels, layer, currents, None, T, True, pool, keep=False)
    return same and all(one is not None and torch.equal(one.flatten(0, 1), wanted) for one in (pooled, alone))
