"""A run that goes on for T steps holds the shorter runs of the same network: what it did first, it did then too.

That is so where nothing that comes in or comes later changes what has been: one image at every step, or frames in
their order. The activity of t steps is then that of the first t, integer for integer (`tests/profilers/test_sweep.py`
compares with runs of their own).
"""

from __future__ import annotations

from dataclasses import fields, replace
from types import MappingProxyType
from typing import Any, TypeVar

import numpy as np

from exporters.errors import DeployError
from profilers.counting.activity import Activity, NeuronActivity, SynapseActivity

Part = TypeVar("Part", NeuronActivity, SynapseActivity)


def first_steps(activity: Activity, t: int) -> Activity:
    """What a network did in the first t of its T steps.

    Raises:
        DeployError: it ran for fewer steps.
    """
    if not 1 <= t <= activity.T:
        raise DeployError(f"the first {t} steps of a run of {activity.T}; give 1 to {activity.T}")
    return Activity(
        t,
        activity.samples,
        MappingProxyType({name: _cut(part, t) for name, part in activity.neurons.items()}),
        MappingProxyType({name: _cut(part, t) for name, part in activity.synapses.items()}),
        None if activity.events_in is None else activity.events_in[:, :t],
    )


def _cut(part: Part, t: int) -> Part:
    values = {f.name: getattr(part, f.name) for f in fields(part)}
    cut: dict[str, Any] = {name: value[:, :t] for name, value in values.items() if isinstance(value, np.ndarray)}
    return replace(part, **cut)
