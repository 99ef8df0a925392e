"""A network in all the forms that the verbs need: what `lower` returns."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from exporters.errors import DeployError
from kdsnn.deploy.images import Pixels, class_names_in, require_fit
from kdsnn.deploy.quantization import drift_rows, quantization_table
from kdsnn.deploy.tables import Result, TextTable
from kdsnn.errors import notice

if TYPE_CHECKING:
    import pandas as pd
    from torch import nn

    from exporters.from_torch import Calling
    from exporters.graph import Array, Shape, SpikingGraph
    from exporters.passes.quantize import LayerScale
    from hardware.emulator.calibration import LayerDrift
    from kdsnn.data import DataSet
    from kdsnn.deploy.proof import Proof
    from profilers.profiling import Samples


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
        module: the spiking torch module, in whatever mode it is; it is run in eval mode. None for a file that has none (`.net`).
        graph: the float graph as it was lowered, None where there is no float form.
        chip: the quantized graph, or why there is none (a layer that rounds to nothing, say): then only verbs that need it fail.
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
    def layer_names(self) -> dict[str, str]:
        """What a layer is called, by its neurons' node: by its synapses."""
        from exporters.graph import layer_names

        graph = self.graph or self.chip
        return {} if isinstance(graph, DeployError) else layer_names(graph)

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
    def over_time(self) -> bool:
        """Whether a sample is T frames, of spikes or graded values, and no encoder on the host makes them of an image."""
        chip = self.graph or self.chip
        return not isinstance(chip, DeployError) and self.encoder is None and chip.input.over_time

    @property
    def graded(self) -> bool:
        """Whether it reads frames over time that hold pixels, not 0 and 1."""
        chip = self.graph or self.chip
        return self.over_time and not isinstance(chip, DeployError) and chip.input.is_graded

    @property
    def classes(self) -> int | None:
        """How many classes it tells apart, one score each; None where it ends in maps, whose elements are no classes."""
        graph = self.graph or self.integer
        outputs = graph.shapes[graph.output_name]
        return outputs[0] if len(outputs) == 1 else None

    def samples(self, x: Array) -> Samples:
        """Data as the network is given it: uint8 images (N, C, H, W) as pixels in 0 to 1, uint8 frames over time
        (N, T, C, H, W) of a data set as pixels where it is `graded`, else as spikes; other frames over time stay what they are."""
        return x if self.over_time and x.dtype.name != "uint8" else Pixels(x, self.input_shape, self.graded)

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
    require_fit(
        name, network.input_shape, data, classes=network.classes, class_names=class_names_in(graph.metadata),
        T=graph.T if network.over_time else None, over_time=network.over_time, graded=network.graded,
    )  # fmt: skip


def told_labels(name: str, network: Lowered, labels: Array) -> Array | None:
    """The labels, or None for a network that ends in maps: that is said, and its accuracy is not told."""
    if network.classes is not None:
        return labels
    graph = network.graph or network.integer
    shape = " × ".join(map(str, graph.shapes[graph.output_name]))
    notice(
        f"{name} ends in maps of {shape}, not in one score per class: its spikes are compared and counted, its accuracy is not told"
    )
    return None
