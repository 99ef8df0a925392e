"""The verb `profile`: what networks cost, as a report."""

from __future__ import annotations

from collections.abc import Callable, Container, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from exporters.graph import unique_name
from kdsnn.deploy.counting import count, count_ann
from kdsnn.deploy.density import thin, wants_density
from kdsnn.deploy.devices import moved
from kdsnn.deploy.few_bit import Qann, count_few_bit, named
from kdsnn.deploy.images import class_list, require_count, some_tests
from kdsnn.deploy.load import ann_of, load
from kdsnn.deploy.lower import lower
from kdsnn.deploy.lowered import Lowered, require_network_fit, told_labels
from kdsnn.deploy.on_chip import Pricing, place_all
from kdsnn.deploy.own_data import OwnData, agreed, chosen_data, load_own, own_data, telling_whose
from kdsnn.deploy.progress import Progress, silent
from kdsnn.deploy.report_options import busy_time, chosen_chips, distinct, energy_models, time_models, training_seeds
from kdsnn.deploy.several import Several
from kdsnn.deploy.spike_input import frames_of_data, is_bare
from kdsnn.deploy.sweep import (
    ChosenPoints,
    SweepPlan,
    chosen_points,
    quantization_of,
    require_no_more,
    require_sweepable,
    swept,
)
from kdsnn.deploy.trained import TrainedNetwork
from kdsnn.errors import KdsnnError, OptionError
from kdsnn.factory import is_factory

OF_OWN_NETWORKS = ("input_coding", "output", "neuron_as", "normalize")
"""Options that say of a network what its user alone knows."""

TRAINED = (".safetensors",)
"""Files of this program, which know it themselves."""

if TYPE_CHECKING:
    from exporters.graph import Array
    from hardware.chips.limits import Target
    from kdsnn.data import DataSet
    from kdsnn.deploy.images import ImageSize
    from kdsnn.deploy.lower import NetworkSource
    from kdsnn.deploy.report_options import Seconds
    from profilers import report
    from profilers.report import Report
    from profilers.report.sweep_result import Sweep


def profile(
    source: NetworkSource | Sequence[NetworkSource],
    data: Any = None,
    *,
    teacher: str | Path | TrainedNetwork | None = None,
    twin: NetworkSource | None = None,
    qann: Qann | Sequence[Qann] | None = None,
    samples: int | None = None,
    image_size: ImageSize = None,
    target: Sequence[str | Path] = (),
    energy_model: Sequence[str | Path] = (),
    time_model: Sequence[str | Path] = (),
    seconds_per_image: Seconds = None,
    seconds_per_step: Seconds = None,
    density: bool | None = None,
    simulate: bool = False,
    bits: Several = None,
    timesteps: Several = None,
    compare: bool = False,
    device: str | None = None,
    command: str = "kdsnn.profile",
    written: Callable[[Sweep], object] | None = None,
    progress: Progress = silent,
    **lowering: Any,
) -> Report | Sweep:
    """Count parameters, FLOPs, spikes, SynOps and energy; `.write(folder)` makes report.html, report.json and layers.csv of it.

    Several networks, bits or numbers of steps are a sweep: accuracy against every cost in one table and one picture, of
    which `.write(folder)` makes sweep.html, .svg, .json and .csv.

    Args:
        source: whatever `lower` takes, what it returned, or an ANN (which stands alone); several in a sequence are a sweep.
        data: whatever `load_data` takes; the test images are counted on. By default what the networks were trained on; digits
            where they do not say.
        teacher: the ANN to set beside them.
        twin: the same student trained without a teacher; in a sweep, it is one more source.
        qann: trained ANNs of few bits to set beside them, with their data movement: what `pretrain` makes with
            `quantize_activations`. Where there are several networks or points, they are compared at equal accuracy.
        samples: how many test images, spread over the set; all by default.
        image_size: as in `load_data`.
        target: the chips to place them on, by name or as .json files; all that are built in by default.
        energy_model, time_model: files of energy and of step-time models of your own, beside the built-in ones.
        seconds_per_image: seconds that an image keeps the chips busy, or (low, nominal, high): adds their static power. Measured
            or assumed by you; without it static power is left out.
        seconds_per_step: the same per time step, × T of each network.
        density: whether the first network runs again with its input of events thinned to 3/4, 1/2, 1/4 and 1/8; by default it
            does where frames of spikes come in.
        simulate: whether SANA-FE, where it is installed, runs some samples on Loihi 1: energy and time with contention.
        bits: of a weight, one number or several: (2, 4, 8), "2,4,8" or "2-8".
        timesteps: T, or several: a network is run once, with the largest, and read after each.
        compare: whether several sources make one full report instead, side by side; its verdict is about the first.
        device: where torch computes what an ANN gives, "cpu", "cuda", …; None leaves it where it is.
        command: how the report came about, printed in it.
        written: given a sweep as far as it is, after every run: what it writes is there if somebody stops the rest.
        progress: told how far it is.
        **lowering: of `lower`, for sources that are not lowered yet.

    Raises:
        KdsnnError, DeployError: networks and data that do not fit, files that are damaged; one line each.
    """
    require_count("samples", samples)
    sources = list(source) if isinstance(source, Sequence) and not isinstance(source, str) else [source]
    steps = lowering.pop("T", None) if timesteps is None else timesteps
    wanted = chosen_points(len(sources), bits, steps, compare=compare)
    if wanted.several:
        require_no_more(twin=twin, density=density, simulate=simulate)
    chips, time = chosen_chips(target, simulate=simulate), busy_time(seconds_per_image, seconds_per_step)
    pricing = Pricing(energy_models(energy_model, chips), time_models(time_model, chips), time)
    ann, few_bit = None if teacher is None else _trained(teacher), named(qann)
    asked = _Asked(
        sources, data, samples, image_size, ann, few_bit, chips, pricing, command, progress, {**lowering, **wanted.first}, device,
    )  # fmt: skip
    if not wanted.several:
        return _report(asked, twin, density, simulate=simulate)
    return _sweep(asked, wanted, written, {*energy_models(()), *time_models(())})


