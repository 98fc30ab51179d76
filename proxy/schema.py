"""The kinds of value that the configuration file knows, and the base of every model that describes a part of it.

Scalars reach these types as text, as they stand in the file (:mod:`proxy.configuration.source`): each key decides what its
text means, so that ``on``, ``1:30``, ``0123`` or a date can never turn into something that nobody wrote. Values built from
code may be numbers, dates or paths as well.

Durations are seconds, rates so many in a second, shares parts of 1 (all ``float``), sizes are bytes (``int``), moments are aware
datetimes in UTC.
"""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass
from datetime import UTC, date, datetime, time
from pathlib import Path
from typing import Annotated, Any

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PlainSerializer,
    ValidationInfo,
    WithJsonSchema,
    model_validator,
)

_DURATION = re.compile(r"(\d{1,12}(?:\.\d{1,6})?)\s*(ms|s|m|h|d)", re.ASCII)
_SECONDS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_LONGEST = 3650 * 86400.0
_SIZE = re.compile(r"(\d{1,19})\s*(B|KiB|MiB|GiB|TiB)?", re.ASCII)
_BYTES = {None: 1, "B": 1, "KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30, "TiB": 1 << 40}
_LARGEST = 1 << 60
_FASTEST = 1000.0
_SHARE = re.compile(r"(\d{1,3}(?:\.\d{1,3})?)\s*%", re.ASCII)
_RATE = re.compile(r"(\d{1,6}(?:\.\d{1,3})?)\s*/\s*([smh])", re.ASCII)
_DATE = re.compile(r"\d{4}-\d{2}-\d{2}", re.ASCII)
_TIMESTAMP = re.compile(r"\d{4}-\d{2}-\d{2}[Tt ]\d{2}:\d{2}:\d{2}(?:\.\d{1,6})?([Zz]|[+-]\d{2}:\d{2})?", re.ASCII)
_CLOCK = re.compile(r"([01]\d|2[0-3]):[0-5]\d|24:00", re.ASCII)
_SWITCH = {"true": True, "yes": True, "on": True, "false": False, "no": False, "off": False}
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}", re.ASCII)
_LISTEN = re.compile(r"(?:\[([0-9A-Fa-f:.]+)\]|([A-Za-z0-9.-]+)):(\d{1,5})", re.ASCII)

#: Set in the validation context by whoever reads a file: the folder that its relative paths start from.
FOLDER = "folder"


class Model(BaseModel):
    """Frozen; unknown keys are errors; a section with nothing in it (its lines are commented out) is its defaults."""

    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=True, hide_input_in_errors=True)

    @model_validator(mode="before")
    @classmethod
    def _empty_section(cls, value: Any) -> Any:
        return {} if value is None else value


def _nothing_is_empty(value: Any) -> Any:
    return {} if value is None else value


#: For mappings of names: with nothing in it (its lines are commented out) it is empty.
EmptyMapping = BeforeValidator(_nothing_is_empty)


# -- durations and sizes --------------------------------------------------------------------------------------------


def parse_duration(value: Any) -> Any:
    """``60s`` → 60.0.

    Text needs a unit (only 0 goes without), because a bare number's would be a guess. Numbers, from code, are seconds.
    """
    seconds: float | None = None
    if isinstance(value, int | float) and not isinstance(value, bool):
        seconds = float(value)
    elif isinstance(value, str) and (found := _DURATION.fullmatch(value.strip())):
        seconds = float(found[1]) * _SECONDS[found[2]]
    elif value == "0":
        seconds = 0.0
    if seconds is None or not seconds >= 0:
        raise ValueError("write a duration with its unit, such as 500ms, 60s, 15m, 72h or 7d")
    if seconds > _LONGEST:
        raise ValueError("is too long: 3650d at most")
    return seconds


def parse_timeout(value: Any) -> Any:
    """A duration above zero: every wait ends, and none ends at once."""
    seconds = parse_duration(value)
    if seconds == 0:
        raise ValueError("must be longer than 0: every wait has an end, and some time until then")
    return seconds


