"""`run FILE.onnx` and `run FILE.nir`: what `export` wrote runs from the file alone, whatever its form; strangers are refused."""

from __future__ import annotations

import json
import resource
import time
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from spikingjelly.activation_based import functional

from exporters import onnx as export
from exporters.graph import IF, Input, Linear, Output, chain
from kdsnn import checkpoint, models
from kdsnn.checkpoint import CheckpointInfo
from tests.integration.test_cli import cli, error_line

FORMS = ("sequence", "loop", "step")
SAMPLES = 12


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A student with a rate read-out and one with a membrane read-out, exported in every form, float ones with exact sums."""
    path = tmp_path_factory.mktemp("onnx")
    small = {"channels": (4, 4), "hidden": 16}
    for readout in ("rate", "membrane"):
        torch.manual_seed(0)
        module = models.build("cnn2", spiking=True, input_shape=(1, 8, 8), classes=10, readout=readout, **small)
        with torch.no_grad():  # BatchNorm statistics that fit the weights, or no neuron fires
            module.train()(torch.rand(2, 64, 1, 8, 8))
        functional.reset_net(module)
        info = CheckpointInfo("cnn2", True, (1, 8, 8), 10, "digits", small, readout=readout, neuron="if", T=4)
        checkpoint.save(path / f"{readout}.safetensors", module.eval(), info)
        forms = [text for form in FORMS for text in ("--form", form)]
        cli(
            "export",
            path / f"{readout}.safetensors",
            "--to",
            "onnx",
            *forms,
            "--quantized",
            "--exact",
            "--to",
            "nir",
            "--out",
            path,
        )
    return path


def saved(path: Path) -> dict[str, np.ndarray]:
    with np.load(path) as data:
        return dict(data)


@pytest.mark.parametrize("readout", ["rate", "membrane"])
def test_every_form_gives_what_the_checkpoint_gives(folder: Path, tmp_path: Path, readout: str) -> None:
    options = ["--samples", SAMPLES, "--json"]
    on = ["--on", "torch,emulator", "--exact", "--save", tmp_path / "own.npz"]
    found = json.loads(cli("run", folder / f"{readout}.safetensors", *on, *options).stdout)
    accuracy = {r["backend"]: r["accuracy"] for r in found["runs"]}
    own = saved(tmp_path / "own.npz")
    assert 0 < own["emulator"].mean() < 1 or readout == "membrane"
    for arithmetic, backend in (("", "torch"), (".int8", "emulator")):
        for form in ("", ".loop", ".step"):
            path = folder / f"{readout}{arithmetic}{form}.onnx"
            again = json.loads(cli("run", path, *options, "--save", tmp_path / "file.npz").stdout)
            (row,) = again["runs"]
            assert (row["backend"], row["samples"], row["accuracy"]) == ("onnx", SAMPLES, accuracy[backend]), path.name
            file = saved(tmp_path / "file.npz")
            np.testing.assert_array_equal(file["input"], own["input"])
            assert file["onnx"].shape == (SAMPLES, 4, 10)
            if readout == "rate":
                assert file["onnx"].dtype == np.uint8
                np.testing.assert_array_equal(file["onnx"], own[backend])
            else:
                np.testing.assert_allclose(file["onnx"], own[backend], rtol=1e-5, atol=1e-6)


def test_it_says_what_it_ran_and_takes_other_time_steps(folder: Path) -> None:
    text = cli("run", folder / "rate.int8.loop.onnx", "--samples", 3, "--timesteps", 7).stdout
    assert "rate.int8.loop.onnx (loop, integer, T=7) on digits" in text and "accuracy" in text
    assert "(step, float32, T=4)" in cli("run", folder / "rate.step.onnx", "--samples", 3, "--on", "onnx").stdout
    assert "it has 4 time steps fixed, not 7" in error_line("run", folder / "rate.onnx", "--timesteps", 7)


def test_nir_files_run_like_their_checkpoint(folder: Path, tmp_path: Path) -> None:
    for source in ("rate.nir", "rate.safetensors"):
        cli("run", folder / source, "--on", "torch,onnx,emulator", "--samples", 5, "--save", tmp_path / f"{source}.npz")
    one, two = saved(tmp_path / "rate.nir.npz"), saved(tmp_path / "rate.safetensors.npz")
    for name in ("input", "torch", "onnx", "emulator"):
        np.testing.assert_array_equal(one[name], two[name])


def test_what_a_finished_model_cannot_do(folder: Path, tmp_path: Path) -> None:
    model = folder / "rate.onnx"
    for backend in ("emulator", "lava", "torch", "onnx,emulator"):
        line = error_line("run", model, "--on", backend)
        assert "rate.onnx is a finished model and runs on onnx only; give the checkpoint or .nir file" in line
    assert "no such backend" in error_line("run", model, "--on", "loihi")
    assert "--bits: " in error_line("run", model, "--bits", 4) and "finished model" in error_line(
        "run", model, "--bits", 4
    )
    for verb in (["export", model, "--out", tmp_path], ["profile", model, "--out", tmp_path]):
        assert "an ONNX model is finished, and only `run` takes one" in error_line(*verb)
    np.savez(tmp_path / "wide.npz", **{
        f"{x}_{split}": np.zeros((10, 9, 9) if x == "x" else 10, np.uint8) + (np.arange(10, dtype=np.uint8) if x == "y" else 0)
        for x in "xy" for split in ("train", "test")
    })  # fmt: skip
    assert "takes input of shape (1, 8, 8)" in error_line("run", model, "--data", f"npz:{tmp_path / 'wide.npz'}")
    spikes = chain(
        [("in", Input((64,), "spikes")), ("fc", Linear(np.ones((3, 64)))), ("n", IF(1.0)), ("out", Output())], 2
    )
    assert "spikes reads frames over time" in error_line("run", export.write(spikes, tmp_path / "spikes.onnx"))


def bounded(path: Path) -> str:
    """The one line of a refusal that takes neither long nor memory."""
    before, started = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.monotonic()
    line = error_line("run", path)
    assert time.monotonic() - started < 10
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 300_000  # kilobytes
    assert len(line) < 400
    return line


def test_foreign_and_broken_models_are_refused_in_one_line(folder: Path, tmp_path: Path) -> None:
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, ["N", 64]) for name in "xy")
    foreign = helper.make_model(helper.make_graph([helper.make_node("Relu", ["x"], ["y"])], "theirs", [x], [y]))
    onnx.save(foreign, str(tmp_path / "foreign.onnx"))
    assert "foreign tells 64 classes apart, digits has 10" in bounded(
        tmp_path / "foreign.onnx"
    )  # else it would be an ANN
    foreign.graph.output.append(x)
    onnx.save(foreign, str(tmp_path / "foreign.onnx"))
    assert "foreign.onnx: it has 1 inputs and 2 outputs" in bounded(tmp_path / "foreign.onnx")
    assert "no such file" in bounded(tmp_path / "missing.onnx")
    assert "no such file" in bounded(tmp_path / "missing.nir")
    whole = (folder / "rate.loop.onnx").read_bytes()
    for suffix, content in (("onnx", whole), ("nir", (folder / "rate.nir").read_bytes())):
        for share in (0.0, 0.3, 0.9, 0.999):
            path = tmp_path / f"cut.{suffix}"
            path.write_bytes(content[: int(share * len(content))])
            assert f"cut.{suffix}: " in bounded(path)
    sparse = tmp_path / "sparse.onnx"
    with sparse.open("wb") as file:
        file.truncate(10**11)
    assert "larger than the 2 GB" in bounded(sparse)

    def changed(change) -> str:
        model = onnx.load(str(folder / "rate.loop.onnx"))
        change(model)
        path = tmp_path / "bad.onnx"
        path.write_bytes(model.SerializeToString())
        return bounded(path)

    def billion(model: onnx.ModelProto) -> None:
        model.graph.input[0].type.tensor_type.shape.dim[2].dim_value = 10**9

    def lying(model: onnx.ModelProto) -> None:
        next(t for t in model.graph.initializer if len(t.dims) == 4).dims[0] = 10**9

    def cycle(model: onnx.ModelProto) -> None:
        body = next(a.g for n in model.graph.node if n.op_type == "Loop" for a in n.attribute if a.name == "body")
        body.node[0].input[-1] = body.node[-1].output[0]

    def steps(model: onnx.ModelProto) -> None:
        next(p for p in model.metadata_props if p.key == "T").value = "1000000000"

    def shape(model: onnx.ModelProto) -> None:
        next(p for p in model.metadata_props if p.key == "input_shape").value = '[1, "eight", 8]'

    def no_arithmetic(model: onnx.ModelProto) -> None:
        kept = [p for p in model.metadata_props if p.key != "arithmetic"]
        del model.metadata_props[:]
        model.metadata_props.extend(kept)

    def vectors(model: onnx.ModelProto) -> None:
        for name, shape in (("column", (8192, 1)), ("row", (1, 8192))):
            model.graph.initializer.append(numpy_helper.from_array(np.ones(shape, np.float32), name))

    def endless_window(model: onnx.ModelProto) -> None:  # a small file, little memory, 10¹⁵ comparisons
        vectors(model)
        model.graph.initializer.append(numpy_helper.from_array(np.array([1, 1, 8192, 8192]), "four"))
        window = {"kernel_shape": [4001, 4001], "pads": [2000] * 4, "strides": [1, 1]}
        model.graph.node.extend(
            [
                helper.make_node("MatMul", ["column", "row"], ["square"]),
                helper.make_node("Reshape", ["square", "four"], ["image"]),
                helper.make_node("MaxPool", ["image"], ["slow"], **window),
            ]
        )

    def hoard(model: onnx.ModelProto) -> None:  # every tensor within bounds, all of them together 128 GB
        vectors(model)
        model.graph.node.extend(helper.make_node("MatMul", ["column", "row"], [f"square{i}"]) for i in range(512))

    assert "1000000000" in changed(billion)
    assert "it says [1000000000" in changed(lying)
    assert "bad.onnx: " in changed(cycle)
    assert "T is 1000000000" in changed(steps)
    assert "input_shape" in changed(shape)
    assert "its metadata lacks arithmetic" in changed(no_arithmetic)
    assert "multiplications and comparisons" in changed(endless_window)
    assert "elements together for one sample" in changed(hoard)


def test_export_prints_size_and_node_count_of_every_form(folder: Path, tmp_path: Path) -> None:
    forms = [text for form in FORMS for text in ("--form", form)]
    source = folder / "rate.safetensors"
    options = ["--to", "onnx", *forms, "--quantized", "--out", tmp_path]
    rows = json.loads(cli("export", source, *options, "--json").stdout)["files"]
    assert len(rows) == 6
    for row in rows:
        path = Path(row["path"])
        assert row["bytes"] == path.stat().st_size > 1000
        assert f" {export.node_count(path)} nodes, T=4" in row["contents"]
    printed = cli("export", source, *options).stdout
    for row in rows:
        assert row["contents"] in printed
