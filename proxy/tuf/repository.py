"""A TUF repository that holds a trusted root, as the operator names it."""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import dataclass, field
from urllib.parse import urlsplit

#: Largest root metadata (python-tuf's own bound), and largest trusted root.
MAX_METADATA = 512_000
MAX_TARGET = 4 << 20
_TARGET = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}(?:/[A-Za-z0-9][A-Za-z0-9._-]{0,127}){0,7}", re.ASCII)
_URL = re.compile(r"https?://[!-~]{1,1000}", re.ASCII | re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class TufRepository:
    """Where it is, by which root metadata it is first believed, and which of its targets is wanted."""

    url: str  #: without a slash at its end
    root: bytes = field(repr=False)  #: ``root.json``
    root_version: int  #: the version that ``root`` says it has
    target: str
    embedded: bytes | None = field(default=None, repr=False)  #: a trusted root that counts until one is fetched
    #: Name of its folder below the data directory. An operator's other root metadata is another beginning, with another folder.
    folder: str = field(init=False)

    def __post_init__(self) -> None:
        beginning = b"" if self.embedded is not None else self.root
        key = b"\0".join((self.url.encode(), self.target.encode(), hashlib.sha256(beginning).digest()))
        host = re.sub(r"[^a-z0-9.-]", "_", (urlsplit(self.url).hostname or "").lower())[:80]
        object.__setattr__(self, "folder", f"{host}-{hashlib.sha256(key).hexdigest()[:16]}")

    @property
    def exposed(self) -> bool:
        """Whether it is asked over a network without encryption."""
        parts = urlsplit(self.url)
        return parts.scheme.lower() == "http" and parts.hostname not in {"localhost", "127.0.0.1", "::1"}

    @classmethod
    def of(cls, url: str, root: bytes, target: str, embedded: bytes | None = None) -> TufRepository:
        """Check what an operator wrote. Raises ValueError with words for them.

        ``root`` is only looked at: its signatures are checked when the repository is asked.
        """
        if not _TARGET.fullmatch(target):
            raise ValueError(f"`target` names no target of a TUF repository: {target[:100]!r}")
        return cls(check_url(url), root, _root_version(root), target, embedded)


def check_url(url: str) -> str:
    """The address without a slash at its end. Raises ValueError."""
    try:
        parts = urlsplit(url)
        parts.port  # noqa: B018  (asking for it is the check)
    except ValueError as error:
        raise ValueError(f"`tuf` is no address: {error}") from error
    if not _URL.fullmatch(url) or not parts.hostname or parts.query or parts.fragment or parts.username is not None:
        raise ValueError("`tuf` is the address of a TUF repository: https://host, https://host/path")
    return url.rstrip("/")


def _root_version(root: bytes) -> int:
    if len(root) > MAX_METADATA:
        raise ValueError(f"this is no TUF root metadata: it has more than {MAX_METADATA} bytes")
    try:
        document = json.loads(root)
    except (ValueError, RecursionError) as error:
        raise ValueError("this is no TUF root metadata: it is no JSON") from error
    signed = document.get("signed") if isinstance(document, dict) else None
    if not isinstance(signed, dict) or signed.get("_type") != "root":
        told = "; this is the trusted root itself, which goes under `file`" if _is_trusted_root(document) else ""
        raise ValueError(f'this is no TUF root metadata: it must be signed and of type "root"{told}')
    version = signed.get("version")
    if not isinstance(version, int) or isinstance(version, bool) or version < 1:
        raise ValueError("this TUF root metadata has no version")
    return version


def _is_trusted_root(document: object) -> bool:
    return isinstance(document, dict) and "trustedroot" in str(document.get("mediaType"))
