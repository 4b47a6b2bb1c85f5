"""How much there is to decode in a JSON text, before anything of it is decoded.

What it costs to decode is not told by the size: 64 KiB are 25 us as one string, 600 us as 6,500 members of an object,
900 us as 20,000 empty lists (measured). It is told by the items: members, entries, lists and objects, each announced by
one of `, [ {`.
"""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_GET_SIZE


cdef inline bint announces(unsigned char c) noexcept nogil:
    return c == 44 or c == 91 or c == 123


def has_more_items(bytes text not None, Py_ssize_t most):
    """Whether `text` has more than `most` items. In a text that is no JSON what looks like one counts."""
    cdef:
        const unsigned char* at = <const unsigned char*>PyBytes_AS_STRING(text)
        Py_ssize_t i = 0
        Py_ssize_t size = PyBytes_GET_SIZE(text)
        Py_ssize_t found = 0
        bint quoted = False
    # Strings included, which compilers make wide: 64 KiB are 6 us. Nearly always that says enough.
    for i in range(size):
        found += announces(at[i])
    if found <= most:
        return False
    found = 0
    i = 0
    while i < size and found <= most:
        if at[i] == 34:
            quoted = not quoted
        elif quoted:
            # The character behind a backslash ends nothing.
            i += at[i] == 92
        else:
            found += announces(at[i])
        i += 1
    return found > most
