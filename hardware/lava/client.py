"""A netx file runs on Lava from here: in a process of its own, with files in and out, and nothing is left behind."""

from __future__ import annotations

import contextlib
import json
import os
import select
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from exporters.errors import DeployError
from hardware.lava import environment, guard

Array = NDArray[Any]
START_LIMIT = 300.0
STEP_LIMIT = 120.0
_OVER = "this Lava session is over; open another one"


@dataclass(frozen=True, eq=False)
class LavaRun:
    """Lava computed this.

    Attributes:
        spikes: (N, T, F) uint8, the last layer's spikes, flattened in torch's order.
        layers: index of a probed layer → its spikes (N, T, *shape) uint8 in torch's order (C, H, W).
            Layers are the netx layers that have neurons, counted from 0; input and flatten do not count.
        membrane: (N, F) int64, the last layer's membrane after each sample's last step, as Lava holds
            it: 64 × the sum of integer weights. None unless asked for.
        seconds: wall-clock time of Lava's steps, without start-up.
        total_seconds: wall-clock time of everything.
        steps: Lava steps run: N·T, one per layer until the last frame has come through, and in later parts of a
            session up to T − 1 before the first frame.
    """

    spikes: Array
    layers: Mapping[int, Array]
    membrane: Array | None
    seconds: float
    total_seconds: float
    steps: int


