"""A loop whose turns a test takes by hand, for what is turned by a loop and nothing more (ext/sockets)."""

from __future__ import annotations

import select
from collections.abc import Callable
from typing import Any


class Turns:
    """As much of a loop as the poller asks for."""

    def __init__(self) -> None:
        self.fd = -1
        self.reader: Callable[[], Any] = lambda: None
        self.soon: list[Callable[[], Any]] = []
        self.later: list[tuple[Callable[..., Any], tuple[Any, ...]]] = []
        self.reported: list[BaseException] = []

    def add_reader(self, fd: int, callback: Callable[[], Any]) -> None:
        self.fd, self.reader = fd, callback

    def remove_reader(self, fd: int) -> None:
        self.reader = lambda: None

    def call_soon(self, callback: Callable[[], Any]) -> None:
        self.soon.append(callback)

    def call_later(self, delay: float, callback: Callable[..., Any], *args: Any) -> None:
        self.later.append((callback, args))

    def call_exception_handler(self, context: dict[str, Any]) -> None:
        self.reported.append(context["exception"])

    @property
    def is_ready(self) -> bool:
        """A loop that waited would turn it."""
        return bool(select.select([self.fd], [], [], 0)[0])

    def turn(self) -> None:
        self.reader()
        self.run_soon()

    def run_soon(self) -> None:
        soon, self.soon = self.soon, []
        for callback in soon:
            callback()

    def pass_time(self) -> None:
        """As much as everything takes that is due later."""
        later, self.later = self.later, []
        for callback, args in later:
            callback(*args)
