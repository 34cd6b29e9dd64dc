"""The registry of images: which digest a tag is, what an image says of itself, and a tag on a digest.

https://distribution.github.io/distribution/spec/api/ and
https://github.com/opencontainers/distribution-spec/blob/main/spec.md
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal, NamedTuple
from urllib.parse import urlsplit

from vcci_ops.domain.versions import checked_digest, checked_repository, checked_tag
from vcci_ops.exceptions import (
    ChangeFailed,
    Conflict,
    Forbidden,
    InvalidInput,
    MeasurementError,
    NoData,
    UnexpectedAnswer,
    Unreachable,
)

if TYPE_CHECKING:
    from airflow.sdk import Connection
    from requests import Response, Session

SYSTEM = "the registry"
CONNECT_SECONDS, READ_SECONDS = 5.0, 12.0
LARGEST = 4 * 1024 * 1024
"""Bytes of a manifest or an image's configuration; a registry takes no larger manifest either."""

_LISTS = ("application/vnd.oci.image.index.v1+json", "application/vnd.docker.distribution.manifest.list.v2+json")
_MANIFESTS = ("application/vnd.oci.image.manifest.v1+json", "application/vnd.docker.distribution.manifest.v2+json")
_ACCEPT = ", ".join((*_LISTS, *_MANIFESTS))
_PARAMETER = re.compile(r'([A-Za-z_]+)\s*=\s*(?:"([^"]*)"|([^\s,"]+))')
_NOT_THERE = {"MANIFEST_UNKNOWN", "NAME_UNKNOWN", "BLOB_UNKNOWN", "NOT_FOUND"}


class _Manifest(NamedTuple):
    content: bytes
    media_type: str
    digest: str


