"""SpikingJelly's neurons, known by identity: each layer becomes one node at its first step, the others must agree with it."""

from __future__ import annotations

import sys
from collections.abc import Hashable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from exporters.from_torch.decode import Read
from exporters.from_torch.lowering import Lowering, NeuronLayer, float64, key_of
from exporters.from_torch.symbolic import Symbolic
from exporters.from_torch.synapses import amplified, current, place, rows_of
from exporters.from_torch.values import Affine, Source, fresh, laid_out, real, scaled
from exporters.graph import IF, LIF, AnyNeuron, Array, Shape
from exporters.graph.nodes import Reset

BEHAVIOR = frozenset(
    """forward neuronal_charge neuronal_fire neuronal_reset single_step_forward multi_step_forward functional_forward
    single_step_functional_forward multi_step_functional_forward materialize_states __call__""".split()
)
"""Methods by which a subclass changes what a neuron does."""

HOMES = {
    "spikingjelly.activation_based.neuron": (
        "IFNode", "SimpleIFNode", "LIFNode", "SimpleLIFNode", "ParametricLIFNode", "OTTTLIFNode", "SLTTLIFNode", "CUBALIFNode",
    ),
    "spikingjelly.activation_based.lava_exchange": ("CubaLIFNode",),
}  # fmt: skip
"""Module → the neurons in it that are understood. Where it was never imported, no network holds one."""


@dataclass(frozen=True)
class Constants:
    """What a neuron does: u ← current_leak·u + gain·x, v ← leak·v + u, a spike where v ≥ threshold (one or one per channel)."""

    threshold: Array
    leak: float
    reset: Reset
    gain: float = 1.0
    current_leak: float = 0.0


