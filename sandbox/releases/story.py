"""The history of the platform's repository: commits, tags and branches, always the same.

Trees begin as sandbox/platform; what later releases change is in its folder releases.
"""

from __future__ import annotations

import dataclasses
import hashlib
from pathlib import Path

from sandbox.state import ROOT

PLATFORM = ROOT / "sandbox" / "platform"
CHANGES = PLATFORM / "releases"
Files = dict[str, bytes]
"""Contents by path in the repository."""

_SHIPPED = ("alembic.ini", "pytest.ini", "docker", "migrations", "scripts", "tests", "vcci")
_BEGAN = 1_780_304_400  # 2026-06-01 09:00 UTC
_STEP = 26 * 3600
_PEOPLE = (
    "Ada Costa <ada.costa@greenlang.io>",
    "Femi Okoye <femi.okoye@greenlang.io>",
    "Karin Meier <karin.meier@greenlang.io>",
    "Nils Eriksen <nils.eriksen@greenlang.io>",
)
_LOG = "vcci/CHANGES"
_BEHAVIOUR = "vcci.sandbox.behaviour"


@dataclasses.dataclass(frozen=True)
class Commit:
    """One commit.

    :param parent: number of its parent, counted from 0; None: the first.
    :param changed: new contents by path; None: removed.
    :param tree: the whole tree it leads to.
    """

    subject: str
    body: str
    author: str
    when: int
    parent: int | None
    changed: dict[str, bytes | None]
    tree: Files

    @property
    def message(self) -> str:
        """Return the whole message."""
        return f"{self.subject}\n\n{self.body}\n" if self.body else f"{self.subject}\n"


@dataclasses.dataclass
class Story:
    """Everything: commits in order, and which of them refs name."""

    commits: list[Commit] = dataclasses.field(default_factory=list)
    tags: dict[str, int] = dataclasses.field(default_factory=dict)
    branches: dict[str, int] = dataclasses.field(default_factory=dict)

    def commit(self, branch: str, subject: str, files: dict[str, bytes | None] | None = None, body: str = "") -> None:
        """Add a commit to a branch; one that changes no file adds a line to the list of changes."""
        parent, number = self.branches.get(branch), len(self.commits)
        before = self.commits[parent].tree if parent is not None else {}
        changed: dict[str, bytes | None] = dict(files or {})
        if not changed:
            changed[_LOG] = before.get(_LOG, b"") + f"{subject}\n".encode()
        tree = {path: data for path, data in {**before, **changed}.items() if data is not None}
        author = _PEOPLE[number * 7 % 4]
        self.commits.append(Commit(subject, body, author, _BEGAN + number * _STEP, parent, changed, tree))
        self.branches[branch] = number

    def release(self, branch: str, version: str, *, tag: bool = False) -> None:
        """Add the commit that makes a release of a branch, and its tag."""
        self.commit(branch, f"chore(release): {version}", {"VERSION": f"{version}\n".encode()})
        if tag:
            self.tags[version] = self.branches[branch]

    def branch(self, name: str, of: str) -> None:
        """Let a branch begin where another one or a tag stands."""
        self.branches[name] = self.branches[of] if of in self.branches else self.tags[of]

    def tree(self, ref: str) -> Files:
        """Return the files of a branch or tag."""
        return self.commits[self.branches[ref] if ref in self.branches else self.tags[ref]].tree


def platform_files() -> Files:
    """Return the files of sandbox/platform that belong to the platform's repository."""
    found: Files = {}
    for name in _SHIPPED:
        at = PLATFORM / name
        files = [at] if at.is_file() else sorted(path for path in at.rglob("*") if path.is_file())
        found.update({str(f.relative_to(PLATFORM)): f.read_bytes() for f in files if "__pycache__" not in f.parts})
    return found


def changes(name: str) -> dict[str, bytes | None]:
    """Return the files that a release changes."""
    folder = CHANGES / name
    files = sorted(path for path in folder.rglob("*") if path.is_file() and "__pycache__" not in path.parts)
    return {str(file.relative_to(folder)): file.read_bytes() for file in files}


def digest() -> str:
    """Return a digest of everything that the history is made of."""
    made = hashlib.sha256()
    files = {**platform_files(), **{str(f): f.read_bytes() for f in sorted(CHANGES.rglob("*.py"))}}
    for module in sorted(Path(__file__).parent.glob("*.py")):
        files[module.name] = module.read_bytes()
    for path, data in sorted(files.items()):
        made.update(f"{path.removeprefix(str(CHANGES))} {len(data)} ".encode() + data)
    return made.hexdigest()


def tell() -> Story:
    """Return the history."""
    story = Story()
    _past(story)
    _main(story)
    _bad(story)
    return story


