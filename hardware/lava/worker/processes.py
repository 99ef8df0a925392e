"""These Lava processes read frames from and write spikes to files: Lava's own pass single values by pipe.

Importable only once `patches.import_netx` has been called. A run may have several parts, with Lava's time
going on; a part begins with the first step after the last part's end.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
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
    """The player sends the frames of `frames.npy`, one in every step; before, behind and between samples of T it is
    silent."""

    def __init__(self, folder: Path, shape: tuple[int, ...], T: int) -> None:
        super().__init__(folder=str(folder), T=T)
        self.out = OutPort(shape=shape)


class SpikeWriter(AbstractProcess):  # type: ignore[misc]
    """The writer appends what comes in to a file, one record of uint8 in every step."""

    def __init__(self, path: Path, shape: tuple[int, ...]) -> None:
        super().__init__(path=str(path))
        self.inp = InPort(shape=shape)


class Reader(Read):  # type: ignore[misc]
    """The reader appends a variable to `membrane.bin` every `interval` steps."""


@implements(proc=Player, protocol=LoihiProtocol)
@requires(CPU)
@tag("fixed_pt")
class PlayerModel(PyLoihiProcessModel):  # type: ignore[misc]
    """A `Player` does it in this way."""

    out: Any = LavaPyType(PyOutPort.VEC_DENSE, np.int32)

    def __init__(self, proc_params: Any) -> None:
        super().__init__(proc_params)
        self.folder, self.T = Path(proc_params["folder"]), int(proc_params["T"])
        self.end = 0  # the last step of the part

    def run_spk(self) -> None:
        """One step is run."""
        if self.time_step > self.end:
            plan = json.loads((self.folder / "plan.json").read_text())
            frames = np.load(self.folder / "frames.npy", mmap_mode="r")
            self.frames = frames
            self.first, self.interval = self.end + 1 + plan["lead"], plan["interval"]
            self.end += plan["steps"]
        sample, t = divmod(self.time_step - self.first, self.interval)
        # waiting for the reset, for spikes on their way, or for the last frame to get through the layers
        if not 0 <= sample < len(self.frames) or t >= self.T:
            self.out.send(np.zeros(self.out.shape, np.int32))
            return
        frame = self.frames[sample, t].astype(np.int32)
        # Lava's arrays are (W, H, C); a dense first layer takes the frame flattened as torch does it
        self.out.send(frame.T if len(self.out.shape) == 3 else frame.reshape(-1))


@implements(proc=SpikeWriter, protocol=LoihiProtocol)
@requires(CPU)
@tag("fixed_pt")
class SpikeWriterModel(PyLoihiProcessModel):  # type: ignore[misc]
    """A `SpikeWriter` does it in this way."""

    inp: Any = LavaPyType(PyInPort.VEC_DENSE, np.int32)

    def __init__(self, proc_params: Any) -> None:
        super().__init__(proc_params)
        self.file = _appending(Path(proc_params["path"]))

    def run_spk(self) -> None:
        """One step is run."""
        self.file.write(self.inp.recv().T.astype(np.uint8).tobytes())


@implements(proc=Reader, protocol=LoihiProtocol)
@requires(CPU)
@tag("fixed_pt")
class ReaderModel(AbstractPyRead):  # type: ignore[misc]
    """A `Reader` does it in this way."""

    state: Any = LavaPyType(PyRefPort.VEC_DENSE, np.int32)
    data: Any = LavaPyType(np.ndarray, np.int32)

    def __init__(self, proc_params: Any) -> None:
        super().__init__(proc_params)
        self.file = _appending(Path("membrane.bin"))

    def run_post_mgmt(self) -> None:
        """Lava calls this after every `interval`th step."""
        self.file.write(self.state.read().T.astype(np.int32).tobytes())


Player.own_model, SpikeWriter.own_model, Reader.own_model = PlayerModel, SpikeWriterModel, ReaderModel


def _appending(path: Path) -> Any:
    """The file is unbuffered: its size is the progress, and a full disk is an error here and now.

    Appending, so that writing goes on at the start when the file has been emptied for the next part.
    """
    return path.open("ab", buffering=0)
