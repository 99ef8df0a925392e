"""What a checkpoint says of a training."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import nn

    from kdsnn.checkpoint import CheckpointInfo
    from kdsnn.deploy.training import Training


def info_of(job: Training, module: nn.Module) -> CheckpointInfo:
    """The architecture, its data and training, and the accuracy of the trained module."""
    from kdsnn import train
    from kdsnn.checkpoint import CheckpointInfo, preprocessing_of

    spiking = job.method is not None
    T, frames = job.config.T if spiking else None, job.config.teacher_frames
    accuracies = train.evaluate(module, job.data, T=T, frames=frames)
    own = job.module is not None  # readout, neuron and reset are a matter of architectures
    training = {"method": job.method or "pretrain", **asdict(job.config)}
    if job.augmentation:
        training["augmentation"] = asdict(job.augmentation)
    if job.data.noise:
        training["noise"] = dict(job.data.noise)
    return CheckpointInfo(
        model=job.model,
        spiking=spiking,
        input_shape=job.data.input_shape,
        classes=job.data.classes,
        data=job.data.name,
        options=dict(job.options),
        readout=job.readout if spiking and not own else None,
        neuron=job.neuron if spiking and not own else None,
        reset="soft" if spiking and not own and job.reset == "soft" else None,
        T=T,
        preprocessing=preprocessing_of(job.data, spiking=spiking, frames=frames),
        class_names=job.data.class_names,
        metrics={"test_accuracy": accuracies[-1]},
        training=training,
    )
