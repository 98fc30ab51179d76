"""The file as it stands: scalars stay text, lines are known, and what YAML could do to its reader is bounded."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from proxy.configuration import source
from proxy.configuration.source import Kind, Node, parse, place, read
from proxy.errors import ConfigurationError

MERGE = "merge keys (`<<`) are not read here; write the keys out, or use an alias for a whole value"
TAG = "are not read here; write the value without it"


@pytest.fixture(params=["C", "Python"], autouse=True)
def parser(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Everything here holds for both of PyYAML's parsers."""
    if request.param == "C" and not yaml.__with_libyaml__:
        pytest.skip("PyYAML was built without libyaml")
    monkeypatch.setattr(yaml, "__with_libyaml__", request.param == "C")


def refused(text: str) -> list[str]:
    """What makes a text unreadable."""
    with pytest.raises(ConfigurationError) as caught:
        parse(text, "f")
    return [str(problem) for problem in caught.value.problems]


@pytest.mark.parametrize(
    "scalar",
    ["on", "off", "yes", "no", "y", "true", "False", "1:30", "12:30:45", "0123", "0o17", "0x1F", "1_000", "1e3", ".inf", ".nan",
     "2025-01-01", "2025-01-01T00:00:00Z", "5000", "3.14", "=", "NULL_", "nil", "none", "127.0.0.1:5000", "~/x", "0"],
)  # fmt: skip
def test_plain_scalars_stay_what_was_written(scalar: str) -> None:
    """No word, clock time, octal number or date turns into something else; so it is as a key, too."""
    root, problems = parse(f"key: {scalar}\n{scalar}: value\nlist: [{scalar}]\n", "f")
    assert root.plain() == {"key": scalar, scalar: "value", "list": [scalar]}
    assert problems == ()


@pytest.mark.parametrize("scalar", ["", "~", "null", "Null", "NULL"])
def test_only_an_empty_value_and_null_mean_nothing(scalar: str) -> None:
    """And in quotes they are text again."""
    root, _ = parse(f"key: {scalar}\nquoted: '{scalar}'\n", "f")
    assert root.plain() == {"key": None, "quoted": scalar}


def test_blocks_and_quotes_are_read_as_yaml_has_them() -> None:
    """Block scalars, folded ones, escapes, flow and block collections and comments."""
    root, _ = parse('a: |\n  x\n  y\nb: >-\n  x\n  y\nc: "x\\ty"\nd: {e: [1, {f: g}]} # why\n', "f")
    assert root.plain() == {"a": "x\ny\n", "b": "x y", "c": "x\ty", "d": {"e": ["1", {"f": "g"}]}}


@pytest.mark.parametrize("text", ["", "# nothing\n", "---\n", "null\n"])
def test_an_empty_file_is_an_empty_mapping(text: str) -> None:
    """What is missing is told by the keys that are required."""
    assert parse(text, "f")[0] == Node(Kind.MAPPING, 1)


def test_places_are_known_by_line_and_key() -> None:
    """Of a scalar its own line, of a mapping or a list its key's, of what is missing that of what should hold it."""
    root, _ = parse("a:\n  - b: 1\n    c:\n      d: 2\n  - x\ne:\n", "f")
    assert place(root, ("a",))[:2] == (1, "a")
    assert place(root, ("a", 0, "b"))[:2] == (2, "a[0].b")
    assert place(root, ("a", 0, "<mark>", "c", "d"))[:2] == (4, "a[0].c.d")
    assert place(root, ("a", 1))[:2] == (5, "a[1]")
    assert place(root, ("a", 0, "c", "nope", "deeper")) == (3, "a[0].c.nope.deeper", None)
    assert place(root, ("a", 7)) == (1, "a[7]", None)
    assert place(root, ("e",))[:2] == (6, "e")
    assert place(root, ("e", "[key]"))[:2] == (6, "e")


def test_what_is_taken_out_leaves_the_others_where_they_were() -> None:
    """Positions count what is left, indices what stands in the file; a missing key takes away what should have held it."""
    root, _ = parse("a: [x, {b: 1}, {c: 2}, y]\nd: 3\n", "f")
    kept = root.without([("a", 0), ("a", 1, "missing"), ("d", "<mark>"), ("gone",)])
    assert kept.plain() == {"a": [{"c": "2"}, "y"]}
    assert place(kept, ("a", 0, "c"))[1] == "a[2].c"
    assert root.plain()["d"] == "3"


