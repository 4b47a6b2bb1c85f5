"""The settings file: what was saved is there, what was damaged is told."""

from __future__ import annotations

import random
import shutil
import sqlite3
from pathlib import Path

import pytest

from tuskws_fast.storage.settings import FILE, MARK, SettingsError, SettingsFile

BOOT = b"this boot of it."
FACTS = [("room\nchat", {"creator": "ann"}), ("ban\nchat\nbob", {"until": None}), ("ban\nchat\ncarl", {"until": 1.5})]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / FILE


def saved(path: Path) -> None:
    file = SettingsFile(path)
    file.open()
    file.save(FACTS)
    file.sync()
    file.close()


def test_what_was_saved_is_there(path: Path) -> None:
    saved(path)
    file = SettingsFile(path)
    facts = file.open()
    assert facts.values == dict(FACTS)
    assert (facts.lost, facts.damaged) == (False, 0)
    file.save([("ban\nchat\nbob", None), ("room\nchat", {"creator": "eve"}), ("never", None)])
    file.close()
    facts = SettingsFile(path).open()
    assert facts.values == {"room\nchat": {"creator": "eve"}, "ban\nchat\ncarl": {"until": 1.5}}
    assert not facts.lost


def test_it_survives_without_being_closed(path: Path) -> None:
    file = SettingsFile(path)
    file.open()
    file.save(FACTS)
    copy = path.with_name("copy.db")
    copy.write_bytes(path.read_bytes())
    copy.with_name("copy.db-wal").write_bytes(path.with_name(FILE + "-wal").read_bytes())
    assert SettingsFile(copy).open().values == dict(FACTS)


def test_it_is_readable_by_its_owner_alone(path: Path) -> None:
    saved(path)
    assert path.stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize(
    "statement",
    [
        "DELETE FROM fact WHERE key = 'ban' || char(10) || 'chat' || char(10) || 'bob'",
        "UPDATE fact SET value = '{\"until\":99}' WHERE key LIKE 'ban%carl'",
        "UPDATE fact SET key = 'ban' || char(10) || 'chat' || char(10) || 'dob' WHERE key LIKE 'ban%bob'",
        "UPDATE fact SET crc = 0 WHERE key LIKE 'room%'",
        "DELETE FROM fact WHERE key NOT LIKE 'room%'",
    ],
)
def test_row_that_says_something_else_or_is_gone_is_told(path: Path, statement: str) -> None:
    saved(path)
    connection = sqlite3.connect(path)
    connection.execute(statement)
    connection.commit()
    connection.close()
    facts = SettingsFile(path).open()
    assert facts.lost
    assert all(value in (None, dict(FACTS).get(key)) for key, value in facts.values.items())


def test_flipped_bits_never_give_other_facts_and_never_go_unnoticed(path: Path) -> None:
    saved(path)
    content = path.read_bytes()
    chance = random.Random(5)
    for _ in range(300):
        at, bit = chance.randrange(len(content)), chance.randrange(8)
        path.write_bytes(content[:at] + bytes([content[at] ^ 1 << bit]) + content[at + 1 :])
        file = SettingsFile(path)
        facts = file.open()
        file.close()
        assert all(value in (None, dict(FACTS).get(key)) for key, value in facts.values.items())
        assert facts.lost or facts.values == dict(FACTS)
        for left in path.parent.iterdir():
            left.unlink()


@pytest.mark.parametrize("synced", [True, False])
def test_flipped_bits_in_the_log_of_a_killed_process_lose_no_fact_without_a_word(path: Path, synced: bool) -> None:
    file = SettingsFile(path, BOOT)
    file.open()
    for fact in FACTS:
        file.save([fact])
    if synced:
        file.sync()
    log, mark = path.with_name(FILE + "-wal"), path.with_name(MARK)
    files = {each: each.read_bytes() for each in (path, log, mark)}
    chance = random.Random(6)
    lost = 0
    for number in range(300):
        place = path.parent / str(number)
        place.mkdir()
        victim = log if number % 3 else mark
        for each, content in files.items():
            data = bytearray(content)
            if each == victim:
                data[chance.randrange(len(data))] ^= 1 << chance.randrange(8)
            (place / each.name).write_bytes(data)
        found = SettingsFile(place / FILE, BOOT)
        facts = found.open()
        assert facts.lost or facts.values == dict(FACTS)
        lost += facts.lost
        # Told once, and then what is saved counts again.
        found.save([("room\nother", {})])
        found.close()
        again = SettingsFile(place / FILE, BOOT)
        assert not again.open().lost
        again.close()
    assert lost > 50
    file.close()


