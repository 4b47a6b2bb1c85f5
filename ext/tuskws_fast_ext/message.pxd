from libc.stdint cimport uint32_t

from tuskws_fast_ext.utf8 cimport Utf8State


cpdef enum Verdict:
    MORE = 0                # the message goes on in a later frame
    WHOLE = 1               # `payload` and `opcode` are a message


cdef class MessageReader:
    cdef:
        readonly bytes payload
        readonly unsigned char opcode        # of the message in progress, or of the whole one; 0 = none
        readonly bint compressed             # its first frame had RSV1
        readonly bytes reason                # of the last close code that `take` gave
        bytearray _parts
        Utf8State _utf8
        uint32_t _message_max
        uint32_t _fragments_max
        uint32_t _fragments
        bint _check_text                     # also a text in a single frame, which a JSON decoder would check anyway
        bint _rsv1_allowed

    cdef int take(
        self, unsigned char opcode, bint fin, bint rsv1, bint rsv23, const unsigned char* data, Py_ssize_t size
    ) except -1
    cdef int _single(self, const unsigned char* data, Py_ssize_t size) except -1
    cdef int _refuse(self, int code, bytes reason) noexcept
