"""Arrays and torch data sets as `DataSet`s: layouts, floats, splits, and one line for what cannot be used."""

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import Dataset, IterableDataset, Subset, TensorDataset

from kdsnn.data import as_data
from kdsnn.errors import KdsnnError

RNG = np.random.default_rng(0)
IMAGES, LABELS = RNG.integers(0, 256, (40, 3, 8, 6)).astype(np.uint8), np.arange(40) % 4
GRAY = IMAGES[:, 0]


class Pairs(Dataset):
    """Whatever is put in."""

    def __init__(self, *items) -> None:
        self.items = items

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, i):
        return self.items[i]


def train_and_test(data):
    """All images and labels back in the order in which they were given, whichever part they went into."""
    return np.concatenate([data.x_train, data.x_test]), np.concatenate([data.y_train, data.y_test])


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (IMAGES, IMAGES),
        (IMAGES.transpose(0, 2, 3, 1), IMAGES),
        (GRAY, GRAY[:, None]),
        (IMAGES / 255, IMAGES),
        ((IMAGES / 255).astype(np.float16), IMAGES),
        (torch.from_numpy(IMAGES), IMAGES),
        (torch.from_numpy(IMAGES).float() / 255, IMAGES),
    ],
)
def test_four_arrays(given, expected):
    data = as_data((given[:30], LABELS[:30], given[30:], torch.from_numpy(LABELS[30:])), name="mine")
    x, y = train_and_test(data)
    np.testing.assert_array_equal(x, expected)
    np.testing.assert_array_equal(y, LABELS)
    assert (data.name, data.classes, data.notes, len(data.x_train)) == ("mine", 4, (), 30)


def test_one_part_is_split_by_class_and_seeded():
    data, again, other = (as_data((IMAGES, LABELS), seed=seed) for seed in (1, 1, 2))
    assert np.bincount(data.y_train).tolist() == [8] * 4 and np.bincount(data.y_test).tolist() == [2] * 4
    assert data.notes == ("20% of every class are the test set, drawn with seed 1.",)
    np.testing.assert_array_equal(data.x_test, again.x_test)
    assert not np.array_equal(data.x_test, other.x_test)
    assert as_data(data) is data
    pair = as_data((IMAGES, LABELS), test=(IMAGES[:3], LABELS[:3]))
    assert (len(pair.x_train), len(pair.x_test), pair.notes) == (40, 3, ())


def test_floats_between_two_pixels_are_rounded_and_said():
    data = as_data((np.full((40, 8, 8), 0.5011), LABELS))
    assert (
        np.unique(data.x_train).tolist() == [128] and "rounded to multiples of 1/255, by up to 0.0009" in data.notes[-1]
    )


@pytest.mark.parametrize("kind", ["tensors", "arrays", "lists", "pil", "iterable"])
def test_every_kind_of_torch_data_set(kind):
    labels = [torch.tensor(label) if kind == "tensors" else int(label) for label in LABELS]
    made = {
        "tensors": lambda image: torch.from_numpy(image),
        "arrays": lambda image: image.transpose(1, 2, 0) / 255,
        "lists": lambda image: (image / 255).tolist(),
        "pil": lambda image: Image.fromarray(image.transpose(1, 2, 0)),
        "iterable": lambda image: torch.from_numpy(image).float() / 255,
    }
    items = [(made[kind](image), label) for image, label in zip(IMAGES, labels, strict=True)]

    class Stream(IterableDataset):
        def __iter__(self):
            return iter(items)

    dataset = Stream() if kind == "iterable" else Pairs(*items)
    data = as_data(dataset, test=dataset)
    np.testing.assert_array_equal(data.x_train, IMAGES)
    np.testing.assert_array_equal(data.y_test, LABELS)
    assert data.name == type(dataset).__name__


def test_gray_images_of_pil_and_tensors_without_channels():
    for made in (Image.fromarray, torch.from_numpy):
        data = as_data(Pairs(*((made(image), label) for image, label in zip(GRAY, LABELS, strict=True))))
        assert data.input_shape == (1, 8, 6)


