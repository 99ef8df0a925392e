"""Training: an ANN teacher (`pretrain`), a spiking student (`distill`).

`kdsnn.train.training` says what they do. Names come in on demand: who reads a recipe should not wait for torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from kdsnn.train.config import Method, TeacherFrames, TrainConfig
    from kdsnn.train.history import EpochRecord, OnEpoch
    from kdsnn.train.learner import decisions, evaluate
    from kdsnn.train.loop import Augment, DivergedError, OnStep, Trained
    from kdsnn.train.recipes import RECIPES, Recipe
    from kdsnn.train.resume import RunFiles
    from kdsnn.train.training import distill, pretrain

_HOMES = {
    "config": ("Method", "TeacherFrames", "TrainConfig"),
    "history": ("EpochRecord", "OnEpoch"),
    "learner": ("decisions", "evaluate"),
    "loop": ("Augment", "DivergedError", "OnStep", "Trained"),
    "recipes": ("RECIPES", "Recipe"),
    "resume": ("RunFiles",),
    "training": ("distill", "pretrain"),
}

__all__ = [
    "RECIPES", "Augment", "DivergedError", "EpochRecord", "Method", "OnEpoch", "OnStep", "Recipe", "RunFiles", "TeacherFrames", "TrainConfig",
    "Trained", "decisions", "distill", "evaluate", "pretrain",
]  # fmt: skip


def __getattr__(name: str) -> Any:
    for module, names in _HOMES.items():
        if name in names:
            return getattr(importlib.import_module(f"{__name__}.{module}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
