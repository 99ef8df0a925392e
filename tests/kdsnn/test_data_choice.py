"""Data as users have it: splits by other names, files without a kind, sizes, channels, classes, and the choice of samples."""

import warnings
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

import kdsnn
from kdsnn.data import DataSet, load
from kdsnn.data.splits import parts_of
from kdsnn.data.variants import in_gray
from kdsnn.deploy.images import chosen, load_data, require_fit, some_tests
from kdsnn.errors import KdsnnError, Notice


def folders(root, parts, classes=("ant", "bee", "cat"), count=4, size=(6, 6), mode="L"):
    rng = np.random.default_rng(0)
    for part in parts:
        for name in classes:
            (root / part / name).mkdir(parents=True)
            for i in range(count):
                pixels = rng.integers(0, 256, (*size, 3), dtype=np.uint8)
                Image.fromarray(pixels).convert(mode).save(root / part / name / f"{i}.png")
    return root


def data_set(classes=3, names=(), shape=(1, 4, 4), count=12):
    rng = np.random.default_rng(1)
    x, y = rng.integers(0, 256, (count, *shape), dtype=np.uint8), np.arange(count) % classes
    return DataSet("some", x, y, x, y, classes, names)


def notices_of(action):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        found = action()
    return found, [str(w.message) for w in caught if issubclass(w.category, Notice)]


# --- splits


@pytest.mark.parametrize(
    ("train", "test"),
    [("training", "testing"), ("Train", "Test"), ("TRAIN", "Valid"), ("Training", "val"), ("train", "Validation")],
)
def test_parts_are_no_classes_whatever_their_case(tmp_path, train, test):
    folders(tmp_path, [train, test])
    data = load(f"folder:{tmp_path}")
    assert data.class_names == ("ant", "bee", "cat") and len(data.y_train) == len(data.y_test) == 12
    assert data.notes == (f"{train} is taken for the training images, {test} for the test images.",)


def test_validation_images_beside_a_test_set_are_left_out_and_said(tmp_path):
    folders(tmp_path, ["Train", "Valid", "Test"])
    data = load(f"folder:{tmp_path}")
    test = {image.tobytes() for image in data.x_test}
    expected = {np.asarray(Image.open(p)).tobytes() for p in (tmp_path / "Test").rglob("*.png")}
    assert test == expected and "Test for the test images; Valid is not used" in data.notes[0]


def test_two_folders_for_one_part_are_refused(tmp_path):
    folders(tmp_path, ["train", "Training", "test"])
    with pytest.raises(KdsnnError, match="has Training and train: leave one of them as its training images"):
        load(f"folder:{tmp_path}")


def test_parts_of_a_source_that_has_none():
    assert parts_of("x", ["ant", "trainer", "tests"]) == parts_of("x", [])


# --- what the data is


def test_the_kind_of_a_file_or_folder_is_recognized(tmp_path, monkeypatch):
    data = data_set(shape=(1, 8, 8))
    arrays = {"x_train": data.x_train, "y_train": data.y_train, "x_test": data.x_test, "y_test": data.y_test}
    np.savez(tmp_path / "a.npz", **arrays)
    (tmp_path / "arrays").mkdir()
    for name, array in arrays.items():
        np.save(tmp_path / "arrays" / f"{name}.npy", array)
    folders(tmp_path / "images", ["train", "test"])
    monkeypatch.chdir(tmp_path)
    for spec, name in {
        "a.npz": "npz:a.npz", "arrays": "npy:arrays", "images": "folder:images", "a.npz+rgb": "npz:a.npz+rgb",
        "./images+8x8": "folder:./images+8x8",
    }.items():  # fmt: skip
        assert load(spec).name == name
    assert np.array_equal(load("a.npz").x_test, data.x_test)
    (tmp_path / "notes.txt").write_text("no data")
    with pytest.raises(KdsnnError, match=r"notes\.txt: not a data set: give an \.npz file"):
        load("notes.txt")


def test_a_name_stays_what_it_is_though_a_folder_has_it(tmp_path, monkeypatch):
    (tmp_path / "digits").mkdir()
    monkeypatch.chdir(tmp_path)
    assert load("digits").classes == 10


# --- sizes and channels


def test_images_of_several_sizes_are_refused_with_the_option_that_helps(tmp_path):
    folders(tmp_path, ["train"])
    folders(tmp_path, ["test"], size=(8, 5))
    with pytest.raises(
        KdsnnError, match=r"is 5×8 pixels and .* is 6×6: .* give image_size H,W to resize them"
    ) as caught:
        load(f"folder:{tmp_path}")
    assert "\n" not in str(caught.value)
    data = load(f"folder:{tmp_path}", image_size=(7, 4))
    assert data.input_shape == (1, 7, 4) and data.name == f"folder:{tmp_path}+7x4"
    assert "resized to 7×4 pixels" in data.notes[-1]
    again = load(data.name)
    assert np.array_equal(again.x_train, data.x_train) and np.array_equal(again.x_test, data.x_test)


