"""Neurons that the user declares: "LIF:tau=2,v_threshold=1" for a class whose arithmetic is not understood."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from exporters.from_torch.lowering import Constants, Lowering
from exporters.from_torch.neurons import above
from exporters.from_torch.refusals import LoweringError, first_line
from exporters.graph import Shape

FORMS = "IF:v_threshold=1, LIF:tau=2,v_threshold=1,decay_input=true,v_reset=0, or LIF:leak=0.9"
STEPS = 10_000
"""Neurons times steps at least that a declared neuron is run beside what it is said to be."""

LEAST_STEPS = 8
"""Steps at least, where one call is one step: what adapts or rests shows only after some."""

SLACK = 16.0
"""How much wider than the bound of one sum a tie may be, for what the module computes in another order."""


def parsed(declarations: Mapping[str, str]) -> dict[str, Constants]:
    """What the user says of classes, by their names.

    Raises:
        LoweringError: a declaration that cannot be read.
    """
    return {name: _neuron(name, text) for name, text in declarations.items()}


def _neuron(name: str, text: str) -> Constants:
    kind, _, rest = text.partition(":")
    given: dict[str, str] = {}
    for part in filter(None, (p.strip() for p in rest.split(","))):
        key, equals, value = part.partition("=")
        if not equals:
            raise LoweringError(f"{name}: {part!r} of {text!r} is no name=value; write {FORMS}")
        given[key.strip()] = value.strip().lower()
    known = {"v_threshold", "v_reset"} | ({"tau", "leak", "decay_input"} if kind == "LIF" else set())
    if (
        kind not in ("IF", "LIF")
        or not given.keys() <= known
        or (kind == "LIF" and len({"tau", "leak"} & given.keys()) != 1)
    ):
        raise LoweringError(f"{name}: {text!r} declares no neuron; write {FORMS}")
    try:
        threshold = float(given.get("v_threshold", "1"))
        reset = given.get("v_reset", "0")
        if reset != "none" and float(reset) != 0:
            raise LoweringError(f"{name}: v_reset is {reset}; it must be 0, or none for a reset by subtraction")
        tau = float(given["tau"]) if "tau" in given else None
        leak = 1 - 1 / tau if tau is not None else float(given.get("leak", "1"))
    except ValueError as error:
        raise LoweringError(f"{name}: a value of {text!r} is no number; write {FORMS}") from error
    decays = tau is not None and given.get("decay_input", "true") in ("true", "1", "yes")
    gain = 1 / tau if decays and tau is not None else 1.0
    return Constants(np.array(threshold), leak, "soft" if reset == "none" else "hard", gain)


def check_declared(
    lowering: Lowering, forward: Callable[..., Any], constants: Constants, shape: Shape, *, many: bool
) -> Constants:
    """Run a module on random currents beside what it was declared to be.

    Each membrane is reset by the spikes that the module gave, so that no difference spreads; a spike may differ only where
    the membrane is so close to the threshold that rounding decides (as in `kdsnn.deploy.proof`; Higham 2002, section 4.2).

    Args:
        lowering: the state.
        forward: of the module, whose memory is fresh.
        constants: what it was declared to be.
        shape: of its input, (T, N, …) if `many`, else (N, …).
        many: whether one call is all steps.

    Returns:
        What it is: as declared, or, where it is silent at its very threshold, with the next threshold that its type has.

    Raises:
        LoweringError: it spikes otherwise, or cannot be run.
    """
    currents = _probes(lowering, constants, shape, many=many)
    try:
        found = forward(currents) if many else torch.stack([forward(x) for x in currents])
    except Exception as error:  # whatever a user's forward raises
        raise lowering.error(
            f"it cannot be run on random currents to check the declaration ({first_line(error)})"
        ) from error
    if not isinstance(found, Tensor) or found.shape != currents.shape:
        raise lowering.error("it does not give as many spikes as it takes currents, as neurons do")
    spikes = found.detach().double()
    if not bool(((spikes == 0) | (spikes == 1)).all()):
        raise lowering.error("what it gives on random currents is not 0 or 1 everywhere, so it is no neuron")
    membranes, bound = _membranes(constants, currents.double(), spikes, torch.finfo(currents.dtype).eps / 2)
    level = float(constants.threshold.flat[0])
    wrong = ((membranes >= level) != spikes.bool()) & ((membranes - level).abs() > bound)
    if count := int(wrong.sum()):
        t, *where = wrong.nonzero()[0].tolist()
        at = (t, *where)
        raise lowering.error(
            f"it was declared to be another neuron than it is: {count} of {wrong.numel()} spikes differ on random currents; at "
            f"step {t + 1} it {'fires' if spikes[at] else 'is silent'} where the membrane of the declared one is "
            f"{float(membranes[at]):.6g} at threshold {level:g}"
        )
    at_level = membranes == level
    if bool(at_level.any()) and not bool(spikes[at_level].any()):
        return replace(constants, threshold=np.array(above(level, lowering.dtype)))
    return constants


def _probes(lowering: Lowering, constants: Constants, shape: Shape, *, many: bool) -> Tensor:
    """Currents (steps, N, …) of three sizes and both signs; many of them bring the declared neuron close to its threshold.

    A random current tells constants apart only where it happens to end near the threshold. So half of them are chosen to end
    just outside what rounding can move, on either side, and a tenth of the first ones at the threshold itself.
    """
    rows = shape[1:] if many else shape
    steps = shape[0] if many else max(lowering.T, LEAST_STEPS)
    copies = max(1, -(-STEPS // (steps * int(np.prod(rows)))))
    generator = torch.Generator().manual_seed(0)
    level, gain = float(constants.threshold.flat[0]), constants.gain
    size = (copies * rows[0], *rows[1:])

    def drawn() -> Tensor:
        return torch.rand(size, generator=generator, dtype=torch.float64)

    sizes = torch.tensor([0.25, 1.0, 4.0], dtype=torch.float64)[(3 * drawn()).long()]
    track = _Track(constants, size, torch.finfo(lowering.dtype).eps / 2)
    currents = []
    for t in range(steps):
        random = (torch.randn(size, generator=generator, dtype=torch.float64) * 0.8 + 0.4) * sizes * level / gain
        # twice the bound of a membrane that has come this far
        side = torch.where(drawn() < 0.5, -2.0, 2.0) * track.bound(level)
        chosen = torch.where(drawn() < 0.5, random, (level + side - constants.leak * track.v) / gain)
        if t == 0:
            chosen[drawn() < 0.1] = level / gain
        chosen = chosen.to(lowering.dtype)
        currents.append(chosen)
        membrane, _ = track.charged(chosen.double())
        track.reset((membrane >= level).double())
    return torch.stack(currents)


class _Track:
    """Membranes of a declared neuron are followed step by step, with how far rounding can have moved them."""

    def __init__(self, constants: Constants, size: Shape, roundoff: float) -> None:
        self.constants, self.roundoff = constants, roundoff
        self.level = float(constants.threshold.flat[0])
        self.v = torch.zeros(size, dtype=torch.float64)
        self.moved = torch.zeros(size, dtype=torch.float64)
        self.steps = 0

    def bound(self, more: Tensor | float) -> Tensor:
        """How far rounding can move a membrane that takes in so much more."""
        return SLACK * (self.steps + 3) * self.roundoff * (self.moved + more + self.level)

    def charged(self, current: Tensor) -> tuple[Tensor, Tensor]:
        """The membranes with a step's current, before they fire, and their bounds."""
        taken = self.constants.gain * current
        self.v = self.constants.leak * self.v + taken
        bound = self.bound(taken.abs())
        self.moved = self.moved + taken.abs()
        self.steps += 1
        return self.v, bound

    def reset(self, spikes: Tensor) -> None:
        """Reset where it fired."""
        self.moved = self.moved + self.level * spikes
        self.v = self.v - spikes * self.level if self.constants.reset == "soft" else self.v * (1 - spikes)


def _membranes(constants: Constants, currents: Tensor, spikes: Tensor, roundoff: float) -> tuple[Tensor, Tensor]:
    """Membranes before firing, reset by the module's own spikes, and how far rounding can move each."""
    track = _Track(constants, tuple(currents.shape[1:]), roundoff)
    membranes, bounds = [], []
    for current, fired in zip(currents, spikes, strict=True):
        membrane, bound = track.charged(current)
        track.reset(fired)
        membranes.append(membrane)
        bounds.append(bound)
    return torch.stack(membranes), torch.stack(bounds)
