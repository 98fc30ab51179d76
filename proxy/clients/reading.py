"""The configuration files of container clients, read with their line numbers: TOML, JSON, YAML.

These files are somebody else's: they are read within bounds (bytes, nesting, values), and whatever stands in them comes out as
a :class:`Document` or as :class:`Unreadable`, never as anything else.

No TOML reader of Python's tells lines. They are found without a second reader: a statement is the shortest run of lines that
:mod:`tomllib` takes for a document of its own, so the one reader that decides what the file means also says where it is said.
"""

from __future__ import annotations

import json
import os
import re
import stat
import tomllib
from bisect import bisect_right
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import yaml

MAX_BYTES: Final = 256 << 10
MAX_DEPTH: Final = 50
MAX_VALUES: Final = 50_000
#: A key of very many parts takes time that grows with their square.
_MAX_DOTS = 1000
#: How much text may be read again to find lines.
_MAX_LOCATING = 4 << 20
#: Longest statement whose end is looked for, in lines.
_MAX_STATEMENT = 400
_COLON = re.compile(r"\s*:")

Step = str | int
Place = tuple[Step, ...]


class Unreadable(Exception):
    """The file cannot be had, or is not what it should be; ``line`` is 0 where the whole file is meant.

    ``decoded`` says whether its bytes were had: a file that cannot be opened is another matter than one that cannot be decoded.
    """

    def __init__(self, message: str, line: int = 0, *, had: bool = True) -> None:
        super().__init__(message)
        self.line = line
        self.had = had


@dataclass(frozen=True, slots=True)
class Document:
    """What stands in a file, as plain values, and in which line (from 1)."""

    file: str
    data: dict[str, Any]
    lines: Mapping[Place, int] = field(default_factory=dict)

    def line(self, *place: Step) -> int:
        """The line of a value, or of the nearest thing above it that has one; 1 for what is not there at all."""
        for length in range(len(place), 0, -1):
            if (line := self.lines.get(place[:length])) is not None:
                return line
        return 1

    def get(self, *place: Step) -> Any:
        """The value at a place; None where nothing is."""
        return dig(self.data, *place)

    def table(self, *place: Step) -> dict[str, Any]:
        """The mapping at a place; an empty one where something else is, or nothing."""
        found = dig(self.data, *place)
        return found if isinstance(found, dict) else {}

    def texts(self, *place: Step) -> tuple[str, ...]:
        """The texts in the list at a place, or the one text there."""
        return texts(dig(self.data, *place))


def dig(data: Any, *place: Step) -> Any:
    """The value at a place below ``data``; None where nothing is."""
    for step in place:
        if isinstance(data, dict) and isinstance(step, str):
            data = data.get(step)
        elif isinstance(data, list) and isinstance(step, int) and 0 <= step < len(data):
            data = data[step]
        else:
            return None
    return data


def texts(value: Any) -> tuple[str, ...]:
    """The texts of a list, or the one text."""
    if isinstance(value, str):
        return (value,)
    return tuple(each for each in value if isinstance(each, str)) if isinstance(value, list) else ()


def true(value: Any) -> bool:
    """Whether a value says yes: YAML's scalars are texts here."""
    return value is True or (isinstance(value, str) and value.lower() in {"true", "yes", "on", "1"})


# -- files ------------------------------------------------------------------------------------------------------------


def read_text(path: Path) -> str:
    """The text of a regular file. Raises FileNotFoundError and :class:`Unreadable`."""
    try:
        # Not blocking: what is opened may turn out to be a pipe. Links were followed already, and not out of the root.
        number = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC)
        with os.fdopen(number, "rb") as file:
            if not stat.S_ISREG(os.fstat(number).st_mode):
                raise Unreadable("is not a regular file", had=False)
            data = file.read(MAX_BYTES + 1)
    except FileNotFoundError:
        raise
    except NotADirectoryError:
        raise FileNotFoundError(str(path)) from None
    except (OSError, ValueError) as error:
        why = (error.strerror if isinstance(error, OSError) else None) or str(error)
        raise Unreadable(f"cannot be read: {why}", had=False) from None
    if len(data) > MAX_BYTES:
        raise Unreadable(f"is longer than {MAX_BYTES >> 10} KiB, which no such file is; it was not examined", had=False)
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise Unreadable("is not UTF-8 text", data.count(b"\n", 0, error.start) + 1) from None


# -- TOML -------------------------------------------------------------------------------------------------------------


