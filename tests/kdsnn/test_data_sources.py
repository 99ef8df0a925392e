"""Image folders and Hugging Face data sets, built on the spot; the network is never needed."""

import io
import time

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from kdsnn.data import DataSet, hub, load, storage
from kdsnn.errors import KdsnnError


def picture(seed, shape=(5, 7), mode="L"):
    rng = np.random.default_rng(seed)
    return Image.fromarray(rng.integers(0, 256, (*shape, 3), dtype=np.uint8)).convert(mode)


def saved(path, image):
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path)
    return path


def class_folders(folder, count=5, mode="L", names=("cat", "ant", "bee")):
    for k, name in enumerate(names):
        for i in range(count):
            saved(folder / name / f"{i}.png", picture(100 * k + i, mode=mode))
    return folder


# --- folder:DIR


@pytest.mark.parametrize(("mode", "channels"), [("L", 1), ("RGB", 3), ("P", 3), ("RGBA", 3), ("1", 1), ("LA", 1)])
def test_folder_keeps_pixels_and_sorted_names(tmp_path, mode, channels):
    class_folders(tmp_path, mode=mode)
    data = load(f"folder:{tmp_path}")
    assert data.class_names == ("ant", "bee", "cat") and data.classes == 3
    assert data.input_shape == (channels, 5, 7)
    assert np.bincount(data.y_train).tolist() == [4, 4, 4] and np.bincount(data.y_test).tolist() == [1, 1, 1]

    expected = set()
    for k, name in enumerate(data.class_names):
        for path in (tmp_path / name).iterdir():
            pixels = np.asarray(Image.open(path).convert("L" if channels == 1 else "RGB"))
            expected.add((k, np.atleast_3d(pixels).transpose(2, 0, 1).tobytes()))
    x, y = np.concatenate([data.x_train, data.x_test]), np.concatenate([data.y_train, data.y_test])
    assert {(int(k), image.tobytes()) for k, image in zip(y, x, strict=True)} == expected


def test_folder_split_is_seeded_and_said(tmp_path):
    class_folders(tmp_path, 10)
    first, same, other = (load(f"folder:{tmp_path}", seed=s) for s in (0, 0, 1))
    assert np.array_equal(first.x_test, same.x_test) and not np.array_equal(first.x_test, other.x_test)
    assert "20% of every class" in first.notes[0]


@pytest.mark.parametrize("name", ["test", "val", "validation"])
def test_folder_with_a_split_of_its_own(tmp_path, name):
    class_folders(tmp_path / "train")
    class_folders(tmp_path / name, 2, names=("cat", "bee"))
    data = load(f"folder:{tmp_path}")
    assert data.y_train.tolist() == [0] * 5 + [1] * 5 + [2] * 5 and data.y_test.tolist() == [1, 1, 2, 2]
    assert data.notes == (
        () if name == "test" else (f"train is taken for the training images, {name} for the test images.",)
    )

    saved(tmp_path / name / "dog" / "0.png", picture(0))
    with pytest.raises(KdsnnError, match=r"has a class dog that .*train has not"):
        load(f"folder:{tmp_path}")


def test_folder_gray_among_colors_becomes_color(tmp_path):
    class_folders(tmp_path, mode="RGB")
    gray = np.asarray(picture(0, mode="L"))
    saved(tmp_path / "ant" / "0.png", Image.fromarray(gray))
    data = load(f"folder:{tmp_path}")
    images = np.concatenate([data.x_train, data.x_test])
    assert any(np.array_equal(image, np.stack([gray] * 3)) for image in images)


def test_folder_other_files_are_left_out_and_counted(tmp_path):
    class_folders(tmp_path)
    (tmp_path / "ant" / "notes.txt").write_text("no image")
    (tmp_path / "ant" / "._0.png").write_text("what a Mac leaves behind")
    (tmp_path / ".cache").mkdir()
    (tmp_path / "README.md").write_text("not in a class")
    saved(tmp_path / "ant" / "deeper" / "9.JPG", picture(9))
    data = load(f"folder:{tmp_path}")
    assert len(data.y_train) + len(data.y_test) == 16
    assert data.notes[-1] == "1 file that is no image was left out."


