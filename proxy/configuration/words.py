"""From what pydantic finds to what a person reads: where it is, what is wrong, and the way out."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from proxy.configuration.schema import keys_at, values_at
from proxy.configuration.source import Kind, Location, Node, place
from proxy.errors import Problem

#: Error types of pydantic's that mean "another kind of value belongs here", and that kind.
_SHAPES = {
    "string_type": "a text",
    "path_type": "a path",
    "model_type": "a mapping",
    "model_attributes_type": "a mapping",
    "mapping_type": "a mapping",
    "dict_type": "a mapping",
    "tuple_type": "a list",
    "int_type": "a whole number",
    "int_parsing": "a whole number",
    "int_parsing_size": "a whole number",
    "int_from_float": "a whole number",
}
_BOUNDS = {"greater_than_equal": ("ge", "at least"), "less_than_equal": ("le", "at most")}
_WAYS = {"a mapping": "write a mapping here, `key: value` lines or `{}`", "a list": "write a list here, such as `[one, two]`"}


def nearest(word: str, known: Iterable[str]) -> str | None:
    """The known word that ``word`` was probably meant to be."""
    import difflib

    def plain(text: str) -> str:
        return text.lower().replace("-", "_").replace(" ", "_")

    originals = {plain(text): text for text in known}
    found = difflib.get_close_matches(plain(word), originals, 1, 0.6)
    return originals[found[0]] if found else None


def suggestion(word: str, known: Iterable[str], listed: str = "known here") -> str:
    """``; did you mean `x`?``, or else what there is; empty where there is nothing."""
    known = list(known)
    if (near := nearest(word, known)) is not None:
        return f"; did you mean `{near}`?"
    if not known:
        return ""
    shown = ", ".join(f"`{text}`" for text in known[:16]) + (", …" if len(known) > 16 else "")
    return f"; {listed}: {shown}"


def problems_of(errors: Iterable[Mapping[str, Any]], root: Node, file: str) -> list[Problem]:
    """Pydantic's errors as problems, in the order of the file."""
    found: list[Problem] = []
    missing: list[tuple[Location, Problem]] = []
    meant: set[tuple[str | int, ...]] = set()
    for error in errors:
        location = tuple(error["loc"])
        line, key, node = place(root, location)
        if error["type"] == "missing":
            missing.append((location, Problem(file, line, key, "is required")))
            continue
        unknown = _unknown(error["type"], location, node)
        for where in unknown:
            word, known = str(where[-1]), keys_at(where[:-1])
            line, key, _ = place(root, where)
            found.append(Problem(file, line, key, f"unknown key `{word}`{suggestion(word, known, 'the keys here are')}"))
            meant.add((*where[:-1], nearest(word, known) or ""))
        if not unknown and (message := _message(error, location, node)) is not None:
            found.append(Problem(file, line, key, message))
    # A key that is missing because it is misspelled has been told already.
    found += [problem for location, problem in missing if location not in meant]
    return list(dict.fromkeys(found))


def _unknown(kind: str, location: tuple[str | int, ...], node: Node | None) -> list[tuple[str | int, ...]]:
    """Locations of the unknown keys that an error is about."""
    if kind == "extra_forbidden":
        return [location]
    if kind == "union_tag_not_found" and node is not None:
        known = keys_at(location)
        return [(*location, key) for key in node.entries if key not in known]
    return []


def _message(error: Mapping[str, Any], location: Location, node: Node | None) -> str | None:
    kind, context = error["type"], error.get("ctx", {})
    if kind == "value_error":
        return str(context["error"])
    if kind == "too_short":
        # Pydantic counts what is valid: a list whose only item is wrong has been reported by that item.
        return None if node is not None and node.items else "must not be empty"
    if kind in ("literal_error", "union_tag_not_found"):
        return _choice(location, node)
    if kind in _BOUNDS:
        name, words = _BOUNDS[kind]
        return f"must be {words} {context[name]}"
    if kind in _SHAPES:
        return _shape(_SHAPES[kind], location, node)
    return f"is not accepted here ({kind.replace('_', ' ')})"


def _shape(wanted: str, location: Location, node: Node | None) -> str:
    way = _WAYS.get(wanted, f"write {wanted} here")
    if wanted == "a mapping" and (keys := keys_at(location)):
        way = "write a mapping here, with keys such as " + ", ".join(f"`{key}`" for key in keys[:4])
    if node is None or (node.kind is Kind.SCALAR and node.text is None):
        return f"has no value; {way}"
    if node.kind is Kind.SCALAR and wanted in ("a whole number", "a text", "a path"):
        return way
    return f"is {node.kind.value}; {way}"


def _choice(location: Location, node: Node | None) -> str:
    words, keys = values_at(location), keys_at(location)
    shown = ", ".join(f"`{word}`" for word in words) + ("" if not keys else ", or a mapping with one of " if words else "")
    shown += ", ".join(f"`{key}`" for key in keys)
    if node is None or node.kind is Kind.LIST or (node.kind is Kind.SCALAR and node.text is None):
        lead = "has no value" if node is None or node.kind is Kind.SCALAR else "cannot be a list"
        return f"{lead}; write {shown}"
    if node.kind is Kind.SCALAR:
        text = node.text or ""
        return f"`{text[:60]}` is not known here" + suggestion(text, words, "the values here are")
    if named := list(node.entries):
        forms = " and ".join(f"`{key}`" for key in named)
        return f"{forms} stand side by side; write each as an item of a list under `all:` or `any:`"
    return f"is empty; write {shown}"
