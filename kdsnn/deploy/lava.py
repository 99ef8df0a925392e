"""The verbs `lava setup` and `lava status`: the managed environment that Intel's Lava runs in."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kdsnn.deploy.tables import Result
from profilers.text_table import TextTable, table

if TYPE_CHECKING:
    from hardware.lava.status import LavaStatus


@dataclass(frozen=True, eq=False, repr=False)
class LavaStatusResult(Result):
    """What of Lava is installed, whether it works, and how fast."""

    found: LavaStatus

    def tables(self) -> tuple[TextTable, ...]:
        """One fact a line."""
        found = self.found
        rows = [["path", str(found.path)], ["installed", "yes" if found.installed else "no"]]
        rows += [[name, version] for name, version in found.versions.items()]
        rows += [["works", "yes" if found.works else "no"]]
        if found.seconds_per_step is not None:
            rows.append(["speed", f"{1000 * found.seconds_per_step:.1f} ms per time step of a small network"])
        if found.problem:
            rows.append(["problem", found.problem])
        return (table("Lava", ["", ""], rows),)

    def rows(self) -> list[dict[str, Any]]:
        """All facts in one row."""
        return [self.to_dict()]

    def to_dict(self) -> dict[str, Any]:
        """The facts."""
        return asdict(self.found)


def setup(progress: Callable[[str], None]) -> Path:
    """Install Lava into an environment of its own, in the user's cache folder, and return where.

    Raises:
        DeployError: it could not be installed, in one line.
    """
    from hardware.lava import environment

    return environment.setup(progress=progress)


def status() -> LavaStatusResult:
    """Look at the environment, and run a small network in it."""
    from hardware.lava.status import status as looked_at

    return LavaStatusResult(looked_at())
