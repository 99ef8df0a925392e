"""What a user says about a network of his own: its output, its neurons, its normalization, what it reads."""

from __future__ import annotations

import copy
from collections import namedtuple
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from spikingjelly.activation_based import functional, layer, neuron
from torch import nn

import kdsnn
from exporters.from_torch import LoweringError
from hardware import emulator
from kdsnn.deploy.backends import RunOptions, opened
from kdsnn.deploy.brought import Brought
from kdsnn.deploy.comparisons import comparisons, proofs_of
from kdsnn.deploy.normalization import NORMALIZATIONS, normalization
from kdsnn.errors import OptionError

pytestmark = pytest.mark.filterwarnings("ignore::kdsnn.errors.Notice")

SHAPE, T = (3, 6, 6), 4
PIXELS = np.random.default_rng(0).integers(0, 256, (5, *SHAPE), dtype=np.uint8)
LABELS = np.arange(5) % 4


def convolutional(*, bias: bool = True) -> nn.Sequential:
    torch.manual_seed(1)
    return nn.Sequential(
        layer.Conv2d(3, 4, 3, padding=1, bias=bias), layer.BatchNorm2d(4), neuron.IFNode(v_threshold=0.4), layer.Flatten(),
        layer.Linear(144, 4), neuron.LIFNode(v_threshold=0.3),
    )  # fmt: skip


def rates(module: nn.Module, x: np.ndarray) -> np.ndarray:
    """What a module of single steps gives for (N, *shape), its mean over T steps, in float64."""
    net = copy.deepcopy(module).double().eval()
    functional.reset_net(net)
    with torch.no_grad():
        return torch.stack([net(torch.from_numpy(x).double()) for _ in range(T)]).mean(0).numpy()


# -- normalization -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "given",
    ["imagenet", "0.45/0.25", "0.485,0.456,0.406/0.229", ((0.5, 0.4, 0.3), (0.2, 0.3, 0.25)), (0.1307, 0.3081)],
)
def test_images_are_normalized_inside(given: Any) -> None:
    module = convolutional()
    before = {k: v.clone() for k, v in module.state_dict().items()}
    net = kdsnn.lower(module, input_shape=SHAPE, T=T, normalize=given)
    how = normalization(given, SHAPE)
    assert how is not None and net.graph is not None
    mean, std = (np.array(v, np.float32).astype(np.float64).reshape(-1, 1, 1) for v in (how.mean, how.std))
    x = (PIXELS / np.float32(255)).astype(np.float32)
    expected = rates(module, (x.astype(np.float64) - mean) / std)
    found = emulator.run(net.graph, net.graph.encode(x), dtype=torch.float64).scores()
    np.testing.assert_array_equal(found, expected)
    assert 0 < expected.mean() < 1  # the comparison says something
    assert net.proof is not None and net.proof.ok
    # a padded convolution sees less of the mean at its border
    assert net.graph.synapses["conv2d0"].bias.shape == (4, 6, 6)  # type: ignore[union-attr]
    assert net.graph.metadata["normalized"] == {"mean": list(how.mean), "std": list(how.std)}
    # the user's module is left as it was: it takes normalized images still
    assert not module._forward_pre_hooks
    assert all(torch.equal(before[k], v) for k, v in module.state_dict().items())


@pytest.mark.filterwarnings("ignore::kdsnn.errors.Notice")
def test_what_is_written_and_run_takes_pixels(tmp_path: Path) -> None:
    net = kdsnn.lower(convolutional(), input_shape=SHAPE, T=T, normalize="cifar10", name="n")
    written = kdsnn.export(net, tmp_path, to=["onnx", "netx"], quantized=True)
    assert written.ok and all(f.mismatches == 0 for f in written.files)
    data = (PIXELS, LABELS, PIXELS, LABELS)
    found = kdsnn.run(net, data, on=["torch", "onnx", "emulator"], samples=5)
    assert (
        found.ok and {c.backend: c.hidden for c in found.comparisons}["torch"] == 0
    )  # as the module on normalized images
    report = kdsnn.profile(net, data, samples=5)
    assert report.to_dict()