FOLDER_ERRORS = {
    "absent": (lambda d: None, "no such folder"),
    "empty": (lambda d: d.mkdir(), "no class folders"),
    "images on top": (lambda d: saved(d / "0.png", picture(0)), "no class folders"),
    "empty class": (lambda d: (class_folders(d), (d / "dog").mkdir()), "dog holds no images"),
    "odd size": (
        lambda d: (class_folders(d), saved(d / "bee" / "3.png", picture(0, (5, 8)))),
        r"bee/3.png is 8×5 pixels and .* is 7×5",
    ),
    "damaged": (
        lambda d: (class_folders(d), (d / "bee" / "3.png").write_bytes(b"hello")),
        r"bee/3.png cannot be read \(not an image Pillow knows\)",
    ),
    "cut off": (
        lambda d: (class_folders(d), (p := d / "bee" / "3.png").write_bytes(p.read_bytes()[:60])),
        "bee/3.png cannot be read",
    ),
    "16 bits": (
        lambda d: (class_folders(d), Image.fromarray(np.zeros((5, 7), np.uint16)).save(d / "bee" / "3.png")),
        "bee/3.png has more than 8 bits",
    ),
    "train alone": (lambda d: class_folders(d / "train"), "none named test: add it, or use folder:.*train"),
    "test alone": (lambda d: class_folders(d / "test"), "none named train"),
    "too few": (lambda d: class_folders(d, 2), "too few images for a test set"),
}


@pytest.mark.parametrize(("build", "message"), FOLDER_ERRORS.values(), ids=FOLDER_ERRORS.keys())
def test_folder_refusals_are_one_readable_line(tmp_path, build, message):
    folder = tmp_path / "data"
    build(folder)
    with pytest.raises(KdsnnError, match=message) as caught:
        load(f"folder:{folder}")
    assert "\n" not in str(caught.value)


def _png() -> bytes:
    buffer = io.BytesIO()
    picture(0).save(buffer, "PNG")
    return buffer.getvalue()


GOOD = _png()


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(length=st.integers(0, len(GOOD)), flips=st.lists(st.integers(0, 8 * len(GOOD) - 1), max_size=3))
def test_a_damaged_image_is_an_error_or_loads(tmp_path, length, flips):
    if not (tmp_path / "ant").exists():
        class_folders(tmp_path, 3)
    damaged = bytearray(GOOD)
    for flip in flips:
        damaged[flip // 8] ^= 1 << flip % 8
    (tmp_path / "bee" / "1.png").write_bytes(damaged[:length])
    try:
        assert isinstance(load(f"folder:{tmp_path}"), DataSet)
    except KdsnnError as error:
        assert "\n" not in str(error)


def test_many_images_go_to_disk(tmp_path, monkeypatch):
    class_folders(tmp_path, mode="RGB")
    expected = load(f"folder:{tmp_path}")
    monkeypatch.setattr(storage, "IN_MEMORY", 100)
    monkeypatch.setattr(storage, "HELD", 100)
    data = load(f"folder:{tmp_path}")
    assert isinstance(data.x_train, np.memmap) and isinstance(data.x_test, np.memmap)
    assert np.array_equal(data.x_train, expected.x_train) and np.array_equal(data.x_test, expected.x_test)
    monkeypatch.setattr(storage.shutil, "disk_usage", lambda folder: type("Usage", (), {"free": 10}))
    with pytest.raises(KdsnnError, match=r"temporary disk space.*TMPDIR"):
        load(f"folder:{tmp_path}")


# --- Hugging Face


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory, monkeypatch):
    import datasets

    cache = tmp_path_factory.mktemp("cache")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", cache)
    return cache


