"""Lava 0.10 is made to run on current Python and numpy, and gets a faster convolution.

Lava was archived before Python 3.11 and numpy 2.4. What they broke is patched here at import, in memory;
nothing is edited on disk.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import sys
import types
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .errors import JobError

Array = NDArray[Any]


def import_netx() -> Any:
    """The module `lava.lib.dl.netx.hdf5` is imported with everything patched that current Python and numpy broke."""
    _stand_in_for_slayer()
    with _hashable_dataclasses("lava.magma.compiler.var_model"):
        import lava.magma.compiler.var_model  # noqa: F401
    from lava.lib.dl.netx import hdf5
    from lava.magma.compiler.compiler_graphs import ProcGroupDiGraphs
    from lava.magma.core.process.ports.ports import ReshapePort
    from lava.proc.conv import utils

    # numpy 2.4 removed reshape(newshape=)
    ReshapePort.get_transform_func_fwd = lambda port: functools.partial(_reshape, shape=port.shape)
    ReshapePort.get_transform_func_bwd = lambda port: functools.partial(_reshape, shape=port.old_shape)
    utils.conv = with_wide_integers(utils.conv)
    # Lava re-executes every .py file beside a process's module, once per process, to find its models
    find = ProcGroupDiGraphs._find_proc_models
    known: dict[type, Any] = {}

    def find_once(proc: Any) -> Any:
        if type(proc) not in known:
            own = getattr(type(proc), "own_model", None)
            known[type(proc)] = [own] if own else find(proc)
        return known[type(proc)]

    ProcGroupDiGraphs._find_proc_models = staticmethod(find_once)
    return hdf5


def _stand_in_for_slayer() -> None:
    """netx imports slayer, hence torch, for one function of RF neurons and one annotation."""

    def neuron_params(*_: Any) -> Any:
        raise JobError("resonate-and-fire (RF) neurons are not supported")

    tensor = type("Tensor", (), {})  # a class of its own: scipy asks whether arrays are instances of it
    for name, members in (
        ("torch", {"tensor": tensor, "Tensor": tensor}),
        ("lava.lib.dl.slayer", {"__path__": []}),
        ("lava.lib.dl.slayer.neuron", {"__path__": []}),
        ("lava.lib.dl.slayer.neuron.rf", {"neuron_params": neuron_params}),
    ):
        module = types.ModuleType(name)
        vars(module).update(members)
        sys.modules[name] = module


@contextlib.contextmanager
def _hashable_dataclasses(module: str) -> Iterator[None]:
    """Since Python 3.11 a dataclass field's default must be hashable; the defaults in `module` are not."""
    original = dataclasses.dataclass

    def dataclass(cls: Any = None, /, **options: Any) -> Any:
        if cls is None:
            return functools.partial(dataclass, **options)
        if cls.__module__ == module:
            options["unsafe_hash"] = True
        return original(cls, **options)

    dataclasses.dataclass = dataclass  # type: ignore[assignment]
    try:
        yield
    finally:
        dataclasses.dataclass = original


def _reshape(data: Array, shape: Sequence[int]) -> Array:
    return data.reshape(tuple(shape))


def with_wide_integers(conv: Callable[..., Array]) -> Callable[..., Array]:
    """Lava hands a convolution its geometry as int8, whose sums with image sizes overflow under numpy 2."""

    def wide(x: Array, weight: Array, *geometry: Any) -> Array:
        *pairs, groups = geometry
        return conv(x, weight, *((int(p[0]), int(p[1])) for p in pairs), int(groups))

    return wide


def fast_conv(
    x: Array,
    weight: Array,
    kernel_size: tuple[int, int],
    stride: tuple[int, int],
    padding: tuple[int, int],
    dilation: tuple[int, int],
    groups: int,
) -> Array:
    """This replaces `lava.proc.conv.utils.conv`, bit for bit, by one matrix product per group.

    x (W, H, Cin); weight (Cout, kW, kH, Cin/groups), true convolution (the kernel is flipped); the
    result is (Wout, Hout, Cout) in weight's type. Lava sums in float64, exact below 2^53; so does this.
    """
    kernels = _kernel_matrices(weight, groups, binary=x.dtype == bool)
    (kw, kh), (sw, sh), (pw, ph), (dw, dh) = kernel_size, stride, padding, dilation
    padded = np.pad(x.astype(kernels.dtype), ((pw, pw), (ph, ph), (0, 0)))
    windows = np.lib.stride_tricks.sliding_window_view(padded, (dw * (kw - 1) + 1, dh * (kh - 1) + 1), (0, 1))
    windows = windows[::sw, ::sh, :, ::dw, ::dh]  # (Wout, Hout, Cin, kW, kH)
    w_out, h_out = windows.shape[:2]
    grouped = windows.reshape(w_out, h_out, groups, -1, kw, kh).transpose(2, 0, 1, 3, 4, 5)
    currents = grouped.reshape(groups, w_out * h_out, -1) @ kernels  # (groups, positions, Cout/groups)
    return currents.transpose(1, 0, 2).reshape(w_out, h_out, -1).astype(weight.dtype)


_kernels: dict[tuple[int, bool], tuple[Array, Array]] = {}


def _kernel_matrices(weight: Array, groups: int, binary: bool) -> Array:
    """The matrices (groups, Cin/groups·kW·kH, Cout/groups) are made once: every actor owns one weight and never changes
    it."""
    key = (id(weight), binary)
    if key not in _kernels:
        # binary spikes and Σ|w| < 2^24: no partial sum can round in single precision either
        single = binary and np.abs(weight).sum(axis=(1, 2, 3), dtype=np.float64).max() < 2**24
        flipped = weight[:, ::-1, ::-1].transpose(0, 3, 1, 2)
        matrices = flipped.reshape(groups, weight.shape[0] // groups, -1).transpose(0, 2, 1)
        # the weight is kept too, so that its id stays its own
        _kernels[key] = weight, np.ascontiguousarray(matrices, np.float32 if single else np.float64)
    return _kernels[key][1]
