"""Real Lava against a few lines of numpy: dense, conv, flatten, bias, graded input, many samples in one run."""

import os
import resource
import signal
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import h5py
import numpy as np
import pytest

from exporters.errors import DeployError
from hardware.lava import client, guard

pytestmark = pytest.mark.usefixtures("lava_environment")


# -- a netx writer and an IF reference, both independent of the project's own ------------------------


def conv(out, kernel, stride=(1, 1), padding=(0, 0), dilation=(1, 1), groups=1, bias=False, threshold=300, largest=130):
    return {"type": "conv", **locals()}


def dense(out, bias=False, threshold=300, largest=255):
    return {"type": "dense", **locals()}


FLATTEN = {"type": "flatten"}


def build(rng, shape, layers):
    """Fill in random weights and the shapes."""
    built = []
    for spec in layers:
        layer = dict(spec)
        if spec["type"] == "conv":
            layer["weight"] = rng.integers(
                1 - spec["largest"] * 3 // 4,
                spec["largest"],
                (spec["out"], shape[0] // spec["groups"], *spec["kernel"]),
            )
            size = [
                (n + 2 * p - d * (k - 1) - 1) // s + 1
                for n, k, s, p, d in zip(
                    shape[1:], spec["kernel"], spec["stride"], spec["padding"], spec["dilation"], strict=True
                )
            ]
            shape = (spec["out"], *size)
        elif spec["type"] == "dense":
            layer["weight"] = rng.integers(1 - spec["largest"], spec["largest"], (spec["out"], int(np.prod(shape))))
            shape = (spec["out"],)
        if spec.get("bias"):
            layer["b"] = rng.integers(-60, 90, spec["out"])
        built.append({**layer, "shape": shape})
    return built


def write(path, shape, layers):
    with h5py.File(path, "w") as file:
        for i, layer in enumerate([{"type": "input", "shape": shape}, *layers]):
            group = file.create_group(f"layer/{i}")
            group["type"] = np.array([layer["type"].encode()], "S10")
            if layer["type"] != "flatten":
                group["shape"] = np.array(layer["shape"])
            if "weight" not in layer:
                continue
            group["weight"] = layer["weight"].astype(np.float32)
            if "b" in layer:
                group["bias"] = layer["b"].astype(np.float32)
            if layer["type"] == "conv":
                for key in ("stride", "padding", "dilation"):
                    group[key] = np.array(layer[key])
                group["groups"] = layer["groups"]
            # v > vThMant·64 is the same as A ≥ threshold
            for key, value in {"type": "CUBA", "iDecay": 4096, "vDecay": 0, "vThMant": layer["threshold"] - 1}.items():
                group[f"neuron/{key}"] = value
    return path


def correlate(x, layer):
    """x (N, C, H, W), one loop per kernel position and group."""
    weight, groups = layer["weight"], layer["groups"]
    (sy, sx), (py, px), (dy, dx) = layer["stride"], layer["padding"], layer["dilation"]
    x = np.pad(x, ((0, 0), (0, 0), (py, py), (px, px)))
    c, h, w = layer["shape"]
    out = np.zeros((len(x), c, h, w), np.int64)
    per_in, per_out = x.shape[1] // groups, c // groups
    for g in range(groups):
        channels, kernels = x[:, g * per_in : (g + 1) * per_in], weight[g * per_out : (g + 1) * per_out]
        for i in range(weight.shape[2]):
            for j in range(weight.shape[3]):
                at = channels[:, :, i * dy : i * dy + sy * (h - 1) + 1 : sy, j * dx : j * dx + sx * (w - 1) + 1 : sx]
                out[:, g * per_out : (g + 1) * per_out] += np.einsum("nchw,oc->nohw", at, kernels[:, :, i, j])
    return out


def reference(frames, layers):
    """Spikes of every neuron layer (N, T, *shape) and the last layer's membranes; hard reset to 0, v ≥ threshold."""
    x, recorded, v = frames.astype(np.int64), [], None
    for layer in layers:
        if layer["type"] == "flatten":
            x = x.reshape(*x.shape[:2], -1)
            continue
        v, out = np.zeros((len(x), *layer["shape"]), np.int64), []
        for t in range(x.shape[1]):
            current = correlate(x[:, t], layer) if layer["type"] == "conv" else x[:, t] @ layer["weight"].T
            if "b" in layer:
                current = current + layer["b"].reshape(-1, *[1] * (current.ndim - 2))
            v = v + current
            spikes = v >= layer["threshold"]
            v = np.where(spikes, 0, v)
            out.append(spikes)
        x = np.stack(out, axis=1).astype(np.int64)
        recorded.append(x)
    return recorded, v.reshape(len(v), -1)


def compare(tmp_path, shape, layers, *, T, bits, samples=5, seed=0, **options):
    rng = np.random.default_rng(seed)
    layers = build(rng, shape, layers)
    frames = rng.integers(0, 2 ** max(bits, 1), (samples, T, *shape))
    expected, membrane = reference(frames, layers)
    net = write(tmp_path / "net.net", shape, layers)
    found = client.run(net, frames, T=T, message_bits=bits, probes=True, membrane=True, **options)
    assert set(found.layers) == set(range(len(expected)))
    for k, spikes in enumerate(expected):
        rate = spikes.mean()
        assert 0.01 < rate < 0.99, f"layer {k} proves nothing: its firing rate is {rate}"
        assert found.layers[k].dtype == np.uint8
        np.testing.assert_array_equal(found.layers[k], spikes, err_msg=f"layer {k}")
    np.testing.assert_array_equal(found.spikes, expected[-1].reshape(samples, T, -1))
    np.testing.assert_array_equal(found.membrane, 64 * membrane)
    assert found.steps == samples * T + len(expected)
    return found


NETS = {
    "dense": ((12,), [dense(9), dense(7, bias=True), dense(5)], 4, 0),
    "graded dense": ((12,), [dense(9, bias=True, threshold=6000, largest=40), dense(5)], 3, 8),
    "strides and padding": (
        (2, 9, 7),
        [conv(4, (3, 2), (2, 1), (1, 0), bias=True), conv(3, (2, 3), (1, 2), (0, 2), threshold=200), FLATTEN, dense(5)],
        4,
        0,
    ),
    "groups and dilation": (
        (4, 10, 9),
        [
            conv(6, (3, 3), (1, 1), (2, 1), (2, 1), groups=2),
            conv(6, (2, 2), (2, 2), groups=6, threshold=100, bias=True),
        ],
        5,
        0,
    ),
    "graded pixels": (
        (3, 8, 8),
        [
            conv(5, (3, 3), (2, 2), (1, 1), bias=True, threshold=4000, largest=18),
            FLATTEN,
            dense(8, bias=True),
            dense(4),
        ],
        4,
        8,
    ),
    "flattened frames": ((2, 3, 4), [FLATTEN, dense(6), dense(3)], 4, 0),
    "one step": ((10,), [dense(6, threshold=50), dense(4, threshold=50), dense(3, threshold=50)], 1, 0),
}


@pytest.mark.parametrize("name", NETS)
def test_lava_computes_what_the_reference_does_in_every_layer(tmp_path, name):
    shape, layers, T, bits = NETS[name]
    compare(tmp_path, shape, layers, T=T, bits=bits, samples=7 if T == 1 else 5, seed=len(name))


@pytest.mark.parametrize("name", ["graded pixels", "groups and dilation"])
def test_fast_conv_gives_the_same_spikes(tmp_path, name):
    shape, layers, T, bits = NETS[name]
    compare(tmp_path, shape, layers, T=T, bits=bits, seed=len(name), fast_conv=True)


def test_images_larger_than_int8(tmp_path):
    """Stock Lava computes image sizes in int8 under numpy 2, where 128 pixels are an OverflowError."""
    layers = [conv(2, (3, 3), (8, 8), (1, 1), threshold=150), FLATTEN, dense(4)]
    compare(tmp_path, (1, 127, 130), layers, T=2, bits=0, samples=2)


def tiny(tmp_path, samples=4, T=4, size=8, outputs=3):
    rng = np.random.default_rng(0)
    layers = build(rng, (size,), [dense(6), dense(outputs)])
    return write(tmp_path / "tiny.net", (size,), layers), rng.integers(0, 2, (samples, T, size))


def test_only_the_wanted_layers_are_recorded_and_progress_is_told(tmp_path):
    net, frames = tiny(tmp_path, samples=300)
    told = []
    found = client.run(net, frames, T=4, message_bits=0, probes=(1,), progress=lambda *step: told.append(step))
    assert list(found.layers) == [1] and found.membrane is None
    np.testing.assert_array_equal(found.layers[1].reshape(found.spikes.shape), found.spikes)
    assert told == sorted(set(told)) and told[-1] == (found.steps, found.steps) and len(told) > 2
    assert 0 < found.seconds < found.total_seconds


# -- several parts in one session --------------------------------------------------------------------


@pytest.fixture
def started(monkeypatch):
    """The guard processes that were started."""
    found = []

    class Counted(client._Guard):
        def __init__(self, python):
            found.append(python)
            super().__init__(python)

    monkeypatch.setattr(client, "_Guard", Counted)
    return found


@pytest.mark.parametrize(
    ("name", "T"),
    [("graded pixels", 3), ("graded pixels", 4), ("dense", 2), ("one step", 1)],  # 4, 4, 3 and 3 layers
)
def test_parts_of_a_session_are_one_run(tmp_path, started, name, T):
    """Whatever the beat of T steps leaves open at the end of a part: spikes, probes and membranes of each."""
    shape, layers, _, bits = NETS[name]
    rng = np.random.default_rng(len(name))
    layers = build(rng, shape, layers)
    frames = rng.integers(0, 2 ** max(bits, 1), (11, T, *shape))
    expected, membrane = reference(frames, layers)
    net = write(tmp_path / "net.net", shape, layers)
    with client.LavaSession(net, T=T, message_bits=bits, probes=True, membrane=True) as session:
        net.unlink()  # it has a copy
        workers = set()
        for start, stop in ((0, 4), (4, 5), (5, 11)):
            found = session.run(frames[start:stop])
            for k, spikes in enumerate(expected):
                np.testing.assert_array_equal(found.layers[k], spikes[start:stop], err_msg=f"layer {k}")
            np.testing.assert_array_equal(found.spikes, expected[-1][start:stop].reshape(stop - start, T, -1))
            np.testing.assert_array_equal(found.membrane, 64 * membrane[start:stop])
            workers.add(session._life._worker)
    assert len(started) == 1 and len(workers) == 1 and None not in workers
    assert all(0.005 < spikes.mean() < 0.995 for spikes in expected)


def test_a_part_that_does_not_fit_leaves_the_session_alive(tmp_path):
    net, frames = tiny(tmp_path)
    with client.LavaSession(net, T=4, message_bits=0) as session:
        whole = session.run(frames).spikes
        for bad, message in ((frames * 2, "range from 0 to 2"), (frames[:, :, :7], "those of the first part")):
            with pytest.raises(DeployError, match=message):
                session.run(bad)
        np.testing.assert_array_equal(session.run(frames[2:]).spikes, whole[2:])
    with pytest.raises(DeployError, match="this Lava session is over"):
        session.run(frames)


def test_networks_follow_one_another_on_one_lava(tmp_path, started):
    """Larger and smaller, with other inputs, steps and probes; the first again at the end, as if there had been no other."""
    rng = np.random.default_rng(3)
    cases = []
    for name, T in (("dense", 2), ("graded pixels", 3), ("one step", 1)):
        shape, layers, _, bits = NETS[name]
        layers = build(rng, shape, layers)
        frames = rng.integers(0, 2 ** max(bits, 1), (4, T, *shape))
        net = write(tmp_path / f"{name}.net", shape, layers)
        cases.append((net, frames, reference(frames, layers), {"T": T, "message_bits": bits}))
    with client.LavaSession(cases[0][0], **cases[0][3], probes=True) as session:
        workers = set()
        for k in (0, 1, 2, 0):
            net, frames, (expected, membrane), job = cases[k]
            if workers:
                session.load(net, **job, probes=True, membrane=k == 1)
            for part in (frames[:1], frames[1:]):
                found = session.run(part)
                samples = slice(0, 1) if len(part) == 1 else slice(1, 4)
                assert len(found.layers) == len(expected)
                for i, spikes in enumerate(expected):
                    np.testing.assert_array_equal(found.layers[i], spikes[samples], err_msg=f"layer {i} of {net}")
                assert (found.membrane is not None) == (k == 1)
                if k == 1:
                    np.testing.assert_array_equal(found.membrane, 64 * membrane[samples])
            workers.add(session._life._worker)
        with pytest.raises(DeployError, match="cannot be read"):
            session.load(tmp_path / "missing.net", T=1, message_bits=0)
    assert len(started) == 1 and len(workers) == 1
    with pytest.raises(DeployError, match="this Lava session is over"):
        session.load(cases[0][0], T=2, message_bits=0)


def test_a_network_that_lava_does_not_load_behind_one_that_it_did(tmp_path, watch):
    net, frames = tiny(tmp_path)
    (tmp_path / "text.net").write_text("hello")
    with client.LavaSession(net, T=4, message_bits=0) as session:
        session.run(frames)
        session.load(tmp_path / "text.net", T=4, message_bits=0)
        with pytest.raises(DeployError, match=r"text\.net is damaged or not a netx file"):
            session.run(frames)
        watch.assert_clean(3.0)


# -- what goes wrong ---------------------------------------------------------------------------------


def test_no_environment(tmp_path, monkeypatch):
    net, frames = tiny(tmp_path)
    monkeypatch.setenv("KDSNN_LAVA_HOME", str(tmp_path / "nowhere"))
    with pytest.raises(DeployError, match=r"not installed: run `kdsnn-deploy lava setup`$"):
        client.run(net, frames, T=4, message_bits=0)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda f: f[:, :3], r"the frames have shape \(4, 3, 8\); Lava takes \(N, 4, "),
        (lambda f: f[0], r"the frames have shape \(4, 8\)"),
        (lambda f: f[:0], r"the frames have shape \(0, 4, 8\)"),
        (lambda f: f * 0.5, "of type float64; Lava takes integers"),
        (lambda f: f * 2, "range from 0 to 2; input of 0 message bits takes 0 to 1"),
        (lambda f: -f, "range from -1 to 0"),
        (lambda f: f[:, :, :7], r"tiny.net takes frames of shape \(8,\), not \(7,\)"),
        (lambda f: f.reshape(4, 4, 1, 1, 8)[..., :6], r"tiny.net takes frames of shape \(8,\), not \(1, 1, 6\)"),
    ],
)
def test_frames_that_do_not_fit(tmp_path, change, message):
    net, frames = tiny(tmp_path)
    with pytest.raises(DeployError, match=message) as caught:
        client.run(net, change(frames), T=4, message_bits=0)
    assert "\n" not in str(caught.value)


