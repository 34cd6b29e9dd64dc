"""Migrations: read from what Alembic really writes, and never classed better than they are."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vcci_ops.domain.migrations import Classified, Migration, SchemaChange, classify, read_offline_sql, worst
from vcci_ops.exceptions import UnexpectedAnswer

PLATFORM = Path(__file__).parents[2] / "sandbox" / "platform"
NONE, EXPAND_ONLY, DESTRUCTIVE = SchemaChange


# What Alembic really writes -----------------------------------------------------------------------


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The platform's migrations with those of its releases, as the image of v2.2.0 has them."""
    tree = tmp_path_factory.mktemp("platform")
    shutil.copy(PLATFORM / "alembic.ini", tree)
    shutil.copytree(PLATFORM / "migrations", tree / "migrations", ignore=shutil.ignore_patterns("__pycache__"))
    for release in ("v2.1.0", "v2.2.0"):
        shutil.copytree(PLATFORM / "releases" / release / "migrations", tree / "migrations", dirs_exist_ok=True)
    config = (tree / "alembic.ini").read_text()
    loggers = "[loggers]\nkeys=root,alembic\n[handlers]\nkeys=console\n[formatters]\nkeys=generic\n"
    loggers += (
        "[logger_root]\nlevel=WARNING\nhandlers=console\n[logger_alembic]\nlevel=INFO\nhandlers=\nqualname=alembic\n"
    )
    loggers += "[handler_console]\nclass=StreamHandler\nargs=(sys.stderr,)\nformatter=generic\n"
    loggers += "[formatter_generic]\nformat=%(levelname)-5.5s [%(name)s] %(message)s\n"
    (tree / "alembic.ini").write_text(f"{config}\n{loggers}")
    env = tree / "migrations" / "env.py"
    start = "from logging.config import fileConfig\nfrom alembic import context\n"
    start += "fileConfig(context.config.config_file_name)\n"
    env.write_text(
        env.read_text().replace("from __future__ import annotations\n", f"from __future__ import annotations\n{start}")
    )
    return tree


def alembic(tree: Path, *args: str) -> str:
    """Both streams in one, as a pod's log has them."""
    env = {key: value for key, value in os.environ.items() if key != "DATABASE_URL"}
    argv = [sys.executable, "-m", "alembic", "-c", str(tree / "alembic.ini"), *args, "--sql"]
    return subprocess.run(
        argv, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=True, cwd=tree
    ).stdout


def test_the_platforms_releases_are_read_and_classed(tree: Path) -> None:
    text = alembic(tree, "upgrade", "0005_activity_indexes:head")
    assert "INFO  [alembic.runtime.migration] Running upgrade" in text
    scores, dropping = read_offline_sql(text, start="0005_activity_indexes", target="0007_drop_old_engagement")
    assert (scores.revision, scores.down_revision) == ("0006_supplier_scores", "0005_activity_indexes")
    assert (dropping.revision, dropping.down_revision) == ("0007_drop_old_engagement", "0006_supplier_scores")
    assert scores.title.startswith("Release v2.1.0: how good a supplier's data is.")
    assert scores.sql.startswith("BEGIN;")
    assert "CREATE INDEX CONCURRENTLY" in scores.sql
    assert "UPDATE alembic_version" in scores.sql
    assert "[alembic" not in scores.sql + dropping.sql
    assert scores.classified().kind == EXPAND_ONLY
    assert scores.classified().warnings == ()
    assert "adds column suppliers.data_score" in scores.classified().reasons
    found = dropping.classified()
    assert found.kind == "destructive"
    assert found.drops == ("suppliers.engagement_status", "emission_attachments")
    assert found.reasons[1] == (
        "removes table emission_attachments, which the previous release may need: DROP TABLE emission_attachments"
    )
    assert worst([scores.classified(), found]) == DESTRUCTIVE


def test_from_nothing_everything_is_new(tree: Path) -> None:
    found = read_offline_sql(alembic(tree, "upgrade", "0005_activity_indexes"), target="0005_activity_indexes")
    assert len(found) == 5
    assert found[0].down_revision is None
    assert "CREATE TABLE alembic_version" in found[0].sql
    assert {migration.classified().kind for migration in found} == {EXPAND_ONLY}


