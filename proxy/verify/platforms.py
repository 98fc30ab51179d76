"""What an index lists, read so that each of it can be judged by itself.

Every manifest in the index counts as a platform, whatever the index says of it: a client may pull it by its digest. Only what is
nothing but evidence (as BuildKit puts beside its images) is no platform, and it must be that in its bytes as well.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from proxy.content import FetchedManifest
from proxy.errors import ManifestRefused
from proxy.manifest import Entry, Manifest
from proxy.settings import Limits
from proxy.verify.asking import Effort, Trouble, all_of, ask
from proxy.verify.model import Fetcher, Listed, Subject
from proxy.verify.parsing import shown
from proxy.verify.shapes import has_image_config, is_evidence, is_text
from storage.records import Descriptor


def name_of(entry: Entry) -> str:
    """What people call an entry of an index: ``linux/arm64 (sha256:0123456789ab…)``."""
    digest = entry.descriptor.digest.short
    return f"{entry.platform} ({digest})" if entry.platform else digest


def entries_of(subject: Subject) -> tuple[Entry, ...]:
    """What an index lists, each digest once."""
    return tuple({entry.descriptor.digest: entry for entry in reversed(subject.listed or ())}.values())[::-1]


def is_platform(listed: Listed) -> bool:
    """Whether this is judged by itself: all but evidence."""
    return not is_evidence(listed.parsed)


async def read_listed(fetcher: Fetcher, subject: Subject, entry: Entry, limits: Limits, effort: Effort) -> Listed | Trouble:
    """Fetch a manifest that an index lists, and see that it is what the index says.

    ``limits.evidence_total`` bounds its texts. Raises what ``fetcher`` raises beyond :class:`proxy.errors.UpstreamError`.
    """
    digest, name = entry.descriptor.digest, f"platform {name_of(entry)}"
    until = asyncio.get_running_loop().time() + limits.evidence_timeout
    fetched = await ask(name, lambda: fetcher.manifest(subject.repository, digest), until, effort.slots)
    if isinstance(fetched, Trouble):
        return fetched
    if fetched is None:
        return Trouble(name, "is listed by the index, but is not there")
    try:
        manifest = await _read(fetched, entry, limits, effort)
    except ManifestRefused as error:
        return Trouble(name, f"is refused: {shown(str(error))}")
    if not is_evidence(manifest):
        return Listed(fetched, manifest)
    texts = await _texts(fetcher, subject, manifest, name, limits, until, effort)
    return texts if isinstance(texts, Trouble) else Listed(fetched, manifest, texts)


async def _read(fetched: FetchedManifest, entry: Entry, limits: Limits, effort: Effort) -> Manifest:
    promised = entry.descriptor
    if fetched.digest != promised.digest:
        raise ManifestRefused(f"the upstream sent {fetched.digest} for it")
    if len(fetched.body) != promised.size:
        raise ManifestRefused(f"it has {len(fetched.body)} bytes, the index says {promised.size}")
    manifest = await effort.reader.read(fetched, limits.bounds())
    if manifest.media_type != promised.media_type:
        raise ManifestRefused(f"it is {manifest.media_type}, the index says {promised.media_type}")
    if manifest.is_index:
        raise ManifestRefused("it is an index in an index, whose platforms are not judged one by one; use `on: index`")
    return manifest


async def _texts(
    fetcher: Fetcher, subject: Subject, manifest: Manifest, name: str, limits: Limits, until: float, effort: Effort
) -> tuple[tuple[Descriptor, bytes], ...] | Trouble:
    """The layers of a listed evidence manifest, where some client might unpack them: all of them must be text."""
    layers: Sequence[Descriptor] = list(dict.fromkeys(layer.descriptor for layer in manifest.layers))
    if any(layer.size > limits.attestation_size for layer in layers):
        return Trouble(name, f"has a text of more than {limits.attestation_size} bytes (limits.attestation_size)")
    if not has_image_config(manifest):
        return ()
    if sum(layer.size for layer in layers) > limits.evidence_total:
        return Trouble(name, f"is beyond the {limits.evidence_total} bytes that one platform has of limits.evidence_total")

    async def text(layer: Descriptor) -> tuple[Descriptor, bytes] | Trouble:
        body = await ask(name, lambda: fetcher.blob(subject.repository, layer, layer.size), until, effort.slots)
        if isinstance(body, Trouble):
            return body
        if body is None:
            return Trouble(name, f"is incomplete: it lacks its layer {layer.digest}")
        if not await asyncio.to_thread(is_text, body):
            return Trouble(name, f"calls itself evidence, but its layer {layer.digest} is not text")
        return layer, body

    read = await all_of([text(layer) for layer in layers])
    trouble = next((each for each in read if isinstance(each, Trouble)), None)
    return trouble or tuple(each for each in read if not isinstance(each, Trouble))
