"""`kdsnn-deploy check` as a gate: exit codes, findings and JSON."""

from __future__ import annotations

import itertools
import json
import re
import sys
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch
from spikingjelly.activation_based import layer, neuron
from torch import nn

import kdsnn
from exporters import netx, nir
from exporters.from_torch import from_torch
from exporters.graph import IF, Conv2d, Flatten, Input, Linear, Node, Output, SpikingGraph, chain
from exporters.graph.registers import SILENT
from hardware.chips import fit, limits
from kdsnn import models
from kdsnn.deploy.on_chip import chip_fit
from tests.integration.test_cli import cli


def network(
    weight: int = 9, threshold: int = 40, bias: int = 5, encoding: str = "spikes", **output: str
) -> SpikingGraph:
    """A small sound chain: convolution, dense layer."""
    kernel = np.full((4, 1, 3, 3), weight, np.int32)
    kernel[0] = -weight
    nodes: list[tuple[str, Node]] = [
        ("input", Input((1, 8, 8), encoding, 255 if encoding == "direct" else None)),
        ("conv", Conv2d(kernel, np.full(4, bias, np.int32))), ("conv.if", IF(threshold)),
        ("flat", Flatten()), ("dense", Linear(np.full((10, 144), 3, np.int32))),
    ]  # fmt: skip
    if output.get("readout") == "membrane":
        return chain([*nodes, ("output", Output("membrane"))], 4)
    return chain([*nodes, ("dense.if", IF(20)), ("output", Output())], 4)


def found(graph: SpikingGraph, target: str = "loihi1", **options: int) -> list[fit.Finding]:
    return list(fit.check(graph, limits.target(target), **options).findings)


def one(graph: SpikingGraph, words: str, target: str = "loihi1") -> fit.Finding:
    """The one finding with these words in it."""
    [finding] = [f for f in found(graph, target) if words in f.what]
    return finding


def test_a_sound_network_has_notes_only() -> None:
    for target in ("loihi1", "loihi2"):
        assert {f.severity for f in found(network(), target)} == {"note"}


def test_weights_beyond_the_synapse() -> None:
    assert not any("weight of" in f.what for f in found(network(weight=127)))
    finding = one(network(weight=128), "a weight of 128; Loihi 1 holds ±127")
    assert finding.severity == "error" and finding.layer == "conv" and "fewer bits" in finding.change
    graph = network()
    one_sign = graph.with_nodes({"dense": Linear(np.full((10, 144), 255, np.int32))})
    assert not any("weight of" in f.what for f in found(one_sign))
    too_large = graph.with_nodes({"dense": Linear(np.full((10, 144), 256, np.int32))})
    assert one(too_large, "a weight of 256").severity == "error"


def test_a_report_says_what_does_not_fit_and_what_to_change() -> None:
    chip = limits.target("loihi1")
    assert chip_fit("net", chip, found(network(weight=127))).problems == ()
    refused = chip_fit("net", chip, found(network(weight=128)))
    (problem,) = refused.problems
    assert (refused.title, problem.layer, problem.what) == ("Loihi 1", "conv", "a weight of 128; Loihi 1 holds ±127")
    assert problem.change.startswith("quantize with fewer bits (kdsnn-deploy check --target loihi1 tries how many)")


def test_thresholds_and_biases_against_their_registers() -> None:
    # the convolution has both signs: doubled, 2·65536 − 1 = 2¹⁷ − 1 is the most 17 bits hold
    assert not any("vThMant" in f.what for f in found(network(threshold=65_536)))
    assert one(network(threshold=65_537), "a threshold of 131073 (vThMant)").severity == "error"
    assert one(network(threshold=9), "a threshold of 9 units").severity == "warning"
    assert not any("bias" in f.what for f in found(network(bias=4095)))
    assert one(network(bias=-4096), "the last 1 bits").severity == "warning"
    assert one(network(readout="membrane"), f"{SILENT - 1}, is beyond").severity == "note"


def test_pixels_need_graded_spikes() -> None:
    graph = network(encoding="direct")
    finding = one(graph, "8-bit pixels")
    assert finding.severity == "warning" and finding.layer == "conv" and "host" in finding.change
    placed = fit.check(graph, limits.target("loihi1")).placement
    assert placed is not None and placed.host == ("conv",) and [p.name for p in placed.layers] == ["dense"]
    assert one(graph, "8-bit pixels", "loihi2").severity == "note"
    placed = fit.check(graph, limits.target("loihi2")).placement
    assert placed is not None and placed.host == () and len(placed.layers) == 2