def test_probing_a_layer_that_is_not_there(tmp_path):
    net, frames = tiny(tmp_path)
    with pytest.raises(DeployError, match="has 2 layers, 0 to 1"):
        client.run(net, frames, T=4, message_bits=0, probes=(2,))


def truncated(net):
    net.write_bytes(net.read_bytes()[:-200])


def noise(net):
    net.write_bytes(b"noise" * 100)


def edit(change):
    def edited(net):
        with h5py.File(net, "r+") as file:
            change(file["layer/2"])

    return edited


def too_large(layer):
    layer["weight"][0, 0] = 300


def rename(layer):
    layer["type"][...] = b"maxpool"


def drop_weight(layer):
    del layer["weight"]


def resonate(layer):
    del layer["neuron/type"]
    layer["neuron/type"] = "RF_PHASE"


def neurons_in_the_input(net):
    with h5py.File(net, "r+") as file:
        file.copy("layer/2/neuron", "layer/0/neuron")


def zero(layer):
    layer["weight"][...] = 0


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (Path.unlink, "tiny.net cannot be read: No such file"),
        (truncated, "tiny.net is damaged or not a netx file: OSError"),
        (noise, "tiny.net is damaged or not a netx file: OSError"),
        (edit(too_large), "Lava would change the weights of tiny.net: .*max weight too large: 300"),
        (edit(rename), "tiny.net: layer 2 is of type 'maxpool', which Lava's netx does not load"),
        (edit(drop_weight), "Lava cannot load tiny.net: KeyError"),
        (edit(zero), "Lava cannot load tiny.net: OverflowError"),
        (edit(resonate), r"resonate-and-fire \(RF\) neurons are not supported"),
        (neurons_in_the_input, "tiny.net: layer 0 is an input with neurons, which netx leaves unconnected"),
    ],
)
def test_files_that_lava_must_not_run(tmp_path, damage, message):
    net, frames = tiny(tmp_path)
    damage(net)
    with pytest.raises(DeployError, match=message) as caught:
        client.run(net, frames, T=4, message_bits=0)
    assert "\n" not in str(caught.value)


