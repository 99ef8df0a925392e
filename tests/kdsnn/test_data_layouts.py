"""Folders as public data sets come, recognized by what lies in them: DVS-Gesture, SHD, CIFAR10-DVS, SpikingJelly's frames."""

import h5py
import numpy as np
import pytest

import kdsnn
from kdsnn.data import load
from kdsnn.data.events.layouts import GESTURES
from kdsnn.data.events.public import OBJECTS
from kdsnn.errors import KdsnnError
from tests.event_files import as_aedat, as_aedat_2, as_bin, stream


def gestures(folder):
    """Two files of three and two gestures, as DVS-Gesture's are: events between gestures belong to none."""
    folder.mkdir(parents=True)
    spans = {
        "user01_led": [(3, 1000, 90_000), (11, 90_000, 150_000), (3, 200_000, 299_000)],
        "user24_lab": [(1, 0, 9**6), (4, 5, 10**6)],
    }
    for seed, (name, rows) in enumerate(spans.items()):
        (folder / f"{name}.aedat").write_bytes(as_aedat(stream(seed, wide=128)))
        lines = ["class,startTime_usec,endTime_usec", *(",".join(map(str, row)) for row in rows)]
        (folder / f"{name}_labels.csv").write_text("\n".join(lines) + "\n")
    (folder / "trials_to_train.txt").write_text("user01_led.aedat\n")
    (folder / "trials_to_test.txt").write_text("user24_lab.aedat\n\n")
    return spans


@pytest.mark.parametrize("inner", ["", "DvsGesture"])
def test_dvs_gesture(tmp_path, inner):
    spans = gestures(tmp_path / "g" / inner)
    data = load(f"events:{tmp_path / 'g'}+frames1-by-number-counts255")
    assert data.class_names == GESTURES and data.sample_shape == (1, 2, 128, 128)
    assert data.y_train.tolist() == [2, 10, 2] and data.y_test.tolist() == [0, 3]
    for found, (_, start, end) in zip(data.x_train, spans["user01_led"], strict=True):
        counts = np.zeros((1, 2, 128, 128), np.uint8)
        for x, y, t, p in stream(0, wide=128):
            counts[0, p, y, x] += start <= t < end
        assert np.array_equal(found, counts) and 50 < counts.sum() < 150


def test_damaged_dvs_gesture_is_named(tmp_path):
    folder = tmp_path / "g"
    gestures(folder)
    for name, content, message in [
        ("trials_to_test.txt", "", "names no recordings"),
        ("trials_to_test.txt", "../g/user24_lab.aedat\n", "is no .aedat file in"),
        ("trials_to_train.txt", "user02_led.aedat\n", "user02_led.aedat is no .aedat file in"),
        ("user24_lab_labels.csv", "class,start,end\n1,5\n", "1,5 is no gesture"),
        ("user24_lab_labels.csv", "class,start,end\n12,5,9\n", "12,5,9 is no gesture"),
        ("user24_lab_labels.csv", "class,start,end\n1,9,9\n", "1,9,9 is no gesture"),
        ("user24_lab_labels.csv", "class,start,end\n1,400000,500000\n", "from 400000 to 500000 µs: it holds no events"),
    ]:
        kept = (folder / name).read_text()
        (folder / name).write_text(content)
        with pytest.raises(KdsnnError, match=message) as caught:
            load(f"events:{folder}")
        assert str(folder) in str(caught.value) and "\n" not in str(caught.value)
        (folder / name).write_text(kept)
    (folder / "user24_lab_labels.csv").unlink()
    with pytest.raises(KdsnnError, match=r"user24_lab_labels\.csv: it cannot be read"):
        load(f"events:{folder}")


def spoken(path, count, seed, classes=3):
    """A part of a data set like SHD: float16 seconds, uint16 units, one array of its own length for each sample."""
    rng = np.random.RandomState(seed)
    samples = [
        (np.sort(rng.random_sample(n)).astype(np.float16), rng.randint(0, 700, n).astype(np.uint16))
        for n in rng.randint(20, 60, count)
    ]
    labels = np.arange(count) % classes
    with h5py.File(path, "w") as file:
        for name, kind, part in (("times", np.float16, 0), ("units", np.uint16, 1)):
            array = file.create_dataset(f"spikes/{name}", (count,), h5py.vlen_dtype(kind))
            for k, sample in enumerate(samples):
                array[k] = sample[part]
        file["labels"] = labels.astype(np.uint8)
        file["extra/keys"] = np.array([b"zero", b"one", b"two"])
    return samples, labels


def test_shd(tmp_path):
    spoken(tmp_path / "shd_train.h5", 9, 0)
    samples, labels = spoken(tmp_path / "shd_test.h5", 4, 1)
    data = load(f"events:{tmp_path}+frames5-of-200000")
    assert data.sample_shape == (5, 1, 1, 700) and data.class_names == ("zero", "one", "two")
    assert data.y_test.tolist() == labels.tolist() and len(data.x_train) == 9
    for found, (times, units) in zip(data.x_test, samples, strict=True):
        expected = np.zeros((5, 1, 1, 700), np.uint8)
        since = times.astype(float) - float(times[0])
        for unit, frame in zip(units, (since / 0.2 + 1e-9).astype(int), strict=True):
            if frame < 5:
                expected[frame, 0, 0, unit] = 1
        assert np.array_equal(found, expected)
    merged = load(f"events:{tmp_path}+down10+frames4")
    assert merged.sample_shape == (4, 1, 1, 70)


