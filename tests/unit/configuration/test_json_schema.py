"""The JSON Schema accepts the files that are accepted, and sees the mistakes that a schema can see."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator

from proxy.configuration.schema import DIALECT, json_schema, keys_at, values_at
from proxy.configuration.source import parse
from tests.unit.configuration.test_load import CONTRACT, SHIPPED
from tests.unit.configuration.test_reference import PAGE

VALIDATOR = Draft202012Validator(json_schema())


def as_an_editor_reads(text: str) -> Any:
    """YAML 1.2, as editors have it: words and dates are text, numbers and booleans are themselves."""

    def typed(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: typed(inner) for key, inner in value.items()}
        if isinstance(value, list):
            return [typed(inner) for inner in value]
        if isinstance(value, str) and value.isdigit():
            return int(value)
        return {"true": True, "false": False}.get(value, value)

    return typed(parse(text, "f")[0].plain())


def test_the_schema_is_one_of_its_dialect() -> None:
    """Draft 2020-12, and nothing in it that only pydantic knows."""
    Draft202012Validator.check_schema(json_schema())
    assert json_schema()["$schema"] == DIALECT
    text = json.dumps(json_schema())
    assert "tagstone-" not in text
    assert '{"type": "null"}' not in text
    assert ": null" not in text


def test_every_key_is_described() -> None:
    """What an editor shows is what the documentation says; the default stands beside it as the file writes it."""
    models = [json_schema(), *json_schema()["$defs"].values()]
    for model in models:
        assert model.get("description"), model.get("title")
        for key, field in model.get("properties", {}).items():
            assert field.get("description") or "$ref" in field, f"{model['title']}.{key}"
    assert json_schema()["properties"]["check_interval"]["default"] == "60s"
    assert json_schema()["$defs"]["Limits"]["properties"]["manifest_size"]["default"] == "4MiB"


@pytest.mark.parametrize(
    "text",
    [
        SHIPPED.read_text(encoding="utf-8"),
        CONTRACT.format(work=Path("/work")),
        PAGE.read_text(encoding="utf-8").split("```yaml\n")[1].partition("```")[0],
    ],
    ids=["shipped", "contract", "documented"],
)  # fmt: skip
def test_files_that_are_accepted_are_valid(text: str) -> None:
    """The shipped default, the keys that scripts rely on, and the documented example."""
    assert [error.message for error in VALIDATOR.iter_errors(as_an_editor_reads(text))] == []


@pytest.mark.parametrize(
    "text",
    [
        "{}",
        "rules: []",
        "rules: [{match: x}]",
        "rules: [{match: x, requires: deny}]",
        "rules: [{match: x, require: allow}]",
        "rules: [{match: x, require: }]",
        "rules: [{match: x, require: {signature: }}]",
        "rules: [{match: x, require: {signature: {}}}]",
        "rules: [{match: x, require: {signature: {key: a, kye: b}}}]",
        "rules: [{match: x, require: {signature: {key: a, notation: {store: b}}}}]",
        "rules: [{match: x, require: {all: []}}]",
        "rules: [{match: x, require: {all: [deny], any: [deny]}}]",
        "rules: [{match: x, require: deny, tags: [{match: y, on_overwrite: refused}]}]",
        "{rules: [{match: x, require: deny}], chek_interval: 5s}",
        "{rules: [{match: x, require: deny}], check_interval: 60}",
        "{rules: [{match: x, require: deny}], check_interval: 60 seconds}",
        "{rules: [{match: x, require: deny}], limits: {manifest_size: 4MB}}",
        "{rules: [{match: x, require: deny}], workers: 0}",
        "{rules: [{match: x, require: deny}], upstreams: {docker.io: {allow_private: maybe}}}",
        "{rules: [{match: x, require: deny}], trust: {keys: {a: {}}}}",
        "{rules: [{match: x, require: deny}], trust: {keys: {a: {file: b, valid_from: tomorrow}}}}",
    ],
)
def test_mistakes_are_seen_by_the_schema(text: str) -> None:
    """Unknown keys at every depth, other values, what is missing."""
    assert not VALIDATOR.is_valid(as_an_editor_reads(text))


def test_the_schema_knows_which_keys_and_words_belong_where() -> None:
    """Through references, lists, mappings by name and every form of a requirement."""
    assert keys_at(("log",)) == ("format", "level", "pulls")
    assert keys_at(("upstreams",)) == ()
    assert "url" in keys_at(("upstreams", "docker.io"))
    assert keys_at(("rules", 0, "require", "<all>", "all", 3)) == ("signature", "attestation", "all", "any", "at_least", "of")
    assert values_at(("rules", 0, "require")) == ("first-use", "deny")
    assert values_at(("trust", "roots", "x")) == ("public-good",)
    assert keys_at(("nowhere", "at", "all")) == ()
    assert values_at(("workers", 3)) == ()
