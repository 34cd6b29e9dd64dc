"""Images of the platform: one layer with the tree, and a configuration as its Dockerfile says.

The same tree, Dockerfile and arguments give the same digest: times are the commit's, and the layer is not
compressed, for what a compressor makes changes with its version.
https://github.com/opencontainers/image-spec/blob/main/manifest.md
"""

from __future__ import annotations

import dataclasses
import hashlib
import io
import json
import re
import shlex
import tarfile
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from sandbox.releases.story import Files

MANIFEST_TYPE = "application/vnd.oci.image.manifest.v1+json"
CONFIG_TYPE = "application/vnd.oci.image.config.v1+json"
LAYER_TYPE = "application/vnd.oci.image.layer.v1.tar"
VERSION_LABEL = "org.opencontainers.image.version"
REVISION_LABEL = "org.opencontainers.image.revision"
BEHAVIOUR_LABEL = "vcci.sandbox.behaviour"
_REFERENCE = re.compile(r"\$\{(\w+)\}|\$(\w+)")


class ImageError(Exception):
    """Why no image could be made of this, or this is no image; a sentence."""


@dataclasses.dataclass(frozen=True)
class Image:
    """An image as a registry keeps it."""

    manifest: bytes
    config: bytes
    layer: bytes

    @property
    def digest(self) -> str:
        """Return the manifest's digest, by which Kubernetes names the image."""
        return digest_of(self.manifest)

    @property
    def labels(self) -> dict[str, str]:
        """Return the image's labels."""
        found: dict[str, str] = json.loads(self.config)["config"].get("Labels", {})
        return found


def digest_of(data: bytes) -> str:
    """Return the digest of a blob or manifest."""
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


def instructions(dockerfile: str) -> list[tuple[str, str]]:
    """Return a Dockerfile's instructions: the word in capitals, and the rest."""
    lines = [line.strip() for line in dockerfile.replace("\\\n", " ").splitlines()]
    pairs = [line.partition(" ") for line in lines if line and not line.startswith("#")]
    return [(word.upper(), rest.strip()) for word, _, rest in pairs]


def build(
    files: Files,
    dockerfile: str,
    *,
    arguments: Mapping[str, str] | None = None,
    labels: Mapping[str, str] | None = None,
    when: int = 0,
) -> Image:
    """Make an image of a tree.

    :param dockerfile: path in the tree.
    :param arguments: build arguments.
    :param labels: labels beside those of the Dockerfile.
    :param when: the time of everything in it, seconds since the epoch.
    :raises ImageError: when there is no such Dockerfile.
    """
    if dockerfile not in files:
        raise ImageError(f"failed to read dockerfile: open {dockerfile}: no such file or directory")
    config = _config(instructions(files[dockerfile].decode()), arguments or {})
    config["Labels"] = {**config.get("Labels", {}), **(labels or {})}
    return _image(config, _layer(files, config.get("WorkingDir", "/"), when), when)


def _image(config: dict[str, Any], layer: bytes, when: int) -> Image:
    document = {
        "architecture": "amd64",
        "os": "linux",
        "created": datetime.fromtimestamp(when, UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        "config": config,
        "rootfs": {"type": "layers", "diff_ids": [digest_of(layer)]},
    }
    encoded = json.dumps(document, sort_keys=True).encode()
    manifest = {
        "schemaVersion": 2,
        "mediaType": MANIFEST_TYPE,
        "config": _descriptor(CONFIG_TYPE, encoded),
        "layers": [_descriptor(LAYER_TYPE, layer)],
    }
    return Image(json.dumps(manifest, sort_keys=True).encode(), encoded, layer)


def _descriptor(kind: str, data: bytes) -> dict[str, Any]:
    return {"mediaType": kind, "digest": digest_of(data), "size": len(data)}


def _config(given: list[tuple[str, str]], arguments: Mapping[str, str]) -> dict[str, Any]:
    known: dict[str, str] = {}
    config: dict[str, Any] = {}
    for word, rest in given:
        if word == "ARG":
            name, _, default = rest.partition("=")
            known[name] = arguments.get(name, default)
            continue
        text = _REFERENCE.sub(lambda found: known.get(found[1] or found[2], ""), rest)
        if word == "LABEL":
            config.setdefault("Labels", {}).update(part.split("=", 1) for part in shlex.split(text))
        elif word == "ENV":
            config.setdefault("Env", []).extend(shlex.split(text))
        elif word in ("CMD", "ENTRYPOINT"):
            config[word.capitalize()] = json.loads(text)
        elif word in ("WORKDIR", "USER"):
            config["WorkingDir" if word == "WORKDIR" else "User"] = text
    return config


def _layer(files: Files, folder: str, when: int) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        for path, data in sorted(files.items()):
            entry = tarfile.TarInfo(f"{folder.strip('/')}/{path}".lstrip("/"))
            entry.size, entry.mtime, entry.mode = len(data), when, 0o644
            tar.addfile(entry, io.BytesIO(data))
    return out.getvalue()


def unpack(layer: bytes, folder: Path) -> None:
    """Write a layer's plain files below a folder; nothing else, and nowhere else.

    :raises ImageError: for a layer that is no tar, or whose paths lead out of the folder.
    """
    root = folder.resolve()
    try:
        with tarfile.open(fileobj=io.BytesIO(layer)) as tar:
            for entry in tar:
                target = (root / entry.name.lstrip("/")).resolve()
                if not target.is_relative_to(root):
                    raise ImageError(f"the layer's path {entry.name!r} leads out of the image")
                content = tar.extractfile(entry) if entry.isreg() else None
                if content is not None:
                    target.parent.mkdir(parents=True, exist_ok=True)
                    target.write_bytes(content.read())
    except tarfile.TarError as error:
        raise ImageError(f"a layer cannot be read: {error}") from error
