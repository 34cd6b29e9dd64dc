"""Statuspage's API, version 1: incidents, scheduled maintenance, components. https://developer.statuspage.io"""

from __future__ import annotations

import asyncio
import datetime
import hmac
import secrets
from typing import Any

from aiohttp import web

from sandbox.messages.journal import Journal
from sandbox.state import ActiveFaults

PAGE_ID = "vcci0sandbox0page"
REALTIME = ("investigating", "identified", "monitoring", "resolved")
SCHEDULED = ("scheduled", "in_progress", "verifying", "completed")
IMPACTS = ("none", "maintenance", "minor", "major", "critical")
COMPONENT_STATUSES = (
    "operational",
    "under_maintenance",
    "degraded_performance",
    "partial_outage",
    "major_outage",
)
COMPONENTS = ("API", "Web application", "Calculation engine", "Reports", "Single sign-on")
_KINDS = {
    "": (*REALTIME, *SCHEDULED),
    "unresolved": REALTIME[:-1],
    "scheduled": SCHEDULED,
    "upcoming": SCHEDULED[:1],
    "active_maintenance": ("in_progress", "verifying"),
}
_KEPT = ("name", "scheduled_for", "scheduled_until", "scheduled_remind_prior", "scheduled_auto_in_progress",
         "scheduled_auto_completed", "metadata", "impact_override", "auto_transition_deliver_notifications_at_end",
         "auto_transition_deliver_notifications_at_start", "auto_transition_to_maintenance_state",
         "auto_transition_to_operational_state")  # fmt: skip


