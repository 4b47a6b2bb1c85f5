"""The composition root: the only file that knows every role. It turns a `Config` into a running node.

    config ─▶ log ─▶ listeners, shared memory ─▶ what each process runs ─▶ supervisor.run()

The modules of the roles are imported here before the first fork, so that all processes share their pages; what they
create (loops, sockets, sessions) they create in their `main`, after it. The application is imported in each worker: it
may start what must not be forked, and a failed import is a boot failure with a reason.
"""

from __future__ import annotations

import gc
import hashlib
import importlib
import logging
import os
import resource
import sys
import traceback
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from tuskws_fast import logs
from tuskws_fast.auth.certificates import Certificates
from tuskws_fast.auth.origin import OriginPolicy
from tuskws_fast.config import OPTIONS, Config, changes, read_jwt_secret, with_options
from tuskws_fast.errors import BootError, ConfigError, ExitCode, TuskwsError
from tuskws_fast.options import Applied
from tuskws_fast.protocol import codec
from tuskws_fast.storage.directory import claim
from tuskws_fast.storage.keys import ticket_key
from tuskws_fast.supervisor.child import ChildContext, ChildMain, set_name
from tuskws_fast.supervisor.control import PACKET_BYTES_MAX
from tuskws_fast.supervisor.cores import Cores, allowed_cores, cpu_quota
from tuskws_fast.supervisor.listeners import (
    bound_receive_buffers,
    inherited_listeners,
    open_listeners,
    shown_address,
)
from tuskws_fast.supervisor.memory import MemorySizes, NodeMemory
from tuskws_fast.supervisor.notify import Notifier
from tuskws_fast.supervisor.operators import OperatorSocket, default_path
from tuskws_fast.supervisor.placing import Placing
from tuskws_fast.supervisor.privileges import become, find_account
from tuskws_fast.supervisor.reloading import Reloaded
from tuskws_fast.supervisor.rollout import SPARE_SLOTS
from tuskws_fast.supervisor.supervisor import Supervisor
from tuskws_fast.supervisor.timing import Timing

log = logging.getLogger(__name__)

# A certificate that ends sooner is worth a warning: renewal, if it were automatic, would have happened.
CERTIFICATE_ENDS_SOON = timedelta(days=14)
# Changed options go to every process in one control message.
FIELDS_BYTES_MAX = PACKET_BYTES_MAX - 1024


def run_node(config: Config, app: object | None = None, reread: Callable[[], Config] | None = None) -> ExitCode:
    """Serve until told to end. Everything that goes wrong on the way up is one line in the log and an exit code.

    `app` is the application where it exists already (`WebSocketServer.start`), else `config.server.app` names it.
    `reread` reads the configuration again, for a reload; without it only keys and certificates are read again.
    """
    logs.configure(config.logging.log_format, config.logging.log_level)
    try:
        return _run(config, app, reread)
    except TuskwsError as error:
        log.critical(f"cannot start: {error}")
        return error.exit_code
    except OSError as error:
        log.critical(f"cannot start: {error.strerror or error}")
        return ExitCode.BOOT


def _run(config: Config, app: object | None, reread: Callable[[], Config] | None) -> ExitCode:
    from tuskws_fast.broker import process as broker
    from tuskws_fast.worker import process as worker

    _check_origins(config)
    account = find_account(config.processes.user, config.processes.group)
    _set_resource_limits()
    server, processes, performance = config.server, config.processes, config.performance
    certificates = _load_certificates(config)
    notifier = Notifier(os.environ)
    inherited = inherited_listeners(os.environ, processes.workers)
    listeners = inherited or open_listeners(server.host, server.port, processes.workers, server.backlog)
    bound_receive_buffers(listeners, performance.receive_buffer)
    if account is not None:
        become(account)
    # Not before the port is ours: until here an embedding program may go on with something else.
    set_name("tuskws-fast: supervisor", "tuskws-fast")
    memory = NodeMemory(
        processes.workers + SPARE_SLOTS,
        MemorySizes(performance.limit_table_size, performance.ring_up_size, performance.ring_down_size),
    )
    address = shown_address(listeners[0])
    port = int(listeners[0].getsockname()[1])
    path = Path(processes.control_socket) if processes.control_socket else default_path(port)
    operators = OperatorSocket(path)
    settings = Settings(config, reread, certificates)

    def on_ready() -> None:
        extra = {"workers": processes.workers, "pid": os.getpid(), "control_socket": str(path)}
        log.info(f"serving {'ws' if certificates is None else 'wss'}://{address}", extra=extra)

    def on_reload() -> Reloaded:
        outcome = settings.reload()
        supervisor.timing = _timing(settings.config)
        return outcome

    log.info("starting", extra={"address": address, "workers": processes.workers})
    if inherited:
        log.info("listening on what the service manager opened: host and port are not used", extra={"address": address})
    supervisor = Supervisor(
        broker=lambda context: broker.main(context, settings.config, None),
        worker=_worker_main(worker.main, settings, app),
        listeners=listeners,
        memory=memory,
        timing=_timing(config),
        operators=operators,
        notifier=notifier,
        on_ready=on_ready,
        on_reload=on_reload,
        cores=_cores(config),
        # What was inherited need not be a group of sockets, nor one of which there is a socket a worker.
        placing=None if inherited else Placing(listeners),
    )
    lock = None
    if server.data_dir != "none":
        lock = claim(Path(server.data_dir))
        memory.ticket_key = ticket_key(Path(server.data_dir))
    # What exists now is shared by all processes; the collector must not touch, and thereby copy, its pages.
    gc.collect()
    gc.freeze()
    try:
        return supervisor.run()
    finally:
        gc.unfreeze()
        memory.close()
        if lock is not None:
            os.close(lock)


