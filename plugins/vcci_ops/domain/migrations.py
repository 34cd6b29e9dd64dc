"""The migrations of a release: read from Alembic's offline output, and classed by what they do.

The class decides what happens when a release fails after its migration: *none* and *expand-only* leave the schema as
it is, for the release before works with it; *destructive* stops and asks. So whatever cannot be read is destructive.
"""

from __future__ import annotations

import dataclasses
import enum
import re
from collections.abc import Iterable, Mapping
from typing import Any

from vcci_ops.exceptions import UnexpectedAnswer

SYSTEM = "Alembic"
LARGEST = 2_000_000
"""Characters of SQL; more is not read, and so destructive."""

_STEP = re.compile(r"-- Running (upgrade|downgrade) ([\w, .-]*?) ?-> ?([\w, .-]*)")
_LOGGED_STEP = re.compile(r".*Running (?:upgrade|downgrade) ([\w, .-]*?) ?-> ?([\w .-]*), (\S.*)")
# A line of a log among the SQL: of Alembic's default format, with a time before it, of Python's default, or JSON.
_LOG = re.compile(
    r"(?:[0-9T:., Z+-]{8,40}\s+)?\[?(?:DEBUG|INFO|WARN|WARNI|WARNING|ERROR|CRITI|CRITICAL)\]?"
    r"(?:\s+\[[\w.]+\](?:\s.*)?|:[\w.]+:.*)|\{\".*\}\s*"
)
_MARK = "-- log: "


class SchemaChange(enum.StrEnum):
    """What a migration does to the schema, the worst last."""

    NONE = "none"
    EXPAND_ONLY = "expand-only"
    DESTRUCTIVE = "destructive"

    @property
    def severity(self) -> int:
        """Rank, 0 for none."""
        return list(SchemaChange).index(self)


