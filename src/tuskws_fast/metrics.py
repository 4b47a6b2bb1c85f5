"""Every figure the node keeps, declared once: a column of the shared-memory counters, with its kind and its meaning.

The counters are a table: a row a process, a column a figure, one writer a cell. Row 0 is the supervisor's, then the
broker's, then one a worker slot (the spare one too). A process adds to its own row; whoever wants the node's figure
sums the column.

    counter   only grows, also over restarts of its process: a successor goes on where the dead one stopped
    gauge     what is now; the supervisor zeroes a dead process's gauges when it has reaped it
    fact      kept by the supervisor about the process of that row (state, pid, …): the process itself never writes it

All labels (refusal reasons, error codes) are from closed sets: no room, user, path or text ever names a column.
This file knows no memory and no socket: readers pass plain rows of integers.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from enum import Enum, IntEnum

from tuskws_fast.protocol.codes import ErrorCode

ROW_SUPERVISOR = 0
ROW_BROKER = 1
ROW_FIRST_WORKER = 2


def worker_row(slot: int) -> int:
    return ROW_FIRST_WORKER + slot


def row_count(workers: int) -> int:
    return ROW_FIRST_WORKER + workers


class Kind(Enum):
    COUNTER = "counter"
    GAUGE = "gauge"
    FACT = "fact"


_COUNTER, _GAUGE, _FACT = Kind.COUNTER, Kind.GAUGE, Kind.FACT


class State(IntEnum):
    """Where a process is in its life; written by the supervisor into `Metric.STATE`."""

    DOWN = 0
    STARTING = 1
    READY = 2
    DRAINING = 3
    SPARE = 4


class Metric(IntEnum):
    """A column. Its value is the column's number; `kind` and `text` describe it."""

    kind: Kind
    text: str

    def __new__(cls, kind: Kind, text: str) -> Metric:
        member = int.__new__(cls, len(cls.__members__))
        member._value_ = len(cls.__members__)
        member.kind = kind
        member.text = text
        return member

    # facts
    STATE = _FACT, "where the process is in its life: 0 down, 1 starting, 2 ready, 3 draining, 4 spare"
    PID = _FACT, "process id, 0 when down"
    STARTED = _FACT, "when the process was forked, monotonic ms"
    RESTARTS = _FACT, "processes of this slot that died and were replaced"
    WORKERS = _FACT, "in the supervisor's row: workers that should be ready"

    # every process
    BEAT = _GAUGE, "last turn of the event loop that said so, monotonic ms"
    MEMORY_BYTES = _GAUGE, "memory of its own that a worker has, without rings and files"
    MEMORY_BLOCKS = _GAUGE, "pieces of memory that Python's own allocator has given out, whatever it holds in reserve"
    LOG_DROPPED = _COUNTER, "log lines dropped because the log's reader did not keep up"
    RING_FULL = _COUNTER, "times a ring was full and records had to wait beside it"
    RING_DROPPED = _COUNTER, "records dropped because a down ring was full (replayed from history later)"
    RING_OVERRUN = _COUNTER, "times a worker found that records for it had been dropped"
    RING_POISONED = _COUNTER, "rings given up because of a malformed record"
    RECORDS_FAILED = _COUNTER, "records that met a defect of ours and were given up; must stay 0"
    LOST_WAKEUP_RESCUED = _COUNTER, "records found by the safety timer and not by the doorbell; must stay 0"

    # workers: connections
    CONNECTIONS_CURRENT = _GAUGE, "open connections"
    HALF_OPEN = _GAUGE, "sockets whose handshake is not done"
    CONNECTIONS_OPENED = _COUNTER, "connections that completed the upgrade"
    CONNECTIONS_CLOSED = _COUNTER, "upgraded connections that ended"
    REFUSED_BAD_REQUEST = _COUNTER, "refused before the upgrade: malformed request"
    REFUSED_PATH = _COUNTER, "refused before the upgrade: no such path, or no upgrade asked for"
    REFUSED_ORIGIN = _COUNTER, "refused before the upgrade: origin not allowed"
    REFUSED_AUTH = _COUNTER, "refused before the upgrade: bad token"
    REFUSED_PER_IP = _COUNTER, "refused before the upgrade: too many connections of this address"
    REFUSED_PER_USER = _COUNTER, "refused or closed: too many connections of this user"
    REFUSED_TOTAL = _COUNTER, "refused before the upgrade: the node has all the connections it may have"
    OUT_OF_FILES = _COUNTER, "times there was no file descriptor for a client"
    REFUSED_HALF_OPEN = _COUNTER, "ended before the upgrade: gave way to newer handshakes of its address or worker"
    REFUSED_HANDSHAKE_RATE = _COUNTER, "refused before the upgrade: too many handshakes of this address"
    REFUSED_TOKEN_RATE = _COUNTER, "tokens not looked at: too many refused ones of this address"
    REFUSED_MEMORY = _COUNTER, "refused before the upgrade: the worker has nearly all the memory it may have"
    REFUSED_TIMEOUT = _COUNTER, "refused before the upgrade: the request was not complete in time"
    TLS_FAILED = _COUNTER, "sockets that ended before their TLS handshake was complete"
    TLS_NOT_AFTER = _GAUGE, "when the certificate in use ends, seconds since 1970; 0 without TLS"
    TOO_SLOW_CLOSED = _COUNTER, "connections closed because they did not read fast enough"
    MEMORY_SHED = _COUNTER, "of these, because the worker had nearly all the memory it may have"
    HEARTBEAT_MISSED = _COUNTER, "connections closed because a ping was not answered"
    IDLE_CLOSED = _COUNTER, "connections closed because no command came for the idle timeout"
    AUTH_TIMEOUT_CLOSED = _COUNTER, "connections closed because they did not authenticate in time"
    PROTOCOL_ERRORS = _COUNTER, "connections closed for breaking RFC 6455"
    RECONNECT_TOLD = _COUNTER, "connections told to come back because their worker drains"
    DRAIN_CLOSED = _COUNTER, "connections closed because their worker drains"
    POLICY_CLOSED = _COUNTER, "connections closed for repeated faults"
    FRAME_RATE_CLOSED = _COUNTER, "connections closed for too many frames a second"
    BYTE_RATE_CLOSED = _COUNTER, "connections closed for too many bytes a second"
    PING_RATE_CLOSED = _COUNTER, "connections closed for too many pings a second"
    READS_CUT = _COUNTER, "reads with more in them than a turn had time for: the rest waited for others"
    ITEMS_REFUSED = _COUNTER, "messages refused undecoded for too many items"
    PONGS_SPARED = _COUNTER, "pings answered by the pong to a later one"
    INFLATE_BUDGET_CLOSED = _COUNTER, "connections closed because they made the server inflate too much"

    # workers: messages
    MESSAGES_RECEIVED = _COUNTER, "commands received, each of a batch counted"
    REPLIES_SENT = _COUNTER, "replies sent"
    DELIVERIES = _COUNTER, "pushes handed to connections (a publication counts once a member)"
    BYTES_IN = _COUNTER, "bytes of WebSocket payload received"
    BYTES_OUT = _COUNTER, "bytes of WebSocket frames sent"
    INFLATED_MESSAGES = _COUNTER, "messages received compressed"
    INFLATED_BYTES = _COUNTER, "bytes that these messages were inflated to"
    DEFLATED_MESSAGES = _COUNTER, "messages compressed; shared, once a worker whatever the number of receivers"
    DEFLATED_BYTES = _COUNTER, "bytes that these messages were compressed to"
    RATE_LIMITED = _COUNTER, "commands refused by a rate limit"
    RATE_LIMITED_PER_IP = _COUNTER, "of these, for what others of the address had sent"
    PASSWORD_TRIES_LIMITED = _COUNTER, "room passwords of guests not looked at: too many of this address"
    AUTH_FAILED = _COUNTER, "tokens refused"
    HANDLER_FAILED = _COUNTER, "application handlers that raised"
    GAPS_SENT = _COUNTER, "times members were told that they missed messages"
    LEFT_OUT = _COUNTER, "messages that slow connections were not sent, and told of"
    QUEUED_BYTES = _GAUGE, "bytes waiting for slow connections"
    REVOKED_CLOSED = _COUNTER, "connections closed because their user, token or session was revoked (4510)"
    SESSIONS = _GAUGE, "connections with an identity (guests too)"

    # broker
    PUBLICATIONS = _COUNTER, "publications ordered"
    PRIVATE_MESSAGES = _COUNTER, "private messages ordered"
    DUPLICATES = _COUNTER, "publications answered from the idempotency table"
    ROOMS_CURRENT = _GAUGE, "rooms that exist"
    MEMBERS_CURRENT = _GAUGE, "memberships: sessions in rooms, those in their grace too"
    ONLINE_USERS = _GAUGE, "users with at least one connection"
    USERS_REMEMBERED = _GAUGE, "users without a connection whose status is still known"
    HISTORY_BYTES = _GAUGE, "bytes of publications kept for recovery, in memory"
    HISTORY_SHELVED_BYTES = _GAUGE, "bytes of publications kept for recovery, in the journal alone"
    REPLAYS_MADE = _COUNTER, "times what a returning member had missed was read from a history"
    REPLAYS_SHARED = _COUNTER, "times another member who came from the same place was given the same"
    HISTORY_FETCHES = _COUNTER, "times old messages were read from the journal, once for all who ask at that time"
    HISTORY_FETCHES_FAILED = _COUNTER, "of these, times that they could not be read, or were not what was written"
    HISTORY_FORGONE = _COUNTER, "old messages let go before their room said so, because the journal was full"
    DEDUPE_ENTRIES = _GAUGE, "idempotency keys kept"

    # broker: the journal and the settings file
    JOURNAL_WRITING = (
        _GAUGE,
        "1 while messages can be stored; 0 without a data directory and when it cannot be written",
    )
    JOURNAL_BYTES = _GAUGE, "bytes of the journal's segments"
    JOURNAL_ENTRIES = _COUNTER, "entries written to the journal"
    JOURNAL_SYNCS = _COUNTER, "times the journal was brought to the disk"
    JOURNAL_FAILED = _COUNTER, "times storing had to stop because the disk refused"
    JOURNAL_BROKEN_AT = _COUNTER, "when a write to the journal failed last, monotonic ms"
    JOURNAL_DAMAGED = _COUNTER, "faults found in the journal at a start"
    SETTINGS_FAILED = _COUNTER, "times settings or sanctions could not be saved"
    SESSIONS_RESUMED = _COUNTER, "sessions that went on on another connection"
    SESSIONS_RESUMABLE = _GAUGE, "sessions without a connection that can still be resumed"
    REVOCATIONS = _GAUGE, "users and tokens that are revoked"
    INBOXES_WAITING = _GAUGE, "users without a connection for whom private messages wait"

    # shared tables
    LIMIT_SLOTS_LOST = _GAUGE, "users whose rate or admission could not be kept because the table was full"


