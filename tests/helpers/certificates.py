"""Certificates for a test, made by openssl's command line, and contexts of clients that trust them."""

from __future__ import annotations

import base64
import hashlib
import ssl
import subprocess
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Pair:
    certificate: Path
    key: Path


def make_pair(folder: Path, name: str, signer: Pair | None = None) -> Pair:
    """A certificate for localhost and its key; it signs itself, unless another does."""
    pair = Pair(folder / f"{name}.pem", folder / f"{name}.key")
    signed = () if signer is None else ("-CA", str(signer.certificate), "-CAkey", str(signer.key))
    _openssl(
        *("req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"),
        *("-keyout", str(pair.key), "-out", str(pair.certificate), "-days", "30", "-subj", f"/CN={name}"),
        *("-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1", *signed),
    )
    return pair


def trusting(certificate: Path, shown: Pair | None = None) -> ssl.SSLContext:
    """A client that trusts this certificate alone, and shows one of its own if it has one."""
    context = ssl.create_default_context(cafile=str(certificate))
    if shown is not None:
        context.load_cert_chain(shown.certificate, shown.key)
    return context


def unverifying() -> ssl.SSLContext:
    """A client that takes whatever certificate it is shown."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    return context


def key_hash(certificate: Path) -> str:
    """SHA-256 of its public key (SPKI), as browsers pin it."""
    pem = _openssl("x509", "-in", str(certificate), "-pubkey", "-noout")
    key = base64.b64decode("".join(pem.splitlines()[1:-1]))
    return base64.b64encode(hashlib.sha256(key).digest()).decode()


def _openssl(*arguments: str) -> str:
    return subprocess.run(["openssl", *arguments], check=True, capture_output=True, text=True).stdout
