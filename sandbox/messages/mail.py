"""An SMTP server that keeps what it gets; nothing leaves this machine."""

from __future__ import annotations

import asyncio
import email.policy
import hmac
import time
from email.message import EmailMessage
from email.parser import BytesParser
from typing import Any

from aiosmtpd.smtp import SMTP, AuthResult, Envelope, LoginPassword, Session

from sandbox.messages.journal import Journal
from sandbox.state import ActiveFaults


class Mailbox:
    """What was received; also aiosmtpd's handler.

    :param journal: where the mails are kept.
    :param faults: ``slow``.
    """

    def __init__(self, *, journal: Journal, faults: ActiveFaults) -> None:
        self._journal = journal
        self._faults = faults
        self.mails: list[dict[str, Any]] = list(journal)

    @property
    def version(self) -> int:
        """Number that grows with each change."""
        return self._journal.version

    def clear(self) -> None:
        """Forget every mail."""
        self._journal.clear()
        self.mails = []

    async def handle_DATA(self, _server: SMTP, _session: Session, envelope: Envelope) -> str:
        """Keep one mail."""
        if (slow := self._faults.get("slow")) is not None:
            await asyncio.sleep(float(slow.get("seconds", 3.0)))
        raw = envelope.original_content or b""
        mail = {"id": f"mail-{time.time_ns()}", "received": time.time(), **_read(raw)}
        mail |= {"envelope_from": envelope.mail_from, "envelope_to": list(envelope.rcpt_tos)}
        self._journal.append(mail)
        self.mails.append(mail)
        return "250 2.0.0 kept"


def _read(raw: bytes) -> dict[str, Any]:
    message = BytesParser(EmailMessage, policy=email.policy.default).parsebytes(raw)
    bodies = {kind: message.get_body((kind,)) for kind in ("plain", "html")}
    return {
        "from": str(message.get("From", "")),
        "to": str(message.get("To", "")),
        "cc": str(message.get("Cc", "")),
        "subject": str(message.get("Subject", "")),
        "message_id": str(message.get("Message-ID", "")),
        "text": _content(bodies["plain"]),
        "html": _content(bodies["html"]),
        "attachments": [
            {"name": part.get_filename() or "unnamed", "type": part.get_content_type(), "size": _size(part)}
            for part in message.iter_attachments()
        ],
    }


def _content(part: Any) -> str:
    return "" if part is None else str(part.get_content())


def _size(part: Any) -> int:
    return len(part.get_payload(decode=True) or b"")


async def listen(mailbox: Mailbox, port: int, *, user: str, password: str) -> asyncio.Server:
    """Serve SMTP on a loopback port; who gives a name and password must give the right ones."""

    def authenticate(_server: SMTP, _session: Session, _envelope: Envelope, _mechanism: str, data: Any) -> AuthResult:
        if not isinstance(data, LoginPassword):
            return AuthResult(success=False, handled=False)
        good = data.login == user.encode() and hmac.compare_digest(data.password, password.encode())
        return AuthResult(success=good, handled=False)

    loop = asyncio.get_running_loop()

    def serve() -> SMTP:
        return SMTP(
            mailbox,
            hostname="smtp.vcci.sandbox",
            ident="VCCI sandbox",
            data_size_limit=20 * 2**20,
            authenticator=authenticate,
            auth_require_tls=False,
            loop=loop,
        )

    return await loop.create_server(serve, "127.0.0.1", port)
