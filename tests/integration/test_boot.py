"""The whole command from outside: how it starts, what it says, how it ends."""

import json
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from helpers.server import RunningServer, started_server, wait_until

DEADLINE_S = 30


def run(*args: str, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    environ = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    command = [sys.executable, "-m", "tuskws_fast", *args]
    return subprocess.run(
        command, cwd=cwd, env=environ, capture_output=True, text=True, timeout=DEADLINE_S, check=False
    )


def stats(server: RunningServer, *args: str) -> subprocess.CompletedProcess[str]:
    [path] = {word.removeprefix("control_socket=") for word in server.log_text().split() if "control_socket=" in word}
    return run("stats", "--control-socket", path, *args)


def test_the_log_says_where_it_serves_and_what_was_recovered(tmp_path: Path) -> None:
    with started_server(workers=2, data_dir=tmp_path / "made") as server:
        serving = f"serving ws://127.0.0.1:{server.port}  workers=2 pid={server.pid}"
        # One worker may answer before the supervisor has heard of the other.
        wait_until(lambda: serving in server.log_text(), "the log says where it serves")
        log = server.log_text()
        assert "recovered  scopes=0" in log
        assert "Traceback" not in log


def test_json_lines_name_their_process() -> None:
    with started_server(workers=1, log_format="json") as server:
        lines = [json.loads(line) for line in server.log_text().splitlines()]
        assert {line["process"] for line in lines} >= {"supervisor"}


def test_sigterm_ends_it_well_and_leaves_no_socket_and_no_process() -> None:
    with started_server(workers=2) as server:
        below = [pid for pid, _ in server.descendants()]
        assert len(below) == 3
        assert server.stop() == 0
        assert not [pid for pid in below if Path(f"/proc/{pid}").exists()]
        assert "draining" in server.log_text()
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.1", server.port))


@pytest.mark.parametrize(
    ("args", "code", "text"),
    [
        (["--port", "eighty"], 2, "tuskws-fast: port: 'eighty' is not a number (from --port)\n"),
        (["--workers", "1", "--host", "192.0.2.1"], 3, "cannot start: cannot listen on 192.0.2.1:"),
        (
            ["--workers", "2", "--port", "0", "--app", "nonesuch:server"],
            3,
            "cannot load the application nonesuch:server",
        ),
    ],
)
def test_what_cannot_start_says_why_in_one_line(args: list[str], code: int, text: str) -> None:
    done = run(*args, "--data-dir", "none")
    assert done.returncode == code
    assert text in done.stderr
    assert "Traceback" not in done.stderr


def test_a_second_node_on_the_port_is_refused() -> None:
    with started_server(workers=1) as server:
        done = run("--port", str(server.port), "--data-dir", "none")
        assert done.returncode == 3
        assert "another process uses the port" in done.stderr


def test_a_second_node_on_the_data_directory_is_refused(tmp_path: Path) -> None:
    with started_server(workers=1, data_dir=tmp_path) as server:
        done = run("--port", "0", "--data-dir", str(tmp_path))
        assert done.returncode == 3
        assert f"data_dir: {tmp_path} is in use by another node" in done.stderr
        assert server.process.poll() is None


def test_a_data_directory_that_cannot_be_made_is_refused(tmp_path: Path) -> None:
    tmp_path.joinpath("file").write_text("")
    done = run("--port", "0", "--data-dir", str(tmp_path / "file" / "data"))
    assert done.returncode == 2
    assert "data_dir: " in done.stderr
    assert "--data-dir none" in done.stderr


def test_stats_show_the_node_and_every_process() -> None:
    with started_server(workers=2) as server:
        document = json.loads(stats(server, "--json").stdout)
        assert document["health"]["status"] == "healthy"
        assert [row["state"] for row in document["processes"]] == ["ready"] * 4 + ["spare"]
        pids = {row["pid"] for row in document["processes"] if row["state"] == "ready"}
        assert pids == {server.pid, *(pid for pid, _ in server.descendants())}
        assert "worker 1" in stats(server).stdout


def test_health_is_degraded_while_a_process_is_away_and_healthy_again_afterwards() -> None:
    with started_server(workers=2) as server:
        worker = server.worker_pids()[0]
        os.kill(worker, signal.SIGSTOP)
        wait_until(lambda: json.loads(stats(server, "--json").stdout)["health"]["status"] == "degraded", "degraded")
        wait_until(lambda: json.loads(stats(server, "--json").stdout)["health"]["status"] == "healthy", "healthy")
        assert worker not in server.worker_pids()


def test_sighup_rereads_the_file_and_keeps_the_old_when_it_is_broken(tmp_path: Path) -> None:
    file = tmp_path / "node.toml"
    file.write_text('log_level = "info"\n')
    with started_server(workers=1, config=str(file)) as server:
        file.write_text("log_levle = 1\n")
        os.kill(server.pid, signal.SIGHUP)
        wait_until(lambda: "the configuration is left as it was" in server.log_text(), "refused")
        assert "did you mean log_level?" in server.log_text()
        file.write_text('log_level = "debug"\n')
        os.kill(server.pid, signal.SIGHUP)
        os.kill(server.worker_pids()[0], signal.SIGKILL)
        wait_until(lambda: "DEBUG" in server.log_text(), "the new level is in force")
