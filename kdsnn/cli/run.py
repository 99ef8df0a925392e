"""`kdsnn-deploy run`: run a network on one backend or several, and compare them spike for spike."""

from __future__ import annotations

import contextlib
import itertools
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from kdsnn.cli.coding import InputCoding
from kdsnn.cli.encoding import EncoderAt, Where
from kdsnn.cli.images import Pixels, load_images, pixels
from kdsnn.cli.options import (
    Bits,
    Calibrate,
    CalibrationSamples,
    Data,
    InputBits,
    InputShape,
    Json,
    Nir,
    Timesteps,
    Weights,
    nir_options,
    writable_file,
)

if TYPE_CHECKING:
    from exporters.graph import Array
    from kdsnn.cli.backends import BackendRun, Comparison
    from kdsnn.cli.source import Source
    from profilers.profiling import Samples


def run(
    source: Annotated[
        str,
        typer.Argument(
            help="A checkpoint (.safetensors), a .net, .nir or .onnx file of this program, or package.module:factory."
        ),
    ],
    on: Annotated[
        list[str] | None,
        typer.Option(
            "--on",
            help="torch, onnx, emulator, lava (repeatable, or comma-separated); a .onnx file runs on onnx only.",
        ),
    ] = None,
    data: Data = "digits",
    samples: Annotated[int, typer.Option(min=1, help="How many test images.")] = 20,
    save: Annotated[Path | None, typer.Option(help="Write integer input and output spikes to this .npz.")] = None,
    bits: Bits = None,
    input_bits: InputBits = 8,
    calibrate: Calibrate = None,
    calibration_samples: CalibrationSamples = 512,
    weights: Weights = None,
    input_shape: InputShape = None,
    timesteps: Timesteps = None,
    input_coding: InputCoding = None,
    nir: Nir = None,
    encoder: EncoderAt = Where.chip,
    timeout: Annotated[float | None, typer.Option(help="Seconds after which a Lava run is given up.")] = None,
    compare: Annotated[bool, typer.Option("--compare", help="Show every layer's mismatching spikes.")] = False,
    stock_lava: Annotated[bool, typer.Option("--stock-lava", help="Lava's own slow convolution.")] = False,
    json: Json = False,
) -> None:
    """Run test images on one or several backends; several are compared spike for spike.

    Exits with 1 when two backends differ that must not (onnx and torch, lava and emulator).
    """
    from kdsnn.cli.backends import BACKENDS
    from kdsnn.cli.coding import reads_spikes, spike_trains
    from kdsnn.cli.console import print_json
    from kdsnn.cli.encoding import on_host
    from kdsnn.cli.source import load, require_fit
    from kdsnn.errors import KdsnnError

    is_onnx = Path(source).suffix == ".onnx"
    backends = [name.strip() for text in on or ["onnx" if is_onnx else "emulator"] for name in text.split(",")]
    for name in backends:
        if name not in BACKENDS:
            raise KdsnnError(f"--on {name}: no such backend; choose from {', '.join(BACKENDS)}")
    if save is not None:
        writable_file(save)
    if is_onnx:
        given = {
            "--bits": bits, "--calibrate": calibrate, "--nir": nir, "--input-coding": input_coding,
            "--encoder": encoder is Where.host or None,
        }  # fmt: skip
        option = next((name for name, value in given.items() if value is not None), None)
        if option is not None:
            raise KdsnnError(f"{option}: {source} is a finished model; give it when exporting the checkpoint")
        _run_onnx_file(Path(source), backends, data, samples, save, timesteps, json=json)
        return
    network = load(
        source, bits=bits, input_bits=input_bits, T=timesteps, weights=weights, input_shape=input_shape,
        calibrate=calibrate, calibration_samples=calibration_samples, nir=nir_options(nir),
        input_coding=input_coding, quiet=json,
    )  # fmt: skip
    if encoder is Where.host:
        network = on_host(network)
    x: Samples
    if reads_spikes(network):
        x, labels = spike_trains(data, network, samples)
    else:
        images = load_images(data, quiet=json)
        require_fit(network.name, network.input_shape, images)
        x, labels = Pixels(images.x_test[:samples], network.input_shape), images.y_test[:samples]
    runs, found = run_all(network, backends, x, quiet=json, fast_conv=not stock_lava, timeout=timeout)
    if save is not None:
        save_spikes(save, _input_of(network, x[:]), runs)
    if json:
        print_json(as_rows(runs, found, labels))
    else:
        print_tables(f"{network.name} on {data}", runs, found, labels)
        if compare and found:
            print_layers(found)
    if not all(c.ok for c in found):
        raise typer.Exit(1)