def test_damaged_shd_is_named(tmp_path):
    spoken(tmp_path / "sound.h5", 6, 0)
    content = (tmp_path / "sound.h5").read_bytes()

    def damaged(name, change):
        """A folder of its own: a file that was refused may still be open."""
        good = tmp_path / name / "shd_train.h5"
        good.parent.mkdir()
        spoken(good.with_name("shd_test.h5"), 3, 1)
        good.write_bytes(content)
        change(good)
        return good

    def replaced(name, value):
        def change(file):
            del file[name]
            file[name] = value

        return change

    def row(name, value):
        return lambda file: file[f"spikes/{name}"].__setitem__(4, value)

    def within(change):
        def apply(path):
            with h5py.File(path, "r+") as file:
                change(file)

        return apply

    for number, (change, message) in enumerate(
        [
            (replaced("labels", np.arange(5)), "not of one length"),
            (replaced("labels", np.full(6, 3)), "its labels run from 3 to 3"),
            (replaced("labels", np.zeros(6)), "no file of spikes/times"),
            (replaced("spikes/units", np.zeros(6)), "not of one length"),
            (replaced("spikes/units", h5py.ExternalLink("x", "y")), "is a link, which is not followed"),
            (row("units", np.array([1, 700], np.uint16)), "sample 4: it needs as many times"),
            (row("times", np.array([np.nan], np.float16)), "sample 4: it needs as many times"),
            (lambda file: file.pop("labels"), "no file of spikes/times"),
        ]
    ):
        good = damaged(str(number), within(change))
        with pytest.raises(KdsnnError, match=message) as caught:
            load(f"events:{good.parent}")
        assert str(good) in str(caught.value) and "\n" not in str(caught.value)
    good = damaged("short", lambda path: path.write_bytes(content[:500]))
    with pytest.raises(KdsnnError, match="no file of spikes/times"):
        load(f"events:{good.parent}")
    for name in ("ssc_train.h5", "ssc_test.h5"):
        good.with_name(name).write_bytes(content)
    with pytest.raises(KdsnnError, match=r"holds shd_train.h5 and ssc_train.h5"):
        load(f"events:{good.parent}")


