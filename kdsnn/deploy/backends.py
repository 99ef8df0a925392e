"""Running one network on several back ends.

The back ends form two families. The author's module (`spikingjelly`), `torch` (the lowered float graph) and `onnx` compute
the float network; their sums are rounded in different orders, so each must be the network layer by layer
(`kdsnn.deploy.proof`), while its spikes drift apart behind a tie; with exact arithmetic torch and onnx agree on every spike.
`emulator`, `lava` and `sanafe` compute the quantized network and must agree on every spike. Between the families stands quantization,
whose effect is reported, not judged.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Protocol

import numpy as np

from exporters.graph import Array, SpikingGraph
from exporters.graph.registers import FRACTION
from kdsnn.deploy.lowered import Lowered
from kdsnn.deploy.places import temporary_folder
from kdsnn.deploy.sanafe import ChipCosts, described
from kdsnn.errors import OptionError

if TYPE_CHECKING:
    from exporters.onnx import OnnxModel


@dataclass(frozen=True, eq=False)
class BackendRun:
    """What one backend gave for the first `samples` of the data.

    `output`: (N, T, F), spikes or membranes. `layers`: neuron layer → (N, T, *shape) spikes, where the
    backend shows them. `seconds`: of the run itself, without loading and without first use. `costs`: of the chip, where the back end
    simulates them.
    """

    backend: str
    output: Array
    scores: Array
    layers: Mapping[str, Array]
    seconds: float
    costs: ChipCosts | None = None

    @property
    def samples(self) -> int:
        """How many samples were run."""
        return len(self.output)

    def steps(self, graph: SpikingGraph) -> Array:
        """What comes out at every step (N, T, *shape): spikes, currents of a plain sum, else membranes. Where only one of
        these is known, the score (N, 1, *shape)."""
        found, node = self.output, graph.output
        if node.readout == "membrane" and found.shape[1] != graph.T:
            found = found if node.score == "mean" else found / graph.T
        elif node.readout == "membrane" and node.sums:
            found = np.diff(found, axis=1, prepend=0)
        return found.reshape(*found.shape[:2], *graph.shapes[graph.output_name])

    def accuracy(self, labels: Array) -> float:
        """Share of the samples whose highest score is the label's."""
        return float((self.scores.argmax(axis=1) == labels[: self.samples]).mean())


def flat(run: BackendRun) -> BackendRun:
    """A run whose output is (N, T, F) where the network ends in maps: a score for every neuron, as Lava gives them."""
    output, scores = run.output, run.scores
    if output.ndim == 3:
        return run
    return replace(run, output=output.reshape(*output.shape[:2], -1), scores=scores.reshape(len(scores), -1))


class RunsSamples(Protocol):
    """Runs real-valued samples x (N, *shape) on one backend."""

    def __call__(self, x: Array, progress: Callable[[int, int], None] | None = None) -> BackendRun:
        """`progress` is called with (work done, work in all); x may be a part of the samples, after others."""
        ...


class WarmedUp:
    """A back end that has run a batch of every size before its time is taken: what only the first batch of a size costs, kernels
    that are tried and chosen and memory that is fetched, is no cost of a sample."""

    def __init__(self, run: RunsSamples, batch_size: int | None) -> None:
        """`batch_size`: samples that it runs at a time; None where it runs one after the other."""
        self._run, self._batch_size = run, batch_size
        self._met: set[int] = set()

    def __call__(self, x: Array, progress: Callable[[int, int], None] | None = None) -> BackendRun:
        """As `RunsSamples`."""
        for size in self._sizes(len(x)) - self._met:
            self._run(x[:size])
            self._met.add(size)
        return self._run(x, progress)

    def _sizes(self, samples: int) -> set[int]:
        if self._batch_size is None:
            return {1}
        return {min(self._batch_size, samples), samples % self._batch_size} - {0}


@dataclass(frozen=True)
class RunOptions:
    """How back ends are opened.

    Attributes:
        layers: whether every neuron layer's spikes are kept, where the back end shows them.
        fast_conv: on Lava, a convolution faster than its own.
        timeout: seconds after which a Lava run is given up; None for a bound by the work there is.
    """

    layers: bool = True
    fast_conv: bool = True
    timeout: float | None = None


