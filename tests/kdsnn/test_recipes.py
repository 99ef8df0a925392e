"""Recipes by kind of images, and what a user changes of their augmentation."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

import kdsnn
from kdsnn.cli.options import TRAINING
from kdsnn.cli.texts import training_of
from kdsnn.data import Augmentation, DataSet
from kdsnn.deploy.recipes import augmentation_for
from kdsnn.errors import KdsnnError, Notice
from kdsnn.train.recipes import RECIPES, augmented, recipe_of


def images(channels: int, side: int, name: str = "own") -> DataSet:
    x = np.random.default_rng(0).integers(0, 256, (32, channels, side, side)).astype(np.uint8)
    return DataSet(name, x, np.arange(32) % 4, x[:8], np.arange(8) % 4, 4)


@pytest.mark.parametrize(
    ("shape", "expected"),
    [
        ((1, 28, 28), Augmentation(crop=2)),  # a mirrored 2 is no 2
        ((3, 32, 32), Augmentation(crop=4, flip=True, cutout=8)),
        ((3, 224, 160), Augmentation(crop=20, flip=True, cutout=40)),
        ((3, 4000, 4000), Augmentation(crop=256, flip=True, cutout=1000)),
        ((1, 8, 8), Augmentation()),
        ((2, 34, 34), Augmentation()),
    ],
)
def test_augmentation_goes_by_the_kind_of_images(shape: tuple[int, int, int], expected: Augmentation) -> None:
    assert recipe_of("own", shape).augmentation == expected
    assert recipe_of("digits", shape) is RECIPES["digits"]


def test_what_the_user_gives_goes_before_the_recipe() -> None:
    recipe = recipe_of("own", (3, 32, 32))
    assert augmented(recipe, None) == Augmentation(crop=4, flip=True, cutout=8)
    assert augmented(recipe, {"flip": False}) == Augmentation(crop=4, cutout=8)
    assert augmented(recipe, {"crop": 0, "flip": False, "cutout": 0, "auto": True}) == Augmentation(auto=True)
    assert augmented(recipe, Augmentation()) == Augmentation()
    with pytest.raises(KdsnnError, match="no 'turn'; it has crop, flip, cutout, auto, roll, drop, mix"):
        augmented(recipe, {"turn": 1})


def test_what_a_recipe_does_is_told_unless_it_was_asked_for(recwarn: pytest.WarningsRecorder) -> None:
    data = images(3, 32)
    assert augmentation_for(data, Augmentation()) is None
    assert augmentation_for(data, {"crop": 1}) == Augmentation(crop=1, flip=True, cutout=8)
    assert augmentation_for(images(1, 8), None) is None and not recwarn.list
    with pytest.warns(Notice, match="moved by up to 4 pixels, mirrored at random, hidden in a square of 8 pixels"):
        augmentation_for(data, None)


def test_options_of_the_command_line_change_single_fields() -> None:
    unset: dict[str, Any] = {name: default for name, (_, default) in TRAINING.items()}
    assert training_of(unset)["augmentation"] is None
    found = training_of({**unset, "flip": False, "auto_augment": True})["augmentation"]
    assert found == {"flip": False, "auto": True}


def test_teacher_and_student_see_the_same_image() -> None:
    seen: dict[str, list[torch.Tensor]] = {"teacher": [], "student": []}
    data = images(3, 16)
    torch.manual_seed(0)
    teacher = kdsnn.pretrain("cnn2", data, epochs=1, batch_size=16, options={"channels": (4, 4), "hidden": 8}).module
    teacher.register_forward_pre_hook(lambda m, x: seen["teacher"].append(x[0].clone()))

    class Watched(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = kdsnn.distill(
                "cnn2", data, method="none", epochs=1, batch_size=16, T=2, options={"channels": (4, 4), "hidden": 8}
            ).module

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            if self.training:
                seen["student"].append(x[0].clone())
            out: torch.Tensor = self.inner(x)
            return out

    student = Watched()
    seen["teacher"].clear()
    kdsnn.distill(student, data, teacher=teacher, T=2, epochs=2, batch_size=16, method="response")
    asked = [x for x in seen["teacher"] if len(x) == 16]
    assert len(seen["student"]) == 4 and all(any(torch.equal(x, y) for y in asked) for x in seen["student"])
    plain = torch.from_numpy(data.x_train) / 255
    assert not any(
        torch.equal(a, b) for x in seen["student"] for a in x for b in plain
    )  # each hidden, moved or mirrored
