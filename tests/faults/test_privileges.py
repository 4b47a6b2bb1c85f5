"""What a node may do on its machine, and others on the machine to it: seen from outside, with a real node."""

from __future__ import annotations

import contextlib
import fcntl
import os
import pwd
import signal
import socket
import stat
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from helpers.raw import RawClient
from helpers.server import RunningServer, started_server, wait_until

as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody else")
NOBODY = pwd.getpwnam("nobody")


@pytest.fixture(scope="module")
def server() -> Iterator[RunningServer]:
    with started_server(workers=1) as running:
        yield running


@pytest.fixture(scope="module")
def node_of_nobody() -> Iterator[RunningServer]:
    with (
        public_directory() as scratch,
        started_server(
            workers=1, user="nobody", port=free_low_port(), control_socket=f"{scratch}/control.sock", no_demo=True
        ) as running,
    ):
        yield running
        assert "Traceback" not in running.log_text(), running.log_text()


@contextlib.contextmanager
def public_directory() -> Iterator[str]:
    with tempfile.TemporaryDirectory(prefix="tuskws-test-nobody-") as scratch:
        Path(scratch).chmod(0o700)
        os.chown(scratch, NOBODY.pw_uid, NOBODY.pw_gid)
        yield scratch


def free_low_port() -> int:
    """One that only root may bind."""
    for port in range(900, 1024):
        with contextlib.suppress(OSError), socket.socket() as probe:
            probe.bind(("127.0.0.1", port))
            return port
    raise AssertionError("no port below 1024 is free")


def processes(server: RunningServer) -> dict[str, int]:
    return {"supervisor": server.pid, **{comm.rstrip("-0123456789"): pid for pid, comm in server.descendants()}}


def status(pid: int) -> dict[str, str]:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return {name: value.strip() for name, _, value in (line.partition(":") for line in lines)}