def toml(text: str, file: str) -> Document:
    """Read TOML. Raises :class:`Unreadable`."""
    for number, line in enumerate(text.split("\n"), 1):
        if line.count(".") > _MAX_DOTS:
            raise Unreadable("a line holds more dots than any such file has", number)
    try:
        data = tomllib.loads(text)
        _bounded(data)
    except tomllib.TOMLDecodeError as error:
        raise Unreadable(f"is not TOML: {error}", _line_of(str(error))) from None
    except RecursionError:
        raise Unreadable("is nested too deep") from None
    except ValueError as error:  # a number with thousands of digits
        raise Unreadable(f"is not TOML: {error}") from None
    lines: dict[Place, int] = {}
    for place, number in _toml_lines(text):
        lines.setdefault(place, number)
    return Document(file, data, lines)


def _line_of(message: str) -> int:
    found = re.search(r"at line (\d+)", message)
    return int(found[1]) if found else 0


def _toml_lines(text: str) -> Iterator[tuple[Place, int]]:
    """Every key with its line. Where the text is too much to look through twice, the rest goes without."""
    here: Place = ()
    tables: dict[Place, int] = {}  #: how many tables an array of tables has so far
    for number, statement in _statements(text):
        data = tomllib.loads(statement)
        if statement.lstrip().startswith("["):
            here = _header(data, tables)
            # The tables above it that have no header of their own begin where it does.
            for length in range(len(here), 0, -1):
                yield here[:length], number
        else:
            for place in _places(data):
                yield (*here, *place), number


def _statements(text: str) -> Iterator[tuple[int, str]]:
    lines = text.splitlines(keepends=True) if "\r\n" in text else text.split("\n")
    budget = _MAX_LOCATING
    start = 0
    while start < len(lines):
        stripped = lines[start].strip()
        if not stripped or stripped.startswith("#"):
            start += 1
            continue
        for stop in range(start + 1, min(start + _MAX_STATEMENT, len(lines)) + 1):
            statement = "\n".join(line.rstrip("\r\n") for line in lines[start:stop])
            budget -= len(statement)
            if budget < 0:
                return
            try:
                tomllib.loads(statement)
            except ValueError:
                continue
            yield start + 1, statement
            start = stop
            break
        else:
            return


def _header(data: dict[str, Any], tables: dict[Place, int]) -> Place:
    """Where ``[a.b]`` or ``[[a.b]]`` leads: through the last table of every array of tables on the way."""
    place: Place = ()
    node: Any = data
    while isinstance(node, dict) and node:
        ((key, node),) = node.items()
        place = (*place, key)
        if isinstance(node, list):
            tables[place] = tables.get(place, 0) + 1
            return (*place, tables[place] - 1)
        if node and place in tables:
            place = (*place, tables[place] - 1)
    return place


def _places(node: Any, at: Place = ()) -> Iterator[Place]:
    children: Iterator[tuple[Step, Any]]
    match node:
        case dict():
            children = iter(node.items())
        case list():
            children = iter(enumerate(node))
        case _:
            return
    for step, child in children:
        yield (*at, step)
        yield from _places(child, (*at, step))


def _bounded(data: Any) -> None:
    """Raise :class:`Unreadable` for what is nested too deep or too much."""
    level, count = [data], 0
    for _ in range(MAX_DEPTH):
        count += len(level)
        if count > MAX_VALUES:
            raise Unreadable(f"holds more than {MAX_VALUES} values")
        level = [
            child
            for node in level
            for child in (node.values() if isinstance(node, dict) else node if isinstance(node, list) else ())
        ]
        if not level:
            return
    raise Unreadable("is nested too deep")


# -- JSON -------------------------------------------------------------------------------------------------------------


def parse_json(text: str, file: str) -> Document:
    """Read a JSON object, as Go's decoder does (the last of equal keys counts). Raises :class:`Unreadable`."""
    try:
        data = json.loads(text, parse_constant=_no_constant)
        _bounded(data)
    except json.JSONDecodeError as error:
        raise Unreadable(f"is not JSON: {error.msg}", error.lineno) from None
    except RecursionError:
        raise Unreadable("is nested too deep") from None
    except ValueError as error:
        raise Unreadable(f"is not JSON: {error}") from None
    if not isinstance(data, dict):
        raise Unreadable("is not a JSON object", 1)
    return Document(file, data, _json_lines(text, data))


