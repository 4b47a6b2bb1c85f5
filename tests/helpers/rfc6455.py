"""RFC 6455 as a server should read it: slow, plain, and written from the text, not from our code. An oracle for tests.

    reading = Reading(Bounds(frame_max=1024, message_max=1024))
    reading.feed(segment) …      each as it came from the network
    reading.segments             of each segment what it meant, in order: `Message`, `Ping`, `Pong`, last a `Close`

Where the RFC leaves a choice, `Close.codes` holds every code that is right. A peer's proper Close appears as
`Close(reply=…)` with the payload that must be answered; any other Close is one that we must send. Nothing follows a
Close: what stands behind it is not looked at, not even to find it wrong (§5.5.1, §7.1.7).

`client_frame` is the other direction: the bytes of a frame, legal or with any of its parts wrong.
"""

from __future__ import annotations

from dataclasses import dataclass, field

CONTINUATION, TEXT, BINARY, CLOSE, PING, PONG = 0, 1, 2, 8, 9, 10
OPCODES = frozenset({CONTINUATION, TEXT, BINARY, CLOSE, PING, PONG})
FRAGMENTS_MAX = 1024
# RFC 6455 §7.4.1 and the registry: 1004, 1005, 1006, 1015 must never be sent; 1012 to 1014 were registered later.
CLOSE_CODES = frozenset({1000, 1001, 1002, 1003, *range(1007, 1015), *range(3000, 5000)})


@dataclass(frozen=True)
class Message:
    """`payload` is as on the wire: a compressed message is not inflated here."""

    text: bool
    payload: bytes
    compressed: bool = False


@dataclass(frozen=True)
class Ping:
    payload: bytes


@dataclass(frozen=True)
class Pong:
    payload: bytes


@dataclass(frozen=True)
class Close:
    codes: frozenset[int]
    reply: bytes | None = None


Event = Message | Ping | Pong | Close


@dataclass(frozen=True)
class Bounds:
    """`rsv1`: permessage-deflate was agreed, so that the first frame of a message may have RSV1 (RFC 7692 §6)."""

    frame_max: int
    message_max: int
    fragments_max: int = FRAGMENTS_MAX
    rsv1: bool = False


@dataclass
class Segment:
    events: list[Event] = field(default_factory=list)


@dataclass(frozen=True)
class Frame:
    fin: bool
    rsv: int
    opcode: int
    payload: bytes


class FramingError(Exception):
    """No frame may begin with these bytes."""

    def __init__(self, *codes: int) -> None:
        super().__init__(codes)
        self.close = fail(*codes)


def fail(*codes: int) -> Close:
    return Close(frozenset(codes))


class Parser:
    """Bytes to frames (§5.2). Raises `FramingError` for what can be no frame, as soon as its bytes say so."""

    def __init__(self, frame_max: int) -> None:
        self.frame_max = frame_max
        self.buffer = b""

    def next_frame(self) -> Frame | None:
        buffer = self.buffer
        if len(buffer) < 2:
            return None
        fin, rsv, opcode = bool(buffer[0] & 0x80), buffer[0] >> 4 & 7, buffer[0] & 15
        is_masked, length = bool(buffer[1] & 0x80), buffer[1] & 0x7F
        if opcode not in OPCODES or not is_masked:
            raise FramingError(1002)
        # §5.5: control frames are short and whole. §5.2: no extension of ours gives their reserved bits a meaning.
        if opcode >= 8 and (not fin or length > 125 or rsv):
            raise FramingError(1002)
        at = 2
        if length >= 126:
            size = 2 if length == 126 else 8
            if len(buffer) < at + size:
                return None
            length = int.from_bytes(buffer[at : at + size], "big")
            at += size
            # The most significant bit must be 0, and the minimal number of bytes must be used.
            if length >> 63 or length < (126 if size == 2 else 65536):
                raise FramingError(1002)
        if length > self.frame_max:
            # Two faults in one frame: either may be told.
            raise FramingError(1009, *([1002] if rsv else []))
        if len(buffer) < at + 4 + length:
            return None
        mask, payload = buffer[at : at + 4], buffer[at + 4 : at + 4 + length]
        self.buffer = buffer[at + 4 + length :]
        return Frame(fin, rsv, opcode, unmasked(payload, mask))


class Assembly:
    """Data frames to messages (§5.4): None while one goes on, then a `Message`, or the `Close` that is due.

    `fail_fast`: invalid UTF-8 is told at the end of the fragment in which it stands, else at the end of the message
    (§8.1 allows both). `check_single` false: the text of an unfragmented message is somebody else's to judge.
    """

    def __init__(self, bounds: Bounds, fail_fast: bool = False, check_single: bool = True) -> None:
        self.bounds = bounds
        self.fail_fast = fail_fast
        self.check_single = check_single
        self._first: Frame | None = None
        self._fragments: list[bytes] = []

    def take(self, frame: Frame) -> Message | Close | None:
        rsv1_has_meaning = self.bounds.rsv1 and frame.opcode != CONTINUATION
        if frame.rsv & 3 or (frame.rsv & 4 and not rsv1_has_meaning):
            return fail(1002)
        if (frame.opcode == CONTINUATION) != (self._first is not None):
            return fail(1002)
        if self._first is None:
            self._first, self._fragments = frame, []
        self._fragments.append(frame.payload)
        is_single = frame.fin and len(self._fragments) == 1
        if len(self._fragments) > self.bounds.fragments_max:
            return fail(1008)
        payload = b"".join(self._fragments)
        if len(payload) > self.bounds.message_max:
            return fail(1009)
        is_text, compressed = self._first.opcode == TEXT, bool(self._first.rsv & 4)
        is_judged = is_text and not compressed and (self.check_single or not is_single)
        if is_judged and (frame.fin or self.fail_fast) and not could_become_utf8(payload, complete=frame.fin):
            return fail(1007)
        if not frame.fin:
            return None
        self._first = None
        return Message(is_text, payload, compressed)


