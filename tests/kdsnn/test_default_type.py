"""Networks in float64, and programs in which that is torch's default type."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import nn

import kdsnn
from kdsnn import models
from kdsnn.errors import KdsnnError

SMALL = {"channels": (4, 4), "hidden": 16}


def student(spiking: bool = True) -> nn.Module:
    return models.build("cnn2", spiking=spiking, input_shape=(1, 8, 8), classes=10, **SMALL)


@pytest.mark.usefixtures("in_float64")
def test_a_program_that_works_in_float64() -> None:
    """What is trained, lowered and run there is in float32 as elsewhere, spike for spike."""
    teacher = kdsnn.pretrain("cnn2", "digits", epochs=1, options=SMALL)
    trained = kdsnn.distill("cnn2", "digits", teacher=teacher, init="teacher", epochs=1, options=SMALL)
    assert {p.dtype for p in trained.module.parameters()} == {torch.float32}
    assert kdsnn.evaluate(trained, "digits").accuracy == pytest.approx(trained.info.metrics["test_accuracy"])
    assert kdsnn.summary(trained).layers
    found = kdsnn.run(
        kdsnn.lower(trained, bits=4, calibrate="digits"), on=("torch", "emulator"), data="digits", samples=20
    )
    assert {row.backend for row in found.runs} == {"spikingjelly", "torch", "emulator"}


DOUBLE: dict[str, Callable[[], object]] = {
    "distill": lambda: kdsnn.distill(student().double(), "digits", epochs=1, method="none"),
    "pretrain": lambda: kdsnn.pretrain(student(spiking=False).double(), "digits", epochs=1),
    "teacher": lambda: kdsnn.distill(student(), "digits", epochs=1, teacher=student(spiking=False).double()),
    "evaluate": lambda: kdsnn.evaluate(student().double(), "digits", T=4),
}


@pytest.mark.parametrize("verb", DOUBLE)
def test_weights_in_another_type_are_named(verb: str) -> None:
    with pytest.raises(KdsnnError, match=r"weights are float64, images are float32: give it as \.float\(\)"):
        DOUBLE[verb]()
