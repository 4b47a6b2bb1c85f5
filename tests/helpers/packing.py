"""The slow twins of `ext/records`: the three binary records, packed and read as their pictures there say."""

from __future__ import annotations

import struct

from tuskws_fast.ipc.records import Publication, Publish, Reply

_PUBLISH = struct.Struct("<QIHBBHH")
_PUBLICATION = struct.Struct("<QQH")
_REPLY = struct.Struct("<QIB")


def pack_slowly(record: Publish | Publication | Reply) -> bytes:
    if isinstance(record, Publish):
        conn, tag, rights, level, echo, quiet, room, key, body, server, receipt = record
        name, key_bytes = room.encode(), key.encode()
        flags = echo | quiet << 1 | server << 2 | receipt << 3
        return _PUBLISH.pack(conn, tag, rights, level, flags, len(name), len(key_bytes)) + name + key_bytes + body
    if isinstance(record, Publication):
        name = record.room.encode()
        return _PUBLICATION.pack(record.exclude, record.offset, len(name)) + name + record.body
    return _REPLY.pack(record.conn, record.tag, record.ok | record.last << 1) + record.body


def unpack_slowly(
    cls: type[Publish] | type[Publication] | type[Reply], payload: bytes
) -> Publish | Publication | Reply | None:
    """None for what cannot be one."""
    try:
        if cls is Publish:
            conn, tag, rights, level, flags, n, k = _PUBLISH.unpack_from(payload)
            name, key, body = _cut(payload[_PUBLISH.size :], n, k)
            truths = [bool(flags & bit) for bit in (1, 2, 4, 8)]
            return Publish(conn, tag, rights, level, *truths[:2], name, key, body, *truths[2:])
        if cls is Publication:
            exclude, offset, n = _PUBLICATION.unpack_from(payload)
            name, _, body = _cut(payload[_PUBLICATION.size :], n, 0)
            return Publication(exclude, offset, name, body)
        conn, tag, flags = _REPLY.unpack_from(payload)
        return Reply(conn, tag, bool(flags & 1), payload[_REPLY.size :], bool(flags & 2))
    except (struct.error, ValueError):
        return None


def _cut(rest: bytes, n: int, k: int) -> tuple[str, str, bytes]:
    if n + k > len(rest):
        raise ValueError("cut short")
    return rest[:n].decode(), rest[n : n + k].decode(), rest[n + k :]