class Reading:
    """A connection from its first byte behind the handshake to its Close."""

    def __init__(self, bounds: Bounds, fail_fast: bool = False, check_single: bool = True) -> None:
        self.bounds = bounds
        self.segments: list[Segment] = []
        self.closed: Close | None = None
        self._parser = Parser(bounds.frame_max)
        self._assembly = Assembly(bounds, fail_fast, check_single)

    @property
    def events(self) -> list[Event]:
        return [event for segment in self.segments for event in segment.events]

    def feed(self, data: bytes) -> Segment:
        segment = Segment()
        self.segments.append(segment)
        self._parser.buffer += data
        while self.closed is None:
            try:
                frame = self._parser.next_frame()
            except FramingError as error:
                event: Event | None = error.close
            else:
                if frame is None:
                    break
                event = self._meaning(frame)
            if event is not None:
                segment.events.append(event)
                if isinstance(event, Close):
                    self.closed = event
        return segment

    def _meaning(self, frame: Frame) -> Event | None:
        if frame.opcode == CLOSE:
            return meaning_of_close(frame.payload)
        if frame.opcode == PING:
            return Ping(frame.payload)
        if frame.opcode == PONG:
            return Pong(frame.payload)
        return self._assembly.take(frame)


def meaning_of_close(payload: bytes) -> Close:
    """§5.5.1: it is answered, typically with its own status code. §7.4: not every number is one; §8.1: nor any text."""
    if len(payload) == 1:
        return fail(1002)
    is_utf8 = could_become_utf8(payload[2:], complete=True)
    if payload and int.from_bytes(payload[:2], "big") not in CLOSE_CODES:
        return fail(1002, *([] if is_utf8 else [1007]))
    return Close(frozenset(), reply=payload[:2]) if is_utf8 else fail(1007)


def is_close(payload: bytes | None, wanted: Close | None) -> bool:
    """Is the payload of the Close that was sent (None: none was) what `wanted` asks for?"""
    if payload is None or wanted is None:
        return payload is None and wanted is None
    if wanted.reply is not None:
        return payload == wanted.reply
    return len(payload) >= 2 and int.from_bytes(payload[:2], "big") in wanted.codes


def client_frame(
    opcode: int, payload: bytes, fin: bool = True, rsv: int = 0, mask: bytes | None = b"\0\0\0\0", form: int = 0
) -> bytes:
    """`form` 126 or 127: the length in that form though a shorter one would do; `mask` None: not masked."""
    n = len(payload)
    form = max(form, n if n < 126 else 126 if n < 65536 else 127) if form < 126 else form
    head = bytes([fin << 7 | rsv << 4 | opcode, (mask is not None) << 7 | form])
    if form >= 126:
        head += (n & (0xFFFF if form == 126 else 2**64 - 1)).to_bytes(2 if form == 126 else 8, "big")
    return head + payload if mask is None else head + mask + unmasked(payload, mask)


def unmasked(payload: bytes, mask: bytes) -> bytes:
    n = len(payload)
    key = (mask * (n // 4 + 1))[:n]
    return (int.from_bytes(payload, "big") ^ int.from_bytes(key, "big")).to_bytes(n, "big")


def could_become_utf8(data: bytes, complete: bool) -> bool:
    """RFC 3629, by Python's strict decoder; an unfinished character at the end is right where more may come."""
    try:
        data.decode("utf-8", "strict")
    except UnicodeDecodeError as error:
        return not complete and error.reason == "unexpected end of data"
    return True


# Bytes of the length behind the second byte of a server's frame.
EXTRA = {b"\x7e": 2, b"\x7f": 8}


def server_frames(wire: bytes, may_be_cut: bool = False) -> list[tuple[int, bytes]]:
    """(opcode, payload) of what a server sent. Raises `AssertionError` for anything but whole, unmasked frames.

    `may_be_cut`: the connection was reset, so the last frame need not be whole.
    """
    frames: list[tuple[int, bytes]] = []
    at = 0
    while at < len(wire):
        if may_be_cut and len(wire) < at + 2 + EXTRA.get(wire[at + 1 :][:1], 0):
            return frames
        assert len(wire) >= at + 2, "a frame's header is cut"
        assert wire[at] & 0xB0 == 0x80, f"header byte {wire[at]:#x}"
        length = wire[at + 1]
        assert length < 128, "a server frame is never masked"
        opcode = wire[at] & 15
        at += 2
        if length >= 126:
            size = 2 if length == 126 else 8
            length = int.from_bytes(wire[at : at + size], "big")
            assert length >= (126 if size == 2 else 65536), "length not minimal"
            at += size
        if len(wire) < at + length and may_be_cut:
            return frames
        assert len(wire) >= at + length, "a frame's payload is cut"
        frames.append((opcode, wire[at : at + length]))
        at += length
    return frames
