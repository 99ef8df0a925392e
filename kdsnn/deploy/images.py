"""The images that a verb works on: loading them, with noise if wanted, choosing some of them, comparing them with what a
network takes, and making of them what networks take."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from numbers import Integral
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kdsnn.errors import KdsnnError, OptionError, caution, notice

if TYPE_CHECKING:
    import numpy as np

    from exporters.graph import Array, SpikingGraph
    from kdsnn.data import DataSet
    from kdsnn.deploy.trained import TrainedNetwork
    from kdsnn.train import TeacherFrames

    ImageSize = int | tuple[int, int] | None

LONGEST_NAME = 40
"""Characters of a class's name that are printed."""

NAMED = 12
"""Classes whose names are printed; of more it is the first ones and the last."""


def load_data(
    data: Any, *, test: Any = None, image_size: ImageSize = None, noise: float = 0.0, noise_kind: str = "std",
    noise_on: str = "train,test",
) -> DataSet:  # fmt: skip
    """A data set from its name, from arrays, or from a torch `Dataset`.

    Args:
        data: a name of `kdsnn-deploy list data` ("digits", "npz:FILE", "mnist+rot"), a file or folder, arrays (images, labels)
            or (training images, their labels, test images, their labels), a torch `Dataset`, or a `DataSet`, which stays
            what it is.
        test: the test set, where `data` is a torch `Dataset` or a pair of arrays of training images only.
        image_size: resize all images to (H, W), or one number for both; those of folders may differ in size then.
        noise: Gaussian noise on pixels in 0 to 1, rounded to 8 bits; 0 for none.
        noise_kind: whether `noise` is the standard deviation ("std") or the variance ("var").
        noise_on: which images get it, "train", "test" or "train,test".

    Raises:
        KdsnnError: an unknown name, a file, array or option that cannot be used.
    """
    from dataclasses import replace

    from kdsnn.data import DataSet, Noise, as_data, load, of_size, require_size

    require_noise(noise, noise_kind, noise_on)
    added = Noise.on(noise_on, noise, noise_kind) if noise else None
    known = isinstance(data, DataSet)
    if isinstance(data, str | Path):
        found = load(str(data), noise=added, image_size=image_size)
    else:
        found = data if known else as_data(data, test=test)
        found = found if image_size is None else of_size(found, require_size(image_size))
        found = replace(added.added(found), name=found.name) if added else found
    if not known:
        for text in found.notes:
            notice(text)
        _tell_classes(found)
    return found


def require_noise(noise: float = 0.0, noise_kind: str = "std", noise_on: str = "train,test", **_: Any) -> None:
    """Raise OptionError where something is said of noise and there is none."""
    for option, value, usual in (("noise_kind", noise_kind, "std"), ("noise_on", noise_on, "train,test")):
        if not noise and value != usual:
            raise OptionError(
                f"{{{option}}}: there is no noise; add {{noise}}, or leave it out", noise=None, **{option: value}
            )


def _tell_classes(data: DataSet) -> None:
    """Say what is worth saying of the classes of a data set: their names, and that one class is no task."""
    named = class_list(data.class_names)
    if data.classes == 1:
        called = f" ({named})" if named else ""
        caution(
            f"{data.name} has one class only{called}: any network classifies it rightly, so that its accuracy says nothing."
        )
    elif named:
        notice(f"{data.name} has {data.classes} classes: {named}.")


def class_list(names: Sequence[str]) -> str:
    """The names of classes in one line; of many the first ones and the last."""
    listed = names if len(names) <= NAMED else (*names[: NAMED - 2], "…", names[-1])
    return ", ".join(map(_one_line, listed))


def _one_line(name: str) -> str:
    """The name of a class for a message, whatever a folder is called."""
    return (name if name.isprintable() else ascii(name))[:LONGEST_NAME]


