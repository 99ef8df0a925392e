"""Networks of others: how a `.net` file's input is coded, where nothing beside it says so, and spike trains as data."""

from __future__ import annotations

from dataclasses import replace
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from kdsnn.errors import KdsnnError

if TYPE_CHECKING:
    from exporters.graph import Array, SpikingGraph
    from kdsnn.cli.source import Source


class Coding(StrEnum):
    """What a network reads at every time step."""

    pixels = "pixels"
    spikes = "spikes"


InputCoding = Annotated[
    Coding | None,
    typer.Option(
        "--input-coding",
        help="For a .net file without its .json: pixels (of --input-bits, the image at every step) or spikes.",
    ),
]


def read_net(path: Path, T: int | None, coding: Coding | None, input_bits: int) -> SpikingGraph:
    """A `.net` file; where no `.net.json` is beside it, `T` and `coding` say what it would.

    Raises:
        KdsnnError: they are needed and missing, or `coding` is given though the file beside it says it.
        NetxError: the file cannot be read, or is not sound.
    """
    from exporters import netx

    beside = netx.sidecar_path(path)
    if beside.is_file():
        if coding is not None:
            raise KdsnnError(f"--input-coding {coding}: {beside.name} says how the input is coded; leave it out")
        return netx.read(path, T=T)
    needed = {"--timesteps (time steps per sample)": T, "--input-coding (pixels or spikes)": coding}
    missing = [option for option, value in needed.items() if value is None]
    # read before anything is asked for: a damaged file says what is wrong with it
    graph = netx.read(path, T=1 if T is None else T, encoding="spikes" if coding is Coding.spikes else "direct")
    if missing:
        raise KdsnnError(f"{path}: no {beside.name} beside it says how to run it; give {' and '.join(missing)}")
    if coding is Coding.spikes:
        return graph
    return graph.with_nodes({graph.input_name: replace(graph.input, scale=2**input_bits - 1)})


def reads_spikes(network: Source) -> bool:
    """Whether its samples are spikes over time, and no encoder on the host makes them of images."""
    from exporters.errors import DeployError

    chip = network.graph or network.chip
    return not isinstance(chip, DeployError) and network.encoder is None and chip.input.encoding == "spikes"


def require_pixels(network: Source) -> None:
    """Raise KdsnnError for a network that reads spikes, where only images can be given to it."""
    if reads_spikes(network):
        raise KdsnnError(
            f"{network.name}: it reads spikes over time, and data sets hold images; only `run` takes spikes"
        )


def spike_trains(spec: str, network: Source, samples: int) -> tuple[Array, Array]:
    """The first test samples of `npz:FILE`: spikes (N, T, *shape), float32 of 0 and 1, and labels (N,).

    Raises:
        KdsnnError: a data set of images; an unreadable file; arrays that do not fit the network.
    """
    import zipfile

    import numpy as np

    graph = network.integer
    wanted = f"x_test (N, {', '.join(map(str, (graph.T, *graph.input.shape)))}) of 0 and 1, and y_test (N,)"
    kind, _, name = spec.partition(":")
    if kind != "npz":
        raise KdsnnError(f"--data {spec}: {network.name} reads spikes over time; give npz:FILE with {wanted}")
    try:
        # a zip first: np.load takes anything else for a pickle and says so confusingly
        with zipfile.ZipFile(name), np.load(name, allow_pickle=False) as archive:
            x, y = archive["x_test"], archive["y_test"]
    except Exception as error:  # zipfile, zlib and numpy's header parser raise a dozen kinds on damaged files
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise KdsnnError(f"{name}: not a readable .npz with x_test and y_test ({reason})") from error
    if x.shape[1:] != (graph.T, *graph.input.shape) or y.shape != x.shape[:1] or not x.size:
        raise KdsnnError(f"{name}: x_test has shape {x.shape}, y_test {y.shape}; {network.name} takes {wanted}")
    x, y = x[:samples], y[:samples]
    if y.dtype.kind not in "iu" or x.dtype.kind not in "biuf" or not np.isin(x, (0, 1)).all():
        raise KdsnnError(f"{name}: {network.name} takes {wanted}, as whole numbers; it holds {x.dtype} and {y.dtype}")
    return x.astype(np.float32), y.astype(np.int64)