class Registry:
    """Ask a registry over its HTTP API, version 2, with basic or bearer authentication.

    :param http_conn_id: connection of type http: host, port, schema (default https), login, password; extra ``verify``
        is the path of a CA bundle, or false for no verification.
    """

    def __init__(self, http_conn_id: str = "vcci_registry") -> None:
        self.http_conn_id = http_conn_id
        self._tokens: dict[str, str] = {}

    @cached_property
    def host(self) -> str:
        """Host and port as they stand in an image reference.

        :raises MeasurementError: when there is no such connection, or it has no host.
        """
        host, port = self._connection.host, self._connection.port
        if not host or "/" in host:
            raise MeasurementError(f"the Airflow connection {self.http_conn_id} has no host name as its host")
        return f"{host}:{port}" if port else str(host)

    def digest(self, repository: str, tag_or_digest: str) -> str | None:
        """Return the digest of what a tag (or a digest) names; None when the registry has no such thing.

        :raises InvalidInput: when the name, the tag or the digest is none.
        :raises MeasurementError: when the registry cannot be asked, or answers what no registry does.
        """
        path = f"{checked_repository(repository)}/manifests/{_checked_reference(tag_or_digest)}"
        response = self._ask("HEAD", path, {"Accept": _ACCEPT})
        if response.status_code == 200 and (given := response.headers.get("Docker-Content-Digest")):
            return _expected(_digest_of(given), tag_or_digest)
        found = self._manifest(repository, tag_or_digest)  # a HEAD has no body that says what is missing
        return found.digest if found else None

    def labels(self, repository: str, digest: str) -> dict[str, str]:
        """Return an image's labels; of a list of images those of linux/amd64, or of its first.

        :raises NoData: when the registry has no such image.
        """
        manifest = self._content(repository, checked_digest(digest))
        if "manifests" in manifest:
            manifest = self._content(repository, _digest_of(_of_platform(manifest["manifests"])))
        config = manifest.get("config")
        if not isinstance(config, dict):
            raise UnexpectedAnswer(SYSTEM, f"{repository}@{digest} is no image")
        found = _json(self._blob(repository, _digest_of(config.get("digest"))))
        inner = found.get("config")
        labels = inner.get("Labels") if isinstance(inner, dict) else None
        return {str(key): str(value) for key, value in labels.items()} if isinstance(labels, dict) else {}

    def put_tag(self, repository: str, digest: str, tag: str) -> Literal["created", "exists"]:
        """Give an image another tag, without moving a single layer.

        :return: "exists" when the tag is on this digest already.
        :raises Conflict: when it is on another one; a tag of a release is not moved.
        :raises NoData: when the registry has no such image.
        :raises ChangeFailed: when the registry took it and has something else under it.
        """
        name = f"{checked_repository(repository)}:{checked_tag(tag)}"
        wanted = checked_digest(digest)
        if (before := self.digest(repository, tag)) is not None:
            return _same(name, before, wanted)
        manifest = self._manifest(repository, wanted)
        if manifest is None:
            raise NoData(f"{SYSTEM} has no {repository}@{wanted}")
        headers = {"Content-Type": manifest.media_type}
        response = self._ask("PUT", f"{repository}/manifests/{tag}", headers, manifest.content)
        if response.status_code not in (200, 201, 202):
            raise ChangeFailed(f"{SYSTEM} did not take the tag {name}: HTTP {response.status_code} {_codes(response)}")
        after = self.digest(repository, tag)
        if after is None:
            raise ChangeFailed(f"{SYSTEM} took the tag {name} and does not have it")
        _same(name, after, wanted)
        return "created"

    # Parts ----------------------------------------------------------------------------------------

    def _content(self, repository: str, digest: str) -> dict[str, Any]:
        manifest = self._manifest(checked_repository(repository), digest)
        if manifest is None:
            raise NoData(f"{SYSTEM} has no {repository}@{digest}")
        return _json(manifest.content)

    def _manifest(self, repository: str, reference: str) -> _Manifest | None:
        response = self._ask("GET", f"{repository}/manifests/{reference}", {"Accept": _ACCEPT})
        if self._missing(response):
            return None
        content = _body(response)
        digest = f"sha256:{hashlib.sha256(content).hexdigest()}"
        kind = response.headers.get("Content-Type", "").partition(";")[0].strip()
        if kind not in (*_LISTS, *_MANIFESTS):
            raise UnexpectedAnswer(SYSTEM, f"{repository}:{reference} is of the type {kind[:80] or 'unknown'}")
        return _Manifest(content, kind, _expected(digest, reference))

    def _blob(self, repository: str, digest: str) -> bytes:
        response = self._ask("GET", f"{repository}/blobs/{digest}", {})
        if self._missing(response):
            raise NoData(f"{SYSTEM} has no blob {digest} of {repository}")
        content = _body(response)
        _expected(f"sha256:{hashlib.sha256(content).hexdigest()}", digest)
        return content

    def _missing(self, response: Response) -> bool:
        """Whether the registry says that it has none; a 404 of something else is no registry's answer."""
        if response.status_code == 404 and set(_codes(response)) & _NOT_THERE:
            return True
        if response.status_code != 200:
            raise UnexpectedAnswer(
                SYSTEM, f"HTTP {response.status_code} from {self.host}, and not as a registry says it"
            )
        return False

    # Requests -------------------------------------------------------------------------------------

    @cached_property
    def _connection(self) -> Connection:
        from airflow.sdk import BaseHook
        from airflow.sdk.exceptions import AirflowNotFoundException

        try:
            return BaseHook.get_connection(self.http_conn_id)
        except AirflowNotFoundException as error:
            raise MeasurementError(f"there is no Airflow connection {self.http_conn_id}") from error

    @cached_property
    def _session(self) -> Session:
        import requests

        return requests.Session()

    @property
    def _verify(self) -> bool | str:
        """What to trust. Given with each request: a session's own gives way to REQUESTS_CA_BUNDLE."""
        verify = self._connection.extra_dejson.get("verify", True)
        return verify if isinstance(verify, bool | str) else True

    @property
    def _scheme(self) -> str:
        return str(self._connection.schema or "https")

    def _ask(self, method: str, path: str, headers: dict[str, str], data: bytes | None = None) -> Response:
        """Send a request; log in as the registry demands, once.

        :raises Unreachable: also for a registry that is busy or out of order.
        :raises Forbidden: for 401 and 403.
        """
        url = f"{self._scheme}://{self.host}/v2/{path}"
        scope = f"repository:{path.partition('/manifests/')[0].partition('/blobs/')[0]}:pull"
        scope += ",push" if method == "PUT" else ""
        response = self._send(method, url, headers, data, self._tokens.get(scope, ""))
        if response.status_code == 401 and (token := self._log_in(response, scope)):
            response.close()
            self._tokens[scope] = token
            response = self._send(method, url, headers, data, token)
        if response.status_code in (401, 403):
            doing = f"push to {path}" if method == "PUT" else f"pull {path}"
            raise Forbidden(SYSTEM, f"{doing} (HTTP {response.status_code})")
        if response.status_code >= 500 or response.status_code == 429:
            raise Unreachable(SYSTEM, f"{self.host} answered HTTP {response.status_code}")
        return response

    def _send(self, method: str, url: str, headers: dict[str, str], data: bytes | None, authorization: str) -> Response:
        import requests

        def authorize(request: requests.PreparedRequest) -> requests.PreparedRequest:
            if authorization:  # given in any case, or the machine's .netrc is asked
                request.headers["Authorization"] = authorization
            return request

        how: dict[str, Any] = {"timeout": (CONNECT_SECONDS, READ_SECONDS), "verify": self._verify, "stream": True}
        try:
            return self._session.request(method, url, headers=headers, data=data, auth=authorize, **how)
        except requests.exceptions.SSLError as error:
            raise Unreachable(SYSTEM, f"TLS failed at {urlsplit(url).netloc}") from error
        except requests.exceptions.Timeout as error:
            raise Unreachable(SYSTEM, f"no answer from {urlsplit(url).netloc} within {READ_SECONDS:.0f} s") from error
        except requests.exceptions.RequestException as error:
            why = f"the connection to {urlsplit(url).netloc} failed ({type(error).__name__})"
            raise Unreachable(SYSTEM, why) from error

    def _log_in(self, response: Response, scope: str) -> str:
        """Return the Authorization header that a challenge asks for; "" when there are no credentials for it."""
        kind, _, rest = response.headers.get("WWW-Authenticate", "").partition(" ")
        login, password = self._connection.login, self._connection.password
        basic = "Basic " + base64.b64encode(f"{login}:{password}".encode()).decode() if login and password else ""
        if kind.lower() != "bearer":
            return basic if kind.lower() == "basic" else ""
        return self._token(_parameters(rest), scope, basic)

    def _token(self, challenge: dict[str, str], scope: str, basic: str) -> str:
        """Fetch a token. https://distribution.github.io/distribution/spec/auth/token/"""
        import requests

        realm = challenge.get("realm", "")
        parts = urlsplit(realm)
        if parts.scheme not in ("https", self._scheme) or not parts.netloc:
            raise UnexpectedAnswer(SYSTEM, "it sends credentials to an address that is not as safe as its own")
        query = {"scope": challenge.get("scope") or scope, "service": challenge.get("service", "")}
        url = requests.Request("GET", realm, params={k: v for k, v in query.items() if v}).prepare().url or realm
        answer = self._send("GET", url, {}, None, basic)
        if answer.status_code in (401, 403):
            raise Forbidden(SYSTEM, f"log in at {parts.netloc} (HTTP {answer.status_code})")
        if answer.status_code != 200:
            raise Unreachable(SYSTEM, f"{parts.netloc} gave no token (HTTP {answer.status_code})")
        found = _json(_body(answer))
        token = found.get("token") or found.get("access_token")
        if not isinstance(token, str):
            raise UnexpectedAnswer(SYSTEM, f"{parts.netloc} gave no token")
        return f"Bearer {token}"