def test_a_downgrade_says_what_it_drops(tree: Path) -> None:
    text = alembic(tree, "downgrade", "0007_drop_old_engagement:0003_audit_and_usage")
    steps = read_offline_sql(text, start="0007_drop_old_engagement", target="0003_audit_and_usage")
    assert [(step.direction, step.revision, step.down_revision) for step in steps] == [
        ("downgrade", "0007_drop_old_engagement", "0006_supplier_scores"),
        ("downgrade", "0006_supplier_scores", "0005_activity_indexes"),
        ("downgrade", "0005_activity_indexes", "0004_documents_and_reports"),
        ("downgrade", "0004_documents_and_reports", "0003_audit_and_usage"),
    ]
    assert [step.classified().drops for step in steps] == [
        (),
        ("supplier_scores", "suppliers.data_score"),
        (),
        ("reports", "documents"),
    ]
    assert [step.classified().kind for step in steps] == [EXPAND_ONLY, DESTRUCTIVE, DESTRUCTIVE, DESTRUCTIVE]


def test_nothing_to_do_is_no_migration(tree: Path) -> None:
    revision = "0005_activity_indexes"
    assert read_offline_sql(alembic(tree, "upgrade", f"{revision}:{revision}"), start=revision, target=revision) == []
    assert read_offline_sql("") == []
    assert worst([]) == NONE


def test_output_that_was_cut_anywhere_is_refused_or_destructive(tree: Path) -> None:
    """Whichever part of it is missing, a destructive release never looks like a harmless one."""
    text = alembic(tree, "upgrade", "0005_activity_indexes:head")
    ends = {"start": "0005_activity_indexes", "target": "0007_drop_old_engagement"}
    for at in range(1, len(text), 31):
        for part in (text[:at].rstrip("COMIT;\n \t"), text[at:]):
            try:
                found = read_offline_sql(part, **ends)
            except UnexpectedAnswer:
                continue
            assert worst(migration.classified() for migration in found) == DESTRUCTIVE, part


def test_output_that_was_cut_between_migrations_is_refused_by_its_transaction(tree: Path) -> None:
    text = alembic(tree, "upgrade", "0004_documents_and_reports:head")
    for step in ("-- Running upgrade 0005", "-- Running upgrade 0006"):
        at = text.index(step)
        for part in (text[:at], text[at:]):
            with pytest.raises(UnexpectedAnswer, match="it was cut"):
                read_offline_sql(part)


@pytest.mark.parametrize(
    "text",
    [
        "Traceback (most recent call last):\n  File x\nKeyError: 'DATABASE_URL'\n",
        "FAILED: Can't locate revision identified by 'x'",
        "DROP TABLE users;\n\n-- Running upgrade a -> b\n\nUPDATE alembic_version SET version_num='b';",
        "-- Running upgrade a -> b\n\nCREATE TABLE t ();\n",
        "-- Running upgrade a -> \n\nCREATE TABLE t ();\n",
        "sim ran [...]",
        "\0",
    ],
)
def test_what_is_not_alembics_output_is_refused(text: str) -> None:
    with pytest.raises(UnexpectedAnswer, match="Alembic gave an answer that cannot be used"):
        read_offline_sql(text)


RECORD = "UPDATE alembic_version SET version_num='b' WHERE alembic_version.version_num = 'a';"


@pytest.mark.parametrize(
    "line",
    [
        "INFO  [alembic.runtime.migration] Context impl PostgresqlImpl.",
        "INFO  [alembic.runtime.migration] Running upgrade a -> b, Don't; DROP TABLE it's \"quoted\" */",
        "2026-11-03 09:00:00,123 WARNING [vcci.app] hello",
        "INFO:alembic.runtime.migration:Generating static SQL",
        '{"level": "info", "message": "it\'s up"}',
    ],
)
def test_lines_of_a_log_are_left_out_wherever_they_fall(line: str) -> None:
    sql = f"-- Running upgrade a -> b\n\nCREATE TABLE t (\n    id int\n);\n\n{RECORD}"
    plain = read_offline_sql(sql)[0].sql
    lines = sql.split("\n")
    for at in range(len(lines) + 1):
        text = "\n".join([*lines[:at], line, *lines[at:]])
        assert read_offline_sql(text)[0].sql.replace("\n\n", "\n") == plain.replace("\n\n", "\n")


