"""The verb `run`: a network on one back end or several, compared spike for spike."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kdsnn.deploy.ann_file import run_ann_file
from kdsnn.deploy.backends import BackendRun, RunOptions, RunsSamples, flat, named_backends, onnx_runs, opened
from kdsnn.deploy.brought import require_unlowered
from kdsnn.deploy.comparisons import BackendComparison, comparisons, joined, joined_comparisons, proofs_of
from kdsnn.deploy.faithful import few_samples, proven_on
from kdsnn.deploy.images import Pixels, class_names_in, require_count, require_fit, some_tests
from kdsnn.deploy.lower import lower
from kdsnn.deploy.lowered import Lowered, require_network_fit, told_labels
from kdsnn.deploy.own_data import chosen_data, load_own, own_data, telling_whose
from kdsnn.deploy.places import require_other, writable_file
from kdsnn.deploy.processes import is_first_process, ranks
from kdsnn.deploy.progress import Progress, silent
from kdsnn.deploy.proof import Proof
from kdsnn.deploy.run_tables import RefusedBackend, comparison_table, layer_table, run_table
from kdsnn.deploy.sanafe import cost_table
from kdsnn.deploy.spike_input import WantedFrames, frames_of_data, frames_over_time, is_bare
from kdsnn.deploy.tables import Result
from kdsnn.errors import OptionError, UserError
from kdsnn.factory import is_factory
from profilers.text_table import TextTable

if TYPE_CHECKING:
    from exporters.graph import Array
    from exporters.onnx import OnnxModel
    from kdsnn.deploy.images import ImageSize
    from kdsnn.deploy.lower import NetworkSource
    from profilers.profiling import Samples


@dataclass(frozen=True, eq=False, repr=False)
class RunResult(Result):
    """What the back ends gave.

    Attributes:
        title: what ran on what.
        runs: one per back end, in the order asked for; where torch ran on a module, SpikingJelly's own run first.
        comparisons: each back end against its reference, where that ran too.
        labels: (N,) of the samples; None where the network ends in maps, and not in scores of classes.
        refused: back ends that cannot run this network.
    """

    title: str
    runs: tuple[BackendRun, ...]
    comparisons: tuple[BackendComparison, ...]
    labels: Array | None
    refused: tuple[RefusedBackend, ...] = ()

    @property
    def ok(self) -> bool:
        """False where two back ends differ that must not (onnx and torch, lava or sanafe and emulator), or one could not run the network."""
        return not self.refused and all(c.ok for c in self.comparisons)

    @property
    def accuracy(self) -> dict[str, float]:
        """Back end → share of its samples that it classifies rightly; nothing where there are no labels."""
        return {} if self.labels is None else {r.backend: r.accuracy(self.labels) for r in self.runs}

    def tables(self) -> tuple[TextTable, ...]:
        """One table of back ends, one of comparisons, one of each chip whose costs were simulated."""
        found = (comparison_table(self.comparisons),) if self.comparisons else ()
        costs = (cost_table(r.backend, r.costs) for r in self.runs if r.costs is not None)
        return (run_table(self.title, self.runs, self.labels, self.refused), *found, *costs)

    def layers_table(self) -> TextTable:
        """Layers × mismatching spikes, one column for every pair of back ends, and where the first mismatch is."""
        return layer_table(self.comparisons)

    def rows(self) -> list[dict[str, Any]]:
        """One row per back end: samples, accuracy, seconds."""
        right = self.accuracy
        return [
            {"backend": r.backend, "samples": r.samples, "accuracy": right.get(r.backend), "seconds": r.seconds}
            for r in self.runs
        ]

    def to_dict(self) -> dict[str, Any]:
        """The runs, the comparisons layer by layer, and the costs of simulated chips, sample by sample and step by step."""
        refused = [asdict(r) for r in self.refused]
        return {
            "runs": self.rows(),
            "refused": refused,
            "comparisons": [asdict(c) | {"ok": c.ok} for c in self.comparisons],
            "costs": {
                r.backend: {"joules": r.costs.joules.tolist(), "seconds": r.costs.seconds.tolist()}
                for r in self.runs
                if r.costs is not None
            },
        }


def run(
    source: NetworkSource,
    data: Any = None,
    *,
    on: str | Sequence[str] = ("emulator",),
    samples: int = 20,
    image_size: ImageSize = None,
    save: str | Path | None = None,
    timeout: float | None = None,
    stock_lava: bool = False,
    progress: Progress = silent,
    **lowering: Any,
) -> RunResult:
    """Run test images on one or several back ends; several are compared spike for spike.

    Args:
        source: whatever `lower` takes, what it returned, or an `.onnx` file of this program or of an ANN.
        data: whatever `load_data` takes; for a network that reads spikes data over time, or `npz:FILE` with spike trains of
            any shape. By default what the network was trained on; digits where it does not say.
        on: one or several of "torch", "onnx", "emulator", "lava", "sanafe"; an `.onnx` file runs on "onnx" only.
        samples: how many test images, spread over the set.
        image_size: as in `load_data`.
        save: also write integer input and outputs to this `.npz`.
        timeout: seconds after which a Lava run is given up.
        stock_lava: use Lava's own, slow convolution.
        progress: told how far it is.
        **lowering: of `lower`, for a source that is not lowered yet.

    Raises:
        KdsnnError, DeployError: no such back end, a network or data that do not fit; one line each.
    """
    on = named_backends(on)
    if not on:
        raise OptionError("{on}: it names no back end", on=None)
    require_count("samples", samples)
    for option, value in (("timeout", timeout), ("stock_lava", stock_lava or None)):
        if value is not None and "lava" not in on:
            raise OptionError(
                f"{{{option}}}: only Lava has one; add {{on}}, or leave it out", **{option: value, "on": "lava"}
            )
    if timeout is not None and not 0 < timeout < math.inf:
        raise OptionError("{timeout}: it must be seconds above 0", timeout=timeout)
    if save is not None:
        writable_file(Path(save))
        require_other(Path(save), "save", source, data, lowering.get("weights"))
    if isinstance(source, str | Path) and Path(source).suffix == ".onnx":
        result, frames = _run_onnx_file(Path(source), on, data, samples, image_size, lowering, progress)
    else:
        network = lower(source, progress=progress, **lowering)
        x, labels, called = chosen_samples(network, data, samples, image_size)
        if save is not None:
            require_other(Path(save), "save", called)
        if "torch" not in on or network.exact is not None:  # else the module's own run is proven
            proven_on(network, x)
        runs, found, refused = run_all(
            network, on, x, options=RunOptions(fast_conv=not stock_lava, timeout=timeout), progress=progress
        )
        title = source if isinstance(source, str) and is_factory(source) else network.name
        result = RunResult(f"{title} on {called}", tuple(runs), tuple(found), labels, refused)
        frames = None if save is None else _input_of(network, x[:])
    if save is not None and frames is not None and is_first_process():
        save_spikes(Path(save), frames, result.runs)
    return result


def chosen_samples(
    network: Lowered, data: Any, samples: int, image_size: ImageSize
) -> tuple[Samples, Array | None, str]:
    """Samples, labels where the network tells classes apart, and what the data is called."""
    own = own_data(network.graph or network.integer, network.name) if data is None else None
    named = chosen_data(data, own)
    if network.over_time and is_bare(named):
        with telling_whose(data, own):
            frames, labels, called = frames_of_data(named, network, samples)
        return frames, told_labels(network.name, network, labels), called
    images = load_own(data, own, image_size=image_size)
    require_network_fit(network.name, network, images)
    x, labels = some_tests(images, samples)
    return network.samples(x), told_labels(network.name, network, labels), images.name


def run_all(
    network: Lowered,
    on: Sequence[str],
    x: Samples,
    *,
    lava_samples: int | None = None,
    options: RunOptions | None = None,
    title: str = "",
    progress: Progress = silent,
) -> tuple[list[BackendRun], list[BackendComparison], tuple[RefusedBackend, ...]]:
    """Run on every back end (with torch also on the SpikingJelly module, if there is one) and compare.

    Samples go through in parts of which memory holds every spike of every layer, on back ends that are started once; of
    several processes of a launcher each takes a share, and all know the whole. `lava_samples`: only so many go through Lava. `title` goes before what progress is called. A back end that cannot run
    this network is left out, with the reason.

    Raises:
        KdsnnError, DeployError: the first reason, where none can run it; or a back end failed.
    """
    names = list(dict.fromkeys(on))
    if "torch" in names and network.module is not None:
        names.insert(0, "spikingjelly")
    how = replace(options or RunOptions(), layers=len(names) > 1)
    group = ranks()
    mine, size = group.part(len(x)), _samples_at_once(network)
    last = {name: min(mine.stop, lava_samples or len(x)) if name == "lava" else mine.stop for name in names}
    runs: dict[str, list[BackendRun]] = {name: [] for name in names}
    found: list[list[BackendComparison]] = []
    called, done, whole = f"{title}run on {', '.join(names)}", 0, sum(max(0, n - mine.start) for n in last.values())
    with ExitStack() as stack:
        ready, refused = _ready(stack, network, names, how)
        names = list(ready)
        progress(called, 0, whole)  # not before: what cannot run the network is all there is to say then
        for start in range(mine.start, mine.stop, size):
            at_once: list[BackendRun] = []
            for name in names:
                part = x[start : min(start + size, last[name])]
                if len(part) == 0:
                    continue

                def told(now: int, total: int, before: int = done, share: int = len(part)) -> None:
                    progress(called, before + share * now / total, whole)

                at_once.append(flat(ready[name](part, told)))
                done += len(part)
                runs[name].append(joined(at_once[-1:]))
            proofs = _proofs(network, at_once, x) if start == 0 else {}
            found.append(comparisons(at_once, start=start, proofs=proofs, names=network.layer_names))
    everyone = group.gather((runs, found))
    pairs: dict[tuple[str, str], list[BackendComparison]] = {}
    for comparison in itertools.chain.from_iterable(part for _, parts in everyone for part in parts):
        pairs.setdefault((comparison.backend, comparison.reference), []).append(comparison)
    joint = [joined([part for theirs, _ in everyone for part in theirs[name]]) for name in names]
    return joint, [joined_comparisons(parts) for parts in pairs.values()], refused


def _ready(
    stack: ExitStack, network: Lowered, names: Sequence[str], how: RunOptions
) -> tuple[dict[str, RunsSamples], tuple[RefusedBackend, ...]]:
    """The back ends that can run the network, opened, and those that cannot."""
    ready: dict[str, RunsSamples] = {}
    refusals: dict[str, UserError] = {}
    for name in names:
        try:
            ready[name] = stack.enter_context(opened(name, network, how))
        except UserError as error:
            refusals[name] = error
    if not ready.keys() - {"spikingjelly"}:
        raise next(iter(refusals.values()))
    return ready, tuple(RefusedBackend(name, " ".join(str(error).split())) for name, error in refusals.items())


def _proofs(network: Lowered, runs: Sequence[BackendRun], x: Samples) -> dict[str, Proof]:
    """The proofs of the float runs on the first of the samples x, where their sums are rounded in different orders."""
    if network.running is None or network.exact is not None or len(runs) == 1:
        return {}
    some = x[: min(few_samples(network.running), *(run.samples for run in runs))]
    return proofs_of(runs, network.running, network.running.encode(some))


def _samples_at_once(network: Lowered) -> int:
    """How many samples take about 256 MB for one back end."""
    from profilers.counting.sizes import samples_within

    return samples_within(2**28, network.running or network.integer)


def _run_onnx_file(
    path: Path, on: Sequence[str], data: Any, samples: int, image_size: ImageSize, lowering: dict[str, Any],
    progress: Progress,
) -> tuple[RunResult, Array | None]:  # fmt: skip
    """A model that `export` wrote, on onnxruntime: everything it takes to run is in its metadata; or anybody's ANN."""
    import numpy as np

    from exporters import onnx

    require_unlowered(path, lowering, "a finished model", takes=("T",))
    other = next((name for name in on if name != "onnx"), None)
    if other is not None:
        raise OptionError(
            f"{{on}}: {path.name} is a finished model and runs on onnx only; "
            "give the checkpoint or .nir file that it was exported from",
            on=other,
        )
    if not onnx.is_spiking(path):
        title, ran, labels, x = run_ann_file(path, data, samples, image_size, lowering.get("T"), progress)
        return RunResult(title, (ran,), (), labels), x
    runner = onnx.prepare(path)
    facts = runner.model.facts
    scale = facts.get("input_scale")
    x, labels, called = _samples_for(path.stem, runner, data, samples, image_size, lowering.get("T"))
    ready = onnx_runs(runner, T=lowering.get("T"))
    runs = [ready(x, lambda done, total: progress("run on onnx", done, total))]
    title = f"{path.name} ({runner.model.form}, {facts['arithmetic']}, T={runs[0].output.shape[1]}) on {called}"
    consumed = x if scale is None else np.rint(x * np.float32(scale)).astype(np.int32)
    return RunResult(title, tuple(runs), (), labels), consumed


