"""Augmentation on the device, and how images get there."""

import resource

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageEnhance, ImageOps
from torch.utils._python_dispatch import TorchDispatchMode

from kdsnn.data import Augmentation, DataSet, storage
from kdsnn.data.device import Streamed, cut, dropped, floats, mirrored, pick, placed, rolled, shifted
from kdsnn.data.mixing import mixed
from kdsnn.data.policy import Operation, applied, trivial
from kdsnn.errors import KdsnnError


def images(count, channels=3, height=8, width=8, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (count, channels, height, width), generator=generator).to(torch.uint8)


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


AUGMENTATIONS = st.builds(
    Augmentation,
    crop=st.integers(0, 5),
    flip=st.booleans(),
    cutout=st.integers(0, 12),
    auto=st.booleans(),
    roll=st.integers(0, 20),
)


@settings(max_examples=60, deadline=None)
@given(
    AUGMENTATIONS,
    st.integers(1, 6),
    st.sampled_from([1, 2, 3, 4]),
    st.integers(1, 12),
    st.integers(1, 12),
    st.integers(0, 99),
)
def test_augmentation_keeps_form_and_treats_each_image_alone(augmentation, count, channels, height, width, seed):
    batch = images(count, channels, height, width, seed)
    before = batch.clone()
    result = augmentation.apply(batch, seeded(seed))
    assert result.shape == batch.shape and result.dtype == torch.uint8
    assert torch.equal(batch, before)
    assert torch.equal(augmentation.apply(batch, seeded(seed)), result)
    # whatever the others are, image 0 becomes the same
    others = torch.cat([batch[:1], images(count - 1, channels, height, width, seed + 1)])
    assert torch.equal(augmentation.apply(others, seeded(seed))[0], result[0])


def test_augmentation_knows_whether_it_does_anything():
    nothing = Augmentation()
    assert not nothing and nothing.apply(batch := images(3), seeded()) is batch
    for one in ({"crop": 1}, {"flip": True}, {"cutout": 1}, {"auto": True}, {"roll": 1}):
        assert Augmentation(**one)
        assert not torch.equal(Augmentation(**one).apply(images(50), seeded()), images(50))
    assert Augmentation(crop=2).apply(images(4), seeded()).equal(shifted(images(4), 2, seeded()))
    assert Augmentation(drop=0.1) and "without up to 10% of their frames" in str(Augmentation(drop=0.1))
    with pytest.raises(KdsnnError, match="drop leaves out frames and spikes, and images have none"):
        Augmentation(drop=0.1).apply(images(4), seeded())
    assert Augmentation(mix=0.5) and "with others' events, 50% of them" in str(Augmentation(mix=0.5))
    with pytest.raises(KdsnnError, match="mix joins the events of two samples, and images have none"):
        Augmentation(mix=0.1).apply(images(4), seeded())
    for wrong in (-0.1, 1.1, float("nan")):
        for name in ("drop", "mix"):
            with pytest.raises(KdsnnError, match=f"{name} is {wrong}: it must be a share of 0 to 1"):
                Augmentation(**{name: wrong})
    for wrong in ({"crop": -1}, {"cutout": -1}, {"roll": -1}):
        with pytest.raises(KdsnnError, match="0 or more pixels"):
            Augmentation(**wrong)


class NoSync(TorchDispatchMode):
    """Refuses what would make the host wait for a GPU: reading a value, or a shape that depends on values."""

    WAITING = ("_local_scalar_dense", "nonzero", "masked_select", "unique", "bincount", "equal.default", "lift_fresh")

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        assert not any(name in str(function) for name in self.WAITING), function
        return function(*args, **(kwargs or {}))


def test_augmentation_never_waits_for_the_device():
    batch = images(16)
    with NoSync():
        Augmentation(crop=2, flip=True, cutout=3, auto=True, roll=2).apply(batch, seeded())
        Augmentation(crop=2, roll=1, drop=0.5).apply(batch[:, None], seeded())
        floats(batch, False)
    with NoSync(), pytest.raises(AssertionError, match="_local_scalar_dense"):
        batch.sum().item()


def test_shift_moves_each_image_by_its_own_whole_pixels():
    batch = torch.arange(1, 2 * 16 + 1, dtype=torch.uint8).reshape(1, 2, 4, 4).repeat(200, 1, 1, 1)
    moved = shifted(batch, 1, seeded())
    assert moved.shape == batch.shape and moved.dtype == torch.uint8
    padded = np.pad(batch[0].numpy(), ((0, 0), (1, 1), (1, 1)))
    possible = {padded[:, y : y + 4, x : x + 4].tobytes() for y in range(3) for x in range(3)}
    assert {image.contiguous().numpy().tobytes() for image in moved} == possible
    assert shifted(batch, 0, torch.Generator()) is batch