@pytest.mark.parametrize(
    "sql",
    [
        "/*\nINFO  [a.b] */ DROP TABLE users; /*\n*/",
        "COMMENT ON TABLE t IS '\nINFO  [a.b] '; DROP TABLE users; COMMENT ON TABLE t IS '\n';",
        "SELECT $$\nINFO  [a.b] $$; DROP TABLE users; SELECT $$\n$$;",
    ],
)
def test_nothing_hides_behind_a_line_that_looks_like_a_log(sql: str) -> None:
    (migration,) = read_offline_sql(f"-- Running upgrade a -> b\n\n{sql}\n\n{RECORD}")
    assert "DROP TABLE users" in migration.sql
    assert migration.classified().kind == DESTRUCTIVE


def test_a_literal_that_looks_like_a_log_is_kept() -> None:
    sql = "INSERT INTO texts VALUES ('first\n{\"a\": 1}\nINFO  [a.b] third');"
    (migration,) = read_offline_sql(f"-- Running upgrade a -> b\n\n{sql}\n\n{RECORD}")
    assert sql in migration.sql


def test_migrations_and_classes_survive_json() -> None:
    migration = Migration("b", None, "DROP TABLE t", "Title", "upgrade")
    assert Migration.from_dict(json.loads(json.dumps(migration.to_dict()))) == migration
    found = classify("DROP TABLE t; CREATE INDEX i ON u (a)")
    assert found.warnings
    assert Classified.from_dict(json.loads(json.dumps(found.to_dict()))) == found


# Classes ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "sql",
    [
        *(
            "",
            "-- only a comment\n/* another */;",
            "BEGIN; COMMIT;",
            "SET lock_timeout = '5s';",
            "ANALYZE users",
            "SELECT 1",
        ),
        "CREATE TABLE alembic_version (version_num VARCHAR(32) NOT NULL);",
        "INSERT INTO alembic_version (version_num) VALUES ('a') RETURNING alembic_version.version_num;" + RECORD,
        "DELETE FROM alembic_version WHERE alembic_version.version_num = 'a'",
    ],
)
def test_none(sql: str) -> None:
    assert classify(sql) == Classified(NONE)


@pytest.mark.parametrize(
    "sql",
    [
        *(
            "ALTER TABLE t ADD COLUMN a text",
            "ALTER TABLE t ADD a int DEFAULT 0 NOT NULL",
            "ALTER TABLE t ADD a text DEFAULT 'x'",
        ),
        *("ALTER TABLE t ADD a timestamptz DEFAULT now()", "ALTER TABLE t ADD a int REFERENCES u (id)"),
        *("ALTER TABLE t ADD a int CHECK (a > 0)", "ALTER TABLE t ADD a jsonb NOT NULL DEFAULT '{}'::jsonb"),
        *("CREATE TABLE t (id int PRIMARY KEY, u int NOT NULL REFERENCES u)", "CREATE TABLE IF NOT EXISTS t ()"),
        *(
            "CREATE TABLE t PARTITION OF u FOR VALUES IN (1)",
            "CREATE TABLE t AS SELECT lower(a) FROM u",
            "SELECT a INTO t FROM u",
        ),
        *(
            "CREATE INDEX CONCURRENTLY i ON t (a)",
            "CREATE INDEX ON t (lower(a))",
            "CREATE VIEW v AS SELECT my_function(a) FROM t",
        ),
        *("CREATE OR REPLACE VIEW v AS SELECT 1", "CREATE MATERIALIZED VIEW m AS SELECT 1 AS a"),
        *("CREATE TYPE e AS ENUM ('a')", "CREATE TYPE c AS (a int)", "CREATE DOMAIN d AS text CHECK (value <> '')"),
        *(
            "CREATE SEQUENCE s",
            "CREATE SCHEMA s",
            "CREATE SCHEMA s CREATE TABLE t ()",
            "CREATE EXTENSION IF NOT EXISTS pgcrypto",
        ),
        *(
            "CREATE FUNCTION f() RETURNS int LANGUAGE sql AS 'DELETE FROM t; SELECT 1'",
            "CREATE STATISTICS s ON a, b FROM t",
        ),
        *("ALTER TABLE t ADD CONSTRAINT c CHECK (a > 0) NOT VALID", "ALTER TABLE t VALIDATE CONSTRAINT c"),
        *(
            "ALTER TYPE e ADD VALUE 'x'",
            "ALTER TYPE e ADD VALUE IF NOT EXISTS 'x' BEFORE 'y'",
            "COMMENT ON TABLE t IS 'DROP TABLE t'",
        ),
        *(
            "GRANT SELECT ON t TO r",
            "INSERT INTO units (name) VALUES ('kg'), ('t')",
            "ALTER TABLE t ALTER a SET DEFAULT 1",
        ),
        *("INSERT INTO units VALUES (1) ON CONFLICT DO NOTHING", "INSERT INTO t (a) SELECT upper(b) FROM u"),
        *(
            "ALTER TABLE t ALTER a DROP NOT NULL",
            "ALTER TABLE t SET (fillfactor = 90)",
            "ALTER TABLE t ALTER a SET STATISTICS 500",
        ),
        "ALTER TABLE t ADD a int; UPDATE t SET a = b + 1 WHERE a IS NULL",
        "ALTER TABLE t ADD a int; CREATE UNIQUE INDEX CONCURRENTLY i ON t (a)",
        "ALTER TABLE t ADD a int DEFAULT 0; ALTER TABLE t ALTER a SET NOT NULL",
        "ALTER TABLE t ADD a int; ALTER TABLE t ALTER a TYPE text; ALTER TABLE t DROP a; ALTER TABLE t ADD c int",
    ],
)
def test_expand_only(sql: str) -> None:
    found = classify(sql)
    assert (found.kind, found.drops) == (EXPAND_ONLY, ())
    assert found.reasons


