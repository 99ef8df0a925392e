"""A module beside its graph: the same spikes in every layer of neurons, and the same output."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from spikingjelly.activation_based import base, neuron
from torch import nn

from exporters.from_torch import LoweredModule, lower_module, node_name
from hardware.emulator import Recorder, run

SPIKING = (neuron.BaseNode, neuron.SimpleIFNode, neuron.SimpleLIFNode)


def pixels(n: int, shape: tuple[int, ...], seed: int = 0) -> torch.Tensor:
    """Numbers k/255 on the float32 grid that `encode` gives, float64 (n, *shape)."""
    values = np.random.default_rng(seed).integers(0, 256, (n, *shape)) / 255
    return torch.from_numpy(values.astype(np.float32)).double()


def reset(module: nn.Module) -> None:
    for m in module.modules():
        if isinstance(m, base.MemoryModule):
            m.reset()


def call(module: nn.Module, found: LoweredModule, x: torch.Tensor) -> Any:
    """What the module gives for samples (N, …), called as it wants to be; frames (N, T, …) where the graph takes spikes."""
    T = found.graph.T
    frames = x.transpose(0, 1) if found.graph.input.encoding != "direct" else x.unsqueeze(0).expand(T, *x.shape)
    reset(module)
    with torch.no_grad():
        match found.calling.way:
            case "step":
                return [module(frames[t]) for t in range(T)]
            case "image":
                return [module(x.clone())]
            case "frames":
                return [module(frames.clone())]
            case "frames, samples first":
                return [module(frames.transpose(0, 1))]
            case _:
                return [module(frames.movedim(0, -1))]


def assert_faithful(
    module: nn.Module, shape: tuple[int, ...], T: int, *, n: int = 3, pick=lambda out: out, seed: int = 0, **how: Any
) -> LoweredModule:
    """Lower a module and compare; float64 throughout."""
    module = module.double().eval()
    found = lower_module(module, shape, T, **how)
    x = pixels(n, (T, *shape) if how.get("encoding", "direct") != "direct" else shape, seed)
    if how.get("encoding") == "spikes":
        x = (x > 0.5).double()
    layers: dict[str, list[torch.Tensor]] = {}
    hooks = []
    for path, m in module.named_modules():
        if isinstance(m, SPIKING):
            parts = layers.setdefault(node_name(path.removeprefix("_orig_mod.").removeprefix("module."), m), [])
            hooks.append(m.register_forward_hook(lambda m, a, out, parts=parts: parts.append(out.clone())))
    outputs = [pick(out) for out in call(module, found, x)]
    for hook in hooks:
        hook.remove()
    recorder = Recorder(found.graph)
    frames = x.numpy().reshape(*x.shape[: x.ndim - len(shape)], *found.graph.input.shape)
    ours = run(found.graph, found.graph.encode(frames).astype(np.float64), observe=recorder, dtype=torch.float64)
    compared = 0
    for name, spikes in recorder.spikes.items():
        if not layers.get(name):
            continue
        parts = layers[name]
        theirs = torch.cat([p.reshape(-1, n, *spikes.shape[2:]) for p in parts], 0).transpose(0, 1).numpy()
        np.testing.assert_array_equal(spikes, theirs, err_msg=name)
        compared += 1
    assert compared or not layers
    expected = _score(found, outputs, n)
    scores = ours.scores() * found.calling.factor
    np.testing.assert_allclose(scores.reshape(expected.shape), expected, rtol=1e-9, atol=1e-9)
    return found


def _score(found: LoweredModule, outputs: list[Any], n: int) -> np.ndarray:
    """The mean over time of what came back, or the mean or sum that it is."""
    T = found.graph.T
    if found.calling.way == "step":
        return torch.stack(outputs).mean(0).numpy()
    out = outputs[0]
    if isinstance(out, list | tuple):
        out = torch.stack(list(out))
    match found.calling.returned:
        case "steps":
            return out.mean(0).numpy()
        case "steps, samples first":
            return out.mean(1).numpy()
        case "steps, time last":
            return out.mean(-1).numpy()
        case "steps, flattened":
            return out.reshape(T, n, *out.shape[1:]).mean(0).numpy()
        case _:
            return out.numpy()
