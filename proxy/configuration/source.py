"""The file as it stands: YAML, read into nodes that know their lines.

Three things that a configuration does not need and a person does not expect are left out: scalars stay the text that was
written (only an empty value, ``~`` and ``null`` mean "nothing"), so that no word, clock time, octal number or date turns into
something else before the key that reads it is known; tags and merge keys are refused; a key may stand only once.
What a file can make its reader do is bounded: bytes, depth, and nodes with every alias counted in full.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import Enum
from pathlib import Path
from typing import Any

import yaml

from proxy.errors import ConfigurationError, Problem

MAX_BYTES = 1 << 20
MAX_DEPTH = 32
MAX_NODES = 100_000
_NOTHING = frozenset({"", "~", "null", "Null", "NULL"})
_YAML = "tag:yaml.org,2002:"
_CONTROL = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f\x80-\x84\x86-\x9f\ufffe\uffff]")
#: Steps to a value: a key, an index, or a mark of pydantic's that stands for nothing in the file (``<all>``, ``[key]``).
Location = Sequence[str | int]


class Kind(Enum):
    """What a node is."""

    SCALAR = "a text"
    MAPPING = "a mapping"
    LIST = "a list"


@dataclass(frozen=True, slots=True)
class Entry:
    """A value under its key; ``line`` is the key's (from 1)."""

    line: int
    node: Node


@dataclass(frozen=True, slots=True)
class Node:
    """A value of the file. Only the field that its kind names is filled; a scalar without text is "nothing"."""

    kind: Kind
    line: int
    text: str | None = None
    entries: Mapping[str, Entry] = field(default_factory=dict)
    items: Sequence[tuple[int, Node]] = ()  #: with their index in the file: pruning leaves gaps
    weight: int = 1  #: nodes in it, itself included, with aliases counted in full

    def plain(self) -> Any:
        """The value as text, None, dict and list."""
        match self.kind:
            case Kind.MAPPING:
                return {key: entry.node.plain() for key, entry in self.entries.items()}
            case Kind.LIST:
                return [node.plain() for _, node in self.items]
            case Kind.SCALAR:
                return self.text

    def child(self, step: str | int) -> tuple[int, str | int, Node] | None:
        """One step down: the line to show, the step as the file counts it, the value. An int is a position in ``items``."""
        if isinstance(step, str):
            if (entry := self.entries.get(step)) is None:
                return None
            return (entry.line if entry.node.text is None else entry.node.line), step, entry.node
        return (self.items[step][1].line, *self.items[step]) if step < len(self.items) else None

    def without(self, locations: Iterable[Location]) -> Node:
        """This value without what stands at ``locations``.

        A location that leads nowhere (a key that is missing) takes away what should have held it, except the root.
        """
        gone = {_existing(self, location) for location in locations}
        return _prune(self, (), gone)


def _existing(node: Node, location: Location) -> tuple[str | int, ...]:
    """As many steps of ``location``, without marks, as lead to something."""
    steps: list[str | int] = []
    for step in location:
        if is_mark(step):
            continue
        if (child := node.child(step)) is None:
            break
        node = child[2]
        steps.append(step)
    return tuple(steps)


def _prune(node: Node, at: tuple[str | int, ...], gone: Collection[tuple[str | int, ...]]) -> Node:
    entries = {
        key: replace(entry, node=_prune(entry.node, (*at, key), gone))
        for key, entry in node.entries.items()
        if (*at, key) not in gone
    }
    items = tuple(
        (index, _prune(item, (*at, position), gone))
        for position, (index, item) in enumerate(node.items)
        if (*at, position) not in gone
    )
    return replace(node, entries=entries, items=items)


def is_mark(step: str | int) -> bool:
    """Whether this step of a location is pydantic's own and not one of the file's."""
    return isinstance(step, str) and (step == "[key]" or (step.startswith("<") and step.endswith(">")))


