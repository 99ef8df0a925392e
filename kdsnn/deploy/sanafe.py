"""A network as SANA-FE is given it, and what SANA-FE finds: spikes, energy and time, contention on the mesh included."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from kdsnn.errors import KdsnnError
from profilers.text_table import TextTable, table

if TYPE_CHECKING:
    from exporters.graph import Array, SpikingGraph
    from hardware.sanafe import Description, SanafeRun
    from kdsnn.deploy.lowered import Lowered
    from profilers import report
    from profilers.energy.models import Range


TARGET = "loihi1"
"""The chip that SANA-FE is given a description of."""

SAMPLES = 16
"""So many samples of a report are simulated, each on a chip of its own: a second or more for each."""


@dataclass(frozen=True, eq=False)
class ChipCosts:
    """A simulator of a chip found these costs: joules and seconds (N, steps) of every chip step of every sample alone."""

    joules: Array
    seconds: Array


@dataclass(frozen=True, eq=False)
class DescribedNetwork:
    """A network's chain as it is placed on Loihi 1, and its description for SANA-FE."""

    chain: SpikingGraph
    description: Description

    def sent(self, frames: Array) -> Array:
        """What the host sends of samples, (N, T, *shape) spikes: those of the layer that runs there, or the samples' own."""
        from hardware import emulator

        source = self.description.source
        if source == next(iter(self.chain.nodes)):
            return frames
        recorder = emulator.Recorder(self.chain)
        emulator.run(self.chain, frames, observe=recorder)
        return recorder.spikes[source]

    def run(self, frames: Array, progress: Callable[[int], None] | None = None) -> SanafeRun:
        """Samples, as the integer graph consumes them, run through SANA-FE.

        Raises:
            DeployError: SANA-FE is not there, or failed.
        """
        from hardware import sanafe

        return sanafe.run(self.description, self.sent(frames), progress=progress)


def described(network: Lowered) -> DescribedNetwork:
    """The quantized network is placed on Loihi 1 and described.

    Raises:
        DeployError: it cannot be placed there, or SANA-FE cannot compute the same; one line.
    """
    from exporters.passes.chain import to_chain
    from hardware import sanafe
    from hardware.chips import fit, limits

    chain = to_chain(network.integer)
    target = limits.target(TARGET)
    placement = fit.check(chain, target).placement
    if placement is None:
        raise KdsnnError(
            f"{network.name}: it cannot be placed on {target.title}, which SANA-FE simulates; "
            "`kdsnn-deploy check` says what to change"
        )
    if not placement.layers:
        raise KdsnnError(
            f"{network.name}: its only layer reads pixels and runs on the host; nothing is left for SANA-FE"
        )
    return DescribedNetwork(chain, sanafe.describe(chain, placement, network.name))


def simulated(network: Lowered, frames: Array, progress: Callable[[int], None] | None = None) -> report.SimulatedRun:
    """What SANA-FE says of the quantized network on samples as the integer graph consumes them, for a report.

    Raises:
        DeployError: SANA-FE is not there or failed, or cannot compute the same.
    """
    from hardware import emulator
    from profilers import report
    from profilers.energy.models import Citation

    ready = described(network)
    found = ready.run(frames, progress)
    recorder = emulator.Recorder(ready.chain)
    emulator.run(ready.chain, frames, observe=recorder)
    pairs = [(spikes, recorder.spikes[name]) for name, spikes in found.spikes.items() if name in recorder.spikes]
    seconds, joules = found.seconds.sum(axis=1), found.joules.sum(axis=1)
    note = (
        "simulated with what waits for what on the mesh, one sample alone; layers on the host cost nothing there, and second "
        "compartments and barriers between chips are not in it."
    )
    return report.SimulatedRun(
        simulator="SANA-FE, message by message",
        samples=len(frames),
        seconds=_spanned(seconds),
        joules=_spanned(joules),
        product=_spanned(seconds * joules),
        seconds_by_step=tuple(found.seconds.mean(axis=0).tolist()),
        joules_by_step=tuple(found.joules.mean(axis=0).tolist()),
        mismatching_spikes=sum(int((spikes != own).sum()) for spikes, own in pairs),
        compared_spikes=sum(spikes.size for spikes, _ in pairs),
        source=Citation(
            "J. Boyle et al., “SANA-FE”, IEEE TCAD 44(8):3165–3178, 2025", "https://doi.org/10.1109/TCAD.2025.3537971"
        ),
        note=note,
    )


def _spanned(values: Array) -> Range:
    """The least, the mean and the most."""
    from profilers.energy.models import Range

    return Range(float(values.min()), float(values.mean()), float(values.max()))


def cost_table(backend: str, costs: ChipCosts) -> TextTable:
    """Energy, time and their product per sample: the mean and the range over samples."""
    from profilers.report.numbers import quantity, spread

    def row(what: str, values: Array, unit: str) -> list[str]:
        bounds = _spanned(values)
        return [what, quantity(bounds.nominal, unit), spread(bounds, unit)]

    joules, seconds = costs.joules.sum(axis=1), costs.seconds.sum(axis=1)
    rows = [
        row(f"energy, all {costs.joules.shape[1]} steps", joules, "J"),
        row("time, all steps", seconds, "s"),
        row("energy × time", joules * seconds, "J·s"),
        row("slowest step", costs.seconds.max(axis=1), "s"),
    ]
    title = f"{backend}: one sample alone on the chip, without static power; the host sends for nothing"
    return table(title, ["per sample", "mean", "over samples"], rows)


def joined_costs(parts: list[ChipCosts | None]) -> ChipCosts | None:
    """Costs of samples that follow one another."""
    known = [part for part in parts if part is not None]
    if not known:
        return None
    return ChipCosts(np.concatenate([p.joules for p in known]), np.concatenate([p.seconds for p in known]))
