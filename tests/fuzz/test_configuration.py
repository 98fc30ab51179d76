"""Whatever stands in the file: it is a configuration, or every problem with it is told. Nothing else comes out."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from proxy.configuration import load
from proxy.configuration.source import parse
from proxy.errors import ConfigurationError, Problem
from tests.fuzz.examples import examples

#: What YAML gives a meaning to, and a few letters.
YAML = st.text(alphabet="{}[]:,-&*!|>'\"%@`#?<~=. \n\tab01é\u2028\x85", max_size=60)
KEYS = (
    "rules",
    "match",
    "require",
    "all",
    "at_least",
    "of",
    "signature",
    "key",
    "upstreams",
    "url",
    "trust",
    "keys",
    "file",
    "tags",
    "<<",
    "",
)
SCALARS = (
    st.none()
    | st.sampled_from(("deny", "**", "0", "60s", "-1", "docker.io", "https://a.example", "2025-01-01", "\n"))
    | st.text(max_size=8)
)
TREES = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(KEYS) | st.text(max_size=4), inner, max_size=4),
    max_leaves=12,
)


@pytest.mark.parametrize("compiled", [True, False], ids=["C", "Python"])
@settings(examples(80), suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(text=YAML)
@example(text="a: &a [*a]")
@example(text="? - ? - ? -")
@example(text="a: !<tag:yaml.org,2002:python/object:os.system> x")
def test_any_text_is_read_or_refused(monkeypatch: pytest.MonkeyPatch, compiled: bool, text: str) -> None:
    """By both parsers: a mapping with lines, or problems with lines."""
    if compiled and not yaml.__with_libyaml__:
        pytest.skip("PyYAML was built without libyaml")
    with monkeypatch.context() as patch:
        patch.setattr(yaml, "__with_libyaml__", compiled)
        try:
            root, problems = parse(text, "f")
        except ConfigurationError as error:
            problems = error.problems
        else:
            assert isinstance(root.plain(), dict)
    assert all(problem.line >= 1 and problem.message for problem in problems)


@settings(examples(80), suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(tree=st.dictionaries(st.sampled_from(KEYS), TREES, max_size=5))
def test_any_tree_is_a_configuration_or_refused(tmp_path: Path, tree: dict[str, object]) -> None:
    """With the models behind it: no exception but the one that tells."""
    file = tmp_path / "tagstone.yaml"
    file.write_text(yaml.safe_dump(tree, allow_unicode=True), encoding="utf-8")
    problems: tuple[Problem, ...] = ()
    try:
        load(file)
    except ConfigurationError as error:
        problems = error.problems
    assert problems or "rules" in tree
    assert all(str(problem).startswith(str(file)) for problem in problems)
