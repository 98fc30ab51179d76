"""docs/alerts.md says what the code does."""

from __future__ import annotations

import re
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

from proxy.configuration import load
from proxy.sinks import reference
from proxy.sinks.webhooks import headers, parse_secrets
from storage.records import ACTS, EventType

PAGE = Path(__file__).resolve().parents[3] / "docs" / "alerts.md"
TEXT = PAGE.read_text(encoding="utf-8")
SECRET = "whsec_" + "A" * 43 + "="


def blocks(language: str) -> list[str]:
    """The examples of the page in one language."""
    return re.findall(rf"```{language}\n(.*?)```", TEXT, re.DOTALL)


def test_the_examples_are_made_from_events() -> None:
    """Changed an event? ``python -m proxy.sinks.reference docs/alerts.md`` writes the page anew."""
    assert reference.render(TEXT) == TEXT


def test_every_type_of_event_is_on_the_page() -> None:
    """With what it means, what to do, and an example of its own type and kind."""
    for kind, entry in reference.entries().items():
        assert f"\n### `{kind}`\n" in TEXT
        assert entry.meaning.endswith(".")
        assert entry.act.endswith(".")
        assert entry.example.type is kind
        assert (entry.example.closed_at is not None) == (kind in ACTS)
    assert set(reference.entries()) == set(EventType)


def test_the_page_is_written_between_its_marks(tmp_path: Path) -> None:
    """Everything else stays as it is; a mark that names nothing is an error."""
    page = tmp_path / "page.md"
    page.write_text("before\n<!-- overview -->\nstale text\n<!-- end -->\nafter\n")
    subprocess.run([sys.executable, "-m", "proxy.sinks.reference", str(page)], check=True, timeout=60, cwd=PAGE.parents[1])
    written = page.read_text()
    assert written.startswith("before\n<!-- overview -->\n| type | severity |")
    assert "stale text" not in written
    with pytest.raises(KeyError):
        reference.render("<!-- nothing -->\n<!-- end -->\n")


def test_the_receiver_of_the_page_verifies_what_is_sent() -> None:
    """The Python of the page takes our signatures, also while a secret is replaced, and nothing else."""
    (code,) = blocks("python")
    space: dict[str, object] = {}
    exec(code, space)
    verify = space["verify"]
    assert callable(verify)
    body, now = b'{"a": 1}', int(time.time())
    other = "whsec_" + "B" * 43 + "="
    good = headers(parse_secrets(f"{other}\n{SECRET}"), "message-1", now, body)
    verify(SECRET, good, body)
    verify(other, good, body)
    wrong = [
        ("whsec_" + "C" * 43 + "=", good, body),
        (SECRET, good, body + b" "),
        (SECRET, good | {"webhook-id": "message-2"}, body),
        (SECRET, good | {"webhook-timestamp": str(now + 1)}, body),
        (SECRET, headers(parse_secrets(SECRET), "message-1", now - 301, body), body),
        (SECRET, good | {"webhook-signature": "v1a,AAAA"}, body),
    ]
    for secret, sent, received in wrong:
        with pytest.raises(ValueError, match=r"signed|old"):
            verify(secret, sent, received)


def test_the_configuration_of_the_page_checks_out(tmp_path: Path) -> None:
    """The first example, with what else a file needs."""
    example = blocks("yaml")[0].replace("/run/secrets", str(tmp_path))
    (tmp_path / "tagstone-webhook").write_text(SECRET)
    (tmp_path / "apprise-urls").write_text("mailto://user:password@smtp.example\n")
    file = tmp_path / "tagstone.yaml"
    file.write_text(example + '\nupstreams: {docker.io: {}}\nrules: [{match: "**", require: deny}]\n')
    alerts = load(file).alerts
    assert [sink.name for sink in alerts.sinks] == ["soc", "oncall", "team"]
    assert load(file).warnings == ()


def test_the_other_examples_are_yaml() -> None:
    """The rule for Prometheus and the route for Alertmanager name what is there."""
    rule, route = (yaml.safe_load(text) for text in blocks("yaml")[1:])
    assert "tagstone_alerts_oldest_seconds" in rule["groups"][0]["rules"][0]["expr"]
    receivers = {each["name"] for each in route["receivers"]}
    assert {route["route"]["receiver"]} | {each["receiver"] for each in route["route"]["routes"]} == receivers
