"""The journal's one hot entry, packed and read: a batch of publications to the bytes of their frames, and back.

    0      4        8       16    20      28    36    44   48      52         56 58 60 62 63
    │ crc  │ length │ number│ kind│ offset│ wall│ conn│ tag│ prefix│ delivered│ns│nu│nk│ne│ scope epoch user key body │ 0…

Little-endian; `length` counts from byte 20, the CRC32C covers all after itself, frames are padded to multiples of 8.
The meaning of the fields is in tuskws_fast/storage/entries.py, of everything around them in storage/format.py; the slow
twin in tests/helpers/journals.py says what this file must do, byte for byte.

Whatever the bytes are, nothing outside them is read: every length is checked against what is left before it is used.
"""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from cpython.unicode cimport PyUnicode_DecodeUTF8
from libc.stdint cimport UINT16_MAX, UINT32_MAX, int32_t, uint8_t, uint16_t, uint32_t, uint64_t
from libc.string cimport memcmp, memcpy, memset

from tuskws_fast_ext.ring cimport ring_crc32c, ring_init
from tuskws_fast_ext.tuples cimport named_tuple, put_item

cdef extern from "Python.h":
    const char *PyUnicode_AsUTF8AndSize(object text, Py_ssize_t *size) except NULL

cdef enum:
    KIND = 1  # Kind.PUBLISHED
    CRC_BYTES = 4
    PAYLOAD_AT = 20
    TEXT_AT = 63
    FIELDS = 11
    FIXED = TEXT_AT - PAYLOAD_AT

# The checksum's table and its choice of instruction are this module's own copy.
ring_init()


cdef inline void put(char *at, const void *value, Py_ssize_t size) noexcept:
    memcpy(at, value, size)


cdef inline Py_ssize_t frame_size(Py_ssize_t length) noexcept:
    """Of a frame whose `length` is this."""
    return (PAYLOAD_AT + length + 7) & ~7


