cdef extern from "<time.h>" nogil:
    enum:
        CLOCK_MONOTONIC
        CLOCK_MONOTONIC_COARSE
    struct timespec:
        long tv_sec
        long tv_nsec
    int clock_gettime(int clock, timespec* out)


cdef inline double monotonic() noexcept nogil:
    """Seconds on the coarse clock (4 ms steps, 5 ns to read): what is timed here takes a second or more."""
    cdef timespec now
    clock_gettime(CLOCK_MONOTONIC_COARSE, &now)
    return now.tv_sec + now.tv_nsec * 1e-9


cdef enum:
    # Microseconds of a loop turn for each kind of work that can wait: strangers, ends, and clients who send more than
    # others. So what a turn takes, and with it how long everybody else waits, does not depend on how much there is.
    SHARE_US = 100


cdef inline double exact_monotonic() noexcept nogil:
    """Seconds, exact (25 ns to read)."""
    cdef timespec now
    clock_gettime(CLOCK_MONOTONIC, &now)
    return now.tv_sec + now.tv_nsec * 1e-9


cdef inline double charge(double* full_at, double now, double seconds) noexcept nogil:
    """Take what takes `seconds` to earn; how many seconds' worth have been taken and not been earned again."""
    full_at[0] = (full_at[0] if full_at[0] > now else now) + seconds
    return full_at[0] - now


cdef inline bint is_over(double seconds) noexcept nogil:
    """More than a second's worth (the sum of a thousand shares of a second is not exact)."""
    return seconds > 1.000001


cdef class Pace:
    cdef:
        readonly double frames                          # a second; 0 = not limited
        readonly double size                            # bytes a second
        readonly double pings
        readonly unsigned long long frames_closed       # connections closed for too many frames
        readonly unsigned long long bytes_closed
        readonly unsigned long long pings_closed
        readonly unsigned long long pongs_spared        # pings answered by the pong to a later one
