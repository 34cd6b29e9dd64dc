"""Statuspage: what customers are told. https://developer.statuspage.io"""

from __future__ import annotations

import datetime as dt
import logging
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any

from vcci_ops.exceptions import (
    DeliveryFailed,
    Forbidden,
    InvalidInput,
    MeasurementError,
    NoData,
    UnexpectedAnswer,
    Unreachable,
)

if TYPE_CHECKING:
    from airflow.sdk import Connection

log = logging.getLogger(__name__)

SYSTEM = "Statuspage"
CONNECT_SECONDS, READ_SECONDS = 5.0, 15.0
ORDER = ("scheduled", "in_progress", "verifying", "completed")
"""A maintenance goes through these, and never back."""
COMPONENT_STATUSES = (
    "operational",
    "under_maintenance",
    "degraded_performance",
    "partial_outage",
    "major_outage",
)
GRAVE = ("major", "critical")
OWNED = "vcci_ops"
"""Our part of an incident's metadata."""


class Statuspage:
    """The page of one connection.

    The connection's fields: password, the API key; extra ``page_id``; host (and schema, port) only where it is not
    ``https://api.statuspage.io``. The key is sent in a header and stands in no message.

    The provider's HTTP hook is not used: it sends every key of a connection's extra as a header.

    :param conn_id: id of the connection. Without it, :attr:`configured` is False.
    """

    def __init__(self, conn_id: str = "vcci_statuspage") -> None:
        self.conn_id = conn_id

    @property
    def configured(self) -> bool:
        """Whether there is such a connection."""
        return self._connection is not None

    def begin_maintenance(  # noqa: PLR0917  what the API takes, in its order
        self,
        key: str,
        name: str,
        body: str,
        components: Sequence[str],
        scheduled_for: dt.datetime,
        until: dt.datetime,
    ) -> str:
        """Announce a maintenance once for each key, and return its id.

        It is in progress at once when its time has come. It neither begins nor ends by itself: what runs it does.

        :param key: kept in the incident's metadata; a repeated task finds its incident by it.
        :param components: names or ids; under maintenance while it is in progress.
        :raises DeliveryFailed: when Statuspage refuses or does not answer.
        """
        try:
            if (found := self._find(key)) is not None:
                log.info("Statuspage has this maintenance already: %s", found["id"])
                return str(found["id"])
            ids = self._component_ids(components)
            begun = scheduled_for <= dt.datetime.now(dt.UTC)
            incident = {
                "name": name[:255],
                "status": "in_progress" if begun else "scheduled",
                "body": body,
                "scheduled_for": _iso(scheduled_for),
                "scheduled_until": _iso(until),
                "scheduled_remind_prior": False,
                "scheduled_auto_in_progress": False,
                "scheduled_auto_completed": False,
                "auto_transition_to_maintenance_state": False,
                "auto_transition_to_operational_state": False,
                "component_ids": ids,
                "components": dict.fromkeys(ids, "under_maintenance" if begun else "operational"),
                "metadata": {OWNED: {"key": key}},
            }
            made = self._call("POST", "incidents", {"incident": incident})
            return str(made["id"])
        except MeasurementError as error:
            raise DeliveryFailed(SYSTEM, f"the maintenance was not announced: {error}") from error

    def update(self, incident_id: str, status: str, body: str, components: Mapping[str, str] | None = None) -> None:
        """Move a maintenance on: ``in_progress``, ``verifying``, ``completed``.

        What it is already, or is past already, is left alone: a repeated task tells nobody twice.

        :param components: name or id → status; for ``completed`` all its components become operational, unless said.
        :raises DeliveryFailed: when Statuspage refuses or does not answer.
        """
        if status not in ORDER:
            raise InvalidInput("status", status, f"one of {', '.join(ORDER)}")
        try:
            found = self._call("GET", f"incidents/{incident_id}")
            if found.get("status") in ORDER[ORDER.index(status) :]:
                log.info("Statuspage: the maintenance is %s already", found["status"])
                return
            change: dict[str, Any] = {"status": status, "body": body}
            if components is not None:
                ids = self._component_ids(list(components))
                change["components"] = dict(zip(ids, map(_component_status, components.values()), strict=True))
            elif status in ("in_progress", "completed"):
                state = "operational" if status == "completed" else "under_maintenance"
                change["components"] = {component["id"]: state for component in found.get("components") or []}
            self._call("PATCH", f"incidents/{incident_id}", {"incident": change})
        except MeasurementError as error:
            raise DeliveryFailed(SYSTEM, f"the maintenance was not set to {status}: {error}") from error

    def set_components(self, statuses: Mapping[str, str]) -> None:
        """Set components' statuses; what is so already is left alone.

        :param statuses: name or id → one of :data:`COMPONENT_STATUSES`.
        :raises DeliveryFailed: when Statuspage refuses or does not answer.
        """
        wanted = {name: _component_status(status) for name, status in statuses.items()}
        try:
            now = {component["id"]: component["status"] for component in self._components}
            for id_, status in zip(self._component_ids(list(wanted)), wanted.values(), strict=True):
                if now.get(id_) != status:
                    self._call("PATCH", f"components/{id_}", {"component": {"status": status}})
        except MeasurementError as error:
            raise DeliveryFailed(SYSTEM, f"the components were not set: {error}") from error
        finally:
            self.__dict__.pop("_components", None)

    def unresolved(self, impacts: Sequence[str] = GRAVE) -> list[dict[str, str]]:
        """Return the open incidents of these impacts, newest first: name, impact, status, shortlink.

        Major and critical are what the runbook calls P1 and P0. Maintenance is no incident.

        :raises MeasurementError: when Statuspage cannot be asked; "none" would be a guess.
        """
        found = self._call("GET", "incidents/unresolved")
        if not isinstance(found, list):
            raise UnexpectedAnswer(SYSTEM, "incidents/unresolved is no list")
        names = ("name", "impact", "status", "shortlink")
        return [
            {name: str(incident.get(name) or "") for name in names}
            for incident in found
            if incident.get("impact") in impacts and not incident.get("scheduled_for")
        ]

    # Inside -------------------------------------------------------------------------------------

    @cached_property
    def _connection(self) -> Connection | None:
        from airflow.sdk import BaseHook
        from airflow.sdk.exceptions import AirflowNotFoundException

        try:
            return BaseHook.get_connection(self.conn_id)
        except AirflowNotFoundException:
            return None

    @cached_property
    def _components(self) -> list[dict[str, Any]]:
        found = self._call("GET", "components")
        return list(found) if isinstance(found, list) else []

    def _component_ids(self, wanted: Sequence[str]) -> list[str]:
        if not wanted:
            return []
        by_name = {component["name"]: str(component["id"]) for component in self._components}
        ids = set(by_name.values())
        for one in wanted:
            if one not in by_name and one not in ids:
                known = ", ".join(sorted(by_name))
                raise NoData(f"Statuspage has no component {one!r}; it has {known or 'none'}")
        return [by_name.get(one, one) for one in wanted]

    def _find(self, key: str) -> dict[str, Any] | None:
        """Return the maintenance of a key among the newest hundred incidents."""
        for incident in self._call("GET", "incidents", params={"limit": "100"}):
            owned = (incident.get("metadata") or {}).get(OWNED) or {}
            if isinstance(owned, dict) and owned.get("key") == key:
                return dict(incident)
        return None

    def _address(self, path: str) -> tuple[str, dict[str, str], Any]:
        """Return URL, headers, and how TLS is verified."""
        connection = self._connection
        if connection is None:
            raise NoData(f"there is no Airflow connection {self.conn_id}")
        extra = connection.extra_dejson
        page = str(extra.get("page_id") or "")
        if not page.isalnum():
            raise NoData(f"the connection {self.conn_id} has no page_id in its extra")
        host = connection.host or "api.statuspage.io"
        base = host if "://" in host else f"{connection.schema or 'https'}://{host}"
        port = f":{connection.port}" if connection.port else ""
        headers = {"Authorization": f"OAuth {connection.password or ''}"}
        return f"{base}{port}/v1/pages/{page}/{path}", headers, extra.get("verify", True)

    def _call(
        self, method: str, path: str, body: Mapping[str, Any] | None = None, params: Mapping[str, str] | None = None
    ) -> Any:
        """Call the API and return its JSON.

        :raises Unreachable: no answer, too many calls (420, 429), or a failure of Statuspage's (5xx).
        :raises Forbidden: 401 and 403.
        :raises UnexpectedAnswer: any other refusal, with its words.
        """
        import requests

        url, headers, verify = self._address(path)
        try:
            answer = requests.request(
                method,
                url,
                json=body,
                params=params,
                headers=headers,
                timeout=(CONNECT_SECONDS, READ_SECONDS),
                verify=verify,
                allow_redirects=False,  # the key goes nowhere else
            )
        except requests.RequestException as error:
            raise Unreachable(SYSTEM, f"{method} {path} ({type(error).__name__})") from error
        if answer.status_code in (401, 403):
            raise Forbidden(SYSTEM, f"{method} {path} (HTTP {answer.status_code})")
        if answer.status_code in (420, 429) or answer.status_code >= 500:
            raise Unreachable(SYSTEM, f"{method} {path} (HTTP {answer.status_code})")
        try:
            data = answer.json()
        except requests.exceptions.JSONDecodeError as error:
            raise UnexpectedAnswer(SYSTEM, f"{method} {path}: HTTP {answer.status_code}, no JSON") from error
        if answer.status_code >= 300:
            said = data.get("error", "") if isinstance(data, dict) else ""
            words = "; ".join(map(str, said)) if isinstance(said, list) else str(said)
            raise UnexpectedAnswer(SYSTEM, f"{method} {path}: HTTP {answer.status_code} {words[:300]}".strip())
        return data


def _component_status(status: str) -> str:
    if status not in COMPONENT_STATUSES:
        raise InvalidInput("component status", status, f"one of {', '.join(COMPONENT_STATUSES)}")
    return status


def _iso(moment: dt.datetime) -> str:
    if moment.tzinfo is None:
        raise InvalidInput("time", moment, "a time with its zone")
    return moment.astimezone(dt.UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
