"""Page the on-call: a mail to the on-call mailbox, which is what wakes people."""

from __future__ import annotations

import hashlib
import html
import logging

from vcci_ops.exceptions import DeliveryFailed, MeasurementError
from vcci_ops.hooks.history import History
from vcci_ops.settings import OnCall, load_settings

log = logging.getLogger(__name__)

KEPT_UNDER = "vcci_ops.page"
"""In the place of a DAG id: pages are known by their key, whichever run sent them."""


def page(
    subject: str,
    text: str,
    *,
    key: str | None = None,
    smtp_conn_id: str = "vcci_smtp",
    history_conn_id: str = "vcci_ops_db",
) -> bool:
    """Page the on-call of the settings; with a key at most once, as far as the history can say.

    A history that does not answer keeps no page back: better one mail too many. Its Message-ID comes from the
    key, so that mailboxes which know a mail by it show it once all the same.

    :param subject: one line.
    :param text: plain text, what happened and what to do.
    :param key: names the page, e.g. ``release_deploy/<run_id>/rollback-failed``; None: send in any case.
    :returns: whether it stands in the mailbox now; True also when an earlier call sent it.
    :raises DeliveryFailed: when the mail server refuses or does not answer.
    """
    settings = load_settings()
    if key and _sent(settings.environment, key, history_conn_id):
        log.info("The on-call was paged about this already: %s", subject)
        return True
    title = " ".join(f"[vcci-ops {settings.environment}] {subject}".split())[:200]
    try:
        _mail(smtp_conn_id, settings.on_call, title, text, key)
    except DeliveryFailed as error:
        log.error("The on-call was NOT paged: %s. It would have said: %s", error, title)
        raise
    log.info("Paged the on-call (%s): %s", settings.on_call.mail_to, title)
    if key:
        _note(settings.environment, key, settings.on_call.mail_to, history_conn_id)
    return True


def _mail(conn_id: str, on_call: OnCall, subject: str, text: str, key: str | None) -> None:
    import smtplib

    from airflow.providers.smtp.hooks.smtp import SmtpHook
    from airflow.sdk.exceptions import AirflowException

    body = f"<p>{html.escape(text).replace(chr(10), '<br>')}</p>"
    headers = {"X-Priority": "1"}
    if key:
        headers["Message-ID"] = f"<{hashlib.sha256(key.encode()).hexdigest()[:32]}@vcci-ops>"
    try:
        with SmtpHook(smtp_conn_id=conn_id) as hook:
            hook.send_email_smtp(
                to=on_call.mail_to,
                subject=subject,
                html_content=body,
                from_email=on_call.mail_from,
                custom_headers=headers,
            )
    except (smtplib.SMTPException, AirflowException, OSError) as error:
        # The name of the error is enough: its text may hold what was sent to log in.
        raise DeliveryFailed(f"mail to {on_call.mail_to}", f"connection {conn_id}: {type(error).__name__}") from error


def _sent(environment: str, key: str, conn_id: str) -> bool:
    try:
        return "mail" in History(conn_id).deliveries(environment, KEPT_UNDER, key)
    except MeasurementError as error:
        log.warning("The history cannot say whether the on-call was paged already (%s); paging", error)
        return False


def _note(environment: str, key: str, to: str, conn_id: str) -> None:
    try:
        History(conn_id).record_delivery(environment, KEPT_UNDER, key, "mail", to)
    except MeasurementError as error:
        log.warning("Paged, but that could not be noted in the history: %s", error)
