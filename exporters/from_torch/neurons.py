"""SpikingJelly's neurons, known by identity: each layer becomes one node at its first step, the others must agree with it."""

from __future__ import annotations

import math
import sys
from collections.abc import Hashable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from exporters.from_torch.decode import Arrival
from exporters.from_torch.lowering import Constants, Lowering, NeuronLayer, float64
from exporters.from_torch.refusals import MixedSamplesError
from exporters.from_torch.steps import ANOTHER_CURRENT, arriving, neuron_shape, shift_for
from exporters.from_torch.symbolic import Symbolic
from exporters.from_torch.synapses import placed_current, rows_of
from exporters.from_torch.values import Affine, Origin, added, concatenated, fresh, laid_out, scaled
from exporters.graph import IF, LIF, AnyNeuron, Array, Shape
from exporters.graph.nodes import Reset

BEHAVIOR = frozenset(
    [
        "forward", "neuronal_charge", "neuronal_fire", "neuronal_reset", "single_step_forward", "multi_step_forward",
        "functional_forward", "single_step_functional_forward", "multi_step_functional_forward", "materialize_states",
        "__call__",
    ]
)  # fmt: skip
"""Methods by which a subclass changes what a neuron does."""

HOMES = {
    "spikingjelly.activation_based.neuron": (
        "IFNode", "SimpleIFNode", "LIFNode", "SimpleLIFNode", "ParametricLIFNode", "OTTTLIFNode", "SLTTLIFNode", "CUBALIFNode",
    ),
    "spikingjelly.activation_based.lava_exchange": ("CubaLIFNode",),
}  # fmt: skip
"""Module → the neurons in it that are understood. Where it was never imported, no network holds one."""

NOTHING_ARRIVES = "what arrives does not depend on the input"

MEMBRANES = frozenset(["v", "current_state", "voltage_state", "c"])
"""What these neurons remember from step to step."""


def known_kind(module: nn.Module) -> str | None:
    """Which of SpikingJelly's neurons a module is. A user's subclass counts unless it changes what the neuron does."""
    if BEHAVIOR & vars(module).keys():
        return None  # patched
    for kind in type(module).__mro__:
        for home, names in HOMES.items():
            if kind.__name__ in names and getattr(sys.modules.get(home), kind.__name__, None) is kind:
                return str(kind.__name__)
        if BEHAVIOR & vars(kind).keys():
            return None
    return None


def constants_of(lowering: Lowering, module: Any, kind: str) -> Constants:
    """The numbers of one of SpikingJelly's neurons.

    Raises:
        LoweringError: it resets to something else than 0, does not spike, or keeps a norm within.
    """
    if module.v_reset not in (None, 0, 0.0):
        raise lowering.error(
            f"v_reset is {module.v_reset}; hardware resets to 0 (v_reset=0.0) or by subtraction (v_reset=None)",
            lowering.name,
        )
    _require_a_step(lowering, module)
    reset: Reset = "soft" if module.v_reset is None else "hard"
    threshold = float64(torch.as_tensor(module.v_threshold, dtype=torch.float64))
    match kind:
        case "IFNode" | "SimpleIFNode":
            return Constants(threshold, 1.0, reset)
        case "CUBALIFNode":
            return Constants(threshold, float(module.v_decay), reset, current_leak=float(module.c_decay))
        case "CubaLIFNode":
            return _of_lava(lowering, module)
    tau = float(1 / torch.sigmoid(module.w.detach().double())) if kind == "ParametricLIFNode" else float(module.tau)
    # with decay_input v ← v + (x − v)/τ: the 1/τ of the input goes into the weights
    return Constants(threshold, 1 - 1 / tau, reset, 1 / tau if module.decay_input else 1.0)


