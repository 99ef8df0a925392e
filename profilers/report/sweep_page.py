"""`sweep.html` is one page that stands alone, without script or fetch: the picture, the table, what is compared."""

from __future__ import annotations

from profilers.report import sweep_picture
from profilers.report.html import environment
from profilers.report.sweep import SweepData
from profilers.report.sweep_tables import equal_page_table, page_table, remarks
from profilers.report.sweep_words import DOMINANCE


def render(sweep: SweepData) -> str:
    """The sweep becomes the page's HTML text."""
    return (
        environment()
        .get_template("sweep.html.j2")
        .render(
            sweep=sweep,
            picture=sweep_picture,
            points=page_table(sweep),
            equal=equal_page_table(sweep),
            remarks=remarks(sweep),
            dominance=DOMINANCE,
        )
    )
