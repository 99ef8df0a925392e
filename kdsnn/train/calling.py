"""How a spiking module wants its images and what it gives back, found out by calling it once.

SpikingJelly leaves the form to its user: a module takes all steps at once or one by one, repeats the image itself, and
returns every step or the mean over time. A network of this project has `forward_static` and needs no trial. Of frames over
time (N, T, C, H, W) step t sees frame t; of images (N, C, H, W) every step sees the image.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal, assert_never
from weakref import WeakKeyDictionary

import torch
from spikingjelly.activation_based.functional import reset_net
from torch import Tensor, nn

from kdsnn.data.dataset import brief
from kdsnn.errors import KdsnnError

Form = Literal["static", "multi-step", "single-step", "own steps"]
"""Images (N, C, H, W) reach a module through `forward_static`, as frames (T, N, C, H, W), in T calls, or in one
call; frames (N, T, C, H, W) in the same ways but the first."""


@dataclass(frozen=True)
class CallingConvention:
    """How a module is called for T steps; `averaged`: it returns the mean over time (N, K) and no step by itself."""

    form: Form
    averaged: bool = False

    def __str__(self) -> str:
        shown = {
            "static": "through forward_static",
            "multi-step": "as frames (T, N, C, H, W)",
            "single-step": "in T calls with (N, C, H, W)",
            "own steps": "in one call with (N, C, H, W), repeating it itself",
        }[self.form]
        return f"{self.form}: takes the image {shown} and returns {'the mean (N, K)' if self.averaged else '(T, N, K)'}"

    def run(self, module: Any, images: Tensor, T: int) -> Tensor:
        """Call `module`, which is at rest, on images (N, C, H, W), or on frames (N, T, C, H, W): outputs (T, N, K), or
        (1, N, K) where they are averaged."""
        output: Tensor
        over_time = images.dim() == 5
        match self.form:
            case "static":
                output = module.forward_static(images, T)
            case "multi-step":
                # a copy for each step, because the module may write into it or take views that a broadcast one refuses
                output = module(
                    images.transpose(0, 1).contiguous()
                    if over_time
                    else images.unsqueeze(0).repeat(T, *(1 for _ in images.shape))
                )
            case "single-step":
                output = torch.stack([module(images[:, t].contiguous() if over_time else images) for t in range(T)])
            case "own steps":
                output = module(images)
            case _:
                assert_never(self.form)
        return output.unsqueeze(0) if self.averaged else output


def convention_of(module: nn.Module, sample_shape: tuple[int, ...], T: int) -> CallingConvention:
    """How a spiking module is called on images (C, H, W) or on frames (T, C, H, W), by trying it on a small batch of black
    ones; it is left as it was, at rest.

    What the step mode of its neurons suggests is tried first. Every neuron layer that is called must see exactly T
    steps; a module without neurons of SpikingJelly has to show by a time axis in its output that it spikes.

    Raises:
        KdsnnError: no form fits, with what was tried.
    """
    if hasattr(module, "forward_static"):
        return CallingConvention("static" if len(sample_shape) == 3 else "multi-step")
    modes = {getattr(node, "step_mode", "s") for _, node in neuron_layers(module)}
    forms: tuple[Form, ...] = ("multi-step", "own steps", "single-step")
    if modes == {"s"}:
        forms = ("single-step", "own steps", "multi-step")
    refusals = []
    with trial(module):
        for form in forms:
            found = _tried(module, form, sample_shape, T)
            if isinstance(found, CallingConvention):
                return found
            refusals.append(f"{form}: it {found}")
    raise KdsnnError(
        f"The student cannot be called for samples of {sample_shape} and T={T}. Tried were {'; '.join(refusals)}. Give a "
        "module that takes (T, N, C, H, W), or (N, C, H, W) in every step or once, and returns (N, K) per step or their mean."
    )


def neuron_layers(module: nn.Module) -> list[tuple[str, Any]]:
    """List the neuron layers in a module with their paths: those of SpikingJelly and of classes derived from them."""
    return [(path, part) for path, part in module.named_modules() if is_neuron_layer(part)]


def is_neuron_layer(module: nn.Module) -> bool:
    """Say whether a module is a neuron layer of SpikingJelly, or of a class derived from one."""
    return any(kind.__module__.startswith("spikingjelly.activation_based.neuron") for kind in type(module).__mro__)


_IN_USE: WeakKeyDictionary[nn.Module, threading.RLock] = WeakKeyDictionary()
_LOOKING = threading.Lock()


@contextmanager
def in_eval(module: nn.Module) -> Iterator[None]:
    """Inside, a module is in eval mode and no other thread has it so: its membranes, hooks and modes are its own, and
    two runs at once would mix them. Afterwards every part of it is in the mode in which it was."""
    with _LOOKING:
        lock = _IN_USE.setdefault(module, threading.RLock())
    with lock:
        training = [(part, part.training) for part in module.modules()]
        module.eval()
        try:
            yield
        finally:
            for part, was in training:
                part.training = was


@contextmanager
def trial(module: nn.Module) -> Iterator[None]:
    """Inside, a module may be called in eval mode, without gradients; afterwards it is as before, its neurons at
    rest."""
    with torch.no_grad(), torch.random.fork_rng(devices=[]), in_eval(module):
        reset_net(module)
        try:
            yield
        finally:
            reset_net(module)


def device_of(module: nn.Module) -> torch.device:
    """Tell where a module's parameters are; the CPU where it has none."""
    return next((parameter.device for parameter in module.parameters()), torch.device("cpu"))