def _require_a_step(lowering: Lowering, module: Any) -> None:
    """A surrogate function must be a step forward, whatever its gradient."""
    places = torch.tensor([-2.0, -1e-3, 0.0, 1e-3, 2.0])
    found = module.surrogate_function(places)
    if found.tolist() != [0.0, 0.0, 1.0, 1.0, 1.0]:
        values = ", ".join(f"{v:.3g}" for v in found.tolist())
        raise lowering.error(
            f"its surrogate function gives {values} at −2, −0.001, 0, 0.001, 2 and not 0, 0, 1, 1, 1, so its outputs are no "
            "spikes; use one with spiking=True",
            lowering.name,
        )


def _of_lava(lowering: Lowering, module: Any) -> Constants:
    """SpikingJelly's copy of slayer's neuron: 12-bit decays of current and membrane, whose truncation is the chip's business."""
    if module.norm is not None:
        raise lowering.error(
            "a norm inside the neuron has no counterpart; put a BatchNorm behind the convolution", lowering.name
        )
    decays = (float64(module.current_decay), float64(module.voltage_decay))
    if any(np.ptp(values) for values in decays):
        raise lowering.error("its decays differ between neurons; a Loihi layer has one of each", lowering.name)
    # the module truncates them to whole numbers of 1/4096 as it computes
    persists, leak = (1 - int(values.flat[0]) / 4096 for values in decays)
    # it fires above its threshold, as Loihi does
    threshold = np.array(float(module.v_threshold) + float(module.v_threshold_eps))
    return Constants(threshold, leak, "hard", current_leak=persists)


def node_of(threshold: float, leak: float, reset: Reset, current_leak: float, start: float) -> AnyNeuron:
    """The node of a neuron layer."""
    if leak == 1 and not current_leak:
        return IF(threshold, reset, start=start)
    return LIF(threshold, leak, reset, current_leak=current_leak, start=start)


def outside(start: float, threshold: float) -> str:
    """Why a membrane that starts beyond its threshold, or as far below 0, is refused."""
    return (
        f"its membrane starts at {start:.4g} (its threshold is {threshold:.4g}); those of a graph start between minus the threshold "
        "and the threshold"
    )


def above(threshold: float, dtype: torch.dtype) -> float:
    """The next number after the threshold that the network's own type has: at least this is above that."""
    kind = np.float64 if dtype == torch.float64 else np.float32
    return float(np.nextafter(kind(threshold), kind(np.inf)))


# -- running -----------------------------------------------------------------------------------------


def run_neuron(lowering: Lowering, module: Any, constants: Constants, x: Symbolic, *, many: bool) -> Symbolic:
    """What a neuron layer gives for its input, (T, N, …) if `many`, else (N, …).

    Raises:
        LoweringError: its input is not that of the next step (or of the next steps) of the same current.
    """
    if x.refusal:
        raise lowering.error(x.refusal)
    # of one sample at a time time alone may come first: it is one axis with the samples
    has_both = many and (lowering.samples > 1 or (x.ndim > 2 and x.shape[1] == 1))
    value = laid_out(x.value, lambda t: t.flatten(0, 1)) if has_both else x.value
    if value.is_constant and (many or lowering.T == 1):  # at single steps nothing may have come so far
        raise lowering.error(NOTHING_ARRIVES, lowering.name)
    if np.isinf(constants.threshold).all():
        return _integrated(lowering, module, constants, x, many=many)
    steps = x.shape[0] if many else 1
    if value.shape[0] != steps * lowering.samples:
        wrong = _wrong_rows(lowering, tuple(x.shape), many=many)
        if many and lowering.samples > 1 and 1 < lowering.T == steps / lowering.samples:
            # flattened into one axis, (T·N, …)
            raise MixedSamplesError(str(lowering.error(wrong, lowering.name)))
        raise lowering.error(wrong, lowering.name)
    layer = _checked(lowering, module, value, steps, constants)
    first = layer.steps * lowering.samples * layer.origin.size
    layer.steps += steps
    _hide_membrane(lowering, layer, module, x)
    return Symbolic(x.shadow.clone(), fresh(layer.origin, first, tuple(x.shape)), lowering)


