"""Send the welcome mail to a tenant's invited administrators, at most once.

python scripts/send_welcome_email.py --tenant-slug acme-corp [--again]

SMTP and the database cannot commit together: between the mail server's "250" and our record of it a process can die.
So the mail is *claimed* in the audit log before it is sent (action ``tenant.welcome_email``, state ``sending``) and
confirmed afterwards (``sent``). A claim without a confirmation is never sent again by itself, for the mail may have
arrived: exit code 3, and a person decides with --again. A refusal by the mail server is certain, and is noted
(``failed``): the next run may send. The Message-ID is made of the tenant's id alone, so that a mail program shows
two copies as one.
"""

from __future__ import annotations

import argparse
import json
import os
import smtplib
import ssl
import sys
from email.message import EmailMessage

import psycopg

ACTION = "tenant.welcome_email"
REFUSED, UNCERTAIN = 1, 3
PORTAL = "https://app.vcci.greenlang.io"


def message_id(tenant: str) -> str:
    return f"<welcome.{tenant}@vcci.greenlang.io>"


def state(connection: psycopg.Connection, tenant: str) -> str:
    row = connection.execute(
        "SELECT details->>'state' FROM audit_log WHERE tenant_id = %s AND action = %s ORDER BY id DESC LIMIT 1",
        (tenant, ACTION),
    ).fetchone()
    return str(row[0]) if row else ""


def record(connection: psycopg.Connection, tenant: str, now: str) -> None:
    details = {"state": now, "message_id": message_id(tenant)}
    connection.execute(
        "INSERT INTO audit_log (tenant_id, action, actor, target, details) VALUES (%s, %s, %s, %s, %s)",
        (tenant, ACTION, "send_welcome_email.py", "tenant", json.dumps(details)),
    )


def letter(tenant: str, name: str, admins: list[tuple[str, str, str]]) -> EmailMessage:
    mail = EmailMessage()
    mail["From"] = os.environ.get("MAIL_FROM", "VCCI <welcome@vcci.greenlang.io>")
    mail["To"] = ", ".join(email for _, email, _ in admins)
    mail["Subject"] = f"Welcome to VCCI, {name}"
    mail["Message-ID"] = message_id(tenant)
    links = "\n".join(f"{who}: {PORTAL}/invitations/{user}" for user, _, who in admins)
    mail.set_content(f"{name} can now use the VCCI platform.\n\nPlease choose your password here:\n\n{links}\n")
    return mail


def connected() -> smtplib.SMTP:
    server = smtplib.SMTP(os.environ["SMTP_HOST"], int(os.environ.get("SMTP_PORT", "587")), timeout=20)
    if os.environ.get("SMTP_STARTTLS", "true").lower() != "false":
        server.starttls(context=ssl.create_default_context())
    if os.environ.get("SMTP_USER"):
        server.login(os.environ["SMTP_USER"], os.environ["SMTP_PASSWORD"])
    return server


def send(connection: psycopg.Connection, tenant: str, mail: EmailMessage) -> int:
    try:
        server = connected()
    except (smtplib.SMTPException, OSError) as error:
        print(f"error: the mail server does not let us in: {type(error).__name__}", file=sys.stderr)
        return REFUSED
    record(connection, tenant, "sending")
    try:
        server.send_message(mail)
    except OSError as error:
        # Only what the mail server itself has said is certain; that includes no connection that broke.
        if not isinstance(error, smtplib.SMTPException) or isinstance(error, smtplib.SMTPServerDisconnected):
            print(f"error: {type(error).__name__}: the mail may or may not have been taken", file=sys.stderr)
            return UNCERTAIN
        record(connection, tenant, "failed")
        print(f"error: the mail server did not take it: {type(error).__name__}", file=sys.stderr)
        return REFUSED
    finally:
        server.close()  # without QUIT, whose answer would say nothing about the mail
    record(connection, tenant, "sent")
    print(f"welcome mail sent, {message_id(tenant)}")
    return 0


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tenant-slug", required=True)
    parser.add_argument("--again", action="store_true", help="send although an earlier attempt may have arrived")
    given = parser.parse_args()
    url = os.environ["DATABASE_URL"].replace("+psycopg", "", 1)
    with psycopg.connect(url, connect_timeout=5, autocommit=True) as connection:
        query = "SELECT id::text, name FROM tenants WHERE slug = %s AND status = 'active'"
        row = connection.execute(query, (given.tenant_slug,)).fetchone()
        if row is None:
            raise SystemExit(f"error: there is no active tenant {given.tenant_slug}")
        tenant, name = str(row[0]), str(row[1])
        # One at a time for a tenant: two that start together must not both find nothing claimed.
        connection.execute("SELECT pg_advisory_lock(hashtextextended(%s, 0))", (f"{ACTION} {tenant}",))
        query = "SELECT id::text, email, name FROM users WHERE tenant_id = %s AND role = 'admin' AND status = 'invited'"
        admins = [(str(u), str(e), str(n)) for u, e, n in connection.execute(query, (tenant,))]
        now = state(connection, tenant)
        if now == "sent":
            print("the welcome mail was sent before; nothing is sent")
            return 0
        if now == "sending" and not given.again:
            print("error: an earlier attempt may have sent it; ask the customer, then --again", file=sys.stderr)
            return UNCERTAIN
        if not admins:
            raise SystemExit(f"error: nobody is invited to {given.tenant_slug}")
        return send(connection, tenant, letter(tenant, name, admins))


if __name__ == "__main__":
    sys.exit(main())
