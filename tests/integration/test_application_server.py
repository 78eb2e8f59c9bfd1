"""The interface for applications over TLS: who may connect, what is told, and who takes part whatever others do."""

import http.client
import json
import socket
import ssl
import threading
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import pytest
from cryptography.x509 import DNSName, UniformResourceIdentifier
from cryptography.x509.oid import ExtendedKeyUsageOID

from kme.etsi014 import server
from kme.etsi014.audit import Audit
from kme.etsi014.server import serving_applications
from qkdrelay.errors import SettingsError
from qkdrelay.service import http as http_module
from qkdrelay.service import http_tls
from qkdrelay.service.http_connections import HttpLimits
from qkdrelay.service.metrics import Metrics
from support.application_keys import KeysInMemory
from support.saes import Authority, Sae, sae_at
from support.waiting import eventually

TAKE = b"GET /api/v1/keys/sae-8/enc_keys HTTP/1.1\r\nHost: kme\r\n\r\n"
CLOSED = TAKE[:-2] + b"Connection: close\r\n\r\n"
REFUSED = (ssl.SSLError, ConnectionError, http.client.HTTPException)


@pytest.fixture(scope="module")
def authority(tmp_path_factory):
    authority = Authority(tmp_path_factory.mktemp("saes"))
    for sae in ("sae-1", "sae-8"):
        authority.issue(sae, names=[sae])
    return authority


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(http_module, "LOOK_EVERY_S", 0.02)
    monkeypatch.setattr(http_tls, "LOOK_EVERY_S", 0.0)


class Served:
    """A KME's interface with keys in memory."""

    def __init__(self, authority, port, keys, tls):
        self.authority, self.port, self.keys, self.tls = authority, port, keys, tls

    def sae(self, file="sae-1", **where):
        return sae_at(self.port, self.authority.context(file, **where))

    def connection(self, context=None):
        raw = socket.create_connection(("127.0.0.1", self.port), timeout=30)
        return (context or self.authority.context("sae-1")).wrap_socket(raw, server_hostname="127.0.0.1")


@contextmanager
def served(authority, directory, *, id_from="cn", **limits):
    authority.server(directory)
    keys = KeysInMemory()
    few = {"connections": 64, "threads": 24, "slow": 12, "each_address": 64, **limits}
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(server, "LIMITS", HttpLimits(**few))
        with serving_applications(
            keys, Audit("kme-1", Metrics()), ("127.0.0.1", 0), directory, id_from=id_from, wait_s=0.1
        ) as port:
            yield Served(authority, port, keys, directory)


@pytest.fixture
def kme(authority, tmp_path):
    with served(authority, tmp_path / "kme") as kme:
        yield kme


def test_keys_come_over_a_connection_that_is_kept(kme):
    with kme.sae() as master, kme.sae("sae-8") as slave:
        for _ in range(3):
            status, _, taken = master.get("sae-8", "enc_keys")
            assert status == 200
            status, _, fetched = slave.get("sae-1", "dec_keys", f"?key_ID={taken['keys'][0]['key_ID']}")
            assert (status, fetched) == (200, taken)
        assert master.connection.sock is not None
        assert master.get("sae-8", "status")[2]["stored_key_count"] == 997


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_both_versions_of_tls_serve(kme, version):
    context = kme.authority.context("sae-1")
    context.minimum_version = context.maximum_version = version
    with sae_at(kme.port, context) as sae:
        assert sae.get("sae-8", "status")[0] == 200


def test_an_older_version_does_not(kme):
    context = kme.authority.context("sae-1")
    context.set_ciphers("ALL:@SECLEVEL=0")
    with pytest.warns(DeprecationWarning, match="TLSv1_1"):
        context.minimum_version = context.maximum_version = ssl.TLSVersion.TLSv1_1
    with sae_at(kme.port, context) as sae, pytest.raises(REFUSED):
        sae.get("sae-8", "status")