@pytest.mark.parametrize(
    "sql",
    [
        "CREATE TABLE t (a int); INSERT INTO t VALUES (1); UPDATE t SET a = 2; DELETE FROM t; TRUNCATE t",
        "CREATE TABLE t (a int); ALTER TABLE t ALTER a TYPE text, ALTER a SET NOT NULL, ADD UNIQUE (a); DROP TABLE t",
        "CREATE TABLE s.t (a int); ALTER TABLE s.t DROP COLUMN a; CREATE UNIQUE INDEX i ON s.t (a); DROP INDEX s.i",
        "CREATE TABLE t (a int); ALTER TABLE t RENAME TO u; ALTER TABLE u RENAME COLUMN a TO b; DELETE FROM u",
        "CREATE TABLE t (a int); CREATE TRIGGER x BEFORE INSERT ON t FOR EACH ROW EXECUTE FUNCTION f()",
        "CREATE VIEW v AS SELECT 1; DROP VIEW v",
        "CREATE TABLE t (a int); WITH x AS (DELETE FROM t RETURNING a) INSERT INTO u SELECT a FROM x",
    ],
)
def test_what_the_migration_created_it_may_change(sql: str) -> None:
    found = classify(sql)
    assert (found.kind, found.drops, found.warnings) == (EXPAND_ONLY, (), ())


