"""Feature distillation between any teacher and any student: margins, pairs of stages, regressors.

The "overhaul" of Heo et al. (ICCV 2019) as KDSNN uses it: the teacher's feature before ReLU goes through
a ReLU with a negative margin, the student's is a firing rate brought to the teacher's channels by a
regressor. `kdsnn.train.losses.overhaul` compares the two.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn.functional import adaptive_avg_pool2d

from kdsnn.models import Network, Tap, stage_taps

TAIL = 0.001
"""Below this probability of a negative feature its mean is not worth computing: the margin is -3 standard deviations."""


def margins(bn: nn.BatchNorm2d) -> Tensor:
    """The margin of every channel behind a BatchNorm, float32 (C,), never above 0 but for rounding.

    With μ = β and s = |γ| a feature is taken as normal, x ~ N(μ, s²), and its margin is the mean of its
    negative part (Heo et al., Eq. 5; φ and Φ are the standard normal's density and distribution):

        m = E[x | x < 0] = μ - s φ(μ/s) / Φ(-μ/s),    and m = -3 s where Φ(-μ/s) ≤ 0.001

    Raises ValueError when the BatchNorm has no affine parameters.
    """
    if not bn.affine:
        raise ValueError("the margin comes from BatchNorm's affine parameters, and this one has none")
    mu = bn.bias.detach().double()
    s = bn.weight.detach().double().abs().clamp_min(1e-12)  # a dead channel: its margin is min(μ, 0)
    ratio = mu / s
    negative = torch.special.ndtr(-ratio)
    density = torch.exp(-ratio.square() / 2) / math.sqrt(2 * math.pi)
    return torch.where(negative > TAIL, mu - s * density / negative.clamp_min(TAIL), -3 * s).float()


def margin_relu(x: Tensor, margin: Tensor) -> Tensor:
    """max(x, m) per channel: `x` (N, C, H, W), `margin` (C,)."""
    return torch.maximum(x, margin[:, None, None])


def pairs(teacher: Network, student: Network) -> list[tuple[Tap, Tap]]:
    """Which stage of the teacher guides which of the student: the last min(n) of both, in order.

    From the end, because that is where both see whole objects: the late stages of two networks of
    different depth correspond better than the early ones.
    """
    of_teacher, of_student = stage_taps(teacher), stage_taps(student)
    n = min(len(of_teacher), len(of_student))
    return list(zip(of_teacher[-n:], of_student[-n:], strict=True))


def teacher_margins(teacher: Network, taps: Sequence[Tap], device: torch.device) -> list[Tensor]:
    """The margins of the tapped stages, each (C,); 0, a plain ReLU, where no BatchNorm precedes the feature."""
    found = []
    for tap in taps:
        bn = None if tap.bn is None else teacher.get_submodule(tap.bn)
        margin = margins(bn) if isinstance(bn, nn.BatchNorm2d) else torch.zeros(tap.channels)
        found.append(margin.to(device))
    return found


def regressors(taps: Sequence[tuple[Tap, Tap]], *, seed: int) -> nn.ModuleList:
    """One regressor for every pair (teacher, student): 1×1 convolution without bias ~ N(0, 2/outputs), then BatchNorm.

    They learn with the student and are dropped with it: they belong to training, not to the network.
    `seed` draws their weights; torch's own generator stays as it was.
    """
    made = nn.ModuleList()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        for teacher, student in taps:
            conv = nn.Conv2d(student.channels, teacher.channels, 1, bias=False)
            nn.init.normal_(conv.weight, 0.0, math.sqrt(2 / teacher.channels))
            made.append(nn.Sequential(conv, nn.BatchNorm2d(teacher.channels)))
    return made


def same_size(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """Features (N, C, H, W) of two networks on one grid: along each axis the larger is averaged down to the smaller."""
    size = min(a.shape[-2], b.shape[-2]), min(a.shape[-1], b.shape[-1])
    return _pooled(a, size), _pooled(b, size)


def _pooled(x: Tensor, size: tuple[int, int]) -> Tensor:
    return x if x.shape[-2:] == size else adaptive_avg_pool2d(x, size)
