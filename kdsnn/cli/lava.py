"""`kdsnn-deploy lava setup|status`: the managed Lava environment."""

from __future__ import annotations

import typer

from kdsnn.cli.options import Json, Wide

app = typer.Typer(
    help="The managed environment that Intel's Lava runs in.", no_args_is_help=True, rich_markup_mode="rich"
)


@app.command("setup")
def setup() -> None:
    """Install Lava into an environment of its own, in the user's cache folder. Done once."""
    from kdsnn.cli.console import say
    from kdsnn.deploy import lava

    print(f"Lava is ready in {lava.setup(say)}")


@app.command("status")
def status(json: Json = False, wide: Wide = False) -> None:
    """Say what of Lava is installed, whether it works, and how fast. Exits with 1 if it does not work."""
    from kdsnn.cli.console import progress, show

    with progress(quiet=json):
        from kdsnn.deploy import lava

        found = lava.status()
    show(found, json=json, wide=wide)
    if not found.found.works:
        raise typer.Exit(1)
