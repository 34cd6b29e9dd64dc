"""Exporting a tenant and proving it, on two real servers and S3: hostile types, kills, refusals, flipped bits."""

from __future__ import annotations

import gzip
import hashlib
import json
import multiprocessing
import os
import shutil
import subprocess
import threading
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.error import HTTPError

import psycopg
import pytest

from sandbox.service import Sandbox, wait_until
from sandbox.services import postgres, s3
from tests.integration.tenant_schemas import ADA, BOB, ROWS, Database, Databases
from tests.integration.valve import Valve
from vcci_ops.domain.tenant_export import TableExport
from vcci_ops.domain.tenant_graph import Graph
from vcci_ops.exceptions import ChangeFailed, Forbidden, NoData, Refused, Unreachable
from vcci_ops.hooks.crew import Crew
from vcci_ops.hooks.tenant_documents import Documents
from vcci_ops.hooks.tenant_export import Destination, Export, export, prove
from vcci_ops.hooks.tenant_graph import TenantCatalog
from vcci_ops.hooks.tenant_objects import ExportStore
from vcci_ops.hooks.tenant_proof import PREFIX, scratch_database

pytestmark = pytest.mark.integration

EXPORTS, DOCUMENTS = "vcci-exports", "vcci-documents"
TENANT = {"id": ADA, "slug": "ada", "name": "Ada & Söhne"}
HASH = "9c" * 32
MAIL = "margarete.ungewoehnlich@ada.example"

TYPES = """
CREATE EXTENSION citext;
CREATE EXTENSION hstore;
CREATE SCHEMA "Ten ant";
CREATE TYPE "Ten ant"."Mood" AS ENUM ('so so', 'it''s "fine"', '\\\\.');
CREATE DOMAIN kilograms AS numeric(12, 3) CHECK (value >= 0);
CREATE DOMAIN mail AS citext CHECK (value ~ '@');
CREATE TYPE pair AS (left_side text, right_side int);
CREATE TYPE span AS RANGE (subtype = float8);
CREATE TABLE "Ten ant"."We""ird.Table" (
    "Id" int PRIMARY KEY, tenant_id uuid NOT NULL, "select" text, tabbed text, raw bytea, doc jsonb, old json,
    words text[], grid int[][], exact numeric, float float8, at timestamptz, day date, lasted interval, ip inet,
    bits bit varying(9), fixed char(5), short varchar(3), mood "Ten ant"."Mood", moods "Ten ant"."Mood"[],
    weight kilograms, mail mail, loose citext, many citext[], halves pair, window_ span, days daterange, tags hstore,
    price money, place point, search tsvector, relation regclass, password_hash text,
    doubled numeric GENERATED ALWAYS AS (exact * 2) STORED);
INSERT INTO "Ten ant"."We""ird.Table" (
    "Id", tenant_id, "select", tabbed, raw, doc, old, words, grid, exact, float, at, day, lasted, ip, bits, fixed,
    short, mood, moods, weight, mail, loose, many, halves, window_, days, tags, price, place, search, relation,
    password_hash)
SELECT n, CASE WHEN n % 3 = 0 THEN '{bob}' ELSE '{ada}' END::uuid,
    (ARRAY['\\.', '\\N', 'N', '', E'line\\nbreak\\r\\n', E'\\\\', '💡 ünï', NULL,
        'it''s; DROP TABLE tenants; --'])[1 + n % 9],
    E'\\ta\\b\\f\\v\\x01\\\\' || n, decode(md5(n::text), 'hex') || '\\x00ff00'::bytea,
    '{{"a": [1, null, "\\\\n\\"]"]}}',
    '{{"b" :  1, "b": 2}}', ARRAY['x', NULL, 'NULL', '', E'y,{{}}"\\n\\\\'], '{{{{1,2}},{{3,NULL}}}}',
    CASE n % 4 WHEN 0 THEN 'NaN'::numeric WHEN 1 THEN 12345678901234567890.123456789 ELSE -0.1 END,
    CASE n % 5 WHEN 0 THEN 'Infinity'::float8 WHEN 1 THEN 0.1::float8 + 0.2 ELSE 'NaN' END,
    CASE n % 3 WHEN 0 THEN 'infinity' ELSE '2026-03-29 02:30:00.123456+05:30' END::timestamptz, '0044-03-15 BC',
    '-1 year 2 mons -3 days 04:05:06.7', '2001:db8::1/64', B'1010', 'ab', 'äöü', 'it''s "fine"',
    ARRAY['\\\\.', NULL]::"Ten ant"."Mood"[], n + 0.125, '{mail}', 'CaSe', ARRAY['A', NULL, 'b,"c'],
    ROW('a "b",(c)', n)::pair,
    '[0.1,0.3)', '[2026-01-01,)', 'a=>1, "b c"=>NULL', '1234.56', '(1.5,-2)', 'a:1A b''s:2', 'tenants', 'secret' || n
FROM generate_series(1, 300) n;
CREATE TABLE nothing_here (tenant_id uuid, note text);
"""


