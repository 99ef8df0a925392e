"""Data sets by name: `load("digits")`, `load("cifar10")`, `load("npz:FILE")`, `load("mnist+rot")`, …; of a file or folder
whose kind is recognized: `load("FILE.npz")`; of arrays: `as_data`.

numpy only; scikit-learn, Pillow, `datasets` and torch are imported where they are needed, so that the
command line starts fast.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType

from kdsnn.data.augment import Augmentation
from kdsnn.data.dataset import DataSet
from kdsnn.data.digits import load_digits
from kdsnn.data.events.public import PUBLIC
from kdsnn.data.events.recordings import Reading, load_recordings, reading_of
from kdsnn.data.folder import load_folder
from kdsnn.data.given import as_data
from kdsnn.data.hub import HUB, load_hub
from kdsnn.data.images import Size, require_size
from kdsnn.data.noise import Noise
from kdsnn.data.npz import load_npy, load_npz
from kdsnn.data.variants import VARIANTS, of_size, size_in, variant_of
from kdsnn.data_names import DESCRIPTIONS
from kdsnn.errors import KdsnnError, did_you_mean

__all__ = [
    "DESCRIPTIONS", "SPLIT_SEED", "Augmentation", "DataSet", "Noise", "as_data", "load", "of_size", "recognized",
    "require_size", "variants_in",
]  # fmt: skip

SPLIT_SEED = 0
"""Seed of the train/test split where the source has none, and of the variants. It is not the training
seed: runs with different training seeds are measured on the same test images."""


def _public(name: str) -> Callable[[Path, int, Size | None, Reading], DataSet]:
    return lambda path, seed, size, reading: load_recordings(path, seed, reading, name)


FILES: Mapping[str, Callable[[Path, int, Size | None, Reading], DataSet]] = MappingProxyType(
    {
        "npz": lambda path, seed, size, reading: load_npz(path),
        "npy": lambda path, seed, size, reading: load_npy(path),
        "folder": lambda path, seed, size, reading: load_folder(path, seed, size),
        "events": lambda path, seed, size, reading: load_recordings(path, seed, reading),
        **{name: _public(name) for name in PUBLIC},
    }
)


def load(
    spec: str,
    *,
    seed: int = SPLIT_SEED,
    noise: Noise | None = None,
    image_size: int | tuple[int, int] | None = None,
) -> DataSet:
    """Load the data set that `spec` names: one of `DESCRIPTIONS`, with `+VARIANT` once or more behind it.

    `image_size`, (H, W) or one number for both, is the variant `+HxW`, put before the others. Variants apply from left to
    right, `noise` comes last. A file whose own name ends like a variant is taken as that file. `seed` draws the split where
    the source has none, and the variants. The data set is called by the spec, with the kind of a file or folder before it.

    Raises KdsnnError when the name is unknown or the data cannot be had or used.
    """
    source, variants = _parse(spec)
    source = recognized(source)
    if image_size is not None:
        variants = ["{}x{}".format(*require_size(image_size)), *variants]
    reading, later = reading_of(variants) if source.partition(":")[0] in ("events", *PUBLIC) else (Reading(), variants)
    data = _load(source, spec, seed, size_in(variants[0]) if variants else None, reading)
    for name in later:
        if variant := variant_of(name):
            data = variant(data, seed)
    if noise:
        data = noise.added(data)
    return replace(data, name="+".join([source, *variants]))


def variants_in(spec: str) -> tuple[str, ...]:
    """Return the variants behind the name of a data set, in order, whether or not the data is still there; of a name that
    is none, nothing."""
    try:
        return tuple(_parse(spec)[1])
    except KdsnnError:
        return ()


def recognized(source: str) -> str:
    """Put its kind before a file or folder: "images.npz" gives "npz:images.npz". Any other text stays what it is, and so does
    the name of a data set, though a file has it too.

    Raises KdsnnError for a file that holds no data set.
    """
    if source == "digits" or source in HUB or _exists(source, bare=False) or not _exists(source):
        return source
    path = Path(source)
    if path.is_dir():
        return f"npy:{source}" if (path / "x_train.npy").exists() else f"folder:{source}"
    if path.suffix.lower() == ".npz":
        return f"npz:{source}"
    raise KdsnnError(f"{source}: not a data set: give an .npz file, a folder of .npy files, or a folder of images.")


def _parse(spec: str) -> tuple[str, list[str]]:
    """Split a spec: "mnist+12k-50k+rot" gives ("mnist", ["12k-50k", "rot"])."""
    source = spec
    variants: list[str] = []
    while "+" in source and not _exists(source):
        head, _, last = source.rpartition("+")
        if variant_of(last) is None:
            if ":" not in source or _exists(head):  # else the + may be part of a file's name
                known = [*VARIANTS, "eventsT", "HxW"]
                raise KdsnnError(f"Unknown variant '{last}' of data set '{head}': {_suggestion(last, known)}.")
            break
        source, variants = head, [last, *variants]
    return source, variants


def _exists(source: str, *, bare: bool = True) -> bool:
    """Say whether a source is a file or folder that exists, with its kind before it or (`bare`) without."""
    kind, _, rest = source.partition(":")
    try:
        with_kind = bool(rest) and kind in (*FILES, "hf") and Path(rest).exists()
        return with_kind or (bare and bool(source) and Path(source).exists())
    except (OSError, ValueError):  # a name too long for a file, or with a NUL in it
        return False


def _load(source: str, spec: str, seed: int, size: Size | None, reading: Reading) -> DataSet:
    kind, _, rest = source.partition(":")
    if source == "digits":
        return load_digits(seed)
    if source in HUB:
        return load_hub(source, HUB[source], seed, size)
    if kind == "hf" and rest:
        return load_hub(source, rest, seed, size)
    if kind in FILES and rest:
        return FILES[kind](Path(rest), seed, size, reading)
    raise KdsnnError(f"Unknown data set '{spec}': {_suggestion(source, [k for k in DESCRIPTIONS if '+' not in k])}.")


def _suggestion(wrong: str, known: Mapping[str, object] | list[str]) -> str:
    near = did_you_mean(wrong, known)
    return (f"{near}? Use " if near else "use ") + ", ".join(known)
