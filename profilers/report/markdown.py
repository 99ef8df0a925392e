"""`report.md` has the tables of a report in Markdown, GitHub's and Pandoc's form, with its glossary and sources."""

from __future__ import annotations

import re
from urllib.parse import quote

from profilers.energy.models import Citation
from profilers.report.cells import Cell, Table, joined, one_line
from profilers.report.data import ReportData
from profilers.report.glossary import GLOSSARY
from profilers.report.literature import sources
from profilers.report.sentences import Sentence
from profilers.report.tables import everything

_SPECIAL = re.compile(r"[\\`*_{}\[\]<>#|~!&]")


def render(report: ReportData) -> str:
    """The report becomes Markdown text."""
    parts = [f"# {escape(report.title)}"]
    parts += [escape(report.data)] if report.data else []
    parts.append("\n".join(f"* {_sentence(one)}" for one in report.verdict))
    parts += [escape(text) for text in report.notes]
    for table in everything(report):
        parts.append(f"## {escape(table.caption)}")
        parts.append(_table(table))
        if table.notes:
            parts.append("\n".join(f"* {escape(note)}" for note in table.notes))
    parts.append("## Conventions")
    parts.append("\n".join(f"* **{escape(term)}**: {escape(text)}" for term, text in GLOSSARY))
    parts.append("## Sources")
    parts.append("\n".join(f"{n}. {escape(s.citation)}. <{_url(s)}>" for n, s in enumerate(sources(report), start=1)))
    seeds = ", ".join(f"{what} {seed}" for what, seed in report.origin.seeds.items())
    parts.append(escape(f"{report.origin.program}, {report.origin.machine}" + (f"; seeds: {seeds}" if seeds else "")))
    parts.append(f"Made {escape(report.created)}" + (" by" if report.command else ""))
    if report.command:
        fence = "`" * max(3, 1 + max(map(len, re.findall("`+", report.command)), default=0))
        parts.append(f"{fence}\n{one_line(report.command)}\n{fence}")
    return "\n\n".join(parts) + "\n"


def _sentence(one: Sentence) -> str:
    """What is bad stands out, and an answer stands behind its question."""
    text = escape(one.text)
    if one.question:
        return f"**{escape(one.question)}** {escape(one.answer)}. {text}"
    return f"**{text}**" if one.bad else text


def escape(text: str) -> str:
    """A Markdown table or line shows the escaped text as it was."""
    escaped = _SPECIAL.sub(lambda found: "\\" + found[0], one_line(text))
    # what would start a list or underline a heading
    return re.sub(r"^([-+=]|\d+[.)](?=\s|$))", lambda found: f"{found[1][:-1]}\\{found[1][-1]}", escaped)


def _table(table: Table) -> str:
    def row(cells: list[str]) -> str:
        return f"| {' | '.join(cells)} |"

    lines = [row([joined(c, escape) for c in table.columns])]
    lines.append(row(["---", *["---:"] * (len(table.columns) - 1)]))
    for line in table.rows:
        label = joined(Cell(line.label, (line.hint,) if line.hint else ()), escape)
        lines.append(row([label, *(joined(c, escape) for c in line.cells)]))
    return "\n".join(lines)


def _url(source: Citation) -> str:
    return quote(source.url, safe="/:?=&#%+,;@()~")
