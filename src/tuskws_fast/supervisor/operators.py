"""The operators' door: a Unix socket of the supervisor that takes one command a connection, and answers in JSON lines.

    stats     one document                                                  (supervisor.stats)
    reload    what changed, once every process has taken it                 (supervisor.reloading)
    restart   a line for each step of a rolling restart, to its end         (supervisor.rollout)
    revoke {"user": …}                  how many sessions ended             (supervisor.revoking)

A command is a word, for some a JSON object behind it, and a newline; the end of the answer is the end of the
connection. The supervisor never waits for an operator: what does not fit into the socket's buffer ends the connection,
and so does a command that takes too long to come. Who has hung up stops nothing.

The socket lies in a directory of mode 0700 that must be our own: in /tmp anybody could have made it first.
"""

from __future__ import annotations

import logging
import os
import selectors
import socket
import stat
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from tuskws_fast.errors import OUT_OF_FILES, OUT_OF_FILES_PAUSE_S, BootError
from tuskws_fast.protocol import codec

log = logging.getLogger(__name__)

ANSWER_TIMEOUT_S = 2.0
# Operators are few; more than that at once is a script gone wild, and the oldest of them is sent away.
OPERATORS_MAX = 16
COMMAND_TIMEOUT_S = 2.0
COMMAND_BYTES_MAX = 4096


def default_path(port: int) -> Path:
    """Where a node on `port` puts its socket unless told otherwise."""
    base = os.environ.get("XDG_RUNTIME_DIR") or "/tmp"
    return Path(base) / f"tuskws-fast-{os.getuid()}" / f"{port}.sock"


class Operator:
    """One connection, from its command to the end of the answer."""

    def __init__(self, sock: socket.socket, now: float) -> None:
        self.socket = sock
        self.due: float | None = now + COMMAND_TIMEOUT_S
        self.received = b""
        # What stands behind the command's word.
        self.arguments: Any = None

    def tell(self, fields: Mapping[str, Any]) -> None:
        """Send one line of the answer."""
        if self.socket.fileno() < 0:
            return
        try:
            self.socket.sendall(codec.encode(fields) + b"\n")
        except OSError as error:
            log.debug("an operator does not read", extra={"reason": error.strerror or str(error)})
            self.end()

    def end(self) -> None:
        self.socket.close()


class OperatorSocket:
    """Listens at `path`. `commands` says what each word does with the operator who sent it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.commands: Mapping[str, Callable[[Operator], None]] = {}
        self._asking: list[Operator] = []
        self._answered: list[Operator] = []
        self._rests_until: float | None = None
        self._selector: selectors.BaseSelector
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._listener.setblocking(False)
        try:
            _own_directory(path.parent)
            _remove_if_dead(path)
            self._listener.bind(str(path))
            path.chmod(0o600)
            self._listener.listen(OPERATORS_MAX)
        except OSError as error:
            self._listener.close()
            raise BootError(f"cannot open the control socket {path}: {error.strerror or error}") from error
        except BootError:
            self._listener.close()
            raise

    def serve(self, selector: selectors.BaseSelector, commands: Mapping[str, Callable[[Operator], None]]) -> None:
        """Be called by `selector`, whose keys hold what to call."""
        self.commands = commands
        self._selector = selector
        selector.register(self._listener, selectors.EVENT_READ, self._accept)

    def _rest(self) -> None:
        """There is no descriptor for an operator: looking at the listener again and again would not make one."""
        self._selector.unregister(self._listener)
        self._rests_until = time.monotonic() + OUT_OF_FILES_PAUSE_S

    def expire(self, now: float) -> None:
        """Send away who has not said anything in time; listen again after a rest."""
        if self._rests_until is not None and self._rests_until <= now:
            self._rests_until = None
            self._selector.register(self._listener, selectors.EVENT_READ, self._accept)
        for operator in [each for each in self._asking if each.due is not None and each.due <= now]:
            self._dismiss(operator)

    @property
    def next_due(self) -> float | None:
        dues = [each.due for each in self._asking] + [self._rests_until]
        return min((due for due in dues if due is not None), default=None)

    def _accept(self) -> None:
        try:
            client, _ = self._listener.accept()
        except OSError as error:
            # Else it went away before we came.
            if error.errno in OUT_OF_FILES:
                self._rest()
            return
        client.setblocking(False)
        operator = Operator(client, time.monotonic())
        if len(self._asking) >= OPERATORS_MAX:
            self._dismiss(self._asking[0])
        self._asking.append(operator)
        self._selector.register(client, selectors.EVENT_READ, lambda: self._on_readable(operator))

    def _on_readable(self, operator: Operator) -> None:
        if operator not in self._asking:
            return  # Sent away since the selector looked.
        try:
            part = operator.socket.recv(COMMAND_BYTES_MAX)
        except BlockingIOError:
            return
        except OSError:
            part = b""
        operator.received += part
        if b"\n" in operator.received:
            self._forget(operator)
            self._obey(operator)
        elif not part or len(operator.received) > COMMAND_BYTES_MAX:
            self._dismiss(operator)

    def _obey(self, operator: Operator) -> None:
        line = operator.received.partition(b"\n")[0].strip()
        name, _, arguments = line.partition(b" ")
        word = name.decode("ascii", "replace")
        # Until the end of the answer: a child that is forked meanwhile has to close its copy.
        self._answered = [other for other in self._answered if other.socket.fileno() >= 0] + [operator]
        command = self.commands.get(word)
        if command is None:
            operator.tell({"error": f"no such command; there are {', '.join(self.commands)}"})
            operator.end()
            return
        try:
            operator.arguments = codec.decode(arguments) if arguments else None
        except codec.JSONDecodeError:
            operator.tell({"error": "what is behind the command is no JSON"})
            operator.end()
            return
        command(operator)

    def _forget(self, operator: Operator) -> None:
        self._asking.remove(operator)
        self._selector.unregister(operator.socket)

    def _dismiss(self, operator: Operator) -> None:
        self._forget(operator)
        operator.end()

    def abandon(self) -> None:
        """In a child: close the copies, leave the file."""
        self._listener.close()
        for operator in self._asking + self._answered:
            operator.end()

    def close(self) -> None:
        self.abandon()
        self.path.unlink(missing_ok=True)


def ask(path: Path, command: str, timeout_s: float | None = ANSWER_TIMEOUT_S) -> Iterator[dict[str, Any]]:
    """The lines of the answer of the node that listens at `path`, as they come; None waits for each as long as it
    takes. Raises `OSError` when no node does."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as client:
        client.settimeout(ANSWER_TIMEOUT_S)
        client.connect(str(path))
        client.sendall(command.encode() + b"\n")
        client.settimeout(timeout_s)
        with client.makefile("rb") as lines:
            for line in lines:
                found: dict[str, Any] = codec.decode(line)
                yield found


def _own_directory(directory: Path) -> None:
    directory.mkdir(mode=0o700, exist_ok=True)
    found = os.lstat(directory)
    ours = stat.S_ISDIR(found.st_mode) and found.st_uid == os.getuid()
    if directory.name.startswith("tuskws-fast-") and (not ours or found.st_mode & 0o077):
        raise BootError(f"{directory} is not a directory of mode 0700 that belongs to this user")


def _remove_if_dead(path: Path) -> None:
    """A node that was killed leaves its socket behind; one that lives answers."""
    if not path.exists():
        return
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(ANSWER_TIMEOUT_S)
        try:
            probe.connect(str(path))
        except ConnectionRefusedError:
            path.unlink()
        else:
            raise BootError(f"another node answers on the control socket {path}")
