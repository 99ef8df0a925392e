"""Whether a network fits a chip, and what is lost on the way, is told in findings, each with what to change.

An "error" keeps the network off the chip, a "warning" costs accuracy or work on the host, a "note" is
good to know. Numbers are compared with the chip's registers, not with Lava's simulator, which is wider.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from exporters.graph import Array, SpikingGraph, layer_names
from exporters.graph.registers import SILENT
from exporters.passes.chain import ChainLayer, chain_layers
from exporters.passes.membranes import resets_by_subtraction, starting
from exporters.passes.quantize import LayerScale
from exporters.passes.relays import BESIDE_RELAYS
from hardware.chips.limits import Target
from hardware.chips.placement import Placement, place
from hardware.chips.search import PlacementError

COARSE_THRESHOLD = 10
"""Below this many units of weight a threshold is coarse: rounding moves it by 5 % or more."""
FEWER_BITS = "quantize with fewer bits"
"""So begins what to change where smaller integers could put it right, and nothing has tried how many."""
COARSE_WEIGHTS = 0.05
"""This relative RMS error of a layer's weights is worth a warning; 8 bits usually give 0.01."""


@dataclass(frozen=True)
class Finding:
    """A finding is one thing to know.

    Attributes:
        severity: what it means for the network, see this module's description.
        layer: where; "" is the whole network.
        what: the problem.
        change: what to do, "" where nothing need be done.
    """

    severity: Literal["error", "warning", "note"]
    layer: str
    what: str
    change: str = ""


@dataclass(frozen=True, eq=False)
class Fit:
    """A network was held against a chip.

    Attributes:
        target: the chip.
        findings: what to know, errors first.
        placement: None where there is none, and a finding says why.
        excess: how many times the largest weight or threshold is what its register holds, at most 1 where all fit.
    """

    target: Target
    findings: tuple[Finding, ...]
    placement: Placement | None
    excess: float = 1.0

    @property
    def fits(self) -> bool:
        """The network fits when no finding is an error."""
        return not any(f.severity == "error" for f in self.findings)


def host_layers(chain: SpikingGraph, target: Target) -> int:
    """So many layers must run on the host: the first one, where pixels come in and no spike can carry a number."""
    return int(chain.input.is_graded and not target.graded_spikes)


def check(
    chain: SpikingGraph,
    target: Target,
    *,
    scales: Sequence[LayerScale] = (),
    max_chips: int | None = None,
    give_up: Callable[[Finding], bool] | None = None,
    known: Placement | None = None,
) -> Fit:
    """An integer chain (from `to_chain`) is held against a chip.

    Args:
        chain: the network as a `.net` file holds it.
        target: the chip.
        scales: how its layers were quantized, from `quantize`.
        max_chips: chips at hand; the largest system built by default.
        give_up: no placement is looked for, which takes longest, where the numbers alone bring such a finding.
        known: a placement of the same layers with other weights, as in `place`.

    Raises:
        DeployError: the graph is not a chain.
    """
    found = [*_input(chain, target), *_resets(chain, target), *_starts(chain), *_quantization(scales)]
    steps = chain_layers(chain)
    on_host = host_layers(chain, target)
    for step in steps[on_host:]:
        found += _registers(step, target)
    found += _delays(steps[on_host:], target)
    found.append(Finding("note", "", f"{len(steps)} layers: the answer is {len(steps)} time steps behind the input"))
    placement = None
    try:
        if on_host < len(steps) and (give_up is None or not any(map(give_up, found))):
            placement = place(chain, target, host_layers=on_host, known=known)
    except PlacementError as error:
        what, _, change = str(error).removeprefix(f"{error.layer}: ").partition("; ")
        found.append(Finding("error", error.layer, what, change))
    if placement is not None:
        found += _chips(placement, max_chips)
    order = {"error": 0, "warning": 1, "note": 2}
    excess = max((_excess(step, target) for step in steps[on_host:]), default=1.0)
    return Fit(target, tuple(sorted(found, key=lambda f: order[f.severity])), placement, excess)


