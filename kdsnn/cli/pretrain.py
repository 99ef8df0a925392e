"""`kdsnn-deploy pretrain`: train an ANN teacher."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from kdsnn.cli.options import IMAGES, TRAINING, Json, OutFile, Seed, TrainingData, Wide, takes
from kdsnn.cli.texts import images_of, training_of


@takes(images=IMAGES, training=TRAINING)
def pretrain(
    model: Annotated[str, typer.Argument(help="An architecture, see `list models`, or package.module:factory.")],
    out: OutFile,
    images: dict[str, Any],
    training: dict[str, Any],
    data: TrainingData = None,
    quantize_activations: Annotated[
        int | None,
        typer.Option(
            "--quantize-activations",
            help="Train the quantized twin of a student: activations of so many bits, 1 to 8; ⌈log2(T+1)⌉ carry as much as T spikes.",
        ),
    ] = None,
    quantize: Annotated[
        int | None,
        typer.Option("--quantize", help="For --quantize-activations: bits of its weights, 2 to 8.", show_default="8"),
    ] = None,
    start: Annotated[
        Path | None,
        typer.Option(help="For --quantize-activations: fine-tune this trained ANN of the same architecture."),
    ] = None,
    init: Annotated[
        str | None,
        typer.Option(
            help="Train on from the weights of this ANN of the same architecture, a checkpoint of pretrain.",
            show_default="random weights",
        ),
    ] = None,
    seed: Seed = 0,
    json: Json = False,
    wide: Wide = False,
) -> None:
    """Train an ANN teacher and write its checkpoint, with the history of its epochs as CSV and as a picture (SVG) beside it."""
    import kdsnn
    from kdsnn.cli.console import print_json, progress, show

    with progress(quiet=json) as told:
        trained = kdsnn.pretrain(
            model, data, out=out, quantize_activations=quantize_activations, quantize=quantize, start=start, init=init,
            seed=seed, progress=told, **images_of(images), **training_of(training),
        )  # fmt: skip
    if json:
        print_json(
            {
                "checkpoint": str(out),
                "test_accuracy": trained.accuracy,
                "epochs": len(trained.history),
                **trained.best_facts(),
            }
        )
    elif trained.best:
        show(trained, wide=wide)
    else:
        print(f"{trained.sentence}, written to {out}")