def parse_interval(value: Any) -> Any:
    """A duration, or ``never``, which is 0."""
    if isinstance(value, str) and value.strip() == "never":
        return 0.0
    try:
        return parse_duration(value)
    except ValueError as error:
        raise ValueError(f"{error}; or never") from None


def format_interval(seconds: float) -> str:
    """The text that :func:`parse_interval` reads back."""
    return format_duration(seconds) if seconds else "never"


def format_duration(seconds: float) -> str:
    """60.0 → ``60s``: the text that :func:`parse_duration` reads back."""
    for unit in ("d", "h", "m"):
        count = seconds / _SECONDS[unit]
        if count >= 2 and count == int(count):
            return f"{int(count)}{unit}"
    if seconds == int(seconds):
        return f"{int(seconds)}s"
    return f"{seconds * 1000:.6f}".rstrip("0").rstrip(".") + "ms"


def parse_size(value: Any) -> Any:
    """``4MiB`` → 4194304; a bare number is bytes."""
    size: int | None = None
    if isinstance(value, int) and not isinstance(value, bool):
        size = value
    elif isinstance(value, str) and (found := _SIZE.fullmatch(value.strip())):
        size = int(found[1]) * _BYTES[found[2]]
    if size is None or size < 0:
        raise ValueError("write a size in bytes, such as 65536, 64KiB, 4MiB or 2GiB")
    if size > _LARGEST:
        raise ValueError("is too large: 1048576TiB at most")
    return size


def format_size(size: int) -> str:
    """4194304 → ``4MiB``: the text that :func:`parse_size` reads back."""
    for unit in ("TiB", "GiB", "MiB", "KiB"):
        if size and size % _BYTES[unit] == 0:
            return f"{size // _BYTES[unit]}{unit}"
    return str(size)


def parse_share(value: Any) -> Any:
    """``10%`` → 0.1. Numbers, from code, are shares of 1."""
    share: float | None = None
    if isinstance(value, int | float) and not isinstance(value, bool):
        share = float(value)
    elif isinstance(value, str) and (found := _SHARE.fullmatch(value.strip())):
        share = float(found[1]) / 100
    if share is None or not 0 <= share <= 1:
        raise ValueError("write a share, such as 10% or 50%")
    return share


def format_share(share: float) -> str:
    """0.1 → ``10%``: the text that :func:`parse_share` reads back."""
    return f"{share * 100:.3f}".rstrip("0").rstrip(".") + "%"


def parse_rate(value: Any) -> Any:
    """``10/s`` → 10.0, ``30/m`` → 0.5: so many in a second. Only 0 goes without a unit. Numbers, from code, are in a second."""
    rate: float | None = None
    if isinstance(value, int | float) and not isinstance(value, bool):
        rate = float(value)
    elif isinstance(value, str) and (found := _RATE.fullmatch(value.strip())):
        rate = float(found[1]) / _SECONDS[found[2]]
    elif value == "0":
        rate = 0.0
    if rate is None or not 0 <= rate <= _FASTEST:
        raise ValueError("write a rate with its unit, such as 10/s, 30/m or 500/h, of at most 1000/s")
    return rate


def format_rate(rate: float) -> str:
    """10.0 → ``10/s``: the text that :func:`parse_rate` reads back."""
    if not rate:
        return "0"
    unit = next((unit for unit in "sm" if rate * _SECONDS[unit] >= 1), "h")
    return f"{rate * _SECONDS[unit]:.3f}".rstrip("0").rstrip(".") + f"/{unit}"