def run(
    net_file: Path,
    frames: Array,
    *,
    T: int,
    message_bits: int,
    probes: bool | tuple[int, ...] = (),
    membrane: bool = False,
    fast_conv: bool = False,
    timeout: float | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> LavaRun:
    """Samples (N, T, *shape) run through a netx file, in a `LavaSession` of one part."""
    start = time.monotonic()
    with LavaSession(
        net_file, T=T, message_bits=message_bits, probes=probes, membrane=membrane, fast_conv=fast_conv, timeout=timeout
    ) as session:
        found = session.run(frames, progress=progress)
    return replace(found, total_seconds=time.monotonic() - start)


class LavaSession:
    """A session is a netx file on Intel's Lava simulator (fixed point), started once, for samples in any number of
    parts.

    Samples follow one another without a gap, and every layer is reset before each. Lava starts as the session is
    entered, and builds the network with the first part. It runs in processes of its own that end with the session,
    however it ends, and with this process, however that ends.
    """

    def __init__(
        self,
        net_file: Path,
        *,
        T: int,
        message_bits: int,
        probes: bool | tuple[int, ...] = (),
        membrane: bool = False,
        fast_conv: bool = False,
        timeout: float | None = None,
    ) -> None:
        """Nothing is started yet.

        Args:
            net_file: a netx file (`.net`). It is copied as the session is entered: Lava keeps it open.
            T: time steps per sample.
            message_bits: 0 for spikes (0 or 1), else the bits of the input's unsigned integers (graded spikes).
            probes: layers whose spikes are recorded too; True for all.
            membrane: also read the last layer's membrane at the end of each sample.
            fast_conv: replace Lava's convolution by a matrix product, bit-identical; 10 times as fast for wide layers.
            timeout: seconds for all parts together. None: no total limit, but an error when no step ends for a
                time that is generous for the network's size.
        """
        self._fast_conv, self._timeout = fast_conv, timeout
        self._take(net_file, T, message_bits, probes, membrane)
        self._life: _Guard | None = None
        self._spent = 0.0

    def _take(self, net_file: Path, T: int, message_bits: int, probes: bool | tuple[int, ...], membrane: bool) -> None:
        self._file, self._T, self._message_bits = net_file, T, message_bits
        self._job = {
            "name": net_file.name,
            "T": T,
            "probes": True if probes is True else list(probes or ()),
            "message_bits": message_bits,
            "membrane": membrane,
            "fast_conv": self._fast_conv,
        }
        self._shape: tuple[int, ...] = ()

    def load(
        self,
        net_file: Path,
        *,
        T: int,
        message_bits: int,
        probes: bool | tuple[int, ...] = (),
        membrane: bool = False,
    ) -> None:
        """Another network takes the place of the one before; Lava, whose start costs more than a small network, stays.

        Args: as of the session; its timeout goes on, and its convolution stays.

        Raises:
            DeployError: the session is over, an unreadable file, no room for a copy of it.
        """
        if self._life is None:
            raise DeployError(_OVER)
        self._take(net_file, T, message_bits, probes, membrane)
        self._lay_down(self._life)

    def _lay_down(self, life: _Guard) -> None:
        """The network and its job are put into the worker's folder, the job whole and last."""
        try:
            self._file.open("rb").close()
        except OSError as error:
            raise DeployError(f"{self._file} cannot be read: {error.strerror}") from error
        with _writing_to(life.folder):
            part = life.folder / "part"  # a file of its own: Lava still holds the network's before open
            shutil.copyfile(self._file, part)
            part.replace(life.folder / "net.h5")
            part.write_text(json.dumps(self._job))
            part.replace(life.folder / "job.json")

    def __enter__(self) -> LavaSession:
        """Lava is started.

        Raises:
            DeployError: no Lava environment, an unreadable file, no room for a copy of it.
        """
        life = _Guard(environment.python_path())
        with contextlib.ExitStack() as undo:
            undo.enter_context(life)
            self._lay_down(life)
            life.start()
            undo.pop_all()
        self._life = life
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        life, self._life = self._life, None
        if life is not None:
            life.__exit__(kind, error, trace)

    def run(self, frames: Array, *, progress: Callable[[int, int], None] | None = None) -> LavaRun:
        """Some samples, a part, are run.

        Args:
            frames: (N, T, *shape) integers, shape (C, H, W) or (F,), the same for all parts.
            progress: called with (steps done, steps in all) of this part as they change.

        Raises:
            DeployError: frames that do not fit, a file that Lava does not load, an actor that died or hangs,
                the timeout. After an error of Lava's the session is over.
        """
        start = time.monotonic()
        frames = _checked(frames, self._T, self._message_bits)
        if self._life is None:
            raise DeployError(_OVER)
        if self._shape not in ((), frames.shape[2:]):
            raise DeployError(f"the frames have shape {frames.shape[2:]}, those of the first part {self._shape}")
        self._shape = frames.shape[2:]
        # left only when the part is done: whatever is thrown in between ends Lava, which is somewhere in the part
        with contextlib.ExitStack() as otherwise:
            otherwise.push(self)
            result = self._part(self._life, frames, start, progress)
            otherwise.pop_all()
        self._spent += result.total_seconds
        return result

    def _part(self, life: _Guard, frames: Array, start: float, progress: Callable[[int, int], None] | None) -> LavaRun:
        for name in ("plan.json", "result.json", "membrane.npy"):
            (life.folder / name).unlink(missing_ok=True)
        with _writing_to(life.folder):
            with (life.folder / "frames.part").open("wb") as file:
                np.save(file, frames.astype(np.uint8 if self._message_bits <= 8 else np.int32))
            (life.folder / "frames.part").replace(life.folder / "frames.npy")  # appears whole
        deadline = None if self._timeout is None else start + self._timeout - self._spent
        done = _wait(life, deadline, self._timeout, progress)
        result = _result(life, len(frames), self._T, start)
        if progress is not None and done < result.steps:
            progress(result.steps, result.steps)
        return result


@contextlib.contextmanager
def _writing_to(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        # numpy's own says in words how much was written, and has no strerror
        raise DeployError(f"Lava's input cannot be written to {folder}: {error.strerror or error}") from error


def _checked(frames: Array, T: int, message_bits: int) -> Array:
    frames = np.asarray(frames)
    if T < 1:
        raise DeployError(f"T is {T}; the number of time steps must be at least 1")
    if not 0 <= message_bits <= 24:
        raise DeployError(f"message_bits is {message_bits}; it must be 0 (spikes) to 24")
    if frames.ndim not in (3, 5) or frames.shape[1] != T or not frames.size:
        raise DeployError(f"the frames have shape {frames.shape}; Lava takes (N, {T}, C, H, W) or (N, {T}, F)")
    if frames.dtype.kind not in "bui":
        raise DeployError(f"the frames are of type {frames.dtype}; Lava takes integers")
    low, high, largest = int(frames.min()), int(frames.max()), 2 ** max(message_bits, 1) - 1
    if low < 0 or high > largest:
        raise DeployError(
            f"the frames range from {low} to {high}; input of {message_bits} message bits takes 0 to {largest}"
        )
    return frames


def _wait(
    life: _Guard, deadline: float | None, timeout: float | None, progress: Callable[[int, int], None] | None
) -> int:
    """The part is waited for until it is done or the worker has ended; the outcome is in the folder, the last number of
    steps seen is returned."""
    plan: dict[str, Any] = {}
    done, moved = -1, time.monotonic()
    while not (life.ended(within=0.05) or (life.folder / "result.json").exists()):
        now = time.monotonic()
        if deadline is not None and now > deadline:
            raise DeployError(f"Lava did not finish within {timeout:g} s ({_where(done, plan)}); raise the timeout")
        if not plan and (life.folder / "plan.json").exists():
            plan, moved = json.loads((life.folder / "plan.json").read_text()), now
        if plan:
            output = life.folder / "output.bin"
            size = output.stat().st_size // plan["neurons"] if output.exists() else 0
            if size != done:
                done, moved = size, now
                if progress is not None:
                    progress(done, plan["steps"])
        limit = STEP_LIMIT + 50 * plan["step_seconds"] if plan else START_LIMIT
        if timeout is None and now - moved > limit:
            raise DeployError(
                f"Lava hangs: nothing has moved for {limit:.0f} s ({_where(done, plan)}){life.last_words()}"
            )
    return done


def _where(done: int, plan: dict[str, Any]) -> str:
    return f"step {done} of {plan['steps']}" if plan and done >= 0 else "it was still starting"


def _result(life: _Guard, samples: int, T: int, start: float) -> LavaRun:
    try:
        result = json.loads((life.folder / "result.json").read_text())
    except (OSError, ValueError):
        raise DeployError(f"Lava's worker ended with {_ending(life.exit_code)}{life.last_words()}") from None
    if "error" in result:
        raise DeployError(result["error"])

    def spikes(name: str, latency: int) -> Array:
        shape = result["shapes"][name]
        recorded = np.fromfile(life.folder / f"{name}.bin", np.uint8).reshape(result["steps"], *shape)
        # layer k answers frame t at step lead + t + k + 1, and that of the next sample an interval later
        first, interval = result["lead"] + latency, result["interval"]
        last = recorded[first : first + samples * interval]
        silent = np.zeros((samples * interval - len(last), *shape), np.uint8)  # what would follow the last sample
        return np.concatenate([last, silent]).reshape(samples, interval, *shape)[:, :T]

    return LavaRun(
        spikes=spikes("output", result["layers"]).reshape(samples, T, -1),
        layers={int(n[5:]): spikes(n, int(n[5:]) + 1) for n in result["shapes"] if n.startswith("probe")},
        membrane=np.load(life.folder / "membrane.npy") if (life.folder / "membrane.npy").exists() else None,
        seconds=result["seconds"],
        total_seconds=time.monotonic() - start,
        steps=result["steps"],
    )


def _ending(code: int | None) -> str:
    if code is not None and code < 0:
        return f"signal {-code}" + (" (out of memory?)" if code == -9 else "")
    return f"exit code {code}"


class _Guard:
    """The guard process (see `guard.py`) owns the run's folder and processes, and lives while its input is open."""

    def __init__(self, python: Path) -> None:
        self.exit_code: int | None = None
        self._worker: int | None = None
        self._heard, self._last = b"", ""
        self._process = subprocess.Popen(
            [python, "-I", "-S", guard.__file__, str(os.getpid()), python, "-I", Path(__file__).with_name("worker")],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            bufsize=0,
            start_new_session=True,
        )
        self.folder = Path()

    def __enter__(self) -> _Guard:
        try:
            while self.folder == Path():
                self._listen(within=1.0)
        except BaseException:
            self.__exit__(None, None, None)
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._process.stdin is not None and self._process.stdout is not None
        # the guard's sign to clean up and end; both, since a child forked meanwhile holds the pipe open
        self._process.stdin.close()
        self._process.terminate()
        try:
            self._process.wait(timeout=8)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        finally:
            self._process.stdout.close()
        if self._process.returncode != 0:  # somebody killed the guard: do its work
            if self._worker is not None:
                guard.end_session(self._worker)
            if self.folder != Path():
                guard.remove(self.folder)

    def start(self) -> None:
        """The worker is started; its job is in the folder."""
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError):  # then listening will find out
            self._process.stdin.write(b"\n")

    def ended(self, within: float) -> bool:
        """Have the worker and all its processes ended? The answer takes at most `within` seconds."""
        self._listen(within)
        return self.exit_code is not None

    def last_words(self) -> str:
        """The last line of the worker's log that says something is made ready to be appended to a message."""
        try:
            lines = (self.folder / "log").read_text(errors="replace").splitlines()
        except OSError:
            return ""
        said = [line.strip() for line in lines if line.strip()]
        return f"; its last words: {said[-1][:300]}" if said else ""

    def _listen(self, within: float) -> None:
        """What the guard says is taken in, if it says something in time."""
        assert self._process.stdout is not None
        poll = select.poll()  # select() does not take descriptors over 1023
        poll.register(self._process.stdout, select.POLLIN)
        if not poll.poll(1000 * within):
            return
        said = os.read(self._process.stdout.fileno(), 4096)
        if not said:
            raise DeployError(
                f"the process that guards Lava ended unexpectedly; its last words: {self._last or 'none'}"
            )
        *lines, self._heard = (self._heard + said).split(b"\n")
        for line in lines:
            self._last = line.decode(errors="replace")
            word, _, rest = self._last.partition(" ")
            if word == "folder":
                self.folder = Path(rest)
            elif word == "started":
                self._worker = int(rest)
            elif word == "ended":
                self.exit_code, self._worker = int(rest), None
