"""Fuzz target `deflate`: compressed messages, in and out, against zlib's own objects.

    byte 0     0..  payloads for one `Inflater`: of each, a limit, its length, and its bytes
               1..  payloads on connections of one worker, within their budgets or not, while time passes
               2..  messages, compressed by the client as was agreed, damaged or not, through gate and connection
               3..  messages for one `Deflater`, read back by zlib

Checked: what is inflated is what zlib says, or it was refused for a reason that holds; never more memory than the limit
allows; no connection and no worker gets more than its budget, and who has one is not refused for it; a stream goes on
after good messages and is given up after a bad one; an echo comes back as it went; close codes are those documented.
"""

from __future__ import annotations

import random
import zlib
from collections.abc import Hashable

from fuzz.structure import Source
from helpers.edge import ECHO, EchoAll, Edge, Pair
from helpers.rfc6455 import BINARY, CLOSE, TEXT, client_frame
from tuskws_fast_ext.deflate import CompressionPool, Deflater, Inflater, Scratch

from tuskws_fast.protocol.extensions import Policy, negotiate

TAIL = b"\0\0\xff\xff"
TOO_LONG, TOO_MUCH_WORK, CORRUPT = -2, -3, -4
LIMITS = (0, 1, 100, 16_384, 65_535, 1 << 20)
WORK_MAX = 1 << 20
MESSAGE_MAX = 5_000
MESSAGES = (b"", b"a", b"{}" * 300, b"x" * 4_999, b"\xff" * 600, "Käse€😀".encode() * 90, bytes(range(256)) * 8)
OFFERS = (
    b"permessage-deflate",
    b"permessage-deflate; client_max_window_bits",
    b"permessage-deflate; server_no_context_takeover; client_no_context_takeover",
    b"permessage-deflate; client_max_window_bits=9; server_max_window_bits=10",
    b"other; a=b, permessage-deflate",
)
# Bytes a second that a connection may inflate, and pauses between two messages.
RATE = 20_000
BUDGETED_MAX = 16_384
DELAYS_S = (0.0, 0.0, 0.0, 0.01, 0.1, 0.5, 1.0, 5.0)


