"""NIR → `SpikingGraph`: every node mapped exactly, mapped with a warning, or refused by name.

What every node of the file gives is a `Current` (see `exporters.graph.currents`): factors come from Scale nodes and
membrane resistances and go into the weights behind or before them; a factor that neurons have in common divides their
threshold instead, which leaves the weights as they are. Constants of a layer that differ per channel go into its
weights too.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import nir
import numpy as np

from exporters.graph import (
    AvgPool2d,
    Conv2d,
    Encoding,
    Flatten,
    GraphError,
    Input,
    Linear,
    MaxPool2d,
    Node,
    Output,
    SpikingGraph,
)
from exporters.graph.currents import (
    Current,
    GraphBuilder,
    Signal,
    SynapseTerm,
    is_one,
    per_channel,
    same_scale,
    scaled,
    scaled_inputs,
    uniform,
)
from exporters.graph.editing import cycle_of, topological_order
from exporters.graph.inference import infer_shape
from exporters.graph.nodes import Score
from exporters.nir.check import NirError, Unfolded, load, unfold
from exporters.nir.neurons import (
    PREFIX,
    Discretization,
    Time,
    constants,
    dynamics,
    fact,
    neuron_of,
    persistence,
    resting,
    start_of,
)
from exporters.nir.values import connected_without, fit, just_above, pair, sample_shape, synapse_of

Reset = Literal["hard", "soft"]
MAX_ELEMENTS = 2**26
"""Of one layer."""
MAX_T = 4_096
"""Of what a file asks for."""


def read(
    path: Path,
    *,
    T: int | None = None,
    dt: float | None = None,
    encoding: Encoding | None = None,
    method: Discretization = "euler",
    reset: Reset | None = None,
) -> SpikingGraph:
    """Read a NIR file of any framework.

    Args:
        path: the file.
        T: time steps per sample; files of this program know theirs.
        dt: seconds per time step; 1e-4 by default, as most frameworks assume.
        encoding: "direct", "frames" or "spikes", where the file does not say it, as only this program's do; direct by default.
        method: how a leak is discretized: "euler", 1 − dt/τ (snnTorch, SpikingJelly, Norse, lava-dl), or
            "exponential", exp(−dt/τ) (Rockpool, sinabs).
        reset: "hard" (to v_reset) or "soft" (by subtraction of the threshold), where the file does not say, as only
            this program's do; hard by default, as NIR means it. snnTorch, sinabs and Rockpool subtract unless told not to.

    Returns:
        The graph; `metadata["nir_warnings"]` holds a sentence for everything that is not exactly as in the file.

    Raises:
        NirError: it cannot be read, or holds something that cannot be mapped, by name.
    """
    return _lower(load(path), path.name, _How(T, dt, encoding, method, reset))


def from_nir(
    graph: Any,
    *,
    T: int | None = None,
    dt: float | None = None,
    encoding: Encoding | None = None,
    method: Discretization = "euler",
    reset: Reset | None = None,
) -> SpikingGraph:
    """As `read`, for a `nir.NIRGraph` in memory."""
    return _lower(unfold(graph), "the NIR graph", _How(T, dt, encoding, method, reset))


class CodingError(NirError):
    """The input's coding was given for a file that says another one itself."""


@dataclass(frozen=True)
class _How:
    """The arguments of `read`."""

    T: int | None
    dt: float | None
    encoding: Encoding | None
    method: Discretization
    reset: Reset | None


def _lower(file: Unfolded, where: str, how: _How) -> SpikingGraph:
    try:
        return _Reader(file, how).graph()
    except CodingError as error:
        raise CodingError(f"{where}: {error}") from error
    except (GraphError, NirError) as error:
        raise NirError(f"{where}: {error}") from error
    except (ValueError, TypeError, AttributeError, KeyError, IndexError, OverflowError) as error:
        first = (str(error).strip().splitlines() or [type(error).__name__])[0][:160]
        raise NirError(f"{where}: its numbers do not fit together ({first})") from error


def _is_scaled_by(part: Signal | SynapseTerm, level: float) -> bool:
    return same_scale(part.scale if isinstance(part, Signal) else 1.0, level)


