"""An exported model says about itself what is written here: metadata, and the names of its tensors."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, Literal, get_args

import numpy as np
import onnx

from exporters.errors import DeployError
from exporters.graph import LIF, Delay, Shape, SpikingGraph
from exporters.graph.registers import FRACTION, MEMBRANE_REGISTER
from exporters.passes.membranes import neuron_depths

Form = Literal["sequence", "loop", "step"]
FORMS: tuple[Form, ...] = get_args(Form)
MAX_T = 4_096


class OnnxError(DeployError):
    """An ONNX model could not be written or read, or does not compute what it should."""


def spikes_of(name: str) -> str:
    """This tensor of the model holds a neuron layer's spikes: (T·N, *shape) in a sequence, else (N, *shape)."""
    return f"{name}/spikes"


def membrane_of(name: str) -> str:
    """This input of a `step` model takes a layer's membrane (N, *shape); the output is `…/v_next`."""
    return f"{name}/v"


def current_of(name: str) -> str:
    """This input of a `step` model takes a layer's synaptic current (N, *shape), where it persists; the output is
    `…/u_next`."""
    return f"{name}/u"


def past_of(name: str) -> str:
    """This input of a `step` model takes the last D frames that arrived at a delay (N, D, *shape), the oldest first, where D
    is its longest delay; the output is `…/past_next`."""
    return f"{name}/past"


def state_at(start: float, *, integer: bool) -> float:
    """A membrane's input of a `step` model starts at this value, in its own units: a register's 1/64 in an integer model."""
    return start * FRACTION if integer else start


def _start_makes_sense(start: Any, *, integer: bool) -> bool:
    if isinstance(start, bool) or not isinstance(start, int | float):
        return False
    if not integer:
        return abs(start) <= float(np.finfo(np.float32).max)
    return abs(start) <= MEMBRANE_REGISTER and float(start).is_integer()


def metadata(graph: SpikingGraph, form: Form) -> Mapping[str, Any]:
    """These facts travel in the file, as JSON strings under these keys."""
    neurons = {
        name: {"threshold": node.threshold, "reset": node.reset, "scale": node.scale, "shape": graph.shapes[name]}
        | ({"leak": node.leak} if isinstance(node, LIF) else {})
        for name, node in graph.neurons.items()
    }
    starts = {
        membrane_of(name): state_at(node.start, integer=graph.is_integer)
        for name, node in graph.neurons.items()
        if node.start
    }
    delays = {
        name: {"shortest": int(node.steps.min()), "longest": int(node.steps.max()), "shape": graph.shapes[name]}
        for name, node in graph.nodes.items()
        if isinstance(node, Delay)
    }
    return {
        "kdsnn_deploy_form": form,
        "arithmetic": "integer" if graph.is_integer else "float32",
        "T": graph.T,
        "input_encoding": graph.input.encoding,
        "input_shape": graph.input.shape,
        "input_scale": graph.input.scale,
        "readout": graph.output.readout,
        "output_scale": graph.output.scale,
        "score": graph.output.score,
        "latency_steps": neuron_depths(graph)[graph.output_name],
        "neurons": neurons,
        **_told(dict(graph.metadata)),
        **({"starts": starts} if starts else {}),
        **({"delays": delays} if delays else {}),
    }


def ann_metadata(input_shape: Shape, source: Mapping[str, Any]) -> Mapping[str, Any]:
    """These facts travel in the file of an ANN: those of `metadata` that it has, under the same keys.

    It computes once, so T is 1. `source` is what the caller knows of it, `class_names` among it where the classes have names.
    """
    return {
        "arithmetic": "float32",
        "T": 1,
        "input_encoding": "direct",
        "input_shape": input_shape,
        **_told(dict(source)),
    }


def _told(source: Mapping[str, Any]) -> Mapping[str, Any]:
    """What a model says of where it comes from. Its license is its author's to choose, and none is claimed here."""
    names = source.get("class_names")
    return {"source": source, "license": "none", **({"classes": list(names)} if names else {})}


def parse(proto: onnx.ModelProto) -> dict[str, Any]:
    """A model's metadata is read, and what running it needs is checked.

    Raises:
        OnnxError: it is missing or makes no sense.
    """
    found = {p.key: p.value for p in proto.metadata_props}
    if found.get("kdsnn_deploy_form") is None:
        raise OnnxError("not a spiking network written by this program (it has no kdsnn_deploy_form in its metadata)")
    try:
        facts = {key: json.loads(value) for key, value in found.items()}
    except ValueError as error:
        raise OnnxError(f"its metadata cannot be read ({first_line(error)})") from error
    T = facts.get("T")
    if not isinstance(T, int) or not 1 <= T <= MAX_T:
        raise OnnxError(f"its T is {T!r}; it must be a whole number from 1 to {MAX_T}")
    expected = {
        "kdsnn_deploy_form": FORMS,
        "arithmetic": ("float32", "integer"),
        "input_encoding": ("direct", "frames", "spikes"),
        "readout": ("rate", "membrane"),
    }
    shape, scale = facts.get("input_shape"), facts.get("input_scale")
    wrong = [key for key, values in expected.items() if facts.get(key) not in values]
    if not isinstance(shape, list) or not all(type(d) is int and d > 0 for d in shape):
        wrong.append("input_shape")
    if scale is not None and not (type(scale) is int and scale > 0):
        wrong.append("input_scale")
    if facts.setdefault("score", "last") not in ("last", "mean"):  # earlier files do not say it
        wrong.append("score")
    if not isinstance(facts.get("neurons"), dict):
        wrong.append("neurons")
    if not isinstance(facts.get("delays", {}), dict):
        wrong.append("delays")
    starts, integer = facts.get("starts", {}), facts.get("arithmetic") == "integer"
    if not isinstance(starts, dict) or not all(_start_makes_sense(start, integer=integer) for start in starts.values()):
        wrong.append("starts")
    if wrong:
        raise OnnxError(f"its metadata lacks {wrong[0]}, or says something impossible there; export it again")
    return facts


def first_line(error: BaseException) -> str:
    """An error's message is cut to one line."""
    lines = str(error).strip().splitlines()
    return lines[0][:200] if lines else type(error).__name__
