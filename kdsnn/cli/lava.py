"""`kdsnn-deploy lava setup|status`: the managed Lava environment."""

from __future__ import annotations

import typer

from kdsnn.cli.options import Json

app = typer.Typer(help="The managed environment that Intel's Lava runs in.", no_args_is_help=True)


@app.command("setup")
def setup() -> None:
    """Install Lava into an environment of its own, in the user's cache folder. Done once."""
    from hardware.lava import environment
    from kdsnn.cli.console import say

    print(f"Lava is ready in {environment.setup(progress=say)}")


@app.command("status")
def status(json: Json = False) -> None:
    """Say what of Lava is installed, whether it works, and how fast. Exits with 1 if it does not work."""
    from dataclasses import asdict

    from hardware.lava import status
    from kdsnn.cli.console import print_json, table

    found = status.status()
    if json:
        print_json(asdict(found))
    else:
        rows = [["path", str(found.path)], ["installed", "yes" if found.installed else "no"]]
        rows += [[name, version] for name, version in found.versions.items()]
        rows += [["works", "yes" if found.works else "no"]]
        if found.seconds_per_step is not None:
            rows.append(["speed", f"{1000 * found.seconds_per_step:.1f} ms per time step of a small network"])
        if found.problem:
            rows.append(["problem", found.problem])
        table("Lava", ["", ""], rows)
    if not found.works:
        raise typer.Exit(1)
