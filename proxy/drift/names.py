"""Paths as bytes, as Linux has them, and how they are shown.

A path here is relative to the root, without a leading slash, ``.``, ``..`` or empty components; the root itself is ``b""``.
"""

from __future__ import annotations

import re

from proxy.errors import LayerRefused

#: Linux' own limits (PATH_MAX, NAME_MAX), and how deep a tree may be.
MAX_PATH = 4096
MAX_NAME = 255
MAX_DEPTH = 256

_ODD = re.compile(r"[\x00-\x1f\x7f-\xa0\xad\u061c\u200b-\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff\ufeff\\]")


def clean(raw: bytes) -> bytes:
    """The path that an archive's name means, read lexically. Raises :class:`LayerRefused` where it leaves the root."""
    if b"\0" in raw:
        raise LayerRefused("a name holds a NUL byte")
    parts: list[bytes] = []
    for part in raw.split(b"/"):
        if part in {b"", b"."}:
            continue
        if part == b"..":
            if not parts:
                raise LayerRefused(f"{shown(raw[:200])} leaves the root")
            parts.pop()
            continue
        if len(part) > MAX_NAME:
            raise LayerRefused(f"a name of {len(part)} bytes, {shown(part[:60])}...; file systems allow {MAX_NAME}")
        parts.append(part)
    if len(parts) > MAX_DEPTH:
        raise LayerRefused(f"{shown(raw[:200])}... is {len(parts)} folders deep; the limit is {MAX_DEPTH}")
    path = b"/".join(parts)
    if len(path) > MAX_PATH:
        raise LayerRefused(f"a path of {len(path)} bytes, {shown(path[:60])}...; the limit is {MAX_PATH}")
    return path


def shown(raw: bytes) -> str:
    """Text for people, scripts and terminals, from which the bytes can be had again.

    UTF-8 as it is, but control characters, what turns the direction of writing, the backslash and bytes that are no UTF-8 as
    ``\\xNN``, byte by byte.
    """
    return _ODD.sub(_escaped, raw.decode("utf-8", "surrogateescape"))


def _escaped(found: re.Match[str]) -> str:
    return "".join(f"\\x{byte:02x}" for byte in found.group().encode("utf-8", "surrogateescape"))


def absolute(path: bytes) -> str:
    """A path as it is shown: from the root of the container."""
    return "/" + shown(path)
