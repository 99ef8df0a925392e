"""Neurons that the user declares: "LIF:tau=2,v_threshold=1" for a class whose arithmetic is not understood."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from exporters.from_torch.lowering import Lowering
from exporters.from_torch.neurons import Constants
from exporters.from_torch.refusals import LoweringError, first_line
from exporters.graph import Shape

FORMS = "IF:v_threshold=1, LIF:tau=2,v_threshold=1,decay_input=true,v_reset=0, or LIF:leak=0.9"
STEPS = 10_000
"""Neurons times steps at least that a declared neuron is run beside what it is said to be."""


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
) -> None:
    """Run a module on random currents beside what it was declared to be.

    Args:
        lowering: the state.
        forward: of the module, whose memory is fresh.
        constants: what it was declared to be.
        shape: of its input, (T, N, …) if `many`, else (N, …).
        many: whether one call is all steps.

    Raises:
        LoweringError: it spikes otherwise, or cannot be run.
    """
    rows = shape[1:] if many else shape
    steps = shape[0] if many else max(lowering.T, 2)
    copies = max(1, -(-STEPS // (steps * int(np.prod(rows)))))
    generator = torch.Generator().manual_seed(0)
    scale = constants.threshold.flat[0] / constants.gain
    currents = torch.randn(steps, copies * rows[0], *rows[1:], generator=generator, dtype=torch.float64)
    currents = ((currents * 0.8 + 0.4) * scale).to(lowering.dtype)
    try:
        found = forward(currents) if many else torch.stack([forward(x) for x in currents])
    except Exception as error:  # whatever a user's forward raises
        raise lowering.error(
            f"it cannot be run on random currents to check the declaration ({first_line(error)})"
        ) from error
    expected = _spikes(constants, currents.double())
    if not isinstance(found, Tensor) or found.shape != expected.shape:
        raise lowering.error("it does not give as many spikes as it takes currents, as neurons do")
    wrong = int((found.double() != expected).sum())
    near = 1e-4  # where the network's own type may round a membrane over its threshold
    if wrong > near * expected.numel():
        raise lowering.error(
            f"it was declared to be another neuron than it is: {wrong} of {expected.numel()} spikes differ on random currents"
        )


def _spikes(constants: Constants, currents: Tensor) -> Tensor:
    v, spikes = torch.zeros_like(currents[0]), []
    threshold = float(constants.threshold.flat[0])
    for x in currents:
        v = constants.leak * v + constants.gain * x
        spike = (v >= threshold).double()
        v = v - spike * threshold if constants.reset == "soft" else v * (1 - spike)
        spikes.append(spike)
    return torch.stack(spikes)
