"""Ring memory for tests: plain, and between guard pages where one byte too far is SIGSEGV."""

from __future__ import annotations

import ctypes
import mmap
import os
import struct
from collections.abc import Iterator
from contextlib import contextmanager

from tuskws_fast_ext import ring

from tuskws_fast.ipc.segment import Segment

# Where ring.h's picture has them, for tests that damage a ring on purpose.
AT_TAIL, AT_HEAD, AT_SLEEPING, AT_WAITING, AT_BUF = 128, 256, 384, 512, 768
PADDING = 0xFFFFFFFF
PROT_NONE = 0
RECORD = struct.Struct("<IIHHIQ")


@contextmanager
def ring_memory(capacity: int = 4096, generation: int = 1) -> Iterator[Segment]:
    segment = Segment.create("test-ring", ring.ring_bytes(capacity))
    ring.format_ring(segment.buffer, 0, capacity, generation)
    try:
        yield segment
    finally:
        # Not `segment.close()`: ends that the test still holds keep the memory, which goes with the last of them.
        if segment.fd >= 0:
            os.close(segment.fd)
            segment.fd = -1


def get_u64(buffer: memoryview, at: int) -> int:
    return int(struct.unpack_from("<Q", buffer, at)[0])


def put_u64(buffer: memoryview, at: int, value: int) -> None:
    struct.pack_into("<Q", buffer, at, value & 0xFFFFFFFFFFFFFFFF)


def record_bytes(payload: int) -> int:
    return (RECORD.size + payload + 7) & ~7


def forge(kind: int, payload: bytes, generation: int, seq: int, *, length: int | None = None) -> bytes:
    """A record with a right checksum, written by hand from the picture in ring.h (an oracle for the C code)."""
    n = len(payload) if length is None else length
    rest = struct.pack("<HHIQ", kind, 0, generation, seq)
    # The crc starts from ~len instead of ~0; CRC-32C of a prefix that leads there would do the same, so compute it
    # bit by bit: slow and plain.
    crc = ~n & 0xFFFFFFFF
    for byte in rest + payload:
        crc ^= byte
        for _ in range(8):
            crc = crc >> 1 ^ (0x82F63B78 if crc & 1 else 0)
    record = struct.pack("<II", n, ~crc & 0xFFFFFFFF) + rest + payload
    return record + bytes(-len(record) % 8)


@contextmanager
def guarded(n: int, *, at_end: bool) -> Iterator[ctypes.Array[ctypes.c_char]]:
    """`n` writable bytes with a page before and after that nobody may touch, flush against one of the two."""
    page = mmap.PAGESIZE
    inner = -(-n // page) * page
    libc = ctypes.CDLL(None, use_errno=True)
    libc.mmap.restype = ctypes.c_void_p
    libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_long]
    libc.mprotect.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
    libc.munmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t]
    base = libc.mmap(None, inner + 2 * page, mmap.PROT_READ, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS, -1, 0)
    assert base, "no memory for a guarded buffer"
    assert libc.mprotect(base, inner + 2 * page, PROT_NONE) == 0
    assert libc.mprotect(base + page, inner, mmap.PROT_READ | mmap.PROT_WRITE) == 0
    try:
        yield (ctypes.c_char * n).from_address(base + page + (inner - n if at_end else 0))
    finally:
        libc.munmap(base, inner + 2 * page)
