"""What a user says about a network that he brings: what its neurons are, which output counts, what it reads."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from kdsnn.deploy.normalization import normalization, normalizing
from kdsnn.errors import OptionError

if TYPE_CHECKING:
    from torch import nn

    from exporters.from_torch import LoweredModule
    from exporters.graph import Encoding
    from kdsnn.deploy.normalization import Normalize

InputCoding = Literal["pixels", "spikes", "frames"]
"""What a network reads: the image at every time step, or T frames of 0 and 1, or T frames of graded values."""

ENCODINGS: Mapping[str, Encoding] = {"pixels": "direct", "frames": "frames", "spikes": "spikes"}
"""Input coding → what graphs call it."""

PIXEL_BITS, CALIBRATION_SAMPLES = 8, 512
"""Unless something else is said."""

DECLARATION = "CLASS=KIND:NAME=VALUE,…, such as my.LIFLayer=LIF:tau=2,v_threshold=1"


@dataclass(frozen=True)
class Brought:
    """What was said, each None where nothing was.

    Attributes:
        output: which of several outputs counts, an index, a key, or a path of them.
        neuron_as: class → what neuron it is, or texts CLASS=KIND:….
        normalize: what the network expects its images to be normalized with.
        input_coding: what it reads.
    """

    output: int | str | None = None
    neuron_as: Mapping[str, str] | Sequence[str] | None = None
    normalize: Normalize | None = None
    input_coding: InputCoding | None = None

    @property
    def encoding(self) -> Encoding:
        """The input coding as graphs call it, pixels where nothing was said."""
        return ENCODINGS[self.input_coding or "pixels"]

    def declared(self) -> dict[str, str]:
        """Class → "LIF:tau=2,v_threshold=1".

        Raises:
            OptionError: a text without a class, or a class that is declared twice.
        """
        given = self.neuron_as or {}
        if isinstance(given, Mapping):
            return dict(given)
        found: dict[str, str] = {}
        for text in [given] if isinstance(given, str) else given:
            name, equals, kind = text.partition("=")
            if not (name.strip() and equals and kind.strip()):
                raise OptionError(f"{{neuron_as}}: it must read {DECLARATION}", neuron_as=text[:100])
            if name.strip() in found:
                raise OptionError(
                    f"{{neuron_as}}: {name.strip()} is declared twice; leave one out", neuron_as=text[:100]
                )
            found[name.strip()] = kind.strip()
        return found


def require_sayable(source: Any, said: Brought, *, is_module: bool) -> None:
    """Refuse what cannot be said of a source.

    Args:
        source: as `lower` takes it.
        said: about it.
        is_module: whether it is a torch module that this program did not train, or a factory of one.

    Raises:
        OptionError: an option that says what the source itself says, or what it has not.
    """
    suffix = Path(source).suffix if isinstance(source, str | Path) else ""
    called = str(source) if isinstance(source, str | Path) else getattr(source, "name", type(source).__name__)
    if not is_module:
        for option in ("output", "neuron_as", "normalize"):
            if getattr(said, option) not in (None, [], (), {}):
                raise OptionError(
                    f"{{{option}}}: {called} is no torch network of your own, which alone takes it; leave it out",
                    **{option: None},
                )
    if said.input_coding not in (None, *ENCODINGS):
        raise OptionError(f"{{input_coding}}: it must be {', '.join(ENCODINGS)}", input_coding=said.input_coding)
    if said.input_coding is not None and not is_module and suffix not in (".net", ".nir"):
        raise OptionError(
            f"{{input_coding}}: {called} says itself what it reads; leave it out", input_coding=said.input_coding
        )


def require_unlowered(called: Any, lowering: Mapping[str, Any], kind: str, *, takes: Sequence[str] = ()) -> None:
    """Refuse options of `lower` that change nothing, of an ANN or a finished model.

    Args:
        called: the network.
        lowering: the options.
        kind: what it is.
        takes: the options that do say something of it.

    Raises:
        OptionError: one of the others is given.
    """
    usual = {"encoder": "chip", "input_bits": PIXEL_BITS, "calibration_samples": CALIBRATION_SAMPLES}
    for option, value in lowering.items():
        empty = value is None or value is False or (isinstance(value, list | tuple | dict) and not value)
        if not (empty or option in ("name", *takes) or (option in usual and value == usual[option])):
            raise OptionError(
                f"{{{option}}}: {called} is {kind}, which it does not change; leave it out", **{option: None}
            )


def lowered_module(
    name: str, module: nn.Module, shape: tuple[int, ...], T: int, said: Brought, metadata: Mapping[str, Any]
) -> tuple[nn.Module, LoweredModule]:
    """A torch network lowered as its user says, and the module that is to be run beside it.

    Raises:
        OptionError: what was said is not so.
        LoweringError: the network has no graph.
    """
    from exporters.from_torch import LoweringError, lower_module
    from exporters.from_torch.declared import parsed
    from exporters.from_torch.refusals import ONE_TENSOR, SeveralOutputsError

    how = normalization(said.normalize, shape)
    if how is not None and said.encoding == "spikes":
        raise OptionError(
            f"{{normalize}}: {name} reads spikes of 0 and 1, not pixels; leave it out", normalize=how.name
        )
    facts: dict[str, Any] = dict(metadata)
    if how is not None:
        module = normalizing(module, how, shape)
        facts["normalized"] = how.facts()
    declared = said.declared()
    try:
        parsed(declared)
    except LoweringError as error:
        raise OptionError(f"{{neuron_as}}: {error}", neuron_as=None) from error
    _require_met(module, declared)
    try:
        made = lower_module(module, shape, T, encoding=said.encoding, output=said.output, neuron_as=declared, **facts)
    except SeveralOutputsError as error:
        given = said.output
        if error.returned == ONE_TENSOR:
            raise OptionError(f"{{output}}: {name} returns {error.returned}; leave it out", output=given) from error
        raise OptionError(
            f"{{output}}: {name} returns {error.returned}; name one tensor of it by index, key or path", output=given
        ) from error
    return module, made


def _require_met(module: nn.Module, declared: Mapping[str, str]) -> None:
    """A declared class that the network has not is a slip of the pen."""
    from exporters.from_torch.watching import is_called, modules_of, unwrapped

    modules = [m for _, m in modules_of(unwrapped(module))]
    for name in declared:
        if not any(is_called(m, (name,)) for m in modules):
            kinds = sorted({type(m).__qualname__ for m in modules if not list(m.children())})
            raise OptionError(
                f"{{neuron_as}}: the network has no module of class {name}; its modules are {', '.join(kinds[:12])}",
                neuron_as=name,
            )
