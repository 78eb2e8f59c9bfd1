"""What is counted is what happened, and no metric names a relay or shows a secret."""

import base64
import re
from contextlib import contextmanager

import pytest
from msgspec import structs
from prometheus_client import generate_latest

from qkdrelay.errors import StoreError
from support.network import Network, sealed_by


def sample(network, service, name, **labels):
    network.loops[service].measure()
    return network.service(service).metrics.registry.get_sample_value(f"qkdrelay_{name}", labels)


def everywhere(network, name, **labels):
    return sum(sample(network, kme, name, **labels) for kme in network.topology.kmes)


def page(network, service):
    network.loops[service].measure()
    return generate_latest(network.service(service).metrics.registry).decode()


def test_every_share_is_counted_where_something_became_of_it():
    network = Network()
    network.cut("kme-7", "kme-8")
    network.relay("kme-1", "kme-8")
    network.relay("kme-1", "kme-8")
    outcomes = ("split", "forwarded", "sent", "waiting", "collected", "rejected")
    counts = {outcome: everywhere(network, "kme_shares_total", outcome=outcome) for outcome in outcomes}
    assert counts == {"split": 8, "forwarded": 14, "sent": 30, "waiting": 4, "collected": 10, "rejected": 0}
    assert sample(network, "kme-7", "link_shares_waiting", link="kme-7>kme-8") == 4
    assert sample(network, "kme-7", "link_up", link="kme-7>kme-8") == 0
    assert sample(network, "kme-7", "link_up", link="kme-7>kme-3") == 1
    network.mend("kme-7", "kme-8")
    assert sample(network, "kme-7", "link_shares_waiting", link="kme-7>kme-8") == 0
    assert everywhere(network, "kme_shares_total", outcome="sent") == 34


def test_relays_are_counted_by_state_and_the_time_to_a_decision_is_measured():
    network = Network()
    network.relay("kme-1", "kme-8")
    network.stop("kme-8")
    failing = network.relay("kme-1", "kme-8").relay_id
    assert sample(network, "coordinator", "coordinator_relays_undecided") == 1
    network.wait(failing)
    states = {
        state: sample(network, "coordinator", "coordinator_relays_total", state=state)
        for state in ("planned", "started", "confirmed", "failed")
    }
    assert states == {"planned": 2, "started": 2, "confirmed": 1, "failed": 1}
    assert sample(network, "coordinator", "coordinator_relays_undecided") == 0
    assert sample(network, "coordinator", "coordinator_decision_seconds_count", state="confirmed") == 1
    assert sample(network, "coordinator", "coordinator_decision_seconds_sum", state="failed") == 31
    assert sample(network, "kme-1", "kme_relays_total", state="confirmed") == 1
    assert sample(network, "kme-8", "kme_relays_total", state="rebuilt") == 1
    assert sample(network, "kme-8", "kme_relays_pending") == 0


def test_link_key_drawn_is_key_no_longer_there():
    network = Network()
    network.limit_key("kme-1", "kme-2", network.clock, rate_bps=1, buffer_bytes=4096)
    before = sample(network, "kme-1", "link_key_available_bytes", link="kme-1>kme-2")
    network.relay("kme-1", "kme-8")
    drawn = sample(network, "kme-1", "link_key_drawn_bytes_total", link="kme-1>kme-2")
    sealed = next(len(p.body) for p in network.sealed if p.routing_key == "link.kme-1.kme-2")
    assert 0 < drawn < sealed + 32
    assert sample(network, "kme-1", "link_key_available_bytes", link="kme-1>kme-2") == before - drawn
    assert sample(network, "kme-2", "link_key_drawn_bytes_total", link="kme-2>kme-1") == 0


def test_what_is_refused_is_counted_once_by_reason_and_by_who_gave_it_up():
    network = Network()
    network.relay("kme-1", "kme-8")
    body = next(p.body for p in network.sealed if p.routing_key == "link.kme-3.kme-5")
    link, route = ("kme-3", "kme-5"), ("kme-3", "kme-5")
    fresh = sealed_by(network, *link, route, b"", bytes(10))
    network.on_link(*link, b"noise")
    for genuine in (fresh, body):  # under a slot that has opened nothing yet, and under one that has
        network.on_link(*link, genuine[:-1] + bytes([genuine[-1] ^ 1]))
    key = network.sending(*link).draw(10)
    for payload in (bytes(10), b"ten others"):  # by kme-3 itself
        network.on_link(*link, sealed_by(network, *link, route, b"", payload, key=key))
    network.on_link(*link, body)
    network.as_cli(b"noise")
    network.settle()
    for reason, times in (("malformed", 1), ("forged", 2), ("unfit", 1), ("number_reused", 1)):
        assert sample(network, "kme-5", "messages_refused_total", reason=reason) == times, reason
    assert sample(network, "kme-5", "kme_shares_total", outcome="rejected") == 5
    assert sample(network, "kme-5", "kme_shares_total", outcome="redelivered") == 1
    assert sample(network, "coordinator", "messages_refused_total", reason="malformed") == 1
    for kme, letters in (("kme-5", 5), ("coordinator", 1), ("kme-3", 0), ("broker", 0)):
        assert sample(network, "coordinator", "coordinator_dead_letters_total", kme=kme) == letters
    assert sample(network, "coordinator", "coordinator_dead_letters_kept") == 6