# -- nothing is left behind --------------------------------------------------------------------------


def marked(mark):
    """Process ids whose environment carries the mark: client, guard, worker, actors, resource tracker."""
    found = []
    for entry in Path("/proc").iterdir():
        try:
            if entry.name.isdigit() and mark in (entry / "environ").read_bytes():
                found.append(int(entry.name))
        except OSError:
            continue
    return found


def cmdline(pid):
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b""


class Watch:
    """What a run has in the world: processes by a mark in their environment, its folder by a TMPDIR of its own."""

    def __init__(self, tmp):
        self.tmp, self.mark, self.tokens = tmp, f"KDSNN_TEST_MARK={tmp}".encode(), set()

    def folder(self):
        found = next(self.tmp.glob("kdsnn-lava-*"), None)
        if found:
            self.tokens.add(found.name.rsplit("-", 1)[-1])
        return found

    def processes(self):
        return [pid for pid in marked(self.mark) if pid != os.getpid()]

    def worker(self):
        return next(p for p in self.lava() if os.getsid(p) == p)

    def actors(self):
        """Lava's processes in the order of their start, without the first, which manages shared memory."""
        return sorted(p for p in self.lava() if os.getsid(p) != p)[1:]

    def lava(self):
        return [p for p in self.processes() if b"lava/worker" in cmdline(p) and b"guard.py" not in cmdline(p)]

    def guard(self):
        return next(p for p in self.processes() if b"guard.py" in cmdline(p))

    def steps(self):
        """Whether Lava has begun to step."""
        try:
            return (self.folder() / "output.bin").stat().st_size > 0
        except (OSError, TypeError):
            return False

    def until(self, condition, seconds=60.0):
        end = time.monotonic() + seconds
        while not (value := condition()):
            assert time.monotonic() < end, f"{condition} did not come true"
            time.sleep(0.005)
        return value

    def shared_memory(self):
        return [p.name for p in Path("/dev/shm").iterdir() for token in self.tokens if token in p.name]

    def assert_clean(self, seconds=10.0):
        self.until(lambda: not self.processes() and not self.folder(), seconds)
        assert self.shared_memory() == []
        assert list(self.tmp.iterdir()) == []