def test_mirror_flips_about_half():
    batch = images(400)
    result = mirrored(batch, seeded())
    flipped = (result == batch.flip(-1)).flatten(1).all(1)
    assert ((result == batch).flatten(1).all(1) ^ flipped).all()
    assert 150 < flipped.sum() < 250


@pytest.mark.parametrize("side", [1, 2, 5, 20])
def test_cut_removes_one_square_that_may_stick_out(side):
    batch = torch.full((300, 2, 8, 10), 7, dtype=torch.uint8)
    holes = cut(batch, side, seeded()) == 0
    assert (holes[:, 0] == holes[:, 1]).all()
    corners, areas = set(), set()
    for hole in holes[:, 0]:
        rows, columns = hole.any(1).nonzero().flatten(), hole.any(0).nonzero().flatten()
        assert hole[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1].all()
        assert len(rows) <= side and len(columns) <= side
        corners.add((int(rows[0]), int(columns[0])))
        areas.add(int(hole.sum()))
    assert max(areas) == min(side, 8) * min(side, 10)
    if side < 8:
        assert len(corners) > 10 and (side == 1 or min(areas) < side**2)


def test_roll_loses_nothing():
    batch = images(200, 2, 5, 7)
    seen = set()
    for before, after in zip(batch, rolled(batch, 2, seeded()), strict=True):
        ways = {
            (dy, dx)
            for dy in range(-2, 3)
            for dx in range(-2, 3)
            if torch.equal(torch.roll(before, (dy, dx), (1, 2)), after)
        }
        assert len(ways) == 1
        seen |= ways
    assert len(seen) == 25


def kind_of_loss(left):
    """Of a sample (T, C, H, W) that was all 1, with at least 4 of all: what was dropped, and which share."""
    gone = left == 0
    frames = gone.all(3).all(2).all(1)
    if torch.equal(gone, frames[:, None, None, None].expand_as(gone)):
        where = frames.nonzero().flatten()
        assert not len(where) or len(where) == where[-1] - where[0] + 1
        return "frames" if len(where) else "nothing", len(where) / len(left)
    area = gone[0, 0]
    if (gone == area).all():
        rows, columns = area.any(1).nonzero().flatten(), area.any(0).nonzero().flatten()
        assert area[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1].all()
        assert area.sum() == len(rows) * len(columns)
        return "area", len(rows) / area.shape[0]
    return "spikes", gone.float().mean().item()


@pytest.mark.parametrize("most", [0.5, 1.0])
def test_drop_takes_frames_or_an_area_or_spikes(most):
    frames = torch.ones(800, 20, 1, 40, 10, dtype=torch.uint8)
    result = dropped(frames, most, seeded())
    assert result.max() == 1 and frames.min() == 1 and torch.equal(result, dropped(frames, most, seeded()))
    found = [kind_of_loss(left) for left in result]
    kinds = [kind for kind, _ in found]
    for kind in ("frames", "area", "spikes"):
        shares = [share for one, share in found if one == kind]
        assert 130 < len(shares) < 260 and max(shares) <= most + 0.06
        assert abs(np.mean(shares) - most / 2) < 0.15 * most and min(shares) < 0.15 * most
    assert 160 < kinds.count("nothing") < 290  # a small share rounds to no frame and no pixel
    assert torch.equal(dropped(frames, 0.0, seeded()), frames)


# --- the policy, operation by operation, against Pillow where Pillow has it


