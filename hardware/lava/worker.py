"""Runs one netx file on Lava. Executed by the Lava environment's Python; imports nothing of this project.

    python worker.py FOLDER    run the job in FOLDER
    python worker.py           import Lava with the patches and print "ok"

FOLDER holds `job.json`, `net.h5` and `frames.npy` (N, T, *shape); the worker adds `plan.json` once the
network is built, `output.bin` and `probe<k>.bin` (uint8, one record per Lava step, so their size is
the progress), `membrane.npy` (N, F), and at the very end `result.json`, which holds either the facts
of the run or one line under "error".

Lava 0.10 was archived before Python 3.11 and numpy 2.4. What they broke is patched here at import,
in memory; nothing is edited on disk. The guard ends this process and all of Lava's actors, so
nothing here calls `net.stop()`: it hangs when an actor is dead, and the guard does the rest.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import io
import json
import multiprocessing
import os
import signal
import sys
import time
import traceback
import types
import warnings
from collections.abc import Callable, Iterator, Sequence
from multiprocessing import shared_memory
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]
LAYER_TYPES = {"input", "conv", "dense", "dense_rec", "flatten"}


class JobError(Exception):
    """A problem that one line explains; the client shows it as it is."""


# -- patches -----------------------------------------------------------------------------------------


def import_netx() -> Any:
    """Import `lava.lib.dl.netx.hdf5` with everything patched that current Python and numpy broke."""
    _stand_in_for_slayer()
    with _hashable_dataclasses("lava.magma.compiler.var_model"):
        import lava.magma.compiler.var_model  # noqa: F401
    from lava.lib.dl.netx import hdf5
    from lava.magma.compiler.compiler_graphs import ProcGroupDiGraphs
    from lava.magma.core.process.ports.ports import ReshapePort
    from lava.proc.conv import utils

    # numpy 2.4 removed reshape(newshape=)
    ReshapePort.get_transform_func_fwd = lambda port: functools.partial(_reshape, shape=port.shape)
    ReshapePort.get_transform_func_bwd = lambda port: functools.partial(_reshape, shape=port.old_shape)
    utils.conv = _with_wide_integers(utils.conv)
    # Lava re-executes every .py file beside a process's module, once per process, to find its models
    find = ProcGroupDiGraphs._find_proc_models
    known: dict[type, Any] = {}

    def find_once(proc: Any) -> Any:
        if type(proc) not in known:
            own = getattr(type(proc), "own_model", None)
            known[type(proc)] = [own] if own else find(proc)
        return known[type(proc)]

    ProcGroupDiGraphs._find_proc_models = staticmethod(find_once)
    return hdf5


def _stand_in_for_slayer() -> None:
    """netx imports slayer, hence torch, for one function of RF neurons and one annotation."""

    def neuron_params(*_: Any) -> Any:
        raise JobError("resonate-and-fire (RF) neurons are not supported")

    tensor = type("Tensor", (), {})  # a class of its own: scipy asks whether arrays are instances of it
    for name, members in (
        ("torch", {"tensor": tensor, "Tensor": tensor}),
        ("lava.lib.dl.slayer", {"__path__": []}),
        ("lava.lib.dl.slayer.neuron", {"__path__": []}),
        ("lava.lib.dl.slayer.neuron.rf", {"neuron_params": neuron_params}),
    ):
        module = types.ModuleType(name)
        vars(module).update(members)
        sys.modules[name] = module


@contextlib.contextmanager
def _hashable_dataclasses(module: str) -> Iterator[None]:
    """Since Python 3.11 a dataclass field's default must be hashable; the defaults in `module` are not."""
    original = dataclasses.dataclass

    def dataclass(cls: Any = None, /, **options: Any) -> Any:
        if cls is None:
            return functools.partial(dataclass, **options)
        if cls.__module__ == module:
            options["unsafe_hash"] = True
        return original(cls, **options)

    dataclasses.dataclass = dataclass  # type: ignore[assignment]
    try:
        yield
    finally:
        dataclasses.dataclass = original


def _reshape(data: Array, shape: Sequence[int]) -> Array:
    return data.reshape(tuple(shape))


