"""`kdsnn-deploy profile`: what a network costs, as a report."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

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
        table(*report.closing_table(made))
        for path in paths.values():
            print(path)
