"""One node a directory."""

from __future__ import annotations

import os
import threading
from pathlib import Path

import pytest

from tuskws_fast.errors import BootError, ConfigError
from tuskws_fast.storage.directory import boot_id, claim


def test_directory_is_made_for_its_owner_alone_and_claimed_once(tmp_path: Path) -> None:
    directory = tmp_path / "a" / "data"
    lock = claim(directory)
    assert directory.stat().st_mode & 0o777 == 0o700
    assert (directory / "journal").is_dir()
    with pytest.raises(BootError, match="in use by another node"):
        claim(directory, patience_s=0.0)
    os.close(lock)
    os.close(claim(directory))


def test_lock_of_a_node_that_is_just_ending_is_waited_for(tmp_path: Path) -> None:
    lock = claim(tmp_path)
    ending = threading.Timer(0.1, os.close, (lock,))
    ending.start()
    os.close(claim(tmp_path))
    ending.join()


def test_what_cannot_be_a_directory_is_an_error_of_the_configuration(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="--data-dir none"):
        claim(tmp_path / "file")


def test_boot_has_one_name() -> None:
    assert len(boot_id()) == 16
    assert boot_id() == boot_id()
