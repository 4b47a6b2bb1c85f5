"""Where pushes go in the application: to callbacks by type, and what has no callback to whoever iterates.

Until someone iterates, the newest 1,000 pushes are kept. While someone does, none is dropped: at 10,000 waiting, `put`
waits too, the reading stops, and in the end the server closes the connection as too slow, which is recovered from as
from any other loss. So a slow application loses nothing silently.
"""

from __future__ import annotations

import asyncio
import inspect
from collections import deque
from collections.abc import AsyncIterator, Callable

from tuskws_fast.client.state import Message

PUSHES_KEPT = 1_000
PUSHES_QUEUED_MAX = 10_000

Callback = Callable[[Message], object]


class Pushes:
    """`done(push)` is called when the application has dealt with it: callbacks have returned, or it asks for more."""

    def __init__(self, done: Callable[[Message], None]) -> None:
        self._done = done
        self._callbacks: dict[str, list[Callback]] = {}
        self._queue: deque[Message] = deque()
        self._iterators = 0
        self._ended = False
        self._came = asyncio.Event()
        self._drained = asyncio.Event()

    def on(self, kind: str, callback: Callback) -> None:
        self._callbacks.setdefault(kind, []).append(callback)

    async def put(self, push: Message) -> None:
        callbacks = [*self._callbacks.get(push["type"], ()), *self._callbacks.get("*", ())]
        for callback in callbacks:
            await _call(callback, push)
        if callbacks:
            self._done(push)
            return
        while self._iterators and len(self._queue) >= PUSHES_QUEUED_MAX:
            self._drained.clear()
            await self._drained.wait()
        if not self._iterators and len(self._queue) >= PUSHES_KEPT:
            self._queue.popleft()
        self._queue.append(push)
        self._came.set()

    def end(self) -> None:
        """Nothing more comes: iterators finish what is queued, and end."""
        self._ended = True
        self._came.set()
        self._drained.set()

    async def iterate(self) -> AsyncIterator[Message]:
        self._iterators += 1
        try:
            while True:
                while self._queue:
                    push = self._queue.popleft()
                    self._drained.set()
                    yield push
                    self._done(push)
                if self._ended:
                    return
                self._came.clear()
                await self._came.wait()
        finally:
            self._iterators -= 1
            self._drained.set()


async def _call(callback: Callback, push: Message) -> None:
    """A callback that fails costs its push, not the connection: the loop's exception handler hears of it."""
    try:
        result = callback(push)
        if inspect.isawaitable(result):
            await result
    except Exception as error:
        asyncio.get_running_loop().call_exception_handler(
            {"message": f"a callback for {push['type']!r} failed", "exception": error}
        )