@pytest.mark.parametrize(
    ("sql", "words", "drops"),
    [
        ("DROP TABLE a, b.c", "removes table a, which the previous release may need", ("a", "b.c")),
        (
            "DROP TABLE IF EXISTS a CASCADE",
            "removes table a and whatever depends on it",
            ("a (and what depends on it)",),
        ),
        ("ALTER TABLE t DROP COLUMN a", "removes column t.a", ("t.a",)),
        ("ALTER TABLE t DROP COLUMN IF EXISTS a CASCADE", "whatever depends on it", ("t.a (and what depends on it)",)),
        ("DROP INDEX CONCURRENTLY i", "removes index i", ()),
        ("DROP VIEW v", "removes view v", ()),
        ("DROP SCHEMA s CASCADE", "removes schema s", ("schema s (and what depends on it)",)),
        ("DROP TYPE e", "removes type e", ("type e",)),
        ("DROP FUNCTION f(int)", "removes function f", ()),
        ("DROP MATERIALIZED VIEW m", "removes materialized view m", ("materialized view m",)),
        ("DELETE FROM t WHERE a = 1", "removes rows of t", ("rows of t",)),
        ("TRUNCATE t, u", "empties t, u", ("rows of t", "rows of u")),
        ("UPDATE t SET a = 1, b = 2", "overwrites a, b of t", ("t.a (overwritten)", "t.b (overwritten)")),
        ("ALTER TABLE t ADD c int; UPDATE t SET c = a, a = 0", "overwrites a of t", ("t.a (overwritten)",)),
        (
            "INSERT INTO t VALUES (1) ON CONFLICT (a) DO UPDATE SET b = 1",
            "overwrites rows",
            ("rows of t (overwritten)",),
        ),
        ("MERGE INTO t USING u ON t.a = u.a WHEN MATCHED THEN DELETE", "not understood (Merge)", ()),
        ("ALTER TABLE t ALTER a TYPE text", "changes the type of t.a to text", ("t.a (converted to text)",)),
        ("ALTER TABLE t ALTER a SET NOT NULL", "t.a may not be empty any more", ()),
        ("ALTER TABLE t ADD a int; ALTER TABLE t ALTER a SET NOT NULL", "t.a may not be empty any more", ()),
        ("ALTER TABLE t ADD a int NOT NULL", "t.a is required and has no default", ()),
        ("ALTER TABLE t ADD a int NOT NULL DEFAULT NULL::int", "t.a is required and has no default", ()),
        ("ALTER TABLE t ADD a int CHECK (a IS NOT NULL)", "t.a may not stay empty", ()),
        ("ALTER TABLE t ADD a int DEFAULT 0 NOT NULL; ALTER TABLE t ALTER a DROP DEFAULT", "the default of t.a", ()),
        ("ALTER TABLE t RENAME TO u", "renames t,", ()),
        ("ALTER TABLE t RENAME COLUMN a TO b", "renames t.a,", ()),
        ("ALTER TYPE e RENAME VALUE 'a' TO 'b'", "renames the value a of type e", ()),
        ("ALTER TABLE t DROP CONSTRAINT c", "removes constraint c of t", ()),
        ("ALTER TABLE t ADD UNIQUE (a)", "refuses rows that the previous release may write", ()),
        ("CREATE UNIQUE INDEX CONCURRENTLY i ON t (a)", "a unique index on t refuses rows", ()),
        ("ALTER TABLE t ADD a int DEFAULT 0; CREATE UNIQUE INDEX i ON t (a)", "a unique index on t refuses rows", ()),
        ("REVOKE SELECT ON t FROM r", "takes rights away", ()),
        ("ALTER TABLE t OWNER TO r", "not understood (ChangeOwner)", ()),
        ("ALTER TABLE t ENABLE ROW LEVEL SECURITY", "not understood (EnableRowSecurity)", ()),
        ("ALTER TABLE t DISABLE TRIGGER ALL", "not understood (DisableTrigAll)", ()),
        ("ALTER TABLE t SET SCHEMA s", "moves to another schema", ()),
        ("CREATE POLICY p ON t USING (false)", "which rows the previous release sees", ()),
        ("CREATE TRIGGER x BEFORE INSERT ON t FOR EACH ROW EXECUTE FUNCTION f()", "a trigger on t acts", ()),
        ("CREATE RULE r AS ON INSERT TO t DO INSTEAD DELETE FROM u", "not understood (Rule)", ()),
        ("CREATE OR REPLACE FUNCTION f() RETURNS int LANGUAGE sql AS 'SELECT 1'", "may replace the function f", ()),
        ("DO $$ BEGIN EXECUTE 'DROP TABLE t'; END $$", "a DO block, whose effects cannot be read", ()),
        ("CALL p()", "calls a procedure", ()),
        ("SELECT drop_everything()", "calls drop_everything(), which may do anything", ()),
        ("SELECT evil.lower('a')", "calls evil.lower(), which may do anything", ()),
        ("ALTER TABLE t ADD a int DEFAULT f()", "calls f(), which may do anything", ()),
        ("SELECT setval('s', 1)", "calls setval()", ()),
        ("SET search_path = evil", "sets search_path", ()),
        ("SET session_replication_role = replica", "sets session_replication_role", ()),
        ("RESET ALL", "sets all settings", ()),
        ("SET ROLE postgres", "sets role", ()),
        ("COPY t FROM stdin", "COPY, whose data cannot be read", ()),
        ("ROLLBACK", "takes back statements", ()),
        ("VACUUM FULL t", "VACUUM is nothing for a migration", ()),
        ("ALTER SEQUENCE s RESTART", "changes a sequence", ()),
        ("GRANT admin TO r", "not understood (GrantRole)", ()),
        ("ALTER SYSTEM SET x = 1", "not understood (AlterSystem)", ()),
        ("DROP DATABASE d", "not understood (Dropdb)", ()),
        (
            "WITH x AS (DELETE FROM u RETURNING a) INSERT INTO t SELECT a FROM x",
            "changes rows of u within",
            ("rows of u",),
        ),
        (
            "CREATE TABLE t AS WITH x AS (DELETE FROM u RETURNING a) SELECT a FROM x",
            "changes rows of u",
            ("rows of u",),
        ),
        ("CREATE TABLE IF NOT EXISTS t (a int); DELETE FROM t", "removes rows of t", ("rows of t",)),
        ("CREATE TEMP TABLE t (a int); COMMIT; DELETE FROM t", "removes rows of t", ("rows of t",)),
        ("CREATE TABLE s.t (a int); DROP TABLE t", "removes table t", ("t",)),
        ("CREATE TABLE t (a int); DROP TABLE t; DROP TABLE t", "removes table t", ("t",)),
        ("CREATE TABLE t (a int); DROP TABLE t CASCADE", "whatever depends on it", ("t (and what depends on it)",)),
        (
            "CREATE TABLE t (a int); TRUNCATE t CASCADE",
            "empties tables, and those that refer to them",
            ("rows of t (and of what refers to it)",),
        ),
        ("CREATE TABLE t (a int); ALTER TABLE t ATTACH PARTITION u DEFAULT", "not understood (AttachPartition)", ()),
        (
            "UPDATE alembic_version SET version_num = f()",
            "calls f(), which may do anything",
            ("alembic_version.version_num (overwritten)",),
        ),
        ("DROP TABLE alembic_version", "removes table alembic_version", ("alembic_version",)),
        ("CREATE TABLE t (a int);\0 DROP TABLE u", "NUL", ()),
        ("CREATE TABLE t (a int); garbage", "cannot be read", ()),
        ("CREATE TABLE t (a int); SELECT 'open", "cannot be read", ()),
        ("\\c other\nCREATE TABLE t ();", "cannot be read", ()),
        ("SELECT " + "(" * 200_000 + "1", "cannot be read", ()),
        ("CREATE TABLE t (); --" + "x" * 3_000_000, "characters, more than", ()),
        ("CREATE TABLE \ud800 ()", "cannot be read", ()),
    ],
)
def test_destructive(sql: str, words: str, drops: tuple[str, ...]) -> None:
    found = classify(sql)
    assert (found.kind, found.drops) == (DESTRUCTIVE, drops)
    assert words in " | ".join(found.reasons)
    assert all(len(reason) < 400 for reason in found.reasons)


