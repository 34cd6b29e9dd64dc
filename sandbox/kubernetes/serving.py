"""What the ready backend-api pods serve, told to the stand-in API: which versions, and how badly.

``<sandbox>/kube/serving.json`` has the number of ready pods by version; errors and lateness of what runs become
spells of the API's traffic (:mod:`sandbox.api.spells`), by the share of the pods that have them.
"""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from pathlib import Path

from sandbox.api import spells
from sandbox.kubernetes.controllers import is_active, is_ready
from sandbox.kubernetes.pulling import Pulled, Puller
from sandbox.kubernetes.resources import PODS
from sandbox.kubernetes.store import Event, Object, Store
from sandbox.releases.registry import Reference

NAMESPACE, APP = "vcci-production", "backend-api"
SOURCE = "cluster"
SHARES: dict[str, tuple[spells.Kind, float]] = {"errors": ("errors", 0.08), "latency": ("late", 0.25)}
"""Behaviour of an image → what it does to how many of the requests that its pods get."""


def file_of(folder: Path) -> Path:
    """Return the file that says which versions serve."""
    return folder / "kube" / "serving.json"


class Serving:
    """Follows the pods.

    :param folder: the sandbox's.
    """

    def __init__(self, store: Store, puller: Puller, folder: Path) -> None:
        self._store, self._puller, self._folder = store, puller, folder
        self._due = False
        self._told = ""

    def start(self) -> None:
        """Tell how it is, and whenever that changes."""
        self._tell()
        self._store.listeners.append(self._changed)

    def stop(self) -> None:
        """End what the pods do: they are gone."""
        spells.end(self._folder, SOURCE)

    def behaviour(self, pod: Object) -> str:
        """Return how the image of a pod behaves."""
        image = self._image(pod)
        return image.behaviour if image else ""

    def _changed(self, event: Event) -> None:
        meta = event.new.obj["metadata"]
        ours = event.resource is PODS and meta.get("namespace") == NAMESPACE
        if ours and (meta.get("labels") or {}).get("app") == APP and not self._due:
            self._due = True
            asyncio.get_running_loop().call_soon(self._tell)

    def _image(self, pod: Object) -> Pulled | None:
        statuses = pod["status"].get("containerStatuses") or [{}]
        digest = str(statuses[0].get("imageID", "")).rpartition("@")[2]
        return self._puller.here(digest) if digest.startswith("sha256:") else None

    def _version(self, pod: Object) -> str:
        name, image = pod["spec"]["containers"][0]["image"], self._image(pod)
        reference = Reference.parse(name) or Reference.parse(f"-/{name}")
        return (image.version if image else "") or (reference.tag if reference else "") or "unknown"

    def _tell(self) -> None:
        self._due = False
        pods = [pod for pod in self._store.objects(PODS, NAMESPACE) if is_active(pod) and is_ready(pod)]
        serving = [pod for pod in pods if (pod["metadata"].get("labels") or {}).get("app") == APP]
        versions = Counter(self._version(pod) for pod in serving)
        behaviours = Counter(self.behaviour(pod) for pod in serving)
        text = json.dumps({"versions": versions, "behaviours": behaviours}, sort_keys=True)
        if text == self._told:
            return
        self._told = text
        file = file_of(self._folder)
        file.parent.mkdir(parents=True, exist_ok=True)
        file.with_suffix(".new").write_text(text)
        file.with_suffix(".new").replace(file)
        self._cast(behaviours, len(serving))

    def _cast(self, behaviours: Counter[str], pods: int) -> None:
        going = {SHARES[name]: count / pods for name, count in behaviours.items() if name in SHARES}
        spells.end(self._folder, SOURCE, keep=[kind for kind, _ in going])
        for (kind, share), part in going.items():
            spells.begin(self._folder, kind, SOURCE, round(share * part, 4))
