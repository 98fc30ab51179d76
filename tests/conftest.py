"""What holds for every test."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import settings

# A machine that is busy with something else is no failed property; more examples than that are for `make fuzz`.
settings.register_profile("house", deadline=None, max_examples=40)
settings.load_profile("house")

#: What starts daemons, or uses all cores by itself: one after the other, in one process.
_ALONE = ("tests/integration/", "tests/fuzz/test_guided.py")


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> object:
    """What belongs together in a parallel run (``-n 2``): a file, or everything that must be alone."""
    from xdist.scheduler import LoadScopeScheduling

    class Scheduling(LoadScopeScheduling):  # type: ignore[misc]  # it has no types
        def _split_scope(self, nodeid: str) -> str:
            file = nodeid.partition("::")[0]
            return "alone" if file.startswith(_ALONE) else file

    return Scheduling(config, log)
