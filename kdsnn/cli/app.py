"""The command line `kdsnn-deploy`: one module per verb, composed here.

Verb modules import typer and nothing heavy, so that `--help` answers at once; torch comes in with the
first command that needs it.
"""

from __future__ import annotations

import errno
import io
import logging
import os
import signal
import sys
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Annotated, Any

import typer

from kdsnn.cli import (
    benchmark,
    check,
    demo,
    distill,
    evaluate,
    export,
    lava,
    listing,
    predict,
    pretrain,
    profile,
    run,
    summary,
)
from kdsnn.cli.ascii_words import ERRORS
from kdsnn.cli.console import say
from kdsnn.cli.options import spelled
from kdsnn.cli.stops import unwinding_when_stopped
from kdsnn.cli.usage import OneLineGroup
from kdsnn.deploy.processes import is_first_process
from kdsnn.errors import Caution, Notice, OptionError, StoppedError, UnfaithfulError, UserError
from kdsnn.version import version

NAME = "kdsnn-deploy"

app = typer.Typer(
    name=NAME,
    cls=OneLineGroup,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="From a distilled spiking student to Loihi-style hardware, with honest numbers.",
    epilog="Any command takes --help, and --debug, which shows the traceback of an error.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
)


def _say_version(asked: bool) -> None:
    if asked:
        print(f"{NAME} {version()}")
        raise typer.Exit


@app.callback()
def about(
    asked: Annotated[
        bool, typer.Option("--version", help="Print the version and exit.", is_eager=True, callback=_say_version)
    ] = False,
) -> None:
    """Options that stand before any command."""


app.command("demo")(demo.demo)
app.command("pretrain")(pretrain.pretrain)
app.command("distill")(distill.distill)
app.command("evaluate")(evaluate.evaluate)
app.command("predict")(predict.predict)
app.command("summary")(summary.summary)
app.command("export")(export.export)
app.command("check")(check.check)
app.command("run")(run.run)
app.command("benchmark")(benchmark.benchmark)
app.command("profile")(profile.profile)
app.add_typer(lava.app, name="lava")
app.command("list")(listing.list_)


ALONE_AFTER = 3.0
"""Seconds that a process waits with its error, in which a launcher ends it if the first process had that error too."""

PIPE_CLOSED = 141
"""The exit code where nobody reads the output any more: 128 + SIGPIPE, as the shell has it."""

MENDABLE = (UserError, OSError, MemoryError, UnicodeEncodeError)

ADVICE = {
    **dict.fromkeys((errno.ENOSPC, errno.EDQUOT, errno.EFBIG), "make room, or choose another place"),
    **dict.fromkeys((errno.EACCES, errno.EPERM, errno.EROFS), "choose a place that you may read and write"),
    errno.ENAMETOOLONG: "choose a shorter name",
    errno.EISDIR: "give the name of a file",
}


def main() -> None:
    """Run the command line; an error the user can mend becomes one line and exit code 2."""
    debug = "--debug" in sys.argv
    sys.argv = [a for a in sys.argv if a != "--debug"]
    # a remark that Triton is missing, on every start, is no news to anybody without a GPU
    logging.getLogger("torch._library.triton").setLevel(logging.ERROR)
    _mend_standard_streams()
    if not is_first_process():
        sys.stdout = Path(os.devnull).open("w", encoding="utf-8")  # noqa: SIM115 - until the process ends
    _say_notices()
    with unwinding_when_stopped() as stopped:
        try:
            with _printed():
                app(prog_name=NAME)
        except BaseException as error:
            stopped.arrived()
            # once stopped, any error may be what native code made of that, and an end without one the sign that it got lost
            if stopped.numbers:
                how = "interrupted" if stopped.numbers[0] == signal.SIGINT else "terminated"
                say("; ".join([how, *(one.worded(spelled) for one in _chain(error) if isinstance(one, StoppedError))]))
                raise SystemExit(128 + stopped.numbers[0]) from None
            if isinstance(error, BrokenPipeError):  # who reads the output has had enough, as `head` does
                raise SystemExit(PIPE_CLOSED) from None
            if debug or not (isinstance(error, MENDABLE) or _is_out_of_memory(error)):
                raise
            _complain(f"error: {_one_line(error)}")
            # a network that is not what it was made from is an answer, and a bad one; all else is a question not understood
            raise SystemExit(1 if isinstance(error, UnfaithfulError) else 2) from None


