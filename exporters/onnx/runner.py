"""Models of all forms run on onnxruntime (CPU), and every neuron is compared with what is expected."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper

from exporters.graph import Array
from exporters.onnx.check import CheckedModel, load
from exporters.onnx.facts import MAX_T, OnnxError, first_line, spikes_of


@dataclass(frozen=True, eq=False)
class OnnxModel:
    """The model was looked through and loaded into onnxruntime, and is ready for samples.

    Attributes:
        model: the model and what its metadata says.
        layers: neuron layers whose spikes come with every run.
        session: the `onnxruntime.InferenceSession`.
    """

    model: CheckedModel
    layers: tuple[str, ...]
    session: Any

    @property
    def batch_size(self) -> int:
        """So many samples run at a time, unless a run says otherwise: they keep the largest tensor near 64 MB."""
        return max(1, 2**24 // self.model.largest)

    def run(
        self,
        x: Array,
        *,
        T: int | None = None,
        batch_size: int | None = None,
        progress: Callable[[int], None] | None = None,
    ) -> dict[str, Array]:
        """Samples run as by `exporters.onnx.run`, with its arguments, result and errors."""
        model, path = self.model, self.model.path
        steps = _time_steps(model, x, T)
        _check_samples(model, x, steps)
        size = batch_size or self.batch_size
        run_batch = _run_steps if model.form == "step" else _run_sequence
        parts = []
        for i in range(0, len(x), size):
            batch = np.ascontiguousarray(x[i : i + size], np.float32)
            try:
                parts.append(run_batch(self.session, model, batch, self.layers, steps))
            except Exception as error:  # onnxruntime and protobuf raise a dozen unrelated types
                raise _cannot_run(path, error) from error
            if progress is not None:
                progress(i + len(batch))
        return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def prepare(path: Path, layers: Sequence[str] = ()) -> OnnxModel:
    """A model is loaded once for many runs.

    Raises:
        OnnxError: as `run`.
    """
    model = load(path)
    try:
        return OnnxModel(model, tuple(layers), _session(model, layers))
    except OnnxError:
        raise
    except Exception as error:
        raise _cannot_run(path, error) from error


def run(
    path: Path,
    x: Array,
    *,
    layers: Sequence[str] = (),
    T: int | None = None,
    batch_size: int | None = None,
    progress: Callable[[int], None] | None = None,
) -> dict[str, Array]:
    """A model of any form runs on onnxruntime; a `step` model is driven from here, step by step.

    Args:
        path: the `.onnx` file.
        x: what the graph's `input` takes, real-valued: (N, *shape), or (N, T, *shape) for spike input.
        layers: neuron layers whose spikes to return as well, (N, T, *shape) under their own name.
        T: time steps, for `loop` and `step` models; the model's own by default.
        batch_size: samples at a time; by default what keeps the largest tensor near 64 MB.
        progress: called with the number of samples done after every batch.

    Returns:
        "spikes" or "membrane" (N, T, F), "scores" (N, F), and the layers.

    Raises:
        OnnxError: the file cannot be loaded or does not fit x.
    """
    return prepare(path, layers).run(x, T=T, batch_size=batch_size, progress=progress)


def verify(path: Path, x: Array, expected: Mapping[str, Array], *, T: int | None = None) -> dict[str, int]:
    """A model runs, and its spikes that differ from the expected ones are counted per neuron layer.

    Args:
        path: the `.onnx` file, of any form.
        x: as for `run`.
        expected: neuron layer → spikes (N, T, *shape), from torch or the emulator.
        T: as for `run`.

    Returns:
        Every layer of `expected` → number of spikes that differ (0 where all agree).

    Raises:
        OnnxError: it cannot be run, has no such layer, or its spikes have another shape.
    """
    found = run(path, x, layers=list(expected), T=T)
    for name, spikes in expected.items():
        if found[name].shape != spikes.shape:
            raise OnnxError(f"{path.name}: {name} gives spikes {found[name].shape}, expected {spikes.shape}")
    return {name: int((found[name] != spikes).sum()) for name, spikes in expected.items()}


def node_count(path: Path) -> int:
    """A model has so many operators and function calls, those in the body of its loop included.

    Raises:
        OnnxError: the file cannot be loaded.
    """
    graph = load(path).proto.graph
    bodies = [a.g for n in graph.node for a in n.attribute if a.type == onnx.AttributeProto.GRAPH]
    return sum(len(g.node) for g in (graph, *bodies))


# -- inside ------------------------------------------------------------------------------------------


def _cannot_run(path: Path, error: Exception) -> OnnxError:
    return OnnxError(f"{path.name}: onnxruntime cannot run it ({first_line(error)})")


def _time_steps(model: CheckedModel, x: Array, T: int | None) -> int:
    own = int(model.facts["T"])
    if T is None or own == T:
        return own
    if model.form == "sequence":
        raise OnnxError(f"{model.path.name}: it has {own} time steps fixed, not {T}; export the loop or step form")
    if not 1 <= T <= MAX_T:
        raise OnnxError(f"{model.path.name}: T is {T}; it must be from 1 to {MAX_T}")
    return T


def _check_samples(model: CheckedModel, x: Array, steps: int) -> None:
    shape = tuple(model.facts["input_shape"])
    expected = shape if model.facts.get("input_encoding") == "direct" else (steps, *shape)
    if x.shape[1:] != expected or len(x) == 0:
        raise OnnxError(
            f"{model.path.name}: it takes samples of shape (N, {', '.join(map(str, expected))}), not {x.shape}"
        )


def _session(model: CheckedModel, layers: Sequence[str]) -> Any:
    """The session gives the spikes of the layers as well."""
    import onnxruntime as ort  # a third of a second to import, and only needed here

    proto = model.proto
    known = set(model.facts.get("neurons", {}))
    missing = [name for name in layers if name not in known]
    if missing:
        raise OnnxError(f"{model.path.name}: it has no neuron layer {missing[0]!r}; it has {', '.join(sorted(known))}")
    if layers:
        proto = onnx.ModelProto()
        proto.CopyFrom(model.proto)
        _expose(proto.graph, layers, model)
    options = ort.SessionOptions()
    options.log_severity_level = 4
    # its fallback prints to stdout and then tries the same again
    return ort.InferenceSession(
        proto.SerializeToString(), options, providers=["CPUExecutionProvider"], enable_fallback=0
    )


def _expose(graph: onnx.GraphProto, layers: Sequence[str], model: CheckedModel) -> None:
    kind = TensorProto.UINT8 if model.facts.get("arithmetic") == "integer" else TensorProto.FLOAT
    loop = next((n for n in graph.node if n.op_type == "Loop"), None)
    for name in layers:
        if loop is None:
            graph.output.append(helper.make_tensor_value_info(spikes_of(name), kind, None))
        else:
            body = next(a.g for a in loop.attribute if a.HasField("g"))
            body.output.append(helper.make_tensor_value_info(spikes_of(name), kind, None))
            loop.output.append(_all_steps(name))
            graph.output.append(helper.make_tensor_value_info(_all_steps(name), kind, None))


def _all_steps(name: str) -> str:
    return f"{spikes_of(name)}/all_steps"


def _run_sequence(session: Any, model: CheckedModel, x: Array, layers: Sequence[str], T: int) -> dict[str, Array]:
    feed: dict[str, Array] = {"input": x}
    if model.form == "loop":
        feed["T"] = np.array(T, np.int64)
    names = [o.name for o in session.get_outputs()]
    results = dict(zip(names, session.run(names, feed), strict=True))
    for name in layers:
        if model.form == "loop":  # (T, N, …)
            results[name] = np.moveaxis(results.pop(_all_steps(name)), 0, 1)
        else:  # (T·N, …)
            flat = results.pop(spikes_of(name))
            results[name] = np.moveaxis(flat.reshape(T, len(x), *flat.shape[1:]), 0, 1)
    return results


def _run_steps(session: Any, model: CheckedModel, x: Array, layers: Sequence[str], T: int) -> dict[str, Array]:
    """A user of a `step` model does the same: membranes as they start, then every step's membranes into the next."""
    starts = model.facts.get("starts", {})
    kinds = {"tensor(float)": np.float32, "tensor(int32)": np.int32, "tensor(uint8)": np.uint8}
    states = {
        i.name: np.full((len(x), *i.shape[1:]), starts.get(i.name, 0), kinds[i.type])
        for i in session.get_inputs()
        if i.name != "input"
    }
    readout = "spikes" if model.facts["readout"] == "rate" else "membrane"
    names = [o.name for o in session.get_outputs()]
    collected: dict[str, list[Array]] = {name: [] for name in (readout, *layers)}
    for t in range(T):
        frame = x if model.facts.get("input_encoding") == "direct" else x[:, t]
        results = dict(zip(names, session.run(names, {"input": frame, **states}), strict=True))
        states = {name: results[f"{name}_next"] for name in states}
        collected[readout].append(results[readout])
        for name in layers:
            collected[name].append(results[spikes_of(name)])
    found = {name: np.stack(parts, axis=1) for name, parts in collected.items()}
    is_mean = readout == "spikes" or model.facts["score"] == "mean"
    found["scores"] = (
        found[readout].mean(axis=1, dtype=np.float32) if is_mean else found[readout][:, -1] / np.float32(T)
    )
    return found
