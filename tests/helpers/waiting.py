"""Waiting for a fact that nobody announces (look again soon, give up loudly), and keeping a pace."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

LOOK_AGAIN_S = 0.02


async def eventually(fact: Callable[[], Awaitable[bool]], what: str, timeout_s: float = 15.0) -> None:
    try:
        async with asyncio.timeout(timeout_s):
            while not await fact():  # noqa: ASYNC110 - nobody announces it, that is the point
                await asyncio.sleep(LOOK_AGAIN_S)
    except TimeoutError:
        raise AssertionError(f"waited {timeout_s} s for {what}") from None


async def pace(seconds: float) -> None:
    """Let time pass that is itself the subject: a rate to stay below, a client that is busy only now and then."""
    await asyncio.sleep(seconds)
