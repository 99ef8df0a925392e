"""A network in all the forms that the verbs need: what `lower` returns."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from exporters.errors import DeployError
from kdsnn.deploy.images import class_names_in, require_fit
from kdsnn.deploy.quantization import drift_rows, quantization_table
from kdsnn.deploy.tables import Result, TextTable

if TYPE_CHECKING:
    import pandas as pd
    from torch import nn

    from exporters.from_torch import Calling
    from exporters.graph import Array, Shape, SpikingGraph
    from exporters.passes.quantize import LayerScale
    from hardware.emulator.calibration import LayerDrift
    from kdsnn.data import DataSet
    from kdsnn.deploy.proof import Proof


@dataclass(frozen=True, eq=False)
class HostEncoder:
    """What runs on the host. `spikes`: images (N, *shape) in 0…1 → the chip's input (N, T, *shape of the layer).

    `graph` is None where the encoder is an ONNX file beside a `.net`.
    """

    shape: Shape
    spikes: Callable[[Array], Array]
    graph: SpikingGraph | None = None


@dataclass(frozen=True, eq=False, repr=False)
class Lowered(Result):
    """A network in all the forms that the verbs need.

    Attributes:
        name: for file names and titles.
        module: the spiking torch module in eval mode, None for a file that has none (`.net`).
        graph: the float graph as it was lowered, None where there is no float form.
        chip: the quantized graph, or why there is none (reset by subtraction, say): then only verbs that need it fail.
        layer_scales: how each synapse layer was quantized.
        layer_drifts: how each synapse layer drifted by it, where it was calibrated.
        encoder: what makes spikes of images on the host, where `chip` reads these.
        exact: the float graph on a grid on which every sum is exact (`make_exact`), where that was asked for.
        calling: how the module is called, None where there is none.
        proof: what comparing the graph with the module gave, None where there is none.
    """

    name: str
    module: nn.Module | None
    graph: SpikingGraph | None
    chip: SpikingGraph | DeployError
    layer_scales: tuple[LayerScale, ...] = ()
    layer_drifts: tuple[LayerDrift, ...] = ()
    encoder: HostEncoder | None = None
    exact: SpikingGraph | None = None
    calling: Calling | None = None
    proof: Proof | None = None

    @property
    def running(self) -> SpikingGraph | None:
        """The float graph that torch and ONNX run: with the author's own weights, or on the grid where that was asked for."""
        return self.exact or self.graph

    @property
    def integer(self) -> SpikingGraph:
        """The quantized graph.

        Raises:
            DeployError: the network cannot be quantized.
        """
        if isinstance(self.chip, DeployError):
            raise self.chip
        return self.chip

    @property
    def input_shape(self) -> tuple[int, ...]:
        """Shape of one sample."""
        if self.encoder is not None:
            return self.encoder.shape
        return (self.graph or self.integer).input.shape

    @property
    def bits(self) -> int | None:
        """Bits of a weight; None where the network was quantized elsewhere, or cannot be."""
        return self._quantization.get("bits")

    @property
    def input_bits(self) -> int:
        """Bits of a pixel on the chip; 8 where the network was quantized elsewhere, or cannot be."""
        return int(self._quantization.get("input_bits", 8))

    @property
    def calibrated(self) -> bool:
        """Whether it was quantized on images."""
        return bool(self._quantization.get("calibration"))

    @property
    def _quantization(self) -> Mapping[str, Any]:
        """What the chip's graph says of how it was quantized."""
        return {} if isinstance(self.chip, DeployError) else self.chip.metadata.get("quantization", {})

    @property
    def reads_spikes(self) -> bool:
        """Whether its samples are spikes over time, and no encoder on the host makes them of images."""
        chip = self.graph or self.chip
        return not isinstance(chip, DeployError) and self.encoder is None and chip.input.encoding == "spikes"

    @property
    def scales(self) -> pd.DataFrame:
        """How each synapse layer was quantized and what limited it, one row a layer."""
        return self.to_frame()

    def frames(self, x: Array) -> Array:
        """What the quantized graph consumes of samples x (N, *shape): integer pixels, or the spikes of the host's encoder."""
        return self.integer.encode(x if self.encoder is None else self.encoder.spikes(x))

    def tables(self) -> tuple[TextTable, ...]:
        """How it was quantized."""
        rows = self.rows()
        if not rows:
            return (TextTable(f"{self.name}: not quantized here", ("layer",), ()),)
        return (quantization_table(f"{self.name} quantized to {self.bits} bits", rows),)

    def rows(self) -> list[dict[str, Any]]:
        """How each synapse layer was quantized; the measured columns are there only where it was calibrated."""
        return drift_rows(self.layer_scales, self.layer_drifts)


def require_network_fit(name: str, network: Lowered, data: DataSet) -> None:
    """Compare a lowered network with a data set.

    Raises:
        KdsnnError: as `require_fit`.
    """
    graph = network.graph or network.integer
    outputs = graph.shapes[graph.output_name]
    require_fit(
        name, network.input_shape, data, classes=outputs[0] if len(outputs) == 1 else None,
        class_names=class_names_in(graph.metadata), T=graph.T if network.reads_spikes else None,
        over_time=network.reads_spikes,
    )  # fmt: skip