def _check_origins(config: Config) -> None:
    """What only the policy itself can judge, told before anything is started."""
    try:
        OriginPolicy(config.security.allowed_origins)
    except ValueError as error:
        raise ConfigError(f"allowed_origins: {error}") from error


def _timing(config: Config) -> Timing:
    processes = config.processes
    return Timing(
        hang_s=processes.hang_timeout,
        boot_s=processes.boot_timeout,
        drain_s=processes.shutdown_timeout,
        drain_delay_s=processes.drain_delay,
        drain_window_s=processes.drain_window,
        drain_rate=processes.drain_rate,
    )


def _cores(config: Config) -> Cores | None:
    """Which core is whose; None where nobody is to be pinned."""
    if not config.processes.pin:
        return None
    allowed, quota = allowed_cores(), cpu_quota()
    if quota is not None and quota < len(allowed):
        log.warning("not pinned: the control group's CPU quota is less", extra={"quota": quota, "cores": len(allowed)})
        return None
    return Cores(config.processes.workers, allowed)


def _worker_main(
    main: Callable[[ChildContext, Config, object | None, Certificates | None], None],
    settings: Settings,
    app: object | None,
) -> ChildMain:
    def run_worker(context: ChildContext) -> None:
        # A worker that is forked after a reload inherits what was loaded last.
        config = settings.config
        loaded = load_app(config.server.app) if app is None and config.server.app else app
        main(context, config, loaded, settings.certificates)

    return run_worker


def load_app(name: str) -> object:
    """The object that `module:attribute` names, looked for in the working directory too. Raises `BootError`."""
    module_name, _, attribute = name.partition(":")
    if "" not in sys.path and os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())
    try:
        found: object = importlib.import_module(module_name)
        for part in attribute.split("."):
            found = getattr(found, part)
    except Exception as error:
        frames = traceback.extract_tb(error.__traceback__)
        theirs = [frame for frame in frames if "importlib" not in frame.filename and frame.filename != __file__]
        where = f" ({theirs[-1].filename}:{theirs[-1].lineno})" if theirs else ""
        raise BootError(f"cannot load the application {name}: {type(error).__name__}: {error}{where}") from error
    return found


class Settings:
    """What processes that are forked from now on are given, and how a reload changes it: all of it, or nothing."""

    def __init__(
        self, config: Config, reread: Callable[[], Config] | None, certificates: Certificates | None = None
    ) -> None:
        self.config = config
        self.certificates = certificates
        self._reread = reread
        self._seen = self._contents(config)

    def reload(self) -> Reloaded:
        """Read and check everything; what is good is in force here, and what children are to be told is returned."""
        from tuskws_fast.worker.settings import certificate_files

        try:
            new = self._reread() if self._reread is not None else self.config
            differing = changes(self.config, new)
            by_kind: dict[Applied, dict[str, Any]] = {applied: {} for applied in Applied}
            for name, value in differing.items():
                # What `auto` made of another number of workers goes with that number.
                at_start = name == "max_connections" and "workers" in differing
                by_kind[Applied.START if at_start else OPTIONS[name].applied][name] = value
            now, later = by_kind[Applied.RELOAD], by_kind[Applied.RESTART]
            config = with_options(self.config, {**now, **later})
            _check_origins(config)
            seen = self._contents(config)
            fields = {"options": now, "certificates": self.certificates is not None}
            if len(codec.encode(fields)) > FIELDS_BYTES_MAX:
                raise ConfigError(f"{', '.join(now)}: too long to be handed to processes that run: start the node anew")
        except ConfigError as error:
            log.error("the configuration is left as it was", extra={"reason": str(error)})
            return Reloaded(problems=[str(error)])
        try:
            if self.certificates is not None:
                self.certificates.reload(certificate_files(config))
                _log_certificate(self.certificates)
        except ConfigError as error:
            log.error("the certificate is left as it was, and the configuration", extra={"reason": str(error)})
            return Reloaded(problems=[str(error)])
        changed = list(now) + [name for name in seen if seen[name] != self._seen[name] and name not in now]
        self.config, self._seen = config, seen
        logs.set_level(config.logging.log_level)
        return Reloaded(fields, changed, list(later), list(by_kind[Applied.START]))

    @staticmethod
    def _contents(config: Config) -> dict[str, bytes]:
        """What stands for the content of the files that are read again, to tell whether it is another."""
        security = config.security
        found = {"jwt_secret_file": read_jwt_secret(security) or b""}
        for name in ("ssl_cert", "ssl_key", "ssl_ca_certs"):
            path = getattr(security, name)
            try:
                found[name] = Path(path).read_bytes() if path else b""
            except OSError as error:
                raise ConfigError(f"{name}: {path}: {error.strerror}") from error
        return {name: hashlib.blake2b(content).digest() for name, content in found.items()}


def _load_certificates(config: Config) -> Certificates | None:
    """What TLS is served with, None without TLS. Raises `ConfigError` before anything is started."""
    from tuskws_fast.worker.settings import certificate_files

    if not config.security.ssl_enabled:
        return None
    certificates = Certificates(certificate_files(config))
    _log_certificate(certificates)
    return certificates


def _log_certificate(certificates: Certificates) -> None:
    left = certificates.not_after - datetime.now(UTC)
    level = logging.WARNING if left < CERTIFICATE_ENDS_SOON else logging.INFO
    text = "the certificate has ended" if left < timedelta() else "certificate loaded"
    log.log(level, text, extra={"not_after": certificates.not_after.isoformat(), "days_left": left.days})


def _set_resource_limits() -> None:
    """Every client is an open file: take what the system allows. No core file: secrets are in memory."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
