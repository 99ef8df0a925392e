"""Broken and hostile `.onnx` files: one line, quickly, without memory."""

from __future__ import annotations

import ast
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from exporters import onnx as export
from exporters.graph import IF, Array, Conv2d, Flatten, Input, Linear, MaxPool2d, Output, SpikingGraph, chain
from exporters.onnx.runner import prepare


def network():
    w = np.arange(36, dtype=np.float32).reshape(4, 1, 3, 3) / 40
    return chain(
        [
            ("in", Input((1, 6, 6))), ("conv", Conv2d(w, np.zeros(4, np.float32), padding=(1, 1))), ("sn", IF(1.0)),
            ("pool", MaxPool2d((2, 2), (2, 2))), ("flat", Flatten()), ("fc", Linear(np.ones((3, 36), np.float32))),
            ("sn2", IF(1.0)), ("out", Output()),
        ],
        4,
    )  # fmt: skip


X = np.ones((2, 1, 6, 6), np.float32)


def attack(
    folder: Path,
    change: Callable[[onnx.ModelProto], None],
    form: export.Form = "sequence",
    graph: SpikingGraph | None = None,
) -> str:
    """The message of the error that running the changed model ends in."""
    model = export.build(graph or network(), form)
    change(model)
    path = folder / "bad.onnx"
    path.write_bytes(model.SerializeToString())
    before, started = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.monotonic()
    with pytest.raises(export.OnnxError) as caught:
        export.run(path, X)
    assert time.monotonic() - started < 5
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 200_000  # kilobytes
    message = str(caught.value)
    assert message.startswith("bad.onnx: ") and "\n" not in message and len(message) < 400, message
    return message


def find(model: onnx.ModelProto, kind: str) -> onnx.NodeProto:
    return next(n for n in model.graph.node if n.op_type == kind)


def weight(model: onnx.ModelProto, name: str) -> onnx.TensorProto:
    return next(t for t in model.graph.initializer if t.name == name)


def set_prop(model: onnx.ModelProto, key: str, value: str) -> None:
    next(p for p in model.metadata_props if p.key == key).value = value


