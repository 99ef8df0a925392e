"""The sidecar is the JSON file beside a `.net` file (`NAME.net.json`), with what the format has no room for: T, input
encoding, scales, read-out and timing."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from exporters.graph import SpikingGraph
from exporters.netx.check import NetxError
from exporters.passes.chain import chain_layers

VERSION = 2


@dataclass(frozen=True)
class Clear:
    """A buffer of spikes on their way is set to 0: `lava.proc.io.reset.Reset(interval, offset)` on `net.layers[layer]`.

    Attributes:
        layer: of netx's network, 0 being the first that has neurons.
        synapse: "synapse", the delays of what comes in, or "synapse_rec", what comes back; its variable is `a_buff`.
        interval, offset: at the end of every step with (step − 1) % interval == offset, steps counted from 1.
    """

    layer: int
    synapse: str
    interval: int
    offset: int


@dataclass(frozen=True)
class ChainTiming:
    """A chain's timing is how samples pass through the chain on Lava, in time steps.

    Attributes:
        T: steps per sample.
        latency: layers of neurons; the first output of a sample appears this many steps after its first frame.
        reset_interval, reset_offset: arguments of `netx.hdf5.Network` with which samples run one behind the other. The
            interval is T, and one step more where there are delays.
        clears: what must be emptied once a sample, or spikes on their way would arrive in the next one.
    """

    T: int
    latency: int
    reset_interval: int
    reset_offset: int
    clears: tuple[Clear, ...] = ()


def timing(graph: SpikingGraph) -> ChainTiming:
    """A chain takes one step per neuron layer, and resets membranes as each layer's sample begins.

    Right before, the buffers that its spikes wait in are emptied. What a delayed layer reads begins a step earlier than the
    layer itself, whose last step still reads from the buffer; so there is a silent step between samples.
    """
    layers = chain_layers(graph)
    interval = graph.T + any(step.time is not None and step.time.longest > 0 for step in layers)
    clears = []
    for k, step in enumerate(layers):
        if step.time is None:
            continue
        if step.time.longest > 0:
            clears.append(Clear(k, "synapse", interval, (k - 1) % interval))
        if step.time.recurrent is not None:
            clears.append(Clear(k, "synapse_rec", interval, k % interval))
    return ChainTiming(graph.T, len(layers), interval, 1, tuple(clears))


def message_bits(graph: SpikingGraph) -> int:
    """The message bits are netx's `input_message_bits`: 0 for binary spikes, else the bits of a graded pixel."""
    return int(graph.input.scale or 1).bit_length() if graph.input.is_graded else 0


def sidecar_path(path: Path) -> Path:
    """The sidecar of `NAME.net` is `NAME.net.json`."""
    return path.with_name(path.name + ".json")


def describe(graph: SpikingGraph) -> dict[str, Any]:
    """The description is what the sidecar of a chain says, but for the digest."""
    when = timing(graph)
    return {
        "format": "kdsnn-deploy netx sidecar",
        "version": VERSION,
        "T": graph.T,
        "input": {
            "shape": list(graph.input.shape),
            "encoding": graph.input.encoding,
            "scale": graph.input.scale,
            "message_bits": message_bits(graph),
        },
        "readout": graph.output.readout,
        "score": graph.output.score,
        "latency_steps": when.latency,
        "reset_interval": when.reset_interval,
        "reset_offset": when.reset_offset,
        "clears": [asdict(clear) for clear in when.clears],
        "layers": [
            {
                "synapse": step.name,
                "neuron": step.neuron_name,
                "threshold": step.threshold,
                "scale": step.scale,
                "decay": step.decay,
                "current_decay": step.current_decay,
            }
            for step in chain_layers(graph)
        ],
        "metadata": dict(graph.metadata),
    }


def digest(path: Path, beside: dict[str, Any]) -> str:
    """The digest is the SHA-256 of the file and of what stands beside it: with a flipped bit in a weight the network is
    sound, but another one."""
    facts = {key: value for key, value in beside.items() if key != "digest"}
    content = hashlib.sha256(json.dumps(facts, sort_keys=True).encode())
    with path.open("rb") as file:
        while block := file.read(2**20):
            content.update(block)
    return content.hexdigest()


def read_sidecar(path: Path) -> dict[str, Any]:
    """The sidecar is what stands beside `path`, empty if nothing does. Raises NetxError for a file that is none of this
    program."""
    beside = sidecar_path(path)
    if not beside.is_file():
        return {}
    try:
        content = json.loads(beside.read_text(encoding="utf-8"))
        if not isinstance(content, dict) or content.get("version") != VERSION:
            raise ValueError("unknown version")
    except (ValueError, OSError) as error:
        raise NetxError(f"{beside.name}: not a sidecar of this program ({error}); export the network again") from error
    return content
