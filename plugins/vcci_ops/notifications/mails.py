"""The mails to the on-call that DAGs hang on their ends and their tasks' failures."""

from __future__ import annotations

from typing import Any

from airflow.providers.smtp.notifications.smtp import SmtpNotifier

from vcci_ops.notifications.silence import SilentRunNotifier
from vcci_ops.settings import Settings


def run_ended(
    settings: Settings, words: str = "ended red. Look at the run in Airflow.", *, subject: str = "did not end well"
) -> SilentRunNotifier:
    """Return what mails when a run ended badly and nobody was told, for ``on_failure_callback`` of a DAG.

    :param words: after "Run … of …"; HTML.
    :param subject: after the DAG's id.
    """
    return SilentRunNotifier(
        **settings.on_call.mail,
        subject=f"[vcci-ops {settings.environment}] {{{{ dag_run.dag_id }}}} {subject}",
        html_content=f"<p>Run {{{{ dag_run.run_id | e }}}} of {{{{ dag_run.dag_id }}}} {words}</p>",
    )


def task_failed(settings: Settings, words: str = "") -> SmtpNotifier:
    """Return what mails when a task failed, with its error, for ``on_failure_callback`` of a task.

    :param words: what that means; HTML.
    """
    where: dict[str, Any] = dict(settings.on_call.mail)
    return SmtpNotifier(
        **where,
        subject=f"[vcci-ops {settings.environment}] {{{{ ti.dag_id }}}}: {{{{ ti.task_id }}}} failed",
        html_content="<p>{{ ti.task_id }} of {{ ti.dag_id }} failed: {{ exception | e }}</p>"
        f"<p>Run {{{{ ti.run_id | e }}}}.{' ' if words else ''}{words}</p>",
    )
