"""Fuzz target `frames`: any bytes behind a handshake, through gate, picows, message reader and `Connection`.

    byte 0     limits, and how the session and the socket behave (below)
    byte 1     128: somebody else talks on the same worker between all segments; with 64, a crowd talks in the very
               turns of the segments. 64: sends that are many at once go through io_uring, where the kernel lets them.
               The rest of it: how the input is cut into segments: 0 not at all, 1 into single bytes (the first 40),
               else at a few places that it seeds; if it is 5 modulo 8, the client may not send much a second (ext/pace)
    the rest   what the client sends

Checked against the slow twin (helpers/rfc6455): the session is given exactly the messages that the RFC gives; the
server writes whole, unmasked frames: each pong and echo in order (fewer pongs to one who does not read, or sends too
much), then the right Close, then nothing; `on_closed` is called once; nothing is left in the flush point; no exception
leaves, or is swallowed on the way; picows is never asked to judge; and the others hear every word of theirs, but for
the one whose socket is gone.
"""

from __future__ import annotations

import random
import time
from collections.abc import Hashable

from fuzz.corpus import near
from helpers.edge import ECHO as ECHO_HEAD
from helpers.edge import HEAD, Edge, Line, Pair, Talker
from helpers.rfc6455 import (
    BINARY,
    CLOSE,
    PING,
    PONG,
    TEXT,
    Bounds,
    Close,
    Message,
    Ping,
    Pong,
    Reading,
    client_frame,
    is_close,
    server_frames,
)
from tuskws_fast_ext.pace import Pace

# The gate hands frames of up to 1,408 bytes to picows and keeps longer ones: bounds on both sides of that.
BOUNDS = (Bounds(125, 125, 3), Bounds(1400, 1400), Bounds(4096, 4096, 8), Bounds(70_000, 70_000))
ECHO, SLOW, RAISES, SHORT_QUEUE, EXPIRES, ECHO_PATH = 4, 8, 16, 32, 64, 128
BYSTANDER, TOGETHER = 128, 64
# With the one whose input this is, more than enough for io_uring (TOGETHER_MIN in ext/connection).
CROWD = 8
WORDS_MAX = 9_000
CROWD_TALKS_MAX = 4
# A session raises at a message that begins so (with RAISES).
POISON = b"!"
SINGLE_MAX = 40
SIZES = (1 << 8, 1 << 12, 1 << 12, 1 << 18)
TOO_SLOW = 4008
FRAMES, BYTES, PINGS = 40, 9_000, 3
TOO_MUCH = (b"too many frames", b"too many bytes", b"too many pings")
INTERNAL = 1011


class Expected:
    """What must come of the events: messages, and the server's frames in order."""

    def __init__(self, reading: Reading, mode: int) -> None:
        self.heard: list[Message] = []
        self.pongs = 0
        self.replies: list[tuple[int, bytes]] = []
        self.close: Close | None = None
        for event in reading.events:
            if isinstance(event, Close):
                self.close = event
            elif isinstance(event, Ping):
                self.replies.append((PONG, event.payload))
            elif isinstance(event, Pong):
                self.pongs += 1
            else:
                self.heard.append(event)
                if mode & RAISES and not mode & ECHO_PATH and event.payload[:1] == POISON:
                    self.close = Close(frozenset({INTERNAL}))
                elif mode & (ECHO | ECHO_PATH):
                    self.replies.append((TEXT if event.text else BINARY, event.payload))
            if self.close is not None:
                return


class Bystander:
    """Another connection of the worker: gate, parser and read buffer are shared with it."""

    def __init__(self, edge: Edge, pair: Pair) -> None:
        self.line = edge.connect(pair, head=ECHO_HEAD)

    def talk(self) -> None:
        self.line.receive(client_frame(TEXT, b"not my business", mask=b"mask"))
        wire, self.line.wire = self.line.wire, b""
        assert server_frames(wire) == [(TEXT, b"not my business")], f"somebody else heard {wire!r:.200}"


