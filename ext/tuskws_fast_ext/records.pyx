"""The three records of the hot path, packed and read: what a publication and its answer are on a ring.

    Publish       conn 8 │ tag 4 │ rights 2 │ level 1 │ flags 1 │ nr 2 │ nk 2 │ room key body
    Publication   exclude 8 │ offset 8 │ nr 2 │ room body
    Reply         conn 8 │ tag 4 │ flags 1 │ body

Little-endian; `nr` and `nk` are the lengths of room and key in UTF-8, the body is what is left. The meaning of the
fields is in tuskws_fast/ipc/records.py, whose classes come in as `cls`; the slow twins in tests/helpers/packing.py say
what this file must do, byte for byte. A publication is packed and read twice on its way, and in Python that was a
quarter of what it cost the broker.

Whatever the bytes are, nothing outside them is read, and what no packer makes raises `ValueError`.
"""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from cpython.unicode cimport PyUnicode_DecodeUTF8
from libc.stdint cimport UINT16_MAX, uint8_t, uint16_t, uint32_t, uint64_t
from libc.string cimport memcpy

from tuskws_fast_ext.tuples cimport named_tuple, put_item

cdef extern from "Python.h":
    const char *PyUnicode_AsUTF8AndSize(object text, Py_ssize_t *size) except NULL

cdef enum:
    PUBLISH_FIELDS = 11
    PUBLISH_HEAD = 20
    PUBLICATION_FIELDS = 4
    PUBLICATION_HEAD = 18
    REPLY_FIELDS = 5
    REPLY_HEAD = 13
    # Of `Publish`
    ECHO = 1
    QUIET = 2
    SERVER = 4
    RECEIPT = 8
    # Of `Reply`
    OK = 1
    LAST = 2


cdef inline tuple fields_of(object record, Py_ssize_t count):
    """A named tuple is a tuple with other methods: unchecked, its items are one load away."""
    cdef tuple fields
    if not isinstance(record, tuple):
        raise TypeError("a record is a tuple")
    fields = <tuple>record
    if len(fields) != count:
        raise ValueError(f"a record of {len(fields)} fields")
    return fields


def pack_publish(record):
    cdef tuple fields = fields_of(record, PUBLISH_FIELDS)
    cdef uint64_t conn = fields[0]
    cdef uint32_t tag = fields[1]
    cdef uint16_t rights = fields[2], nr16, nk16
    cdef uint8_t level = fields[3], flags = 0
    cdef Py_ssize_t nr, nk, nb
    cdef const char *room = PyUnicode_AsUTF8AndSize(fields[6], &nr)
    cdef const char *key = PyUnicode_AsUTF8AndSize(fields[7], &nk)
    cdef bytes body = fields[8]
    cdef bytes out
    cdef char *at
    if nr > UINT16_MAX or nk > UINT16_MAX:
        raise ValueError("a name is too long for a record")
    if fields[4]:
        flags |= ECHO
    if fields[5]:
        flags |= QUIET
    if fields[9]:
        flags |= SERVER
    if fields[10]:
        flags |= RECEIPT
    nb = len(body)
    nr16, nk16 = <uint16_t>nr, <uint16_t>nk
    out = PyBytes_FromStringAndSize(NULL, PUBLISH_HEAD + nr + nk + nb)
    at = PyBytes_AS_STRING(out)
    memcpy(at, &conn, 8)
    memcpy(at + 8, &tag, 4)
    memcpy(at + 12, &rights, 2)
    at[14] = <char>level
    at[15] = <char>flags
    memcpy(at + 16, &nr16, 2)
    memcpy(at + 18, &nk16, 2)
    at += PUBLISH_HEAD
    memcpy(at, room, nr)
    memcpy(at + nr, key, nk)
    memcpy(at + nr + nk, PyBytes_AS_STRING(body), nb)
    return out


