"""`kdsnn.benchmark` measures what it says: every back end warmed up, on the samples told, with the accuracy of `run`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import kdsnn
from kdsnn import models
from kdsnn.checkpoint import CheckpointInfo
from kdsnn.deploy import benchmark as verb
from kdsnn.deploy.benchmark import Contest
from kdsnn.deploy.peak_memory import watched
from kdsnn.errors import KdsnnError, OptionError
from tests.networks import randomize

OPTIONS = {"channels": (3, 4), "hidden": 8}


@pytest.fixture(autouse=True)
def without_lava(monkeypatch: pytest.MonkeyPatch) -> None:
    """No Lava environment is found, whatever the machine has."""
    monkeypatch.setenv("KDSNN_LAVA_HOME", "/nowhere")
    monkeypatch.delenv("KDSNN_SANAFE", raising=False)


def network(spiking: bool, data: str = "digits", side: int = 8) -> kdsnn.TrainedNetwork:
    shape = (1, side, side)
    module = models.build("cnn2", spiking=spiking, input_shape=shape, classes=10, **OPTIONS)
    randomize(module, 0)
    kinds: dict[str, Any] = {"readout": "rate", "neuron": "if", "T": 3} if spiking else {}
    info = CheckpointInfo("cnn2", spiking, shape, 10, data, OPTIONS, metrics={"test_accuracy": 0.1}, **kinds)
    return kdsnn.TrainedNetwork(module.float().eval(), info)


def test_every_back_end_that_is_there_is_measured() -> None:
    source = network(True)
    found = kdsnn.benchmark(source, samples=20, repeats=4, batch_size=8)
    assert [one.backend for one in found.speeds] == ["spikingjelly", "torch", "onnx", "emulator"]
    assert {one.backend for one in found.refused} == {"lava", "sanafe"} and found.ok
    right = kdsnn.run(source, "digits", on=["torch", "onnx", "emulator"], samples=20).accuracy
    for one in found.speeds:
        assert one.samples == 20 and one.accuracy == right[one.backend]
        assert one.latency.repeats == one.batches.repeats == 4 and one.batch == 8
        for timing in (one.latency, one.batches):
            assert 0 < timing.low <= timing.median <= timing.high
        assert one.throughput == 8 / one.batches.median
    text = str(found)
    assert "of this machine" in text and "not of a chip" in text and "lava: not measured" in text
    told = json.loads(json.dumps(found.to_dict(), allow_nan=False))
    assert [row["backend"] for row in told["backends"]] == [one.backend for one in found.speeds]
    assert found.to_frame()["throughput"].tolist() == [one.throughput for one in found.speeds]


def test_anns_and_finished_models_run_where_they_can(tmp_path: Path) -> None:
    ann, snn = network(False), network(True)
    kdsnn.export(ann, tmp_path / "a", to=["onnx"])
    kdsnn.export(snn, tmp_path / "s", to=["onnx"])
    for source, on in (
        (ann, "torch"), (next((tmp_path / "a").glob("*.onnx")), "onnx"), (next((tmp_path / "s").glob("*.onnx")), "onnx"),
    ):  # fmt: skip
        (one,) = kdsnn.benchmark(source, samples=5, repeats=1).speeds
        assert one.backend == on and one.samples == one.batch == 5 and one.latency.repeats == 1
    with pytest.raises(OptionError, match="runs on torch only"):
        kdsnn.benchmark(ann, on=["onnx"])
    with pytest.raises(KdsnnError, match="takes input of shape"):
        kdsnn.benchmark(next((tmp_path / "a").glob("*.onnx")), "digits+9x9", samples=5)
    with pytest.raises(OptionError, match="repeats"):
        kdsnn.benchmark(snn, repeats=0)


@pytest.mark.parametrize("spiking", [False, True])
def test_a_finished_model_runs_on_the_data_it_was_trained_on(tmp_path: Path, spiking: bool) -> None:
    kdsnn.export(network(spiking, "digits+9x9", 9), tmp_path, to=["onnx"])
    found = kdsnn.benchmark(next(tmp_path.glob("*.onnx")), samples=2, repeats=1)
    assert found.data == "digits+9x9" and found.speeds[0].samples == 2


def test_a_back_end_that_cannot_run_it_is_told(tmp_path: Path) -> None:
    kdsnn.export(network(True), tmp_path, to=["netx"])
    found = kdsnn.benchmark(tmp_path / "cnn2.net", on=["onnx", "emulator"], samples=5, repeats=1)
    assert not found.ok and [one.backend for one in found.speeds] == ["emulator"]
    assert "onnx: not measured" in str(found)
    with pytest.raises(KdsnnError, match="already quantized"):
        kdsnn.benchmark(tmp_path / "cnn2.net", on=["torch"], samples=5)


def test_work_is_repeated_until_its_time_is_over(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a clock that a run moves: the first run is slow and not counted, and the last samples are not reached."""
    clock, calls = [0.0], []

    def run(x: Any) -> Any:
        calls.append(len(x))
        clock[0] += 5.0 if len(calls) == 1 else 0.5 * len(x)
        return np.eye(4)[np.zeros(len(x), int)]

    monkeypatch.setattr(verb.time, "perf_counter", lambda: clock[0])
    contest = Contest("n", "d", np.zeros((40, 1)), np.zeros(40, int), {})
    found = verb._measured("slow", run, contest, repeats=20, batch_size=4, seconds=7.0)
    assert calls[:4] == [1, 4, 4, 1] and (found.samples, found.accuracy) == (8, 1.0)  # 5 s of first use, 2 s, 2 s
    assert (found.latency.median, found.latency.repeats) == (0.5, 14) and found.latency.low == found.latency.high
    assert (found.batches.median, found.batches.repeats, found.throughput) == (2.0, 4, 2.0)
    few = verb._measured("slower", run, contest, repeats=20, batch_size=32, seconds=0.0)
    assert few.batches.repeats == verb.FEWEST_REPEATS and few.samples == 32


def test_memory_is_what_the_block_took() -> None:
    with watched() as peak:
        filled = np.ones(25_000_000)
        del filled
        found = peak()
    with watched() as peak:
        less = peak()
    if found is not None and less is not None:  # not on every system
        assert 190e6 < found < 260e6 and less < 50e6
