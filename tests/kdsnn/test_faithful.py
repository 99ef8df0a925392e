"""The float network is the author's: its weights unrounded, each of its runs proven layer by layer, ties told from errors."""

from __future__ import annotations

import copy
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper
from spikingjelly.activation_based import functional, layer, neuron
from torch import nn

import kdsnn
from exporters.from_torch import from_torch
from exporters.passes.exact import make_exact
from kdsnn.deploy import export as exporting
from kdsnn.deploy.backends import BackendRun
from kdsnn.deploy.comparisons import proofs_of
from kdsnn.deploy.export import VerificationError
from kdsnn.errors import Notice, UnfaithfulError

SHAPE, T = (3, 12, 12), 4


def deep() -> nn.Module:
    """Eight layers with settled BatchNorm: what rounds differently in the first is everywhere in the last."""
    torch.manual_seed(0)
    parts: list[nn.Module] = []
    channels = 3
    for _ in range(8):
        parts += [layer.Conv2d(channels, 8, 3, padding=1, bias=False), layer.BatchNorm2d(8), neuron.IFNode()]
        channels = 8
    net = nn.Sequential(*parts, layer.Flatten(), layer.Linear(8 * 144, 5, bias=False), neuron.IFNode())
    functional.set_step_mode(net, "m")
    with torch.no_grad():
        for _ in range(4):
            functional.reset_net(net)
            net.train()(torch.rand(T, 32, *SHAPE))
    functional.reset_net(net)
    return net.eval()


WIDE = (3, 40, 40)


def wide() -> nn.Module:
    """So many pixels into one neuron that weights on the grid of exact sums keep few digits, and layers that show it."""
    torch.manual_seed(0)
    parts: list[nn.Module] = [layer.Flatten()]
    inputs = 4800
    for outputs in (300, 300, 300, 300, 5):
        linear = layer.Linear(inputs, outputs, bias=False)
        linear.weight.data.normal_(0, 2 / inputs**0.5)
        parts += [linear, neuron.IFNode()]
        inputs = outputs
    net = nn.Sequential(*parts)
    functional.set_step_mode(net, "m")
    return net.eval()


def images(count: int = 12) -> tuple[np.ndarray, ...]:
    x = np.random.default_rng(0).integers(0, 256, (count, *WIDE)).astype(np.uint8)
    y = np.arange(count) % 5
    return x, y, x, y


def test_the_floats_are_the_authors_and_the_exact_form_is_not() -> None:
    how = {"on": ["torch", "onnx"], "input_shape": WIDE, "T": T}
    ours = kdsnn.run(wide(), images(), **how)
    torch_run, onnx_run = ours.comparisons
    assert ours.ok and torch_run.proof is not None and onnx_run.proof is not None
    with pytest.warns(Notice, match="weights on the grid change [1-9]"):
        exact = kdsnn.run(wide(), images(), exact=True, **how)
    assert exact.comparisons[0].proof is None and not exact.comparisons[0].must_agree
    assert exact.comparisons[1].hidden == exact.comparisons[1].mismatches == 0 and exact.comparisons[1].must_agree
    # rounded weights cost far more spikes than BatchNorm folded into the author's own
    assert exact.comparisons[0].hidden > 5 * torch_run.hidden