def _input(chain: SpikingGraph, target: Target) -> Iterator[Finding]:
    if not chain.input.is_graded:
        return
    bits = int(chain.input.scale or 1).bit_length()
    steps = chain_layers(chain)
    first = steps[0].name
    if host_layers(chain, target) == len(steps):
        yield Finding(
            "error", first, f"it is the whole network and reads pixels, and {target.title} has no graded spikes: the host "
            "would run all of it", "put a hidden layer of neurons before it, or feed the network spikes",
        )  # fmt: skip
    elif not target.graded_spikes and bits > 1:
        yield Finding(
            "warning", first, f"it reads {bits}-bit pixels, and {target.title} has no graded spikes",
            "run this layer on the host (export with the encoder there) and send its spikes; it is not placed",
        )  # fmt: skip
    elif bits > 1:
        yield Finding("note", first, f"it reads {bits}-bit pixels as graded spikes (input_message_bits={bits})")


def _resets(chain: SpikingGraph, target: Target) -> Iterator[Finding]:
    """Reset by subtraction is what the chips' own neurons do not do."""
    names = layer_names(chain)
    soft = [names[name] for name, node in chain.neurons.items() if resets_by_subtraction(node)]
    if not soft:
        return
    several = target["soft_reset_compartments"]
    how = (
        f"{several} compartments a neuron do it, which are counted here"
        if several > 1
        else "a program in its microcode does it"
    )
    yield Finding(
        "warning", soft[0], f"{len(soft)} of {len(chain.neurons)} layers reset by subtraction; {target.title} itself resets to zero: {how}",
        "train with v_reset=0.0 (hard reset) for netx and Lava, which have no such neuron",
    )  # fmt: skip


def _starts(chain: SpikingGraph) -> Iterator[Finding]:
    """Membranes that do not start at 0 must be set from outside."""
    found = starting(chain)
    if found:
        yield Finding(
            "warning", layer_names(chain)[found[0]], f"membranes of {len(found)} of {len(chain.neurons)} layers start elsewhere than at 0: they "
            "must be set before every sample",
            "train or convert for a start at 0 for netx and Lava, which always start there",
        )  # fmt: skip


def _delays(steps: Sequence[ChainLayer], target: Target) -> Iterator[Finding]:
    """Spikes can come late only by as many steps as the chip counts."""
    late = [(step, step.time.longest) for step in steps if step.time is not None and step.time.longest > 0]
    if not late:
        return
    step, longest = max(late, key=lambda found: found[1])
    bits = target.get("delay_bits")
    if bits is not None and longest > (room := (1 << bits) - 2):
        yield Finding(
            "error", step.name, f"a delay of {longest} steps; {target.title} holds {room}", "train with shorter delays"
        )
    yield Finding(
        "note", late[0][0].name, f"{len(late)} layer(s), this one first, with delays of up to {longest} steps: their bits are counted "
        "with the weights; the sums that a core keeps for the steps to come are not, and may leave it room for fewer neurons",
    )  # fmt: skip


def _weights(step: ChainLayer) -> Array:
    """All weights of a layer, those of its recurrence included."""
    own = step.synapse.weight
    if step.time is None or step.time.recurrent is None:
        return own
    return np.concatenate((own.ravel(), step.time.recurrent.ravel()))


def _quantization(scales: Sequence[LayerScale]) -> Iterator[Finding]:
    for scale in scales:
        if scale.rms_error > COARSE_WEIGHTS:
            held = "" if scale.limited_by == "weights" else f", held down by the {scale.limited_by}"
            change = (
                "more bits"
                if not held
                else "fewer bits of a pixel where the input holds it down, smaller biases or fan-in"
            )
            yield Finding(
                "warning", scale.name, f"rounding changes its weights by {100 * scale.rms_error:.1f} % (RMS){held}",
                f"{change}; or calibrate, and compare accuracy on the emulator",
            )  # fmt: skip


