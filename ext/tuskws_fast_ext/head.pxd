from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_GET_SIZE
from libc.string cimport memcmp


cdef class Head:
    cdef:
        readonly str method
        readonly bytes target
        readonly str version
        readonly object headers
        readonly Py_ssize_t size


cdef inline bint is_name(bytes text, const char* wanted, Py_ssize_t size) noexcept:
    return PyBytes_GET_SIZE(text) == size and not memcmp(PyBytes_AS_STRING(text), wanted, size)
