"""`kdsnn-deploy list`: what there is to choose from."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

import typer

from kdsnn.cli.options import Json


class What(StrEnum):
    """A catalog."""

    models = "models"
    data = "data"
    energy_models = "energy-models"
    targets = "targets"


def list_(what: Annotated[What, typer.Argument(help="What to list.")], json: Json = False) -> None:
    """List the architectures, data sets, energy models or targets."""
    from kdsnn.cli.console import print_json, table

    rows: list[dict[str, str]]
    if what is What.models:
        rows = [_model_row(name) for name in _models()]
    elif what is What.data:
        from kdsnn.data import DESCRIPTIONS

        rows = [{"data": name, "description": text} for name, text in DESCRIPTIONS.items()]
    elif what is What.targets:
        from hardware.chips.limits import targets

        rows = [
            {
                "target": t.name,
                "limit": key.replace("_", " "),
                "value": f"{limit.value:,}",
                "unit": limit.unit,
                "confidence": limit.confidence,
                "source": limit.source.citation,
                "note": limit.note,
            }
            for t in targets().values()
            for key, limit in t.limits.items()
        ]
    else:
        from profilers.energy.models import built_in

        rows = [
            {
                "model": m.name,
                "precision": m.precision,
                "technology": m.technology,
                "basis": m.basis,
                "source": "; ".join(s.citation for s in m.sources.values()),
            }
            for m in built_in().values()
        ]
    if json:
        print_json(rows)
    else:
        table(what.value, list(rows[0]), [list(r.values()) for r in rows])


def _models() -> list[str]:
    from kdsnn.models import MODELS

    return list(MODELS)


def _model_row(name: str) -> dict[str, str]:
    """An architecture with its ANN's parameters and thop's FLOPs on images of MNIST's and CIFAR's size, 10 classes."""
    from kdsnn.errors import KdsnnError
    from kdsnn.models import MODELS, build
    from profilers.counting.flops import count_module

    row = {"model": name}
    for data, shape in (("MNIST", (1, 28, 28)), ("CIFAR", (3, 32, 32))):
        try:
            counts = count_module(build(name, spiking=False, input_shape=shape, classes=10), shape)
        except KdsnnError:  # an image this architecture is not made for
            row |= {f"parameters, {data}": "–", f"FLOPs, {data}": "–"}
            continue
        row |= {f"parameters, {data}": f"{counts.parameters:,}", f"FLOPs, {data}": f"{counts.thop / 1e6:.2f} M"}
    options = ", ".join(f"{k}={v}" for k, v in MODELS[name].options.items())
    return row | {"options": options, "description": MODELS[name].description}