class Stage:
    """Two database servers, S3, and the connections to them."""

    def __init__(
        self, box: Sandbox, databases: Databases, restore: postgres.Restore, patch: pytest.MonkeyPatch
    ) -> None:
        self.box, self.databases, self.restore, self.patch = box, databases, restore, patch
        self.s3 = s3.client(box)
        for bucket in (EXPORTS, DOCUMENTS):
            self.s3.create_bucket(Bucket=bucket, CreateBucketConfiguration={"LocationConstraint": s3.REGION})
        self.connect(box.port("s3-direct"))
        for id_, connection in restore.connections(box).items():
            patch.setenv(f"AIRFLOW_CONN_{id_.upper()}", json.dumps(connection))

    def connect(self, port: int) -> None:
        """Point the connection of S3 there."""
        connection = s3.S3().connections(self.box)["vcci_s3"]
        connection["extra"]["endpoint_url"] = f"http://127.0.0.1:{port}"
        self.patch.setenv("AIRFLOW_CONN_VCCI_S3", json.dumps(connection))

    @contextmanager
    def through(self, port: int) -> Iterator[None]:
        """Reach S3 by another way for a while."""
        self.connect(port)
        try:
            yield
        finally:
            self.connect(self.box.port("s3-direct"))

    def use(self, database: Database) -> Database:
        """Let the connections lead to this database."""
        for key, value in database.connections().items():
            self.patch.setenv(key, value)
        return database

    def graph(self) -> Graph:
        """Return what is Ada's."""
        return TenantCatalog().graph(ADA)

    def export(self, run: str, **kw: Any) -> Export:
        """Export Ada, as the task does."""
        return export(self.graph(), TENANT, HASH, self.destination(run, **kw))

    def destination(self, run: str, **kw: Any) -> Destination:
        """Return where Ada goes."""
        documents = {"documents_bucket": DOCUMENTS, "documents_prefix": f"tenants/{ADA}/"}
        return Destination(**{"bucket": EXPORTS, "prefix": "tenants/", "run": run, **documents, **kw})

    def keys(self, prefix: str) -> list[str]:
        """Return what is in the export bucket below a prefix."""
        return [o["Key"] for o in self.s3.list_objects_v2(Bucket=EXPORTS, Prefix=prefix).get("Contents", ())]

    def body(self, key: str) -> bytes:
        """Return an object of the export bucket."""
        content: bytes = self.s3.get_object(Bucket=EXPORTS, Key=key)["Body"].read()
        return content

    def flip(self, key: str, at: int = -20) -> bytes:
        """Flip one bit of an object, and return what it was before."""
        before = self.body(key)
        damaged = bytearray(before)
        damaged[at] ^= 1
        self.s3.put_object(Bucket=EXPORTS, Key=key, Body=bytes(damaged), ServerSideEncryption="AES256")
        return before

    def unfinished(self) -> list[str]:
        """Return the keys of uploads that nobody has ended."""
        return [o["Key"] for o in self.s3.list_multipart_uploads(Bucket=EXPORTS).get("Uploads", ())]

    def proofs(self) -> list[str]:
        """Return the scratch databases that are there."""
        with postgres.admin(self.box, self.restore) as connection:
            found = connection.execute("SELECT datname FROM pg_database WHERE starts_with(datname, %s)", (PREFIX,))
            return [name for (name,) in found]


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    box = Sandbox(tmp_path_factory.mktemp("sandbox"))
    production, restore, store = postgres.Production(), postgres.Restore(), s3.S3()
    with ExitStack() as stack:
        for service in (production, restore, store):
            service.start(box)
            stack.callback(box.end, service.name)
        wait_until("S3", lambda: store.ready(box), seconds=30)
        restore.prepare(box)
        databases = Databases(box, production)
        databases.prepare()
        patch = stack.enter_context(pytest.MonkeyPatch.context())
        yield Stage(box, databases, restore, patch)