def _complain(line: str) -> None:
    """Say what is wrong. All processes that a launcher has started mostly find the same: the others leave it to the first,
    which ends all of them; one that is not ended meanwhile is alone with its error, and says so."""
    if not is_first_process():
        with suppress(KeyboardInterrupt):
            time.sleep(ALONE_AFTER)
            print(f"process {os.environ['RANK']}: {line}", file=sys.stderr, flush=True)
    say(line)


def _chain(error: BaseException) -> Iterator[BaseException]:
    """An error and those that it came from: the library that reads options puts its own in place of a KeyboardInterrupt."""
    found: BaseException | None = error
    while found is not None:
        yield found
        found = found.__cause__ or found.__context__


@contextmanager
def _printed() -> Iterator[None]:
    """Bring what the block prints to where it goes, while a failure (a full disk, a closed pipe) can still be told."""
    output = sys.stdout
    try:
        yield
    finally:
        try:
            if sys.stdout is not output:  # typer puts another in its place when a pipe breaks
                raise BrokenPipeError(errno.EPIPE, os.strerror(errno.EPIPE))
            output.flush()
        except OSError as error:
            with suppress(OSError, ValueError):  # Python tries once more at its end, and would show a traceback
                os.dup2(os.open(os.devnull, os.O_WRONLY), output.fileno())
            raise OSError(error.errno, error.strerror, "standard output") from error


def _say_notices() -> None:
    """Print what the user should know as a remark, every time it comes up; other warnings stay Python's business."""
    shown = warnings.showwarning

    def show(message: Warning | str, category: type[Warning], *rest: Any, **more: Any) -> None:
        if issubclass(category, Notice):
            say(f"{'warning' if issubclass(category, Caution) else 'note'}: {message}")
        else:
            shown(message, category, *rest, **more)

    warnings.simplefilter("always", Notice)
    warnings.showwarning = show


def _mend_standard_streams() -> None:
    """Replace streams that are closed, and let the others print any text, whatever their encoding."""
    # else the first file that is opened gets the number of a closed stream, and what libraries print lands in it
    while (descriptor := os.open(os.devnull, os.O_RDWR)) <= 2:
        pass
    os.close(descriptor)
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:
            setattr(sys, name, Path(os.devnull).open("w", encoding="utf-8"))  # noqa: SIM115 - until the process ends
        elif isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors=ERRORS)


def _is_out_of_memory(error: BaseException) -> bool:
    """Whether memory was refused, on the host or on a GPU; torch says so by other errors than MemoryError."""
    refused = type(error).__name__ == "OutOfMemoryError" or "can't allocate memory" in str(error)
    return isinstance(error, MemoryError) or (isinstance(error, RuntimeError) and refused)


def _one_line(error: BaseException) -> str:
    if isinstance(error, OSError) and error.strerror is not None:
        where = "" if error.filename is None else f"{error.filename}: "
        advice = ADVICE.get(error.errno or 0, "choose another place")
        if "temporary directory" in error.strerror:  # which `tempfile` looks for in six places
            advice = "make room in one of them, or name another folder in TMPDIR"
        what = f"{where}{error.strerror}; {advice}"
    elif _is_out_of_memory(error):
        what = "out of memory; use fewer samples at a time"
    elif isinstance(error, UnicodeEncodeError):
        what = f"{error.object[max(0, error.start - 40) : error.end + 40]!a}: not valid UTF-8; rename the file"
    elif isinstance(error, OptionError):
        what = error.worded(spelled)
    else:
        what = str(error)
    return " ".join(what.split())
