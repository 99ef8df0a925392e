"""Running one network on several backends and comparing them spike for spike.

The backends form two families. `torch` (the lowered float graph) and `onnx` compute the float network
in exact arithmetic and must agree on every spike; so must `emulator` and `lava`, which compute the
quantized one. Between the families stands quantization, whose effect is reported, not judged. Where
there is a SpikingJelly module, it runs too, and `torch` is compared with it: BatchNorm folded into
weights rounds differently, so a few spikes in a million may differ there.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from exporters.graph import Array, SpikingGraph
from kdsnn.cli.places import temporary_folder
from kdsnn.cli.source import Source
from kdsnn.errors import KdsnnError

if TYPE_CHECKING:
    import torch
    from torch import nn

    from exporters.onnx import Runner

BACKENDS = ("torch", "onnx", "emulator", "lava")
REFERENCE = {"torch": "spikingjelly", "onnx": "torch", "emulator": "torch", "lava": "emulator"}
MUST_AGREE = {("onnx", "torch"), ("lava", "emulator")}


@dataclass(frozen=True, eq=False)
class BackendRun:
    """What one backend gave for the first `samples` of the data.

    `output`: (N, T, F), spikes or membranes. `layers`: neuron layer → (N, T, *shape) spikes, where the
    backend shows them. `seconds`: of the run itself, without loading.
    """

    backend: str
    output: Array
    scores: Array
    layers: Mapping[str, Array]
    seconds: float

    @property
    def samples(self) -> int:
        """How many samples were run."""
        return len(self.output)

    def accuracy(self, labels: Array) -> float:
        """Share of the samples whose highest score is the label's."""
        return float((self.scores.argmax(axis=1) == labels[: self.samples]).mean())


@dataclass(frozen=True)
class LayerComparison:
    """One neuron layer (or the output): spikes that differ, of how many, and where the first one is."""

    name: str
    mismatches: int
    compared: int
    first: str


@dataclass(frozen=True)
class Comparison:
    """Two backends on the samples both have run.

    Attributes:
        mismatches: spikes that differ at the output.
        hidden: spikes that differ in all neuron layers together (None where a backend shows only its output).
        compared: output values compared; `hidden_compared`: spikes compared in all layers.
        must_agree: whether a mismatch is an error (within a family) or the effect of quantization.
        first: where the first mismatch is, "layer, sample, step", or "".
        layers: the same, layer by layer in the network's order.
    """

    backend: str
    reference: str
    samples: int
    mismatches: int
    compared: int
    hidden: int | None
    hidden_compared: int
    must_agree: bool
    first: str
    layers: tuple[LayerComparison, ...]

    @property
    def ok(self) -> bool:
        """True unless backends disagree that must not."""
        return not (self.must_agree and (self.mismatches or self.hidden))


class Run(Protocol):
    """Runs real-valued samples x (N, *shape) on one backend."""

    def __call__(self, x: Array, progress: Callable[[int, int], None] | None = None) -> BackendRun:
        """`progress` is called with (work done, work in all); x may be a part of the samples, after others."""
        ...


@contextmanager
def opened(
    backend: str, source: Source, *, layers: bool = True, fast_conv: bool = True, timeout: float | None = None
) -> Iterator[Run]:
    """A network on one backend, ready for samples in any number of parts: written, loaded and started once.

    Args:
        backend: "spikingjelly" or one of `BACKENDS`.
        source: the network.
        layers: whether every neuron layer's spikes are kept, where the backend shows them.
        fast_conv, timeout: of `hardware.lava.client.Session`.

    Raises:
        KdsnnError, DeployError: the source has no such form, or the backend failed.
    """
    if backend == "spikingjelly":
        yield lambda x, progress=None: _spikingjelly(source, x)
    elif backend == "torch":
        graph = _float_graph(source, backend)
        yield lambda x, progress=None: _emulate(backend, graph, graph.encode(x), progress, layers)
    elif backend == "emulator":
        graph = source.integer
        yield lambda x, progress=None: _emulate(backend, graph, source.frames(x), progress, layers)
    elif backend == "onnx":
        runner = _onnx_runner(_float_graph(source, backend), layers)
        yield lambda x, progress=None: run_onnx(runner, x, progress=progress)
    elif backend == "lava":
        with _lava(source, layers, fast_conv, timeout) as run:
            yield run
    else:
        raise KdsnnError(f"--on {backend}: no such backend; choose from {', '.join(BACKENDS)}")


