"""Revocations that an operator asks for: handed to the broker, which decides and tells the workers.

A broker that dies meanwhile gives no answer: the operator is told, and asks again, which does no harm.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import count
from typing import Any

from tuskws_fast.metrics import State
from tuskws_fast.supervisor.operators import Operator
from tuskws_fast.supervisor.peers import Peers
from tuskws_fast.supervisor.slots import Slot

AWAY = "the broker is being replaced; ask again"


class Revocations:
    def __init__(self, broker: Slot, peers: Peers) -> None:
        self._broker = broker
        self._peers = peers
        self._numbers = count(1)
        self._waiting: dict[int, Operator] = {}

    def ask(self, operator: Operator) -> None:
        if not isinstance(operator.arguments, dict):
            self._answer(operator, {"problem": "what is to be revoked is missing"})
        elif self._broker.process is None or self._broker.state is not State.READY:
            self._answer(operator, {"problem": AWAY})
        else:
            number = next(self._numbers)
            self._waiting[number] = operator
            self._peers.tell(self._broker, "revoke", {"asked": number, "args": operator.arguments})

    def answered(self, fields: Mapping[str, Any]) -> None:
        operator = self._waiting.pop(int(fields["asked"]), None)
        if operator is not None:
            self._answer(operator, {name: value for name, value in fields.items() if name != "asked"})

    def lost(self) -> None:
        """The broker has ended."""
        waiting, self._waiting = self._waiting, {}
        for operator in waiting.values():
            self._answer(operator, {"problem": AWAY})

    @staticmethod
    def _answer(operator: Operator, fields: Mapping[str, Any]) -> None:
        operator.tell(fields)
        operator.end()
