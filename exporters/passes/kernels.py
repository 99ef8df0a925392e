"""Some targets lack something that kernels can do instead: grouped convolutions where there are few groups or none, ORs
for max-pools."""

from __future__ import annotations

import numpy as np

from exporters.graph import Array, Conv2d, MaxPool2d


def merge_groups(weight: Array, groups: int, fewer: int) -> Array:
    """The convolution is rewritten in `fewer` groups, a divisor of `groups`: neighbors merge into block-diagonal
    kernels.

    Args:
        weight: (Cout, Cin/groups, kH, kW), of any type.
        groups: of the convolution.
        fewer: groups wanted; 1 for a convolution without.

    Returns:
        (Cout, Cin/fewer, kH, kW); zeros (False) where there was no synapse.
    """
    if fewer == groups:
        return weight
    merge = groups // fewer
    out, per_group = len(weight) // groups, weight.shape[1]
    merged: Array = np.zeros((len(weight), per_group * merge, *weight.shape[2:]), weight.dtype)
    for group in range(groups):
        rows, first = slice(group * out, (group + 1) * out), group % merge * per_group
        merged[rows, first : first + per_group] = weight[rows]
    return merged


def or_synapses(pool: MaxPool2d, channels: int, weight: float) -> Conv2d:
    """A max-pool of spikes is the OR of its window, which neurons compute behind these synapses: `weight` from each
    spike.

    A threshold above 0 and up to `weight` makes any spike of the window fire them. Weights are int32 where `weight` is
    an int.
    """
    kind = np.int32 if isinstance(weight, int) else np.float32
    kernel = np.full((channels, 1, *pool.kernel), weight, kind)
    return Conv2d(kernel, stride=pool.stride, padding=pool.padding, groups=channels)
