"""Hand one frame to every member of a room: the innermost loop of the server.

Nothing is sent here. Each member's queue gets a reference, and the flush point writes at the end of the loop turn, so
that all that one wake-up brought for a connection leaves in one system call.
"""

from tuskws_fast_ext.connection cimport Connection
from tuskws_fast_ext.frame cimport Frame


def fan_out(dict members not None, Frame frame not None, Connection exclude=None):
    """Queue `frame` for each connection in `members` (its keys) but `exclude`. Returns how many got it.

    The caller must not change `members` before this returns: nothing in here calls back into Python code of ours
    but `on_too_slow`, which only marks the connection and lets the session end on a later turn.
    """
    cdef:
        Connection connection
        Py_ssize_t reached = 0
    for connection in members:
        if connection is exclude:
            continue
        connection.queue(frame)
        reached += 1
    return reached
