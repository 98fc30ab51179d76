"""The templates of ``config/clients``, and the one way in which values get into them.

Each format has an environment of its own whose ``finalize`` writes *every* value as a literal of that format, quotes included:
a template says ``server = {{ proxy.url }}``, and no value can leave the place that the template gave it. What is not a
literal of the format raises TypeError or ValueError instead of being printed. Only a :class:`Comment` is written as it is: one
line of printable text, for the lines after ``#``.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from functools import lru_cache
from importlib.resources import files
from typing import TYPE_CHECKING, Self

import yaml

if TYPE_CHECKING:
    from jinja2 import Environment

_FOLDER = "clients"
#: What nft takes as a host or a port without quotes; it knows no escapes.
_NFT = re.compile(r"[A-Za-z0-9:][A-Za-z0-9.:-]*", re.ASCII)


class Comment(str):
    """One line of printable text, which templates put behind ``#``. Raises ValueError for anything else."""

    __slots__ = ()

    def __new__(cls, text: str) -> Self:
        """Check and wrap."""
        if not text.isprintable():
            raise ValueError(f"{text[:100]!r} cannot stand in a comment")
        return super().__new__(cls, text)


def toml_literal(value: object) -> str:
    """A value of TOML 1.0: string, boolean, integer, or an array of these.

    A basic string of TOML is a string of JSON in which DEL is escaped, too, and surrogates do not occur.
    """
    if isinstance(value, str):
        value.encode()  # surrogates have no form in TOML
        return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(toml_literal, value))}]"
    if isinstance(value, bool | int):
        return json.dumps(value)
    raise TypeError(f"{type(value).__name__} has no form in these TOML files")


def json_literal(value: object) -> str:
    """A value of JSON."""
    return json.dumps(value)


def yaml_literal(value: object) -> str:
    """A scalar of YAML 1.1 and 1.2 in one line: a string in double quotes and ASCII, a boolean or an integer."""
    if isinstance(value, str):
        value.encode()
        return yaml.safe_dump(value, default_style='"', allow_unicode=False, width=float("inf")).rstrip("\n")
    if isinstance(value, bool | int):
        return json.dumps(value)
    raise TypeError(f"{type(value).__name__} has no form in these YAML files")


def nft_literal(value: object) -> str:
    """A host or a port of nft, which are not quoted: anything else is refused."""
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    if isinstance(value, str) and _NFT.fullmatch(value):
        return value
    raise ValueError(f"{value!r} is no host or port for nft")


_LITERALS: Mapping[str, Callable[[object], str]] = {
    "toml": toml_literal,
    "json": json_literal,
    "yaml": yaml_literal,
    "nft": nft_literal,
}


def source(name: str) -> str:
    """The text of a shipped template."""
    return files("config").joinpath(_FOLDER, name).read_text(encoding="utf-8")


def _finalize(literal: Callable[[object], str]) -> Callable[[object], str]:
    return lambda value: str(value) if isinstance(value, Comment) else literal(value)


@lru_cache(maxsize=len(_LITERALS))
def environment(suffix: str) -> Environment:
    """The environment for files with this suffix; KeyError for formats that nothing is written in."""
    from jinja2 import Environment, FunctionLoader, StrictUndefined

    return Environment(
        loader=FunctionLoader(source),
        undefined=StrictUndefined,
        finalize=_finalize(_LITERALS[suffix]),
        autoescape=False,  # noqa: S701 - that is for HTML; finalize escapes for what these files are
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )


def render(name: str, **values: object) -> str:
    """Fill in a template, each value as a literal of the format that its suffix names."""
    suffix = name.rpartition(".")[2]
    return environment(suffix).get_template(name).render(values)
