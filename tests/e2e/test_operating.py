"""What an operator sees and does on the real stack: health, metrics, a full disk, dead letters."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import pytest

from qkdrelay.broker.names import kme_exchange, link_queue
from support import rabbitmq, stack
from support.waiting import eventually

pytestmark = [pytest.mark.containers, pytest.mark.timeout(300)]

WITHIN_S = 60.0


@pytest.fixture(scope="module")
def network() -> Iterator[stack.Stack]:
    rabbitmq.require_containers(stack.IMAGE)
    with stack.running("diamond", lab=False, disk="4m") as running:
        yield running


def ready(network: stack.Stack, *services: str) -> bool:
    return all(network.get(service, "/readyz") == (200, "ok\n") for service in services)


def checked(network: stack.Stack, service: str) -> tuple[int, str]:
    """Run the compose file's own health check: exit status and output."""
    found = re.search(r"- -c\n +- >-\n((?: {8}.*\n)+)", (stack.ROOT / "docker-compose.yml").read_text())
    assert found is not None
    check = " ".join(found[1].split("\n")).replace("$$", "$")
    result = network.containers[service].exec_run(["bash", "-c", check])
    return result.exit_code, result.output.decode()


def test_a_service_without_its_broker_is_alive_but_not_ready_until_it_is_back(network: stack.Stack) -> None:
    services = tuple(network.containers)
    eventually(lambda: ready(network, *services), timeout_s=WITHIN_S)
    network.server.control("stop_app")
    try:
        for service in services:
            lost = eventually(
                lambda service=service: (answer := network.get(service, "/readyz"))[0] == 503 and answer,
                timeout_s=WITHIN_S,
                what=f"{service} not to be ready",
            )
            assert lost == (503, "not connected to the broker\n")
            assert checked(network, service) == (1, "not connected to the broker\n")
            assert network.get(service, "/healthz") == (200, "ok\n")
    finally:
        network.server.control("start_app")
    eventually(lambda: ready(network, *services), timeout_s=WITHIN_S, what="all to be ready again")
    assert checked(network, "kme-1") == (0, "ok\n")
    assert network.relay("kme-1", "kme-4")["state"] == "confirmed"
    for service in services:
        eventually(
            lambda service=service: network.metrics(service)["qkdrelay_broker_reconnects_total"] >= 1,
            what=f"{service} to have counted it",
        )


def test_a_kme_with_a_full_disk_is_not_ready_says_why_and_goes_on_when_there_is_room(network: stack.Stack) -> None:
    def bash(command: str) -> None:
        network.containers["kme-2"].exec_run(["bash", "-c", command])

    filler = f"{stack.STORE}/filler"
    bash(f"cat /dev/zero >{filler}")
    try:
        status, why = eventually(
            lambda: (answer := network.get("kme-2", "/readyz"))[0] == 503 and answer, timeout_s=WITHIN_S
        )
        assert status == 503
        assert f"the store {stack.STORE}/kme.sqlite does not take a commit: " in why
        assert network.get("kme-2", "/healthz") == (200, "ok\n")
        assert ready(network, "kme-1", "kme-3", "kme-4", "coordinator")
    finally:
        bash(f"rm {filler}")
    eventually(lambda: ready(network, "kme-2"), timeout_s=WITHIN_S)
    eventually(lambda: network.metrics("kme-2")["qkdrelay_store_failures_total"] >= 1)
    assert network.relay("kme-1", "kme-4", "--linger", "5")["missing"] == []


def test_metrics_tell_what_a_relay_did_and_none_of_its_keys(network: stack.Stack) -> None:
    outcome = network.relay("kme-1", "kme-4", "--keys", "2")
    assert outcome["state"] == "confirmed"
    keys = [key["key"] for key in network.delivered("kme-4", outcome["relay_id"])]
    for service in network.containers:
        page = network.get(service, "/metrics")[1]
        assert "process_resident_memory_bytes" in page
        assert not [secret for secret in (*keys, outcome["relay_id"]) if secret in page]
    assert network.metrics("kme-1")['qkdrelay_link_key_drawn_bytes_total{link="kme-1>kme-2"}'] > 0
    assert network.metrics("kme-4")['qkdrelay_kme_shares_total{outcome="collected"}'] >= 2
    assert network.metrics("coordinator")['qkdrelay_coordinator_decision_seconds_count{state="confirmed"}'] >= 1


def dead_letters(network: stack.Stack) -> list[dict[str, Any]]:
    letters: list[dict[str, Any]] = network.coordinator("dead-letters", "list", "--json").json()["dead_letters"]
    return letters


def test_a_forged_message_is_a_dead_letter_that_is_shown_requeued_refused_again_and_dropped(
    network: stack.Stack,
) -> None:
    # Only kme-2 may write there, so the attacker has its password.
    queue = link_queue("kme-2", "kme-4")
    network.publish("kme-2", kme_exchange("kme-2"), queue, b"\xc1")
    (letter,) = eventually(lambda: dead_letters(network), what="the dead letter")
    assert (letter["queue"], letter["sender"], letter["given_up_by"]) == (queue, "kme-2", "kme-4")
    assert letter["reason"] == "not a valid message: it is not a map"
    number = str(letter["letter"])
    shown = network.coordinator("dead-letters", "show", number)
    assert letter["reason"] in shown.out
    assert network.coordinator("dead-letters", "requeue", number).out == f"requeued: {number} to {queue}\n"
    (again,) = eventually(lambda: dead_letters(network), what="it to be refused again")
    assert again["letter"] != letter["letter"]
    assert again["reason"] == letter["reason"]
    assert network.coordinator("dead-letters", "drop", "--all").code == 1  # nobody there to be asked
    assert network.coordinator("dead-letters", "drop", "--all", "--yes").out == "dropped 1 dead letter\n"
    assert dead_letters(network) == []
