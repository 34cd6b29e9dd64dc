"""Damage to a drill on purpose, to see that it notices; only where the settings say that this is a sandbox."""

from __future__ import annotations

import dataclasses
import datetime as dt
import hashlib
import json
from typing import TYPE_CHECKING, Any

from psycopg.sql import SQL

from vcci_ops.exceptions import NoData, Refused
from vcci_ops.hooks.drill_source import Dump
from vcci_ops.hooks.s3 import translated

if TYPE_CHECKING:
    from collections.abc import Mapping

    from vcci_ops.domain.backups import Names
    from vcci_ops.hooks.drill_scratch import ScratchServer
    from vcci_ops.hooks.drill_source import BackupBucket
    from vcci_ops.settings_drill import Drill

MOST = 256 << 20
"""Bytes of a dump that may be damaged: it goes through memory."""
IN_BACKUP = ("truncated", "bit-flipped", "manifest-missing", "manifest-forged", "renamed")
IN_COPY = {
    "row-missing": "DELETE FROM public.audit_log WHERE id = (SELECT min(id) FROM public.audit_log)",
    "value-changed": "UPDATE public.emissions SET co2e_kg = co2e_kg + 1000 "
    "WHERE id = (SELECT min(id) FROM public.emissions)",
    "table-missing": "DROP TABLE public.emission_attachments",
    "sequence-behind": "SELECT setval('public.emissions_id_seq', 1)",
    "orphan": "INSERT INTO public.usage_events (tenant_id, kind, quantity) VALUES (gen_random_uuid(), 'api_call', 1)",
    # What a collation that changes with the C library does to an index, done by a function.
    "index-corrupt": "CREATE FUNCTION public.sabotaged(text) RETURNS text IMMUTABLE LANGUAGE sql AS 'SELECT $1'; "
    "CREATE INDEX sabotaged ON public.suppliers (public.sabotaged(name)); "
    "CREATE OR REPLACE FUNCTION public.sabotaged(text) RETURNS text IMMUTABLE LANGUAGE sql AS 'SELECT reverse($1)'",
}
ALL = (*IN_BACKUP, *IN_COPY)


def damage_copy(drill: Drill, server: ScratchServer, database: str, how: str) -> None:
    """Damage a restored copy.

    :raises Refused: outside of a sandbox.
    """
    _require_sandbox(drill)
    with server.session(database) as connection:
        for statement in IN_COPY[how].split("; "):
            connection.execute(SQL(statement))


@dataclasses.dataclass(frozen=True)
class DamagedBackup:
    """A damaged copy of the newest backup, under a prefix of its own that nobody else looks below.

    :param run: ``dag_id/run_id``.
    """

    drill: Drill
    bucket: BackupBucket
    run: str

    @property
    def prefix(self) -> str:
        """Return where it is."""
        return f"sabotage/{hashlib.sha256(self.run.encode()).hexdigest()[:16]}/"

    @property
    def names(self) -> Names:
        """Return how it is called."""
        return dataclasses.replace(self.bucket.names, prefix=self.prefix)

    def make(self, key: str, size: int, how: str) -> None:
        """Copy a backup and damage the copy.

        :raises Refused: outside of a sandbox, and for a dump that is large.
        """
        _require_sandbox(self.drill)
        if size > MOST:
            raise Refused(f"a dump of {size:,} bytes is not damaged: at most {MOST:,}")
        content = bytearray(b"".join(Dump(self.bucket.bucket, key, size).read()))
        manifest = dict(self.bucket.manifest(key).data)
        taken = self.bucket.names.taken_at(key)
        if taken is None or not manifest:
            raise NoData(f"{key} has no name or manifest that could be kept")
        mine = self.names.key(taken)
        self._put(mine, _damaged(content, how))
        if how != "manifest-missing":
            text = json.dumps({**_forged(manifest, taken, how), "key": mine}, indent=1).encode()
            self._put(mine + self.bucket.manifest_suffix, text)

    def remove(self) -> None:
        """Remove it again."""
        client = self._client()
        for item in self.bucket.hook.page(self.bucket.bucket, self.prefix).objects:
            with translated("s3:DeleteObject", self.bucket.bucket):
                client.delete_object(Bucket=self.bucket.bucket, Key=item.key)

    def _put(self, key: str, content: bytes) -> None:
        with translated("s3:PutObject", f"{self.bucket.bucket}/{key}"):
            self._client().put_object(Bucket=self.bucket.bucket, Key=key, Body=content)

    def _client(self) -> Any:
        return self.bucket.hook.get_conn()


def _damaged(content: bytearray, how: str) -> bytes:
    if how == "bit-flipped":
        content[len(content) * 2 // 3] ^= 0x10
    if how == "truncated":
        del content[len(content) * 6 // 10 :]
    return bytes(content)


def _forged(manifest: Mapping[str, Any], taken: dt.datetime, how: str) -> dict[str, Any]:
    """Return a manifest that says something else: of another month, or of one row more."""
    if how == "renamed":
        return {**manifest, "taken_at": (taken - dt.timedelta(days=30)).isoformat()}
    if how == "manifest-forged":
        tables = {name: dict(table) for name, table in manifest["tables"].items()}
        largest = max(tables, key=lambda name: tables[name]["rows"] or 0)
        tables[largest]["rows"] += 1
        return {**manifest, "tables": tables}
    return dict(manifest)


def _require_sandbox(drill: Drill) -> None:
    if not drill.sandbox:
        raise Refused("this environment is no sandbox (drill.sandbox): nothing was damaged")