def text_of(steps: Location) -> str:
    """``rules[2].require.signature.key``."""
    return "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in steps).lstrip(".")


def place(root: Node, location: Location) -> tuple[int, str, Node | None]:
    """Where a location is: its line, its dotted key, and the value there.

    Where it leads to something that the file does not hold, the line is that of what should hold it and the value is None.
    """
    line, node = root.line, root
    path: list[str | int] = []
    missing = False
    for step in location:
        if is_mark(step):
            continue
        child = None if missing else node.child(step)
        if child is None:
            missing = True
            path.append(step)
        else:
            line, own, node = child
            path.append(own)
    return line, text_of(path), None if missing else node


# -- from events to nodes -------------------------------------------------------------------------------------------


@dataclass(slots=True)
class _Frame:
    """A mapping or a list that is not complete yet."""

    kind: Kind
    line: int
    anchor: str | None
    entries: dict[str, Entry] = field(default_factory=dict)
    items: list[tuple[int, Node]] = field(default_factory=list)
    key: tuple[int, str] | None = None  #: the key that waits for its value
    skip: bool = False  #: the value that comes next belongs to a key that was refused
    weight: int = 1

    def step(self) -> str | int:
        """Where the value that comes next belongs."""
        if self.kind is Kind.LIST:
            return len(self.items)
        return self.key[1] if self.key else ""


class _Reader:
    """Events in, one tree of nodes out. No recursion: what is nested too deep is refused before it is built."""

    def __init__(self, file: str) -> None:
        self.file = file
        self.problems: list[Problem] = []
        self.root: Node | None = None
        self._stack: list[_Frame] = []
        self._anchors: dict[str, Node] = {}
        self._weight = 0

    def feed(self, event: yaml.Event) -> None:
        """Take the next event. Raises :class:`ConfigurationError` where reading cannot go on."""
        line = event.start_mark.line + 1 if event.start_mark else 0
        match event:
            case yaml.DocumentStartEvent() if self.root is not None:
                raise self.abort(line, "a second document begins here; one file holds one configuration")
            case yaml.AliasEvent(anchor=anchor):
                if (node := self._anchors.get(anchor or "")) is None:
                    raise self.abort(line, f"`*{anchor}` refers to nothing that is complete before it")
                self._add(replace(node, line=line), node.weight)
            case yaml.ScalarEvent():
                self._refuse_tag(line, event.tag)
                nothing = event.implicit[0] and not event.style and event.value in _NOTHING
                node = Node(Kind.SCALAR, line, None if nothing else event.value)
                self._finish(node, event.anchor)
            case yaml.CollectionStartEvent():
                self._refuse_tag(line, event.tag)
                if len(self._stack) >= MAX_DEPTH:
                    raise self.abort(line, f"is nested too deep: {MAX_DEPTH} levels at most")
                kind = Kind.MAPPING if isinstance(event, yaml.MappingStartEvent) else Kind.LIST
                self._stack.append(_Frame(kind, line, event.anchor))
            case yaml.CollectionEndEvent():
                done = self._stack.pop()
                node = Node(done.kind, done.line, None, done.entries, done.items, done.weight)
                self._finish(node, done.anchor)
            case _:
                pass

    def _finish(self, node: Node, anchor: str | None) -> None:
        if anchor:
            self._anchors[anchor] = node
        self._add(node, 1)

    def _add(self, node: Node, new: int) -> None:
        """Put a complete node where it belongs; ``new`` of its nodes have not been counted yet."""
        self._weight += new
        if self._weight > MAX_NODES:
            raise self.abort(node.line, f"the file holds too much: {MAX_NODES} values at most, aliases counted in full")
        if not self._stack:
            self.root = node
            return
        frame = self._stack[-1]
        frame.weight += node.weight
        if frame.kind is Kind.LIST:
            frame.items.append((len(frame.items), node))
        elif frame.skip:
            frame.skip = False
        elif frame.key is None:
            self._take_key(frame, node)
        else:
            line, key = frame.key
            frame.key = None
            frame.entries[key] = Entry(line, node)

    def _take_key(self, frame: _Frame, node: Node) -> None:
        if node.kind is not Kind.SCALAR:
            message = f"a key must be a text, not {node.kind.value}"
        elif node.text is None:
            message = "a key is missing before the colon"
        elif node.text == "<<":
            message = "merge keys (`<<`) are not read here; write the keys out, or use an alias for a whole value"
        elif node.text in frame.entries:
            message = f"`{node.text}` stands here a second time; the first is in line {frame.entries[node.text].line}"
        else:
            frame.key = (node.line, node.text)
            return
        frame.skip = True
        self._problem(node.line, message, *([node.text] if node.text else []))

    def _refuse_tag(self, line: int, tag: str | None) -> None:
        if tag is not None:
            shown = f"!!{tag.removeprefix(_YAML)}" if tag.startswith(_YAML) else tag
            steps = [self._stack[-1].step()] if self._stack else []
            self._problem(line, f"YAML tags such as `{shown}` are not read here; write the value without it", *steps)

    def _problem(self, line: int, message: str, *last: str | int) -> None:
        path = text_of([*(frame.step() for frame in self._stack[:-1]), *last])
        self.problems.append(Problem(self.file, line, path, message))

    def abort(self, line: int, message: str) -> ConfigurationError:
        """The error for what ends the reading, with what was found before."""
        return ConfigurationError((*self.problems, Problem(self.file, line, "", message)))


