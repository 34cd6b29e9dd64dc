"""Incident records: closed by a person, with a reason."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from airflow.sdk import BaseOperator

from vcci_ops.domain.mrkdwn import escape
from vcci_ops.domain.release_request import reason, text
from vcci_ops.exceptions import InvalidInput
from vcci_ops.operators.acting import Acting, failing_clearly, tell

if TYPE_CHECKING:
    from airflow.sdk import Context


class CloseIncidentOperator(BaseOperator):
    """Close an incident record, so that it no longer bars releases.

    Its number and the reason are the run's parameters ``incident`` and ``reason``.

    :raises AirflowFailException: when there is no such incident, or a parameter cannot be used.
    """

    def execute(self, context: Context) -> str:
        """Close it and tell Slack; return its title."""
        from vcci_ops.hooks.releases import Releases

        acting = Acting.of(context)
        with failing_clearly():
            number, why = text(acting.params, "incident", 40), reason(acting.params)
            if not re.fullmatch(r"INC-[0-9]{4}-[0-9]{2}-[0-9]{2}-[0-9]{3,6}", number, re.ASCII):
                raise InvalidInput("incident", number, "a number such as INC-2026-11-24-001")
            title = Releases(acting.settings.environment).close_incident(number, acting.requested_by, why)
        self.log.info("%s is closed: %s", number, title)
        tell(
            acting, "closed", f"*{number}* is closed by {escape(acting.requested_by)}: {escape(title)}\n> {escape(why)}"
        )
        return title
