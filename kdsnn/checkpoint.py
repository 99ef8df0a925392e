"""Checkpoints: one `.safetensors` file that holds a network's weights and all that is needed to use it.

The file is plain safetensors (no pickle, so opening one never runs code, not that of a factory that it names either); its
metadata has a single entry, `kdsnn-deploy`, a JSON object:

    {"format": 1, "info": {…CheckpointInfo…}, "info_sha256": …, "weights_sha256": …}

The two checksums turn any changed bit into an error instead of a network that is slightly wrong.
torch is imported only where weights are touched: `read_info` answers without it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import safetensors

from exporters.files import atomic_path
from kdsnn.digest import digest_json as _digest_json
from kdsnn.digest import digest_weights as _digest_weights
from kdsnn.errors import KdsnnError, UserError
from kdsnn.factory import is_factory
from kdsnn.train.config import LARGEST_T, TeacherFrames
from kdsnn.version import version as installed_version

if TYPE_CHECKING:
    from torch import Tensor, nn

    from kdsnn.data import DataSet

FORMAT = 1
KEY = "kdsnn-deploy"
PIXELS, SPIKES, MEAN = "pixels/255", "spikes", "mean of frames"
GRADED, GRADED_MEAN = "frames/255", "mean of frames/255"
EACH, GRADED_EACH = "each frame", "each frame/255"
"""What a network sees: uint8 pixels / 255, frame t of 0 and 1 at step t, or (an ANN) the mean of such frames or each of them
by itself; those with / 255 are the same of graded frames, of pixels / 255."""
OPTIONAL = ("quantized", "class_names", "reset")
"""Entries of the description that a file has only where they say something."""


@dataclass(frozen=True)
class CheckpointInfo:
    """What a network is, how it was trained and how well it does.

    * `model`, `options`: the arguments of `kdsnn.models.build`; `options` are plain JSON values, a
      sequence comes back as a tuple. Of any other module `model` is what `model_text` says, and `options` are empty.
    * `T` (time steps): None for an ANN. `readout`, `neuron`: of a spiking network that `kdsnn.models.build` makes;
      `reset`: None for a hard one, and then left out of the file, or "soft".
    * `input_shape` (C, H, W) of an image or a frame, `classes`, `preprocessing` (`PIXELS`, `SPIKES`, `MEAN`, …).
    * `class_names`: of the data set, in the order of the labels, or empty and then left out of the file.
    * `data`: the spec of the data set; `metrics`: name → value, accuracies in 0…1; `training`: method
      and configuration.
    * `quantized`: None, or for a student trained on a grid its `bits`, and the `layers` of which its weights are
      (`kdsnn.models.layer_list`), from which it is built whatever `model` is; for an ANN of few bits its `bits` (of a weight)
      and `activation_bits` (`kdsnn.models.quantized_activations`). Left out of the file where it is None.
    """

    model: str
    spiking: bool
    input_shape: tuple[int, int, int]
    classes: int
    data: str
    options: Mapping[str, Any] = field(default_factory=dict)
    readout: str | None = None
    neuron: str | None = None
    T: int | None = None
    preprocessing: str = PIXELS
    metrics: Mapping[str, float] = field(default_factory=dict)
    training: Mapping[str, Any] = field(default_factory=dict)
    version: str = field(default_factory=installed_version)
    quantized: Mapping[str, Any] | None = None
    class_names: tuple[str, ...] = ()
    reset: str | None = None

    @property
    def over_time(self) -> bool:
        """Whether its samples are frames over time (T, C, H, W)."""
        return self.preprocessing != PIXELS

    @property
    def graded(self) -> bool:
        """Whether its frames over time hold pixels, not 0 and 1."""
        return self.preprocessing in (GRADED, GRADED_MEAN, GRADED_EACH)

    @property
    def frames(self) -> TeacherFrames:
        """What an ANN sees of frames over time."""
        return "each" if self.preprocessing in (EACH, GRADED_EACH) else "mean"

    @property
    def input_coding(self) -> Literal["pixels", "frames", "spikes"]:
        """What a spiking network reads, as `kdsnn.lower` calls it."""
        return "pixels" if self.encoding == "direct" else self.encoding

    @property
    def encoding(self) -> Literal["direct", "frames", "spikes"]:
        """What a spiking network reads at a step: the image, the same at every one, or the pixels or spikes of frame t."""
        return "spikes" if self.preprocessing == SPIKES else "frames" if self.graded else "direct"

    def build(self) -> nn.Module:
        """The network described, with fresh weights.

        Raises KdsnnError as `kdsnn.models.build` does, and for a network of the user's own; `layers` that make no network,
        errors as `kdsnn.models.folded.described`.
        """
        from kdsnn.models import MODELS, build
        from kdsnn.models.folded import described

        if self.model in MODELS:
            kinds: dict[str, Any] = {"readout": self.readout, "neuron": self.neuron} if self.spiking else {}
            kinds |= {"reset": self.reset} if self.reset else {}
            kinds |= {"input_shape": self.input_shape, "classes": self.classes}
            network = build(self.model, spiking=self.spiking, **kinds, **self.options)
            if self.quantized is None or not self.spiking:
                return self.prepared(network)
            return described(self.quantized["layers"], network.taps, self.input_shape, self.classes)
        if self.quantized is not None and self.spiking:
            return described(self.quantized["layers"], (), self.input_shape, self.classes)
        if is_factory(self.model):
            raise KdsnnError(
                f"{self.model} makes it, code of yours that reading a file does not run: "
                f"give {self.model} as the network and this file as its weights"
            )
        raise KdsnnError(
            "it is no architecture of this version and names no factory: give the module itself, "
            "kdsnn.checkpoint.load(path, module=…)"
        )

    def prepared(self, module: nn.Module) -> nn.Module:
        """A module of an ANN with the activations that it was trained with, in place; any other as it is.

        Raises KdsnnError where they do not fit it.
        """
        if self.quantized is None or self.spiking:
            return module
        from kdsnn.models.quantized_activations import quantize_activations

        return quantize_activations(module, self.quantized["activation_bits"])


def preprocessing_of(data: DataSet, *, spiking: bool, frames: TeacherFrames) -> str:
    """What `CheckpointInfo.preprocessing` says of a network that was trained on the data."""
    if data.T is None:
        return PIXELS
    if spiking:
        return GRADED if data.graded else SPIKES
    by_itself = frames == "each"
    return (GRADED_MEAN, GRADED_EACH)[by_itself] if data.graded else (MEAN, EACH)[by_itself]


def model_text(module: nn.Module, factory: str | None = None) -> str:
    """What `CheckpointInfo.model` says of a module that is not of `kdsnn.models`: its factory, or its class."""
    return factory or f"a torch module ({type(module).__name__})"


def save(path: str | Path, module: nn.Module, info: CheckpointInfo) -> None:
    """Write `module`'s weights and `info` to `path`, whole or not at all.

    Raises KdsnnError when the module keeps something in its state that is no tensor, when a weight is NaN or infinite,
    or when the folder cannot be written.
    """
    from safetensors.torch import save_file

    path = Path(path)
    weights = _weights(path, module)
    _require_finite(path, weights)
    described = asdict(info)
    for name in OPTIONAL:
        if not described[name]:
            del described[name]
    header = {
        "format": FORMAT,
        "info": described,
        "info_sha256": _digest_json(described),
        "weights_sha256": _digest_weights(weights),
    }
    try:
        with atomic_path(path) as temporary:
            save_file(weights, temporary, metadata={KEY: json.dumps(header, allow_nan=False)})
    except (OSError, safetensors.SafetensorError) as error:
        reason = getattr(error, "strerror", None) or error
        raise KdsnnError(f"{path}: cannot be written ({reason}): make room there, or choose another place.") from error


def read_info(path: str | Path) -> CheckpointInfo:
    """The description alone, without reading weights or importing torch; raises KdsnnError as `load` does."""
    path = Path(path)
    try:
        _require_file(path)
        with safetensors.safe_open(path, framework="numpy") as file:
            return _info(path, _header(path, file.metadata()))
    except (OSError, safetensors.SafetensorError) as error:
        raise _unreadable(path, error) from error


def load(path: str | Path, module: nn.Module | None = None) -> tuple[nn.Module, CheckpointInfo]:
    """Rebuild the network of `path` on the CPU, in eval mode; or load its weights into `module`, in place.

    A module that is not of `kdsnn.models` has to be given: a file never says which code is run.

    Raises KdsnnError, naming the file and what to do, when it is missing, is not a checkpoint of
    this project, is damaged or cut short, or holds weights that do not fit the network or are not finite; and when
    the network cannot be built.
    """
    import torch

    path = Path(path)
    try:
        _require_file(path)
        with safetensors.safe_open(path, framework="pt") as file:
            header = _header(path, file.metadata())
            info = _info(path, header)
            weights = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a dict
    except (OSError, safetensors.SafetensorError) as error:
        raise _unreadable(path, error) from error
    if header["weights_sha256"] != _digest_weights(weights):
        raise _damaged(path)
    _require_finite(path, weights)
    given = module is not None
    if module is None:
        with torch.random.fork_rng(devices=[]):  # its initial weights are not kept, nor is what they drew
            module = _build(path, info)
    else:
        module = info.prepared(module)
    _require_fit(path, info, module, weights, given=given)
    module.load_state_dict(weights)
    return module.eval(), info


def _header(path: Path, metadata: Mapping[str, str] | None) -> dict[str, Any]:
    """The JSON object of the file, its checksum verified."""
    if not metadata or KEY not in metadata:
        raise KdsnnError(
            f"{path}: a safetensors file, but not a checkpoint of kdsnn-deploy: use one that pretrain or distill wrote."
        )
    try:
        header = json.loads(metadata[KEY])
        if header["format"] != FORMAT:
            raise KdsnnError(
                f"{path}: checkpoint format {header['format']}, this version reads {FORMAT}: use a matching kdsnn-deploy."
            )
        intact = header["info_sha256"] == _digest_json(header["info"]) and isinstance(header["weights_sha256"], str)
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise _damaged(path) from error
    if not intact:
        raise _damaged(path)
    return dict(header)


def _info(path: Path, header: Mapping[str, Any]) -> CheckpointInfo:
    values = header["info"]
    try:
        entries = {f.name for f in fields(CheckpointInfo)}
        if not entries - set(OPTIONAL) <= set(values) <= entries:
            raise TypeError("its entries are not those of this format")
        listed = [n for n in ("input_shape", "options", "training", "quantized", "class_names") if n in values]
        info = CheckpointInfo(**{**values, **{name: _tuples(values[name]) for name in listed}})
        _require_types(info)
    except (TypeError, ValueError) as error:
        raise KdsnnError(f"{path}: its description cannot be used ({error}): train it again.") from error
    return info


def _require_types(info: CheckpointInfo) -> None:
    """Raise TypeError or ValueError where JSON carried another type than the annotation says."""
    optional_str, optional_int = (str, type(None)), (int, type(None))
    expected: dict[str, type | tuple[type, ...]] = {
        "model": str, "spiking": bool, "classes": int, "data": str, "options": dict, "readout": optional_str,
        "neuron": optional_str, "T": optional_int, "preprocessing": str, "metrics": dict, "training": dict,
        "version": str, "quantized": (dict, type(None)), "class_names": tuple, "reset": optional_str,
    }  # fmt: skip
    for name, types in expected.items():
        if not isinstance(getattr(info, name), types):
            raise TypeError(f"'{name}' has the wrong type")
    if len(info.input_shape) != 3 or not all(isinstance(n, int) and n > 0 for n in (*info.input_shape, info.classes)):
        raise ValueError("input shape and classes must be positive whole numbers")
    of_anns = (PIXELS, MEAN, GRADED_MEAN, EACH, GRADED_EACH)
    if info.preprocessing not in ((PIXELS, SPIKES, GRADED) if info.spiking else of_anns):
        raise ValueError(f"preprocessing '{info.preprocessing}' is unknown for a network of this kind")
    if not all(isinstance(value, int | float) for value in info.metrics.values()):
        raise TypeError("'metrics' has the wrong type")
    if info.spiking and (info.T is None or info.T < 1):
        raise ValueError("a spiking network needs T")
    if info.T is not None and info.T > LARGEST_T:
        raise ValueError(f"T is {info.T}, and {LARGEST_T:,} time steps are the most")
    if not all(isinstance(name, str) for name in info.class_names) or len(info.class_names) not in (0, info.classes):
        raise ValueError(f"there must be {info.classes} class names, or none")
    if info.quantized is not None:
        _require_layers(info, info.quantized)


def _require_layers(info: CheckpointInfo, quantized: Mapping[str, Any]) -> None:
    if not info.spiking:
        bits, activations = quantized.get("bits"), quantized.get("activation_bits")
        if len(quantized) != 2 or bits not in range(2, 9) or activations not in range(1, 9):
            raise ValueError("a quantized ANN has weights of 2 to 8 bits and activations of 1 to 8")
        return
    layers = quantized.get("layers")
    if quantized.keys() != {"bits", "layers"} or quantized["bits"] not in range(2, 9):
        raise ValueError("a quantized student has 2 to 8 bits and layers")
    if not isinstance(layers, tuple) or not all(isinstance(one, dict) for one in layers):
        raise TypeError("'layers' has the wrong type")


_CANNOT_BUILD = (UserError, TypeError, ValueError, LookupError, AttributeError, ArithmeticError, RuntimeError)
"""What Python and torch raise where layers listed in a file make no network."""


def _build(path: Path, info: CheckpointInfo) -> nn.Module:
    try:
        return info.build()
    except (*_CANNOT_BUILD, MemoryError) as error:
        reason = " ".join(str(error).split())
        raise KdsnnError(f"{path}: the network it describes, '{info.model}', cannot be built: {reason}") from error


def _weights(path: Path, module: nn.Module) -> dict[str, Tensor]:
    """A module's state on the CPU, every tensor in memory of its own: safetensors refuses what two names share."""
    import torch

    weights: dict[str, Tensor] = {}
    taken: set[int] = set()
    for name, value in module.state_dict().items():
        if not isinstance(value, torch.Tensor):
            raise KdsnnError(
                f"{path}: '{name}' in the module's state is a {type(value).__name__}: a checkpoint holds tensors only."
            )
        tensor = value.detach().cpu().contiguous()
        memory = tensor.untyped_storage().data_ptr()
        weights[name] = tensor.clone() if memory in taken else tensor
        taken.add(memory)
    return weights


