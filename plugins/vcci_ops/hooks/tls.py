"""The certificate that a server presents on the wire."""

from __future__ import annotations

import dataclasses
import datetime as dt
import socket
import ssl

from vcci_ops.exceptions import Unreachable


@dataclasses.dataclass(frozen=True)
class PresentedCertificate:
    """What a handshake showed.

    :param not_after: end of validity, UTC.
    :param issuer: who signed it (RFC 4514 string).
    :param names: DNS names and IP addresses it is for.
    :param serial: serial number in hex.
    :param problem: why a client would refuse it (chain, name, dates), or "".
    """

    not_after: dt.datetime
    issuer: str
    names: tuple[str, ...]
    serial: str
    problem: str


def presented(
    host: str, port: int, server_name: str, *, ca_file: str | None = None, timeout: float = 5.0
) -> PresentedCertificate:
    """Shake hands as a client would and return the certificate, also one that a client must refuse.

    :param server_name: name to ask for (SNI) and to verify.
    :param ca_file: PEM bundle of trusted authorities; default the system's.
    :param timeout: seconds for connect and for each answer.
    :raises Unreachable: when no TLS server answers.
    """
    trusting = ssl.create_default_context(cafile=ca_file)
    try:
        return _parse(_handshake(host, port, server_name, trusting, timeout), "")
    except ssl.SSLCertVerificationError as error:
        problem = error.verify_message
    blind = ssl.create_default_context()
    blind.check_hostname = False
    # Only to read dates and names of a certificate that was refused above; nothing is sent over it.
    blind.verify_mode = ssl.CERT_NONE
    return _parse(_handshake(host, port, server_name, blind, timeout), problem)


def _handshake(host: str, port: int, server_name: str, context: ssl.SSLContext, timeout: float) -> bytes:
    where = f"TLS at {host}:{port}"
    try:
        with (
            socket.create_connection((host, port), timeout=timeout) as plain,
            context.wrap_socket(plain, server_hostname=server_name) as secure,
        ):
            return secure.getpeercert(binary_form=True) or b""
    except ssl.SSLCertVerificationError:
        raise
    except ssl.SSLError as error:
        raise Unreachable(where, f"the handshake failed ({error.reason})") from error
    except TimeoutError as error:
        raise Unreachable(where, f"no answer within {timeout:.0f} s") from error
    except OSError as error:
        raise Unreachable(where, error.strerror or type(error).__name__) from error


def _parse(der: bytes, problem: str) -> PresentedCertificate:
    from cryptography import x509

    certificate = x509.load_der_x509_certificate(der)
    try:
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        names = None
    return PresentedCertificate(
        not_after=certificate.not_valid_after_utc,
        issuer=certificate.issuer.rfc4514_string(),
        names=tuple(str(name.value) for name in names or ()),
        serial=f"{certificate.serial_number:x}",
        problem=problem,
    )