def test_the_constants_of_mnist_and_digits_of_numbers() -> None:
    assert set(NORMALIZATIONS) == {"imagenet", "cifar10", "cifar100", "mnist"}
    assert all(one.source and len(one.mean) == len(one.std) for one in NORMALIZATIONS.values())
    assert normalization(None, SHAPE) is None


@pytest.mark.parametrize(
    ("given", "shape", "message"),
    [
        ("cifar", SHAPE, "normalize=cifar: it must be imagenet, .* or MEAN/STD"),
        ("0.5", SHAPE, "it must be"),
        ("0.5/0.2/0.1", SHAPE, "it must be"),
        ("nan/1", SHAPE, "it must be"),
        ("0.5/0", SHAPE, "a standard deviation must be positive"),
        ("0.5/-1", SHAPE, "a standard deviation must be positive"),
        ("imagenet", (1, 8, 8), "it has 3 numbers, and the network's samples have 1 channel"),
        ("0.1,0.2/1", SHAPE, "it has 2 numbers, and the network's samples have 3 channels"),
        ("0.1,0.2/1", (7,), "it has 2 numbers, and the network's samples have 7 values"),
        ((0.1, (1.0, 2.0)), SHAPE, "it has 2 numbers"),
    ],
)
def test_normalizations_that_are_none(given: Any, shape: tuple[int, ...], message: str) -> None:
    with pytest.raises(OptionError, match=message):
        normalization(given, shape)


# -- outputs -------------------------------------------------------------------------------------------

Outputs = namedtuple("Outputs", ["logits", "features"])


class Several(nn.Module):
    """Returns scores and the maps before them, in the container it is given."""

    def __init__(self, pack: Any) -> None:
        super().__init__()
        torch.manual_seed(2)
        self.pack = pack
        self.conv, self.first = layer.Conv2d(3, 2, 3), neuron.IFNode(v_threshold=0.2)
        self.fc, self.last = layer.Linear(32, 4), neuron.IFNode(v_threshold=0.2)

    def forward(self, x: torch.Tensor) -> Any:
        maps = self.first(self.conv(x))
        return self.pack(self.last(self.fc(maps.flatten(1))), maps)


@pytest.mark.parametrize(
    ("pack", "scores", "maps"),
    [
        (lambda s, m: (s, m), "0", 1),
        (lambda s, m: [s, {"maps": m}], 0, "1.maps"),
        (lambda s, m: {"logits": s, "features": [m]}, "logits", "features.0"),
        (Outputs, "logits", "features"),
        (Outputs, 0, "1"),
    ],
)
def test_one_output_of_several(pack: Any, scores: int | str, maps: int | str) -> None:
    data = (PIXELS, LABELS, PIXELS, LABELS)
    module = Several(pack)
    net = kdsnn.lower(module, input_shape=SHAPE, T=T, output=scores)
    assert net.classes == 4 and kdsnn.run(net, data, on=["torch", "onnx"], samples=5).ok
    only = Several(lambda s, m: s)
    x = (PIXELS / np.float32(255)).astype(np.float32)
    assert net.graph is not None
    np.testing.assert_array_equal(
        emulator.run(net.graph, net.graph.encode(x), dtype=torch.float64).scores(), rates(only, x)
    )
    ends = kdsnn.lower(module, input_shape=SHAPE, T=T, output=maps)
    assert ends.classes is None
    assert ends.graph is not None and ends.graph.shapes[ends.graph.output_name] == (2, 4, 4)


def test_an_output_that_is_not_there_or_not_chosen() -> None:
    for output, message in (
        (None, "output: several returns a dict with 'a', 'b'; name one tensor of it by index, key or path"),
        ("c", "output=c: several returns a dict with 'a', 'b'; name one"),
        ("a.0", "output=a.0: several returns one tensor; leave it out"),
    ):
        with pytest.raises(OptionError) as caught:
            kdsnn.lower(Several(lambda s, m: {"a": s, "b": m}), input_shape=SHAPE, T=T, output=output)
        assert str(caught.value).startswith(message)


