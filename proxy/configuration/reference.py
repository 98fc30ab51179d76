"""The tables of docs/configuration.md, made from the models.

``python -m proxy.configuration.reference docs/configuration.md`` writes them anew between their marks; a test compares.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any

from proxy.configuration.schema import annotated_schema

#: ``<!-- keys: Model -->`` … ``<!-- end -->``; the root is called ``Settings``.
_MARKED = re.compile(r"(<!-- keys: (\w+) -->\n).*?(<!-- end -->)", re.DOTALL)
_FORMATS = {
    "tagstone-duration": "duration",
    "tagstone-interval": "duration or `never`",
    "tagstone-size": "size",
    "tagstone-share": "share",
    "tagstone-rate": "rate",
    "tagstone-moment": "date or time",
    "tagstone-clock": "time of the day",
    "path": "path",
}
_TYPES = {"string": "text", "boolean": "`true` or `false`", "object": "mapping", "array": "list"}


def models() -> dict[str, dict[str, Any]]:
    """Every model of the file with its schema, by name; the root first."""
    schema = annotated_schema()
    return {"Settings": schema} | {name: model for name, model in schema["$defs"].items() if model.get("type") == "object"}


def table(name: str) -> str:
    """The keys of one model as a Markdown table."""
    model = models()[name]
    rows = ["| key | value | default | meaning |", "| --- | --- | --- | --- |"]
    for key, field in model["properties"].items():
        default = "required" if key in model.get("required", ()) else _default(field)
        rows.append(f"| `{key}` | {_value(field)} | {default} | {_meaning(field)} |")
    return "\n".join(rows) + "\n"


def render(text: str) -> str:
    """``text`` with every marked table made anew. Raises KeyError for a mark that names no model."""
    return _MARKED.sub(lambda found: f"{found[1]}{table(found[2])}{found[3]}", text)


def _meaning(field: dict[str, Any]) -> str:
    # Pydantic leaves a description out where it only repeats that of the model referred to.
    return str(field.get("description") or models()[field["$ref"].rpartition("/")[2]]["description"])


def _default(field: dict[str, Any]) -> str:
    match field.get("default"):
        case None | dict() | [dict(), *_]:
            return "–"
        case []:
            return "`[]`"
        case bool(value):
            return f"`{str(value).lower()}`"
        case value:
            return f"`{value}`"


def _value(field: dict[str, Any]) -> str:
    options = [option for option in field.get("anyOf", ()) if option != {"type": "null"}]
    if len(options) == 1:
        return _value(options[0])
    if "enum" in field or "const" in field:
        return ", ".join(f"`{word}`" for word in field.get("enum", (field.get("const"),)))
    if field.get("format") in _FORMATS:
        return _FORMATS[field["format"]]
    if "oneOf" in field:
        return "word or list" if any(option.get("type") == "array" for option in field["oneOf"]) else "word or mapping"
    if "$ref" in field:
        return "mapping"
    if field["type"] == "integer":
        return _range(field)
    if field["type"] == "array" and "items" in field:
        inner = _value(field["items"])
        return f"list of {inner}s" if inner in ("text", "path", "mapping") else "list"
    if field["type"] == "object":
        return "mapping by name"
    return _TYPES[field["type"]]


def _range(field: dict[str, Any]) -> str:
    low, high = field.get("minimum"), field.get("maximum")
    return f"number, {low}–{high}" if high is not None else f"number from {low}"


if __name__ == "__main__":
    page = Path(sys.argv[1])
    page.write_text(render(page.read_text(encoding="utf-8")), encoding="utf-8")
