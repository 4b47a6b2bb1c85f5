"""`scripts/ringcat` on the memory of this very process: what it prints, and that printing changes nothing."""

from __future__ import annotations

import os
import struct
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from helpers.rings import AT_BUF, AT_TAIL

from tuskws_fast.ipc.link import Link, format_link, link_bytes
from tuskws_fast.ipc.records import Leave, Publication, Publish, Reply
from tuskws_fast.ipc.segment import Segment

RINGCAT = Path(__file__).parents[2] / "scripts" / "ringcat"
CAPACITY = 65536
UP = [Leave(1, 2, "general"), Publish(1, 3, 0, 0, True, False, "caf\u00e9", "k", b'{"type":"room_message"', False)]
DOWN = [Reply(1, 2, True, b'{"type":"room_left"}'), Publication(0, 9, "general", b'{"offset":9}')]


def ringcat(*arguments: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, RINGCAT, *map(str, arguments)], capture_output=True, text=True, timeout=30, check=False
    )


@pytest.fixture
def segment() -> Iterator[Segment]:
    made = Segment.create("test-ringcat", link_bytes(CAPACITY, CAPACITY))
    format_link(made, 7, CAPACITY, CAPACITY)
    worker, broker = Link(made, "worker", -1, -1), Link(made, "broker", -1, -1)
    for record in UP:
        worker.send(record)
    for record in DOWN:
        broker.send(record)
    worker.flush()
    broker.flush()
    worker.close()
    broker.close()
    yield made
    made.close()


def test_a_live_segment_shows_headers_types_and_payloads(segment: Segment) -> None:
    done = ringcat("--pid", os.getpid(), "--fd", segment.fd)
    assert (done.returncode, done.stderr) == (0, "")
    assert "ring at 0 (up: worker to broker)" in done.stdout
    assert done.stdout.count("generation 7, capacity 65536, head 0, tail ") == 2
    assert '[1,2,"general"]' in done.stdout
    assert "PUBLISH" in done.stdout
    assert "room='caf\u00e9', key='k'" in done.stdout
    assert "REPLY" in done.stdout
    assert "PUBLICATION" in done.stdout
    assert "offset=9, room='general'" in done.stdout


def test_printing_consumes_nothing(segment: Segment) -> None:
    before = bytes(segment.buffer)
    ringcat("--pid", os.getpid(), "--fd", segment.fd)
    assert bytes(segment.buffer) == before


def test_the_segments_of_a_process_are_listed_once_each(segment: Segment) -> None:
    done = ringcat("--pid", os.getpid())
    assert done.returncode == 0
    (line,) = [line for line in done.stdout.splitlines() if "tuskws-test-ringcat" in line]
    assert line.split()[0] == str(segment.fd)
    assert line.count("generation 7") == 2


def test_a_copy_shows_the_same_when_the_processes_are_long_gone(segment: Segment, tmp_path: Path) -> None:
    copy = tmp_path / "segment"
    live = ringcat("--pid", os.getpid(), "--fd", segment.fd, "--save", copy)
    assert copy.read_bytes() == bytes(segment.buffer)
    assert ringcat(copy).stdout == live.stdout


def test_a_damaged_record_is_named_and_the_next_is_shown(segment: Segment, tmp_path: Path) -> None:
    segment.buffer[AT_BUF + 30] ^= 1
    copy = tmp_path / "segment"
    copy.write_bytes(segment.buffer)
    done = ringcat(copy)
    assert done.returncode == 1
    assert "! a record's checksum is wrong" in done.stdout
    assert "PUBLISH" in done.stdout


@pytest.mark.parametrize(
    ("at", "value", "says"),
    [
        (0, 0, "ring at 66304"),
        (16, 3, "no ring of version"),
        (16, 2**29, "longer than the memory"),
        (AT_TAIL, 2**63, "no part of a ring"),
        (24, 2**40, "another generation"),
    ],
)
def test_a_damaged_header_does_not_hide_the_other_ring(
    segment: Segment, tmp_path: Path, at: int, value: int, says: str
) -> None:
    struct.pack_into("<Q", segment.buffer, at, value)
    copy = tmp_path / "segment"
    copy.write_bytes(segment.buffer)
    done = ringcat(copy)
    assert says in done.stdout
    assert "PUBLICATION" in done.stdout, "the down ring is whole"
    assert done.stderr == ""


def test_what_is_no_segment_is_said_so(tmp_path: Path) -> None:
    noise = tmp_path / "noise"
    noise.write_bytes(os.urandom(10_000))
    done = ringcat(noise)
    assert (done.returncode, done.stderr) == (1, "")
    assert "without a ring" in done.stdout
    read_end, write_end = os.pipe()
    for arguments in ((tmp_path / "none",), ("--pid", 2**22 + 1), ("--pid", os.getpid(), "--fd", read_end)):
        done = ringcat(*arguments)
        assert done.returncode == 1
        assert done.stderr.startswith("ringcat: ")
        assert "Traceback" not in done.stderr
    os.close(read_end)
    os.close(write_end)
    assert ringcat("--fd", 3).returncode == 2
