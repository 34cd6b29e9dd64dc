"""What the tasks share that work on a tenant of the platform."""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING, Any

from airflow.sdk.exceptions import DownstreamTasksSkipped

from vcci_ops.exceptions import Refused
from vcci_ops.operators.acting import Acting, ActingOperator

if TYPE_CHECKING:
    from airflow.sdk import Context

    from vcci_ops.hooks.tenant_admin import TenantAdmin


class TenantOperator(ActingOperator):
    """A task of tenant_onboard or tenant_suspend.

    :param postgres_conn_id: Airflow connection with the rights of include/sql/grants/vcci_ops_tenants.sql.
    """

    ui_color = "#e3f0e9"

    def __init__(self, *, postgres_conn_id: str = "vcci_postgres_tenants", **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.postgres_conn_id = postgres_conn_id

    @cached_property
    def tenants(self) -> TenantAdmin:
        """The platform's tenants."""
        from vcci_ops.hooks.tenant_admin import TenantAdmin

        return TenantAdmin(self.postgres_conn_id)

    def require_lock(self, acting: Acting) -> None:
        """Pass when this run holds the change lock.

        :raises Refused: when it does not, or this is a dry run, whatever somebody marked in the UI.
        """
        if acting.params.get("dry_run") is not False:
            raise Refused("this is a dry run: nothing is changed")
        super().require_lock(acting)

    def skip_rest(self, context: Context, why: str) -> None:
        """End the task well and skip what comes directly after it."""
        self.log.info("%s", why)
        raise DownstreamTasksSkipped(  # type: ignore[no-untyped-call]
            tasks=sorted(context["task"].downstream_task_ids)
        )