@pytest.fixture
def watch(monkeypatch):
    with tempfile.TemporaryDirectory(prefix="kt-", dir="/tmp") as name:  # short: long ones are not used for sockets
        monkeypatch.setenv("TMPDIR", name)
        monkeypatch.setenv("KDSNN_TEST_MARK", name)
        yield Watch(Path(name))


MOMENTS = {
    "the guard starts": lambda w: lambda: any(b"guard.py" in cmdline(p) for p in w.processes()),
    "the folder is there": lambda w: w.folder,
    "Lava is imported": lambda w: lambda: w.folder() and (w.folder() / "log").exists(),
    "the actors start": lambda w: lambda: w.folder() and (w.folder() / "plan.json").exists(),
    "Lava runs": lambda w: w.steps,
}


@pytest.mark.parametrize(
    ("number", "moment"),
    [(signal.SIGKILL, moment) for moment in MOMENTS]
    + [(n, moment) for n in (signal.SIGTERM, signal.SIGINT) for moment in ("Lava is imported", "Lava runs")],
)
def test_killing_the_client_leaves_nothing(tmp_path, watch, number, moment):
    net, frames = tiny(tmp_path, samples=20000)
    np.save(tmp_path / "frames.npy", frames)
    code = (
        "import sys, numpy as np; from pathlib import Path; from hardware.lava import client\n"
        "client.run(Path(sys.argv[1]), np.load(sys.argv[2]), T=4, message_bits=0)"
    )
    command = [sys.executable, "-c", code, str(net), str(tmp_path / "frames.npy")]
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL, cwd=Path(__file__).parents[2])
    try:
        watch.until(MOMENTS[moment](watch))
        if moment == "Lava runs":
            assert len(watch.actors()) == 7  # two for each of two layers, input, output, runtime service
            assert watch.shared_memory()
        process.send_signal(number)
        process.wait(10)
        assert process.returncode != 0
    finally:
        process.kill()
        process.wait()
    watch.assert_clean()


