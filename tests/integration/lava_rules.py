"""What Lava itself does with delays and recurrence, asked without this project: netx files in, spikes out, one case after another.

    LAVA-PYTHON lava_rules.py WORKER-FOLDER OUT.json [NET FRAMES.npy]

NET, a `.net` file with its JSON file, is run on frames (B, T, F) as docs/netx.md says that it can be run without this project.

Only the import is patched (`hardware/lava/worker/patches.py`), since Lava does not load under current Python otherwise.
"""

import contextlib
import io
import json
import os
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(sys.argv[1]).parent))
from worker.patches import import_netx  # type: ignore[import-not-found]

hdf5 = import_netx()

import h5py  # noqa: E402
import numpy as np  # noqa: E402
from lava.magma.core.run_conditions import RunSteps  # noqa: E402
from lava.magma.core.run_configs import Loihi2SimCfg  # noqa: E402
from lava.proc.io import sink, source  # noqa: E402
from lava.proc.io.reset import Reset  # noqa: E402
from lava.utils.weightutils import clip_weights, determine_sign_mode, truncate_weights  # noqa: E402

FOLDER = Path(tempfile.mkdtemp())


def network(weight, threshold=4, interval=None, **datasets):
    """One dense layer of neurons that forget nothing; whatever else it is to have is named as netx names it."""
    path = FOLDER / f"{len(list(FOLDER.iterdir()))}.net"
    weight = np.asarray(weight)
    with h5py.File(path, "w") as file:
        file["layer/0/type"] = np.array([b"input"], "S10")
        file["layer/0/shape"] = np.array([weight.shape[1]])
        file["layer/1/type"] = np.array([b"dense_rec" if "weight_rec" in datasets else b"dense"], "S10")
        file["layer/1/shape"] = np.array([len(weight)])
        for name, value in {"weight": weight, **datasets}.items():
            file[f"layer/1/{name}"] = np.asarray(value)
        for name, value in {"type": b"CUBA", "iDecay": 4096, "vDecay": 0, "vThMant": threshold - 1}.items():
            file[f"layer/1/neuron/{name}"] = value
    return hdf5.Network(
        net_config=str(path), input_shape=(weight.shape[1],), reset_interval=interval, reset_offset=1
    )  # fmt: skip


def fired(net, frames, steps=10, clears=()):
    """The steps at which each neuron fires, frame t being sent at step t; `clears` are (synapse, interval, offset)."""
    frames = np.asarray(frames)
    data = np.zeros((frames.shape[1], steps), int)
    data[:, : len(frames)] = frames.T
    player, recorder = source.RingBuffer(data=data), sink.RingBuffer(shape=net.out.shape, buffer=steps)
    player.s_out.connect(net.inp)
    net.out.connect(recorder.a_in)
    resets = [Reset(interval=interval, offset=offset) for _, interval, offset in clears]
    for reset, (synapse, _, _) in zip(resets, clears, strict=True):
        reset.connect_var(getattr(net.layers[0], synapse).a_buff)
    try:
        net.run(condition=RunSteps(steps), run_cfg=Loihi2SimCfg(select_tag="fixed_pt"))
        return [np.flatnonzero(row).tolist() for row in recorder.data.get()]
    finally:
        net.stop()


def by_its_description(path, frames):
    """The spikes (B, T, N) of a file with its JSON file beside it."""
    beside = json.loads(Path(f"{path}.json").read_text())
    (samples, T, inputs), layers = frames.shape, beside["latency_steps"]
    net = hdf5.Network(
        net_config=path, input_message_bits=beside["input"]["message_bits"], input_shape=(inputs,),
        reset_interval=beside["reset_interval"], reset_offset=beside["reset_offset"],
    )  # fmt: skip
    period, steps = beside["reset_interval"], samples * beside["reset_interval"] + layers
    data = np.zeros((inputs, steps), int)
    for i, t in np.ndindex(samples, T):
        data[:, i * period + t] = frames[i, t]
    player, recorder = source.RingBuffer(data=data), sink.RingBuffer(shape=net.out.shape, buffer=steps)
    player.s_out.connect(net.inp)
    net.out.connect(recorder.a_in)
    resets = []
    for clear in beside["clears"]:
        reset = Reset(interval=clear["interval"], offset=clear["offset"])
        reset.connect_var(getattr(net.layers[clear["layer"]], clear["synapse"]).a_buff)
        resets.append(reset)
    try:
        net.run(condition=RunSteps(steps), run_cfg=Loihi2SimCfg(select_tag="fixed_pt"))
        spikes = recorder.data.get().T.astype(int)
        return [spikes[i * period + layers :][:T].tolist() for i in range(samples)]
    finally:
        net.stop()


