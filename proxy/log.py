"""The log: structlog, as lines for people or as JSON, on standard error."""

from __future__ import annotations

import io
import logging
import sys
from collections.abc import MutableMapping
from contextlib import suppress
from typing import Any

import structlog

from proxy.settings import Log


def configure(settings: Log) -> None:
    """Set up logging for this process. aiohttp's and asyncio's own warnings come the same way."""
    level = getattr(logging, settings.level.upper())
    processors: list[Any] = [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.format_exc_info,
    ]
    if settings.format == "json":
        processors.append(structlog.processors.JSONRenderer(sort_keys=True))
    else:
        processors.append(_printable)
        processors.append(structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty(), pad_event_to=24))
    structlog.configure(
        processors=processors,
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=structlog.PrintLoggerFactory(_Unfailing()),  # type: ignore[arg-type]  # print() writes and flushes, no more
        cache_logger_on_first_use=False,
    )
    handler = _Forward()
    logging.basicConfig(level=max(level, logging.WARNING), handlers=[handler], force=True)


#: What is laid out over several lines, by us.
_LAID_OUT = frozenset({"exception", "stack"})


def _printable(_: object, __: str, line: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """Without what a terminal would obey: clients choose their user agents, upstreams what their errors say."""
    for key, value in line.items():
        if isinstance(value, str) and not value.isprintable() and key not in _LAID_OUT:
            line[key] = "".join(each if each.isprintable() else f"\\u{{{ord(each):x}}}" for each in value)
    return line


class _Unfailing(io.TextIOBase):
    """Standard error; what cannot be written there is lost: a full disk or a reader that has gone must not stop a pull."""

    def write(self, text: str) -> int:
        """Write, if that is possible."""
        with suppress(OSError):
            sys.stderr.write(text)
        return len(text)

    def flush(self) -> None:
        """Flush, if that is possible."""
        with suppress(OSError):
            sys.stderr.flush()


class _Forward(logging.Handler):
    """Standard library records, written as ours."""

    def emit(self, record: logging.LogRecord) -> None:
        logger = structlog.get_logger(record.name)
        logger.log(record.levelno, record.getMessage(), exc_info=record.exc_info)
