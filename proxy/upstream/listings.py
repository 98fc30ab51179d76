"""Reading lists: pages of tags, indexes of referrers, the ``Link`` to the next page. Pure functions over bytes.

Hints from the upstream are never trusted further than their shape: malformed tags and entries are left out, since nothing can be
fetched by them.
"""

from __future__ import annotations

import base64
import binascii
import json
import re
from typing import Any

from proxy.content import ListedReferrer
from proxy.manifest import MOST_VALUES, values_in
from storage.digest import Digest
from storage.errors import MalformedName
from storage.records import Descriptor
from storage.reference import parse_tag

OCI_INDEX = "application/vnd.oci.image.index.v1+json"
#: Nothing in here ever gives back what it took: with white space between two parts that both take it, a header of a few hundred
#: bytes would otherwise be tried in more ways than there is time for.
_LINK = re.compile(r"<([^<>]*+)>((?:\s*+;\s*+[^\s=;,<>]++\s*+(?:=\s*+(?:\"[^\"]*+\"|[^\s;,\"]*+))?+)*+)\s*+(?:,|$)")
_REL_NEXT = re.compile(r";\s*rel\s*=\s*(?:\"(?:[^\"]*\s)?next(?:\s[^\"]*)?\"|next\b)", re.IGNORECASE)
#: Length of algorithm and hex in a referrers tag (OCI distribution specification 1.1, "Referrers Tag Schema").
_TAG_ALGORITHM, _TAG_HEX = 32, 64
#: Sizes are 64 bits wide for every other reader.
_MAX_SIZE = 2**63 - 1


class NotAList(ValueError):
    """The body is not the list that it should be."""


def next_page(values: list[str]) -> str | None:
    """The target of the Link with ``rel="next"`` (RFC 8288), verbatim; None when there is none."""
    for value in values:
        for found in _LINK.finditer(value):
            if _REL_NEXT.search(found[2]):
                return found[1]
    return None


def read_tags(body: bytes) -> list[str]:
    """The tags on a page that follow the grammar; ``null`` is an empty list. Raises :class:`NotAList`."""
    tags = _object(body, texts=True).get("tags")
    if tags is None:
        return []
    if not isinstance(tags, list):
        raise NotAList("`tags` is not a list")
    return [tag for tag in tags if isinstance(tag, str) and _is_tag(tag)]


def _is_tag(text: str) -> bool:
    try:
        parse_tag(text)
    except MalformedName:
        return False
    return True


def read_signatures(body: bytes, most: int) -> list[bytes]:
    """The OpenPGP signatures in an answer of a registry's signature API, at most ``most``. Raises :class:`NotAList`.

    As containers/image reads it: other versions and types are left out, and what is of the right one must be whole.
    """
    entries = _object(body).get("signatures")
    if entries is None:
        return []
    if not isinstance(entries, list):
        raise NotAList("`signatures` is not a list")
    found: list[bytes] = []
    for entry in entries:
        if not isinstance(entry, dict) or entry.get("schemaVersion") != 2 or entry.get("type") != "atomic":
            continue
        content = entry.get("content")
        try:
            found.append(base64.b64decode(content if isinstance(content, str) else "?", validate=True))
        except (binascii.Error, ValueError):
            raise NotAList("a signature in it is not base64") from None
        if len(found) == most:
            break
    return found


def read_referrers(body: bytes, subject: Digest, most: int) -> list[ListedReferrer]:
    """The well-formed entries of an index, ``subject`` itself left out, at most ``most``. Raises :class:`NotAList`."""
    document = _object(body)
    entries = document.get("manifests")
    if entries is None:
        entries = []
    if not isinstance(entries, list) or document.get("mediaType", OCI_INDEX) != OCI_INDEX:
        raise NotAList("it is not an OCI image index")
    found: list[ListedReferrer] = []
    for entry in entries:
        if len(found) >= most:
            break
        referrer = _referrer(entry) if isinstance(entry, dict) else None
        if referrer is not None and referrer.descriptor.digest != subject:
            found.append(referrer)
    return found


def _referrer(entry: dict[str, Any]) -> ListedReferrer | None:
    media_type, digest, size = entry.get("mediaType"), entry.get("digest"), entry.get("size")
    if not isinstance(media_type, str) or not isinstance(digest, str) or not isinstance(size, int):
        return None
    if isinstance(size, bool) or not 0 <= size <= _MAX_SIZE:
        return None
    try:
        descriptor = Descriptor(media_type, Digest.parse(digest), size)
    except MalformedName:
        return None
    kind, notes = entry.get("artifactType"), entry.get("annotations")
    annotations = notes.items() if isinstance(notes, dict) else ()
    referrer = ListedReferrer(
        descriptor,
        kind if isinstance(kind, str) else None,
        tuple((key, value) for key, value in annotations if isinstance(value, str)),
    )
    said = (media_type, referrer.artifact_type or "", *(text for pair in referrer.annotations for text in pair))
    return referrer if _is_unicode("".join(said)) else None


def _is_unicode(text: str) -> bool:
    """Whether UTF-8 can carry it: JSON can spell half a surrogate pair."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def referrers_tag(subject: Digest) -> str:
    """The tag under which registries without the referrers API keep the list."""
    return f"{subject.algorithm[:_TAG_ALGORITHM]}-{subject.hex[:_TAG_HEX]}"


def _object(body: bytes, *, texts: bool = False) -> dict[str, Any]:
    """Read a list whose length in bytes is bounded. ``texts``: as many texts as fit may be in it, but not as many of the rest."""
    count = body.count(b"[") + body.count(b"{") if texts else values_in(body)
    if count > MOST_VALUES:
        raise NotAList(f"it holds more than {MOST_VALUES} values")
    try:
        document = json.loads(body)
    except (ValueError, RecursionError):
        raise NotAList("it is not JSON") from None
    if not isinstance(document, dict):
        raise NotAList("it is not a JSON object")
    return document