def read(path: Path) -> str:
    """The text of the file. Raises :class:`ConfigurationError` when it cannot be had or is no text."""
    try:
        with path.open("rb") as file:
            data = file.read(MAX_BYTES + 1)
    except OSError as error:
        raise ConfigurationError((Problem(str(path), 0, "", f"cannot be read: {error.strerror or error}"),)) from None
    if len(data) > MAX_BYTES:
        raise ConfigurationError((Problem(str(path), 0, "", f"is too large: {MAX_BYTES >> 10} KiB at most"),))
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise ConfigurationError((Problem(str(path), line, "", "is not UTF-8 text"),)) from None


def parse(text: str, file: str) -> tuple[Node, tuple[Problem, ...]]:
    """The root mapping, and what is wrong with the file as YAML where reading could go on.

    Raises :class:`ConfigurationError` where it could not.
    """
    reader = _Reader(file)
    if found := _CONTROL.search(text):
        raise reader.abort(text.count("\n", 0, found.start()) + 1, f"holds the control character U+{ord(found[0]):04X}")
    try:
        for event in _events(text):
            reader.feed(event)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = mark.line + 1 if mark else 1
        raise reader.abort(line, _explain(error, text, line)) from None
    except yaml.YAMLError as error:
        raise reader.abort(1, f"is not YAML: {error}") from None
    root = reader.root
    if root is None or (root.kind is Kind.SCALAR and root.text is None):
        root = Node(Kind.MAPPING, 1)
    if root.kind is not Kind.MAPPING:
        raise reader.abort(root.line, "the file must be a mapping: keys such as `upstreams:` and `rules:` with their values")
    return root, tuple(reader.problems)


def _events(text: str) -> Iterator[yaml.Event]:
    # The parser in C is ten times faster; the one in Python does the same where PyYAML was built without it.
    return yaml.parse(text, Loader=yaml.CSafeLoader if yaml.__with_libyaml__ else yaml.SafeLoader)


def _explain(error: yaml.MarkedYAMLError, text: str, line: int) -> str:
    lines = text.splitlines()
    indent = re.match(r"\s*", lines[line - 1]) if 0 < line <= len(lines) else None
    if indent and "\t" in indent[0]:
        return "is indented with a tab; YAML is indented with spaces"
    told = f"is not YAML: {error.problem or 'it cannot be read'}"
    if error.context and error.context_mark:
        told += f" ({error.context}, from line {error.context_mark.line + 1})"
    return told