_DURATION_SCHEMA = {
    "type": ["string", "integer"],
    "pattern": r"^\d+(\.\d+)?\s*(ms|s|m|h|d)$|^0$",
    "maximum": 0,
    "minimum": 0,
    "format": "tagstone-duration",
}
_INTERVAL_SCHEMA = _DURATION_SCHEMA | {"pattern": r"^\d+(\.\d+)?\s*(ms|s|m|h|d)$|^0$|^never$", "format": "tagstone-interval"}
_SIZE_SCHEMA = {
    "type": ["string", "integer"],
    "pattern": r"^\d+\s*(B|KiB|MiB|GiB|TiB)?$",
    "minimum": 0,
    "format": "tagstone-size",
}
_SHARE_SCHEMA = {"type": "string", "pattern": r"^\d{1,3}(\.\d{1,3})?\s*%$", "format": "tagstone-share"}
_RATE_SCHEMA = {
    "type": ["string", "integer"],
    "pattern": r"^\d{1,6}(\.\d{1,3})?\s*/\s*[smh]$|^0$",
    "maximum": 0,
    "minimum": 0,
    "format": "tagstone-rate",
}
_write_duration = PlainSerializer(format_duration, return_type=str, when_used="json")

Duration = Annotated[float, BeforeValidator(parse_duration), _write_duration, WithJsonSchema(_DURATION_SCHEMA)]
Timeout = Annotated[float, BeforeValidator(parse_timeout), _write_duration, WithJsonSchema(_DURATION_SCHEMA)]
Interval = Annotated[
    float,
    BeforeValidator(parse_interval),
    PlainSerializer(format_interval, return_type=str, when_used="json"),
    WithJsonSchema(_INTERVAL_SCHEMA),
]
Size = Annotated[
    int,
    BeforeValidator(parse_size),
    PlainSerializer(format_size, return_type=str, when_used="json"),
    WithJsonSchema(_SIZE_SCHEMA),
]

Share = Annotated[
    float,
    BeforeValidator(parse_share),
    PlainSerializer(format_share, return_type=str, when_used="json"),
    WithJsonSchema(_SHARE_SCHEMA),
]
Rate = Annotated[
    float,
    BeforeValidator(parse_rate),
    PlainSerializer(format_rate, return_type=str, when_used="json"),
    WithJsonSchema(_RATE_SCHEMA),
]


# -- switches, names, secrets, paths --------------------------------------------------------------------------------


def parse_switch(value: Any) -> Any:
    """``true`` or ``false``; the YAML 1.1 words ``yes``, ``no``, ``on`` and ``off`` mean the same here."""
    if isinstance(value, str):
        value = _SWITCH.get(value.lower())
    if not isinstance(value, bool):
        raise ValueError("write true or false")
    return value


def check_name(value: str) -> str:
    """A name that messages, headers and logs may carry as it is."""
    if not _NAME.fullmatch(value):
        raise ValueError("is not a name: up to 64 of A–Z a–z 0–9 . _ -, starting with a letter or a digit")
    return value


def _mask(_: str) -> str:
    return "***"


def _path_text(value: Any) -> Any:
    if isinstance(value, str) and (not value.strip() or "\0" in value):
        raise ValueError("write the path of a file")
    return value


def _resolve(path: Path, info: ValidationInfo) -> Path:
    try:
        path = path.expanduser()
    except RuntimeError:
        raise ValueError("begins with ~, but there is no such home directory; write the whole path") from None
    folder = (info.context or {}).get(FOLDER)
    return path if folder is None else folder / path


Switch = Annotated[bool, BeforeValidator(parse_switch)]
Name = Annotated[str, AfterValidator(check_name)]
#: Never shown: what is dumped as JSON, for people or machines, has ``***`` in its place.
Secret = Annotated[str, PlainSerializer(_mask, return_type=str, when_used="json")]
#: ``~`` is the home directory; relative paths start from the file's own folder, wherever the command is run.
FilePath = Annotated[Path, BeforeValidator(_path_text), AfterValidator(_resolve)]


# -- moments --------------------------------------------------------------------------------------------------------


