"""Items are counted as they would be decoded: those of strings are text."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tuskws_fast_ext.items import has_more_items

from tuskws_fast.protocol import codec


def items(value: Any) -> int:
    """What `has_more_items` counts, of a decoded value: lists, objects, and all entries but the first."""
    if isinstance(value, dict):
        return 1 + max(0, len(value) - 1) + sum(map(items, value.values()))
    if isinstance(value, list):
        return 1 + max(0, len(value) - 1) + sum(map(items, value))
    return 0


VALUES = st.recursive(
    st.none() | st.integers(-9, 9) | st.text('a,:[{}]"\\\n', max_size=6),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(',:"\\x', max_size=3), inner, max_size=4),
    max_leaves=12,
)


@given(VALUES)
def test_as_many_as_there_are_to_decode(value: Any) -> None:
    text = codec.encode(value)
    count = items(value)
    assert not has_more_items(text, count)
    assert count == 0 or has_more_items(text, count - 1)


@pytest.mark.parametrize("text", [b"", b'"', b'"\\', b'"\\"', b"\\", b'"\\",,,,'])
def test_what_is_cut_short_is_counted_to_its_end(text: bytes) -> None:
    assert not has_more_items(text, 0)
