"""GPG simple signing of containers/image: what ``skopeo copy --sign-by`` and ``podman push --sign-by`` write.

A signature is an inline signed OpenPGP message around a JSON document that names the image. It is not kept in the registry,
but beside it, in a *lookaside*: a tree of files on some web server, or the signature API that few registries have. Here it
becomes a manifest with the signature as its one layer (:func:`wrap`), so that it is stored and judged like all other evidence.
The steps (containers/image, "atomic-signature" and "policy.json"):

1. The frame: one signature over one literal text, unpacked within bounds (:mod:`proxy.verify.packets`).
2. The signature holds, by one of the OpenPGP keys of the entry: a key that may sign, and that held at the time of signing, by the
   signer's own word (:mod:`proxy.verify.openpgp`).
3. It holds now, since nothing proves that time: neither certificate nor subkey has ended or was revoked, the signature has not
   ended, and the entry's own window holds.
4. The text is exactly ``critical`` and ``optional``, and ``critical`` is exactly ``type``, ``image`` and ``identity``, each
   of exactly what belongs there. ``optional`` says nothing.
5. ``critical.type`` is ``atomic container signature``.
6. ``critical.image.docker-manifest-digest`` is the image's digest.
7. ``critical.identity.docker-reference`` names the image's repository. This is demanded of every signature: containers/image
   always did, so signers rely on it. Tag or digest behind the name are not compared: what a tag means is what its pin says.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import TYPE_CHECKING

from proxy.content import FetchedManifest
from proxy.errors import EvidenceMalformed
from proxy.manifest import Bounds, Entry, Manifest, parse
from proxy.policy.rules import OpenPgp, Question, SignatureBy
from proxy.policy.verdicts import Evidence
from proxy.settings import Limits
from proxy.verify.model import Document, Found, Subject, Trusted
from proxy.verify.parsing import member, read_object, shown, text, utc
from proxy.verify.shapes import OPENPGP
from proxy.verify.trust import outside_window
from storage.digest import Digest
from storage.errors import MalformedName
from storage.records import Descriptor
from storage.reference import Reference

if TYPE_CHECKING:
    from proxy.verify.openpgp import Opened, OpenPgpKey

TYPE = "atomic container signature"
_MANIFEST = "application/vnd.oci.image.manifest.v1+json"
_EMPTY = b"{}"


def wrap(signature: bytes, bounds: Bounds) -> Document:
    """A signature as a document of its own: a manifest around it, the same for the same signature wherever it was found.

    The manifest names no subject: which image it is about the signature itself says, and the catalog. So no list that a client
    asks for holds it.
    """
    layer = Descriptor(OPENPGP, Digest.of(signature), len(signature))
    empty = Descriptor("application/vnd.oci.empty.v1+json", Digest.of(_EMPTY), len(_EMPTY))
    manifest = {
        "schemaVersion": 2,
        "mediaType": _MANIFEST,
        "artifactType": OPENPGP,
        "config": _named(empty),
        "layers": [_named(layer)],
    }
    body = json.dumps(manifest, separators=(",", ":")).encode()
    parsed = parse(body, _MANIFEST, bounds)
    return Document(Found.LOOKASIDE, FetchedManifest(body, Digest.of(body), _MANIFEST), parsed, ((layer, {}, signature),))


def is_wrapped(manifest: Manifest) -> bool:
    """Whether a manifest is one that :func:`wrap` made."""
    return manifest.artifact_type == OPENPGP and [layer.descriptor.media_type for layer in manifest.layers] == [OPENPGP]


def _named(descriptor: Descriptor) -> Mapping[str, object]:
    return {"mediaType": descriptor.media_type, "digest": str(descriptor.digest), "size": descriptor.size}


class SimpleSignatures:
    """Judges GPG simple signing."""

    name = "OpenPGP signature"

    def __init__(self, limits: Limits) -> None:
        self._limits = limits

    def wants(self, manifest: Manifest, layer: Entry, questions: Sequence[Question]) -> int | None:
        """Nothing: what the registry itself lists is no lookaside."""
        del manifest, layer, questions
        return None

    def judges(self, document: Document) -> bool:
        """Whether the document is a signature from a lookaside."""
        return is_wrapped(document.parsed)

    def judge(
        self, document: Document, subject: Subject, questions: Sequence[Question], trusted: Trusted, now: datetime
    ) -> tuple[Evidence, ...]:
        """Judge the signature for each OpenPGP key that is asked about."""
        source = document.source(subject.digest)
        return tuple(
            piece for _, _, body in document.layers for piece in self.judge_bytes(source, body, subject, questions, trusted, now)
        )

    def judge_bytes(
        self, source: str, body: bytes, subject: Subject, questions: Sequence[Question], trusted: Trusted, now: datetime
    ) -> tuple[Evidence, ...]:
        """The same for a signature that came without a manifest. Never raises for what it contains."""
        return tuple(
            self._judge(source, body, subject, question, trusted.openpgp[question.by.name], now)
            for question in questions
            if isinstance(question, SignatureBy) and isinstance(question.by, OpenPgp) and question.by.name in trusted.openpgp
        )

    def _judge(
        self, source: str, body: bytes, subject: Subject, question: SignatureBy, key: OpenPgpKey, now: datetime
    ) -> Evidence:
        steps: list[str] = []
        authority: str | None = None
        try:
            if len(body) > self._limits.signature_size:
                raise EvidenceMalformed(f"has {len(body)} bytes; the limit for a signature is {self._limits.signature_size}")
            opened = key.open(body, self._limits.signature_size)  # steps 1 and 2
            authority = opened.by.fingerprint
            made = "at an unknown time" if opened.created is None else f"on {utc(opened.created)} by its own word"
            steps.append(f"the signature holds by OpenPGP key {opened.signing_key} of {opened.by.user}, made {made}")
            if (why := _why_not_now(opened, key, now)) is not None:
                raise EvidenceMalformed(f"made by key {key.name}, but {why}")
            ends = (opened.by.until(opened.signing_key), opened.expires, key.valid_until)
            until = min((end for end in ends if end is not None), default=None)
            steps.append("the key holds now as well" if until is None else f"the key holds now, until {utc(until)}")
            try:
                self._check_text(opened.payload, subject, steps)
            except EvidenceMalformed as error:
                raise EvidenceMalformed(f"made by key {key.name}, but it {error}") from error
        except EvidenceMalformed as error:
            return Evidence(self.name, source, question, authority, accepted=False, reason=str(error), steps=tuple(steps))
        reason = f"signature by key {key.name} ({opened.by.user}) over {subject.digest}"
        return Evidence(self.name, source, question, authority, True, reason, until, tuple(steps), opened.by.user)

    def _check_text(self, payload: bytes, subject: Subject, steps: list[str]) -> None:
        """Steps 4 to 7."""
        document = read_object(payload, self._limits.json_depth, "a text", most=None)
        _exactly(document, {"critical", "optional"}, "its text")
        critical = member(document, "critical", "its text")
        member(document, "optional", "its text")
        _exactly(critical, {"type", "image", "identity"}, "its critical part")
        kind = text(critical, "type", "its critical part")
        if kind != TYPE:
            raise EvidenceMalformed(f"is of type {shown(kind)!r}, not {TYPE!r}")
        image = member(critical, "image", "its critical part")
        _exactly(image, {"docker-manifest-digest"}, "what it says of the image")
        digest = text(image, "docker-manifest-digest", "what it says of the image")
        if digest != str(subject.digest):
            raise EvidenceMalformed(f"is about another image: {shown(digest)}")
        steps.append(f"it is about {subject.digest}")
        identity = member(critical, "identity", "its critical part")
        _exactly(identity, {"docker-reference"}, "the identity that it gives")
        reference = text(identity, "docker-reference", "the identity that it gives")
        try:
            named = Reference.parse(reference).repository
        except MalformedName as error:
            raise EvidenceMalformed(f"names no repository: {shown(reference)}") from error
        if named != subject.repository:
            raise EvidenceMalformed(f"names another repository: {shown(reference)}, not {subject.repository}")
        steps.append(f"it names the repository: {shown(reference)}")


def _why_not_now(opened: Opened, key: OpenPgpKey, now: datetime) -> str | None:
    """Step 3: why a signature that held at its own time does not count now; None when it does."""
    by, named = opened.by, f"OpenPGP key {opened.signing_key} of {opened.by.user}"
    if by.revoked or opened.signing_key in by.withdrawn:
        return f"{named} was revoked"
    for what, end in ((named, by.until(opened.signing_key)), ("it", opened.expires)):
        if end is not None and now >= end:
            return f"{what} expired on {utc(end)}"
    return outside_window(key, now)


def _exactly(node: Mapping[str, object], keys: set[str], what: str) -> None:
    """Whoever writes more into it means something by it that nobody here would heed."""
    if unknown := sorted(set(node) - keys):
        raise EvidenceMalformed(f"holds something unknown in {what}: {shown(unknown[0])}")
    if missing := sorted(keys - set(node)):
        raise EvidenceMalformed(f"has no {missing[0]!r} in {what}")
