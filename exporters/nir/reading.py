"""NIR → `SpikingGraph`: every node mapped exactly, mapped with a warning, or refused by name.

What every node of the file gives is a `Current` (see `exporters.graph.currents`): factors come from Scale nodes and
membrane resistances and go into the weights behind or before them; a factor that neurons have in common divides their
threshold instead, which leaves the weights as they are. Constants of a layer that differ per channel go into its
weights too.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

import nir
import numpy as np

from exporters.graph import (
    AvgPool2d,
    Conv2d,
    Delay,
    Encoding,
    Flatten,
    GraphError,
    Input,
    Linear,
    MaxPool2d,
    Node,
    Output,
    Shape,
    SpikingGraph,
)
from exporters.graph.currents import (
    Current,
    GraphBuilder,
    Signal,
    SynapseTerm,
    is_one,
    per_channel,
    scaled,
    scaled_inputs,
    uniform,
)
from exporters.graph.editing import topological_order
from exporters.graph.inference import infer_shape
from exporters.graph.loops import cyclic_parts
from exporters.graph.nodes import Score
from exporters.nir.check import NirError, Unfolded, load, require_fed, unfold
from exporters.nir.delays import Lag, before_synapses, in_steps
from exporters.nir.lasting_biases import always_firing, without_biases
from exporters.nir.loops import closed, with_said_loops
from exporters.nir.neurons import (
    Discretization,
    at_one_level,
    constants,
    dynamics,
    fact,
    neuron_of,
    persistence,
    resting,
    start_of,
)
from exporters.nir.settings import Arguments, CodingError, Reset, Settings, settings_of
from exporters.nir.values import fit, just_above, pair, sample_shape, synapse_of

MAX_ELEMENTS = 2**26
"""Of one layer."""


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
    return _lower(load(path), path.name, Arguments(T, dt, encoding, method, reset))


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
    return _lower(unfold(graph), "the NIR graph", Arguments(T, dt, encoding, method, reset))


def _lower(file: Unfolded, where: str, given: Arguments) -> SpikingGraph:
    try:
        return _read(file, settings_of(file, given))
    except CodingError as error:
        raise CodingError(f"{where}: {error}") from error
    except (GraphError, NirError) as error:
        raise NirError(f"{where}: {error}") from error
    except RecursionError as error:
        raise NirError(f"{where}: too many layers lie between its neurons and a delay") from error
    except (ValueError, TypeError, AttributeError, KeyError, IndexError, OverflowError) as error:
        first = (str(error).strip().splitlines() or [type(error).__name__])[0][:160]
        raise NirError(f"{where}: its numbers do not fit together ({first})") from error


def _read(file: Unfolded, settings: Settings) -> SpikingGraph:
    notices = list(settings.notices)
    dt = settings.time.dt
    require_fed(file)
    file, back = closed(in_steps(with_said_loops(file, settings.facts.get("loops", "[]"), dt), dt))
    if back:
        listed = ", ".join(f"{a} → {b}" for a, b in back)
        notices.append(
            f"what goes back without a delay ({listed}) takes one step: it carries the spikes of the step before"
        )
    shapes: dict[str, Shape] = {}
    if any(isinstance(node, Lag) for node in file.nodes.values()):
        shapes = _Reader(file, settings).shapes_found()
        file = before_synapses(file, shapes)
    reader = _Reader(file, settings, shapes)
    graph = reader.graph()
    notices += reader.warnings
    return replace(graph, metadata={**graph.metadata, "nir_warnings": notices}) if notices else graph


class _Reader:
    """The state of one reading: the graph so far and the value of every NIR node. `shapes` are known beforehand, where delays
    close loops."""

    def __init__(self, file: Unfolded, settings: Settings, shapes: Mapping[str, Shape] = MappingProxyType({})) -> None:
        self.file, self.settings, self.shapes = file, settings, shapes
        self.facts, self.time = settings.facts, settings.time
        self.score: Score = "mean" if str(self.facts.get("score", "last")) == "mean" else "last"
        self.warnings: list[str] = []
        self.built = GraphBuilder()
        self.values: dict[str, Current] = {}
        self.integrated: Output | None = None  # the read-out that an integrator asks for
        self.output: tuple[str, Output, list[str]] | None = None
        self.sources: dict[str, list[str]] = {n: [] for n in file.nodes}
        self.targets: dict[str, list[str]] = {n: [] for n in file.nodes}
        for a, b in file.edges:
            self.sources[b].append(a)
            self.targets[a].append(b)
        looping = {name for part in cyclic_parts(file.nodes, file.edges) for name in part}
        self.always: str | None = None  # the neuron that stands for biases which last
        self.closing = [
            n for n in file.nodes if isinstance(lag := file.nodes[n], Lag) and lag.is_later and n in looping
        ]

    def graph(self) -> SpikingGraph:
        """The graph of a file whose delays stand behind neurons, or whose spikes reach them without synapses."""
        for name in topological_order(
            self.file.nodes, [edge for edge in self.file.edges if edge[1] not in self.closing]
        ):
            self.map_node(name)
        if self.output is None:
            raise NirError("it has no Output node; add one")
        self.built.add(*self.output)
        draft = self.built.draft
        for name in self.closing:
            (delay,) = [node for part in self.values[name].parts if isinstance(part, Signal) for node in part.nodes]
            draft.edges.extend((source, delay) for source in self.built.place(self.incoming(name)))
        user = json.loads(str(self.facts.get("metadata", "{}")))
        return SpikingGraph(draft.nodes, tuple(draft.edges), self.settings.T, user)

    def shapes_found(self) -> dict[str, Shape]:
        """The shape of what each node gives, on the way on which it is reached first: there are loops. One that no input reaches
        begins with a delay that says its shape."""
        begins = {name: node.shape for name, node in self.file.nodes.items() if isinstance(node, Lag) and node.shape}
        reached: dict[str, list[str]] = {}
        for first in [*(name for name in self.file.nodes if not self.sources[name]), *begins]:
            order = [] if first in reached else [first]
            reached |= {name: [] for name in order}
            for name in order:  # it grows while it is walked
                new = [target for target in self.targets[name] if target not in reached]
                reached |= {target: [name] for target in new}
                order += new
        if missing := [name for name in self.file.nodes if name not in reached]:
            raise NirError(f"{missing[0]}: nothing feeds this node but a loop; it needs a path from the Input node")
        self.sources, self.closing = reached, []
        for name, sources in reached.items():
            if name in begins and not sources:
                self.values[name] = Current((Signal((name,)),), begins[name])
            else:
                self.map_node(name)
        return {name: value.shape for name, value in self.values.items()}

    def map_node(self, name: str) -> None:
        node = self.file.nodes[name]
        value = Current((), ()) if name in self.closing else self.incoming(name)
        self.values[name] = result = self.map(name, str(fact(node, "name", name)), node, value)
        if math.prod(result.shape) > MAX_ELEMENTS:
            raise NirError(f"{name}: it would have {math.prod(result.shape):.3g} values")

    # -- nodes ---------------------------------------------------------------------------------

    def incoming(self, name: str) -> Current:
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
            case Lag():
                return self.delay(name, own, node, x)
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
        self.built.add(own, Input(shape, self.settings.encoding, scale), [])
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
        x, level = at_one_level(name, x, gain, threshold)
        reset: Reset = "soft" if fact(node, "reset", self.settings.reset) == "soft" else "hard"
        scale = float(fact(node, "scale", 1.0))
        threshold_value = round(level) if self.facts.get("integer") else level if self.facts else just_above(level)
        persists = persistence(name, node, x.shape, self.time)
        start = start_of(name, node, threshold, level)
        neuron = neuron_of(threshold_value, leak, reset, scale, persists, start)
        if persists:
            x = self.lasting(name, own, x)
        return Current((Signal((self.built.add(own, neuron, self.built.place(x)),)),), x.shape)

    def lasting(self, name: str, own: str, x: Current) -> Current:
        """What reaches neurons whose current persists: spikes alone."""
        self.warnings.append(f"{name}: its membrane takes in the synaptic current of the same step")
        x, bias = without_biases(name, x)
        if bias is None:
            return x
        if self.always is None:
            self.always = always_firing(self.built)
        self.warnings.append(
            f"{name}: biases that pass through its current are weights of a neuron that fires at every step ({self.always})"
        )
        return Current((*x.parts, SynapseTerm(f"{own}.bias", Linear(bias[:, None]), (self.always,))), x.shape)

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
        self.integrated = Output("membrane", scale, leak, self.score)
        return x

    def read_out(self, own: str, x: Current) -> Current:
        if self.output is not None:
            raise NirError(f"{own}: it is the second Output node; only one can be mapped")
        of_nodes = all(isinstance(p, Signal) and is_one(p.scale) for p in x.parts)
        is_spikes = of_nodes and not any(self.built.gives_currents(name) for p in x.parts for name in p.nodes)
        if self.integrated is not None:
            node = self.integrated
        elif is_spikes and str(self.facts.get("readout", "rate")) == "rate":
            node = Output("rate")
        else:
            node = Output("membrane", float(self.facts.get("output_scale", 1.0)), score=self.score)
            if not self.facts:
                self.warnings.append(f"{own}: it gives currents; their sum over time is read, divided by T")
        self.output = (own, node, self.built.place(x))
        return x

    def delay(self, name: str, own: str, lag: Lag, x: Current) -> Current:
        closes = name in self.closing
        shape = self.shapes[self.sources[name][0]] if closes else x.shape
        if not self.shapes or not (lag.steps.any() or self.facts):  # shapes are being found, or it changes nothing
            return x
        if lag.steps.size not in (1, math.prod(shape)):
            raise NirError(f"{name}: it has {lag.steps.size} delays, but {shape} arrives")
        steps = lag.steps.reshape(shape) if lag.steps.size > 1 else np.full(shape, lag.steps)
        if closes:
            return Current((Signal((self.built.add(own, Delay(steps), []),)),), shape)
        signals = self.built.signals(x)
        return Current(tuple(Signal((self.built.add(own, Delay(steps), s.nodes),), s.scale) for s in signals), shape)