class Crowd:
    """Others of whom each gets an echo in the same turn: their sends leave together. Now and then the socket of one is
    not read until the end, or takes only a part, and one is gone."""

    def __init__(self, edge: Edge, pairs: list[Pair], words_max: int, dice: random.Random) -> None:
        self.words_max = words_max
        self.dice = dice
        self.gone = Pair() if dice.random() < 0.5 else None
        members = pairs if self.gone is None else [self.gone, *pairs[1:]]
        self.lines = [edge.connect(pair, head=ECHO_HEAD) for pair in members]
        self.lines[-1].slow = dice.random() < 0.5
        if self.gone is not None:
            self.gone.client.close()
        self.said: list[tuple[int, bytes]] = []

    def talk(self) -> None:
        """Its echoes wait for the end of the turn."""
        if len(self.said) < CROWD_TALKS_MAX:
            words = random_bytes(self.dice, near(self.dice, (0, 125, 1400, WORDS_MAX), self.words_max))
            self.said.append((BINARY, words))
            frame = client_frame(BINARY, words, mask=b"mask")
            for line in self.lines:
                line.deliver(frame)

    def listen(self) -> None:
        for line in self.lines[1:-1]:
            line.read_on()

    def end(self, is_short: bool) -> None:
        for line in self.lines:
            if self.gone is None or line is not self.lines[0]:
                line.read_on()
                heard = server_frames(line.wire, is_short)
                # As in `_check`: one that does not read may lose echoes.
                if is_short and heard[-1:] == [(CLOSE, TOO_SLOW.to_bytes(2, "big") + b"too slow")]:
                    heard.pop()
                said = self.said[: len(heard)] if is_short else self.said
                assert heard == said, "somebody of the crowd does not hear his own words"
            else:
                assert line.lost == bool(self.said), "a write to a socket whose peer is gone is its end"
            line.hang_up()
        if self.gone is not None:
            self.gone.close()


def random_bytes(dice: random.Random, size: int) -> bytes:
    """Words that differ from those before."""
    return bytes([dice.randrange(256)]) * size


def apart(replies: list[tuple[int, bytes]]) -> tuple[list[tuple[int, bytes]], list[tuple[int, bytes]]]:
    """The pongs and the rest."""
    return [reply for reply in replies if reply[0] == PONG], [reply for reply in replies if reply[0] != PONG]


def cut(data: bytes, how: int) -> list[bytes]:
    if how == 0 or not data:
        return [data]
    if how == 1:
        single = data[:SINGLE_MAX]
        return [*(single[i : i + 1] for i in range(len(single))), data[SINGLE_MAX:]]
    dice = random.Random(how)
    places = sorted(dice.randrange(len(data) + 1) for _ in range(dice.choice((1, 2, 3, 8))))
    return [data[start:end] for start, end in zip([0, *places], [*places, len(data)], strict=True)]


