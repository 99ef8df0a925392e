"""The worker runs netx files on Lava, one after another, each in any number of parts.

    python WORKER-FOLDER FOLDER    work in FOLDER until the guard ends this process
    python WORKER-FOLDER           import Lava with the patches and print "ok"

FOLDER holds `job.json` and `net.h5`. Whenever `frames.npy` (N, T, *shape) appears there, its samples are run, by a new
network where a new `job.json` lies there, which the worker takes away:
it writes `plan.json`, then `output.bin` and `probe<k>.bin` (uint8, one record per Lava step, so their
size is the progress) and `membrane.npy` (N, F), deletes `frames.npy`, and last writes `result.json`, which holds
either the facts of the part or one line under "error"; with an error the worker ends. The client takes the
files away before it lays down the next part.

Lava's time goes on from part to part. A layer is reset whenever a sample's first data may reach it, every T steps, or T + 1
where there are delays, so a part begins with as many silent steps as bring it into that beat, and knows nothing of the part
before.

The guard ends this process and all of Lava's actors, so that only a network that makes room for another is stopped:
`net.stop()` hangs when an actor is dead.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import sys
import threading
import time
import traceback
from dataclasses import dataclass
from multiprocessing import shared_memory
from pathlib import Path
from typing import Any, NoReturn

import numpy as np

if not __package__:  # started by its path: become the package that this folder is, and see nothing else of the project
    sys.path[0] = str(Path(__file__).parents[1])
    __package__ = Path(__file__).parent.name
    __import__(__package__)
    del sys.path[0]

from .errors import JobError, describe
from .network import build_network, check_layers, clear_buffers, step_seconds
from .patches import fast_conv, import_netx, with_wide_integers


@dataclass
class BuiltNetwork:
    """Lava has built this network.

    Attributes:
        named: own processes by what they are to a reader of an error.
        shapes: (C, H, W) or (F,) of the spikes in `<name>.bin`.
        interval: steps from the start of one sample to that of the next.
        done: Lava steps run so far.
    """

    job: dict[str, Any]
    folder: Path
    net: Any
    named: dict[str, Any]
    shapes: dict[str, list[int]]
    interval: int
    done: int = 0

    def run(self, samples: int) -> dict[str, Any]:
        """The samples of `frames.npy` are run; what goes into `result.json` is returned."""
        from lava.magma.core.run_conditions import RunSteps

        layers = len(self.net.layers)
        lead = -self.done % self.interval
        steps = lead + samples * self.interval + layers
        neurons = {name: int(np.prod(shape)) for name, shape in self.shapes.items()}
        for path in self.folder.glob("*.bin"):
            os.truncate(path, 0)
        plan = {
            "lead": lead,
            "interval": self.interval,
            "steps": steps,
            "neurons": neurons["output"],
            "step_seconds": step_seconds(self.net.layers, self.job["fast_conv"]),
        }
        write_json(self.folder / "plan.json", plan)
        if self.net.runtime is None:
            create_runtime(self.net)
        start = time.perf_counter()
        self.net.run(RunSteps(steps, blocking=False))
        _wait(self.net, self.named)
        seconds = time.perf_counter() - start
        self.done += steps

        for name, size in neurons.items():
            if (self.folder / f"{name}.bin").stat().st_size != steps * size:
                raise JobError(
                    f"the disk under {self.folder.parent} is full: the spikes of {name} could not be written"
                )
        if self.job["membrane"]:
            values = np.fromfile(self.folder / "membrane.bin", np.int32).reshape(-1, neurons["output"])
            # earlier ones were read before the first sample had ended
            first = (lead + self.job["T"] + layers - 1) // self.interval
            np.save(self.folder / "membrane.npy", values[first : first + samples].astype(np.int64))
        facts = {"lead": lead, "interval": self.interval, "steps": steps, "seconds": seconds, "layers": layers}
        return {**facts, "shapes": self.shapes}

    def end(self) -> None:
        """Its actors end, and what they wrote is taken away."""
        stopping = threading.Thread(target=self.net.stop, daemon=True)  # it would wait for ever for an actor that died
        stopping.start()
        while stopping.is_alive():
            stopping.join(0.01)
            if any(_exit_code(actor) not in (None, 0) for actor in _actors(self.net)):
                raise JobError(_who_ended(self.net, self.named))
        for path in self.folder.glob("*.bin"):
            path.unlink()


def work(folder: Path) -> NoReturn:
    """Part after part is run as they are laid down in `folder`, the working directory."""
    hdf5 = import_netx()
    frames_file, job_file, guard = folder / "frames.npy", folder / "job.json", os.getppid()
    network = None
    while True:
        while not frames_file.exists():
            if os.getppid() != guard:  # killed, and the client with it, or it would have ended us
                os.killpg(0, signal.SIGTERM)
            time.sleep(0.01)
        frames = np.load(frames_file, mmap_mode="r")
        if network is None or job_file.exists():
            if network is not None:
                network.end()
            network = build(hdf5, json.loads(job_file.read_text()), folder, frames.shape[2:])
            job_file.unlink()
        result = network.run(len(frames))
        frames_file.unlink()
        write_json(folder / "result.json", result)


def build(hdf5: Any, job: dict[str, Any], folder: Path, frame_shape: tuple[int, ...]) -> BuiltNetwork:
    """The job's network is built, with its input and its recorders."""
    path = folder / "net.h5"
    interval = job["T"] + check_layers(job["name"], path)
    net = build_network(hdf5, path, job, frame_shape, interval)
    if net.inp.shape not in (frame_shape[::-1], (int(np.prod(frame_shape)),)):
        raise JobError(f"{job['name']} takes frames of shape {net.inp.shape[::-1]}, not {frame_shape}")
    if job["fast_conv"]:
        from lava.proc.conv import utils

        utils.conv = with_wide_integers(fast_conv)
    source, recorders = connect(net, job, folder, interval)
    shapes = {name: [int(n) for n in recorder.inp.shape[::-1]] for name, recorder in recorders.items()}
    named = {"input": source, **recorders, **clear_buffers(net, interval)}
    return BuiltNetwork(job, folder, net, named, shapes, interval)


