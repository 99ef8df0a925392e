"""The verb `profile`: what networks cost, as a report."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from exporters.graph import unique_name
from kdsnn.deploy.counting import count, count_ann
from kdsnn.deploy.density import thin, wants_density
from kdsnn.deploy.few_bit import Qann, count_few_bit, named
from kdsnn.deploy.images import load_data, some_tests
from kdsnn.deploy.load import ann_of, load
from kdsnn.deploy.lower import lower
from kdsnn.deploy.lowered import Lowered, require_network_fit, told_labels
from kdsnn.deploy.on_chip import Pricing, place_all
from kdsnn.deploy.progress import Progress, silent
from kdsnn.deploy.report_options import busy_time, chosen_chips, distinct, energy_models, time_models, training_seeds
from kdsnn.deploy.spike_input import frames_of_data, is_bare
from kdsnn.deploy.trained import TrainedNetwork
from kdsnn.errors import KdsnnError, OptionError

OF_OWN_NETWORKS = ("input_coding", "output", "neuron_as", "normalize")
"""Options that say of a network what its user alone knows."""

TRAINED = (".safetensors",)
"""Files of this program, which know it themselves."""

if TYPE_CHECKING:
    from exporters.graph import Array
    from kdsnn.data import DataSet
    from kdsnn.deploy.images import ImageSize
    from kdsnn.deploy.lower import NetworkSource
    from kdsnn.deploy.report_options import Seconds
    from profilers import report
    from profilers.report import Report


def profile(
    source: NetworkSource | Sequence[NetworkSource],
    data: Any = "digits",
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
    command: str = "kdsnn.profile",
    progress: Progress = silent,
    **lowering: Any,
) -> Report:
    """Count parameters, FLOPs, spikes, SynOps and energy; `.write(folder)` makes report.html, report.json and layers.csv of it.

    Args:
        source: whatever `lower` takes, what it returned, or an ANN (which stands alone); several in one sequence are set
            beside each other, and the verdict is about the first.
        data: whatever `load_data` takes; the test images are counted on.
        teacher: the ANN to set beside them.
        twin: the same student trained without a teacher.
        qann: trained ANNs of few bits to set beside them, with their data movement: what `pretrain` makes with
            `quantize_activations`. Where several networks are given on either side, they are compared at equal accuracy.
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
        command: how the report came about, printed in it.
        progress: told how far it is.
        **lowering: of `lower`, for sources that are not lowered yet.

    Raises:
        KdsnnError, DeployError: networks and data that do not fit, files that are damaged; one line each.
    """
    from profilers import report

    sources = list(source) if isinstance(source, Sequence) and not isinstance(source, str) else [source]
    chips, time = chosen_chips(target, simulate=simulate), busy_time(seconds_per_image, seconds_per_step)
    pricing = Pricing(energy_models(energy_model, chips), time_models(time_model, chips), time)
    ann, few_bit = None if teacher is None else _trained(teacher), named(qann)
    if (alone := ann_of(sources[0])) is not None:
        others = len(sources) > 1 or teacher is not None or twin is not None or bool(few_bit)
        _require_alone(sources[0], with_others=others, with_time=bool(time))
        ann, sources = alone, []
    given = [*sources, *([] if twin is None else [twin])]
    networks = [_lowered(one, lowering, progress, alone=len(given) == 1) for one in given]
    names = _names(given, networks, len(sources))
    with_density = wants_density(names, networks, density)
    images, x, labels, called = _tests(names, networks, data, samples, image_size, bare=ann is None and not few_bit)
    counted, notes, twins = _counted_anns(ann, few_bit, images, x, labels, progress)
    students = _counted(names, networks, x, labels, len(sources), progress)
    placed = place_all(students, networks, x, chips=chips, pricing=pricing, simulate=simulate, progress=progress)
    thinned = thin(placed.students[0], networks[0], x, labels, time=time, progress=progress) if with_density else None
    return report.build(
        f"{', '.join(names[: len(sources)]) or (counted.name if counted else '')} on {called}",
        command,
        placed.students,
        teacher=counted,
        models=pricing.energy,
        placements=placed.placements,
        few_bit=twins,
        thinned=thinned,
        fits=placed.fits,
        seeds=training_seeds(dict(zip(names, given, strict=True)) | few_bit | {counted.name if counted else "": ann}),
        data=f"{len(x):,} test {'sample' if x.ndim != 4 else 'image'}{'s' if len(x) != 1 else ''} of {called}",
        notes=[*notes, *placed.notes],
    )


def _counted(
    names: Sequence[str], networks: Sequence[Lowered], x: Array, labels: Array, first_twin: int, progress: Progress
) -> list[report.Student]:
    """The networks with what their runs counted; those from `first_twin` on are twins."""
    return [
        count(name, network, x, told_labels(name, network, labels), twin=index >= first_twin, progress=progress)
        for index, (name, network) in enumerate(zip(names, networks, strict=True))
    ]


def _counted_anns(
    ann: TrainedNetwork | None, few_bit: Mapping[str, TrainedNetwork], images: DataSet | None, x: Array, labels: Array,
    progress: Progress,
) -> tuple[report.Teacher | None, tuple[str, ...], list[report.FewBitAnn]]:  # fmt: skip
    """The ANN and those of few bits that stand beside the students, and what of it could not be counted."""
    if images is None:
        return None, (), []
    teacher, notes = (None, ()) if ann is None else count_ann(ann, images, x, labels, progress=progress)
    return teacher, notes, [count_few_bit(n, one, images, x, labels, progress=progress) for n, one in few_bit.items()]


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
    samples: int | None,
    image_size: ImageSize,
    *,
    bare: bool,
) -> tuple[DataSet | None, Array, Array, str]:
    """The data set, test samples and labels of it, and what it is called; `bare`: test samples alone will do."""
    if any(network.over_time for network in networks):
        _require_alike(names, networks)
        if bare and is_bare(data):
            return None, *frames_of_data(data, networks[0], samples)
    images = load_data(data, image_size=image_size)
    for name, network in zip(names, networks, strict=True):
        require_network_fit(name, network, images)
    return images, *some_tests(images, samples), images.name


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
    mine = {
        k: v
        for k, v in lowering.items()
        if alone or not ((k == "nir" and suffix != ".nir") or (k in OF_OWN_NETWORKS and suffix in TRAINED))
    }
    return source if isinstance(source, Lowered) else lower(source, progress=progress, **mine)


def _trained(teacher: str | Path | TrainedNetwork) -> TrainedNetwork:
    return teacher if isinstance(teacher, TrainedNetwork) else load(teacher)


def report_formats(names: Sequence[str] | None) -> Sequence[str]:
    """The formats of a report that were asked for, or the usual ones.

    Raises:
        DeployError: one that there is not.
    """
    from profilers import report

    found: Sequence[str] = report.known_formats(names or report.DEFAULT_FORMATS)
    return found
