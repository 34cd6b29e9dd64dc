"""The Deployments that a watch is about: has somebody changed them meanwhile, and who?

A Deployment's ``generation`` rises with every change of its specification. An autoscaler that moves the number of
replicas changes nothing about the release, so that alone does not end a watch; anything else does.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any


def spec_digest(manifest: Mapping[str, Any]) -> str:
    """Return what stands for a Deployment's specification without its number of replicas: 16 hex digits."""
    spec = {key: value for key, value in (manifest.get("spec") or {}).items() if key != "replicas"}
    return hashlib.sha256(json.dumps(spec, sort_keys=True).encode()).hexdigest()[:16]


def images(manifest: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the images of a Deployment's containers."""
    template = ((manifest.get("spec") or {}).get("template") or {}).get("spec") or {}
    return tuple(str(container.get("image") or "") for container in template.get("containers") or ())


def expected_of(manifest: Mapping[str, Any], image: str = "") -> dict[str, Any]:
    """Return what a watch expects of a Deployment to stay as it is.

    :param image: of the container that matters; default: the first one's.
    """
    return {
        "generation": int(manifest["metadata"].get("generation") or 0),
        "image": image or next(iter(images(manifest)), ""),
        "spec": spec_digest(manifest),
    }


def change_of(name: str, expected: Mapping[str, Any], manifest: Mapping[str, Any] | None) -> str:
    """Say what changed a watched Deployment, and who, as far as it tells; "" when nothing but replicas did.

    :param expected: ``generation`` and ``image``; with ``spec`` (:func:`spec_digest`) a change of replicas is
        told from others, without it every change counts.
    :param manifest: the Deployment as it is now; None: there is none any more.
    """
    if manifest is None:
        return f"Deployment {name} is gone"
    generation, image = int(manifest["metadata"].get("generation") or 0), str(expected.get("image") or "")
    present = images(manifest)
    if image and image not in present:
        return f"Deployment {name} runs {', '.join(present)} instead of {image}{_by(manifest)}"
    if generation == int(expected["generation"]) or expected.get("spec") == spec_digest(manifest):
        return ""
    return f"Deployment {name} was changed (generation {expected['generation']} → {generation}){_by(manifest)}"


def scaled(name: str, expected: Mapping[str, Any], manifest: Mapping[str, Any]) -> str:
    """Say that only the number of replicas changed; "" when the generation is the expected one."""
    if int(manifest["metadata"].get("generation") or 0) == int(expected["generation"]):
        return ""
    return f"{name} was scaled to {manifest['spec'].get('replicas', 1)}"


def _by(manifest: Mapping[str, Any]) -> str:
    """Name who wrote it last, and the change cause, where the cluster keeps them.

    https://kubernetes.io/docs/reference/using-api/server-side-apply/#field-management
    """
    meta = manifest["metadata"]
    writers = [
        field
        for field in meta.get("managedFields") or ()
        if field.get("subresource") != "status" and "f:spec" in (field.get("fieldsV1") or {})
    ]
    last = max(writers, key=lambda field: str(field.get("time") or ""), default=None)
    told = f", last written by {last.get('manager', '?')} at {last.get('time', '?')}" if last else ""
    cause = (meta.get("annotations") or {}).get("kubernetes.io/change-cause")
    return f"{told}, change cause: {cause}" if cause else told
