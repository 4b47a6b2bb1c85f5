"""From the configuration to what each part of a worker is given: one function a part, used at birth and at a reload.

The parts themselves do not see the configuration. Whatever is read from files here is read again each time.
"""

from __future__ import annotations

from importlib import resources

from tuskws_fast import __version__
from tuskws_fast.auth.certificates import CertificateFiles
from tuskws_fast.auth.forwarded import TrustedProxies
from tuskws_fast.auth.origin import OriginPolicy
from tuskws_fast.auth.revocation import Revocations
from tuskws_fast.auth.tokens import Verifier
from tuskws_fast.config import Config, read_jwt_secret, sockets_max
from tuskws_fast.errors import BootError, ConfigError
from tuskws_fast.protocol.extensions import Policy
from tuskws_fast.worker.acceptor import AcceptorSettings
from tuskws_fast.worker.limits import Rate, SharedLimits
from tuskws_fast.worker.session import SessionTimes, Terms


def verifier(config: Config, revocations: Revocations) -> Verifier | None:
    """The verifier of the configured key, read (again) from its file; None without one. Raises `BootError`."""
    security = config.security
    try:
        secret = read_jwt_secret(security)
        if secret is None:
            return None
        return Verifier(
            [secret],
            algorithms=security.jwt_algorithms,
            issuer=security.jwt_issuer or None,
            audience=security.jwt_audience or None,
            allow_no_exp=security.allow_no_exp,
            max_token_ttl_s=security.max_token_ttl,
            revocations=revocations,
        )
    except (ConfigError, ValueError) as error:
        raise BootError(f"the token secret: {error}") from error


def origins(config: Config) -> OriginPolicy | None:
    """Who of the browsers may connect; None: all. Raises `ConfigError`."""
    if not config.security.enable_origin_check:
        return None
    try:
        return OriginPolicy(config.security.allowed_origins)
    except ValueError as error:
        raise ConfigError(f"allowed_origins: {error}") from error


def certificate_files(config: Config) -> CertificateFiles:
    security = config.security
    return CertificateFiles(security.ssl_cert, security.ssl_key, security.ssl_ca_certs, security.ssl_ciphers)


def times(config: Config) -> SessionTimes:
    timeouts = config.timeouts
    return SessionTimes(
        timeouts.auth_timeout, timeouts.heartbeat_interval, timeouts.heartbeat_timeout, timeouts.idle_timeout
    )


def terms(config: Config) -> Terms:
    return Terms(
        config.security.require_auth,
        config.limits.max_message_size,
        config.limits.max_message_items,
        config.timeouts.heartbeat_interval,
        f"tuskws-fast/{__version__}",
    )


def shared_limits(config: Config) -> SharedLimits:
    limits = config.limits
    return SharedLimits(
        limits.max_connections, limits.max_connections_per_ip, limits.max_connections_per_user, *_rates(config)
    )


def _rates(config: Config) -> tuple[Rate, Rate, Rate, Rate, Rate]:
    """The rates of `SharedLimits`, in its order."""
    limits = config.limits
    if not limits.enable_rate_limiting:
        return (Rate(0, 1),) * 5
    return (
        Rate(limits.message_rate_limit, limits.message_rate_burst),
        Rate(limits.message_rate_limit_per_ip, limits.message_rate_burst_per_ip),
        Rate(limits.handshake_rate_limit, limits.handshake_rate_burst),
        Rate(limits.auth_failures_per_ip / 60, max(1, limits.auth_failures_per_ip)),
        Rate(limits.password_tries_per_ip / 60, max(1, limits.password_tries_per_ip)),
    )


def acceptor_settings(config: Config) -> AcceptorSettings:
    security, performance = config.security, config.performance
    policy = Policy(performance.enable_compression == "dedicated", performance.compression_window_bits)
    demo = None if config.server.no_demo else resources.files("tuskws_fast").joinpath("static/index.html")
    return AcceptorSettings(
        config.timeouts.connection_timeout,
        security.allow_query_token,
        security.require_auth,
        demo.read_bytes() if demo is not None else None,
        sockets_max(),
        policy if performance.enable_compression != "off" else None,
        TrustedProxies(security.forwarded_allow_ips),
        config.limits.max_half_open,
        config.limits.max_half_open_per_ip,
    )