def test_what_a_loss_of_power_took_before_it_was_synced_is_no_damage(path: Path) -> None:
    file = SettingsFile(path, BOOT)
    file.open()
    file.save(FACTS[:1])
    file.sync()
    left = path.parent / "left"
    left.mkdir()
    log = path.with_name(FILE + "-wal")
    for each in (path, log):
        (left / each.name).write_bytes(each.read_bytes())
    file.save(FACTS[1:])
    (left / MARK).write_bytes(path.with_name(MARK).read_bytes())
    file.close()
    for boot, lost in ((BOOT, True), (bytes(16), False)):
        place = path.parent / boot.hex()
        shutil.copytree(left, place)
        found = SettingsFile(place / FILE, boot)
        facts = found.open()
        assert (facts.values, facts.lost) == (dict(FACTS[:1]), lost)
        found.close()


def test_mark_that_cannot_be_written_is_an_error_and_is_made_good_by_the_next_sync(path: Path) -> None:
    file = SettingsFile(path)
    file.open()
    path.with_name(MARK).mkdir()
    file.save(FACTS)
    with pytest.raises(IsADirectoryError):
        file.sync()
    assert file.unsynced
    path.with_name(MARK).rmdir()
    file.sync()
    assert not file.unsynced
    file.close()
    facts = SettingsFile(path).open()
    assert (facts.values, facts.lost) == (dict(FACTS), False)


def test_what_one_process_saved_and_did_not_sync_is_synced_by_the_next(path: Path) -> None:
    killed = SettingsFile(path)
    killed.open()
    killed.save(FACTS)
    assert killed.unsynced
    left = path.parent / "left"
    left.mkdir()
    for each in (path, path.with_name(FILE + "-wal")):
        (left / each.name).write_bytes(each.read_bytes())
    file = SettingsFile(left / FILE)
    assert file.open().values == dict(FACTS)
    assert file.unsynced
    file.sync()
    assert not file.unsynced
    killed.close()
    file.close()


def test_database_that_is_gone_is_lost(path: Path) -> None:
    saved(path)
    path.unlink()
    assert SettingsFile(path).open().lost


def test_file_that_is_no_database_is_set_aside(path: Path) -> None:
    path.write_bytes(b"not a database at all" * 100)
    file = SettingsFile(path)
    assert file.open().lost
    file.save(FACTS)
    file.close()
    assert path.with_suffix(".damaged").exists()
    assert SettingsFile(path).open().values == dict(FACTS)


def test_file_whose_schema_is_not_even_text_is_set_aside(path: Path) -> None:
    saved(path)
    path.write_bytes(path.read_bytes().replace(b"CREATE TABLE fact (key", b"CREATE TABLE fact \xd5key"))
    file = SettingsFile(path)
    facts = file.open()
    assert (facts.values, facts.lost) == ({}, True)
    file.close()
    assert path.with_suffix(".damaged").exists()


def test_file_that_cannot_be_opened_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(SettingsError):
        SettingsFile(tmp_path / "missing" / FILE).open()


def test_nothing_of_a_failed_save_is_there(path: Path) -> None:
    file = SettingsFile(path)
    file.open()
    file.save(FACTS)
    with pytest.raises(TypeError):
        file.save([("new", {"a": 1}), ("bad", object())])
    file.save([("newer", {})])
    file.close()
    facts = SettingsFile(path).open()
    assert facts.values == {**dict(FACTS), "newer": {}}
    assert not facts.lost
