"""Where a push ends up: a callback, an iterator, or (bounded) a queue for one that comes later."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from tuskws_fast.client import pushes as pushes_module
from tuskws_fast.client.pushes import PUSHES_KEPT, Pushes


def test_callbacks_get_their_type_and_star_gets_all() -> None:
    async def test() -> None:
        pushes = Pushes(lambda push: None)
        some: list[Any] = []
        every: list[Any] = []

        async def later(push: dict[str, Any]) -> None:
            await asyncio.sleep(0)
            some.append(push["n"])

        pushes.on("a", later)
        pushes.on("*", lambda push: every.append(push["n"]))
        for n, kind in enumerate("aba"):
            await pushes.put({"type": kind, "n": n})
        assert some == [0, 2]
        assert every == [0, 1, 2]

    asyncio.run(test())


def test_failing_callback_is_reported_and_costs_only_its_push() -> None:
    async def test() -> None:
        reported: list[dict[str, Any]] = []
        asyncio.get_running_loop().set_exception_handler(lambda loop, context: reported.append(context))
        pushes = Pushes(lambda push: None)
        seen: list[Any] = []
        pushes.on("a", lambda push: 1 / 0)
        pushes.on("a", seen.append)
        await pushes.put({"type": "a"})
        assert len(seen) == 1
        assert isinstance(reported[0]["exception"], ZeroDivisionError)

    asyncio.run(test())


def test_newest_are_kept_until_someone_iterates() -> None:
    async def test() -> None:
        pushes = Pushes(lambda push: None)
        for n in range(PUSHES_KEPT + 5):
            await pushes.put({"type": "a", "n": n})
        pushes.end()
        kept = [push["n"] async for push in pushes.iterate()]
        assert kept == list(range(5, PUSHES_KEPT + 5))

    asyncio.run(test())


def test_slow_iterator_holds_up_the_producer_and_loses_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pushes_module, "PUSHES_QUEUED_MAX", 3)

    async def test() -> None:
        pushes = Pushes(lambda push: None)
        await pushes.put({"type": "a", "n": 0})
        iterator = pushes.iterate()
        got = [(await anext(iterator))["n"]]

        async def produce() -> None:
            for n in range(1, 10):
                await pushes.put({"type": "a", "n": n})

        producing = asyncio.create_task(produce())
        for _ in range(20):
            await asyncio.sleep(0)
        assert not producing.done()
        while len(got) < 10:
            got.append((await anext(iterator))["n"])
        await producing
        assert got == list(range(10))

    asyncio.run(test())