def _with_wide_integers(conv: Callable[..., Array]) -> Callable[..., Array]:
    """Lava hands a convolution its geometry as int8, whose sums with image sizes overflow under numpy 2."""

    def wide(x: Array, weight: Array, *geometry: Any) -> Array:
        *pairs, groups = geometry
        return conv(x, weight, *((int(p[0]), int(p[1])) for p in pairs), int(groups))

    return wide


def fast_conv(
    x: Array,
    weight: Array,
    kernel_size: tuple[int, int],
    stride: tuple[int, int],
    padding: tuple[int, int],
    dilation: tuple[int, int],
    groups: int,
) -> Array:
    """Bit-identical replacement of `lava.proc.conv.utils.conv` by one matrix product per group.

    x (W, H, Cin); weight (Cout, kW, kH, Cin/groups), true convolution (the kernel is flipped); the
    result is (Wout, Hout, Cout) in weight's type. Lava sums in float64, exact below 2^53; so does this.
    """
    kernels = _kernel_matrices(weight, groups, binary=x.dtype == bool)
    (kw, kh), (sw, sh), (pw, ph), (dw, dh) = kernel_size, stride, padding, dilation
    padded = np.pad(x.astype(kernels.dtype), ((pw, pw), (ph, ph), (0, 0)))
    windows = np.lib.stride_tricks.sliding_window_view(padded, (dw * (kw - 1) + 1, dh * (kh - 1) + 1), (0, 1))
    windows = windows[::sw, ::sh, :, ::dw, ::dh]  # (Wout, Hout, Cin, kW, kH)
    w_out, h_out = windows.shape[:2]
    grouped = windows.reshape(w_out, h_out, groups, -1, kw, kh).transpose(2, 0, 1, 3, 4, 5)
    currents = grouped.reshape(groups, w_out * h_out, -1) @ kernels  # (groups, positions, Cout/groups)
    return currents.transpose(1, 0, 2).reshape(w_out, h_out, -1).astype(weight.dtype)


_kernels: dict[tuple[int, bool], tuple[Array, Array]] = {}


