"""Versions of the platform, and references to the images that carry them.

A version is written ``vMAJOR.MINOR.PATCH`` or ``vMAJOR.MINOR.PATCH-PRE`` and is a tag of git and of the registry at
once, so only what both take is a version. https://semver.org/spec/v2.0.0.html
"""

from __future__ import annotations

import dataclasses
import functools
import re

import semver

from vcci_ops.exceptions import InvalidInput

LONGEST = 128
"""Characters of a version: the longest tag that a registry takes."""
ACCEPTED = "a version such as v2.1.0 or v2.1.0-rc.1"

_PRE = r"(?:0|[1-9][0-9]*|[0-9]*[a-zA-Z-][0-9a-zA-Z-]*)"
_VERSION = re.compile(rf"v(?:0|[1-9][0-9]*)(?:\.(?:0|[1-9][0-9]*)){{2}}(?:-{_PRE}(?:\.{_PRE})*)?")

_COMPONENT = r"[a-z0-9]+(?:(?:[._]|__|-+)[a-z0-9]+)*"
_HOST = r"(?:[a-zA-Z0-9](?:[a-zA-Z0-9-]*[a-zA-Z0-9])?)(?:\.[a-zA-Z0-9](?:[a-zA-Z0-9-]*[a-zA-Z0-9])?)*|\[[0-9a-fA-F:]+\]"
_REPOSITORY = re.compile(rf"{_COMPONENT}(?:/{_COMPONENT})*")
_TAG = re.compile(r"[a-zA-Z0-9_][a-zA-Z0-9_.-]{0,127}")
_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")
_REGISTRY = re.compile(rf"(?:{_HOST})(?::[0-9]{{1,5}})?")
_LONGEST_REFERENCE = 512


@functools.total_ordering
@dataclasses.dataclass(frozen=True)
class Version:
    """A version; ordered by semver's precedence, in which v2.1.0-rc.1 comes before v2.1.0.

    Make it with :func:`parse`; ``str`` gives it back as it was written.
    """

    text: str

    def __str__(self) -> str:
        return self.text

    def __lt__(self, other: object) -> bool:
        if not isinstance(other, Version):
            return NotImplemented
        return self._parts < other._parts

    @property
    def _parts(self) -> semver.Version:
        return semver.Version.parse(self.text[1:])


def parse(text: object, field: str = "version") -> Version:
    """Return the version that a text is, whole.

    :param text: what somebody gave; ``v2.1.0`` or ``v2.1.0-rc.1``, up to 128 characters, ASCII.
    :param field: name of the parameter, for the error.
    :raises InvalidInput: when it is anything else; build metadata, leading zeros, and what git takes for no name of a
        tag (an end in ``.lock``) count as that.
    """
    if not isinstance(text, str) or len(text) > LONGEST or not _VERSION.fullmatch(text) or text.endswith(".lock"):
        raise InvalidInput(field, text, ACCEPTED)
    return Version(text)


@dataclasses.dataclass(frozen=True)
class ImageReference:
    """A reference to an image, as a Deployment has it: ``registry:5000/vcci/backend-api:v2.1.0@sha256:...``.

    The tag is for people, the digest is what Kubernetes pulls.
    https://pkg.go.dev/github.com/distribution/reference

    :param registry: host and port; "" when the reference names none.
    :param repository: name in the registry.
    :param tag: "" when there is none.
    :param digest: ``sha256:`` and 64 hexadecimal digits; "" when there is none.
    """

    registry: str
    repository: str
    tag: str = ""
    digest: str = ""

    def __str__(self) -> str:
        name = f"{self.registry}/{self.repository}" if self.registry else self.repository
        return name + (f":{self.tag}" if self.tag else "") + (f"@{self.digest}" if self.digest else "")

    @classmethod
    def parse(cls, text: object, field: str = "image") -> ImageReference:
        """Return the reference that a text is, whole.

        :param field: name of the parameter, for the error.
        :raises InvalidInput: when it is none.
        """
        accepted = "an image such as registry:5000/vcci/backend-api:v2.1.0@sha256:<64 digits>"
        if not isinstance(text, str) or len(text) > _LONGEST_REFERENCE:
            raise InvalidInput(field, text, accepted)
        name, at, digest = text.partition("@")
        first, slash, rest = name.partition("/")
        has_registry = bool(slash) and (set(first) & set(".:[") != set() or first == "localhost")
        registry, name = (first, rest) if has_registry else ("", name)
        repository, colon, tag = name.partition(":")
        whole = (
            (not has_registry or _REGISTRY.fullmatch(registry))
            and _REPOSITORY.fullmatch(repository)
            and (not colon or _TAG.fullmatch(tag))
            and (not at or _DIGEST.fullmatch(digest))
        )
        if not whole:
            raise InvalidInput(field, text, accepted)
        return cls(registry, repository, tag, digest)

    @property
    def version(self) -> Version | None:
        """The version that its tag is; None when the tag is none."""
        try:
            return parse(self.tag)
        except InvalidInput:
            return None


def version_of(reference: str) -> Version | None:
    """Return the version in an image reference; None when its tag is none, or it is no reference."""
    try:
        return ImageReference.parse(reference).version
    except InvalidInput:
        return None


def newer(reference: str, other: str) -> bool:
    """Return whether the first of two images carries the newer version; what carries none is not newer."""
    version, compared = version_of(reference), version_of(other)
    return version is not None and (compared is None or version > compared)


def checked_repository(text: object, field: str = "repository") -> str:
    """Return the name of a repository as it is.

    :raises InvalidInput: when a registry would not take it.
    """
    if not isinstance(text, str) or len(text) > 255 or not _REPOSITORY.fullmatch(text):
        raise InvalidInput(field, text, "a repository such as vcci/backend-api")
    return text


def checked_tag(text: object, field: str = "tag") -> str:
    """Return the tag of an image as it is.

    :raises InvalidInput: when a registry would not take it.
    """
    if not isinstance(text, str) or not _TAG.fullmatch(text):
        raise InvalidInput(field, text, "a tag of up to 128 letters, digits, '_', '.' and '-'")
    return text


def checked_digest(text: object, field: str = "digest") -> str:
    """Return a digest as it is.

    :raises InvalidInput: when it is not ``sha256:`` and 64 hexadecimal digits.
    """
    if not isinstance(text, str) or not _DIGEST.fullmatch(text):
        raise InvalidInput(field, text, "sha256: and 64 hexadecimal digits")
    return text
