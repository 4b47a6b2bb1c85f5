"""Frames into messages (RFC 6455 §5.4): the rules of fragmentation, reserved bits, size and text, without a socket.

    take(frame) ─▶ MORE            the message goes on
                   WHOLE           a message is there: `opcode`, `payload`, `compressed`
                   a close code    the peer broke a rule: 1002, 1007, 1008, 1009

Text is validated as it comes, so that a bad byte in the first of a thousand fragments ends it there. A text in a single
frame is only validated where the reader says so: orjson refuses bad UTF-8 by itself, and looking twice costs.

Control frames, masks, lengths and opcodes are not its business. The slow twin in tests/helpers/rfc6455.py says what it
must do; tests/property/test_message_layer.py compares the two over random frames.
"""

from cpython.bytearray cimport PyByteArray_AS_STRING, PyByteArray_GET_SIZE, PyByteArray_Resize
from cpython.bytes cimport PyBytes_FromStringAndSize
from libc.string cimport memcpy

from tuskws_fast_ext.utf8 cimport utf8_complete, utf8_feed, utf8_start

cdef enum:
    CONTINUATION = 0x0
    TEXT = 0x1
    PROTOCOL_ERROR = 1002
    BAD_UTF8 = 1007
    POLICY = 1008
    TOO_BIG = 1009


cdef class MessageReader:
    """One connection's message in progress. After a close code it must not be used again."""

    def __init__(
        self, uint32_t message_max, uint32_t fragments_max, bint check_text=False, bint rsv1_allowed=False
    ):
        self._message_max = message_max
        self._fragments_max = fragments_max
        self._check_text = check_text
        self._rsv1_allowed = rsv1_allowed

    def feed(self, unsigned char opcode, bint fin, bytes payload, int rsv=0):
        """`take` for tests: `rsv` are the three bits, RSV1 the highest."""
        return self.take(opcode, fin, rsv & 4, rsv & 3, payload, len(payload))

    cdef int take(
        self, unsigned char opcode, bint fin, bint rsv1, bint rsv23, const unsigned char* data, Py_ssize_t size
    ) except -1:
        cdef Py_ssize_t had
        # §5.2: reserved bits MUST be 0 unless an extension defines them; RFC 7692 §6.1 has RSV1 on a first frame only.
        if rsv23 or (rsv1 and (opcode == CONTINUATION or not self._rsv1_allowed)):
            return self._refuse(PROTOCOL_ERROR, b"reserved bits")
        if opcode == CONTINUATION:
            if self._parts is None:
                return self._refuse(PROTOCOL_ERROR, b"continuation of nothing")
        else:
            if self._parts is not None:
                return self._refuse(PROTOCOL_ERROR, b"a new message inside a fragmented one")
            self.opcode = opcode
            self.compressed = rsv1
            if fin:
                return self._single(data, size)
            self._parts = bytearray()
            self._fragments = 0
            utf8_start(&self._utf8)
        # Empty fragments count too: a flood of them costs as much as one with bytes (CVE-2026-48779 in `ws`).
        self._fragments += 1
        if self._fragments > self._fragments_max:
            return self._refuse(POLICY, b"too many fragments")
        had = PyByteArray_GET_SIZE(self._parts)
        if had + size > self._message_max:
            return self._refuse(TOO_BIG, b"message too big")
        if self.opcode == TEXT and not self.compressed and not utf8_feed(&self._utf8, data, size):
            return self._refuse(BAD_UTF8, b"invalid UTF-8")
        PyByteArray_Resize(self._parts, had + size)
        memcpy(PyByteArray_AS_STRING(self._parts) + had, data, size)
        if not fin:
            return Verdict.MORE
        if self.opcode == TEXT and not self.compressed and not utf8_complete(&self._utf8):
            return self._refuse(BAD_UTF8, b"invalid UTF-8")
        self.payload = bytes(self._parts)
        self._parts = None
        return Verdict.WHOLE

    cdef int _single(self, const unsigned char* data, Py_ssize_t size) except -1:
        if size > self._message_max:
            return self._refuse(TOO_BIG, b"message too big")
        if self._check_text and self.opcode == TEXT and not self.compressed:
            utf8_start(&self._utf8)
            if not utf8_feed(&self._utf8, data, size) or not utf8_complete(&self._utf8):
                return self._refuse(BAD_UTF8, b"invalid UTF-8")
        self.payload = PyBytes_FromStringAndSize(<const char*>data, size)
        return Verdict.WHOLE

    cdef int _refuse(self, int code, bytes reason) noexcept:
        self.reason = reason
        self._parts = None
        self.payload = None
        return code
