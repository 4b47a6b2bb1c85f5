"""A named tuple made by its class's allocator: what its `__new__` is, a Python function of many arguments, costs 0.3 us.

    fields = named_tuple(cls, 4)        every item NULL: nobody may see it before all are put
    put_item(fields, 0, value) …        each once
"""

from cpython.ref cimport Py_INCREF

cdef extern from *:
    """
    static PyObject *tuskws_named_tuple(PyObject *cls, Py_ssize_t n) {
        if (!PyType_Check(cls) || !PyType_FastSubclass((PyTypeObject *)cls, Py_TPFLAGS_TUPLE_SUBCLASS)) {
            PyErr_SetString(PyExc_TypeError, "not a class of tuples");
            return NULL;
        }
        return ((PyTypeObject *)cls)->tp_alloc((PyTypeObject *)cls, n);
    }
    """
    tuple named_tuple "tuskws_named_tuple"(object cls, Py_ssize_t n)
    void _set_item "PyTuple_SET_ITEM"(tuple fields, Py_ssize_t at, object value)


cdef inline void put_item(tuple fields, Py_ssize_t at, object value):
    # The tuple takes over the reference that it is given, and Cython's goes at the end of the expression.
    Py_INCREF(value)
    _set_item(fields, at, value)
