"""`kdsnn-deploy distill`: train a spiking student, with a teacher or without."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

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

if TYPE_CHECKING:
    from torch import nn

    from kdsnn.checkpoint import CheckpointInfo
    from kdsnn.cli.training import Training

COUNTED = 200
"""Test images on which the cost of a student and its twin is counted."""


class Method(StrEnum):
    """What the student learns from."""

    response = "response"
    feature = "feature"
    temporal = "temporal"
    selective = "selective"
    none = "none"


class Readout(StrEnum):
    """How the student answers."""

    rate = "rate"
    membrane = "membrane"


class Neuron(StrEnum):
    """What its neurons are."""

    if_ = "if"
    lif = "lif"


def distill(
    model: Annotated[str, typer.Argument(help="An architecture, see `list models`.")],
    out: OutFile,
    teacher: Annotated[Path | None, typer.Option(help="Checkpoint of the ANN teacher.")] = None,
    method: Annotated[
        Method,
        typer.Option(
            help="response: KDSNN Eq. 5; feature: Eq. 7; temporal, selective: every step (selective: with --readout membrane); none: labels only."
        ),
    ] = Method.response,
    twin: Annotated[
        bool, typer.Option("--twin", help="Train the same student without a teacher too, and compare.")
    ] = False,
    readout: Annotated[
        Readout, typer.Option(help="Firing rate of output neurons, or membrane of a layer without.")
    ] = Readout.rate,
    neuron: Annotated[Neuron, typer.Option(help="Integrate-and-fire, or leaky.")] = Neuron.if_,
    data: Data = "digits",
    noise: NoiseSigma = 0.0,
    noise_kind: NoiseKind = "std",
    noise_on: NoiseOn = "train,test",
    timesteps: Annotated[int | None, typer.Option("--timesteps", help="T, time steps per image.")] = None,
    epochs: Annotated[int | None, typer.Option(help="Passes over the training images.")] = None,
    batch_size: Annotated[int | None, typer.Option(help="Images per step.")] = None,
    lr: Annotated[float | None, typer.Option(help="Peak learning rate.")] = None,
    alpha: Annotated[float | None, typer.Option(help="Weight of the teacher in Eq. 5, 0 to 1.")] = None,
    temperature: Annotated[float | None, typer.Option(help="Softening of the logits.")] = None,
    quantize: Annotated[
        int | None,
        typer.Option(
            "--quantize",
            help="Train on with weights of so many bits, 2 to 8, from --start; unless said otherwise at a tenth of the "
            "learning rate and without warm-up.",
        ),
    ] = None,
    start: Annotated[
        Path | None,
        typer.Option(help="For --quantize: the trained student; model options, T, neuron and readout are its own."),
    ] = None,
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
    """Train a spiking student of an ANN teacher (KDSNN), with the history of its epochs as CSV and as a picture (SVG) beside it."""
    options = model_options(option)
    from dataclasses import replace

    from kdsnn import checkpoint
    from kdsnn.cli import training
    from kdsnn.cli.console import percent, print_json
    from kdsnn.cli.images import load_images
    from kdsnn.cli.source import require_fit
    from kdsnn.data import Augmentation
    from kdsnn.errors import KdsnnError

    training.writable(out)
    began = None if quantize is None and start is None else _start(model, quantize, start, options, timesteps)
    ann = None
    if method != Method.none:
        if teacher is None:
            raise KdsnnError(
                f"--method {method}: it needs --teacher FILE, which pretrain writes (or use --method none)"
            )
        ann, about = checkpoint.load(teacher)
        if about.spiking:
            raise KdsnnError(f"--teacher {teacher}: this is a spiking network; give the checkpoint of an ANN")
    recipe = training.recipe_for(data)
    settled = recipe.distill
    if began is not None:
        options, timesteps = dict(began[1].options), began[1].T
        settled = training.configured(settled, lr=settled.lr / 10, warmup_epochs=0.0)
    elif model == recipe.student:
        options = {**recipe.student_options, **options}
    config = training.configured(
        training.configured(settled, **training.settings(set_)),
        epochs=epochs, batch_size=batch_size, lr=lr, alpha=alpha, temperature=temperature, T=timesteps, seed=seed,
    )  # fmt: skip
    images = load_images(data, noise, noise_kind, noise_on, quiet=json)
    job = training.Training(
        f"distill {model}", model, out, images, config, options, method=method.value, teacher=ann,
        readout=readout.value, neuron=neuron.value, augmentation=Augmentation(crop, flip, cutout, auto_augment) or None,
        resume=resume, tensorboard=tensorboard, label="student" if method == Method.none else "distilled",
        others={} if ann is None or teacher is None else {"teacher": teacher.with_suffix(".csv")},
    )  # fmt: skip
    if began is not None:
        if config.compile:
            raise KdsnnError("--set compile=true: thresholds change at every step with --quantize; leave compile out")
        network, of_start = began
        require_fit(str(start), of_start.input_shape, images)
        kinds: dict[str, Any] = {"readout": of_start.readout, "neuron": of_start.neuron}
        job = replace(job, quantize=quantize, start=network, **kinds)
    module, info, history = training.train_and_save(job)
    rows = [{"checkpoint": str(out), **info.metrics, "epochs": len(history), "T": config.T}]
    if twin:
        alone = job.twin(f"{model} without a teacher", out.with_name(f"{out.stem}.twin{out.suffix}"))
        other, other_info, other_history = training.train_and_save(alone)
        rows.append({"checkpoint": str(alone.out), **other_info.metrics, "epochs": len(other_history), "T": config.T})
        for row, network in zip(rows, (module, other), strict=True):
            row |= _cost(job, network)
    if json:
        print_json(rows if twin else rows[0])
    elif twin:
        _print_twins(rows)
    else:
        print(
            f"{model} on {data}: test accuracy {percent(info.metrics['test_accuracy'])} at T={config.T}, written to {out}"
        )


def _start(
    model: str, bits: int | None, start: Path | None, options: dict[str, Any], timesteps: int | None
) -> tuple[Any, CheckpointInfo]:
    """The trained student to go on from, and what it is.

    Raises:
        KdsnnError: one of --quantize and --start without the other, an ANN, or a student that the other options contradict.
    """
    from kdsnn import checkpoint
    from kdsnn.errors import KdsnnError
    from kdsnn.train.grid import require_bits

    if bits is None or start is None:
        raise KdsnnError("--quantize BITS and --start STUDENT go together: give both, or neither")
    require_bits(bits)
    module, info = checkpoint.load(start)
    if not info.spiking:
        raise KdsnnError(
            f"--start {start}: this is an ANN ({info.model}); give a spiking student, which distill writes"
        )
    if info.model != model:
        raise KdsnnError(f"--start {start}: this is a {info.model}, not a {model}; name the model it is")
    if options or timesteps not in (None, info.T):
        raise KdsnnError(
            f"--start {start}: its options and T={info.T} stay as they are; leave --option and --timesteps out"
        )
    return module, info


def _cost(job: Training, module: nn.Module) -> dict[str, Any]:
    """Spikes and SynOps per image of the float network: distillation can raise them."""
    from exporters.from_torch import from_torch
    from hardware import emulator
    from kdsnn.cli.images import pixels
    from profilers.counting.activity import ActivityCounter

    graph = from_torch(module, job.data.input_shape, job.config.T)
    counter = ActivityCounter(graph)
    emulator.run(graph, graph.encode(pixels(job.data.x_test[:COUNTED])), observe=counter)
    activity = counter.result()
    return {"spikes": float(activity.spikes.sum(1).mean()), "synops": float(activity.synops.sum(1).mean())}


def _print_twins(rows: list[dict[str, Any]]) -> None:
    from kdsnn.cli.console import percent, si, table

    names = ("distilled", "without a teacher")
    cells = [
        [name, percent(r["test_accuracy"]), si(r["spikes"]), si(r["synops"]), r["checkpoint"]]
        for name, r in zip(names, rows, strict=True)
    ]
    table(
        f"the student and its twin; spikes and SynOps per image, mean of {COUNTED}",
        ["student", "test accuracy", "spikes", "SynOps", "checkpoint"],
        cells,
    )
