"""A real supervisor over tiny children, and the test's grip on it.

`python -m helpers.tiny_node '{"workers": 2, …}'` runs the node; each process prints what happens to it as a JSON line
on standard output, which `TinyNode` reads. The worker child serves a line protocol on its listener: `who` answers
`worker <slot> <pid> <admitted> <gauge> <counter>`, `hold` takes an admission and counts a connection, `hang` stands
still, `babble` sends nonsense, `poison` accuses the broker, `crash` ends with exit code 9.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import selectors
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from tuskws_fast import logs
from tuskws_fast.metrics import Metric
from tuskws_fast.supervisor.backoff import BackoffRule
from tuskws_fast.supervisor.listeners import open_listeners
from tuskws_fast.supervisor.memory import MemorySizes, NodeMemory
from tuskws_fast.supervisor.operators import OperatorSocket
from tuskws_fast.supervisor.reloading import Reloaded
from tuskws_fast.supervisor.rollout import SPARE_SLOTS
from tuskws_fast.supervisor.supervisor import Supervisor
from tuskws_fast.supervisor.timing import Timing

DEADLINE_S = 20.0
ROOT = Path(__file__).parents[2]


class TinyNode:
    """Starts the node; `expect` waits for an event of one of its processes, however they interleave."""

    def __init__(self, **settings: Any) -> None:
        self.events: list[dict[str, Any]] = []
        paths = [str(ROOT / part) for part in ("src", "ext", "tests")]
        self.process = subprocess.Popen(
            [sys.executable, "-m", "helpers.tiny_node", json.dumps(settings)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=dict(os.environ, PYTHONPATH=os.pathsep.join(paths), PYTHONUNBUFFERED="1"),
        )
        assert self.process.stdout is not None
        self._selector = selectors.DefaultSelector()
        self._selector.register(self.process.stdout, selectors.EVENT_READ)
        self._rest = b""

    def expect(self, event: str, process: str | None = None, **fields: Any) -> dict[str, Any]:
        """The first event of that name (from `process`, with these fields) that was not expected before."""
        deadline = time.monotonic() + DEADLINE_S
        while True:
            for found in self.events:
                known = found["event"] == event and process in (None, found["process"])
                if known and all(found.get(key) == value for key, value in fields.items()):
                    self.events.remove(found)
                    return found
            if self.process.returncode is not None or not self._read(deadline - time.monotonic()):
                wanted = f"{process or 'any process'}: {event} {fields}"
                raise AssertionError(f"did not happen: {wanted}; seen: {self.events}; {self._errors()}")

    def _read(self, timeout_s: float) -> bool:
        """More events, if any come in time; False at the end of the output too."""
        if timeout_s <= 0 or not self._selector.select(timeout_s):
            return False
        assert self.process.stdout is not None
        chunk = os.read(self.process.stdout.fileno(), 65536)
        *lines, self._rest = (self._rest + chunk).split(b"\n")
        self.events += [json.loads(line) for line in lines]
        return bool(chunk)

    def _errors(self) -> str:
        self.process.kill()
        return self.process.communicate()[1].decode()[-2000:]

    def start(self) -> dict[str, Any]:
        """Wait until all processes are ready: {pids: {name: pid}, port}."""
        return self.expect("serving")

    def finish(self) -> tuple[int, str]:
        """Wait for its end: exit code and log."""
        output, errors = self.process.communicate(timeout=DEADLINE_S)
        self.events += [json.loads(line) for line in (self._rest + output).splitlines()]
        self._rest = b""
        return self.process.returncode, errors.decode()

    def signal(self, number: signal.Signals) -> None:
        self.process.send_signal(number)


@contextlib.contextmanager
def tiny_node(**settings: Any) -> Iterator[TinyNode]:
    node = TinyNode(**settings)
    try:
        yield node
    finally:
        node.process.kill()
        node.process.communicate()


def ask(port: int, line: str) -> list[str]:
    """What one worker answers to a line, in words."""
    with socket.create_connection(("127.0.0.1", port), timeout=DEADLINE_S) as client:
        client.sendall(line.encode() + b"\n")
        return client.makefile().readline().split()


def wait_until(fact: Callable[[], bool], what: str) -> None:
    """Polls a fact that nothing announces (of /proc, of the kernel)."""
    deadline = time.monotonic() + DEADLINE_S
    while not fact():
        assert time.monotonic() < deadline, f"did not become true: {what}"
        time.sleep(0.005)


def wait_for_end(pid: int) -> None:
    """Of a process that need not be our child."""
    try:
        pidfd = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    with selectors.DefaultSelector() as selector:
        selector.register(pidfd, selectors.EVENT_READ)
        assert selector.select(DEADLINE_S), f"process {pid} lives on"
    os.close(pidfd)


# -- the node itself ---------------------------------------------------------------------------------------------------


def _say(event: str, process: str, **fields: Any) -> None:
    os.write(1, json.dumps({"event": event, "process": process, "pid": os.getpid(), **fields}).encode() + b"\n")


class _Child:
    """One child: reports its messages, beats, obeys `drain`; `settings` tell how it misbehaves."""

    def __init__(self, context: Any, settings: dict[str, Any]) -> None:
        self.context = context
        self.settings = settings
        self.loop = asyncio.new_event_loop()
        self.servers: dict[int, asyncio.Server] = {}

    def run(self) -> None:
        name, settings = self.context.name, self.settings
        _say("born", name, generation=self.context.generation)
        if name in settings.get("refuse", []):
            self.context.boot_failed("this machine is too small")
        if name in settings.get("crash_at_boot", []):
            os._exit(7)
        if name in settings.get("silent", []):
            signal.pause()
        self.context.connect(self.loop, self.on_message)
        self.beat()
        if self.context.listener is not None:
            self.loop.run_until_complete(self.serve(self.context.slot, self.context.listener))
        if name not in [*settings.get("never_ready", []), *settings.get("ready_when_rung", [])]:
            self.context.send("ready")
        self.loop.add_reader(self.context.bell, self.on_bell)
        self.loop.run_forever()
        _say("ended", name)

    def beat(self) -> None:
        self.context.beat()
        self.loop.call_later(0.02, self.beat)

    def on_bell(self) -> None:
        os.eventfd_read(self.context.bell)
        _say("rung", self.context.name)
        if self.context.name in self.settings.get("ready_when_rung", []):
            self.context.send("ready")

    def on_message(self, message: Any) -> None:
        _say(message.op, self.context.name, fields=dict(message.fields), fds=len(message.fds))
        if message.op == "adopt":
            listener = socket.socket(fileno=message.fds[0])
            self.loop.create_task(self.serve(message.fields["slot"], listener))
            return
        for fd in message.fds:
            os.close(fd)
        if message.op == "release":
            self.servers.pop(message.fields["slot"]).close()
        if message.op == "reload":
            self.context.send("reloaded", problem="")
        if message.op == "drain" and self.context.name not in self.settings.get("never_drained", []):
            self.loop.stop()

    async def serve(self, slot: int, listener: socket.socket) -> None:
        self.servers[slot] = await asyncio.start_server(self.on_client, sock=listener)
        _say("listening", self.context.name, slot=slot)

    async def on_client(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        line = (await reader.readline()).strip()
        if line == b"hang":
            signal.pause()
        elif line == b"crash":
            os._exit(9)
        elif line == b"babble":
            self.context.send("sing", song="la")
        elif line == b"poison":
            self.context.send("poisoned", worker=self.context.slot, reason="bad length")
        elif line == b"hold":
            self.context.memory.admission_table(self.context.slot).admit(1, 10)
            self.context.counters.set(Metric.CONNECTIONS_CURRENT, 1)
            self.context.counters.add(Metric.CONNECTIONS_OPENED, 1)
        held = self.context.memory.admission_table(self.context.slot).count(1)
        rows = self.context.memory.rows()
        current, opened = (sum(row[n] for row in rows) for n in (Metric.CONNECTIONS_CURRENT, Metric.CONNECTIONS_OPENED))
        writer.write(f"{self.context.name} {os.getpid()} {held} {current} {opened}\n".encode())
        await writer.drain()
        writer.close()


def _main(settings: dict[str, Any]) -> int:
    logs.configure("console", "debug")
    workers = settings.get("workers", 2)
    memory = NodeMemory(workers + SPARE_SLOTS, MemorySizes(64, 65536, 65536))
    listeners = open_listeners("127.0.0.1", 0, workers, 64)
    port = listeners[0].getsockname()[1]

    def on_ready() -> None:
        rows = memory.rows()
        names = ["supervisor", "broker 0", *(f"worker {n}" for n in range(workers))]
        pids = {name: row[Metric.PID] for name, row in zip(names, rows, strict=False)}
        _say("serving", "supervisor", pids=pids, port=port)

    def child(context: Any) -> None:
        _Child(context, settings).run()

    timing = Timing(
        hang_s=settings.get("hang_s", 5.0),
        boot_s=settings.get("boot_s", 30.0),
        drain_s=settings.get("drain_s", 10.0),
        drain_window_s=settings.get("drain_window_s", 0.0),
        drain_rate=settings.get("drain_rate", 1000),
        drain_margin_s=settings.get("drain_margin_s", 8.0),
        adopt_after_s=settings.get("adopt_after_s", 1.0),
        backoff=BackoffRule(first_s=settings.get("backoff_s", 0.1)),
    )
    supervisor = Supervisor(
        broker=child,
        worker=child,
        listeners=listeners,
        memory=memory,
        timing=timing,
        on_ready=on_ready,
        operators=OperatorSocket(Path(settings["operators"])) if "operators" in settings else None,
        on_reload=lambda: Reloaded({"options": {"log_level": "debug"}}, changed=["log_level"]),
    )
    exit_code = int(supervisor.run())
    rows = memory.rows()
    _say("over", "supervisor", restarts=[row[Metric.RESTARTS] for row in rows])
    memory.close()
    return exit_code


if __name__ == "__main__":
    sys.exit(_main(json.loads(sys.argv[1])))