class DeflateTarget:
    name = "deflate"
    input_max = 4096

    def __init__(self) -> None:
        self.pair = Pair()

    def run(self, data: bytes) -> Hashable:
        mode, rest = (data[0] if data else 0), data[1:]
        ways = (self._inflate, self._receive, self._talk, self._deflate)
        return (mode & 3, ways[mode & 3](mode, rest))

    # -- one inflater --------------------------------------------------------------------------------------------------

    def _inflate(self, mode: int, data: bytes) -> Hashable:
        scratch = Scratch()
        takeover, bits = bool(mode & 4), 8 + (mode >> 3) % 8
        inflater = Inflater(scratch, takeover, bits)
        oracle = zlib.decompressobj(-max(bits, 9))
        outcome: list[Hashable] = [takeover]
        source = Source(data)
        while not source.is_empty and len(outcome) < 9:
            limit = LIMITS[source.byte() % len(LIMITS)]
            payload = source.take(source.integer(2) % 2048)
            got = inflater.decode(payload, limit, WORK_MAX)
            assert scratch.size <= max(limit + 1, 1 << 20), "memory beyond the limit"
            outcome.append(got if isinstance(got, int) else len(got).bit_length())
            if payload:
                oracle = oracle if takeover else zlib.decompressobj(-max(bits, 9))
                if not self._agrees(oracle, payload, limit, got):
                    break
            if isinstance(got, int):
                # The stream is of no more use; a connection ends here.
                break
        return tuple(outcome)

    def _agrees(self, oracle: zlib._Decompress, payload: bytes, limit: int, got: bytes | int) -> bool:
        """False: the oracle has come to its end (a last block), where we rightly go on."""
        try:
            expected = oracle.decompress(payload + TAIL, limit + 1)
        except zlib.error:
            assert isinstance(got, int), "zlib finds it corrupt"
            return False
        if oracle.eof:
            assert isinstance(got, int) or got.startswith(expected)
            return False
        if isinstance(got, bytes):
            assert got == expected, f"{got!r:.200} is not {expected!r:.200}"
            return True
        if got == TOO_LONG:
            assert len(expected) > limit or oracle.unconsumed_tail, f"{len(expected)} bytes are not over {limit}"
        return False

    # -- budgets -------------------------------------------------------------------------------------------------------

    def _receive(self, mode: int, data: bytes) -> Hashable:
        pool = CompressionPool(1, 1, 8, RATE, 2 * RATE)
        connections = [pool.open(stranger=bool(mode & 4)), pool.open(), pool.open()]
        made = [0] * len(connections)
        begun = now = 100.0
        outcome: list[Hashable] = [mode & 4]
        source = Source(data)
        while not source.is_empty and len(outcome) < 30:
            step = source.byte()
            who, message = step % len(connections), message_of(source) * (1 + step % 7)
            now += DELAYS_S[step // 4 % len(DELAYS_S)]
            payload = compressed(message, step >> 6)
            got = connections[who].received(payload, BUDGETED_MAX, now)
            failure = connections[who].failure
            if got is not None:
                assert got == message
                made[who] += len(message)
            else:
                self._is_due(failure, message, who == 0 and bool(mode & 4), len(outcome) == 1)
            assert made[who] <= RATE * (1 + now - begun), "more than the connection's budget"
            assert pool.inflated_bytes == sum(made) <= 2 * RATE * (1 + now - begun), "more than the worker's budget"
            assert not mode & 4 or made[0] <= 65_536, "a stranger inflates more than it may"
            outcome.append((who, 0 if got is not None else failure))
            if step == 255:
                connections[0].trust()
                mode &= ~4
        return frozenset(outcome)

    def _is_due(self, failure: int, message: bytes, is_stranger: bool, is_first: bool) -> None:
        """What is refused is no damaged stream, so there was too much of it."""
        assert failure in (1008, 1009), failure
        if failure == 1009:
            assert len(message) > (8192 if is_stranger else BUDGETED_MAX)
        else:
            assert not is_first or len(message) > RATE // 2, "refused for a budget that nobody has touched"

    # -- a connection --------------------------------------------------------------------------------------------------

    def _talk(self, mode: int, data: bytes) -> Hashable:
        source = Source(data)
        policy = Policy(bool(mode & 4), 9 + (mode >> 3) % 7)
        offer = OFFERS[source.byte() % len(OFFERS)]
        head = ECHO.__class__(
            ECHO.method, ECHO.target, ECHO.version, (*ECHO.headers, (b"sec-websocket-extensions", offer))
        )
        agreement = negotiate([offer], policy)
        if agreement is None:
            return "declined"
        with Edge(lambda address: EchoAll(), MESSAGE_MAX, compression=policy) as edge:
            line = edge.connect(self.pair, head=head)
            client = Client(agreement.client_takeover, agreement.client_window_bits)
            server = zlib.decompressobj(-agreement.server_window_bits)
            told: list[Hashable] = []
            while not source.is_empty and not line.is_half_closed and len(told) < 12:
                sent, is_damaged = client.message(source)
                line.receive(client.wire)
                wire, line.wire = line.wire, b""
                for opcode, rsv1, payload in frames_of(wire):
                    if opcode == CLOSE:
                        told.append(int.from_bytes(payload[:2], "big"))
                        assert told[-1] in (1002, 1007, 1008, 1009), told
                        assert is_damaged or told[-1] != 1002
                        continue
                    if not agreement.server_takeover:
                        server = zlib.decompressobj(-agreement.server_window_bits)
                    message = server.decompress(payload + TAIL) if rsv1 else payload
                    assert is_damaged or message == sent, "an echo is not what was sent"
                    told.append((opcode, rsv1, len(message).bit_length()))
            line.hang_up()
        return (agreement.header, tuple(told))

    # -- one deflater --------------------------------------------------------------------------------------------------

    def _deflate(self, mode: int, data: bytes) -> Hashable:
        takeover, bits = bool(mode & 4), 9 + (mode >> 3) % 7
        source = Source(data)
        level, memory_level = 1 + source.byte() % 9, 1 + source.byte() % 9
        deflater = Deflater(Scratch(), level, 1, takeover, bits, memory_level)
        reader = zlib.decompressobj(-bits)
        sizes = []
        while not source.is_empty and len(sizes) < 9:
            message = message_of(source)
            if not message:
                continue
            reader = reader if takeover else zlib.decompressobj(-bits)
            assert reader.decompress(deflater.encode(message) + TAIL) == message
            sizes.append(len(message).bit_length())
        return (takeover, bits, tuple(sizes))

    # -- inputs --------------------------------------------------------------------------------------------------------

    def seeds(self) -> list[bytes]:
        payload = zlib.compressobj(6, zlib.DEFLATED, -15)
        good = payload.compress(b"hello hello hello") + payload.flush(zlib.Z_SYNC_FLUSH)
        one = b"\5" + len(good).to_bytes(2, "little") + good
        talk = bytes(range(40)) * 2
        return [
            *(bytes([mode]) + one * 3 for mode in (0, 4, 60)),
            *(bytes([mode]) + bytes(range(0, 240, 7)) for mode in (1, 5)),
            *(bytes([mode]) + talk for mode in (2, 6, 3, 7, 62, 63)),
        ]

    def fresh(self, rng: random.Random) -> bytes:
        mode = rng.choice((0, 4, 1, 5, 2, 2, 6, 6, 3, 7)) | rng.randrange(8) << 3
        if mode & 3:
            return bytes([mode]) + rng.randbytes(rng.choice((8, 20, 60)))
        out = bytes([mode])
        for _ in range(rng.randrange(1, 4)):
            payload = stream(rng)
            out += bytes([rng.randrange(6)]) + len(payload).to_bytes(2, "little") + payload
        return out


class Client:
    """The other end: `message` takes one from the program and leaves what goes over the wire in `wire`."""

    def __init__(self, takeover: bool, bits: int) -> None:
        self.takeover = takeover
        self.bits = max(bits, 9)
        self.wire = b""
        self._stream = zlib.compressobj(6, zlib.DEFLATED, -self.bits)
        # The two ends no longer have the same context.
        self._is_astray = False

    def message(self, source: Source) -> tuple[bytes, bool]:
        how = source.byte()
        message = message_of(source)
        payload, rsv = message, 0
        is_damaged = len(message) > MESSAGE_MAX
        if how & 3:
            if not self.takeover:
                self._stream = zlib.compressobj(1 + how % 9, zlib.DEFLATED, -self.bits)
            payload = self._stream.compress(message) + self._stream.flush(zlib.Z_SYNC_FLUSH)
            payload, rsv = payload.removesuffix(TAIL), 4
        if how & 0x30 == 0x30 and payload:
            at = source.byte() % len(payload)
            payload = payload[:at] + bytes([payload[at] ^ (1 + source.byte() % 255)]) + payload[at + 1 :]
            is_damaged = True
            self._is_astray = self._is_astray or (self.takeover and rsv != 0)
        opcode = BINARY
        if how & 64:
            opcode, is_damaged = TEXT, is_damaged or not is_utf8(message)
        if how & 128 and len(payload) > 1:
            half = len(payload) // 2
            self.wire = client_frame(opcode, payload[:half], False, rsv) + client_frame(0, payload[half:])
        else:
            self.wire = client_frame(opcode, payload, True, rsv)
        # The limit holds for the compressed form too.
        return message, is_damaged or self._is_astray or len(payload) > MESSAGE_MAX


def compressed(message: bytes, level: int) -> bytes:
    made = zlib.compressobj(level, zlib.DEFLATED, -15)
    return (made.compress(message) + made.flush(zlib.Z_SYNC_FLUSH)).removesuffix(TAIL)


def message_of(source: Source) -> bytes:
    kind = source.byte()
    if kind & 1:
        return MESSAGES[kind // 2 % len(MESSAGES)]
    return source.take(kind // 2) * (1 + source.byte() % 64)


def is_utf8(data: bytes) -> bool:
    try:
        data.decode()
    except UnicodeDecodeError:
        return False
    return True


def frames_of(wire: bytes) -> list[tuple[int, bool, bytes]]:
    """(opcode, RSV1, payload) of what the server sent."""
    found = []
    while wire:
        length, at = wire[1], 2
        if length >= 126:
            at = 4 if length == 126 else 10
            length = int.from_bytes(wire[2:at], "big")
        assert len(wire) >= at + length, "a frame is cut"
        found.append((wire[0] & 15, bool(wire[0] & 0x40), wire[at : at + length]))
        wire = wire[at + length :]
    return found


def stream(rng: random.Random) -> bytes:
    """A payload as an odd sender makes it, and often with something wrong."""
    out = b""
    for _ in range(rng.randrange(1, 4)):
        made = zlib.compressobj(rng.randrange(10), zlib.DEFLATED, -rng.randrange(9, 16), 8, rng.randrange(5))
        for _ in range(rng.randrange(1, 4)):
            out += made.compress(rng.choice(MESSAGES) * rng.choice((1, 1, 9)))
            out += made.flush(rng.choice((zlib.Z_SYNC_FLUSH, zlib.Z_FULL_FLUSH, zlib.Z_PARTIAL_FLUSH)))
        out += made.flush(zlib.Z_FINISH) if rng.random() < 0.3 else b""
    out = out.removesuffix(TAIL)[:2047]
    if rng.random() < 0.5 and out:
        at = rng.randrange(len(out))
        out = out[:at] + rng.randbytes(1) + out[at + rng.randrange(3) :]
    return out
