"""Networks that read spikes over time: `.net` files of others, whose input coding nothing says, and spike trains as data."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from kdsnn.deploy.images import chosen
from kdsnn.errors import KdsnnError, OptionError

if TYPE_CHECKING:
    from exporters.graph import Array, SpikingGraph
    from kdsnn.deploy.lowered import Lowered


def read_net(path: Path, T: int | None, coding: Literal["pixels", "spikes"] | None, input_bits: int) -> SpikingGraph:
    """A `.net` file; where no `.net.json` is beside it, `T` and `coding` say what it would.

    Raises:
        KdsnnError: they are needed and missing, or `coding` is given though the file beside it says it.
        NetxError: the file cannot be read, or is not sound.
    """
    from exporters import netx

    beside = netx.sidecar_path(path)
    if beside.is_file():
        if coding is not None:
            raise OptionError(
                f"{{input_coding}}: {beside.name} says how the input is coded; leave it out", input_coding=coding
            )
        return netx.read(path, T=T)
    needed = {"{T} (time steps per sample)": T, "{input_coding} (pixels or spikes)": coding}
    missing = [option for option, value in needed.items() if value is None]
    # read before anything is asked for: a damaged file says what is wrong with it
    graph = netx.read(path, T=1 if T is None else T, encoding="spikes" if coding == "spikes" else "direct")
    if missing:
        raise OptionError(
            f"{path}: no {beside.name} beside it says how to run it; give {' and '.join(missing)}",
            T=None,
            input_coding=None,
        )
    if coding == "spikes":
        return graph
    return graph.with_nodes({graph.input_name: replace(graph.input, scale=2**input_bits - 1)})


def is_npz(spec: str) -> bool:
    """Whether the name of a data set is that of an `.npz` file."""
    from kdsnn.data import recognized

    return recognized(spec).startswith("npz:")


def spike_trains(spec: str, network: Lowered, samples: int) -> tuple[Array, Array]:
    """Test samples of `npz:FILE`, spread over the set: spikes (N, T, *shape), float32 of 0 and 1, and labels (N,).

    Raises:
        KdsnnError: a data set of images; an unreadable file; arrays that do not fit the network.
    """
    import zipfile

    import numpy as np

    from kdsnn.data import recognized

    graph = network.integer
    wanted = f"x_test (N, {', '.join(map(str, (graph.T, *graph.input.shape)))}) of 0 and 1, and y_test (N,)"
    name = recognized(spec).removeprefix("npz:")
    try:
        # a zip first: np.load takes anything else for a pickle and says so confusingly
        with zipfile.ZipFile(name), np.load(name, allow_pickle=False) as archive:
            x, y = archive["x_test"], archive["y_test"]
    except Exception as error:  # zipfile, zlib and numpy's header parser raise a dozen kinds on damaged files
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise KdsnnError(f"{name}: not a readable .npz with x_test and y_test ({reason})") from error
    if x.shape[1:] != (graph.T, *graph.input.shape) or y.shape != x.shape[:1] or not x.size:
        raise KdsnnError(f"{name}: x_test has shape {x.shape}, y_test {y.shape}; {network.name} takes {wanted}")
    rows = chosen(len(x), samples)
    x, y = x[rows], y[rows]
    if y.dtype.kind not in "iu" or x.dtype.kind not in "biuf" or not np.isin(x, (0, 1)).all():
        raise KdsnnError(f"{name}: {network.name} takes {wanted}, as whole numbers; it holds {x.dtype} and {y.dtype}")
    classes = graph.shapes[graph.output_name][0]
    if y.min() < 0 or y.max() >= classes:
        raise KdsnnError(
            f"{name}: its labels run from {y.min()} to {y.max()}; {network.name} tells {classes} classes apart, 0 to {classes - 1}"
        )
    return x.astype(np.float32), y.astype(np.int64)
