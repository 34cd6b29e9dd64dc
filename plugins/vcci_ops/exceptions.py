"""Errors, told apart by what has to be done about them.

A check that meets one of the :class:`MeasurementError` family could not measure: its result is
*unknown*, with ``str(error)`` as the reason people read. So the text of such an error names the
system, what was asked of it and what it answered, in words and without credentials. Client
libraries' own exceptions are turned into these in the hooks, by type or status code and never by
message text. :class:`InvalidInput` is a person's mistake and is raised before anything happens.
"""

from __future__ import annotations


class OpsError(Exception):
    """Base of every error this library raises on purpose."""


class InvalidInput(OpsError, ValueError):
    """A parameter or setting cannot be used.

    :param field: name of the parameter or the dotted path of the setting.
    :param value: what was given.
    :param accepted: what would be accepted, in words.
    """

    def __init__(self, field: str, value: object, accepted: str) -> None:
        shown = repr(value)
        if len(shown) > 120:
            shown = f"{shown[:117]}... ({len(shown)} characters)"
        super().__init__(f"{field}: {shown} is not accepted; expected {accepted}")
        self.field = field
        self.value = value
        self.accepted = accepted


class MeasurementError(OpsError):
    """Something could not be measured. ``reason`` is its machine-readable word."""

    reason = "error"


class Unreachable(MeasurementError):
    """The system did not answer: refused, no route, name not found, or no answer in time."""

    reason = "unreachable"

    def __init__(self, system: str, why: str) -> None:
        super().__init__(f"{system} did not answer: {why}")
        self.system = system


class Forbidden(MeasurementError):
    """The system answered, but the credentials of the connection may not do this.

    :param permission: the missing permission in the system's own words, e.g.
        ``list pods in namespace vcci-production``.
    """

    reason = "forbidden"

    def __init__(self, system: str, permission: str) -> None:
        super().__init__(f"{system} refused: missing permission to {permission}")
        self.system = system
        self.permission = permission


class NoData(MeasurementError):
    """The system answered, and has nothing that would allow a verdict."""

    reason = "no_data"


class UnexpectedAnswer(MeasurementError):
    """The system answered something that cannot be read."""

    reason = "unexpected_answer"

    def __init__(self, system: str, what: str) -> None:
        super().__init__(f"{system} gave an answer that cannot be used: {what}")
        self.system = system


class DeliveryFailed(OpsError):
    """A report did not arrive where it should; nothing of it is lost, and the text says what refused."""

    def __init__(self, where: str, why: str) -> None:
        super().__init__(f"{where}: {why}")
        self.where = where


class Refused(OpsError):
    """A change was not made, for the world is not as it must be for it; nothing was changed.

    The text says what is in the way and what would help. Asking again does not make it better by itself.
    """


class Conflict(Refused):
    """The object changed between reading and writing, or exists already (HTTP 409)."""


class LockHeld(Refused):
    """Somebody else holds the change lock.

    :param holder: who, as ``dag_id/run_id``.
    """

    def __init__(self, holder: str, message: str) -> None:
        super().__init__(message)
        self.holder = holder


class ChangeFailed(OpsError):
    """A change was begun and did not succeed; the text says what happened and where things stand."""
