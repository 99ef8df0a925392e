"""In a chain of a residual network most outputs of a layer are relays: each has one synapse, and repeats what it reads. These need
no products with all the other inputs, where their weights are 0; what is multiplied is a small layer between the rest.

A product of one weight is exact where the sums of the layer are, so nothing changes but the time.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from weakref import WeakKeyDictionary

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from exporters.graph import AnySynapse, Array, Conv2d, Linear, Pair, Shape

LEAST_WEIGHTS = 2**16
"""Smaller layers are multiplied as they are."""
LEAST_SHARE = 1 / 8
"""So large a share of a layer's outputs must be repeats."""
AT_ONCE = 2**22
"""So many weights are looked through at a time."""


@dataclass(frozen=True, eq=False)
class Repeats:
    """A layer is outputs that repeat one input each, and a layer between the others.

    Attributes:
        outputs, inputs: channels that repeat, and those that they repeat; ordered by taps.
        taps: tap of the kernel (y, x) → which of these read through it.
        weights: their weights, float32.
        others: the other outputs.
        read: the inputs that these read.
        layer: from those to these, without bias; None where every output repeats.
    """

    outputs: Tensor
    inputs: Tensor
    taps: dict[Pair, slice]
    weights: Tensor
    others: Tensor
    read: Tensor
    layer: AnySynapse | None

    def apply(
        self, node: AnySynapse, x: Tensor, bias: Tensor | None, shape: Shape, dtype: torch.dtype,
        multiply: Callable[[Tensor, Tensor | None], Tensor],
    ) -> Tensor:  # fmt: skip
        """What the whole layer, `node`, makes of frames x (M, *in_shape): (M, *shape), with a bias for each channel if there is one.

        `multiply` is `layer` on frames and its share of the bias.
        """
        found = torch.empty((len(x), *shape), dtype=dtype, device=x.device)
        if self.layer is not None:
            found[:, self.others] = multiply(x[:, self.read], None if bias is None else bias[self.others]).to(dtype)
        for tap, part in self.taps.items():
            each = (-1, *[1] * (len(shape) - 1))
            values = _through(node, x[:, self.inputs[part]], tap, shape).to(dtype)
            values *= self.weights[part].to(dtype).view(each)
            found[:, self.outputs[part]] = values if bias is None else values + bias[self.outputs[part]].view(each)
        return found


def _through(node: AnySynapse, x: Tensor, tap: Pair, shape: Shape) -> Tensor:
    """What a layer's positions read through one tap of its kernel."""
    if isinstance(node, Linear):
        return x
    (top, left), (down, across) = node.padding, node.stride
    y, z = (k * step for k, step in zip(tap, node.dilation, strict=True))
    padded = F.pad(x, (left, left, top, top)) if top or left else x
    return padded[:, :, y : y + down * (shape[1] - 1) + 1 : down, z : z + across * (shape[2] - 1) + 1 : across]


_found: WeakKeyDictionary[AnySynapse, Repeats | None] = WeakKeyDictionary()
"""What `repeats_of` found is kept: it looks at every weight."""


def repeats_of(synapse: AnySynapse) -> Repeats | None:
    """Which outputs of a layer repeat one input each; None where these are few, the layer is small or has groups."""
    if synapse.weight.size < LEAST_WEIGHTS or (isinstance(synapse, Conv2d) and synapse.groups > 1):
        return None
    if synapse not in _found:
        _found[synapse] = _split(synapse)
    return _found[synapse]


def _split(synapse: AnySynapse) -> Repeats | None:
    weight = synapse.weight.reshape(*synapse.weight.shape, *[1] * (4 - synapse.weight.ndim))
    outputs, inputs, *kernel = weight.shape
    reads: Array = np.zeros(inputs, bool)
    found: list[tuple[Array, ...]] = []
    step = max(1, AT_ONCE // weight[0].size)
    for start in range(0, outputs, step):
        exists = weight[start : start + step] != 0
        single = np.count_nonzero(exists, axis=(1, 2, 3)) == 1
        row, column, *at = np.nonzero(exists[single])
        reads |= exists[~single].any(axis=(0, 2, 3))
        rows, others = (start + np.flatnonzero(of) for of in (single, ~single))
        found.append((rows[row], column, np.ravel_multi_index(tuple(at), kernel), others))
    row, column, tap, other = map(np.concatenate, zip(*found, strict=True))
    if len(row) < LEAST_SHARE * outputs:
        return None
    order = np.argsort(tap, kind="stable")
    row, column, tap = row[order], column[order], tap[order]
    where = [(int(y), int(x)) for y, x in zip(*np.unravel_index(np.unique(tap), kernel), strict=True)]
    ends = [*np.flatnonzero(np.diff(tap, prepend=-1)).tolist(), len(tap)]
    read = np.flatnonzero(reads) if reads.any() else np.arange(1)  # where the others have no weights at all
    layer = (
        replace(synapse, weight=np.ascontiguousarray(synapse.weight[np.ix_(other, read)]), bias=None)
        if len(other)
        else None
    )
    y, x = np.unravel_index(tap, kernel)
    tensors = (
        torch.from_numpy(np.asarray(one))
        for one in (row, column, weight[row, column, y, x].astype(np.float32), other, read)
    )
    out, into, weights, rest, read_by = tensors
    return Repeats(out, into, dict(zip(where, map(slice, ends, ends[1:]), strict=True)), weights, rest, read_by, layer)