@pytest.mark.parametrize("mode", ["L", "RGB"])
def test_resizing_is_pillows_whether_of_files_or_of_arrays(tmp_path, mode):
    folders(tmp_path, ["train", "test"], mode=mode)
    whole, small = load(f"folder:{tmp_path}"), load(f"folder:{tmp_path}", image_size=3)
    resized = load_data(whole, image_size=3)
    assert np.array_equal(small.x_train, resized.x_train) and np.array_equal(small.x_test, resized.x_test)
    first = Image.open(tmp_path / "train" / "ant" / "0.png").resize((3, 3), Image.Resampling.BILINEAR)
    assert np.array_equal(np.atleast_3d(np.asarray(first)).transpose(2, 0, 1), small.x_train[0])


@pytest.mark.parametrize("size", [0, (4, 0), (1, 2, 3), 1 << 20, "8"])
def test_sizes_that_images_cannot_have(size):
    with pytest.raises(KdsnnError, match="it must be H,W or one number for both"):
        load("digits", image_size=size)


def test_variants_of_channels():
    gray = load("digits")
    color = load("digits+rgb")
    assert color.input_shape == (3, 8, 8) and all(
        np.array_equal(color.x_test[:, c], gray.x_test[:, 0]) for c in range(3)
    )
    assert np.array_equal(load("digits+rgb+gray").x_test, gray.x_test)
    x = np.zeros((6, 3, 1, 1), np.uint8)
    x[:3] = np.array([[255, 0, 0], [0, 255, 0], [0, 0, 255]])[:, :, None, None]
    made = in_gray(replace(data_set(count=6), x_train=x, x_test=x), 0).x_test
    assert made[:3].ravel().tolist() == [76, 150, 29]  # as Pillow's convert("L")
    two = np.zeros((6, 2, 4, 4), np.uint8)
    with pytest.raises(KdsnnError, match="has 2 channels"):
        in_gray(replace(data_set(count=6), x_train=two, x_test=two), 0)


@pytest.mark.parametrize(
    ("network", "images", "remedy"),
    [
        ((3, 4, 4), (1, 4, 4), r"; to convert the channels, add \+rgb to the name"),
        ((1, 4, 4), (3, 4, 4), r"add \+gray to the name"),
        ((1, 8, 6), (1, 4, 4), r"; to resize them, add \+8x6 to the name"),
        ((3, 8, 8), (1, 4, 4), r"to resize them and convert the channels, add \+8x8\+rgb"),
        ((2, 4, 4), (1, 4, 4), r"images of \(1, 4, 4\)$"),
        ((9,), (1, 4, 4), r"images of \(1, 4, 4\)$"),
    ],
)
def test_images_of_another_shape_are_refused_with_what_to_do(network, images, remedy):
    with pytest.raises(KdsnnError, match=remedy):
        require_fit("net", network, data_set(shape=images))


# --- classes


def test_class_names_are_said_and_a_single_class_too(tmp_path):
    folders(tmp_path / "three", ["train", "test"])
    _, told = notices_of(lambda: load_data(str(tmp_path / "three")))
    assert told == [f"folder:{tmp_path / 'three'} has 3 classes: ant, bee, cat."]
    folders(tmp_path / "one", ["train", "test"], classes=("ant",))
    _, told = notices_of(lambda: load_data(tmp_path / "one"))
    assert told == [
        f"folder:{tmp_path / 'one'} has one class only (ant): any network classifies it rightly, so that its accuracy says nothing."
    ]
    folders(tmp_path / "many", ["train", "test"], classes=tuple(f"c{i:02}" for i in range(20)), count=1)
    _, told = notices_of(lambda: load_data(tmp_path / "many"))
    assert told[0].endswith("has 20 classes: c00, c01, c02, c03, c04, c05, c06, c07, c08, c09, …, c19.")


@pytest.mark.parametrize(
    ("classes", "names", "message"),
    [
        (4, (), "net tells 4 classes apart, some has 3: give data of the classes"),
        (3, ("bee", "ant", "cat"), r"in another order: class 0 is 'bee' for the network and 'ant' in the data \(2 of 3 differ\)"),
        (3, ("ant", "bee", "dog"), r"other classes than some has: class 2 is 'dog' .* 'cat' in the data \(1 of 3 differ\)"),
    ],
)  # fmt: skip
def test_other_classes_are_one_line(classes, names, message):
    data = data_set(names=("ant", "bee", "cat"))
    with pytest.raises(KdsnnError, match=message) as caught:
        require_fit("net", (1, 4, 4), data, classes=classes, class_names=names)
    assert "\n" not in str(caught.value)


def test_the_same_classes_pass_and_so_do_unknown_ones():
    data = data_set(names=("ant", "bee", "cat"))
    for classes, names in ((3, ("Ant", "BEE", "cat")), (3, ()), (None, ())):
        require_fit("net", (1, 4, 4), data, classes=classes, class_names=names)
    require_fit("net", (16,), data_set(), classes=3, class_names=("x", "y", "z"))


def renamed(root, names):
    for part in ("train", "test"):
        for old, new in names.items():
            (root / part / old).rename(root / part / f"_{new}")
        for new in names.values():
            (root / part / f"_{new}").rename(root / part / new)