def _json_lines(text: str, data: dict[str, Any]) -> dict[Place, int]:
    """The line of every key: it stands after the key above it, and only a key is followed by a colon.

    One that is written with escapes has the line of what holds it, and so have those for which there is no more patience.
    """
    begins = [0, *(found.end() for found in re.finditer("\n", text))]
    lines: dict[Place, int] = {}
    patience = _MAX_LOCATING
    for place in _places(data):
        line = lines.get(place[:-1], 1)
        key = place[-1]
        if isinstance(key, str) and patience > 0:
            start = at = begins[line - 1]
            quoted = json.dumps(key, ensure_ascii=False)
            while (at := text.find(quoted, at)) >= 0 and not _COLON.match(text, at + len(quoted)):
                at += 1
            patience -= (at if at >= 0 else len(text)) - start + len(quoted)
            line = line if at < 0 else bisect_right(begins, at)
        lines[place] = line
    return lines


def _no_constant(text: str) -> None:
    raise ValueError(f"{text} is no JSON")


# -- YAML -------------------------------------------------------------------------------------------------------------


def parse_yaml(text: str, file: str) -> tuple[Document, ...]:
    """Read the mappings of a YAML stream. Scalars stay texts, "nothing" is None. Raises :class:`Unreadable`."""
    builder = _Builder()
    try:
        for event in yaml.parse(text, Loader=yaml.CSafeLoader if yaml.__with_libyaml__ else yaml.SafeLoader):
            builder.feed(event)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        raise Unreadable(f"is not YAML: {error.problem or 'it cannot be read'}", mark.line + 1 if mark else 0) from None
    except yaml.YAMLError as error:
        raise Unreadable(f"is not YAML: {error}") from None
    documents = []
    for data, lines in builder.documents:
        if data is None:
            continue
        if not isinstance(data, dict):
            raise Unreadable("is not a mapping", 1)
        documents.append(Document(file, data, lines))
    return tuple(documents)


@dataclass(slots=True)
class _Open:
    """A mapping or list that is not complete yet."""

    place: Place
    anchor: str | None
    value: dict[str, Any] | list[Any]
    key: str | None = None


class _Builder:
    """YAML events in, plain values with lines out, without recursion. An alias stands for the value itself: no copies."""

    def __init__(self) -> None:
        self.documents: list[tuple[Any, dict[Place, int]]] = []
        self._stack: list[_Open] = []
        self._anchors: dict[str | None, Any] = {}
        self._lines: dict[Place, int] = {}
        self._count = 0

    def feed(self, event: yaml.Event) -> None:
        line = event.start_mark.line + 1 if event.start_mark else 0
        match event:
            case yaml.DocumentStartEvent():
                self._anchors, self._lines = {}, {}
                self.documents.append((None, self._lines))
            case yaml.AliasEvent(anchor=anchor):
                if anchor not in self._anchors:
                    raise Unreadable(f"`*{anchor}` refers to nothing", line)
                value = self._anchors[anchor]
                if value is not None and not isinstance(value, str):
                    # An alias to a collection may multiply what is in it without end, and no such file has any.
                    raise Unreadable("uses an alias for a collection, which is not followed", line)
                self._put(value, line)
            case yaml.ScalarEvent():
                nothing = event.implicit[0] and not event.style and event.value in {"", "~", "null", "Null", "NULL"}
                value = None if nothing else event.value
                if event.anchor:
                    self._anchors[event.anchor] = value
                self._put(value, line)
            case yaml.CollectionStartEvent():
                if len(self._stack) >= MAX_DEPTH:
                    raise Unreadable("is nested too deep", line)
                collection: dict[str, Any] | list[Any] = {} if isinstance(event, yaml.MappingStartEvent) else []
                place = self._put(collection, line)
                if event.anchor:
                    self._anchors[event.anchor] = collection
                self._stack.append(_Open(place, event.anchor, collection))
            case yaml.CollectionEndEvent():
                self._stack.pop()
            case _:
                pass

    def _put(self, value: Any, line: int) -> Place:
        """Put a value where it belongs, and say where that is."""
        self._count += 1
        if self._count > MAX_VALUES:
            raise Unreadable(f"holds more than {MAX_VALUES} values", line)
        if not self._stack:
            self.documents[-1] = (value, self._lines)
            return ()
        above = self._stack[-1]
        if isinstance(above.value, list):
            above.value.append(value)
            place = (*above.place, len(above.value) - 1)
        elif above.key is None:
            if not isinstance(value, str):
                raise Unreadable("has a key that is no text", line)
            above.key = value
            self._lines[(*above.place, value)] = line
            return ()
        else:
            above.value[above.key] = value
            place = (*above.place, above.key)
            above.key = None
        self._lines.setdefault(place, line)
        return place
