import io
import subprocess
import sys
import zipfile

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from kdsnn.data import DataSet, load
from kdsnn.errors import KdsnnError


def arrays(shape=(6, 5, 7), **changes):
    rng = np.random.default_rng(0)
    labels = np.arange(shape[0]) % 3
    made = {
        "x_train": rng.integers(0, 256, shape, dtype=np.uint8),
        "y_train": labels,
        "x_test": rng.integers(0, 256, shape, dtype=np.uint8),
        "y_test": labels,
    }
    return {key: value for key, value in {**made, **changes}.items() if value is not None}


def written(folder, **content):
    path = folder / "data.npz"
    np.savez(path, **content)
    return path


def test_digits_are_the_sklearn_digits_split_by_class():
    import sklearn.datasets

    data = load("digits")
    assert data.input_shape == (1, 8, 8) and data.classes == 10
    assert data.x_train.dtype == np.uint8 and data.x_train.max() == 255
    assert len(data.x_train) + len(data.x_test) == 1797
    for label in range(10):
        train, test = (data.y_train == label).sum(), (data.y_test == label).sum()
        assert test == round(0.2 * (train + test))

    source = sklearn.datasets.load_digits()
    ours = np.concatenate([data.x_train, data.x_test]).reshape(1797, 64)
    labels = np.concatenate([data.y_train, data.y_test])
    levels = np.rint(ours / 255 * 16)
    expected = np.column_stack([source.data, source.target])
    actual = np.column_stack([levels, labels])
    assert sorted(map(tuple, actual)) == sorted(map(tuple, expected))


def test_the_split_is_fixed_unless_asked():
    first, second, other = load("digits"), load("digits"), load("digits", seed=1)
    assert np.array_equal(first.x_test, second.x_test) and np.array_equal(first.y_train, second.y_train)
    assert not np.array_equal(first.x_test, other.x_test)
    # the very split that published numbers use: it must not move with numpy or scikit-learn
    assert first.y_test[:12].tolist() == FIRST_LABELS


FIRST_LABELS = [3, 7, 3, 9, 0, 8, 7, 0, 8, 0, 3, 3]