class _Reader:
    """The state of one reading: the graph so far and the value of every NIR node."""

    def __init__(self, file: Unfolded, how: _How) -> None:
        self.file = file
        self.facts = {k.removeprefix(PREFIX): v for k, v in file.metadata.items() if str(k).startswith(PREFIX)}
        self.warnings: list[str] = []
        steps = how.T if how.T is not None else self.facts.get("T")
        if steps is None:
            raise NirError("a NIR file does not say how many time steps to run; pass T")
        self.T = int(steps)
        if how.T is None and not 1 <= self.T <= MAX_T:
            raise NirError(
                f"it asks for {self.T} time steps; from 1 to {MAX_T} are taken from a file, more if T says so"
            )
        self.dt = float(how.dt if how.dt is not None else self.facts.get("dt", 1e-4))
        if not (math.isfinite(self.dt) and self.dt > 0):
            raise NirError(f"dt is {self.dt}; it must be a positive number of seconds")
        if how.method not in ("euler", "exponential"):
            raise NirError(f"the method is {how.method!r}; choose euler or exponential")
        if how.reset not in (None, "hard", "soft"):
            raise NirError(f"the reset is {how.reset!r}; choose hard or soft")
        self.reset = how.reset
        self.time = Time(self.dt, how.method, how.dt is None and "dt" not in self.facts)
        self.encoding = self.facts.get("input_encoding", how.encoding or "direct")
        if how.encoding not in (None, self.encoding):
            raise CodingError(f"it says itself how its input is coded ({self.encoding}); leave the coding out")
        self.built = GraphBuilder()
        self.values: dict[str, Current] = {}
        self.integrated: Output | None = None  # the read-out that an integrator asks for
        self.output: tuple[str, Output, list[str]] | None = None
        self.sources: dict[str, list[str]] = {n: [] for n in file.nodes}
        self.targets: dict[str, list[str]] = {n: [] for n in file.nodes}
        for a, b in file.edges:
            self.sources[b].append(a)
            self.targets[a].append(b)
        if not self.facts:
            if how.dt is None:
                self.warnings.append(
                    "the file does not say its time step; dt = 0.0001 s is used, as most frameworks do"
                )
            if how.encoding is None:
                self.warnings.append(
                    "the file does not say how the input is coded; it is taken to be constant over time"
                )
            self.warnings.append(
                "NIR fires above the threshold, a SpikingGraph at it; so thresholds are one float32 step above the file's"
            )

    def graph(self) -> SpikingGraph:
        for name in self.order():
            node = self.file.nodes[name]
            value = self.incoming(name, node)
            own = str(fact(node, "name", name))
            self.values[name] = result = self.map(name, own, node, value)
            if math.prod(result.shape) > MAX_ELEMENTS:
                raise NirError(f"{name}: it would have {math.prod(result.shape):.3g} values")
        if self.output is None:
            raise NirError("it has no Output node; add one")
        self.built.add(*self.output)
        user = json.loads(str(self.facts.get("metadata", "{}")))
        metadata = {**user, **({"nir_warnings": list(self.warnings)} if self.warnings else {})}
        return SpikingGraph(self.built.draft.nodes, tuple(self.built.draft.edges), self.T, metadata)

    def order(self) -> list[str]:
        """Topological, and recurrent connections refused by name."""
        for name, node in self.file.nodes.items():
            if not self.sources[name] and (not isinstance(node, nir.Input) or name in self.file.inner_ends):
                raise NirError(f"{name}: nothing feeds this node; it needs an Input node before it")
        order = topological_order(self.file.nodes, self.file.edges)
        if cycle := cycle_of(self.file.nodes, self.file.edges):
            raise NirError(f"recurrent connections through {', '.join(cycle[:6])} cannot be mapped")
        return order

    # -- nodes ---------------------------------------------------------------------------------

    def incoming(self, name: str, node: Any) -> Current:
        sources = [self.values[a] for a in self.sources[name]]
        if not sources:
            return Current((), ())
        shapes = {v.shape for v in sources}
        if len(shapes) > 1:
            raise NirError(f"{name}: the inputs it sums have different shapes ({', '.join(map(str, sorted(shapes)))})")
        return Current(tuple(p for v in sources for p in v.parts), sources[0].shape)

    def map(self, name: str, own: str, node: Any, x: Current) -> Current:
        match node:
            case nir.Input() if name not in self.file.inner_ends:
                return self.input(name, own, node)
            case nir.Output() if name not in self.file.inner_ends:
                return self.read_out(own, x)
            case nir.Input() | nir.Output():
                return x
            case nir.Linear() | nir.Affine() | nir.Conv1d() | nir.Conv2d():
                return self.synapse(name, own, node, x)
            case nir.SumPool2d() | nir.AvgPool2d():
                return self.pool(name, own, node, x)
            case nir.Flatten():
                return self.flatten(name, own, x, node)
            case nir.Scale():
                return x if fact(node, "merged") else scaled(name, x, fit(name, node.scale, x.shape))
            case nir.IF() | nir.LIF() | nir.CubaLIF() | nir.Threshold():
                return x if fact(node, "max_pool") else self.neurons(name, own, node, x)
            case nir.I() | nir.LI() | nir.CubaLI():
                return self.integrator(name, node, x)
            case nir.Delay():
                return self.delay(name, node, x)
        raise NirError(f"{name}: {type(node).__name__} cannot be mapped")

    def input(self, name: str, own: str, node: Any) -> Current:
        declared = tuple(int(d) for d in np.asarray(node.input_type["input"]).reshape(-1))
        shape = sample_shape(declared, [self.file.nodes[b] for b in self.targets[name]])
        if shape != declared:  # exporters that were given a batch write its shape
            self.warnings.append(f"{own}: of its shape {declared} the first axes are taken to be batch and time")
        if len(shape) == 2:
            shape = (shape[0], 1, shape[1])
            self.warnings.append(f"{own}: the input (C, L) becomes (C, 1, L)")
        scale = int(self.facts.get("input_scale", 0)) or None
        self.built.add(own, Input(shape, self.encoding, scale), [])
        return Current((Signal((own,)),), shape)

    def synapse(self, name: str, own: str, node: Any, x: Current) -> Current:
        if fact(node, "max_pool"):
            weight = np.asarray(node.weight)
            kernel = (int(weight.shape[2]), int(weight.shape[3]))
            return self.place_after(own, MaxPool2d(kernel, pair(node.stride), pair(node.padding)), x)
        layer = synapse_of(name, node, integer=bool(self.facts.get("integer")), groups=int(fact(node, "groups", 1)))
        if isinstance(layer, Linear) and len(x.shape) != 1:
            raise NirError(f"{name}: it takes flat input, but {x.shape} arrives; a Flatten is missing")
        if isinstance(layer, Conv2d) and len(x.shape) != 3:
            raise NirError(f"{name}: it takes (C, H, W) input, but {x.shape} arrives")
        shape = infer_shape(name, layer, x.shape)
        parts: list[SynapseTerm] = []
        for signal in self.built.signals(x):
            synapse = scaled_inputs(name, layer, signal.scale, x.shape)
            parts.append(SynapseTerm(own, replace(synapse, bias=None) if parts else synapse, signal.nodes))
        return Current(tuple(parts), shape)

    def place_after(self, own: str, node: Node, x: Current) -> Current:
        """A node without weights on every group of signals with a common factor."""
        shape = infer_shape(own, node, x.shape)
        parts: list[Signal] = []
        for signal in self.built.signals(x):
            scale = signal.scale
            if isinstance(scale, np.ndarray):
                if isinstance(node, Flatten):
                    scale = scale.reshape(shape)
                else:
                    by = per_channel(own, "what it pools", scale, x.shape)
                    scale = np.broadcast_to(by[:, None, None], shape)
            parts.append(Signal((self.built.add(own, node, signal.nodes),), scale))
        return Current(tuple(parts), shape)

    def pool(self, name: str, own: str, node: Any, x: Current) -> Current:
        if len(x.shape) != 3:
            raise NirError(f"{name}: it pools (C, H, W) input, but {x.shape} arrives")
        kernel = pair(node.kernel_size)
        divisor = kernel[0] * kernel[1] if isinstance(node, nir.AvgPool2d) else int(fact(node, "divisor", 1))
        pool = AvgPool2d(kernel, pair(node.stride), pair(node.padding), divisor)
        return self.place_after(own, pool, x)

    def flatten(self, name: str, own: str, x: Current, node: Any) -> Current:
        dims = len(x.shape)
        start, end = (d if d >= 0 else dims + d for d in (int(node.start_dim), int(node.end_dim)))
        # some writers count the batch axis: a start of 1 over (C, H, W) to the end still means everything
        if dims == 1:
            return x
        if end < dims - 1 or start > 1:
            raise NirError(f"{name}: it flattens only dimensions {start} to {end} of {x.shape}, which cannot be mapped")
        if start == 1:
            declared = (node.input_type or {}).get("input")
            if declared is not None and len(np.ravel(declared)) == dims and x.shape[0] != 1:
                self.warnings.append(f"{own}: it flattens from dimension 1; the first is taken to be the batch")
        return self.place_after(own, Flatten(), x)

    def neurons(self, name: str, own: str, node: Any, x: Current) -> Current:
        leak, gain, threshold = constants(name, node, x.shape, self.time)
        if resting(name, node, x.shape).any():
            self.warnings.append(f"{name}: its membrane is counted from v_reset, where it is taken to start")
        if self.time.assumed and isinstance(node, nir.IF) and (np.asarray(node.r) == 1).all():
            self.warnings.append(f"{name}: its resistance of 1 is taken to mean 1 per step; pass dt to say otherwise")
        # v ← leak·v + gain·x fires at θ where v/gain fires at θ/gain
        with np.errstate(over="ignore", divide="ignore", invalid="ignore"):  # refused below
            effective = threshold / gain
        if not (np.isfinite(effective).all() and (effective > 0).all()):
            raise NirError(f"{name}: its threshold and resistance must be positive and finite")
        level = uniform(effective)
        if level is None:
            x, level = scaled(name, x, 1 / effective), 1.0
        first = x.parts[0] if x.parts else None
        common = first.scale if isinstance(first, Signal) else 1.0
        if isinstance(common, float) and common > 0 and all(_is_scaled_by(p, common) for p in x.parts):
            x = Current(tuple(replace(p, scale=1.0) if isinstance(p, Signal) else p for p in x.parts), x.shape)
            level /= common
        reset: Reset = "soft" if fact(node, "reset", self.reset) == "soft" else "hard"
        scale = float(fact(node, "scale", 1.0))
        threshold_value = round(level) if self.facts.get("integer") else level if self.facts else just_above(level)
        persists = persistence(name, node, x.shape, self.time)
        start = start_of(name, node, threshold, level)
        neuron = neuron_of(threshold_value, leak, reset, scale, persists, start)
        sources = self.built.place(x)
        if persists:
            if any(getattr(self.built.draft.nodes[source], "bias", None) is not None for source in sources):
                raise NirError(
                    f"{name}: the biases of what feeds it would pass through its synaptic current (tau_syn), which "
                    "Loihi's do not; use layers without bias before it"
                )
            self.warnings.append(f"{name}: its membrane takes in the synaptic current of the same step")
        return Current((Signal((self.built.add(own, neuron, sources),)),), x.shape)

    def integrator(self, name: str, node: Any, x: Current) -> Current:
        targets = [self.file.nodes[b] for b in self.targets[name]]
        if not targets or not all(isinstance(t, nir.Output) for t in targets):
            raise NirError(
                f"{name}: neurons that never fire ({type(node).__name__}) can be mapped as the read-out only"
            )
        leak, gain = dynamics(name, node, x.shape, self.time)
        if persistence(name, node, x.shape, self.time):
            raise NirError(
                f"{name}: its synaptic current lasts (tau_syn); a read-out needs tau_syn = dt = {self.time.dt:g} s"
            )
        level = uniform(gain)
        if level is None or level <= 0:
            raise NirError(f"{name}: its resistances must be positive and the same for all neurons")
        scale = float(self.facts.get("output_scale", 1 / level))
        scale = scale if math.isclose(scale * level, 1, rel_tol=1e-9) else 1 / level  # ours, but for rounding
        self.integrated = Output("membrane", scale, leak, self.score())
        return x

    def score(self) -> Score:
        return "mean" if str(self.facts.get("score", "last")) == "mean" else "last"

    def read_out(self, own: str, x: Current) -> Current:
        if self.output is not None:
            raise NirError(f"{own}: it is the second Output node; only one can be mapped")
        is_spikes = all(isinstance(p, Signal) and is_one(p.scale) for p in x.parts)
        if self.integrated is not None:
            node = self.integrated
        elif is_spikes and str(self.facts.get("readout", "rate")) == "rate":
            node = Output("rate")
        else:
            node = Output("membrane", float(self.facts.get("output_scale", 1.0)), score=self.score())
            if not self.facts:
                self.warnings.append(f"{own}: it gives currents; their sum over time is read, divided by T")
        self.output = (own, node, self.built.place(x))
        return x

    def delay(self, name: str, node: Any, x: Current) -> Current:
        steps = np.ravel(np.asarray(node.delay, np.float64)) / self.dt
        if not np.any(np.rint(steps)):
            return x
        if not np.allclose(steps, steps[0]) or connected_without(self.file, name):
            raise NirError(f"{name}: delays that differ, or beside a path without them, cannot be mapped")
        self.warnings.append(
            f"{name}: the delay of {round(float(steps[0]))} steps is dropped; the output comes earlier"
        )
        return x
