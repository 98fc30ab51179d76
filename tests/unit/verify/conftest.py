"""What the tests of this folder share."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.unit.verify.gpg import Material, material


@pytest.fixture(scope="session")
def gpg() -> Iterator[Material]:
    """Keys and signatures by the real gpg; without it the test is skipped on a laptop and fails when ``CI=true``."""
    yield from material()