def unpack_publish(bytes payload not None, cls):
    cdef const char *at = PyBytes_AS_STRING(payload)
    cdef Py_ssize_t left = PyBytes_GET_SIZE(payload) - PUBLISH_HEAD
    cdef uint64_t conn
    cdef uint32_t tag
    cdef uint16_t rights, nr, nk
    cdef uint8_t flags
    cdef tuple record
    if left < 0:
        raise ValueError("a publish is cut short")
    memcpy(&conn, at, 8)
    memcpy(&tag, at + 8, 4)
    memcpy(&rights, at + 12, 2)
    flags = <uint8_t>at[15]
    memcpy(&nr, at + 16, 2)
    memcpy(&nk, at + 18, 2)
    left -= <Py_ssize_t>nr + nk
    if left < 0:
        raise ValueError("a publish is cut short")
    record = named_tuple(cls, PUBLISH_FIELDS)
    put_item(record, 0, conn)
    put_item(record, 1, tag)
    put_item(record, 2, rights)
    put_item(record, 3, <uint8_t>at[14])
    put_item(record, 4, (flags & ECHO) != 0)
    put_item(record, 5, (flags & QUIET) != 0)
    at += PUBLISH_HEAD
    put_item(record, 6, PyUnicode_DecodeUTF8(at, nr, NULL))
    put_item(record, 7, PyUnicode_DecodeUTF8(at + nr, nk, NULL))
    put_item(record, 8, PyBytes_FromStringAndSize(at + nr + nk, left))
    put_item(record, 9, (flags & SERVER) != 0)
    put_item(record, 10, (flags & RECEIPT) != 0)
    return record


def pack_publication(record):
    cdef tuple fields = fields_of(record, PUBLICATION_FIELDS)
    cdef uint64_t exclude = fields[0], offset = fields[1]
    cdef uint16_t nr16
    cdef Py_ssize_t nr, nb
    cdef const char *room = PyUnicode_AsUTF8AndSize(fields[2], &nr)
    cdef bytes body = fields[3]
    cdef bytes out
    cdef char *at
    if nr > UINT16_MAX:
        raise ValueError("a name is too long for a record")
    nb = len(body)
    nr16 = <uint16_t>nr
    out = PyBytes_FromStringAndSize(NULL, PUBLICATION_HEAD + nr + nb)
    at = PyBytes_AS_STRING(out)
    memcpy(at, &exclude, 8)
    memcpy(at + 8, &offset, 8)
    memcpy(at + 16, &nr16, 2)
    memcpy(at + PUBLICATION_HEAD, room, nr)
    memcpy(at + PUBLICATION_HEAD + nr, PyBytes_AS_STRING(body), nb)
    return out


def unpack_publication(bytes payload not None, cls):
    cdef const char *at = PyBytes_AS_STRING(payload)
    cdef Py_ssize_t left = PyBytes_GET_SIZE(payload) - PUBLICATION_HEAD
    cdef uint64_t exclude, offset
    cdef uint16_t nr
    cdef tuple record
    if left < 0:
        raise ValueError("a publication is cut short")
    memcpy(&exclude, at, 8)
    memcpy(&offset, at + 8, 8)
    memcpy(&nr, at + 16, 2)
    left -= nr
    if left < 0:
        raise ValueError("a publication is cut short")
    at += PUBLICATION_HEAD
    record = named_tuple(cls, PUBLICATION_FIELDS)
    put_item(record, 0, exclude)
    put_item(record, 1, offset)
    put_item(record, 2, PyUnicode_DecodeUTF8(at, nr, NULL))
    put_item(record, 3, PyBytes_FromStringAndSize(at + nr, left))
    return record


def pack_reply(record):
    cdef tuple fields = fields_of(record, REPLY_FIELDS)
    cdef uint64_t conn = fields[0]
    cdef uint32_t tag = fields[1]
    cdef uint8_t flags = 0
    cdef bytes body = fields[3]
    cdef Py_ssize_t nb = len(body)
    cdef bytes out = PyBytes_FromStringAndSize(NULL, REPLY_HEAD + nb)
    cdef char *at = PyBytes_AS_STRING(out)
    if fields[2]:
        flags |= OK
    if fields[4]:
        flags |= LAST
    memcpy(at, &conn, 8)
    memcpy(at + 8, &tag, 4)
    at[12] = <char>flags
    memcpy(at + REPLY_HEAD, PyBytes_AS_STRING(body), nb)
    return out


def unpack_reply(bytes payload not None, cls):
    cdef const char *at = PyBytes_AS_STRING(payload)
    cdef Py_ssize_t left = PyBytes_GET_SIZE(payload) - REPLY_HEAD
    cdef uint64_t conn
    cdef uint32_t tag
    cdef uint8_t flags
    cdef tuple record
    if left < 0:
        raise ValueError("a reply is cut short")
    memcpy(&conn, at, 8)
    memcpy(&tag, at + 8, 4)
    flags = <uint8_t>at[12]
    record = named_tuple(cls, REPLY_FIELDS)
    put_item(record, 0, conn)
    put_item(record, 1, tag)
    put_item(record, 2, (flags & OK) != 0)
    put_item(record, 3, PyBytes_FromStringAndSize(at + REPLY_HEAD, left))
    put_item(record, 4, (flags & LAST) != 0)
    return record
