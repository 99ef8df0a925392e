"""The mean and standard deviation that a network of the user's own expects its images to be normalized with.

Data hold pixels in 0 to 1, and so does what is written: the graph takes pixels and does (x − mean)/std itself, folded into its
first layer, exactly also at padded borders (`exporters.graph.Conv2d`).
"""

from __future__ import annotations

import copy
import math
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

from kdsnn.errors import OptionError

if TYPE_CHECKING:
    from torch import Tensor, nn

Normalize: TypeAlias = "str | tuple[float | Sequence[float], float | Sequence[float]]"
"""A name of `NORMALIZATIONS`, "MEAN/STD" with one number each or one per channel, or a pair (mean, std) of these."""

SYNTAX = "MEAN/STD with one number each or one per channel, such as 0.1307/0.3081 or 0.49,0.48,0.45/0.25,0.24,0.26"


@dataclass(frozen=True)
class Normalization:
    """(x − mean)/std, channel by channel.

    Attributes:
        name: as the user said it.
        mean: in pixels of 0 to 1, one number or one per channel.
        std: likewise, positive.
        source: where the numbers of a name are from.
    """

    name: str
    mean: tuple[float, ...]
    std: tuple[float, ...]
    source: str = ""

    def facts(self) -> dict[str, Any]:
        """What the metadata of files says of it."""
        return {"mean": list(self.mean), "std": list(self.std)}


NORMALIZATIONS: Mapping[str, Normalization] = {
    one.name: one
    for one in (
        Normalization(
            "imagenet", (0.485, 0.456, 0.406), (0.229, 0.224, 0.225),
            "torchvision's documentation of its ImageNet weights (ImageClassification preset)",
        ),
        Normalization(
            "cifar10", (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616),
            "mean and standard deviation over all pixels of the 50,000 training images, to four digits",
        ),
        Normalization(
            "cifar100", (0.5071, 0.4865, 0.4409), (0.2673, 0.2564, 0.2762),
            "mean and standard deviation over all pixels of the 50,000 training images, to four digits",
        ),
        Normalization(
            "mnist", (0.1307,), (0.3081,),
            "mean and standard deviation over all pixels of the 60,000 training images, to four digits (PyTorch's MNIST example)",
        ),
    )
}  # fmt: skip
"""What `normalize` may name. Numbers that a network was trained with and that differ from these are given as numbers."""


def normalization(given: Normalize | None, shape: tuple[int, ...]) -> Normalization | None:
    """What `normalize` says, for samples of a shape (C, H, W) or (F,).

    Raises:
        OptionError: no such name, no numbers, another number of channels, or a std that is not positive.
    """
    if given is None:
        return None
    found = NORMALIZATIONS.get(given) if isinstance(given, str) else None
    text = given if isinstance(given, str) else "/".join(map(_written, given))
    if found is None:
        parts = [_numbers(part) for part in text.split("/")]
        if len(parts) != 2 or not all(parts):
            raise OptionError(
                f"{{normalize}}: it must be {', '.join(NORMALIZATIONS)} or {SYNTAX}", normalize=text[:100]
            )
        found = Normalization(text, parts[0], parts[1])
    if min(found.std) <= 0:
        raise OptionError("{normalize}: a standard deviation must be positive", normalize=text[:100])
    for numbers in (found.mean, found.std):
        if len(numbers) not in (1, shape[0]):
            channels = f"{shape[0]} channel{'s' if shape[0] > 1 else ''}" if len(shape) == 3 else f"{shape[0]} values"
            raise OptionError(
                f"{{normalize}}: it has {len(numbers)} numbers, and the network's samples have {channels}; give one, or {shape[0]}",
                normalize=text[:100],
            )
    return found


def _written(part: float | Sequence[float]) -> str:
    return ",".join(map(str, part)) if isinstance(part, Sequence) else str(part)


def _numbers(text: str) -> tuple[float, ...]:
    """The numbers of "0.1,0.2", or none where they are none."""
    try:
        numbers = tuple(float(part) for part in text.split(","))
    except ValueError:
        return ()
    return numbers if all(map(math.isfinite, numbers)) else ()


def normalizing(module: nn.Module, how: Normalization, shape: tuple[int, ...]) -> nn.Module:
    """The module as one that takes pixels in 0 to 1 and normalizes them itself; layers and weights are the module's own.

    Args:
        module: takes normalized samples.
        how: the normalization.
        shape: of one sample.
    """
    import torch

    from exporters.from_torch.watching import unwrapped

    root = unwrapped(module)
    kind = next((p.dtype for p in root.parameters() if p.is_floating_point()), torch.float32)
    mean, std = (torch.tensor(numbers, dtype=kind) for numbers in (how.mean, how.std))

    def before(_: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
        x: Tensor = args[0]
        inner = [1] * (len(shape) - 1)
        last = tuple(x.shape[-len(shape) :]) != shape  # time, behind the axes of the sample
        axes = [-1, *inner, *([1] if last else [])]
        # in the numbers of the module's own type, whichever type it is run in
        return ((x - mean.to(x.dtype).view(axes)) / std.to(x.dtype).view(axes), *args[1:])

    found = copy.copy(root)
    found._forward_pre_hooks = OrderedDict(root._forward_pre_hooks)
    handle = found.register_forward_pre_hook(before, prepend=True)
    del handle
    return found