def _past(story: Story) -> None:
    """Tell it up to v2.0.0, which runs."""
    files = platform_files()
    later: dict[str, bytes | None] = {}
    for path in [path for path in files if "/0004_" in path or "/0005_" in path]:
        later[path] = files.pop(path)
    story.commit("main", "chore: begin the repository", {**files, "VERSION": b"v1.8.0\n"})
    story.commit("main", "feat(hotspots): find the suppliers that matter most (#61)")
    documents = {path: data for path, data in later.items() if "/0004_" in path}
    story.commit("main", "feat(reports): keep documents and reports in S3 (#64)", documents)
    story.commit("main", "fix(intake): accept a comma as decimal sign (#67)")
    story.release("main", "v1.9.0", tag=True)
    story.branch("release/v1.9", "main")
    story.commit("release/v1.9", "fix(intake): reject rows without a unit (#71)")
    story.release("release/v1.9", "v1.9.1")
    body = "BREAKING CHANGE: results of the old engine are not converted; calculate anew."
    story.commit("main", "feat(calculator)!: new calculation engine (#88)", body=body)
    indexes = {path: data for path, data in later.items() if "/0005_" in path}
    story.commit("main", "perf(activity): indexes for who is active and what happened lately (#93)", indexes)
    story.commit("main", "fix(api): answer 404 for a supplier of another tenant (#97)")
    story.release("main", "v2.0.0", tag=True)


def _main(story: Story) -> None:
    """Tell what was done since, and is to be released."""
    story.commit("main", "feat(suppliers): score the quality of a supplier's data (#123)", changes("v2.1.0"))
    story.commit("main", "fix(calculator): round at the end, not in between (#125)", body="Fixes #119")
    story.commit("main", "perf(emissions): read the month view from its index (#127)")
    story.commit("main", "fix(intake): keep the byte order mark out of the first column")
    story.commit("main", "docs(suppliers): how to read the score")
    story.commit("main", "Say which unit was not understood")
    story.commit("main", "chore(deps): update the HTTP client (#128)")
    story.release("main", "v2.1.0")
    story.branch("release/v2.1", "main")
    story.commit("main", "feat(engagement): remind suppliers who have not answered (#131)")
    body = "BREAKING CHANGE: suppliers have no engagement_status, emissions no attachments."
    story.commit("main", "refactor(suppliers)!: drop the old engagement status (#134)", changes("v2.2.0"), body)
    story.commit("main", "fix(reports): show the year of the base line (#135)")
    story.release("main", "v2.2.0")
    story.branch("release/v2.2", "main")
    story.commit("main", "feat(dashboard): compare two years (#140)")
    story.commit("main", "fix(api): give exports the tenant's time zone (#141)")
    story.release("main", "v2.3.0")
    story.branch("release/v2.3", "main")


BEHAVIOURS = {
    "v2.1.1": "crash",
    "v2.1.2": "slow",
    "v2.1.3": "errors",
    "v2.1.4": "latency",
    "v2.1.8": "oom",
    "v2.1.9": "unready",
}
"""Version → what its pods do, by the label vcci.sandbox.behaviour of its images."""
_BAD_TREES = {"v2.1.5": "bad-smoke", "v2.1.6": "bad-migration", "v2.1.7": "bad-validation"}
SHIPPED = {
    "v1.9.0": "v1.9.0",
    "v2.0.0": "v2.0.0",
    "v2.1.0": "release/v2.1",
    "v2.2.0": "release/v2.2",
    **{version: f"release/{version}" for version in sorted({**BEHAVIOURS, **_BAD_TREES})},
}
"""Versions whose images are in the registry → the ref they are made of. v2.3.0 has to be built."""


def _bad(story: Story) -> None:
    """Tell of the releases that go wrong, each on top of v2.1.0."""
    for version, behaviour in BEHAVIOURS.items():
        branch = f"release/{version}"
        story.branch(branch, "release/v2.1")
        story.commit(branch, f"feat(api): try something new ({behaviour})", _labelled(story.tree(branch), behaviour))
        story.release(branch, version)
    for version, name in _BAD_TREES.items():
        branch = f"release/{version}"
        story.branch(branch, "release/v2.1")
        changed = _demanding(story.tree(branch)) if name == "bad-validation" else changes(name)
        story.commit(branch, f"feat(suppliers): intensity of suppliers ({name})", changed)
        story.release(branch, version)
        story.branch(f"release/{name}", branch)


def _labelled(tree: Files, behaviour: str) -> dict[str, bytes | None]:
    """Return the Dockerfiles with the label that makes the played nodes behave so."""
    line = f'LABEL {_BEHAVIOUR}="{behaviour}"\n'.encode()
    files = {path: data for path, data in tree.items() if path.endswith(".Dockerfile")}
    return {path: data.replace(b"WORKDIR", line + b"WORKDIR", 1) for path, data in files.items()}


def _demanding(tree: Files) -> dict[str, bytes | None]:
    """Return the validation script that asks for a variable which nobody has set."""
    path = "scripts/validate_production_env.py"
    return {
        path: tree[path].replace(b'REQUIRED = ("DATABASE_URL"', b'REQUIRED = ("VCCI_INTENSITY_URL", "DATABASE_URL"')
    }
