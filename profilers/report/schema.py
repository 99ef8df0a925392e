"""The JSON Schema (draft 2020-12) of `report.json` is made from the dataclasses that the report consists of.

The file that ships is `profilers/report/templates/report.schema.json`; after a change of the dataclasses write it anew
with `python -m profilers.report.schema`.
"""

from __future__ import annotations

import dataclasses
import inspect
import json
import types
import typing
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from exporters.files import atomic_path
from profilers.report.data import VERSION, ReportData

FILE = Path(__file__).parent / "templates" / "report.schema.json"

_PLAIN = {int: "integer", float: "number", str: "string", bool: "boolean", type(None): "null"}


def report_schema() -> dict[str, Any]:
    """The schema is JSON data."""
    definitions: dict[str, Any] = {}
    reference = _schema(ReportData, definitions)
    definitions["ReportData"]["properties"]["version"] = {"const": VERSION}
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "kdsnn-deploy report",
        **reference,
        "$defs": dict(sorted(definitions.items())),
    }


def schema_text() -> str:
    """The file holds this text."""
    return json.dumps(report_schema(), indent=1, ensure_ascii=False) + "\n"


def _schema(kind: Any, definitions: dict[str, Any]) -> dict[str, Any]:
    if dataclasses.is_dataclass(kind) and isinstance(kind, type):
        if kind.__name__ not in definitions:
            definitions[kind.__name__] = {}  # known before its fields are looked at
            definitions[kind.__name__] = _object(kind, definitions)
        return {"$ref": f"#/$defs/{kind.__name__}"}
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin is typing.Literal:
        return {"enum": list(arguments)}
    if origin in (types.UnionType, typing.Union):
        return {"anyOf": [_schema(argument, definitions) for argument in arguments]}
    if origin is tuple:
        return {"type": "array", "items": _schema(arguments[0], definitions)}
    if origin is Mapping:
        return {"type": "object", "additionalProperties": _schema(arguments[1], definitions)}
    return {"type": _PLAIN[kind]}


def _object(kind: type[Any], definitions: dict[str, Any]) -> dict[str, Any]:
    hints = typing.get_type_hints(kind)
    names = [field.name for field in dataclasses.fields(kind)]
    return {
        "description": inspect.cleandoc(kind.__doc__ or ""),
        "type": "object",
        "properties": {name: _schema(hints[name], definitions) for name in names},
        "required": names,
        "additionalProperties": False,
    }


if __name__ == "__main__":
    with atomic_path(FILE) as path:
        path.write_text(schema_text(), encoding="utf-8")
