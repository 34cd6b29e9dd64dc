"""Certificates of the TLS endpoint: a CA that is kept, a server certificate issued at each start."""

from __future__ import annotations

import datetime
import ssl
from pathlib import Path

import trustme

from sandbox.state import ActiveFaults

NAMES = ("api.vcci.greenlang.io", "127.0.0.1", "localhost")
VALID_DAYS = 80
NEAR_EXPIRY_DAYS = 9.0


def authority(folder: Path) -> trustme.CA:
    """Return the CA of this folder, made if missing: ca.pem for clients, ca.key (0600) beside it."""
    certificate, key = folder / "ca.pem", folder / "ca.key"
    if certificate.exists() and key.exists():
        return trustme.CA.from_pem(certificate.read_bytes(), key.read_bytes())
    folder.mkdir(parents=True, exist_ok=True)
    made = trustme.CA(organization_name="VCCI sandbox", organization_unit_name="not for production")
    key.touch(mode=0o600)
    key.write_bytes(made.private_key_pem.bytes())
    certificate.write_bytes(made.cert_pem.bytes())
    return made


def _context(ca: trustme.CA, days: float) -> ssl.SSLContext:
    now = datetime.datetime.now(datetime.UTC)
    # Like the platform's real certificates, it was issued for 90 days some time ago.
    issued = now - datetime.timedelta(days=90 - days)
    leaf = ca.issue_cert(*NAMES, common_name=NAMES[0], not_before=issued, not_after=now + datetime.timedelta(days=days))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    leaf.configure_cert(context)
    return context


def server_context(folder: Path, faults: ActiveFaults) -> ssl.SSLContext:
    """Return a context that decides at each handshake which certificate the client sees.

    Under the fault ``tls-near-expiry`` that is one with a few days left. The callback runs for every
    client hello, with or without a server name:
    https://docs.python.org/3/library/ssl.html#ssl.SSLContext.sni_callback
    """
    ca = authority(folder)
    context = _context(ca, VALID_DAYS)
    near: dict[float, ssl.SSLContext] = {}

    def choose(connection: ssl.SSLSocket | ssl.SSLObject, _name: str | None, _context_: ssl.SSLContext) -> None:
        fault = faults.get("tls-near-expiry")
        if fault is None:
            return
        days = float(fault.get("days", NEAR_EXPIRY_DAYS))
        if days not in near:
            near[days] = _context(ca, days)
        connection.context = near[days]

    context.sni_callback = choose
    return context