def _require_fit(
    path: Path, info: CheckpointInfo, module: nn.Module, weights: Mapping[str, Tensor], *, given: bool
) -> None:
    """Raise KdsnnError where the weights are not a module's, which is the user's own where it is `given`."""
    expected = {name: (tuple(t.shape), t.dtype) for name, t in _weights(path, module).items()}
    found = {name: (tuple(t.shape), t.dtype) for name, t in weights.items()}
    wrong = sorted(name for name in expected.keys() | found.keys() if expected.get(name) != found.get(name))
    if wrong:
        name = wrong[0]
        where, remedy = f"'{info.model}'", f"use the version that wrote it ({info.version}) or train it again"
        if given:
            where, remedy = f"the network that is given, they are those of '{info.model}'", "give its own checkpoint"
        raise KdsnnError(
            f"{path}: weights do not fit {where}: {name} is {_shape(found.get(name))} in the file and "
            f"{_shape(expected.get(name))} in the network ({len(wrong)} differ): {remedy}."
        )


def _shape(entry: tuple[tuple[int, ...], Any] | None) -> str:
    return f"{entry[1]} {entry[0]}" if entry else "absent"


def _require_finite(path: Path, weights: Mapping[str, Tensor]) -> None:
    import torch

    for name, tensor in weights.items():
        if tensor.is_floating_point() and not torch.isfinite(tensor).all():
            raise KdsnnError(f"{path}: weight {name} is NaN or infinite: train again, with a lower learning rate.")


def _tuples(value: Any) -> Any:
    """JSON has no tuples; options come back as the tuples they were, so that info round-trips."""
    if isinstance(value, list):
        return tuple(_tuples(v) for v in value)
    return {k: _tuples(v) for k, v in value.items()} if isinstance(value, dict) else value


def _require_file(path: Path) -> None:
    """Raise OSError for a folder or a device, before a pipe is waited for."""
    if path.exists() and not path.is_file():
        raise OSError("it is a folder or a device")


def _unreadable(path: Path, error: Exception) -> KdsnnError:
    if isinstance(error, FileNotFoundError):
        return KdsnnError(f"{path}: no such file: give a checkpoint that pretrain or distill wrote.")
    return KdsnnError(
        f"{path}: not a readable .safetensors file ({error}): it is of another kind, cut short or damaged; "
        f"copy it again or train it again."
    )


def _damaged(path: Path) -> KdsnnError:
    return KdsnnError(f"{path}: the file is damaged (its checksum does not match): copy it again or train it again.")