def test_chips_at_hand() -> None:
    large = Conv2d(np.full((300, 1, 1, 1), 3, np.int32))
    nodes: list[tuple[str, Node]] = [("input", Input((1, 32, 32), "spikes")), ("conv", large), ("if", IF(20))]
    wide = chain([*nodes, ("output", Output())], 1)
    result = fit.check(wide, limits.target("loihi1"), max_chips=2)
    assert not result.fits and result.placement is not None and result.placement.chips == 3
    [error] = [f for f in result.findings if f.severity == "error"]
    assert error.what == f"{result.placement.cores} cores are 3 chips, and there are 2"
    assert fit.check(wide, limits.target("loihi1"), max_chips=3).fits


# -- the command -------------------------------------------------------------------------------------------


@pytest.fixture
def net_file(tmp_path: Path) -> Path:
    return netx.write(network(), tmp_path / "small.net")


def test_exit_codes_and_json(tmp_path: Path, net_file: Path) -> None:
    out = cli("check", net_file, "--target", "loihi1").stdout
    assert out.splitlines()[-1] == "fits Loihi 1: 2 cores, 1 chip"
    document = json.loads(cli("check", net_file, "--target", "loihi2", "--json").stdout)
    assert document["fits"] is True and document["placement"]["cores"] == 2
    assert document["placement"]["layers"][0]["shape"] == [4, 6, 6]
    assert set(document["findings"][0]) == {"severity", "layer", "what", "change"}

    path = netx.write(network(weight=200), tmp_path / "wide.net")
    out = cli("check", path, "--target", "loihi1", code=1).stdout
    assert "a weight of 200" in out and out.splitlines()[-1].startswith(
        "does not fit Loihi 1: 2 cores, 1 chip (1 error)"
    )
    assert json.loads(cli("check", path, "--target", "loihi1", "--json", code=1).stdout)["fits"] is False


def test_what_cannot_be_checked_is_an_error(tmp_path: Path, net_file: Path) -> None:
    err = cli("check", net_file, "--target", "loihi9", code=2).stderr
    assert err == "error: there is no target 'loihi9'; choose from loihi1, loihi2, or give a .json file of your own\n"
    for name in ("none.net", "none.nir", "none.safetensors", "none"):
        assert cli("check", tmp_path / name, "--target", "loihi1", code=2).stderr.count("\n") == 1
    broken = tmp_path / "broken.nir"
    broken.write_bytes(net_file.read_bytes()[:300])
    assert "broken.nir" in cli("check", broken, "--target", "loihi1", code=2).stderr


def soft() -> nn.Module:
    """Resets by subtraction, which Lava cannot."""
    torch.manual_seed(0)
    hidden = layer.Linear(64, 12), neuron.IFNode(v_reset=None)
    return nn.Sequential(layer.Flatten(), *hidden, layer.Linear(12, 10), neuron.IFNode(v_reset=None))


def softplus() -> nn.Module:
    """A module that no spiking graph expresses."""
    return nn.Sequential(layer.Flatten(), layer.Linear(64, 10), nn.Softplus(), neuron.IFNode())


def sound() -> nn.Module:
    """Deploys as it is."""
    torch.manual_seed(0)
    return nn.Sequential(layer.Flatten(), layer.Linear(64, 10), neuron.IFNode())


def test_what_cannot_be_lowered_is_a_finding(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "factories_for_check", sys.modules[__name__])
    options = ["--target", "loihi2", "--input-shape", "1,8,8", "--timesteps", 4, "--json"]
    document = json.loads(cli("check", "factories_for_check:softplus", *options, code=1).stdout)
    assert document["fits"] is False and document["placement"] is None
    [finding] = document["findings"]
    assert finding["severity"] == "error" and "Softplus" in finding["what"] and finding["layer"] and finding["change"]


