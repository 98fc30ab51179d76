"""Texts of strangers, fit to be shown."""

from __future__ import annotations

import pytest

from proxy.policy.changes.words import MASK, hide, plain, size, variable


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain ünï", "plain ünï"),
        ("\x1b[31mred\x1b[0m\n", "\\x1b[31mred\\x1b[0m\\n"),
        ("a\u202eb\u200bc", "a\\u202eb\\u200bc"),
        ("\ud800", "\\ud800"),
    ],
)
def test_nothing_is_obeyed_by_a_terminal(text: str, shown: str) -> None:
    """Controls and letters that cannot be seen come out as escapes."""
    assert plain(text) == shown


def test_long_texts_are_cut_and_still_told_apart() -> None:
    """By length and hash."""
    one, other = plain("x" * 300 + "1"), plain("x" * 300 + "2")
    assert one != other
    assert one.startswith("x" * 200 + "… (301 characters, sha256 ")


@pytest.mark.parametrize(
    "text",
    [
        "RUN curl -H 'x' https://user:hunter2@host/x",
        "ENV DB_PASSWORD=hunter2",
        "ARG api_key='hunter2 hunter2'",
        'RUN login --token "hunter2" x',
        "RUN login --password hunter2",
        "ghp_hunter2hunter2hunter2",
        "AKIAHUNTER2HUNTER222",
        "eyJhdWQiOiJodW50ZXIyIn0.eyJodW50ZXIyIjoxfQ.hunter2",
        "-----BEGIN RSA PRIVATE KEY-----\nhunter2",
        "x" * 150 + " password=hunter2" + "y" * 900,
    ],
)
def test_secrets_are_masked(text: str) -> None:
    """By the name beside them, or by their own form; also in what is cut."""
    shown = hide(text)
    assert "hunter2" not in shown.lower()
    assert MASK in shown


@pytest.mark.parametrize(
    ("name", "value", "shown"),
    [
        ("API_TOKEN", "x", MASK),
        ("KEY", "x", MASK),
        ("aws_secret_access_key", "x", MASK),
        ("MONKEY", "x", "x"),
        ("AUTHOR", "x", "x"),
        ("DSN", "postgres://u:p@db", f"postgres://{MASK}@db"),
        ("TOKEN", "", ""),
    ],
)
def test_variables_are_masked_by_their_names(name: str, value: str, shown: str) -> None:
    """Where the name says that the value is a secret."""
    assert variable(name, value) == shown


def test_hostile_texts_cost_little() -> None:
    """Patterns are held to the beginning of what is long and much like a secret."""
    for text in ("password" * 400_000, "eyJ" + "a." * 1_000_000, "://" + "a:" * 1_000_000, "-----BEGIN " * 100_000):
        assert len(hide(text)) < 2000


@pytest.mark.parametrize(("count", "shown"), [(0, "0 B"), (1023, "1023 B"), (1536, "1.5 KiB"), (5 << 40, "5.0 TiB")])
def test_sizes(count: int, shown: str) -> None:
    """In binary units."""
    assert size(count) == shown