def require_count(option: str, value: int | None) -> None:
    """Raise OptionError unless a number of things is a whole one of at least 1; None, for all, passes."""
    if value is not None and (isinstance(value, bool) or not isinstance(value, Integral) or value < 1):
        raise OptionError(f"{{{option}}}: it must be 1 or more", **{option: value})


def require_fit(
    name: str, shape: tuple[int, ...], data: DataSet, *, classes: int | None = None, class_names: Sequence[str] = (),
    T: int | None = None, over_time: bool = False, graded: bool = False,
) -> None:  # fmt: skip
    """Compare what a network takes and tells apart with the images and classes of a data set.

    Args:
        name: of the network.
        shape: of its input; a flat one takes images of as many pixels.
        data: what it is to be run on.
        classes: how many it tells apart, None where that is not known.
        class_names: of the data that it was trained on, in the order of its outputs, or empty.
        over_time: whether it reads frames over time; `T`: of how many, None where any number will do; `graded`: whether
            they hold pixels, not 0 and 1.

    Raises:
        KdsnnError: images for a network that reads frames, or the other way round; another number of frames; the images
            have another shape, or the classes are others or in another order.
    """
    if over_time != (data.T is not None):
        reads, holds = ("frames over time", "images") if over_time else ("images", "frames over time")
        own = f"(N, {T or 'T'}, {', '.join(map(str, shape))})"
        remedy = (
            f"; {data.name}+events{T or ''} are events of them, npz:FILE with x_test {own} your own"
            if over_time
            else ""
        )
        raise KdsnnError(f"{name} reads {reads}, and {data.name} holds {holds}{remedy}")
    if over_time and graded != data.graded:
        kinds = "frames of 0 and 1", "graded frames"
        raise KdsnnError(
            f"{name} reads {kinds[graded]}, and {data.name} holds {kinds[data.graded]}: "
            f"{'add -counts to' if graded else 'leave -counts out of'} the name of the data"
        )
    if None not in (T, data.T) and data.T != T:
        raise KdsnnError(f"{name} reads {T} frames, and the samples of {data.name} have {data.T}: cut them into {T}")
    if data.input_shape != shape and (math.prod(data.input_shape),) != shape:
        raise KdsnnError(
            f"{name} takes input of shape {shape}, {data.name} has images of {data.input_shape}{_remedy(shape, data)}"
        )
    if classes is not None and classes != data.classes:
        raise KdsnnError(
            f"{name} tells {classes} classes apart, {data.name} has {data.classes}: "
            "give data of the classes that the network was trained on"
        )
    pairs = list(zip(class_names, data.class_names, strict=False))
    wrong = [k for k, (ours, theirs) in enumerate(pairs) if ours.casefold() != theirs.casefold()]
    if not wrong:
        return
    ours, theirs = (repr(_one_line(name)) for name in pairs[wrong[0]])
    where = f"class {wrong[0]} is {ours} for the network and {theirs} in the data"
    if sorted(map(str.casefold, class_names)) == sorted(map(str.casefold, data.class_names)):
        raise KdsnnError(
            f"{name} was trained on the classes of {data.name} in another order: {where} ({len(wrong)} of {len(pairs)} "
            "differ): number the classes as in the data that it was trained on"
        )
    raise KdsnnError(
        f"{name} was trained on other classes than {data.name} has: {where} ({len(wrong)} of {len(pairs)} differ): "
        "give data of the same classes, named alike"
    )


def _remedy(shape: tuple[int, ...], data: DataSet) -> str:
    """How to bring images to the shape that a network takes, where that can be done."""
    channels, *size = data.input_shape
    if len(shape) != 3 or (channels != shape[0] and {channels, shape[0]} != {1, 3}):
        return ""
    resized = "" if tuple(size) == shape[1:] else f"+{shape[1]}x{shape[2]}"
    recolored = "" if channels == shape[0] else "+rgb" if channels == 1 else "+gray"
    what = " and ".join(["resize them"] * bool(resized) + ["convert the channels"] * bool(recolored))
    return f"; to {what}, add {resized}{recolored} to the name of the data"


