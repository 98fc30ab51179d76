"""What holds for every test."""

from __future__ import annotations

import signal
from typing import Any

import pytest
from hypothesis import settings

# A machine that is busy with something else is no failed property; more examples than that are for `make fuzz`.
settings.register_profile("house", deadline=None, max_examples=40)
settings.load_profile("house")

# A shell lets what it starts in the background ignore Ctrl-C, and so would the commands that tests start and end by it.
signal.signal(signal.SIGINT, signal.default_int_handler)

#: What starts daemons: one after the other, in one process.
_DAEMONS = frozenset(
    f"tests/integration/test_{name}.py"
    for name in (
        "bench",
        "clients",
        "configured",
        "cosigning",
        "doctor",
        "doctor_cri",
        "drift",
        "drift_workloads",
        "logins",
        "offline",
        "simple_signing",
        "upstreams",
    )
)
#: What takes longest is begun first, so that all processes end at about the same time.
_FIRST = ("tests/integration/", "tests/fuzz/test_guided.py", "tests/conformance/")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put what takes longest first; the order within it stays."""

    def place(item: pytest.Item) -> int:
        file = item.nodeid.partition("::")[0]
        if file in _DAEMONS:
            return -1
        return next((number for number, folder in enumerate(_FIRST) if file.startswith(folder)), len(_FIRST))

    items.sort(key=place)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> object:
    """What belongs together in a parallel run (``-n 3``): a file, or all daemons."""
    from xdist.scheduler import LoadScopeScheduling

    config.option.loadscopereorder = False

    class Scheduling(LoadScopeScheduling):  # type: ignore[misc]  # it has no types
        def _split_scope(self, nodeid: str) -> str:
            file = nodeid.partition("::")[0]
            return "daemons" if file in _DAEMONS else file

    return Scheduling(config, log)
