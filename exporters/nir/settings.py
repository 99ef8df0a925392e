"""What a NIR file leaves open (time steps, dt, coding, reset): from the arguments of `read`, or from this program's metadata."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal

from exporters.graph import Encoding
from exporters.nir.check import NirError, Unfolded
from exporters.nir.neurons import PREFIX, Discretization, Time

Reset = Literal["hard", "soft"]
MAX_T = 4_096
"""Of what a file asks for."""


class CodingError(NirError):
    """The input's coding was given for a file that says another one itself."""


@dataclass(frozen=True)
class Arguments:
    """The arguments of `read`."""

    T: int | None
    dt: float | None
    encoding: Encoding | None
    method: Discretization
    reset: Reset | None


@dataclass(frozen=True, eq=False)
class Settings:
    """What a file is read with.

    Attributes:
        facts: what this program's metadata of the graph says; empty for files of others.
        T: number of time steps.
        time: the time step, and how leaks are discretized.
        encoding: of the input.
        reset: of neurons whose metadata do not say.
        notices: a sentence for everything that had to be assumed.
    """

    facts: dict[str, Any]
    T: int
    time: Time
    encoding: Encoding
    reset: Reset | None
    notices: tuple[str, ...]


def settings_of(file: Unfolded, given: Arguments) -> Settings:
    """What a file is read with.

    Raises:
        NirError: an argument that is out of range, no T, or what a file of this program says itself.
        CodingError: a coding for a file that says its own.
    """
    facts = {k.removeprefix(PREFIX): v for k, v in file.metadata.items() if str(k).startswith(PREFIX)}
    steps = given.T if given.T is not None else facts.get("T")
    if steps is None:
        raise NirError("a NIR file does not say how many time steps to run; pass T")
    T = int(steps)
    if given.T is None and not 1 <= T <= MAX_T:
        raise NirError(f"it asks for {T} time steps; from 1 to {MAX_T} are taken from a file, more if T says so")
    dt = float(given.dt if given.dt is not None else facts.get("dt", 1e-4))
    if not (math.isfinite(dt) and dt > 0):
        raise NirError(f"dt is {dt}; it must be a positive number of seconds")
    if given.method not in ("euler", "exponential"):
        raise NirError(f"the method is {given.method!r}; choose euler or exponential")
    if given.reset not in (None, "hard", "soft"):
        raise NirError(f"the reset is {given.reset!r}; choose hard or soft")
    encoding = facts.get("input_encoding", given.encoding or "direct")
    if given.encoding not in (None, encoding):
        raise CodingError(f"it says itself how its input is coded ({encoding}); leave the coding out")
    said = {"dt": facts.get("dt", dt) != dt, "method": given.method != "euler", "reset": given.reset is not None}
    for name in [name for name, other in said.items() if other and facts]:
        raise NirError(f"it is a file of this program, which says everything itself; leave {name} out")
    time = Time(dt, given.method, given.dt is None and "dt" not in facts)
    return Settings(facts, T, time, encoding, given.reset, () if facts else _assumed(given))


def _assumed(given: Arguments) -> tuple[str, ...]:
    found = []
    if given.dt is None:
        found.append("the file does not say its time step; dt = 0.0001 s is used, as most frameworks do")
    if given.encoding is None:
        found.append("the file does not say how the input is coded; it is taken to be constant over time")
    found.append(
        "NIR fires above the threshold, a SpikingGraph at it; so thresholds are one float32 step above the file's"
    )
    return tuple(found)
