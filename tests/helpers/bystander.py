"""An honest client beside an attack, in a process of its own: how long its round trips take, and that nothing is lost.

    with bystander(server) as watcher:
        ...                          # a quiet time, then the attack; their moments on the monotonic clock
        report = watcher.finish()    # every message was there, and in order
    report.p99([(since, until), ...]), report.memory_between(since, until)

It pings 200 times a second, ten times a second it publishes to a room of its own and gets its message back through the
broker. Meanwhile it watches the memory of the worker. What is measured is the server, and not whoever else is busy on
the machine: it goes before others on the processor (where it may), and the time for which the kernel let the worker, or
itself, wait for a processor (`/proc/PID/schedstat`) is taken off a round trip.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from helpers.raw import RawClient
from helpers.server import RunningServer

PAUSE_S = 1 / 200
PUBLISH_EVERY = 20
LOOK_AT_MEMORY_EVERY = 20
WINDOW_S = 1.0

Span = tuple[float, float]


@dataclass(frozen=True)
class Report:
    """Round trips and the worker's anonymous memory, each with its moment on the monotonic clock."""

    round_trips: list[tuple[float, float]]
    memory: list[tuple[float, int]]

    def p99(self, spans: list[Span]) -> float:
        """In seconds, the median over windows of each window's 99th percentile. What is left of a span is in none."""
        windows: dict[tuple[float, int], list[float]] = {}
        for since, until in spans:
            whole = max(1, int((until - since) / WINDOW_S))
            for at, took in self.round_trips:
                if since <= at < min(until, since + whole * WINDOW_S):
                    windows.setdefault((since, int((at - since) / WINDOW_S)), []).append(took)
        assert windows, "the bystander measured nothing"
        return statistics.median(sorted(window)[int(0.99 * len(window))] for window in windows.values())

    def memory_between(self, since: float, until: float) -> list[int]:
        return [size for at, size in self.memory if since <= at < until]


class Bystander:
    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process

    def finish(self) -> Report:
        """It says goodbye; whatever it missed fails here."""
        out, _ = self._process.communicate("", timeout=20)
        assert self._process.returncode == 0, "the bystander was disturbed; see its traceback"
        return Report(**json.loads(out))


@contextlib.contextmanager
def bystander(server: RunningServer) -> Iterator[Bystander]:
    (worker,) = server.worker_pids()
    process = subprocess.Popen(
        [sys.executable, "-m", "helpers.bystander", str(server.port), str(worker), server.token("bystander")],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
    )
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n", "the bystander did not get in"
        yield Bystander(process)
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()
        for pipe in (process.stdin, process.stdout):
            assert pipe is not None
            pipe.close()


def anonymous_memory(pid: int) -> int:
    """Bytes that are the process's own: neither shared memory (the rings) nor files."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("RssAnon:"):
            return int(line.split()[1]) * 1024
    raise AssertionError("no RssAnon in /proc/PID/status")


def waited_for_processor(pid: int) -> float:
    """Seconds that a process was ready to run and did not."""
    return int(Path(f"/proc/{pid}/schedstat").read_text().split()[1]) * 1e-9


def go_first() -> None:
    """Ahead of others on the processor; only root may."""
    with contextlib.suppress(PermissionError):
        os.setpriority(os.PRIO_PROCESS, 0, -10)


def main(port: int, worker: int, token: str) -> None:
    go_first()
    round_trips: list[tuple[float, float]] = []
    memory: list[tuple[float, int]] = []
    with RawClient(port, headers=f"Authorization: Bearer {token}\r\n") as client:
        assert client.expect("welcome")["authenticated"]
        client.send({"type": "join_room", "room": "bystander", "id": "join"})
        said = client.expect("room_joined")["offset"]
        print("ready", flush=True)
        beat = 0
        while not select.select([sys.stdin], [], [], 0)[0]:
            beat += 1
            kept_waiting = waited_for_processor(worker) + waited_for_processor(os.getpid())
            began = time.monotonic()
            client.send({"type": "ping", "id": beat})
            answer = client.message()
            assert (answer["type"], answer["id"]) == ("pong", beat), answer
            took = time.monotonic() - began
            kept_waiting = waited_for_processor(worker) + waited_for_processor(os.getpid()) - kept_waiting
            round_trips.append((began, max(0.0, took - kept_waiting)))
            if beat % PUBLISH_EVERY == 0:
                said += 1
                client.send({"type": "broadcast", "room": "bystander", "message": said, "id": f"b{said}"})
                answers = {answer["type"]: answer for answer in (client.message(), client.message())}
                assert answers["ack"]["offset"] == said, answers
                assert (answers["room_message"]["offset"], answers["room_message"]["message"]) == (said, said), answers
            if beat % LOOK_AT_MEMORY_EVERY == 0:
                memory.append((time.monotonic(), anonymous_memory(worker)))
            time.sleep(max(0.0, PAUSE_S - (time.monotonic() - began)))
    print(json.dumps({"round_trips": round_trips, "memory": memory}))


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), sys.argv[3])
