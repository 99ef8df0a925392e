"""The verb `benchmark`: how fast this machine simulates a network on every back end that is there."""

from __future__ import annotations

import platform
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kdsnn.deploy.ann_file import source_in
from kdsnn.deploy.backends import BACKENDS, RunOptions, named_backends, opened
from kdsnn.deploy.brought import require_unlowered
from kdsnn.deploy.classifiers import classifier
from kdsnn.deploy.images import require_count, require_fit, some_tests
from kdsnn.deploy.load import ann_of
from kdsnn.deploy.lower import lower
from kdsnn.deploy.own_data import load_own, own_data, own_of
from kdsnn.deploy.peak_memory import watched
from kdsnn.deploy.processes import cores
from kdsnn.deploy.progress import Progress, silent
from kdsnn.deploy.run import chosen_samples
from kdsnn.deploy.run_tables import RefusedBackend
from kdsnn.deploy.tables import Result
from kdsnn.errors import OptionError, UserError
from profilers.text_table import TextTable, table

if TYPE_CHECKING:
    from exporters.graph import Array
    from kdsnn.deploy.images import ImageSize
    from kdsnn.deploy.lower import NetworkSource
    from kdsnn.deploy.lowered import Lowered
    from kdsnn.deploy.trained import TrainedNetwork
    from profilers.profiling import Samples

FEWEST_REPEATS = 3
"""A measurement is repeated as often at least, however long it takes: fewer have no median."""

Scored = Callable[["Array"], "Array"]
"""Samples (N, …) → scores (N, K), or what the network ends in."""


@dataclass(frozen=True)
class Timing:
    """How long a piece of work took, after a warm-up: seconds, the median of `repeats` and their first and third quartile."""

    median: float
    low: float
    high: float
    repeats: int


@dataclass(frozen=True)
class BackendSpeed:
    """How fast a back end was.

    Attributes:
        backend: its name.
        samples: that it was tried on; `accuracy`: the share it was right about, None without labels.
        latency: of one sample alone.
        batch: samples at a time; `batches`: how long one of these took.
        memory: bytes of resident memory at its peak, see `kdsnn.deploy.peak_memory`; None where the system does not tell.
    """

    backend: str
    samples: int
    accuracy: float | None
    latency: Timing
    batch: int
    batches: Timing
    memory: int | None

    @property
    def throughput(self) -> float:
        """Samples per second, `batch` at a time."""
        return self.batch / self.batches.median


@dataclass(frozen=True, eq=False, repr=False)
class BenchmarkResult(Result):
    """How fast this machine simulates a network.

    Attributes:
        name: of the network; `data`: the data set's.
        machine: what it was measured on.
        speeds: one per back end.
        refused: back ends that were asked for, or are there, and cannot run the network, or are not there.
        asked: whether back ends were named; then one that is refused is an error.
    """

    name: str
    data: str
    machine: str
    speeds: tuple[BackendSpeed, ...]
    refused: tuple[RefusedBackend, ...] = ()
    asked: bool = False

    @property
    def ok(self) -> bool:
        """False where a back end that was asked for could not run the network."""
        return not (self.asked and self.refused)

    @property
    def notes(self) -> tuple[str, ...]:
        """What is to be read with the table."""
        left = (f"{one.backend}: not measured: {one.reason}" for one in self.refused)
        return (
            f"Simulation speed of this machine ({self.machine}), not of a chip. Medians after a warm-up, with quartiles.",
            "Memory is the peak above what the process held before, and those of the processes that Lava and SANA-FE run in.",
            *left,
        )

    def tables(self) -> tuple[TextTable, ...]:
        """One line per back end."""
        from profilers.report.numbers import percent, quantity

        rows = []
        for one in self.speeds:
            latency = one.latency
            memory = "–" if one.memory is None else f"{one.memory / 1e6:,.0f} MB"
            rows.append(
                [
                    one.backend, str(one.samples), "–" if one.accuracy is None else percent(one.accuracy, 2),
                    f"{quantity(latency.median, 's')} ({_spread(latency)})", str(latency.repeats),
                    f"{quantity(one.throughput, plain_below=0, trim=True)}/s", f"{one.batches.repeats}×{one.batch}", memory,
                ]
            )  # fmt: skip
        columns = ["backend", "samples", "accuracy", "one sample", "repeats", "throughput", "batches", "memory"]
        return (table(f"{self.name} on {self.data}", columns, rows),)

    def __str__(self) -> str:
        return "\n".join([*map(str, self.tables()), *self.notes])

    __repr__ = __str__

    def rows(self) -> list[dict[str, Any]]:
        """One row per back end; seconds, samples per second, bytes."""
        return [
            {
                "backend": one.backend, "samples": one.samples, "accuracy": one.accuracy, "latency": one.latency.median,
                "latency_low": one.latency.low, "latency_high": one.latency.high, "latency_repeats": one.latency.repeats,
                "throughput": one.throughput, "batch": one.batch, "batch_repeats": one.batches.repeats, "memory": one.memory,
            }
            for one in self.speeds
        ]  # fmt: skip

    def to_dict(self) -> dict[str, Any]:
        """The machine, a row per back end, and those that were not measured."""
        refused = [asdict(one) for one in self.refused]
        return {
            "network": self.name,
            "data": self.data,
            "machine": self.machine,
            "backends": self.rows(),
            "refused": refused,
        }


