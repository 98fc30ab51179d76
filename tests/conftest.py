"""What holds for every test."""

from __future__ import annotations

from hypothesis import settings

# A machine that is busy with something else is no failed property.
settings.register_profile("house", deadline=None)
settings.load_profile("house")