@dataclass(frozen=True)
class Backend:
    """One way to run a network.

    Attributes:
        open: makes it ready for samples in any number of parts: written, loaded and started once.
        reference: the back end that it is compared with, where that runs too.
        must_agree: whether a difference from it is an error; else it is the effect of quantization or of folding.
    """

    open: Callable[[Lowered, RunOptions], AbstractContextManager[RunsSamples]]
    reference: str
    must_agree: bool


def opened(name: str, network: Lowered, options: RunOptions) -> AbstractContextManager[RunsSamples]:
    """A network on one back end, "spikingjelly" or one of `BACKENDS`.

    Raises:
        KdsnnError, DeployError: there is no such back end, the network has no such form, or the back end failed.
    """
    if name == "spikingjelly":
        return _spikingjelly_opened(network, options)
    require_backend(name)
    return BACKENDS[name].open(network, options)


def require_backend(name: str) -> None:
    """Raise KdsnnError unless there is a back end of this name."""
    if name not in BACKENDS:
        raise OptionError(f"{{on}}: no such backend; choose from {', '.join(BACKENDS)}", on=name)


def named_backends(on: str | Sequence[str]) -> list[str]:
    """The back ends that one name or several name; OptionError where there is no such one."""
    names = [on] if isinstance(on, str) else list(on)
    for name in names:
        require_backend(name)
    return names


@contextmanager
def _spikingjelly_opened(network: Lowered, options: RunOptions) -> Iterator[RunsSamples]:
    from kdsnn.deploy.author import batch_size

    assert network.calling is not None
    yield WarmedUp(lambda x, progress=None: _spikingjelly(network, x), batch_size(network.calling))


@contextmanager
def _torch_opened(network: Lowered, options: RunOptions) -> Iterator[RunsSamples]:
    graph = _float_graph(network, "torch")
    yield _emulated("torch", graph, graph.encode, options.layers)


@contextmanager
def _emulator_opened(network: Lowered, options: RunOptions) -> Iterator[RunsSamples]:
    yield _emulated("emulator", network.integer, network.frames, options.layers)


@contextmanager
def _onnx_opened(network: Lowered, options: RunOptions) -> Iterator[RunsSamples]:
    yield onnx_runs(_onnx_runner(_float_graph(network, "onnx"), options.layers))


def _float_graph(network: Lowered, backend: str) -> SpikingGraph:
    if network.running is None:
        raise OptionError(f"{{on}}: {network.name} is already quantized; run it on emulator or lava", on=backend)
    return network.running


def _spikingjelly(network: Lowered, x: Array) -> BackendRun:
    """The author's own module."""
    from kdsnn.deploy.author import run_author

    graph, calling = network.running, network.calling
    assert network.module is not None and graph is not None and calling is not None
    started = time.perf_counter()
    ran = run_author(network.module, graph, calling, x)
    seconds = time.perf_counter() - started
    output = ran.output / calling.factor
    scores = output.mean(axis=1)
    if graph.output.readout == "membrane":
        # as everywhere, the membrane so far; where the module returns one value, the last or the mean
        if output.shape[1] == graph.T:
            membrane = output.cumsum(axis=1) if graph.output.sums else output
        else:
            membrane = output * graph.T if graph.output.score == "last" else output
        return BackendRun("spikingjelly", membrane, scores, ran.spikes, seconds)
    spikes = ran.spikes.get(graph.sources(graph.output_name)[0])  # a module may return their mean
    return BackendRun("spikingjelly", output if spikes is None else spikes, scores, ran.spikes, seconds)


def onnx_runs(runner: OnnxModel, *, T: int | None = None) -> RunsSamples:
    """A loaded model of any form, float or integer, for samples in any number of parts.

    Raises:
        OnnxError: as `run_onnx`, when samples are run.
    """
    return WarmedUp(lambda x, progress=None: run_onnx(runner, x, T=T, progress=progress), runner.batch_size)


def run_onnx(
    runner: OnnxModel, x: Array, *, T: int | None = None, progress: Callable[[int, int], None] | None = None
) -> BackendRun:
    """Run real-valued samples x (N, *shape) on a loaded model of any form, float or integer.

    Raises:
        OnnxError: it does not take these samples or this T.
    """
    total = len(x)
    started = time.perf_counter()
    found = runner.run(x, T=T, progress=None if progress is None else lambda done: progress(done, total))
    seconds = time.perf_counter() - started
    output = found["spikes"].astype(np.uint8) if "spikes" in found else found["membrane"]
    return BackendRun(
        "onnx", output, found["scores"], {name: found[name].astype(np.uint8) for name in runner.layers}, seconds
    )


