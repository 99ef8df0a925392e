"""Delays of NIR files: in whole steps, and before synapses.

A `SpikingGraph` delays spikes, not currents; `before_synapses` moves a delay from behind synapses, pools or sums of them to the
spikes that these read. A delay that differs between outputs becomes several sets of synapses, one for each lag.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from typing import Any

import nir
import numpy as np

from exporters.graph import Array, Shape
from exporters.graph.editing import Edge, unique_name
from exporters.graph.loops import cyclic_parts
from exporters.nir.check import NirError, Unfolded
from exporters.nir.neurons import PREFIX, fact

MAX_STEPS = 4_096
"""Of one delay."""
MAX_COPIED = 2**26
"""Weights that delays which differ behind them may make of one file."""

Cells = nir.IF | nir.LIF | nir.CubaLIF | nir.Threshold
Weighted = nir.Linear | nir.Affine | nir.Conv1d | nir.Conv2d


@dataclass(frozen=True, eq=False)
class Lag:
    """A delay in whole steps stands for a `nir.Delay` in an unfolded file.

    Attributes:
        steps: int64, one number for all (shape ()) or one for each element of what is delayed.
        shape: of what is delayed, as the file says it.
        said: whether the file says it; else it is the step that a connection back implies.
        metadata: of the node.
    """

    steps: Array
    shape: Shape = ()
    said: bool = True
    metadata: dict[str, Any] = field(default_factory=dict)

    @property
    def is_later(self) -> bool:
        """Whether nothing leaves within the step in which it arrives."""
        return bool((self.steps >= 1).all())


def in_steps(file: Unfolded, dt: float) -> Unfolded:
    """The file with a `Lag` for each of its delays.

    Raises:
        NirError: a delay that is no whole number of steps of dt seconds, by name.
    """
    lags = {name: _in_steps(name, node, dt) for name, node in file.nodes.items() if isinstance(node, nir.Delay)}
    return replace(file, nodes={**file.nodes, **lags})


def _in_steps(name: str, node: Any, dt: float) -> Lag:
    seconds = np.asarray(node.delay, np.float64)
    if not seconds.size or not np.isfinite(seconds).all():
        raise NirError(f"{name}: its delay is empty, NaN or infinite")
    steps = seconds / dt
    if steps.min() < 0 or steps.max() > MAX_STEPS + 0.5:
        raise NirError(
            f"{name}: it delays by {seconds.min():g} to {seconds.max():g} s, which is {steps.min():g} to {steps.max():g} "
            f"steps of dt = {dt:g} s; 0 to {MAX_STEPS} steps are read"
        )
    whole = np.rint(steps)
    wrong = np.abs(steps - whole) > 1e-6 + 1e-5 * whole  # seconds may be float32
    if wrong.any():
        raise NirError(
            f"{name}: its delay of {seconds[wrong].flat[0]:g} s is {steps[wrong].flat[0]:g} steps of dt = {dt:g} s; a delay is "
            "whole steps, so pass a dt that divides it"
        )
    if (whole == whole.flat[0]).all():
        whole = whole.flat[0]
    return Lag(np.asarray(whole, np.int64), seconds.shape, metadata=dict(node.metadata or {}))


def before_synapses(file: Unfolded, shapes: dict[str, Shape]) -> Unfolded:
    """The file with each delay behind neurons, the input, or what only pools or reshapes their spikes; those of loops
    behind neurons themselves.

    Args:
        file: with a `Lag` on every loop.
        shapes: of what leaves each node.

    Raises:
        NirError: a delay that synapses, pools or biases cannot take over, by name.
    """
    looping = {name for part in cyclic_parts(file.nodes, file.edges) for name in part}
    return _Mover(file, shapes, looping).result()


class _Mover:
    """The file while delays are moved in it: `nodes` and `edges` are of the new one, with copies that read later spikes."""

    def __init__(self, file: Unfolded, shapes: dict[str, Shape], looping: set[str]) -> None:
        self.file, self.shapes = file, shapes
        self.sources: dict[str, list[str]] = {name: [] for name in file.nodes}
        for a, b in file.edges:
            self.sources[b].append(a)
        self.kept = {
            name: [a for a in self.sources[name] if self.may_delay(a, name in looping and lag.is_later)]
            for name, lag in file.nodes.items()
            if isinstance(lag, Lag)
        }
        self.nodes = {name: node for name, node in file.nodes.items() if self.kept.get(name, True)}
        self.edges: dict[Edge, None] = {}
        self.made: dict[tuple[str, bytes, bool], list[str]] = {}
        self.making: list[str] = []
        self.copied = 0
        for a, b in file.edges:
            if a in self.kept.get(b, [a]):
                for source in self.instead(a):
                    self.connect(source, b)

    def instead(self, name: str) -> list[str]:
        """The nodes whose sum a node gives in the new file: more than one, or another, for a delay that has moved."""
        lag = self.file.nodes[name]
        if not isinstance(lag, Lag):
            return [name]
        moved = [a for a in self.sources[name] if a not in self.kept[name]]
        return [*([name] if self.kept[name] else []), *(late for a in moved for late in self.late(a, lag, name))]

    def connect(self, source: str, target: str) -> None:
        if (source, target) in self.edges:
            raise NirError(f"{target}: it adds {source} twice, which cannot be mapped; double the weights instead")
        self.edges[source, target] = None

    def may_delay(self, name: str, at_neurons: bool) -> bool:
        """Whether a delay may stand behind a node: it gives spikes or frames, and in a loop it is neurons."""
        seen, waiting = {name}, [name]
        while waiting:
            at = waiting.pop()
            node = self.file.nodes[at]
            if self.is_origin(at):
                continue
            if at_neurons or (isinstance(node, Weighted) and not fact(node, "max_pool")):
                return False
            waiting += [s for s in self.sources[at] if s not in seen]
            seen.update(self.sources[at])
        return True

    def is_origin(self, name: str) -> bool:
        """Whether spikes or frames begin here."""
        node = self.file.nodes[name]
        is_input = isinstance(node, nir.Input) and name not in self.file.inner_ends
        return is_input or (isinstance(node, Cells) and not fact(node, "max_pool"))

    def late(self, name: str, lag: Lag, where: str) -> list[str]:
        """Nodes whose sum is what a node gives, later; `where` names the delay that is moved."""
        key = (name, lag.steps.tobytes(), lag.said)
        if key not in self.made:
            if name in self.making:
                raise NirError(f"{where}: the loop that it closes has no neurons ({', '.join(self.making[:6])})")
            self.making.append(name)
            self.made[key] = self._late(name, lag, where)
            self.making.pop()
        return self.made[key]

    def _late(self, name: str, lag: Lag, where: str) -> list[str]:
        node = self.file.nodes[name]
        if not lag.steps.any() and not isinstance(node, Lag):
            return [name]
        if self.is_origin(name):
            return [self._add(where if lag.said else f"{name}.back", lag, [name])]
        before = self._shape_before(name)
        if isinstance(node, Lag):
            both = replace(lag, steps=np.asarray(node.steps + lag.steps), said=node.said or lag.said)
            return [late for source in self.sources[name] for late in self.late(source, both, where)]
        if isinstance(node, Weighted) and not fact(node, "max_pool"):
            return self._late_synapses(name, node, lag, where)
        steps = lag.steps
        if steps.ndim and isinstance(node, nir.Flatten):
            steps = steps.reshape(before)
        elif steps.ndim and before != self.shapes[name]:
            by = self._per_channel(name, lag, where)
            steps = np.broadcast_to(by.reshape(-1, *[1] * (len(before) - 1)), before)
        earlier = [late for s in self.sources[name] for late in self.late(s, replace(lag, steps=steps), where)]
        return [self._add(f"{name}.late", self._copy(name, node), earlier)]

    def _late_synapses(self, name: str, node: Any, lag: Lag, where: str) -> list[str]:
        """One copy for each lag among the outputs, which has the weights of those alone."""
        bias = getattr(node, "bias", None)
        bias = None if bias is None or not np.any(bias) else np.asarray(bias).reshape(-1)
        rows = np.asarray(node.weight).shape[0]
        by = self._per_channel(name, lag, where) if lag.steps.ndim else np.full(rows, lag.steps)
        if bias is not None and lag.said and (bias[by > 0] != 0).any():
            raise NirError(
                f"{where}: it delays the current of {name}, whose bias would set in as late; put the delay before {name}"
            )
        found = []
        for steps in np.unique(by):
            part = node
            if (by != steps).any():
                part = self._masked(node, by == steps)
            self.copied += np.asarray(node.weight).size
            if self.copied > MAX_COPIED:
                raise NirError(
                    f"{where}: its delays differ between too many outputs of {name}; put the delay before {name}"
                )
            one = replace(lag, steps=np.asarray(steps, np.int64))
            earlier = [late for source in self.sources[name] for late in self.late(source, one, where)]
            found.append(self._add(f"{name}.late", self._copy(name, part), earlier))
        return found

    @staticmethod
    def _masked(node: Any, rows: Array) -> Any:
        part = copy.copy(node)
        weight = np.asarray(node.weight)
        part.weight = np.where(rows.reshape(-1, *[1] * (weight.ndim - 1)), weight, np.zeros((), weight.dtype))
        if getattr(node, "bias", None) is not None:
            part.bias = np.where(rows, np.broadcast_to(np.ravel(node.bias), rows.shape), 0)
        return part

    def _per_channel(self, name: str, lag: Lag, where: str) -> Array:
        """The lag of each channel, or feature, of what a node gives."""
        shape = self.shapes[name]
        if lag.steps.size != math.prod(shape):
            raise NirError(f"{where}: it has {lag.steps.size} delays, but {shape} arrives")
        rows = lag.steps.reshape(shape[0], -1)
        if not (rows == rows[:, :1]).all():
            raise NirError(f"{where}: its delays differ within a channel of {name}; put the delay before {name}")
        return np.asarray(rows[:, 0])

    def _shape_before(self, name: str) -> Shape:
        return self.shapes[self.sources[name][0]]

    def _copy(self, name: str, node: Any) -> Any:
        late = copy.copy(node)
        late.metadata = {f"{PREFIX}name": name, **(node.metadata or {})}
        return late

    def _add(self, name: str, node: Any, sources: Iterable[str]) -> str:
        key = unique_name(name, self.nodes)
        self.nodes[key] = node
        for source in sources:
            self.connect(source, key)
        return key

    def result(self) -> Unfolded:
        """Without what only read for a delay that has moved."""
        had_targets = {a for a, _ in self.file.edges}
        nodes, edges = self.nodes, list(self.edges)
        idle: Iterable[str] = nodes
        while idle:
            read = {a for a, _ in edges}
            idle = {name for name in nodes if name not in read and (name in had_targets or name not in self.file.nodes)}
            nodes = {name: node for name, node in nodes.items() if name not in idle}
            edges = [(a, b) for a, b in edges if b in nodes]
        copies = {name for name in nodes if name not in self.file.nodes}
        return replace(self.file, nodes=nodes, edges=edges, inner_ends=self.file.inner_ends | copies)