def test_a_batch_that_the_disk_did_not_take_is_not_counted_before_it_does():
    network = Network()
    network.on_link("kme-3", "kme-5", b"noise")
    journal = network.stores["kme-5"].journal
    transaction = journal.transaction

    @contextmanager
    def full():
        with transaction():
            yield
            raise StoreError("no space")

    journal.transaction = full
    for _ in range(3):
        with pytest.raises(StoreError):
            network.loops["kme-5"].step(0.0)
    assert sample(network, "kme-5", "messages_refused_total", reason="malformed") == 0
    journal.transaction = transaction
    network.settle()
    assert sample(network, "kme-5", "messages_refused_total", reason="malformed") == 1
    assert sample(network, "kme-5", "kme_shares_total", outcome="rejected") == 1


def test_what_waits_for_the_broker_is_measured_by_queue():
    network = Network()
    network.hub.unbind("kme.kme-1", "link.kme-1.kme-2", "link.kme-1.kme-2")
    network.relay("kme-1", "kme-8")
    assert sample(network, "kme-1", "outbox_messages", queue="link.kme-1.kme-2") == 1
    assert sample(network, "kme-1", "outbox_bytes", queue="link.kme-1.kme-2") > 100
    assert sample(network, "kme-1", "outbox_messages", queue="link.kme-1.kme-3") == 0


def test_reconnects_epochs_and_hellos_are_there_to_see(tmp_path):
    network = Network(folder=tmp_path)
    network.relay("kme-1", "kme-8")
    assert sample(network, "kme-2", "broker_reconnects_total") == 0
    assert sample(network, "kme-2", "broker_connected") == 1
    granted = sample(network, "kme-2", "link_key_blocks_granted", link="kme-2>kme-1")
    assert granted > 0
    assert sample(network, "kme-2", "link_key_given_up", link="kme-2>kme-1") == 0
    network.hub.drop("kme-2")
    network.later(10.0)
    assert sample(network, "kme-2", "broker_reconnects_total") == 1
    # On another connection key is agreed on anew, by its sender alone.
    assert sample(network, "kme-2", "link_key_given_up", link="kme-2>kme-1") == 1
    assert sample(network, "kme-2", "link_key_blocks_granted", link="kme-2>kme-1") == 2 * granted
    assert sample(network, "kme-1", "link_key_given_up", link="kme-1>kme-2") == 0
    assert sample(network, "coordinator", "stream_epochs", stream="reports kme-1") == 1
    network.restart("kme-1")
    network.settle()
    network.relay("kme-1", "kme-8")
    assert sample(network, "coordinator", "stream_epochs", stream="reports kme-1") == 2
    assert sample(network, "coordinator", "coordinator_kme_heard_timestamp_seconds", kme="kme-1") == network.clock()
    assert sample(network, "coordinator", "coordinator_kme_clock_skew_seconds", kme="kme-1") == 0
    assert sample(network, "kme-2", "store_free_bytes") > 0


def test_links_that_a_kme_does_not_name_are_missing():
    """It was provisioned from another topology; the coordinator's is that which counts."""
    network = Network()
    network.later(10.0)
    service = network.service("coordinator")
    at, hello = service.liveness.last_hellos["kme-3"]

    def missing():
        return [
            sample(network, "coordinator", "coordinator_kme_links_missing", kme=kme) for kme in network.topology.kmes
        ]

    assert missing() == [0] * 8
    stranger = structs.replace(hello.links[0], peer="kme-9")
    service.liveness.note("kme-3", structs.replace(hello, links=(*hello.links[2:], stranger)))
    service.liveness.tick(at)
    assert missing() == [0, 0, 2, 0, 0, 0, 0, 0]


def test_metrics_name_no_relay_and_show_no_secret():
    network = Network(lab=True)
    network.compromise("kme-4", "leak")
    view = network.relay("kme-1", "kme-8", key_count=3)
    secrets = [network.keys("kme-1", view.relay_id)[at : at + 32] for at in (0, 32, 64)]
    secrets += network.service("coordinator")._keys.values()
    for service in network.loops:
        text = page(network, service)
        assert not re.search(r"[0-9a-f]{8}-[0-9a-f]{4}-", text)
        assert str(view.relay_id)[:8] not in text
        for secret in secrets:
            assert secret.hex() not in text
            assert base64.b64encode(secret).decode() not in text


def test_labels_are_bounded_whatever_is_sent():
    network = Network()
    network.relay("kme-1", "kme-8")
    network.on_link("kme-3", "kme-5", b"noise")
    network.settle()
    before = {service: page(network, service).count("\n") for service in network.loops}
    for number in range(20):
        network.relay("kme-1", "kme-8")
        network.on_link("kme-3", "kme-5", b"noise %d" % number)
        network.as_kme("kme-3", b"noise %d" % number)
        network.settle()
    assert {service: page(network, service).count("\n") for service in network.loops} == before
