"""Slack, Statuspage, mail and the inbox page (:mod:`sandbox.messages`) as one service of the sandbox."""

from __future__ import annotations

from typing import Any

from sandbox.service import Fault, Sandbox, Service

MAIL_USER = "vcci-ops"
STATUSPAGE_ID = "vcci0sandbox0page"


class Messages(Service):
    """One process behind four ports, for what the platform tells people."""

    name = "messages"
    ports = ("slack", "statuspage", "smtp", "inbox")
    faults = (
        Fault(
            "slack-refuses",
            "Slack answers every call with an error",
            "the run says that the report was not posted; S3 and history have it",
            options={"error": "account_inactive"},
        ),
    )

    def start(self, sandbox: Sandbox) -> None:
        """Spawn the process."""
        sandbox.data(self.name)
        sandbox.python(self.name, "sandbox.messages")

    def connections(self, sandbox: Sandbox) -> dict[str, dict[str, Any]]:
        """Return ``vcci_slack``, ``vcci_statuspage`` and ``vcci_smtp``."""
        return {
            "vcci_slack": {
                "conn_type": "slack",
                "password": sandbox.secret("slack", "xoxb-"),
                "extra": {"base_url": f"http://127.0.0.1:{sandbox.port('slack')}/api/"},
            },
            "vcci_statuspage": {
                "conn_type": "http",
                "host": "127.0.0.1",
                "port": sandbox.port("statuspage"),
                "schema": "http",
                "password": sandbox.secret("statuspage"),
                "extra": {"page_id": STATUSPAGE_ID},
            },
            "vcci_smtp": {
                "conn_type": "smtp",
                "host": "127.0.0.1",
                "port": sandbox.port("smtp"),
                "login": MAIL_USER,
                "password": sandbox.secret("smtp"),
                "extra": {
                    "disable_ssl": True,
                    "disable_tls": True,
                    "from_email": "vcci-ops@greenlang.io",
                    "timeout": 10,
                },
            },
        }

    def pages(self, sandbox: Sandbox) -> dict[str, str]:
        """Return the inbox."""
        return {"Inbox (Slack, Statuspage, mail)": f"http://127.0.0.1:{sandbox.port('inbox')}/"}