@pytest.fixture
def strangers(authority, tmp_path):
    """Certificates that do not count, by name."""
    other = Authority(tmp_path / "other")
    other.issue("of another authority", names=["sae-1"])
    other.issue("for servers only", names=["sae-1"], usage=ExtendedKeyUsageOID.SERVER_AUTH)
    authority.issue("for servers only", names=["sae-1"], usage=ExtendedKeyUsageOID.SERVER_AUTH)
    authority.issue("expired", names=["sae-1"], days=-1)
    return {
        "of another authority": other.directory,
        "for servers only": authority.directory,
        "expired": authority.directory,
        None: None,
    }


@pytest.mark.parametrize("file", ["of another authority", "for servers only", "expired", None])
def test_who_has_no_certificate_that_counts_gets_no_answer(kme, strangers, file):
    with kme.sae(file, directory=strangers[file]) as sae, pytest.raises(REFUSED):
        sae.ask("GET", "/api/v1/keys/sae-8/enc_keys", headers={"X-SAE-ID": "sae-1"})
    assert kme.keys.taken == 0
    with kme.sae() as sae:
        assert sae.get("sae-8", "status")[0] == 200


def test_a_certificate_for_clients_or_for_nothing_in_particular_counts(kme, authority):
    authority.issue("client", names=["sae-1"], usage=ExtendedKeyUsageOID.CLIENT_AUTH)
    for file in ("client", "sae-1"):
        with kme.sae(file) as sae:
            assert sae.get("sae-8", "status")[0] == 200


@pytest.mark.parametrize("names", [[], ["sae-1", "sae-8"], ["sae 1"], ["sae-2"]])
def test_a_certificate_without_one_sae_of_the_directory_is_told_so(kme, authority, names):
    authority.issue("nobody", names=names)
    with kme.sae("nobody") as sae:
        status, _, answer = sae.get("sae-8", "enc_keys")
    assert status == 401
    assert set(answer) == {"message"}


@pytest.mark.parametrize(
    ("sans", "status"),
    [
        ([DNSName("sae-1")], 200),
        ([UniformResourceIdentifier("sae-id:sae-1"), DNSName("host.example")], 200),
        ([DNSName("sae-1"), DNSName("sae-8")], 401),
        ([], 401),
    ],
)
def test_by_setting_an_alternative_name_says_who_asks(authority, tmp_path, sans, status):
    authority.issue("alternative", names=["sae-8"], sans=sans)
    with served(authority, tmp_path / "kme", id_from="san") as kme, kme.sae("alternative") as sae:
        assert sae.get("sae-8", "status")[0] == status


def test_a_certificate_that_is_revoked_is_out_at_once(kme, authority):
    certificate = authority.issue("left", names=["sae-1"])
    with kme.sae("left") as sae:
        assert sae.get("sae-8", "status")[0] == 200
        authority.revoke(kme.tls / "crl.pem", certificate)
        with pytest.raises(REFUSED):
            sae.get("sae-8", "enc_keys")
    with kme.sae("left") as sae, pytest.raises(REFUSED):
        sae.get("sae-8", "enc_keys")
    with kme.sae() as sae:
        assert sae.get("sae-8", "status")[0] == 200
    assert kme.keys.taken == 0


def test_a_renewed_certificate_is_shown_without_a_restart(kme, authority):
    def shown():
        with kme.connection() as connection:
            return connection.getpeercert(binary_form=True)

    before = shown()
    authority.server(kme.tls)
    assert shown() != before
    (kme.tls / "cert.pem").write_text("broken")
    assert shown()


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("ca.pem", None, "ca.pem"),
        ("cert.pem", None, "cert.pem"),
        ("key.pem", "x", "key.pem"),
        ("crl.pem", "x", "crl.pem"),
    ],
)
def test_files_that_cannot_be_used_are_named(authority, tmp_path, name, text, words):
    authority.server(tmp_path)
    (tmp_path / name).unlink(missing_ok=True)
    if text is not None:
        (tmp_path / name).write_text(text)
    serving = serving_applications(
        KeysInMemory(), Audit("kme-1", Metrics()), ("127.0.0.1", 0), tmp_path, id_from="cn", wait_s=1.0
    )
    with pytest.raises(SettingsError, match=f"QKDRELAY_ETSI014_TLS: .*{words}"), serving:
        pass


