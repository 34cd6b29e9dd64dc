"""Errors as the API server words them: a Status object with code, reason, message and details.

https://kubernetes.io/docs/reference/kubernetes-api/common-definitions/status/
"""

from __future__ import annotations

from typing import Any

from sandbox.kubernetes.resources import Resource


class ApiError(Exception):
    """An answer other than success.

    :param code: the HTTP status.
    :param reason: machine-readable, CamelCase.
    """

    def __init__(self, code: int, reason: str, message: str, details: dict[str, Any] | None = None) -> None:
        super().__init__(message)
        self.code, self.reason, self.message, self.details = code, reason, message, details

    def status(self) -> dict[str, Any]:
        """Return the Status object."""
        body: dict[str, Any] = {
            "kind": "Status",
            "apiVersion": "v1",
            "metadata": {},
            "status": "Failure",
            "message": self.message,
            "reason": self.reason,
        }
        if self.details:
            body["details"] = self.details
        return {**body, "code": self.code}


def _about(resource: Resource, name: str, *, kind: str = "") -> dict[str, Any]:
    about = {"name": name, "group": resource.group, "kind": kind or resource.plural}
    return {key: value for key, value in about.items() if value}


def not_found(resource: Resource, name: str) -> ApiError:
    """The object is not there."""
    return ApiError(404, "NotFound", f'{resource.full_name} "{name}" not found', _about(resource, name))


def no_such_path() -> ApiError:
    """The path leads nowhere: no such group, version or kind."""
    return ApiError(404, "NotFound", "the server could not find the requested resource", {})


def already_exists(resource: Resource, name: str) -> ApiError:
    """An object of this name is there."""
    return ApiError(409, "AlreadyExists", f'{resource.full_name} "{name}" already exists', _about(resource, name))


def conflict(resource: Resource, name: str, why: str = "") -> ApiError:
    """The object has changed since the caller read it, or a precondition does not hold."""
    why = why or "the object has been modified; please apply your changes to the latest version and try again"
    text = f'Operation cannot be fulfilled on {resource.full_name} "{name}": {why}'
    return ApiError(409, "Conflict", text, _about(resource, name))


def invalid(resource: Resource, name: str, causes: list[tuple[str, str, str]]) -> ApiError:
    """Fields hold what they may not: ``causes`` are (field, reason, message)."""
    listed = [{"reason": reason, "message": text, "field": field} for field, reason, text in causes]
    texts = [f"{field}: {text}" for field, _, text in causes]
    joined = texts[0] if len(texts) == 1 else f"[{', '.join(texts)}]"
    full = f"{resource.kind}.{resource.group}" if resource.group else resource.kind
    details = {**_about(resource, name, kind=resource.kind), "causes": listed}
    return ApiError(422, "Invalid", f'{full} "{name}" is invalid: {joined}', details)


def bad_request(message: str) -> ApiError:
    """The request cannot be read."""
    return ApiError(400, "BadRequest", message)


def unauthorized() -> ApiError:
    """No token, or one that is not known."""
    return ApiError(401, "Unauthorized", "Unauthorized")


def gone(message: str) -> ApiError:
    """The resourceVersion or the continue token is older than what is remembered."""
    return ApiError(410, "Expired", message)


def not_allowed(message: str = "the server does not allow this method on the requested resource") -> ApiError:
    """The path is right, the method is not."""
    return ApiError(405, "MethodNotAllowed", message, {})


def unsupported_media(message: str) -> ApiError:
    """The patch type is not for this kind."""
    return ApiError(415, "UnsupportedMediaType", message, {})