def _checked_reference(text: str) -> str:
    return checked_digest(text) if isinstance(text, str) and ":" in text else checked_tag(text)


def _same(name: str, found: str, wanted: str) -> Literal["exists"]:
    if found != wanted:
        raise Conflict(f"the tag {name} is on {found} already, not on {wanted}; the tag of a release is not moved")
    return "exists"


def _expected(digest: str, reference: str) -> str:
    if ":" in reference and digest != reference:
        raise UnexpectedAnswer(SYSTEM, f"asked for {reference} it gave {digest}")
    return digest


def _digest_of(text: object) -> str:
    try:
        return checked_digest(text)
    except InvalidInput as error:
        raise UnexpectedAnswer(SYSTEM, f"no digest: {str(text)[:80]!r}") from error


def _of_platform(manifests: object) -> object:
    """Return the digest of the image for linux/amd64 in a list, else that of the first for any platform."""
    images = [entry for entry in manifests if isinstance(entry, dict)] if isinstance(manifests, list) else []

    def platform(entry: dict[str, Any]) -> tuple[Any, Any]:
        given = entry.get("platform")
        return (given.get("os"), given.get("architecture")) if isinstance(given, dict) else (None, None)

    known = [entry for entry in images if platform(entry)[0] != "unknown"]  # attestations are on "unknown"
    chosen = next((entry for entry in known if platform(entry) == ("linux", "amd64")), known[0] if known else {})
    return chosen.get("digest")


def _body(response: Response) -> bytes:
    """Return a body that is small.

    :raises UnexpectedAnswer: when it is not.
    """
    import requests

    content = b""
    try:
        for chunk in response.iter_content(65536):
            content += chunk
            if len(content) > LARGEST:
                raise UnexpectedAnswer(SYSTEM, f"an answer of more than {LARGEST} bytes")
    except requests.exceptions.RequestException as error:
        raise Unreachable(SYSTEM, f"the answer ended early ({type(error).__name__})") from error
    finally:
        response.close()
    return content


def _json(content: bytes) -> dict[str, Any]:
    try:
        found = json.loads(content)
    except ValueError as error:
        raise UnexpectedAnswer(SYSTEM, "no JSON") from error
    if not isinstance(found, dict):
        raise UnexpectedAnswer(SYSTEM, "JSON that is no object")
    return found


def _codes(response: Response) -> list[str]:
    """Return the codes of the errors that a registry names."""
    try:
        errors = _json(_body(response)).get("errors")
    except UnexpectedAnswer:
        return []
    return [str(error.get("code")) for error in errors if isinstance(error, dict)] if isinstance(errors, list) else []


def _parameters(text: str) -> dict[str, str]:
    """Return the parameters of a challenge: ``realm="...",scope="..."``."""
    return {key.lower(): quoted or bare for key, quoted, bare in _PARAMETER.findall(text)}
