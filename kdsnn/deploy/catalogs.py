"""What there is to choose from: architectures, data sets, recipes, energy and step-time models, targets.

What is printed here takes no torch and no numpy to find out, so that `list` answers at once. Of the architectures
and recipes it stands in files, which `python -m kdsnn.deploy.catalogs` writes anew after one has been added or changed.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path

MODELS_FILE = Path(__file__).parents[1] / "models" / "catalog.json"
"""The rows of `models`, as `counted_models` gives them."""


RECIPES_FILE = Path(__file__).parents[1] / "train" / "recipes.json"
"""The rows of `recipes`, as `stated_recipes` gives them."""


def models() -> list[dict[str, str]]:
    """The architectures, each with its ANN's parameters and thop's FLOPs on images of MNIST's and CIFAR's size, 10 classes."""
    return _read(MODELS_FILE)


def _read(path: Path) -> list[dict[str, str]]:
    rows: list[dict[str, str]] = json.loads(path.read_text(encoding="utf-8"))
    return rows


def counted_models() -> list[dict[str, str]]:
    """The rows of `models`, counted anew."""
    from kdsnn.models import MODELS

    return [counted_model(name) for name in MODELS]


def counted_model(name: str) -> dict[str, str]:
    """The row of one architecture, counted anew, without a calculation."""
    import torch

    from kdsnn.errors import KdsnnError
    from kdsnn.models import MODELS, build
    from profilers.counting.flops import count_module

    row = {"model": name}
    for data, shape in (("MNIST", (1, 28, 28)), ("CIFAR", (3, 32, 32))):
        try:
            with torch.device("meta"):  # sizes are all there is to know
                module = build(name, spiking=False, input_shape=shape, classes=10)
            counts = count_module(module, shape)
        except KdsnnError:  # an image this architecture is not made for
            row |= {f"parameters, {data}": "–", f"FLOPs, {data}": "–"}
            continue
        row |= {f"parameters, {data}": f"{counts.parameters:,}", f"FLOPs, {data}": f"{counts.thop / 1e6:.2f} M"}
    options = ", ".join(f"{k}={v}" for k, v in MODELS[name].options.items())
    return row | {"options": options, "description": MODELS[name].description}


def data_sets() -> list[dict[str, str]]:
    """The forms that `load_data` takes."""
    from kdsnn.data_names import DESCRIPTIONS

    return [{"data": name, "description": text} for name, text in DESCRIPTIONS.items()]


def targets() -> list[dict[str, str]]:
    """The chips, one row per limit."""
    from hardware.chips import limits

    return [
        {
            "target": t.name,
            "limit": key.replace("_", " "),
            "value": f"{limit.value:,}",
            "unit": limit.unit,
            "confidence": limit.confidence,
            "source": limit.source.citation,
            "note": limit.note,
        }
        for t in limits.targets().values()
        for key, limit in t.limits.items()
    ]


def energy_models() -> list[dict[str, str]]:
    """The built-in energy models."""
    from profilers.energy.models import built_in

    return [
        {
            "model": m.name,
            "precision": m.precision,
            "technology": m.technology,
            "basis": m.basis,
            "source": "; ".join(s.citation for s in m.sources.values()),
        }
        for m in built_in().values()
    ]


def time_models() -> list[dict[str, str]]:
    """The built-in step-time models."""
    from profilers.energy.time_models import built_in

    return [
        {
            "model": m.name,
            "target": m.target,
            "basis": m.basis,
            "boundary": m.boundary,
            "source": "; ".join(s.citation for s in m.sources.values()),
        }
        for m in built_in().values()
    ]


OTHER_KINDS = {
    "other gray images (28×28)": (1, 28, 28),
    "other color images (32×32)": (3, 32, 32),
    "all else": (2, 34, 34),
}
"""Kinds of data whose recipe goes by the images, with a shape (C, H, W) for those that go by the size too."""


def recipes() -> list[dict[str, str]]:
    """What training takes by kind of data unless it is told otherwise; teacher / student where they differ."""
    return _read(RECIPES_FILE)


def stated_recipes() -> list[dict[str, str]]:
    """The rows of `recipes`, from what training takes."""
    from kdsnn.train.recipes import RECIPES, recipe_of

    found = {**RECIPES, **{kind: recipe_of("", shape) for kind, shape in OTHER_KINDS.items()}}
    rows = []
    for kind, recipe in found.items():
        ann, snn = recipe.pretrain, recipe.distill
        shift = f"teacher's images moved by up to {ann.shift} pixel{'s' * (ann.shift > 1)}" if ann.shift else ""
        scale = "learned" if snn.logit_scale == 0 else f"{snn.logit_scale:g}"
        rows.append(
            {
                "data": kind,
                "epochs": _both(ann.epochs, snn.epochs),
                "batch size": _both(ann.batch_size, snn.batch_size),
                "lr": _both(ann.lr, snn.lr),
                "readout": recipe.readout,
                "alpha": f"{snn.alpha:g}",
                "temperature": f"{snn.temperature:g}",
                "logit scale": scale,
                "augmentation": "; ".join(
                    filter(None, [shift, str(recipe.augmentation) if recipe.augmentation else ""])
                )
                or "none",
            }
        )
    return rows


def _both(teacher: float, student: float) -> str:
    return f"{teacher:g}" if teacher == student else f"{teacher:g} / {student:g}"


CATALOGS: Mapping[str, Callable[[], list[dict[str, str]]]] = {
    "models": models,
    "data": data_sets,
    "recipes": recipes,
    "energy-models": energy_models,
    "time-models": time_models,
    "targets": targets,
}
"""Catalog → its rows, text in every column."""

if __name__ == "__main__":
    for path, rows in ((MODELS_FILE, counted_models()), (RECIPES_FILE, stated_recipes())):
        path.write_text(json.dumps(rows, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