@pytest.fixture
def no_hub(monkeypatch):
    monkeypatch.setattr(hub, "_hub_answers", lambda: False)


def encoded(count, mode="L", start=0):
    buffers = [io.BytesIO() for _ in range(count)]
    for i, buffer in enumerate(buffers):
        picture(start + i, mode=mode).save(buffer, "PNG")
    return [{"bytes": buffer.getvalue(), "path": None} for buffer in buffers]


def repository(folder, image="image", label="label", names=("cat", "dog"), splits=("train", "test"), mode="L", **more):
    """A repository as they lie on the Hub: parquet files named after their splits."""
    from datasets import ClassLabel, Dataset, Features, Value
    from datasets import Image as ImageFeature

    for start, split in enumerate(splits):
        columns = {image: encoded(10, mode, 100 * start), label: [0, 1] * 5}
        columns |= {key: [0] * 10 for key in more}
        features = {image: ImageFeature(), label: ClassLabel(names=list(names)) if names else Value("int64")}
        (folder / "data").mkdir(parents=True, exist_ok=True)
        table = Dataset.from_dict(columns, features=Features({**features, **more}))
        table.to_parquet(folder / "data" / f"{split}-00000-of-00001.parquet")
    return folder


def test_hf_folder_keeps_pixels_labels_and_names(tmp_path):
    data = load(f"hf:{repository(tmp_path)}")
    assert data.class_names == ("cat", "dog") and data.input_shape == (1, 5, 7) and not data.notes
    assert data.y_train.tolist() == data.y_test.tolist() == [0, 1] * 5
    assert np.array_equal(data.x_train[3, 0], np.asarray(picture(3)))
    assert np.array_equal(data.x_test[4, 0], np.asarray(picture(104)))


@pytest.mark.parametrize(("image", "label"), [("img", "fine_label"), ("scan", "kind"), ("image", "labels")])
def test_hf_columns_are_found_by_name_or_type(tmp_path, image, label):
    from datasets import ClassLabel, Value

    # cifar100 has a second label, which must not be taken
    more = {"coarse_label": ClassLabel(names=["pet"])} if label == "fine_label" else {"id": Value("int64")}
    data = load(f"hf:{repository(tmp_path, image, label, mode='RGB', **more)}")
    assert data.input_shape == (3, 5, 7) and data.class_names == ("cat", "dog")
    assert np.array_equal(data.x_train[3], np.asarray(picture(3, mode="RGB")).transpose(2, 0, 1))


def test_hf_without_test_split_or_names(tmp_path):
    data = load(f"hf:{repository(tmp_path, splits=('train',), names=())}")
    assert data.class_names == () and data.classes == 2
    assert np.bincount(data.y_test).tolist() == [1, 1] and "20% of every class" in data.notes[0]
    shown = [image.tobytes() for image in (*data.x_train, *data.x_test)]
    assert sorted(shown) == sorted(picture(i).tobytes() for i in range(10))
    labels = [*data.y_train, *data.y_test]
    assert all(labels[shown.index(picture(i).tobytes())] == i % 2 for i in range(10))
    other = load(f"hf:{repository(tmp_path / 'other', splits=('train', 'validation'))}")
    assert len(other.y_test) == 10


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"label": "answer", "names": ()},
            r"no column of labels could be told among image \(Image\), answer \(Value\)",
        ),
        ({"splits": ("test",)}, "one named train is needed"),
    ],
)
def test_hf_refusals(tmp_path, change, message):
    with pytest.raises(KdsnnError, match=message):
        load(f"hf:{repository(tmp_path, **change)}")


def test_hf_without_images(tmp_path):
    (tmp_path / "train.csv").write_text("text,label\nhello,0\n")
    with pytest.raises(KdsnnError, match="no column of images could be told among text"):
        load(f"hf:{tmp_path}")
    (tmp_path / "train.csv").write_text("image,label\nhello,0\n")
    with pytest.raises(KdsnnError, match="column image is of type Value, not Image"):
        load(f"hf:{tmp_path}")