@dataclasses.dataclass(frozen=True)
class Classified:
    """What some SQL does. The texts hold parts of the SQL: escape them where they are shown.

    :param kind: its class.
    :param reasons: why it has this class, in words, each with its statement; for expand-only what is added.
    :param drops: data that is lost: ``table``, ``table.column``, ``rows of table``.
    :param warnings: what locks or rewrites a table for long.
    """

    kind: SchemaChange
    reasons: tuple[str, ...] = ()
    drops: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """Return it as plain JSON."""
        return {
            **{"kind": str(self.kind), "reasons": list(self.reasons)},
            **{"drops": list(self.drops), "warnings": list(self.warnings)},
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Classified:
        """Return what :meth:`to_dict` was made of."""
        rest = {name: tuple(map(str, data.get(name, ()))) for name in ("reasons", "drops", "warnings")}
        return cls(SchemaChange(data["kind"]), **rest)


@dataclasses.dataclass(frozen=True)
class Migration:
    """One step between two revisions.

    :param revision: the migration's own revision, also in a downgrade, which takes it back.
    :param down_revision: the one before it; None for the first; several as ``a, b``.
    :param sql: what runs, with Alembic's bookkeeping, without lines of a log.
    :param title: from its log line; "" when there was none.
    :param direction: upgrade or downgrade.
    """

    revision: str
    down_revision: str | None
    sql: str
    title: str = ""
    direction: str = "upgrade"

    def classified(self, types: Mapping[str, str] | None = None) -> Classified:
        """Return its class, as :func:`classify` does."""
        return classify(self.sql, types=types)

    def to_dict(self) -> dict[str, Any]:
        """Return it as plain JSON."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Migration:
        """Return what :meth:`to_dict` was made of."""
        return cls(**{field.name: data[field.name] for field in dataclasses.fields(cls)})


def read_offline_sql(text: str, *, start: str | None = None, target: str | None = None) -> list[Migration]:
    """Return the migrations in the output of ``alembic upgrade A:B --sql`` or ``alembic downgrade B:A --sql``.

    https://alembic.sqlalchemy.org/en/latest/offline.html

    :param text: standard output, lines of the log between its own (as a pod's log has them) included.
    :param start: revision from which it was asked for; given: the first migration has to begin there.
    :param target: revision up (or down) to which; given: the last migration has to end there.
    :return: in the order in which they run; none when there is nothing to do.
    :raises UnexpectedAnswer: when it is no such output, or not all of it.
    """
    pieces: list[tuple[re.Match[str] | None, list[str]]] = [(None, [])]
    lines = [_quiet(line) for line in text.replace("\r\n", "\n").split("\n")]
    for line in lines:
        if match := _STEP.fullmatch(line.rstrip()):
            pieces.append((match, []))
        pieces[-1][1].append(line)
    preamble = pieces.pop(0)[1]
    _require_bookkeeping_only("\n".join(preamble))
    _require_closed(["\n".join(preamble), *("\n".join(body) for _, body in pieces)])
    titles = dict(filter(None, map(_logged, lines)))
    found = [_migration(match, body, titles) for match, body in pieces if match]
    if found and (before := _without_log("\n".join(preamble)).strip()):
        found[0] = dataclasses.replace(found[0], sql=f"{before}\n\n{found[0].sql}")
    _require_ends(found, start, target)
    return found


def classify(sql: str, *, types: Mapping[str, str] | None = None) -> Classified:
    """Return what the SQL of one migration does, by PostgreSQL's own grammar.

    What Alembic notes for itself, BEGIN and COMMIT count for nothing. What the SQL creates it may also change.

    :param types: known types of columns, ``table.column`` → ``character varying(50)``; a change of type to one that
        holds all its values is then a widening, which is expand-only. Without them every change of type is
        destructive.
    """
    from pglast import parse_sql
    from pglast.parser import ParseError

    from vcci_ops.domain.ddl import judge
    from vcci_ops.domain.ddl_findings import Findings

    if "\0" in sql or len(sql) > LARGEST:
        why = "has a NUL character" if "\0" in sql else f"has {len(sql)} characters, more than {LARGEST}"
        return Classified(SchemaChange.DESTRUCTIVE, (f"the SQL {why} and is not read",))
    found = Findings(types or {})
    try:
        for statement in parse_sql(sql):
            begin, length = statement.stmt_location or 0, statement.stmt_len or len(sql)
            judge(statement.stmt, _without_comments(sql[begin : begin + length]), found)
    except (ParseError, UnicodeError, RecursionError) as error:
        text = str(error) if isinstance(error, ParseError) else type(error).__name__
        return Classified(SchemaChange.DESTRUCTIVE, (f"the SQL cannot be read: {text[:200]}",), tuple(found.drops))
    if found.reasons:
        kind, reasons = SchemaChange.DESTRUCTIVE, found.reasons
    else:
        kind = SchemaChange.EXPAND_ONLY if found.additions else SchemaChange.NONE
        reasons = list(dict.fromkeys(found.additions))
    return Classified(kind, tuple(reasons), tuple(found.drops), tuple(found.warnings))


def worst(kinds: Iterable[Classified | SchemaChange]) -> SchemaChange:
    """Return the class of a whole plan: the worst of its migrations, none for no migration."""
    found = [kind.kind if isinstance(kind, Classified) else kind for kind in kinds]
    return max(found, key=lambda kind: kind.severity, default=SchemaChange.NONE)


# Reading ------------------------------------------------------------------------------------------


def _quiet(line: str) -> str:
    """Turn a line of the log into a comment.

    It stays where it is: were it in truth a part of a literal or of a comment, leaving it out would change what the
    SQL around it means.
    """
    return _MARK + line if _LOG.fullmatch(line) else line


def _logged(line: str) -> tuple[str, str] | None:
    match = _LOGGED_STEP.fullmatch(line) if line.startswith(_MARK) else None
    return (f"{match[1]} -> {match[2]}", match[3].strip()[:200]) if match else None


def _migration(match: re.Match[str], body: list[str], titles: Mapping[str, str]) -> Migration:
    direction, left, right = match.group(1), match.group(2).strip(), match.group(3).strip()
    revision, down = (right, left) if direction == "upgrade" else (left, right)
    if not revision:
        raise UnexpectedAnswer(SYSTEM, f"a step without a revision: {match.group(0)}")
    sql = _without_log("\n".join(body)).strip()
    _require_record(sql, revision)
    return Migration(revision, down or None, sql, titles.get(f"{left} -> {right}", ""), direction)


def _without_log(sql: str) -> str:
    """Leave out the lines of the log, where PostgreSQL's scanner takes them for comments; the others are no log."""
    tokens = [(token.start, token.end + 1) for token in _tokens(sql) if token.name == "SQL_COMMENT"]
    for begin, end in reversed(tokens):
        if sql.startswith(_MARK, begin):
            sql = sql[:begin] + sql[end:].removeprefix("\n")
    return re.sub(f"(?m)^{_MARK}", "", sql)


def _without_comments(sql: str) -> str:
    for token in reversed(_tokens(sql)):
        if token.name in ("SQL_COMMENT", "C_COMMENT"):
            sql = sql[: token.start] + " " + sql[token.end + 1 :]
    return sql


def _tokens(sql: str) -> list[Any]:
    """Return PostgreSQL's tokens; none where it cannot read the text, which the classification then says."""
    from pglast.parser import ParseError, scan

    try:
        return list(scan(sql))
    except (ParseError, UnicodeError):
        return []


def _nodes(sql: str) -> list[Any] | None:
    from pglast import parse_sql
    from pglast.parser import ParseError

    try:
        return [statement.stmt for statement in parse_sql(sql)]
    except (ParseError, UnicodeError, RecursionError):
        return None


def _require_bookkeeping_only(preamble: str) -> None:
    """Refuse what comes before the first step and is not Alembic's: a traceback, or the rest of a cut output."""
    from vcci_ops.domain.ddl_findings import is_bookkeeping

    nodes = _nodes(preamble) if "\0" not in preamble else None
    if nodes is None or not all(is_bookkeeping(node) or type(node).__name__ == "TransactionStmt" for node in nodes):
        first = next((line for line in preamble.split("\n") if line.strip() and not line.startswith(_MARK)), "")
        raise UnexpectedAnswer(SYSTEM, f"its output begins with something else than a migration: {first.strip()[:120]}")


def _require_record(sql: str, revision: str) -> None:
    """Refuse a migration whose SQL ends before Alembic's note of the revision: the output was cut."""
    from vcci_ops.domain.ddl_findings import is_version_change

    nodes = _nodes(sql) if "\0" not in sql else None  # what cannot be read is destructive, and says so
    if nodes is not None and not any(map(is_version_change, nodes)):
        raise UnexpectedAnswer(SYSTEM, f"its output has not all of migration {revision}; it was cut")


def _require_closed(parts: list[str]) -> None:
    """Refuse an output that begins a transaction and does not end it, or the other way round: it was cut."""
    read = [_nodes(part) if "\0" not in part else None for part in parts]
    if None in read:
        return  # what cannot be read is destructive, and says so
    begun = 0
    for node in (node for nodes in read for node in nodes or () if type(node).__name__ == "TransactionStmt"):
        begun += {"TRANS_STMT_BEGIN": 1, "TRANS_STMT_COMMIT": -1}.get(node.kind.name, 0)
    if begun:
        raise UnexpectedAnswer(SYSTEM, "its output begins or ends within a transaction; it was cut")


def _require_ends(found: list[Migration], start: str | None, target: str | None) -> None:
    if not found:
        if start is not None and target is not None and start != target:
            raise UnexpectedAnswer(SYSTEM, f"its output has no migration between {start} and {target}")
        return
    down = found[0].direction == "downgrade"
    begins, ends = (
        (found[0].revision, found[-1].down_revision) if down else (found[0].down_revision, found[-1].revision)
    )
    if start is not None and start not in (begins or "base").split(", "):
        raise UnexpectedAnswer(SYSTEM, f"its output begins at {begins or 'base'}, not at {start}; it was cut")
    if target is not None and target not in (ends or "base").split(", "):
        raise UnexpectedAnswer(SYSTEM, f"its output ends at {ends or 'base'}, not at {target}; it was cut")