@pytest.mark.parametrize(
    ("target", "number", "message", "timeout"),
    [
        ("actor", signal.SIGKILL, r"Lava's process for .* was killed by signal 9", None),
        ("actor", signal.SIGSTOP, r"Lava hangs: nothing has moved for 3 s \(step .*\)", None),
        ("worker", signal.SIGKILL, r"Lava's worker ended with signal 9", None),
        ("worker", signal.SIGSTOP, r"did not finish within 600 s \(step .*\); raise the timeout", 600.0),
        ("guard", signal.SIGKILL, r"the process that guards Lava ended unexpectedly", None),
    ],
)
def test_what_dies_or_hangs_is_one_line_and_leaves_nothing(
    tmp_path, watch, monkeypatch, target, number, message, timeout
):
    net, frames = tiny(tmp_path, samples=20000)
    hit = []

    def damage(done, total):  # while Lava steps, and never before
        if done > 0 and not hit:
            watch.folder()
            hit.append(watch.actors()[2] if target == "actor" else getattr(watch, target)())
            os.kill(hit[0], number)
            monkeypatch.setattr(client, "STEP_LIMIT", 3.0)

    with client.LavaSession(net, T=4, message_bits=0, timeout=timeout) as session:
        session.run(frames[:2])
        session._spent = 595.0  # as if the first part had taken all but 5 s of the timeout
        with pytest.raises(DeployError, match=message) as caught:
            session.run(frames, progress=damage)
        watch.assert_clean(3.0)
    assert hit and "\n" not in str(caught.value)


