"""Notebooks are run here cell by cell, in this process and without Jupyter.

    python -m tests.notebooks docs/walk-through.ipynb

runs one in a scratch folder and stores what its cells show, as Jupyter would.
"""

from __future__ import annotations

import ast
import io
import json
import os
import sys
import tempfile
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

Cell = dict[str, Any]


def read(path: Path) -> dict[str, Any]:
    """The notebook, as JSON has it."""
    found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return found


def code_cells(notebook: dict[str, Any]) -> list[Cell]:
    return [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]


def run_cell(source: str, names: dict[str, Any], called: str) -> list[Cell]:
    """Run one cell; what it prints, and the value of its last line if that is an expression, as Jupyter stores them."""
    tree = ast.parse(source, called)
    last = tree.body.pop() if tree.body and isinstance(tree.body[-1], ast.Expr) else None
    value, printed = None, io.StringIO()
    with redirect_stdout(printed):
        exec(compile(tree, called, "exec"), names)
        if isinstance(last, ast.Expr):
            value = eval(compile(ast.Expression(last.value), called, "eval"), names)
    outputs: list[Cell] = []
    if printed.getvalue():
        outputs.append({"output_type": "stream", "name": "stdout", "text": lines(printed.getvalue())})
    if value is not None:
        shown = {"text/plain": lines(repr(value))}
        if hasattr(value, "_repr_html_"):
            shown["text/html"] = lines(value._repr_html_())
        outputs.append({"output_type": "execute_result", "metadata": {}, "data": shown})
    return outputs


def lines(text: str) -> list[str]:
    return text.splitlines(keepends=True)


def run(notebook: dict[str, Any], names: dict[str, Any]) -> None:
    """Run all cells in order, in one namespace, and store their outputs in them."""
    for count, cell in enumerate(code_cells(notebook), 1):
        outputs = run_cell("".join(cell["source"]), names, f"cell {count}")
        for output in outputs:
            if output["output_type"] == "execute_result":
                output["execution_count"] = count
        cell["outputs"], cell["execution_count"] = outputs, count


def main(path: Path) -> None:
    notebook, here = read(path), Path.cwd()
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        try:
            run(notebook, {"__name__": "__main__"})
        finally:
            os.chdir(here)
    path.write_text(json.dumps(notebook, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
