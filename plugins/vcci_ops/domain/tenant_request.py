"""What a person asks for in the forms of the tenant lifecycle, read whole and strictly before anything else happens.

The form holds personal data: the administrator's mail address and name. No error, log line or record of this library
shows either (:class:`Hidden`, :func:`hide`).
"""

from __future__ import annotations

import dataclasses
import datetime as dt
import re
import unicodedata
from collections.abc import Iterable, Mapping
from typing import Any, Literal, cast

from vcci_ops.domain.plans import plan_hash
from vcci_ops.domain.release_request import choice, flag, reason, text
from vcci_ops.domain.scaling import moment
from vcci_ops.exceptions import InvalidInput
from vcci_ops.settings_tenants import Onboarding

SUSPEND, REACTIVATE = "suspend", "reactivate"
SLUG_LENGTH, NAME_LENGTH, MAIL_LENGTH = 63, 120, 254
SLUG = r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?"
_UUID = re.compile(r"[0-9a-f]{8}-?([0-9a-f]{4}-?){3}[0-9a-f]{12}")
# What browsers take for an address (https://html.spec.whatwg.org/#valid-e-mail-address), with a dot in the domain and
# none at an end of the local part.
_ATOM = r"[A-Za-z0-9!#$%&'*+/=?^_`{|}~-]+"
_LABEL = r"[A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?"
_MAIL = re.compile(rf"(?=[^@]{{1,64}}@){_ATOM}(\.{_ATOM})*@{_LABEL}(\.{_LABEL})+")
_ANY_MAIL = re.compile(r"[^\s<>@,;:\"'()\[\]]{1,128}@[\w-]{1,63}(?:\.[\w-]{1,63}){1,8}")


class Hidden:
    """A value that an error may name and not show: personal data."""

    def __init__(self, value: object) -> None:
        self._length = len(value) if isinstance(value, str) else None

    def __repr__(self) -> str:
        return "what was given (no text)" if self._length is None else f"what was given ({self._length} characters)"


def hide(text: str, private: Iterable[str]) -> str:
    """Return a text without personal data: these words, in any case, and whatever looks like a mail address."""
    for word in private:
        if word.strip():
            text = re.sub(re.escape(word), "***", text, flags=re.IGNORECASE)
    return _ANY_MAIL.sub("***", text)


@dataclasses.dataclass(frozen=True)
class OnboardRequest:
    """A tenant as it was asked for."""

    name: str
    slug: str
    tier: str
    admin_email: str = dataclasses.field(repr=False)
    admin_name: str = dataclasses.field(repr=False)
    emission_factors: str
    reporting_standard: str
    welcome_again: bool
    dry_run: bool
    if_locked: Literal["refuse", "wait"]

    @classmethod
    def of(cls, params: Mapping[str, Any], allowed: Onboarding) -> OnboardRequest:
        """Read the run's parameters.

        :param allowed: the choices of the settings.
        :raises InvalidInput: names the field, the value (of personal data only its length), what would be accepted.
        """
        return cls(
            name=line(params, "name"),
            slug=slug(params),
            tier=choice(params, "tier", allowed.tiers),
            admin_email=mail(params, "admin_email"),
            admin_name=line(params, "admin_name", private=True),
            emission_factors=choice(params, "emission_factors", allowed.emission_factors),
            reporting_standard=choice(params, "reporting_standard", allowed.reporting_standards),
            welcome_again=flag(params, "welcome_again"),
            dry_run=flag(params, "dry_run"),
            if_locked=cast(Any, choice(params, "if_locked", ("refuse", "wait"))),
        )

    @property
    def digest(self) -> str:
        """Return the hash of what makes it this tenant and no other; how the run is to go is no part of it."""
        tenant = {
            "name": self.name,
            "slug": self.slug,
            "tier": self.tier,
            "admin_email": self.admin_email.casefold(),
            "admin_name": self.admin_name,
            **self.configuration,
        }
        return plan_hash(tenant)

    @property
    def configuration(self) -> dict[str, str]:
        """Return what the tenant's settings have to hold."""
        return {"emission_factors": self.emission_factors, "reporting_standard": self.reporting_standard}

    @property
    def private(self) -> tuple[str, ...]:
        """Return what no log may show."""
        return (self.admin_email, self.admin_name)

    def __str__(self) -> str:
        """Say it without the person: ``ACME Corp (acme-corp, enterprise)``."""
        return f"{self.name} ({self.slug}, {self.tier})"


@dataclasses.dataclass(frozen=True)
class SuspendRequest:
    """A suspension or its end, as it was asked for."""

    slug: str
    action: Literal["suspend", "reactivate"]
    reason: str
    until: dt.datetime | None
    tell_owner: bool
    dry_run: bool
    if_locked: Literal["refuse", "wait"]

    @classmethod
    def of(cls, params: Mapping[str, Any], now: dt.datetime, at_most: float) -> SuspendRequest:
        """Read the run's parameters.

        :param at_most: seconds that the end may lie ahead.
        :raises InvalidInput: names the field, the value and what would be accepted.
        """
        action = choice(params, "action", (SUSPEND, REACTIVATE))
        until = moment(params.get("until"), "until", now, at_most)
        if until and action == REACTIVATE:
            raise InvalidInput("until", params.get("until"), "nothing when a tenant is reactivated")
        return cls(
            slug=slug(params),
            action=cast(Any, action),
            reason=reason(params),
            until=until,
            tell_owner=flag(params, "tell_owner"),
            dry_run=flag(params, "dry_run"),
            if_locked=cast(Any, choice(params, "if_locked", ("refuse", "wait"))),
        )


# Fields ----------------------------------------------------------------------------------------------


def slug(params: Mapping[str, Any], field: str = "slug") -> str:
    """Return a parameter that is a tenant's slug.

    One that has the form of a tenant's id is none: in a key or a query it could be taken for another's.
    """
    value = text(params, field, SLUG_LENGTH)
    if not re.fullmatch(SLUG, value) or _UUID.fullmatch(value):
        wanted = "1 to 63 characters of a-z, 0-9 and -, none of the ends a -, and not of the form of an id (UUID)"
        raise InvalidInput(field, value, wanted)
    return value


def line(params: Mapping[str, Any], field: str, *, private: bool = False) -> str:
    """Return a parameter that is a name: one line of printable characters.

    What is not seen (controls, marks of direction, joiners) is no part of a name; text that can be written in two ways
    is written in the composed one.

    :param private: it names a person; no error shows it.
    """
    given = params.get(field)
    value = unicodedata.normalize("NFC", given).strip() if isinstance(given, str) and len(given) <= NAME_LENGTH else ""
    if len(value) < 2 or not value.isprintable():
        wanted = f"one line of 2 to {NAME_LENGTH} printable characters"
        raise InvalidInput(field, Hidden(given) if private else given, wanted)
    return value


def mail(params: Mapping[str, Any], field: str) -> str:
    """Return a parameter that is a mail address, in ASCII; no error shows it."""
    value = params.get(field)
    if not isinstance(value, str) or len(value) > MAIL_LENGTH or not _MAIL.fullmatch(value):
        raise InvalidInput(field, Hidden(value), f"a mail address in ASCII of at most {MAIL_LENGTH} characters")
    return value