def test_membranes_that_leak_while_they_are_read_are_told_from_outputs() -> None:
    torch.manual_seed(0)
    module = nn.Sequential(layer.Flatten(), layer.Linear(108, 4), neuron.NonSpikingLIFNode(tau=2.0))
    functional.set_step_mode(module, "m")
    with pytest.raises(OptionError, match="returns a list of 4, which are not the spikes or currents of its steps"):
        kdsnn.lower(nn.Sequential(module, Squares()), input_shape=SHAPE, T=T)


@pytest.mark.parametrize("decode", ["last_mem", "mean-mem", None])
def test_membranes_that_leak_are_proven_and_run_everywhere(decode: str | None) -> None:
    torch.manual_seed(0)
    module = nn.Sequential(
        layer.Flatten(), layer.Linear(108, 12), neuron.IFNode(v_threshold=0.3), layer.Linear(12, 4),
        neuron.NonSpikingLIFNode(3.0, decode),
    )  # fmt: skip
    functional.set_step_mode(module, "m")
    net = kdsnn.lower(module, input_shape=SHAPE, T=T)
    assert net.proof is not None and net.proof.ok and net.proof.layers[-1].compared > 0
    x = (PIXELS / np.float32(255)).astype(np.float32)
    runs = []
    for name in ("spikingjelly", "torch", "onnx"):
        with opened(name, net, RunOptions()) as runs_samples:
            runs.append(runs_samples(x))
    proofs = proofs_of(runs, net.graph, x)  # type: ignore[arg-type]
    assert len(proofs) == 3 and all(proof.ok for proof in proofs.values())
    assert all(found.ok and found.mismatches == 0 for found in comparisons(runs, proofs=proofs))
    # a graph that leaks otherwise is not the module
    assert net.graph is not None
    other = net.graph.with_nodes({"output": replace(net.graph.output, leak=0.6)})
    assert not proofs_of(runs[:1], other, x)["spikingjelly"].ok
    if decode != "last_mem":
        with (
            pytest.raises(OptionError, match=r"mean of the membranes of all steps, of which Lava shows the last alone"),
            opened("lava", kdsnn.lower(module, input_shape=SHAPE, T=T, bits=8), RunOptions()),
        ):
            pass


class Squares(nn.Module):
    """What no membrane gives."""

    def forward(self, parts: list[torch.Tensor]) -> list[torch.Tensor]:
        return [p * (t + 1) ** 2 for t, p in enumerate(parts)]


# -- neurons -------------------------------------------------------------------------------------------


class Hidden(nn.Module):
    """A neuron whose arithmetic is hidden in numpy; nothing resets it but itself."""

    def __init__(self, leak: float = 0.5) -> None:
        super().__init__()
        self.leak, self.v = leak, None

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        values = x.detach().numpy()
        self.v = values if self.v is None else self.leak * self.v + values  # type: ignore[assignment,operator]
        spikes = (self.v >= 0.7).astype(values.dtype)  # type: ignore[operator]
        self.v = self.v * (1 - spikes)  # type: ignore[operator]
        return torch.from_numpy(spikes)


def hidden(leak: float = 0.5) -> nn.Sequential:
    torch.manual_seed(4)
    return nn.Sequential(
        nn.Flatten(), nn.Linear(108, 20), Hidden(leak), nn.Linear(20, 4), neuron.IFNode(v_threshold=0.3)
    )


@pytest.mark.parametrize(
    "said",
    [
        {"Hidden": "LIF:leak=0.5,v_threshold=0.7"},
        ["Hidden=LIF:leak=0.5,v_threshold=0.7"],
        f"{__name__}.Hidden = LIF:tau=2,v_threshold=0.7,decay_input=false",
    ],
)
def test_declared_neurons_are_proven_and_run(said: Any) -> None:
    net = kdsnn.lower(hidden(), input_shape=SHAPE, T=T, neuron_as=said)
    assert net.proof is not None and net.proof.ok
    assert {row["name"]: row["compared"] for row in net.proof.rows()}["hidden2"] == net.proof.samples * T * 20
    # more samples than one batch: each starts with the neuron at rest
    images = np.random.default_rng(1).integers(0, 256, (90, *SHAPE), dtype=np.uint8)
    labels = np.arange(90) % 4
    found = kdsnn.run(net, (images, labels, images, labels), on=["torch"], samples=90)
    assert {c.backend: (c.hidden, c.hidden_compared) for c in found.comparisons} == {"torch": (0, 90 * T * 24)}