def test_a_tensor_has_its_channels_first_whatever_their_number():
    data = as_data(TensorDataset(torch.zeros(40, 16, 3, 3), torch.from_numpy(LABELS)))
    assert data.input_shape == (16, 3, 3)
    assert as_data((np.zeros((40, 3, 3, 3), np.uint8), LABELS), layout="NHWC").input_shape == (3, 3, 3)


def test_the_names_of_classes_are_taken_along():
    dataset = Pairs(*zip(IMAGES, LABELS, strict=True))
    dataset.classes = ["a", "b", "c", "d", "never seen"]
    for one in (dataset, Subset(dataset, range(36))):
        data = as_data(one)
        assert data.classes == 5 and data.class_names == ("a", "b", "c", "d", "never seen")


def broken(i):
    items = list(zip(IMAGES, LABELS, strict=True))
    items[2] = i
    return Pairs(*items)


class Raising(Pairs):
    """Fails at its third item."""

    def __getitem__(self, i):
        if i == 2:
            raise OSError("disk on fire")
        return super().__getitem__(i)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ((IMAGES, LABELS[:3]), r"training images: the labels are int64 of shape \(3,\): expected whole numbers of shape \(40,\)"),
        ((IMAGES, LABELS / 1), "labels are float64"),
        ((IMAGES, LABELS + 1), "every number from 0 to K-1; they hold"),
        ((IMAGES, LABELS, IMAGES), "a tuple of 3"),
        ((IMAGES[:, :, 0, 0], LABELS), r"have the shape \(40, 3\)"),
        ((IMAGES[:0], LABELS[:0]), "not empty"),
        ((IMAGES.astype(np.int64), LABELS), "image 0 has pixels of int64: give uint8"),
        ((IMAGES / 100, LABELS), "image 0 holds values from 0.* belongs into the network"),
        ((np.where(np.arange(40)[:, None, None, None] == 7, np.nan, IMAGES / 255), LABELS), "image 7 holds values from nan"),
        ((np.zeros((40, 3, 3, 3)), LABELS), "say layout='NCHW'"),
        ((np.array([["a"]]), LABELS), "no array of numbers but of <U1"),
        (([[1, 2], [3]], LABELS), "a list is no array of numbers"),
        ((IMAGES[:4], LABELS[:4]), "too few images for a test set"),
        ({"x": IMAGES}, "images: dict is given"),
        (7, "images: int is given"),
        (Pairs(), "is empty"),
        (broken(IMAGES[0]), "item 2 is a ndarray: expected a pair"),
        (broken((IMAGES[0], 0, 0)), "item 2 is a tuple of 3: expected a pair"),
        (broken((IMAGES[0], "cat")), r"item 2 has the label cat \(str\)"),
        (broken((IMAGES[0], 1.0)), r"item 2 has the label 1.0 \(float\)"),
        (broken((IMAGES[0], torch.tensor([1.0, 0.0]))), "item 2 has the label"),
        (broken((IMAGES[0, :, :4], 0)), r"item 2 is an image of \(3, 4, 6\) and item 0 one of \(3, 8, 6\)"),
        (broken((IMAGES[:2], 0)), "not a loader of batches"),
        (broken((torch.full((3, 8, 6), -0.1), 0)), "image 2 holds values from -0.1 to -0.1"),
        (broken((Image.new("I;16", (6, 8)), 0)), "item 2 has more than 8 bits a channel"),
        (Raising(*zip(IMAGES, LABELS, strict=True)), r"item 2 cannot be had \(OSError: disk on fire\)"),
    ],
)  # fmt: skip
def test_what_cannot_be_used_is_one_line(given, message):
    with pytest.raises(KdsnnError, match=message) as caught:
        as_data(given)
    assert "\n" not in str(caught.value)


def test_two_test_sets_are_refused():
    for given in ((IMAGES, LABELS, IMAGES, LABELS), as_data((IMAGES, LABELS))):
        with pytest.raises(KdsnnError, match="leave the test set out"):
            as_data(given, test=(IMAGES, LABELS))
    with pytest.raises(KdsnnError, match="labels in y_test run from 0 to 4"):
        as_data((IMAGES, LABELS), test=(IMAGES[:5], np.arange(5)))