@dataclass(frozen=True)
class _Asked:
    """What a report and a sweep are both made of."""

    sources: list[Any]
    data: Any
    samples: int | None
    image_size: ImageSize
    teacher: TrainedNetwork | None
    few_bit: Mapping[str, TrainedNetwork]
    chips: Sequence[Target]
    pricing: Pricing
    command: str
    progress: Progress
    lowering: dict[str, Any]
    device: str | None


def _report(asked: _Asked, twin: NetworkSource | None, density: bool | None, *, simulate: bool) -> Report:
    from profilers import report

    sources, ann, few_bit, pricing, progress = (
        asked.sources,
        asked.teacher,
        asked.few_bit,
        asked.pricing,
        asked.progress,
    )
    if (alone := ann_of(sources[0])) is not None:
        others = len(sources) > 1 or ann is not None or twin is not None or bool(few_bit)
        _require_alone(sources[0], with_others=others, with_time=bool(pricing.busy))
        ann, sources = alone, []
    given = [*sources, *([] if twin is None else [twin])]
    networks = [_lowered(one, asked.lowering, progress, alone=len(given) == 1) for one in given]
    names = _names(given, networks, len(sources))
    with_density = wants_density(names, networks, density)
    bare = ann is None and not few_bit
    own = None if asked.data is not None else _own(names, networks) if networks else own_data(ann)
    images, x, labels, called = _tests(names, networks, asked.data, own, asked.samples, asked.image_size, bare=bare)
    counted, notes, twins = _counted_anns(ann, few_bit, images, x, labels, asked.device, progress)
    students = _counted(names, networks, images, x, labels, len(sources), progress)
    placed = place_all(students, networks, x, chips=asked.chips, pricing=pricing, simulate=simulate, progress=progress)
    thinned = (
        thin(placed.students[0], networks[0], x, labels, time=pricing.busy, progress=progress) if with_density else None
    )
    return report.build(
        f"{', '.join(names[: len(sources)]) or (counted.name if counted else '')} on {called}",
        asked.command,
        placed.students,
        teacher=counted,
        models=pricing.energy,
        placements=placed.placements,
        few_bit=twins,
        thinned=thinned,
        fits=placed.fits,
        seeds=training_seeds({**dict(zip(names, given, strict=True)), **few_bit, counted.name if counted else "": ann}),
        data=_data_text(x, called, images),
        notes=[*_arithmetic(names, networks), *notes, *placed.notes],
    )


def _classes(images: DataSet | None) -> str:
    """How many classes there are and what they are called, where they have names."""
    if images is None or not images.class_names:
        return ""
    return f" ({images.classes} classes: {class_list(images.class_names)})"


