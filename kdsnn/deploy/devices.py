"""Where torch computes: a device that the user names, in place of the one that is chosen by what there is."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import TYPE_CHECKING

from kdsnn.errors import OptionError

if TYPE_CHECKING:
    import torch
    from torch import nn

KINDS = ("cpu", "cuda", "mps", "xpu")


def device_named(name: str) -> torch.device:
    """The device of a name such as "cpu", "cuda" or "cuda:1".

    Raises:
        OptionError: there is no such device, or not on this machine.
    """
    import torch

    if name.partition(":")[0] not in KINDS:
        raise OptionError(
            f"{{device}}: it must be one of {', '.join(KINDS)}, or with a number, cuda:1", device=name[:50]
        )
    try:
        device = torch.device(name)
        torch.zeros(1, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:  # each kind of device has its own
        reason = (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(".")[:150]
        raise OptionError(
            f"{{device}}: torch has no such device here ({reason}); leave it out, or take cpu", device=name[:50]
        ) from error
    return device


def require_device(name: str | None) -> None:
    """Raise OptionError as `device_named` does, before data is waited for; None is any."""
    if name is not None:
        device_named(name)


@contextmanager
def computing_on(name: str | None) -> Iterator[None]:
    """Inside, trainings compute on this device; None leaves the choice to accelerate. What they draw leaves torch's random
    numbers as they were.

    Raises:
        OptionError: as `device_named`; a launcher has given every process a device already.
    """
    import torch

    if name is None:
        with torch.random.fork_rng(devices=[]):
            yield
        return
    from accelerate import Accelerator, PartialState

    Accelerator()  # so that there is a state
    device, state = device_named(name), PartialState()
    if state.num_processes > 1:
        raise OptionError("{device}: the launcher gives every process its device; leave it out", device=name)
    before, state.device = state.device, device  # whoever makes an accelerator from now on reads it there
    try:
        chosen = torch.cuda.device(device) if device.type == "cuda" else nullcontext()
        with chosen, torch.random.fork_rng(devices=[]):
            yield
    finally:
        state.device = before


@contextmanager
def moved(module: nn.Module, name: str | None) -> Iterator[None]:
    """Inside, a module lies on this device; None leaves it where it is.

    Raises:
        OptionError: as `device_named`.
    """
    if name is None:
        yield
        return
    from kdsnn.train.calling import device_of

    device, before = device_named(name), device_of(module)
    module.to(device)
    try:
        yield
    finally:
        module.to(before)
