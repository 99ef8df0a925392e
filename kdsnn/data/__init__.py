"""Data sets by name: `load("digits")`, `load("cifar10")`, `load("npz:FILE")`, `load("mnist+rot")`, …; of arrays:
`as_data`.

numpy only; scikit-learn, Pillow, `datasets` and torch are imported where they are needed, so that the
command line starts fast.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType

from kdsnn.data.augment import Augmentation
from kdsnn.data.dataset import DataSet
from kdsnn.data.digits import load_digits
from kdsnn.data.folder import load_folder
from kdsnn.data.given import as_data
from kdsnn.data.hub import HUB, load_hub
from kdsnn.data.noise import Noise
from kdsnn.data.npz import load_npy, load_npz
from kdsnn.data.variants import VARIANTS
from kdsnn.errors import KdsnnError

__all__ = ["DESCRIPTIONS", "SPLIT_SEED", "Augmentation", "DataSet", "Noise", "as_data", "load"]

SPLIT_SEED = 0
"""Seed of the train/test split where the source has none, and of the variants. It is not the training
seed: runs with different training seeds are measured on the same test images."""

DESCRIPTIONS: Mapping[str, str] = MappingProxyType(
    {
        "digits": "scikit-learn's 1,797 handwritten digits, 8×8, embedded",
        "mnist": "70,000 handwritten digits, 28×28, through Hugging Face datasets",
        "fashion-mnist": "70,000 pieces of clothing, 28×28, through Hugging Face datasets",
        "cifar10": "60,000 color images of 10 classes, 32×32, through Hugging Face datasets",
        "cifar100": "60,000 color images of 100 classes, 32×32, through Hugging Face datasets",
        "hf:REPO": "a repository of labeled images on the Hugging Face Hub, or a local one",
        "npz:FILE": "arrays x_train, y_train, x_test, y_test (uint8 images) in one archive",
        "npy:DIR": "the same arrays as .npy files, read batch by batch where they are large",
        "folder:DIR": "images in class sub-folders, in DIR/train and DIR/test or in DIR itself",
        "DATA+rot": "gray images turned by random angles, a variant of MNIST",
        "DATA+back-rand": "gray images on random pixels, a variant of MNIST",
        "DATA+back-image": "gray images on patches of photographs, a variant of MNIST",
        "DATA+rot-back-image": "both rot and back-image",
        "DATA+12k-50k": "12,000 training and 50,000 test images drawn from all: the split of MNIST's variants",
    }
)
"""The forms that `load` takes, and what they are."""

FILES: Mapping[str, Callable[[Path, int], DataSet]] = MappingProxyType(
    {
        "npz": lambda path, seed: load_npz(path),
        "npy": lambda path, seed: load_npy(path),
        "folder": load_folder,
    }
)


def load(spec: str, *, seed: int = SPLIT_SEED, noise: Noise | None = None) -> DataSet:
    """Load the data set that `spec` names: one of `DESCRIPTIONS`, with `+VARIANT` once or more behind it.

    Variants apply from left to right, `noise` comes last. A file whose own name ends like a variant is
    taken as that file. `seed` draws the split where the source has none, and the variants.

    Raises KdsnnError when the name is unknown or the data cannot be had or used.
    """
    source, variants = _parse(spec)
    data = _load(source, spec, seed)
    for variant in variants:
        data = VARIANTS[variant](data, seed)
    if noise:
        data = noise.added(data)
    return replace(data, name=spec)


def _parse(spec: str) -> tuple[str, list[str]]:
    """Split a spec: "mnist+12k-50k+rot" gives ("mnist", ["12k-50k", "rot"])."""
    source = spec
    variants: list[str] = []
    while "+" in source and not _exists(source):
        head, _, last = source.rpartition("+")
        if last not in VARIANTS:
            if ":" not in source or _exists(head):  # else the + may be part of a file's name
                raise KdsnnError(f"Unknown variant '{last}' of data set '{head}': {_suggestion(last, VARIANTS)}.")
            break
        source, variants = head, [last, *variants]
    return source, variants


def _exists(source: str) -> bool:
    kind, _, rest = source.partition(":")
    try:
        return bool(rest) and kind in (*FILES, "hf") and Path(rest).exists()
    except OSError:  # a name too long for a file
        return False


def _load(source: str, spec: str, seed: int) -> DataSet:
    kind, _, rest = source.partition(":")
    if source == "digits":
        return load_digits(seed)
    if source in HUB:
        return load_hub(source, HUB[source], seed)
    if kind == "hf" and rest:
        return load_hub(source, rest, seed)
    if kind in FILES and rest:
        return FILES[kind](Path(rest), seed)
    raise KdsnnError(f"Unknown data set '{spec}': {_suggestion(source, [k for k in DESCRIPTIONS if '+' not in k])}.")


def _suggestion(wrong: str, known: Mapping[str, object] | list[str]) -> str:
    near = difflib.get_close_matches(wrong, known, 1)
    return (f"did you mean {near[0]}? Use " if near else "use ") + ", ".join(known)