def known_kind(module: nn.Module) -> str | None:
    """Which of SpikingJelly's neurons a module is. A user's subclass counts unless it changes what the neuron does."""
    if BEHAVIOR & vars(module).keys():
        return None  # patched
    for kind in type(module).__mro__:
        for home, names in HOMES.items():
            if kind.__name__ in names and getattr(sys.modules.get(home), kind.__name__, None) is kind:
                return kind.__name__
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
    threshold = float64(torch.as_tensor(module.v_threshold)).reshape(-1) if not isinstance(
        module.v_threshold, Tensor
    ) else float64(module.v_threshold)
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
    below, above = torch.tensor([-2.0, -1e-3, 0.0, 1e-3, 2.0]), [0.0, 0.0, 1.0, 1.0, 1.0]
    with torch.no_grad():
        found = module.surrogate_function(below)
    if found.tolist() != above:
        values = ", ".join(f"{v:.3g}" for v in found.tolist())
        raise lowering.error(
            f"its surrogate function gives {values} at −2, −0.001, 0, 0.001, 2 and not 0, 0, 1, 1, 1: its outputs are no "
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
    threshold = np.array([float(module.v_threshold) + float(module.v_threshold_eps)])
    return Constants(threshold, leak, "hard", current_leak=persists)


def node_of(threshold: float, leak: float, reset: Reset, current_leak: float) -> AnyNeuron:
    """The node of a neuron layer."""
    if leak == 1 and not current_leak:
        return IF(threshold, reset)
    return LIF(threshold, leak, reset, current_leak=current_leak)


# -- running -----------------------------------------------------------------------------------------


def run_neuron(lowering: Lowering, module: Any, kind: str, x: Any) -> Any:
    """What a neuron layer gives for its input, in either step mode.

    Raises:
        LoweringError: its input is not that of the next step (or of the next steps) of the same current.
    """
    if not isinstance(x, Symbolic):
        raise lowering.error("it is given numbers and not what the network computes from its input", lowering.name)
    if x.refusal:
        raise lowering.error(x.refusal)
    many = module.step_mode == "m"
    steps = x.shape[0] if many else 1
    value = laid_out(x.value, lambda t: t.flatten(0, 1)) if many else x.value
    constants = constants_of(lowering, module, kind)
    if value.is_constant:
        raise lowering.error("what arrives does not depend on the input", lowering.name)
    if np.isinf(constants.threshold).all():
        return _integrated(lowering, module, constants, x, many=many)
    if value.shape[0] != steps * lowering.samples:
        raise lowering.error(_wrong_rows(lowering, tuple(x.shape), many=many), lowering.name)
    layer = _step(lowering, id(module), value, steps, constants)
    first = layer.steps * lowering.samples * layer.source.size
    layer.steps += steps
    _hide_membrane(lowering, module, x)
    return Symbolic(x.shadow.clone(), fresh(layer.source, first, tuple(x.shape)), lowering)


def _wrong_rows(lowering: Lowering, shape: Shape, *, many: bool) -> str:
    if many:
        return (
            f'its step_mode is "m", but its input {shape} has no axis of time before that of the {lowering.samples} samples'
        )
    return (
        f'its step_mode is "s", but it is given {shape} at once where one step has {lowering.samples} samples: every step '
        'would have a membrane of its own; set step_mode="m" (functional.set_step_mode)'
    )


def _step(lowering: Lowering, key: Hashable, value: Affine, steps: int, constants: Constants) -> NeuronLayer:
    """Check the next steps of a layer of neurons, which is made at its first."""
    name = lowering.name
    reads, shift = rows_of(lowering, value, name)
    layer = lowering.neurons.get(key)
    done = 0 if layer is None else layer.steps
    require_steps(lowering, reads, done, steps, name)
    found = (key_of(reads, shift), constants.leak, constants.reset, constants.gain, constants.threshold.tobytes())
    if layer is None:
        lowering.progress += 1
        layer = NeuronLayer(name, _neuron_source(lowering, reads, shift, name, value.shape[1:], constants), found)
        lowering.neurons[key] = layer
    elif layer.key != found:
        raise lowering.error(
            f"at its call number {done + 1} it reads another current than at its first: it is called twice per step and "
            "would share its membrane, or the network changes over time; use one neuron layer for each",
            name,
        )
    return layer


def require_steps(lowering: Lowering, reads: list[Read], done: int, steps: int, name: str) -> None:
    """The rows of neurons' input must be the samples of the steps that come next."""
    samples = lowering.samples
    times: dict[int, set[int]] = {}
    for read in reads:
        if not read.source.is_static:
            times.setdefault(id(read.source), set()).update(int(r) // samples for r in read.rows)
    summed = next((r.source for r in reads if len(times.get(id(r.source), ())) > steps), None)
    if summed is not None:
        raise lowering.error(
            f"its input is a sum or mean over time steps of {summed.name}: neurons behind it run one step on rates, where those "
            "of a graph run T steps on spikes; take the mean at the end",
            name,
        )
    expected = torch.arange(done * samples, (done + steps) * samples)
    for read in reads:
        if read.source.is_static:
            if not torch.equal(read.rows, expected % samples):
                raise lowering.error("the samples of its input are out of order", name)
        elif not torch.equal(read.rows, expected):
            found = sorted({int(r) // samples + 1 for r in read.rows})
            if steps == 1 and found and found[0] <= done:
                raise lowering.error(
                    f"this neuron layer is called twice per step (call {done + 1} has input of step {found[0]}) and would "
                    "share its membrane; use two layers",
                    name,
                )
            raise lowering.error(
                f"its input holds step {_listed(found)} where step {_listed([done + 1 + i for i in range(steps)])} of "
                f"{samples} samples is due; time must come first and in order",
                name,
            )
    if done + steps > lowering.T:
        raise lowering.error(
            f"it runs {done + steps} steps, but T is {lowering.T}: the network has an own number of steps, or calls it "
            "twice per step; make them the same",
            name,
        )


def _listed(steps: list[int]) -> str:
    if len(steps) > 4 and steps == list(range(steps[0], steps[-1] + 1)):
        return f"{steps[0]} to {steps[-1]}"
    return ", ".join(map(str, steps))


def as_layer(name: str, source: Source, key: Hashable) -> NeuronLayer:
    """A layer that has not run yet."""
    return NeuronLayer(name, source, key)


def neuron_shape(reads: list[Read], shape: Shape) -> Shape:
    """The shape of a layer of neurons in the graph: that of what it reads, whichever way the network lays it out."""
    shapes = {read.source.shape for read in reads if read.features is None}
    if len(shapes) == 1 and all(read.features is None for read in reads):
        return shapes.pop()
    return shape if len(shape) in (1, 3) else (int(np.prod(shape)),)


def _neuron_source(
    lowering: Lowering, reads: list[Read], shift: float | Array, name: str, shape: Shape, constants: Constants
) -> Source:
    inner = neuron_shape(reads, shape)
    if isinstance(shift, np.ndarray) and inner != shape:
        shift = np.broadcast_to(shift, shape).reshape(inner)
    what = current(lowering, reads, shift, name, inner)
    threshold = constants.threshold
    if constants.gain != 1:
        what = amplified(what, np.full(inner[0], constants.gain))
    level = float(threshold.flat[0])
    if threshold.size > 1 and not (threshold == level).all():
        by_channel = np.broadcast_to(threshold, inner).reshape(inner[0], -1)
        if not (by_channel == by_channel[:, :1]).all() or not (by_channel > 0).all():
            raise lowering.error("its thresholds differ within a channel, or are not positive", name)
        what, level = amplified(what, 1 / by_channel[:, 0]), 1.0
        lowering.notes[name] = "its thresholds, one for each channel, are in the weights before it"
    if constants.current_leak and any(p.synapse.bias is not None for p in what.parts if hasattr(p, "synapse")):
        raise lowering.error(
            "a bias (or BatchNorm shift) would pass through its synaptic current, which on Loihi it does not; "
            "use layers with bias=False before neurons whose current persists",
            name,
        )
    node = node_of(level, constants.leak, constants.reset, constants.current_leak)
    made = lowering.builder.add(name, node, place(lowering, what))
    lowering.fires.add(made)
    return Source(made, inner, lowering.T, lowering.samples, (made,), is_binary=True)


def _hide_membrane(lowering: Lowering, module: Any, x: Symbolic) -> None:
    """Whoever reads the membrane of a layer that fires is told so."""
    reason = f"it reads the membrane of {lowering.name}, which fires; a graph gives on its spikes alone"
    hidden = Symbolic(x.shadow.clone(), Affine(tuple(x.shape)), lowering, reason)
    for name in ("v", "current_state", "voltage_state"):
        if name in module._memories:
            module._memories[name] = hidden


def _integrated(lowering: Lowering, module: Any, constants: Constants, x: Symbolic, *, many: bool) -> Any:
    """Neurons that cannot fire: their membrane is a sum over time, which the network then reads."""
    if constants.current_leak:
        raise lowering.error("a current that persists in neurons that never fire has no counterpart", lowering.name)
    v = module._memories.get("v")
    held = v.value if isinstance(v, Symbolic) else Affine(tuple(x.shape[1:] if many else x.shape))
    from exporters.from_torch.values import added

    for value in [laid_out(x.value, lambda t, i=i: t[i]) for i in range(x.shape[0])] if many else [x.value]:
        held = added(scaled(held, constants.leak), scaled(value, constants.gain))
    shadow = x.shadow[0] if many else x.shadow
    module._memories["v"] = Symbolic(shadow.clone(), held, lowering)
    return Symbolic(x.shadow.clone(), Affine(tuple(x.shape)), lowering)


_ = (replace, real)
