"""Which registry a request means: one answer, or a refusal; never a registry that nobody configured."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.errors import MalformedRequest
from proxy.routing import Router
from storage.reference import Repository

UPSTREAMS = frozenset({"docker.io", "ghcr.io", "r.example:5000", "localhost:5000", "localhost", "[::1]:5000"})
HOSTS = {"hub.mirror.example": "docker.io", "ghcr.mirror.example:8443": "ghcr.io", "r.mirror.example": "r.example:5000"}
ROUTER = Router(UPSTREAMS, HOSTS, "docker.io")


def attempt(name: str, ns: str | None, host: str | None, router: Router = ROUTER) -> Repository | MalformedRequest:
    """The repository that is meant, or why none is."""
    try:
        return router.route(name, ns, host)
    except MalformedRequest as problem:
        return problem


def refused(name: str, ns: str | None = None, host: str | None = None, router: Router = ROUTER) -> tuple[int, str, str]:
    """Status, code and message of the refusal."""
    problem = attempt(name, ns, host, router)
    assert isinstance(problem, MalformedRequest)
    return problem.status, problem.code, str(problem)


@pytest.mark.parametrize(
    ("name", "ns", "host", "meant"),
    [
        pytest.param("nginx", None, None, "docker.io/library/nginx", id="default registry"),
        pytest.param("acme/app", None, None, "docker.io/acme/app", id="default registry, two components"),
        pytest.param("library/nginx", "docker.io", None, "docker.io/library/nginx", id="ns"),
        pytest.param("nginx", "docker.io", None, "docker.io/library/nginx", id="ns, short name"),
        pytest.param("nginx", "registry-1.docker.io", None, "docker.io/library/nginx", id="ns, another name of Docker Hub"),
        pytest.param("acme/app", "GHCR.io", None, "ghcr.io/acme/app", id="ns, upper case"),
        pytest.param("acme/app", "r.example:5000", None, "r.example:5000/acme/app", id="ns with a port"),
        pytest.param("docker.io/library/nginx", None, None, "docker.io/library/nginx", id="path prefix"),
        pytest.param("docker.io/nginx", None, None, "docker.io/library/nginx", id="path prefix, short name"),
        pytest.param(
            "index.docker.io/nginx", None, None, "docker.io/library/nginx", id="path prefix, another name of Docker Hub"
        ),
        pytest.param("ghcr.io/acme/app", None, None, "ghcr.io/acme/app", id="path prefix of another registry"),
        pytest.param("localhost/app", None, None, "localhost/app", id="localhost"),
        pytest.param("localhost:5000/app", None, None, "localhost:5000/app", id="prefix with a port"),
        pytest.param("r.example__5000/app", None, None, "r.example:5000/app", id="prefix with a port, without a colon"),
        pytest.param("localhost__5000/app", None, None, "localhost:5000/app", id="localhost with a port, without a colon"),
        pytest.param("r.example__5000/app", "r.example:5000", None, "r.example:5000/app", id="prefix with a port, and ns"),
        pytest.param("acme__5000/app", None, None, "docker.io/acme__5000/app", id="a name with underscores that is no host"),
        pytest.param("[::1]:5000/app", None, None, "[::1]:5000/app", id="an address that an operator configured"),
        pytest.param("nginx", None, "hub.mirror.example", "docker.io/library/nginx", id="host name"),
        pytest.param("nginx", None, "Hub.Mirror.Example:443", "docker.io/library/nginx", id="host name, any port"),
        pytest.param("acme/app", None, "ghcr.mirror.example:8443", "ghcr.io/acme/app", id="host name with its port"),
        pytest.param("acme/app", None, "r.mirror.example:443", "r.example:5000/acme/app", id="host name without one, any port"),
        pytest.param("docker.io", None, None, "docker.io/library/docker.io", id="a name that looks like a registry"),
        pytest.param("localhost", None, None, "docker.io/library/localhost", id="a name that looks like the local host"),
        pytest.param("nginx", None, "ghcr.mirror.example", "docker.io/library/nginx", id="the port matters: default registry"),
        pytest.param("nginx", None, "elsewhere.example", "docker.io/library/nginx", id="a host that is not mapped"),
        pytest.param("nginx", None, "", "docker.io/library/nginx", id="an empty host"),
        pytest.param("ghcr.io/acme/app", "ghcr.io", None, "ghcr.io/acme/app", id="ns and prefix agree"),
        pytest.param(
            "index.docker.io/nginx", "docker.io", None, "docker.io/library/nginx", id="ns and prefix agree by other names"
        ),
        pytest.param("docker.io/nginx", None, "hub.mirror.example", "docker.io/library/nginx", id="host and prefix agree"),
        pytest.param("nginx", "docker.io", "hub.mirror.example", "docker.io/library/nginx", id="ns and host agree"),
        pytest.param("my.team/app", "ghcr.io", None, "ghcr.io/my.team/app", id="a dotted name under ns that is no registry"),
        pytest.param("a..b/app", "ghcr.io", None, None, id="a dotted name that is no name"),
    ],
)
def test_which_registry_is_meant(name: str, ns: str | None, host: str | None, meant: str | None) -> None:
    """``ns``, path prefix, host name, default registry: in this order, in one spelling."""
    if meant is None:
        assert refused(name, ns, host)[:2] == (400, "NAME_INVALID")
    else:
        assert str(ROUTER.route(name, ns, host)) == meant


@pytest.mark.parametrize(
    ("name", "ns", "host"),
    [
        pytest.param("ghcr.io/acme/app", "docker.io", None, id="ns and prefix"),
        pytest.param("ghcr.io/acme/app", None, "hub.mirror.example", id="host and prefix"),
        pytest.param("nginx", "ghcr.io", "hub.mirror.example", id="ns and host"),
        pytest.param("docker.io/nginx", "ghcr.io", "hub.mirror.example", id="all three"),
        pytest.param("localhost/app", "docker.io", None, id="ns and localhost"),
    ],
)
def test_promise_20_two_registries_in_one_request_are_refused(name: str, ns: str | None, host: str | None) -> None:
    """A contradiction is 400, whichever of the two a client meant."""
    status, code, message = refused(name, ns, host)
    assert (status, code) == (400, "NAME_INVALID")
    assert "name" in message


@pytest.mark.parametrize(
    "registry",
    [
        "evil.example",
        "ghcr.io:443",
        "docker.io.evil.example",
        "127.0.0.1",
        "127.0.0.1:5000",
        "169.254.169.254",
        "[::1]",
        "[fd00:ec2::254]:80",
        "0x7f.1",
        "2130706433:80",
    ],
)
def test_promise_20_a_registry_that_is_not_configured_is_refused(registry: str) -> None:
    """Unlisted names and IP literals are 403, by ``ns`` and by prefix: a client's word is never dialled."""
    expected = 403, "DENIED", f"the registry {registry} is not configured here; an operator can add it under upstreams"
    assert refused("acme/app", registry) == expected
    assert refused(f"{registry}/acme/app") == expected


