"""The file formats as a table: what each is called, and how a network is written, read back and checked.

An entry names functions of one package (`exporters.onnx`, `.netx`, `.nir`), which is loaded when one of them is called, so that the table
costs nothing to ask. To add a format is to add its package and an entry.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from exporters.errors import DeployError

if TYPE_CHECKING:
    from exporters.graph import SpikingGraph


@dataclass(frozen=True)
class Format:
    """A format is one way to keep a network in a file.

    Attributes:
        name: as users write it.
        suffix: how its files end.
        integers_only: only a quantized network can be written.
        write: (graph, path, options of the format's own) → the path. Raises DeployError for what the format cannot hold, by name.
        read: (path, options of the format's own) → the network again; None where a file is run as it is and never becomes a graph.
        check: path → what is wrong with a file, one line each, without running it; empty if it is sound.
    """

    name: str
    suffix: str
    integers_only: bool
    write: Callable[..., Path]
    read: Callable[..., SpikingGraph] | None
    check: Callable[[Path], list[str]]


def _write_onnx(graph: SpikingGraph, path: Path, **options: Any) -> Path:
    from exporters import onnx

    return onnx.write(graph, path, **options)


def _check_onnx(path: Path) -> list[str]:
    from exporters import onnx

    return _refusal(onnx.load, path)


def _write_netx(graph: SpikingGraph, path: Path) -> Path:
    """Any integer network: what netx holds is its chain."""
    from exporters import netx
    from exporters.passes.chain import to_chain

    return netx.write(to_chain(graph), path)


def _read_netx(path: Path, **options: Any) -> SpikingGraph:
    from exporters import netx

    return netx.read(path, **options)


def _check_netx(path: Path) -> list[str]:
    from exporters import netx

    try:
        return netx.validate(path)
    except DeployError as error:  # it cannot be read at all
        return [str(error)]


def _write_nir(graph: SpikingGraph, path: Path, **options: Any) -> Path:
    from exporters import nir

    return nir.write(graph, path, **options)


def _read_nir(path: Path, **options: Any) -> SpikingGraph:
    from exporters import nir

    return nir.read(path, **options)


def _check_nir(path: Path) -> list[str]:
    from exporters.nir import check

    return _refusal(check.load, path)


def _refusal(load: Callable[[Path], object], path: Path) -> list[str]:
    """What a loader says against a file, as a list of findings."""
    try:
        load(path)
    except DeployError as error:
        return [str(error)]
    return []


FORMATS = {
    entry.name: entry
    for entry in (
        Format("onnx", ".onnx", False, _write_onnx, None, _check_onnx),
        Format("netx", ".net", True, _write_netx, _read_netx, _check_netx),
        Format("nir", ".nir", False, _write_nir, _read_nir, _check_nir),
    )
}
"""Name → format, in the order in which they are offered."""