class FramesTarget:
    name = "frames"
    input_max = 8_192

    def __init__(self) -> None:
        self.pair = Pair()
        self.other_pairs = [Pair() for _ in range(CROWD)]

    def run(self, data: bytes) -> Hashable:
        mode, how, wire = (data[0] if data else 0), (data[1] if len(data) > 1 else 0), data[2:]
        bounds = BOUNDS[mode & 3]
        talkers: list[Talker] = []

        def new_session(address: str) -> Talker:
            talkers.append(Talker(bool(mode & ECHO), POISON if mode & RAISES else b""))
            return talkers[-1]

        queue_max = 4096 if mode & SHORT_QUEUE else 1 << 30
        reading = Reading(bounds, fail_fast=True)
        # The others are bounded by the same pace, and would be closed for what they say here.
        pace = Pace(FRAMES, BYTES, PINGS) if how % 8 == 5 and not how & BYSTANDER else None
        begun = time.monotonic()
        with Edge(new_session, bounds.frame_max, queue_max, pace=pace, fragments_max=bounds.fragments_max) as edge:
            line = edge.connect(self.pair, bool(mode & SLOW), ECHO_HEAD if mode & ECHO_PATH else HEAD)
            if how & TOGETHER:
                edge.point.send_together()
            crowd = other = None
            if how & BYSTANDER and how & TOGETHER:
                crowd = Crowd(edge, self.other_pairs, min(bounds.frame_max, WORDS_MAX), random.Random(how))
            elif how & BYSTANDER:
                other = Bystander(edge, self.other_pairs[0])
            for segment in cut(wire, how & 63):
                reading.feed(segment)
                if crowd is not None:
                    crowd.talk()
                line.receive(segment)
                if crowd is not None:
                    crowd.listen()
                if other is not None:
                    other.talk()
            is_ended = self._end(edge, line, mode)
            if other is not None:
                other.talk()
                other.line.hang_up()
            if crowd is not None:
                crowd.end(bool(mode & (SHORT_QUEUE | EXPIRES)))
            assert edge.acceptor._parser.failures == 0, "picows and the gate disagree"
            assert (edge.point.blocked, edge.point.closing) == (set(), set()), "one that ended is still looked after"
            assert edge.limits.connections == sum(len(talker.closed) for talker in talkers), (
                "an echo was not given back"
            )
        expected = Expected(reading, mode)
        found = server_frames(line.wire, bool(mode & SHORT_QUEUE))
        self._check(expected, talkers, found, mode, pace is not None)
        if pace is not None:
            earned = 1.1 + time.monotonic() - begun
            assert sum(len(talker.heard) for talker in talkers) <= FRAMES * earned, "more frames than it may send"
            assert sum(opcode == PONG for opcode, _ in found) <= PINGS * earned + 1, "more pongs than are due"
        if expected.close is not None and expected.close.codes - {INTERNAL} and not mode & SHORT_QUEUE:
            assert is_ended, "who broke the protocol is not told that nothing more comes"
        return self._outcome(expected, mode, how)

    def _end(self, edge: Edge, line: Line, mode: int) -> bool:
        """Whether the server ended its half, or all, before the client went."""
        if mode & EXPIRES and not mode & SLOW:
            edge.loop.pass_time()
            edge.point.expire(time.monotonic() + 100.0, 1.0)
        line.read_on()
        edge.loop.pass_time()
        line.read_on()
        is_ended = line.is_half_closed or line.is_closing()
        line.hang_up()
        edge.loop.pass_time()
        return is_ended

    def _check(
        self, expected: Expected, talkers: list[Talker], found: list[tuple[int, bytes]], mode: int, is_paced: bool
    ) -> None:
        closes = [i for i, (opcode, _) in enumerate(found) if opcode == CLOSE]
        assert closes in ([], [len(found) - 1]), "something was sent behind a Close"
        replies, close = (found[:-1], found[-1][1]) if closes else (found, None)
        # Whoever does not read may lose replies, and get 4008 or no Close at all; never anything else.
        is_short = bool(mode & SHORT_QUEUE) and (close is None or close[:2] == TOO_SLOW.to_bytes(2, "big"))
        is_short |= is_paced and close is not None and close[2:] in TOO_MUCH
        wanted = expected.replies
        if mode & SLOW or is_paced:
            pongs, replies = apart(replies)
            wanted_pongs, wanted = apart(wanted)
            rest = iter(wanted_pongs)
            assert all(pong in rest for pong in pongs), f"pongs {pongs!r:.500} to pings {wanted_pongs!r:.500}"
            assert closes or is_paced or pongs[-1:] == wanted_pongs[-1:], "the newest ping is always answered"
        wanted = wanted[: len(replies)] if is_short else wanted
        assert replies == wanted, f"sent {replies!r:.500}, not {wanted!r:.500}"
        assert is_short or is_close(close, expected.close), f"closed {close!r}, not {expected.close}"
        for talker in talkers:
            assert len(talker.closed) == 1, f"on_closed was called {len(talker.closed)} times"
            heard = expected.heard[: len(talker.heard)] if is_short else expected.heard
            assert talker.heard == heard, f"heard {talker.heard!r:.500}, not {heard!r:.500}"
            assert is_short or talker.pongs == expected.pongs

    def _outcome(self, expected: Expected, mode: int, how: int) -> Hashable:
        close = expected.close and (tuple(sorted(expected.close.codes)), expected.close.reply)
        sizes = tuple(sorted({(m.text, min(len(m.payload).bit_length(), 17)) for m in expected.heard}))
        return (mode, close, sizes[:4], min(expected.pongs, 2), min(how & 63, 2), how >> 6, len(expected.replies) > 1)

    # -- inputs --------------------------------------------------------------------------------------------------------

    def seeds(self) -> list[bytes]:
        return [bytes([mode, how]) + wire for wire in SEEDS for mode in (4, 5, 6, 7, 128) for how in (0, 1, 137, 201)]

    def fresh(self, rng: random.Random) -> bytes:
        """A run of frames, most of them right, some with one thing wrong."""
        mode = rng.choice((4, 5, 6, 7, 15, 23, 47, 68, 130, 131, rng.randrange(256)))
        frames = [random_frame(rng, BOUNDS[mode & 3].frame_max) for _ in range(rng.choice((1, 2, 3, 5, 9)))]
        if rng.random() < 0.02:
            frames += [client_frame(0, b"", fin=False)] * rng.randrange(1020, 1030)
        how = rng.choice((0, 64, 1, 5, 128, 129, 192, 193, rng.randrange(256)))
        return bytes([mode, how]) + b"".join(frames)[: rng.choice(SIZES)]