# The errors sent to clients follow the named columns: one a code of the closed set.
ERROR_COLUMN: Mapping[ErrorCode, int] = {code: len(Metric) + n for n, code in enumerate(ErrorCode)}

# How often a limit of the broker was hit: one a name, as `broker.limits.EngineLimits` and its counters call it.
BROKER_LIMITS = (
    "rooms_max",
    "max_room_members",
    "max_rooms_per_user",
    "password_tries_max",
    "sanctions_max",
    "history_bytes_total_max",
    "replay_bytes_max",
    "fetched_bytes_max",
    "fetches_max",
    "parked_max",
    "dedupe_overflowed",
    "offline_users_max",
    "presence_state_max",
    "list_rooms_max",
    "inbox_size",
    "inboxes_max",
    "inboxes_per_sender_max",
    "level_unavailable",
    "positions_ahead",
    "resumable_max",
    "takeover_s",
    "views_bytes",
    "receipts_max",
    "receipts_room_max",
    "revocations_max",
    "facts_damaged",
    "fenced",
)
LIMIT_COLUMN: Mapping[str, int] = {name: len(Metric) + len(ERROR_COLUMN) + n for n, name in enumerate(BROKER_LIMITS)}
COLUMN_COUNT = len(Metric) + len(ERROR_COLUMN) + len(LIMIT_COLUMN)
GAUGES = tuple(metric for metric in Metric if metric.kind is Kind.GAUGE)


