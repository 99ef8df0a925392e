"""What classifies a sample: a trained network itself, a lowered network on a back end, or an `.onnx` file."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kdsnn.deploy.backends import BackendRun, RunOptions, opened, require_backend, run_onnx
from kdsnn.deploy.brought import require_unlowered
from kdsnn.deploy.images import Pixels, class_names_in
from kdsnn.deploy.load import load, trained_by_us
from kdsnn.deploy.lower import lower
from kdsnn.deploy.lowered import Lowered
from kdsnn.deploy.progress import Progress
from kdsnn.deploy.trained import TrainedNetwork
from kdsnn.errors import KdsnnError, OptionError
from kdsnn.factory import is_factory

if TYPE_CHECKING:
    from exporters.graph import Array
    from kdsnn.checkpoint import CheckpointInfo
    from kdsnn.data.sample_files import SampleShape


@dataclass(frozen=True, eq=False)
class Classifier:
    """A network that is ready for samples.

    Attributes:
        name: of the network; `on`: what it runs on.
        wanted: what it takes.
        classes: that it tells apart; `class_names`: of them, or empty.
        scored: what a score is: "rate" (spikes per step), "membrane" (per step) or "logit".
        run: uint8 samples (N, C, H, W), or (N, T, C, H, W), → scores (N, S, K) after each of S steps; S is 1 where there are no
            steps, or where the back end tells the last one alone.
    """

    name: str
    on: str
    wanted: SampleShape
    classes: int
    class_names: tuple[str, ...]
    scored: str
    run: Callable[[Array], Array]


@contextmanager
def classifier(
    source: Any, on: str | None, image_size: tuple[int, int] | None, lowering: dict[str, Any], progress: Progress
) -> Iterator[Classifier]:
    """A source made ready on a back end; `on` None is what it was trained as: torch, onnx for `.onnx` files, else the emulator.

    Raises:
        KdsnnError, DeployError: a source that cannot be read, or a back end that cannot run it.
    """
    if on is not None:
        require_backend(on)
    if isinstance(source, str | Path) and Path(source).suffix == ".onnx":
        require_unlowered(source, lowering, "a finished model")
        yield _of_onnx(Path(source), on, image_size)
        return
    trained = _trained(source, lowering)
    if trained is not None and (on in (None, "torch") or not trained.info.spiking):
        yield _of_trained(source, trained, on, image_size, lowering)
        return
    network = lower(source, progress=progress, **lowering)
    chosen = on or ("emulator" if network.graph is None else "torch")
    if chosen == "torch" and network.module is not None:
        chosen = "spikingjelly"  # as it was trained
    with opened(chosen, network, RunOptions(layers=False)) as run:
        yield _of_lowered(network, chosen, run, image_size, None if trained is None else trained.info)


def _trained(source: Any, lowering: dict[str, Any]) -> TrainedNetwork | None:
    """A trained network and what is known about it, where a source has that."""
    if isinstance(source, TrainedNetwork):
        return source
    weights = lowering.get("weights")
    if isinstance(source, str | Path) and Path(source).suffix == ".safetensors":
        return load(source)
    if isinstance(source, str) and is_factory(source) and weights is not None and trained_by_us(weights):
        return load(weights, module=source)
    return None


def wanted_by(info: CheckpointInfo, image_size: tuple[int, int] | None) -> SampleShape:
    """What a trained network takes, with the variants of its training data."""
    from kdsnn.data import recognized, variants_in
    from kdsnn.data.sample_files import SampleShape

    try:
        recordings = recognized(info.data).startswith("events:")
    except KdsnnError:  # a name that is no data set
        recordings = False
    T = info.T if info.spiking else None
    return SampleShape(
        tuple(info.input_shape), info.over_time, T, info.graded, variants_in(info.data), recordings, image_size
    )


def _of_trained(
    source: Any, trained: TrainedNetwork, on: str | None, image_size: tuple[int, int] | None, lowering: dict[str, Any]
) -> Classifier:
    """The network itself, run as `evaluate` runs it."""
    from kdsnn.train.learner import step_scores

    info = trained.info
    called = str(source) if isinstance(source, str | Path) else info.model
    if on not in (None, "torch"):
        raise OptionError(
            f"{{on}}: {called} is an ANN, which runs on torch; export it, and give the .onnx file for onnx", on=on
        )
    if lowering.get("T") == info.T:  # which is said twice
        lowering = {name: value for name, value in lowering.items() if name != "T"}
    kind = "an ANN"
    if info.spiking:
        kind = "run on torch as it was trained"
        for name in ("bits", "calibrate"):
            if lowering.get(name) is not None:
                raise OptionError(
                    f"{{{name}}}: torch runs the network as it was trained; say {{on}} emulator",
                    on=None,
                    **{name: None},
                )
    require_unlowered(called, lowering, kind, takes=("weights",) if is_factory(called) else ())

    def run(x: Array) -> Array:
        return step_scores(trained.module, x, T=info.T if info.spiking else None, graded=info.graded)

    scored = ("membrane" if info.readout == "membrane" else "rate") if info.spiking else "logit"
    return Classifier(called, "torch", wanted_by(info, image_size), info.classes, info.class_names, scored, run)


def _of_lowered(
    network: Lowered, on: str, run: Any, image_size: tuple[int, int] | None, info: CheckpointInfo | None
) -> Classifier:
    from kdsnn.data.sample_files import SampleShape

    graph = network.graph or network.integer
    if network.classes is None:
        raise KdsnnError(f"{network.name} ends in maps, not in one score per class; run compares its spikes")
    own = SampleShape(network.input_shape, network.over_time, graph.T, network.graded, image_size=image_size)
    names = class_names_in(graph.metadata)

    def scores(x: Array) -> Array:
        return after_each_step(run(network.samples(x)[:]), graph.output.readout, graph.output.score, graph.T)

    wanted = own if info is None else wanted_by(info, image_size)
    called = "torch" if on == "spikingjelly" else on
    return Classifier(network.name, called, wanted, network.classes, names, graph.output.readout, scores)


def after_each_step(run: BackendRun, readout: str, score: str, T: int) -> Array:
    """The scores (N, S, K) after each step of what a back end gave, or (N, 1, K) where it told the last one alone."""
    import numpy as np

    output = run.output.reshape(*run.output.shape[:2], -1).astype(np.float64)
    if output.shape[1] != T:
        return np.asarray(run.scores.reshape(len(output), 1, -1))
    steps = np.arange(1, T + 1)[:, None]
    return np.asarray(output / steps if (readout, score) == ("membrane", "last") else output.cumsum(axis=1) / steps)


def _of_onnx(path: Path, on: str | None, image_size: tuple[int, int] | None) -> Classifier:
    from exporters import onnx
    from kdsnn.data.sample_files import SampleShape
    from kdsnn.deploy.ann_file import names_in, seen_by_ann

    if on not in (None, "onnx"):
        raise OptionError(f"{{on}}: {path.name} is a finished model and runs on onnx only", on=on)
    if not onnx.is_spiking(path):
        ann = onnx.load_ann(path)
        session = ann.session()

        def logits(x: Array) -> Array:
            return session(seen_by_ann(Pixels(x, ann.input_shape, graded=False)[:]))[:, None]

        wanted = SampleShape(ann.input_shape, image_size=image_size)
        return Classifier(path.name, "onnx", wanted, ann.classes, names_in(ann), "logit", logits)
    runner = onnx.prepare(path)
    facts = runner.model.facts
    shape, coding = tuple(facts["input_shape"]), facts["input_encoding"]
    wanted = SampleShape(shape, coding != "direct", facts["T"], coding == "frames", image_size=image_size)

    def scores(x: Array) -> Array:
        found = run_onnx(runner, Pixels(x, shape, coding == "frames")[:])
        return after_each_step(found, facts["readout"], facts["score"], facts["T"])

    classes = runner.model.proto.graph.output[0].type.tensor_type.shape.dim[-1].dim_value
    return Classifier(path.name, "onnx", wanted, classes, class_names_in(facts.get("source")), facts["readout"], scores)
