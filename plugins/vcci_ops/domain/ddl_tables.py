"""What ALTER TABLE does, command by command."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from pglast import ast
from pglast.enums import AlterTableType, ConstrType, DropBehavior, ObjectType

from vcci_ops.domain.ddl_findings import VOLATILE, Findings, calls, name_of, stays_unique, walk

_SERIALS = {"serial", "bigserial", "smallserial", "serial4", "serial8", "serial2"}


def alter_table(node: Any, found: Findings) -> None:
    """Add what an ALTER TABLE does. https://www.postgresql.org/docs/current/sql-altertable.html"""
    table = name_of(node.relation)
    for command in node.cmds:
        rule = _COMMANDS.get(command.subtype)
        if node.objtype != ObjectType.OBJECT_TABLE or rule is None:
            words = command.subtype.name.removeprefix("AT_")
            found.destroy(f"changes {table} in a way that is not understood ({words})")
        elif not found.is_new(node.relation):
            rule(table, command, found)


def _add_column(table: str, command: Any, found: Findings) -> None:
    column = command.def_
    name = f"{table}.{column.colname}"
    constraints = {constraint.contype: constraint for constraint in column.constraints or ()}
    default = constraints.get(ConstrType.CONSTR_DEFAULT)
    filled = default is not None and not _is_null(default.raw_expr)
    made = column.typeName.names[-1].sval in _SERIALS or _has(
        constraints, ConstrType.CONSTR_IDENTITY, ConstrType.CONSTR_GENERATED
    )
    found.add(f"adds column {name}")
    if not command.missing_ok:
        found.columns[table, column.colname] = filled or made
    if _has(constraints, ConstrType.CONSTR_NOTNULL, ConstrType.CONSTR_PRIMARY) and not (filled or made):
        found.destroy(f"{name} is required and has no default: the previous release's new rows are refused")
    check = constraints.get(ConstrType.CONSTR_CHECK)
    if check is not None and not filled and any(isinstance(part, ast.NullTest) for part in walk(check)):
        found.destroy(f"{name} may not stay empty: the previous release's new rows are refused")
    if made or (default is not None and calls(default) & VOLATILE):
        found.warn(f"rewrites {table} while nobody can use it, for each row gets a value of its own")


def _has(constraints: Mapping[Any, Any], *kinds: Any) -> bool:
    return any(kind in constraints for kind in kinds)


def _is_null(expression: Any) -> bool:
    while isinstance(expression, ast.TypeCast):
        expression = expression.arg
    return isinstance(expression, ast.A_Const) and bool(expression.isnull)


def _add_constraint(table: str, command: Any, found: Findings) -> None:
    constraint = command.def_
    kind, name = constraint.contype, constraint.conname or "a constraint"
    if kind in (ConstrType.CONSTR_CHECK, ConstrType.CONSTR_FOREIGN):
        found.add(f"adds constraint {name} to {table}")
        found.warn(f"what the previous release writes to {table} has to satisfy it, too")
        if not constraint.skip_validation:
            found.warn(f"stops writing to {table} while all its rows are checked (NOT VALID, then VALIDATE, does not)")
    elif kind == ConstrType.CONSTR_UNIQUE and _stays_unique(table, constraint, found):
        found.add(f"adds constraint {name} to {table}")
        found.warn(f"stops the use of {table} while its index is built")
    else:
        found.destroy(f"{name} on {table} refuses rows that the previous release may write")


def _stays_unique(table: str, constraint: Any, found: Findings) -> bool:
    columns = [key.sval for key in constraint.keys or ()]
    return not constraint.nulls_not_distinct and stays_unique(table, columns, found)


def _column_default(table: str, command: Any, found: Findings) -> None:
    if command.def_ is None:
        found.destroy(f"takes away the default of {table}.{command.name}, which the previous release may rely on")
    else:
        found.add(f"sets the default of {table}.{command.name}")
        if (table, command.name) in found.columns:
            found.columns[table, command.name] = True


def _drop_not_null(table: str, command: Any, found: Findings) -> None:
    found.add(f"lets {table}.{command.name} be empty")
    found.warn(f"the previous release may meet an empty {table}.{command.name}")


def _set_not_null(table: str, command: Any, found: Findings) -> None:
    name = f"{table}.{command.name}"
    if found.columns.get((table, command.name)):
        found.warn(f"stops the use of {table} while all its rows are checked for an empty {command.name}")
    else:
        found.destroy(f"{name} may not be empty any more: the previous release's rows may be refused")