class StatuspageApi:
    """The page's state and its HTTP endpoints.

    :param journal: where the changes are kept: whole incidents and components, the last one counts.
    :param key: the API key that is let in.
    :param faults: ``slow``.
    """

    def __init__(self, *, journal: Journal, key: str, faults: ActiveFaults) -> None:
        self._journal = journal
        self._key = key
        self._faults = faults
        self.incidents: dict[str, dict[str, Any]] = {}
        self.components: dict[str, dict[str, Any]] = {}
        self._seed()
        for entry in journal:
            self._apply(entry)

    def clear(self) -> None:
        """Begin anew: no incidents, every component operational."""
        self._journal.clear()
        self.incidents, self.components = {}, {}
        self._seed()

    @property
    def version(self) -> int:
        """Number that grows with each change."""
        return self._journal.version

    def newest_first(self) -> list[dict[str, Any]]:
        """Return the incidents, newest first."""
        return list(self.incidents.values())[::-1]

    def application(self) -> web.Application:
        """Return the server; each path works with and without ``.json``, as the real one's."""
        app = web.Application(middlewares=[self._guard])
        page = "/v1/pages/{page}"
        for end in ("", ".json"):
            app.router.add_get(f"/v1/pages{end}", self._pages)
            app.router.add_get(f"{page}/incidents{end}", self._list)
            app.router.add_post(f"{page}/incidents{end}", self._create)
            app.router.add_get(
                f"{page}/incidents/{{kind:unresolved|scheduled|active_maintenance|upcoming}}{end}", self._list
            )
            app.router.add_get(f"{page}/components{end}", self._list_components)
        incident, component = (
            f"{page}/incidents/{{id:[a-z0-9]+}}{{end:(\\.json)?}}",
            f"{page}/components/{{id:[a-z0-9]+}}{{end:(\\.json)?}}",
        )
        app.router.add_get(incident, self._get)
        app.router.add_route("PATCH", incident, self._update)
        app.router.add_route("PUT", incident, self._update)
        app.router.add_delete(incident, self._remove)
        app.router.add_get(component, self._get_component)
        app.router.add_route("PATCH", component, self._update_component)
        app.router.add_route("PUT", component, self._update_component)
        return app

    @web.middleware
    async def _guard(self, request: web.Request, handler: Any) -> web.StreamResponse:
        if (slow := self._faults.get("slow")) is not None:
            await asyncio.sleep(float(slow.get("seconds", 3.0)))
        scheme, _, key = request.headers.get("Authorization", "").partition(" ")
        given = key if scheme.lower() == "oauth" else request.query.get("api_key", "")
        if not hmac.compare_digest(given.encode(), self._key.encode()):
            return _error(401, "Could not authenticate")
        if request.match_info.get("page", PAGE_ID) != PAGE_ID:
            return _error(404, "Page not found")
        try:
            answer: web.StreamResponse = await handler(request)
        except KeyError:
            return _error(404, "Record not found")
        except ValueError as error:
            return _error(422, [str(error)])
        return answer

    # Incidents ----------------------------------------------------------------------------------

    async def _pages(self, _: web.Request) -> web.Response:
        return web.json_response([{"id": PAGE_ID, "name": "GL-VCCI", "time_zone": "UTC"}])

    async def _list(self, request: web.Request) -> web.Response:
        wanted = _KINDS[request.match_info.get("kind", "")]
        text = request.query.get("q", "").lower()
        found = [i for i in self.newest_first() if i["status"] in wanted and text in i["name"].lower()]
        limit = min(int(request.query.get("limit", 100)), 100)
        first = (max(1, int(request.query.get("page", 1))) - 1) * limit
        return web.json_response(found[first : first + limit])

    async def _create(self, request: web.Request) -> web.Response:
        given = await _body(request, "incident")
        if not given.get("name"):
            raise ValueError("Name can't be blank")
        planned = bool(given.get("scheduled_for"))
        now, made = _now(), secrets.token_hex(6)
        incident: dict[str, Any] = {
            "id": made,
            "page_id": PAGE_ID,
            "created_at": now,
            "resolved_at": None,
            "monitoring_at": None,
            "scheduled_for": None,
            "scheduled_until": None,
            "impact_override": None,
            "metadata": {},
            "incident_updates": [],
            "components": [],
            "shortlink": f"https://stspg.io/{made}",
            "status": "scheduled" if planned else "investigating",
        }
        self._change(incident, given, now)
        return web.json_response(incident, status=201)

    async def _get(self, request: web.Request) -> web.Response:
        return web.json_response(self.incidents[request.match_info["id"]])

    async def _update(self, request: web.Request) -> web.Response:
        incident = self.incidents[request.match_info["id"]]
        self._change(incident, await _body(request, "incident"), _now())
        return web.json_response(incident)

    async def _remove(self, request: web.Request) -> web.Response:
        incident = self.incidents[request.match_info["id"]]
        self._record("removed", incident)
        return web.json_response(incident)

    def _change(self, incident: dict[str, Any], given: dict[str, Any], now: str) -> None:
        _check_incident(given, planned=bool(given.get("scheduled_for") or incident["scheduled_for"]))
        changed = self._component_changes(given)
        incident |= {key: given[key] for key in _KEPT if key in given}
        incident["status"] = given.get("status", incident["status"])
        incident["updated_at"] = now
        incident["impact"] = _impact(incident, changed)
        for status, key in (("monitoring", "monitoring_at"), ("resolved", "resolved_at"), ("completed", "resolved_at")):
            if incident["status"] == status and not incident[key]:
                incident[key] = now
        for component in changed:
            self._record("component", component)
        named = {c["id"]: c for c in incident["components"]} | {c["id"]: dict(c) for c in changed}
        incident["components"] = list(named.values())
        if given.get("body") or "status" in given or not incident["incident_updates"]:
            incident["incident_updates"].insert(0, _note(incident, given, changed, now))
        self._record("incident", incident)

    def _component_changes(self, given: dict[str, Any]) -> list[dict[str, Any]]:
        statuses = dict(given.get("components") or {})
        for id_ in given.get("component_ids") or []:
            statuses.setdefault(id_, None)
        changed = []
        for id_, status in statuses.items():
            if id_ not in self.components:
                raise ValueError(f"Component {id_} is not a component of this page")
            if status is not None and status not in COMPONENT_STATUSES:
                raise ValueError(f"Component status must be one of {', '.join(COMPONENT_STATUSES)}")
            component = self.components[id_]
            changed.append(component | {"status": status or component["status"]})
        return changed

    # Components ---------------------------------------------------------------------------------

    async def _list_components(self, _: web.Request) -> web.Response:
        return web.json_response(list(self.components.values()))

    async def _get_component(self, request: web.Request) -> web.Response:
        return web.json_response(self.components[request.match_info["id"]])

    async def _update_component(self, request: web.Request) -> web.Response:
        component = self.components[request.match_info["id"]]
        given = await _body(request, "component")
        if given.get("status", "operational") not in COMPONENT_STATUSES:
            raise ValueError(f"Status must be one of {', '.join(COMPONENT_STATUSES)}")
        kept = {key: given[key] for key in ("status", "description", "name") if key in given}
        self._record("component", component | kept | {"updated_at": _now()})
        return web.json_response(self.components[request.match_info["id"]])

    def _seed(self) -> None:
        for number, name in enumerate(COMPONENTS, 1):
            id_ = f"vccicomponent{number:02d}"
            self.components[id_] = {
                "id": id_,
                "page_id": PAGE_ID,
                "name": name,
                "status": "operational",
                "description": None,
                "position": number,
                "updated_at": None,
            }

    def _record(self, kind: str, thing: dict[str, Any]) -> None:
        entry = {"kind": kind, "thing": thing}
        self._journal.append(entry)
        self._apply(entry)

    def _apply(self, entry: dict[str, Any]) -> None:
        thing = entry["thing"]
        if entry["kind"] == "incident":
            self.incidents[thing["id"]] = thing
        elif entry["kind"] == "removed":
            self.incidents.pop(thing["id"], None)
        else:
            self.components[thing["id"]] = thing