def segments(pid: int) -> list[str]:
    """The paths under /proc by which this process's shared memory could be opened."""
    found = []
    for entry in Path(f"/proc/{pid}/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):
            if os.readlink(entry).startswith("/memfd:tuskws-"):
                found.append(str(entry))
    assert len(found) >= 3, "counters, rates, admission; and the link"
    return found


# -- shared memory -----------------------------------------------------------------------------------------------------


def test_shared_memory_is_sealed_and_the_users_own(server: RunningServer) -> None:
    for pid in processes(server).values():
        for path in segments(pid):
            fd = os.open(path, os.O_RDWR)
            try:
                assert stat.S_IMODE(os.fstat(fd).st_mode) == 0o600
                size = os.fstat(fd).st_size
                for change in (0, size - 1, size + 1):
                    with pytest.raises(PermissionError):
                        os.ftruncate(fd, change)
                with pytest.raises(PermissionError):
                    fcntl.fcntl(fd, fcntl.F_ADD_SEALS, fcntl.F_SEAL_WRITE)
                # All of it is there: no write can ever meet a full machine.
                assert os.fstat(fd).st_blocks * 512 >= size
            finally:
                os.close(fd)


def test_shared_memory_has_no_name_that_could_be_opened(server: RunningServer) -> None:
    before = set(os.listdir("/dev/shm"))
    with started_server(workers=1):
        assert not {name for name in set(os.listdir("/dev/shm")) - before if "tuskws" in name}


@as_root
def test_another_user_can_open_neither_shared_memory_nor_the_control_socket(server: RunningServer) -> None:
    paths = [path for pid in processes(server).values() for path in segments(pid)]
    attempt = (
        "import os, socket, sys\n"
        "for path in sys.argv[2:]:\n"
        "    try: os.open(path, os.O_RDONLY)\n"
        "    except PermissionError: continue\n"
        "    sys.exit(f'{path} was opened')\n"
        "try: socket.socket(socket.AF_UNIX).connect(sys.argv[1])\n"
        "except PermissionError: sys.exit(0)\n"
        "sys.exit('the control socket was opened')\n"
    )
    done = subprocess.run(
        ["/usr/bin/env", "python3", "-c", attempt, str(server.control_socket), *paths],
        user="nobody",
        group=NOBODY.pw_gid,
        extra_groups=[],
        cwd="/",
        capture_output=True,
        text=True,
        timeout=20,
        check=False,
    )
    assert done.returncode == 0, done.stderr


# -- privileges --------------------------------------------------------------------------------------------------------


def test_who_dies_first_when_memory_is_short(server: RunningServer) -> None:
    scores = {name: int(Path(f"/proc/{pid}/oom_score_adj").read_text()) for name, pid in processes(server).items()}
    own = int(Path("/proc/self/oom_score_adj").read_text())
    assert scores == {"supervisor": own, "broker": 100, "worker": 500}


def test_no_process_of_a_node_leaves_a_core_file(server: RunningServer) -> None:
    for pid in processes(server).values():
        limits = Path(f"/proc/{pid}/limits").read_text()
        line = next(line for line in limits.splitlines() if line.startswith("Max core file size"))
        assert line.split()[4:6] == ["0", "0"]


@as_root
def test_a_node_binds_as_root_and_serves_as_somebody_else(node_of_nobody: RunningServer) -> None:
    assert node_of_nobody.port < 1024
    for name, pid in processes(node_of_nobody).items():
        facts = status(pid)
        # Real, effective, saved and of the file system: no way back.
        assert facts["Uid"].split() == [str(NOBODY.pw_uid)] * 4, name
        assert facts["Gid"].split() == [str(NOBODY.pw_gid)] * 4, name
        assert set(facts["Groups"].split()) <= {str(NOBODY.pw_gid)}, name
        assert (int(facts["CapEff"], 16), int(facts["CapPrm"], 16)) == (0, 0), name
        assert facts["NoNewPrivs"] == "1", name
    with RawClient(node_of_nobody.port) as client:
        assert client.expect("welcome")
        client.send({"type": "join_room", "room": "a"})
        assert client.expect("room_joined")
    assert node_of_nobody.figure("connections_opened") >= 1


@as_root
def test_who_was_root_once_is_closed_to_others_of_its_new_user(node_of_nobody: RunningServer) -> None:
    scores = {}
    for name, pid in processes(node_of_nobody).items():
        # /proc belongs to root: the process may hold what root has read.
        assert os.stat(f"/proc/{pid}/mem").st_uid == 0
        scores[name] = int(Path(f"/proc/{pid}/oom_score_adj").read_text())
    assert (scores["broker"], scores["worker"]) == (100, 500)


@as_root
def test_death_of_the_supervisor_still_ends_all_after_a_change_of_user() -> None:
    with public_directory() as scratch:
        flags = {"user": "nobody", "control_socket": f"{scratch}/control.sock", "no_demo": True}
        with started_server(workers=2, **flags) as server:
            children = [pid for pid, _ in server.descendants()]
            assert len(children) == 3
            os.kill(children[0], signal.SIGSTOP)
            os.kill(server.pid, signal.SIGKILL)
            wait_until(lambda: not any(Path(f"/proc/{pid}/exe").exists() for pid in children), "nobody is left")


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--user", "nobody-of-that-name"], "user: there is no 'nobody-of-that-name' on this machine"),
        (["--user", "nobody", "--group", "no-such-group"], "group: there is no 'no-such-group' on this machine"),
        (["--group", "root"], "group: without a user it would do nothing"),
    ],
)
def test_an_account_that_is_not_there_is_a_wrong_option(flags: list[str], said: str) -> None:
    done = run([sys.executable, "-m", "tuskws_fast", "--port", "0", "--workers", "1", *flags])
    assert done.returncode == 2
    assert said in done.stderr


@as_root
def test_only_root_can_become_somebody_else() -> None:
    program = (
        "import os\n"
        "from tuskws_fast.errors import BootError\n"
        "from tuskws_fast.supervisor.privileges import become, find_account\n"
        "nobody, root = find_account('nobody', ''), find_account('0', '')\n"
        "become(nobody)\n"
        "become(nobody)\n"
        "try: become(root)\n"
        "except BootError as error: print(os.getuid(), error)\n"
    )
    done = run([sys.executable, "-c", program])
    assert done.stdout == f"{NOBODY.pw_uid} cannot become user root: only root can\n", done.stderr


def run(command: list[str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
