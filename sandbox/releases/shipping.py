"""Bring the images of the past, the coming and the bad releases into the registry."""

from __future__ import annotations

import json
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from sandbox.releases import images, repository, story
from sandbox.releases.registry import Client
from sandbox.service import Sandbox

COMPONENTS = ("backend-api", "worker", "frontend")
Shipped = dict[str, dict[str, str]]
"""Digest by version and repository."""


def repository_of(component: str) -> str:
    """Return the repository of a component's image."""
    return f"vcci/{component}"


def build_all(sandbox: Sandbox) -> dict[tuple[str, str], images.Image]:
    """Make every image, by version and repository; the same bytes each time."""
    told, bare, made = story.tell(), repository.ensure(sandbox), {}
    for version, ref in story.SHIPPED.items():
        commit = repository.commit_of(bare, ref)
        when = told.commits[told.branches[ref] if ref in told.branches else told.tags[ref]].when
        for component in COMPONENTS:
            made[version, repository_of(component)] = images.build(
                told.tree(ref),
                f"docker/{component}.Dockerfile",
                arguments={"VERSION": version, "REVISION": commit},
                when=when,
            )
    return made


def file_of(folder: Path) -> Path:
    """Return the file of the sandbox's folder that says what was shipped."""
    return folder / "registry" / "shipped.json"


def plan(sandbox: Sandbox) -> Shipped:
    """Write down, unless it is, which digests the releases have; needs no registry."""
    file, wanted = file_of(sandbox.folder), story.digest()
    sandbox.data("registry")
    known = json.loads(file.read_text()) if file.exists() else {}
    if known.get("made_of") != wanted:
        digests: Shipped = {}
        for (version, name), image in build_all(sandbox).items():
            digests.setdefault(version, {})[name] = image.digest
        known = {"made_of": wanted, "digests": digests}
        fresh = file.with_suffix(".new")
        fresh.write_text(json.dumps(known, indent=1))
        fresh.replace(file)
    shipped: Shipped = known["digests"]
    return shipped


def digests(folder: Path) -> Shipped:
    """Return the digests of the releases, or nothing when this sandbox has no registry."""
    try:
        found: Shipped = json.loads(file_of(folder).read_text())["digests"]
    except FileNotFoundError:
        return {}
    return found


def ship(sandbox: Sandbox, client: Client) -> float:
    """Push what has not been pushed; return how long it took."""
    begun, wanted = time.monotonic(), story.digest()
    stamp = sandbox.data("registry") / "pushed"
    plan(sandbox)
    if stamp.exists() and stamp.read_text() == wanted:
        return time.monotonic() - begun
    made = build_all(sandbox)

    def push(version: str) -> None:
        first = repository_of(COMPONENTS[0])
        for component in COMPONENTS:
            name = repository_of(component)
            client.push(name, [version], made[version, name], elsewhere="" if name == first else first)

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(push, story.SHIPPED))
    stamp.write_text(wanted)
    return time.monotonic() - begun
