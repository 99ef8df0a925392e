"""A student whose classes are voted for, from `distill` to every file and back end: the class at every t is that of most spikes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from spikingjelly.activation_based.functional import reset_net

import kdsnn
from hardware import emulator
from kdsnn.deploy.images import some_tests

T = 4


def sums(spikes: np.ndarray) -> np.ndarray:
    """Votes so far, (N, T, 10), of output spikes (N, T, 80)."""
    return spikes.reshape(*spikes.shape[:2], 10, 8).sum(-1, dtype=np.int64).cumsum(1)


@pytest.mark.usefixtures("lava_environment")
def test_votes_are_group_sums_everywhere(tmp_path: Path) -> None:
    data = kdsnn.load_data("digits")
    path = tmp_path / "student.safetensors"
    small = {"channels": (4, 6), "hidden": 16}
    student = kdsnn.distill(
        "cnn2", data, method="none", readout="voting", epochs=2, warmup_epochs=0.0, T=T, options=small, out=path
    )
    written = kdsnn.export(path, tmp_path, to=["onnx", "netx", "nir"])  # read back; raises if a spike differs
    assert {file.format for file in written.files} == {"onnx", "netx", "nir"}
    found = kdsnn.run(path, data, on=["torch", "onnx", "emulator", "lava"], samples=12)
    runs = {run.backend: run for run in found.runs}
    assert found.ok and runs.keys() == {"spikingjelly", "torch", "onnx", "emulator", "lava"}

    images = torch.from_numpy(data.x_test).float() / 255
    spikes: list[torch.Tensor] = []
    student.module.body.head.output.register_forward_hook(lambda module, args, out: spikes.append(out))
    with torch.no_grad():
        student.module.eval()(images.expand(T, *images.shape))
    reset_net(student.module)
    votes = sums(spikes[0].numpy().swapaxes(0, 1))
    assert len(np.unique(votes)) > 5
    assert [(votes[:, t].argmax(-1) == data.y_test).mean() for t in range(T)] == pytest.approx(
        student.history[-1].by_step
    )

    x, labels = some_tests(data, 12)
    with torch.no_grad():
        spikes.clear()
        student.module(torch.from_numpy(x).float().div(255).expand(T, *x.shape))
    float_votes = sums(spikes[0].numpy().swapaxes(0, 1))
    for name in ("spikingjelly", "torch", "onnx"):
        np.testing.assert_array_equal(8 * runs[name].output, float_votes)
    network = kdsnn.lower(path)
    recorder = emulator.Recorder(network.integer)
    emulator.run(network.integer, network.frames(x.astype(np.float32) / 255), observe=recorder)
    chip = sums(recorder.spikes["body.head.output"])
    np.testing.assert_array_equal(8 * runs["emulator"].output, chip)
    np.testing.assert_array_equal(8 * T * runs["lava"].scores, chip[:, -1])
    assert found.accuracy["lava"] == (chip[:, -1].argmax(-1) == labels).mean()
