"""`kdsnn-deploy pretrain`: train an ANN teacher."""

from __future__ import annotations

from typing import Annotated

import typer

from kdsnn.cli.options import Data, Json, ModelOption, NoiseKind, NoiseOn, NoiseSigma, OutFile, Seed, model_options


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
    option: ModelOption = None,
    seed: Seed = 0,
    json: Json = False,
) -> None:
    """Train an ANN teacher and write its checkpoint."""
    options = model_options(option)
    from kdsnn import checkpoint
    from kdsnn.cli import training
    from kdsnn.cli.console import percent, print_json
    from kdsnn.cli.images import load_images

    training.writable(out)
    images = load_images(data, noise, noise_kind, noise_on, quiet=json)
    config = training.configured(
        training.recipe_for(data).pretrain, epochs=epochs, batch_size=batch_size, lr=lr, seed=seed
    )
    module, info, history = training.train_network(f"pretrain {model}", model, images, config, options=options)
    checkpoint.save(out, module, info)
    accuracy = info.metrics["test_accuracy"]
    if json:
        print_json({"checkpoint": str(out), "test_accuracy": accuracy, "epochs": len(history)})
    else:
        print(f"{model} on {data}: test accuracy {percent(accuracy)}, written to {out}")