def _answers(connection, count):
    """Return status and JSON of so many answers."""
    found = []
    for _ in range(count):
        answer = http.client.HTTPResponse(connection)
        answer.begin()
        found.append((answer.status, json.loads(answer.read())))
    return found


def test_requests_that_come_together_are_answered_one_by_one(kme):
    # One record of TLS with all of them, and then a byte at a time.
    with kme.connection() as connection:
        connection.sendall(TAKE * 40)
        reader = connection.makefile("rb")
        statuses = []
        for _ in range(40):
            line = reader.readline()
            length = 0
            while (header := reader.readline()).strip():
                if header.lower().startswith(b"content-length"):
                    length = int(header.split(b":")[1])
            reader.read(length)
            statuses.append(line.split()[1])
    assert statuses == [b"200"] * 40
    assert kme.keys.taken == 40


POST = b"POST /api/v1/keys/sae-8/enc_keys HTTP/1.1\r\nHost: kme\r\n"


@pytest.mark.parametrize(
    "request_bytes",
    [
        b"\r\n\r\n\r\n",
        b"GET\r\n\r\n",
        b"\x00\xff\r\n\r\n",
        b"GET //[ HTTP/1.1\r\nHost: x\r\n\r\n",
        b"GET /api/v1/keys/sae-8/enc_keys HTTP/9.9\r\n\r\n",
        b"GET " + b"/" * 70_000 + b" HTTP/1.1\r\n\r\n",
        TAKE[:-2] + b"X: " + b"y" * 70_000 + b"\r\n\r\n",
        TAKE[:-2] + b"no header\r\n\r\n",
        POST + b"Content-Length: -1\r\n\r\n{}",
        POST + b"Content-Length: x\r\n\r\n{}",
        POST + b"Content-Length: +2\r\n\r\n{}",
        POST + b"Content-Length: 9999999999\r\n\r\n{}",
        POST + b"Content-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        POST + b"Transfer-Encoding: gzip\r\n\r\n",
        POST + b"Content-Length: 2\r\nContent-Length: 2\r\n\r\n{}",
        POST + b"Content-Length: 2\r\nContent-Length: 13\r\n\r\n{}",
        POST + b"Content-Length: 2, 13\r\n\r\n{}",
        POST + b"Content-Length : 2\r\n\r\n{}",
        POST + b"Content-Length: 13\r\n 2\r\n\r\n{}",
        POST + b"Content-Length: 2\n\r\n{}",
        POST + b"Content-Length: 2\r\nX\x00: 1\r\n\r\n{}",
        POST + b"Content-Length: 2\r\nX: \x00\r\n\r\n{}",
        POST + b"Content-Length: 2\r\nX: 1\rY: 2\r\n\r\n{}",
        POST + b"Transfer-Encoding: chunked, identity\r\n\r\n0\r\n\r\n",
        POST + b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        CLOSED.replace(b"sae-8", b"sae-8%00"),
        CLOSED.replace(b"sae-8", b"%2e%2e/sae-8"),
        CLOSED.replace(b"sae-8", b"sae-8%2Fenc_keys%3F"),
        CLOSED.replace(b"sae-8", b"SAE-8"),
        CLOSED.replace(b"GET", b"OPTIONS"),
        CLOSED.replace(b"GET", b"get"),
    ],
)
def test_what_is_no_request_is_told_in_json_or_cut_off(kme, request_bytes):
    with kme.connection() as connection:
        connection.sendall(request_bytes)
        with suppress(ConnectionError, ssl.SSLError):
            data = b""
            while part := connection.recv(65_536):
                data += part
            if data:
                head, _, body = data.partition(b"\r\n\r\n")
                assert b"application/json" in head
                assert 400 <= int(head.split()[1]) < 600
                assert set(json.loads(body)) == {"message"}
    assert kme.keys.taken == 0
    with kme.sae() as sae:
        assert sae.get("sae-8", "status")[0] == 200


