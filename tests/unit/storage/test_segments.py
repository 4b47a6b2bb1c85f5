"""Segments: batches of any size, full ones, spares, what a sync covers, and what may go."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest
from helpers.disk import FailingFiles
from helpers.journals import SMALL, WALL, Scribe, shown

from tuskws_fast.storage.segments import JournalLimits, segment_name, segment_number


def names(path: Path) -> list[str]:
    return sorted(entry.name for entry in path.iterdir() if segment_number(entry.name) is not None)


def test_name_of_a_segment_is_its_number() -> None:
    assert segment_number(segment_name(17)) == 17
    assert segment_number("mark") is segment_number("x.seg") is segment_number("17") is None


def test_batch_larger_than_a_segment_goes_over_several(tmp_path: Path) -> None:
    with Scribe(tmp_path) as scribe:
        for n in range(40):
            scribe.publish("room", bytes([n]) * 300)
        scribe.commit()
        assert len(names(tmp_path)) > 3
        assert shown(scribe.recovered()) == scribe.model


def test_entry_larger_than_a_segment_gets_one_of_its_size(tmp_path: Path) -> None:
    with Scribe(tmp_path) as scribe:
        scribe.publish("room", b"x" * 3 * SMALL.segment_bytes)
        scribe.commit()
        scribe.publish("room", b"after")
        scribe.commit()
        assert shown(scribe.recovered()) == scribe.model


def test_space_of_a_segment_is_taken_when_it_is_made(tmp_path: Path) -> None:
    with Scribe(tmp_path) as scribe:
        scribe.segments.adopt_spare(scribe.segments.make_spare())
        assert all(path.stat().st_blocks * 512 >= SMALL.segment_bytes for path in tmp_path.glob("*[0-9]*"))


def test_short_is_known_while_there_is_room(tmp_path: Path) -> None:
    files = FailingFiles()
    with Scribe(tmp_path, files) as scribe:
        files.full()
        with pytest.raises(OSError) as caught:
            scribe.segments.make_spare()
        assert caught.value.errno == errno.ENOSPC
        while not scribe.segments.short:
            scribe.publish("room", b"x" * 100)
            scribe.commit()
        scribe.publish("room", b"x" * 100)
        scribe.commit()
        assert shown(scribe.recovered()) == scribe.model
        files.failing.clear()
        scribe.segments.adopt_spare(scribe.segments.make_spare())
        assert not scribe.segments.short


def test_failed_write_is_told_and_what_came_before_stands(tmp_path: Path) -> None:
    files = FailingFiles()
    with Scribe(tmp_path, files) as scribe:
        scribe.publish("room", b"one")
        scribe.commit()
        model = scribe.model_now()
        files.failing["write"] = errno.EIO
        scribe.publish("room", b"two")
        with pytest.raises(OSError):
            scribe.commit()
        recovered = scribe.recovered()
        assert shown(recovered) == model
        assert not recovered.damage


def test_second_spare_is_let_go(tmp_path: Path) -> None:
    with Scribe(tmp_path) as scribe:
        for _ in range(2):
            scribe.segments.adopt_spare(scribe.segments.make_spare())
        assert len(list(tmp_path.glob("spare-*"))) == 1


def test_sync_covers_what_was_committed_before_it(tmp_path: Path) -> None:
    with Scribe(tmp_path) as scribe:
        for n in range(30):
            scribe.publish("room", bytes([n]) * 300)
        scribe.commit()
        job = scribe.segments.begin_sync()
        assert job.number == scribe.segments.next_number - 1
        assert len(job.fds) == len(names(tmp_path))
        assert job.directory
        scribe.segments.run_sync(job)
        scribe.segments.end_sync(job)
        assert not scribe.segments.wants_sync
        again = scribe.segments.begin_sync()
        assert (len(again.fds), again.directory) == (1, False)


def test_oldest_can_go_when_all_are_too_many_and_nobody_needs_it(tmp_path: Path) -> None:
    with Scribe(tmp_path) as scribe:
        scribe.publish("quiet", b"still here")
        while scribe.segments.retirable(WALL, 0) is None:
            scribe.publish("busy", b"x" * 200)
            scribe.commit()
        oldest = scribe.segments.retirable(WALL, 0)
        assert oldest is not None
        assert scribe.segments.scopes_in(oldest.number) == ["quiet", "busy"]
        assert scribe.retire()
        assert oldest.path.name not in names(tmp_path)
        assert scribe.segments.scopes_in(oldest.number) == []
        assert shown(scribe.recovered()) == scribe.model


def test_more_is_kept_where_more_is_needed(tmp_path: Path) -> None:
    with Scribe(tmp_path) as scribe:
        while scribe.segments.retirable(WALL, 0) is None:
            scribe.publish("busy", b"x" * 200)
            scribe.commit()
        assert scribe.segments.retirable(WALL, 10 * SMALL.bytes_max) is None


def test_age_makes_a_segment_go_also_when_it_is_not_full(tmp_path: Path) -> None:
    limits = JournalLimits(4096, 1 << 30, 60.0)
    with Scribe(tmp_path, limits=limits) as scribe:
        scribe.segments.rotate_old(WALL + 100)
        assert names(tmp_path) == [segment_name(1)]  # nothing is in it
        scribe.publish("room", b"secret")
        scribe.commit()
        scribe.segments.rotate_old(WALL + 30)
        assert names(tmp_path) == [segment_name(1)]
        scribe.segments.rotate_old(WALL + 100)
        assert names(tmp_path) == [segment_name(1), segment_name(2)]
        assert scribe.segments.retirable(WALL + 130, 0) is None
        oldest = scribe.segments.retirable(WALL + 200, 0)
        assert oldest is not None
        assert oldest.number == 1
