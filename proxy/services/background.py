"""What runs beside the pulls for as long as the process does."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import NoReturn

import structlog

log = structlog.get_logger("tagstone.background")

#: Seconds until the next step after one that failed.
PAUSE = 1.0


async def forever(name: str, step: Callable[[], Awaitable[None]]) -> NoReturn:
    """Repeat ``step`` until cancelled; it does its own waiting.

    A step handles what it foresees. Anything else is logged, with where it comes from, and ends that step alone: nobody looks at
    a background task before the process ends, so one that died would be missed by nothing but what it no longer does.
    """
    while True:
        try:
            await step()
        except Exception:
            log.exception("background.failed", task=name, retry_seconds=PAUSE)
            await asyncio.sleep(PAUSE)
