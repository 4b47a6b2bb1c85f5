"""What holds for all tests."""

from __future__ import annotations

from hypothesis import settings

# How long an example takes says more of the machine, and of scripts/sanitize, than of the code.
settings.register_profile("tuskws", deadline=None)
settings.load_profile("tuskws")
