"""``alerts``: what may stand there, and what it comes to."""

from __future__ import annotations

import base64
import json
from pathlib import Path

import pytest
import yaml

from proxy.cli.config import effective
from proxy.policy.alerts import Alertmanager, Apprise, CloudEvents, Digest, Http, SecretSource
from storage.records import Severity
from tests.unit.configuration.files import RULES, UPSTREAM, Folder

REST = RULES + UPSTREAM
SECRET = "whsec_" + base64.b64encode(bytes(range(32))).decode()


def sinks(text: str) -> str:
    """A file with one sink ``a``."""
    return f"{REST}alerts: {{sinks: {{a: {text}}}}}\n"


def test_without_the_section_nobody_is_told(folder: Folder) -> None:
    """No sinks, and nothing to say about it; an empty section is the same."""
    assert folder.load(REST).alerts.sinks == ()
    assert folder.load(f"{REST}alerts:\n").alerts.sinks == ()
    assert folder.load(f"{REST}alerts: {{sinks: }}\n").alerts.sinks == ()


def test_a_file_with_all_kinds(folder: Folder) -> None:
    """Everything that can be said about each."""
    (folder.path / "secret").write_text(SECRET)
    (folder.path / "urls").write_text("mailto://user:password@smtp.example")
    policy = folder.load(
        REST
        + """
alerts:
  source: https://tagstone.example
  give_up: 3d
  keep: 1d
  history: 90d
  sinks:
    soc:
      cloudevents: {url: "https://soc.example/hook", secret_file: secret}
      types: ["tag.*", pin.revoked]
      severity: warning
      images: ["docker.io/**"]
      timeout: 5s
    oncall:
      alertmanager: {url: "http://alertmanager:9093/", resend: 30s, hold: 5m, labels: {team: platform}}
    mail:
      apprise: {urls_file: urls}
      digest: weekly on friday at 16:00
"""
    ).alerts
    assert (policy.source, policy.give_up, policy.keep) == ("https://tagstone.example", 3 * 86400, 86400)
    assert policy.history == 90 * 86400
    soc, oncall, mail = policy.sinks
    assert soc.target == CloudEvents(Http("https://soc.example/hook"), SecretSource(folder.path / "secret"))
    assert [pattern.text for pattern in soc.filter.types] == ["tag.*", "pin.revoked"]
    assert (soc.filter.severity, soc.timeout) == (Severity.WARNING, 5)
    assert oncall.target == Alertmanager(Http("http://alertmanager:9093/"), {"team": "platform"}, 30, 300)
    assert mail.target == Apprise(SecretSource(folder.path / "urls"))
    assert mail.digest == Digest.parse("weekly on friday at 16:00")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("{}", "is of one kind: `cloudevents`, `alertmanager` or `apprise`; here is none of them"),
        ('{cloudevents: {url: "https://x"}, alertmanager: {url: "https://x"}}', "here is `cloudevents` and `alertmanager`"),
        ("{cloudevents: {}}", "needs one of `url`, `url_file` and `url_env`; here is none of them"),
        ('{cloudevents: {url: "https://x", url_env: HOOK}}', "here is `url` and another"),
        ("{cloudevents: {url: x.example/token}}", "is no address of a sink: write https://host/path"),
        ('{cloudevents: {url: "https://u:p@x", bearer_env: T}}', "holds a user, and there is a `bearer_…`"),
        ('{cloudevents: {url: "https://x", bearer_env: T, bearer_file: f}}', "holds `bearer_file` and `bearer_env`"),
        ('{cloudevents: {url: "https://x", secret_env: "a b"}}', "is not the name of an environment variable"),
        ('{cloudevents: {url: "https://x", secret_file: short}}', "24 to 64 bytes"),
        ('{cloudevents: {url: "https://x", ca: one.pub}}', "holds no certificates"),
        ('{alertmanager: {url: "https://x", labels: {team-a: x}}}', "is no name of a label"),
        ('{alertmanager: {url: "https://x", labels: {severity: x}}}', "is set by Tagstone itself"),
        ('{alertmanager: {url: "https://x", resend: 0}}', "must be longer than 0"),
        ('{alertmanager: {url: "https://x"}, digest: daily at 08:00}', "`digest` is for people and goes with `apprise`"),
        ("{apprise: {}}", "needs `urls_file` or `urls_env`"),
        ("{apprise: {urls_file: short}}", "holds something else than apprise URLs"),
        ("{apprise: {urls_env: URLS}, digest: sometimes}", "write `daily at 08:00`"),
        ('{cloudevents: {url: "https://x"}, types: [tag.overwriten]}', "did you mean `tag.overwritten`?"),
        ('{cloudevents: {url: "https://x"}, types: [image.*]}', "no event is of a type like `image.*`"),
        ('{cloudevents: {url: "https://x"}, severity: high}', "info"),
        ('{cloudevents: {url: "https://x"}, wants: all}', "wants"),
    ],
)  # fmt: skip
def test_what_makes_no_sense_is_told(folder: Folder, text: str, said: str) -> None:
    """With the line and the way out."""
    (folder.path / "short").write_text("whsec_c2hvcnQ=")
    errors = folder.errors(sinks(text))
    assert any(said in error for error in errors), errors
    assert all(error.startswith("3:") for error in errors)


