"""Clients of ETSI GS QKD 014 that others have written, against two KMEs of a whole network; and their requests.

The programs are run as they are published. arnika and the C wrapper are not Python: what they send is sent as they do.
"""

import json
import socket
import ssl
from base64 import b64decode
from contextlib import contextmanager

import pytest
from etsi_qkd_014_client import QKD014Client
from qkdsec.client import ETSI014Client, KMEHTTPError
from qkdsec.doctor import ProbeStatus, run_all

from kme.etsi014.server import serving_applications
from qkdrelay.network.directory import Directory, Sae
from qkdrelay.network.names import COORDINATOR
from qkdrelay.network.topology_file import reference_topology
from qkdrelay_demo.network import EmbeddedNetwork
from support.etsi014 import validate
from support.saes import Authority

MASTER, SLAVE = "sae-1", "sae-8"
NOT_FOUND = "one or more keys specified are not found on KME"


class Sites:
    """The reference network with two applications, whose KMEs serve; it works while a client asks."""

    def __init__(self, authority, network, ports):
        self.authority, self.network, self.ports = authority, network, ports
        self.during = network.settle_while

    def files(self, sae):
        return tuple(str(self.authority.directory / f"{sae}.{kind}") for kind in ("pem", "key"))

    def qkd_014_client(self, sae):
        return QKD014Client(f"127.0.0.1:{self.ports[sae]}", *self.files(sae), str(self.authority.path))

    def qkdsec(self, sae):
        url = f"https://127.0.0.1:{self.ports[sae]}"
        return ETSI014Client(url, client_cert=self.files(sae), verify=str(self.authority.path), timeout=10.0)

    def exchange(self, sae, request):
        """Send these bytes on a connection of their own; return status, headers and JSON of the answer."""
        return self.during(lambda: self._exchange(sae, request))

    def _exchange(self, sae, request):
        with (
            socket.create_connection(("127.0.0.1", self.ports[sae]), timeout=10.0) as raw,
            self.authority.context(sae).wrap_socket(raw, server_hostname="127.0.0.1") as connection,
        ):
            connection.sendall(request)
            received = b""
            while b"\r\n\r\n" not in received or len(received.partition(b"\r\n\r\n")[2]) < length(received):
                more = connection.recv(65_536)
                assert more, received
                received += more
        head, _, body = received.partition(b"\r\n\r\n")
        status = int(head.split()[1])
        validate(request.split()[1].decode(), status, json.loads(body))
        return status, head.decode(), json.loads(body)


def length(received):
    head = received.partition(b"\r\n\r\n")[0].lower()
    return int(head.partition(b"content-length:")[2].split()[0])


@pytest.fixture(scope="module")
def sites(tmp_path_factory):
    authority = Authority(tmp_path_factory.mktemp("saes"))
    kmes = {MASTER: "kme-1", SLAVE: "kme-8"}
    for sae in kmes:
        authority.issue(sae, names=[sae])
    tls = tmp_path_factory.mktemp("tls")
    authority.server(tls)
    directory = Directory({sae: Sae(sae, kme) for sae, kme in kmes.items()})
    network = EmbeddedNetwork(reference_topology(), directories=dict.fromkeys((*kmes.values(), COORDINATOR), directory))

    @contextmanager
    def serving(sae):
        keys, audit = network.keys_of[kmes[sae]], network.audit_of[kmes[sae]]
        with serving_applications(keys, audit, ("127.0.0.1", 0), tls, id_from="cn", wait_s=5.0) as port:
            yield port

    with serving(MASTER) as first, serving(SLAVE) as last:
        yield Sites(authority, network, {MASTER: first, SLAVE: last})


# --- etsi-qkd-014-client -----------------------------------------------------------------------------


def test_etsi_qkd_014_client_has_a_status(sites):
    status, found = sites.during(lambda: sites.qkd_014_client(MASTER).get_status(SLAVE))
    assert status == 200
    assert (found.source_kme_id, found.target_kme_id) == ("kme-1", "kme-8")
    assert (found.master_sae_id, found.slave_sae_id) == (MASTER, SLAVE)


@pytest.mark.parametrize(
    ("asked", "count", "size_bits"), [({}, 1, 256), ({"number": 5, "size": 1024}, 5, 1024), ({"number": 128}, 128, 256)]
)
def test_etsi_qkd_014_client_shares_keys(sites, asked, count, size_bits):
    status, taken = sites.during(lambda: sites.qkd_014_client(MASTER).get_key(SLAVE, **asked))
    assert status == 200
    assert [len(b64decode(key.key)) * 8 for key in taken.keys] == [size_bits] * count
    ids = [key.key_id for key in taken.keys]
    status, fetched = sites.during(lambda: sites.qkd_014_client(SLAVE).get_key_with_key_IDs(MASTER, ids))
    assert status == 200
    assert [(key.key_id, key.key) for key in fetched.keys] == [(key.key_id, key.key) for key in taken.keys]


def test_etsi_qkd_014_client_is_told_what_is_wrong(sites):
    client = sites.qkd_014_client(MASTER)
    for asked, message in (
        ({"number": 129}, "number is 129"),
        ({"size": 257}, "size shall be a multiple of 8"),
        ({"extension_mandatory": [{"route": "red"}]}, "not all extension_mandatory parameters are supported"),
        ({"additional_slave_sae_ids": ["sae-9"]}, "one slave"),
    ):
        status, error = sites.during(lambda asked=asked: client.get_key(SLAVE, **asked))
        assert status == 400
        assert message in error.message
    status, error = sites.during(lambda: client.get_key_with_key_IDs(SLAVE, ["00000000-0000-0000-0000-000000000001"]))
    assert (status, error.message) == (400, NOT_FOUND)


