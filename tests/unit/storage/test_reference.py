"""Names of images: one spelling per image, and nothing that the grammar of the specification does not know."""

from __future__ import annotations

from string import ascii_lowercase, digits

import pytest
from hypothesis import given
from hypothesis import strategies as st

from storage.digest import Digest
from storage.errors import MalformedName
from storage.reference import DOCKER_HUB, MAX_NAME, Reference, Repository, parse_registry, parse_tag, repository

DIGEST = Digest.of(b"image")

# -- registries -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("written", "canonical"),
    [
        ("docker.io", "docker.io"),
        ("index.docker.io", "docker.io"),
        ("registry-1.docker.io", "docker.io"),
        ("registry.hub.docker.com", "docker.io"),
        ("Docker.IO", "docker.io"),
        ("GHCR.io", "ghcr.io"),
        ("localhost", "localhost"),
        ("localhost:5000", "localhost:5000"),
        ("registry.corp.example:5443", "registry.corp.example:5443"),
        ("127.0.0.1:5000", "127.0.0.1:5000"),
        ("[::1]:5000", "[::1]:5000"),
        ("[2001:DB8::1]", "[2001:db8::1]"),
        ("a", "a"),
        ("x" * 63 + ".example", "x" * 63 + ".example"),
        ("host:65535", "host:65535"),
    ],
)
def test_a_registry_is_spelled_one_way(written: str, canonical: str) -> None:
    """Hosts are lower case, and the names of Docker Hub are one registry."""
    assert parse_registry(written) == canonical
    assert parse_registry(canonical) == canonical


@pytest.mark.parametrize(
    "text",
    [
        "",
        ".",
        "..",
        "-host",
        "host-",
        "host..example",
        "docker.io.",
        ".docker.io",
        "host_name",
        "host:",
        "host:0",
        "host:65536",
        "host:123456",
        "host:http",
        "host:-1",
        "host:5000:5000",
        "https://host",
        "host/path",
        "user@host",
        "host?",
        "host#",
        "host\x00",
        "host\n",
        "host example",
        "[::1",
        "[::1]:",
        "[::1]:0",
        "[zz::1]",
        "[]",
        "x" * 64 + ".example",
        ".".join(["x" * 60] * 5),
        "höst.example",
        "doc\u212aer.io",  # the Kelvin sign, whose lower case is an ASCII k
        "\uff44ocker.io",
    ],
)
def test_promise_19_what_is_no_registry_is_refused(text: str) -> None:
    """A scheme, a path, a user, a port outside the range, letters of another alphabet: none of them is a registry."""
    with pytest.raises(MalformedName):
        parse_registry(text)


def test_the_longest_registry() -> None:
    """255 characters, as names of hosts and repositories have them at most."""
    longest = ".".join(["x" * 63] * 4)
    assert len(longest) == MAX_NAME == 255
    assert parse_registry(longest) == longest
    with pytest.raises(MalformedName):
        parse_registry(longest[:-1] + ":1")


# -- tags -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("text", ["latest", "v1.0.0", "_", "A", "1", "a" * 128, "a..b", "sha256-" + "ab" * 32 + ".sig"])
def test_tags_are_kept_as_they_are(text: str) -> None:
    """Tags are case-sensitive and never changed."""
    assert parse_tag(text) == text


@pytest.mark.parametrize(
    "text",
    ["", ".", "..", ".a", "-a", "a" * 129, "a/b", "a:b", "a@b", "a b", "a\n", "a\x00", "a%2fb", "ä", "a\u0301", "\u0661", "a+b"],
)
def test_promise_19_what_is_no_tag_is_refused(text: str) -> None:
    """Dots and dashes do not begin a tag; separators, blanks, control characters and Unicode never stand in one."""
    with pytest.raises(MalformedName, match="is not a tag"):
        parse_tag(text)


# -- repositories ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("registry", "name", "canonical"),
    [
        ("docker.io", "nginx", "docker.io/library/nginx"),
        ("index.docker.io", "nginx", "docker.io/library/nginx"),
        ("docker.io", "library/nginx", "docker.io/library/nginx"),
        ("docker.io", "acme/app", "docker.io/acme/app"),
        ("GHCR.IO", "acme/app", "ghcr.io/acme/app"),
        ("ghcr.io", "nginx", "ghcr.io/nginx"),
        ("localhost:5000", "a/b/c/d", "localhost:5000/a/b/c/d"),
        ("r.example", "a.b_c__d-e---f/0", "r.example/a.b_c__d-e---f/0"),
    ],
)
def test_a_repository_is_spelled_one_way(registry: str, name: str, canonical: str) -> None:
    """``library/`` is added on Docker Hub alone, and only to single components."""
    built = Repository.of(registry, name)
    assert str(built) == canonical
    assert Repository.of(built.registry, built.name) == built
    assert repository(registry, name) == built


