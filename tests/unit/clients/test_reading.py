"""Other people's TOML, JSON and YAML: what stands where, and what is refused."""

from __future__ import annotations

import json
import os
import time
import tomllib
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from proxy.clients.reading import MAX_BYTES, Document, Unreadable, dig, parse_json, parse_yaml, read_text, texts, toml, true

TOML = """\
# a comment
server = "https://p"
capabilities = ["pull",  # not yet complete
  "resolve",

]
text = \"\"\"
[host]
server = 'no'
\"\"\"

[host."https://a.b:5000"]
  skip_verify = true
  header.x = "y"
[[registry]]
location = "one"
[[registry.mirror]]
location = "one-a"
[[registry.mirror]]
location = "one-b"
[[registry]]
location = "two"
  [registry.deep.er]
  inline = {a = {b = 1}}
[x.y.z]
"""


def test_toml_lines_are_those_of_the_statements() -> None:
    """Of keys, tables, arrays of tables, dotted keys and inline tables; text that looks like a statement is none."""
    document = toml(TOML, "f")
    assert document.data == tomllib.loads(TOML)
    lines = {
        ("server",): 2,
        ("capabilities",): 3,
        ("capabilities", 1): 3,
        ("text",): 7,
        ("host",): 12,
        ("host", "https://a.b:5000"): 12,
        ("host", "https://a.b:5000", "skip_verify"): 13,
        ("host", "https://a.b:5000", "header", "x"): 14,
        ("registry", 0): 15,
        ("registry", 0, "location"): 16,
        ("registry", 0, "mirror"): 17,
        ("registry", 0, "mirror", 0, "location"): 18,
        ("registry", 0, "mirror", 1): 19,
        ("registry", 0, "mirror", 1, "location"): 20,
        ("registry", 1): 21,
        ("registry", 1, "deep", "er"): 23,
        ("registry", 1, "deep", "er", "inline", "a", "b"): 24,
        ("x", "y"): 25,
    }
    assert {place: document.line(*place) for place in lines} == lines
    assert document.line("registry", 1, "nothing") == 21
    assert document.line("nothing") == 1
    assert toml(TOML.replace("\n", "\r\n"), "f").line("registry", 1, "location") == 22


KEYS = st.sampled_from(("a", "b", '"c.d"', "'e f'", "g-h"))
VALUES = st.sampled_from(("1", '"x"', "[\n1,\n2]", '"""\nq\n"""', "{k = 1}", "true", "[{k = [2]}]"))


@settings(max_examples=60, deadline=None)
@given(
    st.lists(
        st.tuples(st.lists(KEYS, min_size=1, max_size=2), st.booleans(), st.lists(st.tuples(KEYS, VALUES), max_size=3)),
        max_size=4,
    )
)
def test_every_value_of_any_toml_has_the_line_it_stands_in(tables: list[tuple[list[str], bool, list[tuple[str, str]]]]) -> None:
    """Whatever is read was found: every key has a line of its own, and that line begins a statement that says the key."""
    text = ""
    for path, array, pairs in tables:
        name = ".".join(path)
        text += (f"[[{name}]]" if array else f"[{name}]") + "\n" + "".join(f"{key} = {value}\n" for key, value in pairs)
    try:
        document = toml(text, "f")
    except Unreadable:
        return  # the same table twice
    written = text.split("\n")

    def check(node: object, at: tuple[str | int, ...]) -> None:
        for step, child in node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ():
            assert (*at, step) in document.lines
            if isinstance(step, str):
                assert step.split(".")[0] in written[document.line(*at, step) - 1] or step == "k"
            check(child, (*at, step))

    check(document.data, ())


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("a = 1\nb = \n", 2),
        ("a = 1\na = 2\n", 2),
        ("[a\n", 1),
        ("\x00", 1),
        (f"a = {'9' * 5000}\n", 0),
        (f"a = {'[' * 20_000}\n", 0),
        (f"a = {'[' * 100}{']' * 100}\n", 0),
        ("a = [" + "1," * 60_000 + "]\n", 0),
        ("x\n" + "a." * 2000 + "a = 1\n", 2),
    ],
    ids=["no-value", "twice", "cut", "nul", "digits", "deep", "nested", "many", "dots"],
)
def test_what_is_no_toml_is_unreadable(text: str, line: int) -> None:
    """With the line where it is known; in no time."""
    began = time.process_time()
    with pytest.raises(Unreadable) as refused:
        toml(text, "f")
    assert refused.value.line == line
    assert refused.value.had
    assert time.process_time() - began < 2


def test_long_statements_cost_little() -> None:
    """A list over thousands of lines is read; what comes after it may go without a line, and the time is bounded."""
    began = time.process_time()
    document = toml("a = [\n" + "1,\n" * 20_000 + "]\nb = 1\n", "f")
    assert document.data["b"] == 1
    assert document.line("b") == 1
    assert time.process_time() - began < 5


def test_json_lines_are_those_of_the_keys() -> None:
    """A value that looks like a key is none, and a key is looked for below the one that holds it."""
    text = '{\n\t"a": "\\"b\\": 1",\n\t"c": {\n\t\t"b": [1,\n{"d": 2}]\n},\n"b": true}\n'
    document = parse_json(text, "f")
    assert document.data == json.loads(text)
    assert [document.line(*place) for place in (("a",), ("c",), ("c", "b"), ("c", "b", 1, "d"))] == [2, 3, 4, 5]
    assert document.table("c") == {"b": [1, {"d": 2}]}
    assert document.table("a") == {}


