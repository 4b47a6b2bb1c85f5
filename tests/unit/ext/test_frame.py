"""Server frames against the layout of RFC 6455 §5.2, at the sizes where the header changes."""

import struct

import pytest
from tuskws_fast_ext.frame import Frame, control_frame

from tuskws_fast.protocol import codec


def header_of(size: int, opcode: int = 1) -> bytes:
    if size < 126:
        return bytes([0x80 | opcode, size])
    if size < 65536:
        return bytes([0x80 | opcode, 126]) + struct.pack("!H", size)
    return bytes([0x80 | opcode, 127]) + struct.pack("!Q", size)


@pytest.mark.parametrize("size", [0, 1, 125, 126, 127, 65535, 65536, 70000])
def test_header_has_the_minimal_length_form(size: int) -> None:
    body = b"x" * size
    assert Frame([body]).encoded() == header_of(size) + body


def test_several_messages_are_frames_one_after_the_other() -> None:
    bodies = [b"a", b"b" * 126, b""]
    frame = Frame(bodies)
    assert frame.encoded() == b"".join(header_of(len(body)) + body for body in bodies)
    assert frame.count == 3


def test_batch_form_is_one_frame_with_all_messages_in_order() -> None:
    wire = Frame([b'{"n":1}', b'{"n":2}'], 12.3456).encoded(batch=True)
    assert wire[:2] == header_of(len(wire) - 2)
    assert codec.decode(wire[2:]) == {"type": "batch", "messages": [{"n": 1}, {"n": 2}], "timestamp": 12.346}


def test_one_message_is_never_wrapped_into_a_batch() -> None:
    assert Frame([b'{"n":1}'], 1.0).encoded(batch=True) == Frame([b'{"n":1}']).encoded()


def test_control_frames_are_no_messages_and_at_most_125_bytes() -> None:
    frame = Frame.control(9, b"abc")
    assert frame.encoded() == frame.encoded(batch=True) == b"\x89\x03abc"
    assert frame.count == 0
    with pytest.raises(AssertionError):
        control_frame(8, b"x" * 126)
