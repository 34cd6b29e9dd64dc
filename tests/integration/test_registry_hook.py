"""The registry hook on Debian's docker-registry, with basic and with token authentication."""

from __future__ import annotations

import base64
import hashlib
import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import requests
import trustme

from sandbox.service import Sandbox, wait_until
from sandbox.services.prometheus import bcrypt
from vcci_ops.exceptions import (
    ChangeFailed,
    Conflict,
    Forbidden,
    InvalidInput,
    MeasurementError,
    NoData,
    UnexpectedAnswer,
    Unreachable,
)
from vcci_ops.hooks import registry as hook
from vcci_ops.hooks.registry import Registry

pytestmark = pytest.mark.integration
LOGIN = ("vcci-ops", "correct-horse-battery")
OCI = "application/vnd.oci.image.manifest.v1+json"
INDEX = "application/vnd.oci.image.index.v1+json"
DOCKER = "application/vnd.docker.distribution.manifest.v2+json"
DOCKER_LIST = "application/vnd.docker.distribution.manifest.list.v2+json"


def sha(data: bytes) -> str:
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


class Server:
    """A docker-registry, and a plain way to fill it."""

    def __init__(self, sandbox: Sandbox, name: str, **config: Any) -> None:
        self.sandbox, self.name = sandbox, name
        self.port = sandbox.port(name)
        folder = sandbox.data(name)
        (folder / "htpasswd").write_text(f"{LOGIN[0]}:{bcrypt(LOGIN[1])}\n")
        http = {"addr": f"127.0.0.1:{self.port}", "secret": "s", **config.pop("http", {})}
        auth = config or {"auth": {"htpasswd": {"realm": "vcci", "path": str(folder / "htpasswd")}}}
        storage = {"filesystem": {"rootdirectory": str(folder / "storage")}}
        (folder / "config.yml").write_text(json.dumps({"version": "0.1", "storage": storage, "http": http, **auth}))
        program = sandbox.program("docker-registry", "docker-registry")
        sandbox.spawn(name, [program, "serve", str(folder / "config.yml")])

    def call(self, method: str, path: str, **given: Any) -> requests.Response:
        url = path if path.startswith("http") else f"http://127.0.0.1:{self.port}/v2/{path}"
        return requests.request(method, url, auth=LOGIN, timeout=10, **given)

    def blob(self, repository: str, data: bytes) -> dict[str, Any]:
        begun = self.call("POST", f"{repository}/blobs/uploads/")
        done = self.call("PUT", begun.headers["Location"], params={"digest": sha(data)}, data=data)
        assert done.status_code == 201, done.text
        return {"digest": sha(data), "size": len(data)}

    def put(self, repository: str, reference: str, manifest: dict[str, Any]) -> str:
        data = json.dumps(manifest, indent=3).encode()
        kind = {"Content-Type": manifest["mediaType"]}
        done = self.call("PUT", f"{repository}/manifests/{reference or sha(data)}", data=data, headers=kind)
        assert done.status_code == 201, done.text
        return sha(data)

    def image(self, repository: str, tag: str, labels: dict[str, str] | None, kind: str = OCI) -> str:
        config = json.dumps({"os": "linux", "config": {"Labels": labels}}).encode()
        media = (
            "application/vnd.oci.image.config.v1+json"
            if kind == OCI
            else "application/vnd.docker.container.image.v1+json"
        )
        layer = (
            "application/vnd.oci.image.layer.v1.tar" if kind == OCI else "application/vnd.docker.image.rootfs.diff.tar"
        )
        manifest = {
            **{"schemaVersion": 2, "mediaType": kind},
            "config": {"mediaType": media, **self.blob(repository, config)},
            "layers": [{"mediaType": layer, **self.blob(repository, b"layer")}],
        }
        return self.put(repository, tag, manifest)

    def tags(self, repository: str) -> list[str]:
        return sorted(self.call("GET", f"{repository}/tags/list").json().get("tags") or [])


@pytest.fixture(scope="module")
def box(tmp_path_factory: pytest.TempPathFactory) -> Sandbox:
    return Sandbox(tmp_path_factory.mktemp("sandbox"))


