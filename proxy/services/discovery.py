"""Discovery: what speaks about an image (its signatures, attestations, referrers) is let through where the image is admitted.

Part of the gate: :class:`proxy.services.gate.Gate` is the only one who asks here.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, replace

from proxy.content import ListedReferrer
from proxy.errors import ManifestRefused, UpstreamError, UpstreamUnavailable
from proxy.manifest import OCI_INDEX
from proxy.policy.decision import Answer, decide_digest
from proxy.policy.rules import Rule
from proxy.services.admission import Admission
from proxy.services.answers import Refused, ServedManifest, ServedReferrers, Thing
from proxy.services.revision import Revision
from proxy.upstream.client import Upstreams
from storage.digest import Digest
from storage.records import Descriptor
from storage.reference import Repository


@dataclass(frozen=True, slots=True)
class Ask:
    """One pull under one revision of the policy. ``background``: a check, for which nobody waits."""

    revision: Revision
    rule: Rule
    repository: Repository
    background: bool = False


class Discovery:
    """Answers for signature tags, the referrers tag and the referrers API."""

    def __init__(self, admission: Admission, upstreams: Upstreams) -> None:
        self._admission = admission
        self._upstreams = upstreams

    async def evidence(self, ask: Ask, tag: str, subject: Digest) -> ServedManifest | Refused:
        """A signature tag or the referrers tag: let through by shape, where the image it speaks of is admitted."""
        repository = ask.repository
        name = f"{repository}:{tag}"
        if (refusal := await self._subject_refusal(ask, subject, name)) is not None:
            return refusal
        warning = None
        try:
            fetched = await self._upstreams.manifest(repository, tag)
        except UpstreamUnavailable as error:
            stored = await self._admission.holdings.stored.newest(repository, tag)
            if stored is None:
                return Refused.by_upstream(name, error, Thing.MANIFEST)
            fetched, warning = stored, f"the upstream could not be asked about {name}; the stored evidence is served"
        except UpstreamError as error:
            return Refused.by_upstream(name, error, Thing.MANIFEST)
        if (block := await self._admission.block_on(repository, fetched.digest)) is not None:
            return Refused(Answer.DENY, (f"{name} is refused", block))
        if fetched.digest == subject:
            # Some registries resolve the referrers tag to the image itself: that is no list of referrers.
            return Refused(Answer.ABSENT, (f"{name} does not exist upstream",))
        try:
            manifest = await self._admission.holdings.parse(fetched)
        except ManifestRefused as error:
            return Refused(Answer.DENY, (f"{name} is refused", str(error)))
        is_list = manifest.is_index and "." not in tag
        if not is_list and not self._admission.holdings.fits_evidence(manifest):
            return Refused(
                Answer.DENY, (f"{name} has the name of a signature but is not one: it is refused like any other image",)
            )
        try:
            await self._admission.holdings.record_evidence(repository, subject, fetched, manifest)
        except ManifestRefused as error:
            return Refused(Answer.DENY, (f"{name} is refused like any other image", str(error)))
        except UpstreamError as error:
            return Refused.by_upstream(name, error, Thing.MANIFEST)
        return ServedManifest(Descriptor(manifest.media_type, fetched.digest, len(fetched.body)), fetched.body, warning)

    async def referrers(self, ask: Ask, subject: Digest, artifact_type: str | None) -> ServedReferrers | Refused:
        """The referrers of an admitted manifest, as an image index (OCI distribution specification 1.1, end-12)."""
        repository = ask.repository
        if (refusal := await self._subject_refusal(ask, subject, f"{repository}@{subject}")) is not None:
            return refusal
        name = f"the referrers of {repository}@{subject}"
        warning = None
        try:
            found = await self._upstreams.referrers(repository, subject)
        except UpstreamUnavailable as error:
            found = await self._admission.holdings.stored.referrers(repository, subject)
            if not found.entries:
                return Refused.by_upstream(name, error, Thing.NAME)
            warning = f"the upstream could not be asked for the referrers of {subject.short}; the stored ones are listed"
        except UpstreamError as error:
            return Refused.by_upstream(name, error, Thing.NAME)
        if not found.complete:
            warning = "the upstream lists more referrers than limits.referrers allows; the list is cut"
        entries = [entry for entry in found.entries if artifact_type is None or entry.artifact_type == artifact_type]
        body = json.dumps(
            {"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": [_listed(entry) for entry in entries]}, indent=2
        ).encode()
        return ServedReferrers(body, artifact_type is not None, warning)

    async def _subject_refusal(self, ask: Ask, subject: Digest, name: str) -> Refused | None:
        """Why nothing about ``subject`` is handed out; None when it is admitted."""
        try:
            verdict = await self._admission.of_digest(ask.revision, ask.rule, ask.repository, subject)
        except UpstreamUnavailable as error:
            return Refused.by_upstream(name, error, Thing.MANIFEST)
        except UpstreamError as error:
            return Refused(Answer.DENY, (f"{name} speaks about {subject}, which is not admitted here", str(error)))
        if verdict.accepted:
            return None
        decision = decide_digest(ask.repository, subject, ask.rule, verdict)
        return Refused.of(replace(decision, reasons=(f"{name} speaks about what is not admitted", *decision.reasons)))


def _listed(entry: ListedReferrer) -> dict[str, object]:
    listed: dict[str, object] = {
        "mediaType": entry.descriptor.media_type,
        "digest": str(entry.descriptor.digest),
        "size": entry.descriptor.size,
    }
    if entry.artifact_type is not None:
        listed["artifactType"] = entry.artifact_type
    if entry.annotations:
        listed["annotations"] = dict(entry.annotations)
    return listed
