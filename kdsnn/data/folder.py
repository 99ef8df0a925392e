"""`folder:DIR`: images in one sub-folder per class.

* `DIR/train/CLASS/*.png` and `DIR/test/CLASS/*.png` (also `training` and `testing`, in small or capital letters;
  `val`, `valid` or `validation` is the test set where there is no other), or
* `DIR/CLASS/*.png`, where 20 % of every class becomes the test set.

Classes are numbered in the order of their sorted names. Images may lie deeper below their class; files
without an image's suffix, and links that lead to no file, are left out and counted in the data set's notes,
hidden files and folders silently. A class may be a link to a folder; deeper links to folders are not followed.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from kdsnn.data.dataset import DataSet, brief
from kdsnn.data.images import Named, Size, decode
from kdsnn.data.splits import TEST_FRACTION, parts_of, stratified_mask
from kdsnn.errors import KdsnnError

SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".bmp", ".gif", ".tif", ".tiff", ".webp", ".pgm", ".ppm"})


@dataclass(frozen=True)
class FileKind:
    """Files of this kind lie in class folders: `prefix` stands before the folder's name, `what` is what they are
    called, and `one` what each is."""

    prefix: str
    what: str
    one: str
    suffixes: frozenset[str]


IMAGES = FileKind("folder", "images", "image", SUFFIXES)


@dataclass(frozen=True, eq=False)
class ClassFiles:
    """The files of a data set, sorted, with their labels (N,), the classes' names, and what is worth saying of them."""

    train: list[Path]
    y_train: NDArray[np.int64]
    test: list[Path]
    y_test: NDArray[np.int64]
    names: tuple[str, ...]
    notes: tuple[str, ...]


def load_folder(folder: Path, seed: int, size: Size | None = None) -> DataSet:
    """Read `folder` as the module describes, its images resized to `size`, (H, W), if that is given.

    Raises KdsnnError naming the folder or image and the remedy.
    """
    found = class_files(folder, seed, IMAGES)
    try:
        x_train, x_test = decode([_named(found.train), _named(found.test)], "mend, convert or remove it", size)
    except OSError as error:
        raise _unreadable(folder, IMAGES, error) from error
    return DataSet(
        name=f"folder:{folder}",
        x_train=x_train,
        y_train=found.y_train,
        x_test=x_test,
        y_test=found.y_test,
        classes=len(found.names),
        class_names=found.names,
        notes=found.notes,
    )


def class_files(folder: Path, seed: int, kind: FileKind) -> ClassFiles:
    """Find the files of every class, as the module describes; `seed` draws the test set where there is none.

    Raises KdsnnError naming the folder and the remedy.
    """
    try:
        return _class_files(folder, seed, kind)
    except OSError as error:
        raise _unreadable(folder, kind, error) from error


def _unreadable(folder: Path, kind: FileKind, error: OSError) -> KdsnnError:
    place = folder if error.filename is None else error.filename
    return KdsnnError(f"{kind.prefix}:{place}: {error.strerror or brief(error)}: make it readable.")


def _class_files(folder: Path, seed: int, kind: FileKind) -> ClassFiles:
    if not folder.is_dir():
        raise KdsnnError(f"{folder}: no such folder: give one with a sub-folder of {kind.what} for each class.")
    parts = parts_of(str(folder), [entry.name for entry in folder.iterdir() if entry.is_dir()])
    if (parts.training is None) != (parts.test is None):
        found, absent = (parts.training, "test") if parts.test is None else (parts.test, "train")
        raise KdsnnError(
            f"{folder} has a sub-folder {found} and none named {absent}: add it, or use {kind.prefix}:{folder / str(found)} to "
            f"have a test set drawn from {found}."
        )
    training_folder = folder / (parts.training or "")
    images, others = _scan(training_folder, kind)
    names = sorted(images)
    train, y_train = _labeled(images, names)
    notes = [parts.note] if parts.note else []
    if parts.test is not None:
        images, more = _scan(folder / parts.test, kind)
        others += more
        if unknown := sorted(images.keys() - set(names)):
            raise KdsnnError(
                f"{folder / parts.test} has a class {unknown[0]} that {training_folder} has not: add or rename it."
            )
        test, y_test = _labeled(images, names)
    else:
        chosen = stratified_mask(y_train, TEST_FRACTION, seed)
        if not chosen.any():
            raise KdsnnError(f"{folder} has too few {kind.what} for a test set: give each class three or more.")
        test, y_test = [train[i] for i in np.flatnonzero(chosen)], y_train[chosen]
        train, y_train = [train[i] for i in np.flatnonzero(~chosen)], y_train[~chosen]
        notes.append(f"{TEST_FRACTION:.0%} of every class are the test set, drawn with seed {seed}.")
    if others:
        left = f"1 file that is no {kind.one} was" if others == 1 else f"{others} files that are no {kind.what} were"
        notes.append(f"{left} left out.")
    return ClassFiles(train, y_train, test, y_test, tuple(names), tuple(notes))


def _scan(folder: Path, wanted: FileKind) -> tuple[dict[str, list[Path]], int]:
    """Find the files of each class, sorted by path, and count the other files."""
    images: dict[str, list[Path]] = {}
    others = 0
    for kind in folder.iterdir():
        if kind.name.startswith(".") or not kind.is_dir():
            continue
        if kind.is_symlink() and folder.resolve().is_relative_to(kind.resolve()):
            raise KdsnnError(f"{kind} is a link to {kind.resolve()}, in which it lies itself: remove it.")
        files = list(_files(kind))
        images[kind.name] = sorted(p for p in files if p.suffix.lower() in wanted.suffixes and p.is_file())
        others += len(files) - len(images[kind.name])
        if not images[kind.name]:
            listed = ", ".join(sorted(wanted.suffixes))
            raise KdsnnError(f"{kind} holds no {wanted.what} ({listed}): add some, or remove the folder.")
    if not images:
        raise KdsnnError(
            f"{folder} has no class folders: put the {wanted.what} of each class into a sub-folder of their own."
        )
    return images, others


def _files(folder: Path) -> Iterator[Path]:
    """Yield what is below a folder and no folder itself, links included, but for what is hidden. Raises OSError."""
    waiting = [folder]
    while waiting:
        with os.scandir(waiting.pop()) as entries:
            for entry in entries:
                if entry.name.startswith("."):
                    continue
                if entry.is_dir(follow_symlinks=False):
                    waiting.append(Path(entry.path))
                else:
                    yield Path(entry.path)


def _labeled(images: dict[str, list[Path]], names: list[str]) -> tuple[list[Path], NDArray[np.int64]]:
    paths = [path for name in names for path in images.get(name, [])]
    return paths, np.repeat(np.arange(len(names)), [len(images.get(name, [])) for name in names])


def _named(paths: list[Path]) -> Callable[[], Iterator[Named]]:
    return lambda: ((str(path), path) for path in paths)
