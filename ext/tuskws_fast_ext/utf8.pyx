"""Is this UTF-8, in pieces: the verdict at the first byte that no valid text can have there (RFC 3629, RFC 6455 §8.1).

A text may come in fragments that cut a character anywhere. The state between two pieces is how many continuation bytes
are due and the range of the next one, which is where overlong forms, surrogates and what lies beyond U+10FFFF fail:

    C2..DF  80..BF                     E0  A0..BF  80..BF          F0  90..BF  80..BF  80..BF
                                       ED  80..9F  80..BF          F4  80..8F  80..BF  80..BF
                                       E1..EC EE EF  80..BF ×2     F1..F3  80..BF ×3

ASCII, nearly all there is in JSON, is passed eight bytes at a time.
"""

from libc.stdint cimport uint64_t
from libc.string cimport memcpy


cdef void utf8_start(Utf8State* state) noexcept nogil:
    state.need = 0
    state.low = 0x80
    state.high = 0xBF


cdef bint utf8_feed(Utf8State* state, const unsigned char* data, Py_ssize_t size) noexcept nogil:
    """True as long as everything so far can begin a valid text."""
    cdef:
        Py_ssize_t i = 0
        unsigned char byte
        uint64_t word
    while i < size:
        if state.need == 0:
            while i + 8 <= size:
                memcpy(&word, data + i, 8)
                if word & 0x8080808080808080ULL:
                    break
                i += 8
            if i >= size:
                return True
            byte = data[i]
            i += 1
            if byte < 0x80:
                continue
            state.low, state.high = 0x80, 0xBF
            if 0xC2 <= byte <= 0xDF:
                state.need = 1
            elif 0xE0 <= byte <= 0xEF:
                state.need = 2
                if byte == 0xE0:
                    state.low = 0xA0
                elif byte == 0xED:
                    state.high = 0x9F
            elif 0xF0 <= byte <= 0xF4:
                state.need = 3
                if byte == 0xF0:
                    state.low = 0x90
                elif byte == 0xF4:
                    state.high = 0x8F
            else:
                return False
        else:
            byte = data[i]
            i += 1
            if byte < state.low or byte > state.high:
                return False
            state.low, state.high = 0x80, 0xBF
            state.need -= 1
    return True


cdef bint utf8_complete(Utf8State* state) noexcept nogil:
    """No character is cut off at the end."""
    return state.need == 0


cdef class Utf8Validator:
    """The same, for Python: tests and tools."""

    cdef Utf8State state

    def __cinit__(self):
        utf8_start(&self.state)

    def feed(self, const unsigned char[:] data):
        """True as long as everything so far can begin a valid text. After False nothing more may be fed."""
        return data.shape[0] == 0 or utf8_feed(&self.state, &data[0], data.shape[0])

    @property
    def complete(self):
        return utf8_complete(&self.state)
