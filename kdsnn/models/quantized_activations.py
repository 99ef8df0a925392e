"""ANNs with activations of few bits: the networks that a spiking student of T steps has to be compared with.

T spikes carry T + 1 levels, and so do ⌈log2(T + 1)⌉ bits (Yan et al., arXiv 2409.08290). An activation of b bits is one of
2^b evenly spaced values between 0 and a clip α that is learned:

    y = α / n · rint(n · min(max(x / α, 0), 1)),   n = 2^b - 1

That is PACT (Choi et al. 2018, arXiv 1805.06085), and with b bits in place of L steps QCFS (Bu et al., ICLR 2022). Gradients
pass as if nothing was rounded (straight-through); α gets the gradient of what it clips and of the rounding error, scaled
as in LSQ (Esser et al., ICLR 2020, arXiv 1902.08153).
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from kdsnn.errors import KdsnnError
from kdsnn.models.kit import GlobalAverage
from kdsnn.models.rounding import Rounded, best_clip

MOST_BITS = 8
MEASURED = 1 << 16
"""Positive values of a layer at most, evenly chosen, of which its first clip is worked out."""

AVERAGES = (nn.AvgPool2d, nn.AdaptiveAvgPool2d, GlobalAverage)
"""Layers that give more levels than they read, and are rounded again."""


class QuantizedReLU(nn.Module):
    """The activation of `bits` bits that the module's description tells.

    Attributes:
        bits: 1 to 8.
        clip: α; its sign does not count.
    """

    def __init__(self, bits: int) -> None:
        super().__init__()
        self.bits = bits
        self.steps = 2**bits - 1
        self.clip = nn.Parameter(torch.tensor(1.0))
        self._measuring = False

    def forward(self, x: Tensor) -> Tensor:
        """Round `x` of any shape (N, …), in single precision at least."""
        x = x.float() if x.dtype in (torch.float16, torch.bfloat16) else x
        if self._measuring:
            self._measure(x)
        clip = self.clip.abs()
        if self.training:
            share = 1 / math.sqrt(max(1, x[0].numel()) * self.steps)
            clip = clip * share + (clip * (1 - share)).detach()
        level: Tensor = Rounded.apply((x / clip).clamp(0, 1), self.steps, self.steps)  # type: ignore[no-untyped-call]
        return clip * level

    def extra_repr(self) -> str:
        """What printing the module says of it."""
        return f"bits={self.bits}"

    @torch.no_grad()
    def _measure(self, x: Tensor) -> None:
        positive = x[x > 0].double()
        if len(positive):
            self.clip.fill_(best_clip(positive[:: -(-len(positive) // MEASURED)], self.steps, lowest=0))


def quantize_activations(module: nn.Module, bits: int) -> nn.Module:
    """Put activations of few bits in the place of every ReLU of an ANN, and behind every average, in place.

    Parameters keep their names; each activation has one more, its clip, which is 1 until `clips_measured`. A module that has
    such activations already is left alone.

    Returns:
        It.

    Raises:
        KdsnnError: bits out of 1 to 8, other bits than it has, or no `torch.nn.ReLU` in it.
    """
    if not 1 <= bits <= MOST_BITS:
        raise KdsnnError(f"{bits} bits of an activation: they must be 1 to {MOST_BITS}")
    has = {part.bits for part in module.modules() if isinstance(part, QuantizedReLU)}
    if has:
        if has != {bits}:
            raise KdsnnError(f"its activations have {', '.join(map(str, sorted(has)))} bits, not {bits}")
        return module
    replaced: dict[nn.Module, nn.Module] = {}
    for parent in list(module.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, nn.ReLU):
                new = replaced.setdefault(child, QuantizedReLU(bits))
            elif isinstance(child, AVERAGES):
                new = replaced.setdefault(child, nn.Sequential(child, QuantizedReLU(bits)))
            else:
                continue
            setattr(parent, name, new)
    if not any(isinstance(old, nn.ReLU) for old in replaced):
        raise KdsnnError(
            f"{type(module).__name__} has no torch.nn.ReLU, so it has no activations to quantize; use modules for them, or an "
            "architecture of `list models`"
        )
    return module


@contextmanager
def clips_measured(module: nn.Module) -> Iterator[None]:
    """While the context is open, a forward pass sets every clip to where rounding its input errs least."""
    parts = [part for part in module.modules() if isinstance(part, QuantizedReLU)]
    for part in parts:
        part._measuring = True
    try:
        yield
    finally:
        for part in parts:
            part._measuring = False


@torch.no_grad()
def levels_read(module: nn.Module, images: Tensor) -> dict[str, int]:
    """Run a module in evaluation mode and count the different values that each weighted layer reads; 0: it reads `images`.

    Args:
        module: an ANN, (N, C, H, W) → logits.
        images: some (N, C, H, W); a layer may read fewer values of few images than it could.
    """
    found: dict[str, int] = {}

    def see(name: str, x: Tensor) -> None:
        own = x.numel() == images.numel() and torch.equal(x.flatten(), images.flatten())
        found[name] = max(found.get(name, 0), 0 if own else len(torch.unique(x)))

    handles = [
        part.register_forward_pre_hook(lambda _, args, name=name: see(name, args[0]))
        for name, part in module.named_modules()
        if isinstance(part, nn.Conv2d | nn.Linear)
    ]
    training = module.training
    try:
        module.eval()(images)
    finally:
        module.train(training)
        for handle in handles:
            handle.remove()
    return found