def _onnx_runner(graph: SpikingGraph, layers: bool) -> OnnxModel:
    from exporters import onnx

    with temporary_folder() as folder:
        path = onnx.write(graph, folder / "network.onnx")
        return onnx.prepare(path, list(graph.neurons) if layers else [])


def _emulated(backend: str, graph: SpikingGraph, encode: Callable[[Array], Array], layers: bool) -> RunsSamples:
    from hardware import emulator

    planned = emulator.prepare(graph)

    def run(x: Array, progress: Callable[[int, int], None] | None = None) -> BackendRun:
        recorder, frames = emulator.Recorder(graph), encode(x)
        told = None if progress is None else lambda done: progress(done, len(x))
        started = time.perf_counter()
        result = planned.run(frames, observe=recorder if layers else None, progress=told)
        seconds = time.perf_counter() - started
        return BackendRun(backend, result.output, result.scores(), recorder.spikes if layers else {}, seconds)

    return WarmedUp(run, planned.batch_size)


@contextmanager
def _lava_opened(network: Lowered, options: RunOptions) -> Iterator[RunsSamples]:
    from exporters import netx
    from exporters.passes.chain import chain_layers, member_spikes, to_chain
    from hardware.lava import client

    chain = to_chain(network.integer)
    membrane = chain.output.readout == "membrane"
    if chain.output.score == "mean":
        raise OptionError(
            "{on}: the scores are the mean of the membranes of all steps, of which Lava shows the last alone; run it on emulator",
            on="lava",
        )
    names = [step.neuron_name for step in chain_layers(chain)]
    with ExitStack() as stack:
        with temporary_folder() as folder:
            path = netx.write(chain, folder / "network.net")
            session = client.LavaSession(
                path, T=chain.T, message_bits=netx.message_bits(chain), probes=options.layers, membrane=membrane,
                fast_conv=options.fast_conv, timeout=options.timeout,
            )  # fmt: skip
            stack.enter_context(session)  # keeps a copy of the file

        def run(x: Array, progress: Callable[[int, int], None] | None = None) -> BackendRun:
            frames = network.frames(x).astype(np.int32)
            if not chain.input.over_time:
                frames = np.broadcast_to(frames[:, None], (len(frames), chain.T, *frames.shape[1:]))
            found = session.run(frames, progress=progress)
            spikes = member_spikes(chain, {names[k]: v for k, v in found.layers.items()})
            if not membrane:
                return BackendRun("lava", found.spikes, found.spikes.mean(axis=1), spikes, found.seconds)
            assert found.membrane is not None
            output = found.membrane[:, None] / FRACTION / chain.output.scale
            return BackendRun("lava", output, output[:, 0] / chain.T, spikes, found.seconds)

        yield WarmedUp(run, None)


@contextmanager
def _sanafe_opened(network: Lowered, options: RunOptions) -> Iterator[RunsSamples]:
    from exporters.passes.chain import member_spikes
    from hardware import emulator, sanafe

    sanafe.python_path()  # before anything is described
    ready = described(network)
    output = ready.chain.output
    last = ready.description.layers[-1]

    def run(x: Array, progress: Callable[[int, int], None] | None = None) -> BackendRun:
        frames = network.frames(x)
        found = ready.run(frames, None if progress is None else lambda done: progress(done, len(frames)))
        values = found.spikes[last.neurons_name] if found.membranes is None else found.membranes / output.scale
        result = emulator.EmulatorRun(values.reshape(*values.shape[:2], -1), output.readout, output.score)
        spikes = {name: spikes for name, spikes in found.spikes.items() if name in ready.chain.neurons}
        return BackendRun(
            "sanafe", result.output, result.scores(), member_spikes(ready.chain, spikes), found.wall_seconds,
            ChipCosts(found.joules, found.seconds),
        )  # fmt: skip

    yield run


BACKENDS: Mapping[str, Backend] = {
    "torch": Backend(_torch_opened, "spikingjelly", must_agree=False),
    "onnx": Backend(_onnx_opened, "torch", must_agree=True),
    "emulator": Backend(_emulator_opened, "torch", must_agree=False),
    "lava": Backend(_lava_opened, "emulator", must_agree=True),
    "sanafe": Backend(_sanafe_opened, "emulator", must_agree=True),
}
"""The back ends that a user may name, in the order in which they are listed."""

FLOAT_BACKENDS = ("spikingjelly", "torch", "onnx")
"""Those that compute the float network."""