def test_a_linear_student_of_700_channels_goes_through_the_verbs(tmp_path, monkeypatch):
    (tmp_path / "students_of_units.py").write_text(
        "from torch import nn\nfrom spikingjelly.activation_based import layer, neuron\n"
        "def make(): return nn.Sequential(layer.Flatten(), layer.Linear(700, 8), neuron.LIFNode(tau=2.0, decay_input=False), "
        "layer.Linear(8, 3), neuron.IFNode())\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.chdir(tmp_path)
    spoken(tmp_path / "shd_train.h5", 9, 0)
    spoken(tmp_path / "shd_test.h5", 6, 1)
    data = f"events:{tmp_path}+frames4"
    student = kdsnn.distill("students_of_units:make", data, method="none", epochs=1, batch_size=9)
    assert student.info.input_shape == (1, 1, 700)
    found = kdsnn.run(student, data, on=["torch", "onnx", "emulator"])
    assert len(found.labels) == 6 and all(one.ok for one in found.comparisons if one.backend != "emulator")
    kdsnn.export(student, tmp_path / "out", to=["onnx", "netx", "nir"])
    report = kdsnn.profile(student, data, samples=3)
    assert report.data.endswith(f"{data} (3 classes: zero, one, two)") and len(report.students) == 1


def test_cifar10_dvs_lies_in_folders_of_classes(tmp_path):
    for label, name in enumerate(("airplane", "cat")):
        (tmp_path / name).mkdir()
        for k in range(5):
            (tmp_path / name / f"cifar10_{name}_{k}.aedat").write_bytes(
                as_aedat_2(stream(10 * label + k, 50, wide=128))
            )
    data = load(f"events:{tmp_path}+frames2")
    assert data.class_names == ("airplane", "cat") and (len(data.x_train), len(data.x_test)) == (8, 2)


def frames(folder, shape=(4, 2, 6, 6), **more):
    """What SpikingJelly writes: one `.npz` of counts for each sample."""
    rng = np.random.RandomState(0)
    for part, count in (("train", 3), ("test", 1)):
        for name in ("0", "1"):
            (folder / part / name).mkdir(parents=True, exist_ok=True)
            for k in range(count):
                np.savez(folder / part / name / f"{k}.npz", frames=rng.randint(0, 9, shape).astype(float), **more)
    with np.load(folder / "test" / "1" / "0.npz") as file:
        return file["frames"]


def test_frames_that_spikingjelly_cut(tmp_path):
    last = frames(tmp_path / "f")
    data = load(f"events:{tmp_path / 'f'}")
    assert not data.graded and np.array_equal(data.x_test[1], last > 0) and data.y_test.tolist() == [0, 1]
    data = load(f"events:{tmp_path / 'f'}+frames4-counts5")
    assert data.graded and np.array_equal(data.x_test[1], np.minimum(last, 5) * 51)
    last = frames(tmp_path / "shd", (3, 700))
    assert np.array_equal(load(f"events:{tmp_path / 'shd'}").x_test[1], last[:, None, None] > 0)
    for name, message in [
        ("+frames5", "holds samples of 4 frames, cut elsewhere: ask for .frames4"),
        ("+down2", "holds frames, cut elsewhere, and .down2 is for events"),
    ]:
        with pytest.raises(KdsnnError, match=message):
            load(f"events:{tmp_path / 'f'}{name}")
    odd = tmp_path / "f" / "train" / "1" / "2.npz"
    for array, message in [
        (np.zeros((5, 2, 6, 6)), r"have the shape \(5, 2, 6, 6\), those of"),
        (np.full((4, 2, 6, 6), 0.5), "expected counts of events"),
        (np.full((4, 2, 6, 6), np.nan), "expected counts of events"),
        (np.full((4, 2, 6, 6), -1), "expected counts of events"),
        (np.zeros((0, 2, 6, 6)), "expected counts of events"),
        (np.array(["a"]), "no array of frames that can be read"),
    ]:
        np.savez(odd, frames=array)
        with pytest.raises(KdsnnError, match=message) as caught:
            load(f"events:{tmp_path / 'f'}")
        assert str(odd) in str(caught.value) and "\n" not in str(caught.value)


def nmnist(folder):
    for part in ("Train", "Test"):
        for digit in range(10):
            (folder / part / str(digit)).mkdir(parents=True)
            (folder / part / str(digit) / "00001.bin").write_bytes(as_bin(stream(digit, count=40, wide=20)))


@pytest.mark.parametrize("inner", ["", "NMNIST", "extract"])
def test_nmnist_by_its_name_has_the_size_of_its_sensor(tmp_path, inner):
    nmnist(tmp_path / inner)
    data = load(f"nmnist:{tmp_path}+frames4")
    assert data.name == f"nmnist:{tmp_path}+frames4" and data.sample_shape == (4, 2, 34, 34)
    assert data.class_names == tuple("0123456789") and data.y_test.tolist() == list(range(10))
    by_layout = load(f"events:{tmp_path / inner}+frames4")
    height, width = by_layout.sample_shape[-2:]
    assert height <= 20 and np.array_equal(by_layout.x_train, data.x_train[..., :height, :width])


def test_what_a_named_data_set_lacks_is_said(tmp_path):
    nmnist(tmp_path)
    (tmp_path / "Test" / "7" / "00001.bin").unlink()
    (tmp_path / "Test" / "9" / "00001.bin").unlink()

    def refused(spec):
        with pytest.raises(KdsnnError) as caught:
            load(spec)
        assert "\n" not in str(caught.value)
        return str(caught.value)

    assert "it lacks Test/7/*.bin and 1 more: give the folder in which N-MNIST was unpacked" in refused(
        f"nmnist:{tmp_path}"
    )
    for digit in (7, 9):
        (tmp_path / "Test" / str(digit) / "00001.bin").write_bytes(as_bin(stream(0, wide=20)))
    for part in ("Train", "Test"):
        (tmp_path / part / "other").mkdir()
        (tmp_path / part / "other" / "1.bin").write_bytes(as_bin(stream(0, wide=20)))
    assert "N-MNIST has no class other" in refused(f"nmnist:{tmp_path}").replace("'", "")
    assert "it lacks trials_to_train.txt" in refused(f"dvs-gesture:{tmp_path}")
    assert "no such folder" in refused(f"shd:{tmp_path / 'nowhere'}")
    assert "lacks airplane/*.aedat* and 9 more" in refused(f"cifar10-dvs:{tmp_path}")


def test_the_other_named_data_sets(tmp_path):
    gestures(tmp_path / "g" / "DvsGesture")
    assert load(f"dvs-gesture:{tmp_path / 'g'}+frames2+down4").sample_shape == (2, 2, 32, 32)
    # two in one folder, which events:DIR refuses
    for name in ("shd", "ssc"):
        for part, count in (("train", 6), ("test", 3)):
            spoken(tmp_path / f"{name}_{part}.h5", count, 0)
    with pytest.raises(KdsnnError, match="give each data set a folder of its own"):
        load(f"events:{tmp_path}")
    assert load(f"ssc:{tmp_path}+frames4").sample_shape == (4, 1, 1, 700)
    for index, name in enumerate(OBJECTS):
        (tmp_path / "c" / name).mkdir(parents=True)
        for k in range(3):
            (tmp_path / "c" / name / f"{k}.aedat").write_bytes(as_aedat_2(stream(3 * index + k, count=30, wide=60)))
    data = load(f"cifar10-dvs:{tmp_path / 'c'}+frames2")
    assert data.sample_shape == (2, 2, 128, 128) and data.class_names == OBJECTS
