"""Two applications three hops apart, over TLS: what one takes the other fetches, once, and nobody else."""

import threading
from base64 import b64decode

import pytest

from kme.etsi014.server import serving_applications
from support.applications import Applications
from support.saes import Authority, sae_at
from support.waiting import eventually


@pytest.fixture
def served(tmp_path):
    """A network whose KMEs serve, with a way to ask as an SAE; everything moves in this thread while that is done."""
    network, authority = Applications(), Authority(tmp_path / "saes")
    for sae in ("sae-1", "sae-8", "sae-9"):
        authority.issue(sae, names=[sae])
    authority.server(tmp_path / "tls")
    local = ("127.0.0.1", 0)

    def serving(kme):
        keys, audit = network.keys_of[kme], network.audit_of[kme]
        return serving_applications(keys, audit, local, tmp_path / "tls", id_from="cn", wait_s=5.0)

    with serving("kme-1") as first, serving("kme-8") as last:

        def ask(sae, other, what, body=None):
            answers = []

            def asking():
                with sae_at(first if sae == "sae-1" else last, authority.context(sae)) as client:
                    answers.append(client.get(other, what) if body is None else client.post(other, what, body))

            thread = threading.Thread(target=asking)
            thread.start()

            def moved():
                network.courier.run()
                return bool(answers)

            eventually(moved)
            thread.join()
            status, _, answer = answers[0]
            return status, answer

        yield ask


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
