"""What the tests of the configuration share."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.unit.configuration.files import Folder


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    """A folder for a configuration file."""
    return Folder(tmp_path)
