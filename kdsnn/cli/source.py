"""SOURCE on the command line: what a user points at, lowered to graphs."""

from __future__ import annotations

import contextlib
import importlib
import math
import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from exporters.errors import DeployError
from exporters.graph import SpikingGraph
from kdsnn.cli.calibrating import Quantization, quantized
from kdsnn.cli.console import say
from kdsnn.errors import KdsnnError

_FACTORY = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_]\w*")
MOST_STEPS = 1 << 16
"""A `--timesteps` that is larger is a slip: the run would take days, and memory in proportion."""
LONGEST_AXIS = 1 << 20
"""Of one image, in pixels or features."""

if TYPE_CHECKING:
    from torch import nn

    from exporters.graph import Array
    from exporters.passes.quantize import LayerScale
    from hardware.emulator.calibration import LayerDrift
    from kdsnn.cli.coding import Coding
    from kdsnn.cli.encoding import Encoder
    from kdsnn.data import DataSet


@dataclass(frozen=True, eq=False)
class Source:
    """A network in all the forms that the verbs need.

    Attributes:
        name: for file names and titles.
        module: the spiking torch module in eval mode, None for a file that has none (`.net`).
        graph: the float graph as it was lowered, None where there is no float form.
        exact: the float graph with exact arithmetic (`make_exact`), None where there is no float form.
        chip: the quantized graph, or why there is none (reset by subtraction, say): then only verbs that need it fail.
        scales: how each synapse layer was quantized.
        drifts: how each synapse layer drifted by it, where it was calibrated.
        encoder: what makes spikes of images on the host, where `chip` reads these.
    """

    name: str
    module: nn.Module | None
    graph: SpikingGraph | None
    exact: SpikingGraph | None
    chip: SpikingGraph | DeployError
    scales: tuple[LayerScale, ...] = ()
    drifts: tuple[LayerDrift, ...] = ()
    encoder: Encoder | None = None

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

    def frames(self, x: Array) -> Array:
        """What the quantized graph consumes of samples x (N, *shape): integer pixels, or the spikes of the host's encoder."""
        return self.integer.encode(x if self.encoder is None else self.encoder.spikes(x))


def require_fit(name: str, shape: tuple[int, ...], data: DataSet) -> None:
    """Compare a network's input shape with the images of a data set.

    Raises:
        KdsnnError: they differ; a flat input takes images of as many pixels.
    """
    if data.input_shape != shape and (math.prod(data.input_shape),) != shape:
        raise KdsnnError(f"{name} takes input of shape {shape}, {data.name} has images of {data.input_shape}")


def load(
    source: str,
    *,
    bits: int | None = None,
    input_bits: int = 8,
    T: int | None = None,
    weights: Path | None = None,
    input_shape: str | None = None,
    calibrate: str | None = None,
    calibration_samples: int = 512,
    nir: Mapping[str, Any] | None = None,
    input_coding: Coding | None = None,
    quiet: bool = False,
) -> Source:
    """Load a checkpoint (`.safetensors`), a netx or NIR file (`.net`, `.nir`), or any network (`package.module:factory`).

    With `calibrate`, quantization is calibrated on that many training images of this data set; `quiet` hides its
    progress. `nir`: further arguments of `exporters.nir.read` (dt, method, reset). `input_coding`: of a `.net` file that
    has no `.net.json` beside it.

    Raises:
        KdsnnError, DeployError: missing, damaged or of another kind; one line each.
    """
    path = Path(source)
    how = Quantization(8 if bits is None else bits, input_bits, calibrate, calibration_samples, quiet)
    if not (2 <= how.bits <= 8 and 1 <= input_bits <= 8):
        raise KdsnnError(f"--bits {how.bits} --input-bits {input_bits}: weights have 2 to 8 bits, pixels 1 to 8")
    if T is not None and not 1 <= T <= MOST_STEPS:
        raise KdsnnError(f"--timesteps {T}: it must be 1 to {MOST_STEPS:,} time steps")
    if nir and path.suffix != ".nir":
        raise KdsnnError(f"--nir: {source} is not a .nir file; leave it out")
    if input_coding is not None and path.suffix != ".net":
        raise KdsnnError(f"--input-coding {input_coding}: {source} is not a .net file; leave it out")
    if _FACTORY.fullmatch(source):
        if input_shape is None or T is None:
            raise KdsnnError(
                f"{source}: a network from a factory needs --input-shape (such as 3,32,32) and --timesteps"
            )
        shape = _shape(input_shape)
        module = _call_factory(source)
        if weights is not None:
            _load_weights(module, weights)
        name = source.rpartition(":")[2]
        metadata = {"factory": source, "weights": weights.name if weights else None}
        return lower(name, module, shape, T, how, metadata)
    if path.suffix in (".net", ".nir") and path.exists() and not path.is_file():  # a pipe would be waited for
        raise KdsnnError(f"{source}: it is a folder or a device; give a file")
    if path.suffix == ".net":
        from kdsnn.cli.coding import read_net
        from kdsnn.cli.encoding import beside

        if calibrate is not None:
            raise KdsnnError(
                f"--calibrate {calibrate}: {source} is quantized already; calibrate what it was exported from"
            )
        graph = read_net(path, T, input_coding, input_bits)
        return Source(path.stem, None, None, None, graph, encoder=beside(path, graph))
    if path.suffix == ".nir":
        from exporters import nir as nir_files

        read = nir_files.read(path, T=T, **(nir or {}))
        for warning in read.metadata.get("nir_warnings", ()):
            say(f"note: {warning}")
        return _quantized(path.stem, None, read, how)
    if path.suffix == ".safetensors":
        return _checkpoint(path, how, bits)
    if path.suffix == ".onnx":
        raise KdsnnError(
            f"{source}: an ONNX model is finished, and only `run` takes one; give the checkpoint, .net or .nir file"
        )
    raise KdsnnError(
        f"{source}: not a source; give a checkpoint (.safetensors), a .net or .nir file, or package.module:factory"
    )


