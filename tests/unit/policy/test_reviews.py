"""What names of images in workloads mean, and what is written in their place."""

from __future__ import annotations

import pytest

from proxy.errors import MalformedRequest
from proxy.policy.reviews import Mutation, ReviewPolicy, meaning, renamed
from proxy.routing import Router
from storage.digest import Digest
from storage.errors import MalformedName

D = Digest.of(b"decided")
OTHER = Digest.of(b"other")
ROUTER = Router(
    frozenset({"docker.io", "ghcr.io", "quay.io", "corp.example:5443"}), {"hub.mirror.example": "docker.io"}, "ghcr.io"
)
HERE = ReviewPolicy(mirror="mirror.example:5000")


@pytest.mark.parametrize(
    ("text", "means"),
    [
        ("nginx", "docker.io/library/nginx:latest"),
        ("nginx:1.27", "docker.io/library/nginx:1.27"),
        ("team/app", "docker.io/team/app:latest"),
        ("index.docker.io/nginx", "docker.io/library/nginx:latest"),
        ("ghcr.io/acme/app:v1", "ghcr.io/acme/app:v1"),
        ("GHCR.io/acme/app:v1", "ghcr.io/acme/app:v1"),
        (f"ghcr.io/acme/app@{D}", f"ghcr.io/acme/app@{D}"),
        (f"ghcr.io/acme/app:v1@{D}", f"ghcr.io/acme/app:v1@{D}"),
        ("corp.example:5443/app:1", "corp.example:5443/app:1"),
        ("mirror.example:5000/docker.io/library/nginx:1", "docker.io/library/nginx:1"),
        ("mirror.example:5000/docker.io/nginx", "docker.io/library/nginx:latest"),
        ("mirror.example:5000/acme/app:1", "ghcr.io/acme/app:1"),
        (f"MIRROR.example:5000/ghcr.io/acme/app@{D}", f"ghcr.io/acme/app@{D}"),
        ("hub.mirror.example/team/app:1", "docker.io/team/app:1"),
        ("hub.mirror.example:5000/nginx", "docker.io/library/nginx:latest"),
        # No registry's own repositories are taken for another's.
        ("quay.io/docker.io/app:1", "quay.io/docker.io/app:1"),
        ("quay.io/quay.io/app:1", "quay.io/quay.io/app:1"),
    ],
)
def test_names_mean_what_they_mean_to_a_node(text: str, means: str) -> None:
    """As containerd reads them; below the proxy's own names, as a pull through it would."""
    assert str(meaning(text, HERE, ROUTER).reference) == means


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "it names no image"),
        ("0" * 64, "an image ID"),
        (f"sha256:{'0' * 64}", "an image ID"),
        (" nginx", "is not a repository name"),
        ("nginx ", "is not a repository name"),
        ("Nginx", "is not a repository name"),
        ("nginx:", "is not a tag"),
        ("nginx@sha256:1", "is not a digest"),
        ("nginx@", "is not a digest"),
        ("https://ghcr.io/acme/app", "is not a"),
        ("ghcr.io", "registry"),
        ("nginx\n", "is not a"),
        ("ghcr.io/acme/app:v1@sha256:" + "A" * 64, "is not a digest"),
    ],
)
def test_what_is_no_name(text: str, words: str) -> None:
    """It is refused with words, never guessed at."""
    if text == "ghcr.io":  # a repository of Docker Hub that is called so: every client reads it like that
        assert str(meaning(text, HERE, ROUTER).reference) == "docker.io/library/ghcr.io:latest"
        return
    with pytest.raises(MalformedName, match=words):
        meaning(text, HERE, ROUTER)


@pytest.mark.parametrize(
    "text",
    [
        "gcr.io/app:1",
        "localhost:5000/app",
        "mirror.example/docker.io/nginx",
        "mirror.example:5000/gcr.io/app",
        "corp.example/app",
    ],
)
def test_registries_that_are_not_configured(text: str) -> None:
    """They are refused with the way out."""
    with pytest.raises(MalformedRequest, match="is not configured here; an operator can add it under upstreams"):
        meaning(text, HERE, ROUTER)


@pytest.mark.parametrize(
    ("text", "digest", "mirror"),
    [
        ("nginx:1", f"docker.io/library/nginx@{D}", f"mirror.example:5000/docker.io/library/nginx@{D}"),
        ("ghcr.io/acme/app", f"ghcr.io/acme/app@{D}", f"mirror.example:5000/ghcr.io/acme/app@{D}"),
        (f"nginx@{D}", f"nginx@{D}", f"mirror.example:5000/docker.io/library/nginx@{D}"),
        (f"ghcr.io/acme/app:v1@{D}", f"ghcr.io/acme/app:v1@{D}", f"mirror.example:5000/ghcr.io/acme/app@{D}"),
        (
            "mirror.example:5000/ghcr.io/acme/app:v1",
            f"mirror.example:5000/ghcr.io/acme/app@{D}",
            f"mirror.example:5000/ghcr.io/acme/app@{D}",
        ),
        (
            "mirror.example:5000/acme/app:v1",
            f"mirror.example:5000/acme/app@{D}",
            f"mirror.example:5000/ghcr.io/acme/app@{D}",
        ),
        ("hub.mirror.example/nginx:1", f"hub.mirror.example/nginx@{D}", f"mirror.example:5000/docker.io/library/nginx@{D}"),
        ("corp.example:5443/app:1", f"corp.example:5443/app@{D}", f"corp.example:5443/app@{D}"),
    ],
)
def test_names_that_are_written_instead(text: str, digest: str, mirror: str) -> None:
    """They mean the same repository, and the digest that was decided; reading them again changes nothing more."""
    for mutation, expected in ((Mutation.NONE, text), (Mutation.DIGEST, digest), (Mutation.MIRROR, mirror)):
        policy = ReviewPolicy(mutation, "mirror.example:5000")
        before = meaning(text, policy, ROUTER)
        assert renamed(before, D, policy) == expected
        after = meaning(expected, policy, ROUTER)
        assert after.reference.repository == before.reference.repository
        if mutation is not Mutation.NONE:
            assert after.reference.digest == D
            assert renamed(after, D, policy) == expected