def test_a_reason_has_its_statement_without_comments_in_one_line() -> None:
    sql = "-- héader\nCREATE TABLE é ();\n-- why\nALTER TABLE t\n  DROP COLUMN a /* x */,\n  ADD COLUMN b int"
    assert classify(sql).reasons == (
        "removes column t.a, which the previous release may need: ALTER TABLE t DROP COLUMN a , ADD COLUMN b int",
    )


@pytest.mark.parametrize(
    ("old", "new", "kind"),
    [
        ("character varying(50)", "varchar(100)", EXPAND_ONLY),
        ("character varying(50)", "text", EXPAND_ONLY),
        ("character varying(50)", "varchar", EXPAND_ONLY),
        ("integer", "bigint", EXPAND_ONLY),
        ("numeric(10,2)", "numeric(12,2)", EXPAND_ONLY),
        ("character varying(50)", "varchar(20)", DESTRUCTIVE),
        ("text", "varchar(20)", DESTRUCTIVE),
        ("character varying", "varchar(20)", DESTRUCTIVE),
        ("bigint", "int", DESTRUCTIVE),
        ("numeric(10,2)", "numeric(12,4)", DESTRUCTIVE),
        ("jsonb", "text", DESTRUCTIVE),
        ("integer", "text", DESTRUCTIVE),
        ("character varying(50)[]", "varchar(100)", DESTRUCTIVE),
        ("", "text", DESTRUCTIVE),
    ],
)
def test_widening_needs_the_type_that_was(old: str, new: str, kind: SchemaChange) -> None:
    sql = f"ALTER TABLE t ALTER COLUMN a TYPE {new}"
    assert classify(sql, types={"t.a": old}).kind == kind
    assert classify(sql).kind == DESTRUCTIVE
    assert classify(f"{sql} USING 'x'", types={"t.a": old}).kind == DESTRUCTIVE