def photo(side=32):
    """Smooth colors with an edge: neither flat nor noise."""
    y, x = np.mgrid[:side, :side] / side
    channels = [60 + 120 * x, 200 - 150 * y, 90 + 60 * np.sin(9 * x * y)]
    pixels = np.stack(channels, -1)
    pixels[side // 3 : side // 2, side // 4 : -side // 4] = (200, 40, 90)
    return pixels.astype(np.uint8)


def one(operation, strength, pixels=None):
    pixels = photo() if pixels is None else pixels
    batch = torch.from_numpy(pixels.transpose(2, 0, 1).copy())[None]
    return applied(batch, torch.tensor([int(operation)]), torch.tensor([float(strength)]))[0].permute(1, 2, 0).numpy()


def differ(a, b):
    return np.abs(np.asarray(a).astype(int) - np.asarray(b).astype(int))


@pytest.mark.parametrize("operation", list(Operation))
def test_no_strength_is_no_change(operation):
    if operation not in (Operation.AUTOCONTRAST, Operation.EQUALIZE):  # those have no strength
        assert np.array_equal(one(operation, 0), photo())


@pytest.mark.parametrize("strength", [-1.0, -0.4, 0.3, 1.0])
def test_tones_are_those_of_pillow(strength):
    source, factor = Image.fromarray(photo()), 1 + 0.9 * strength
    assert differ(one(Operation.BRIGHTNESS, strength), ImageEnhance.Brightness(source).enhance(factor)).max() <= 1
    assert differ(one(Operation.CONTRAST, strength), ImageEnhance.Contrast(source).enhance(factor)).max() <= 2
    assert differ(one(Operation.COLOR, strength), ImageEnhance.Color(source).enhance(factor)).max() <= 2
    sharp = differ(one(Operation.SHARPNESS, strength), ImageEnhance.Sharpness(source).enhance(factor))
    assert sharp[1:-1, 1:-1].max() <= 2  # Pillow leaves the border alone
    bits = 8 - round(4 * abs(strength))
    assert np.array_equal(one(Operation.POSTERIZE, strength), ImageOps.posterize(source, bits))
    threshold = 256 * (1 - abs(strength))
    assert np.array_equal(one(Operation.SOLARIZE, strength), ImageOps.solarize(source, threshold))
    assert np.array_equal(one(Operation.EQUALIZE, strength), ImageOps.equalize(source))
    assert differ(one(Operation.AUTOCONTRAST, strength), ImageOps.autocontrast(source)).max() <= 1


def test_flat_and_tiny_images_survive_every_operation():
    for pixels in (np.full((4, 4, 3), 9, np.uint8), np.full((1, 1, 1), 200, np.uint8)):
        for operation in (
            Operation.AUTOCONTRAST,
            Operation.EQUALIZE,
            Operation.SHARPNESS,
            Operation.COLOR,
            Operation.CONTRAST,
        ):
            assert np.array_equal(one(operation, 0.7, pixels), pixels)


@pytest.mark.parametrize("shape", [(32, 32), (24, 40)])
def test_maps_are_the_named_geometry(shape):
    """A hill goes where rotation, shear and translation in pixels put it, also in an oblong image."""
    height, width = shape
    y, x = np.mgrid[:height, :width].astype(float)
    y, x = y - (height - 1) / 2, x - (width - 1) / 2

    def hill(dy, dx):
        return np.exp(-((y - dy) ** 2 + (x - dx) ** 2) / 8)

    def center(pixels):
        weight = pixels[..., 0] / pixels.sum()
        return float((weight * y).sum()), float((weight * x).sum())

    source = np.rint(250 * hill(3, 4))[..., None].astype(np.uint8)
    cos, sin = np.cos(np.radians(30)), np.sin(np.radians(30))
    expected = {
        Operation.ROTATE: (3 * cos - 4 * sin, 4 * cos + 3 * sin),
        Operation.SHEAR_X: (3, 4 - 0.3 * 3),
        Operation.SHEAR_Y: (3 - 0.3 * 4, 4),
        Operation.TRANSLATE_X: (3, 4 - 0.225 * width),
        Operation.TRANSLATE_Y: (3 - 0.225 * height, 4),
    }
    for operation, where in expected.items():
        strength = 0.5 if operation >= Operation.TRANSLATE_X else 1.0
        assert center(one(operation, strength, source)) == pytest.approx(where, abs=0.15), operation


def test_every_operation_is_drawn_and_moves_its_own_image_only():
    batch = torch.from_numpy(photo().transpose(2, 0, 1).copy()).repeat(500, 1, 1, 1)
    result = trivial(batch, seeded())
    changed = (result != batch).flatten(1).any(1)
    assert 0.8 < changed.float().mean() < 0.97  # one in 14 is the identity, and weak ones round to it
    operations = torch.arange(14)
    together = applied(batch[:14], operations, torch.full((14,), 0.5))
    for k in range(14):
        assert torch.equal(together[k], applied(batch[:1], operations[k : k + 1], torch.full((1,), 0.5))[0])


# --- on the device, or streamed to it

CPU = torch.device("cpu")


def test_placed_images_are_picked_alike_wherever_they_are(tmp_path, monkeypatch):
    array = images(20).numpy()
    np.save(tmp_path / "x.npy", array.transpose(0, 2, 3, 1))
    stored = np.load(tmp_path / "x.npy", mmap_mode="r").transpose(0, 3, 1, 2)
    indices = torch.tensor([3, 3, 19, 0])
    resident = placed(stored, CPU)
    assert isinstance(resident, torch.Tensor) and len(resident) == 20
    monkeypatch.setattr(storage, "IN_MEMORY", array.nbytes - 1)
    streamed = placed(stored, CPU)
    assert isinstance(streamed, Streamed) and len(streamed) == 20
    for source in (resident, streamed):
        picked = source[indices]
        assert picked.is_contiguous() and np.array_equal(picked.numpy(), array[[3, 3, 19, 0]])
        picked.zero_()  # a copy: the file is not touched
    assert np.array_equal(stored, array)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("limit", [storage.IN_MEMORY, 0])
def test_mapped_files_are_taken_without_a_warning(tmp_path, monkeypatch, limit):
    monkeypatch.setattr(storage, "IN_MEMORY", limit)
    np.save(tmp_path / "x.npy", images(3).numpy())
    source = placed(np.load(tmp_path / "x.npy", mmap_mode="r"), CPU)
    assert isinstance(source, torch.Tensor) == (limit > 0)
    there, host = torch.tensor([2, 0]), torch.tensor([2, 0])
    assert torch.equal(pick(source, there), images(3)[[2, 0]])
    assert torch.equal(pick(source, there, host), images(3)[[2, 0]])


def test_a_data_set_larger_than_the_limit_takes_no_memory(tmp_path):
    count = 1 + storage.IN_MEMORY // (3 * 64 * 64)
    # sparse: two gigabytes that take no room on the disk either
    large = np.memmap(tmp_path / "x", np.uint8, "w+", shape=(count, 3, 64, 64))
    large[count - 1] = 7
    data = DataSet("large", large, np.zeros(count, np.int64), large[:10], np.zeros(10, np.int64), 1)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    source = placed(data.x_train, CPU)
    assert isinstance(source, Streamed)
    for start in range(0, 50 * 64, 64):
        assert source[(torch.arange(64) * 7919 + start) % count].shape == (64, 3, 64, 64)
    assert source[torch.tensor([count - 1])].unique().tolist() == [7]
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    assert grown < 300 * 1024, f"{grown / 1024:.0f} MiB"


def test_mixed_samples_have_both_labels_by_their_events():
    """Sample i has the value i + 1 wherever it has an event, so that every event tells where it comes from."""
    count, T, classes = 120, 4, 10
    there = (
        torch.rand(count, T, 2, 9, 7, generator=seeded()) < torch.linspace(0.1, 0.6, count)[:, None, None, None, None]
    )
    frames = there.to(torch.uint8) * torch.arange(1, count + 1, dtype=torch.uint8)[:, None, None, None, None]
    labels = torch.arange(count) % classes
    found, soft = mixed(frames, labels, classes, 0.8, seeded())
    again = Augmentation(mix=0.8).mixes(classes)(frames, labels, seeded())
    assert torch.equal(found, again[0]) and torch.equal(soft, again[1])
    alone, shares = 0, []
    for i in range(count):
        others = set(found[i].unique().tolist()) - {0, i + 1}
        if not others:
            alone += 1
            assert torch.equal(found[i], frames[i]) and soft[i].tolist() == np.eye(classes)[labels[i]].tolist()
            continue
        (partner,) = (value - 1 for value in others)
        own = (found[i] == frames[i]).all(1, keepdim=True).expand_as(found[i])  # both polarities alike
        assert torch.equal(found[i][~own], frames[partner][~own])
        shares.append(float((found[i] == i + 1).sum() / (frames[i] > 0).sum()))
        expected = torch.zeros(classes)
        for k in (i, partner):
            expected[labels[k]] += found[i][found[i] == k + 1].sum() / found[i].sum()
        torch.testing.assert_close(soft[i], expected)
    assert 0.1 * count < alone < 0.35 * count  # a fifth, and who is its own partner
    assert 0.35 < np.mean(shares) < 0.65 and np.std(shares) > 0.15


def test_the_label_of_a_mix_by_hand():
    """Two samples of full frames: the weight is the share of places, and of places with events where one is emptier."""
    frames = torch.zeros(2, 3, 2, 8, 8, dtype=torch.uint8)
    frames[0], frames[1, :, 0] = 4, 1
    for seed in range(8):
        found, soft = mixed(frames, torch.tensor([2, 0]), 3, 1.0, seeded(seed))
        for i in range(2):
            events = {2: int(found[i][found[i] == 4].sum()), 0: int((found[i] == 1).sum())}
            total = max(1, sum(events.values()))
            assert soft[i].tolist() == pytest.approx([events[0] / total, 0, events[2] / total])
    empty, soft = mixed(frames * 0, torch.tensor([2, 0]), 3, 1.0, seeded())
    assert not empty.any() and soft.tolist() == [[0, 0, 1], [1, 0, 0]]
    same, soft = mixed(frames, torch.tensor([2, 0]), 3, 0.0, seeded())
    assert torch.equal(same, frames) and soft.tolist() == [[0, 0, 1], [1, 0, 0]]
