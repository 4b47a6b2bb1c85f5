"""Pages: small enough, complete, in order, and marked only where there are several."""

from tuskws_fast.broker import answers
from tuskws_fast.ipc.records import Level
from tuskws_fast.protocol import codec

HEAD = {"type": "room_joined", "room": "chat"}
NEXT = {"type": "history", "room": "chat"}
BODIES = [codec.encode({"n": n, "text": "x" * 100}) for n in range(20)]


def test_one_page_is_not_marked() -> None:
    (page,) = answers.pages(HEAD, NEXT, BODIES, 100_000)
    assert codec.decode(page) == {**HEAD, "messages": [codec.decode(body) for body in BODIES]}


def test_several_pages_hold_everything_once_in_order() -> None:
    pages = [codec.decode(page) for page in answers.pages(HEAD, NEXT, BODIES, 1_000)]
    assert [page["type"] for page in pages] == ["room_joined"] + ["history"] * (len(pages) - 1)
    assert [page["more"] for page in pages] == [True] * (len(pages) - 1) + [False]
    assert [entry["n"] for page in pages for entry in page["messages"]] == list(range(20))


def test_a_page_has_room_for_the_id_of_its_command() -> None:
    longest_id = "\u0001" * 64
    for page in answers.pages(HEAD, NEXT, BODIES, 1_000):
        assert len(codec.with_id(page, longest_id)) <= 1_000


def test_a_private_ack_tells_nothing_to_whom_it_must_not() -> None:
    hidden = codec.decode(answers.private_ack(3, -1, False, Level.ACCEPTED))
    assert hidden == {"type": "ack", "offset": 3, "level": "accepted"}
    assert codec.decode(answers.private_ack(3, 0, True, Level.STORED)) == {
        "type": "ack",
        "offset": 3,
        "level": "stored",
        "delivered": 0,
        "queued": True,
        "duplicate": True,
    }
