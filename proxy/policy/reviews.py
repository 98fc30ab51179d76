"""How Kubernetes' reviews are answered: what an image's name means, and what is written in its place. Pure.

A name is read as Kubernetes and containerd read it: without a registry it is one of docker.io, whatever ``default_registry``
says; with tag and digest, the digest alone counts. Below the mirror's own name, or one of ``hosts``, it means what a pull through
this proxy would mean.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import StrEnum

from proxy.errors import MalformedRequest
from proxy.policy.access import AccessRule
from proxy.routing import Router
from storage.digest import Digest
from storage.errors import MalformedName
from storage.reference import Reference

#: A node would run what it has under this ID, wherever that came from.
_IDENTIFIER = re.compile(r"(?:sha256:)?[0-9a-f]{64}", re.ASCII)


class Mutation(StrEnum):
    """What is written in place of an image's name."""

    NONE = "none"
    DIGEST = "digest"  #: the repository, with the digest that was decided
    MIRROR = "mirror"  #: the same, below the mirror's name


@dataclass(frozen=True, slots=True)
class ReviewPolicy:
    """What ``admission`` says. ``mirror`` is canonical; ``tags`` False: only digests pass the validating webhook."""

    mutation: Mutation = Mutation.DIGEST
    mirror: str | None = None
    tags: bool = True
    images: int = 64
    askers: AccessRule | None = None  #: who may ask about images that they may not pull


@dataclass(frozen=True, slots=True)
class Meaning:
    """What a name means: ``reference`` is what is judged, ``written`` what stands there; they differ below the mirror's name."""

    text: str
    written: Reference
    reference: Reference

    @property
    def by_tag(self) -> bool:
        """Whether another image may stand behind the same name tomorrow."""
        return self.reference.digest is None


def meaning(text: str, policy: ReviewPolicy, router: Router) -> Meaning:
    """Read the name of an image in a workload.

    Raises :class:`MalformedName` for what is none, :class:`MalformedRequest` for a registry that is not configured.
    """
    if not text:
        raise MalformedName("it names no image")
    if _IDENTIFIER.fullmatch(text):
        raise MalformedName("an image ID says what a node happens to have, not where it came from: name its repository")
    written = Reference.parse(text)
    registry, name = written.repository.registry, written.repository.name
    if registry == policy.mirror or (registry not in router.upstreams and router.stands_for(registry) is not None):
        behind = router.route(name, None, registry)
        return Meaning(text, written, Reference(behind, written.tag, written.digest))
    if registry not in router.upstreams:
        told = f"the registry {registry} is not configured here; an operator can add it under upstreams"
        raise MalformedRequest(403, "DENIED", told)
    return Meaning(text, written, written)


def renamed(found: Meaning, digest: Digest, policy: ReviewPolicy) -> str:
    """The name that always means ``digest``, as ``policy.mutation`` wants it; the same text where nothing is to be changed."""
    if policy.mutation is Mutation.NONE:
        return found.text
    repository = found.reference.repository
    # Below another name there is no place for a port: registries that have one keep their name.
    if policy.mutation is Mutation.MIRROR and policy.mirror is not None and ":" not in repository.registry:
        return f"{policy.mirror}/{repository}@{digest}"
    return f"{found.written.repository}@{digest}" if found.by_tag else found.text
