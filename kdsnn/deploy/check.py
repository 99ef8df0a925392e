"""The verb `check`: will a network fit a chip, on how many cores, and what to change."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kdsnn.deploy.formats import FORMATS
from kdsnn.deploy.images import require_count
from kdsnn.deploy.lower import lower
from kdsnn.deploy.lowered import Lowered
from kdsnn.deploy.progress import Progress, silent
from kdsnn.deploy.tables import Result
from profilers.text_table import TextTable, table

if TYPE_CHECKING:
    from hardware.chips.fit import Finding, Fit
    from hardware.chips.limits import Target
    from hardware.chips.placement import Placement
    from kdsnn.deploy.lower import NetworkSource

WRITE_AGAIN = "write the file again; nothing can be checked before it is sound"
OTHER_LAYERS = "build this part of the network of layers that can be lowered"
ONLY_ONNX = "build this part of the network differently for a chip; ONNX takes it as it is"

RESOURCES = ("neurons", "memory", "input axons", "output axons")
"""What a core has, as the table names it."""


@dataclass(frozen=True, eq=False, repr=False)
class CheckResult(Result):
    """Whether a network fits a chip.

    Attributes:
        source: the network, as it is called.
        fit: findings and placement.
    """

    source: str
    fit: Fit

    @property
    def fits(self) -> bool:
        """Whether nothing stands against it."""
        return self.fit.fits

    @property
    def verdict(self) -> str:
        """One line: does it fit, on what."""
        errors = sum(f.severity == "error" for f in self.fit.findings)
        where = ""
        if self.fit.placement is not None:
            p = self.fit.placement
            where = f": {p.cores:,} cores, {p.chips} chip{'s' if p.chips > 1 else ''}"
        if self.fits:
            return f"fits {self.fit.target.title}{where}"
        return f"does not fit {self.fit.target.title}{where} ({errors} error{'s' if errors > 1 else ''})"

    def tables(self) -> tuple[TextTable, ...]:
        """The fullest core of each layer, and the findings."""
        found = []
        if self.fit.placement is not None:
            rows = [
                [
                    row["name"], " × ".join(map(str, row["shape"])), f"{row['neurons']:,}", str(row["cores"]),
                    row["limited_by"], *(_share(row["utilization"], name) for name in RESOURCES),
                ]
                for row in self.rows()
            ]  # fmt: skip
            title = f"{self.source} on {self.fit.target.title}: fullest core of each layer"
            found.append(table(title, ["layer", "neurons", "in all", "cores", "limited by", *RESOURCES], rows))
        if self.fit.findings:
            cells = [[f.severity, f.layer, f.what, f.change or "nothing"] for f in self.fit.findings]
            found.append(table("findings", ["severity", "layer", "what", "what to change"], cells))
        return tuple(found)

    def __str__(self) -> str:
        return "\n".join([*map(str, self.tables()), self.verdict])

    __repr__ = __str__

    def rows(self) -> list[dict[str, Any]]:
        """One row per layer: shape, cores, what limits them, how full the fullest core is; no row where it has no placement."""
        return [] if self.fit.placement is None else described(self.fit.placement)["layers"]

    def to_dict(self) -> dict[str, Any]:
        """Verdict, findings and placement."""
        return {
            "source": self.source,
            "target": self.fit.target.name,
            "fits": self.fits,
            "findings": [asdict(finding) for finding in self.fit.findings],
            "placement": None if self.fit.placement is None else described(self.fit.placement),
        }


def check(
    source: NetworkSource,
    target: str | Path,
    *,
    chips: int | None = None,
    progress: Progress = silent,
    **lowering: Any,
) -> CheckResult:
    """Say whether a network fits a chip, on how many cores, and what to change.

    Args:
        source: whatever `lower` takes, or what it returned.
        target: the chip, "loihi1" or "loihi2", or a file that describes another.
        chips: chips at hand; by default the largest system built.
        progress: told how far calibration is.
        **lowering: of `lower`, for a source that is not lowered yet.

    Raises:
        KdsnnError, DeployError: it could not be checked; that it does not fit is no error.
    """
    from hardware.chips import limits

    require_count("chips", chips)
    chip = limits.target(str(target))
    called = str(source) if isinstance(source, str | Path) else getattr(source, "name", type(source).__name__)
    return CheckResult(called, _fit(source, chip, chips, progress, lowering))


def _fit(source: NetworkSource, chip: Target, chips: int | None, progress: Progress, lowering: dict[str, Any]) -> Fit:
    """Load, lower and check; what cannot be lowered is a finding."""
    from exporters.errors import DeployError
    from exporters.netx import NetxError
    from hardware.chips import fit

    problems = _of_file(Path(source)) if isinstance(source, str | Path) else []
    if problems:
        findings = (fit.Finding("error", layer, what, change or WRITE_AGAIN) for layer, what, change in problems)
        return fit.Fit(chip, tuple(findings), None)
    try:
        network = lower(source, progress=progress, **lowering)
    except NetxError:  # a readable file without T, say: nothing about the network
        raise
    except DeployError as error:
        return fit.Fit(chip, (refusal(error, OTHER_LAYERS),), None)
    found = _held(network, chip, chips)
    return found if found.fits else _with_remedy(found, network, chips, lowering)


def _held(
    network: Lowered, chip: Target, chips: int | None, give_up: Callable[[Finding], bool] | None = None,
    known: Placement | None = None,
) -> Fit:  # fmt: skip
    """A lowered network against a chip; that it makes no chain is a finding too."""
    from exporters.errors import DeployError
    from exporters.passes.chain import to_chain
    from hardware.chips import fit

    try:
        chain = to_chain(network.integer)
    except DeployError as error:
        return fit.Fit(chip, (refusal(error, OTHER_LAYERS if network.graph is None else ONLY_ONNX),), None)
    return fit.check(chain, chip, scales=network.layer_scales, max_chips=chips, give_up=give_up, known=known)


def _with_remedy(found: Fit, network: Lowered, chips: int | None, lowering: dict[str, Any]) -> Fit:
    """Where fewer bits could put errors right, they are tried, the most first, and the errors say what came of it."""
    from hardware.chips.fit import FEWER_BITS

    def is_curable(finding: Finding) -> bool:
        return finding.severity == "error" and FEWER_BITS in finding.change

    if not any(map(is_curable, found.findings)):
        return found
    if network.graph is None or network.bits is None:
        change = "its integers are fixed; check the network that they were made from, with fewer bits"
    elif network.calibrated and lowering.get("calibrate") is None:
        change = "it is calibrated already; check the network that it was made from, with fewer bits"
    else:
        change = _tried(network, found, chips, lowering, is_curable)
    findings = tuple(replace(f, change=change) if is_curable(f) else f for f in found.findings)
    return replace(found, findings=findings)


def _tried(
    network: Lowered, first: Fit, chips: int | None, lowering: dict[str, Any], is_curable: Callable[[Finding], bool]
) -> str:
    """What to change, after fewer and fewer bits were tried until a number of them put it right.

    Integers shrink as the largest of them, 2^(bits − 1) − 1: what that leaves too large is not tried.
    """
    from exporters.errors import DeployError

    assert network.graph is not None and network.bits is not None
    how = {key: lowering[key] for key in ("calibrate", "calibration_samples") if key in lowering}
    pixel_bits = network.input_bits
    largest = (2 ** (network.bits - 1) - 1) * 1.05 / first.excess
    # where numbers alone stand against it, the cores that hold it now hold fewer bits too
    known = first.placement if all(is_curable(f) for f in first.findings if f.severity == "error") else None
    tries = [bits for bits in range(network.bits - 1, 1, -1) if 2 ** (bits - 1) - 1 <= largest]
    for bits in tries:
        again = lower(network.graph, bits=bits, input_bits=pixel_bits, **how)
        if network.encoder is not None and not isinstance(again.chip, DeployError):
            again = lower(again, encoder="host")
        found = _held(again, first.target, chips, is_curable, known)
        if found.fits:
            return f"quantize with {bits} bits: tried, it fits"
        if not any(map(is_curable, found.findings)):
            return f"quantize with {bits} bits: tried, its numbers fit, though not all else"
    tried = f"{', '.join(map(str, tries))} were tried" if tries else "its numbers are too large for that"
    return f"no fewer bits make it fit ({tried}); clip the largest weights when training"


def _of_file(path: Path) -> list[tuple[str, str, str]]:
    """What Lava would skip, clip or wrap in a netx file; for others it is found out when they are lowered.

    Raises:
        DeployError: the file cannot be read at all.
    """
    kind = next((entry for entry in FORMATS.values() if entry.suffix == path.suffix), None)
    return [] if kind is None else [_parts(problem) for problem in kind.problems(path)]


def _parts(message: str) -> tuple[str, str, str]:
    """ "layer: what; what to change" → its three parts."""
    layer, colon, rest = message.partition(": ")
    if not colon:
        layer, rest = "", message
    what, _, change = rest.partition("; ")
    return layer, what, change


def refusal(error: Exception, otherwise: str) -> Finding:
    """An error as a finding, with what to change if the error does not say it."""
    from hardware.chips.fit import Finding

    layer, what, change = _parts(" ".join(str(error).split()))
    return Finding("error", layer, what, change or otherwise)


def described(placement: Placement) -> dict[str, Any]:
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


def _share(used: dict[str, float], name: str) -> str:
    return f"{100 * used[name]:.0f} %" if name in used else "–"
