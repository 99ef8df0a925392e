"""MNIST's variants and Gaussian noise."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kdsnn.data import DataSet, Noise, load, storage, variants
from kdsnn.errors import KdsnnError

IMAGE_VARIANTS = [name for name in variants.VARIANTS if name not in ("12k-50k", "rgb", "gray", "events")]


def data_set(images, tests=None):
    tests = images if tests is None else tests
    labels = [np.arange(len(x)) % 2 for x in (images, tests)]
    return DataSet("made", images, labels[0], tests, labels[1], 2)


def strokes(count=40, side=28):
    """A gray bar in a black frame: something with an edge, a middle tone and a background."""
    images = np.zeros((count, 1, side, side), np.uint8)
    images[:, :, side // 4 : side // 2, side // 4 : -side // 4] = 200
    return images


@pytest.mark.parametrize("name", IMAGE_VARIANTS)
def test_a_seed_decides_a_variant(name):
    make, data = variants.VARIANTS[name], data_set(strokes(), strokes(10))
    first, same, other = make(data, 0), make(data, 0), make(data, 1)
    for part in ("x_train", "x_test"):
        a, b, c = (getattr(d, part) for d in (first, same, other))
        assert a.dtype == np.uint8 and a.shape == getattr(data, part).shape
        assert np.array_equal(a, b) and not np.array_equal(a, c)
    assert not np.array_equal(first.x_train[:10], first.x_test)  # each part has a stream of its own
    assert np.array_equal(first.y_train, data.y_train) and np.array_equal(data.x_train, strokes())
    assert any("not the original files" in note for note in first.notes)
    # the first images do not depend on how many follow
    assert np.array_equal(make(data_set(strokes(7)), 0).x_train, first.x_train[:7])


def test_the_streams_never_change():
    """Published numbers rest on these very images."""
    made = variants.random_background(data_set(np.zeros((2, 1, 3, 3), np.uint8)), 0)
    assert made.x_train[0].ravel().tolist() == [178, 1, 148, 47, 241, 172, 8, 194, 190]
    noisy = Noise(0.1, seed=0).added(data_set(np.full((2, 1, 3, 3), 128, np.uint8)))
    assert noisy.x_train[0].ravel().tolist() == [119, 117, 152, 104, 144, 148, 141, 141, 139]


def test_backgrounds_never_darken_and_fill_what_is_black():
    data = data_set(strokes(200))
    for name in ("back-rand", "back-image"):
        made = variants.VARIANTS[name](data, 0).x_train
        assert (made >= data.x_train).all()
        assert len(np.unique(made)) > 200
    noise = variants.random_background(data, 0).x_train[data.x_train == 0]
    assert abs(noise.mean() - 127.5) < 1 and abs(noise.std() - np.sqrt((256**2 - 1) / 12)) < 1


@pytest.mark.parametrize("side", [8, 28, 100])
def test_background_patches_have_contrast_and_are_not_too_bright(side):
    windows, valid = variants._patches("made", side, side)
    photo, y, x = valid[np.random.RandomState(0).randint(0, len(valid), 50)].T
    patches = windows[photo, y, x] / 255
    assert (patches.std((1, 2)) >= 0.0999).all() and (patches.mean((1, 2)) <= 0.7001).all()
    assert {0, 1} == set(valid[:, 0])


def test_rot_back_image_turns_the_digit_and_not_the_background():
    data = data_set(strokes())
    both = variants.rotation_with_image_background(data, 0)
    turned = variants.rotation(data, 0)
    assert np.array_equal(both.x_train, variants.image_background(turned, 0).x_train)
    assert len(both.notes) == 3


def smooth(side):
    """A round hill, so wide that bilinear interpolation errs by a few levels only."""
    y, x = np.mgrid[:side, :side] - (side - 1) / 2
    return lambda dy, dx: np.rint(200 * np.exp(-((y - dy) ** 2 + (x - dx) ** 2) / (2 * (side / 9) ** 2))).astype(
        np.uint8
    )


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(1, 9), st.integers(1, 9), st.integers(1, 3))
def test_no_turn_is_the_identity_and_quarter_turns_are_exact(seed, height, width, channels):
    images = np.random.RandomState(seed).randint(0, 256, (4, channels, height, width), np.uint8)
    assert np.array_equal(variants.rotated(images, np.zeros(4)), images)
    assert np.array_equal(variants.rotated(images, np.full(4, np.pi)), images[:, :, ::-1, ::-1])
    if height == width:
        angles = np.array([0, 0.5, 1, 1.5]) * np.pi
        expected = np.stack([np.rot90(image, k, axes=(1, 2)) for k, image in enumerate(images)])
        assert np.array_equal(variants.rotated(images, angles), expected)


def test_a_turn_moves_a_hill_to_where_geometry_says():
    hill = smooth(28)
    angles = np.random.RandomState(0).uniform(0, 2 * np.pi, 30)
    turned = variants.rotated(np.repeat(hill(0, 4)[None, None], 30, 0), angles)
    for image, angle in zip(turned, angles, strict=True):
        expected = hill(-4 * np.sin(angle), 4 * np.cos(angle))  # counter-clockwise, y pointing down
        assert np.abs(image[0].astype(int) - expected).max() <= 6


def test_variants_need_gray_images_not_larger_than_the_photographs():
    color = data_set(np.zeros((2, 3, 8, 8), np.uint8))
    for name in IMAGE_VARIANTS:
        with pytest.raises(KdsnnError, match=r"made has 3 channels: .* gray"):
            variants.VARIANTS[name](color, 0)
    wide = data_set(np.zeros((2, 1, 500, 8), np.uint8))
    with pytest.raises(KdsnnError, match=r"larger than the background photographs.*use back-rand"):
        variants.image_background(wide, 0)


def test_the_benchmark_split_draws_distinct_images():
    with pytest.raises(KdsnnError, match="1,797 images are too few for a split of 12,000 and 50,000"):
        load("digits+12k-50k")
    numbers = np.arange(70_000, dtype=np.uint32)
    images = numbers.view(np.uint8).reshape(-1, 1, 2, 2)
    labels = numbers.astype(np.int64) % 10
    data = DataSet("made", images[:60_000], labels[:60_000], images[60_000:], labels[60_000:], 10)
    data = variants.benchmark_split(data, 0)
    assert len(data.x_train) == 12_000 and len(data.x_test) == 50_000
    chosen = [x.reshape(-1).view(np.uint32) for x in (data.x_train, data.x_test)]
    assert len(set(np.concatenate(chosen))) == 62_000
    assert np.array_equal(chosen[0] % 10, data.y_train) and np.array_equal(chosen[1] % 10, data.y_test)


def test_variants_combine_left_to_right_by_name():
    data = load("digits+rot+back-rand", seed=3)
    by_hand = variants.random_background(variants.rotation(load("digits", seed=3), 3), 3)
    assert data.name == "digits+rot+back-rand" and np.array_equal(data.x_test, by_hand.x_test)
    assert sum("not the original" in note for note in data.notes) == 1


# --- noise


def gray(level=128, count=2000):
    return data_set(np.full((count, 1, 8, 8), level, np.uint8))


@pytest.mark.parametrize(("kind", "sigma", "std"), [("std", 0.05, 0.05), ("var", 0.01, 0.1)])
def test_noise_has_the_spread_it_names(kind, sigma, std):
    noise = Noise(sigma, kind)
    assert noise.std == pytest.approx(std)
    x = noise.added(gray()).x_train / 255
    assert abs(x.mean() - 128 / 255) < 0.002 and x.std() == pytest.approx(std, rel=0.01)
    flat = x.reshape(len(x), -1)
    assert abs(np.corrcoef(flat[:, 0], flat[:, 1])[0, 1]) < 0.1  # pixels are independent


def test_noise_is_clipped_and_goes_where_it_is_sent():
    data = gray(0)
    noisy = Noise(0.5).added(data)
    assert noisy.x_train.dtype == np.uint8 and noisy.x_train.max() == 255
    assert np.mean(noisy.x_train == 0) == pytest.approx(0.5, abs=0.01)  # the negative half

    train, test = Noise.on("train", 0.5).added(data), Noise.on("test", 0.5).added(data)
    assert train.x_test is data.x_test and test.x_train is data.x_train
    assert np.array_equal(train.x_train, noisy.x_train) and np.array_equal(test.x_test, noisy.x_test)
    assert not np.array_equal(noisy.x_train, noisy.x_test)
    assert Noise.on("test, train", 0.5) == Noise(0.5)
    assert "variance" not in noisy.notes[0] and "std 0.5, seed 0) on train and test images" in noisy.notes[0]
    assert Noise(0).added(data) is data and Noise(0.1, train=False, test=False).added(data) is data


def test_noise_comes_last_and_by_seed():
    clean, noise = load("digits+back-rand"), Noise(0.05, seed=1)
    assert np.array_equal(load("digits+back-rand", noise=noise).x_test, noise.added(clean).x_test)
    assert not np.array_equal(load("digits", noise=noise).x_test, load("digits", noise=Noise(0.05)).x_test)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((-0.1,), "0 or more"),
        ((float("nan"),), "0 or more"),
        ((0.1, "sd"), "std or var"),
        ((0.1, "std", True, True, -1), "seed"),
    ],
)
def test_noise_out_of_range(arguments, message):
    with pytest.raises(KdsnnError, match=message):
        Noise(*arguments)


@pytest.mark.parametrize("parts", ["", "all", "train,", "train;test"])
def test_noise_on_unknown_parts(parts):
    with pytest.raises(KdsnnError, match="must be train, test or train,test"):
        Noise.on(parts, 0.1)


def test_a_large_set_stays_on_disk(monkeypatch):
    expected = load("digits+rot", noise=Noise(0.1))
    monkeypatch.setattr(storage, "HELD", 1000)
    data = load("digits+rot", noise=Noise(0.1))
    assert isinstance(data.x_train, np.memmap) and np.array_equal(data.x_train, expected.x_train)