def _moment(value: Any, at: time) -> datetime:
    if isinstance(value, str):
        text = value.strip()
        try:
            if _DATE.fullmatch(text):
                value = date.fromisoformat(text)
            elif found := _TIMESTAMP.fullmatch(text):
                if found[1] is None:
                    raise ValueError(f"has no time zone: write {text.replace(' ', 'T')}Z for UTC, or an offset such as +02:00")
                value = datetime.fromisoformat(text.upper())
        except ValueError as error:
            raise error if "time zone" in str(error) else ValueError("is no day of the calendar, or no time of a day") from None
    if isinstance(value, datetime):
        if value.tzinfo is None:
            raise ValueError("has no time zone")
        try:
            return value.astimezone(UTC)
        except OverflowError:
            raise ValueError("is outside the years 1 to 9999") from None
    if isinstance(value, date):
        return datetime.combine(value, at, UTC)
    raise ValueError("write a date such as 2027-06-30, or a time such as 2027-06-30T12:00:00Z")


def parse_start(value: Any) -> Any:
    """``2025-01-01`` → the first instant of that day in UTC; a time stays what it is."""
    return _moment(value, time.min)


def parse_end(value: Any) -> Any:
    """``2027-06-30`` → the last instant of that day in UTC; a time stays what it is."""
    return _moment(value, time.max)


def format_moment(value: datetime) -> str:
    """The text that is read back as ``value`` (a date is written as its first or last instant, in UTC)."""
    return value.astimezone(UTC).isoformat().replace("+00:00", "Z")


_MOMENT_SCHEMA = {
    "type": "string",
    "pattern": r"^\d{4}-\d{2}-\d{2}([Tt ]\d{2}:\d{2}:\d{2}(\.\d+)?([Zz]|[+-]\d{2}:\d{2}))?$",
    "format": "tagstone-moment",
}
_write_moment = PlainSerializer(format_moment, return_type=str, when_used="json")

Start = Annotated[datetime, BeforeValidator(parse_start), _write_moment, WithJsonSchema(_MOMENT_SCHEMA)]
End = Annotated[datetime, BeforeValidator(parse_end), _write_moment, WithJsonSchema(_MOMENT_SCHEMA)]


# -- times of the day -----------------------------------------------------------------------------------------------


def parse_clock(value: Any) -> Any:
    """``22:00``: hours and minutes on a wall clock, ``24:00`` being the end of a day. It stays text."""
    if not isinstance(value, str) or not _CLOCK.fullmatch(value.strip()):
        raise ValueError("write a time of the day such as 06:30 or 22:00, or 24:00 for its end")
    return value.strip()


_CLOCK_SCHEMA = {"type": "string", "pattern": r"^(([01]\d|2[0-3]):[0-5]\d|24:00)$", "format": "tagstone-clock"}
Clock = Annotated[str, BeforeValidator(parse_clock), WithJsonSchema(_CLOCK_SCHEMA)]


# -- listening addresses --------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Address:
    """Where a server listens. ``host`` is a name or an IP address without brackets; port 0 takes any free one."""

    host: str
    port: int

    @classmethod
    def parse(cls, text: str) -> Address:
        """Read ``host:port`` or ``[IPv6]:port``. Raises ValueError with the way out."""
        found = _LISTEN.fullmatch(text)
        if found is None and text.isascii() and text.lstrip(":").isdigit():
            port = text.lstrip(":")
            raise ValueError(f"names no host: write 127.0.0.1:{port} for this machine alone, 0.0.0.0:{port} for everyone")
        if found is None or int(found[3]) > 65535:
            raise ValueError("write host:port, such as 127.0.0.1:5000 or [::1]:5000, with a port of 0–65535")
        host = found[1] or found[2]
        try:
            if found[1] is not None or host.replace(".", "").isdigit():
                ipaddress.ip_address(host)
        except ValueError:
            raise ValueError(f"{host} is not an IP address") from None
        return cls(host, int(found[3]))

    @property
    def loopback(self) -> bool:
        """Whether only this machine can reach it."""
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return self.host.lower() == "localhost"

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def _check_listen(value: str) -> str:
    return str(Address.parse(value.strip()))


Listen = Annotated[str, AfterValidator(_check_listen), Field(json_schema_extra={"examples": ["127.0.0.1:5000", "[::1]:5000"]})]