def test_a_checkpoint_keeps_its_classes_and_every_verb_compares_them(tmp_path):
    folders(tmp_path / "data", ["train", "test"], size=(8, 8))
    spec = f"folder:{tmp_path / 'data'}"
    small = {"epochs": 1, "options": {"channels": (4, 4), "hidden": 8}}
    teacher = kdsnn.pretrain("cnn2", spec, out=tmp_path / "t.safetensors", **small)
    student = kdsnn.distill("cnn2", spec, teacher=teacher, out=tmp_path / "s.safetensors", T=2, **small)
    assert student.info.class_names == kdsnn.load(tmp_path / "t.safetensors").info.class_names == ("ant", "bee", "cat")
    files = {name: tmp_path / f"{name}.safetensors" for name in "ts"}
    kdsnn.export(files["s"], tmp_path, to=["netx", "onnx"])
    lowered = [files["s"], tmp_path / "s.net", tmp_path / "s.onnx"]
    for source in lowered:
        kdsnn.run(source, spec, on=["onnx" if source.suffix == ".onnx" else "emulator"], samples=3)

    renamed(tmp_path / "data", {"ant": "bee", "bee": "ant"})  # images change place, names stay: nothing can be told
    kdsnn.evaluate(files["s"], spec)
    renamed(tmp_path / "data", {"cat": "dog"})
    actions = [
        lambda: kdsnn.evaluate(files["s"], spec),
        lambda: kdsnn.evaluate(files["t"], spec),
        lambda: kdsnn.profile(files["s"], spec, samples=2),
        lambda: kdsnn.profile(files["t"], spec, samples=2),
        lambda: kdsnn.distill("cnn2", spec, teacher=files["t"], T=2, **small),
        *(lambda s=s: kdsnn.run(s, spec, on=["onnx" if s.suffix == ".onnx" else "emulator"]) for s in lowered),
    ]
    for action in actions:
        with pytest.raises(KdsnnError, match="class 2 is 'cat' for the network and 'dog' in the data"):
            action()
    rng = np.random.default_rng(0)
    x = rng.integers(0, 256, (12, 1, 8, 8), dtype=np.uint8)
    other = (x, np.arange(12) % 4, x, np.arange(12) % 4)
    for source in lowered:
        with pytest.raises(KdsnnError, match="tells 3 classes apart, arrays has 4"):
            kdsnn.run(source, other, on=["onnx" if source.suffix == ".onnx" else "emulator"])
    with pytest.raises(KdsnnError, match="tells 3 classes apart, arrays has 4"):
        kdsnn.profile(files["s"], other)


# --- some of many


@given(st.integers(1, 500), st.integers(1, 600), st.integers(0, 5))
def test_a_choice_is_spread_ascending_and_repeatable(total, most, seed):
    found = chosen(total, most, seed)
    assert len(found) == min(total, most) and np.array_equal(found, chosen(total, most, seed))
    assert (np.diff(found) > 0).all() and found[0] >= 0 and found[-1] < total
    ends = np.arange(len(found) + 1) * total // len(found)
    assert (ends[:-1] <= found).all() and (found < ends[1:]).all()


@pytest.mark.parametrize("labels", [np.repeat(np.arange(4), 30), np.arange(120) % 4, np.arange(120) // 2 % 4])
def test_of_sorted_and_of_alternating_classes_each_has_a_share(labels):
    x = np.broadcast_to(labels.astype(np.uint8)[:, None, None, None], (120, 1, 2, 2)).copy()
    data = DataSet("some", x, labels, x, labels, 4)
    images, found = some_tests(data, 40)
    assert np.array_equal(images[:, 0, 0, 0], found)  # images and labels stay together
    assert np.bincount(found, minlength=4).min() >= 5
    assert some_tests(data, 120)[0] is data.x_test and some_tests(data, None)[0] is data.x_test


def test_choices_differ_by_seed_and_none_takes_all():
    assert not np.array_equal(chosen(1000, 10, 0), chosen(1000, 10, 1))
    assert chosen(5, None).tolist() == [0, 1, 2, 3, 4]


def test_a_sorted_folder_gives_a_network_that_always_says_the_same_a_quarter(tmp_path):
    """25 % is right; the first images of the folder are all of the first class."""
    import torch
    from spikingjelly.activation_based import layer, neuron

    folders(tmp_path, ["train", "test"], classes=("a", "b", "c", "d"), count=30, size=(8, 8))
    network = torch.nn.Sequential(layer.Flatten(), layer.Linear(64, 4), neuron.IFNode())
    torch.nn.init.constant_(network[1].weight, 0.004)  # large enough beside the bias to be quantized
    network[1].bias.data.copy_(torch.tensor([0.9, 0.1, 0.1, 0.1]))
    result = kdsnn.run(network, str(tmp_path), input_shape=(1, 8, 8), T=4, on=["emulator"], samples=20)
    assert result.accuracy == {"emulator": 0.25}
    report = kdsnn.profile(network, str(tmp_path), input_shape=(1, 8, 8), T=4, samples=20)
    assert "25" in str(report.closing_table())
