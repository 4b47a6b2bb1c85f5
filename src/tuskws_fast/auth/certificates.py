"""The certificate this node shows, and what it asks of clients: one `ssl.SSLContext`, replaced whole by `reload`.

A context is never changed once it serves: `reload` reads everything into a new one, in which OpenSSL has checked that
key and certificate belong together, and puts that in the place of the old. A connection keeps the context it began
with, so handshakes under way end with the pair they started with. What cannot be loaded changes nothing.

The supervisor loads before the first fork, so that a wrong pair stops the start, and its children inherit the result:
a worker that is replaced later serves the last good pair whatever the files hold by then. Children of one load share
the keys of session tickets too, so a client may resume on any worker.

TLS 1.2 and later, forward secrecy and authenticated encryption only; no renegotiation (RFC 9325 §3.1, §3.5, §4.2).
"""

from __future__ import annotations

import ssl
from dataclasses import dataclass
from datetime import datetime

from tuskws_fast.errors import ConfigError

# Of TLS 1.2; the suites of 1.3 are OpenSSL's own and all of this kind.
CIPHERS = "ECDHE+AESGCM:ECDHE+CHACHA20"
ALPN = ("http/1.1",)

_SEQUENCE, _CONTEXT_0, _UTC_TIME = 0x30, 0xA0, 0x17


@dataclass(frozen=True, slots=True)
class CertificateFiles:
    """`ca` names whose clients may connect; "" asks them for nothing. `ciphers` "" is `CIPHERS`."""

    certificate: str
    key: str
    ca: str = ""
    ciphers: str = ""


class Certificates:
    """`context` is for new connections, `not_after` is when its certificate ends. Raises `ConfigError`, as `reload`."""

    def __init__(self, files: CertificateFiles) -> None:
        self._files = files
        self.reload()

    def reload(self, files: CertificateFiles | None = None) -> None:
        """Serve what the files hold now (or `files` do, from now on); if they hold nothing that works, raise and go on
        with what was."""
        files = files or self._files
        context = make_context(files)
        self.not_after = not_after(_read(files.certificate, "ssl_cert"))
        self.context, self._files = context, files


def make_context(files: CertificateFiles) -> ssl.SSLContext:
    """A server's context, its pair checked. Raises `ConfigError`, which names the option and never quotes a file."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.options |= ssl.OP_NO_RENEGOTIATION | ssl.OP_NO_COMPRESSION | ssl.OP_CIPHER_SERVER_PREFERENCE
    context.set_alpn_protocols(ALPN)
    try:
        context.set_ciphers(files.ciphers or CIPHERS)
    except ssl.SSLError:
        raise ConfigError(f"ssl_ciphers: OpenSSL knows no cipher of TLS 1.2 in {files.ciphers!r}") from None
    _read(files.certificate, "ssl_cert")
    if b"ENCRYPTED" in _read(files.key, "ssl_key"):
        raise ConfigError(f"ssl_key: {files.key}: the key is encrypted, and nobody is there to type a password")
    try:
        context.load_cert_chain(files.certificate, files.key)
    except ssl.SSLError as error:
        raise ConfigError(f"ssl_cert, ssl_key: {files.certificate}, {files.key}: {_reason(error)}") from None
    if files.ca:
        _read(files.ca, "ssl_ca_certs")
        try:
            context.load_verify_locations(cafile=files.ca)
        except ssl.SSLError as error:
            raise ConfigError(f"ssl_ca_certs: {files.ca}: {_reason(error)}") from None
        context.verify_mode = ssl.CERT_REQUIRED
    return context


def not_after(pem: bytes) -> datetime:
    """When the first certificate of a PEM file ends, in UTC. Raises `ConfigError` for what is no certificate."""
    try:
        text = pem.decode("ascii", "replace")
        start = text.index("-----BEGIN CERTIFICATE-----")
        end = text.index("-----END CERTIFICATE-----", start) + len("-----END CERTIFICATE-----")
        return _validity_end(ssl.PEM_cert_to_DER_cert(text[start:end]))
    except (ValueError, IndexError):
        raise ConfigError("ssl_cert: the file holds no certificate in PEM") from None


def _validity_end(der: bytes) -> datetime:
    """RFC 5280 §4.1: Certificate ▸ tbsCertificate ▸ [version] serial algorithm issuer ▸ validity ▸ notAfter."""
    _, certificate, _ = _element(der)
    _, body, _ = _element(certificate)
    tag, _, rest = _element(body)
    for _ in range(3 if tag == _CONTEXT_0 else 2):
        _, _, rest = _element(rest)
    tag, validity, _ = _element(rest)
    if tag != _SEQUENCE:
        raise ValueError("no validity where it belongs")
    _, _, rest = _element(validity)
    tag, value, _ = _element(rest)
    text = value.decode("ascii")
    if tag == _UTC_TIME:
        # RFC 5280 §4.1.2.5.1: years from 50 are of the last century.
        text = ("19" if text[:2] >= "50" else "20") + text
    return datetime.strptime(text.removesuffix("Z") + "+0000", "%Y%m%d%H%M%S%z")


def _element(der: bytes) -> tuple[int, bytes, bytes]:
    """(tag, content, what follows) of the first DER element."""
    size, start = der[1], 2
    if size & 0x80:
        start += size & 0x7F
        size = int.from_bytes(der[2:start], "big")
    return der[0], der[start : start + size], der[start + size :]


def _read(path: str, option: str) -> bytes:
    try:
        with open(path, "rb") as file:
            return file.read()
    except OSError as error:
        raise ConfigError(f"{option}: {path}: {error.strerror}") from error


def _reason(error: ssl.SSLError) -> str:
    if error.reason == "KEY_VALUES_MISMATCH":
        return "the key is not the certificate's"
    # For a file that is no PEM at all OpenSSL leaves the reason empty.
    return (error.reason or "not readable as PEM").replace("_", " ").lower()
