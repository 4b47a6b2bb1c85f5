"""How fast one connection may send: frames, bytes and pings a second. One `Pace` a worker, a bucket a connection.

    frames, bytes   over a second's worth at once: close 1008. Frames count before any is looked at, so a read that is
                    full of empty ones (11,000 in 64 KiB) costs no more than its headers
    pings           a second's worth is answered one by one; of those beyond, and of any while the peer does not read,
                    the newest (RFC 6455 §5.5.3 allows that); PING_PATIENCE seconds' worth: close 1008

A bucket is one number: the moment when it will be full again (GCRA). It is charged once a read and costs 10 ns.
"""


cdef class Pace:
    """Limits, 0 = none, and how often they were met."""

    def __init__(self, double frames=0.0, double size=0.0, double pings=0.0):
        self.frames = frames
        self.size = size
        self.pings = pings