@pytest.fixture(scope="module")
def valve(stage: Stage) -> Iterator[Valve]:
    with closing(Valve(stage.box.port("s3-direct"))) as opened:
        yield opened


@pytest.fixture(scope="module")
def typed(stage: Stage) -> Database:
    """A database with every type that is hard to carry."""
    database = stage.databases.fresh("bare")
    with database.admin() as connection:
        for id_, slug in ((ADA, "ada"), (BOB, "bob")):
            connection.execute("INSERT INTO tenants VALUES (%s, %s, 'x', 'suspended')", (id_, slug))
    database.run(TYPES.format(ada=ADA, bob=BOB, mail=MAIL))
    for number in range(5):
        kind = {"ContentType": "text/csv", "Metadata": {"by": "importer"}}
        key, body = f"tenants/{ADA}/sub/ünï {number}.csv", os.urandom(1000 * number)
        stage.s3.put_object(Bucket=DOCUMENTS, Key=key, Body=body, **kind)
    stage.s3.put_object(Bucket=DOCUMENTS, Key=f"tenants/{BOB}/other.csv", Body=b"bob's")
    return database


@pytest.fixture(scope="module")
def whole(stage: Stage, typed: Database) -> Export:
    """An export of the hostile types."""
    stage.use(typed)
    return stage.export("whole/run 1")


WEIRD = '"Ten ant"."We""ird.Table"'


def test_every_type_goes_out_and_comes_in_again(stage: Stage, whole: Export, caplog: pytest.LogCaptureFixture) -> None:
    assert whole.tables[WEIRD]["rows"] == 200
    assert whole.tables["public.nothing_here"]["rows"] == 0
    assert whole.documents == {"count": 5, "bytes": 10_000}
    assert prove(whole) == []
    assert stage.proofs() == []
    assert MAIL not in json.dumps(whole.to_dict()) + caplog.text
    assert Export.from_dict(json.loads(json.dumps(whole.to_dict()))) == whole


def test_the_export_says_what_it_left_out_and_what_it_turned_into_text(stage: Stage, whole: Export) -> None:
    notes = "\n".join(whole.notes)
    assert f"{WEIRD}: password_hash is a secret and was left out" in notes
    as_text = {note.split(": ")[1].split(" is ")[0] for note in whole.notes if "text here" in note}
    assert as_text == {"mail", "loose", "many", "halves", "window_", "tags", "price", "relation"}
    manifest = json.loads(stage.body(whole.manifest))
    table = next(t for t in map(TableExport.from_dict, manifest["tables"]) if t.name == WEIRD)
    assert "doubled" not in table.columns  # generated: it comes by itself
    assert b"secret" not in gzip.decompress(stage.body(whole.folder + table.key))
    assert (manifest["plan_hash"], manifest["tenant"]["slug"]) == (HASH, "ada")
    assert manifest["snapshot_at"] == whole.snapshot_at


def test_every_object_is_encrypted_and_only_this_tenants(stage: Stage, whole: Export) -> None:
    keys = stage.keys(whole.folder)
    assert all(stage.s3.head_object(Bucket=EXPORTS, Key=key)["ServerSideEncryption"] == "AES256" for key in keys)
    lines = gzip.decompress(stage.body(whole.folder + "documents.jsonl.gz")).splitlines()
    listed = [json.loads(line) for line in lines]
    assert {one["key"] for one in listed} == {f"tenants/{ADA}/sub/ünï {n}.csv" for n in range(5)}
    for one in listed:
        copy = whole.folder + "documents/" + one["key"].removeprefix(f"tenants/{ADA}/")
        assert hashlib.sha256(stage.body(copy)).hexdigest() == one["sha256"]
        told = stage.s3.head_object(Bucket=EXPORTS, Key=copy)
        assert (told["ContentType"], told["Metadata"]["by"]) == ("text/csv", "importer")
    tables = [gzip.decompress(stage.body(key)) for key in keys if "/tables/" in key]
    assert not any(BOB.encode() in text for text in tables)


