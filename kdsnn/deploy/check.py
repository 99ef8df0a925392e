"""The verb `check`: will a network fit a chip, on how many cores, and what to change."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kdsnn.deploy.formats import FORMATS
from kdsnn.deploy.lower import lower
from kdsnn.deploy.progress import Progress, silent
from kdsnn.deploy.tables import Result
from profilers.text_table import TextTable, table

if TYPE_CHECKING:
    from hardware.chips.fit import Finding, Fit
    from hardware.chips.limits import Target
    from hardware.chips.placement import Placement
    from kdsnn.deploy.lower import NetworkSource

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
            cells = [[f.severity, f.layer, f.what, f.change] for f in self.fit.findings]
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
    target: str,
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

    chip = limits.target(target)
    called = str(source) if isinstance(source, str | Path) else getattr(source, "name", type(source).__name__)
    return CheckResult(called, _fit(source, chip, chips, progress, lowering))


def _fit(source: NetworkSource, chip: Target, chips: int | None, progress: Progress, lowering: dict[str, Any]) -> Fit:
    """Load, lower and check; what cannot be lowered is a finding."""
    from exporters.errors import DeployError
    from exporters.netx import NetxError
    from exporters.passes.chain import to_chain
    from hardware.chips import fit

    problems = _of_file(Path(source)) if isinstance(source, str | Path) else []
    if problems:
        return fit.Fit(chip, tuple(fit.Finding("error", layer, what, change) for layer, what, change in problems), None)
    try:
        network = lower(source, progress=progress, **lowering)
        chain = to_chain(network.integer)
    except NetxError:  # a readable file without T, say: nothing about the network
        raise
    except DeployError as error:
        return fit.Fit(chip, (_refusal(error),), None)
    return fit.check(chain, chip, scales=network.layer_scales, max_chips=chips)


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


def _refusal(error: Exception) -> Finding:
    from hardware.chips.fit import Finding

    layer, what, change = _parts(" ".join(str(error).split()))
    return Finding("error", layer, what, change)


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