def column_names() -> list[str]:
    """The name of every column, in order, as figures are exported."""
    return [
        *(metric.name.lower() for metric in Metric),
        *(f"errors_{code.value}" for code in ErrorCode),
        *(f"limit_{name}" for name in BROKER_LIMITS),
    ]


# A process that has not beaten for this long is not well, whatever the supervisor has decided about it yet.
BEAT_STALE_MS = 3_000


def health_of(rows: Sequence[Sequence[int]], now_ms: int) -> str:
    """The node's status from all rows of the table: `healthy` only if the broker and as many workers as there should
    be are ready and beat.

    `draining` once the node is told to end; `starting` until every process has been ready for the first time; else
    `degraded`. A worker that drains because its successor serves already is missed by nobody. The supervisor's own row
    has its state and no beat: its death ends every other process.
    """
    node = rows[ROW_SUPERVISOR]
    if node[Metric.STATE] == State.DRAINING:
        return "draining"
    well = [row[Metric.STATE] == State.READY and now_ms - row[Metric.BEAT] < BEAT_STALE_MS for row in rows]
    if well[ROW_BROKER] and sum(well[ROW_FIRST_WORKER:]) >= node[Metric.WORKERS]:
        return "healthy"
    return "starting" if node[Metric.STATE] == State.STARTING else "degraded"


def total(rows: Iterable[Sequence[int]], column: int) -> int:
    return sum(row[column] for row in rows)