def test_somebody_without_the_platform_loads_it_with_psql(stage: Stage, whole: Export, tmp_path: Path) -> None:
    for key in stage.keys(whole.folder):
        file = tmp_path / key.removeprefix(whole.folder)
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(stage.body(key))
    assert "psql -X -d export -f load.sql" in (tmp_path / "README.txt").read_text()
    subprocess.run(["sha256sum", "--quiet", "-c", "SHA256SUMS"], cwd=tmp_path, check=True)
    with scratch_database("vcci_postgres_restore") as inside:
        info = inside.info
        where = ["-h", "127.0.0.1", "-p", str(info.port), "-U", info.user, "-d", info.dbname]
        secret = {**os.environ, "PGPASSWORD": info.password}
        psql = shutil.which("psql") or "psql"
        done = subprocess.run(
            [psql, "-X", "-q", *where, "-f", "load.sql"],
            cwd=tmp_path,
            env=secret,
            capture_output=True,
            text=True,
            check=False,
        )
        assert (done.returncode, done.stderr) == (0, "")
        here = inside.execute(f'SELECT "Id", tabbed, mail, raw, moods FROM {WEIRD} ORDER BY 1 LIMIT 3').fetchall()
        with psycopg.connect(**postgres.parameters(stage.box, "postgres-direct", "vcci_ops_export", "test_1")) as home:
            there = home.execute(
                f'SELECT "Id", tabbed, mail, raw, moods FROM {WEIRD} WHERE tenant_id = %s ORDER BY 1 LIMIT 3', (ADA,)
            ).fetchall()
        assert here == there


@pytest.mark.parametrize(
    "what", ["tables/0003", "documents/", "documents.jsonl.gz", "schema.sql", "load.sql", "manifest.json"]
)
def test_one_flipped_bit_is_found(stage: Stage, whole: Export, what: str) -> None:
    key = list(stage.keys(whole.folder + what))[-1]
    before = stage.flip(key)
    try:
        problems = prove(whole)
    finally:
        stage.s3.put_object(Bucket=EXPORTS, Key=key, Body=before, ServerSideEncryption="AES256")
    assert problems
    assert MAIL not in "".join(problems)
    assert stage.proofs() == []


def test_what_is_missing_or_in_the_clear_is_found(stage: Stage, whole: Export) -> None:
    key = next(key for key in stage.keys(whole.folder + "tables/"))
    before = stage.body(key)
    stage.s3.delete_object(Bucket=EXPORTS, Key=key)
    missing = prove(whole)
    stage.s3.put_object(Bucket=EXPORTS, Key=key, Body=before)
    clear = prove(whole)
    stage.s3.put_object(Bucket=EXPORTS, Key=key, Body=before, ServerSideEncryption="AES256")
    assert len(missing) == 1
    assert len(clear) == 1
    assert "encrypted not at all" in clear[0]
    assert prove(whole) == []


def test_rows_that_get_lost_on_the_way_are_found(stage: Stage, whole: Export) -> None:
    """As if the file had been wrong from the beginning: its SHA-256 fits, what comes out of the database does not."""
    manifest = json.loads(stage.body(whole.manifest))
    table = next(table for table in manifest["tables"] if table["rows"] == 200)
    before = stage.body(whole.folder + table["key"])
    lines = gzip.decompress(before).splitlines(keepends=True)
    lines[0] = lines[0].replace(b"CaSe", b"cASe")
    for content, words in ((lines[:-1], "199 rows came out, 200 were exported"), (lines, "checksums differ")):
        packed = gzip.compress(b"".join(content))
        table.update(sha256=hashlib.sha256(packed).hexdigest(), bytes=len(packed))
        text = json.dumps(manifest).encode()
        stage.s3.put_object(Bucket=EXPORTS, Key=whole.folder + table["key"], Body=packed, ServerSideEncryption="AES256")
        stage.s3.put_object(Bucket=EXPORTS, Key="forged.json", Body=text, ServerSideEncryption="AES256")
        forged = {**whole.to_dict(), "manifest": "forged.json", "manifest_sha256": hashlib.sha256(text).hexdigest()}
        problems = prove(Export.from_dict(forged))
        assert len(problems) == 1
        assert words in problems[0]
    stage.s3.put_object(Bucket=EXPORTS, Key=whole.folder + table["key"], Body=before, ServerSideEncryption="AES256")


def test_a_hostile_schema_is_exported_whole(stage: Stage) -> None:
    database = stage.use(stage.databases.fresh("hostile"))
    database.fill(ADA, "ada", 1000)
    database.fill(BOB, "bob", 2000)
    done = stage.export("hostile")
    rows = {table: told["rows"] for table, told in done.tables.items() if told["rows"]}
    assert rows == ROWS
    assert prove(done) == []


