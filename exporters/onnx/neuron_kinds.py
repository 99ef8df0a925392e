"""The kinds of neurons that an exported model can hold are data; each is one pair of local functions.

`NAMEStep(v, current) → (v_next, spikes)` is one time step; `NAME(current, T) → spikes` is T steps, `NAMEFrom` the same
from a membrane that does not start at 0. The name follows from what the neurons do: `LIF` leaks, `…Soft` resets by
subtraction, `I` integrates and never fires (a membrane read-out), `LI` leaks and never fires: a membrane that is read out,
or the synaptic current of current-based neurons, which a `LIF` reads. `Loihi…` are the same in Lava's fixed-point
arithmetic, where a membrane saturates (`LoihiLIMembrane`) and a current wraps (`LoihiLI`); `LoihiCuba…` take the current
that a `LoihiLI` gives.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, assert_never

from exporters.graph import IF, LIF, AnyNeuron, Output
from exporters.graph.registers import decay_of


@dataclass(frozen=True)
class NeuronKind:
    """A kind says what one step of neurons does with its state and its current.

    Attributes:
        integer: state and current are int32 in the units of Lava's registers, and saturate or wrap as these do; float32 otherwise.
        leaky: the state decays at every step, before the current is added.
        fires: the state fires at a threshold and is reset; otherwise it is what comes out.
        soft_reset: a spike takes the threshold from the state; otherwise it sets the state to 0.
        reads_register: the current comes in the state's units (1/64 of a weight's), as a persistent current is kept (integer kinds only).
        wraps: the state turns around at the end of its register, as a synaptic current does; otherwise it saturates (integer kinds only).
        starts: all steps begin with a state of their own and not with 0; a single step is the same either way.
    """

    integer: bool
    leaky: bool
    fires: bool = True
    soft_reset: bool = False
    reads_register: bool = False
    wraps: bool = False
    starts: bool = False

    @property
    def name(self) -> str:
        """The local function that runs all steps has this name."""
        return self._does + ("From" if self.starts else "")

    @property
    def step_name(self) -> str:
        """The local function that computes one step has this name."""
        return f"{self._does}Step"

    @property
    def _does(self) -> str:
        chip = ("Loihi" if self.integer else "") + ("Cuba" if self.reads_register else "")
        does = ("L" if self.leaky else "") + ("IF" if self.fires else "I")
        saturates = self.integer and self.leaky and not self.fires and not self.wraps
        return chip + does + ("Soft" if self.soft_reset else "") + ("Membrane" if saturates else "")

    @property
    def attributes(self) -> tuple[str, ...]:
        """Both functions have these attributes; that of all steps also has `start` where the kind `starts`."""
        leak = ("decay" if self.integer else "leak",) if self.leaky else ()
        return (("threshold",) if self.fires else ()) + leak


def integrator(*, integer: bool, leaky: bool = False) -> NeuronKind:
    """The membrane of a read-out integrates, and may leak."""
    return NeuronKind(integer, leaky=leaky, fires=False)


def persistent_current(*, integer: bool) -> NeuronKind:
    """The synaptic current of current-based neurons leaks from step to step."""
    return NeuronKind(integer, leaky=True, fires=False, wraps=integer)


def firing(
    *, integer: bool, leaky: bool, soft_reset: bool, reads_register: bool = False, starts: bool = False
) -> NeuronKind:
    """Neurons of all other layers fire."""
    return NeuronKind(integer, leaky, soft_reset=soft_reset, reads_register=reads_register, starts=starts)


KINDS = (
    *(integrator(integer=integer) for integer in (False, True)),
    integrator(integer=True, leaky=True),  # in float32 it is a persistent current's
    *(persistent_current(integer=integer) for integer in (False, True)),
    *(
        firing(integer=integer, leaky=leaky, soft_reset=soft, starts=starts)
        for starts in (False, True)
        for integer in (False, True)
        for leaky in (False, True)
        for soft in (False, True)
    ),
    *(
        firing(integer=True, leaky=True, soft_reset=soft, reads_register=True, starts=starts)
        for starts in (False, True)
        for soft in (False, True)
    ),
)
"""A model can hold these kinds and no others."""


def kind_of(layer: AnyNeuron | Output, *, integer: bool) -> NeuronKind:
    """A layer's membrane is computed by this kind."""
    match layer:
        case Output():
            return integrator(integer=integer, leaky=layer.leak < 1)
        case IF():
            soft = layer.reset == "soft"
            return firing(integer=integer, leaky=False, soft_reset=soft, starts=layer.start != 0)
        case LIF():
            # in float32 current and membrane have one unit, so that a LIF reads either
            in_registers = integer and layer.current_leak > 0
            soft = layer.reset == "soft"
            return firing(
                integer=integer, leaky=True, soft_reset=soft, reads_register=in_registers, starts=layer.start != 0
            )
        case _:
            assert_never(layer)


def membrane_attributes(layer: AnyNeuron | Output, *, integer: bool) -> dict[str, Any]:
    """A call that computes a layer's membrane has these attributes."""
    match layer:
        case Output():
            return _leak(layer.leak, integer=integer) if layer.leak < 1 else {}
        case IF():
            return {"threshold": int(layer.threshold) if integer else float(layer.threshold)}
        case LIF():
            threshold = int(layer.threshold) if integer else float(layer.threshold)
            return {"threshold": threshold} | _leak(layer.leak, integer=integer)
        case _:
            assert_never(layer)


def start_attribute(layer: AnyNeuron | Output, *, integer: bool) -> dict[str, Any]:
    """A call that computes all steps of a membrane has this attribute besides, where it does not start at 0."""
    if isinstance(layer, Output) or not layer.start:
        return {}
    return {"start": int(layer.start) if integer else float(layer.start)}


def current_attributes(layer: AnyNeuron, *, integer: bool) -> dict[str, Any]:
    """A call that computes a layer's persistent current has these attributes."""
    return _leak(layer.current_leak, integer=integer)


def _leak(leak: float, *, integer: bool) -> dict[str, Any]:
    return {"decay": decay_of(leak)} if integer else {"leak": float(leak)}