def _wrong_rows(lowering: Lowering, shape: Shape, *, many: bool) -> str:
    if many:
        return f'its step_mode is "m", but its input {shape} has no axis of time before that of the {lowering.samples} samples'
    return (
        f'its step_mode is "s", but it is given {shape} at once where one step has {lowering.samples} samples: every step '
        'would have a membrane of its own; set step_mode="m" (functional.set_step_mode)'
    )


def _checked(lowering: Lowering, module: Any, value: Affine, steps: int, constants: Constants) -> NeuronLayer:
    """The layer, which is made at its first step and must go on as it began."""
    name, key = lowering.name, id(module)
    reads, shift = rows_of(lowering, value, name)
    layer = lowering.neurons.get(key)
    if layer is None:
        arrivals = arriving(lowering, (), reads, 0, steps, name)
        lowering.progress += 1
        _require_rest(lowering, module, None)
        made = replace(constants, start=_start(module))
        lowering.neurons[key] = layer = _made(lowering, arrivals, shift, name, value.shape[1:], made)
        layer.key = _key(constants)
        return layer
    layer.arrivals = arriving(lowering, layer.arrivals, reads, layer.steps, steps, name)
    _require_rest(lowering, module, layer)
    if layer.key != _key(constants) or not _is_close(lowering, layer.shift, shift):
        raise lowering.error(f"at step {layer.steps + 1} {ANOTHER_CURRENT}", name)
    return layer


def _key(constants: Constants) -> Hashable:
    return (constants.threshold.tobytes(), constants.leak, constants.gain)


def _is_close(lowering: Lowering, a: float | Array, b: float | Array) -> bool:
    """Whether two shifts are the same, but for the rounding of what the network computed of constants in its own type."""
    slack = 16 * torch.finfo(lowering.dtype).eps
    return bool(np.allclose(a, b, rtol=slack, atol=slack * float(np.max(np.abs(b)))))


def _require_rest(lowering: Lowering, module: Any, layer: NeuronLayer | None) -> None:
    """All but the membrane start at 0, it at one number, and nothing but the neuron may change them on the way."""
    memories = getattr(module, "_memories", {})
    for name in memories.keys() & MEMBRANES:
        held = memories[name]
        if layer is not None and layer.state is not None:
            if held is not layer.state:
                raise lowering.error(
                    f"its membrane ({name}) was reset or changed between two steps; a graph resets at the start of each sample",
                    lowering.name,
                )
        elif isinstance(held, Tensor):
            raise lowering.error(
                f"its membrane ({name}) has moved before anything of the input reached it: it starts as a tensor, or ran at steps at "
                "which its input was constant; each of its steps must read the input",
                lowering.name,
            )
        elif not isinstance(held, int | float) or (held != 0 and name != "v"):
            raise lowering.error(f"its membrane ({name}) does not start at 0 but at {held}", lowering.name)


def _start(module: Any) -> float:
    """Where the membrane of a module is set to start (SpikingJelly's `set_reset_value("v", …)`)."""
    return float(getattr(module, "_memories", {}).get("v", 0.0))


