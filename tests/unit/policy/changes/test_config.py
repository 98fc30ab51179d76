"""Reading image configs: as clients read them, within bounds, and never in two ways."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any

import pytest

from proxy.errors import ConfigMalformed
from proxy.policy.changes import MAX_CONFIG, Config, canonical, read_config
from tests.simulator.builds import nginx


def read(**members: Any) -> Config:
    """A config with these members."""
    return read_config(json.dumps(members).encode())


def test_a_real_config() -> None:
    """What a container is made of, and what the history says."""
    config = read_config(nginx().image().blobs[0].data)
    assert config.platform == "linux/amd64"
    assert config.created == datetime(2026, 5, 1, 10, tzinfo=UTC)
    assert config.entrypoint == ("/docker-entrypoint.sh",)
    assert config.command == ("nginx", "-g", "daemon off;")
    assert config.environment[1] == ("NGINX_VERSION", "1.29.1")
    assert (config.user, config.root, config.ports, config.stop_signal) == ("nginx", False, ("80/tcp",), "SIGQUIT")
    commands = config.commands(3)
    assert commands is not None
    assert commands[-1] == "COPY docker-entrypoint.sh / # buildkit"
    assert config.commands(2) is None, "the history is of another number of layers"


def test_keys_are_read_in_whatever_case() -> None:
    """Docker and containerd take "entrypoint" for "Entrypoint"; so does this, and one that stands twice is refused."""
    assert read(config={"entrypoint": ["/evil"], "USER": "0"}).entrypoint == ("/evil",)
    assert read(CONFIG={"Cmd": "x"}).command == ("x",)
    assert read(config={"U\u017fer": "0"}).user == "0", "the long s is an s to readers written in Go"
    twice: tuple[dict[str, Any], ...] = ({"config": {"Entrypoint": [], "entrypoint": ["/evil"]}}, {"config": {}, "Config": {}})
    for members in twice:
        with pytest.raises(ConfigMalformed, match="two spellings"):
            read(**members)


@pytest.mark.parametrize(
    "members",
    [
        {"config": []},
        {"config": {"Entrypoint": [1]}},
        {"config": {"Cmd": {}}},
        {"config": {"Env": ["x"], "User": 0}},
        {"config": {"ExposedPorts": ["80"]}},
        {"config": {"Labels": {"a": 1}}},
        {"config": {"Labels": []}},
        {"config": {"Healthcheck": "x"}},
        {"history": {}},
        {"history": ["x"]},
        {"history": [{"empty_layer": "yes"}]},
        {"history": [{}] * 2001},
        {"rootfs": "x"},
        {"rootfs": {"diff_ids": [None]}},
        {"os": 1},
        {"config": {"Env": ["x"] * 10_001}},
        {"config": {"Volumes": {str(number): {} for number in range(10_001)}}},
    ],
    ids=lambda members: str(members)[:60],
)
def test_what_is_not_of_the_right_form_is_refused(members: dict[str, Any]) -> None:
    """One reason, as a text."""
    with pytest.raises(ConfigMalformed) as refused:
        read(**members)
    assert str(refused.value)


@pytest.mark.parametrize("body", [b"", b"[]", b"\xff", b'{"a": 1, "a": 2}', b"[" * 100_000, b"{" + b" " * MAX_CONFIG + b"}"])
def test_what_is_no_config_is_refused(body: bytes) -> None:
    """Not JSON, JSON that means two things, too deep, too large."""
    with pytest.raises(ConfigMalformed):
        read_config(body)


@pytest.mark.parametrize(
    ("text", "moment"),
    [
        ("2026-05-01T10:00:00.123456789Z", datetime(2026, 5, 1, 10, 0, 0, 123456, UTC)),
        ("2026-05-01T10:00:00+02:00", datetime(2026, 5, 1, 8, tzinfo=UTC)),
        ("2026-05-01T10:00:00", datetime(2026, 5, 1, 10, tzinfo=UTC)),
        ("1970-01-01T00:00:00Z", None),
        ("1980-01-01T00:00:01Z", None),
        ("0001-01-01T00:00:00+23:00", None),
        ("yesterday", None),
        ("9" * 70, None),
        (12, None),
        (None, None),
    ],
)
def test_dates(text: object, moment: datetime | None) -> None:
    """Nanoseconds and zones are read; the dates of reproducible builds are none, and nor is what is no date."""
    assert read(created=text).created == moment


@pytest.mark.parametrize(
    ("user", "root"),
    [("", True), ("root", True), ("0", True), ("0:0", True), ("root:www", True), ("00", True), ("1000", False), ("www:0", False)],
)
def test_root(user: str, root: bool) -> None:
    """By name, by number, and where nobody is named."""
    assert read(config={"User": user}).root is root


@pytest.mark.parametrize(
    ("text", "same"),
    [
        ("linux/arm64/v8", "linux/arm64"),
        ("linux/arm64/v9", "linux/arm64/v9"),
        ("linux/amd64/v1", "linux/amd64"),
        ("linux/arm", "linux/arm/v7"),
        ("linux/arm/v6", "linux/arm/v6"),
        ("linux/x86_64", "linux/amd64"),
        ("Linux/x86-64/V1", "linux/amd64"),
        ("linux/aarch64", "linux/arm64"),
        ("linux/arm64/8", "linux/arm64"),
        ("linux/armhf", "linux/arm/v7"),
        ("linux/armel", "linux/arm/v6"),
        ("linux/i386", "linux/386"),
        ("macos/arm64", "darwin/arm64"),
        ("linux", ""),
        ("linux/\x1b[31m", ""),
        ("linux/amd64/" + "v" * 40, ""),
        ("", ""),
    ],
)
def test_platforms_have_one_spelling(text: str, same: str) -> None:
    """Variants that are meant without being named, and other names of the same, do not make another platform."""
    assert canonical(text) == same


def test_nulls_are_nothing() -> None:
    """As Go's tools write what is not there."""
    nothing = read(config=dict.fromkeys(("Cmd", "Env", "Labels", "Volumes", "Healthcheck", "User")), history=None)
    assert nothing == read()
    assert read(config={"Labels": {"a": None}}).labels == {"a": ""}