def frame_entries(list entries, uint64_t number, cls, pack):
    """The frames of `entries`, the first of which gets `number`, in one piece. What is no `cls` is packed, number and
    all, by `pack(entry, number)`."""
    cdef Py_ssize_t total = 0, size, length, others = 0
    cdef Py_ssize_t ns, ne, nu, nk, nb
    cdef const char *scope
    cdef const char *epoch
    cdef const char *user
    cdef const char *key
    cdef char *at
    cdef uint64_t offset, conn
    cdef double wall
    cdef uint32_t tag, prefix, length32, crc
    cdef int32_t delivered
    cdef uint16_t ns16, nu16, nk16
    cdef uint8_t ne8
    cdef bytes out, body, packed
    cdef tuple entry
    cdef list packed_others = []
    if not issubclass(cls, tuple):
        raise TypeError("entries are tuples")
    for index, each in enumerate(entries, number):
        if type(each) is not cls:
            packed = pack(each, index)
            packed_others.append(packed)
            total += frame_size(PyBytes_GET_SIZE(packed) + CRC_BYTES - PAYLOAD_AT)
            continue
        # A named tuple is a tuple with other methods: unchecked, its items are one load away.
        entry = <tuple>each
        PyUnicode_AsUTF8AndSize(entry[0], &ns)
        PyUnicode_AsUTF8AndSize(entry[1], &ne)
        PyUnicode_AsUTF8AndSize(entry[6], &nu)
        PyUnicode_AsUTF8AndSize(entry[7], &nk)
        body = entry[10]
        length = FIXED + ns + ne + nu + nk + PyBytes_GET_SIZE(body)
        if ns > UINT16_MAX or nu > UINT16_MAX or nk > UINT16_MAX or ne > 255 or length > <Py_ssize_t>UINT32_MAX:
            raise ValueError("a publication is too long for the journal")
        total += frame_size(length)
    out = PyBytes_FromStringAndSize(NULL, total)
    at = PyBytes_AS_STRING(out)
    for each in entries:
        if type(each) is not cls:
            packed = packed_others[others]
            others += 1
            nb = PyBytes_GET_SIZE(packed)
            size = frame_size(nb + CRC_BYTES - PAYLOAD_AT)
            put(at + CRC_BYTES, PyBytes_AS_STRING(packed), nb)
            memset(at + CRC_BYTES + nb, 0, size - CRC_BYTES - nb)
            crc = ~ring_crc32c(UINT32_MAX, <const uint8_t *>at + CRC_BYTES, nb)
            put(at, &crc, CRC_BYTES)
            at += size
            number += 1
            continue
        entry = <tuple>each
        scope = PyUnicode_AsUTF8AndSize(entry[0], &ns)
        epoch = PyUnicode_AsUTF8AndSize(entry[1], &ne)
        user = PyUnicode_AsUTF8AndSize(entry[6], &nu)
        key = PyUnicode_AsUTF8AndSize(entry[7], &nk)
        offset, wall, conn, tag = entry[2], entry[3], entry[4], entry[5]
        prefix, delivered = entry[8], entry[9]
        body = entry[10]
        nb = PyBytes_GET_SIZE(body)
        length = FIXED + ns + ne + nu + nk + nb
        size = frame_size(length)
        length32, ns16, nu16, nk16, ne8 = <uint32_t>length, <uint16_t>ns, <uint16_t>nu, <uint16_t>nk, <uint8_t>ne
        memset(at + 16, 0, 4)
        at[16] = KIND
        put(at + 4, &length32, 4)
        put(at + 8, &number, 8)
        put(at + 20, &offset, 8)
        put(at + 28, &wall, 8)
        put(at + 36, &conn, 8)
        put(at + 44, &tag, 4)
        put(at + 48, &prefix, 4)
        put(at + 52, &delivered, 4)
        put(at + 56, &ns16, 2)
        put(at + 58, &nu16, 2)
        put(at + 60, &nk16, 2)
        put(at + 62, &ne8, 1)
        put(at + TEXT_AT, scope, ns)
        put(at + TEXT_AT + ns, epoch, ne)
        put(at + TEXT_AT + ns + ne, user, nu)
        put(at + TEXT_AT + ns + ne + nu, key, nk)
        put(at + TEXT_AT + ns + ne + nu + nk, PyBytes_AS_STRING(body), nb)
        memset(at + PAYLOAD_AT + length, 0, size - PAYLOAD_AT - length)
        crc = ~ring_crc32c(UINT32_MAX, <const uint8_t *>at + CRC_BYTES, PAYLOAD_AT - CRC_BYTES + length)
        put(at, &crc, CRC_BYTES)
        at += size
        number += 1
    return out


def note_homes(list entries, cls, dict homes, segment) -> bool:
    """Put the scope of each of `entries` into `homes`, where it is not yet, with `segment`. False: not all are of `cls`,
    and those from the first other on are left."""
    cdef tuple entry
    if not issubclass(cls, tuple):
        raise TypeError("entries are tuples")
    for each in entries:
        if type(each) is not cls:
            return False
        entry = <tuple>each
        if entry[0] not in homes:
            homes[entry[0]] = segment
    return True