def compare(run: BackendRun, reference: BackendRun, *, start: int = 0) -> Comparison:
    """Compare two runs on the samples that both have; `start` is the number of the first."""
    n = min(run.samples, reference.samples)
    a, b = run.output[:n], reference.output[:n]
    if a.shape[1] != b.shape[1]:  # Lava shows a membrane once per sample, at its end
        a, b = a[:, -1:], b[:, -1:]
    shared = [name for name in reference.layers if name in run.layers]
    layers = tuple(_compare_layer(name, run.layers[name][:n], reference.layers[name][:n], start) for name in shared)
    output = _compare_layer("output", a, b, start)
    first = _first(f"{x.name}, {x.first}" for x in (*layers, output) if x.first)
    hidden = sum(x.mismatches for x in layers)
    pair = (run.backend, reference.backend)
    return Comparison(
        run.backend, reference.backend, n, output.mismatches, output.compared, hidden if shared else None,
        sum(x.compared for x in layers), pair in MUST_AGREE, first, layers,
    )  # fmt: skip


def comparisons(runs: Sequence[BackendRun], *, start: int = 0) -> list[Comparison]:
    """Every run against its reference backend, where that was run too; `start` as in `compare`."""
    by_name = {r.backend: r for r in runs}
    pairs = ((r, by_name.get(REFERENCE.get(r.backend, ""))) for r in runs)
    return [compare(r, reference, start=start) for r, reference in pairs if reference is not None]


def joined(parts: Sequence[BackendRun]) -> BackendRun:
    """Runs of one backend on samples that follow one another, as one run; their layers are let go."""
    output, scores = (np.concatenate([getattr(p, name) for p in parts]) for name in ("output", "scores"))
    return BackendRun(parts[0].backend, output, scores, {}, sum(p.seconds for p in parts))


def joined_comparisons(parts: Sequence[Comparison]) -> Comparison:
    """Comparisons of the same two backends on samples that follow one another, as one."""
    by_layer = zip(*(p.layers for p in parts), strict=True)
    layers = tuple(
        LayerComparison(
            same[0].name, sum(x.mismatches for x in same), sum(x.compared for x in same), _first(x.first for x in same)
        )
        for same in by_layer
    )
    hidden = None if parts[0].hidden is None else sum(p.hidden or 0 for p in parts)
    return replace(
        parts[0], samples=sum(p.samples for p in parts), mismatches=sum(p.mismatches for p in parts),
        compared=sum(p.compared for p in parts), hidden=hidden, hidden_compared=sum(p.hidden_compared for p in parts),
        first=_first(p.first for p in parts), layers=layers,
    )  # fmt: skip


def _first(texts: Iterable[str]) -> str:
    return next((text for text in texts if text), "")


def _compare_layer(name: str, a: Array, b: Array, start: int) -> LayerComparison:
    # spikes and integers must be equal; a membrane in floating point equal but for its last bits
    different = np.argwhere(a != b if a.dtype == np.uint8 else ~np.isclose(a, b, rtol=1e-5, atol=1e-6))
    first = ""
    if len(different):
        sample, step, *where = different[0].tolist()
        first = f"sample {start + sample}, step {step + 1}, neuron {tuple(where)}"
    return LayerComparison(name, len(different), a.size, first)


def _float_graph(source: Source, backend: str) -> SpikingGraph:
    if source.exact is None:
        raise KdsnnError(f"--on {backend}: {source.name} is already quantized; run it on emulator or lava")
    return source.exact


