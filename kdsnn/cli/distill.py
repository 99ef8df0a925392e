"""`kdsnn-deploy distill`: train a spiking student, with a teacher or without."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from kdsnn.cli.options import Data, Json, ModelOption, NoiseKind, NoiseOn, NoiseSigma, OutFile, Seed, model_options


class Method(StrEnum):
    """What the student learns from."""

    response = "response"
    none = "none"


def distill(
    model: Annotated[str, typer.Argument(help="An architecture, see `list models`.")],
    out: OutFile,
    teacher: Annotated[Path | None, typer.Option(help="Checkpoint of the ANN teacher.")] = None,
    method: Annotated[Method, typer.Option(help="response: KDSNN Eq. 5; none: labels only.")] = Method.response,
    data: Data = "digits",
    noise: NoiseSigma = 0.0,
    noise_kind: NoiseKind = "std",
    noise_on: NoiseOn = "train,test",
    timesteps: Annotated[int | None, typer.Option("--timesteps", help="T, time steps per image.")] = None,
    epochs: Annotated[int | None, typer.Option(help="Passes over the training images.")] = None,
    batch_size: Annotated[int | None, typer.Option(help="Images per step.")] = None,
    lr: Annotated[float | None, typer.Option(help="Peak learning rate.")] = None,
    alpha: Annotated[float | None, typer.Option(help="Weight of the teacher in Eq. 5, 0 to 1.")] = None,
    temperature: Annotated[float | None, typer.Option(help="Softening of the logits in Eq. 5.")] = None,
    option: ModelOption = None,
    seed: Seed = 0,
    json: Json = False,
) -> None:
    """Train a spiking student of an ANN teacher (KDSNN) and write its checkpoint."""
    options = model_options(option)
    from kdsnn import checkpoint
    from kdsnn.cli import training
    from kdsnn.cli.console import percent, print_json
    from kdsnn.cli.images import load_images
    from kdsnn.errors import KdsnnError

    training.writable(out)
    ann = None
    if method != Method.none:
        if teacher is None:
            raise KdsnnError(
                f"--method {method}: it needs --teacher FILE, which pretrain writes (or use --method none)"
            )
        ann, about = checkpoint.load(teacher)
        if about.spiking:
            raise KdsnnError(f"--teacher {teacher}: this is a spiking network; give the checkpoint of an ANN")
    images = load_images(data, noise, noise_kind, noise_on, quiet=json)
    recipe = training.recipe_for(data)
    if model == recipe.student:
        options = {**recipe.student_options, **options}
    config = training.configured(
        recipe.distill, epochs=epochs, batch_size=batch_size, lr=lr, alpha=alpha, temperature=temperature,
        T=timesteps, seed=seed,
    )  # fmt: skip
    module, info, history = training.train_network(
        f"distill {model}", model, images, config, options=options, method=method.value, teacher=ann
    )
    checkpoint.save(out, module, info)
    accuracy = info.metrics["test_accuracy"]
    if json:
        print_json({"checkpoint": str(out), "test_accuracy": accuracy, "epochs": len(history), "T": config.T})
    else:
        print(f"{model} on {data}: test accuracy {percent(accuracy)} at T={config.T}, written to {out}")