async def _body(request: web.Request, key: str) -> dict[str, Any]:
    try:
        given = await request.json()
    except ValueError:
        raise ValueError("The body must be JSON") from None
    if not isinstance(given, dict) or not isinstance(given.get(key), dict):
        raise ValueError(f"{key} is missing")
    inner: dict[str, Any] = given[key]
    return inner


def _check_incident(given: dict[str, Any], *, planned: bool) -> None:
    statuses = SCHEDULED if planned else REALTIME
    if given.get("status") is not None and given["status"] not in statuses:
        raise ValueError(f"Status must be one of {', '.join(statuses)}")
    if given.get("impact_override") is not None and given["impact_override"] not in IMPACTS:
        raise ValueError(f"Impact override must be one of {', '.join(IMPACTS)}")
    metadata = given.get("metadata") or {}
    if not isinstance(metadata, dict) or not all(isinstance(value, dict) for value in metadata.values()):
        raise ValueError("Metadata must be an object whose top-level values are objects")
    times = [given.get("scheduled_for"), given.get("scheduled_until")]
    if times[0] and times[1] and _time(times[1]) <= _time(times[0]):
        raise ValueError("Scheduled until must be after scheduled for")


def _time(value: Any) -> datetime.datetime:
    try:
        moment = datetime.datetime.fromisoformat(str(value))
    except ValueError:
        raise ValueError(f"{value} is not an ISO 8601 time") from None
    return moment if moment.tzinfo else moment.replace(tzinfo=datetime.UTC)


def _impact(incident: dict[str, Any], changed: list[dict[str, Any]]) -> str:
    if incident["impact_override"]:
        return str(incident["impact_override"])
    if incident["scheduled_for"]:
        return "maintenance"
    by_status = {"major_outage": "critical", "partial_outage": "major", "degraded_performance": "minor"}
    now = [by_status.get(component["status"], "none") for component in changed]
    worst: str = max([incident.get("impact", "none"), *now], key=IMPACTS.index)
    return worst


def _note(incident: dict[str, Any], given: dict[str, Any], changed: list[dict[str, Any]], now: str) -> dict[str, Any]:
    return {
        "id": secrets.token_hex(6),
        "incident_id": incident["id"],
        "status": incident["status"],
        "body": given.get("body") or "",
        "created_at": now,
        "updated_at": now,
        "display_at": now,
        "deliver_notifications": bool(given.get("deliver_notifications", True)),
        "affected_components": [{"code": c["id"], "name": c["name"], "new_status": c["status"]} for c in changed],
    }


def _now() -> str:
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _error(status: int, text: Any) -> web.Response:
    return web.json_response({"error": text}, status=status)