def run_all(
    network: Source, backends: list[str], x: Samples, *, lava_samples: int | None = None, quiet: bool = False,
    fast_conv: bool = True, timeout: float | None = None, title: str = "",
) -> tuple[list[BackendRun], list[Comparison]]:  # fmt: skip
    """Run on every backend (with torch also on the SpikingJelly module, if there is one) and compare.

    Samples go through in parts of which memory holds every spike of every layer, on backends that are started once;
    `lava_samples`: only so many go through Lava.
    """
    from kdsnn.cli.backends import comparisons, joined, joined_comparisons, opened
    from kdsnn.cli.console import progress

    names = list(dict.fromkeys(backends))
    if "torch" in names and network.module is not None:
        names.insert(0, "spikingjelly")
    several = len(names) > 1
    most = {name: min(len(x), lava_samples or len(x)) if name == "lava" else len(x) for name in names}
    size = _samples_at_once(network)
    runs: dict[str, list[BackendRun]] = {name: [] for name in names}
    found: list[list[Comparison]] = []
    done = 0
    whole = sum(most.values())
    with contextlib.ExitStack() as stack:
        how: dict[str, Any] = {"layers": several, "fast_conv": fast_conv, "timeout": timeout}
        ready = {name: stack.enter_context(opened(name, network, **how)) for name in names}
        show = stack.enter_context(progress(f"{title}run on {', '.join(names)}", quiet=quiet))
        for start in range(0, len(x), size):
            at_once: list[BackendRun] = []
            for name in names:
                part = x[start : min(start + size, most[name])]
                if len(part) == 0:
                    continue

                def told(now: int, total: int, before: int = done, share: int = len(part)) -> None:
                    show(before + share * now / total, whole)

                at_once.append(ready[name](part, told))
                done += len(part)
                runs[name].append(joined(at_once[-1:]))
            found.append(comparisons(at_once, start=start))
    pairs: dict[tuple[str, str], list[Comparison]] = {}
    for comparison in itertools.chain.from_iterable(found):
        pairs.setdefault((comparison.backend, comparison.reference), []).append(comparison)
    return [joined(parts) for parts in runs.values()], [joined_comparisons(parts) for parts in pairs.values()]


def _samples_at_once(network: Source) -> int:
    """How many samples take about 256 MB for one backend."""
    from profilers.counting.sizes import samples_within

    return samples_within(2**28, network.exact or network.integer)


