"""`report.tex` has the verdict of a report as a list, its tables as LaTeX floats in the style of booktabs, its sources as comments.

LaTeX needs the package booktabs and nothing else; put the file into a document with `\\input{report}`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from profilers.report.cells import Cell, Table, joined, one_line
from profilers.report.data import ReportData
from profilers.report.literature import sources
from profilers.report.numbers import SPACE
from profilers.report.tables import everything

_SPECIAL = {
    "\\": r"\textbackslash{}",
    "{": r"\{",
    "}": r"\}",
    "$": r"\$",
    "&": r"\&",
    "#": r"\#",
    "%": r"\%",
    "_": r"\_",
    "^": r"\textasciicircum{}",
    "~": r"\textasciitilde{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    '"': r"\textquotedbl{}",
    "[": "{[}",  # behind the line break of a row, a bracket would be its argument
    "]": "{]}",
    SPACE: "~",
    "`": r"\textasciigrave{}",
    "µ": r"\textmu{}",
    "×": r"$\times$",
    "÷": r"$\div$",
    "±": r"$\pm$",
    "≥": r"$\geq$",
    "≤": r"$\leq$",
    "·": r"\textperiodcentered{}",
    "⌈": r"$\lceil$",
    "⌉": r"$\rceil$",
    "–": "--",
    "−": "$-$",
    "“": "``",
    "”": "''",
    "’": "'",
    "…": r"\ldots{}",
}


def render(report: ReportData) -> str:
    """The report becomes LaTeX text."""
    origin = report.origin
    head = [
        "needs \\usepackage{booktabs}",
        report.title,
        report.data,
        *report.notes,
        f"made {report.created}, {origin.program}, {origin.machine}",
        "; ".join(f"seed of {what}: {seed}" for what, seed in origin.seeds.items()),
        report.command,
    ]
    references = ["Sources", *(f"{n}. {s.citation}. {s.url}" for n, s in enumerate(sources(report), start=1))]
    parts = [_comment(head), _verdict(report), *(_table(table) for table in everything(report)), _comment(references)]
    return "\n\n".join(parts) + "\n"


def _verdict(report: ReportData) -> str:
    """The sentences are a list; what is bad stands out, and an answer stands behind its question."""
    items = []
    for one in report.verdict:
        text = escape(one.text)
        if one.question:
            text = f"\\textbf{{{escape(one.question)}}} {escape(one.answer)}. {text}"
        items.append("  \\item " + (f"\\textbf{{{text}}}" if one.bad else text))
    return "\n".join([r"\begin{itemize}", *items, r"\end{itemize}"])


def escape(text: str) -> str:
    """LaTeX prints the escaped text as it was."""
    # two hyphens would become a dash
    return re.sub(
        "-(?=-)|[^-]", lambda found: "-{}" if found[0] == "-" else _SPECIAL.get(found[0], found[0]), one_line(text)
    )


def _table(table: Table) -> str:
    def row(cells: list[str]) -> str:
        return f"    {' & '.join(cells)} \\\\"

    lines = [
        row(
            [
                joined(Cell(line.label, (line.hint,) if line.hint else ()), escape),
                *(joined(c, escape) for c in line.cells),
            ]
        )
        for line in table.rows
    ]
    caption = " ".join([f"{escape(table.caption)}.", *map(escape, table.notes)])
    return "\n".join(
        [
            r"\begin{table}[htbp]",
            r"  \centering",
            f"  \\caption{{{caption}}}",
            f"  \\label{{tab:{table.name}}}",
            f"  \\begin{{tabular}}{{l{'r' * (len(table.columns) - 1)}}}",
            r"    \toprule",
            row([joined(c, escape) for c in table.columns]),
            r"    \midrule",
            *lines,
            r"    \bottomrule",
            r"  \end{tabular}",
            r"\end{table}",
        ]
    )


def _comment(lines: Iterable[str]) -> str:
    return "\n".join(f"% {one_line(line)}" for line in lines if line)
