"""`kdsnn-deploy pretrain`: train an ANN teacher."""

from __future__ import annotations

from typing import Annotated

import typer

from kdsnn.cli.options import (
    Auto,
    Crop,
    Cutout,
    Data,
    Flip,
    Json,
    ModelOption,
    NoiseKind,
    NoiseOn,
    NoiseSigma,
    OutFile,
    Resume,
    Seed,
    Set,
    TensorBoard,
    model_options,
)  # fmt: skip


def pretrain(
    model: Annotated[str, typer.Argument(help="An architecture, see `list models`.")],
    out: OutFile,
    data: Data = "digits",
    noise: NoiseSigma = 0.0,
    noise_kind: NoiseKind = "std",
    noise_on: NoiseOn = "train,test",
    epochs: Annotated[int | None, typer.Option(help="Passes over the training images.")] = None,
    batch_size: Annotated[int | None, typer.Option(help="Images per step.")] = None,
    lr: Annotated[float | None, typer.Option(help="Peak learning rate.")] = None,
    set_: Set = None,
    option: ModelOption = None,
    crop: Crop = 0,
    flip: Flip = False,
    cutout: Cutout = 0,
    auto_augment: Auto = False,
    resume: Resume = False,
    tensorboard: TensorBoard = None,
    seed: Seed = 0,
    json: Json = False,
) -> None:
    """Train an ANN teacher and write its checkpoint, with the history of its epochs as CSV and as a picture (SVG) beside it."""
    options = model_options(option)
    from kdsnn.cli import training
    from kdsnn.cli.console import percent, print_json
    from kdsnn.cli.images import load_images
    from kdsnn.data import Augmentation

    training.writable(out)
    config = training.configured(
        training.configured(training.recipe_for(data).pretrain, **training.settings(set_)),
        epochs=epochs,
        batch_size=batch_size,
        lr=lr,
        seed=seed,
    )
    images = load_images(data, noise, noise_kind, noise_on, quiet=json)
    job = training.Training(
        f"pretrain {model}", model, out, images, config, options,
        augmentation=Augmentation(crop, flip, cutout, auto_augment) or None, resume=resume, tensorboard=tensorboard,
        label="teacher",
    )  # fmt: skip
    _, info, history = training.train_and_save(job)
    accuracy = info.metrics["test_accuracy"]
    if json:
        print_json({"checkpoint": str(out), "test_accuracy": accuracy, "epochs": len(history)})
    else:
        print(f"{model} on {data}: test accuracy {percent(accuracy)}, written to {out}")
