"""The verb `export`: write a network as ONNX, netx, NIR and for SANA-FE, read it back, verify every spike."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar

import numpy as np

from exporters.errors import DeployError
from kdsnn.deploy.brought import require_unlowered
from kdsnn.deploy.formats import FORMATS, FORMS, FormatName, Wanted, WrittenFile
from kdsnn.deploy.images import random_samples
from kdsnn.deploy.load import ann_of
from kdsnn.deploy.lower import lower
from kdsnn.deploy.lowered import Lowered
from kdsnn.deploy.places import require_other, sole_writer, writable_folder
from kdsnn.deploy.progress import Progress, silent
from kdsnn.deploy.proof import prove
from kdsnn.deploy.quantization import drift_rows, quantization_table
from kdsnn.deploy.tables import Result
from kdsnn.deploy.trained import TrainedNetwork
from kdsnn.errors import OptionError, UserError
from profilers.text_table import TextTable, table

if TYPE_CHECKING:
    from exporters.graph import Array, SpikingGraph
    from exporters.onnx import Form
    from kdsnn.deploy.lower import NetworkSource

VERIFY_SAMPLES = 16
"""Random samples on which what was read back is compared."""

VERIFY_SPIKES = 2**23
"""Fewer samples do where they hold more spikes together than these."""


@dataclass(frozen=True)
class ExportedFile:
    """One file that was written.

    Attributes:
        format: "onnx", "netx", "nir" or "sanafe".
        path: where.
        bytes: its size.
        contents: what it holds, in words.
        verified: spikes of all layers that were compared with the network it was made from.
        mismatches: how many of them differ: none, or the file would not be there.
        ties: how many differ where rounding decides, in a file whose runtime adds up in another order; not mismatches.
    """

    format: str
    path: str
    bytes: int
    contents: str
    verified: int = 0
    mismatches: int = 0
    ties: int = 0


@dataclass(frozen=True)
class UnwrittenFile:
    """One file that was asked for and that its format cannot be.

    Attributes:
        format: "onnx", "netx", "nir" or "sanafe".
        reason: what the format cannot express, by name.
        without: what to leave out, so that the rest is written and nothing is missing.
    """

    format: str
    reason: str
    without: str


class VerificationError(DeployError):
    """What was written does not compute what it was made from: a defect of this program, and no limit of a format."""


@dataclass(frozen=True, eq=False, repr=False)
class ExportResult(Result):
    """The files that were written, and those that could not be.

    Attributes:
        source: what was exported, as it is called.
        files: one entry each.
        unwritten: one entry for each that its format cannot express.
        quantization: how each synapse layer was quantized, where a file holds integers.
        bits: of a weight in those files.
    """

    source: str
    files: tuple[ExportedFile, ...]
    quantization: tuple[Mapping[str, Any], ...] = ()
    bits: int | None = None
    unwritten: tuple[UnwrittenFile, ...] = ()

    @property
    def ok(self) -> bool:
        """False where something that was asked for could not be written."""
        return not self.unwritten

    def tables(self) -> tuple[TextTable, ...]:
        """The files, what could not be written and why, and how the network was quantized."""
        from profilers.report.numbers import quantity

        cells = [
            [f.format, f.path, quantity(f.bytes, "B", trim=True), f.contents, str(f.verified or "–"), _differing(f)]
            for f in self.files
        ]
        cells += [
            [f.format, "–", "–", f"not written: {f.reason} (leave out {f.without} to write the rest alone)", "–", "–"]
            for f in self.unwritten
        ]
        columns = ["format", "file", "size", "contents", "spikes verified", "mismatches"]
        found = [table(f"exported {self.source}", columns, cells)]
        if self.quantization:
            found.append(quantization_table(f"quantized to {self.bits} bits", [dict(q) for q in self.quantization]))
        return tuple(found)

    def rows(self) -> list[dict[str, Any]]:
        """One row per file."""
        return [asdict(f) for f in self.files]

    def to_dict(self) -> dict[str, Any]:
        """Files, those that could not be written, and quantization."""
        unwritten = [asdict(f) for f in self.unwritten]
        return {"files": self.rows(), "unwritten": unwritten, "quantization": list(self.quantization)}


def export(
    source: NetworkSource,
    out: str | Path,
    *,
    to: FormatName | Sequence[FormatName] = ("onnx", "netx"),
    form: Form | Sequence[Form] = ("sequence",),
    quantized: bool = False,
    opset: int | None = None,
    encoder: Literal["chip", "host"] = "chip",
    verify: bool = True,
    seed: int = 0,
    progress: Progress = silent,
    **lowering: Any,
) -> ExportResult:
    """Write a spiking network as ONNX, netx (`.net`), NIR or for SANA-FE, read it back and verify every spike of every layer.

    The checkpoint of an ANN teacher is written as plain ONNX and verified by its logits.

    Args:
        source: whatever `lower` takes, or what it returned.
        out: the folder to write into; made if missing.
        to: the format, or several.
        form: of ONNX models: "sequence" (T fixed), "loop" (T an input), "step" (states explicit).
        quantized: of ONNX, the integer network too, bit-identical to the emulator and Lava.
        opset: of ONNX models, 18 to 23; None for 20.
        encoder: "host" keeps the first layer off the chip: netx without it, and an ONNX encoder beside it.
        verify: run what was written against the network it came from.
        seed: of the random samples that it is verified on.
        progress: told how far calibration is.
        **lowering: of `lower`, for a source that is not lowered yet.

    Returns:
        The files; where a format cannot express the network the others are written, and `unwritten` says why.

    Raises:
        KdsnnError, DeployError: a network that none of the formats can express, by name; a file that does not verify,
            and is removed.
    """
    out = Path(out)
    to, form = _each(to), _each(form)
    for name in to:
        if name not in FORMATS:
            raise OptionError(f"{{to}}: no such format; choose from {', '.join(FORMATS)}", to=name)
    for shape in form:
        if shape not in FORMS:
            raise OptionError(f"{{form}}: no such form; choose from {', '.join(FORMS)}", form=shape)
    if opset is not None:
        _require_opset(opset, to)
    if not 0 <= seed < 2**32:
        raise OptionError("{seed}: it must be 0 to 2^32 - 1", seed=seed)
    if encoder == "host" and "netx" not in to:
        raise OptionError("{encoder}: it divides the network for the chip; add {to}", encoder="host", to="netx")
    writable_folder(out)
    holds_integers = "netx" in to or "sanafe" in to or (quantized and "onnx" in to)
    ann = ann_of(source)
    if ann is not None:
        called = str(source) if isinstance(source, str | Path) else ann.info.model
        said = {"form": None if form == ("sequence",) else form, "quantized": quantized, "encoder": encoder}
        require_unlowered(called, {**lowering, **said}, "an ANN")
        return _exported_ann(ann, called, out, to, opset)
    _require_used(to, form, quantized, holds_integers, lowering)
    if isinstance(source, str | Path) and Path(source).suffix in {FORMATS[name].suffix for name in to}:
        require_other(out / Path(source).name, "out", source)
    network = lower(source, progress=progress, **lowering)
    called = str(source) if isinstance(source, str | Path) else network.name
    split = lower(network, encoder=encoder)
    files, unwritten = _write_all(network, split, _wanted(to, form, quantized, opset), out, verify, seed)
    if not holds_integers:
        return ExportResult(called, files, unwritten=unwritten)
    scales = split.layer_scales if set(to) == {"netx"} else network.layer_scales
    return ExportResult(called, files, tuple(drift_rows(scales, network.layer_drifts)), network.bits, unwritten)


Name = TypeVar("Name", bound=str)


def _each(named: Name | Sequence[Name]) -> tuple[Name, ...]:
    """One name or several, each once."""
    several: Sequence[Name] = (named,) if isinstance(named, str) else named
    return tuple(dict.fromkeys(several))


def _require_used(
    to: Sequence[FormatName], form: Sequence[Form], quantized: bool, holds_integers: bool, lowering: Mapping[str, Any]
) -> None:
    """Raise OptionError for what none of the files would show."""
    for option in ("calibrate", "bits"):
        value = lowering.get(option)
        if value is not None and not holds_integers:
            raise OptionError(
                f"{{{option}}}: no file holds the quantized network; add {{to}}, or {{quantized}} for ONNX",
                to="netx", quantized=None, **{option: None if value is True else value},
            )  # fmt: skip
    for option, given in (("form", tuple(form) != ("sequence",)), ("quantized", quantized)):
        if given and to and "onnx" not in to:
            raise OptionError(f"{{{option}}}: no ONNX model is asked for; add {{to}}", to="onnx", **{option: None})


def _require_opset(opset: int, to: Sequence[FormatName]) -> None:
    from exporters.onnx import OPSETS

    if opset not in OPSETS:
        raise OptionError(
            f"{{opset}}: models are written in opset {OPSETS[0]} to {OPSETS[-1]}; choose one of these", opset=opset
        )
    if "onnx" not in to:
        raise OptionError("{opset}: no ONNX model is asked for; add {to}", opset=opset, to="onnx")


def _wanted(to: Sequence[FormatName], form: Sequence[Form], quantized: bool, opset: int | None) -> list[Wanted]:
    """The files to write, netx first, which expresses the least.

    Raises:
        OptionError: there are none.
    """
    found: list[Wanted] = []
    for name in sorted(to, key=lambda name: name != "netx"):
        if name != "onnx":
            found.append(Wanted(name, opset=opset))
            continue
        found += [
            Wanted(name, shape, integer, opset)
            for shape in form
            for integer in ([False, True] if quantized else [False])
        ]
    if not found:
        raise OptionError("{to} {form}: they name no file to write", to=None, form=None)
    return found


def _write_all(
    network: Lowered, split: Lowered, wanted: Sequence[Wanted], out: Path, verify: bool, seed: int
) -> tuple[tuple[ExportedFile, ...], tuple[UnwrittenFile, ...]]:
    """Write every file that can be; where the encoder runs on the host, netx from the rest, and the encoder as ONNX beside it.

    Raises:
        KdsnnError, DeployError: the first reason, where no format can express the network.
    """
    written: list[ExportedFile] = []
    refusals: list[tuple[Wanted, UserError]] = []
    with sole_writer(out / network.name):
        for one in wanted:
            try:
                written.append(write(split if one.format == "netx" else network, one, out, verify=verify, seed=seed))
            except VerificationError:
                raise
            except UserError as error:
                refusals.append((one, error))
        if not written:
            raise refusals[0][1]
        if split.encoder is not None and split.encoder.graph is not None and written[0].format == "netx":
            host = replace(network, name=f"{network.name}.encoder", exact=split.encoder.graph)
            written.append(write(host, Wanted("onnx", opset=wanted[0].opset), out, verify=verify, seed=seed))
    unwritten = (
        UnwrittenFile(one.format, " ".join(str(error).split()), "the quantized model" if one.integer else one.format)
        for one, error in refusals
    )
    return tuple(written), tuple(dict.fromkeys(unwritten))  # what every form of a format has, once


def write(network: Lowered, wanted: Wanted, out: Path, *, verify: bool = True, seed: int = 0) -> ExportedFile:
    """Write one file, verify it on random input, and delete it again if it does not verify.

    Raises:
        DeployError: it cannot be expressed.
        VerificationError: what was read back differs.
    """
    written = FORMATS[wanted.format].write(network, wanted, out)
    path = written.path
    file = ExportedFile(wanted.format, str(path), path.stat().st_size, written.contents)
    if not verify or written.run is None:
        return file
    verified = _proven(written, seed) if written.rounds else _compared(written, seed)
    file = replace(file, verified=verified.compared, mismatches=verified.mismatches, ties=verified.ties)
    if file.mismatches:
        path.unlink()
        path.with_name(f"{path.name}.json").unlink(missing_ok=True)
        raise VerificationError(
            f"{path}: {file.mismatches} of {file.verified} spikes differ from the network it was made from; "
            "the file was removed. Please report this with the checkpoint"
        )
    return file


@dataclass(frozen=True)
class _Verified:
    """Spikes compared, and of them those that differ, and that differ where rounding decides."""

    compared: int
    mismatches: int
    ties: int = 0


def _random(graph: SpikingGraph, seed: int) -> Array:
    """What a file is verified on."""
    from profilers.counting.sizes import samples_within

    return random_samples(graph, min(VERIFY_SAMPLES, samples_within(VERIFY_SPIKES, graph)), seed)


def _compared(written: WrittenFile, seed: int) -> _Verified:
    """Every spike of every layer that the file holds against the emulator's; what runs on the host it does not hold."""
    from hardware import emulator

    graph = written.graph
    x = _random(graph, seed)
    recorder = emulator.Recorder(graph)
    emulator.run(graph, graph.encode(x), observe=recorder)
    assert written.run is not None
    found = written.run(x)
    held = {name: spikes for name, spikes in recorder.spikes.items() if name in found or not written.partial}
    compared = sum(spikes.size for spikes in held.values())
    wrong = sum(int((found[name] != spikes).sum()) for name, spikes in held.items())
    return _Verified(compared, wrong)


