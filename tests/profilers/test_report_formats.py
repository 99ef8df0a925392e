"""Markdown, LaTeX and JSON: their numbers against the dataclasses, their escaping against other parsers."""

from __future__ import annotations

import dataclasses
import json
import re
from pathlib import Path
from typing import Any

import profilers_example as example
import pytest
from markdown_it import MarkdownIt
from markdown_it.token import Token

from exporters.errors import DeployError
from profilers import report
from profilers.energy.models import Range
from profilers.report import latex, markdown
from profilers.report import schema as json_schema
from profilers.report.numbers import SPACE, interval, percent, quantity, spread

HOSTILE = r"a|b \ `code` *x* _y_ <b>&amp; [l](u) #1 ~t~ 50% $z^2$ {n} -- ” µ \textbf{x} \\ &"


@pytest.fixture(scope="module")
def made() -> report.Report:
    return example.example()


@pytest.fixture(scope="module")
def three(made: report.Report) -> report.Report:
    """Three networks of different sizes of activity, two of them alike in role, with hostile names."""
    first, second = made.students
    third = report.Student(HOSTILE, example.run(example.network(2), 0.9, samples=7))
    return report.build("three", "c", [first, second, third], teacher=made.teacher)


def tables(text: str) -> list[list[list[str]]]:
    """Every table of a Markdown text as a Markdown parser sees it: rows of cell texts."""
    found: list[list[list[str]]] = []
    inside = False
    for token in MarkdownIt("commonmark").enable("table").parse(text):
        if token.type in ("table_open", "table_close"):
            inside = token.type == "table_open"
            found += [[]] if inside else []
        elif token.type == "tr_open":
            found[-1].append([])
        elif token.type == "inline" and inside:
            found[-1][-1].append(plain(token))
    return found


def plain(token: Token) -> str:
    return "".join(child.content for child in token.children or [])


def latex_tables(text: str) -> list[list[list[str]]]:
    """Every tabular as rows of cells, split where LaTeX would split; fails on what LaTeX would stumble over."""
    found = []
    for spec, body in re.findall(r"\\begin\{tabular\}\{(l?r*)\}(.*?)\\end\{tabular\}", text, re.DOTALL):
        rows = [line.strip() for line in body.splitlines() if line.strip()]
        assert rows[0] == r"\toprule" and rows[2] == r"\midrule" and rows[-1] == r"\bottomrule"
        cells = []
        for row in (rows[1], *rows[3:-1]):
            assert row.endswith(r"\\")
            cells.append([cell.strip() for cell in re.split(r"(?<!\\)&", row.removesuffix(r"\\"))])
            assert len(cells[-1]) == len(spec)
        found.append(cells)
    return found


def unlatex(text: str) -> str:
    """What LaTeX would print, for the commands that the report uses; anything else that is special is an error."""
    names = {
        "textbackslash": "\\", "textasciicircum": "^", "textasciitilde": "~", "textless": "<", "textgreater": ">",
        "textbar": "|", "textquotedbl": '"', "textasciigrave": "`", "textmu": "µ", "textperiodcentered": "·",
        "ldots": "…",
    }  # fmt: skip
    printed = {"~": SPACE, "--": "–", "``": "“", "''": "”", "'": "’", "{}": "", "{[}": "[", "{]}": "]"}
    mathematics = {r"$\times$": "×", r"$\div$": "÷", r"$\pm$": "±", r"$\geq$": "≥", r"$\leq$": "≤", "$-$": "−"}
    mathematics |= {r"$\lceil$": "⌈", r"$\rceil$": "⌉"}
    pattern = r"(\$[^$]*\$)|\\([a-z]+)\{\}|\\([{}$&#%_])|(~|--|``|''|'|\{\}|\{\[\}|\{\]\})|([^\\{}$&#%_^~<>|\"\[\]])"
    result, end = "", 0
    for part in re.finditer(pattern, text):
        assert part.start() == end, f"LaTeX trips over {text[end : part.start()]!r}"
        end = part.end()
        maths, name, escaped, mark, letter = part.groups()
        result += (
            mathematics[maths] if maths else names[name] if name else escaped or (printed[mark] if mark else letter)
        )
    assert end == len(text), f"LaTeX trips over {text[end:]!r}"
    return result