def _kernel_matrices(weight: Array, groups: int, binary: bool) -> Array:
    """(groups, Cin/groups·kW·kH, Cout/groups), made once: every actor owns one weight and never changes it."""
    key = (id(weight), binary)
    if key not in _kernels:
        # binary spikes and Σ|w| < 2^24: no partial sum can round in single precision either
        single = binary and np.abs(weight).sum(axis=(1, 2, 3), dtype=np.float64).max() < 2**24
        flipped = weight[:, ::-1, ::-1].transpose(0, 3, 1, 2)
        matrices = flipped.reshape(groups, weight.shape[0] // groups, -1).transpose(0, 2, 1)
        # the weight is kept too, so that its id stays its own
        _kernels[key] = weight, np.ascontiguousarray(matrices, np.float32 if single else np.float64)
    return _kernels[key][1]


# -- the network -------------------------------------------------------------------------------------


def build_network(hdf5: Any, path: Path, job: dict[str, Any], frame_shape: tuple[int, ...]) -> Any:
    """The netx network of the job's file, or a `JobError` for whatever Lava would refuse, skip or clip."""
    name = job["name"]
    _check_layers(name, path)
    printed = io.StringIO()
    try:
        with contextlib.redirect_stdout(printed), warnings.catch_warnings():
            warnings.simplefilter("error", UserWarning)
            net = hdf5.Network(
                net_config=str(path),
                input_message_bits=job["message_bits"],
                input_shape=frame_shape[::-1],
                reset_interval=job["T"],
                reset_offset=1,
            )
    except JobError:
        raise
    except Exception as error:
        traceback.print_exc()
        raise JobError(f"Lava cannot load {name}: {describe(error)}") from error
    if "[WARNING]" in printed.getvalue():
        said = " ".join(printed.getvalue().replace("[WARNING]", "").split())
        raise JobError(f"Lava would change the weights of {name}: {said}")
    return net


def _check_layers(name: str, path: Path) -> None:
    """netx skips layers of a type it does not know, and leaves an input with neurons unconnected."""
    import h5py

    try:
        with h5py.File(path, "r") as file:
            for index in sorted(map(int, file["layer"])):
                layer = file["layer"][str(index)]
                kind = np.ravel(layer["type"][()])[0].decode("ascii")
                if kind not in LAYER_TYPES:
                    raise JobError(f"{name}: layer {index} is of type {kind!r}, which Lava's netx does not load")
                if kind == "input" and "neuron" in layer:
                    raise JobError(f"{name}: layer {index} is an input with neurons, which netx leaves unconnected")
    except JobError:
        raise
    except Exception as error:
        raise JobError(f"{name} is damaged or not a netx file: {describe(error)}") from error


def describe(error: BaseException) -> str:
    """An exception in one line."""
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def step_seconds(layers: Sequence[Any], fast: bool) -> float:
    """A generous estimate of the seconds that one Lava step takes; only used to tell slow from hung."""
    total = 0.0
    for layer in layers:
        weight = getattr(layer.synapse, "weight", None)
        if weight is None:  # dense
            total += 1e-8 * float(np.prod(layer.inp.shape)) * float(np.prod(layer.shape))
        elif fast:
            total += 1e-8 * float(np.prod(weight.shape)) * float(np.prod(layer.shape[:2]))
        else:  # one scipy convolution over the whole image for every pair of channels
            out, kw, kh, per_group = weight.shape
            total += out * per_group * (5e-5 + 1e-8 * kw * kh * float(np.prod(layer.inp.shape[:2])))
    return total


# -- the run -----------------------------------------------------------------------------------------


def own_processes() -> tuple[Any, Any, Any]:
    """Lava processes that read frames from and write spikes to files: Lava's own pass single values by pipe."""
    from lava.magma.core.decorator import implements, requires, tag
    from lava.magma.core.model.py.model import PyLoihiProcessModel
    from lava.magma.core.model.py.ports import PyInPort, PyOutPort, PyRefPort
    from lava.magma.core.model.py.type import LavaPyType
    from lava.magma.core.process.ports.ports import InPort, OutPort
    from lava.magma.core.process.process import AbstractProcess
    from lava.magma.core.resources import CPU
    from lava.magma.core.sync.protocols.loihi_protocol import LoihiProtocol
    from lava.proc.io.sink import AbstractPyRead, Read

    class Player(AbstractProcess):  # type: ignore[misc]
        def __init__(self, path: Path, shape: tuple[int, ...]) -> None:
            super().__init__(path=str(path))
            self.out = OutPort(shape=shape)

    class Recorder(AbstractProcess):  # type: ignore[misc]
        def __init__(self, path: Path, shape: tuple[int, ...]) -> None:
            super().__init__(path=str(path))
            self.inp = InPort(shape=shape)

    @implements(proc=Player, protocol=LoihiProtocol)
    @requires(CPU)
    @tag("fixed_pt")
    class PlayerModel(PyLoihiProcessModel):  # type: ignore[misc]
        out: Any = LavaPyType(PyOutPort.VEC_DENSE, np.int32)

        def __init__(self, proc_params: Any) -> None:
            super().__init__(proc_params)
            frames = np.load(proc_params["path"], mmap_mode="r")
            self.frames = frames.reshape(-1, *frames.shape[2:])

        def run_spk(self) -> None:
            step = self.time_step - 1
            if step >= len(self.frames):  # the last frame is still on its way through the layers
                self.out.send(np.zeros(self.out.shape, np.int32))
                return
            frame = self.frames[step].astype(np.int32)
            # Lava's arrays are (W, H, C); a dense first layer takes the frame flattened as torch does it
            self.out.send(frame.T if len(self.out.shape) == 3 else frame.reshape(-1))

    @implements(proc=Recorder, protocol=LoihiProtocol)
    @requires(CPU)
    @tag("fixed_pt")
    class RecorderModel(PyLoihiProcessModel):  # type: ignore[misc]
        inp: Any = LavaPyType(PyInPort.VEC_DENSE, np.int32)

        def __init__(self, proc_params: Any) -> None:
            super().__init__(proc_params)
            # unbuffered: the file's size is the progress, and a full disk is an error here and now
            self.file = Path(proc_params["path"]).open("wb", buffering=0)  # noqa: SIM115

        def run_spk(self) -> None:
            self.file.write(self.inp.recv().T.astype(np.uint8).tobytes())

    class Reader(Read):  # type: ignore[misc]
        """Reads a variable every `interval` steps into `membrane.bin`."""

    @implements(proc=Reader, protocol=LoihiProtocol)
    @requires(CPU)
    @tag("fixed_pt")
    class ReaderModel(AbstractPyRead):  # type: ignore[misc]
        state: Any = LavaPyType(PyRefPort.VEC_DENSE, np.int32)
        data: Any = LavaPyType(np.ndarray, np.int32)

        def __init__(self, proc_params: Any) -> None:
            super().__init__(proc_params)
            self.file = Path("membrane.bin").open("wb", buffering=0)  # noqa: SIM115

        def run_post_mgmt(self) -> None:
            self.file.write(self.state.read().T.astype(np.int32).tobytes())

    Player.own_model, Recorder.own_model, Reader.own_model = PlayerModel, RecorderModel, ReaderModel
    return Player, Recorder, Reader


def run_job(folder: Path) -> dict[str, Any]:
    """Run `folder/job.json` in `folder`, the working directory; returns what goes into `result.json`."""
    job = json.loads((folder / "job.json").read_text())
    hdf5 = import_netx()
    from lava.magma.core.run_conditions import RunSteps
    from lava.magma.core.run_configs import Loihi2SimCfg
    from lava.proc.conv import utils

    frames = np.load(folder / "frames.npy", mmap_mode="r")
    samples, frame_shape = len(frames), frames.shape[2:]
    net = build_network(hdf5, folder / "net.h5", job, frame_shape)
    if net.inp.shape not in (frame_shape[::-1], (int(np.prod(frame_shape)),)):
        raise JobError(f"{job['name']} takes frames of shape {net.inp.shape[::-1]}, not {frame_shape}")
    if job["fast_conv"]:
        utils.conv = _with_wide_integers(fast_conv)
    source, recorders = connect(net, job, folder)
    shapes = {name: [int(n) for n in recorder.inp.shape[::-1]] for name, recorder in recorders.items()}
    neurons = {name: int(np.prod(shape)) for name, shape in shapes.items()}
    layers = len(net.layers)
    steps = samples * job["T"] + layers
    plan = {"steps": steps, "neurons": neurons["output"], "step_seconds": step_seconds(net.layers, job["fast_conv"])}
    write_json(folder / "plan.json", plan)

    net.create_runtime(
        # without the tag Lava picks its floating-point models, which mean something else
        run_cfg=Loihi2SimCfg(select_tag="fixed_pt"),
        # messages buffered per channel; the default of 64 fills a container's /dev/shm
        compile_config={"pypy_channel_size": 8},
    )
    start = time.perf_counter()
    net.run(RunSteps(steps, blocking=False))
    _wait(net, {"input": source, **recorders})
    seconds = time.perf_counter() - start

    for name, size in neurons.items():
        if (folder / f"{name}.bin").stat().st_size != steps * size:
            raise JobError(f"the disk under {folder.parent} is full: the spikes of {name} could not be written")
    if job["membrane"]:
        values = np.fromfile(folder / "membrane.bin", np.int32).reshape(-1, neurons["output"])
        first = (job["T"] + layers - 1) // job["T"]  # earlier ones were read before the first sample had ended
        np.save(folder / "membrane.npy", values[first : first + samples].astype(np.int64))
    return {"steps": steps, "seconds": seconds, "layers": layers, "shapes": shapes}


def connect(net: Any, job: dict[str, Any], folder: Path) -> tuple[Any, dict[str, Any]]:
    """Give the network its input and its recorders; returns both, the recorders by the names of their files."""
    layers = len(net.layers)
    probes = range(layers) if job["probes"] is True else job["probes"]
    if not all(0 <= k < layers for k in probes):
        raise JobError(f"{job['name']} has {layers} layers, 0 to {layers - 1}; cannot probe {probes}")
    Player, Recorder, Reader = own_processes()
    source = Player(folder / "frames.npy", net.inp.shape)
    source.out.connect(net.inp)
    recorders = {}
    for name, port in {"output": net.out, **{f"probe{k}": net.layers[k].neuron.s_out for k in probes}}.items():
        recorders[name] = Recorder(folder / f"{name}.bin", port.shape)
        port.connect(recorders[name].inp)
    if job["membrane"]:
        # the last layer ends sample i in step (i + 1)·T + layers
        membrane = Reader(buffer=1, interval=job["T"], offset=(layers - 1) % job["T"])
        membrane.connect_var(net.out_layer.neuron.v)
    return source, recorders


def _wait(net: Any, named: dict[str, Any]) -> None:
    """Wait until all steps are done; an actor that ends before is an error (Lava itself may wait for ever)."""
    from lava.magma.runtime.mgmt_token_enums import MGMT_RESPONSE, enum_equal

    services = net.runtime.service_to_runtime
    actors = net.runtime._messaging_infrastructure.actors
    pause = 0.001
    while not all(port.probe() for port in services):
        if any(actor.exitcode is not None for actor in actors):
            break
        time.sleep(pause)
        pause = min(2 * pause, 0.01)
    else:
        if all(enum_equal(port.recv(), MGMT_RESPONSE.DONE) for port in services):
            return
    time.sleep(0.5)  # the others are told to stop when one fails: let the one that knows why say so
    ended = [i for i, actor in enumerate(actors) if actor.exitcode is not None]
    if not ended:
        raise JobError("one of Lava's processes reported an error and nothing more")
    first = min(ended, key=lambda i: (actors[i].exception is None, actors[i].exitcode == 0))
    raise JobError(f"Lava's process for {_role(first, net, named)} {_fate(actors[first])}")


def _role(index: int, net: Any, named: dict[str, Any]) -> str:
    """What an actor was there for."""
    processes = list(net.runtime._executable.proc_builders)  # in the order of the actors
    if index >= len(processes):
        return "the runtime service"
    roles = {id(process): f"the {name}" for name, process in named.items()}
    for k, layer in enumerate(net.layers):
        roles |= {id(layer.synapse): f"the synapses of layer {k}", id(layer.neuron): f"the neurons of layer {k}"}
    return roles.get(id(processes[index]), type(processes[index]).__name__)


def _fate(actor: Any) -> str:
    """Why an actor ended."""
    if actor.exception:
        error, trace = actor.exception
        print(trace, file=sys.stderr)
        return f"failed: {describe(error)}"
    if actor.exitcode < 0:
        hint = {-signal.SIGKILL: " (out of memory?)", -signal.SIGBUS: " (is /dev/shm full?)"}.get(actor.exitcode, "")
        return f"was killed by signal {-actor.exitcode}{hint}"
    return f"ended with exit code {actor.exitcode}"


def write_json(path: Path, content: dict[str, Any]) -> None:
    """Write the whole file or none of it."""
    temporary = path.with_suffix(".tmp")
    temporary.write_text(json.dumps(content))
    temporary.replace(path)


def main(folder: Path) -> int:
    """Run the job in `folder`; its outcome, good or bad, is in `result.json`."""
    # shared memory and semaphores get names that the guard can find again, whatever happens to this process
    prefix = f"/kdsnn-{folder.name.rsplit('-', 1)[-1]}"
    shared_memory._SHM_NAME_PREFIX = f"{prefix}-"  # type: ignore[attr-defined]
    shared_memory._SHM_SAFE_NAME_LENGTH = 30  # type: ignore[attr-defined]
    multiprocessing.current_process()._config["semprefix"] = prefix  # type: ignore[attr-defined]
    os.chdir(folder)
    try:
        result = run_job(folder)
    except JobError as error:
        result = {"error": str(error)}
    except BaseException as error:
        traceback.print_exc()
        result = {"error": f"Lava failed: {describe(error)}"}
    write_json(folder / "result.json", result)
    return 1 if "error" in result else 0


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