@pytest.mark.parametrize(
    ("said", "message"),
    [
        ("Hidden", "neuron_as=Hidden: it must read CLASS=KIND:NAME=VALUE"),
        ("=LIF:tau=2", "it must read CLASS"),
        (["Hidden=IF", "Hidden=LIF:tau=2"], "Hidden is declared twice"),
        ("Hidden=QIF:tau=2", "neuron_as: Hidden: 'QIF:tau=2' declares no neuron; write IF"),
        (
            "Hiden=LIF:leak=0.5,v_threshold=0.7",
            "neuron_as=Hiden: the network has no module of class Hiden; its modules are Flatten",
        ),
    ],
)
def test_declarations_that_say_nothing(said: Any, message: str) -> None:
    with pytest.raises(OptionError, match=message):
        kdsnn.lower(hidden(), input_shape=SHAPE, T=T, neuron_as=said)


def test_a_declaration_that_is_almost_right_is_wrong() -> None:
    with pytest.raises(LoweringError, match="it was declared to be another neuron than it is"):
        kdsnn.lower(hidden(0.5001), input_shape=SHAPE, T=T, neuron_as="Hidden=LIF:leak=0.5,v_threshold=0.7")


# -- what it reads -------------------------------------------------------------------------------------


def events() -> nn.Sequential:
    torch.manual_seed(5)
    net = nn.Sequential(
        layer.Conv2d(2, 3, 3),
        neuron.LIFNode(v_threshold=0.3),
        layer.Flatten(),
        layer.Linear(48, 4),
        neuron.IFNode(v_threshold=0.4),
    )
    functional.set_step_mode(net, "m")
    return net


def recorded(kind: str) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(6)
    high = 2 if kind == "spikes" else 256
    return rng.integers(0, high, (8, T, 2, 6, 6)).astype(np.uint8), np.arange(8) % 4


@pytest.mark.parametrize("coding", ["spikes", "frames"])
def test_frames_over_time_from_arrays(coding: Any, tmp_path: Path) -> None:
    net = kdsnn.lower(events(), input_shape=(2, 6, 6), T=T, input_coding=coding, name="e")
    assert net.over_time and net.proof is not None and net.proof.ok
    x, y = recorded(coding)
    found = kdsnn.run(net, (x, y), on=["torch", "onnx", "emulator"], samples=6)
    assert found.ok and {c.backend: c.mismatches for c in found.comparisons}["torch"] == 0
    # the module itself, called by hand
    module = events().double()
    given = x / np.float32(255) if coding == "frames" else x.astype(np.float32)
    with torch.no_grad():
        out = module(torch.from_numpy(given).double().transpose(0, 1)).mean(0).numpy()
    right = {tuple(row) for row in out.tolist()}
    assert {tuple(row) for row in found.runs[0].scores.tolist()} <= right
    np.savez(tmp_path / "e.npz", x_test=x, y_test=y)
    report = kdsnn.profile(net, f"npz:{tmp_path / 'e.npz'}", samples=4).to_dict()
    assert "4 test samples of" in str(report)
    written = kdsnn.export(net, tmp_path, to=["onnx", "netx", "nir"], quantized=True)
    assert written.ok, written
    again = kdsnn.run(tmp_path / "e.onnx", f"npz:{tmp_path / 'e.npz'}", on=["onnx"], samples=6)
    np.testing.assert_array_equal(again.runs[0].output, found.runs[2].output)
    back = kdsnn.run(tmp_path / "e.nir", (x, y), on=["torch"], samples=6)
    np.testing.assert_array_equal(back.runs[0].output, found.runs[1].output)