def connect(net: Any, job: dict[str, Any], folder: Path, interval: int) -> tuple[Any, dict[str, Any]]:
    """The network gets its input and its recorders; both are returned, the recorders by the names of their files."""
    from .processes import Player, Reader, SpikeWriter

    layers = len(net.layers)
    probes = range(layers) if job["probes"] is True else job["probes"]
    if not all(0 <= k < layers for k in probes):
        raise JobError(f"{job['name']} has {layers} layers, 0 to {layers - 1}; cannot probe {probes}")
    source = Player(folder, net.inp.shape, job["T"])
    source.out.connect(net.inp)
    recorders = {}
    for name, port in {"output": net.out, **{f"probe{k}": net.layers[k].neuron.s_out for k in probes}}.items():
        recorders[name] = SpikeWriter(folder / f"{name}.bin", port.shape)
        port.connect(recorders[name].inp)
    if job["membrane"]:
        # the last layer ends sample i in step i·interval + T + layers
        membrane = Reader(buffer=1, interval=interval, offset=(job["T"] + layers - 1) % interval)
        membrane.connect_var(net.out_layer.neuron.v)
    return source, recorders


def create_runtime(net: Any) -> None:
    """The network is compiled and its actors are started."""
    from lava.magma.core.run_configs import Loihi2SimCfg

    net.create_runtime(
        # without the tag Lava picks its floating-point models, which mean something else
        run_cfg=Loihi2SimCfg(select_tag="fixed_pt"),
        # messages buffered per channel; the default of 64 fills a container's /dev/shm
        compile_config={"pypy_channel_size": 8},
    )


