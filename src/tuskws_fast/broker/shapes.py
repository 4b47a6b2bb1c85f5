"""Is a record from a ring what its class says? `unpack_record` counted its fields, but did not look at their types.

Workers are ours and send what they should. But a broker that could be ended by one malformed record would take the
whole node with it, so the types are looked at once (0.8 us), here, and not in every place that relies on them. So are
the numbers that an answer repeats: a `Reply` has room for those that are connections and tags, not for any integer.
`Publish` is binary on the ring: its types are right by construction, and it is not asked about.
"""

from __future__ import annotations

from collections.abc import Mapping

from tuskws_fast.ipc import records
from tuskws_fast.ipc.records import DownRecord, UpRecord

_TEXT, _NUMBER, _TRUTH, _BYTES = (str,), (int,), (bool,), (bytes,)
_MAYBE = type(None)
_CONN_MAX, _TAG_MAX = 2**64 - 1, 2**32 - 1

_SHAPES: Mapping[type[object], tuple[tuple[type, ...], ...]] = {
    records.Attach: (
        _NUMBER,
        _TEXT,
        _TEXT,
        (list,),
        _NUMBER,
        _TEXT,
        _NUMBER,
        (list, _MAYBE),
        _NUMBER,
        (int, float),
        _TEXT,
    ),
    records.Resume: (_NUMBER, _NUMBER, _NUMBER, _NUMBER, _NUMBER, (list, _MAYBE), (dict,)),
    records.Detach: (_NUMBER, _TRUTH),
    records.Join: (_NUMBER, _NUMBER, _NUMBER, _TEXT, (str, _MAYBE), (tuple, _MAYBE), (int, _MAYBE)),
    records.Leave: (_NUMBER, _NUMBER, _TEXT),
    records.Private: (_NUMBER, _NUMBER, _NUMBER, _NUMBER, _TRUTH, _TEXT, _TEXT, _BYTES),
    records.Call: (_NUMBER, _NUMBER, _NUMBER, _TEXT, (dict,)),
    records.All: (_NUMBER, _BYTES),
    records.Recover: (_TEXT, _TEXT, _NUMBER),
    records.Restore: (_NUMBER, _TEXT, _TEXT, _NUMBER, _NUMBER),
    records.Kept: (_TEXT, _NUMBER, (object,)),
    records.Seen: (_TEXT, _TEXT, _NUMBER, _NUMBER, _TEXT, _NUMBER, _NUMBER),
    records.Announced: (_NUMBER, _NUMBER),
    records.Confirm: (_NUMBER, _TEXT, _NUMBER),
}


def is_well_formed(record: UpRecord | DownRecord) -> bool:
    """False also for a record that never goes up."""
    shape = _SHAPES.get(type(record))
    return (
        shape is not None
        and all(map(isinstance, record, shape))
        and (not hasattr(record, "tag") or asker_of(record) is not None)
    )


def asker_of(record: UpRecord | DownRecord) -> tuple[int, int] | None:
    """Whom to answer, as (connection, tag); None where the record asks nothing, or its numbers cannot be these."""
    # Who asks to resume still has the number `via`.
    conn = record.via if isinstance(record, records.Resume) else getattr(record, "conn", None)
    tag = getattr(record, "tag", None)
    if isinstance(conn, int) and isinstance(tag, int) and 0 <= conn <= _CONN_MAX and 0 <= tag <= _TAG_MAX:
        return conn, tag
    return None
