"""`report.md` and `report.tex`: the tables of a report for papers, with conventions and sources.

LaTeX needs the package booktabs and nothing else; put the file into a document with `\\input{report}`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from urllib.parse import quote

from profilers.energy.models import Citation
from profilers.report.data import Report
from profilers.report.numbers import SPACE
from profilers.report.tables import Cell, Table, everything
from profilers.report.wording import CONVENTIONS, sources

_MARKDOWN = re.compile(r"[\\`*_{}\[\]<>#|~!&]")

_LATEX = {
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


def markdown(report: Report) -> str:
    """The report as Markdown with tables (GitHub's and Pandoc's form)."""
    parts = [f"# {escape_markdown(report.title)}"]
    parts += [escape_markdown(text) for text in (report.data, *report.notes) if text]
    for table in everything(report):
        parts.append(f"## {escape_markdown(table.caption)}")
        parts.append(_markdown_table(table))
        if table.notes:
            parts.append("\n".join(f"* {escape_markdown(note)}" for note in table.notes))
    parts.append("## Conventions")
    parts.append("\n".join(f"* **{escape_markdown(term)}**: {escape_markdown(text)}" for term, text in CONVENTIONS))
    parts.append("## Sources")
    parts.append("\n".join(f"{n}. {escape_markdown(s.citation)}. <{_url(s)}>" for n, s in _numbered(report)))
    parts.append(f"Made {escape_markdown(report.created)}" + (" by" if report.command else ""))
    if report.command:
        fence = "`" * max(3, 1 + max(map(len, re.findall("`+", report.command)), default=0))
        parts.append(f"{fence}\n{_flat(report.command)}\n{fence}")
    return "\n\n".join(parts) + "\n"


def latex(report: Report) -> str:
    """The tables as LaTeX floats in the style of booktabs."""
    head = [
        "needs \\usepackage{booktabs}",
        report.title,
        report.data,
        *report.notes,
        f"made {report.created}",
        report.command,
    ]
    references = ["Sources", *(f"{n}. {s.citation}. {s.url}" for n, s in _numbered(report))]
    parts = [_comment(head), *(_latex_table(table) for table in everything(report)), _comment(references)]
    return "\n\n".join(parts) + "\n"


def escape_markdown(text: str) -> str:
    """Text that a Markdown table or line shows as it is."""
    escaped = _MARKDOWN.sub(lambda found: "\\" + found[0], _flat(text))
    # what would start a list or underline a heading
    return re.sub(r"^([-+=]|\d+[.)](?=\s|$))", lambda found: f"{found[1][:-1]}\\{found[1][-1]}", escaped)


def escape_latex(text: str) -> str:
    """Text that LaTeX prints as it is."""
    # two hyphens would become a dash
    return re.sub(
        "-(?=-)|[^-]", lambda found: "-{}" if found[0] == "-" else _LATEX.get(found[0], found[0]), _flat(text)
    )


def _markdown_table(table: Table) -> str:
    def row(cells: list[str]) -> str:
        return f"| {' | '.join(cells)} |"

    lines = [row([_joined(c, escape_markdown) for c in table.columns])]
    lines.append(row(["---", *["---:"] * (len(table.columns) - 1)]))
    for line in table.rows:
        label = _joined(Cell(line.label, (line.hint,) if line.hint else ()), escape_markdown)
        lines.append(row([label, *(_joined(c, escape_markdown) for c in line.cells)]))
    return "\n".join(lines)


def _latex_table(table: Table) -> str:
    def row(cells: list[str]) -> str:
        return f"    {' & '.join(cells)} \\\\"

    lines = [
        row(
            [
                _joined(Cell(line.label, (line.hint,) if line.hint else ()), escape_latex),
                *(_joined(c, escape_latex) for c in line.cells),
            ]
        )
        for line in table.rows
    ]
    caption = " ".join([f"{escape_latex(table.caption)}.", *map(escape_latex, table.notes)])
    return "\n".join(
        [
            r"\begin{table}[htbp]",
            r"  \centering",
            f"  \\caption{{{caption}}}",
            f"  \\label{{tab:{table.name}}}",
            f"  \\begin{{tabular}}{{l{'r' * (len(table.columns) - 1)}}}",
            r"    \toprule",
            row([_joined(c, escape_latex) for c in table.columns]),
            r"    \midrule",
            *lines,
            r"    \bottomrule",
            r"  \end{tabular}",
            r"\end{table}",
        ]
    )


def _joined(cell: Cell, escape: Callable[[str], str]) -> str:
    return escape(cell.text) + (f" ({escape('; '.join(cell.small))})" if cell.small else "")


def _comment(lines: Iterable[str]) -> str:
    return "\n".join(f"% {_flat(line)}" for line in lines if line)


def _numbered(report: Report) -> Iterable[tuple[int, Citation]]:
    return enumerate(sources(report), start=1)


def _url(source: Citation) -> str:
    return quote(source.url, safe="/:?=&#%+,;@()~")


def _flat(text: str) -> str:
    """One line: a line break would end a table's row or a comment. Spaces that do not break stay."""
    return re.sub(rf"[^\S{SPACE}]+", " ", text).strip(" ")
