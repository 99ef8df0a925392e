"""Kernels of grouped convolutions, for targets that know fewer groups or none."""

from __future__ import annotations

import numpy as np

from exporters.graph import Array


def merge_groups(weight: Array, groups: int, fewer: int) -> Array:
    """The same convolution in `fewer` groups, a divisor of `groups`: neighbors merge into block-diagonal kernels.

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
