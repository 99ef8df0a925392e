"""`kdsnn-deploy profile`: what a network costs, as a report."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from kdsnn.cli.coding import InputCoding
from kdsnn.cli.options import (
    Bits,
    Calibrate,
    CalibrationSamples,
    Data,
    InputBits,
    InputShape,
    Json,
    Nir,
    OutDir,
    Timesteps,
    Weights,
    nir_options,
    writable_folder,
)

if TYPE_CHECKING:
    from profilers.report import Report


def profile(
    sources: Annotated[
        list[str],
        typer.Argument(
            metavar="SOURCE…",
            help="A checkpoint (.safetensors; of an ANN too), a .net or .nir file, or package.module:factory.",
        ),
    ],
    out: OutDir,
    teacher: Annotated[Path | None, typer.Option(help="Checkpoint of the ANN to set beside it.")] = None,
    twin: Annotated[Path | None, typer.Option(help="Checkpoint of the same student trained without a teacher.")] = None,
    compare: Annotated[
        bool,
        typer.Option("--compare", help="Several SOURCEs in one report: A --compare B C. The verdict is about A."),
    ] = False,
    data: Data = "digits",
    samples: Annotated[int | None, typer.Option(min=1, help="How many test images; all by default.")] = None,
    energy_model: Annotated[
        list[Path] | None, typer.Option(help="An energy model of your own, beside the built-in ones (repeatable).")
    ] = None,
    format_: Annotated[
        list[str] | None,
        typer.Option("--format", help="html, json, csv, markdown or latex (repeatable); the first three by default."),
    ] = None,
    seconds_per_image: Annotated[
        str | None,
        typer.Option(
            help="Seconds that an image keeps the chips busy, or low,nominal,high: adds their static power. "
            "Measured or assumed by you; without it static power is left out."
        ),
    ] = None,
    seconds_per_step: Annotated[
        str | None, typer.Option(help="The same per time step, × T of each network: 1e-5, or low,nominal,high.")
    ] = None,
    bits: Bits = None,
    input_bits: InputBits = 8,
    calibrate: Calibrate = None,
    calibration_samples: CalibrationSamples = 512,
    weights: Weights = None,
    input_shape: InputShape = None,
    timesteps: Timesteps = None,
    input_coding: InputCoding = None,
    nir: Nir = None,
    json: Json = False,
) -> None:
    """Count parameters, FLOPs, spikes, SynOps and energy; write report.html, report.json and layers.csv."""
    import shlex
    import sys

    from kdsnn.cli.coding import require_pixels
    from kdsnn.cli.console import print_json, table
    from kdsnn.cli.counting import count, count_ann, distinct, energy_models, is_ann, place_all, timing
    from kdsnn.cli.images import load_images
    from kdsnn.cli.source import load, require_fit
    from kdsnn.errors import KdsnnError
    from profilers import report

    if len(sources) > 1 and not compare:
        raise KdsnnError(f"{len(sources)} sources; to set several beside each other add --compare")
    formats = report.known_formats(format_ or report.DEFAULT_FORMATS)
    models = energy_models(energy_model or [])
    time = timing(seconds_per_image, seconds_per_step)
    writable_folder(out)
    if is_ann(sources[0]):
        if len(sources) > 1 or teacher or twin:
            raise KdsnnError(f"{sources[0]}: this is an ANN; give a spiking student first, and the ANN as --teacher")
        if time:
            raise KdsnnError(f"{sources[0]}: an ANN has no placement, so seconds say nothing; give a spiking network")
        teacher, sources = Path(sources[0]), []
    given = [*sources, *([str(twin)] if twin else [])]
    names = distinct(given)
    networks = [
        load(
            source, bits=bits, input_bits=input_bits, T=timesteps, weights=weights, input_shape=input_shape,
            calibrate=calibrate, calibration_samples=calibration_samples,
            nir=nir_options(nir) if source.endswith(".nir") else None,
            input_coding=input_coding if source.endswith(".net") else None, quiet=json,
        )
        for source in given
    ]  # fmt: skip
    images = load_images(data, quiet=json)
    for name, network in zip(names, networks, strict=True):
        require_pixels(network)
        require_fit(name, network.input_shape, images)
    x, labels = images.x_test[:samples], images.y_test[:samples]
    ann = None if teacher is None else count_ann(teacher, images, x, quiet=json)
    students = [
        count(name, network, x, labels, twin=index >= len(sources), quiet=json)
        for index, (name, network) in enumerate(zip(names, networks, strict=True))
    ]
    students, placements, notes = place_all(students, networks, x, time=time, quiet=json)
    made = report.build(
        f"{', '.join(names[: len(sources)]) or (ann.name if ann else '')} on {data}",
        shlex.join(["kdsnn-deploy", *sys.argv[1:]]),
        students,
        teacher=ann,
        models=models,
        placements=placements,
        data=f"{len(x):,} test {'image' if len(x) == 1 else 'images'} of {data}",
        notes=notes,
    )
    paths = report.write(made, out, formats)
    if json:
        print_json({name: str(path) for name, path in paths.items()})
    else:
        table(*summary(made))
        for path in paths.values():
            print(path)


def summary(made: Report) -> tuple[str, list[str], list[list[str]]]:
    """The closing table of a report: one row per network and run."""
    from profilers.report.numbers import percent, quantity
    from profilers.report.tables import NONE, joules

    models = [m for m in made.energies if m.name in DEMO_ENERGY_MODELS]
    columns = [
        "network",
        "accuracy",
        "parameters",
        "FLOPs (thop)",
        "MACs",
        "SynOps",
        "spikes",
        *(m.title for m in models),
    ]
    rows = []
    if made.teacher is not None:
        t = made.teacher
        accuracy = NONE if t.accuracy is None else percent(t.accuracy)
        counts = [f"{t.counts.parameters:,}", quantity(t.counts.thop), quantity(t.counts.macs), NONE, NONE]
        energies = [joules(m.ann) if m.ann else NONE for m in models]
        rows.append([f"{t.name} (ANN{' teacher' if made.students else ''})", accuracy, *counts, *energies])
    for index, student in enumerate(made.students):
        for run in filter(None, (student.float_run, student.quantized_run)):
            kind = "quantized" if run.arithmetic == "integer" else "float"
            accuracy = NONE if run.accuracy is None else percent(run.accuracy)
            counts = [f"{run.parameters:,}", NONE, quantity(run.macs_repeated), quantity(run.synops.mean)]
            found = [m.students[index] for m in models]
            energies = [joules(e.estimate) if e.estimate and e.arithmetic == run.arithmetic else NONE for e in found]
            rows.append([f"{student.name} ({kind})", accuracy, *counts, quantity(run.spikes.mean), *energies])
    return f"{made.title}, per sample; MACs of an SNN are those on its analog input, every step", columns, rows


DEMO_ENERGY_MODELS = ("horowitz-45nm-fp32", "horowitz-45nm-int8", "loihi1-events")