@pytest.mark.parametrize(("target", "words"), [("loihi1", "2 compartments a neuron"), ("loihi2", "microcode")])
def test_reset_by_subtraction_is_told(monkeypatch: pytest.MonkeyPatch, target: str, words: str) -> None:
    """It fits, and takes more than the chip's own neurons."""
    monkeypatch.setitem(sys.modules, "factories_for_check", sys.modules[__name__])
    options = ["--target", target, "--input-shape", "1,8,8", "--timesteps", 4, "--json"]
    document = json.loads(cli("check", "factories_for_check:soft", *options).stdout)
    (finding,) = (f for f in document["findings"] if "reset by subtraction" in f["what"])
    assert finding["severity"] == "warning" and words in finding["what"] and "hard reset" in finding["change"]


def test_a_factory_and_coarse_bits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "factories_for_check", sys.modules[__name__])
    options = ["--target", "loihi2", "--input-shape", "1,8,8", "--timesteps", 4, "--json"]
    assert json.loads(cli("check", "factories_for_check:sound", *options).stdout)["fits"]
    coarse = json.loads(cli("check", "factories_for_check:sound", *options, "--bits", 3).stdout)
    assert any("rounding changes its weights" in f["what"] for f in coarse["findings"])
    error = cli("check", "factories_for_check:sound", *options, "--bits", 9, code=2).stderr
    assert "--bits 9" in error and "weights have 2 to 8 bits" in error


def test_nir_files(tmp_path: Path) -> None:
    path = nir.write(from_torch(sound(), (1, 8, 8), 4), tmp_path / "sound.nir")
    document = json.loads(cli("check", path, "--target", "loihi2", "--json").stdout)
    assert document["fits"] and [p["neurons"] for p in document["placement"]["layers"]] == [10]


def test_a_residual_network_fits_with_the_bits_it_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """A relay's weight is the threshold it feeds: too wide at 8 bits; the bits that the finding names put it right."""
    monkeypatch.setitem(sys.modules, "factories_for_check", sys.modules[__name__])
    options = ["--target", "loihi1", "--input-shape", "3,16,16", "--timesteps", 4, "--json"]
    document = json.loads(cli("check", "factories_for_check:residual", *options, code=1).stdout)
    errors = [f for f in document["findings"] if f["severity"] == "error"]
    assert errors and all("relayed spike" in f["what"] for f in errors)
    bits = min(int(re.fullmatch(r"quantize with (\d) bits: tried, it fits", f["change"])[1]) for f in errors)
    again = json.loads(cli("check", "factories_for_check:residual", *options, "--bits", bits).stdout)
    assert again["fits"]
    assert again["placement"]["cores"] <= document["placement"]["cores"]
    # and one bit more would not
    assert not json.loads(cli("check", "factories_for_check:residual", *options, "--bits", bits + 1, code=1).stdout)[
        "fits"
    ]


@pytest.mark.parametrize("target", ["loihi1", "loihi2"])
def test_thresholds_that_quantization_chooses_fit(monkeypatch: pytest.MonkeyPatch, target: str) -> None:
    """A LIF divides by tau, and pixels by 255: the largest scale for weights would pass the threshold's register."""
    monkeypatch.setitem(sys.modules, "factories_for_check", sys.modules[__name__])
    options = ["--target", target, "--input-shape", "1,8,8", "--timesteps", 4, "--json"]
    document = json.loads(cli("check", "factories_for_check:leaky", *options).stdout)
    assert document["fits"]


def leaky() -> nn.Module:
    torch.manual_seed(0)
    first = [layer.Conv2d(1, 16, 3, padding=1, bias=False), layer.BatchNorm2d(16), neuron.LIFNode(), layer.MaxPool2d(2)]
    return nn.Sequential(*first, layer.Flatten(), layer.Linear(256, 10), neuron.LIFNode())


def test_every_error_says_what_to_change_and_none_guesses(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "factories_for_check", sys.modules[__name__])
    # a file's integers cannot be tried with fewer bits
    path = netx.write(network(weight=200), tmp_path / "wide.net")
    [error] = [f for f in kdsnn.check(path, "loihi1").fit.findings if f.severity == "error"]
    assert error.change == "its integers are fixed; check the network that they were made from, with fewer bits"
    # thresholds of a large ratio beside a small one: no number of bits puts them right
    stubborn = kdsnn.check(stubborn_skip(), "loihi1").fit
    errors = [f for f in stubborn.findings if f.severity == "error"]
    assert errors and {f.change.partition(" (")[0] for f in errors} == {"no fewer bits make it fit"}
    # a broken file
    with h5py.File(path, "r+") as file:
        file["layer/1/weight"][0] = np.nan
    [broken] = kdsnn.check(path, "loihi1").fit.findings
    assert broken.change == "write the file again; nothing can be checked before it is sound"
    assert "nothing" in str(kdsnn.check(netx.write(network(), tmp_path / "sound.net"), "loihi1"))