def test_a_tenant_without_rows_or_documents_is_exported_too(stage: Stage) -> None:
    stage.use(stage.databases.fresh("hostile")).run(f"INSERT INTO tenants VALUES ('{ADA}', 'ada', 'x', 'suspended')")
    done = stage.export("empty", documents_prefix="tenants/nothing/")
    assert done.rows == done.tables["public.tenants"]["rows"] == 1
    assert len(done.tables) == len(stage.graph().places) > 20  # each has its file, for none is told from lost
    assert done.documents == {"count": 0, "bytes": 0}
    assert prove(done) == []


# Killed, and run again ----------------------------------------------------------------------------


def test_killed_half_way_and_run_again_it_ends_the_same(stage: Stage, valve: Valve) -> None:
    database = stage.use(stage.databases.fresh("bare"))
    database.run(
        f"INSERT INTO tenants VALUES ('{ADA}', 'ada', 'x', 'suspended')",
        "CREATE TABLE large (tenant_id uuid, text text)",
        # More than a part of an upload, packed.
        f"INSERT INTO large SELECT '{ADA}', string_agg(md5(random()::text), '') "
        "FROM generate_series(1, 100) c, generate_series(1, 4000) n GROUP BY n",
    )
    folder = stage.destination("killed").folder(TENANT)
    with valve.stalling(after=1 << 20), stage.through(valve.port):
        task = multiprocessing.get_context("fork").Process(target=stage.export, args=("killed",))
        task.start()
        assert valve.reached.wait(30)
        task.kill()
        task.join()
    assert stage.unfinished()
    assert folder + "manifest.json" not in stage.keys(folder)
    done = stage.export("killed")
    assert not stage.unfinished()
    assert done.tables["public.large"]["rows"] == 4000
    assert prove(done) == []


def test_run_again_after_its_end_it_is_made_anew_and_what_was_copied_stays(stage: Stage, typed: Database) -> None:
    stage.use(typed)
    first = stage.export("twice")
    copied = {
        key: stage.s3.head_object(Bucket=EXPORTS, Key=key)["LastModified"]
        for key in stage.keys(first.folder + "documents/")
    }
    with typed.admin() as connection:
        connection.execute("INSERT INTO nothing_here VALUES (%s, 'new')", (ADA,))
    second = stage.export("twice")
    assert second.tables["public.nothing_here"]["rows"] == 1
    assert second.folder == first.folder
    assert all(stage.s3.head_object(Bucket=EXPORTS, Key=key)["LastModified"] == at for key, at in copied.items())
    assert prove(second) == []
    assert "manifest.json is not the one" in prove(first)[0]


def test_an_export_of_rows_that_are_gone_is_never_overwritten(stage: Stage, typed: Database) -> None:
    stage.use(typed)
    with typed.admin() as connection:
        connection.execute("INSERT INTO nothing_here VALUES (%s, 'only here')", (ADA,))
    done = stage.export("last")
    with typed.admin() as connection:
        connection.execute("DELETE FROM nothing_here")
    with pytest.raises(Refused, match=r"holds rows that are in the database no more \(public.nothing_here\)"):
        stage.export("last")
    assert prove(done) == []


# Refused, loudly ----------------------------------------------------------------------------------


class Between(BaseHTTPRequestHandler):
    """Stands between the client and S3, and spoils it."""

    mode, target = "", ""
    protocol_version = "HTTP/1.1"

    def handle_any(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if self.command == "PUT" and self.mode == "full" and "tables/" in self.path:
            return self.answer(507, b"<Error><Code>XMinioStorageFull</Code></Error>", {})
        if self.mode == "cut" and self.command == "GET" and "tables/" in self.path:
            self.send_response(200)
            self.send_header("Content-Length", "1000")
            self.end_headers()
            self.wfile.write(b"\x1f\x8b")
            self.close_connection = True
            return None
        kept = {k: v for k, v in self.headers.items() if self.mode != "clear" or "encryption" not in k.lower()}
        request = urllib.request.Request(self.target + self.path, body or None, kept, method=self.command)
        try:
            with urllib.request.urlopen(request, timeout=30) as answer:
                return self.answer(answer.status, answer.read(), dict(answer.headers))
        except HTTPError as error:
            return self.answer(error.code, error.read(), dict(error.headers))

    do_GET = do_PUT = do_POST = do_HEAD = do_DELETE = handle_any

    def answer(self, status: int, body: bytes, headers: dict[str, str]) -> None:
        """Pass an answer on."""
        self.send_response(status)
        length = headers.get("Content-Length", str(len(body))) if self.command == "HEAD" else str(len(body))
        for key, value in {**headers, "Content-Length": length}.items():
            if key.lower() not in ("transfer-encoding", "connection"):
                self.send_header(key, value)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: Any) -> None:
        """Stay silent."""


