"""What can go wrong, by who has to act on it; and the exit codes that tell a service manager the same.

    ConfigError     the operator: a flag, variable or key is wrong; nothing was started          exit 2
    BootError       the operator or the machine: the node could not come up (port in use, …)     exit 3
    ControlError    nobody: the peer of a control socket sent what no peer of ours sends

Faults of clients are not here: they are values (`protocol.codes`), because a bad client is an everyday event.
"""

from __future__ import annotations

import errno
from enum import IntEnum

# What `accept` says when there is no descriptor, or no memory, for a client; and how long to leave the listener alone
# then. It stays readable: looking again at once would be a busy loop. The kernel's queue holds who comes.
OUT_OF_FILES = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})
OUT_OF_FILES_PAUSE_S = 0.1


class ExitCode(IntEnum):
    """How `tuskws-fast` ends. 2 is also what click uses for a wrong command line."""

    OK = 0
    FAILED = 1
    CONFIG = 2
    BOOT = 3
    DRAIN_TIMED_OUT = 4
    INTERRUPTED = 130


class TuskwsError(Exception):
    """Anything this project raises on purpose."""

    exit_code = ExitCode.FAILED


class ConfigError(TuskwsError):
    """An option has a value that cannot be used. The text names the option and where it came from."""

    exit_code = ExitCode.CONFIG


class BootError(TuskwsError):
    """The node, or one of its processes, cannot start. The text is the one line that the operator reads."""

    exit_code = ExitCode.BOOT


class ControlError(TuskwsError):
    """A control message is malformed. Both ends are ours, so this is a defect and ends the process that sees it."""
