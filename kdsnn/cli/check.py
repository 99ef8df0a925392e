"""`kdsnn-deploy check`: will a network fit a chip, and what is lost, before anything is written."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from kdsnn.cli.coding import InputCoding
from kdsnn.cli.options import (
    Bits,
    Calibrate,
    CalibrationSamples,
    InputBits,
    InputShape,
    Json,
    Nir,
    Timesteps,
    Weights,
    nir_options,
)

if TYPE_CHECKING:
    from hardware.chips.fit import Finding, Fit
    from hardware.chips.limits import Target
    from hardware.chips.placement import Placement


def check(
    source: Annotated[
        str,
        typer.Argument(help="A checkpoint (.safetensors), a .net or .nir file, or package.module:factory."),
    ],
    target: Annotated[
        str,
        typer.Option("--target", help="The chip: loihi1 or loihi2, see `list targets`; or a .json file of your own."),
    ],
    chips: Annotated[
        int | None, typer.Option("--chips", min=1, help="Chips at hand; the largest system built by default.")
    ] = None,
    bits: Bits = None,
    input_bits: InputBits = 8,
    calibrate: Calibrate = None,
    calibration_samples: CalibrationSamples = 512,
    weights: Weights = None,
    input_shape: InputShape = None,
    timesteps: Timesteps = None,
    input_coding: InputCoding = None,
    nir: Nir = None,
    json: Json = False,
) -> None:
    """Say whether a network fits a chip, on how many cores, and what to change.

    Exit code 0: it fits; 1: it does not; 2: it could not be checked.
    """
    from dataclasses import asdict, replace

    from hardware.chips import limits
    from kdsnn.cli.console import print_json

    chip = limits.target(target)
    fit = _fit(
        source, chip, chips,
        bits=bits, input_bits=input_bits, T=timesteps, weights=weights, input_shape=input_shape, calibrate=calibrate,
        calibration_samples=calibration_samples, nir=nir_options(nir), input_coding=input_coding,
        quiet=json,
    )  # fmt: skip
    fit = replace(fit, findings=tuple(replace(f, change=as_options(f.change)) for f in fit.findings))
    if json:
        print_json(
            {
                "source": source,
                "target": chip.name,
                "fits": fit.fits,
                "findings": [asdict(finding) for finding in fit.findings],
                "placement": None if fit.placement is None else describe(fit.placement),
            }
        )
    else:
        _print(source, fit)
    raise typer.Exit(0 if fit.fits else 1)


def _fit(source: str, chip: Target, chips: int | None, **how: Any) -> Fit:
    """Load, lower and check; what cannot be lowered is a finding."""
    from exporters.errors import DeployError
    from exporters.netx import NetxError
    from exporters.passes.chain import to_chain
    from hardware.chips import fit
    from kdsnn.cli.source import load

    problems = _of_file(Path(source))
    if problems:
        return fit.Fit(chip, tuple(fit.Finding("error", layer, what, change) for layer, what, change in problems), None)
    try:
        network = load(source, **how)
        chain = to_chain(network.integer)
    except NetxError:  # a readable file without T, say: nothing about the network
        raise
    except DeployError as error:
        return fit.Fit(chip, (_refusal(error),), None)
    return fit.check(chain, chip, scales=network.scales, max_chips=chips)


def as_options(text: str) -> str:
    """Advice in which options are named as in Python, as the command line names them: bits=7 becomes --bits 7, `bits` --bits."""
    named = re.sub(r"\b(bits|encoder|on)=(\w+)", r"--\1 \2", text)
    return re.sub(r"`(bits|input_bits)`", lambda found: f"--{found[1].replace('_', '-')}", named)


def _of_file(path: Path) -> list[tuple[str, str, str]]:
    """What Lava would skip, clip or wrap in a netx file; for others it is found out when they are lowered.

    Raises:
        DeployError: the file cannot be read at all.
    """
    if path.suffix == ".nir":
        from exporters.nir import check as nir_file

        nir_file.load(path)
    if path.suffix != ".net":
        return []
    from exporters import netx

    return [_parts(problem) for problem in netx.validate(path)]


def _parts(message: str) -> tuple[str, str, str]:
    """ "layer: what; what to change" → its three parts."""
    layer, colon, rest = message.partition(": ")
    if not colon:
        layer, rest = "", message
    what, _, change = rest.partition("; ")
    return layer, what, change


def _refusal(error: Exception) -> Finding:
    from hardware.chips.fit import Finding

    layer, what, change = _parts(" ".join(str(error).split()))
    return Finding("error", layer, what, change)


def describe(placement: Placement) -> dict[str, Any]:
    """A placement as JSON: totals, and per layer cores, resources and positions."""
    return {
        "cores": placement.cores,
        "chips": placement.chips,
        "host": list(placement.host),
        "layers": [
            {
                "name": layer.name,
                "shape": list(layer.shape),
                "neurons": layer.neurons,
                "first_core": layer.first_core,
                "cores": layer.cores,
                "cores_by_resource": layer.needed(),
                "utilization": layer.utilization(),
                "limited_by": layer.limited_by,
                "axons": layer.axons,
                "hops_per_spike": layer.hops_per_spike,
            }
            for layer in placement.layers
        ],
    }


def _print(source: str, fit: Fit) -> None:
    from kdsnn.cli.console import table

    if fit.placement is not None:
        rows = []
        for layer in fit.placement.layers:
            used = layer.utilization()
            rows.append(
                [
                    layer.name, " × ".join(map(str, layer.shape)), f"{layer.neurons:,}", str(layer.cores),
                    layer.limited_by, *(f"{100 * used[name]:.0f} %" if name in used else "–" for name in _RESOURCES),
                ]
            )  # fmt: skip
        table(
            f"{source} on {fit.target.title}: fullest core of each layer",
            ["layer", "neurons", "in all", "cores", "limited by", *_RESOURCES],
            rows,
        )
    if fit.findings:
        cells = [[f.severity, f.layer, f.what, f.change] for f in fit.findings]
        table("findings", ["severity", "layer", "what", "what to change"], cells)
    print(verdict(fit))


_RESOURCES = ("neurons", "memory", "input axons", "output axons")


def verdict(fit: Fit) -> str:
    """One line: does it fit, on what."""
    errors = sum(f.severity == "error" for f in fit.findings)
    where = ""
    if fit.placement is not None:
        p = fit.placement
        where = f": {p.cores:,} cores, {p.chips} chip{'s' if p.chips > 1 else ''}"
    if fit.fits:
        return f"fits {fit.target.title}{where}"
    return f"does not fit {fit.target.title}{where} ({errors} error{'s' if errors > 1 else ''})"
