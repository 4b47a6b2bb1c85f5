"""The composition root: the only file that knows every role. It turns a `Config` into a running node.

    config ─▶ log ─▶ listeners, shared memory ─▶ what each process runs ─▶ supervisor.run()

The modules of the roles are imported here before the first fork, so that all processes share their pages; what they
create (loops, sockets, sessions) they create in their `main`, after it. The application is imported in each worker: it
may start what must not be forked, and a failed import is a boot failure with a reason.
"""

from __future__ import annotations

import gc
import importlib
import logging
import os
import resource
import sys
import traceback
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from tuskws_fast import logs
from tuskws_fast.auth.certificates import CertificateFiles, Certificates
from tuskws_fast.auth.origin import OriginPolicy
from tuskws_fast.config import Config, Security
from tuskws_fast.errors import BootError, ConfigError, ExitCode, TuskwsError
from tuskws_fast.supervisor.child import ChildContext, ChildMain, set_name
from tuskws_fast.supervisor.listeners import open_listeners, shown_address
from tuskws_fast.supervisor.memory import MemorySizes, NodeMemory
from tuskws_fast.supervisor.privileges import become, find_account
from tuskws_fast.supervisor.stats import StatsSocket, default_path, now_document
from tuskws_fast.supervisor.supervisor import Supervisor, Timing

log = logging.getLogger(__name__)

# A certificate that ends sooner is worth a warning: renewal, if it were automatic, would have happened.
CERTIFICATE_ENDS_SOON = timedelta(days=14)


def run_node(config: Config, app: object | None = None, reread: Callable[[], Config] | None = None) -> ExitCode:
    """Serve until told to end. Everything that goes wrong on the way up is one line in the log and an exit code.

    `app` is the application where it exists already (`WebSocketServer.start`), else `config.server.app` names it.
    `reread` reads the configuration again, for SIGHUP.
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
    set_name("tuskws-fast: supervisor", "tuskws-fast")
    _set_resource_limits()
    server, processes, performance = config.server, config.processes, config.performance
    certificates = _load_certificates(config.security)
    listeners = open_listeners(server.host, server.port, processes.workers, server.backlog)
    if account is not None:
        become(account)
    memory = NodeMemory(
        processes.workers,
        MemorySizes(performance.limit_table_size, performance.ring_up_size, performance.ring_down_size),
    )
    address = shown_address(listeners[0])
    port = int(listeners[0].getsockname()[1])
    path = Path(processes.control_socket) if processes.control_socket else default_path(port)
    stats = StatsSocket(path, lambda: now_document(memory.rows()))

    def on_ready() -> None:
        extra = {"workers": processes.workers, "pid": os.getpid(), "control_socket": str(path)}
        log.info(f"serving {'ws' if certificates is None else 'wss'}://{address}", extra=extra)

    log.info("starting", extra={"address": address, "workers": processes.workers})
    if server.data_dir != "none":
        log.info("messages are kept in memory alone: there is no journal yet", extra={"data_dir": server.data_dir})
    supervisor = Supervisor(
        broker=lambda context: broker.main(context, config, None),
        worker=_worker_main(worker.main, config, app, certificates),
        listeners=listeners,
        memory=memory,
        timing=Timing(hang_s=processes.hang_timeout, boot_s=processes.boot_timeout, drain_s=processes.shutdown_timeout),
        stats=stats,
        on_ready=on_ready,
        on_reload=lambda: {**_reload(reread), **_reload_certificates(certificates)},
    )
    # What exists now is shared by all processes; the collector must not touch, and thereby copy, its pages.
    gc.collect()
    gc.freeze()
    try:
        return supervisor.run()
    finally:
        gc.unfreeze()
        memory.close()


def _check_origins(config: Config) -> None:
    """What only the policy itself can judge, told before anything is started."""
    try:
        OriginPolicy(config.security.allowed_origins)
    except ValueError as error:
        raise ConfigError(f"allowed_origins: {error}") from error


def _worker_main(
    main: Callable[[ChildContext, Config, object | None, Certificates | None], None],
    config: Config,
    app: object | None,
    certificates: Certificates | None,
) -> ChildMain:
    def run_worker(context: ChildContext) -> None:
        loaded = load_app(config.server.app) if app is None and config.server.app else app
        # A worker that is forked after a reload inherits what was loaded last.
        main(context, config, loaded, certificates)

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


def _reload(reread: Callable[[], Config] | None) -> Mapping[str, Any]:
    """What SIGHUP can change without a restart: the log's level, and the secrets that children read again."""
    if reread is None:
        return {}
    try:
        config = reread()
    except ConfigError as error:
        log.error("the configuration is left as it was", extra={"reason": str(error)})
        return {}
    logs.set_level(config.logging.log_level)
    return {"log_level": config.logging.log_level}


def _load_certificates(security: Security) -> Certificates | None:
    """What TLS is served with, None without TLS. Raises `ConfigError` before anything is started."""
    if not security.ssl_enabled:
        return None
    files = CertificateFiles(security.ssl_cert, security.ssl_key, security.ssl_ca_certs, security.ssl_ciphers)
    certificates = Certificates(files)
    _log_certificate(certificates)
    return certificates


def _reload_certificates(certificates: Certificates | None) -> Mapping[str, Any]:
    """Read the files again; only if they can be used are the workers told to do the same."""
    if certificates is None:
        return {}
    try:
        certificates.reload()
    except ConfigError as error:
        log.error("the certificate is left as it was", extra={"reason": str(error)})
        return {}
    _log_certificate(certificates)
    return {"certificates": True}


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
