"""What a record from a ring must be for the engine to look at it."""

from __future__ import annotations

import pytest

from tuskws_fast.broker.shapes import asker_of, is_well_formed
from tuskws_fast.ipc.records import Announced, Leave, Publication, Resume, UpRecord

LEAVE = Leave(7, 8, "general")
RESUME = Resume(1, 2, 3, 4, 0, None, {})


def test_record_of_the_right_types_is_well_formed() -> None:
    assert is_well_formed(LEAVE)
    assert is_well_formed(RESUME)
    assert is_well_formed(Announced(0, 0))


@pytest.mark.parametrize(
    "record",
    [
        LEAVE._replace(room=5),  # type: ignore[arg-type]
        LEAVE._replace(tag="8"),  # type: ignore[arg-type]
        LEAVE._replace(tag=2**32),
        LEAVE._replace(tag=-1),
        LEAVE._replace(conn=-1),
        RESUME._replace(via=-1),
        RESUME._replace(tag=2**32),
        Publication(0, 1, "general", b"{}"),
    ],
    ids=repr,
)
def test_record_of_other_types_or_with_numbers_that_no_answer_can_repeat_is_not(record: UpRecord) -> None:
    assert not is_well_formed(record)


def test_asker_is_the_connection_that_there_is() -> None:
    assert asker_of(LEAVE) == (7, 8)
    assert asker_of(RESUME) == (3, 2)
    assert asker_of(Announced(0, 0)) is None
    assert asker_of(LEAVE._replace(tag=2**32 - 1)) == (7, 2**32 - 1)
    assert asker_of(LEAVE._replace(conn=2**64)) is None
