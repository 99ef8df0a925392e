"""`kdsnn-deploy list`: what there is to choose from."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

import typer

from kdsnn.cli.options import Json


class What(StrEnum):
    """A catalogue."""

    models = "models"
    data = "data"
    energy_models = "energy-models"


def list_(what: Annotated[What, typer.Argument(help="What to list.")], json: Json = False) -> None:
    """List the architectures, data sets or energy models."""
    from kdsnn.cli.console import print_json, table

    rows: list[dict[str, str]]
    if what is What.models:
        from kdsnn.models import MODELS

        rows = [
            {
                "model": name,
                "options": ", ".join(f"{k}={v}" for k, v in m.options.items()),
                "description": m.description,
            }
            for name, m in MODELS.items()
        ]
    elif what is What.data:
        from kdsnn.data import DESCRIPTIONS

        rows = [{"data": name, "description": text} for name, text in DESCRIPTIONS.items()]
    else:
        from profilers.energy_models import built_in

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
