"""The encoder on the host: images become spikes there, and the chip's network reads only these."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from kdsnn.errors import KdsnnError

if TYPE_CHECKING:
    from collections.abc import Callable

    from exporters.graph import Array, Shape, SpikingGraph
    from kdsnn.cli.source import Source


class Where(StrEnum):
    """Where the first layer turns pixels into spikes."""

    chip = "chip"
    host = "host"


EncoderAt = Annotated[
    Where,
    typer.Option(
        "--encoder",
        help="host: keep the first layer off the chip, in full precision; the chip reads its spikes.",
    ),
]


@dataclass(frozen=True, eq=False)
class Encoder:
    """What runs on the host. `spikes`: images (N, *shape) in 0…1 → the chip's input (N, T, *shape of the layer).

    `graph` is None where the encoder is an ONNX file beside a `.net`.
    """

    shape: Shape
    spikes: Callable[[Array], Array]
    graph: SpikingGraph | None = None


def on_host(network: Source) -> Source:
    """The same network with its first layer on the host, in full precision, and the rest quantized on the chip.

    Raises:
        KdsnnError, DeployError: the network is quantized already, reads spikes, or is nothing but its encoder.
    """
    from exporters.passes.split import split_encoder

    if network.exact is None:
        raise KdsnnError(f"--encoder host: {network.name} is quantized already; split what it was exported from")
    host, _ = split_encoder(network.exact)
    _, chip = split_encoder(network.integer)
    chip = chip.with_nodes({}, metadata={**chip.metadata, "encoder": f"{network.name}.encoder.onnx"})

    def spikes(x: Array) -> Array:
        from hardware import emulator

        return emulator.run(host, host.encode(x)).output.reshape(len(x), chip.T, *chip.input.shape)

    kept = tuple(scale for scale in network.scales if scale.name in chip.synapses)
    encoder = Encoder(host.input.shape, spikes, host)
    return replace(network, chip=chip, scales=kept, encoder=encoder)


def beside(path: Path, chip: SpikingGraph) -> Encoder | None:
    """The encoder of a `.net` file that was read as `chip`: the ONNX file that was written with it, if there was one.

    Raises:
        KdsnnError, OnnxError: that file is missing, of another network, or not one of this program.
    """
    name = chip.metadata.get("encoder")
    if name is None:
        return None
    from exporters import onnx

    file = path.with_name(Path(str(name)).name)
    if not file.is_file():
        raise KdsnnError(f"{path}: its encoder runs on the host, and {file.name} is not beside it; copy it there")
    runner = onnx.prepare(file)

    def spikes(x: Array) -> Array:
        found: Array = runner.run(x, T=chip.T)["spikes"]
        if math.prod(found.shape[2:]) != math.prod(chip.input.shape):
            raise KdsnnError(f"{file}: it gives {found.shape[2:]} spikes, and {path.name} reads {chip.input.shape}")
        return found.reshape(len(x), chip.T, *chip.input.shape)

    return Encoder(tuple(runner.model.facts["input_shape"]), spikes)