def test_loading_needs_no_torch():
    code = (
        "import sys, kdsnn.data\n"
        "early = {'torch', 'datasets', 'sklearn', 'PIL', 'scipy', 'huggingface_hub'} & set(sys.modules)\n"
        "kdsnn.data.load('digits+rot', noise=kdsnn.data.Noise(0.1)), kdsnn.data.Augmentation(crop=2)\n"
        "sys.exit(str(early or '') or 'torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_npz_layouts_mean_the_same_images(tmp_path):
    content = arrays((6, 2, 5, 7))
    expected = load(f"npz:{written(tmp_path, **content)}")
    assert expected.input_shape == (2, 5, 7) and expected.classes == 3
    assert np.array_equal(expected.x_test, content["x_test"])

    last = {key: content[key].transpose(0, 2, 3, 1) for key in ("x_train", "x_test")}
    moved = load(f"npz:{written(tmp_path, **{**content, **last})}")
    assert np.array_equal(moved.x_train, expected.x_train) and moved.x_train.flags.c_contiguous

    gray = arrays((6, 5, 7))
    assert np.array_equal(load(f"npz:{written(tmp_path, **gray)}").x_train, gray["x_train"][:, None])


def test_npz_layout_in_doubt_must_be_said(tmp_path):
    content = arrays((6, 3, 5, 3))
    with pytest.raises(KdsnnError, match="layout='NCHW' or 'NHWC'"):
        load(f"npz:{written(tmp_path, **content)}")
    path = written(tmp_path, **content, layout=np.array("NHWC"))
    assert load(f"npz:{path}").input_shape == (3, 3, 5)
    with pytest.raises(KdsnnError, match="use NCHW or NHWC"):
        load(f"npz:{written(tmp_path, **content, layout=np.array('HWCN'))}")


@pytest.mark.parametrize("kind", [np.float64, np.float32, np.float16])
def test_npz_floats_that_are_pixels(tmp_path, kind):
    levels = np.arange(256, dtype=np.uint8).reshape(1, 16, 16).repeat(6, axis=0)
    path = written(tmp_path, **arrays((6, 16, 16), x_train=(levels / 255).astype(kind)))
    assert np.array_equal(load(f"npz:{path}").x_train[:, 0], levels)


BAD = {
    "missing array": ({"y_test": None}, "y_test is missing"),
    "integer pixels": ({"x_train": np.zeros((6, 5, 7), np.int32)}, "x_train is int32: store pixels as uint8"),
    "other floats": ({"x_train": np.full((6, 5, 7), 0.5)}, "not multiples of 1/255"),
    "float range": ({"x_train": np.full((6, 5, 7), 200.0)}, "floats in 0 to 1"),
    "NaN": ({"x_test": np.full((6, 5, 7), np.nan)}, "x_test holds NaN"),
    "flat images": ({"x_train": np.zeros((6, 35), np.uint8)}, "shape"),
    "no images": ({"x_test": np.zeros((0, 5, 7), np.uint8), "y_test": np.zeros(0, int)}, "not empty"),
    "no training": ({"x_train": np.zeros((0, 5, 7), np.uint8), "y_train": np.zeros(0, int)}, "y_train"),
    "two sizes": ({"x_test": np.zeros((6, 4, 4), np.uint8)}, "same shape"),
    "float labels": ({"y_train": np.zeros(6)}, "class numbers as integers"),
    "one-hot labels": ({"y_train": np.eye(6, dtype=int)}, "one class number per image"),
    "length": ({"y_test": np.zeros(5, int)}, "one label for each image"),
    "from one": ({"y_train": np.arange(6) % 3 + 1}, "renumber"),
    "gap": ({"y_train": np.array([0, 0, 0, 2, 2, 2])}, "renumber"),
    "test label": ({"y_test": np.full(6, 9)}, "expected 0 to 2"),
    "negative": ({"y_test": np.full(6, -1)}, "expected 0 to 2"),
    "objects": ({"x_train": np.array([None] * 6)}, "numpy.savez"),
}


@pytest.mark.parametrize(("changes", "message"), BAD.values(), ids=BAD.keys())
def test_npz_refusals_are_one_readable_line(tmp_path, changes, message):
    path = written(tmp_path, **arrays(**changes))
    with pytest.raises(KdsnnError, match=message) as caught:
        load(f"npz:{path}")
    assert str(path) in str(caught.value) and "\n" not in str(caught.value)


def test_unusable_files(tmp_path):
    with pytest.raises(KdsnnError, match="no such file"):
        load(f"npz:{tmp_path / 'none.npz'}")
    with pytest.raises(KdsnnError, match="not a readable"):
        load(f"npz:{tmp_path}")
    (tmp_path / "text.npz").write_text("hello")
    with pytest.raises(KdsnnError, match="not a readable"):
        load(f"npz:{tmp_path / 'text.npz'}")


def test_unknown_names_are_told_what_is_near_and_known():
    for spec in ("", "npz", "npz:", "hf:", "folder:", "digits:1", "mp3:file", "\0"):
        with pytest.raises(KdsnnError, match=r"[Uu]se digits, mnist, .*folder:DIR"):
            load(spec)
    with pytest.raises(KdsnnError, match=r"did you mean cifar10\?"):
        load("cifar-10")
    with pytest.raises(KdsnnError, match=r"Unknown data set 'minst\+rot': did you mean mnist"):
        load("minst+rot")
    with pytest.raises(KdsnnError, match="Unknown variant 'rott' of data set 'digits': did you mean rot"):
        load("digits+rott")


def test_a_plus_may_belong_to_a_file_or_start_a_variant(tmp_path):
    plain = written(tmp_path, **arrays((6, 5, 5)))
    for name in ("a+b.npz", "c+rot", "d+rot+e.npz"):
        plain.with_name(name).write_bytes(plain.read_bytes())
        data = load(f"npz:{tmp_path / name}")
        assert data.name == f"npz:{tmp_path / name}" and not data.notes
        turned = load(f"npz:{tmp_path / name}+rot")
        assert turned.name == f"npz:{tmp_path / name}+rot" and turned.notes
        assert not np.array_equal(turned.x_test, data.x_test)
    with pytest.raises(KdsnnError, match=r"Unknown variant 'rto'.*did you mean rot"):
        load(f"npz:{plain}+rto")
    with pytest.raises(KdsnnError, match=r"x\+y.npz: no such file"):
        load(f"npz:{tmp_path / 'x+y.npz'}+rot")


def test_npy_folder_is_mapped_and_means_the_same_as_npz(tmp_path):
    for shape in ((6, 2, 5, 7), (6, 5, 7, 2), (6, 5, 7)):
        content = arrays(shape)
        for key, value in content.items():
            np.save(tmp_path / f"{key}.npy", value)
        mapped, read = load(f"npy:{tmp_path}"), load(f"npz:{written(tmp_path, **content)}")
        assert isinstance(mapped.x_train, np.memmap) and isinstance(mapped.x_test, np.memmap)
        for key in content:
            assert np.array_equal(getattr(mapped, key), getattr(read, key))

    np.save(tmp_path / "layout.npy", np.array("HWCN"))
    np.save(tmp_path / "x_train.npy", arrays((6, 3, 5, 3))["x_train"])
    with pytest.raises(KdsnnError, match="use NCHW or NHWC"):
        load(f"npy:{tmp_path}")
    np.save(tmp_path / "x_train.npy", np.zeros((6, 5, 7)))
    with pytest.raises(KdsnnError, match=r"x_train.npy: the pixels are float64: store them as uint8"):
        load(f"npy:{tmp_path}")
    (tmp_path / "x_train.npy").write_bytes((tmp_path / "data.npz").read_bytes())
    with pytest.raises(KdsnnError, match="not a single array"):
        load(f"npy:{tmp_path}")
    (tmp_path / "x_train.npy").unlink()
    with pytest.raises(KdsnnError, match=r"no such file: the folder needs x_train.npy, y_train.npy"):
        load(f"npy:{tmp_path}")


def _bytes() -> bytes:
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **arrays())
    return buffer.getvalue()


