"""`mnist`, `fashion-mnist`, `cifar10`, `cifar100` and `hf:REPO` through Hugging Face `datasets`.

REPO is OWNER/NAME on the Hub, read from the local cache if the Hub cannot be reached, or a local folder
that `datasets` can load; `hf:REPO:CONFIG` picks one of several configurations. The image column is the one named `image` or
`img`, else the only one of type Image; the label column `label`, `fine_label`, `labels` or `target`,
else the only one of type ClassLabel. The training images are the split `train` (or `training`), the test set is
`test` (or `testing`), else `validation` (`valid`, `val`), in small or capital letters; without either, 20 % of every
class of `train`.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kdsnn.data.dataset import DataSet, brief
from kdsnn.data.images import Named, Size, decode
from kdsnn.data.splits import TEST_FRACTION, parts_of, stratified_mask
from kdsnn.errors import KdsnnError

HUB = {
    "mnist": "ylecun/mnist",
    "fashion-mnist": "zalando-datasets/fashion_mnist",
    "cifar10": "uoft-cs/cifar10",
    "cifar100": "uoft-cs/cifar100",
}
"""Short names of data sets and their repositories on the Hub."""

IMAGES = ("image", "img")
LABELS = ("label", "fine_label", "labels", "target")
PATIENCE = 5.0
"""Seconds within which the Hub must answer; left to itself `datasets` tries for half a minute."""


def load_hub(name: str, repository: str, seed: int, size: Size | None = None) -> DataSet:
    """Read `repository`, REPO or REPO:CONFIG, as the module describes; `name` is what to call it. The images are
    resized to `size`, (H, W), if that is given.

    Raises KdsnnError when it can be had neither from the Hub nor from the cache, or when it does not
    hold labeled images of one size and no `size` is given.
    """
    try:
        return _load(name, repository, seed, size)
    except KdsnnError:
        raise
    except Exception as error:  # datasets, its readers and the network raise without a common base class
        reason = brief(error.__cause__ or error) or type(error).__name__
        raise KdsnnError(
            f"{name}: '{repository}' cannot be loaded ({reason}): check its name and the connection; if the local copy "
            f"is damaged, remove it from {_cache()}; or give the files as npz:FILE or folder:DIR."
        ) from error


def _load(name: str, repository: str, seed: int, size: Size | None) -> DataSet:
    splits = _fetch(name, repository)
    named = parts_of(name, splits)
    if named.training is None:
        raise KdsnnError(f"{name}: its splits are {', '.join(splits)}: one named train is needed.")
    train = splits[named.training]
    image, label = _columns(name, train.features)
    y_train, names = _labels(name, train, label)
    notes = (named.note,) if named.note else ()
    title = f"{name}: split {named.training}"
    if named.test is not None:
        test = splits[named.test]
        if missing := {image, label} - set(test.features):
            raise KdsnnError(f"{name}: split {named.test} has no column {missing.pop()}, as {named.training} has.")
        y_test, test_names = _labels(name, test, label)
        if test_names and test_names != names:  # numbers would stand for other classes
            raise KdsnnError(f"{name}: splits {named.training} and {named.test} do not have the same classes.")
        parts = [_encoded(title, train, image), _encoded(f"{name}: split {named.test}", test, image)]
    else:
        chosen = stratified_mask(y_train, TEST_FRACTION, seed)
        parts = [_encoded(title, train, image, np.flatnonzero(part)) for part in (~chosen, chosen)]
        y_train, y_test = y_train[~chosen], y_train[chosen]
        notes = (f"{TEST_FRACTION:.0%} of every class are the test set, drawn with seed {seed}.",)
    x_train, x_test = decode(parts, "mend or remove it", size)
    return DataSet(
        name=name,
        x_train=x_train,
        y_train=y_train,
        x_test=x_test,
        y_test=y_test,
        classes=len(names) or int(y_train.max(initial=-1)) + 1,
        class_names=names,
        notes=notes,
    )


def _fetch(name: str, repository: str) -> Any:
    """Fetch a mapping from split to `datasets.Dataset`."""
    import datasets

    datasets.logging.set_verbosity_error()
    if not sys.stderr.isatty():
        datasets.disable_progress_bars()
    local = Path(repository).is_dir()
    # absolute, because `datasets` takes "csv" and the like for formats of the files in the current folder
    path, _, config = (str(Path(repository).resolve()), "", "") if local else repository.partition(":")
    if "/" not in path:
        raise KdsnnError(f"{name}: '{path}' is no folder and no repository: write hf:OWNER/NAME or hf:FOLDER.")
    with _offline(local or not _hub_answers()) as offline:
        try:
            return datasets.load_dataset(path, config or None)
        except ConnectionError as error:
            if not offline:
                raise
            raise KdsnnError(
                f"{name}: the Hugging Face Hub cannot be reached and '{path}' is not in its cache {_cache()}: connect "
                f"once, copy that folder from another machine, or give the files as npz:FILE or folder:DIR."
            ) from error


def _cache() -> str:
    import datasets

    return str(datasets.config.HF_DATASETS_CACHE)


def _hub_answers() -> bool:
    """Ask whether the Hub gives any answer within `PATIENCE` seconds; it does not with HF_HUB_OFFLINE=1."""
    import huggingface_hub
    from datasets import config

    if config.HF_HUB_OFFLINE:
        return False
    answers: list[bool] = []

    def ask() -> None:
        # the Hub's own client, so that its proxies and certificates count
        with suppress(Exception):  # whatever its library raises: no answer
            huggingface_hub.get_session().head(huggingface_hub.constants.ENDPOINT, timeout=PATIENCE)
            answers.append(True)

    asking = threading.Thread(target=ask, daemon=True)  # because looking up a host name heeds no timeout
    asking.start()
    asking.join(PATIENCE)
    return bool(answers)


@contextmanager
def _offline(offline: bool) -> Iterator[bool]:
    """Within it, if `offline`, `datasets` looks into its cache without asking the network first."""
    import huggingface_hub
    from datasets import config

    # both read the environment only once, at import
    switches = [(config, "HF_HUB_OFFLINE"), (huggingface_hub.constants, "HF_HUB_OFFLINE")]
    before = [getattr(module, name) for module, name in switches]
    try:
        for module, name in switches:
            setattr(module, name, offline or getattr(module, name))
        yield offline
    finally:
        for (module, name), value in zip(switches, before, strict=True):
            setattr(module, name, value)


def _columns(name: str, features: Any) -> tuple[str, str]:
    """Find the names of the image and of the label column."""
    from datasets import ClassLabel, Image

    image = _column(IMAGES, Image, features)
    label = _column(LABELS, ClassLabel, features)
    if image is None or label is None:
        held = ", ".join(f"{column} ({type(kind).__name__})" for column, kind in features.items())
        raise KdsnnError(
            f"{name}: no column {'of images' if image is None else 'of labels'} could be told among {brief(held)}: "
            f"name it {IMAGES[0] if image is None else LABELS[0]}, or bring the data as npz:FILE."
        )
    if not isinstance(features[image], Image):
        raise KdsnnError(
            f"{name}: column {image} is of type {type(features[image]).__name__}, not Image: bring the data as npz:FILE."
        )
    return image, label


def _column(known: tuple[str, ...], kind: type, features: Any) -> str | None:
    """Take the first of the `known` names, else the only column of type `kind`."""
    of_kind = [column for column, feature in features.items() if isinstance(feature, kind)]
    named = next((column for column in known if column in features), None)
    return named or (of_kind[0] if len(of_kind) == 1 else None)


def _labels(name: str, split: Any, column: str) -> tuple[NDArray[np.int64], tuple[str, ...]]:
    """Read the class numbers (N,) of a split, and the names of the classes if the source has any."""
    values = np.asarray(split.with_format("arrow")[:][column])
    if not np.issubdtype(values.dtype, np.integer):
        raise KdsnnError(
            f"{name}: column {column} holds {values.dtype}, not class numbers: bring the data as npz:FILE."
        )
    return values.astype(np.int64), tuple(getattr(split.features[column], "names", None) or ())


def _encoded(
    title: str, split: Any, column: str, rows: NDArray[np.intp] | None = None
) -> Callable[[], Iterator[Named]]:
    """Give access to the encoded images of a split, all or those of some `rows`, in order."""
    from datasets import Image

    # datasets would decode each image on its own, and build a Python object for it
    source = split.select_columns([column]).cast_column(column, Image(decode=False))
    if rows is not None:
        source = source.select(rows)

    def images() -> Iterator[Named]:
        numbers = iter(range(len(source)) if rows is None else rows)
        for batch in source.iter(batch_size=1000):
            for image in batch[column]:
                name = f"{title}, image {next(numbers)}"
                if image is None:
                    raise KdsnnError(f"{name} is missing: remove that row.")
                yield name, Path(image["path"]) if image["bytes"] is None else image["bytes"]

    return images