def _samples_for(
    name: str, runner: OnnxModel, data: Any, samples: int, image_size: ImageSize, T: int | None
) -> tuple[Array, Array, str]:
    """Samples for a finished model, their labels, and what the data is called."""
    facts = runner.model.facts
    shape = tuple(facts["input_shape"])
    outputs = runner.model.proto.graph.output[0].type.tensor_type.shape.dim
    classes = (outputs[-1].dim_value or None) if outputs else None  # a length that is a name is not known
    over_time = facts["input_encoding"] != "direct"
    graded = facts["input_encoding"] == "frames"
    own = own_data(facts.get("source"), name) if data is None else None
    named = chosen_data(data, own)
    if over_time and is_bare(named):
        with telling_whose(data, own):
            return frames_over_time(named, WantedFrames(name, T or facts["T"], shape, classes, graded), samples)
    images = load_own(data, own, image_size=image_size)
    names = class_names_in(facts.get("source"))
    steps = (T or facts["T"]) if over_time else None
    require_fit(name, shape, images, classes=classes, class_names=names, T=steps, over_time=over_time, graded=graded)
    chosen, labels = some_tests(images, samples)
    return Pixels(chosen, shape, graded)[:], labels, images.name


def _input_of(network: Lowered, x: Array) -> Array:
    """What the quantized network consumes; real pixels where there is none."""
    from exporters.errors import DeployError

    return x if isinstance(network.chip, DeployError) else network.frames(x).astype("int32")


def save_spikes(path: Path, frames: Array, runs: Sequence[BackendRun]) -> None:
    """Write what the network consumes (N, *shape) and per back end the output (N, T, F) as a compressed .npz."""
    import numpy as np

    from exporters.files import atomic_path

    arrays = {"input": frames} | {r.backend: r.output for r in runs}
    with atomic_path(path) as temporary, temporary.open("wb") as file:
        np.savez_compressed(file, allow_pickle=False, **arrays)