def read_published(bytes data, Py_ssize_t at, uint64_t expected, cls):
    """The publications in `data` from `at` on that have the numbers `expected`, `expected` + 1 …, and where the first
    other thing is."""
    cdef const char *start = PyBytes_AS_STRING(data)
    cdef Py_ssize_t end = PyBytes_GET_SIZE(data), left, text
    cdef const char *frame
    cdef uint64_t number, offset, conn
    cdef double wall
    cdef uint32_t crc, length, tag, prefix
    cdef int32_t delivered
    cdef uint16_t ns, nu, nk
    cdef uint8_t ne
    cdef tuple entry
    cdef list found = []
    if at < 0:
        raise ValueError("no place in the data")
    while at + TEXT_AT <= end:
        frame = start + at
        memcpy(&length, frame + 4, 4)
        memcpy(&number, frame + 8, 8)
        left = end - at - PAYLOAD_AT
        if number != expected or <uint8_t>frame[16] != KIND or length < FIXED or <Py_ssize_t>length > left:
            break
        memcpy(&crc, frame, 4)
        if <uint32_t>~ring_crc32c(UINT32_MAX, <const uint8_t *>frame + 4, PAYLOAD_AT - 4 + length) != crc:
            break
        memcpy(&offset, frame + 20, 8)
        memcpy(&wall, frame + 28, 8)
        memcpy(&conn, frame + 36, 8)
        memcpy(&tag, frame + 44, 4)
        memcpy(&prefix, frame + 48, 4)
        memcpy(&delivered, frame + 52, 4)
        memcpy(&ns, frame + 56, 2)
        memcpy(&nu, frame + 58, 2)
        memcpy(&nk, frame + 60, 2)
        memcpy(&ne, frame + 62, 1)
        text = <Py_ssize_t>ns + ne + nu + nk
        if FIXED + text + <Py_ssize_t>prefix > <Py_ssize_t>length:
            break
        frame += TEXT_AT
        entry = named_tuple(cls, FIELDS)
        put_item(entry, 2, offset)
        put_item(entry, 3, wall)
        put_item(entry, 4, conn)
        put_item(entry, 5, tag)
        put_item(entry, 8, prefix)
        put_item(entry, 9, delivered)
        put_item(entry, 10, PyBytes_FromStringAndSize(frame + text, <Py_ssize_t>length - FIXED - text))
        try:
            put_item(entry, 0, PyUnicode_DecodeUTF8(frame, ns, NULL))
            put_item(entry, 1, PyUnicode_DecodeUTF8(frame + ns, ne, NULL))
            put_item(entry, 6, PyUnicode_DecodeUTF8(frame + ns + ne, nu, NULL))
            put_item(entry, 7, PyUnicode_DecodeUTF8(frame + ns + ne + nu, nk, NULL))
        except UnicodeDecodeError:
            break
        found.append(entry)
        expected += 1
        at += (PAYLOAD_AT + <Py_ssize_t>length + 7) & ~7
    return found, at


def find_published(bytes data, Py_ssize_t at, bytes scope, uint64_t first, uint64_t last, dict found):
    """Put the publications of `scope` with the offsets `first` … `last` into `found`: offset → (wall, body). Frames are
    followed from `at` on by what each says of its length, to the first that says nothing; those of others are not
    looked into. Of two with the same offset the later counts."""
    cdef const char *start = PyBytes_AS_STRING(data)
    cdef const char *name = PyBytes_AS_STRING(scope)
    cdef const char *frame
    cdef Py_ssize_t end = PyBytes_GET_SIZE(data), named = PyBytes_GET_SIZE(scope), text
    cdef uint64_t number, offset
    cdef double wall
    cdef uint32_t crc, length
    cdef uint16_t ns, nu, nk
    cdef bint ours
    if at < 0:
        raise ValueError("no place in the data")
    while True:
        ours = False
        with nogil:
            while at + PAYLOAD_AT <= end:
                frame = start + at
                memcpy(&length, frame + 4, 4)
                memcpy(&number, frame + 8, 8)
                if number == 0 or <Py_ssize_t>length > end - at - PAYLOAD_AT:
                    break
                at += (PAYLOAD_AT + <Py_ssize_t>length + 7) & ~7
                if <uint8_t>frame[16] != KIND or <Py_ssize_t>length < FIXED + named:
                    continue
                memcpy(&offset, frame + 20, 8)
                memcpy(&ns, frame + 56, 2)
                if offset < first or offset > last or ns != named or memcmp(frame + TEXT_AT, name, named) != 0:
                    continue
                memcpy(&crc, frame, 4)
                if <uint32_t>~ring_crc32c(UINT32_MAX, <const uint8_t *>frame + 4, PAYLOAD_AT - 4 + length) == crc:
                    ours = True
                    break
        if not ours:
            return
        memcpy(&wall, frame + 28, 8)
        memcpy(&nu, frame + 58, 2)
        memcpy(&nk, frame + 60, 2)
        text = <Py_ssize_t>ns + <uint8_t>frame[62] + nu + nk
        if FIXED + text <= <Py_ssize_t>length:
            body = PyBytes_FromStringAndSize(frame + TEXT_AT + text, <Py_ssize_t>length - FIXED - text)
            found[offset] = (wall, body)
