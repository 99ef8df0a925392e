"""NIR's neurons in discrete time: v ← leak·v + gain·x, firing at a threshold (see `docs/nir.md`)."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any, Literal

import nir
import numpy as np

from exporters.graph import IF, LIF, AnyNeuron, Array, Shape
from exporters.graph.currents import Current, Signal, SynapseTerm, identity, same_scale, scaled, uniform
from exporters.graph.nodes import Reset
from exporters.nir.check import NirError
from exporters.nir.values import fit, just_below, snapped

PREFIX = "kdsnn_deploy_"
Discretization = Literal["euler", "exponential"]


@dataclass(frozen=True)
class Time:
    """Seconds per step, and how a leak is discretized: "euler", 1 − dt/τ, or "exponential", exp(−dt/τ).

    `assumed`: dt is not known but assumed. Then IF neurons with R = 1 take in their whole input at every
    step, which is how snnTorch and others that think in steps write them.
    """

    dt: float
    method: Discretization
    assumed: bool


def fact(node: Any, key: str, default: Any = None) -> Any:
    """What this program's metadata of a node says."""
    value = (node.metadata or {}).get(PREFIX + key, default)
    return value.item() if isinstance(value, np.generic) else value


def start_of(name: str, node: Any, threshold: Array, level: float) -> float:
    """Where the membrane starts, as this program's metadata says, in the units in which its threshold is `level`; else 0.

    Raises:
        NirError: it starts elsewhere than at 0, and the layer has several thresholds.
    """
    start = float(fact(node, "start", 0.0))
    if not start:
        return 0.0
    one = uniform(threshold)
    if one is None:
        raise NirError(f"{name}: its membranes start at {start:g}, but its thresholds differ; give it one threshold")
    return start * (level / one)


def neuron_of(threshold: float, leak: float, reset: Reset, scale: float, persists: float, start: float) -> AnyNeuron:
    """The node of a neuron layer: one that leaks, or whose current persists, is a LIF."""
    if leak != 1 or persists:
        return LIF(threshold, leak, reset, scale, persists, start)
    return IF(threshold, reset, scale, start)


def resting(name: str, node: Any, shape: Shape) -> Array:
    """Where the membrane rests and is reset to, per neuron.

    Raises:
        NirError: these are not the same.
    """
    if isinstance(node, nir.Threshold):
        return np.zeros(shape)
    rest = fit(name, 0.0 if node.v_reset is None else node.v_reset, shape)
    if not isinstance(node, nir.IF) and not np.allclose(fit(name, node.v_leak, shape), rest):
        raise NirError(f"{name}: it leaks toward v_leak but resets to v_reset, which must be the same to be mapped")
    return rest


def constants(name: str, node: Any, shape: Shape, time: Time) -> tuple[float, Array, Array]:
    """(leak, gain, threshold) of v ← leak·v + gain·x."""
    if isinstance(node, nir.Threshold):  # no memory
        return 0.0, np.ones(shape), fit(name, node.threshold, shape)
    leak, gain = dynamics(name, node, shape, time)
    threshold = fit(name, node.v_threshold, shape)
    exact = fact(node, "threshold")
    if exact is not None and (threshold == just_below(float(exact))).all():  # written by this program
        threshold = np.full(shape, float(exact))
    return leak, gain, threshold - resting(name, node, shape)


def at_one_level(name: str, x: Current, gain: Array, threshold: Array) -> tuple[Current, float]:
    """The current, and the one threshold, of v ← leak·v + x that fires as v ← leak·v + gain·x does: where v/gain is at θ/gain.

    What differs between neurons, and what its parts have not in common, goes into the current.

    Raises:
        NirError: a gain or a threshold that is not positive and finite.
        GraphError: constants that differ within a channel of a convolution.
    """
    with np.errstate(over="ignore", divide="ignore", invalid="ignore"):  # refused below
        effective = threshold / gain
    if not (np.isfinite(effective).all() and (effective > 0).all()):
        raise NirError(f"{name}: its threshold and resistance must be positive and finite")
    level = uniform(effective)
    if level is None:
        x, level = scaled(name, x, 1 / effective), 1.0
    factors = [part.scale if isinstance(part, Signal) else 1.0 for part in x.parts]
    common = factors[0] if factors else 1.0
    if isinstance(common, float) and common > 0 and all(same_scale(factor, common) for factor in factors):
        x = Current(tuple(replace(p, scale=1.0) if isinstance(p, Signal) else p for p in x.parts), x.shape)
        level /= common
    return _of_one_kind(x), level


def _of_one_kind(x: Current) -> Current:
    """Where synapses reach neurons, spikes reach them through synapses too, of weight 1."""
    if {type(part) for part in x.parts} != {Signal, SynapseTerm}:
        return x
    parts = [
        SynapseTerm(f"{p.nodes[0]}.same", identity(p.nodes[0], x.shape, p.scale), p.nodes)
        if isinstance(p, Signal)
        else p
        for p in x.parts
    ]
    return Current(tuple(parts), x.shape)


def dynamics(name: str, node: Any, shape: Shape, time: Time) -> tuple[float, Array]:
    """(leak, gain) of a membrane."""
    r = fit(name, node.r, shape)
    if isinstance(node, nir.IF | nir.I):
        if time.assumed and (r == 1).all():
            return 1.0, r
        with np.errstate(over="ignore"):  # what is not finite is refused with the threshold
            return 1.0, snapped(r * time.dt)
    if isinstance(node, nir.CubaLIF | nir.CubaLI):
        r = r * fit(name, node.w_in, shape) * (1 - persistence(name, node, shape, time))
    tau = fit(name, node.tau if isinstance(node, nir.LIF | nir.LI) else node.tau_mem, shape)
    leak = _leak(name, node, "leak", tau, time)
    return leak, snapped(r * (1 - leak))


def persistence(name: str, node: Any, shape: Shape, time: Time) -> float:
    """`current_leak` of u ← current_leak·u + x: what share of a synaptic current lasts to the next step."""
    if not isinstance(node, nir.CubaLIF | nir.CubaLI):
        return 0.0
    tau = fit(name, node.tau_syn, shape)
    if np.allclose(tau, time.dt, rtol=1e-6, atol=0):  # by either method: a current of one step
        return 0.0
    return _leak(name, node, "current_leak", tau, time)


def _leak(name: str, node: Any, key: str, tau: Array, time: Time) -> float:
    """What a time constant leaves after one step; the number in this program's metadata where it is the same."""
    tau_value = uniform(tau)
    if tau_value is None or not tau_value > 0:
        raise NirError(
            f"{name}: its time constants differ between neurons or are not positive; they must be one number"
        )
    if time.method == "exponential":
        leak = math.exp(-time.dt / tau_value)
    elif tau_value < time.dt * (1 - 1e-9):
        raise NirError(f"{name}: its time constant {tau_value:g} s is shorter than the time step; pass a dt below it")
    else:
        leak = max(0.0, 1 - time.dt / tau_value)
    exact = fact(node, key)
    return float(exact) if exact is not None and math.isclose(float(exact), leak, abs_tol=1e-9) else leak