def _made(
    lowering: Lowering,
    arrivals: tuple[Arrival, ...],
    shift: float | Array,
    name: str,
    shape: Shape,
    constants: Constants,
) -> NeuronLayer:
    """A layer with what arrives at it within the step; what comes from earlier ones follows when all of its steps are known."""
    reads = [arrival.read for arrival in arrivals if not arrival.lag]
    inner = neuron_shape([arrival.read for arrival in arrivals], shape)
    gain = np.full(inner[0], constants.gain) if constants.gain != 1 else None
    threshold, level = constants.threshold, float(constants.threshold.flat[0])
    if not math.isfinite(level):  # one number, or a whole layer of them
        raise lowering.error(f"the threshold is {level}; a neuron needs a positive one", name)
    if not (threshold == level).all():
        each = np.broadcast_to(np.broadcast_to(threshold, shape).reshape(inner), inner).reshape(inner[0], -1)
        if not (each == each[:, :1]).all() or not (each > 0).all():
            raise lowering.error("its thresholds differ within a channel, or are not positive", name)
        if constants.start:
            raise lowering.error(
                f"its membrane starts at {constants.start:g} and each channel has a threshold of its own, to which a start must be "
                "in proportion; start it at 0",
                name,
            )
        gain, level = constants.gain / each[:, 0], 1.0
        lowering.notes[name] = "its thresholds, one for each channel, are in the weights before it"
    if constants.current_leak and np.any(shift):
        raise lowering.error(
            "a bias (or BatchNorm shift) would pass through its synaptic current, which on Loihi it does not; "
            "use layers with bias=False before neurons whose current persists",
            name,
        )
    placed = shift_for(shift, shape, inner)
    nodes = placed_current(lowering, reads, placed, name, inner, gain) if reads else []
    if constants.start and not abs(constants.start) < level:
        raise lowering.error(outside(constants.start, level), name)
    node = node_of(level, constants.leak, constants.reset, constants.current_leak, constants.start)
    made = lowering.builder.add(name, node, nodes)
    lowering.firing[made] = inner
    origin = Origin(made, inner, lowering.T, lowering.samples, (made,), is_binary=True)
    return NeuronLayer(name, origin, None, shift, gain, arrivals)


def _hide_membrane(lowering: Lowering, layer: NeuronLayer, module: Any, x: Symbolic) -> None:
    """Whoever reads the membrane of a layer that fires is told so."""
    if layer.state is None:
        reason = f"it reads the membrane of {layer.name}, which fires; a graph gives on its spikes alone"
        layer.state = Symbolic(x.shadow.clone(), Affine(tuple(x.shape)), lowering, reason)
    memories = getattr(module, "_memories", {})
    for name in memories.keys() & MEMBRANES:
        memories[name] = layer.state
    if getattr(module, "store_v_seq", False):
        module.v_seq = layer.state


def _integrated(lowering: Lowering, module: Any, constants: Constants, x: Symbolic, *, many: bool) -> Symbolic:
    """Neurons that cannot fire: their membrane is a sum over time, which the network then reads."""
    if constants.current_leak:
        raise lowering.error("a current that persists in neurons that never fire has no counterpart", lowering.name)
    before = module._memories.get("v")
    if not isinstance(before, Symbolic | None) and (isinstance(before, Tensor) or before != 0):
        raise lowering.error(
            f"it never fires, and its membrane starts at {before}; a read-out starts at 0", lowering.name
        )
    held = before.value if isinstance(before, Symbolic) else Affine(tuple(x.shape[1:] if many else x.shape))
    membranes = []
    for at in range(x.shape[0]) if many else [None]:
        value = x.value if at is None else laid_out(x.value, lambda t, at=at: t[at])  # type: ignore[misc]
        held = added(scaled(held, constants.leak), scaled(value, constants.gain))
        membranes.append(held)
    shadow = x.shadow[0] if many else x.shadow
    module._memories["v"] = Symbolic(shadow.clone(), held, lowering)
    if getattr(module, "store_v_seq", False):
        module.v_seq = _sequence(lowering, None if many else module.v_seq, membranes)
    return Symbolic(x.shadow.clone(), Affine(tuple(x.shape)), lowering)


def _sequence(lowering: Lowering, before: Any, membranes: Sequence[Affine]) -> Symbolic:
    """Membranes (N, …) of each step as SpikingJelly keeps them, (steps, N, …), behind those of the calls before."""
    steps = [laid_out(held, lambda t: t.unsqueeze(0)) for held in membranes]
    value = concatenated([*([before.value] if isinstance(before, Symbolic) else []), *steps], 0)
    return Symbolic(torch.empty(value.shape, dtype=lowering.dtype, device="meta"), value, lowering)
