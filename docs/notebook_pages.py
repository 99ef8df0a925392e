"""A notebook in this folder is a page of the site: its text, its code, and what the code showed when it was run."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from docutils import nodes
from myst_parser.parsers.sphinx_ import MystParser


class NotebookParser(MystParser):
    """A notebook is read as the Markdown page that it would be."""

    supported = ("notebook",)

    def parse(self, inputstring: str, document: nodes.document) -> None:
        """Parse the text of an `.ipynb` file."""
        super().parse("\n\n".join(parts(json.loads(inputstring))), document)


def parts(notebook: dict[str, Any]) -> Iterator[str]:
    """Each cell as Markdown, then each of its outputs: a table as HTML where there is one, else the text."""
    for cell in notebook["cells"]:
        source = "".join(cell["source"])
        if cell["cell_type"] == "markdown":
            yield source
            continue
        yield f"```python\n{source}\n```"
        for output in cell["outputs"]:
            shown = output.get("data", {"text/plain": output.get("text", [])})
            if "text/html" in shown:
                yield f'````{{raw}} html\n<div class="output">{"".join(shown["text/html"])}</div>\n````'
            else:
                yield f"````text\n{''.join(shown['text/plain'])}\n````"
