"""The head of an HTTP request: what it says, and a quick reader for the form in which every WebSocket client writes it.

`Head` keeps the headers as they came and looks through them when it is asked: a handshake asks for three or four of half
a dozen, so an index would cost more than it saves (2.5 us, measured).

`read_head` knows only the plain case: one GET of a path by HTTP/1.1, complete, every line ended by CRLF, no body announced,
no line folded, no byte that RFC 9110 §5.5 forbids. Whatever differs is `None`: not wrong, but for a real parser
(httptools) to judge. So this may be quick (1.5 us against 14 for the parser and its callbacks, measured) without a say
in what is legal; a property test holds that both read the same out of whatever this one accepts.
"""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from libc.string cimport memcmp

__all__ = ["Head", "read_head"]

cdef enum:
    HEADERS_MAX = 64
    NAME_MAX = 64

# Characters of a header's name (RFC 9110 §5.6.2), in lower case; 0: not allowed.
cdef unsigned char NAME[256]
# 1: may stand in a header's value (§5.5); obs-text may.
cdef unsigned char VALUE[256]


cdef void _fill() noexcept:
    cdef:
        const char* others = b"!#$%&'*+-.^_`|~"
        int c
    for c in range(256):
        NAME[c] = 0
        VALUE[c] = (c >= 0x20 and c != 0x7F) or c == 0x09
        if 48 <= c <= 57 or 97 <= c <= 122:
            NAME[c] = <unsigned char>c
        elif 65 <= c <= 90:
            NAME[c] = <unsigned char>(c + 32)
    for c in range(15):
        NAME[<unsigned char>others[c]] = <unsigned char>others[c]


_fill()


cdef class Head:
    """A request line and its headers, pairs in order, names in lower case. `target` is as the client wrote it; the head
    has `size` bytes, where it was read here."""

    def __init__(self, str method not None, bytes target not None, str version not None, headers not None):
        self.method = method
        self.target = target
        self.version = version
        self.headers = headers

    def all(self, bytes name not None):
        """The values of all such headers, in order."""
        cdef list found = []
        for pair in self.headers:
            if is_name(<bytes?>(<tuple?>pair)[0], PyBytes_AS_STRING(name), PyBytes_GET_SIZE(name)):
                found.append((<tuple>pair)[1])
        return found

    def has(self, bytes name not None):
        """There is such a header."""
        for pair in self.headers:
            if is_name(<bytes?>(<tuple?>pair)[0], PyBytes_AS_STRING(name), PyBytes_GET_SIZE(name)):
                return True
        return False

    def first(self, bytes name not None):
        """The first such header as text, for values that are compared, never repeated."""
        for pair in self.headers:
            if is_name(<bytes?>(<tuple?>pair)[0], PyBytes_AS_STRING(name), PyBytes_GET_SIZE(name)):
                return (<bytes?>(<tuple>pair)[1]).decode("latin-1")
        return None


def read_head(bytes data not None):
    """The GET that `data` begins with, or None."""
    cdef:
        const unsigned char* at = <const unsigned char*>PyBytes_AS_STRING(data)
        const unsigned char* end = at + PyBytes_GET_SIZE(data)
        const unsigned char* start
        const unsigned char* stop
        unsigned char name[NAME_MAX]
        Py_ssize_t size
        list headers = []
        Head head
        bytes target
    if end - at < 16 or memcmp(at, b"GET /", 5):
        return None
    at += 4
    start = at
    while at < end and 0x20 < at[0] < 0x7F:
        at += 1
    if at == start or end - at < 11 or memcmp(at, b" HTTP/1.1\r\n", 11):
        return None
    target = PyBytes_FromStringAndSize(<const char*>start, at - start)
    at += 11
    while True:
        if end - at < 2:
            return None
        if at[0] == 13:
            if at[1] != 10:
                return None
            at += 2
            head = Head.__new__(Head)
            head.method = "GET"
            head.target = target
            head.version = "1.1"
            head.headers = headers
            head.size = at - <const unsigned char*>PyBytes_AS_STRING(data)
            return head
        size = 0
        while at < end and NAME[at[0]]:
            if size == NAME_MAX:
                return None
            name[size] = NAME[at[0]]
            size += 1
            at += 1
        if not size or at == end or at[0] != 58:
            return None
        at += 1
        while at < end and (at[0] == 32 or at[0] == 9):
            at += 1
        start = at
        while at < end and VALUE[at[0]]:
            at += 1
        stop = at
        if end - at < 2 or at[0] != 13 or at[1] != 10:
            return None
        at += 2
        while stop > start and ((stop - 1)[0] == 32 or (stop - 1)[0] == 9):
            stop -= 1
        if len(headers) == HEADERS_MAX or is_body(name, size):
            return None
        headers.append(
            (
                PyBytes_FromStringAndSize(<const char*>name, size),
                PyBytes_FromStringAndSize(<const char*>start, stop - start),
            )
        )


cdef bint is_body(const unsigned char* name, Py_ssize_t size) noexcept nogil:
    """The header says that something follows the head, or may (RFC 9112 §6.1)."""
    return size == 14 and not memcmp(name, b"content-length", 14) or size == 17 and not memcmp(
        name, b"transfer-encoding", 17
    )