def held(weight, weight_rec):
    """The weights with which Lava computes, by its own functions, in the order in which its dense layer calls them."""
    with contextlib.redirect_stdout(io.StringIO()):
        layer = network(weight, weight_rec=weight_rec).layers[0]
    found = []
    for synapse in (layer.synapse, layer.synapse_rec):
        mode, given = determine_sign_mode(synapse.weights.init), synapse.proc_params
        clipped = clip_weights(synapse.weights.init, mode, num_bits=8)
        kept = truncate_weights(clipped, mode, given.get("num_weight_bits"))
        found.append(np.right_shift(kept, -given.get("weight_exp")).tolist())
    return found


def main():
    pulse = [[0], [0], [0], [1]]
    ring = 4 * np.eye(3, k=-1, dtype=int)  # neuron 0 drives 1, which drives 2
    drive = [[4], [0], [0]]
    each = [[4]] * 4
    two = [[4, 0], [4, 4]]
    rng = np.random.default_rng(0)
    pairs = []
    for top in (1, 3, 8, 64, 127, 128, 200, 254):
        for signs in ((-1, 1, -1, 1), (0, 1, -1, 0), (-1, 0, 0, 1), (0, 1, -1, 1), (-1, 1, -1, 0), (-1, 1, 0, 1)):
            weight, back = (rng.integers(low * top, high * top + 1, (3, n)) for low, high, n in (signs[:2] + (4,), signs[2:] + (3,)))
            if max(weight.max(), back.max()) > 0:
                pairs.append((weight.tolist(), back.tolist(), *held(weight, back)))
    pairs.append(([[6]], [[-8]], *held(np.array([[6]]), np.array([[-8]]))))
    found = {
        "recurrent": fired(network(drive, weight_rec=ring), pulse),
        "recurrent, a sample of 4": fired(network(drive, weight_rec=ring, interval=4), pulse),
        "recurrent, a sample of 4, cleared": fired(
            network(drive, weight_rec=ring, interval=4), pulse, clears=[("synapse_rec", 4, 0)]
        ),
        "delays of neurons": fired(network(each, delay=[0, 1, 2, 3]), pulse),
        "one delay": fired(network(two, delay=np.int64(2)), [[1, 1]]),
        "as many delays as inputs": fired(network([[4, 0], [0, 4], [4, 4]], delay=[0, 3]), [[1, 1]]),
        "as many neurons as inputs": fired(network(two, delay=[0, 3]), [[1, 1]]),
        "a delay for each synapse": fired(network(two, delay=[[0, 0], [1, 3]]), [[1, 1]]),
        "delays, a sample of 4": fired(network(each, delay=[0, 1, 2, 3], interval=4), pulse),
        "delays, a sample of 4 and a step, cleared": fired(
            network(each, delay=[0, 1, 2, 3], interval=5), pulse, clears=[("synapse", 5, 4)]
        ),
        "a delay beside recurrence": fired(network([[4]], threshold=5, weight_rec=[[1]], delay=[[0]]), [[1]]),
        "held": pairs,
    }
    if len(sys.argv) > 3:
        found["by its description"] = by_its_description(sys.argv[3], np.load(sys.argv[4]))
    Path(sys.argv[2]).write_text(json.dumps(found))


if __name__ == "__main__":
    try:
        main()
        sys.stdout.flush()
        os._exit(0)
    except BaseException:
        import traceback

        traceback.print_exc()
        os._exit(1)
