"""What the engine has to have written before anybody is told of it: values that the process takes and commits.

    handle(…) ─▶ decided records        held back by the process until …
              └▶ ledger.entries         … these are in the journal,
                 ledger.facts           … these in the settings,
                 ledger.awaiting        … and for these answers the journal is on the disk

A sequence (a room's, or an inbox's) is `stored` while the journal knows its epoch and every offset given in it. When
the journal cannot be written (`writing` is False) live delivery goes on without it. But the journal still believes the
old epoch to end where it last heard of it, and after a restart the same offsets would be given again, to other
messages. So the first publication that is not written begins a new epoch, of which the journal knows nothing
(`Core.forsake`): what a client remembers of it can then never be taken for something else.

Pure; `Core` owns one.
"""

from __future__ import annotations

from typing import Any, NamedTuple, Protocol

from tuskws_fast.broker.answers import Refused
from tuskws_fast.ipc.records import Level, Reply
from tuskws_fast.protocol.codes import ErrorCode
from tuskws_fast.rooms.history import History
from tuskws_fast.storage.entries import Ended, Entry, Opened, Published

# How long the commands of the broker before this one are known by their numbers: workers ask again at once.
ORIGINS_S = 60.0


# A look-up is a third of what making one by its number costs, on the way of every publication; a name of its own half
# of what one in its class does.
_LEVELS = tuple(Level)
_ACCEPTED, _STORED = Level.ACCEPTED, Level.STORED


class Sequence(Protocol):
    """What rooms and inboxes have in common: messages with offsets in an epoch that began after offset `base`."""

    epoch: str
    base: int
    stored: bool
    history: History

    @property
    def scope(self) -> str: ...


class Fact(NamedTuple):
    """A setting or sanction, for the settings file; `value` None: it is over. Times in it are Unix time."""

    key: str
    value: dict[str, Any] | None


class Awaiting(NamedTuple):
    """An answer that may go when all that was written before it is on the disk; `otherwise`, if it never gets there."""

    worker: int
    reply: Reply
    otherwise: Reply


class Ledger:
    def __init__(self, durable: bool) -> None:
        # There is a data directory, whatever its state.
        self.durable = durable
        self.writing = durable
        self.entries: list[Entry] = []
        self.facts: list[Fact] = []
        self.awaiting: list[Awaiting] = []
        # How often a level was asked for that could not be had.
        self.refused = 0
        # (connection, tag) of a command that the broker before this one carried out ─▶ what came of it.
        self.origins: dict[tuple[int, int], Published] = {}

    def begin(self, sequence: Sequence) -> None:
        """From the next publication on the sequence is written: it is new, or was not written so far."""
        sequence.base = sequence.history.top
        sequence.stored = sequence.history.written = self.writing and sequence.history.keeps
        if sequence.stored:
            self.entries.append(Opened(sequence.scope, sequence.epoch, sequence.base))

    def end(self, sequence: Sequence) -> None:
        """The journal is to forget the sequence. While it cannot be told, it is when it comes back."""
        if sequence.stored and self.writing:
            self.entries.append(Ended(sequence.scope))
        sequence.stored = sequence.history.written = False

    def level(self, sequence: Sequence, wanted: int) -> Level:
        """The level at which a message is published that asks for `wanted`. Raises `Refused`."""
        if not wanted:
            # `Level.DEFAULT`, as nearly all do.
            return _STORED if sequence.stored and self.writing else _ACCEPTED
        return self.granted(wanted, sequence.stored and self.writing, sequence.history.keeps)

    def granted(self, wanted: int, stored: bool, keeps: bool = True) -> Level:
        """As `level`, for a sequence that need not exist yet."""
        if wanted == Level.DEFAULT:
            return Level.STORED if stored else Level.ACCEPTED
        if not 0 < wanted < len(_LEVELS):
            raise Refused(ErrorCode.BAD_MESSAGE, "No such level")
        if wanted > Level.ACCEPTED and not stored:
            self.refused += 1
            raise Refused(ErrorCode.UNAVAILABLE, self._reason if keeps else "This room keeps no messages")
        return _LEVELS[wanted]

    @property
    def _reason(self) -> str:
        """Why nothing is stored."""
        return "Messages cannot be stored now" if self.durable else "This node keeps messages in memory only"