def test_an_exception_while_a_process_is_built_is_dug_out(tmp_path, watch):
    rng = np.random.default_rng(0)
    layers = build(rng, (130, 4, 4), [conv(130, (3, 3), groups=130)])  # int8 in Lava
    net = write(tmp_path / "bad.net", (130, 4, 4), layers)
    with pytest.raises(DeployError, match=r"Lava failed: OverflowError: .* 130 ") as caught:
        client.run(net, rng.integers(0, 2, (1, 4, 130, 4, 4)), T=4, message_bits=0)
    assert "\n" not in str(caught.value)
    watch.assert_clean(3.0)


def test_an_exception_in_a_running_process_is_dug_out(tmp_path, watch):
    """A file that may not grow over 1 MB stands for a full disk."""
    net, frames = tiny(tmp_path, samples=1000, outputs=800)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2**20, limits[1]))
    try:
        with pytest.raises(DeployError, match=r"Lava's process for the output failed: OSError: .*File too large"):
            client.run(net, frames, T=4, message_bits=0)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    watch.assert_clean(3.0)


def test_a_broken_callback_ends_the_run(tmp_path, watch):
    net, frames = tiny(tmp_path, samples=20000)

    def broken(done, total):
        raise RuntimeError("from the callback")

    with pytest.raises(RuntimeError, match="from the callback"):
        client.run(net, frames, T=4, message_bits=0, progress=broken)
    watch.assert_clean(3.0)


