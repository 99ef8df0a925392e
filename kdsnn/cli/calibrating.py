"""Quantization as the command line asks for it: with or without calibration on the training images of a data set."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from kdsnn.errors import KdsnnError

if TYPE_CHECKING:
    from exporters.graph import Array, SpikingGraph
    from exporters.passes.quantize import LayerScale
    from hardware.emulator.calibration import Calibration, LayerDrift


@dataclass(frozen=True)
class Quantization:
    """How a network is to be quantized.

    Attributes:
        bits: of a weight, 2 to 8.
        input_bits: of a pixel, 1 to 8.
        data: calibrate on the training images of this data set; None for no calibration.
        samples: how many of them, spread evenly over the set.
        quiet: show no progress.
    """

    bits: int = 8
    input_bits: int = 8
    data: str | None = None
    samples: int = 512
    quiet: bool = False


COARSE_BITS = 4
"""At so few bits, firing rates drift enough for biases to be corrected once more, by the rates that the quantized network shows. With
more bits that gains nothing: on six digit students, decisions that differ from the float network's went from 2.4 to 1.8 % at 3 bits,
1.3 to 1.0 % at 4, and from 0.50 to 0.53 % at 8."""
PASSES = 3
"""How often it is measured again. A correction changes the layers behind it, so that each pass settles one more layer."""

Quantized = tuple["SpikingGraph", "tuple[LayerScale, ...]", "tuple[LayerDrift, ...]"]
"""The integer graph, how each layer was quantized, and (calibrated only) how each layer drifted."""


def quantized(name: str, graph: SpikingGraph, exact: SpikingGraph, how: Quantization) -> Quantized:
    """Quantize a float graph; `exact` is its `make_exact` on 8-bit pixels. The graph's metadata says how it was done.

    Raises:
        KdsnnError, DeployError: unknown data, images of another shape, or a network that cannot be quantized.
    """
    from exporters.passes.exact import make_exact
    from exporters.passes.quantize import quantize

    if how.data is None:
        integer, scales = quantize(graph, bits=how.bits, input_bits=how.input_bits)
        return _recorded(integer, how, None), scales, ()
    from hardware.emulator.calibration import drift

    images = _images(name, graph, how)
    before = _measure(f"calibrate {name}", exact, images, how)
    moments = before.inputs
    if how.input_bits != 8 and graph.input.encoding == "direct":
        # what coarser pixels look like to the first layer; the drift is still told against the network as trained
        coarse = make_exact(graph, input_scale=2**how.input_bits - 1)
        moments = _measure(f"calibrate {name} on {how.input_bits}-bit pixels", coarse, images, how).inputs
    integer, scales = quantize(graph, bits=how.bits, input_bits=how.input_bits, moments=moments)
    after = _measure(f"drift of {name}", integer, images, how)
    for i in range(PASSES if how.bits <= COARSE_BITS else 0):
        arrived = {n: replace(m, arriving=after.inputs[n].mean) for n, m in moments.items()}
        integer, scales = quantize(graph, bits=how.bits, input_bits=how.input_bits, moments=arrived)
        after = _measure(f"correct {name} {i + 1}/{PASSES}", integer, images, how)
    return _recorded(integer, how, len(images)), scales, drift(integer, scales, before, after)


def _recorded(integer: SpikingGraph, how: Quantization, samples: int | None) -> SpikingGraph:
    calibration = None if samples is None else {"data": how.data, "part": "train", "samples": samples}
    done = {"bits": how.bits, "input_bits": how.input_bits, "calibration": calibration}
    return integer.with_nodes({}, metadata={**integer.metadata, "quantization": done})


def _measure(title: str, graph: SpikingGraph, images: Array, how: Quantization) -> Calibration:
    from hardware.emulator.calibration import calibrate
    from kdsnn.cli.console import progress

    with progress(title, quiet=how.quiet) as show:
        return calibrate(graph, graph.encode(images), progress=lambda done: show(done, len(images)))


def _images(name: str, graph: SpikingGraph, how: Quantization) -> Array:
    """Training images, float32 in 0…1 (N, *shape), evenly spread because sources may be sorted by class."""
    import numpy as np

    from kdsnn.cli.images import load_images
    from kdsnn.cli.source import require_fit

    assert how.data is not None
    if graph.input.encoding != "direct":
        raise KdsnnError(f"--calibrate {how.data}: {name} takes spikes over time, and data sets hold images")
    data = load_images(how.data, quiet=how.quiet)
    require_fit(name, graph.input.shape, data)
    total = len(data.x_train)
    chosen = np.linspace(0, total - 1, min(how.samples, total)).round().astype(int)
    images = np.asarray(data.x_train[chosen])
    return (images.reshape(len(images), *graph.input.shape) / np.float32(255)).astype(np.float32)


def drift_rows(scales: tuple[LayerScale, ...], drifts: tuple[LayerDrift, ...]) -> list[dict[str, Any]]:
    """One JSON-able row per synapse layer; the measured columns are there only where the network was calibrated."""
    from dataclasses import asdict

    measured = {d.name: asdict(d) for d in drifts}
    return [asdict(s) | measured.get(s.name, {}) for s in scales]


def print_quantization(title: str, rows: list[dict[str, Any]]) -> None:
    """The table of `drift_rows`."""
    from kdsnn.cli.console import percent, table

    columns = ["layer", "largest weight", "clipped", "threshold V", "scale", "limited by", "RMS error"]
    calibrated = any("peak" in row for row in rows)
    if calibrated:
        columns += ["peak current", "of register", "firing rate, float → quantized"]
    cells = []
    for row in rows:
        cell = [
            row["name"], str(row["largest"]), percent(row["clipped"]), str(row["threshold"]), f"{row['scale']:.4g}",
            row["limited_by"], percent(row["rms_error"]),
        ]  # fmt: skip
        if calibrated:
            before, after = row["rate_float"], row["rate_quantized"]
            rates = "–" if before is None or after is None else f"{percent(before)} → {percent(after)}"
            cell += [f"{row['peak']:.0f}", percent(row["register_used"]), rates]
        cells.append(cell)
    table(title, columns, cells)