@pytest.fixture(scope="module")
def server(box: Sandbox) -> Iterator[Server]:
    made = Server(box, "registry")
    try:
        wait_until("the registry", lambda: answers(made))
        yield made
    finally:
        box.end("registry")


def answers(server: Server) -> bool:
    try:
        return server.call("GET", "").status_code == 200
    except requests.ConnectionError:
        return False


@pytest.fixture(autouse=True)
def connection(server: Server, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """vcci_registry; call it to change fields of it."""
    fields = {"conn_type": "http", "schema": "http", "host": "127.0.0.1", "port": server.port}
    fields |= {"login": LOGIN[0], "password": LOGIN[1]}

    def change(**other: Any) -> None:
        monkeypatch.setenv("AIRFLOW_CONN_VCCI_REGISTRY", json.dumps({**fields, **other}))

    change()
    return change


# Reading ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [OCI, DOCKER])
def test_the_digest_of_a_tag_and_the_labels_of_an_image(server: Server, kind: str) -> None:
    repository = f"vcci/read-{kind[16:22].strip('.')}"
    digest = server.image(repository, "v2.0.0", {"org.opencontainers.image.revision": "abc"}, kind)
    registry = Registry()
    assert registry.host == f"127.0.0.1:{server.port}"
    assert registry.digest(repository, "v2.0.0") == digest
    assert registry.digest(repository, digest) == digest
    assert registry.labels(repository, digest) == {"org.opencontainers.image.revision": "abc"}


def test_an_image_without_labels_has_none(server: Server) -> None:
    assert Registry().labels("vcci/bare", server.image("vcci/bare", "v1.0.0", None)) == {}


@pytest.mark.parametrize(("kind", "of"), [(INDEX, OCI), (DOCKER_LIST, DOCKER)])
def test_a_list_has_its_own_digest_and_the_labels_of_linux_amd64(server: Server, kind: str, of: str) -> None:
    repository = f"vcci/list-{of[16:19].strip('.')}"
    entries = []
    for os, architecture in [("unknown", "unknown"), ("linux", "arm64"), ("linux", "amd64")]:
        digest = server.image(repository, architecture, {"for": architecture}, of)
        size = len(server.call("GET", f"{repository}/manifests/{digest}", headers={"Accept": of}).content)
        platform = {"os": os, "architecture": architecture}
        entries.append({"mediaType": of, "digest": digest, "size": size, "platform": platform})
    whole = server.put(repository, "v2.0.0", {"schemaVersion": 2, "mediaType": kind, "manifests": entries})
    registry = Registry()
    assert registry.digest(repository, "v2.0.0") == whole
    assert registry.labels(repository, whole) == {"for": "amd64"}
    assert registry.put_tag(repository, whole, "v2.0.1") == "created"
    assert registry.digest(repository, "v2.0.1") == whole


def test_what_is_not_there_is_none(server: Server) -> None:
    server.image("vcci/there", "v1.0.0", {})
    registry = Registry()
    assert registry.digest("vcci/there", "v9.9.9") is None
    assert registry.digest("vcci/nowhere", "v1.0.0") is None
    assert registry.digest("vcci/there", "sha256:" + "0" * 64) is None
    with pytest.raises(NoData, match=r"has no vcci/there@sha256:0{64}"):
        registry.labels("vcci/there", "sha256:" + "0" * 64)


@pytest.mark.parametrize(
    ("repository", "reference", "field"),
    [
        *(("../etc", "v1.0.0", "repository"), ("a/../b", "v1.0.0", "repository"), ("a?x=1", "v1", "repository")),
        *(
            ("A", "v1.0.0", "repository"),
            ("a\n", "v1", "repository"),
            ("", "v1", "repository"),
            (None, "v1", "repository"),
        ),
        *(
            ("a", "../x", "tag"),
            ("a", "v1\n", "tag"),
            ("a", "", "tag"),
            ("a", "x" * 1_000_000, "tag"),
            ("a", None, "tag"),
        ),
        *(("a", "sha256:xyz", "digest"), ("a", "sha256:" + "0" * 64 + "/x", "digest"), ("a", "md5:00", "digest")),
    ],
)
def test_hostile_names_are_refused_with_the_field_named(repository: Any, reference: Any, field: str) -> None:
    with pytest.raises(InvalidInput, match=f"^{field}: "):
        Registry().digest(repository, reference)


# Tagging ------------------------------------------------------------------------------------------


def test_a_tag_is_put_on_a_digest_once(server: Server) -> None:
    digest = server.image("vcci/tagged", "build-1", {})
    assert Registry().put_tag("vcci/tagged", digest, "v2.1.0") == "created"
    assert Registry().put_tag("vcci/tagged", digest, "v2.1.0") == "exists"
    assert Registry().digest("vcci/tagged", "v2.1.0") == digest
    assert server.tags("vcci/tagged") == ["build-1", "v2.1.0"]


def test_a_tag_on_another_digest_is_not_moved(server: Server) -> None:
    old, new = server.image("vcci/moved", "v2.1.0", {"n": "1"}), server.image("vcci/moved", "build-2", {"n": "2"})
    with pytest.raises(Conflict, match=f"vcci/moved:v2.1.0 is on {old} already, not on {new}"):
        Registry().put_tag("vcci/moved", new, "v2.1.0")
    assert Registry().digest("vcci/moved", "v2.1.0") == old


def test_an_image_that_is_not_there_is_not_tagged(server: Server) -> None:
    server.image("vcci/lonely", "v1.0.0", {})
    with pytest.raises(NoData, match="has no vcci/lonely@sha256:1"):
        Registry().put_tag("vcci/lonely", "sha256:" + "1" * 64, "v2.0.0")
    assert server.tags("vcci/lonely") == ["v1.0.0"]


@pytest.mark.parametrize("tag", ["-x", "a b", "v1\n", "a:b", None])
def test_a_hostile_tag_is_refused(tag: Any) -> None:
    with pytest.raises(InvalidInput, match=r"^tag: "):
        Registry().put_tag("vcci/a", "sha256:" + "1" * 64, tag)


# The server ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("fields", [{"password": "wrong-password"}, {"login": "", "password": ""}])
def test_wrong_credentials_are_forbidden(connection: Callable[..., None], fields: dict[str, str]) -> None:
    connection(**fields)
    with pytest.raises(Forbidden, match=r"pull vcci/a/manifests/v1 \(HTTP 401\)") as caught:
        Registry().digest("vcci/a", "v1")
    assert "wrong-password" not in str(caught.value)


def test_a_registry_that_is_down_is_unreachable(connection: Callable[..., None]) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        connection(port=free.getsockname()[1])
    with pytest.raises(Unreachable, match="the registry did not answer: the connection to 127"):
        Registry().digest("vcci/a", "v1")


def test_a_registry_that_says_nothing_is_unreachable(
    connection: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hook, "READ_SECONDS", 0.5)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        connection(port=silent.getsockname()[1])
        with pytest.raises(Unreachable, match="no answer from 127"):
            Registry().digest("vcci/a", "v1")


def test_no_connection(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AIRFLOW_CONN_VCCI_REGISTRY")
    with pytest.raises(MeasurementError, match="there is no Airflow connection vcci_registry"):
        _ = Registry().host


class Played(ThreadingHTTPServer):
    """An HTTP server that answers what a test wants, for what no real registry does."""

    def __init__(self, answer: Callable[[BaseHTTPRequestHandler], tuple[int, dict[str, str], bytes]]) -> None:
        class Handler(BaseHTTPRequestHandler):
            def _do(self) -> None:
                self.rfile.read(int(self.headers.get("Content-Length", 0)))
                status, headers, body = answer(self)
                self.send_response(status)
                for key, value in {"Content-Length": str(len(body)), **headers}.items():
                    self.send_header(key, value)
                self.end_headers()
                if self.command != "HEAD":
                    self.wfile.write(body)

            do_GET = do_HEAD = do_PUT = _do

            def log_message(self, *args: Any) -> None:
                pass

        super().__init__(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.serve_forever, daemon=True).start()

    @property
    def port(self) -> int:
        return int(self.server_address[1])

    def __exit__(self, *args: object) -> None:
        self.shutdown()
        super().__exit__(*args)


@pytest.mark.parametrize(
    ("status", "headers", "body", "error"),
    [
        pytest.param(404, {}, b"<html>no such page</html>", UnexpectedAnswer, id="a web server's 404"),
        pytest.param(200, {}, b"<html>welcome</html>", UnexpectedAnswer, id="a web page"),
        pytest.param(200, {"Docker-Content-Digest": "sha256:x"}, b"{}", UnexpectedAnswer, id="no digest"),
        pytest.param(200, {"Content-Type": OCI}, b"x" * 5_000_000, UnexpectedAnswer, id="endless"),
        pytest.param(503, {}, b"", Unreachable, id="503"),
        pytest.param(429, {}, b"", Unreachable, id="429"),
        pytest.param(403, {}, b"", Forbidden, id="403"),
        pytest.param(401, {"WWW-Authenticate": "Negotiate"}, b"", Forbidden, id="unknown authentication"),
        pytest.param(401, {"WWW-Authenticate": 'Bearer realm="ftp://x/"'}, b"", UnexpectedAnswer, id="unsafe realm"),
    ],
)
def test_what_is_no_registrys_answer_is_never_taken_for_not_there(
    connection: Callable[..., None], status: int, headers: dict[str, str], body: bytes, error: type[Exception]
) -> None:
    with Played(lambda request: (status, headers, body)) as played:
        connection(port=played.port)
        with pytest.raises(error):
            Registry().digest("vcci/a", "v1.0.0")


def test_content_that_is_not_what_its_digest_says_is_refused(connection: Callable[..., None]) -> None:
    with Played(lambda request: (200, {"Content-Type": OCI}, b'{"config": {}}')) as played:
        connection(port=played.port)
        with pytest.raises(UnexpectedAnswer, match="asked for sha256:1"):
            Registry().labels("vcci/a", "sha256:" + "1" * 64)


def test_a_tag_that_somebody_moves_meanwhile_is_a_conflict(connection: Callable[..., None]) -> None:
    """The protocol has no "only if it is not there": the tag is read again after it was put."""
    manifest = b'{"mine": 1}'
    put = threading.Event()

    def answer(request: BaseHTTPRequestHandler) -> tuple[int, dict[str, str], bytes]:
        if request.command == "PUT":
            put.set()
            return 201, {}, b""
        if request.path.endswith("sha256:" + sha(manifest)[7:]):
            return 200, {"Content-Type": OCI}, manifest
        if put.is_set():
            return 200, {"Docker-Content-Digest": "sha256:" + "2" * 64, "Content-Type": OCI}, b""
        return 404, {"Content-Type": "application/json"}, b'{"errors": [{"code": "MANIFEST_UNKNOWN"}]}'

    with Played(answer) as played:
        connection(port=played.port)
        with pytest.raises(Conflict, match="is on sha256:2"):
            Registry().put_tag("vcci/a", sha(manifest), "v1.0.0")


def test_a_registry_that_does_not_take_the_tag_says_so(connection: Callable[..., None]) -> None:
    manifest = b'{"mine": 1}'

    def answer(request: BaseHTTPRequestHandler) -> tuple[int, dict[str, str], bytes]:
        if request.command == "PUT":
            return 400, {}, b'{"errors": [{"code": "TAG_INVALID"}]}'
        if "sha256:" in request.path:
            return 200, {"Content-Type": OCI}, manifest
        return 404, {}, b'{"errors": [{"code": "MANIFEST_UNKNOWN"}]}'

    with Played(answer) as played:
        connection(port=played.port)
        with pytest.raises(ChangeFailed, match=r"did not take the tag vcci/a:v1\.0\.0: HTTP 400 \['TAG_INVALID'\]"):
            Registry().put_tag("vcci/a", sha(manifest), "v1.0.0")


# Token authentication, TLS ------------------------------------------------------------------------


def test_a_registry_with_token_authentication(box: Sandbox, connection: Callable[..., None], tmp_path: Path) -> None:
    """docker-registry's own token check, with tokens of a small issuer."""
    authority = trustme.CA()
    issuer = authority.issue_cert("issuer")
    (tmp_path / "bundle.pem").write_bytes(authority.cert_pem.bytes())
    asked: list[tuple[str, str]] = []

    def grant(request: BaseHTTPRequestHandler) -> tuple[int, dict[str, str], bytes]:
        query = requests.utils.unquote(request.path.partition("?")[2])
        asked.append((query, request.headers.get("Authorization", "")))
        if asked[-1][1] != "Basic " + base64.b64encode(":".join(LOGIN).encode()).decode():
            return 401, {}, b""
        scope = query.partition("scope=")[2].partition("&")[0]
        return 200, {}, json.dumps({"token": signed(issuer, scope)}).encode()

    with Played(grant) as tokens:
        token = {"realm": f"http://127.0.0.1:{tokens.port}/token", "service": "vcci", "issuer": "issuer"}
        made = Server(box, "registry-token", auth={"token": {**token, "rootcertbundle": str(tmp_path / "bundle.pem")}})
        try:
            wait_until("the registry", lambda: listening(made))
            connection(port=made.port)
            registry = Registry()
            assert registry.digest("vcci/a", "v1.0.0") is None
            assert registry.digest("vcci/a", "v1.0.1") is None
            assert len(asked) == 1  # the token is kept
            assert "scope=repository:vcci/a:pull" in asked[0][0]
            assert "service=vcci" in asked[0][0]
            connection(port=made.port, password="wrong-password")
            with pytest.raises(Forbidden, match=r"log in at 127\.0\.0\.1:\d+ \(HTTP 401\)"):
                Registry().digest("vcci/a", "v1.0.0")
        finally:
            box.end("registry-token")


def listening(server: Server) -> bool:
    try:
        return server.call("GET", "").status_code == 401
    except requests.ConnectionError:
        return False


def signed(issuer: trustme.LeafCert, scope: str) -> str:
    """Return a JWT as a token server makes it, its certificate in the header (x5c)."""
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature

    key: Any = serialization.load_pem_private_key(issuer.private_key_pem.bytes(), None)
    chain = [x509.load_pem_x509_certificate(pem.bytes()) for pem in issuer.cert_chain_pems]
    x5c = [base64.b64encode(c.public_bytes(serialization.Encoding.DER)).decode() for c in chain]
    kind, name, actions = scope.split(":")
    claims = {
        **{"iss": "issuer", "aud": "vcci", "sub": LOGIN[0], "jti": "1", "iat": int(time.time())},
        **{"nbf": int(time.time()) - 60, "exp": int(time.time()) + 300},
        "access": [{"type": kind, "name": name, "actions": actions.split(",")}],
    }

    def part(data: bytes) -> str:
        return base64.urlsafe_b64encode(data).rstrip(b"=").decode()

    text = ".".join(part(json.dumps(p).encode()) for p in ({"alg": "ES256", "typ": "JWT", "x5c": x5c}, claims))
    r, s = decode_dss_signature(key.sign(text.encode(), ec.ECDSA(hashes.SHA256())))
    return f"{text}.{part(r.to_bytes(32, 'big') + s.to_bytes(32, 'big'))}"


@pytest.mark.filterwarnings("ignore:Unverified HTTPS")
def test_over_tls_with_an_own_authority(box: Sandbox, connection: Callable[..., None], tmp_path: Path) -> None:
    authority = trustme.CA()
    authority.issue_cert("127.0.0.1").private_key_and_cert_chain_pem.write_to_path(str(tmp_path / "server.pem"))
    authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    tls = {"certificate": str(tmp_path / "server.pem"), "key": str(tmp_path / "server.pem")}
    made = Server(box, "registry-tls", http={"tls": tls})
    try:

        def up() -> bool:
            try:
                return requests.get(f"https://127.0.0.1:{made.port}/v2/", verify=False, timeout=5).status_code == 401
            except requests.ConnectionError:
                return False

        wait_until("the registry", up)
        connection(port=made.port, schema="https", extra={"verify": str(tmp_path / "ca.pem")})
        assert Registry().digest("vcci/a", "v1.0.0") is None
        connection(port=made.port, schema="https")
        with pytest.raises(Unreachable, match="TLS failed at 127"):
            Registry().digest("vcci/a", "v1.0.0")
    finally:
        box.end("registry-tls")