def test_hf_damaged_image_is_named(tmp_path):
    from datasets import Dataset, Features, Value
    from datasets import Image as ImageFeature

    images = encoded(4)
    images[2]["bytes"] = b"hello"
    features = Features({"image": ImageFeature(), "label": Value("int64")})
    (tmp_path / "data").mkdir()
    for split in ("train", "test"):
        Dataset.from_dict({"image": images, "label": [0] * 4}, features=features).to_parquet(
            tmp_path / "data" / f"{split}-00000-of-00001.parquet"
        )
    with pytest.raises(KdsnnError, match=r"split train, image 2 cannot be read"):
        load(f"hf:{tmp_path}")


def cached(folder, cache, name):
    """Put a repository into the cache of `datasets` as if it had come from the Hub."""
    load(f"hf:{repository(folder / name)}")
    (cache / name).rename(cache / f"ylecun___{name}")


@pytest.mark.usefixtures("no_hub")
def test_the_cache_serves_without_the_hub(tmp_path, own_cache):
    cached(tmp_path, own_cache, "mnist")
    data = load("mnist+rot")
    assert data.name == "mnist+rot" and len(data.y_train) == 10 and data.class_names == ("cat", "dog")

    (arrow,) = own_cache.rglob("mnist-test.arrow")
    content = arrow.read_bytes()
    for damaged in (b"", content[: len(content) // 2], b"x" * 1000):
        arrow.write_bytes(damaged)
        with pytest.raises(KdsnnError, match="local copy is damaged, remove it from") as caught:
            load("mnist")
        assert str(own_cache) in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["mnist", "fashion-mnist", "cifar10", "cifar100", "hf:owner/name"])
@pytest.mark.usefixtures("no_hub")
def test_without_hub_and_cache_one_line_says_what_to_do(name, own_cache):
    import datasets
    import huggingface_hub

    before = datasets.config.HF_HUB_OFFLINE, huggingface_hub.constants.HF_HUB_OFFLINE
    with pytest.raises(KdsnnError, match=r"Hub cannot be reached.*npz:FILE or folder:DIR") as caught:
        load(name)
    assert str(own_cache) in str(caught.value) and "\n" not in str(caught.value)
    assert before == (datasets.config.HF_HUB_OFFLINE, huggingface_hub.constants.HF_HUB_OFFLINE)


def test_an_unreachable_hub_is_given_up_within_seconds(monkeypatch):
    import huggingface_hub

    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", "http://127.0.0.1:9")  # nobody listens
    started = time.monotonic()
    with pytest.raises(KdsnnError, match="Hub cannot be reached"):
        load("cifar10")
    assert time.monotonic() - started < 2 * hub.PATIENCE

    class Silent:
        def head(self, *args, **options):
            time.sleep(30)

    monkeypatch.setattr(huggingface_hub, "get_session", Silent)
    monkeypatch.setattr(hub, "PATIENCE", 0.2)
    started = time.monotonic()
    with pytest.raises(KdsnnError, match="Hub cannot be reached"):
        load("cifar10")
    assert time.monotonic() - started < 10


def test_a_hub_that_answers_badly_is_one_line(monkeypatch):
    import datasets

    monkeypatch.setattr(hub, "_hub_answers", lambda: True)

    def fail(*args, **options):
        raise RuntimeError("first line\nsecond line")

    monkeypatch.setattr(datasets, "load_dataset", fail)
    with pytest.raises(KdsnnError, match=r"'uoft-cs/cifar10' cannot be loaded \(first line second line\)"):
        load("cifar10")


@pytest.mark.parametrize("spec", ["hf:csv", "hf::", "hf:mnist"])
def test_hf_needs_a_repository_or_a_folder(spec):
    with pytest.raises(KdsnnError, match="write hf:OWNER/NAME or hf:FOLDER"):
        load(spec)
