from picows.picows cimport WSFrame, WSListener, WSTransport

from tuskws_fast_ext.connection cimport Connection


cdef class FrameParser(WSListener):
    cdef:
        object _make_protocol            # a fresh picows protocol behind its handshake
        object _protocol
        Connection _current              # whose frames are being parsed; None between two calls
        Py_ssize_t _due                  # frames of this call that picows has not delivered yet
        readonly unsigned long long failures

    cdef int parse(self, Connection connection, const unsigned char* data, Py_ssize_t size, Py_ssize_t count) except -1
    cdef int _feed(self, const unsigned char* data, Py_ssize_t size) except -1
