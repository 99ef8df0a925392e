"""A graph's delays become calls of local functions: of one on all steps, or of two that read and write the frames kept
from step to step."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from exporters.graph import Delay
from exporters.onnx import delay_functions
from exporters.onnx.facts import MAX_T, OnnxError, past_of
from exporters.onnx.model_builder import CarriedState, Kind, ModelBuilder, ModelTensor


def add_delay(model: ModelBuilder, name: str, node: Delay, x: ModelTensor) -> ModelTensor:
    """A delay that closes no loop gives what arrived before, from what arrives now.

    Raises:
        OnnxError: it delays by more steps than any model has.
    """
    longest = _longest(name, node)
    output = f"{name}/delayed"
    if longest == 0:
        return replace(x, tensor=model.op("Identity", [x.tensor], output, static=x.static))
    if model.folded:
        x = model.every_step(x)
        uniform = _is_uniform(node)
        steps = np.array(longest, np.int32) if uniform else node.steps.astype(np.int32)
        kept = model.constant(f"{name}/steps", steps)
        function = delay_functions.ALL_STEPS if uniform else delay_functions.ALL_STEPS_EACH
        model.call(function, [x.tensor, model.time(), kept], [output])
        return replace(x, tensor=output)
    _keep(model, name, node, x.kind)
    frames = _write(model, name, x)
    # behind what arrives now, which is the newest of these frames
    return _read(model, name, node, frames, ModelTensor(output, x.kind, False), newest=0)


def read_delay(model: ModelBuilder, name: str, node: Delay) -> ModelTensor:
    """A delay that closes a loop gives what arrived before the step; `write_delay` follows when its neurons have fired.

    Raises:
        OnnxError: as `add_delay`.
    """
    _longest(name, node)
    kind: Kind = "uint8" if model.integer and model.bounds[name] <= 255 else "float32"
    _keep(model, name, node, kind)
    return _read(model, name, node, past_of(name), ModelTensor(f"{name}/delayed", kind, False), newest=1)


def write_delay(model: ModelBuilder, name: str) -> None:
    """A delay that closes a loop takes in what its neurons have fired."""
    _write(model, name, model.incoming(name))


def _longest(name: str, node: Delay) -> int:
    longest = int(node.steps.max())
    if longest > MAX_T:
        raise OnnxError(f"{name}: it delays by {longest} steps; a model has at most {MAX_T}")
    return longest


def _is_uniform(node: Delay) -> bool:
    return bool((node.steps == node.steps.flat[0]).all())


def _keep(model: ModelBuilder, name: str, node: Delay, kind: Kind) -> None:
    model.states[past_of(name)] = CarriedState(kind, (int(node.steps.max()), *model.graph.shapes[name]))


def _write(model: ModelBuilder, name: str, x: ModelTensor) -> str:
    """Returns the frames kept and that of now behind them."""
    past, frames = past_of(name), f"{name}/frames"
    model.call(delay_functions.WRITE, [past, x.tensor], [f"{past}_next", frames])
    return frames


def _read(model: ModelBuilder, name: str, node: Delay, frames: str, output: ModelTensor, *, newest: int) -> ModelTensor:
    """`newest` is how many steps ago the last of the frames arrived."""
    back = node.steps.astype(np.int32) + np.int32(1 - newest)
    if _is_uniform(node):
        one = model.constant(f"{name}/back", np.array(back.flat[0]))
        model.call(delay_functions.READ, [frames, one], [output.tensor])
        return output
    places = f"{name}/places"
    model.call(delay_functions.PLACES, [model.constant(f"{name}/back", back)], [places], static=True)
    model.call(delay_functions.READ_EACH, [frames, places], [output.tensor])
    return output
