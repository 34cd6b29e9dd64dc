"""Reading who has access: the platform's users and keys, the database's roles, and who is bound to what in Kubernetes.

Mail addresses stay in the database: they are compared and masked there.
"""

from __future__ import annotations

import dataclasses
import datetime as dt
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from vcci_ops.domain import access_people, access_rbac, access_roles
from vcci_ops.domain.access import Line, unmeasured
from vcci_ops.domain.access_people import Past
from vcci_ops.exceptions import MeasurementError
from vcci_ops.hooks.kubernetes import KubernetesReader
from vcci_ops.hooks.postgres import Answer, ReadOnlyPostgresHook, Statement
from vcci_ops.settings import INCLUDE
from vcci_ops.settings_tenants import AccessReview

FIRST_LOOK = dt.timedelta(days=30)
"""Without an earlier review, what administrators did is counted over this long."""
STATEMENT_TIMEOUT = 60.0
_RBAC = "/apis/rbac.authorization.k8s.io/v1"


def access_sql(name: str) -> str:
    """Return the text of include/sql/access/<name>.sql."""
    return (INCLUDE / "sql" / "access" / f"{name}.sql").read_text(encoding="utf-8")


@dataclasses.dataclass
class Found:
    """What one look at everything brought.

    :param admins: ids of the users who are administrators; None when that is not known.
    """

    lines: list[Line] = dataclasses.field(default_factory=list)
    admins: list[str] | None = None


@dataclasses.dataclass(frozen=True)
class AccessReader:
    """Looks at everything an access review covers. What cannot be looked at becomes a line that says so.

    :param namespace: of the platform.
    :param users_conn_id: connection of the production database that may read users (vcci_ops_tenants).
    :param postgres_conn_id: the one that may read API keys (vcci_ops).
    :param kubernetes_conn_id: connection with the rights of include/kubernetes/rbac-access-review.yaml.
    """

    settings: AccessReview
    namespace: str
    now: dt.datetime
    past: Past | None
    users_conn_id: str = "vcci_postgres_tenants"
    postgres_conn_id: str = "vcci_postgres"
    kubernetes_conn_id: str = "vcci_kubernetes"

    def look(self) -> Found:
        """Look at everything; one part that fails hides no other."""
        found = Found()
        for part in (self._users, self._keys_and_roles, self._kubernetes):
            part(found)
        return found

    @property
    def since(self) -> dt.datetime:
        """From when on the deeds of administrators are counted."""
        return self.past.made_at if self.past else self.now - FIRST_LOOK

    def _users(self, found: Found) -> None:
        parts = {
            "people": "users and administrators",
            "tenants": "tenants without an administrator",
            "deeds": "what administrators did",
        }
        parameters = {
            "before": self._before(self.settings.inactive_after),
            "since": self.since,
            "never_touched": [address.lower() for address in self.settings.never_touched],
        }
        answers = self._ask(self.users_conn_id, parts, parameters, found)
        if "tenants" in answers:
            found.lines += access_people.leaderless(map(access_people.LeaderlessTenant._make, answers["tenants"]))
        if "people" not in answers:
            return
        people = [access_people.Person._make(row) for row in answers["people"]]
        found.lines += access_people.inactive_users(people, self.settings, self.now)
        found.lines += access_people.dormant_services(people, self.settings, self.now)
        deeds = _grouped(answers["deeds"]) if "deeds" in answers else None
        found.lines += access_people.admins(people, deeds, self.since, self.past)
        found.admins = [p.user_id for p in people if p.role == "admin" and p.status == "active" and not p.service]

    def _keys_and_roles(self, found: Found) -> None:
        parts = {"keys": "API keys", "roles": "database roles", "rights": "what database roles own and write"}
        parameters = {
            "used_before": self._before(self.settings.key_unused_after),
            "made_before": self._before(self.settings.key_old_after),
        }
        answers = self._ask(self.postgres_conn_id, parts, parameters, found)
        if "keys" in answers:
            every = map(access_people.Key._make, answers["keys"])
            found.lines += access_people.keys(every, self.settings, self.now)
        if "roles" in answers:
            roles = [access_roles.Role._make((*row[:-1], tuple(row[-1]))) for row in answers["roles"]]
            rights = [access_roles.Right._make((*row[:-1], tuple(row[-1]))) for row in answers.get("rights", ())]
            found.lines += access_roles.lines(roles, rights, self.settings.database_roles)

    def _kubernetes(self, found: Found) -> None:
        reader = RbacReader(self.kubernetes_conn_id)
        try:
            roles, bindings = reader.roles(self.namespace), reader.bindings(self.namespace)
        except MeasurementError as error:
            found.lines.append(unmeasured("Kubernetes: cluster-admins and readers of Secrets", str(error)))
            return
        found.lines += access_rbac.lines(roles, bindings, self.namespace, self.settings.cluster_admins)

    def _ask(
        self, conn_id: str, parts: Mapping[str, str], parameters: Mapping[str, Any], found: Found
    ) -> dict[str, Sequence[Any]]:
        """Return the rows of each statement that ran; note those that did not."""
        statements = {name: Statement(access_sql(name), parameters) for name in parts}
        try:
            hook = ReadOnlyPostgresHook(postgres_conn_id=conn_id, statement_timeout=STATEMENT_TIMEOUT)
            answers: Iterable[Answer] = list(hook.read(statements))
        except MeasurementError as error:
            answers = [Answer(name, [], "", error) for name in parts]
        found.lines += [unmeasured(parts[answer.name], str(answer.error)) for answer in answers if answer.error]
        return {answer.name: answer.rows for answer in answers if not answer.error}

    def _before(self, seconds: float) -> dt.datetime:
        return self.now - dt.timedelta(seconds=seconds)


