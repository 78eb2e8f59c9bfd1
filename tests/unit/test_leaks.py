"""In the lab a leaked share is for the coordinator alone: whoever is at the broker can neither read nor forge one."""

import os
from dataclasses import replace

import pytest

from qkdrelay.broker.definitions import definitions
from qkdrelay.broker.names import LEAKS_AGE_MS_MAX, LEAKS_KEY, LEAKS_QUEUE, kme_exchange
from qkdrelay.errors import ForgedMessageError, MalformedMessageError
from qkdrelay.messages import codec
from qkdrelay.messages.leaks import Leak, SealedLeak, open_leak, seal_leak
from support.kme import RELAY
from support.network import Network

KEY, ANOTHER = os.urandom(32), os.urandom(32)
LEAK = Leak(kme="kme-5", relay_id=RELAY, route=("kme-1", "kme-5"), payload=os.urandom(160))


def test_who_has_the_control_key_reads_what_was_leaked():
    assert open_leak(KEY, "kme-5", seal_leak(KEY, LEAK)) == LEAK


def test_nothing_of_it_can_be_seen_and_it_looks_different_each_time():
    one, other = seal_leak(KEY, LEAK), seal_leak(KEY, LEAK)
    for body in (one, other):
        assert not any(part in body for part in (LEAK.payload[:8], b"kme-5", RELAY.bytes, str(RELAY).encode()))
    assert codec.decode(one, SealedLeak).ciphertext != codec.decode(other, SealedLeak).ciphertext


@pytest.mark.parametrize(
    ("key", "kme"),
    [(ANOTHER, "kme-5"), (KEY, "kme-4")],
    ids=["under another control key", "as another KME's"],
)
def test_it_is_not_read_otherwise(key, kme):
    with pytest.raises(ForgedMessageError, match=f"was not sealed by {kme}"):
        open_leak(key, kme, seal_leak(KEY, LEAK))


def test_no_byte_of_it_can_be_changed():
    body = seal_leak(KEY, LEAK)
    for place in range(len(body)):
        with pytest.raises((ForgedMessageError, MalformedMessageError)):
            open_leak(KEY, "kme-5", body[:place] + bytes((body[place] ^ 1,)) + body[place + 1 :])


def test_a_leak_in_the_clear_is_refused():
    with pytest.raises(MalformedMessageError):
        open_leak(KEY, "kme-5", codec.encode(LEAK))


# --- at the broker ---------------------------------------------------------------------------------


@pytest.fixture
def network(tmp_path):
    return Network(lab=True, folder=tmp_path)


def test_a_leak_counts_for_the_kme_that_sealed_it_and_for_no_other(network):
    relay_id = network.relay("kme-1", "kme-8").relay_id
    leak = Leak(kme="kme-5", relay_id=relay_id, route=("kme-1", "kme-5"), payload=bytes(160))
    sealed = seal_leak(network.control_keys["kme-5"], leak)
    forged = [codec.encode(leak), seal_leak(bytes(32), leak), seal_leak(network.control_keys["kme-4"], leak)]
    for body in forged:
        network.inject("kme-5", kme_exchange("kme-5"), LEAKS_KEY, body)
    network.inject("kme-4", kme_exchange("kme-4"), LEAKS_KEY, sealed)
    network.settle()
    adversary = network.service("coordinator")._adversary
    assert adversary._leaks == {}
    assert [(kme, queue) for kme, queue, _ in network.dead_letters()] == [("coordinator", LEAKS_QUEUE)] * 4
    network.inject("kme-5", kme_exchange("kme-5"), LEAKS_KEY, sealed)
    network.settle()
    assert list(adversary._leaks) == [relay_id]


def test_what_nobody_took_is_not_published_once_the_lab_is_off(network):
    network.compromise("kme-5", "leak")
    publish = network.hub.publish
    network.hub.publish = lambda user, publication: (
        "refused" if publication.routing_key == LEAKS_KEY else publish(user, publication)
    )
    network.relay("kme-1", "kme-8")

    def kept():
        return {
            publication.routing_key
            for publication in network.stores["kme-5"].journal.outbox.unconfirmed(network.clock())
        }

    assert LEAKS_KEY in kept()
    network.settings["kme-5"] = replace(network.settings["kme-5"], lab=False)
    network.restart("kme-5")
    assert LEAKS_KEY not in kept()


def test_what_is_not_read_in_time_does_not_stay_at_the_broker():
    passwords = dict.fromkeys(("kme-1", "kme-2", "coordinator", "cli", "page", "operator"), "secret")

    def policies(lab):
        made = definitions(("kme-1", "kme-2"), (("kme-1", "kme-2"),), passwords, lab=lab)
        return {policy["name"]: policy["definition"] for policy in made["policies"]}

    assert policies(True)["leaks"]["message-ttl"] == LEAKS_AGE_MS_MAX
    assert "dead-letter-exchange" not in policies(True)["leaks"]
    assert "leaks" not in policies(False)