def test_markdown_has_the_numbers_of_the_report(made: report.Report) -> None:
    networks, conventions, layers, steps, classes, confused, energies, placed, compared = tables(markdown.render(made))
    assert networks[0] == [
        "",
        "cnn2 (32, 64) (ANN teacher)",
        "distilled (SNN student)",
        "undistilled (SNN, undistilled twin)",
    ]
    rows = {row[0]: row[1:] for row in networks}
    assert made.teacher is not None
    for column, student in enumerate(made.students, start=1):
        run, plain_run = student.deployed, student.float_run
        bounds = interval(run.synops.low, run.synops.high, run.synops.mean)
        shown, floating = quantity(run.synops.mean), quantity(plain_run.synops.mean)
        differs = f"; float{SPACE}{floating}" if floating != shown else ""
        expected = f"{shown} (95{SPACE}%{SPACE}CI {bounds}{differs})"
        assert rows["SynOps (all synapses)"][column] == expected
        assert rows["Accuracy"][column].startswith(percent(run.accuracy or 0))
        assert rows["Neurons"][column] == f"{run.neurons:,}"
        for row, convention in zip(conventions[1:], run.conventions, strict=False):
            assert row[0] == f"{convention.name} ({convention.what})"
            mean = convention.statistic
            assert row[1 + column].startswith(quantity(mean.mean))
            if mean.low < mean.high:
                assert f"CI {interval(mean.low, mean.high, mean.mean)}" in row[1 + column]
        counted = {c.key: c.statistic.mean for c in run.conventions}
        assert counted["synops"] == run.synops.mean and counted["spikes"] == run.spikes.mean
        assert counted["neuron_updates"] == run.T * run.neurons
    assert len(conventions) == 2 + len(made.students[0].deployed.conventions)
    thop = quantity(made.teacher.counts.thop, digits=5)
    assert conventions[-1][1:] == [thop, "–", "–"] and rows["MACs (SNN: as an ANN of its shape)"][0].endswith(
        f" (FLOPs{SPACE}(thop){SPACE}{thop})"
    )
    run = made.students[0].deployed
    assert [row[0] for row in layers[1:]] == [f"{layer.name} ({layer.kind})" for layer in run.layers]
    assert [row[1] for row in steps[1:]] == [percent(a) for a in run.accuracy_by_step]
    assert [row[-1] for row in steps[1:]] == [quantity(sum(run.synops_by_step[: t + 1])) for t in range(run.T)]
    assert (
        [row[0] for row in classes[1:]]
        == [row[0] for row in confused[1:]]
        == [f"{k} {n}" for k, n in enumerate(example.CLASSES)]
    )
    assert classes[8] == ["7 seven", "2", f"0.0{SPACE}%", f"0.0{SPACE}%", "1 one (2)"] and confused[8][2] == "2"
    for row, model in zip(energies[1:], made.energies, strict=True):
        assert row[0].startswith(model.title)
        for cell, student_energy in zip(row[2:], model.students, strict=False):
            e = student_energy.estimate
            assert e is not None and cell.startswith(spread(Range(e.low, e.nominal, e.high), "J"))
    assert [row[1] for row in placed[1:]] == ["100", "40", "3", "1", "144"]
    assert [row[0] for row in compared[1:]] == [
        "emulator", "ONNX Runtime (float network, whole sequence)", "Lava 0.10.0 (every layer, every step)"
    ]  # fmt: skip


def test_latex_prints_what_markdown_shows(made: report.Report, three: report.Report) -> None:
    for some in (made, three, example.wide(), example.events()):
        text = latex.render(some)
        assert [[[unlatex(c) for c in row] for row in table] for table in latex_tables(text)] == tables(
            markdown.render(some)
        )
        labels = re.findall(r"\\label\{(.*)\}", text)
        assert len(set(labels)) == len(labels) == text.count(r"\begin{table}")


def test_captions_say_what_the_numbers_are_not(made: report.Report) -> None:
    captions = [unlatex(c) for c in re.findall(r"\\caption\{(.*)\}", latex.render(made))]
    energies = next(c for c in captions if c.startswith("Energy"))
    assert "compare along a row, never down a column" in energies
    assert "No per-operation" not in energies and "not counted, so missing from the sum: " in energies
    for text in (markdown.render(made), latex.render(made)):
        for source in {s.url for m in made.energies for s in m.sources}:
            assert source in text


def test_hostile_names_come_out_as_they_are(three: report.Report) -> None:
    names = tables(markdown.render(three))[0][0]
    assert names[-1] == f"{HOSTILE} (SNN student)"
    evil = dataclasses.replace(
        three, title=f"1. {HOSTILE}", data="# no heading", notes=("- no list", "2) neither"), command="a ``` b"
    )
    tokens = MarkdownIt("commonmark").enable("table").parse(markdown.render(evil))
    shown = [plain(t) for t in tokens if t.type == "inline"]
    after = 2 + len(three.verdict)
    assert [*shown[:2], *shown[after : after + 2]] == [f"1. {HOSTILE}", "# no heading", "- no list", "2) neither"]
    assert any(HOSTILE in sentence for sentence in shown[2:after])  # the third network is a rival
    assert not any(t.type == "html_block" for t in tokens)
    parts = [part for t in tokens for part in t.children or []]
    assert not any(part.type == "html_inline" for part in parts)
    assert all(part.markup == "autolink" for part in parts if part.type == "link_open")
    assert tokens[-1].type == "fence" and tokens[-1].content == "a ``` b\n"


def test_latex_comments_stay_comments(made: report.Report) -> None:
    evil = dataclasses.replace(made, title="a\n\\input{x}", data="b\r\\c", command="d\u2028\\e", notes=("\n\\f",))
    for line in latex.render(evil).splitlines():
        assert re.match(
            r"%|\s*\\(begin|end|centering|item |caption|label|toprule|midrule|bottomrule)|\s+.*\\\\$|$", line
        ), line


