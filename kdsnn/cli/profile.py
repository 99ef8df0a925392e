"""`kdsnn-deploy profile`: what a network costs, as a report."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from kdsnn.cli.options import LOWERING, Data, Json, OutDir, Resized, Wide, takes
from kdsnn.cli.texts import listed, lowering_of, size_of

SWEPT: dict[str, tuple[Any, Any]] = {
    **LOWERING,
    "bits": (
        Annotated[
            str | None,
            typer.Option(
                "--bits",
                help="Weight bits, 2 to 8; several make a sweep: 2,4,8 or 2-8. By default 8, or what it was trained for.",
            ),
        ],
        None,
    ),
    "timesteps": (
        Annotated[
            str | None,
            typer.Option(
                "--timesteps",
                help="T, where the source does not say, or another than it was trained with; several make a sweep, of one run "
                "that is read after each: 1-4 or 1,2,4.",
            ),
        ],
        None,
    ),
}
"""The options of `kdsnn.lower`, of which two may be several numbers here."""


@takes(lowering=SWEPT)
def profile(
    sources: Annotated[
        list[str],
        typer.Argument(
            metavar="SOURCE…",
            help="A checkpoint (.safetensors; of an ANN too), a .net or .nir file, or package.module:factory; several are a "
            "sweep: accuracy against every cost in one table and one picture.",
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
            "included; where there are several networks, they are compared at equal accuracy (repeatable)."
        ),
    ] = None,
    compare: Annotated[
        bool,
        typer.Option(
            "--compare",
            help="One full report of several SOURCEs, not a sweep: A --compare B C. The verdict is about A.",
        ),
    ] = False,
    data: Data = None,
    image_size: Resized = None,
    samples: Annotated[
        int | None, typer.Option(min=1, help="How many test images, spread over the set.", show_default="all")
    ] = None,
    target: Annotated[
        list[str] | None,
        typer.Option(
            help="A chip to place them on: loihi1, loihi2 or a .json file (repeatable).", show_default="loihi1, loihi2"
        ),
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
            "--format",
            help="html, json, csv, markdown, latex or neurobench (repeatable, or comma-separated). Of a sweep html, json, csv or svg.",
            show_default="html, json, csv; of a sweep all",
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
            help="Count again with the input's events thinned to 3/4, 1/2, 1/4 and 1/8.",
            show_default="where events come in",
        ),
    ] = None,
    simulate: Annotated[
        bool,
        typer.Option("--simulate", help="Run some samples on SANA-FE, where it is installed: time with contention."),
    ] = False,
    device: Annotated[
        str | None, typer.Option(help="Where torch runs ANNs: cpu, cuda, cuda:1, mps.", show_default="cpu")
    ] = None,
    json: Json = False,
    wide: Wide = False,
) -> None:
    """Count parameters, FLOPs, spikes, SynOps and energy; write report.html, report.json and layers.csv.

    Several SOURCEs, --bits or --timesteps are a sweep: sweep.html, .svg, .json and .csv.
    """
    import kdsnn
    from kdsnn.cli.console import command_line, draw, draw_note, draw_verdict, print_json, progress
    from kdsnn.deploy.processes import is_first_process

    with progress(quiet=json) as told:
        from kdsnn.deploy.places import writable_folder
        from kdsnn.deploy.profile import report_formats
        from kdsnn.deploy.sweep import chosen_points

        wanted = chosen_points(len(sources), lowering["bits"], lowering["timesteps"], compare=compare)
        formats = report_formats(listed(format_, "") if format_ else None, sweep=wanted.several)
        writable_folder(out)

        def written(found: Any) -> dict[str, Path]:
            paths: dict[str, Path] = found.write(out, formats) if is_first_process() else {}
            return paths

        found = kdsnn.profile(
            sources, data, teacher=teacher, twin=None if twin is None else str(twin), qann=qann or None,
            samples=samples, image_size=size_of(image_size), target=target or [], energy_model=energy_model or [],
            time_model=time_model or [], seconds_per_image=seconds_per_image, seconds_per_step=seconds_per_step,
            density=density, simulate=simulate, compare=compare, command=command_line(),
            written=written, progress=told, device=device, **lowering_of(lowering),
        )  # fmt: skip
    paths = written(found)
    if json:
        print_json({name: str(path) for name, path in paths.items()})
        return
    draw_verdict((one.brief, one.bad) for one in found.verdict)
    for table in found.tables():
        draw(table, wide=wide)
    for note in found.notes:
        draw_note(note)
    for path in paths.values():
        print(path)