def _arithmetic(names: Sequence[str], networks: Sequence[Lowered]) -> list[str]:
    """What the accuracies of spiking networks are those of, which `evaluate` measures on the module as it was trained."""
    found = []
    if any(network.graph is not None for network in networks):
        found.append(
            "Float networks run here with BatchNorm folded into their weights; evaluate runs the module as it was trained."
        )
    for name, network in zip(names, networks, strict=True):
        if network.bits is not None:
            how = ", calibrated" if network.calibrated else ""
            found.append(f"{name} is quantized to {network.bits}-bit weights and {network.input_bits}-bit input{how}.")
    return found


def _sweep(
    asked: _Asked, wanted: ChosenPoints, written: Callable[[Sweep], object] | None, built_in: Container[str]
) -> Sweep:
    from profilers.report.sweep import few_bit_reference, teacher_reference

    for source in asked.sources:
        if ann_of(source) is not None:
            raise OptionError(
                f"{source}: this is an ANN; give spiking students, and the ANN as {{teacher}}, or as {{qann}} where it has few bits",
                teacher=None, qann=None,
            )  # fmt: skip
    alone, pricing, progress = len(asked.sources) == 1, asked.pricing, asked.progress
    unsaid = {k: v for k, v in asked.lowering.items() if k != "bits"}  # which a sweep refuses itself, all of them
    lowered = [
        one
        if isinstance(one, Lowered)
        else _lowered(one, unsaid if str(one).endswith(".net") else asked.lowering, progress, alone=alone)
        for one in asked.sources
    ]
    networks = dict(zip(_names(asked.sources, lowered, len(lowered)), lowered, strict=True))
    require_sweepable(networks, wanted.bits, wanted.steps)
    own = None if asked.data is not None else _own(list(networks), lowered)
    bare = not (asked.teacher or asked.few_bit)
    images, x, labels, called = _tests(
        list(networks), lowered, asked.data, own, asked.samples, asked.image_size, bare=bare
    )
    teacher, notes, anns = _counted_anns(asked.teacher, asked.few_bit, images, x, labels, asked.device, progress)
    references = [few_bit_reference(ann, len(x), tuple(pricing.energy.values())) for ann in anns]
    references += [] if teacher is None or teacher.accuracy is None else [teacher_reference(teacher, len(x))]
    brought = [name for name in (*pricing.energy, *pricing.times) if name not in built_in]
    plan = SweepPlan(
        networks,
        wanted.bits,
        wanted.steps,
        quantization_of(asked.lowering, progress),
        asked.chips,
        pricing,
        tuple(brought),
    )
    if len(wanted.steps) > 1:
        longest = wanted.steps[-1]
        notes = (*notes, f"Every network runs once with T = {longest}, and is read after fewer steps of that run.")
    return swept(
        plan, x, labels, title=f"{', '.join(networks)} on {called}", command=asked.command, data=_data_text(x, called, images),
        references=references, notes=notes, written=written, progress=progress,
    )  # fmt: skip


def _data_text(x: Array, called: str, images: DataSet | None) -> str:
    return f"{len(x):,} test {'sample' if x.ndim != 4 else 'image'}{'s' if len(x) != 1 else ''} of {called}{_classes(images)}"


def _counted(
    names: Sequence[str], networks: Sequence[Lowered], images: DataSet | None, x: Array, labels: Array, first_twin: int,
    progress: Progress,
) -> list[report.Student]:  # fmt: skip
    """The networks with what their runs counted; those from `first_twin` on are twins."""
    classes = () if images is None else images.class_names
    return [
        count(
            name,
            network,
            x,
            told_labels(name, network, labels),
            class_names=classes,
            twin=index >= first_twin,
            progress=progress,
        )
        for index, (name, network) in enumerate(zip(names, networks, strict=True))
    ]


def _counted_anns(
    ann: TrainedNetwork | None, few_bit: Mapping[str, TrainedNetwork], images: DataSet | None, x: Array, labels: Array,
    device: str | None, progress: Progress,
) -> tuple[report.Teacher | None, tuple[str, ...], list[report.FewBitAnn]]:  # fmt: skip
    """The ANN and those of few bits that stand beside the students, and what of it could not be counted."""
    if images is None:
        return None, (), []
    with ExitStack() as stack:
        for one in (ann, *few_bit.values()):
            if one is not None:
                stack.enter_context(moved(one.module, device))
        teacher, notes = (None, ()) if ann is None else count_ann(ann, images, x, labels, progress=progress)
        twins = [count_few_bit(n, one, images, x, labels, progress=progress) for n, one in few_bit.items()]
    return teacher, notes, twins