def _call_factory(source: str) -> nn.Module:
    """Import `package.module` (from the current folder too) and call `factory()`; what that prints goes to standard error."""
    from torch import nn

    module_name, _, factory_name = source.partition(":")
    sys.path.insert(0, "")
    try:
        with contextlib.redirect_stdout(sys.stderr):  # standard output may have to be JSON
            factory = getattr(importlib.import_module(module_name), factory_name)
            module = factory()
            if isinstance(module, nn.Module):
                module.eval()
    except (Exception, SystemExit) as error:  # whatever the user's own code raises
        reason = " ".join(str(error).split()) or type(error).__name__
        raise KdsnnError(f"{source}: cannot be built ({type(error).__name__}: {reason})") from error
    finally:
        with contextlib.suppress(ValueError):  # that code may have removed it
            sys.path.remove("")
    if not isinstance(module, nn.Module):
        raise KdsnnError(f"{source}: it returned a {type(module).__name__}; the factory must return a torch module")
    return module


def _load_weights(module: nn.Module, path: Path) -> None:
    """Load a state dict; a `.pt` file is read without running anything that is pickled in it."""
    import torch
    from safetensors.torch import load_file

    if not path.is_file():
        raise KdsnnError(f"--weights {path}: no such file")
    try:
        state = (
            load_file(path)
            if path.suffix == ".safetensors"
            else torch.load(path, map_location="cpu", weights_only=True)
        )
        module.load_state_dict(state)
    except Exception as error:  # safetensors, pickle and torch raise a dozen unrelated types
        reason = " ".join(str(error).split())[:300]
        raise KdsnnError(f"--weights {path}: not a state dict of this network ({reason})") from error


def _shape(text: str) -> tuple[int, ...]:
    try:
        shape = tuple(int(part) for part in text.split(","))
    except ValueError:
        shape = ()
    if len(shape) not in (1, 3) or not all(1 <= length <= LONGEST_AXIS for length in shape):
        raise KdsnnError(
            f"--input-shape {text[:100]}: it must read C,H,W (such as 3,32,32) or F, each from 1 to {LONGEST_AXIS:,}"
        )
    return shape


def _checkpoint(path: Path, how: Quantization, bits: int | None) -> Source:
    from kdsnn import checkpoint

    module, info = checkpoint.load(path)
    if not info.spiking or info.T is None:
        raise KdsnnError(f"{path}: this is an ANN ({info.model}); give a spiking student, which distill writes")
    if info.quantized is not None:
        how = _as_trained(path, how, bits, info.quantized["bits"])
    metadata = {"checkpoint": path.name, "model": info.model, "data": info.data, "metrics": dict(info.metrics)}
    return lower(path.stem, module, info.input_shape, info.T, how, metadata)


def _as_trained(path: Path, how: Quantization, asked: int | None, bits: int) -> Quantization:
    """A student trained on a grid (`distill --quantize`) is quantized to that grid, unless other bits were asked for."""
    if how.data is not None:
        raise KdsnnError(f"--calibrate {how.data}: {path} was trained on its grid of {bits} bits; leave it out")
    if asked is not None and asked != bits:
        say(f"note: {path} was trained for {bits} bits, not {asked}")
        return how
    return replace(how, bits=bits)


def lower(
    name: str,
    module: nn.Module,
    input_shape: tuple[int, ...],
    T: int,
    how: Quantization,
    metadata: dict[str, Any],
) -> Source:
    """Lower a spiking module to its exact float graph and its integer graph."""
    from exporters.from_torch import from_torch

    graph = from_torch(module.eval(), input_shape, T, **metadata)
    return _quantized(name, module, graph, how)


def _quantized(name: str, module: nn.Module | None, graph: SpikingGraph, how: Quantization) -> Source:
    from exporters.passes.exact import make_exact

    if graph.is_integer:
        if how.data is not None:
            raise KdsnnError(
                f"--calibrate {how.data}: {name} is quantized already; calibrate what it was exported from"
            )
        return Source(name, module, None, None, graph)
    exact = make_exact(graph)
    try:
        return Source(name, module, graph, exact, *quantized(name, graph, exact, how))
    except DeployError as error:
        return Source(name, module, graph, exact, error)
