"""What an SQL statement does to a schema and its data, by PostgreSQL's own grammar.

The question is whether the release before can go on with the schema afterwards, and whether data is lost. A statement
whose answer is not known here counts as destructive.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from pglast import ast
from pglast.enums import (
    DropBehavior,
    GrantTargetType,
    ObjectType,
    OnConflictAction,
    TransactionStmtKind,
    VariableSetKind,
)

from vcci_ops.domain.ddl_findings import (
    HARMLESS,
    SHOWN,
    VOLATILE,
    Findings,
    calls,
    is_bookkeeping,
    name_of,
    stays_unique,
    walk,
)
from vcci_ops.domain.ddl_tables import alter_table

_SETTINGS = {
    *("lock_timeout", "statement_timeout", "idle_in_transaction_session_timeout", "deadlock_timeout"),
    *("maintenance_work_mem", "work_mem", "max_parallel_maintenance_workers", "client_min_messages"),
    *("client_encoding", "standard_conforming_strings"),
}
_KINDS = {
    ObjectType.OBJECT_TABLE: "table",
    ObjectType.OBJECT_FOREIGN_TABLE: "foreign table",
    ObjectType.OBJECT_MATVIEW: "materialized view",
    ObjectType.OBJECT_VIEW: "view",
    ObjectType.OBJECT_INDEX: "index",
    ObjectType.OBJECT_SEQUENCE: "sequence",
    ObjectType.OBJECT_SCHEMA: "schema",
    ObjectType.OBJECT_TYPE: "type",
    ObjectType.OBJECT_DOMAIN: "domain",
    ObjectType.OBJECT_FUNCTION: "function",
    ObjectType.OBJECT_TRIGGER: "trigger",
    ObjectType.OBJECT_POLICY: "policy",
    ObjectType.OBJECT_EXTENSION: "extension",
}
_WITH_DATA = {"table", "materialized view", "sequence", "schema", "extension", "type", "domain"}


def judge(node: Any, text: str, found: Findings) -> None:
    """Add what one statement does.

    :param node: its syntax tree.
    :param text: its text, for the reasons.
    """
    plain = " ".join(text.split())
    found.statement = plain if len(plain) <= SHOWN else plain[: SHOWN - 1] + "…"
    if is_bookkeeping(node):
        return
    _nested(node, found)
    _RULES.get(type(node).__name__, _unknown)(node, found)


def _nested(node: Any, found: Findings) -> None:
    """Look for what a statement does besides: functions it calls, changes in its WITH."""
    if not isinstance(node, ast.ViewStmt | ast.CreateFunctionStmt | ast.CreateStmt):
        for name in sorted(calls(node) - HARMLESS - VOLATILE):
            found.destroy(f"calls {name}(), which may do anything")
    for part in walk(node):
        if part is node or not isinstance(part, ast.InsertStmt | ast.UpdateStmt | ast.DeleteStmt | ast.MergeStmt):
            continue
        if not isinstance(node, ast.RuleStmt | ast.CreateFunctionStmt) and not found.is_new(part.relation):
            name = name_of(part.relation)
            found.destroy(f"changes rows of {name} within another statement", f"rows of {name}")


def _unknown(node: Any, found: Findings) -> None:
    words = {
        "DoStmt": "a DO block, whose effects cannot be read",
        "CallStmt": "calls a procedure, which may do anything",
        "CopyStmt": "COPY, whose data cannot be read",
        "AlterOwnerStmt": "changes an owner: the previous release may lose its rights",
        "AlterObjectSchemaStmt": "moves to another schema what the previous release looks for",
        "AlterSeqStmt": "changes a sequence",
        "AlterPolicyStmt": "changes which rows the previous release sees",
        "CreatePolicyStmt": "changes which rows the previous release sees",
    }
    kind = type(node).__name__
    found.destroy(words.get(kind, f"not understood ({kind.removesuffix('Stmt')})"))


def _nothing(node: Any, found: Findings) -> None:
    pass


def _added(kind: str) -> Callable[[Any, Findings], None]:
    def rule(node: Any, found: Findings) -> None:
        found.add(kind)

    return rule


# Rows ---------------------------------------------------------------------------------------------


def _select(node: Any, found: Findings) -> None:
    if node.intoClause:
        found.create("table", name_of(node.intoClause.rel), certain=_lasting(node.intoClause.rel))


def _insert(node: Any, found: Findings) -> None:
    name, conflict = name_of(node.relation), node.onConflictClause
    if found.is_new(node.relation):
        return
    if conflict and conflict.action == OnConflictAction.ONCONFLICT_UPDATE:
        found.destroy(f"overwrites rows of {name}", f"rows of {name} (overwritten)")
    else:
        found.add(f"adds rows to {name}")


def _update(node: Any, found: Findings) -> None:
    if found.is_new(node.relation):
        return
    name = name_of(node.relation)
    targets = [target.name for target in node.targetList or ()]
    old = sorted({column for column in targets if (name, column) not in found.columns})
    if old:
        found.destroy(f"overwrites {', '.join(old)} of {name}", *(f"{name}.{column} (overwritten)" for column in old))
    else:
        found.add(f"fills new columns of {name}")
        found.warn(f"locks every row of {name} that it changes")


def _delete(node: Any, found: Findings) -> None:
    if not found.is_new(node.relation):
        name = name_of(node.relation)
        found.destroy(f"removes rows of {name}", f"rows of {name}")


def _truncate(node: Any, found: Findings) -> None:
    if node.behavior == DropBehavior.DROP_CASCADE:
        names = [name_of(relation) for relation in node.relations]
        lost = (f"rows of {name} (and of what refers to it)" for name in names)
        found.destroy("empties tables, and those that refer to them", *lost)
    elif old := [name_of(relation) for relation in node.relations if not found.is_new(relation)]:
        found.destroy(f"empties {', '.join(old)}", *(f"rows of {name}" for name in old))


# Objects ------------------------------------------------------------------------------------------


def _lasting(relation: Any) -> bool:
    return bool(relation.relpersistence != "t")


def _create_table(node: Any, found: Findings) -> None:
    found.create("table", name_of(node.relation), certain=not node.if_not_exists and _lasting(node.relation))


def _create_table_as(node: Any, found: Findings) -> None:
    kind = "materialized view" if node.objtype == ObjectType.OBJECT_MATVIEW else "table"
    found.create(kind, name_of(node.into.rel), certain=not node.if_not_exists and _lasting(node.into.rel))


def _create_view(node: Any, found: Findings) -> None:
    found.create("view", name_of(node.view), certain=not node.replace and _lasting(node.view))
    if node.replace:
        found.warn("the previous release gets the new definition of the view, too")


def _create_function(node: Any, found: Findings) -> None:
    name = ".".join(part.sval for part in node.funcname)
    if node.replace:
        found.destroy(f"may replace the function {name}, which the previous release calls")
    else:
        found.add(f"creates function {name}")


def _create_sequence(node: Any, found: Findings) -> None:
    found.create("sequence", name_of(node.sequence), certain=not node.if_not_exists and _lasting(node.sequence))


_TYPE_NAMES = {"CreateDomainStmt": "domainname"}


def _create_type(node: Any, found: Findings) -> None:
    if isinstance(node, ast.CompositeTypeStmt):
        name = name_of(node.typevar)
    else:
        name = ".".join(part.sval for part in getattr(node, _TYPE_NAMES.get(type(node).__name__, "typeName")))
    found.create("type", name, certain=True)


def _create_schema(node: Any, found: Findings) -> None:
    found.add(f"creates schema {node.schemaname or 'of a role'}")
    for element in node.schemaElts or ():
        _RULES.get(type(element).__name__, _unknown)(element, found)


def _create_trigger(node: Any, found: Findings) -> None:
    if not found.is_new(node.relation):
        name = name_of(node.relation)
        found.destroy(f"a trigger on {name} acts on what the previous release writes")


def _create_index(node: Any, found: Findings) -> None:
    table = name_of(node.relation)
    schema = f"{node.relation.schemaname}." if node.relation.schemaname else ""
    if node.idxname:
        found.create("index", schema + node.idxname, certain=not node.if_not_exists)
    else:
        found.add(f"creates an index on {table}")
    if found.is_new(node.relation):
        return
    columns = [element.name for element in node.indexParams or ()]
    if node.unique and (node.nulls_not_distinct or not stays_unique(table, columns, found)):
        found.destroy(f"a unique index on {table} refuses rows that the previous release may write")
    if not node.concurrent and not found.seems_new(node.relation):
        found.warn(f"stops writing to {table} while the index is built (CREATE INDEX CONCURRENTLY does not)")


def _drop(node: Any, found: Findings) -> None:
    kind = _KINDS.get(node.removeType, "object")
    for item in node.objects:
        name = _object_name(item)
        if node.behavior == DropBehavior.DROP_CASCADE:
            found.destroy(
                f"removes {kind} {name} and whatever depends on it", *_lost(kind, name, "and what depends on it")
            )
        elif (kind, name) in found.created:
            found.created.discard((kind, name))
        else:
            found.destroy(f"removes {kind} {name}, which the previous release may need", *_lost(kind, name))


def _lost(kind: str, name: str, more: str = "") -> list[str]:
    if kind not in _WITH_DATA and not more:
        return []
    words = [name if kind == "table" else f"{kind} {name}", f"({more})" if more else ""]
    return [" ".join(filter(None, words))]


def _object_name(item: Any) -> str:
    parts = (
        item if isinstance(item, tuple) else getattr(item, "objname", None) or getattr(item, "names", None) or (item,)
    )
    return ".".join(str(getattr(part, "sval", part)) for part in parts)


def _rename(node: Any, found: Findings) -> None:
    if node.relation is None:
        found.destroy(f"renames what the previous release knows by its name to {node.newname}")
        return
    name = name_of(node.relation)
    what = f"{name}.{node.subname}" if node.subname else name
    table = node.renameType == ObjectType.OBJECT_TABLE
    if found.is_new(node.relation) and (table or node.relationType == ObjectType.OBJECT_TABLE):
        if table:
            schema = f"{node.relation.schemaname}." if node.relation.schemaname else ""
            found.created.discard(("table", name))
            found.created.add(("table", schema + node.newname))
    else:
        found.destroy(f"renames {what}, which the previous release knows by its name")


def _alter_enum(node: Any, found: Findings) -> None:
    name = ".".join(part.sval for part in node.typeName)
    if node.oldVal is not None:
        found.destroy(f"renames the value {node.oldVal} of type {name}")
    else:
        found.add(f"adds the value {node.newVal} to type {name}")


def _grant(node: Any, found: Findings) -> None:
    if not node.is_grant:
        found.destroy("takes rights away that the previous release may need")
    elif node.targtype != GrantTargetType.ACL_TARGET_OBJECT:
        found.add("grants rights on all objects of a schema")
    else:
        found.add("grants rights")


def _set(node: Any, found: Findings) -> None:
    known = (VariableSetKind.VAR_SET_VALUE, VariableSetKind.VAR_SET_DEFAULT, VariableSetKind.VAR_RESET)
    if node.kind not in known or node.name not in _SETTINGS:
        found.destroy(f"sets {node.name or 'all settings'}, after which statements may mean something else")


def _transaction(node: Any, found: Findings) -> None:
    kinds = TransactionStmtKind
    if node.kind not in (kinds.TRANS_STMT_BEGIN, kinds.TRANS_STMT_START, kinds.TRANS_STMT_COMMIT):
        found.destroy("takes back statements or handles transactions by itself")


def _refresh(node: Any, found: Findings) -> None:
    if not node.concurrent:
        found.warn("stops reading the materialized view while it is refreshed")


def _vacuum(node: Any, found: Findings) -> None:
    if node.is_vacuumcmd:
        found.destroy("VACUUM is nothing for a migration")


def _lock(node: Any, found: Findings) -> None:
    found.warn("locks tables until the migration ends")


_RULES: dict[str, Callable[[Any, Findings], None]] = {
    "AlterEnumStmt": _alter_enum,
    "AlterTableStmt": alter_table,
    "CommentStmt": _added("comments"),
    "CompositeTypeStmt": _create_type,
    "CreateDomainStmt": _create_type,
    "CreateEnumStmt": _create_type,
    "CreateExtensionStmt": _added("creates an extension"),
    "CreateFunctionStmt": _create_function,
    "CreateRangeStmt": _create_type,
    "CreateSchemaStmt": _create_schema,
    "CreateSeqStmt": _create_sequence,
    "CreateStatsStmt": _added("creates statistics"),
    "CreateStmt": _create_table,
    "CreateTableAsStmt": _create_table_as,
    "CreateTrigStmt": _create_trigger,
    "DeleteStmt": _delete,
    "DropStmt": _drop,
    "GrantStmt": _grant,
    "IndexStmt": _create_index,
    "InsertStmt": _insert,
    "LockStmt": _lock,
    "RefreshMatViewStmt": _refresh,
    "RenameStmt": _rename,
    "SelectStmt": _select,
    "TransactionStmt": _transaction,
    "TruncateStmt": _truncate,
    "UpdateStmt": _update,
    "VacuumStmt": _vacuum,
    "VariableSetStmt": _set,
    "ViewStmt": _create_view,
}