@pytest.mark.parametrize(
    "ns", ["", " ", "docker.io/library", "https://docker.io", "docker.io\r\nX: y", "a@docker.io", "doc\u212aer.io", "x" * 300]
)
def test_promise_20_an_ns_that_is_no_registry_is_refused(ns: str) -> None:
    """400, with a message of one line."""
    status, code, message = refused("nginx", ns)
    assert (status, code) == (400, "NAME_INVALID")
    assert message.startswith("ns: ")
    assert message.isprintable()


def test_promise_20_the_host_header_alone_never_names_a_registry() -> None:
    """A Host that spells a configured registry, or any other, changes nothing: only the operator's map does."""
    for host in ("ghcr.io", "evil.example", "127.0.0.1:5000", "[::1]:5000", ":", "a:b:c", "\udcff"):
        assert str(ROUTER.route("nginx", None, host)) == "docker.io/library/nginx"


def test_a_default_that_is_not_configured_is_refused() -> None:
    """The default registry is no exception to the list."""
    router = Router(frozenset({"ghcr.io"}), {}, "docker.io")
    assert refused("nginx", router=router)[:2] == (403, "DENIED")
    assert str(router.route("ghcr.io/acme/app", None, None)) == "ghcr.io/acme/app"


@pytest.mark.parametrize("name", ["host:port/app", "ghcr.io:99999/acme/app", "a:0/b", ":5000/app", "host:/app"])
def test_a_prefix_with_a_malformed_port_is_refused(name: str) -> None:
    """A colon never stands in a name, so this can only be a registry, and is none: the message says so."""
    for ns in (None, "ghcr.io"):
        status, code, message = refused(name, ns)
        assert (status, code) == (400, "NAME_INVALID")
        assert "is not a registry" in message or "port" in message


@pytest.mark.parametrize(
    "name", ["Acme/app", "acme/App", "a_/b", "ghcr.io/Acme/app", "acme/" + "a" * 256, "a/b@c", "ghcr.io/..", "a/b?"]
)
def test_promise_19_a_malformed_name_is_refused(name: str) -> None:
    """The grammar is checked on what is left of the name once the registry is known."""
    assert refused(name)[:2] == (400, "NAME_INVALID")


_words = st.sampled_from(
    [
        "docker.io",
        "ghcr.io",
        "evil.example",
        "localhost",
        "localhost:5000",
        "127.0.0.1",
        "[::1]:5000",
        "app",
        "library",
        "..",
        "",
        "A",
    ]
) | st.text("a.:-_/%A\u212a", max_size=6)


@given(
    st.lists(_words, min_size=1, max_size=4).map("/".join) | st.text(max_size=30),
    st.none() | _words | st.text(max_size=20),
    st.none() | st.sampled_from([*HOSTS, "hub.mirror.example:1", "evil.example"]) | st.text(max_size=20),
)
def test_no_request_leaves_the_configured_registries(name: str, ns: str | None, host: str | None) -> None:
    """Whatever a client writes: a canonical repository of a configured registry, or a 400 or 403 of one line."""
    meant = attempt(name, ns, host)
    if isinstance(meant, MalformedRequest):
        assert meant.status in {400, 403}
        assert str(meant).isprintable()
        return
    assert meant.registry in UPSTREAMS
    assert Repository.of(meant.registry, meant.name) == meant
    assert name.endswith(meant.name.removeprefix("library/"))
