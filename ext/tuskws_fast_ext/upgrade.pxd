cpdef enum Fault:
    NONE
    METHOD
    VERSION
    HOST
    UPGRADE
    CONNECTION
    WEBSOCKET_VERSION
    KEY
    ORIGIN
    BODY
    SUBPROTOCOL


cdef class Upgrade:
    cdef:
        readonly int fault
        readonly bytes key
        readonly bint offers_subprotocol
        readonly tuple extensions
