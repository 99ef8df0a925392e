"""From what a user points at to the graphs that every other verb works on."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from exporters.errors import DeployError
from exporters.graph import SpikingGraph
from kdsnn.deploy.brought import CALIBRATION_SAMPLES, PIXEL_BITS, Brought, InputCoding, lowered_module, require_sayable
from kdsnn.deploy.factory import module_of, require_factory, require_shape
from kdsnn.deploy.load import load, trained_by_us
from kdsnn.deploy.lowered import Lowered
from kdsnn.deploy.progress import Progress, silent
from kdsnn.deploy.quantization import COARSE_BITS, Quantization, quantized
from kdsnn.deploy.trained import TrainedNetwork
from kdsnn.errors import KdsnnError, OptionError, notice
from kdsnn.factory import is_factory

NIR_SETTINGS = {"dt", "method", "reset"}
"""What `nir` may say."""

MOST_STEPS = 1 << 16
"""A T that is larger is a slip: the run would take days, and memory in proportion."""

NOTICED_ERROR = 0.02
"""Of rounded weights, relative to them: 8 bits cost a third of that, and 4 four times as much."""

if TYPE_CHECKING:
    from torch import nn

    from exporters.graph import Array
    from kdsnn.deploy.normalization import Normalize

    NetworkSource: TypeAlias = "str | Path | nn.Module | TrainedNetwork | SpikingGraph | Lowered"
    """What can be lowered: a checkpoint, `.nir` or `.net` file, `package.module:factory`, a torch module made of SpikingJelly's
    layers, what `distill` returned, a graph, or what `lower` returned."""


def lower(
    source: NetworkSource,
    *,
    bits: int | None = None,
    input_bits: int = PIXEL_BITS,
    T: int | None = None,
    input_shape: tuple[int, ...] | None = None,
    weights: str | Path | None = None,
    calibrate: Any = None,
    calibration_samples: int = CALIBRATION_SAMPLES,
    nir: Mapping[str, Any] | None = None,
    input_coding: InputCoding | None = None,
    output: int | str | None = None,
    neuron_as: Mapping[str, str] | Sequence[str] | None = None,
    normalize: Normalize | None = None,
    encoder: Literal["chip", "host"] = "chip",
    exact: bool = False,
    name: str | None = None,
    progress: Progress = silent,
) -> Lowered:
    """Lower a network to its graphs, in float and quantized.

    Args:
        source: a checkpoint (`.safetensors`), a NIR or netx file (`.nir`, `.net`), `package.module:factory`, a torch module
            made of SpikingJelly's layers, what `distill` returned, or a `SpikingGraph`.
        bits: of a weight, 2 to 8; by default 8, or what a student was trained for.
        input_bits: of a pixel on the chip, 1 to 8.
        T: time steps, where the source does not say (a module, a factory, a bare `.net`), or others than a checkpoint was
            trained with.
        input_shape: (C, H, W), (C, L) or (F,) of one sample, for a module or a factory.
        weights: for a factory, a state dict (`.safetensors` or `.pt`), or a checkpoint that `distill` wrote, which also says
            `input_shape` and `T`.
        calibrate: quantize so that currents err least on training images of this data, see `load_data`; True: of the data that
            the network was trained on.
        calibration_samples: how many of them.
        nir: how to read a foreign `.nir` file: further arguments of `exporters.nir.read` (dt, method, reset).
        input_coding: what the network reads: "pixels", one image at every step, or "spikes", T frames of 0 and 1. For a module, a
            factory (both "pixels" by default), a foreign `.nir` file or a `.net` file that has no `.net.json` beside it.
        output: which of several outputs of a module counts: an index, a key or field, or a path of such ("logits", "0.spikes").
        neuron_as: what neuron a class of the network is whose arithmetic is hidden: {"my.LIFLayer":
            "LIF:tau=2,v_threshold=1"} or ["my.LIFLayer=LIF:tau=2,v_threshold=1"]; it is checked on random currents.
        normalize: what a module expects its images to be normalized with: a name ("imagenet", "cifar10", "cifar100", "mnist"),
            "0.1307/0.3081", or (mean, std), one number each or one per channel. Samples stay pixels in 0 to 1: the graph
            normalizes them itself.
        encoder: "host" keeps the first layer off the chip, in full precision; the chip reads its spikes.
        exact: round the float network's weights to a grid on which every float32 sum is exact in any order, so that torch and
            onnxruntime agree bit for bit; without it they carry the author's own weights, and differ where rounding decides.
        name: for file names and titles; by default the file's, the factory's or the module's.
        progress: told how far calibration is.

    Raises:
        KdsnnError, DeployError: missing, damaged or of another kind; one line each.
    """
    said = Brought(output, neuron_as, normalize, input_coding)
    _require_used(source, weights, calibrate, calibration_samples)
    if isinstance(source, Lowered):
        require_sayable(source, said, is_module=False)
        if bits is not None or calibrate is not None:
            raise KdsnnError(f"{source.name} is lowered already; give bits and calibrate where it is lowered")
        found = source
    else:
        how = Quantization(8 if bits is None else bits, input_bits, calibrate, calibration_samples, progress)
        _check(source, how, T, nir)
        found = _lower(source, how, bits, T, input_shape, weights, nir, said, name)
    _require_so(source, found, bits, input_bits, T, input_shape)
    if exact and found.exact is None:
        found = _on_grid(found)
    if encoder == "chip" or (found is source and found.encoder is not None):
        return found
    from kdsnn.deploy.host_encoder import on_host

    return on_host(found)


def _on_grid(network: Lowered) -> Lowered:
    """The network with its exact form too; what that costs is said."""
    from exporters.passes.exact import make_exact
    from kdsnn.deploy.faithful import drift_of

    if network.graph is None:
        raise OptionError(f"{{exact}}: {network.name} is quantized already, and computes with integers", exact=None)
    exact = make_exact(network.graph)
    notice(f"exact: {drift_of(network.graph, exact)}")
    return replace(network, exact=exact)


def _require_used(source: NetworkSource, weights: str | Path | None, calibrate: Any, calibration_samples: int) -> None:
    """Raise OptionError for what nothing would be done with."""
    require_factory(source, weights)
    if calibrate is None and calibration_samples != CALIBRATION_SAMPLES:
        raise OptionError(
            "{calibration_samples}: nothing is calibrated; add {calibrate}",
            calibration_samples=calibration_samples, calibrate=None,
        )  # fmt: skip


def _require_so(
    source: NetworkSource, found: Lowered, bits: int | None, input_bits: int, T: int | None, input_shape: tuple[int, ...] | None
) -> None:  # fmt: skip
    """Raise OptionError for what was said of a network and is not so, because the source says it itself."""
    graph = found.graph or found.chip
    if isinstance(graph, DeployError):
        return
    if T not in (None, graph.T):
        raise OptionError(f"{{T}}: {found.name} has T = {graph.T}; leave it out, or lower what it was made from", T=T)
    # axes of one are a matter of how a shape is written
    if input_shape is not None and [n for n in input_shape if n != 1] != [n for n in found.input_shape if n != 1]:
        own, given = (",".join(map(str, shape)) for shape in (found.input_shape, input_shape))
        raise OptionError(f"{{input_shape}}: {found.name} takes {own}; leave it out", input_shape=given)
    if input_bits != PIXEL_BITS and not graph.input.is_graded and found.encoder is None:
        raise OptionError(
            f"{{input_bits}}: {found.name} reads spikes of 0 and 1, not pixels; leave it out", input_bits=input_bits
        )
    if (found.graph is None or found is source) and not (
        bits in (None, found.bits)
        and (input_bits in (PIXEL_BITS, found.input_bits) or graph.input.scale == 2**input_bits - 1)
    ):
        option, value = ("input_bits", input_bits) if bits in (None, found.bits) else ("bits", bits)
        raise OptionError(
            f"{{{option}}}: {found.name} is quantized already; give what it was made from", **{option: value}
        )


def _check(source: NetworkSource, how: Quantization, T: int | None, nir: Mapping[str, Any] | None) -> None:
    suffix = Path(source).suffix if isinstance(source, str | Path) else ""
    if not (2 <= how.bits <= 8 and 1 <= how.input_bits <= 8):
        raise OptionError(
            "{bits} {input_bits}: weights have 2 to 8 bits, pixels 1 to 8", bits=how.bits, input_bits=how.input_bits
        )
    if T is not None and not 1 <= T <= MOST_STEPS:
        raise OptionError(f"{{T}}: it must be 1 to {MOST_STEPS:,} time steps", T=T)
    if nir and suffix != ".nir":
        called = str(source) if isinstance(source, str | Path) else f"a {type(source).__name__}"
        raise OptionError(f"{{nir}}: {called} is not a .nir file; leave it out", nir=None)


def _lower(
    source: Any, how: Quantization, bits: int | None, T: int | None, input_shape: tuple[int, ...] | None,
    weights: str | Path | None, nir: Mapping[str, Any] | None, said: Brought, name: str | None,
) -> Lowered:  # fmt: skip
    is_ours = isinstance(source, TrainedNetwork) or (weights is not None and trained_by_us(weights))
    is_text = isinstance(source, str | Path)
    is_graph = isinstance(source, SpikingGraph)
    require_sayable(source, said, is_module=not (is_ours or is_graph) and (not is_text or is_factory(str(source))))
    if isinstance(source, TrainedNetwork):
        return _trained(name or source.info.model, source, how, bits, T, {})
    if isinstance(source, SpikingGraph):
        return _with_chip(name or "network", None, source, how)
    if not isinstance(source, str | Path):
        return _module(name or type(source).__name__.lower(), source, input_shape, T, how, said, {})
    path, text = Path(source), str(source)
    if is_factory(text):
        if weights is not None and is_ours:
            return _trained(name or Path(weights).stem, load(weights, module=text), how, bits, T, {"factory": text})
        if input_shape is None or T is None:
            raise OptionError(
                f"{text}: a network from a factory needs {{input_shape}} (such as 3,32,32) and {{T}}", input_shape=None, T=None
            )  # fmt: skip
        module = module_of(text, weights)
        metadata = {"factory": text, "weights": Path(weights).name if weights else None}
        return _module(name or text.rpartition(":")[2], module, input_shape, T, how, said, metadata)
    if path.suffix in (".net", ".nir") and path.exists() and not path.is_file():  # a pipe would be waited for
        raise KdsnnError(f"{text}: it is a folder or a device; give a file")
    if path.suffix == ".net":
        return replace(_netx(path, how, T, said.input_coding), name=name or path.stem)
    if path.suffix == ".nir":
        from exporters import nir as nir_files

        try:
            if wrong := set(nir or ()) - NIR_SETTINGS:
                raise OptionError(f"{{nir}}: {min(wrong)} is none of {', '.join(sorted(NIR_SETTINGS))}", nir=None)
            read = nir_files.read(path, T=T, encoding=said.input_coding and said.encoding, **(nir or {}))
        except nir_files.CodingError as error:
            raise OptionError(f"{{input_coding}}: {error}", input_coding=said.input_coding) from error
        for warning in read.metadata.get("nir_warnings", ()):
            notice(warning)
        return _with_chip(name or path.stem, None, read, how)
    if path.suffix == ".safetensors":
        trained = load(path)
        return _trained(name or path.stem, trained, how, bits, T, {"checkpoint": path.name})
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
    return Lowered(path.stem, None, None, graph, encoder=beside(path, graph))


def _trained(
    name: str, trained: TrainedNetwork, how: Quantization, bits: int | None, T: int | None, metadata: dict[str, Any]
) -> Lowered:
    info = trained.info
    called = trained.path or name
    if not info.spiking or info.T is None:
        raise KdsnnError(f"{called}: this is an ANN ({info.model}); give a spiking student, which distill writes")
    if T not in (None, info.T):
        if info.over_time:
            raise OptionError(
                f"{{T}}: {called} reads {info.T} frames; give data cut into as many, and leave it out", T=T
            )
        notice(f"{called} was trained with T = {info.T}, not {T}")
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
    metadata |= {"class_names": list(info.class_names)} if info.class_names else {}
    noise = info.training.get("noise")
    metadata |= {"noise": dict(noise)} if isinstance(noise, Mapping) else {}
    return _module(
        name, trained.module, info.input_shape, T or info.T, how, Brought(input_coding=info.input_coding), metadata
    )


def _module(
    name: str, module: nn.Module, input_shape: tuple[int, ...] | None, T: int | None, how: Quantization, said: Brought,
    metadata: dict[str, Any],
) -> Lowered:  # fmt: skip
    from kdsnn.deploy.faithful import few_samples, proven

    if input_shape is None or T is None:
        raise OptionError(f"{name}: a module needs {{input_shape}} and {{T}}", input_shape=None, T=None)
    from kdsnn.train.calling import in_eval

    if any(parameter.is_meta for parameter in module.parameters()):
        raise KdsnnError(f"{name}: its weights are on the meta device, without values; load them first")
    with in_eval(module):
        module, made = lowered_module(name, module, require_shape(input_shape), T, said, metadata)
    for layer, text in made.notes.items():
        notice(f"{layer}: {text}")
    proof = proven(name, module, made.graph, made.calling)

    def on_images(x: Array) -> None:
        proven(name, module, made.graph, made.calling, x[: few_samples(made.graph)])

    return replace(_with_chip(name, module, made.graph, how, on_images), calling=made.calling, proof=proof)


def _with_chip(
    name: str, module: nn.Module | None, graph: SpikingGraph, how: Quantization,
    seen: Callable[[Array], None] | None = None,
) -> Lowered:  # fmt: skip
    if graph.is_integer:
        if how.data is not None:
            raise OptionError(
                f"{{calibrate}}: {name} is quantized already; calibrate what it was exported from", calibrate=how.data_name
            )  # fmt: skip
        return Lowered(name, module, None, graph)
    try:
        chip, scales, drifts = quantized(name, graph, how, seen)
    except DeployError as error:
        return Lowered(name, module, graph, error)
    worst = max(scales, key=lambda scale: scale.rms_error, default=None)
    # weights that were trained for so few bits lie on their grid: nothing is off
    if how.data is None and how.bits <= COARSE_BITS and worst is not None and worst.rms_error > NOTICED_ERROR:
        notice(
            f"{name}: rounded to {how.bits} bits, weights are off by up to {100 * worst.rms_error:.0f} % ({worst.name}, root mean "
            "square); calibrate fits thresholds and biases to what they became"
        )
    return Lowered(name, module, graph, chip, scales, drifts)


def requantized(network: Lowered, how: Quantization) -> Lowered:
    """The same network with its weights in other bits.

    Raises:
        OptionError: it was quantized on images that are not given again.
    """
    assert network.graph is not None  # the caller knows what can be quantized
    if how.data is None and network.calibrated and how.bits != network.bits:
        raise OptionError(
            f"{{bits}}: {network.name} was calibrated when it was lowered; add {{calibrate}}",
            bits=how.bits,
            calibrate=None,
        )
    try:
        chip, scales, drifts = quantized(network.name, network.graph, how)
    except DeployError as error:
        return replace(network, chip=error, layer_scales=(), layer_drifts=())
    return replace(network, chip=chip, layer_scales=scales, layer_drifts=drifts)