def _wait(net: Any, named: dict[str, Any]) -> None:
    """All steps are waited for; an actor that ends before is an error (Lava itself may wait for ever)."""
    from lava.magma.runtime.mgmt_token_enums import MGMT_RESPONSE, enum_equal

    services = net.runtime.service_to_runtime
    actors = _actors(net)
    pause = 0.001
    while not all(port.probe() for port in services):
        if any(actor.exitcode is not None for actor in actors):
            break
        time.sleep(pause)
        pause = min(2 * pause, 0.01)
    else:
        if all(enum_equal(port.recv(), MGMT_RESPONSE.DONE) for port in services):
            return
    # the others are told to stop when one fails: let the one that knows why say so
    for tenths in range(1, 51):
        time.sleep(0.1)
        if tenths >= 5 and any(actor.exitcode not in (None, 0) for actor in actors):
            break
    raise JobError(_who_ended(net, named))


def _actors(net: Any) -> Any:
    return net.runtime._messaging_infrastructure.actors


def _exit_code(actor: Any) -> int | None:
    """How an actor ended; one that `net.stop` has put away did so as it should."""
    try:
        return int(actor.exitcode) if actor.exitcode is not None else None
    except ValueError:
        return 0


def _who_ended(net: Any, named: dict[str, Any]) -> str:
    """The actor that ended, and why, in one line."""
    actors = _actors(net)
    ended = [i for i, actor in enumerate(actors) if _exit_code(actor) is not None]
    if not ended:
        return "one of Lava's processes reported an error and nothing more"
    first = min(ended, key=lambda i: (actors[i].exception is None, _exit_code(actors[i]) == 0))
    return f"Lava's process for {_role(first, net, named)} {_fate(actors[first])}"


def _role(index: int, net: Any, named: dict[str, Any]) -> str:
    """An actor was there for this."""
    processes = list(net.runtime._executable.proc_builders)  # in the order of the actors
    if index >= len(processes):
        return "the runtime service"
    roles = {id(process): f"the {name}" for name, process in named.items()}
    for k, layer in enumerate(net.layers):
        roles |= {id(layer.synapse): f"the synapses of layer {k}", id(layer.neuron): f"the neurons of layer {k}"}
        roles |= {id(getattr(layer, "synapse_rec", None)): f"the recurrent synapses of layer {k}"}
    return roles.get(id(processes[index]), type(processes[index]).__name__)


def _fate(actor: Any) -> str:
    """An actor ended for this reason."""
    if actor.exception:
        error, trace = actor.exception
        print(trace, file=sys.stderr)
        return f"failed: {describe(error)}"
    if actor.exitcode < 0:
        hint = {-signal.SIGKILL: " (out of memory?)", -signal.SIGBUS: " (is /dev/shm full?)"}.get(actor.exitcode, "")
        return f"was killed by signal {-actor.exitcode}{hint}"
    return f"ended with exit code {actor.exitcode}"


def write_json(path: Path, content: dict[str, Any]) -> None:
    """The whole file is written or none of it."""
    temporary = path.with_suffix(".tmp")
    temporary.write_text(json.dumps(content))
    temporary.replace(path)


def main(folder: Path) -> int:
    """The work is done in `folder`; what goes wrong is in `result.json`."""
    # shared memory and semaphores get names that the guard can find again, whatever happens to this process
    prefix = f"/kdsnn-{folder.name.rsplit('-', 1)[-1]}"
    shared_memory._SHM_NAME_PREFIX = f"{prefix}-"  # type: ignore[attr-defined]
    shared_memory._SHM_SAFE_NAME_LENGTH = 30  # type: ignore[attr-defined]
    multiprocessing.current_process()._config["semprefix"] = prefix  # type: ignore[attr-defined]
    os.chdir(folder)
    try:
        work(folder)
    except JobError as error:
        problem = str(error)
    except BaseException as error:
        traceback.print_exc()
        problem = f"Lava failed: {describe(error)}"
    write_json(folder / "result.json", {"error": problem})
    return 1


if __name__ == "__main__":
    status = 1
    try:
        if len(sys.argv) == 2:
            status = main(Path(sys.argv[1]))
        else:
            import_netx()
            print("ok", flush=True)
            status = 0
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stderr.flush()
        os._exit(status)  # Lava's threads and processes would keep the interpreter from ending
