"""How long Hypothesis tries."""

from __future__ import annotations

import os

from hypothesis import HealthCheck, settings


def examples(count: int) -> settings:
    """How many examples a test tries: ``count``, or FUZZ_TIMES as many (an environment variable, for long runs)."""
    times = int(os.environ.get("FUZZ_TIMES", "1"))
    # A machine that does other things as well is slow now and then, which says nothing about what is tested.
    return settings(max_examples=count * times, deadline=None, suppress_health_check=[HealthCheck.too_slow])
