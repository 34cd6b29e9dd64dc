"""Notices to a tenant's administrators, one mail each; no address is logged, raised or kept."""

from __future__ import annotations

import hashlib
import html
import smtplib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from vcci_ops.exceptions import DeliveryFailed, Unreachable

_WHERE = "mail to an administrator of the tenant"


class Uncertain(DeliveryFailed):
    """Nobody knows whether the mail server took the mail."""


class Notices:
    """Sends mails over one connection, each in one attempt: a second one might be a second mail."""

    def __init__(self, hook: Any, conn_id: str) -> None:
        self._hook, self._conn_id = hook, conn_id

    def send(self, address: str, subject: str, text: str, *, key: str, sender: str) -> None:
        """Send one mail.

        :param text: plain text; blank lines part paragraphs.
        :param key: names this notice to this person, e.g. ``tenant_suspend/<run_id>/<user id>``; the Message-ID is
            made of it, so that a mail program shows two copies as one.
        :param sender: the address it comes from.
        :raises Uncertain: when the connection broke.
        :raises DeliveryFailed: when the mail server refused it; without the address.
        """
        body = "".join(f"<p>{html.escape(part).replace(chr(10), '<br>')}</p>" for part in text.split("\n\n"))
        message_id = f"<{hashlib.sha256(key.encode()).hexdigest()[:32]}@vcci-ops>"
        try:
            self._hook.send_email_smtp(
                to=address,
                subject=subject,
                html_content=body,
                from_email=sender,
                custom_headers={"Message-ID": message_id},
            )
        except OSError as error:
            why = f"connection {self._conn_id}: {type(error).__name__}"  # its text may hold the address
            said = isinstance(error, smtplib.SMTPException) and not isinstance(error, smtplib.SMTPServerDisconnected)
            raise (DeliveryFailed if said else Uncertain)(_WHERE, why) from None


@contextmanager
def notices(conn_id: str = "vcci_smtp") -> Iterator[Notices]:
    """Log in to the mail server.

    :raises Unreachable: when it does not let us in; nothing was sent.
    """
    from airflow.providers.smtp.hooks.smtp import SmtpHook
    from airflow.sdk.exceptions import AirflowException

    class Once(SmtpHook):
        """The provider's hook tries five times, also after a time-out, when the mail may be on its way."""

        @property
        def smtp_retry_limit(self) -> int:
            return 0

    try:
        hook = Once(smtp_conn_id=conn_id).get_conn()
    except (OSError, AirflowException) as error:
        raise Unreachable("The mail server", f"connection {conn_id}: {type(error).__name__}") from None
    with hook:
        yield Notices(hook, conn_id)