def class_names_in(metadata: Any) -> tuple[str, ...]:
    """The class names that `lower` put into a graph's metadata, which may have come back out of anybody's file; or none."""
    names = metadata.get("class_names") if isinstance(metadata, Mapping) else None
    return tuple(names) if isinstance(names, list | tuple) and all(isinstance(name, str) for name in names) else ()


def require_trained_fit(name: str, trained: TrainedNetwork, data: DataSet) -> None:
    """Compare a trained network with a data set.

    Raises:
        KdsnnError: as `require_fit`.
    """
    info = trained.info
    require_fit(
        name, info.input_shape, data, classes=info.classes, class_names=info.class_names,
        T=info.T if info.over_time else None, over_time=info.over_time, graded=info.graded,
    )  # fmt: skip


def require_frames(data: DataSet, frames: TeacherFrames) -> None:
    """Make sure that there are frames where an ANN is to see each.

    Raises:
        OptionError: the data has none.
    """
    if frames == "each" and data.T is None:
        raise OptionError(
            f"{{teacher_frames}}: {data.name} are images, and only data over time has frames; leave it out",
            teacher_frames=frames,
        )


def pixels(images: Array) -> Array:
    """uint8 images → float32 pixels / 255, as the networks are trained on."""
    import numpy as np

    return (images / np.float32(255)).astype(np.float32)


def chosen(total: int, most: int | None, seed: int = 0) -> Array:
    """At most `most` of the numbers 0…total − 1, in ascending order: all of them, or one drawn from each of `most` stretches
    of equal length. So data that is sorted by class, or in which the classes take turns, gives of every class its share.

    `most` None takes all. The same `seed` draws the same numbers, whatever else is drawn.
    """
    import numpy as np

    if most is None or most >= total:
        return np.arange(total)
    ends = np.arange(most + 1) * total // most
    # RandomState: the one numpy generator whose stream is frozen, so the choice survives numpy's next version
    found: Array = np.random.RandomState(seed).randint(ends[:-1], ends[1:])
    return found


def some_tests(data: DataSet, most: int | None) -> tuple[Array, Array]:
    """At most `most` test images of a data set, uint8 (n, C, H, W), or frames (n, T, C, H, W), and their labels (n,), spread over the set by `chosen`."""
    from kdsnn.data.storage import picked

    if most is None or most >= len(data.y_test):
        return data.x_test, data.y_test
    rows = chosen(len(data.y_test), most)
    return picked([data.x_test], rows), data.y_test[rows]


def random_samples(graph: SpikingGraph, count: int, seed: int) -> Array:
    """Samples to try a network on, as it is given them: random 8-bit pixels (count, *shape), or with T frames of pixels or of
    spikes each (count, T, *shape)."""
    import numpy as np

    rng = np.random.default_rng(seed)
    size = (count, graph.T, *graph.input.shape) if graph.input.over_time else (count, *graph.input.shape)
    if graph.input.is_graded:
        return (rng.integers(0, 256, size) / np.float32(255)).astype(np.float32)
    found: Array = rng.integers(0, 2, size).astype(np.float32)
    return found


@dataclass(frozen=True, eq=False)
class Pixels:
    """The `pixels` of many images or graded frames, or the spikes of frames over time as they are, made where a slice of them
    is read: as floats they may be too many for the memory.

    Attributes:
        images: uint8 (N, C, H, W), or (N, T, C, H, W) over time, in memory or on disk.
        shape: of an image or a frame as the network takes it, with as many values.
        graded: whether frames over time hold pixels, not 0 and 1.
    """

    images: Array
    shape: tuple[int, ...]
    graded: bool

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, part: slice) -> np.ndarray:
        import numpy as np

        read = self.images[part]
        found = read.astype(np.float32) if read.ndim == 5 and not self.graded else pixels(read)
        return found.reshape(*found.shape[:-3], *self.shape)
