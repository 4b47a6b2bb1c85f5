"""Escaping at delivery: the messages only, at any depth, and nothing else of a push."""

from tuskws_fast.protocol import codec
from tuskws_fast.protocol.escaping import escape_body


def escaped(value: object) -> object:
    return codec.decode(escape_body(codec.encode(value)))


def test_strings_at_any_depth_of_the_message_and_nothing_else() -> None:
    push = {"type": "room_message", "from": "<u>", "message": {"a": ["<b>&\"'", 1]}}
    assert escaped(push) == {**push, "message": {"a": ["&lt;b&gt;&amp;&quot;&#x27;", 1]}}


def test_replayed_history_is_escaped_like_the_push_it_was() -> None:
    entry = {"type": "room_message", "message": "<i>", "from": "u"}
    assert escaped({"type": "history", "messages": [entry]}) == {
        "type": "history", "messages": [{**entry, "message": "&lt;i&gt;"}],
    }  # fmt: skip


def test_an_error_text_is_the_servers_own() -> None:
    assert escaped({"type": "error", "message": "a & b"}) == {"type": "error", "message": "a & b"}
