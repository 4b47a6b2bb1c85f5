"""A worker's clients on their way out: each is told once, and sent away at a moment of its own.

    begin      nothing new is accepted; everybody is told `reconnect {after_ms, reason}`, a batch a turn of the loop
    the window moments are spread evenly and dealt out by chance: n clients get one each of the window's n equal parts
    FINISH_S   who knows the message begins nothing new after its moment, and has that long to finish; then all whose
               turn it is are sent away, each with a Close
    the end    nobody is left, or the deadline has come: what remains is cut off with the process

A handshake that was under way when the drain began is finished; its client is told as everybody was, and its moment is
somewhere in the rest of the window. A second order (`hasten`) shortens what is left and tells nobody again.

Even parts, because with independent moments some second of the window has twice the average; chance, because clients
that came together should not return together.

Pure but for telling: time, chance and the sending away are arguments.
"""

from __future__ import annotations

import heapq
import random
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tuskws_fast.protocol import codec
from tuskws_fast.protocol.codes import CloseCode

if TYPE_CHECKING:
    from tuskws_fast.worker.session import Session

# Told and closed a turn of the loop, so that those who stay are served between: about 5 ms.
BATCH_MAX = 500
# For the answers to what a client asked before its moment.
FINISH_S = 0.5

CODES = {"shutdown": CloseCode.GOING_AWAY, "restart": CloseCode.DRAINED}
TEXTS = {"shutdown": b"server going away", "restart": b"moved by a drain"}


@dataclass(frozen=True, slots=True)
class Order:
    """What the supervisor asks for. `reason` is a key of `CODES`; all times count from its arrival."""

    reason: str
    lead_s: float
    window_s: float
    deadline_s: float


def spread(count: int, window_s: float, chance: random.Random) -> list[float]:
    """`count` moments of a window: one in each of as many equal parts, in an order of chance."""
    moments = [(n + chance.random()) * window_s / count for n in range(count)]
    chance.shuffle(moments)
    return moments


class Drain:
    """`send_away(sessions, code, text)` closes those whose turn has come."""

    def __init__(
        self,
        order: Order,
        sessions: Iterable[Session],
        send_away: Callable[[list[Session], CloseCode, bytes], None],
        now: float,
        chance: random.Random,
    ) -> None:
        self._order = order
        self._send_away = send_away
        self._chance = chance
        self._code, self._text = CODES[order.reason], TEXTS[order.reason]
        self._window_ends = now + order.window_s
        self.deadline = now + order.deadline_s
        here = list(sessions)
        self._to_tell = list(zip(spread(len(here), order.window_s, chance), here, strict=True))
        self.told = 0
        self.closed = 0
        self.finishes_handshakes = order.reason == "restart"
        self._began = now
        # (when to close, a number to keep equal moments in order, whom)
        self._to_close: list[tuple[float, int, Session]] = []

    def opened(self, session: Session, now: float) -> None:
        """A handshake that was under way is complete."""
        left_s = max(self._window_ends - now, 0.0)
        self._tell(session, now, self._chance.uniform(0.0, left_s))

    def hasten(self, order: Order, now: float) -> None:
        """The time that is left is that of `order`, if that is less: all moments move closer together."""
        window_ends = now + order.window_s
        if window_ends < self._window_ends:
            factor = order.window_s / max(self._window_ends - now, 1e-9)
            self._to_tell = [(self._moved(now, moment, factor), session) for moment, session in self._to_tell]
            closer = [(now + max(due - now, 0.0) * factor, number, who) for due, number, who in self._to_close]
            # A factor keeps the order: what was a heap is one.
            self._to_close = closer
            self._window_ends = window_ends
        self.deadline = min(self.deadline, now + order.deadline_s)

    def _moved(self, now: float, moment: float, factor: float) -> float:
        return now - self._began + max(self._began + moment - now, 0.0) * factor

    def tick(self, now: float) -> bool:
        """Tell and close whose turn it is, a batch at most; True if there is more to do at once."""
        told, self._to_tell = self._to_tell[:BATCH_MAX], self._to_tell[BATCH_MAX:]
        for moment, session in told:
            self._tell(session, now, max(self._began + moment - now, 0.0))
        due: list[Session] = []
        while self._to_close and len(due) < BATCH_MAX and self._to_close[0][0] <= now:
            session = heapq.heappop(self._to_close)[2]
            if not session.connection.is_closing:
                due.append(session)
        if due:
            self.closed += len(due)
            self._send_away(due, self._code, self._text)
        return bool(self._to_tell) or bool(self._to_close and self._to_close[0][0] <= now)

    def _tell(self, session: Session, now: float, after_s: float) -> None:
        notice = {"type": "reconnect", "after_ms": int(after_s * 1000), "reason": self._order.reason}
        session.reply(codec.encode(notice))
        self.told += 1
        # In a hurry nothing is waited for.
        grace_s = FINISH_S if self._order.window_s else 0.0
        heapq.heappush(self._to_close, (now + after_s + grace_s, self.told, session))
