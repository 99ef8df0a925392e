"""The command line `kdsnn-deploy`: one module per verb, composed here.

Verb modules import typer and nothing heavy, so that `--help` answers at once; torch comes in with the
first command that needs it.
"""

from __future__ import annotations

import logging
import signal
import sys

import typer

from exporters.errors import DeployError
from kdsnn.cli import check, demo, distill, evaluate, export, lava, listing, pretrain, profile, run
from kdsnn.errors import KdsnnError

app = typer.Typer(
    name="kdsnn-deploy",
    help="From a distilled spiking student to Loihi-style hardware, with honest numbers.",
    epilog="Any command takes --debug, which shows the traceback of an error.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
app.command("demo")(demo.demo)
app.command("pretrain")(pretrain.pretrain)
app.command("distill")(distill.distill)
app.command("evaluate")(evaluate.evaluate)
app.command("export")(export.export)
app.command("check")(check.check)
app.command("run")(run.run)
app.command("profile")(profile.profile)
app.add_typer(lava.app, name="lava")
app.command("list")(listing.list_)


def main() -> None:
    """Run the command line; an error the user can mend becomes one line and exit code 2."""
    debug = "--debug" in sys.argv
    sys.argv = [a for a in sys.argv if a != "--debug"]
    # a remark that Triton is missing, on every start, is no news to anybody without a GPU
    logging.getLogger("torch._library.triton").setLevel(logging.ERROR)
    # a polite kill unwinds like Ctrl-C, so that temporary folders and processes go too
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
    try:
        app()
    except (KdsnnError, DeployError, OSError, MemoryError) as error:
        if debug:
            raise
        print(f"error: {_one_line(error)}", file=sys.stderr)
        raise SystemExit(2) from None
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        raise SystemExit(130) from None


def _one_line(error: BaseException) -> str:
    if isinstance(error, OSError) and error.filename is not None:
        return f"{error.filename}: {error.strerror}; choose another place, or make room there"
    if isinstance(error, MemoryError):
        return "out of memory; use fewer samples at a time"
    return " ".join(str(error).split())
