"""`kdsnn-deploy demo`: the whole chain on built-in real digits."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from kdsnn.cli.options import Json, Overwrite, Seed, Wide


def demo(
    out: Annotated[Path, typer.Option("--out", help="The folder to write into; made if missing.")] = Path(
        "demo-output"
    ),
    lava_samples: Annotated[int, typer.Option(min=1, help="Test images that run on Lava.")] = 40,
    overwrite: Overwrite = False,
    seed: Seed = 0,
    json: Json = False,
    wide: Wide = False,
) -> None:
    """Train, distill, quantize, export, run and compare on scikit-learn's digits, in about two minutes.

    Exits with 1 when two backends differ that must not.
    """
    import kdsnn
    from kdsnn.cli.console import command_line, draw_verdict, progress, show

    with progress(quiet=json) as told:
        result = kdsnn.demo(
            out, lava_samples=lava_samples, overwrite=overwrite, seed=seed, command=command_line(), progress=told
        )
    if not json:
        draw_verdict((one.brief, one.bad) for one in result.report.verdict)
    show(result, json=json, wide=wide)
    if not json:
        for path in result.files:
            print(path)
        print(f"finished in {result.seconds:.0f} s")
    if not result.ok:
        raise typer.Exit(1)
