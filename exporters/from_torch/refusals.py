"""How a refusal is worded: the module, what it does, what to do instead, and the line of the user's code."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from types import CodeType, FrameType
from typing import Any

import torch
from torch import nn

from exporters.errors import DeployError

_INSTALLED = Path(torch.__file__).parent.parent
LIBRARIES = tuple(
    str(folder) + os.sep for folder in (*(_INSTALLED / p for p in ("torch", "spikingjelly")), Path(__file__).parent)
)
"""Folders whose code is not the user's."""


class LoweringError(DeployError):
    """A network that the SpikingGraph cannot express: the module, what it does, what to do, where in the user's code."""


class MixedSamplesError(LoweringError):
    """Membranes that run on from one sample of a batch to the next: a network that is right for one sample at a time at most."""


ONE_TENSOR = "one tensor"
"""What a network returns of which nothing is to be chosen."""


class SeveralOutputsError(LoweringError):
    """A network that returns several tensors, of which none was chosen, or one that is not there.

    Attributes:
        returned: what its forward returns, in words.
    """

    def __init__(self, message: str, returned: str) -> None:
        super().__init__(message)
        self.returned = returned


def node_name(path: str, module: nn.Module) -> str:
    """The node a module becomes: its path; a bare number (in a Sequential) says too little, so its kind goes before it."""
    kind = type(module).__name__.lower()
    return path if path and not path.replace(".", "").isdigit() else f"{kind}{path}"


ENTRIES: set[CodeType] = set()
"""Functions of this package that call the user's forward: what lies outside them is not the network's code."""


def user_line(frame: FrameType | None = None) -> str:
    """Where in the user's code we are, as " (file.py:12)"; nothing where a library's layers follow one another."""
    frame = sys._getframe(1) if frame is None else frame
    while frame is not None and frame.f_code not in ENTRIES:
        file = frame.f_code.co_filename
        if not file.startswith(LIBRARIES) and not file.startswith("<"):
            return f" ({_short(file)}:{frame.f_lineno})"
        frame = frame.f_back
    return ""


def call_site() -> tuple[tuple[CodeType, int], ...]:
    """The instructions of the user's code that are being done, from the innermost call outward: a loop comes back to them."""
    found = []
    frame: FrameType | None = sys._getframe(1)
    while frame is not None and frame.f_code not in ENTRIES:
        if not frame.f_code.co_filename.startswith((*LIBRARIES, "<")):
            found.append((frame.f_code, frame.f_lasti))
        frame = frame.f_back
    return tuple(found)


def raised_line(error: BaseException) -> str:
    """As `user_line`, for where an error came from."""
    found, inside = "", False
    traceback = error.__traceback__
    while traceback is not None:
        code = traceback.tb_frame.f_code
        inside = inside or code in ENTRIES
        if inside and not code.co_filename.startswith((*LIBRARIES, "<")):
            found = f" ({_short(code.co_filename)}:{traceback.tb_lineno})"
        traceback = traceback.tb_next
    return found


def _short(file: str) -> str:
    path = Path(file)
    return str(path.relative_to(Path.cwd())) if path.is_relative_to(Path.cwd()) else file


def first_line(error: BaseException) -> str:
    """The first line of an error's message, or its kind."""
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__


NEAREST = {
    "relu": "this is an ANN layer: build the network with neurons (SpikingJelly's IFNode) or use a spiking student",
    "gelu": "this is an ANN layer: build the network with neurons",
    "sigmoid": "this is an ANN layer: build the network with neurons",
    "tanh": "this is an ANN layer: build the network with neurons",
    "_softmax": "scores need none: read the spikes or currents before it",
    "_log_softmax": "scores need none: read the spikes or currents before it",
    "native_group_norm": "use BatchNorm2d, which folds into the weights",
    "native_layer_norm": "use BatchNorm2d, which folds into the weights",
    "bmm": "a product of two signals (attention) has no form in a spiking graph",
    "upsample_bilinear2d": "enlarge by nearest pixels, or use strided convolutions only",
    "bernoulli": "a network that draws random numbers is another one at every run; encode on the host",
    "rand_like": "a network that draws random numbers is another one at every run; encode on the host",
    "randn_like": "a network that draws random numbers is another one at every run; encode on the host",
    "native_dropout": "dropout that goes on after training draws random numbers; use nn.Dropout, which stops",
}
"""Operation → what to do instead."""

WITHOUT_COUNTERPART = {
    "SynapseFilter": "its current leaks at steps without a spike alone, I ← I·(1 − (1 − s)/τ) + s, which that of no graph does; use "
    "neuron.CUBALIFNode, whose current leaks at every step",
}
"""SpikingJelly's layer → why no graph has it, and what to do instead."""

SUPPORTED = (
    "sums, constant factors, convolutions, linear layers, BatchNorm, pools, rearrangements and spiking neurons have one"
)


def without_counterpart(operation: str) -> str:
    """What to say of an operation that a spiking network has not."""
    plain = operation.strip("_").removesuffix("_with_indices")
    return f"the operation {plain!r} has no counterpart in a spiking network; {NEAREST.get(operation, SUPPORTED)}"


def _channels(shape: tuple[int, ...]) -> int:
    return shape[-3] if len(shape) > 3 else shape[-1]


def _is_spikingjellys_layer(module: nn.Module) -> bool:
    """Whether it is one of SpikingJelly's layers, which take shapes of their own; its neurons take any."""
    return any(kind.__module__.startswith("spikingjelly.activation_based.layer") for kind in type(module).__mro__)


def explained(module: nn.Module, args: tuple[Any, ...], error: Exception) -> str:
    """What is wrong with the shape that a layer of torch was given, in the words of the graph; else the error's own."""
    given = args[0] if args else None
    if isinstance(given, torch.Tensor):
        shape = tuple(given.shape)
        match module:
            case nn.Conv2d() if given.ndim not in (4, 5):
                return f"a convolution needs (C, H, W) input, but {shape[1:]} arrives"
            case nn.Conv2d() if shape[-3] != module.in_channels:
                return f"the weight expects {module.in_channels} input channels, but {shape[-3]} arrive"
            case nn.Linear() if shape[-1:] != (module.in_features,):
                return f"the weight expects {module.in_features} inputs, but {shape[-1] if shape else 1} arrive"
            case nn.modules.batchnorm._BatchNorm() if (
                len(shape) > 1 and (found := _channels(shape)) != module.num_features
            ):
                return f"it normalizes {module.num_features} channels, but {found} arrive"
            case nn.MaxPool2d() | nn.AvgPool2d() | nn.AdaptiveAvgPool2d() if given.ndim < 4:
                return f"a pool needs (C, H, W) input, but {shape[1:]} arrives; put it before the flatten"
            case nn.MaxPool2d() | nn.AvgPool2d():
                return f"its {module.kernel_size} window does not fit into its {shape[-2]}×{shape[-1]} input"
            case _ if getattr(module, "step_mode", "s") == "m" and given.ndim < 5 and _is_spikingjellys_layer(module):
                return (
                    f'{first_line(error)}: its step_mode is "m", so that it takes (T, N, …), and {shape} arrives; set that of the '
                    'whole network (functional.set_step_mode(net, "m"))'
                )
    return first_line(error)
