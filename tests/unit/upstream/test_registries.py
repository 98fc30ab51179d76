"""Endpoints, their environment variables, and the hosts of their token endpoints."""

from __future__ import annotations

import pytest
from yarl import URL

from proxy.settings import Upstream
from proxy.upstream.registries import WELL_KNOWN, Endpoint, same_origin


def test_well_known_and_other_registries() -> None:
    """Docker Hub's endpoint is known, others live at their name, and a url overrides both."""
    assert str(Endpoint.of("docker.io", Upstream()).url) == "https://registry-1.docker.io"
    assert str(Endpoint.of("ghcr.io", Upstream()).url) == "https://ghcr.io"
    assert str(Endpoint.of("[::1]:5000", Upstream()).url) == "https://[::1]:5000"
    mirror = Endpoint.of("docker.io", Upstream(url="http://127.0.0.1:5000/hub/"))
    assert (str(mirror.at("/v2/library/nginx/manifests/1.0")), mirror.plain) == (
        "http://127.0.0.1:5000/hub/v2/library/nginx/manifests/1.0",
        True,
    )


@pytest.mark.parametrize("url", ["ftp://x", "reg.example", "https://", "https://u:p@x", "https://x?y=1", "https://x#y", "/x"])
def test_a_url_that_is_no_endpoint(url: str) -> None:
    """What is no plain http(s) URL is refused when the endpoint is built."""
    with pytest.raises(ValueError, match=r"url of upstream reg\.example"):
        Endpoint.of("reg.example", Upstream(url=url))


@pytest.mark.parametrize(
    ("name", "variable"),
    [
        ("docker.io", "TAGSTONE_DOCKER_IO"),
        ("registry.corp.example:5443", "TAGSTONE_REGISTRY_CORP_EXAMPLE_5443"),
        ("a-b.io", "TAGSTONE_A_B_IO"),
    ],
)
def test_environment_variables(name: str, variable: str) -> None:
    """Capitals, and everything but letters and digits becomes an underscore."""
    assert Endpoint.of(name, Upstream()).variable == variable


@pytest.mark.parametrize(
    ("name", "settings", "realm", "allowed"),
    [
        ("docker.io", {}, "https://auth.docker.io/token", True),
        ("docker.io", {}, "https://registry-1.docker.io/token", True),
        ("docker.io", {}, "https://evil.docker.io/token", False),
        ("docker.io", {}, "https://auth.docker.io.evil.example/token", False),
        ("docker.io", {}, "http://auth.docker.io/token", False),
        ("docker.io", {"url": "https://mirror.example"}, "https://auth.docker.io/token", False),
        ("docker.io", {"url": "https://registry-1.docker.io"}, "https://auth.docker.io/token", True),
        ("registry.gitlab.com", {}, "https://gitlab.com/jwt/auth", True),
        ("ghcr.io", {}, "https://GHCR.io/token", True),
        ("ghcr.io", {}, "https://user@ghcr.io/token", False),
        ("reg.example", {}, "https://reg.example:8443/token", True),
        ("reg.example", {}, "https://auth.reg.example/token", False),
        ("reg.example", {"realm_hosts": ["auth.reg.example"]}, "https://auth.reg.example/token", True),
        ("reg.example", {"realm_hosts": ["auth.example:8443"]}, "https://auth.example:8443/token", True),
        ("reg.example", {"realm_hosts": ["auth.example:8443"]}, "https://auth.example/token", False),
        ("reg.example", {"url": "http://reg.example"}, "http://reg.example/token", True),
        ("reg.example", {"url": "http://reg.example"}, "https://reg.example/token", True),
        ("reg.example", {}, "ftp://reg.example/token", False),
    ],
)
def test_promise_22_token_endpoints(name: str, settings: dict[str, object], realm: str, allowed: bool) -> None:
    """https on the registry's own host, on its well-known one, or on one that the configuration names; nothing else."""
    endpoint = Endpoint.of(name, Upstream.model_validate(settings))
    assert (endpoint.realm_refusal(URL(realm, encoded=True)) is None) is allowed


def test_origins() -> None:
    """Scheme, host in any case, and port, the scheme's own included."""
    assert same_origin(URL("https://A.example/x"), URL("https://a.example:443/y"))
    assert not same_origin(URL("https://a.example"), URL("http://a.example"))
    assert not same_origin(URL("https://a.example"), URL("https://a.example:444"))
    assert not same_origin(URL("https://a.example"), URL("https://b.a.example"))


def test_docker_config_names() -> None:
    """Docker Hub's old URL comes first; other registries stand there by name and by the endpoint's host."""
    assert Endpoint.of("docker.io", Upstream()).docker_keys[0] == "https://index.docker.io/v1/"
    assert Endpoint.of("reg.example", Upstream(url="https://inner.example:444")).docker_keys == (
        "reg.example",
        "inner.example:444",
    )


def test_the_table_is_sound() -> None:
    """Every well-known endpoint is https, and builds."""
    for name, known in WELL_KNOWN.items():
        assert known.url.startswith("https://")
        assert Endpoint.of(name, Upstream()).realm_hosts >= set(known.realm_hosts)
