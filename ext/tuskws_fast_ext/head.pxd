cdef class Head:
    cdef:
        readonly str method
        readonly bytes target
        readonly str version
        readonly object headers
        readonly Py_ssize_t size

    cpdef list all(self, bytes name)
