"""The JSON Schema of the file (draft 2020-12), made from the models, for editors and for the words of error messages."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from typing import Any

from pydantic.json_schema import GenerateJsonSchema, JsonSchemaValue
from pydantic_core import core_schema

from proxy.configuration.source import Location, is_mark
from proxy.schema import format_duration, format_interval, format_rate, format_share, format_size
from proxy.settings import Settings

DIALECT = "https://json-schema.org/draft/2020-12/schema"
_FORMATS = {
    "tagstone-duration": format_duration,
    "tagstone-interval": format_interval,
    "tagstone-size": format_size,
    "tagstone-share": format_share,
    "tagstone-rate": format_rate,
}


class _Generator(GenerateJsonSchema):
    """Pydantic's generator, with defaults written as the file writes them and without titles that repeat the keys."""

    def default_schema(self, schema: core_schema.WithDefaultSchema) -> JsonSchemaValue:
        made = super().default_schema(schema)
        write = _FORMATS.get(str(made.get("format")))
        if write is not None and "default" in made:
            made["default"] = write(made["default"])
        return made

    def field_title_should_be_set(self, schema: Any) -> bool:
        return False


@cache
def annotated_schema() -> dict[str, Any]:
    """The schema with formats of our own (``tagstone-duration``, …) that tell what a text means. Shared: do not change it."""
    return Settings.model_json_schema(schema_generator=_Generator)


@cache
def json_schema() -> dict[str, Any]:
    """The schema of the file, for anyone's tools. The value is shared: do not change it."""
    return {"$schema": DIALECT, **_tidy({**annotated_schema(), "title": "Tagstone configuration"}, named=False)}


def _tidy(node: Any, named: bool) -> Any:
    """As the file has it: null is no value, but stands for an empty section. ``named``: the keys are names, not JSON Schema's."""
    if isinstance(node, list):
        return [_tidy(item, False) for item in node]
    if not isinstance(node, dict):
        return node
    kept = dict(node)
    if not named:
        options = [option for option in kept.get("anyOf", []) if option != {"type": "null"}]
        if "anyOf" in kept and len(options) == 1:
            del kept["anyOf"]
            kept = {**options[0], **kept}
        if kept.get("type") == "object" and not kept.keys() & {"required", "oneOf", "anyOf"}:
            kept["type"] = ["object", "null"]
        if "default" in kept:
            kept["default"] = _without_null(kept["default"])
            if kept["default"] is None:
                del kept["default"]
        kept.pop("format", None)
        kept.pop("discriminator", None)
    if named:
        return {key: _tidy(value, False) for key, value in kept.items()}
    return {
        key: value if key in ("default", "enum", "examples", "type") else _tidy(value, key in ("properties", "$defs"))
        for key, value in kept.items()
    }


def _without_null(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_null(inner) for key, inner in value.items() if inner is not None}
    return value


def _expand(node: dict[str, Any]) -> Iterator[dict[str, Any]]:
    if "$ref" in node:
        yield from _expand(json_schema()["$defs"][node["$ref"].rpartition("/")[2]])
    for option in (*node.get("oneOf", ()), *node.get("anyOf", ())):
        yield from _expand(option)
    yield node


def _at(location: Location) -> list[dict[str, Any]]:
    """Every schema that may hold for the value at ``location``."""
    nodes = list(_expand(json_schema()))
    for step in location:
        if is_mark(step):
            continue
        found: list[dict[str, Any]] = []
        for node in nodes:
            if isinstance(step, int):
                below = node.get("items")
            else:
                below = node.get("properties", {}).get(step, node.get("additionalProperties"))
            if isinstance(below, dict):
                found += _expand(below)
        nodes = found
    return nodes


def keys_at(location: Location) -> tuple[str, ...]:
    """The keys that a mapping at ``location`` may have; empty where they are names of the user's, or there is no mapping."""
    return tuple(dict.fromkeys(key for node in _at(location) for key in node.get("properties", ())))


def values_at(location: Location) -> tuple[str, ...]:
    """The words that may stand at ``location``, where only certain words may."""
    found: dict[str, None] = {}
    for node in _at(location):
        words = (*node.get("enum", ()), *([node["const"]] if "const" in node else ()))
        found |= dict.fromkeys(map(str, words))
    return tuple(found)
