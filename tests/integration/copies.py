"""Commands in copies of the test process, which spares importing torch for each."""

from __future__ import annotations

import io
import os
import signal
import sys
import tempfile
import traceback
from collections.abc import Callable, Iterable
from typing import NoReturn


def forked(arguments: Iterable[object], *, out: int, err: int, before: Callable[[], object] = lambda: None) -> int:
    """Start a command in a copy of this process, in a session of its own that is there when this returns.

    Args:
        arguments: of `kdsnn-deploy`.
        out, err: descriptors of the files it prints to.
        before: runs in the copy first.

    Returns:
        Its process number. What it lets fall other than an exit code is on `err`, and it ends with 99.
    """
    reader, writer = os.pipe()
    # a command that ran in this very process has left its handler, which the copy would seem to have taken over at once
    taken = signal.signal(signal.SIGTERM, signal.SIG_DFL)
    pid = os.fork()
    if pid == 0:
        os.setsid()
        os.close(reader)
        os.close(writer)
        _be(arguments, out, err, before)
    signal.signal(signal.SIGTERM, taken)
    os.close(writer)
    os.read(reader, 1)  # nothing comes: it ends when the copy has closed its side, too
    os.close(reader)
    return pid


def _be(arguments: Iterable[object], out: int, err: int, before: Callable[[], object]) -> NoReturn:
    code = 99
    try:
        os.dup2(out, 1)
        os.dup2(err, 2)
        sys.stdout = io.TextIOWrapper(open(1, "wb", closefd=False), encoding="utf-8")  # noqa: SIM115
        sys.stderr = io.TextIOWrapper(open(2, "wb", closefd=False), encoding="utf-8", line_buffering=True)  # noqa: SIM115
        signal.signal(signal.SIGINT, signal.default_int_handler)
        tempfile.tempdir = None
        sys.unraisablehook = sys.__unraisablehook__  # that of pytest keeps what a destructor drops
        sys.argv = ["kdsnn-deploy", *map(str, arguments)]
        before()
        from kdsnn.cli.app import main

        main()
    except SystemExit as end:
        code = int(end.code or 0)
    except BaseException:
        traceback.print_exc()
        sys.stderr.flush()
    finally:
        os._exit(code)