def _proven(written: WrittenFile, seed: int) -> _Verified:
    """Every layer by itself, on the spikes that the file's own run gave to it, so that no tie spreads."""
    graph = written.graph
    assert written.run is not None
    x = _random(graph, seed)
    found = written.run(x)
    output = found[graph.output_name]
    sums = graph.output.readout == "membrane" and graph.output.sums
    steps = np.diff(output, axis=1, prepend=0) if sums else output
    layers = {name: found[name] for name in graph.neurons}
    proof = prove(graph, graph.encode(x), layers, steps, roundoff=2.0**-24, coarse=True)
    return _Verified(proof.compared, proof.differences, proof.ties)


def _differing(file: ExportedFile) -> str:
    from profilers.report.cells import plural

    return f"{file.mismatches}, {plural(file.ties, 'tie')}" if file.ties else str(file.mismatches)


def _exported_ann(
    ann: TrainedNetwork, called: str, out: Path, to: Sequence[FormatName], opset: int | None
) -> ExportResult:
    if "onnx" not in to or {"nir", "sanafe"} & set(to):  # netx is among those that are written where nobody says
        raise OptionError(f"{{to}}: {called} is an ANN, which is written as onnx alone", to=",".join(to))
    stem = Path(ann.path).stem if ann.path else ann.info.model
    with sole_writer(out / stem):
        return ExportResult(called, (_write_teacher(ann, out / f"{stem}.onnx", opset),))


def _write_teacher(ann: TrainedNetwork, path: Path, opset: int | None) -> ExportedFile:
    """An ANN as ONNX, verified against torch by its logits."""
    from exporters.onnx import OPSET, write_ann

    info = ann.info
    source = {
        "source": str(ann.path or info.model), "model": info.model, "data": info.data, "preprocessing": info.preprocessing,
        "metrics": dict(info.metrics),
    }  # fmt: skip
    source |= {"class_names": list(info.class_names)} if info.class_names else {}
    error = write_ann(ann.module, info.input_shape, path, opset=opset or OPSET, source=source)
    return ExportedFile("onnx", str(path), path.stat().st_size, f"ANN, largest logit error {error:.1e}")