def _require_alone(ann: NetworkSource, *, with_others: bool, with_time: bool) -> None:
    """An ANN is profiled by itself, without times; KdsnnError otherwise."""
    if with_others:
        raise OptionError(
            f"{ann}: this is an ANN; give a spiking student first, and the ANN as {{teacher}}", teacher=None
        )
    if with_time:
        raise KdsnnError(f"{ann}: an ANN has no placement, so seconds say nothing; give a spiking network")


def _tests(
    names: Sequence[str],
    networks: Sequence[Lowered],
    data: Any,
    own: OwnData | None,
    samples: int | None,
    image_size: ImageSize,
    *,
    bare: bool,
) -> tuple[DataSet | None, Array, Array, str]:
    """The data set, test samples and labels of it, and what it is called; `bare`: test samples alone will do."""
    if any(network.over_time for network in networks):
        _require_alike(names, networks)
        if bare and is_bare(named := chosen_data(data, own)):
            with telling_whose(data, own):
                return None, *frames_of_data(named, networks[0], samples)
    images = load_own(data, own, image_size=image_size)
    for name, network in zip(names, networks, strict=True):
        require_network_fit(name, network, images)
    return images, *some_tests(images, samples), images.name


def _own(names: Sequence[str], networks: Sequence[Lowered]) -> OwnData | None:
    """The data that all networks that remember theirs were trained on."""
    pairs = zip(names, networks, strict=True)
    return agreed([own_data(network.graph or network.integer, name) for name, network in pairs])


def _require_alike(names: Sequence[str], networks: Sequence[Lowered]) -> None:
    """Raise KdsnnError unless all networks read frames over time, of one shape, number and kind."""
    still = next((name for name, network in zip(names, networks, strict=True) if not network.over_time), None)
    if still is not None:
        moving = next(name for name, network in zip(names, networks, strict=True) if network.over_time)
        raise KdsnnError(f"{still} reads images, and {moving} frames over time; profile them one by one")
    graphs = [network.graph or network.integer for network in networks]
    kinds = [(graph.T, graph.input.shape, graph.input.encoding) for graph in graphs]
    for name, kind in zip(names, kinds, strict=True):
        if kind != kinds[0]:
            raise KdsnnError(
                f"{names[0]} and {name} read frames of another shape, number or kind; profile them one by one"
            )


def _names(given: Sequence[NetworkSource], networks: Sequence[Lowered], students: int) -> list[str]:
    """What the networks are called in a report: by their files, and what has none by its own name, or as the twin it is."""
    files = {i: str(one) for i, one in enumerate(given) if isinstance(one, str | Path)}
    names = dict(zip(files, distinct(list(files.values())), strict=True))
    for i, network in enumerate(networks):
        if i not in names:
            names[i] = unique_name(network.name if i < students else "twin", names.values())
    return [names[i] for i in range(len(networks))]


def _lowered(source: NetworkSource, lowering: dict[str, Any], progress: Progress, *, alone: bool) -> Lowered:
    """One source lowered; of several, options that only some kinds take go to those and pass the others by."""
    suffix = Path(source).suffix if isinstance(source, str | Path) else ""
    is_text = isinstance(source, str | Path)
    others = {
        "nir": suffix != ".nir",
        "weights": not (is_text and is_factory(str(source))),
        "input_shape": is_text and not is_factory(str(source)),
        **dict.fromkeys(OF_OWN_NETWORKS, suffix in TRAINED),
    }
    mine = {k: v for k, v in lowering.items() if alone or not others.get(k)}
    return lower(source, progress=progress, **mine)


def _trained(teacher: str | Path | TrainedNetwork) -> TrainedNetwork:
    return teacher if isinstance(teacher, TrainedNetwork) else load(teacher)


def report_formats(names: Sequence[str] | None, *, sweep: bool = False) -> Sequence[str]:
    """The formats of a report, or of a sweep, that were asked for, or the usual ones.

    Raises:
        DeployError: one that there is not.
    """
    from profilers import report
    from profilers.report import sweep_result

    if sweep:
        return sweep_result.known_sweep_formats(names or sweep_result.FORMATS)
    found: Sequence[str] = report.known_formats(names or report.DEFAULT_FORMATS)
    return found
