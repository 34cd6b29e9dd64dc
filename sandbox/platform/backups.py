"""The platform's backups: real ``pg_dump -Fc`` files of the last two weeks, with a manifest each.

While the data is loaded in the order of its recording, a dump is taken at each point that was 02:00
UTC of one of the last fourteen nights; so every dump is a real one, and each holds a day more than
the one before. Dumps are kept by how many nights ago they were taken and get their key when they are
put into S3: on any later day the sandbox starts, the newest is this morning's again.
"""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import psycopg
from psycopg import sql

from sandbox.platform import data
from sandbox.service import Sandbox, SandboxError

NIGHTS = 14
HOUR = 2
KEY = "daily/vcci_production-%Y%m%dT%H%M%SZ.dump"
MANIFEST_SUFFIX = ".manifest.json"
SHRUNKEN = "shrunken"
SHRUNKEN_SHARE = 0.25
"""Share of the emissions in the dump that the fault backup-shrunken shows as the newest."""
_MANY = 5
"""From beyond this scale a dump takes long: then only the oldest and the newest differ."""


def night(now: datetime, ago: int) -> datetime:
    """Return when the backup of ``ago`` nights ago was taken; 0 is the latest 02:00 UTC."""
    latest = now.astimezone(UTC).replace(hour=HOUR, minute=0, second=0, microsecond=0)
    if latest > now:
        latest -= timedelta(days=1)
    return latest - timedelta(days=ago)


def key(now: datetime, ago: int) -> str:
    """Return the key of that night's backup."""
    return night(now, ago).strftime(KEY)


def load_and_dump(sandbox: Sandbox, connection: psycopg.Connection[Any]) -> dict[str, Any]:
    """Load all data into an empty schema, taking the dumps on the way.

    :returns: what was loaded, for the sandbox's state.
    """
    now, total = datetime.now(UTC), data.EMISSIONS * sandbox.scale
    data.load_others(connection, now)
    stops = {SHRUNKEN: int(total * SHRUNKEN_SHARE)}
    for ago in reversed(range(NIGHTS)):
        if sandbox.scale <= _MANY or ago in (NIGHTS - 1, 0):
            stops[_name(ago)] = data.recorded_before(now, total, night(now, ago))
    start = 0
    for name, stop in stops.items():
        data.load_emissions(connection, now, total, start, stop)
        with connection.cursor() as cursor:
            data.advance(cursor, "emissions")
        connection.commit()
        _dump(sandbox, connection, name)
        start = stop
    data.load_emissions(connection, now, total, start, total)
    with connection.cursor() as cursor:
        data.advance(cursor, "emissions")
    connection.commit()
    return {"loaded_at": now.isoformat(), "emissions": total}


def dump_of(sandbox: Sandbox, ago: int) -> Path:
    """Return the dump that stands for that night's backup."""
    folder = sandbox.data("backups")
    own = folder / f"{_name(ago)}.dump"
    return own if own.exists() else folder / f"{_name(NIGHTS - 1)}.dump"


def shrunken_dump(sandbox: Sandbox) -> Path:
    """Return the dump that lacks most emissions."""
    return sandbox.data("backups") / f"{SHRUNKEN}.dump"


def manifest(dump: Path, now: datetime, ago: int) -> dict[str, Any]:
    """Return the manifest that goes beside a dump when it is that night's backup."""
    noted: dict[str, Any] = json.loads(dump.with_suffix(".json").read_text())
    taken = night(now, ago).strftime("%Y-%m-%dT%H:%M:%SZ")
    return {"schema_version": 1, "key": key(now, ago), "taken_at": taken, **noted}


def _name(ago: int) -> str:
    return f"night-{ago:02d}"


def _dump(sandbox: Sandbox, connection: psycopg.Connection[Any], name: str) -> None:
    info, file = connection.info, sandbox.data("backups") / f"{name}.dump"
    # Naming an extension that every database has leaves pg_stat_statements out: only a superuser could restore it.
    argv = [sandbox.program("pg_dump", "postgresql-client"), "-Fc", "-Z1", "--extension=plpgsql", "-f", str(file)]
    argv += ["-h", info.host, "-p", str(info.port), "-U", info.user, info.dbname]
    env = {**os.environ, "PGPASSWORD": info.password}
    done = subprocess.run(argv, env=env, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SandboxError(f"pg_dump failed: {done.stderr.strip()}")
    noted = {
        "database": info.dbname,
        "size": file.stat().st_size,
        "sha256": _sha256(file),
        "pg_version": connection.execute("SHOW server_version").fetchone()[0].split()[0],  # type: ignore[index]
        "tool_version": _version(argv[0]),
        "schema_revision": connection.execute("SELECT version_num FROM alembic_version").fetchone()[0],  # type: ignore[index]
        "tables": {table: {"rows": rows} for table, rows in row_counts(connection).items()},
    }
    connection.commit()
    file.with_suffix(".json").write_text(json.dumps(noted))


def row_counts(connection: psycopg.Connection[Any]) -> dict[str, int]:
    """Count the rows of every table of the schema public."""
    listed = "SELECT tablename FROM pg_tables WHERE schemaname = 'public' ORDER BY tablename"
    tables = [row[0] for row in connection.execute(listed).fetchall()]
    each = [sql.SQL("SELECT {}, count(*) FROM {}").format(sql.Literal(t), sql.Identifier(t)) for t in tables]
    return dict(connection.execute(sql.SQL(" UNION ALL ").join(each)).fetchall())


def _sha256(file: Path) -> str:
    with open(file, "rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()


def _version(program: str) -> str:
    said = subprocess.run([program, "--version"], capture_output=True, text=True, check=True).stdout
    return said.partition(")")[2].split()[0]
