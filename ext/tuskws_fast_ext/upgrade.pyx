"""What RFC 6455 §4.2.1 asks of a request that is to become a WebSocket, judged in one pass over its headers.

A GET of HTTP/1.1 with one Host, `Upgrade: websocket` and `Connection: Upgrade` (both are lists, over any number of
lines), one Sec-WebSocket-Version of 13, one Sec-WebSocket-Key of 16 bytes in base64. Beyond that: one Origin at most, no
body (whoever stands in front of us would take for a body what we read as frames), and of subprotocols, where any is
offered, ours among them. The first fault in this order counts; what is said about it is protocol/handshake.py.

Asked one by one, header for header, these cost a handshake 2.5 us, a tenth of all that it cost beside the kernel's share.
"""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_GET_SIZE

from tuskws_fast_ext.head cimport Head, is_name

__all__ = ["Fault", "Upgrade", "judge"]

cdef enum:
    KEY_CHARS = 24


cdef class Upgrade:
    """A request for an upgrade, judged. Without a fault `key` is its Sec-WebSocket-Key. `extensions` are the values of
    Sec-WebSocket-Extensions, in order; `offers_subprotocol`: the answer is to name ours."""


def judge(Head head not None, bytes subprotocol not None):
    """What there is to know of `head`, a request for an upgrade."""
    cdef:
        Upgrade found = Upgrade.__new__(Upgrade)
        bytes name, value
        bytes host = None
        bytes version = None
        bytes key = None
        list extensions = None
        int hosts = 0
        int versions = 0
        int keys = 0
        int origins = 0
        bint upgrades = False
        bint connects = False
        bint has_body = False
        bint speaks_ours = False
    for pair in head.headers:
        name = (<tuple?>pair)[0]
        value = (<tuple>pair)[1]
        if name is None or value is None:
            raise TypeError("a header is a pair of bytes")
        if is_name(name, b"host", 4):
            host = value
            hosts += 1
        elif is_name(name, b"upgrade", 7):
            upgrades |= has_element(value, b"websocket", 9, True)
        elif is_name(name, b"connection", 10):
            connects |= has_element(value, b"upgrade", 7, True)
        elif is_name(name, b"sec-websocket-version", 21):
            version = value
            versions += 1
        elif is_name(name, b"sec-websocket-key", 17):
            key = value
            keys += 1
        elif is_name(name, b"sec-websocket-extensions", 24):
            if extensions is None:
                extensions = []
            extensions.append(value)
        elif is_name(name, b"sec-websocket-protocol", 22):
            # An empty element, or an empty header, offers nothing.
            found.offers_subprotocol |= has_element(value, NULL, 0, False)
            speaks_ours |= has_element(value, PyBytes_AS_STRING(subprotocol), PyBytes_GET_SIZE(subprotocol), False)
        elif is_name(name, b"origin", 6):
            origins += 1
        elif is_name(name, b"transfer-encoding", 17):
            has_body = True
        elif is_name(name, b"content-length", 14):
            has_body |= not is_zero(value)
    found.extensions = () if extensions is None else tuple(extensions)
    if head.method != "GET":
        found.fault = Fault.METHOD
    elif head.version != "1.1":
        found.fault = Fault.VERSION
    elif hosts != 1 or not PyBytes_GET_SIZE(host):
        found.fault = Fault.HOST
    elif not upgrades:
        found.fault = Fault.UPGRADE
    elif not connects:
        found.fault = Fault.CONNECTION
    elif versions != 1 or not is_name(version, b"13", 2):
        found.fault = Fault.WEBSOCKET_VERSION
    elif keys != 1 or not is_key(key):
        found.fault = Fault.KEY
    elif origins > 1:
        found.fault = Fault.ORIGIN
    elif has_body:
        found.fault = Fault.BODY
    elif found.offers_subprotocol and not speaks_ours:
        found.fault = Fault.SUBPROTOCOL
    else:
        found.key = key
    return found


cdef bint has_element(bytes value, const char* wanted, Py_ssize_t size, bint in_any_case) noexcept:
    """The list `value` (RFC 9110 §5.6.1) has this element; NULL: any that is not empty. `in_any_case`: `wanted` is in
    lower case, and the element need not be."""
    cdef:
        const char* at = PyBytes_AS_STRING(value)
        const char* end = at + PyBytes_GET_SIZE(value)
        const char* start
        const char* stop
    while at < end:
        if at[0] == 44 or is_space(at[0]):
            at += 1
            continue
        start = at
        while at < end and at[0] != 44:
            at += 1
        stop = at
        while is_space((stop - 1)[0]):
            stop -= 1
        if wanted is NULL or stop - start == size and is_equal(start, wanted, size, in_any_case):
            return True
    return False


cdef inline bint is_space(char c) noexcept nogil:
    return c == 32 or c == 9


cdef inline bint is_equal(const char* text, const char* wanted, Py_ssize_t size, bint in_any_case) noexcept nogil:
    cdef Py_ssize_t i
    for i in range(size):
        if text[i] != wanted[i] and not (in_any_case and 65 <= text[i] <= 90 and text[i] + 32 == wanted[i]):
            return False
    return True


cdef bint is_zero(bytes digits) noexcept:
    """Nothing but zeros, or nothing."""
    cdef Py_ssize_t i
    for i in range(PyBytes_GET_SIZE(digits)):
        if PyBytes_AS_STRING(digits)[i] != 48:
            return False
    return True


cdef bint is_key(bytes value) noexcept:
    """16 bytes in base64: 22 digits, and `==` to fill up."""
    cdef:
        const unsigned char* text = <const unsigned char*>PyBytes_AS_STRING(value)
        Py_ssize_t i
    if PyBytes_GET_SIZE(value) != KEY_CHARS or text[KEY_CHARS - 2] != 61 or text[KEY_CHARS - 1] != 61:
        return False
    for i in range(KEY_CHARS - 2):
        if not is_digit(text[i]):
            return False
    return True


cdef inline bint is_digit(unsigned char c) noexcept nogil:
    """Of base64 (RFC 4648 §4)."""
    return 48 <= c <= 57 or 65 <= c <= 90 or 97 <= c <= 122 or c == 43 or c == 47
