"""Frames over time as data: the simulated camera, arrays with a time axis, and what is refused."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from kdsnn.data import Augmentation, DataSet, Noise, as_data, load
from kdsnn.data.device import floats, shifted
from kdsnn.data.events.camera import CORNERS, Camera, seen_frames, seen_shape
from kdsnn.data.variants import seen_by_camera
from kdsnn.errors import KdsnnError

SILENT = Camera(mismatch=0.0, noise=0.0)


def stills(count=6, side=8, channels=1):
    pixels = np.random.RandomState(0).randint(0, 256, (count, channels, side, side)).astype(np.uint8)
    return DataSet("made", pixels, np.arange(count) % 2, pixels, np.arange(count) % 2, 2)


def frames(count=6, T=3):
    return np.random.RandomState(1).randint(0, 2, (count, T, 2, 4, 4)).astype(np.uint8)


def one_pixel(image, row, column, steps):
    """Events of one pixel of the sensor, by the definition and a step at a time: (polarity, step) with repeats."""

    def bright(done):
        saccade = min(int(3 * done), 2)
        part = 3 * done - saccade
        (x0, y0), (x1, y1) = CORNERS[saccade], CORNERS[saccade + 1]
        # the sensor's pixel (row, column) looks at the image's (row - 1, column - 1) where it has not moved
        x, y = column - 1 - (x0 + part * (x1 - x0)), row - 1 - (y0 + part * (y1 - y0))

        def at(i, j):
            inside = 0 <= i < image.shape[0] and 0 <= j < image.shape[1]
            return image[i, j] / 255 if inside else 0.0

        i, j = math.floor(y), math.floor(x)
        fy, fx = y - i, x - j
        upper = (1 - fx) * at(i, j) + fx * at(i, j + 1)
        return (1 - fy) * upper + fy * ((1 - fx) * at(i + 1, j) + fx * at(i + 1, j + 1))

    last, found = math.log(bright(0) + 0.1), []
    for step in range(steps):
        now = math.log(bright((step + 1) / steps) + 0.1)
        while now - last >= 0.25:
            last += 0.25
            found.append((1, step))
        while last - now >= 0.25:
            last -= 0.25
            found.append((0, step))
    return found


def test_the_camera_is_a_pixel_by_itself_times_many():
    image = np.random.RandomState(3).randint(0, 256, (8, 8)).astype(np.uint8)
    steps = list(SILENT.counts(image[None], 6, np.random.RandomState(0)))
    assert seen_shape(image.shape) == (10, 10) and [frame for frame, _ in steps] == [k // 8 for k in range(48)]
    counts = np.stack([events[0] for _, events in steps])
    differ = total = 0
    for row in range(10):
        for column in range(10):
            expected = np.zeros((48, 2), int)
            for polarity, step in one_pixel(image, row, column, 48):
                expected[step, polarity] += 1
            differ += int(np.abs(counts[:, :, row, column] - expected).sum())
            total += int(expected.sum())
    # what gets black again comes back by whole thresholds, and there float32 decides: an event is lost, or a step late
    assert total > 500 and differ <= total // 40
    seen = seen_frames(image[None], 6, np.random.RandomState(0), camera=SILENT)
    by_frame = counts.reshape(6, 8, 2, 10, 10).sum(1)
    assert np.array_equal(seen[0], by_frame > 0)


def test_what_does_not_change_gives_noise_alone():
    gray = np.zeros((200, 20, 20), np.uint8)
    assert not seen_frames(gray, 4, np.random.RandomState(0), camera=SILENT).any()
    noisy = seen_frames(gray, 4, np.random.RandomState(0), camera=Camera(noise=1.0))
    assert noisy.mean() == pytest.approx(0.3 / 4, rel=0.1)  # one a second, over 0.3 s in 4 frames


def test_thresholds_differ_between_pixels_and_samples():
    same = np.tile(np.random.RandomState(3).randint(0, 256, (1, 8, 8)).astype(np.uint8), (2, 1, 1))
    alike, apart = (
        seen_frames(same, 8, np.random.RandomState(0), camera=Camera(mismatch=m, noise=0.0)) for m in (0.0, 0.05)
    )
    assert np.array_equal(alike[0], alike[1]) and not np.array_equal(apart[0], apart[1])


def test_the_variant_is_repeatable_and_has_a_name():
    found = load("digits+events16")
    again, other = (seen_by_camera(load("digits"), seed, 16) for seed in (0, 1))
    assert found.name == "digits+events16" and found.T == 16 and found.input_shape == (2, 10, 10)
    assert found.sample_shape == (16, 2, 10, 10) and set(np.unique(found.x_test)) == {0, 1}
    assert np.array_equal(found.x_test, again.x_test) and not np.array_equal(found.x_train, other.x_train)
    assert "16 frames of 2×10×10" in found.notes[-1]


def test_colors_are_seen_in_gray():
    assert seen_by_camera(stills(channels=3), 0).input_shape == (2, 10, 10)
    with pytest.raises(KdsnnError, match="has 2 channels"):
        seen_by_camera(stills(channels=2), 0)


@pytest.mark.parametrize("name", ["events+rot", "events+32x32", "events+rgb", "events+events"])
def test_changes_of_images_are_refused_after_it(name):
    with pytest.raises(KdsnnError, match="put it before"):
        load(f"digits+{name}")


def test_noise_and_numbers_of_frames_are_refused():
    with pytest.raises(KdsnnError, match="noise on pixels is for images"):
        load("digits+events", noise=Noise(0.1))
    with pytest.raises(KdsnnError, match="1 to 256 frames"):
        load("digits+events257")


def test_files_with_a_time_axis(tmp_path):
    x, y = frames(), np.arange(6) % 2
    for name, values in (("a", x), ("b", x.astype(bool)), ("c", np.asfortranarray(x))):
        np.savez(tmp_path / f"{name}.npz", x_train=values, y_train=y, x_test=values[:2], y_test=y[:2])
        found = load(f"npz:{tmp_path / name}.npz")
        assert found.T == 3 and found.x_train.dtype == np.uint8 and np.array_equal(found.x_train, x)
    for key, values in (("x_train", x.astype(bool)), ("y_train", y), ("x_test", x[:2]), ("y_test", y[:2])):
        np.save(tmp_path / f"{key}.npy", values)
    found = load(str(tmp_path))
    assert np.array_equal(found.x_train, x) and isinstance(found.x_train, np.memmap)


def test_counts_in_files_are_refused(tmp_path):
    x, y = frames(), np.arange(6) % 2
    counts = x.copy()
    counts[4, 1, 0, 2, 2] = 3
    np.savez(tmp_path / "counts.npz", x_train=x, y_train=y, x_test=counts, y_test=y)
    with pytest.raises(KdsnnError, match=r"x_test holds values from 0 to 3.*store \(frames > 0\)"):
        load(f"npz:{tmp_path}/counts.npz")
    np.savez(tmp_path / "floats.npz", x_train=x.astype(float), y_train=y, x_test=x, y_test=y)
    with pytest.raises(KdsnnError, match="store frames over time as uint8 or boolean"):
        load(f"npz:{tmp_path}/floats.npz")
    for key, values in (("x_train", counts), ("y_train", y), ("x_test", x), ("y_test", y)):
        np.save(tmp_path / f"{key}.npy", values)
    with pytest.raises(KdsnnError, match=r"x_train\.npy holds values from 0 to 3"):
        load(f"npy:{tmp_path}")


@pytest.mark.parametrize("kind", [np.uint8, np.float32, np.int64, bool])
def test_arrays_and_data_sets_with_a_time_axis(kind):
    x, y = frames(20), np.arange(20) % 2
    found = as_data((x.astype(kind), y, x[:3].astype(kind), y[:3]))
    assert found.T == 3 and np.array_equal(found.x_train, x)
    items = [(torch.from_numpy(one.astype(kind)), int(label)) for one, label in zip(x, y, strict=True)]
    of_items = as_data(items, test=items[:4])
    assert np.array_equal(of_items.x_train, x) and of_items.sample_shape == (3, 2, 4, 4)
    if kind is not bool:
        with pytest.raises(KdsnnError, match=r"give \(frames > 0\)"):
            as_data((2 * x.astype(kind), y))
    if kind is np.float32:
        with pytest.raises(KdsnnError, match=r"give \(frames > 0\)"):
            as_data([(0.5 * one, label) for one, label in zip(x, y, strict=True)])


def test_all_frames_of_a_sample_move_and_flip_together():
    x = torch.zeros(5, 3, 2, 8, 8, dtype=torch.uint8)
    x[:, :, 0, 3, 3] = 1
    x[:, :, 1, 3, 5] = 1
    moved = shifted(x, 2, torch.Generator().manual_seed(0))
    assert moved.shape == x.shape and moved.sum() == x.sum()
    assert (moved == moved[:, :1]).all() and len({tuple(one.flatten().tolist()) for one in moved}) > 1
    changed = Augmentation(crop=1, flip=True, cutout=2).apply(x, torch.Generator().manual_seed(0))
    assert changed.shape == x.shape and (changed == changed[:, :1]).all()
    assert torch.equal(floats(x, False), x.float()) and torch.equal(floats(x, True), x.float() / 255)
    assert torch.equal(floats(x[:, 0], False), x[:, 0].float() / 255)
    with pytest.raises(KdsnnError, match="auto changes gray levels"):
        Augmentation(auto=True).apply(x, torch.Generator())


def test_frames_of_counts_count_what_the_camera_says():
    image = np.zeros((1, 10, 10), np.uint8)
    image[0, 3:7, 3:7] = 255
    found = seen_frames(image, 3, np.random.RandomState(0), 5)
    counts = np.zeros((3, 2, *seen_shape((10, 10))), int)
    for frame, events in Camera().counts(image, 3, np.random.RandomState(0)):
        counts[frame] += events[0]
    assert counts.max() > 5 and np.array_equal(found[0] / 255, np.minimum(counts, 5) / 5)
    data = load("digits+events2-counts51")
    assert data.graded and data.T == 2 and (data.x_test % 5 == 0).all() and "k/51" in data.notes[-1]
    assert np.array_equal(data.x_test > 0, load("digits+events2").x_test > 0)


def test_what_frames_cannot_hold_is_refused():
    for name, message in [
        ("events-counts7", "N is one of 3, 5, 15, 17, 51, 85, 255"),
        ("events4-", "frames hold 0 and 1, or with -counts"),
        ("events-difference", "a difference of polarities has a sign"),
        ("events0-counts", "1 to 256 frames"),
    ]:
        with pytest.raises(KdsnnError, match=message):
            load(f"digits+{name}")
    with pytest.raises(KdsnnError, match="graded is said of frames over time"):
        replace(load("digits"), graded=True)
