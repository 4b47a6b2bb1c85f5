from tuskws_fast_ext.deflate cimport Deflater


cdef class Feed:
    cdef:
        public bint conflate        # a slow reader gets the newest message; else none until it has caught up
        public bint active          # False: the room's messages are not to be left out any more
        readonly bytes head         # of the `gap` that tells what was left out: {"type":"gap","room":…,"epoch":…


cdef class Frame:
    cdef:
        readonly Feed feed          # whose messages these are, if a slow reader may miss them; else None
        readonly unsigned long long first_offset     # of the first body, and of the last
        readonly unsigned long long last_offset
        list bodies                 # encoded JSON texts, in delivery order; None when all forms below are one and given
        bytes plain                 # each body as a WebSocket text frame of its own, one after the other
        bytes batched               # one text frame: {"type":"batch","messages":[…],"timestamp":…}; None until wanted
        bytes deflated              # as `plain`, each body compressed for itself; `plain` itself if none is worth it
        bytes deflated_batch        # as `batched`, compressed
        double timestamp
        unsigned char opcode        # of each body; a batch is text
        readonly Py_ssize_t count   # messages inside
        readonly bint exempt        # replay: does not count against the queue_*_max limits (protocol §4)

    @staticmethod
    cdef Frame _fixed(bytes wire, Py_ssize_t count, bint exempt)
    cdef bytes wire(self, bint batch, Deflater deflater)
    cdef Frame for_one(self, bint batch, Deflater deflater)
    cdef Frame newest(self)
    cdef bytes _batch_body(self)


cdef bytes frame_bytes(list bodies, int opcode)
cpdef bytes control_frame(int opcode, bytes payload)