@pytest.mark.parametrize(
    ("coding", "change", "message"),
    [
        ("spikes", lambda x, y: (x + 1, y), "takes x_test .* of 0 and 1, and y_test .*, as whole numbers; it holds uint8"),
        ("frames", lambda x, y: (x.astype(int), y), "of pixels .uint8, or numbers as the network takes them.*; it holds int64"),
        ("frames", lambda x, y: (x * np.nan, y), "it holds float"),
        ("frames", lambda x, y: (x[:, :2], y), r"x_test has shape \(8, 2, 2, 6, 6\)"),
        ("spikes", lambda x, y: (x, y + 1), "its labels run from 1 to 4; e tells 4 classes apart, 0 to 3"),
    ],
)  # fmt: skip
def test_frames_that_do_not_fit(coding: Any, change: Any, message: str) -> None:
    net = kdsnn.lower(events(), input_shape=(2, 6, 6), T=T, input_coding=coding, name="e")
    with pytest.raises(kdsnn.errors.KdsnnError, match=message):
        kdsnn.run(net, change(*recorded(coding)), samples=8)


def test_what_cannot_be_said() -> None:
    net = kdsnn.lower(events(), input_shape=(2, 6, 6), T=T, input_coding="spikes", name="e")
    assert net.graph is not None
    for source in (net, net.graph):
        for said in ({"output": 0}, {"normalize": "mnist"}, {"neuron_as": "A=IF"}):
            with pytest.raises(
                OptionError, match="is no torch network of your own, which alone takes it; leave it out"
            ):
                kdsnn.lower(source, **said)  # type: ignore[arg-type]
        with pytest.raises(OptionError, match="says itself what it reads; leave it out"):
            kdsnn.lower(source, input_coding="spikes")
    with pytest.raises(OptionError, match="input_coding=events: it must be pixels, frames, spikes"):
        kdsnn.lower(events(), input_shape=(2, 6, 6), T=T, input_coding="events")  # type: ignore[arg-type]
    with pytest.raises(OptionError, match="reads spikes of 0 and 1, not pixels; leave it out"):
        kdsnn.lower(events(), input_shape=(2, 6, 6), T=T, input_coding="spikes", normalize="0.5/0.5")
    with pytest.raises(kdsnn.errors.KdsnnError, match="e reads frames over time, and digits holds images"):
        kdsnn.run(net, "digits")
    still = kdsnn.lower(convolutional(), input_shape=SHAPE, T=T, name="still")
    with pytest.raises(
        kdsnn.errors.KdsnnError, match="still reads images, and e frames over time; profile them one by one"
    ):
        kdsnn.profile([net, still], recorded("spikes"))
    assert Brought().encoding == "direct"


def test_frames_are_normalized_too() -> None:
    """Counts of events as uint8: pixels of 0 to 1 are counts/255, which (x − 0)/(1/255) makes counts of again."""
    net = kdsnn.lower(events(), input_shape=(2, 6, 6), T=T, input_coding="frames", normalize=(0, 1 / 255), name="e")
    x, y = recorded("frames")
    counts = (x % 5).astype(np.uint8)
    found = kdsnn.run(net, (counts, y), on=["torch", "emulator"], samples=8)
    module = events().double()
    with torch.no_grad():
        out = module(torch.from_numpy(counts).double().transpose(0, 1)).mean(0).numpy()
    theirs = found.runs[0].scores
    assert np.abs(theirs - out).max() <= 1 / T and np.mean(theirs != out) < 0.1  # float32 against float64
    assert found.ok


# -- maps ----------------------------------------------------------------------------------------------


def test_networks_that_end_in_maps_run_without_an_accuracy() -> None:
    torch.manual_seed(0)
    module = nn.Sequential(layer.Conv2d(3, 2, 3), neuron.IFNode(v_threshold=0.3))
    net = kdsnn.lower(module, input_shape=SHAPE, T=T, name="maps")
    data = (PIXELS, LABELS, PIXELS, LABELS)
    with pytest.warns(kdsnn.errors.Notice, match="maps ends in maps of 2 × 4 × 4, not in one score per class"):
        found = kdsnn.run(net, data, on=["torch", "onnx", "emulator"], samples=5)
    assert found.ok and found.accuracy == {} and found.labels is None
    assert [row["accuracy"] for row in found.rows()] == [None] * 4
    assert "%" not in str(found.tables()[0])
    with pytest.warns(kdsnn.errors.Notice, match="ends in maps"):
        report = kdsnn.profile(net, data, samples=5)
    assert "–" in str(report.closing_table())