def test_three_networks_in_one_table(three: report.Report) -> None:
    networks = tables(markdown.render(three))[0]
    synops = next(row for row in networks if row[0] == "SynOps (all synapses)")
    assert [cell.split(" (")[0] for cell in synops[2:]] == [quantity(s.deployed.synops.mean) for s in three.students]
    assert all(len(m.students) == 3 for m in three.energies)
    assert "float" not in synops[4]  # the third was never quantized


def test_unknown_formats_are_refused_and_none_is_written(made: report.Report, tmp_path: Path) -> None:
    with pytest.raises(DeployError, match="no report format 'pdf'; choose from html, json, csv, markdown, latex"):
        report.write(made, tmp_path / "x", ["html", "pdf"])
    assert not (tmp_path / "x").exists()
    written = report.write(made, tmp_path, ["latex", "markdown", "latex"])
    assert list(written) == ["report.tex", "report.md"] == [p.name for p in written.values()]
    assert written["report.tex"].read_text(encoding="utf-8") == latex.render(made)


# -- schema --------------------------------------------------------------------------------------------


def problems(value: Any, schema: dict[str, Any], definitions: dict[str, Any], place: str = "report") -> list[str]:
    """Where a value departs from the part of JSON Schema that the file uses; unknown keywords are problems too."""
    known = {"$ref", "$schema", "$defs", "title", "description", "type", "properties", "required", "items", "enum",
             "anyOf", "const", "additionalProperties"}  # fmt: skip
    found = [f"{place}: unknown keyword {key}" for key in schema.keys() - known]
    if "$ref" in schema:
        return found + problems(value, definitions[schema["$ref"].removeprefix("#/$defs/")], definitions, place)
    if "anyOf" in schema:
        options = [problems(value, option, definitions, place) for option in schema["anyOf"]]
        return found + ([] if [] in options else min(options, key=len))
    if "const" in schema and value != schema["const"]:
        found.append(f"{place}: not {schema['const']}")
    if "enum" in schema and value not in schema["enum"]:
        found.append(f"{place}: not one of {schema['enum']}")
    python = {
        "object": dict,
        "array": list,
        "string": str,
        "boolean": bool,
        "null": type(None),
        "integer": int,
        "number": (int, float),
    }
    kind = schema.get("type")
    if kind and (not isinstance(value, python[kind]) or isinstance(value, bool) != (kind == "boolean")):
        return [*found, f"{place}: not of type {kind}"]
    if kind == "object":
        properties, rest = schema.get("properties", {}), schema.get("additionalProperties", True)
        found += [f"{place}: lacks {key}" for key in schema.get("required", []) if key not in value]
        for key, item in value.items():
            if key in properties:
                found += problems(item, properties[key], definitions, f"{place}.{key}")
            elif rest is False:
                found.append(f"{place}: does not know {key}")
            elif rest is not True:
                found += problems(item, rest, definitions, f"{place}.{key}")
    if kind == "array":
        for index, item in enumerate(value):
            found += problems(item, schema["items"], definitions, f"{place}[{index}]")
    return found


@pytest.fixture(scope="module")
def schema() -> dict[str, Any]:
    return json.loads(json_schema.FILE.read_text(encoding="utf-8"))


def test_reports_fit_the_schema(made: report.Report, three: report.Report, schema: dict[str, Any]) -> None:
    alone = report.build("ANN", "c", [], teacher=made.teacher)
    for some in (made, three, alone, example.events()):
        assert problems(json.loads(some.to_json()), schema, schema["$defs"]) == []


@pytest.mark.parametrize(
    ("path", "value", "problem"),
    [
        (("version",), 1, "report.version: not 7"),
        (("title",), None, "report.title: not of type string"),
        (("students", 0, "role"), "teacher", "report.students[0].role: not one of"),
        (("students", 0, "float_run", "T"), 4.5, "report.students[0].float_run.T: not of type integer"),
        (("students", 0, "float_run", "layers", 0, "color"), 1, "report.students[0].float_run.layers[0]: does not know color"),
        (("energies", 0, "constants", "ac", "joules"), {"low": 0}, "joules: lacks nominal"),
        (("placements", 0, "rows", 1, "cores"), True, "report.placements[0].rows[1].cores: not of type integer"),
    ],
)  # fmt: skip
def test_the_schema_refuses(
    made: report.Report, schema: dict[str, Any], path: tuple[str | int, ...], value: object, problem: str
) -> None:
    data = json.loads(made.to_json())
    place = data
    for key in path[:-1]:
        place = place[key] if key in place or isinstance(key, int) else next(iter(place.values()))
    place[path[-1]] = value
    assert any(problem in found for found in problems(data, schema, schema["$defs"]))


def test_the_schema_that_ships_is_the_current_one() -> None:
    text = json_schema.FILE.read_text(encoding="utf-8")
    assert text == json_schema.schema_text(), "write it anew: python -m profilers.report.schema"
