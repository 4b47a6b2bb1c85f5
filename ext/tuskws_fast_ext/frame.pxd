cdef class Frame:
    cdef:
        list bodies                 # encoded JSON texts, in delivery order; None once every form was built
        bytes plain                 # each body as a WebSocket text frame of its own, one after the other
        bytes batched               # one text frame: {"type":"batch","messages":[…],"timestamp":…}; None until wanted
        double timestamp
        readonly Py_ssize_t count   # messages inside
        readonly bint exempt        # replay: does not count against the queue_*_max limits (protocol §4)

    cdef bytes wire(self, bint batch)


cdef bytes frame_bytes(list bodies, int opcode)
cpdef bytes control_frame(int opcode, bytes payload)