TEXTS = (b"", b"{}", b"!", "Käse€😀".encode(), b"\xff", b"\xed\xa0\x80", b"\xf0\x9f\x98", b"\x98\x80", b"\xc3", b"\xa4")
CODES = (0, 999, 1000, 1001, 1004, 1005, 1006, 1011, 1014, 1015, 2999, 3000, 4999, 5000, 65535)
LENGTHS = (0, 125, 126, 1393, 1394, 1400, 1401, 65535, 65536)


def random_frame(rng: random.Random, bound: int) -> bytes:
    opcode = rng.choice((TEXT, TEXT, BINARY, 0, 0, PING, PONG, CLOSE, rng.randrange(16)))
    if opcode == CLOSE and rng.random() < 0.8:
        payload = rng.choice(CODES).to_bytes(2, "big") + rng.choice(TEXTS)
    elif rng.random() < 0.6:
        payload = b"".join(rng.choice(TEXTS) for _ in range(rng.randrange(4)))
    else:
        payload = rng.choice((b"x", b"\x80")) * near(rng, (*LENGTHS, bound), 2 * bound)
    if opcode >= 8 and rng.random() < 0.9:
        payload = payload[:125]
    return client_frame(
        opcode,
        payload,
        fin=rng.random() < (0.97 if opcode >= 8 else 0.6),
        rsv=rng.randrange(8) if rng.random() < 0.03 else 0,
        mask=None if rng.random() < 0.02 else rng.choice((b"\0\0\0\0", rng.randbytes(4))),
        form=rng.choice((126, 127)) if rng.random() < 0.03 else 0,
    )


SEEDS = (
    client_frame(TEXT, b'{"type":"ping"}'),
    client_frame(TEXT, b"Hel", fin=False) + client_frame(PING, b"?") + client_frame(0, b"lo"),
    client_frame(BINARY, b"\xff" * 300) + client_frame(PONG, b""),
    client_frame(TEXT, b"\xff"),
    client_frame(TEXT, b"\xf0\x9f", fin=False) + client_frame(0, b"\x98\x80"),
    client_frame(CLOSE, b"\x03\xe8bye") + client_frame(TEXT, b"late"),
    client_frame(CLOSE, b"\x03\xe7") + client_frame(TEXT, b"late"),
    *(client_frame(CLOSE, code.to_bytes(2, "big")) for code in (1006, 1014, 1015, 2999, 5000)),
    client_frame(TEXT, b"a", rsv=4) + client_frame(CLOSE, b"\x03\xe8"),
    client_frame(0, b"") + client_frame(3, b""),
    client_frame(TEXT, b"a", fin=False) + client_frame(TEXT, b"b"),
    client_frame(TEXT, b"", fin=False) + client_frame(0, b"", fin=False) * 1024,
    client_frame(TEXT, b"x" * 65536),
    client_frame(TEXT, b"!") + client_frame(TEXT, b"unheard"),
    client_frame(TEXT, b"cut off \xc3", fin=False) + client_frame(0, b""),
    # One byte more than the three smaller bounds on a message, in two parts that each are within them.
    *(client_frame(BINARY, b"x" * (n - 9), fin=False) + client_frame(0, b"x" * 10) for n in (125, 1400, 4096)),
    # The longest lengths that belong into the next shorter form.
    client_frame(BINARY, b"x" * 125, form=126),
    client_frame(BINARY, b"x" * 65535, form=127),
)
