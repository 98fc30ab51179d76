"""No value can leave the place that a template gives it."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Callable
from typing import Any

import pytest
import yaml
from hypothesis import example, given
from hypothesis import strategies as st
from jinja2 import Environment, UndefinedError

from proxy.clients import templates
from proxy.clients.templates import Comment, environment, nft_literal

#: Every text that has a form in UTF-8, short enough to be a key of YAML (1024 characters once escaped).
TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=80)
_READERS: dict[str, Callable[[str], Any]] = {"toml": tomllib.loads, "json": json.loads, "yaml": yaml.safe_load}
_FRAMES = {
    "toml": "before = 1\nvalue = {{ value }}\n[{{ '-' ~ value }}]\nafter = {{ value }}\n",
    "json": '{"before": 1, "value": {{ value }}, {{ "-" ~ value }}: {"after": {{ value }}}}',
    "yaml": "before: 1\nvalue: {{ value }}\n{{ '-' ~ value }}:\n  after: [{{ value }}]\n",
}


def filled(suffix: str, text: str, **values: object) -> str:
    """A template of its own in the environment of a format."""
    frame: Environment = environment(suffix)
    return frame.from_string(text).render(values)


@pytest.mark.parametrize("suffix", _READERS)
@given(value=TEXTS)
@example(value='"\n[host]\nx = "')
@example(value='"}\n}')
@example(value="'''\n\"\"\"\\")
@example(value="\x00\x1b\x7f\x85\u2028\ufeff\U0001f511")
@example(value="a: b # c\n- d\n...\n---")
@example(value="{{ 1 }}{% raw %}${x}")
def test_a_hostile_value_is_read_back_as_itself(suffix: str, value: str) -> None:
    """As a value and as a key: the document around it is what the template says, whatever stands in the value."""
    document = _READERS[suffix](filled(suffix, _FRAMES[suffix], value=value))
    after = [value] if suffix == "yaml" else value
    assert document == {"before": 1, "value": value, f"-{value}": {"after": after}}


@pytest.mark.parametrize("suffix", ["toml", "yaml"])
def test_lone_surrogates_are_refused(suffix: str) -> None:
    """They have no form in these formats."""
    with pytest.raises(UnicodeEncodeError):
        filled(suffix, "{{ value }}", value="\ud800")


@pytest.mark.parametrize("suffix", ["toml", "yaml", "nft"])
@pytest.mark.parametrize("value", [None, 1.5, {"a": 1}, object()])
def test_what_has_no_form_is_refused(suffix: str, value: object) -> None:
    """Rather than printed as Python prints it."""
    with pytest.raises((TypeError, ValueError)):
        filled(suffix, "{{ value }}", value=value)


def test_lists_numbers_and_switches_have_forms() -> None:
    """Those that the files need."""
    assert filled("toml", "{{ a }} {{ b }} {{ c }}", a=["x", 1], b=True, c=3) == '["x", 1] true 3'
    assert filled("yaml", "{{ b }} {{ c }}", b=False, c=3) == "false 3"


@given(value=st.text())
@example(value="10.0.0.5; accept")
@example(value="::1 }")
def test_nft_takes_hosts_and_ports_alone(value: str) -> None:
    """It knows no escapes, so nothing else is written."""
    try:
        literal = nft_literal(value)
    except ValueError:
        return
    assert literal == value
    assert value.isascii()
    assert all(each.isalnum() or each in ".:-" for each in value)


@given(value=st.text())
def test_a_comment_stays_in_its_line(value: str) -> None:
    """What cannot be printed in one line is refused."""
    try:
        line = filled("toml", "# {{ value }}\n", value=Comment(value))
    except ValueError:
        assert not value.isprintable()
        return
    assert tomllib.loads(line) == {}
    assert yaml.safe_load(line) is None
    assert line.count("\n") == 1


def test_a_forgotten_value_is_an_error() -> None:
    """Not an empty string."""
    for suffix in _READERS:
        with pytest.raises((UndefinedError, TypeError)):
            filled(suffix, "{{ missing }}")


def test_every_shipped_template_is_for_a_known_format() -> None:
    """A file with another suffix could not be rendered."""
    from importlib.resources import files

    names = [entry.name for entry in files("config").joinpath("clients").iterdir()]
    assert len(names) > 10
    for name in names:
        assert environment(name.rpartition(".")[2]).get_template(name) is not None
        assert templates.source(name).endswith("\n")