def test_duplicate_keys_are_told_with_both_lines() -> None:
    """The first one is kept, so that the rest can be looked at; values of refused keys disturb nothing."""
    root, problems = parse("a: 1\nb: {c: 1, d: 2, c: {x: [1]}, e: 3}\na: [2]\nf: 4\n", "f")
    assert [str(problem) for problem in problems] == [
        "f:2: b.c: `c` stands here a second time; the first is in line 2",
        "f:3: a: `a` stands here a second time; the first is in line 1",
    ]
    assert root.plain() == {"a": "1", "b": {"c": "1", "d": "2", "e": "3"}, "f": "4"}


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("a: {? [x] : 1}\n", "f:1: a: a key must be a text, not a list"),
        ("a: {? {x: y} : 1}\n", "f:1: a: a key must be a text, not a mapping"),
        ("a: {~: 1}\n", "f:1: a: a key is missing before the colon"),
        ("x: &x {b: 1}\na: {<<: *x}\n", f"f:2: a.<<: {MERGE}"),
        ("a: !!str 1\n", f"f:1: a: YAML tags such as `!!str` {TAG}"),
        ("a: [x, !!python/object:os.system {}]\n", f"f:1: a[1]: YAML tags such as `!!python/object:os.system` {TAG}"),
        ("a: !mine x\n", f"f:1: a: YAML tags such as `!mine` {TAG}"),
        ("a: ! x\n", f"f:1: a: YAML tags such as `!` {TAG}"),
        ("--- !!map\na: b\n", f"f:1: YAML tags such as `!!map` {TAG}"),
    ],
)  # fmt: skip
def test_what_yaml_can_do_beyond_is_told(text: str, told: str) -> None:
    """Keys that are no text, merge keys and tags: reading goes on, but the file is refused."""
    _, problems = parse(text, "f")
    assert told in map(str, problems)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("a: 1\n---\nb: 2\n", "f:2: a second document begins here; one file holds one configuration"),
        ("a: *nowhere\n", "f:1: `*nowhere` refers to nothing that is complete before it"),
        ("a: &a [1, *a]\n", "f:1: `*a` refers to nothing that is complete before it"),
        ("- a\n- b\n", "f:1: the file must be a mapping: keys such as `upstreams:` and `rules:` with their values"),
        ("just text\n", "f:1: the file must be a mapping: keys such as `upstreams:` and `rules:` with their values"),
        ("a:\n\tb: 1\n", "f:2: is indented with a tab; YAML is indented with spaces"),
        ("a: 1\nb: \x07\n", "f:2: holds the control character U+0007"),
        ("a: 1\nb: \x00\n", "f:2: holds the control character U+0000"),
    ],
)
def test_what_cannot_be_read_is_told_in_a_line(text: str, told: str) -> None:
    """With the line, and without YAML's own terms where there are better ones."""
    assert refused(text) == [told]


@pytest.mark.parametrize("text", ["a: [1\nb: 2\n", "a: 'x\n", "a: b: c\n", "%YAML 2.0\n---\na: 1\n", "a: @x\n", "}\n"])
def test_what_is_no_yaml_is_told_with_a_line(text: str) -> None:
    """Whatever the parser stumbles over."""
    assert [told.partition(" ")[2].startswith("is not YAML: ") for told in refused(text)] == [True]


def test_what_a_parser_refuses_without_a_line_is_told_too(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever else YAML's reader may say."""

    def refuse(_: str) -> Iterator[yaml.Event]:
        raise yaml.reader.ReaderError("f", 0, 0xD800, "unicode", "special characters are not allowed")

    monkeypatch.setattr(source, "_events", refuse)
    (told,) = refused("a: 1")
    assert told.startswith("f:1: is not YAML: ")


def test_what_was_found_before_the_end_of_reading_is_told_as_well() -> None:
    """Problems do not get lost when something worse follows."""
    assert len(refused("a: 1\na: 2\nb: [\n")) == 2


def test_aliases_stand_for_whole_values() -> None:
    """They are read in place, and places in them are known."""
    root, problems = parse("a: &x {b: [1]}\nc: *x\nd: [&y z, *y]\n", "f")
    assert root.plain() == {"a": {"b": ["1"]}, "c": {"b": ["1"]}, "d": ["z", "z"]}
    assert problems == ()
    assert place(root, ("c", "b"))[1] == "c.b"


def test_aliases_cannot_blow_up() -> None:
    """A billion laughs are counted in full before they are expanded, and before they cost anything."""
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]" for n in range(1, 10)]
    assert "the file holds too much: 100000 values at most, aliases counted in full" in refused("\n".join(lines))[0]


def test_values_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    """A list that is too long is refused, one just below is not."""
    monkeypatch.setattr(source, "MAX_NODES", 1000)
    assert "holds too much" in refused("a: [" + "x, " * source.MAX_NODES + "]\n")[0]
    assert len(parse("a: [" + "x, " * (source.MAX_NODES - 3) + "]\n", "f")[0].plain()["a"]) == source.MAX_NODES - 3


@pytest.mark.parametrize("opening", ["[", "{a: ", "- "])
def test_depth_is_bounded(opening: str) -> None:
    """Nesting is refused at its bound, long before any stack."""
    deep = opening * 5000
    assert "nested too deep: 32 levels at most" in refused(deep if opening == "- " else f"a: {deep}")[0]
    assert parse("a: " + "[" * (source.MAX_DEPTH - 1) + "]" * (source.MAX_DEPTH - 1), "f")[0].plain()


def test_files_are_read_with_a_bound(tmp_path: Path) -> None:
    """What is missing, a folder, too large or not UTF-8 is told; a byte order mark is not part of the text."""
    file = tmp_path / "f"
    for content, told in (
        (b"x" * (source.MAX_BYTES + 1), f"{file}: is too large: 1024 KiB at most"),
        (b"a: 1\nb: \xff\n", f"{file}:2: is not UTF-8 text"),
    ):
        file.write_bytes(content)
        with pytest.raises(ConfigurationError) as caught:
            read(file)
        assert str(caught.value) == told
    file.write_bytes(b"\xef\xbb\xbfa: 1\n")
    assert read(file) == "a: 1\n"
    for path, reason in ((tmp_path, os.strerror(21)), (tmp_path / "gone", os.strerror(2))):
        with pytest.raises(ConfigurationError) as caught:
            read(path)
        assert str(caught.value) == f"{path}: cannot be read: {reason}"
