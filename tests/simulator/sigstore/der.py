"""DER by hand (ITU-T X.690), as little of it as a timestamp authority and odd certificates need."""

from __future__ import annotations

from datetime import UTC, datetime


def tlv(tag: int, *parts: bytes) -> bytes:
    """Tag, length, value; ``tag`` is the whole identifier octet."""
    value = b"".join(parts)
    size = len(value)
    if size < 0x80:
        return bytes([tag, size]) + value
    length = size.to_bytes((size.bit_length() + 7) // 8, "big")
    return bytes([tag, 0x80 | len(length)]) + length + value


def sequence(*parts: bytes) -> bytes:
    """SEQUENCE."""
    return tlv(0x30, *parts)


def set_of(*parts: bytes) -> bytes:
    """SET OF, in DER's order."""
    return tlv(0x31, *sorted(parts))


def integer(number: int) -> bytes:
    """INTEGER, not negative."""
    return tlv(0x02, number.to_bytes(number.bit_length() // 8 + 1, "big"))


def octets(data: bytes) -> bytes:
    """OCTET STRING."""
    return tlv(0x04, data)


def utf8(text: str) -> bytes:
    """UTF8String."""
    return tlv(0x0C, text.encode())


def oid(dotted: str) -> bytes:
    """OBJECT IDENTIFIER."""
    first, second, *rest = map(int, dotted.split("."))
    value = b""
    for arc in (first * 40 + second, *rest):
        groups = [arc & 0x7F]
        while arc := arc >> 7:
            groups.append(0x80 | (arc & 0x7F))
        value += bytes(reversed(groups))
    return tlv(0x06, value)


def explicit(number: int, *parts: bytes) -> bytes:
    """A constructed, context-specific tag around ``parts``; also IMPLICIT SET or SEQUENCE, whose content is the same."""
    return tlv(0xA0 | number, *parts)


def generalized_time(moment: datetime) -> bytes:
    """GeneralizedTime in UTC; a fraction of a second only where there is one (RFC 3161, section 2.4.2)."""
    moment = moment.astimezone(UTC)
    fraction = f".{moment.microsecond:06d}".rstrip("0") if moment.microsecond else ""
    return tlv(0x18, f"{moment:%Y%m%d%H%M%S}{fraction}Z".encode())


def utc_time(moment: datetime) -> bytes:
    """UTCTime."""
    return tlv(0x17, f"{moment.astimezone(UTC):%y%m%d%H%M%SZ}".encode())