def test_several_runs_at_once(tmp_path, watch):
    net, frames = tiny(tmp_path)
    alone = client.run(net, frames, T=4, message_bits=0).spikes
    found = []
    threads = [
        threading.Thread(target=lambda: found.append(client.run(net, frames, T=4, message_bits=0).spikes))
        for _ in range(3)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 3 and all(np.array_equal(spikes, alone) for spikes in found)
    watch.assert_clean(3.0)


@pytest.mark.parametrize(
    ("target", "message"),
    [
        ("actor", r"Lava's process for .* was killed by signal 9"),
        ("worker", r"Lava's worker ended with signal 9"),
        ("guard", r"the process that guards Lava ended unexpectedly"),
    ],
)
def test_what_dies_between_two_parts_is_one_line_in_the_next(tmp_path, watch, target, message):
    net, frames = tiny(tmp_path)
    with client.LavaSession(net, T=4, message_bits=0) as session:
        session.run(frames)
        os.kill(watch.actors()[2] if target == "actor" else getattr(watch, target)(), signal.SIGKILL)
        with pytest.raises(DeployError, match=message) as caught:
            session.run(frames)
        watch.assert_clean(3.0)  # at once, not when the session is left
        with pytest.raises(DeployError, match="this Lava session is over"):
            session.run(frames)
    assert "\n" not in str(caught.value)


def test_an_actor_that_dies_before_another_network(tmp_path, watch):
    net, frames = tiny(tmp_path)
    with client.LavaSession(net, T=4, message_bits=0) as session:
        session.run(frames)
        os.kill(watch.actors()[2], signal.SIGKILL)
        session.load(net, T=4, message_bits=0)
        with pytest.raises(DeployError, match=r"^Lava's process for .* was killed by signal 9"):
            session.run(frames)
        watch.assert_clean(3.0)


@pytest.mark.parametrize("killed", [("client",), ("guard", "client")])
def test_killing_the_client_between_two_parts_leaves_nothing(tmp_path, watch, killed):
    net, frames = tiny(tmp_path)
    np.save(tmp_path / "frames.npy", frames)
    code = (
        "import sys, time, numpy as np; from pathlib import Path; from hardware.lava import client\n"
        "with client.LavaSession(Path(sys.argv[1]), T=4, message_bits=0) as session:\n"
        "    session.run(np.load(sys.argv[2])); print('idle', flush=True); time.sleep(600)"
    )
    command = [sys.executable, "-c", code, str(net), str(tmp_path / "frames.npy")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, cwd=Path(__file__).parents[2]) as process:
        assert process.stdout.readline() == b"idle\n"
        watch.folder()
        guard = watch.guard()
        os.kill(process.pid, signal.SIGSTOP)  # so that it cannot do the dead guard's work
        if "guard" in killed:
            os.kill(guard, signal.SIGKILL)
        process.kill()
        process.wait()
        if "guard" in killed:  # nobody is left to delete the folder, but Lava ends and unlinks its memory
            watch.until(lambda: not watch.processes(), 10.0)
            assert watch.shared_memory() == []
        else:
            watch.assert_clean()


def test_the_timeout_is_for_all_parts_together(tmp_path, watch):
    net, frames = tiny(tmp_path, samples=20000)
    with client.LavaSession(net, T=4, message_bits=0, timeout=600) as session:
        session.run(frames[:2])
        session._spent = 599.0  # as if the first part had taken so long
        with pytest.raises(DeployError, match=r"Lava did not finish within 600 s \(.*\); raise the timeout"):
            session.run(frames)
    watch.assert_clean(3.0)


# -- guards and workers that do not even start -------------------------------------------------------


@pytest.mark.parametrize(
    ("T", "bits", "message"),
    [(0, 0, "T is 0; the number of time steps must be at least 1"), (4, 25, r"message_bits is 25; it must be 0 \(spikes\) to 24")],
)  # fmt: skip
def test_steps_and_bits_that_do_not_exist(tmp_path, T, bits, message):
    net, frames = tiny(tmp_path)
    with pytest.raises(DeployError, match=message):
        client.run(net, frames, T=T, message_bits=bits)


@pytest.fixture
def broken_python(tmp_path, monkeypatch, lava_environment):
    """Make a script stand for the Lava environment's Python; "$0.real" is the Python itself."""

    def make(script):
        folder = tmp_path / "home" / lava_environment.name
        (folder / "bin").mkdir(parents=True)
        (folder / "complete.json").write_bytes((lava_environment / "complete.json").read_bytes())
        (folder / "bin" / "python.real").symlink_to(lava_environment / "bin" / "python")
        python = folder / "bin" / "python"
        python.write_text(f"#!/bin/sh\n{script}\n")
        python.chmod(0o755)
        monkeypatch.setenv("KDSNN_LAVA_HOME", str(tmp_path / "home"))

    return make


@pytest.mark.parametrize(
    ("script", "message"),
    [
        ("echo no library >&2; exit 3", "the process that guards Lava ended unexpectedly; its last words: no library"),
        ("exit 3", "the process that guards Lava ended unexpectedly; its last words: none"),
        ('case "$*" in *guard.py*) exec "$0.real" "$@";; esac; echo no library; exit 7',
         "Lava's worker ended with exit code 7; its last words: no library"),
        ('case "$*" in *guard.py*) exec "$0.real" "$@";; esac; exit 7', "Lava's worker ended with exit code 7"),
    ],
)  # fmt: skip
def test_a_python_that_does_not_start(tmp_path, watch, broken_python, script, message):
    net, frames = tiny(tmp_path)
    broken_python(script)
    with pytest.raises(DeployError) as caught:
        client.run(net, frames, T=4, message_bits=0)
    assert str(caught.value) == message
    watch.assert_clean(3.0)


def test_no_room_for_the_frames(tmp_path, watch):
    """A file that may not grow over 1 MB stands for a full disk."""
    net, frames = tiny(tmp_path, samples=40_000)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2**20, limits[1]))
    try:
        with pytest.raises(DeployError, match=r"^Lava's input cannot be written to .*kdsnn-lava-\w+: .+$") as caught:
            client.run(net, frames, T=4, message_bits=0)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert not str(caught.value).endswith("None")
    watch.assert_clean(3.0)


def test_a_guard_that_does_not_react_is_killed_and_its_work_done(tmp_path, watch):
    net, frames = tiny(tmp_path)
    with client.LavaSession(net, T=4, message_bits=0) as session:
        session.run(frames)
        os.kill(watch.guard(), signal.SIGSTOP)
    watch.assert_clean(3.0)


def test_a_long_temporary_folder_is_not_used(tmp_path, monkeypatch):
    """A socket's path has 100 bytes at most."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / ("x" * 60)))
    folder = guard.make_folder()
    assert folder.parent == Path("/tmp") and folder.is_dir()
    guard.remove(folder)
    assert not folder.exists()
