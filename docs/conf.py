"""How Sphinx makes the site: `make docs` builds it from the pages in this folder and from the docstrings."""

from __future__ import annotations

import importlib
import pkgutil
import re
import sys
from pathlib import Path

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.domains.python import PyObject
from sphinx.util.docutils import SphinxDirective

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE.parent), str(HERE)]

from notebook_pages import NotebookParser  # noqa: E402  # beside this file

project = "kdsnn-deploy"
html_title = project
html_theme = "furo"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_show_copyright = False
html_copy_source = False
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
exclude_patterns = ["_build"]

myst_enable_extensions = ["colon_fence"]
myst_heading_anchors = 4

default_role = "literal"  # docstrings quote code in single backticks
napoleon_numpy_docstring = False
napoleon_use_ivar = True
autodoc_member_order = "bysource"
autodoc_typehints_format = "short"
autodoc_preserve_defaults = True
autodoc_default_options = {"no-value": True}  # of constants: some are tables
python_use_unqualified_type_names = True
python_maximum_signature_line_length = 100
toc_object_entries_show_parents = "hide"


class Modules(SphinxDirective):
    """`{modules} package` describes a package and every public module in it, so that a new one needs no line in a page."""

    required_arguments = 1

    def run(self) -> list[nodes.Node]:
        """The package's docstring, then a heading and an `automodule` for each module."""
        package = importlib.import_module(self.arguments[0])
        names = [name for _, name, _ in pkgutil.iter_modules(package.__path__) if not name.startswith("_")]
        found = f"```{{eval-rst}}\n.. automodule:: {package.__name__}\n```\n\n"
        for name in names:
            found += f"## {name}\n\n```{{eval-rst}}\n.. automodule:: {package.__name__}.{name}\n   :members:\n```\n\n"
        return self.parse_text_to_nodes(found, allow_section_headings=True)


def as_restructured_text(
    _app: Sphinx, what: str, _name: str, _object: object, _options: object, lines: list[str]
) -> None:
    """Docstrings are plain text: an indented block is code, a star or a bar means itself."""
    # of a property, napoleon would take what stands before a colon in the first line for its type
    found: list[str] = [""] if what in ("attribute", "data", "property") else []
    indent, code = 0, False
    for before, line in zip(["", *lines], lines, strict=False):
        deeper = len(line) - len(line.lstrip()) - indent >= 4
        if line.strip():
            if deeper and not before.strip() and not code:
                found += [f"{' ' * indent}::", ""]
                code = True
            code = code and deeper
            if not code:
                indent = len(line) - len(line.lstrip())
        found.append(line if code else re.sub(r"(?<![`\\])(\*(?! )|\|)", r"\\\1", line))
    lines[:] = found


SHORTER = (
    (re.compile(r"~numpy\.ndarray\[tuple\[~typing\.Any, \.\.\.\], ~numpy\.dtype\[~typing\.Any\]\]"), "Array"),
    (re.compile(r"~numpy\.ndarray\[tuple\[~typing\.Any, \.\.\.\], ~numpy\.dtype\[(.*?)\]\]"), r"NDArray[\1]"),
    (re.compile(r"(= ?[A-Z]\w+)\((?:[^()]|\([^()]*\))+\)"), r"\1(...)"),
    (re.compile("<factory>"), "..."),
)
"""What autodoc writes of arrays and of defaults that are objects, and what a reader takes in at once."""


def shorter(
    _app: Sphinx, _what: str, _name: str, _object: object, _options: object, signature: str | None, returns: str | None
) -> tuple[str | None, str | None]:
    """Shorten a signature and what it returns."""

    def short(text: str | None) -> str | None:
        for long, instead in SHORTER if text else ():
            text = long.sub(instead, text or "")
        return text

    return short(signature), short(returns)


def setup(app: Sphinx) -> None:
    """What Sphinx calls first."""
    for field in PyObject.doc_field_types:
        if field.name == "variable":
            field.label = "Attributes"
    app.add_source_suffix(".ipynb", "notebook")
    app.add_source_parser(NotebookParser)
    app.add_directive("modules", Modules)
    app.connect("autodoc-process-docstring", as_restructured_text, priority=400)  # before napoleon
    app.connect("autodoc-process-signature", shorter)
