"""The curves of one or several training runs as a picture (KDSNN, Fig. 3): training loss and test accuracy per epoch.

An SVG file without any library: text stays text, lines stay sharp, and it follows a page's dark or light mode.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path

from exporters.files import atomic_path
from kdsnn.errors import KdsnnError
from kdsnn.train.history import EpochRecord, read_csv

TEACHER = "teacher"
"""The label of the run that is drawn dashed and gray; the others take the colors in their order."""

_WIDTH, _HEIGHT = 840, 340
_LEFT, _TOP, _BOTTOM, _GAP, _RIGHT = 52, 62, 44, 64, 16
_COLORS = 4
_STYLE = """
svg{color-scheme:light dark}
.ground{fill:#fff}.grid{stroke:#e3e5e8}text{fill:#3d434b;font:12px system-ui,sans-serif}
.title{font-weight:600;fill:#1c2026}.run{fill:none;stroke-width:1.8;stroke-linejoin:round}
.run0{stroke:#1f66d1}.run1{stroke:#c8520a}.run2{stroke:#0b7f63}.run3{stroke:#8a3fb0}
.teacher{stroke:#737b86;stroke-dasharray:5 3}
@media (prefers-color-scheme:dark){.ground{fill:#14171b}.grid{stroke:#2c3138}text{fill:#b9c0c9}.title{fill:#eceff2}
.run0{stroke:#6aa5ff}.run1{stroke:#ff9a52}.run2{stroke:#43c9a4}.run3{stroke:#cf90ef}.teacher{stroke:#98a1ad}}
"""


@dataclass(frozen=True)
class _Panel:
    """One pair of axes: the box it fills, and the range of values (`low`, `high`) over the epochs 1…`epochs`."""

    x: float
    width: float
    epochs: int
    low: float
    high: float

    def at(self, epoch: int, value: float) -> tuple[float, float]:
        """Position on the page."""
        along = (epoch - 1) / (self.epochs - 1) if self.epochs > 1 else 0.5
        height = _HEIGHT - _TOP - _BOTTOM
        return self.x + along * self.width, _TOP + height * (self.high - value) / (self.high - self.low)


def write_curves(path: Path, runs: Mapping[str, Sequence[EpochRecord]]) -> None:
    """Draw `runs`, label → epochs, to `path` (.svg), whole or not at all; runs without epochs are left out.

    Left the mean training loss, of each run its own (a distillation loss is no cross entropy); right the
    accuracy on the test set. Cheap enough to be called after every epoch.
    """
    with atomic_path(path) as temporary:
        temporary.write_text(curves_svg(runs), encoding="utf-8")


def curves_svg(runs: Mapping[str, Sequence[EpochRecord]]) -> str:
    """The picture of `write_curves` as text."""
    runs = {label: records for label, records in runs.items() if records}
    last = max((records[-1].epoch for records in runs.values()), default=1)
    width = (_WIDTH - _LEFT - _GAP - _RIGHT) / 2
    losses = {label: [(r.epoch, r.loss) for r in records] for label, records in runs.items()}
    accuracies = {label: [(r.epoch, 100 * r.accuracy) for r in records] for label, records in runs.items()}
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {_HEIGHT}" width="{_WIDTH}" height="{_HEIGHT}" '
        f'role="img"><title>Training loss and test accuracy per epoch</title><style>{_STYLE}</style>'
        f'<rect class="ground" width="{_WIDTH}" height="{_HEIGHT}"/>',
        *_legend(runs),
        *_panel("training loss", _LEFT, width, last, losses),
        *_panel("test accuracy, %", _LEFT + width + _GAP, width, last, accuracies),
        "</svg>",
    ]
    return "\n".join(parts) + "\n"


def _class(label: str, labels: Sequence[str]) -> str:
    if label == TEACHER:
        return "teacher"
    return f"run{[one for one in labels if one != TEACHER].index(label) % _COLORS}"


def _legend(runs: Mapping[str, Sequence[EpochRecord]]) -> list[str]:
    """A line in the run's color, its label, and its last accuracy, side by side."""
    parts, x = [], float(_LEFT)
    for label, records in runs.items():
        text = f"{label} {100 * records[-1].accuracy:.2f} %"
        parts.append(f'<path class="run {_class(label, list(runs))}" d="M{x:.1f} 20h22"/>')
        parts.append(f'<text x="{x + 28:.1f}" y="24">{escape(text)}</text>')
        x += 28 + 6.6 * len(text) + 22
    return parts


def _panel(
    title: str, x: float, width: float, epochs: int, curves: Mapping[str, Sequence[tuple[int, float]]]
) -> list[str]:
    values = [value for points in curves.values() for _, value in points]
    ticks = _ticks(min(values, default=0.0), max(values, default=1.0))
    panel = _Panel(x, width, epochs, ticks[0], ticks[-1])
    parts = [f'<text class="title" x="{x:.1f}" y="{_TOP - 14}">{escape(title)}</text>']
    for tick in ticks:
        _, y = panel.at(1, tick)
        parts.append(f'<path class="grid" d="M{x:.1f} {y:.1f}h{width:.1f}"/>')
        parts.append(f'<text x="{x - 8:.1f}" y="{y + 4:.1f}" text-anchor="end">{tick:g}</text>')
    for epoch in _epoch_ticks(epochs):
        at, bottom = panel.at(epoch, panel.low)
        parts.append(f'<text x="{at:.1f}" y="{bottom + 18:.1f}" text-anchor="middle">{epoch}</text>')
    parts.append(f'<text x="{x + width / 2:.1f}" y="{_HEIGHT - 8}" text-anchor="middle">epoch</text>')
    for label, points in curves.items():
        line = " ".join("{:.1f},{:.1f}".format(*panel.at(*point)) for point in points)
        css = f"run {_class(label, list(curves))}"
        if len(points) == 1:  # a line of one point is invisible
            at, y = panel.at(*points[0])
            parts.append(f'<circle class="{css}" cx="{at:.1f}" cy="{y:.1f}" r="2.5"/>')
        else:
            parts.append(f'<polyline class="{css}" points="{line}"/>')
    return parts


def _ticks(low: float, high: float) -> list[float]:
    """Four to eight round values, the first at most `low` and the last at least `high`."""
    span = max(high - low, 1e-3 * max(abs(high), 1.0))
    size = 10.0 ** math.floor(math.log10(span / 4))
    step = next(factor * size for factor in (1, 2, 5, 10) if span / (factor * size) <= 6)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [round(n * step, 10) for n in range(first, max(last, first + 1) + 1)]


def _epoch_ticks(epochs: int) -> list[int]:
    """The first epoch, and round ones up to the last."""
    step = next(s for s in (10**e * f for e in range(10) for f in (1, 2, 5)) if epochs / s <= 8)
    return sorted({1, *range(step, epochs + 1, step)} - ({2} if step > 2 else set()))


def read_runs(files: Mapping[str, Path]) -> dict[str, tuple[EpochRecord, ...]]:
    """The histories at `files`, label → CSV. What is missing or no history is left out: a picture is no reason to stop."""
    found = {}
    for label, path in files.items():
        try:
            found[label] = read_csv(path)
        except KdsnnError:
            continue
    return found
