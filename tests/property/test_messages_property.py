"""Whatever JSON a client sends, `check` passes or raises `MessageFault`; what it passed, it passes again unchanged."""

from __future__ import annotations

import copy
from typing import Any

from helpers.commands import EXAMPLES, positions, with_value
from hypothesis import given
from hypothesis import strategies as st

from tuskws_fast.protocol.messages import COMMANDS, MessageFault, check

SCALARS = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=140)
JSON = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=9), inner, max_size=4)
)
FIELDS = sorted({field.name for command in COMMANDS.values() for field in command.fields} | {"id"})


def passes(command: dict[str, Any]) -> bool:
    try:
        check(command)
    except MessageFault:
        return False
    return True


def is_stable(command: dict[str, Any]) -> None:
    if passes(command):
        once = copy.deepcopy(command)
        assert passes(command)
        assert repr(command) == repr(once)


@given(st.sampled_from(sorted(COMMANDS)) | JSON, st.dictionaries(st.sampled_from(FIELDS), JSON))
def test_any_fields_in_any_command(kind: object, fields: dict[str, Any]) -> None:
    is_stable({**fields, "type": kind})


@given(st.data())
def test_any_value_at_any_position_of_a_valid_command(data: st.DataObject) -> None:
    example = EXAMPLES[data.draw(st.sampled_from(sorted(EXAMPLES)))]
    path = data.draw(st.sampled_from([path for path in positions(example) if path]))
    is_stable(with_value(example, path, data.draw(JSON)))
