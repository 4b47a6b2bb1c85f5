"""What the files prove. (Everything that can happen to them by chance: tests/property/test_journal_property.py.)"""

from __future__ import annotations

from pathlib import Path

from helpers.journals import OTHER_BOOT, Scribe, shown

from tuskws_fast.storage.files import Files
from tuskws_fast.storage.recovery import DAMAGED, recover, set_aside
from tuskws_fast.storage.segments import segment_name


def flip(path: Path, wanted: bytes) -> None:
    content = bytearray(path.read_bytes())
    content[content.index(wanted)] ^= 1
    path.write_bytes(bytes(content))


def test_empty_directory_is_a_beginning(tmp_path: Path) -> None:
    found = recover(Files(), tmp_path, b"", b"", 0.0)
    assert (found.scopes, found.next_number, found.next_segment, found.rewrite) == ({}, 1, 1, False)


def test_spares_of_the_dead_are_removed(tmp_path: Path) -> None:
    with Scribe(tmp_path) as scribe:
        scribe.segments.adopt_spare(scribe.segments.make_spare())
        scribe.recovered()
        assert list(tmp_path.glob("spare-*")) == []


def test_ids_come_back_within_their_time_and_number(tmp_path: Path) -> None:
    with Scribe(tmp_path) as scribe:
        for n in range(5):
            scribe.publish("room", b"body", key=f"k{n}")
        scribe.commit()
        assert [each.key for each in scribe.recovered().ids] == ["k0", "k1", "k2", "k3", "k4"]
        found = recover(Files(), tmp_path, b"b" * 16, b"r" * 16, 0.0, ids_max=2)
        assert [each.key for each in found.ids] == ["k3", "k4"]
        assert scribe.recovered(remember_after=2e9).ids == []
        scribe.end("room")
        scribe.commit()
        assert scribe.recovered().ids == []


def test_commands_are_known_in_their_run_only(tmp_path: Path) -> None:
    with Scribe(tmp_path) as scribe:
        scribe.publish("room", b"body", conn=77, tag=5)
        scribe.publish("room", b"quiet", conn=77)
        scribe.commit()
        assert [(conn, tag) for conn, tag in scribe.recovered().origins] == [(77, 5)]
        assert recover(Files(), tmp_path, b"b" * 16, b"another run     ", 0.0).origins == {}


def test_scope_that_goes_on_after_a_hole_is_proven_and_the_others_are_not(tmp_path: Path) -> None:
    with Scribe(tmp_path) as scribe:
        for body in (b"one", b"two", b"three"):
            scribe.publish("hurt", body)
            scribe.publish("goes on", body)
            scribe.publish("silent", body)
        scribe.confirm("silent")
        scribe.publish("hurt", b"lost")
        scribe.publish("goes on", b"four")
        scribe.commit()
        flip(tmp_path / segment_name(1), b"lost")
        found = scribe.recovered()
        assert found.damage
        renewed = {scope for scope, state in found.scopes.items() if state.renew}
        assert renewed == {"hurt", "silent"}
        assert shown(found)["goes on"] == scribe.model["goes on"]


def test_newer_part_is_kept_within_a_boot_and_the_older_after_a_loss_of_power(tmp_path: Path) -> None:
    with Scribe(tmp_path) as scribe:
        for body in (b"one", b"two", b"three"):
            scribe.publish("room", body, key=f"key of {body.decode()}")
        scribe.commit()
        flip(tmp_path / segment_name(1), b"two")
        newer = scribe.recovered()
        assert list(shown(newer)["room"].kept.values()) == [b"three"]
        assert [each.offset for each in newer.ids] == [1, 3]
        older = scribe.recovered(OTHER_BOOT)
        room = shown(older)["room"]
        assert (room.top, list(room.kept.values())) == (1, [b"one"])
        # Offset 3 will be another message's.
        assert [each.offset for each in older.ids] == [1]


def test_missing_segment_and_missing_end_are_told(tmp_path: Path) -> None:
    with Scribe(tmp_path) as scribe:
        for n in range(40):
            scribe.publish("room", bytes([n]) * 300)
        scribe.commit()
        (tmp_path / segment_name(2)).rename(tmp_path / "elsewhere")
        found = scribe.recovered()
        assert found.damage
        assert found.scopes["room"].top == 40
        (tmp_path / "elsewhere").rename(tmp_path / segment_name(2))
        (tmp_path / segment_name(scribe.segments.current)).unlink()
        found = scribe.recovered()
        assert found.damage
        assert found.scopes["room"].renew
        assert found.next_number > scribe.segments.next_number - 1


def test_damaged_segments_are_set_aside_in_place_of_older_ones(tmp_path: Path) -> None:
    with Scribe(tmp_path) as scribe:
        scribe.publish("room", b"body")
        scribe.commit()
        aside = tmp_path / DAMAGED
        aside.mkdir()
        (aside / "old").write_text("")
        assert set_aside(Files(), tmp_path, scribe.recovered().sealed) == aside
        assert [path.name for path in aside.iterdir()] == [segment_name(1)]


def test_incomplete_snapshot_changes_nothing(tmp_path: Path) -> None:
    with Scribe(tmp_path) as scribe:
        for body in (b"one", b"two"):
            scribe.publish("room", body)
        scribe.commit()
        model = scribe.model_now()
        scribe.snapshot("room", keep=1)
        del scribe.batch[-1]  # killed before its end was written
        scribe.commit()
        found = scribe.recovered()
        assert shown(found) == model
        assert not found.damage


def test_scopes_whose_beginning_was_retired_are_proven_by_their_snapshots(tmp_path: Path) -> None:
    with Scribe(tmp_path) as scribe:
        for n in range(40):
            for room in ("busy", "other"):
                scribe.publish(room, bytes([n]) * 100)
            scribe.commit()
        assert scribe.retire()
        assert (tmp_path / segment_name(2)).exists(), "entries from before the snapshots are still there"
        found = scribe.recovered()
        assert (found.damage, found.power_lost) == ([], False)
        assert shown(found) == scribe.model
        assert not any(state.renew for state in found.scopes.values())
        # Without the snapshots nothing says what came before.
        (tmp_path / segment_name(scribe.segments.current)).unlink()
        assert any("beginning" in line for line in scribe.recovered().damage)
