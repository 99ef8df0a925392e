"""Samples of T frames, of graded values or of 0 and 1: every format and back end reads the frame of each step."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from spikingjelly.activation_based import functional, layer, neuron
from torch import nn

from exporters import netx, nir
from exporters import onnx as onnx_files
from exporters.from_torch import LoweringError, from_torch
from exporters.graph import Encoding, SpikingGraph
from exporters.passes.chain import to_chain
from exporters.passes.exact import make_exact
from exporters.passes.quantize import quantize
from exporters.passes.split import split_encoder
from hardware.emulator import Recorder, run
from profilers.counting.activity import ActivityCounter, layer_role
from tests.exporters.faithful import assert_faithful

SHAPE, T = (2, 6, 6), 5
CODINGS: tuple[Encoding, ...] = ("frames", "spikes")


def network(step_mode: str) -> nn.Sequential:
    torch.manual_seed(3)
    net = nn.Sequential(
        layer.Conv2d(2, 4, 3, padding=1), layer.BatchNorm2d(4), neuron.LIFNode(v_threshold=0.2), layer.MaxPool2d(2),
        layer.Flatten(), layer.Linear(36, 5), neuron.IFNode(v_threshold=0.3),
    )  # fmt: skip
    functional.set_step_mode(net, step_mode)
    return net


def frames(coding: Encoding, n: int = 4) -> np.ndarray:
    values = np.random.default_rng(1).integers(0, 256, (n, T, *SHAPE))
    return (values > 128).astype(np.float32) if coding == "spikes" else (values / np.float32(255)).astype(np.float32)


def spikes(graph: SpikingGraph, x: np.ndarray) -> dict[str, np.ndarray]:
    recorder = Recorder(graph)
    run(graph, graph.encode(x), observe=recorder)
    return recorder.spikes


@pytest.mark.parametrize("coding", CODINGS)
@pytest.mark.parametrize("step_mode", ["s", "m"])
def test_the_graph_reads_a_frame_a_step_as_the_module_does(coding: Encoding, step_mode: str) -> None:
    found = assert_faithful(network(step_mode), SHAPE, T, encoding=coding)
    assert found.graph.input.encoding == coding
    assert found.calling.way == ("frames" if step_mode == "m" else "step")


def test_a_static_image_over_time_is_no_network_for_frames() -> None:
    """A network that repeats its image itself reads one frame: of T different ones it would use the first."""

    class Repeats(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = network("m")

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.net(x.unsqueeze(0).repeat(T, 1, 1, 1, 1)).mean(0)

    from_torch(Repeats(), SHAPE, T)
    for coding in CODINGS:
        with pytest.raises(LoweringError):
            from_torch(Repeats(), SHAPE, T, encoding=coding)
    with pytest.raises(LoweringError, match='must be "direct", "frames" or "spikes"'):
        from_torch(network("m"), SHAPE, T, encoding="analog")  # type: ignore[arg-type]


@pytest.mark.parametrize("coding", CODINGS)
@pytest.mark.parametrize("integer", [False, True])
def test_onnx_in_every_form(coding: Encoding, integer: bool, tmp_path: Path) -> None:
    graph = from_torch(network("m").eval(), SHAPE, T, encoding=coding)
    graph = quantize(graph)[0] if integer else make_exact(graph)
    x = frames(coding)
    expected = spikes(graph, x)
    for form in ("sequence", "loop", "step"):
        path = onnx_files.write(graph, tmp_path / f"{form}.onnx", form=form)
        found = onnx_files.prepare(path, list(graph.neurons)).run(x)
        for name, fired in expected.items():
            np.testing.assert_array_equal(found[name], fired, err_msg=f"{form} {name}")
    with pytest.raises(onnx_files.OnnxError, match=r"takes samples of shape \(N, 5, 2, 6, 6\)"):
        onnx_files.prepare(path).run(x[:, 0])


@pytest.mark.parametrize("coding", CODINGS)
def test_netx_and_nir_read_back_what_was_written(coding: Encoding, tmp_path: Path) -> None:
    graph = from_torch(network("m").eval(), SHAPE, T, encoding=coding)
    integer = quantize(graph)[0]
    chain = to_chain(integer)
    again = netx.read(netx.write(chain, tmp_path / "x.net"))
    assert again.input == chain.input or (again.input.encoding, again.input.scale) == (coding, chain.input.scale)
    assert netx.message_bits(chain) == (8 if coding == "frames" else 0)
    x = frames(coding)
    expected = run(integer, integer.encode(x)).output
    np.testing.assert_array_equal(run(again, again.encode(x)).output, expected)
    path = nir.write(integer, tmp_path / "x.nir")
    back = nir.read(path)
    assert back.input.encoding == coding
    np.testing.assert_array_equal(run(back, back.encode(x)).output, expected)
    with pytest.raises(nir.NirError, match=rf"says itself how its input is coded \({coding}\)"):
        nir.read(path, encoding="direct")
    assert nir.read(path, encoding=coding).input.encoding == coding


def test_graded_frames_change_from_step_to_step_for_the_counts() -> None:
    graph = make_exact(from_torch(network("m").eval(), SHAPE, T, encoding="frames"))
    first, *others = graph.synapses
    assert layer_role(graph, first) == "changing"
    assert {layer_role(graph, name) for name in others} == {"spikes"}
    counter = ActivityCounter(graph)
    x = frames("frames")
    run(graph, graph.encode(x), observe=counter)
    found = counter.result()
    # nothing can be computed once: 4 kernels of 2×3×3 at 36 positions, at each of T steps
    assert found.macs_once == found.macs_repeated == T * 36 * 4 * 18


def test_the_first_layer_of_graded_frames_can_stay_on_the_host() -> None:
    graph = make_exact(from_torch(network("m").eval(), SHAPE, T, encoding="frames"))
    host, chip = split_encoder(graph)
    x = frames("frames")
    between = run(host, host.encode(x)).output.reshape(len(x), T, *chip.input.shape)
    np.testing.assert_array_equal(run(chip, chip.encode(between)).output, run(graph, graph.encode(x)).output)