GOOD = _bytes()


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(length=st.integers(0, len(GOOD)), flips=st.lists(st.integers(0, 8 * len(GOOD) - 1), max_size=3))
def test_a_damaged_archive_is_an_error_or_loads(tmp_path, length, flips):
    damaged = bytearray(GOOD)
    for flip in flips:
        damaged[flip // 8] ^= 1 << flip % 8
    path = tmp_path / "damaged.npz"
    path.write_bytes(damaged[:length])
    try:
        assert isinstance(load(f"npz:{path}"), DataSet)
    except KdsnnError as error:
        assert "\n" not in str(error)


def test_an_encrypted_or_oddly_compressed_member_is_an_error(tmp_path):
    path = tmp_path / "odd.npz"
    for offset, value in ((6, 1), (8, 99)):  # general-purpose flags: encrypted; compression method: unknown
        path.write_bytes(GOOD)
        with zipfile.ZipFile(path) as archive:
            start = archive.infolist()[0].header_offset
            central = archive.start_dir
        damaged = bytearray(GOOD)
        damaged[start + offset] = damaged[central + offset + 2] = value
        path.write_bytes(damaged)
        with pytest.raises(KdsnnError, match="not a readable"):
            load(f"npz:{path}")


def _npy() -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, arrays()["x_train"])
    return buffer.getvalue()


GOOD_NPY = _npy()


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(length=st.integers(0, len(GOOD_NPY)), flips=st.lists(st.integers(0, 8 * 128 - 1), max_size=3))
def test_a_damaged_npy_is_an_error_or_loads(tmp_path, length, flips):
    for key, value in arrays().items():
        np.save(tmp_path / f"{key}.npy", value)
    damaged = bytearray(GOOD_NPY)
    for flip in flips:  # all in the header, where they hurt
        damaged[flip // 8] ^= 1 << flip % 8
    (tmp_path / "x_train.npy").write_bytes(damaged[:length])
    try:
        assert isinstance(load(f"npy:{tmp_path}"), DataSet)
    except KdsnnError as error:
        assert "\n" not in str(error)
