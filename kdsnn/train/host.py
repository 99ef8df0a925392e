"""How the host works while a network trains: threads, memory, and a kernel to keep away from."""

from __future__ import annotations

import ctypes
import math
import platform
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from kdsnn.data import DataSet

# mallopt's parameters and their defaults, malloc.h of glibc
M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4
DEFAULT_TRIM, DEFAULT_MMAPS = 128 * 1024, 65536


@contextmanager
def few_threads(data: DataSet, batch_size: int) -> Iterator[None]:
    """Use one thread where a batch is tiny: there threads mostly wait for one another (on a busy machine ten times
    slower).

    By size alone, so that results stay repeatable.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(1 if batch_size * math.prod(data.sample_shape) < 2**15 else before)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@contextmanager
def memory_kept() -> Iterator[None]:
    """Keep freed memory for the next batch instead of handing it back to the system.

    By default glibc maps every large tensor anew, and the system clears its pages on first touch: that is a
    quarter of a training step on a CPU. Does nothing where the C library is another.
    """
    if platform.libc_ver()[0] != "glibc":
        yield
        return
    libc = ctypes.CDLL(None)
    libc.mallopt(M_MMAP_MAX, 0)
    libc.mallopt(M_TRIM_THRESHOLD, 2**31 - 1)
    try:
        yield
    finally:
        libc.mallopt(M_MMAP_MAX, DEFAULT_MMAPS)
        libc.mallopt(M_TRIM_THRESHOLD, DEFAULT_TRIM)
        libc.malloc_trim(0)


@contextmanager
def strides_safe(network: nn.Module) -> Iterator[None]:
    """Inside, no convolution of `network` runs into issue 6035 of oneDNN (seen in 3.12, open in November 2026).

    In channels_last the weights' gradient of a strided 1×1 convolution of fewer channels than a vector holds is written
    past its buffer: wrong values, a hang or an abort. That kernel is for strides that divide height and width, so the
    rows and columns behind the last one that is read are cut off. Outputs and the gradient of the inputs stay the same.
    """
    few = 16 if torch.cpu._is_avx512_supported() else 8
    with ExitStack() as stack:
        for module in network.modules():
            if isinstance(module, nn.Conv2d) and _overruns(module, few):
                stack.callback(module.register_forward_pre_hook(_cut).remove)
        yield


def _overruns(conv: nn.Conv2d, few: int) -> bool:
    narrow = conv.in_channels < few and conv.groups == 1
    return narrow and conv.kernel_size == (1, 1) and conv.stride != (1, 1) and conv.padding in ((0, 0), "valid")


def _cut(conv: Any, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...] | None:
    if not inputs or inputs[0].device.type != "cpu" or not torch.is_grad_enabled():
        return None
    x = inputs[0]
    height, width = ((size - 1) // step * step + 1 for size, step in zip(x.shape[-2:], conv.stride, strict=True))
    return x[..., :height, :width], *inputs[1:]
