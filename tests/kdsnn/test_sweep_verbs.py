"""Sweeps of `profile`: equal to separate reports, one run per bits, stopped half way, refusals; names of exported files."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from spikingjelly.activation_based import functional, layer, neuron
from torch import nn

import kdsnn
from exporters.graph import IF, Conv2d, Input, Output, chain
from hardware import emulator
from kdsnn import checkpoint
from kdsnn.checkpoint import CheckpointInfo
from kdsnn.data import DataSet
from kdsnn.deploy.several import several
from kdsnn.errors import KdsnnError, Notice, OptionError, StoppedError
from kdsnn.models import build
from kdsnn.train.quantized_ann import QuantizedAnn
from profilers.report import Report
from profilers.report.sweep_result import Sweep

OPTIONS = {"channels": (6, 4), "hidden": 12}
SHAPE = {"input_shape": (1, 8, 8), "classes": 10}


@pytest.fixture(scope="module")
def data() -> DataSet:
    full = kdsnn.load_data("digits")
    return replace(full, x_test=full.x_test[:40], y_test=full.y_test[:40])


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, data: DataSet) -> Path:
    """Untrained: two students, an ANN, and one of few bits."""
    folder = tmp_path_factory.mktemp("sweep")
    info = CheckpointInfo("cnn2", True, (1, 8, 8), 10, "digits", OPTIONS, "rate", "if", 4)
    for seed, name in enumerate(("a", "b")):
        torch.manual_seed(seed)
        student = build("cnn2", spiking=True, **SHAPE, **OPTIONS)
        for part in student.modules():
            if isinstance(part, nn.Linear | nn.Conv2d):
                part.weight.data *= 2.5  # spikes to the end of the network
        checkpoint.save(folder / f"{name}.safetensors", student, info)
    plain = replace(info, spiking=False, readout=None, neuron=None, T=None)
    ann = build("cnn2", spiking=False, **SHAPE, **OPTIONS)
    checkpoint.save(folder / "ann.safetensors", ann, replace(plain, metrics={"test_accuracy": 0.1}))
    few = QuantizedAnn(ann, 8, 3, torch.from_numpy(data.x_train[:64]).float() / 255).deployed()
    checkpoint.save(folder / "q3.safetensors", few, replace(plain, quantized={"bits": 8, "activation_bits": 3}))
    return folder


@pytest.fixture(scope="module")
def swept(folder: Path, data: DataSet) -> tuple[Sweep, list[int]]:
    """A sweep over bits and steps, and how many samples each run of the emulator in it had."""
    samples: list[int] = []
    patch = pytest.MonkeyPatch()

    def counted(planned: Any, frames: Any, **more: Any) -> Any:
        samples.append(len(frames))
        return run_planned(planned, frames, **more)

    run_planned = emulator.Emulation.run
    with patch.context() as patched:
        patched.setattr(emulator.Emulation, "run", counted)
        found = kdsnn.profile(folder / "a.safetensors", data, bits=(3, 8), timesteps=(1, 2, 4))
    assert isinstance(found, Sweep)
    return found, samples


def test_every_network_runs_once_per_bits_whatever_the_steps(swept: tuple[Sweep, list[int]]) -> None:
    sweep, samples = swept
    assert [(p.bits, p.T) for p in sweep.points] == [(3, 1), (3, 2), (3, 4), (8, 1), (8, 2), (8, 4)]
    assert samples == [40, 40] * 2  # the network, and as it lies on its cores


@pytest.mark.parametrize(("bits", "T"), [(3, 2), (8, 4)])
@pytest.mark.filterwarnings("ignore::kdsnn.errors.Notice")
def test_a_point_is_what_a_report_of_its_own_says(
    swept: tuple[Sweep, list[int]], folder: Path, data: DataSet, bits: int, T: int
) -> None:
    (point,) = [p for p in swept[0].points if (p.bits, p.T) == (bits, T)]
    report = kdsnn.profile(folder / "a.safetensors", data, bits=bits, timesteps=T)
    assert isinstance(report, Report)
    student = report.students[0]
    run = student.deployed
    assert (run.T, run.accuracy, run.spikes.mean) == (T, point.accuracy, point.spikes) and run.synops.mean > 100
    assert point.costs["synops"].nominal == run.synops.mean and point.costs["memory"].nominal == run.weight_bits / 8
    energies = {m.name: m.students[0].estimate for m in report.energies if m.students[0].arithmetic == "integer"}
    compared = 0
    for name, estimate in energies.items():
        if estimate is not None:
            found = point.costs[f"energy:{name}"]
            assert (found.low, found.nominal, found.high) == (estimate.low, estimate.nominal, estimate.high), name
            compared += 1
    assert compared > 8
    for deployment in student.deployments:
        assert point.costs[f"cores:{deployment.target}"].nominal == deployment.cores
        for time in deployment.times:
            assert point.costs[f"latency:{time.model}"] == time.latency


def test_the_module_run_for_fewer_steps_gives_the_float_answers(folder: Path, data: DataSet) -> None:
    """What a student says after t steps of a longer run is what it says in a run of t steps."""
    module = kdsnn.load(folder / "a.safetensors").module
    accuracies = kdsnn.evaluate(kdsnn.load(folder / "a.safetensors"), data).accuracies
    x = torch.from_numpy(data.x_test).float() / 255
    for t in (1, 3):
        functional.reset_net(module)
        with torch.no_grad():
            scores = module(x.expand(t, *x.shape)).mean(0)
        assert float((scores.argmax(1).numpy() == data.y_test).mean()) == pytest.approx(accuracies[t - 1])


def test_the_result_is_like_the_others(swept: tuple[Sweep, list[int]], tmp_path: Path) -> None:
    sweep, _ = swept
    assert dataclasses.is_dataclass(sweep) and Sweep.__dataclass_params__.frozen  # type: ignore[attr-defined]
    assert len(sweep.to_frame()) == 6 and json.loads(json.dumps(sweep.to_dict(), allow_nan=False))
    assert {p.name for p in sweep.write(tmp_path).values()} == {p.name for p in tmp_path.iterdir()}
    assert "Every network runs once with T = 4, and is read after fewer steps of that run." in str(sweep)


def test_several_networks_beside_a_teacher_and_an_ann_of_few_bits(folder: Path, data: DataSet) -> None:
    net = kdsnn.lower(folder / "b.safetensors", bits=4)
    found = kdsnn.profile(
        [folder / "a.safetensors", net], data, teacher=folder / "ann.safetensors", qann=folder / "q3.safetensors",
        target=["loihi2"],
    )  # fmt: skip
    assert isinstance(found, Sweep)
    assert [(p.network, p.bits, p.T) for p in found.points] == [("a", 8, 4), ("b", 4, 4)]
    assert [(r.name, r.kind) for r in found.references] == [("q3", "quantized ANN"), ("cnn2", "teacher")]
    few = found.references[0]
    assert few.accuracy == kdsnn.evaluate(kdsnn.load(folder / "q3.safetensors"), data).accuracy
    assert few.costs["memory"].nominal == 6 * 9 + 4 * 6 * 9 + 16 * 12 + 12 * 10  # a byte a weight
    assert {row.cost for row in found.equal} >= {"synops", "memory", "energy:yan2026"}
    assert not any(name.endswith("loihi1") for p in found.points for name in p.costs)
    together = kdsnn.profile([folder / "a.safetensors", net], data, compare=True)
    assert isinstance(together, Report) and [s.name for s in together.students] == ["a", "b"]
    assert [s.deployed.synops.mean for s in together.students] == [p.costs["synops"].nominal for p in found.points]


def test_what_is_written_is_there_when_somebody_stops_the_rest(folder: Path, data: DataSet, tmp_path: Path) -> None:
    def stopped(title: str, done: float, total: float, note: str = "") -> None:
        if title.startswith("count a in 8"):
            raise KeyboardInterrupt

    with pytest.raises(StoppedError, match=r"as far as it came is written, 1 point$"):
        kdsnn.profile(
            folder / "a.safetensors", data, bits="4,8", samples=10, progress=stopped,
            written=lambda sweep: sweep.write(tmp_path),
        )  # fmt: skip
    kept = json.loads((tmp_path / "sweep.json").read_text(encoding="utf-8"))
    assert [p["bits"] for p in kept["points"]] == [4] and kept["missing"] == ["a in 8 bits"]
    with pytest.raises(KeyboardInterrupt) as nothing:
        kdsnn.profile(folder / "a.safetensors", data, bits="8,7", progress=lambda *_, **__: (_ for _ in ()).throw(KeyboardInterrupt))  # fmt: skip
    assert not isinstance(nothing.value, StoppedError)


@pytest.mark.parametrize(
    ("given", "found"),
    [
        (None, ()), (4, (4,)), ("4", (4,)), ("2,4,8", (2, 4, 8)), ("1-4", (1, 2, 3, 4)), (" 8, 2-3 ,2", (2, 3, 8)), ((8, 2), (2, 8)),
        (range(2, 5), (2, 3, 4)),
    ],
)  # fmt: skip
def test_numbers_and_ranges(given: Any, found: tuple[int, ...]) -> None:
    assert several("bits", given, 1, 8) == found


@pytest.mark.parametrize(
    "given", ["", "x", "2,", "1-2-3", "-3", "4-2", "0", "9", "2.5", "٣", 2.5, True, (2, "4"), [], 9]
)
def test_what_is_no_number_takes_one_line(given: Any) -> None:
    if given == "٣":  # a digit of another script is a number to Python, and 3 to its reader
        assert several("bits", given, 1, 8) == (3,)
        return
    with pytest.raises(OptionError, match=r"bits=.*: it must be whole numbers from 1 to 8, such as 1, 1,3 or 1-4"):
        several("bits", given, 1, 8)


def test_a_range_of_thousands_is_a_slip() -> None:
    with pytest.raises(OptionError, match="1-1000: 1,000 values; at most 64"):
        several("timesteps", "1-1000", 1, 2000)


class Watching(nn.Module):
    """Reads frames of events."""

    def __init__(self) -> None:
        super().__init__()
        self.fc, self.spiking = layer.Linear(8, 3, step_mode="m"), neuron.IFNode(step_mode="m")

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.spiking(self.fc(x.flatten(2)))


def refused(match: str, call: Callable[[], object], kind: type[Exception] = OptionError) -> None:
    with pytest.raises(kind, match=match):
        call()


def test_refusals(folder: Path, data: DataSet, tmp_path: Path) -> None:
    a, ann = folder / "a.safetensors", folder / "ann.safetensors"
    refused(
        "compare: it makes one full report, and bits=2,4 are several",
        lambda: kdsnn.profile(a, data, bits="2,4", compare=True),
    )
    refused("twin: a sweep has none; give it as one more source", lambda: kdsnn.profile(a, data, bits="2,4", twin=a))
    refused("density: a sweep has none", lambda: kdsnn.profile(a, data, bits="2,4", density=True))
    refused("simulate: a sweep has none", lambda: kdsnn.profile(a, data, timesteps="1-2", simulate=True))
    refused("this is an ANN; give spiking students", lambda: kdsnn.profile([a, ann], data))
    net = kdsnn.lower(a)
    refused("a was made for T = 4; lower it with T = 8", lambda: kdsnn.profile(net, data, timesteps=(4, 8)))
    kdsnn.export(net, tmp_path, to=["netx"])
    refused("bits=2,4: a is quantized already", lambda: kdsnn.profile(tmp_path / "a.net", data, bits=(2, 4)))
    calibrated = kdsnn.lower(a, calibrate=data, calibration_samples=16)
    refused("a was calibrated when it was lowered; add calibrate", lambda: kdsnn.profile(calibrated, data, bits=(4, 8)))
    events = kdsnn.lower(Watching(), input_shape=(2, 2, 2), T=3, input_coding="spikes")
    x, y = np.random.default_rng(0).integers(0, 2, (6, 3, 2, 2, 2)).astype(np.uint8), np.arange(6) % 3
    refused("reads 3 frames, and fewer steps are fewer frames", lambda: kdsnn.profile(events, (x, y), timesteps="1-3"))
    maps = chain(
        [("input", Input((1, 8, 8))), ("conv", Conv2d(np.ones((1, 1, 3, 3), np.float32))), ("n", IF(1.0)), ("output", Output("rate"))],
        T=2,
    )  # fmt: skip
    refused("ends in maps", lambda: kdsnn.profile(maps, data, bits=(4, 8)), KdsnnError)


def test_events_are_swept_over_bits() -> None:
    torch.manual_seed(0)
    events = kdsnn.lower(Watching(), input_shape=(2, 2, 2), T=3, input_coding="spikes")
    x, y = np.random.default_rng(0).integers(0, 2, (12, 3, 2, 2, 2)).astype(np.uint8), np.arange(12) % 3
    found = kdsnn.profile(events, (x, y), bits=(4, 8))
    assert isinstance(found, Sweep) and [p.bits for p in found.points] == [4, 8]


class Summed(nn.Module):
    """The second layer's weights are a twentieth of the first's: few bits leave nothing of them."""

    def __init__(self) -> None:
        super().__init__()
        self.strong, self.weak = layer.Linear(64, 10, step_mode="m"), layer.Linear(64, 10, step_mode="m")
        self.strong.weight.data = torch.eye(10, 64)
        self.weak.weight.data = 0.05 * torch.eye(10, 64)
        self.spiking = neuron.IFNode(step_mode="m")

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = x.flatten(2)
        return self.spiking(self.strong(x) + self.weak(x))


def test_what_cannot_be_quantized_is_left_out_and_told(data: DataSet) -> None:
    net = kdsnn.lower(Summed(), input_shape=(1, 8, 8), T=2, name="sum")
    found = kdsnn.profile(net, data, samples=8, bits=(2, 8))
    assert isinstance(found, Sweep) and [p.bits for p in found.points] == [8]
    assert any("sum in 2 bits is left out: weak: all its weights round to zero" in note for note in found.notes)
    with pytest.raises(kdsnn.UserError, match="all its weights round to zero"):
        kdsnn.profile(net, data, samples=8, bits=(2, 3))


def test_a_checkpoint_runs_for_the_steps_that_are_asked_for(folder: Path) -> None:
    with pytest.warns(Notice, match="was trained with T = 4, not 2"):
        net = kdsnn.lower(folder / "a.safetensors", T=2)
    assert net.graph is not None and net.graph.T == net.integer.T == 2
    assert kdsnn.lower(folder / "a.safetensors", T=4).integer.T == 4


@pytest.mark.parametrize(("bits", "mark"), [(8, ""), (4, ".int4")])
def test_exported_names_carry_the_bits(folder: Path, tmp_path: Path, bits: int, mark: str) -> None:
    done = kdsnn.export(
        folder / "a.safetensors", tmp_path, to=["onnx", "netx", "nir", "sanafe"], form=["sequence", "step"], quantized=True,
        bits=bits,
    )  # fmt: skip
    names = {Path(f.path).name for f in done.files}
    quantized = {f"a.int{bits}.onnx", f"a.int{bits}.step.onnx", f"a{mark}.net", f"a{mark}.sanafe.yaml"}
    assert names == {"a.onnx", "a.step.onnx", "a.nir", *quantized}  # floats have no bits
    again = kdsnn.export(tmp_path / f"a{mark}.net", tmp_path / "again", to=["onnx", "netx"], quantized=True)
    assert {Path(f.path).name for f in again.files} == {f"a.int{bits}.onnx" if mark else "a.int8.onnx", f"a{mark}.net"}
