"""Old publications are found in whatever segment they are, and what cannot be proven is not given."""

from __future__ import annotations

from pathlib import Path

import pytest
from helpers.journals import Scribe

from tuskws_fast.rooms.shelf import Chunk
from tuskws_fast.storage.files import Files
from tuskws_fast.storage.lookup import look_up

COUNT = 200


@pytest.fixture
def scribe(tmp_path: Path) -> Scribe:
    """Segments of 4 KiB with three rooms in them, one of which was there before under the same name."""
    scribe = Scribe(tmp_path)
    scribe.publish("room", b"of another life")
    scribe.end("room")
    for n in range(1, COUNT + 1):
        scribe.publish("room", b"message %d" % n)
        scribe.publish("roo", b"of a shorter name %d" % n)
        scribe.publish("other", b"x" * (n % 90))
        if n % 7 == 0:
            scribe.commit()
    scribe.commit()
    return scribe


def chunk(first: int, last: int) -> tuple[int, int, int]:
    return first, last, Chunk.crc_of(b"message %d" % n for n in range(first, last + 1))


def bodies(scribe: Scribe, *chunks: tuple[int, int, int], first_segment: int = 0) -> list[bytes] | None:
    found = look_up(Files(), scribe.segments.paths(first_segment), "room", chunks)
    return None if found is None else [body for _, body in found]


def test_chunks_of_any_place_are_found(scribe: Scribe) -> None:
    assert len(scribe.segments.sealed) > 3
    assert bodies(scribe, chunk(1, 50), chunk(51, 60)) == [b"message %d" % n for n in range(1, 61)]
    assert bodies(scribe, chunk(120, 200)) == [b"message %d" % n for n in range(120, 201)]


def test_what_is_said_again_by_a_snapshot_counts_as_well(scribe: Scribe) -> None:
    oldest = scribe.segments.sealed[0].number
    scribe.snapshot("room", keep=150)
    scribe.commit()
    (scribe.directory / f"{oldest:016d}.seg").unlink()
    assert bodies(scribe, chunk(51, 200)) == [b"message %d" % n for n in range(51, 201)]
    assert bodies(scribe, chunk(1, 200)) is None


def test_what_is_not_what_was_put_there_is_not_given(scribe: Scribe) -> None:
    first, last, crc = chunk(1, 50)
    assert bodies(scribe, (first, last, crc ^ 1)) is None
    assert bodies(scribe, (COUNT - 5, COUNT + 5, 0)) is None


def test_damage_costs_what_it_hit_and_what_is_behind_it_is_still_found(scribe: Scribe) -> None:
    path = scribe.segments.sealed[1].path
    data = bytearray(path.read_bytes())
    at = data.index(b"message ", 1_000)
    number = int(data[at + 8 : data.index(b"\0", at)])
    # The length of the frame before it: who follows lengths alone is led astray here.
    data[at - 120 : at - 60] = b"\xff" * 60
    path.write_bytes(bytes(data))
    assert bodies(scribe, chunk(1, number - 5)) == [b"message %d" % n for n in range(1, number - 4)]
    assert bodies(scribe, chunk(number + 5, COUNT)) == [b"message %d" % n for n in range(number + 5, COUNT + 1)]
    assert bodies(scribe, chunk(number - 5, number + 5)) is None


@pytest.mark.parametrize("cut", [0, 1, 127, 128, 140, 1_000])
def test_short_files_are_no_reason_to_fail(scribe: Scribe, cut: int) -> None:
    path = scribe.segments.sealed[0].path
    path.write_bytes(path.read_bytes()[:cut])
    assert bodies(scribe, chunk(1, 30)) is None
    assert bodies(scribe, chunk(150, 160)) == [b"message %d" % n for n in range(150, 161)]
