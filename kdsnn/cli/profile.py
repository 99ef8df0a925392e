"""`kdsnn-deploy profile`: what a network costs, as a report."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from kdsnn.cli.options import LOWERING, Data, Json, OutDir, Resized, takes
from kdsnn.cli.texts import lowering_of, size_of


@takes(lowering=LOWERING)
def profile(
    sources: Annotated[
        list[str],
        typer.Argument(
            metavar="SOURCE…",
            help="A checkpoint (.safetensors; of an ANN too), a .net or .nir file, or package.module:factory.",
        ),
    ],
    out: OutDir,
    lowering: dict[str, Any],
    teacher: Annotated[Path | None, typer.Option(help="Checkpoint of the ANN to set beside it.")] = None,
    twin: Annotated[Path | None, typer.Option(help="Checkpoint of the same student trained without a teacher.")] = None,
    qann: Annotated[
        list[Path] | None,
        typer.Option(
            help="Checkpoint of a trained ANN of few bits (pretrain --quantize-activations) to set beside it, data movement "
            "included; several, and --compare, are compared at equal accuracy (repeatable)."
        ),
    ] = None,
    compare: Annotated[
        bool,
        typer.Option("--compare", help="Several SOURCEs in one report: A --compare B C. The verdict is about A."),
    ] = False,
    data: Data = "digits",
    image_size: Resized = None,
    samples: Annotated[
        int | None, typer.Option(min=1, help="How many test images, spread over the set; all by default.")
    ] = None,
    target: Annotated[
        list[str] | None,
        typer.Option(help="A chip to place them on: loihi1, loihi2 or a .json file (repeatable); both by default."),
    ] = None,
    energy_model: Annotated[
        list[Path] | None, typer.Option(help="An energy model of your own, beside the built-in ones (repeatable).")
    ] = None,
    time_model: Annotated[
        list[Path] | None, typer.Option(help="A step-time model of your own, beside the built-in ones (repeatable).")
    ] = None,
    format_: Annotated[
        list[str] | None,
        typer.Option(
            "--format", help="html, json, csv, markdown, latex or neurobench (repeatable); the first three by default."
        ),
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
    density: Annotated[
        bool | None,
        typer.Option(
            "--density/--no-density",
            help="Count again with the input's events thinned to 3/4, 1/2, 1/4 and 1/8; by default where events come in.",
        ),
    ] = None,
    simulate: Annotated[
        bool,
        typer.Option("--simulate", help="Run some samples on SANA-FE, where it is installed: time with contention."),
    ] = False,
    json: Json = False,
) -> None:
    """Count parameters, FLOPs, spikes, SynOps and energy; write report.html, report.json and layers.csv."""
    import kdsnn
    from kdsnn.cli.console import command_line, draw, draw_verdict, print_json, progress
    from kdsnn.deploy.places import writable_folder
    from kdsnn.deploy.profile import report_formats
    from kdsnn.errors import KdsnnError

    if len(sources) > 1 and not compare:
        raise KdsnnError(f"{len(sources)} sources; to set several beside each other add --compare")
    formats = report_formats(format_)
    writable_folder(out)
    with progress(quiet=json) as told:
        report = kdsnn.profile(
            sources, data, teacher=teacher, twin=None if twin is None else str(twin), qann=qann or None,
            samples=samples, image_size=size_of(image_size), target=target or [], energy_model=energy_model or [],
            time_model=time_model or [], seconds_per_image=seconds_per_image, seconds_per_step=seconds_per_step,
            density=density, simulate=simulate, command=command_line(), progress=told,
            **lowering_of(lowering),
        )  # fmt: skip
    paths = report.write(out, formats)
    if json:
        print_json({name: str(path) for name, path in paths.items()})
    else:
        draw_verdict((one.paragraph, one.bad) for one in report.verdict)
        draw(report.closing_table())
        if (times := report.time_table()) is not None:
            draw(times)
        for path in paths.values():
            print(path)
