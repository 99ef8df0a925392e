"""The encoder on the host: images become spikes there, and the chip's network reads only these."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from kdsnn.deploy.lowered import HostEncoder, Lowered
from kdsnn.errors import KdsnnError, OptionError

if TYPE_CHECKING:
    from exporters.graph import Array, SpikingGraph


def on_host(network: Lowered) -> Lowered:
    """The same network with its first layer on the host, in full precision, and the rest quantized on the chip.

    Raises:
        KdsnnError, DeployError: the network is quantized already, reads spikes, or is nothing but its encoder.
    """
    from exporters.passes.exact import make_exact
    from exporters.passes.split import split_encoder

    if network.graph is None:
        raise OptionError(
            f"{{encoder}}: {network.name} is quantized already; split what it was exported from", encoder="host"
        )
    # on the grid, so that every host gives the chip the same spikes
    host, _ = split_encoder(network.exact or make_exact(network.graph))
    _, chip = split_encoder(network.integer)
    chip = chip.with_nodes({}, metadata={**chip.metadata, "encoder": f"{network.name}.encoder.onnx"})

    def spikes(x: Array) -> Array:
        from hardware import emulator

        return emulator.run(host, host.encode(x)).output.reshape(len(x), chip.T, *chip.input.shape)

    kept = tuple(scale for scale in network.layer_scales if scale.name in chip.synapses)
    encoder = HostEncoder(host.input.shape, spikes, host)
    return replace(network, chip=chip, layer_scales=kept, encoder=encoder)


def beside(path: Path, chip: SpikingGraph) -> HostEncoder | None:
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

    return HostEncoder(tuple(runner.model.facts["input_shape"]), spikes)