def stubborn_skip() -> SpikingGraph:
    """A skip past neurons that take a hundred spikes' worth of the largest weight: its relay weighs too much at any bits."""
    rng = np.random.default_rng(0)
    nodes: dict[str, Node] = {
        "input": Input((4, 6, 6), "spikes"),
        "c1": Conv2d(rng.standard_normal((4, 4, 3, 3)).astype(np.float32), padding=(1, 1)), "n1": IF(1.0),
        "c2": Conv2d(rng.standard_normal((4, 4, 3, 3)).astype(np.float32), padding=(1, 1)), "n2": IF(400.0),
        "c3": Conv2d(rng.standard_normal((4, 4, 3, 3)).astype(np.float32), padding=(1, 1)),
        "skip": Conv2d(rng.standard_normal((4, 4, 1, 1)).astype(np.float32)), "n3": IF(1.0), "output": Output(),
    }  # fmt: skip
    path = ["input", "c1", "n1", "c2", "n2", "c3", "n3", "output"]
    edges = [*itertools.pairwise(path), ("n1", "skip"), ("skip", "n3")]
    return SpikingGraph(nodes, tuple(edges), 4)


def residual() -> nn.Module:
    torch.manual_seed(0)
    options = {"stem": 8, "widths": (8, 16, 16), "blocks": (1, 1, 1)}
    return models.build("resnet14", spiking=True, input_shape=(3, 16, 16), classes=10, **options)


def test_list_targets() -> None:
    rows = json.loads(cli("list", "targets", "--json").stdout)
    assert {r["target"] for r in rows} == {"loihi1", "loihi2"}
    assert {"target": "loihi1", "limit": "compartments", "value": "1,024"}.items() <= rows[0].items()


def test_a_chip_of_ones_own(tmp_path: Path, net_file: Path) -> None:
    """The example of docs/check.md: 4 × 6 × 6 neurons that read 9 inputs, and 10 that read 144."""
    page = (Path(__file__).parents[2] / "docs" / "check.md").read_text(encoding="utf-8")
    chip = json.loads(page.split("```json\n")[1].split("```")[0])
    path = tmp_path / "grid.json"

    def check(code: int = 0) -> dict[str, Any]:
        path.write_text(json.dumps(chip), encoding="utf-8")
        return json.loads(cli("check", net_file, "--target", path, "--json", code=code).stdout)

    found = check()
    assert found["target"] == "grid" and found["fits"]
    assert [layer["cores"] for layer in found["placement"]["layers"]] == [1, 1]
    assert cli("check", net_file, "--target", path).stdout.splitlines()[-1] == "fits Grid: 2 cores, 1 chip"
    chip["limits"]["weight_bytes"]["value"] = 500  # for 55 neurons of the first layer, three of the second
    found = check()
    assert [layer["cores"] for layer in found["placement"]["layers"]] == [3, 4]
    assert [layer["utilization"]["memory"] for layer in found["placement"]["layers"]] == [48 * 9 / 500, 3 * 144 / 500]
    chip["memory"]["shared_along"] = ["columns"]  # a kernel of 4 × 9 for each of six rows
    assert check()["placement"]["layers"][0]["utilization"]["memory"] == 6 * 36 / 500
    chip["memory"]["shared_along"] = ["rows", "columns"]
    assert check()["placement"]["layers"][0]["utilization"]["memory"] == 36 / 500
    chip["limits"]["weight_bytes"]["value"] = 143
    (error,) = [f for f in check(code=1)["findings"] if f["severity"] == "error"]
    assert (error["layer"], error["what"]) == ("dense", "one neuron needs 144 bytes of weights, a core has 143")
    del chip["limits"]["compartments"]
    path.write_text(json.dumps(chip), encoding="utf-8")
    assert cli("check", net_file, "--target", path, code=2).stderr == f"error: {path}: limits: compartments missing\n"