@pytest.mark.parametrize(
    "text", ["", "[]", '{"a": NaN}', "{,}", '{"a": ' * 20_000, f'{{"a": {"9" * 5000}}}', "[" * 100 + "]" * 100]
)
def test_what_is_no_json_object_is_unreadable(text: str) -> None:
    """Nothing else comes out."""
    with pytest.raises(Unreadable):
        parse_json(text, "f")


YAML = "mirrors:\n  docker.io:\n    endpoint:\n      - &p https://a\n      - *p\n  '*': {}\nnothing: ~\n---\nkind: X\n---\n"


def test_yaml_lines_are_those_of_the_keys() -> None:
    """In each document of a stream; scalars stay the texts that they are."""
    first, second = parse_yaml(YAML, "f")
    assert first.data == {"mirrors": {"docker.io": {"endpoint": ["https://a", "https://a"]}, "*": {}}, "nothing": None}
    assert [first.line("mirrors", "docker.io", "endpoint", index) for index in (0, 1)] == [4, 5]
    assert first.line("mirrors", "*") == 6
    assert (second.data, second.line("kind")) == ({"kind": "X"}, 9)
    assert parse_yaml("", "f") == ()
    assert parse_yaml("a: yes\n", "f")[0].data == {"a": "yes"}


@pytest.mark.parametrize(
    "text",
    [
        "- a",
        "a",
        "a: [",
        "{a: 1}: 2",
        "? [x]\n: y",
        "a: &a [1]\nb: *a",
        "{" * 200,
        "- " * 200,
        "a: *b",
        "\x00",
        "a: [" + "x," * 60_000,
    ],
    ids=lambda text: ascii(text[:12]),
)
def test_what_is_no_yaml_mapping_is_unreadable(text: str) -> None:
    """A reference to a collection is not followed, because it could multiply without end."""
    with pytest.raises(Unreadable):
        parse_yaml(text, "f")


def test_files_are_read_within_bounds(tmp_path: Path) -> None:
    """Regular files of reasonable length in UTF-8; a pipe does not hang."""
    good = tmp_path / "good"
    good.write_text("x")
    assert read_text(good) == "x"
    with pytest.raises(FileNotFoundError):
        read_text(tmp_path / "none")
    with pytest.raises(FileNotFoundError):
        read_text(good / "below")
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "long").write_bytes(b"x" * (MAX_BYTES + 1))
    (tmp_path / "loop").symlink_to("loop")
    for name in ("pipe", "long", "loop", "."):
        with pytest.raises(Unreadable) as refused:
            read_text(tmp_path / name)
        assert not refused.value.had
    (tmp_path / "latin").write_bytes(b"a\n\xe4\n")
    with pytest.raises(Unreadable) as refused:
        read_text(tmp_path / "latin")
    assert (refused.value.line, refused.value.had) == (2, True)


def test_values_are_asked_for_by_what_they_are() -> None:
    """A wrong kind is nothing, rather than an error."""
    assert dig({"a": [1, {"b": 2}]}, "a", 1, "b") == 2
    assert dig({"a": [1]}, "a", 1) is None
    assert dig([1], "a") is None
    assert texts(["a", 1, "b"]) == ("a", "b")
    assert texts("a") == ("a",)
    assert texts({"a": 1}) == ()
    assert [true(each) for each in (True, "true", "Yes", False, "false", None, 1)] == [
        True,
        True,
        True,
        False,
        False,
        False,
        False,
    ]
    assert Document("f", {"a": 1}).line("a") == 1


LARGE = {
    "tables": lambda: "".join(f"[a{number}]\n" for number in range(30_000)),
    "values": lambda: "".join(f"a{number} = 1\n" for number in range(20_000)),
    "dotted": lambda: "".join(f"a.b{number}.c = 1\n" for number in range(12_000)),
    "array": lambda: "[[a]]\n" * 40_000,
    "lists": lambda: "".join(f"a{number} = [\n1,\n]\n" for number in range(10_000)),
    "strings": lambda: 'a = """\n' + "x = 1\n" * 30_000 + '"""\n',
}


@pytest.mark.parametrize("make", LARGE.values(), ids=list(LARGE))
def test_the_largest_toml_costs_little(make: Callable[[], str]) -> None:
    """Whatever the most is made of."""
    text = make()[:MAX_BYTES].rpartition("\n")[0]
    began = time.process_time()
    with suppress(Unreadable):
        toml(text, "f")
    assert time.process_time() - began < 8


@pytest.mark.parametrize(
    "text",
    [
        "{" + ",".join(f'"k{number}": 1' for number in range(18_000)) + "}",
        '{"a": [' + ",".join('{"b":1}' for _ in range(18_000)) + "]}",
        "{" + ",".join(f'"\\u0061{number}": 1' for number in range(14_000)) + "}",
        '{"a": "' + '\\"b\\"' * 30_000 + '", "b": 1}',
    ],
    ids=["keys", "objects", "escapes", "quotes"],
)
def test_the_largest_json_costs_little(text: str) -> None:
    """A key that cannot be found is looked for through all of it, but not by every key."""
    began = time.process_time()
    assert parse_json(text, "f").data
    assert time.process_time() - began < 5
