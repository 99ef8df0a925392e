"""From what a user points at to the graphs that every other verb works on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from exporters.errors import DeployError
from exporters.graph import SpikingGraph
from kdsnn.deploy.factory import module_of, require_shape
from kdsnn.deploy.load import load, trained_by_us
from kdsnn.deploy.progress import Progress, silent
from kdsnn.deploy.quantization import Quantization, drift_rows, quantization_table, quantized
from kdsnn.deploy.tables import Result
from kdsnn.deploy.trained import TrainedNetwork
from kdsnn.errors import KdsnnError, OptionError, notice
from kdsnn.factory import is_factory
from profilers.text_table import TextTable

MOST_STEPS = 1 << 16
"""A T that is larger is a slip: the run would take days, and memory in proportion."""

InputCoding = Literal["pixels", "spikes"]
"""What a network reads at every time step."""

if TYPE_CHECKING:
    import pandas as pd
    from torch import nn

    from exporters.graph import Array
    from exporters.passes.quantize import LayerScale
    from hardware.emulator.calibration import LayerDrift
    from kdsnn.deploy.host_encoder import HostEncoder

    NetworkSource: TypeAlias = "str | Path | nn.Module | TrainedNetwork | SpikingGraph | Lowered"
    """What can be lowered: a checkpoint, `.nir` or `.net` file, `package.module:factory`, a torch module made of SpikingJelly's
    layers, what `distill` returned, a graph, or what `lower` returned."""


@dataclass(frozen=True, eq=False, repr=False)
class Lowered(Result):
    """A network in all the forms that the verbs need.

    Attributes:
        name: for file names and titles.
        module: the spiking torch module in eval mode, None for a file that has none (`.net`).
        graph: the float graph as it was lowered, None where there is no float form.
        exact: the float graph with exact arithmetic (`make_exact`), None where there is no float form.
        chip: the quantized graph, or why there is none (reset by subtraction, say): then only verbs that need it fail.
        layer_scales: how each synapse layer was quantized.
        layer_drifts: how each synapse layer drifted by it, where it was calibrated.
        encoder: what makes spikes of images on the host, where `chip` reads these.
    """

    name: str
    module: nn.Module | None
    graph: SpikingGraph | None
    exact: SpikingGraph | None
    chip: SpikingGraph | DeployError
    layer_scales: tuple[LayerScale, ...] = ()
    layer_drifts: tuple[LayerDrift, ...] = ()
    encoder: HostEncoder | None = None

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
        return None if isinstance(self.chip, DeployError) else self.chip.metadata.get("quantization", {}).get("bits")

    @property
    def input_bits(self) -> int:
        """Bits of a pixel on the chip; 8 where the network was quantized elsewhere, or cannot be."""
        return (
            8
            if isinstance(self.chip, DeployError)
            else int(self.chip.metadata.get("quantization", {}).get("input_bits", 8))
        )

    @property
    def calibrated(self) -> bool:
        """Whether it was quantized on images."""
        return not isinstance(self.chip, DeployError) and bool(
            self.chip.metadata.get("quantization", {}).get("calibration")
        )

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


def lower(
    source: NetworkSource,
    *,
    bits: int | None = None,
    input_bits: int = 8,
    T: int | None = None,
    input_shape: tuple[int, ...] | None = None,
    weights: str | Path | None = None,
    calibrate: Any = None,
    calibration_samples: int = 512,
    nir: Mapping[str, Any] | None = None,
    input_coding: InputCoding | None = None,
    encoder: Literal["chip", "host"] = "chip",
    name: str | None = None,
    progress: Progress = silent,
) -> Lowered:
    """Lower a network to its graphs, in float and quantized.

    Args:
        source: a checkpoint (`.safetensors`), a NIR or netx file (`.nir`, `.net`), `package.module:factory`, a torch module
            made of SpikingJelly's layers, what `distill` returned, or a `SpikingGraph`.
        bits: of a weight, 2 to 8; by default 8, or what a student was trained for.
        input_bits: of a pixel on the chip, 1 to 8.
        T: time steps, where the source does not say (a module, a factory, a bare `.net`).
        input_shape: (C, H, W) or (F,) of one sample, for a module or a factory.
        weights: for a factory, a state dict (`.safetensors` or `.pt`), or a checkpoint that `distill` wrote, which also says
            `input_shape` and `T`.
        calibrate: quantize so that currents err least on training images of this data, see `load_data`.
        calibration_samples: how many of them.
        nir: how to read a foreign `.nir` file: further arguments of `exporters.nir.read` (dt, method, reset).
        input_coding: of a `.net` file that has no `.net.json` beside it, "pixels" or "spikes".
        encoder: "host" keeps the first layer off the chip, in full precision; the chip reads its spikes.
        name: for file names and titles; by default the file's, the factory's or the module's.
        progress: told how far calibration is.

    Raises:
        KdsnnError, DeployError: missing, damaged or of another kind; one line each.
    """
    if isinstance(source, Lowered):
        if bits is not None or calibrate is not None:
            raise KdsnnError(f"{source.name} is lowered already; give bits and calibrate where it is lowered")
        found = source
    else:
        how = Quantization(8 if bits is None else bits, input_bits, calibrate, calibration_samples, progress)
        _check(source, how, T, nir, input_coding)
        found = _lower(source, how, bits, T, input_shape, weights, nir, input_coding, name)
    if encoder == "chip" or found.encoder is not None:
        return found
    from kdsnn.deploy.host_encoder import on_host

    return on_host(found)


def _check(
    source: NetworkSource, how: Quantization, T: int | None, nir: Mapping[str, Any] | None, coding: InputCoding | None
) -> None:
    suffix = Path(source).suffix if isinstance(source, str | Path) else ""
    if not (2 <= how.bits <= 8 and 1 <= how.input_bits <= 8):
        raise OptionError(
            "{bits} {input_bits}: weights have 2 to 8 bits, pixels 1 to 8", bits=how.bits, input_bits=how.input_bits
        )
    if T is not None and not 1 <= T <= MOST_STEPS:
        raise OptionError(f"{{T}}: it must be 1 to {MOST_STEPS:,} time steps", T=T)
    if nir and suffix != ".nir":
        raise OptionError(f"{{nir}}: {source} is not a .nir file; leave it out", nir=None)
    if coding is not None and suffix != ".net":
        raise OptionError(f"{{input_coding}}: {source} is not a .net file; leave it out", input_coding=coding)


def _lower(
    source: Any, how: Quantization, bits: int | None, T: int | None, input_shape: tuple[int, ...] | None,
    weights: str | Path | None, nir: Mapping[str, Any] | None, coding: InputCoding | None, name: str | None,
) -> Lowered:  # fmt: skip
    if isinstance(source, TrainedNetwork):
        return _trained(name or source.info.model, source, how, bits, {})
    if isinstance(source, SpikingGraph):
        return _with_chip(name or "network", None, source, how)
    if not isinstance(source, str | Path):
        return _module(name or type(source).__name__.lower(), source, input_shape, T, how, {})
    path, text = Path(source), str(source)
    if is_factory(text):
        if weights is not None and trained_by_us(weights):
            return _trained(name or Path(weights).stem, load(weights, module=text), how, bits, {"factory": text})
        if input_shape is None or T is None:
            raise OptionError(
                f"{text}: a network from a factory needs {{input_shape}} (such as 3,32,32) and {{T}}", input_shape=None, T=None
            )  # fmt: skip
        module = module_of(text, weights)
        metadata = {"factory": text, "weights": Path(weights).name if weights else None}
        return _module(name or text.rpartition(":")[2], module, input_shape, T, how, metadata)
    if path.suffix in (".net", ".nir") and path.exists() and not path.is_file():  # a pipe would be waited for
        raise KdsnnError(f"{text}: it is a folder or a device; give a file")
    if path.suffix == ".net":
        return _netx(path, how, T, coding)
    if path.suffix == ".nir":
        from exporters import nir as nir_files

        read = nir_files.read(path, T=T, **(nir or {}))
        for warning in read.metadata.get("nir_warnings", ()):
            notice(warning)
        return _with_chip(path.stem, None, read, how)
    if path.suffix == ".safetensors":
        trained = load(path)
        return _trained(name or path.stem, trained, how, bits, {"checkpoint": path.name})
    if path.suffix == ".onnx":
        raise KdsnnError(
            f"{text}: an ONNX model is finished, and only `run` takes one; give the checkpoint, .net or .nir file"
        )
    raise KdsnnError(
        f"{text}: not a source; give a checkpoint (.safetensors), a .net or .nir file, or package.module:factory"
    )


def _netx(path: Path, how: Quantization, T: int | None, coding: InputCoding | None) -> Lowered:
    from kdsnn.deploy.host_encoder import beside
    from kdsnn.deploy.spike_input import read_net

    if how.data is not None:
        raise OptionError(
            f"{{calibrate}}: {path} is quantized already; calibrate what it was exported from", calibrate=how.data_name
        )
    graph = read_net(path, T, coding, how.input_bits)
    return Lowered(path.stem, None, None, None, graph, encoder=beside(path, graph))


def _trained(
    name: str, trained: TrainedNetwork, how: Quantization, bits: int | None, metadata: dict[str, Any]
) -> Lowered:
    info = trained.info
    called = trained.path or name
    if not info.spiking or info.T is None:
        raise KdsnnError(f"{called}: this is an ANN ({info.model}); give a spiking student, which distill writes")
    if info.quantized is not None:  # trained on a grid, it is quantized to that grid unless other bits were asked for
        trained_for = info.quantized["bits"]
        if how.data is not None:
            raise OptionError(
                f"{{calibrate}}: {called} was trained on its grid of {trained_for} bits; leave it out", calibrate=how.data_name
            )  # fmt: skip
        if bits is None or bits == trained_for:
            how = replace(how, bits=trained_for)
        else:
            notice(f"{called} was trained for {trained_for} bits, not {bits}")
    metadata |= {"model": info.model, "data": info.data, "metrics": dict(info.metrics)}
    return _module(name, trained.module, info.input_shape, info.T, how, metadata)


def _module(
    name: str, module: nn.Module, input_shape: tuple[int, ...] | None, T: int | None, how: Quantization,
    metadata: dict[str, Any],
) -> Lowered:  # fmt: skip
    from exporters.from_torch import from_torch

    if input_shape is None or T is None:
        raise OptionError(f"{name}: a module needs {{input_shape}} and {{T}}", input_shape=None, T=None)
    graph = from_torch(module.eval(), require_shape(input_shape), T, **metadata)
    return _with_chip(name, module, graph, how)


def _with_chip(name: str, module: nn.Module | None, graph: SpikingGraph, how: Quantization) -> Lowered:
    from exporters.passes.exact import make_exact

    if graph.is_integer:
        if how.data is not None:
            raise OptionError(
                f"{{calibrate}}: {name} is quantized already; calibrate what it was exported from", calibrate=how.data_name
            )  # fmt: skip
        return Lowered(name, module, None, None, graph)
    exact = make_exact(graph)
    try:
        return Lowered(name, module, graph, exact, *quantized(name, graph, exact, how))
    except DeployError as error:
        return Lowered(name, module, graph, exact, error)