@pytest.mark.parametrize(
    "name",
    [
        "",
        "/",
        "/app",
        "app/",
        "a//b",
        ".",
        "..",
        "../app",
        "acme/../app",
        "acme/./app",
        "a..b",
        "a___b",
        "_a",
        "a_",
        "-a",
        "a-",
        ".a",
        "a.",
        "a._b",
        "App",
        "acme/App",
        "a b",
        "a:b",
        "a@b",
        "a%2fb",
        "a\\b",
        "a\x00",
        "a\n",
        "\u00e4pp",
        "\u0430pp",  # Cyrillic
        "\u0661",
        "a" * (MAX_NAME + 1),
        "a/" * (MAX_NAME // 2) + "aa",
    ],
)
def test_promise_19_what_is_no_repository_is_refused(name: str) -> None:
    """Dots that climb, encoded slashes, NUL, Unicode, upper case and over-length names have no repository."""
    with pytest.raises(MalformedName, match="is not a repository name"):
        Repository.of("r.example", name)


def test_what_is_said_of_a_name_fits_a_status_line() -> None:
    """Clients are shown these words in headers and reason phrases, which are ASCII."""
    for read, text in ((parse_tag, "-a"), (parse_registry, "a:99999"), (lambda text: Repository.of("r.example", text), "A")):
        with pytest.raises(MalformedName) as refused:
            read(text)
        assert str(refused.value).isascii()


def test_the_longest_name_counts_with_its_library() -> None:
    """The limit holds for the canonical spelling, so that what was accepted once is accepted again."""
    longest = "a" * (MAX_NAME - len("library/"))
    built = Repository.of(DOCKER_HUB, longest)
    assert len(built.name) == MAX_NAME
    assert Repository.of(DOCKER_HUB, built.name) == built
    assert Repository.of("r.example", "a" * MAX_NAME).name == "a" * MAX_NAME
    with pytest.raises(MalformedName):
        Repository.of(DOCKER_HUB, longest + "a")


def test_a_name_that_invites_backtracking_is_refused_at_once() -> None:
    """The pattern is linear: the worst names within the limit take no time to speak of."""
    for evil in ("a-" * 127, "a_" * 127, "a." * 127, "a/" * 127, "a" * 254 + "!"):
        with pytest.raises(MalformedName):
            Repository.of("r.example", evil)


# -- references -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("written", "canonical"),
    [
        ("nginx", "docker.io/library/nginx:latest"),
        ("nginx:1.27", "docker.io/library/nginx:1.27"),
        ("acme/app", "docker.io/acme/app:latest"),
        ("docker.io/nginx", "docker.io/library/nginx:latest"),
        ("ghcr.io/acme/app:v1", "ghcr.io/acme/app:v1"),
        ("localhost/app", "localhost/app:latest"),
        ("localhost:5000/app", "localhost:5000/app:latest"),
        ("localhost:5000/app:v1", "localhost:5000/app:v1"),
        ("localhost:5000", "docker.io/library/localhost:5000"),
        ("registry:5000/a/b:v1", "registry:5000/a/b:v1"),
        ("[::1]:5000/app:v1", "[::1]:5000/app:v1"),
        (f"nginx@{DIGEST}", f"docker.io/library/nginx@{DIGEST}"),
        (f"nginx:1.27@{DIGEST}", f"docker.io/library/nginx:1.27@{DIGEST}"),
    ],
)
def test_a_reference_reads_as_clients_read_it(written: str, canonical: str) -> None:
    """The first component is a registry with a dot, a colon or as ``localhost``; ``latest`` fills in only without a digest."""
    read = Reference.parse(written)
    assert str(read) == canonical
    assert Reference.parse(canonical) == read


def test_the_default_registry_is_the_callers() -> None:
    """A name without a registry belongs to the default, which gets no ``library/`` unless it is Docker Hub."""
    assert str(Reference.parse("nginx:1", "r.example")) == "r.example/nginx:1"
    assert str(Reference.parse("nginx:1", "index.docker.io")) == "docker.io/library/nginx:1"


@pytest.mark.parametrize(
    "text",
    [
        "",
        ":",
        "@",
        ":v1",
        f"@{DIGEST}",
        "app:",
        "app@",
        "app:v1:v2",
        "app@sha256:short",
        f"app@{DIGEST}@{DIGEST}",
        f"app:@{DIGEST}",
        f"app@{DIGEST}:v1",
        "ghcr.io/",
        "ghcr.io/:v1",
        "http://ghcr.io/acme/app",
        "App",
        "ghcr.io/acme/App",
        "-:5000/app",
        "a b",
    ],
)
def test_what_is_no_reference_is_refused(text: str) -> None:
    """Empty parts, doubled parts and schemes are refused."""
    with pytest.raises(MalformedName):
        Reference.parse(text)


# -- properties -----------------------------------------------------------------------------------------------------

_components = st.from_regex(r"\A[a-z0-9]{1,6}((\.|_|__|-{1,3})[a-z0-9]{1,4}){0,2}\Z")
_names = st.lists(_components, min_size=1, max_size=4).map("/".join)
_hosts = st.sampled_from(["docker.io", "ghcr.io", "localhost", "localhost:5000", "r.example:443", "[::1]:5000"])
_tags = st.from_regex(r"\A[a-zA-Z0-9_][a-zA-Z0-9._-]{0,20}\Z")


@given(_hosts, _names, _tags, st.booleans())
def test_references_survive_the_round_trip(host: str, name: str, tag: str, with_digest: bool) -> None:
    """What is written down can be read again, and means the same."""
    reference = Reference(Repository.of(host, name), tag, DIGEST if with_digest else None)
    assert Reference.parse(str(reference)) == reference


@given(st.text(max_size=80) | st.text("abzAZ019.:/@_-[]\x00\n%\u212a", max_size=40))
def test_any_text_is_a_reference_or_refused(text: str) -> None:
    """No text raises anything but MalformedName; what is accepted is plain ASCII that climbs nowhere, and is stable."""
    try:
        read = Reference.parse(text)
    except MalformedName:
        return
    written = str(read)
    assert Reference.parse(written) == read
    assert written.isascii()
    assert written.isprintable()
    assert not {"", ".", ".."} & set(str(read.repository).split("/"))
    assert set(read.repository.name) <= set(ascii_lowercase + digits + "._-/")
