"""Processes that training runs in: those that a launcher started, and those started here for work that goes side by side."""

from __future__ import annotations

import logging
import os
import pickle
import queue
import signal
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, BinaryIO

from kdsnn.deploy.progress import Part
from kdsnn.errors import KdsnnError, OptionError, UserError, notice

LAUNCHED = (
    "RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "GROUP_RANK", "ROLE_RANK", "MASTER_ADDR", "MASTER_PORT",
)  # fmt: skip
"""What a launcher tells its processes; a process that is to train alone must not know it."""

START = (
    "import pickle, signal, sys; signal.signal(signal.SIGINT, signal.SIG_DFL); sys.path[:] = pickle.load(sys.stdin.buffer); "
    "from kdsnn.deploy.processes import work; work()"
)
"""The program of a process that is started here; until `work` takes over, a signal ends it without a word."""


def is_first_process() -> bool:
    """Whether this is the process that writes and speaks: `torchrun` and `accelerate launch` start several."""
    return os.environ.get("RANK", "0") == "0"


def cores() -> int:
    """How many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@dataclass(frozen=True)
class Ranks:
    """The processes of a launcher, of which this one is number `rank` of `count`; without a launcher it is the only one."""

    rank: int
    count: int

    def part(self, samples: int) -> slice:
        """Which of so many samples are this process's; those of all follow one another."""
        return slice(self.rank * samples // self.count, (self.rank + 1) * samples // self.count)

    def gather(self, value: Any, /) -> list[Any]:
        """The value of every process, in their order; all have to call this."""
        if self.count == 1:
            return [value]
        import datetime

        from torch import distributed

        if not distributed.is_initialized():
            # for as long as the slowest takes
            distributed.init_process_group("gloo", timeout=datetime.timedelta(days=100))
        values: list[Any] = [None] * self.count
        distributed.all_gather_object(values, value)
        return values


def ranks() -> Ranks:
    """Those that `torchrun` or `accelerate launch` says there are."""
    return Ranks(int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1")))


def side_by_side(
    function: Callable[..., Any],
    calls: Mapping[str, Mapping[str, Any]],
    *,
    count: int,
    threads: int,
    tell: Callable[[str, float, str, str], None],
) -> dict[str, Any]:
    """Call `function(progress=…, **arguments)` once for each name in `calls`, in processes of their own, `count` at a time
    with `threads` threads each; name → what it returned. Function, arguments and results must be picklable.

    `tell` hears (name, fraction done of a piece, its title, a note), and (name, 1, "", "") at the end. What stops this process stops the others in the same way, and they end
    when it is killed.

    Raises:
        KdsnnError: what one of the calls raised, with its name before it; the others are stopped then.
    """
    waiting, working = dict(calls), dict[str, subprocess.Popen[bytes]]()
    said: queue.Queue[tuple[str, tuple[Any, ...]]] = queue.Queue()
    results: dict[str, Any] = {}
    try:
        while waiting or working:
            while waiting and len(working) < count:
                name = next(iter(waiting))
                working[name] = _started(function, waiting[name], threads)
                del waiting[name]
                threading.Thread(target=_listen, args=(name, working[name].stdout, said), daemon=True).start()
            try:
                name, (kind, *what) = said.get(timeout=0.2)  # one without end cannot be interrupted on Windows
            except queue.Empty:
                continue
            if kind == "progress":
                title, done, total, note = what
                tell(name, done / total, title, note)
            elif kind == "notice":
                notice(f"{name}: {what[0]}")
            elif kind == "result":
                results[name] = what[0]
                tell(name, 1.0, "", "")
            elif kind == "ended":
                code = working.pop(name).wait()
                if name not in results:
                    raise KdsnnError(f"{name}: its process ended with exit code {code}")
            else:
                raise _failed(name, kind, what)
    finally:
        _stop(list(working.values()))
    return results


def _failed(name: str, kind: str, what: list[Any]) -> BaseException:
    if kind == "option":
        text, values = what
        return OptionError(f"{name}: {text}", **values)
    if kind == "stopped":  # somebody sent the signal to that process alone
        return KeyboardInterrupt()
    return KdsnnError(f"{name}: {what[0]}") if kind == "error" else RuntimeError(f"{name}:\n{what[0]}")


def _started(function: Callable[..., Any], arguments: Mapping[str, Any], threads: int) -> subprocess.Popen[bytes]:
    environment = {name: value for name, value in os.environ.items() if name not in LAUNCHED}
    environment |= dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS"), str(threads))
    environment |= _device()
    job = pickle.dumps((function, dict(arguments)))
    # a session of its own: what the terminal sends comes once, from here
    process = subprocess.Popen(
        [sys.executable, "-c", START], stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment,
        start_new_session=True,
    )  # fmt: skip
    assert process.stdin is not None
    with suppress(BrokenPipeError):  # then it has ended, which is told elsewhere
        process.stdin.write(pickle.dumps(sys.path) + job)
        process.stdin.flush()
    return process


def _device() -> dict[str, str]:
    """Of several GPUs of one machine, that of this process of a launcher."""
    local, visible = os.environ.get("LOCAL_RANK"), os.environ.get("CUDA_VISIBLE_DEVICES")
    if local is None:
        return {}
    import torch

    devices = visible.split(",") if visible else [str(i) for i in range(torch.cuda.device_count())]
    return {"CUDA_VISIBLE_DEVICES": devices[int(local) % len(devices)]} if devices else {}


def _listen(name: str, stream: BinaryIO, said: queue.Queue[tuple[str, tuple[Any, ...]]]) -> None:
    with suppress(EOFError, pickle.UnpicklingError, OSError):
        while True:
            said.put((name, pickle.load(stream)))
    said.put((name, ("ended",)))


def _stop(processes: list[subprocess.Popen[bytes]]) -> None:
    """Let processes finish their step and save their state; asked a second time, they end at once."""
    try:
        for process in processes:
            process.send_signal(signal.SIGINT)
        for process in processes:
            process.wait()
    except KeyboardInterrupt:
        for process in processes:
            process.kill()
        raise


def work() -> None:
    """What a process started by `side_by_side` does: one call, told to the process that started it."""
    messages = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what libraries print is no message
    logging.getLogger("torch._library.triton").setLevel(
        logging.ERROR
    )  # without a GPU it is no news that Triton is missing
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.default_int_handler)

    def send(*message: Any) -> None:
        with suppress(BrokenPipeError):
            pickle.dump(message, messages)
            messages.flush()

    code = 0
    try:
        function, arguments = pickle.load(sys.stdin.buffer)
        threading.Thread(target=_end_with_parent, daemon=True).start()
        send("result", _called(function, arguments, send))
    except KeyboardInterrupt:
        send("stopped")
        code = 130
    except OptionError as error:
        send("option", error.text, error.values)
        code = 2
    except (UserError, OSError, MemoryError) as error:
        send("error", str(error) or type(error).__name__)
        code = 2
    except BaseException:
        send("bug", traceback.format_exc())
        code = 1
    os._exit(code)  # the thread that watches stdin would hold up an orderly end


def _called(function: Callable[..., Any], arguments: Mapping[str, Any], send: Callable[..., None]) -> Any:
    import warnings

    import torch

    from kdsnn.errors import Notice

    torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
    last = [-1.0]

    def told(title: str, done: float, total: float, note: str = "") -> None:
        now = time.monotonic()
        if done >= total or now - last[0] >= 0.1:
            last[0] = now
            send("progress", title, done, total, note)

    with warnings.catch_warnings(record=True) as remarks:
        warnings.simplefilter("always", Notice)
        result = function(progress=Part(told), **arguments)
    for remark in remarks:
        if issubclass(remark.category, Notice):
            send("notice", str(remark.message))
    return result


def _end_with_parent() -> None:
    """Nothing more is ever sent: this read returns when the process at the other end is gone, however it went."""
    with suppress(OSError):
        while os.read(0, 1):
            pass
    os.kill(os.getpid(), signal.SIGTERM)