def benchmark(
    source: NetworkSource,
    data: Any = None,
    *,
    on: str | Sequence[str] = (),
    samples: int = 100,
    repeats: int = 20,
    batch_size: int = 32,
    seconds: float = 10.0,
    image_size: ImageSize = None,
    progress: Progress = silent,
    **lowering: Any,
) -> BenchmarkResult:
    """Measure how fast this machine runs a network on every back end: one sample alone, and many at a time; and the memory and the
    accuracy. Each back end is warmed up first.

    Args:
        source: whatever `lower` takes, an ANN's checkpoint, or an `.onnx` file of this program or of an ANN.
        data: whatever `load_data` takes, by default what the network was trained on.
        on: of "torch", "onnx", "emulator", "lava", "sanafe"; by default all that are there. With torch the module itself is
            measured too.
        samples: how many test images, spread over the set.
        repeats: of each measurement.
        batch_size: samples at a time, for the throughput.
        seconds: after which a measurement is not repeated any more, nor further samples tried; three repeats there are always.
        image_size: as in `load_data`.
        progress: told how far it is.
        **lowering: of `lower`, for a source that is not lowered yet.

    Raises:
        KdsnnError, DeployError: a network or data that cannot be used, or no back end that can run it; one line each.
    """
    for option, value in (("samples", samples), ("repeats", repeats), ("batch_size", batch_size)):
        require_count(option, value)
    if not seconds >= 0:
        raise OptionError("{seconds}: it must be 0 or more", seconds=seconds)
    on = named_backends(on)
    entered = _contest(source, data, list(dict.fromkeys(on)), samples, image_size, lowering, progress)
    speeds, refused, first = [], list(entered.absent), None
    for i, (name, ready) in enumerate(entered.contenders.items()):
        progress(f"benchmark on {name}", i, len(entered.contenders))
        try:
            with watched() as peak, ready() as run:
                found = _measured(name, run, entered, repeats, batch_size, seconds)
                speeds.append(replace(found, memory=peak()))
        except UserError as error:
            first = first or error
            refused.append(RefusedBackend(name, " ".join(str(error).split())))
        progress(f"benchmark on {name}", i + 1, len(entered.contenders))
    if not speeds and first is not None:
        raise first
    return BenchmarkResult(entered.name, entered.data, _machine(), tuple(speeds), tuple(refused), bool(on))


@dataclass(frozen=True, eq=False)
class Contest:
    """What is measured: samples, their labels if there are any, and what runs them, by name."""

    name: str
    data: str
    samples: Samples
    labels: Array | None
    contenders: Mapping[str, Callable[[], AbstractContextManager[Scored]]]
    absent: tuple[RefusedBackend, ...] = ()


def _contest(
    source: Any,
    data: Any,
    on: list[str],
    samples: int,
    image_size: ImageSize,
    lowering: dict[str, Any],
    progress: Progress,
) -> Contest:
    is_onnx = isinstance(source, str | Path) and Path(source).suffix == ".onnx"
    ann = ann_of(source)
    if is_onnx or ann is not None:
        return _of_one(source, ann, data, on, samples, image_size, lowering, progress)
    network = lower(source, progress=progress, **lowering)
    x, labels, called = chosen_samples(network, data, samples, image_size)
    names, absent = (on, ()) if on else _there(network)
    if "torch" in names and network.module is not None:
        names = ["spikingjelly", *names]
    return Contest(network.name, called, x, labels, {name: partial(_lowered, name, network) for name in names}, absent)


