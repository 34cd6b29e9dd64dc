"""A run that ended without telling anybody tells the on-call mailbox."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from airflow.providers.smtp.notifications.smtp import SmtpNotifier

if TYPE_CHECKING:
    from airflow.sdk import Context


class SilentRunNotifier(SmtpNotifier):
    """Send the mail, unless the history says that the run's report was posted to Slack.

    For ``on_failure_callback`` of a DAG: a run that ran into its ``dagrun_timeout`` skips what is left,
    its report too, and nothing of it reaches anybody otherwise.

    :param history_conn_id: connection of the history database.
    :param kwargs: as for the provider's SmtpNotifier.
    """

    def __init__(self, *, history_conn_id: str = "vcci_ops_db", **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.history_conn_id = history_conn_id

    def notify(self, context: Context) -> None:
        """Send the mail if nobody was told."""
        from vcci_ops.exceptions import MeasurementError
        from vcci_ops.hooks.history import History
        from vcci_ops.settings import load_settings

        run = context["dag_run"]
        try:
            where = (load_settings().environment, str(run.dag_id), str(run.run_id))
            told = bool({"slack", "slack:final"} & set(History(self.history_conn_id).deliveries(*where)))
        except MeasurementError:
            told = False  # better one mail too many
        if not told:
            super().notify(context)