@pytest.mark.parametrize(
    ("sql", "words"),
    [
        ("CREATE INDEX i ON t (a)", "stops writing to t while the index is built"),
        ("ALTER TABLE t ADD CONSTRAINT c CHECK (a > 0)", "stops writing to t while all its rows are checked"),
        ("ALTER TABLE t ADD FOREIGN KEY (a) REFERENCES u", "stops writing to t while all its rows are checked"),
        ("ALTER TABLE t ADD a uuid DEFAULT gen_random_uuid()", "rewrites t while nobody can use it"),
        ("ALTER TABLE t ADD a serial", "rewrites t while nobody can use it"),
        ("ALTER TABLE t ADD a int GENERATED ALWAYS AS (b * 2) STORED", "rewrites t while nobody can use it"),
        ("ALTER TABLE t ADD a int; UPDATE t SET a = 1", "locks every row of t"),
        ("REFRESH MATERIALIZED VIEW m; CREATE TABLE x ()", "stops reading the materialized view"),
        ("LOCK TABLE t; CREATE TABLE x ()", "locks tables until the migration ends"),
    ],
)
def test_what_locks_for_long_is_said(sql: str, words: str) -> None:
    found = classify(sql)
    assert found.kind == EXPAND_ONLY
    assert words in " | ".join(found.warnings)


@pytest.mark.parametrize(
    "sql",
    [
        *(
            "CREATE INDEX CONCURRENTLY i ON t (a)",
            "ALTER TABLE t ADD a int DEFAULT 5",
            "CREATE TABLE x (a int); CREATE INDEX i ON x (a)",
        ),
        "CREATE TABLE IF NOT EXISTS x (a int); CREATE INDEX IF NOT EXISTS i ON x (a)",
    ],
)
def test_what_is_quick_is_not_warned_of(sql: str) -> None:
    assert classify(sql).warnings == ()


EXPAND = [
    "CREATE TABLE t (a int)",
    "ALTER TABLE t ADD COLUMN b int",
    "CREATE INDEX i ON t (a)",
    "COMMENT ON TABLE t IS 'x'",
]
BAD = ["DROP TABLE u", "DELETE FROM u", "TRUNCATE u", "DO $$ begin end $$", "ALTER TABLE u DROP COLUMN c", "SELECT f()"]


@given(st.text(max_size=60))
@settings(max_examples=100, deadline=None)
def test_garbage_is_never_expand_only(text: str) -> None:
    assert classify(text).kind in (NONE, DESTRUCTIVE)
    with contextlib.suppress(UnexpectedAnswer):
        read_offline_sql(text)


@given(
    st.lists(st.sampled_from(EXPAND + BAD), min_size=1, max_size=6), st.sampled_from(["; ", ";\n-- x\n", ";/* ; */ "])
)
@settings(max_examples=60, deadline=None)
def test_one_destructive_statement_makes_it_destructive_wherever_it_stands(parts: list[str], between: str) -> None:
    expected = DESTRUCTIVE if set(parts) & set(BAD) else EXPAND_ONLY
    assert classify(between.join(parts)).kind == expected


@given(st.text(alphabet="abct ;'\"$-/*()\n\0,=1", max_size=40))
@settings(max_examples=100, deadline=None)
def test_no_text_in_front_hides_what_is_behind(text: str) -> None:
    """Unless it is inside of the text's own comment or literal, which PostgreSQL would not run either."""
    from pglast import parse_sql
    from pglast.parser import ParseError

    sql = f"CREATE TABLE x (a int); {text}; DROP TABLE users"
    try:
        dropped = "\0" in sql or any(type(s.stmt).__name__ == "DropStmt" for s in parse_sql(sql))
    except ParseError:
        dropped = True
    assert (classify(sql).kind == DESTRUCTIVE) >= dropped
