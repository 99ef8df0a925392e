"""`kdsnn-deploy distill`: train a spiking student, with a teacher or without."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from kdsnn.cli.options import BY_DATA, GENERAL, IMAGES, TRAINING, Json, OutFile, Seed, TrainingData, Wide, takes
from kdsnn.cli.texts import images_of, training_of


@takes(images=IMAGES, training=TRAINING)
def distill(
    model: Annotated[
        str,
        typer.Argument(help="An architecture, see `list models`, or package.module:factory of SpikingJelly's layers."),
    ],
    out: OutFile,
    images: dict[str, Any],
    training: dict[str, Any],
    teacher: Annotated[
        str | None, typer.Option(help="Checkpoint of the ANN teacher, or package.module:factory of any torch module.")
    ] = None,
    teacher_weights: Annotated[
        Path | None, typer.Option(help="For a teacher from a factory: its state dict (.safetensors or .pt).")
    ] = None,
    method: Annotated[
        Literal["response", "feature", "temporal", "selective", "none"],
        typer.Option(help="response: KDSNN Eq. 5; feature: Eq. 7; temporal, selective: every step; none: labels only."),
    ] = "response",
    taps: Annotated[
        str | None,
        typer.Option(
            help="For --method feature between networks of your own: student.layer=teacher.layer,… by the names of their modules."
        ),
    ] = None,
    twin: Annotated[
        bool, typer.Option("--twin", help="Train the same student without a teacher too, and compare.")
    ] = False,
    readout: Annotated[
        Literal["rate", "voting", "membrane"] | None,
        typer.Option(
            help="Firing rate of output neurons; of eight for each class; or membrane of a layer without.",
            show_default=BY_DATA,
        ),
    ] = None,
    neuron: Annotated[Literal["if", "lif"], typer.Option(help="Integrate-and-fire, or leaky.")] = "if",
    reset: Annotated[
        Literal["hard", "soft"],
        typer.Option(help="What a spike does to the membrane: set it to 0, or subtract the threshold."),
    ] = "hard",
    data: TrainingData = None,
    timesteps: Annotated[
        int | None,
        typer.Option(
            "--timesteps",
            help="T, time steps per image.",
            show_default=f"{GENERAL.T}, or as many as the data has frames",
        ),
    ] = None,
    alpha: Annotated[
        float | None, typer.Option(help="Weight of the teacher in Eq. 5, 0 to 1.", show_default=BY_DATA)
    ] = None,
    temperature: Annotated[float | None, typer.Option(help="Softening of the logits.", show_default=BY_DATA)] = None,
    quantize: Annotated[
        int | None,
        typer.Option(
            "--quantize",
            help="Train on with weights of so many bits, 2 to 8, from --start.",
        ),
    ] = None,
    start: Annotated[
        Path | None,
        typer.Option(
            help="For --quantize: the trained student; model options, T, neuron, reset and readout are its own."
        ),
    ] = None,
    init: Annotated[
        str | None,
        typer.Option(
            help="Start from the weights of the same architecture: a checkpoint of pretrain (scaled to thresholds of 1) or of "
            "distill, or teacher.",
            show_default="random weights",
        ),
    ] = None,
    seeds: Annotated[
        str | None,
        typer.Option(
            help="Train once for each seed, 0-4 or 0,3,7, as NAME.seedN.safetensors; with --twin in pairs, and compare.",
            show_default="the one of --seed",
        ),
    ] = None,
    processes: Annotated[
        int | None,
        typer.Option(min=1, help="Seeds trained side by side.", show_default="as many as cores; one on a GPU"),
    ] = None,
    seed: Seed = 0,
    json: Json = False,
    wide: Wide = False,
) -> None:
    """Train a spiking student of an ANN teacher (KDSNN), with the history of its epochs as CSV and as a picture (SVG) beside it."""
    import kdsnn
    from kdsnn.cli.console import print_json, progress, show
    from kdsnn.deploy.seeds import SeedRuns
    from kdsnn.deploy.trained import TrainedNetwork

    train: Callable[..., TrainedNetwork | SeedRuns] = kdsnn.distill
    with progress(quiet=json) as told:
        trained = train(
            model, data, teacher=teacher, teacher_weights=teacher_weights, method=method, taps=taps,
            twin=twin, out=out, readout=readout, neuron=neuron, reset=reset,
            quantize=quantize, start=start, init=init, seed=seed, seeds=seeds, processes=processes, progress=told, **images_of(images), **training_of(training, T=timesteps, alpha=alpha, temperature=temperature),
        )  # fmt: skip
    if isinstance(trained, SeedRuns):
        show(trained, json=json, wide=wide)
        return
    found = [trained, *([trained.twin] if trained.twin else [])]
    if json:
        facts = [{**one.facts(), **one.best_facts()} for one in found]
        print_json(facts if twin else facts[0])
    elif twin or trained.best:
        show(trained, wide=wide)
    else:
        print(f"{trained.sentence}, written to {out}")