def _drop_column(table: str, command: Any, found: Findings) -> None:
    name = f"{table}.{command.name}"
    if command.behavior == DropBehavior.DROP_CASCADE:
        found.destroy(f"removes column {name} and whatever depends on it", f"{name} (and what depends on it)")
    elif (table, command.name) in found.columns:
        del found.columns[table, command.name]
    else:
        found.destroy(f"removes column {name}, which the previous release may need", name)


def _drop_constraint(table: str, command: Any, found: Findings) -> None:
    found.destroy(f"removes constraint {command.name} of {table}: rows may come that the previous release cannot take")


def _alter_type(table: str, command: Any, found: Findings) -> None:
    name = f"{table}.{command.name}"
    if (table, command.name) in found.columns:
        return
    old, new = found.types.get(name, ""), _type_text(command.def_.typeName)
    if old and command.def_.raw_default is None and _is_wider(old, new):
        found.add(f"widens {name} from {old} to {new}")
        if "int" in old:
            found.warn(f"rewrites {table} while nobody can use it")
    else:
        found.destroy(f"changes the type of {name} to {new}", f"{name} (converted to {new})")


def _validate(table: str, command: Any, found: Findings) -> None:
    found.add(f"validates constraint {command.name} of {table}")
    found.warn(f"reads all rows of {table}; it can be used meanwhile")


def _storage(table: str, command: Any, found: Findings) -> None:
    found.add(f"sets how {table} is stored")


# Types --------------------------------------------------------------------------------------------

_WRITTEN = {
    **{"int2": "smallint", "int4": "integer", "int8": "bigint", "varchar": "character varying", "bpchar": "character"},
    **{"bool": "boolean", "float8": "double precision", "float4": "real", "timestamptz": "timestamp with time zone"},
}
_INTEGERS = ("smallint", "integer", "bigint")


def _type_text(node: Any) -> str:
    """Return a type as PostgreSQL's format_type writes it."""
    names = [part.sval for part in node.names]
    name = _WRITTEN.get(names[-1], names[-1]) if names[:-1] in ([], ["pg_catalog"]) else ".".join(names)
    modifiers = [part.val.ival for part in node.typmods or () if isinstance(getattr(part, "val", None), ast.Integer)]
    return name + (f"({','.join(map(str, modifiers))})" if modifiers else "") + "[]" * len(node.arrayBounds or ())


def _is_wider(old: str, new: str) -> bool:
    """Whether every value of the old type is one of the new, written in the same way."""
    (old_name, old_sizes), (new_name, new_sizes) = _split(old), _split(new)
    if old_name in _INTEGERS and new_name in _INTEGERS:
        return _INTEGERS.index(new_name) >= _INTEGERS.index(old_name)
    if old_name == "character varying" and new_name in ("character varying", "text"):
        return not new_sizes or bool(old_sizes and new_sizes[0] >= old_sizes[0])
    if old_name == new_name == "numeric" and old_sizes and new_sizes:
        same_scale = old_sizes[1:] == new_sizes[1:]
        return same_scale and new_sizes[0] >= old_sizes[0]
    return False


def _split(text: str) -> tuple[str, list[int]]:
    name, _, sizes = text.partition("(")
    return name, [int(size) for size in sizes.rstrip(")").split(",") if size.strip().isdecimal()]


_COMMANDS: dict[Any, Callable[[str, Any, Findings], None]] = {
    AlterTableType.AT_AddColumn: _add_column,
    AlterTableType.AT_AddConstraint: _add_constraint,
    AlterTableType.AT_AlterColumnType: _alter_type,
    AlterTableType.AT_ColumnDefault: _column_default,
    AlterTableType.AT_DropColumn: _drop_column,
    AlterTableType.AT_DropConstraint: _drop_constraint,
    AlterTableType.AT_DropNotNull: _drop_not_null,
    AlterTableType.AT_ResetRelOptions: _storage,
    AlterTableType.AT_SetNotNull: _set_not_null,
    AlterTableType.AT_SetRelOptions: _storage,
    AlterTableType.AT_SetStatistics: _storage,
    AlterTableType.AT_SetStorage: _storage,
    AlterTableType.AT_ValidateConstraint: _validate,
}
