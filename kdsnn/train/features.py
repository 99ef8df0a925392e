"""Feature distillation between any teacher and any student: pairs of features, margins, regressors.

The "overhaul" of Heo et al. (ICCV 2019) as KDSNN uses it: the teacher's feature before ReLU goes through
a ReLU with a negative margin, the student's is a firing rate brought to the teacher's channels by a
regressor. `kdsnn.train.losses.overhaul` compares the two. The networks of this project know where their stages end;
of any other two modules the user names the layers, see `parse_taps`.
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import adaptive_avg_pool2d

from kdsnn.data.dataset import brief
from kdsnn.errors import KdsnnError
from kdsnn.models import StagedNetwork, Tap, stage_taps
from kdsnn.train.calling import CallingConvention, black, neuron_layers, trial

TAIL = 0.001
"""Below this probability of a negative feature its mean is not worth computing: the margin is -3 standard
deviations."""


CANDIDATES = 5
"""Layers of each network that a message proposes."""

Taps = Sequence[tuple[str, str]]
"""(layer of the student, layer of the teacher) by their paths, from the first stage to the last."""


@dataclass(frozen=True)
class FeaturePair:
    """A pair is a feature of a teacher and the one of its student that it guides.

    Attributes:
        teacher: its `module` gives the feature, and takes it in where `at_input`.
        student: its `module` gives spikes: all steps (T, N, …) at once, or one step (N, …) in each call where `by_call`.
    """

    teacher: Tap
    student: Tap
    at_input: bool = False
    by_call: bool = False

    def guide(self, value: Tensor) -> Tensor:
        """Keep the teacher's feature: of an output a copy, because a ReLU behind it may change it in place."""
        return value if self.at_input else value.clone()

    def part(self, spikes: Tensor) -> Tensor:
        """Keep what the student's layer gives in one call, on the spot: later the layer behind may have changed it."""
        return spikes.clone() if self.by_call else spikes.mean(0)

    def rate(self, parts: Sequence[Tensor]) -> Tensor:
        """Make the student's feature, the mean over time (N, C, H, W), of the parts of all calls."""
        return as_maps(torch.stack(tuple(parts)).mean(0) if self.by_call else parts[0])


@dataclass(frozen=True, eq=False)
class Guided:
    """A student that learns from features is trained with the pairs, and with a regressor for each."""

    pairs: tuple[FeaturePair, ...]
    regressors: nn.ModuleList


def parse_taps(text: str) -> tuple[tuple[str, str], ...]:
    """Read "student.layer=teacher.layer,…" as `Taps`.

    Raises KdsnnError when it reads otherwise.
    """
    found = []
    for part in text.split(","):
        student, equals, teacher = (piece.strip() for piece in part.partition("="))
        if not (student and equals and teacher) or "=" in teacher:
            raise KdsnnError(
                f"taps '{brief(text)}': they must read student.layer=teacher.layer,… and '{brief(part.strip())}' does not."
            )
        found.append((student, teacher))
    return tuple(found)


def feature_pairs(
    teacher: nn.Module,
    student: nn.Module,
    taps: Taps,
    convention: CallingConvention,
    sample_shape: tuple[int, ...],
    T: int,
) -> tuple[FeaturePair, ...]:
    """Find which features of `teacher` guide which of `student`, called by `convention` on images (C, H, W) or on frames
    (T, C, H, W), of which the teacher sees one image.

    With `taps` a feature is what the named layer gives. Without, two networks of this project have their own.

    Raises KdsnnError when there are no taps and one of the networks is another module, when a layer does not exist, or
    when it gives no feature.
    """
    if not taps:
        if isinstance(teacher, StagedNetwork) and isinstance(student, StagedNetwork):
            return tuple(FeaturePair(t, s, at_input=True) for t, s in pairs(teacher, student))
        raise KdsnnError(
            "Method feature needs to know which layers of two networks belong together: give taps, pairs of a student's "
            f"and a teacher's layer such as '{_candidates(student)[-1]}={_candidates(teacher)[-1]}'. Layers to choose from "
            f"are in the student {', '.join(_candidates(student))}; in the teacher {', '.join(_candidates(teacher))}."
        )
    for called, module, named in (
        ("student", student, [s for s, _ in taps]),
        ("teacher", teacher, [t for _, t in taps]),
    ):
        _require_layers(called, module, named)
    images, shown = black(student, sample_shape, T), black(teacher, sample_shape[-3:], T)
    with trial(student), recorded(student, [(s, _untouched) for s, _ in taps]) as steps:
        convention.run(student, images, T)
    with trial(teacher), recorded(teacher, [(t, _untouched) for _, t in taps]) as given:
        teacher(shown)
    found = []
    for (ours, theirs), spikes, outputs in zip(taps, steps, given, strict=True):
        by_call = _by_call(ours, spikes, len(images), T)
        rate = as_maps(spikes[0] if by_call else spikes[0].mean(0))
        bn = theirs if isinstance(teacher.get_submodule(theirs), nn.BatchNorm1d | nn.BatchNorm2d) else None
        guide = Tap(theirs, bn, _channels("teacher", theirs, _only(theirs, outputs)))
        found.append(FeaturePair(guide, Tap(ours, None, _channels("student", ours, rate)), by_call=by_call))
    return tuple(found)