def _registers(step: ChainLayer, target: Target) -> Iterator[Finding]:
    """Weights, threshold and bias are held against the chip's widths.

    Where a layer has both signs the chip holds even weights only, so everything is doubled there: weights
    to 2w, the threshold to 2V − 1; the bias has an exponent for that.
    """
    weight, bits = _weights(step), target["weight_bits"]
    lowest, highest = int(weight.min()), int(weight.max())
    both, largest = lowest < 0 < highest, max(-lowest, highest)
    room = (1 << bits) - 1 >> both
    if largest > room:
        relayed = (
            " (a relayed spike has the threshold as its weight)" if step.neuron_name.endswith(BESIDE_RELAYS) else ""
        )
        yield Finding(
            "error", step.name, f"a weight of {largest}{relayed}; {target.title} holds ±{room}" if both else
            f"a weight of {largest}{relayed}; {target.title} holds {room}",
            f"{FEWER_BITS}, or clip the largest weights when training",
        )  # fmt: skip
    top = (1 << target["threshold_bits"]) - 1
    mantissa = 2 * step.threshold - 1 if both else step.threshold - 1
    if step.threshold == SILENT:
        yield Finding(
            "note", step.name, f"its neurons only integrate; Lava's threshold for that, {SILENT - 1}, is beyond the "
            f"chip's {top}", "on the chip switch their spikes off, or train with a rate read-out",
        )  # fmt: skip
    elif mantissa > top:
        yield Finding(
            "error", step.name, f"a threshold of {mantissa} (vThMant); {target.title} holds {top}",
            f"{FEWER_BITS}, or lower the neurons' threshold when training",
        )  # fmt: skip
    elif 2 < step.threshold < COARSE_THRESHOLD:
        yield Finding(
            "warning", step.name, f"a threshold of {step.threshold} units: its weights are coarse steps",
            "more bits, fewer bits of a pixel, or clip the largest weights when training",
        )  # fmt: skip
    bias = 0 if step.synapse.bias is None else int(np.abs(step.synapse.bias).max())
    widest = (1 << target["bias_bits"] - 1) - 1
    if bias > widest:
        yield Finding(
            "warning", step.name, f"a bias of {bias}; the chip's mantissa holds ±{widest}, so the last "
            f"{(bias // (widest + 1)).bit_length()} bits go into its exponent and are rounded off",
            "quantize with fewer bits if accuracy suffers",
        )  # fmt: skip


def _excess(step: ChainLayer, target: Target) -> float:
    """The largest of a layer's weights and its threshold, in shares of what the chip holds."""
    weight = _weights(step)
    lowest, highest = int(weight.min()), int(weight.max())
    both = lowest < 0 < highest
    threshold = 0 if step.threshold == SILENT else step.threshold << both
    room, largest = (1 << target["weight_bits"]) - 1 >> both, max(-lowest, highest)
    weights = largest / room if room else float("inf")  # of one bit nothing is left where a layer has both signs
    return max(weights, threshold / (1 << target["threshold_bits"]))


def _chips(placement: Placement, max_chips: int | None) -> Iterator[Finding]:
    target = placement.target
    room = target["max_chips"] if max_chips is None else max_chips
    largest = max(placement.layers, key=lambda layer: layer.cores, default=None)
    if placement.chips > room:
        assert largest is not None
        yield Finding(
            "error", "", f"{placement.cores:,} cores are {placement.chips} chips, and there are {room}",
            f"make the network smaller; {largest.name} takes most, {largest.cores} cores by its {largest.limited_by}",
        )  # fmt: skip
    elif placement.chips > 1:
        yield Finding(
            "note", "", f"{placement.cores:,} cores are {placement.chips} chips; links between chips are slower, and "
            "their axon entries and energy are not counted",
        )  # fmt: skip
    several = [layer.name for layer in placement.layers if layer.axons == "population"]
    if several:
        yield Finding(
            "note", several[0], f"{len(several)} layer(s), this one first, fed by population axons that lead to several cores; "
            "nengo-loihi makes them, NxTF does not",
        )  # fmt: skip
