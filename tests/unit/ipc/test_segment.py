"""A segment is what peers can rely on: all there, zeroed, sealed, private, and gone when it is closed."""

from __future__ import annotations

import errno
import fcntl
import os
import stat
import tempfile

import pytest
from helpers.forked import fork_to, reap

from tuskws_fast.ipc.segment import Segment, SegmentError


def open_descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


def test_new_memory_is_zeroed_and_all_of_it_is_there() -> None:
    segment = Segment.create("test", 3 * 4096)
    status = os.fstat(segment.fd)
    assert (status.st_size, status.st_blocks * 512) == (12288, 12288)
    assert bytes(segment.buffer) == bytes(12288)
    segment.close()


def test_its_name_tells_tools_whose_it_is() -> None:
    segment = Segment.create("worker-3", 4096)
    assert os.readlink(f"/proc/self/fd/{segment.fd}") == "/memfd:tuskws-worker-3 (deleted)"
    segment.close()


def test_only_its_user_may_open_it_and_nobody_may_execute_it() -> None:
    segment = Segment.create("test", 4096)
    assert stat.S_IMODE(os.fstat(segment.fd).st_mode) == 0o600
    segment.close()


def test_it_is_not_passed_on_to_programs_that_are_started() -> None:
    segment = Segment.create("test", 4096)
    assert not os.get_inheritable(segment.fd)
    segment.close()


@pytest.mark.parametrize("size", [0, 4095, 8192])
def test_its_size_is_sealed_and_so_are_the_seals(size: int) -> None:
    segment = Segment.create("test", 4096)
    with pytest.raises(PermissionError):
        os.ftruncate(segment.fd, size)
    with pytest.raises(PermissionError):
        fcntl.fcntl(segment.fd, fcntl.F_ADD_SEALS, fcntl.F_SEAL_WRITE)
    segment.close()


def test_what_one_process_writes_another_reads() -> None:
    segment = Segment.create("test", 4096)

    def child() -> None:
        mapped = Segment.from_fd(os.dup(segment.fd))
        mapped.buffer[100:105] = b"hello"
        mapped.close()

    assert reap(fork_to(child)) == 0
    assert bytes(segment.buffer[100:105]) == b"hello"
    segment.close()


def test_close_leaves_no_descriptor_and_may_come_twice() -> None:
    before = open_descriptors()
    segment = Segment.create("test", 4096)
    segment.close()
    segment.close()
    assert open_descriptors() == before


def test_close_refuses_while_something_holds_the_memory() -> None:
    segment = Segment.create("test", 4096)
    view = memoryview(segment.buffer)[8:]
    with pytest.raises(BufferError):
        segment.close()
    view.release()
    segment.close()


def test_memory_the_machine_does_not_have_is_refused_before_it_is_touched(monkeypatch: pytest.MonkeyPatch) -> None:
    """Really allocating it would have the OOM killer take whatever else runs here."""
    allocated: list[int] = []
    monkeypatch.setattr(os, "posix_fallocate", lambda fd, start, size: allocated.append(size))
    before = open_descriptors()
    with pytest.raises(OSError, match="are available") as caught:
        Segment.create("test", 2**50)
    assert (caught.value.errno, allocated, open_descriptors()) == (errno.ENOMEM, [], before)


def test_an_allocation_that_fails_is_an_error_and_leaks_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(fd: int, start: int, size: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full)
    before = open_descriptors()
    with pytest.raises(OSError, match="No space left"):
        Segment.create("test", 4096)
    assert open_descriptors() == before


def test_memory_that_could_shrink_is_refused() -> None:
    fd = os.memfd_create("loose", os.MFD_ALLOW_SEALING)
    os.ftruncate(fd, 4096)
    with pytest.raises(SegmentError, match="not sealed"):
        Segment.from_fd(fd)
    fcntl.fcntl(fd, fcntl.F_ADD_SEALS, fcntl.F_SEAL_GROW)
    with pytest.raises(SegmentError, match="not sealed"):
        Segment.from_fd(fd)
    os.close(fd)  # still ours, since from_fd refused it


def test_a_descriptor_of_something_else_is_refused() -> None:
    read_end, write_end = os.pipe()
    with tempfile.TemporaryFile(dir=os.getcwd()) as plain_file:
        for fd in (read_end, plain_file.fileno()):
            with pytest.raises(SegmentError):
                Segment.from_fd(fd)
    os.close(read_end)
    os.close(write_end)


def test_kernels_without_the_noexec_seal_get_a_segment_too(monkeypatch: pytest.MonkeyPatch) -> None:
    real, asked = os.memfd_create, []

    def older_kernel(name: str, flags: int) -> int:
        asked.append(flags)
        if flags & 0x0008:
            raise OSError(errno.EINVAL, "Invalid argument")
        return real(name, flags)

    monkeypatch.setattr(os, "memfd_create", older_kernel)
    Segment.create("test", 4096).close()
    assert len(asked) == 2
