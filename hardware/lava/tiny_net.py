"""Four neurons that repeat their input are the network that tells whether Lava works. It lies in the environment's
folder."""

from __future__ import annotations

import io
from pathlib import Path

NAME = "self-test.net"
NEURONS = 4


def write(folder: Path) -> None:
    """The network is written into a folder as a netx file, `NAME`.

    A neuron's own input, 2, is over its threshold; its neighbor's −1 arrives when it has been reset.
    """
    import h5py
    import numpy as np

    image = io.BytesIO()  # HDF5 that meets a full disk brings the process down
    with h5py.File(image, "w") as file:
        layer = file.create_group("layer/0")
        layer["type"] = np.array([b"dense"], "S10")
        layer["shape"] = np.array([NEURONS])
        layer["weight"] = 2 * np.eye(NEURONS, dtype=int) - np.eye(NEURONS, k=1, dtype=int)
        for name, value in {"type": b"CUBA", "iDecay": 4096, "vDecay": 0, "vThMant": 1}.items():
            layer[f"neuron/{name}"] = value
    (folder / NAME).write_bytes(image.getbuffer())