Read = Callable[[Tensor], Tensor]
"""What is kept of a value that a layer gives or takes in."""


@contextmanager
def recorded(
    module: nn.Module, reads: Sequence[tuple[str, Read]], *, at_input: bool = False
) -> Iterator[list[list[Tensor]]]:
    """While open, a forward pass appends what is read of every layer's output: one list for each, one entry for each
    call.

    `at_input`: of what it takes in, in place of what it gives. Gradients flow as usual.
    """
    found: list[list[Tensor]] = [[] for _ in reads]

    def giving(read: Read, entries: list[Tensor]) -> Any:
        return lambda part, args, output: entries.append(read(output))

    def taking(read: Read, entries: list[Tensor]) -> Any:
        return lambda part, args: entries.append(read(args[0]))

    handles = []
    for (layer, read), entries in zip(reads, found, strict=True):
        part = module.get_submodule(layer)
        if at_input:
            handles.append(part.register_forward_pre_hook(taking(read, entries)))
        else:
            handles.append(part.register_forward_hook(giving(read, entries)))
    try:
        yield found
    finally:
        for handle in handles:
            handle.remove()


def _untouched(value: Tensor) -> Tensor:
    return value


def as_maps(feature: Tensor) -> Tensor:
    """Leave (N, C, H, W) as it is, and view the values (N, F) of a linear layer as maps of one pixel."""
    return feature[..., None, None] if feature.dim() == 2 else feature


def margins(bn: nn.BatchNorm1d | nn.BatchNorm2d) -> Tensor:
    """Compute the margin of every channel behind a BatchNorm, float32 (C,), never above 0 but for rounding.

    With μ = β and s = |γ| (0 and 1 where it has no affine parameters) a feature is taken as normal, x ~ N(μ, s²), and
    its margin is the mean of its negative part (Heo et al., Eq. 5; φ and Φ are the standard normal's density and
    distribution):

        m = E[x | x < 0] = μ - s φ(μ/s) / Φ(-μ/s),    and m = -3 s where Φ(-μ/s) ≤ 0.001
    """
    mu, s = torch.zeros(bn.num_features).double(), torch.ones(bn.num_features).double()
    if bn.affine:
        mu = bn.bias.detach().double()
        s = bn.weight.detach().double().abs().clamp_min(1e-12)  # a dead channel: its margin is min(μ, 0)
    ratio = mu / s
    negative = torch.special.ndtr(-ratio)
    density = torch.exp(-ratio.square() / 2) / math.sqrt(2 * math.pi)
    return torch.where(negative > TAIL, mu - s * density / negative.clamp_min(TAIL), -3 * s).float()


def margin_relu(x: Tensor, margin: Tensor) -> Tensor:
    """Compute max(x, m) per channel: `x` (N, C, H, W), `margin` (C,)."""
    return torch.maximum(x, margin[:, None, None])