def _run_onnx_file(
    path: Path, backends: list[str], data: str, samples: int, save: Path | None, T: int | None, *, json: bool
) -> None:
    """A model that `export` wrote, on onnxruntime: everything it takes to run is in its metadata."""
    import numpy as np

    from exporters import onnx
    from kdsnn.cli.backends import run_onnx
    from kdsnn.cli.console import print_json, progress
    from kdsnn.cli.source import require_fit
    from kdsnn.errors import KdsnnError

    other = next((name for name in backends if name != "onnx"), None)
    if other is not None:
        raise KdsnnError(
            f"--on {other}: {path.name} is a finished model and runs on onnx only; "
            "give the checkpoint or .nir file that it was exported from"
        )
    runner = onnx.prepare(path)
    facts = runner.model.facts
    if facts.get("input_encoding") != "direct":
        raise KdsnnError(f"{path.name}: it takes spikes over time, but data sets hold images; run it from Python")
    shape, scale = tuple(facts["input_shape"]), facts.get("input_scale")
    images = load_images(data, quiet=json)
    require_fit(path.stem, shape, images)
    x, labels = pixels(images.x_test[:samples]).reshape(-1, *shape), images.y_test[:samples]
    with progress("run on onnx", quiet=json) as show:
        runs = [run_onnx(runner, x, T=T, progress=show)]
    if save is not None:
        save_spikes(save, x if scale is None else np.rint(x * np.float32(scale)).astype(np.int32), runs)
    if json:
        print_json(as_rows(runs, [], labels))
    else:
        title = f"{path.name} ({runner.model.form}, {facts['arithmetic']}, T={runs[0].output.shape[1]}) on {data}"
        print_tables(title, runs, [], labels)


def _input_of(network: Source, x: Array) -> Array:
    """What the quantized network consumes; real pixels where there is none."""
    from exporters.errors import DeployError

    return x if isinstance(network.chip, DeployError) else network.frames(x).astype("int32")


def save_spikes(path: Path, frames: Array, runs: list[BackendRun]) -> None:
    """Write what the network consumes (N, *shape) and per backend the output (N, T, F) as a compressed .npz."""
    import numpy as np

    from exporters.files import atomic_path

    arrays = {"input": frames} | {r.backend: r.output for r in runs}
    with atomic_path(path) as temporary, temporary.open("wb") as file:
        np.savez_compressed(file, allow_pickle=False, **arrays)


def as_rows(runs: list[BackendRun], found: list[Comparison], labels: Array) -> dict[str, Any]:
    """The JSON of a run."""
    from dataclasses import asdict

    return {
        "runs": [
            {"backend": r.backend, "samples": r.samples, "accuracy": r.accuracy(labels), "seconds": r.seconds}
            for r in runs
        ],
        "comparisons": [asdict(c) | {"ok": c.ok} for c in found],
    }


def print_tables(title: str, runs: list[BackendRun], found: list[Comparison], labels: Array) -> None:
    """One table of backends, one of comparisons."""
    from kdsnn.cli.console import percent, table

    rows = [
        [r.backend, str(r.samples), percent(r.accuracy(labels)), f"{1000 * r.seconds / r.samples:.2f} ms"] for r in runs
    ]
    table(title, ["backend", "samples", "accuracy", "per sample"], rows)
    if found:
        print_comparisons(found)


def print_layers(found: list[Comparison]) -> None:
    """Layers × mismatching spikes, one column for every pair of backends, and where the first mismatch is."""
    from kdsnn.cli.console import table

    names = list(dict.fromkeys(layer.name for c in found for layer in c.layers))
    rows = []
    for name in names:
        cells = []
        for c in found:
            layer = next((x for x in c.layers if x.name == name), None)
            cells.append("–" if layer is None else f"{layer.mismatches} of {layer.compared}")
        first = next((x.first for c in found if c.must_agree for x in c.layers if x.name == name and x.first), "")
        rows.append([name, *cells, first])
    table("layer by layer", ["layer", *(f"{c.backend} / {c.reference}" for c in found), "first mismatch"], rows)


def print_comparisons(found: list[Comparison]) -> None:
    """The table of spike-for-spike comparisons."""
    from kdsnn.cli.console import table

    rows = [
        [
            f"{c.backend} / {c.reference}",
            str(c.samples),
            f"{c.mismatches} of {c.compared}",
            "–" if c.hidden is None else f"{c.hidden} of {c.hidden_compared}",
            "" if not c.must_agree else ("yes" if c.ok else "NO"),
            c.first,
        ]
        for c in found
    ]
    columns = ["compared", "samples", "outputs that differ", "all layers", "must agree, does", "first difference"]
    table("spike for spike", columns, rows)
