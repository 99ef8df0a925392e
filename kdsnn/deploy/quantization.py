"""Quantization as a verb asks for it: with or without calibration on training images."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING, Any

from kdsnn.deploy.images import Pixels, chosen, load_data, require_fit
from kdsnn.deploy.own_data import load_own, own_data
from kdsnn.deploy.progress import Progress, silent
from kdsnn.errors import OptionError
from profilers.text_table import TextTable, table

if TYPE_CHECKING:
    from exporters.graph import Array, SpikingGraph
    from exporters.passes.quantize import LayerScale
    from hardware.emulator.calibration import Calibration, LayerDrift
    from kdsnn.data import DataSet


@dataclass(frozen=True)
class Quantization:
    """How a network is to be quantized.

    Attributes:
        bits: of a weight, 2 to 8.
        input_bits: of a pixel, 1 to 8.
        data: calibrate on training images of this data, see `load_data`; True for the network's own, None for no calibration.
        samples: how many of them, spread evenly over the set.
        progress: told how far calibration is.
    """

    bits: int = 8
    input_bits: int = 8
    data: Any = None
    samples: int = 512
    progress: Progress = field(default=silent)

    @property
    def data_name(self) -> str | None:
        """What the data is called."""
        if self.data is None or self.data is True:
            return None
        return self.data if isinstance(self.data, str) else getattr(self.data, "name", "arrays")


COARSE_BITS = 4
"""At so few bits, biases are corrected layer after layer as well; with more, three small students gained nothing by it."""

Quantized = tuple["SpikingGraph", "tuple[LayerScale, ...]", "tuple[LayerDrift, ...]"]
"""The integer graph, how each layer was quantized, and (calibrated only) how each layer drifted."""


def quantized(
    name: str, graph: SpikingGraph, how: Quantization, seen: Callable[[Array], None] | None = None
) -> Quantized:
    """Quantize a float graph. The integer graph's metadata says how it was done; `seen` is shown the images before.

    Raises:
        KdsnnError, DeployError: unknown data, images of another shape, or a network that cannot be quantized.
    """
    from exporters.passes.integer_inputs import integer_inputs
    from exporters.passes.quantize import quantize

    if how.data is None:
        integer, scales = quantize(graph, bits=how.bits, input_bits=how.input_bits)
        return _recorded(integer, how, None), scales, ()
    from hardware.emulator.bias_correction import correct_biases
    from hardware.emulator.calibration import drift

    if how.data is True:
        how = replace(how, data=_own(name, graph))
    images = _images(name, graph, how)
    if seen is not None:
        seen(images)
    before = _measure(f"calibrate {name}", integer_inputs(graph, 255), images, how)
    moments = before.inputs
    if how.input_bits != 8 and graph.input.is_graded:
        # what coarser pixels look like to the first layer; the drift is still told against the network as trained
        coarse = integer_inputs(graph, 2**how.input_bits - 1)
        moments = _measure(f"calibrate {name} on {how.input_bits}-bit pixels", coarse, images, how).inputs
    integer, scales = quantize(graph, bits=how.bits, input_bits=how.input_bits, moments=moments)
    if how.bits <= COARSE_BITS:
        told = partial(how.progress, f"correct {name}")
        integer = correct_biases(integer, before.currents, integer.encode(images), told)
    after = _measure(f"drift of {name}", integer, images, how)
    return _recorded(integer, how, len(images)), scales, drift(integer, scales, before, after)


def _recorded(integer: SpikingGraph, how: Quantization, samples: int | None) -> SpikingGraph:
    calibration = None if samples is None else {"data": how.data_name, "part": "train", "samples": samples}
    done = {"bits": how.bits, "input_bits": how.input_bits, "calibration": calibration}
    return integer.with_nodes({}, metadata={**integer.metadata, "quantization": done})


def _measure(title: str, graph: SpikingGraph, images: Array, how: Quantization) -> Calibration:
    from hardware.emulator.calibration import calibrate

    return calibrate(graph, graph.encode(images), progress=lambda done: how.progress(title, done, len(images)))


def _own(name: str, graph: SpikingGraph) -> DataSet:
    own = own_data(graph, name)
    if own is None:
        raise OptionError(f"{{calibrate}}: {name} does not say what it was trained on; name the data", calibrate=None)
    return load_own(None, own, option="calibrate")


def _images(name: str, graph: SpikingGraph, how: Quantization) -> Array:
    """Training images, float32 in 0…1 (N, *shape), or frames (N, T, *shape) where the network reads these."""
    data: DataSet = load_data(how.data)
    over_time = graph.input.over_time
    graded = over_time and graph.input.is_graded
    require_fit(name, graph.input.shape, data, T=graph.T if over_time else None, over_time=over_time, graded=graded)
    return Pixels(data.x_train[chosen(len(data.x_train), how.samples)], graph.input.shape, graded)[:]


def drift_rows(scales: Sequence[LayerScale], drifts: Sequence[LayerDrift]) -> list[dict[str, Any]]:
    """One JSON-able row per synapse layer; the measured columns are there only where the network was calibrated."""
    measured = {d.name: asdict(d) for d in drifts}
    return [asdict(s) | measured.get(s.name, {}) for s in scales]


def quantization_table(title: str, rows: Sequence[dict[str, Any]]) -> TextTable:
    """The table of `drift_rows`."""
    from profilers.report.numbers import percent

    columns = ["layer", "largest weight", "clipped", "threshold V", "scale", "limited by", "RMS error"]
    calibrated = any("peak" in row for row in rows)
    if calibrated:
        columns += ["peak current", "of register", "firing rate, float → quantized"]
    cells = []
    for row in rows:
        cell = [
            row["name"], str(row["largest"]), percent(row["clipped"], 2), str(row["threshold"]), f"{row['scale']:.4g}",
            row["limited_by"], percent(row["rms_error"], 2),
        ]  # fmt: skip
        if calibrated:
            before, after = row["rate_float"], row["rate_quantized"]
            rates = "–" if before is None or after is None else f"{percent(before, 2)} → {percent(after, 2)}"
            cell += [f"{row['peak']:.0f}", percent(row["register_used"], 2), rates]
        cells.append(cell)
    return table(title, columns, cells)