def _of_one(
    source: Any, ann: TrainedNetwork | None, data: Any, on: list[str], samples: int, image_size: ImageSize,
    lowering: dict[str, Any], progress: Progress,
) -> Contest:  # fmt: skip
    """What runs on one back end only: an `ann` on torch, a finished model on onnx."""
    wanted = "onnx" if ann is None else "torch"
    other = next((name for name in on if name != wanted), None)
    called = Path(source).name if isinstance(source, str | Path) else source.info.model
    if other is not None:
        kind = "a finished model and runs" if ann is None else "an ANN, which runs"
        raise OptionError(f"{{on}}: {called} is {kind} on {wanted} only", on=other)
    require_unlowered(called, lowering, "a finished model" if ann is None else "an ANN")
    own = own_data(source_in(Path(source)), called) if ann is None else own_of(ann)
    images = load_own(data, own, image_size=image_size)
    x, labels = some_tests(images, samples)

    @contextmanager
    def ready() -> Iterator[Scored]:
        with classifier(source if ann is None else ann, wanted, None, dict(lowering), progress) as found:
            takes = found.wanted
            over_time = takes.over_time or (found.scored == "logit" and images.T is not None)  # an ANN sees their mean
            require_fit(
                called, takes.shape, images, classes=found.classes or None, class_names=found.class_names,
                T=takes.T if over_time else None, over_time=over_time, graded=takes.graded or (over_time and images.graded),
            )  # fmt: skip
            yield lambda part: found.run(part)[:, -1]

    return Contest(called, images.name, x, labels, {wanted: ready})


def _there(network: Lowered) -> tuple[list[str], tuple[RefusedBackend, ...]]:
    """The back ends that are there for a network, and those that are not."""
    from exporters.errors import DeployError
    from hardware import sanafe
    from hardware.lava import environment

    names, absent = [], []
    tried: dict[str, Callable[[], object]] = {"lava": environment.python_path, "sanafe": sanafe.python_path}
    for name in BACKENDS:
        if name in ("torch", "onnx") and network.running is None:
            continue
        try:
            tried.get(name, lambda: None)()
        except DeployError as error:
            absent.append(RefusedBackend(name, " ".join(str(error).split())))
        else:
            names.append(name)
    return names, tuple(absent)


@contextmanager
def _lowered(name: str, network: Lowered) -> Iterator[Scored]:
    with opened(name, network, RunOptions(layers=False)) as run:
        yield lambda x: run(x).scores


def _measured(name: str, run: Scored, contest: Contest, repeats: int, batch_size: int, seconds: float) -> BackendSpeed:
    """All samples once, which warms it up and tells the accuracy; then one sample and a batch, again and again."""
    import numpy as np

    x, batch = contest.samples, min(batch_size, len(contest.samples))
    started, scores = time.perf_counter(), []
    run(x[:1])
    for start in range(0, len(x), batch):
        scores.append(run(x[start : start + batch]))
        if time.perf_counter() - started > seconds:
            break
    found = np.concatenate(scores)
    right = None
    if contest.labels is not None:
        right = float((found.reshape(len(found), -1).argmax(axis=1) == contest.labels[: len(found)]).mean())
    one = _timed(lambda i: run(x[i % len(x) : i % len(x) + 1]), repeats, seconds)
    return BackendSpeed(name, len(found), right, one, batch, _timed(lambda i: run(x[:batch]), repeats, seconds), None)


def _timed(work: Callable[[int], object], repeats: int, seconds: float) -> Timing:
    taken: list[float] = []
    while len(taken) < repeats and (len(taken) < FEWEST_REPEATS or sum(taken) < seconds):
        started = time.perf_counter()
        work(len(taken))
        taken.append(time.perf_counter() - started)
    if len(taken) == 1:
        return Timing(taken[0], taken[0], taken[0], 1)
    low, median, high = statistics.quantiles(taken, n=4, method="inclusive")
    return Timing(median, low, high, len(taken))


def _machine() -> str:
    import torch

    threads = torch.get_num_threads()
    return f"{platform.machine()}, {cores()} cores, torch on {threads} thread{'s' if threads != 1 else ''}"


def _spread(timing: Timing) -> str:
    from profilers.energy.models import Range
    from profilers.report.numbers import spread

    return spread(Range(timing.low, timing.median, timing.high), "s")