# --- qkdsec ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["GET", "POST"])
def test_qkdsec_shares_keys(sites, method):
    def share():
        taken = sites.qkdsec(MASTER).get_enc_keys(SLAVE, number=3, size=512, method=method)
        return taken, sites.qkdsec(SLAVE).get_dec_keys(MASTER, key_ids=[key.key_id for key in taken])

    taken, fetched = sites.during(share)
    assert [(key.key_id, key.key) for key in fetched] == [(key.key_id, key.key) for key in taken]
    assert {key.size_bits for key in taken} == {512}
    assert all(key.key_extension["qkdrelay_compromised"] >= 1 for key in (*taken, *fetched))


def test_qkdsec_demands_a_level_or_is_told_what_there_is(sites):
    client = sites.qkdsec(MASTER)

    def demand(level):
        return client.get_enc_keys(SLAVE, extension_mandatory=[{"qkdrelay_compromised": level}])

    (key,) = sites.during(lambda: demand(1))
    assert key.key_extension["qkdrelay_compromised"] >= 1
    with pytest.raises(KMEHTTPError, match="extension_mandatory request options could be met") as refused:
        sites.during(lambda: demand(3))
    assert refused.value.status_code == 400


def test_qkdsec_doctor_finds_nothing_but_where_it_departs_from_the_standard(sites):
    """No server that keeps to the standard passes two of its probes."""
    report = sites.during(lambda: run_all(sites.qkdsec(MASTER), SLAVE))
    found = {probe.name: probe for probe in report.results}
    # An unknown key_ID: 400 with a text that the standard prescribes (6.5, 5.3); the doctor expects 404.
    unknown = found.pop("error_contract_404")
    assert (unknown.status, unknown.details) == (ProbeStatus.WARN, {"http_status": 400})
    # It fetches as the master, who was not named as the slave of that key: 401 or 400, not the key.
    as_master = found.pop("dec_keys_roundtrip")
    assert as_master.status is ProbeStatus.FAIL
    assert "KME returned HTTP 40" in as_master.summary
    assert {name: probe.summary for name, probe in found.items() if probe.status is not ProbeStatus.PASS} == {}
    assert len(found) == 8


# --- the requests of programs in other languages -----------------------------------------------------


def test_arnika_has_a_key_and_its_peer_the_same(sites):
    """The requests of Go's client as arnika sends them (repositories/kms/kms.go)."""

    def get(sae, other, what):
        head = f"GET /api/v1/keys/{other}{what} HTTP/1.1\r\nHost: 127.0.0.1:{sites.ports[sae]}\r\n"
        return sites.exchange(sae, f"{head}User-Agent: Go-http-client/1.1\r\nAccept-Encoding: gzip\r\n\r\n".encode())

    status, head, taken = get(MASTER, SLAVE, "/enc_keys?number=1&size=256")
    assert status == 200
    assert "gzip" not in head
    (key,) = taken["keys"]
    assert len(b64decode(key["key"])) == 32
    status, _, fetched = get(SLAVE, MASTER, f"/dec_keys?key_ID={key['key_ID']}")
    assert (status, fetched["keys"][0]["key"]) == (200, key["key"])
    # It asks again, up to five times, for whatever is not 200: each time the same answer, and no key goes.
    for _ in range(5):
        status, _, again = get(SLAVE, MASTER, f"/dec_keys?key_ID={key['key_ID']}")
        assert (status, again) == (400, {"message": NOT_FOUND})


def test_the_c_wrapper_shares_keys(sites):
    """The requests of libcurl as the wrapper has them sent (src/etsi014/backends/qkd_etsi014_backend.c)."""
    kept = "Accept: application/json\r\nContent-Type: application/json\r\n"

    def send(sae, line, body=""):
        size = f"Content-Length: {len(body)}\r\n" if body else ""
        head = f"{line} HTTP/1.1\r\nHost: 127.0.0.1:{sites.ports[sae]}\r\n{kept}{size}\r\n"
        return sites.exchange(sae, (head + body).encode())

    status, _, found = send(MASTER, f"GET /api/v1/keys/{SLAVE}/status")
    assert status == 200
    numbers = [value for value in found.values() if isinstance(value, int)]
    assert len(numbers) == 7
    assert all(0 <= number < 2**31 for number in numbers)
    assert found["max_key_count"] >= found["stored_key_count"]
    status, _, taken = send(MASTER, f"GET /api/v1/keys/{SLAVE}/enc_keys?number=2&size=256")
    assert status == 200
    ids = [key["key_ID"] for key in taken["keys"]]
    assert {len(key_id) for key_id in ids} == {36}
    listed = ",".join(f'{{"key_ID":"{key_id}","master_SAE_ID":"{MASTER}"}}' for key_id in ids)
    status, _, fetched = send(SLAVE, f"POST /api/v1/keys/{MASTER}/dec_keys", f'{{"key_IDs":[{listed}]}}')
    assert (status, [key["key"] for key in fetched["keys"]]) == (200, [key["key"] for key in taken["keys"]])


def test_whoever_trusts_another_authority_is_not_talked_to(sites, tmp_path):
    other = Authority(tmp_path)
    with socket.create_connection(("127.0.0.1", sites.ports[MASTER]), timeout=10.0) as raw, pytest.raises(ssl.SSLError):
        other.context().wrap_socket(raw, server_hostname="127.0.0.1")
