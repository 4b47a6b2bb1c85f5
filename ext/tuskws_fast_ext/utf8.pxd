cdef struct Utf8State:
    unsigned int need       # continuation bytes still due
    unsigned char low       # what the next one may be at least …
    unsigned char high      # … and at most


cdef void utf8_start(Utf8State* state) noexcept nogil
cdef bint utf8_feed(Utf8State* state, const unsigned char* data, Py_ssize_t size) noexcept nogil
cdef bint utf8_complete(Utf8State* state) noexcept nogil
