"""The settings as values: their defaults, and how code builds them."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from proxy.settings import Auth, Limits, Settings, Upstream

RULES = ({"match": "**", "require": "deny"},)


def test_every_key_but_rules_has_a_default() -> None:
    """A file that only holds rules is whole."""
    settings = Settings.model_validate({"rules": RULES})
    assert settings.listen == "127.0.0.1:5000"
    assert settings.admin.listen == "127.0.0.1:5001"
    assert str(settings.data_dir) == "/var/lib/tagstone"
    assert settings.check_interval == 60.0
    assert settings.default_registry == "docker.io"
    assert (dict(settings.hosts), dict(settings.upstreams), dict(settings.trust.keys)) == ({}, {}, {})
    assert settings.workers == 1
    with pytest.raises(ValidationError):
        Settings.model_validate({})


def test_code_builds_settings_with_plain_numbers() -> None:
    """Seconds and bytes as numbers, so that tests and tools need no text."""
    assert Upstream(stall_timeout=0.5).stall_timeout == 0.5
    assert Limits(manifest_size=1000).manifest_size == 1000


def test_a_password_is_not_in_the_representation() -> None:
    """What a traceback or a log line shows of the settings holds no secret."""
    upstream = Upstream(auth=Auth(username="ann", password="hunter2"))
    assert "hunter2" not in repr(upstream)
    assert "hunter2" not in upstream.model_dump_json()
    assert upstream.auth.password == "hunter2"


def test_timeouts_of_zero_are_refused() -> None:
    """Every wait has an end."""
    with pytest.raises(ValidationError, match="longer than 0"):
        Upstream(connect_timeout=0)
