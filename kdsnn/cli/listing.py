"""`kdsnn-deploy list`: what there is to choose from."""

from __future__ import annotations

from typing import Annotated, Literal

import typer

from kdsnn.cli.options import Json, Wide

EXTRAS = ("source", "note")
"""Columns that are left out where there is no room."""


def list_(
    what: Annotated[
        Literal["models", "data", "recipes", "energy-models", "time-models", "targets"],
        typer.Argument(help="What to list."),
    ],
    json: Json = False,
    wide: Wide = False,
) -> None:
    """List the architectures, data sets, training's defaults by kind of data, energy models, step-time models or targets."""
    from kdsnn.cli.console import draw, print_json
    from kdsnn.deploy.catalogs import CATALOGS
    from kdsnn.deploy.tables import table

    rows = CATALOGS[what]()
    if json:
        print_json(rows)
    else:
        draw(table(what, list(rows[0]), [list(r.values()) for r in rows], extras=EXTRAS), wide=wide)
