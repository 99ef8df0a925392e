"""Networks that read frames over time, of spikes or graded values: `.net` files of others, whose input coding nothing says, and
frames as data."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kdsnn.deploy.brought import ENCODINGS
from kdsnn.deploy.images import chosen
from kdsnn.errors import KdsnnError, OptionError

if TYPE_CHECKING:
    from exporters.graph import Array, SpikingGraph
    from kdsnn.deploy.brought import InputCoding
    from kdsnn.deploy.lowered import Lowered


def read_net(path: Path, T: int | None, coding: InputCoding | None, input_bits: int) -> SpikingGraph:
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
    graph = netx.read(path, T=1 if T is None else T, encoding=ENCODINGS[coding or "pixels"])
    if missing:
        raise OptionError(
            f"{path}: no {beside.name} beside it says how to run it; give {' and '.join(missing)}",
            T=None,
            input_coding=None,
        )
    if coding == "spikes":
        return graph
    return graph.with_nodes({graph.input_name: replace(graph.input, scale=2**input_bits - 1)})


def is_bare(data: Any) -> bool:
    """Whether test samples come without a data set around them: arrays (x, y) or four of them, or an `.npz` file."""
    from kdsnn.data import recognized

    if isinstance(data, tuple | list):
        return len(data) in (2, 4) and not isinstance(data[0], tuple)
    return isinstance(data, str | Path) and recognized(str(data)).startswith("npz:")


def frames_of_data(data: Any, network: Lowered, samples: int | None) -> tuple[Array, Array, str]:
    """Test samples for a network that reads T frames: frames, labels, and what the data is called; see `frames_over_time`.

    Raises:
        KdsnnError: as `frames_over_time`.
    """
    graph = network.graph or network.integer
    classes = graph.shapes[graph.output_name]
    wanted = WantedFrames(
        network.name, graph.T, graph.input.shape, classes[0] if len(classes) == 1 else None, graph.input.is_graded
    )
    return frames_over_time(data, wanted, samples)


@dataclass(frozen=True)
class WantedFrames:
    """What a network that reads frames over time takes.

    Attributes:
        name: of the network.
        T: frames per sample.
        shape: of a frame.
        classes: that it tells apart, None where it does not say.
        graded: whether frames hold other values than 0 and 1.
    """

    name: str
    T: int
    shape: tuple[int, ...]
    classes: int | None
    graded: bool

    def __str__(self) -> str:
        values = "pixels (uint8, or numbers as the network takes them)" if self.graded else "0 and 1"
        return f"x_test (N, {', '.join(map(str, (self.T, *self.shape)))}) of {values}, and y_test (N,)"


def frames_over_time(data: Any, wanted: WantedFrames, samples: int | None) -> tuple[Array, Array, str]:
    """Test samples of `npz:FILE` or of arrays (x, y), spread over the set.

    Args:
        data: "npz:FILE" with x_test and y_test, or these arrays themselves.
        wanted: what the network takes.
        samples: at most so many, all if None.

    Returns:
        Frames (N, T, *shape), float32: 0 and 1, or graded values, of which whole numbers 0…255 stand for pixels of 0 to 1.
        Labels (N,). What the data is called.

    Raises:
        KdsnnError: a data set of images; an unreadable file; arrays that do not fit the network.
    """
    import numpy as np

    x, y, called = _arrays(data, wanted)
    if x.shape[1:] != (wanted.T, *wanted.shape) or y.shape != x.shape[:1] or not x.size:
        raise KdsnnError(f"{called}: x_test has shape {x.shape}, y_test {y.shape}; {wanted.name} takes {wanted}")
    rows = chosen(len(x), samples)
    x, y = x[rows], y[rows]
    fits = x.dtype.kind in "biuf" and (_are_pixels(x) if wanted.graded else bool(np.isin(x, (0, 1)).all()))
    if y.dtype.kind not in "iu" or not fits:
        whole = "" if wanted.graded else ", as whole numbers"
        raise KdsnnError(f"{called}: {wanted.name} takes {wanted}{whole}; it holds {x.dtype} and {y.dtype}")
    if y.min() < 0 or (wanted.classes is not None and y.max() >= wanted.classes):
        most = (
            ""
            if wanted.classes is None
            else f"; {wanted.name} tells {wanted.classes} classes apart, 0 to {wanted.classes - 1}"
        )
        raise KdsnnError(f"{called}: its labels run from {y.min()} to {y.max()}{most}")
    found = x.astype(np.float32)
    return found / np.float32(255) if wanted.graded and x.dtype == np.uint8 else found, y.astype(np.int64), called


def _are_pixels(x: Array) -> bool:
    """Bytes, or floats that are numbers; other whole numbers do not say what they are of."""
    import numpy as np

    return x.dtype == np.uint8 or (x.dtype.kind == "f" and bool(np.isfinite(x).all()))


def _arrays(data: Any, wanted: WantedFrames) -> tuple[Array, Array, str]:
    import zipfile

    import numpy as np

    from kdsnn.data import recognized

    if isinstance(data, tuple | list):
        return np.asarray(data[-2]), np.asarray(data[-1]), "the arrays"
    name = recognized(str(data)).removeprefix("npz:")
    try:
        # a zip first: np.load takes anything else for a pickle and says so confusingly
        with zipfile.ZipFile(name), np.load(name, allow_pickle=False) as archive:
            return archive["x_test"], archive["y_test"], name
    except Exception as error:  # zipfile, zlib and numpy's header parser raise a dozen kinds on damaged files
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise KdsnnError(f"{name}: not a readable .npz with x_test and y_test ({reason})") from error
