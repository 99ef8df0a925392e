"""What a layer of SpikingJelly's neurons computes, as constants, where it is one that the fast ways know."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from spikingjelly.activation_based import neuron, surrogate

Charge = Literal["integrate", "leak", "decay"]
Slope = Literal["atan", "sigmoid"]

_SLOPES: dict[type, Slope] = {surrogate.ATan: "atan", surrogate.Sigmoid: "sigmoid"}

_PATCHED = frozenset(
    ["forward", "multi_step_forward", "multi_step_functional_forward", "single_step_functional_forward"]
)
"""What a user may have exchanged on an instance; it then no longer does what its class says."""


@dataclass(frozen=True)
class Dynamics:
    """Neurons integrate, fire at θ and start again, from a membrane of 0.

    Attributes:
        charge: "integrate" v + x (IF), "leak" v - v/τ + x, "decay" v + (x - v)/τ (LIF with decay_input).
        threshold: θ.
        tau: τ, 1 where nothing leaks.
        soft: the reset subtracts θ; else it goes to 0.
        detached: the reset is left out of the gradient.
        slope: the surrogate's derivative.
        alpha: how steep it is.
    """

    charge: Charge
    threshold: float
    tau: float
    soft: bool
    detached: bool
    slope: Slope
    alpha: float

    @property
    def usual(self) -> bool:
        """Say whether `Kit` makes such neurons: those the plain way knows too. Another leak rounds differently there."""
        leaks = self.charge == "integrate" or (self.charge == "leak" and self.tau == 2.0)
        return leaks and self.detached and not self.soft and self.slope == "atan"


def dynamics_of(node: Any) -> Dynamics | None:
    """Read the constants of a module; None where it is anything but SpikingJelly's own IF or LIF in multi-step mode."""
    if type(node) not in (neuron.IFNode, neuron.LIFNode) or node.step_mode != "m" or node.store_v_seq:
        return None
    if vars(node).keys() & _PATCHED or getattr(node, "_neuron_precision", None) is not None:
        return None
    function = node.surrogate_function
    slope = _SLOPES.get(type(function))
    if slope is None or not function.spiking or node.v_reset not in (None, 0.0):
        return None
    charge: Charge = "integrate"
    if type(node) is neuron.LIFNode:
        charge = "decay" if node.decay_input else "leak"
    tau = 1.0 if charge == "integrate" else float(node.tau)
    soft, detached = node.v_reset is None, bool(node.detach_reset)
    return Dynamics(charge, float(node.v_threshold), tau, soft, detached, slope, float(function.alpha))
