"""The key of tickets: the same after a restart, the owner's alone, replaced when it is damaged."""

from __future__ import annotations

from pathlib import Path

import pytest

from tuskws_fast.errors import BootError
from tuskws_fast.storage.keys import FILE, KEY_BYTES, ticket_key


def test_key_is_made_once(tmp_path: Path) -> None:
    key = ticket_key(tmp_path)
    assert len(key) == KEY_BYTES
    assert ticket_key(tmp_path) == key
    assert (tmp_path / FILE).stat().st_mode & 0o777 == 0o600
    assert [path.name for path in tmp_path.iterdir()] == [FILE]


def test_what_is_no_key_is_replaced(tmp_path: Path) -> None:
    key = ticket_key(tmp_path)
    (tmp_path / FILE).write_bytes(key[:7])
    fresh = ticket_key(tmp_path)
    assert fresh != key
    assert ticket_key(tmp_path) == fresh


def test_directory_that_cannot_be_written_says_so(tmp_path: Path) -> None:
    with pytest.raises(BootError, match=FILE):
        ticket_key(tmp_path / "none")