@contextmanager
def spoiled(stage: Stage, mode: str) -> Iterator[None]:
    """Let S3 misbehave in one way."""
    direct = f"http://127.0.0.1:{stage.box.port('s3-direct')}"
    handler = type("Spoiled", (Between,), {"mode": mode, "target": direct})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        with stage.through(server.server_port):
            yield
    finally:
        server.shutdown()
        server.server_close()


def test_a_bucket_that_is_missing_full_or_does_not_encrypt_stops_the_export(stage: Stage, typed: Database) -> None:
    stage.use(typed)
    with pytest.raises(NoData, match="no bucket nowhere"):
        stage.export("refused", bucket="nowhere")
    with spoiled(stage, "full"), pytest.raises(Unreachable, match="507 XMinioStorageFull"):
        stage.export("refused")
    with spoiled(stage, "clear"), pytest.raises(ChangeFailed, match="encrypted not at all"):
        stage.export("refused")
    assert not any(key.endswith("manifest.json") for key in stage.keys(stage.destination("refused").folder(TENANT)))


def test_a_proof_whose_store_breaks_off_proves_nothing(stage: Stage, whole: Export) -> None:
    with spoiled(stage, "cut"):
        problems: list[str] = []
        try:
            problems = prove(whole)
        except Unreachable as error:
            problems = [str(error)]
    assert problems
    assert stage.proofs() == []


def test_a_tenant_that_is_not_there_and_rows_that_are_hidden_stop_the_export(stage: Stage, typed: Database) -> None:
    stage.use(typed)
    nobody = {**TENANT, "id": "6f0f4f0e-3a51-4d5e-9d0b-5c0f6f1d2a99", "slug": "nobody"}
    with pytest.raises(NoData, match="no tenant nobody"):
        export(stage.graph(), nobody, HASH, stage.destination("nobody"))
    graph = stage.graph()
    with typed.admin() as connection:
        connection.execute("ALTER TABLE nothing_here ENABLE ROW LEVEL SECURITY")
        connection.execute("CREATE POLICY mine ON nothing_here USING (note IS NULL)")
    try:
        with pytest.raises(Forbidden, match="BYPASSRLS"):
            export(graph, TENANT, HASH, stage.destination("hidden"))
    finally:
        with typed.admin() as connection:
            connection.execute("ALTER TABLE nothing_here DISABLE ROW LEVEL SECURITY")


def test_documents_too_large_for_one_copy_are_copied_in_parts(stage: Stage) -> None:
    body = os.urandom(11 << 20)
    stage.s3.put_object(Bucket=DOCUMENTS, Key="tenants/large/big.bin", Body=body)
    documents = Documents(ExportStore(EXPORTS), "parts/", whole=6 << 20, copy_part=5 << 20)
    destination = Destination(EXPORTS, "", "", documents_bucket=DOCUMENTS, documents_prefix="tenants/large/")
    with Crew(1) as crew:
        told = documents.copy(destination, crew)
    assert stage.body("parts/documents/big.bin") == body
    assert list(documents.problems(told)) == []


def test_databases_of_killed_proofs_are_dropped_those_of_others_stay(stage: Stage) -> None:
    with postgres.admin(stage.box, stage.restore) as connection:
        for name in (PREFIX + "dead", PREFIX + "alive"):
            connection.execute(f"CREATE DATABASE {name} OWNER vcci_restore")
        connection.execute("SELECT pg_advisory_lock(hashtextextended(%s, 0))", (PREFIX + "alive",))
        with scratch_database("vcci_postgres_restore"):
            assert PREFIX + "dead" not in stage.proofs()
            assert PREFIX + "alive" in stage.proofs()
        connection.execute(f"DROP DATABASE {PREFIX}alive")
    assert stage.proofs() == []
