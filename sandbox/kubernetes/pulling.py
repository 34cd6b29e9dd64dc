"""Images as a node has them: really pulled from the sandbox's registry, their trees unpacked once per digest."""

from __future__ import annotations

import asyncio
import dataclasses
import json
import shutil
import uuid
from pathlib import Path
from typing import Any

from sandbox.releases.images import BEHAVIOUR_LABEL, VERSION_LABEL, ImageError, unpack
from sandbox.releases.registry import Client, Reference, RegistryError
from sandbox.state import State

USER = "vcci-ops"
_DIGEST = "sha256:"


class PullError(Exception):
    """Why an image cannot be pulled, as a kubelet says it."""


@dataclasses.dataclass(frozen=True)
class Pulled:
    """An image that this node has.

    :param root: the folder that stands for the container's file system.
    :param config: the image's configuration: Env, WorkingDir, Labels.
    """

    digest: str
    root: Path
    config: dict[str, Any]

    @property
    def labels(self) -> dict[str, str]:
        """Return the image's labels."""
        found: dict[str, str] = self.config.get("Labels") or {}
        return found

    @property
    def behaviour(self) -> str:
        """Return how its pods behave, for the played nodes; empty: as they should."""
        return self.labels.get(BEHAVIOUR_LABEL, "")

    @property
    def version(self) -> str:
        """Return the version its label names."""
        return self.labels.get(VERSION_LABEL, "")

    @property
    def environment(self) -> dict[str, str]:
        """Return the variables that the image sets."""
        return dict(pair.split("=", 1) for pair in self.config.get("Env") or ())

    @property
    def folder(self) -> Path:
        """Return where its commands begin."""
        return self.root / str(self.config.get("WorkingDir", "/")).lstrip("/")


class Puller:
    """Pulls images of the sandbox's registry; of others it knows nothing.

    :param state: for the registry's port and log-in, which a real node has in its configuration.
    """

    def __init__(self, state: State) -> None:
        self._state, self._folder = state, state.folder / "kube" / "images"
        self._known: dict[str, Pulled] = {}

    @property
    def host(self) -> str:
        """Return the registry's host and port; empty when this sandbox has none."""
        port = self._state.read().get("ports", {}).get("registry")
        made = self._state.folder / "registry"
        return f"127.0.0.1:{port}" if port and made.is_dir() else ""

    def reference(self, image: str) -> Reference | None:
        """Return the parts of a reference to the sandbox's registry, None for any other."""
        found = Reference.parse(image)
        return found if found and found.host == self.host else None

    async def pull(self, reference: Reference) -> Pulled:
        """Return the image, pulled if it is not here.

        :raises PullError: when the registry does not have it, or cannot be asked.
        """
        known = self.here(reference.digest) if reference.digest else None
        if known:
            return known
        return await asyncio.to_thread(self._fetch, reference)

    def here(self, digest: str) -> Pulled | None:
        """Return an image that was pulled before."""
        known = self._known.get(digest)
        if known:
            return known
        folder = self._place(digest)
        if not (folder / "config.json").exists():
            return None
        config = json.loads((folder / "config.json").read_text())
        self._known[digest] = Pulled(digest, folder / "root", config)
        return self._known[digest]

    def _place(self, digest: str) -> Path:
        return self._folder / digest.replace(":", "-")

    def _fetch(self, reference: Reference) -> Pulled:
        name = f"{reference.host}/{reference.repository}"
        name += f"@{reference.digest}" if reference.digest else f":{reference.version}"
        client = Client(reference.host, USER, self._state.secret("registry"))
        try:
            image = client.pull(reference.repository, reference.version)
            if image is None:
                text = f'failed to resolve reference "{name}": {name}: not found'
                raise PullError(f'rpc error: code = NotFound desc = failed to pull and unpack image "{name}": {text}')
            config = json.loads(image.config)["config"]
            return self.here(image.digest) or self._keep(image.digest, image.layer, config)
        except (RegistryError, ImageError, ValueError, KeyError) as error:
            text = f'failed to pull and unpack image "{name}": {error}'
            raise PullError(f"rpc error: code = Unknown desc = {text}") from error

    def _keep(self, digest: str, layer: bytes, config: dict[str, Any]) -> Pulled:
        # Made under another name: a folder that bears the digest is whole.
        fresh = self._folder / f"new-{uuid.uuid4().hex}"
        (fresh / "root").mkdir(parents=True)
        try:
            unpack(layer, fresh / "root")
            (fresh / "config.json").write_text(json.dumps(config))
            if not self._place(digest).exists():
                fresh.rename(self._place(digest))
        finally:
            shutil.rmtree(fresh, ignore_errors=True)
        found = self.here(digest)
        if found is None:
            raise ImageError(f"the image {digest} could not be kept")
        return found
