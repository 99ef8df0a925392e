"""The curves of one or several training runs as a picture (KDSNN, Fig. 3): training loss and test accuracy per epoch.

matplotlib draws them, one panel above the other, so that a phone shows them at about their own size. It is imported
when the first picture is drawn, since that takes a second. The SVG file stands alone: its text is text, it fetches
nothing and carries no date, and a browser shows it in light or dark colors as its reader prefers. Viewers without style
sheets show it light.
"""

from __future__ import annotations

import io
import logging
import re
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

from exporters.files import atomic_path
from kdsnn.errors import KdsnnError
from kdsnn.train.history import EpochRecord, read_csv

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

TEACHER = "teacher"
"""The label of the run that is drawn dashed and gray; the others take the colors in their order."""

_GROUND, _TEXT, _TITLE, _GRID, _GRAY = "#ffffff", "#3d434b", "#1c2026", "#e3e5e8", "#737b86"
_COLORS = ("#1f66d1", "#c8520a", "#0b7f63", "#8a3fb0")
_DARK = dict(
    zip(
        (_GROUND, _TEXT, _TITLE, _GRID, _GRAY, *_COLORS),
        ("#14171b", "#b9c0c9", "#eceff2", "#2c3138", "#98a1ad", "#6aa5ff", "#ff9a52", "#43c9a4", "#cf90ef"),
        strict=True,
    )
)
"""Every color of the picture → what it is on a dark ground."""

_WIDTH, _PANEL, _LEGEND_LINE = 440, 240, 18  # in points, which become the picture's pixels
_STYLE = {
    "svg.fonttype": "none", "svg.hashsalt": "kdsnn", "text.parse_math": False, "font.size": 12, "text.color": _TEXT,
    "figure.facecolor": _GROUND, "axes.facecolor": _GROUND, "axes.edgecolor": _GRID, "axes.labelcolor": _TEXT,
    "axes.titlecolor": _TITLE, "axes.titlelocation": "left", "axes.titlesize": 12, "axes.titleweight": "bold",
    "axes.grid": True, "axes.grid.axis": "y", "axes.axisbelow": True, "axes.spines.top": False,
    "axes.spines.left": False, "axes.spines.right": False, "grid.color": _GRID, "xtick.color": _TEXT, "ytick.color": _TEXT, "xtick.major.size": 0,
    "ytick.major.size": 0, "lines.linewidth": 1.8, "legend.frameon": False, "legend.borderpad": 0.2,
    "figure.constrained_layout.h_pad": 0.1, "figure.constrained_layout.w_pad": 0.1,
}  # fmt: skip


def write_curves(path: Path, runs: Mapping[str, Sequence[EpochRecord]]) -> None:
    """Draw `runs`, label → epochs, to `path` (.svg), whole or not at all; runs without epochs are left out.

    The upper panel shows the mean training loss, of each run its own (a distillation loss is no cross entropy), the
    lower one the accuracy on the test set. A picture takes a few tenths of a second.

    Raises:
        OSError: the file cannot be written.
        KdsnnError: no folder can be written in which matplotlib could keep its caches.
    """
    with atomic_path(path) as temporary:
        temporary.write_text(curves_svg(runs), encoding="utf-8")


def curves_svg(runs: Mapping[str, Sequence[EpochRecord]]) -> str:
    """The picture of `write_curves` as text; the same runs give the same text."""
    runs = {label: records for label, records in runs.items() if records}
    last = max((len(records) for records in runs.values()), default=1)
    with _matplotlib() as matplotlib, matplotlib.style.context(_STYLE, after_reset=True):
        height = 2 * _PANEL + _LEGEND_LINE * len(runs)
        figure = matplotlib.figure.Figure((_WIDTH / 72, height / 72), layout="constrained")
        upper, lower = figure.subplots(2, 1, sharex=True)
        _draw(upper, "loss", {label: [r.loss for r in records] for label, records in runs.items()})
        _draw(lower, "accuracy", {label: [100 * r.accuracy for r in records] for label, records in runs.items()})
        upper.set_title("training loss")
        lower.set_title("test accuracy, %")
        lower.set_xlabel("epoch")
        lower.set_xlim(max(0.5, 1 - 0.02 * last), 1.02 * last)
        lower.xaxis.set_major_locator(
            matplotlib.ticker.MaxNLocator(8, integer=True, steps=[1, 2, 5, 10], min_n_ticks=1)
        )
        # the number first: matplotlib leaves labels out that begin with an underscore
        names = [f"{100 * records[-1].accuracy:.2f} % {label}" for label, records in runs.items()]
        figure.legend(upper.lines, names, loc="outside upper left")
        return _standing_alone(figure, names)


@contextmanager
def _matplotlib() -> Iterator[Any]:
    """matplotlib with the modules that draw here; it keeps to itself what is no concern of who trains.

    That is which folder it takes for its caches, and which letters its own font lacks (the picture takes its reader's).
    """
    logger = logging.getLogger("matplotlib")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Glyph .* missing", UserWarning)
            yield _imported()
    finally:
        logger.setLevel(level)


def _imported() -> Any:
    try:
        import matplotlib.figure
        import matplotlib.style
        import matplotlib.ticker
    except OSError as error:  # neither a home nor a folder for temporary files
        raise KdsnnError(
            "matplotlib, which draws the curves, finds no folder for its caches; set MPLCONFIGDIR to one that can be "
            "written"
        ) from error
    return matplotlib


def _draw(axes: Axes, name: str, curves: Mapping[str, Sequence[float]]) -> None:
    """Every run gets a line, in the SVG a group of the id `NAME-0`, `NAME-1`, …"""
    students = [label for label in curves if label != TEACHER]
    for index, (label, values) in enumerate(curves.items()):
        (line,) = axes.plot(range(1, len(values) + 1), values, gid=f"{name}-{index}")
        if label == TEACHER:
            line.set(color=_GRAY, linestyle=(0, (3, 1.7)))
        else:
            line.set_color(_COLORS[students.index(label) % len(_COLORS)])
        if len(values) == 1:  # a line of one point is invisible
            line.set(marker="o", markersize=5)


def _standing_alone(figure: Figure, names: Sequence[str]) -> str:
    """The figure becomes SVG with a title, a description, the reader's own font, and a dark form beside the light."""
    out = io.StringIO()
    figure.savefig(out, format="svg", metadata={"Date": None, "Creator": None, "Format": None, "Type": None})
    body = re.sub(
        r"font-family: [^;]*",
        "font-family: system-ui, sans-serif",
        out.getvalue().partition("<svg")[2].partition(">")[2],
    )
    dark = "".join(
        f'[style*="{part}: {light}"]{{{part}:{color}!important}}'
        for light, color in _DARK.items()
        for part in ("fill", "stroke")
    )
    width, height = (round(72 * inches) for inches in figure.get_size_inches())
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" role="img" '
        f'viewBox="0 0 {width} {height}" width="{width}" height="{height}">\n'
        "<title>Training loss and test accuracy per epoch</title>"
        f"<desc>After the last epoch: {escape(', '.join(names))}</desc>\n"
        "<style>svg{color-scheme:light dark;max-width:100%;height:auto}\n"
        f"@media (prefers-color-scheme:dark){{{dark}}}</style>{body}"
    )


def read_runs(files: Mapping[str, Path]) -> dict[str, tuple[EpochRecord, ...]]:
    """The histories at `files`, label → CSV, are read; what is none is left out: a picture is no reason to stop."""
    found = {}
    for label, path in files.items():
        try:
            found[label] = read_csv(path)
        except KdsnnError:
            continue
    return found
