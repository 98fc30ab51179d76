"""What holds for every test."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import settings

# A machine that is busy with something else is no failed property.
settings.register_profile("house", deadline=None)
settings.load_profile("house")

_HERE = Path(__file__).parent
#: What starts daemons, or uses all cores by itself: one after the other, in one process, and first because it takes longest.
_ALONE = (_HERE / "integration", _HERE / "fuzz" / "test_guided.py")


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tell parallel runs (``-n 2 --dist loadgroup``) what belongs together: a file, or everything that must be alone."""
    items.sort(key=lambda item: not _alone(item))
    for item in items:
        item.add_marker(pytest.mark.xdist_group("alone" if _alone(item) else str(item.path.relative_to(_HERE))))


def _alone(item: pytest.Item) -> bool:
    return any(item.path == place or place in item.path.parents for place in _ALONE)
