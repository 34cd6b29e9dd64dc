"""Notices to a tenant's administrators, one mail each; no address is logged, raised or kept."""

from __future__ import annotations

import hashlib
import html
import smtplib

from vcci_ops.exceptions import DeliveryFailed


def send_notice(address: str, subject: str, text: str, *, key: str, sender: str, conn_id: str = "vcci_smtp") -> None:
    """Send one mail, in one attempt: a second one might be a second mail.

    :param text: plain text; blank lines part paragraphs.
    :param key: names this notice to this person, e.g. ``tenant_suspend/<run_id>/<user id>``; the Message-ID is made
        of it, so that a mail program shows two copies as one.
    :param sender: the address it comes from.
    :raises DeliveryFailed: when the mail server refuses or does not answer; without the address.
    """
    from airflow.providers.smtp.hooks.smtp import SmtpHook
    from airflow.sdk.exceptions import AirflowException

    class Once(SmtpHook):
        """The provider's hook tries five times, also after a time-out, when the mail may be on its way."""

        @property
        def smtp_retry_limit(self) -> int:
            return 0

    body = "".join(f"<p>{html.escape(part).replace(chr(10), '<br>')}</p>" for part in text.split("\n\n"))
    message_id = f"<{hashlib.sha256(key.encode()).hexdigest()[:32]}@vcci-ops>"
    try:
        with Once(smtp_conn_id=conn_id) as hook:
            hook.send_email_smtp(
                to=address,
                subject=subject,
                html_content=body,
                from_email=sender,
                custom_headers={"Message-ID": message_id},
            )
    except (smtplib.SMTPException, AirflowException, OSError) as error:
        why = f"connection {conn_id}: {type(error).__name__}"  # its text may hold the address
        raise DeliveryFailed("mail to an administrator of the tenant", why) from None