def black(module: nn.Module, sample_shape: tuple[int, ...], T: int) -> Tensor:
    """Make a batch to try a module on, of size 2, or 3 where T is 2, so that samples and steps cannot be confused."""
    return torch.zeros(3 if T == 2 else 2, *sample_shape, dtype=torch.float32, device=device_of(module))


def _tried(module: nn.Module, form: Form, sample_shape: tuple[int, ...], T: int) -> CallingConvention | str:
    """The convention if this form fits, else what speaks against it: "it …"."""
    images = black(module, sample_shape, T)
    reset_net(module)
    with _steps_counted(module) as steps:
        try:
            output = CallingConvention(form).run(module, images, T)
        except Exception as error:  # whatever the user's forward raises
            return f"raises {type(error).__name__} ({brief(error)})"
    if not isinstance(output, Tensor):
        return f"returns a {type(output).__name__}"
    averaged = output.dim() == 2 and form != "single-step"
    if (not averaged and output.dim() != 3) or output.shape[-2] != len(images):
        return f"returns {_per_call(form, output)}"
    if (own := min(steps.values(), default=T)) != T:
        return f"lets the neuron layer {min(steps, key=steps.__getitem__)!r} see {own} steps"
    if not averaged and len(output) != T:
        return f"returns {len(output)} steps"
    if not steps and (averaged or form == "single-step"):
        return "has no neurons of SpikingJelly and returns no time axis, so that nothing shows that it spikes"
    return CallingConvention(form, averaged)


def _per_call(form: Form, output: Tensor) -> str:
    return str(tuple(output.shape[1:] if form == "single-step" else output.shape))


@contextmanager
def _steps_counted(module: nn.Module) -> Iterator[dict[str, int]]:
    """Count, while open, the time steps that every neuron layer sees, by its path; what is not called is not listed."""
    steps: dict[str, int] = {}

    def counter(path: str) -> Any:
        def count(node: Any, args: tuple[Any, ...], output: Any) -> None:
            several = getattr(node, "step_mode", "s") == "m" and args
            steps[path] = steps.get(path, 0) + (len(args[0]) if several else 1)

        return count

    handles = [node.register_forward_hook(counter(path)) for path, node in neuron_layers(module)]
    try:
        yield steps
    finally:
        for handle in handles:
            handle.remove()