def pairs(teacher: StagedNetwork, student: StagedNetwork) -> list[tuple[Tap, Tap]]:
    """Pair the stages of teacher and student: the last min(n) of both, in order.

    From the end, because that is where both see whole objects: the late stages of two networks of
    different depth correspond better than the early ones.
    """
    of_teacher, of_student = stage_taps(teacher), stage_taps(student)
    n = min(len(of_teacher), len(of_student))
    return list(zip(of_teacher[-n:], of_student[-n:], strict=True))


def teacher_margins(teacher: nn.Module, taps: Sequence[Tap], device: torch.device) -> list[Tensor]:
    """Compute the margins of the tapped stages, each (C,); 0, a plain ReLU, where no BatchNorm precedes the feature."""
    found = []
    for tap in taps:
        bn = None if tap.bn is None else teacher.get_submodule(tap.bn)
        margin = margins(bn) if isinstance(bn, nn.BatchNorm1d | nn.BatchNorm2d) else torch.zeros(tap.channels)
        found.append(margin.to(device))
    return found


def regressors(taps: Sequence[tuple[Tap, Tap]], *, seed: int) -> nn.ModuleList:
    """Make a regressor for every pair (teacher, student): 1×1 convolution without bias ~ N(0, 2/outputs), then
    BatchNorm.

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
    """Bring features (N, C, H, W) of two networks to one grid: along each axis the larger is averaged down to the
    smaller."""
    size = min(a.shape[-2], b.shape[-2]), min(a.shape[-1], b.shape[-1])
    return _pooled(a, size), _pooled(b, size)


def _pooled(x: Tensor, size: tuple[int, int]) -> Tensor:
    return x if x.shape[-2:] == size else adaptive_avg_pool2d(x, size)


def _candidates(module: nn.Module) -> list[str]:
    """List a few layers that a user may have meant: a student's last neurons; of an ANN BatchNorms, convolutions or
    any leaves."""
    kinds: list[list[str]] = [[path for path, _ in neuron_layers(module)]]
    for kind in (nn.BatchNorm2d, nn.Conv2d, nn.Module):
        kinds.append(
            [path for path, part in module.named_modules() if isinstance(part, kind) and not list(part.children())]
        )
    named = next((paths for paths in kinds if any(paths)), ["layer"])
    return [path for path in named if path][-CANDIDATES:]


def _require_layers(called: str, module: nn.Module, named: Sequence[str]) -> None:
    known = [path for path, _ in module.named_modules() if path]
    for path in named:
        if path not in known:
            near = difflib.get_close_matches(path, known, 3) or _candidates(module)
            raise KdsnnError(f"The {called} has no layer '{brief(path)}': choose one such as {', '.join(near)}.")


def _by_call(path: str, outputs: Sequence[Tensor], samples: int, T: int) -> bool:
    """Tell a student's layer that gives one step in each of T calls (True) from one that gives all at once. Raises
    KdsnnError for others."""
    shapes = {tuple(output.shape) if isinstance(output, Tensor) else (type(output).__name__,) for output in outputs}
    if len(shapes) == 1:
        shape = shapes.copy().pop()
        if len(outputs) == 1 and shape[:2] == (T, samples):
            return False
        if len(outputs) == T and shape[:1] == (samples,):
            return True
    raise KdsnnError(
        f"The student's layer '{path}' gives {', '.join(map(str, sorted(shapes, key=str))) or 'nothing'} in {len(outputs)} "
        f"calls for {samples} images: taps name layers of neurons, which give (T, N, …) at once or (N, …) in T={T} calls."
    )


def _only(path: str, outputs: Sequence[Tensor]) -> Tensor:
    """Return what a teacher's layer gave in its one call. Raises KdsnnError where it was another number."""
    if len(outputs) != 1 or not isinstance(outputs[0], Tensor):
        raise KdsnnError(
            f"The teacher's layer '{path}' gives {len(outputs)} tensors for a batch: name one that gives one."
        )
    return as_maps(outputs[0])


def _channels(called: str, path: str, feature: Tensor) -> int:
    if feature.dim() != 4:
        raise KdsnnError(
            f"The {called}'s layer '{path}' gives a feature of shape {tuple(feature.shape)}: (N, C, H, W) or (N, F) is needed."
        )
    return feature.shape[1]
