"""Server frames against the layout of RFC 6455 §5.2, at the sizes where the header changes."""

import struct

import pytest
from helpers.raw import inflated
from tuskws_fast_ext.deflate import Deflater, Scratch
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


def test_the_compressed_form_marks_its_first_frame_and_short_messages_stay_as_they_are() -> None:
    deflater = Deflater(Scratch(), 1, 256)
    long, short = b'{"message":"%b"}' % (b"ab" * 300), b'{"n":1}'
    frame = Frame([long, short])
    wire = frame.encoded(False, deflater)
    size = wire[1]
    assert wire[0] == 0xC1
    assert inflated(wire[2 : 2 + size]) == long
    assert wire[2 + size :] == Frame([short]).encoded()
    assert frame.encoded() == Frame([long, short]).encoded()


def test_the_batch_form_is_compressed_as_the_one_message_that_it_is() -> None:
    deflater = Deflater(Scratch(), 1, 100)
    frame = Frame([b'{"message":"%d"}' % n for n in range(20)], 12.0)
    wire = frame.encoded(True, deflater)
    assert wire[:2] == bytes([0xC1, len(wire) - 2])
    assert inflated(wire[2:]) == frame.encoded(True)[4:]


def test_nothing_worth_compressing_is_the_same_bytes_for_all() -> None:
    deflater = Deflater(Scratch(), 1, 256)
    for frame in (Frame([b"x" * 255]), Frame([bytes(range(256))]), Frame.control(9, b"x" * 125)):
        assert frame.encoded(False, deflater) is frame.encoded()