def _grouped(rows: Iterable[Sequence[Any]]) -> dict[str, list[tuple[str, int]]]:
    grouped: dict[str, list[tuple[str, int]]] = {}
    for user, action, number in rows:
        grouped.setdefault(user, []).append((action, number))
    return grouped


@dataclasses.dataclass(frozen=True)
class Addresses:
    """What may be known of users' mail addresses outside the database.

    :param conn_id: connection of the production database that may read users.
    """

    conn_id: str = "vcci_postgres_tenants"

    def masked(self, users: Iterable[str]) -> dict[str, str]:
        """Return user id → first letter and domain of the mail address.

        :raises MeasurementError: when the database does not say.
        """
        return dict(self._read("masked", {"users": sorted(users)}))

    def among(self, users: Iterable[str], addresses: Iterable[str]) -> set[str]:
        """Return those of the users who have one of these mail addresses.

        :param addresses: in lower case.
        :raises MeasurementError: when the database does not say.
        """
        rows = self._read("reviewer", {"users": sorted(users), "addresses": sorted(addresses)})
        return {user for (user,) in rows}

    def _read(self, name: str, parameters: Mapping[str, Any]) -> Sequence[Any]:
        hook = ReadOnlyPostgresHook(postgres_conn_id=self.conn_id)
        return hook.read_one(Statement(access_sql(name), parameters)).rows


class RbacReader(KubernetesReader):
    """Reads roles and bindings; rights: include/kubernetes/rbac-access-review.yaml."""

    def roles(self, namespace: str) -> list[access_rbac.Role]:
        """Return all ClusterRoles, and the Roles of a namespace.

        :raises MeasurementError: when they cannot be read.
        """
        return [access_rbac.Role.from_json(item) for item in self._both("clusterroles", "roles", namespace)]

    def bindings(self, namespace: str) -> list[access_rbac.Binding]:
        """Return all ClusterRoleBindings, and the RoleBindings of a namespace.

        :raises MeasurementError: when they cannot be read.
        """
        items = self._both("clusterrolebindings", "rolebindings", namespace)
        return [access_rbac.Binding.from_json(item) for item in items]

    def _both(self, cluster: str, local: str, namespace: str) -> Iterator[dict[str, Any]]:
        yield from self._pages(f"{cluster}.rbac.authorization.k8s.io", f"{_RBAC}/{cluster}")
        path = f"{_RBAC}/namespaces/{namespace}/{local}"
        yield from self._pages(f"{local}.rbac.authorization.k8s.io", path, namespace)
