"""# Close an incident record

A rollback that failed opens an incident record (P0), and an open P0 or P1 bars releases: *validate.quiet* refuses and
names it. When it is over, close it here.

**What it does.** Notes who closed the record, when and why; tells Slack. It does not look whether the platform is well.

**Preconditions.** Connections `vcci_ops_db`, `vcci_slack`.

**Parameters, e.g.** `{"incident": "INC-2026-11-24-001", "reason": "brought back by hand, all pods ready"}`.

**Rollback.** None; a closed record stays, with its history.

**Triage.** "there is no incident": the message of *validate.quiet* has the number.

**Owner.** The on-call of the settings.
"""

from __future__ import annotations

import datetime as dt

from airflow.providers.smtp.notifications.smtp import send_smtp_notification
from airflow.sdk import DAG, Param

from vcci_ops.operators.incidents import CloseIncidentOperator
from vcci_ops.settings import load_settings
from vcci_ops.tags import ON_DEMAND, RELEASE

settings = load_settings()

with DAG(
    dag_id="close_incident",
    description="Close an incident record, so that it no longer bars releases",
    doc_md=__doc__,
    schedule=None,
    catchup=False,
    max_active_runs=2,
    dagrun_timeout=dt.timedelta(minutes=10),
    on_failure_callback=send_smtp_notification(
        **settings.on_call.mail,
        subject=f"[vcci-ops {settings.environment}] {{{{ dag_run.dag_id }}}} did not end well",
        html_content="<p>Run {{ dag_run.run_id | e }}: the incident is not closed. Read the log of its task.</p>",
    ),
    tags=[RELEASE, ON_DEMAND],
    default_args={
        "owner": settings.owner,
        "retries": 1,
        "retry_delay": dt.timedelta(seconds=5),
        "execution_timeout": dt.timedelta(minutes=2),
    },
    params={
        "incident": Param(
            type="string",
            maxLength=40,
            pattern=r"^INC-[0-9]{4}-[0-9]{2}-[0-9]{2}-[0-9]{3,6}$",
            title="Incident",
            description="Its number, e.g. INC-2026-11-24-001",
        ),
        "reason": Param(
            type="string",
            minLength=5,
            maxLength=500,
            title="Reason",
            description="How it was ended; kept in the record",
        ),
    },
):
    CloseIncidentOperator(task_id="close")