def test_the_answer_to_head_has_no_body(kme):
    with kme.connection() as connection:
        connection.sendall(TAKE.replace(b"GET", b"HEAD") + TAKE)
        reader = connection.makefile("rb")
        assert reader.readline().split()[1] == b"405"
        while reader.readline().strip():
            pass
        assert reader.readline().split()[1] == b"200"
    assert kme.keys.taken == 1


def test_a_body_in_chunks_is_read_and_the_connection_closed(kme):
    with kme.connection() as connection:
        connection.sendall(POST + b"Transfer-Encoding: chunked\r\n\r\n" + b'd\r\n{"number": 2}\r\n0\r\n\r\n' + TAKE)
        reader = connection.makefile("rb")
        assert reader.readline().split()[1] == b"200"
        reader.read()
    assert kme.keys.taken == 2


def test_plain_http_gets_nothing(kme):
    with socket.create_connection(("127.0.0.1", kme.port), timeout=30) as connection:
        connection.sendall(TAKE)
        with suppress(ConnectionError):
            assert b"keys" not in connection.recv(65_536)
    assert kme.keys.taken == 0


@pytest.mark.parametrize("kind", ["silent", "half a handshake", "half a request", "half a body"])
def test_who_is_slow_holds_up_nobody(authority, tmp_path, kind):
    with served(authority, tmp_path / "kme", request_s=60.0) as kme, ExitStack() as open_connections:
        for _ in range(100):
            if kind in ("half a request", "half a body"):
                with suppress(*REFUSED):
                    slow = open_connections.enter_context(kme.connection())
                    slow.sendall(TAKE[:20] if kind == "half a request" else POST + b"Content-Length: 9\r\n\r\n{")
                continue
            slow = open_connections.enter_context(socket.create_connection(("127.0.0.1", kme.port), timeout=30))
            if kind == "half a handshake":
                slow.sendall(b"\x16\x03\x01\x02\x00")
        with kme.sae() as sae:
            assert sae.get("sae-8", "enc_keys")[0] == 200
    assert kme.keys.taken == 1


def test_a_request_that_does_not_end_is_ended(authority, tmp_path):
    with served(authority, tmp_path / "kme", request_s=1.0) as kme, kme.connection() as slow:
        slow.sendall(TAKE[:20])
        assert slow.recv(65_536) == b""


def test_many_connections_are_bounded_and_others_are_served(authority, tmp_path):
    """Each beyond the most cuts one that has asked nothing."""
    before = threading.active_count()
    with served(authority, tmp_path / "kme") as kme, kme.sae() as kept, ExitStack() as flood:
        assert kept.get("sae-8", "status")[0] == 200
        for _ in range(400):
            with suppress(ConnectionError):
                flood.enter_context(socket.create_connection(("127.0.0.1", kme.port), timeout=30))
        assert kept.get("sae-8", "enc_keys")[0] == 200
        with kme.sae() as sae:
            assert sae.get("sae-8", "enc_keys")[0] == 200
        assert threading.active_count() - before < 100


def test_nothing_is_left_open(authority, tmp_path):
    before = sum(1 for _ in Path("/proc/self/fd").iterdir())
    with served(authority, tmp_path / "kme", idle_s=0) as kme:
        for _ in range(20):
            sae = Sae(kme.port, kme.authority.context("sae-1"))
            sae.get("sae-8", "status")
            sae.close()
        eventually(lambda: sum(1 for _ in Path("/proc/self/fd").iterdir()) < before + 15)
