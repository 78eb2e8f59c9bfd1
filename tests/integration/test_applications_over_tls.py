"""Two applications three hops apart, over TLS: what one takes the other fetches, once, and nobody else."""

import threading
from base64 import b64decode

import pytest

from kme.devices.answers import DeviceError
from kme.devices.client import Device, DeviceSettings
from kme.devices.trial import as_master, as_slave
from kme.etsi014.server import serving_applications
from support.applications import Applications
from support.saes import Authority, sae_at
from support.waiting import eventually


class Served:
    """A network whose KMEs serve, and those who ask them; everything moves in this thread meanwhile."""

    def __init__(self, network, authority, ports):
        self.network, self.authority, self.ports = network, authority, ports

    def port(self, sae):
        return self.ports["kme-1" if sae == "sae-1" else "kme-8"]

    def meanwhile(self, work):
        """Return what comes of work that another thread does."""
        done = []
        thread = threading.Thread(target=lambda: done.append(work()))
        thread.start()

        def moved():
            self.network.courier.run()
            return not thread.is_alive()

        eventually(moved)
        thread.join()
        return done[0]

    def __call__(self, sae, other, what, body=None):
        def ask():
            with sae_at(self.port(sae), self.authority.context(sae)) as client:
                return client.get(other, what) if body is None else client.post(other, what, body)

        status, _, answer = self.meanwhile(ask)
        return status, answer


@pytest.fixture
def served(tmp_path):
    network, authority = Applications(), Authority(tmp_path / "saes")
    for sae in ("sae-1", "sae-8", "sae-9"):
        authority.issue(sae, names=[sae])
    authority.server(tmp_path / "tls")
    local = ("127.0.0.1", 0)

    def serving(kme):
        keys, audit = network.keys_of[kme], network.audit_of[kme]
        return serving_applications(keys, audit, local, tmp_path / "tls", id_from="cn", wait_s=5.0)

    with serving("kme-1") as first, serving("kme-8") as last:
        yield Served(network, authority, {"kme-1": first, "kme-8": last})


def test_what_one_takes_the_other_fetches_and_once(served):
    status, container = served("sae-1", "sae-8", "enc_keys", {"number": 128, "size": 256})
    assert status == 200
    assert len({key["key"] for key in container["keys"]}) == 128
    assert {len(b64decode(key["key"])) for key in container["keys"]} == {32}
    asked = {"key_IDs": [{"key_ID": key["key_ID"]} for key in container["keys"]]}
    assert served("sae-9", "sae-1", "dec_keys", asked)[0] == 401
    status, fetched = served("sae-8", "sae-1", "dec_keys", asked)
    assert status == 200
    assert [(key["key_ID"], key["key"]) for key in fetched["keys"]] == [
        (key["key_ID"], key["key"]) for key in container["keys"]
    ]
    assert served("sae-8", "sae-1", "dec_keys", asked)[0] == 400


def test_a_status_says_what_there_is(served):
    assert served("sae-1", "sae-8", "enc_keys")[0] == 200
    status, said = served("sae-1", "sae-8", "status")
    assert (status, said["source_KME_ID"], said["target_KME_ID"]) == (200, "kme-1", "kme-8")
    assert said["stored_key_count"] >= 128


def test_the_network_serves_as_the_device_of_another_s_link(served, tmp_path):
    """Two KMEs of another network ask as the master and the slave of a pair of devices do."""

    def device(sae, peer):
        folder = tmp_path / f"as-{sae}"
        folder.mkdir()
        served.authority.files(sae, folder)
        return Device(DeviceSettings(f"https://127.0.0.1:{served.port(sae)}", peer, folder))

    sender, receiver = device("sae-1", "sae-8"), device("sae-8", "sae-1")
    drawn = served.meanwhile(lambda: as_master(sender, 8, 256))
    assert drawn.status.keys_per_request == 128
    assert served.meanwhile(lambda: as_slave(receiver, [key.key_id for key in drawn.keys])).keys == drawn.keys
    again = served.meanwhile(lambda: refusal(receiver, drawn.keys[0].key_id))
    assert again == "dec_keys: it gives none now (400: one or more keys specified are not found on KME)"


def refusal(device, key_id):
    try:
        device.fetch([key_id])
    except DeviceError as error:
        return str(error)
    return ""
