"""What a model's number has to do with the bits of the weights: decided by what its data file counts, not by its numbers.

Two networks of different bits spike differently, so all counts differ a little. The question is another one: whether
an operation of fewer bits takes less under the model. Mostly it does not, and a sweep over bits has to say so.
"""

from __future__ import annotations

from typing import Literal

from profilers.energy.count_names import FROM_PLACEMENT, OF_WEIGHT_BITS
from profilers.energy.models import EnergyModel
from profilers.energy.time_models import TimeModel

BitDependence = Literal["weights", "placement", "none"]
"""Bits count themselves ("weights"), or by how the network lies on its cores ("placement"), or not at all ("none")."""


def energy_dependence(model: EnergyModel) -> BitDependence:
    """How the energy of a spiking network under a model hangs on the bits of its weights, its spikes being the same."""
    counted = set() if isinstance(model.snn, str) else {term.count for term in model.snn}
    return "weights" if counted & OF_WEIGHT_BITS else "placement" if counted & FROM_PLACEMENT else "none"


def time_dependence(model: TimeModel) -> BitDependence:
    """How the time of a placed network hangs on them: what cores do, and tiles and chips, are the placement's."""
    counted = {term.count for term in model.step} - {"steps"}
    return "placement" if model.core or counted else "none"