def _spikingjelly(source: Source, x: Array) -> BackendRun:
    import torch
    from spikingjelly.activation_based import functional

    from exporters.from_torch import node_name

    assert source.module is not None and source.exact is not None
    module, T = source.module, source.exact.T
    paths = ((m, node_name(path, m)) for path, m in module.named_modules())
    names = {m: name for m, name in paths if name in source.exact.neurons}
    single_step = all(getattr(m, "step_mode", "s") == "s" for m in names)
    layers: dict[str, list[Array]] = {n: [] for n in names.values()}

    def keep(m: Any, args: Any, spikes: torch.Tensor) -> None:
        layers[names[m]].append(spikes.to(torch.uint8).numpy())

    hooks = [m.register_forward_hook(keep) for m in names]
    graph = source.exact
    outputs = []
    started = time.perf_counter()
    try:
        with torch.inference_mode():
            for batch in torch.split(torch.from_numpy(x), 64):
                functional.reset_net(module)
                outputs.append(_steps(module, batch, T, single_step))
                for parts in layers.values():
                    # one call per step gives T arrays (N, …), one call for all steps an array (T, N, …)
                    parts[:] = (
                        [*parts[:-T], np.stack(parts[-T:], 1)]
                        if single_step
                        else [*parts[:-1], parts[-1].swapaxes(0, 1)]
                    )
    finally:
        functional.reset_net(module)
        for hook in hooks:
            hook.remove()
    spikes = {name: np.concatenate(parts) for name, parts in layers.items()}
    if graph.output.readout == "membrane":
        output = np.concatenate(outputs).cumsum(axis=1)
        return BackendRun("spikingjelly", output, output[:, -1] / T, spikes, time.perf_counter() - started)
    # the spikes themselves: a module may return their mean
    output = spikes[graph.sources(graph.output_name)[0]]
    scores = output.mean(axis=1)
    return BackendRun("spikingjelly", output, scores, spikes, time.perf_counter() - started)


def _steps(module: nn.Module, batch: torch.Tensor, T: int, single_step: bool) -> Array:
    """What a module gives at every step (N, T, F), whichever way it takes its input: frame by frame, all frames, or one image."""
    import torch

    if single_step:
        return np.asarray(torch.stack([module(batch) for _ in range(T)], 1).numpy())
    try:
        return np.asarray(module(batch.expand(T, *batch.shape)).movedim(0, 1).numpy())
    except (RuntimeError, ValueError, IndexError):  # it repeats the image itself
        return np.asarray(module(batch).unsqueeze(1).numpy())


def run_onnx(
    runner: Runner, x: Array, *, T: int | None = None, progress: Callable[[int, int], None] | None = None
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


def _onnx_runner(graph: SpikingGraph, layers: bool) -> Runner:
    from exporters import onnx

    with temporary_folder() as folder:
        path = onnx.write(graph, folder / "network.onnx")
        return onnx.prepare(path, list(graph.neurons) if layers else [])


def _emulate(
    backend: str, graph: SpikingGraph, frames: Array, progress: Callable[[int, int], None] | None, layers: bool
) -> BackendRun:
    from hardware import emulator

    recorder = emulator.Recorder(graph)
    total = len(frames)
    started = time.perf_counter()
    result = emulator.run(
        graph,
        frames,
        observe=recorder if layers else None,
        progress=None if progress is None else lambda done: progress(done, total),
    )
    seconds = time.perf_counter() - started
    return BackendRun(backend, result.output, result.scores(), recorder.spikes if layers else {}, seconds)


@contextmanager
def _lava(source: Source, layers: bool, fast_conv: bool, timeout: float | None) -> Iterator[Run]:
    from exporters import netx
    from exporters.passes.chain import chain_layers, member_spikes, to_chain
    from hardware.lava import client

    chain = to_chain(source.integer)
    membrane = chain.output.readout == "membrane"
    names = [step.neuron_name for step in chain_layers(chain)]
    with ExitStack() as stack:
        with temporary_folder() as folder:
            path = netx.write(chain, folder / "network.net")
            session = client.Session(
                path, T=chain.T, message_bits=netx.message_bits(chain), probes=layers, membrane=membrane,
                fast_conv=fast_conv, timeout=timeout,
            )  # fmt: skip
            stack.enter_context(session)  # keeps a copy of the file

        def run(x: Array, progress: Callable[[int, int], None] | None = None) -> BackendRun:
            frames = source.frames(x).astype(np.int32)
            if chain.input.encoding == "direct":
                frames = np.broadcast_to(frames[:, None], (len(frames), chain.T, *frames.shape[1:]))
            found = session.run(frames, progress=progress)
            spikes = member_spikes(chain, {names[k]: v for k, v in found.layers.items()})
            if not membrane:
                return BackendRun("lava", found.spikes, found.spikes.mean(axis=1), spikes, found.seconds)
            assert found.membrane is not None
            output = found.membrane[:, None] / 64 / chain.output.scale  # the register has 6 fractional bits
            return BackendRun("lava", output, output[:, 0] / chain.T, spikes, found.seconds)

        yield run