def test_files_of_large_networks_are_verified_on_fewer_samples(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    net = kdsnn.lower(nn.Sequential(layer.Conv2d(3, 8, 3), neuron.IFNode()), input_shape=SHAPE, T=T)
    each = T * 8 * 10 * 10
    for room, samples in ((2**23, 16), (5 * (each + 8 * 3 * 12 * 12), 5), (1, 1)):
        monkeypatch.setattr(exporting, "VERIFY_SPIKES", room)
        found = kdsnn.export(net, tmp_path / str(room), to=["onnx", "nir"])
        assert [file.verified // each for file in found.files] == [samples * 2, samples]


def test_exported_floats_are_the_folded_weights(tmp_path: Path) -> None:
    net = deep()
    (file,) = kdsnn.export(net, tmp_path, to=["onnx"], input_shape=SHAPE, T=T).files
    assert file.verified > 10_000 and file.mismatches == 0 and "exact" not in file.contents
    stored = {t.name: numpy_helper.to_array(t) for t in onnx.load(file.path).graph.initializer}
    conv, norm = net[0], net[1]
    factor = (norm.weight / torch.sqrt(norm.running_var + norm.eps)).detach().double()
    folded = (conv.weight.detach().double() * factor[:, None, None, None]).numpy()
    (name,) = (n for n, values in stored.items() if values.shape == folded.shape and n.endswith("0/weight"))
    np.testing.assert_allclose(stored[name], folded, rtol=2.0**-23)
    kdsnn.export(net, tmp_path / "exact", to=["onnx"], input_shape=SHAPE, T=T, exact=True)
    grid = {
        t.name: numpy_helper.to_array(t) for t in onnx.load(next((tmp_path / "exact").glob("*.onnx"))).graph.initializer
    }
    assert (np.abs(grid[name] * 255 - folded) > 2.0**-22 * np.abs(folded)).mean() > 0.5


def tied() -> nn.Module:
    """Two weights that reach the threshold in float32 alone: 0.1 + 0.9 is 1, and their float32 numbers add up to less."""
    net = nn.Sequential(layer.Flatten(), layer.Linear(2, 2, bias=False), neuron.IFNode())
    net[1].weight.data = torch.tensor([[0.1, 0.9], [0.3, 0.3]])
    functional.set_step_mode(net, "m")
    return net.eval()


def test_a_tie_is_counted_and_is_no_error(tmp_path: Path) -> None:
    assert torch.tensor(0.1) + torch.tensor(0.9) == 1 and torch.tensor(0.1).double() + torch.tensor(0.9).double() < 1
    ones = np.full((4, 1, 2), 255, np.uint8)
    found = kdsnn.run(
        tied(), (ones, np.arange(4) % 2, ones, np.arange(4) % 2), on=["torch", "onnx"], input_shape=(1, 1, 2), T=3
    )
    first = found.comparisons[0]
    assert found.ok and first.proof is not None and first.proof.ties > 0 and first.proof.differences == 0
    assert "ties of" in str(found)
    # in float64 they are below, in the graph as in the module
    assert kdsnn.lower(tied(), input_shape=(1, 1, 2), T=3).proof.ties == 0  # type: ignore[union-attr]


def test_what_is_more_than_a_tie_is_an_error() -> None:
    net = deep()
    graph = from_torch(net, SHAPE, T)
    lowered = kdsnn.lower(net, input_shape=SHAPE, T=T)
    x = np.random.default_rng(0).random((3, *SHAPE)).astype(np.float32)
    from kdsnn.deploy.author import run_author

    ran = run_author(net, graph, lowered.calling, x)  # type: ignore[arg-type]
    spikes = {name: values.copy() for name, values in ran.spikes.items()}
    last = graph.sources(graph.output_name)[0]
    run = BackendRun("onnx", spikes[last], spikes[last].mean(axis=1), spikes, 0.0)
    assert proofs_of([run], graph, x)["onnx"].ok
    hidden = list(spikes)[3]
    spikes[hidden][1, 2, 0, 0, 0] ^= 1
    found = proofs_of([run], graph, x)["onnx"]
    # the spike itself, and what it would have done to its neuron afterwards; layers behind it are fed what was fired
    assert not found.ok and found.first.startswith(f"{hidden}, sample 1, step ")


def test_a_wrong_float_file_is_removed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    one = exporting.FORMATS["onnx"]

    def wrong(*given: object) -> object:
        written = one.write(*given)  # type: ignore[arg-type]

        def run(x: np.ndarray) -> dict[str, np.ndarray]:
            found = {name: np.array(values) for name, values in written.run(x).items()}
            first = next(iter(written.graph.neurons))
            found[first][0, 0, 0, 0, 0] = 1 - found[first][0, 0, 0, 0, 0]
            return found

        return replace(written, run=run)

    monkeypatch.setattr(exporting, "FORMATS", {**exporting.FORMATS, "onnx": replace(one, write=wrong)})
    with pytest.raises(VerificationError, match="spikes differ from the network it was made from"):
        kdsnn.export(deep(), tmp_path, to=["onnx"], input_shape=SHAPE, T=T)
    assert not list(tmp_path.glob("*.onnx"))


class LiesToImages(nn.Module):
    """It is another network where an image is dark, which random pixels never are, and hides it from the front end."""

    def __init__(self) -> None:
        super().__init__()
        self.body = tied()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self.body(x * (1 + 3 * (type(x) is torch.Tensor and float(x.max()) < 0.2)))
        return out


@pytest.mark.parametrize("verb", ["run", "profile", "calibrate"])
def test_the_users_own_samples_are_compared_too(verb: str) -> None:
    dark = np.full((6, 1, 2), 40, np.uint8)
    given = (dark, np.arange(6) % 2, dark, np.arange(6) % 2)
    how = {"input_shape": (1, 1, 2), "T": 3}
    with pytest.raises(UnfaithfulError, match="not this network"):
        if verb == "run":
            kdsnn.run(LiesToImages(), given, on=["emulator"], **how)
        elif verb == "profile":
            kdsnn.profile(LiesToImages(), given, **how)
        else:
            kdsnn.lower(LiesToImages(), calibrate=given, **how)


def test_exact_of_what_is_quantized_already_is_refused(tmp_path: Path) -> None:
    kdsnn.export(deep(), tmp_path, to=["netx"], input_shape=SHAPE, T=T)
    with pytest.raises(kdsnn.KdsnnError, match="quantized already"):
        kdsnn.lower(next(tmp_path.glob("*.net")), exact=True)


def test_the_exact_form_is_the_graphs() -> None:
    lowered = kdsnn.lower(deep(), input_shape=SHAPE, T=T, exact=True)
    assert lowered.graph is not None and lowered.running is lowered.exact
    for name, synapse in make_exact(lowered.graph).synapses.items():
        np.testing.assert_array_equal(synapse.weight, lowered.running.synapses[name].weight)  # type: ignore[union-attr]
    assert copy.copy(lowered).graph is lowered.graph
