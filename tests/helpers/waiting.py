"""Waiting for a fact that nobody announces (look again soon, give up loudly), and keeping a pace."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable

LOOK_AGAIN_S = 0.02
# How many times as long as usual a test waits before it gives up: scripts/sanitize makes everything slower.
PATIENCE = float(os.environ.get("TEST_PATIENCE", "1"))


async def eventually(fact: Callable[[], Awaitable[bool]], what: str, timeout_s: float = 15.0) -> None:
    try:
        async with asyncio.timeout(timeout_s * PATIENCE):
            while not await fact():  # noqa: ASYNC110 - nobody announces it, that is the point
                await asyncio.sleep(LOOK_AGAIN_S)
    except TimeoutError:
        raise AssertionError(f"waited {timeout_s * PATIENCE:g} s for {what}") from None


async def pace(seconds: float) -> None:
    """Let time pass that is itself the subject: a rate to stay below, a client that is busy only now and then."""
    await asyncio.sleep(seconds)