def test_a_source_is_a_uri(folder: Folder) -> None:
    """It goes into events as it is."""
    assert "is no URI reference" in folder.errors(REST + "alerts: {source: my proxy}\n")[0]


def test_without_apprise_its_sinks_are_refused(folder: Folder, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the words to install it."""
    monkeypatch.setattr("proxy.configuration.alerts.find_spec", lambda name: None)
    (error,) = folder.errors(sinks("{apprise: {urls_env: URLS}}"))
    assert "pip install 'tagstone[apprise]'" in error


def test_secrets_that_are_elsewhere_are_warnings(folder: Folder, monkeypatch: pytest.MonkeyPatch) -> None:
    """They are often where the server runs, and nowhere else."""
    monkeypatch.delenv("HOOK", raising=False)
    monkeypatch.delenv("URLS", raising=False)
    for text, said in [
        ('{cloudevents: {url: "https://x", secret_file: missing}}', "missing cannot be read here and now"),
        ("{alertmanager: {url_env: HOOK}}", "the environment variable HOOK is not set here and now"),
        ("{apprise: {urls_env: URLS}}", "the environment variable URLS is not set here and now"),
    ]:
        (warning,) = folder.warnings(sinks(text))
        assert said in warning


def test_what_is_risky_is_a_warning(folder: Folder) -> None:
    """No signature, no encryption, credentials in the file."""
    (folder.path / "secret").write_text(SECRET)
    (unsigned,) = folder.warnings(sinks('{cloudevents: {url: "https://x"}}'))
    assert "are not signed" in unsigned
    (plain,) = folder.warnings(sinks('{cloudevents: {url: "http://x", secret_file: secret}}'))
    assert "plain HTTP" in plain
    (inside,) = folder.warnings(sinks('{alertmanager: {url: "https://u:p@x"}}'))
    assert "`url_file` or `url_env` keep them out" in inside


def test_secrets_are_not_shown(folder: Folder, tmp_path: Path) -> None:
    """``config show`` has neither users nor queries of addresses, nor anything that stands in files; and can be read back."""
    (folder.path / "secret").write_text(SECRET)
    (folder.path / "urls").write_text("slack://T0ken/T0ken/T0ken")
    configuration = folder.load(
        REST
        + """
alerts:
  sinks:
    a: {cloudevents: {url: "https://olga:s3cret@soc.example/hook?key=s3cret", secret_file: secret}}
    b: {apprise: {urls_file: urls}}
"""
    )
    shown = effective(configuration)
    text = json.dumps(shown)
    for secret in ("s3cret", "olga", SECRET, "T0ken"):
        assert secret not in text
    assert shown["alerts"]["sinks"]["a"]["cloudevents"]["url"] == "https://***@soc.example/hook?***"
    assert "s3cret" not in repr(configuration.alerts)
    assert "s3cret" not in repr(configuration.settings.alerts)
    again = folder.load(yaml.safe_dump(shown["alerts"] and {**yaml.safe_load(REST), "alerts": shown["alerts"]}))
    assert [sink.name for sink in again.alerts.sinks] == ["a", "b"]
