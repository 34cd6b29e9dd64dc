"""A small client of a registry: push and pull.

https://distribution.github.io/distribution/spec/api/
"""

from __future__ import annotations

import dataclasses
import json
import re
from typing import Any

import requests

from sandbox.releases.images import MANIFEST_TYPE, Image, digest_of

_DOCKER_MANIFEST = "application/vnd.docker.distribution.manifest.v2+json"
_REFERENCE = re.compile(
    r"(?P<host>[^/]+)/(?P<repository>[a-z0-9._/-]+?)(:(?P<tag>\w[\w.-]{0,127}))?(@(?P<digest>sha256:[0-9a-f]{64}))?"
)


class RegistryError(Exception):
    """What a registry answered instead; the text is what a kubelet would report."""


@dataclasses.dataclass(frozen=True)
class Reference:
    """An image by name: HOST/REPOSITORY, and a tag, a digest, or both."""

    host: str
    repository: str
    tag: str = ""
    digest: str = ""

    @classmethod
    def parse(cls, text: str) -> Reference | None:
        """Read it; None when it is not of that form."""
        found = _REFERENCE.fullmatch(text)
        if not found:
            return None
        return cls(found["host"], found["repository"], found["tag"] or "", found["digest"] or "")

    @property
    def version(self) -> str:
        """Return what a registry is asked for: the digest if there is one."""
        return self.digest or self.tag or "latest"


class Client:
    """Talks to one registry.

    :param host: host and port.
    :param login: name and password; empty: none are sent.
    """

    def __init__(self, host: str, login: str = "", password: str = "", *, timeout: float = 10.0) -> None:
        self._url, self._timeout = f"http://{host}/v2/", timeout
        self._session = requests.Session()
        self._session.trust_env = False
        if login:
            self._session.auth = (login, password)

    def _ask(self, method: str, path: str, **given: Any) -> requests.Response:
        url = path if path.startswith("http") else self._url + path
        try:
            answer = self._session.request(method, url, timeout=self._timeout, **given)
        except requests.RequestException as error:
            raise RegistryError(f"failed to do request: {method} {url}: connection refused") from error
        if answer.status_code == 401:
            raise RegistryError(f"failed to authorize: {method} {url}: 401 Unauthorized")
        return answer

    def manifest(self, repository: str, version: str) -> bytes | None:
        """Return the manifest of a tag or digest, None when there is none.

        :raises RegistryError: when it cannot be asked, or answers something else.
        """
        kinds = f"{MANIFEST_TYPE}, {_DOCKER_MANIFEST}"
        answer = self._ask("GET", f"{repository}/manifests/{version}", headers={"Accept": kinds})
        if answer.status_code == 404:
            return None
        if answer.status_code != 200:
            raise RegistryError(f"unexpected status from GET {answer.url}: {answer.status_code} {answer.reason}")
        if version.startswith("sha256:") and digest_of(answer.content) != version:
            raise RegistryError(f"the manifest of {version} has another digest")
        return answer.content

    def blob(self, repository: str, digest: str) -> bytes:
        """Return a blob, its digest checked.

        :raises RegistryError: when it is not to be had.
        """
        answer = self._ask("GET", f"{repository}/blobs/{digest}")
        if answer.status_code != 200 or digest_of(answer.content) != digest:
            raise RegistryError(f"blob {digest} of {repository}: {answer.status_code} {answer.reason}")
        return answer.content

    def pull(self, repository: str, version: str) -> Image | None:
        """Return an image of one layer, None when there is none.

        :raises RegistryError: when it cannot be had.
        """
        manifest = self.manifest(repository, version)
        if manifest is None:
            return None
        parts = json.loads(manifest)
        config = self.blob(repository, parts["config"]["digest"])
        return Image(manifest, config, self.blob(repository, parts["layers"][-1]["digest"]))

    def push(self, repository: str, tags: list[str], image: Image, *, elsewhere: str = "") -> str:
        """Put an image there under its tags; return its digest.

        :param elsewhere: repository of the same registry that has the layer already.
        :raises RegistryError: when the registry does not take it.
        """
        self._put_blob(repository, image.layer, elsewhere)
        self._put_blob(repository, image.config)
        for tag in tags:
            path = f"{repository}/manifests/{tag}"
            answer = self._ask("PUT", path, data=image.manifest, headers={"Content-Type": MANIFEST_TYPE})
            if answer.status_code != 201:
                raise RegistryError(f"unexpected status from PUT {answer.url}: {answer.status_code} {answer.text}")
        return image.digest

    def _put_blob(self, repository: str, data: bytes, elsewhere: str = "") -> None:
        digest = digest_of(data)
        if self._ask("HEAD", f"{repository}/blobs/{digest}").status_code == 200:
            return
        mount = {"mount": digest, "from": elsewhere} if elsewhere else {}
        begun = self._ask("POST", f"{repository}/blobs/uploads/", params=mount)
        if begun.status_code == 201:
            return
        if begun.status_code != 202:
            raise RegistryError(f"unexpected status from POST {begun.url}: {begun.status_code} {begun.text}")
        kind = {"Content-Type": "application/octet-stream"}
        done = self._ask("PUT", begun.headers["Location"], params={"digest": digest}, data=data, headers=kind)
        if done.status_code != 201:
            raise RegistryError(f"unexpected status from PUT {done.url}: {done.status_code} {done.text}")