@pytest.mark.parametrize("content", [b"", b"not onnx", None, b"\x08" * 10_000])
def test_unreadable_models_give_one_line(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "bad.onnx"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(
        export.OnnxError, match=r"bad\.onnx: (no such file|not a readable ONNX model|not a spiking network)"
    ) as e:
        export.run(path, X)
    assert "\n" not in str(e.value)


def test_every_truncation_gives_one_line(tmp_path: Path) -> None:
    whole = export.build(network()).SerializeToString()
    path = tmp_path / "cut.onnx"
    for length in range(0, len(whole), 61):
        path.write_bytes(whole[:length])
        with pytest.raises(export.OnnxError, match=r"^cut\.onnx: [^\n]+$"):
            export.run(path, X)


def damage(folder: Path, graph: SpikingGraph, x: Array, layer: str, times: int) -> None:
    """Models of every form with three bytes changed run, or end in one line."""
    rng = np.random.default_rng(0)
    for form in export.FORMS:
        whole = np.frombuffer(export.build(graph, form).SerializeToString(), np.uint8)
        path = folder / "damaged.onnx"
        for _ in range(times):
            content = whole.copy()
            content[rng.integers(0, len(content), 3)] = rng.integers(0, 256, 3)
            path.write_bytes(content.tobytes())
            try:
                export.run(path, x, layers=[layer])
            except export.OnnxError as error:
                assert "\n" not in str(error)


def test_random_damage_never_escapes_as_another_error(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    damage(tmp_path, network(), X, "sn", 200)
    assert capfd.readouterr() == ("", "")


def test_dimensions_of_a_billion(tmp_path: Path) -> None:
    def weights_that_lie(model: onnx.ModelProto) -> None:
        weight(model, "conv/weight").dims[0] = 10**9

    def padding(model: onnx.ModelProto) -> None:
        next(a for a in find(model, "Conv").attribute if a.name == "pads").ints[:] = [10**9] * 4

    def input_size(model: onnx.ModelProto) -> None:
        model.graph.input[0].type.tensor_type.shape.dim[2].dim_value = 10**9

    def steps(model: onnx.ModelProto) -> None:
        weight(model, "T").CopyFrom(numpy_helper.from_array(np.array([10**9]), "T"))

    def metadata_steps(model: onnx.ModelProto) -> None:
        set_prop(model, "T", "1000000000")

    def outer_product(model: onnx.ModelProto) -> None:
        for name, shape in (("a", (200_000, 1)), ("b", (1, 200_000))):
            model.graph.initializer.append(numpy_helper.from_array(np.ones(shape, np.float32), name))
        model.graph.node.append(helper.make_node("MatMul", ["a", "b"], ["huge"]))

    assert "it says [1000000000" in attack(tmp_path, weights_that_lie)
    assert "4000000016000000016" in attack(tmp_path, padding)
    assert "1000000000" in attack(tmp_path, input_size)
    assert "T is [1000000000]" in attack(tmp_path, steps)
    assert "T is 1000000000" in attack(tmp_path, metadata_steps)
    assert "huge would have 4e+10 elements" in attack(tmp_path, outer_product)

    def state(model: onnx.ModelProto) -> None:
        find(model, "AtRest").attribute[0].ints[:] = [10**9, 10**9]

    def endless(model: onnx.ModelProto) -> None:
        model.graph.initializer.append(numpy_helper.from_array(np.array(10**12), "forever"))
        find(model, "Loop").input[0] = "forever"

    assert "elements for one sample" in attack(tmp_path, state, "loop")
    assert "does not run for T steps" in attack(tmp_path, endless, "loop")


def test_structure(tmp_path: Path) -> None:
    def cycle(model: onnx.ModelProto) -> None:
        find(model, "Conv").input[0] = "sn2/spikes"

    def foreign_operator(model: onnx.ModelProto) -> None:
        size = numpy_helper.from_array(np.array([10**10]), "size")
        model.graph.initializer.append(size)
        model.graph.node.append(helper.make_node("ConstantOfShape", ["size"], ["memory"]))

    def recursive_function(model: onnx.ModelProto) -> None:
        function = next(f for f in model.functions if f.name == "IF")
        function.node.append(helper.make_node("IF", ["current", "T"], ["again"], domain=export.DOMAIN))

    def unknown_function(model: onnx.ModelProto) -> None:
        model.functions.append(helper.make_function(export.DOMAIN, "Bomb", ["x"], ["x"], [], []))

    def external(model: onnx.ModelProto) -> None:
        tensor = weight(model, "conv/weight")
        tensor.ClearField("raw_data")
        tensor.data_location = TensorProto.EXTERNAL
        tensor.external_data.add(key="location", value="/etc/passwd")

    def nested(model: onnx.ModelProto) -> None:
        body = helper.make_graph([], "body", [], [])
        model.graph.node.append(helper.make_node("If", ["input"], ["y"], then_branch=body, else_branch=body))

    def graph_in_a_convolution(model: onnx.ModelProto) -> None:
        find(model, "Conv").attribute.append(helper.make_attribute("body", helper.make_graph([], "body", [], [])))

    def sparse(model: onnx.ModelProto) -> None:
        values, indices = (numpy_helper.from_array(np.ones(1, t), "sparse") for t in (np.float32, np.int64))
        model.graph.sparse_initializer.append(helper.make_sparse_tensor(values, indices, [10**10]))

    def other_steps(model: onnx.ModelProto) -> None:
        model.graph.initializer.append(numpy_helper.from_array(np.array(10**12), "forever"))
        find(model, "IF").input[1] = "forever"

    def typed_numbers(model: onnx.ModelProto) -> None:
        tensor = weight(model, "conv/weight")
        tensor.ClearField("raw_data")
        tensor.float_data.extend([1.0] * 36)

    def negative(model: onnx.ModelProto) -> None:
        weight(model, "conv/weight").dims[0] = -4

    def loop_without_a_result(model: onnx.ModelProto) -> None:
        next(a.g for a in find(model, "Loop").attribute if a.HasField("g")).output.pop()

    def many(model: onnx.ModelProto) -> None:
        node = find(model, "Flatten")
        model.graph.node.extend([node] * 30_000)

    def stranger(model: onnx.ModelProto) -> None:
        del model.metadata_props[:]

    assert "damaged inside" in attack(tmp_path, cycle)
    assert "ConstantOfShape () is not one that this program writes" in attack(tmp_path, foreign_operator)
    assert "IF differs from this program's" in attack(tmp_path, recursive_function)
    assert "'Bomb' is not of this program" in attack(tmp_path, unknown_function)
    assert "weights are in another file" in attack(tmp_path, external)
    assert "If () is not one" in attack(tmp_path, nested)
    assert "holds a graph of its own" in attack(tmp_path, graph_in_a_convolution)
    assert "sparse weights, which this program does not write" in attack(tmp_path, sparse)
    assert "the operator IF (" in (said := attack(tmp_path, other_steps)) and "does not run for T steps" in said
    assert "conv/weight: not a constant as this program writes them" in attack(tmp_path, typed_numbers)
    assert "conv/weight: not a constant as this program writes them" in attack(tmp_path, negative)
    assert "the loop's body does not fit the loop" in attack(tmp_path, loop_without_a_result, "loop")
    assert "more than 20000 operators" in attack(tmp_path, many)
    assert "not a spiking network written by this program" in attack(tmp_path, stranger)


@pytest.mark.parametrize("key", ["T", "kdsnn_deploy_form", "input_shape", "readout", "neurons", "input_encoding"])
@pytest.mark.parametrize("value", ["{", "null", '"x"', "[-1]", "-3", "1.5"])
def test_damaged_metadata(tmp_path: Path, key: str, value: str) -> None:
    model = export.build(network())
    set_prop(model, key, value)
    path = tmp_path / "bad.onnx"
    path.write_bytes(model.SerializeToString())
    try:
        export.run(path, X)
    except export.OnnxError as error:
        assert "\n" not in str(error)


@pytest.mark.parametrize("value", ["0", "-255", "1.5", '"x"', "true"])
def test_an_impossible_input_scale_is_named(tmp_path: Path, value: str) -> None:
    assert "its metadata lacks input_scale, or says something impossible there" in attack(
        tmp_path, lambda model: set_prop(model, "input_scale", value)
    )


def test_what_goes_wrong_while_running(tmp_path: Path) -> None:
    """An error of onnxruntime's is one line that names the file; one of the caller's own is the caller's."""

    runner = prepare(export.write(network(), tmp_path / "net.onnx"))

    class Failing:
        def run(self, *arguments: object) -> None:
            raise RuntimeError("Failed to allocate memory\nsomewhere")

        def __getattr__(self, name: str) -> object:
            return getattr(runner.session, name)

    with pytest.raises(export.OnnxError, match=r"^net\.onnx: .*Failed to allocate memory[^\n]*$"):
        replace(runner, session=Failing()).run(X)

    def broken(done: int) -> None:
        raise ValueError(f"from the callback, after {done}")

    with pytest.raises(ValueError, match="from the callback, after 1"):
        runner.run(X, batch_size=1, progress=broken)


def test_wrong_samples_give_one_line(tmp_path: Path) -> None:
    path = export.write(network(), tmp_path / "net.onnx", "loop")
    with pytest.raises(export.OnnxError, match=r"net\.onnx: it takes samples of shape \(N, 1, 6, 6\), not \(1, 5\)"):
        export.run(path, np.zeros((1, 5), np.float32))
    with pytest.raises(export.OnnxError, match="it takes samples of shape"):
        export.run(path, np.zeros((0, 1, 6, 6), np.float32))
    with pytest.raises(export.OnnxError, match="T is 0; it must be from 1"):
        export.run(path, X, T=0)
    with pytest.raises(export.OnnxError, match="it has 4 time steps fixed, not 5"):
        export.run(export.write(network(), tmp_path / "net.onnx"), X, T=5)


def test_a_model_runs_without_this_program(tmp_path: Path) -> None:
    """Plain onnxruntime, as the documentation shows it: nothing of this program, torch or onnx is imported."""
    export.write(network(), tmp_path / "net.onnx", "step")
    text = (Path(__file__).parents[2] / "docs" / "onnx.md").read_text(encoding="utf-8")
    code = text.split("```python\n# streaming")[1].split("```")[0]
    code = (
        "# streaming"
        + code.replace("student.step.onnx", "net.onnx")
        + ("\nimport sys; assert not {'torch', 'onnx', 'exporters'} & set(sys.modules); print(rate.tolist())")
    )
    prelude = "import numpy as np; camera = [np.ones((2, 1, 6, 6), np.float32)] * 4\n"
    done = subprocess.run(
        [sys.executable, "-c", prelude + code], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert ast.literal_eval(done.stdout) == export.run(tmp_path / "net.onnx", X)["spikes"].mean(axis=1).tolist()
