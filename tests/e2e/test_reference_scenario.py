"""The reference scenario on the real stack: eight KMEs, a broker and a coordinator, each in a container."""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterator
from functools import partial
from itertools import permutations
from random import Random

import pytest

from attack import campaign
from attack.coalition import SENDS_MAX, TRICKS, Coalition
from attack.real import in_the_place_of
from qkdrelay.broker.names import link_queue
from qkdrelay.messages.answers import RelayView
from qkdrelay.messages.keys import key_id
from qkdrelay.messages.relay_ids import new_relay_id
from qkdrelay.messages.requests import ShowRequest
from qkdrelay.messages.states import TERMINAL
from qkdrelay.network.planner import recursive_plan
from support import rabbitmq, stack
from support.waiting import eventually

pytestmark = [pytest.mark.containers, pytest.mark.timeout(300)]


@pytest.fixture(scope="module")
def network() -> Iterator[stack.Stack]:
    rabbitmq.require_containers(stack.IMAGE)
    with stack.running(lab=True) as running:
        yield running


@pytest.fixture(autouse=True)
def honest_and_whole(network: stack.Stack) -> Iterator[None]:
    """Leave the network as it was found: every KME runs and is honest, every link carries."""
    yield
    for container in network.containers.values():
        container.reload()
        if container.status != "running":
            container.start()
    eventually(lambda: network.heard() == set(network.topology.kmes), timeout_s=60)
    state = network.coordinator("network", "--json").json()
    for link in state["links"]:
        if link["ordered_down"]:
            assert network.coordinator("link", "up", *link["link"]).code == 0
    for kme in state["kmes"]:
        if kme["lab_mode"]:
            assert network.coordinator("lab", "restore", kme["name"]).code == 0


def compromise(network: stack.Stack, *kmes: str, mode: str = "leak") -> None:
    for kme in kmes:
        answer = network.coordinator("lab", "compromise", kme, "--mode", mode)
        assert answer.code == 0, answer.err


def attack(network: stack.Stack, relay_id: str, *kmes: str) -> bool:
    only = [part for kme in kmes for part in ("--kme", kme)]
    answer = network.coordinator("lab", "attack", relay_id, *only, "--json")
    assert answer.code == 0, answer.err
    result = answer.json()
    assert set(result["kmes"]) == set(kmes)
    assert result["shares_held"] > 0
    return bool(result["learned"])


def leaked(network: stack.Stack, relay_id: str, kmes: set[str]) -> bool:
    return kmes <= set(network.coordinator("lab", "attack", relay_id, "--json").json()["kmes"])


def test_a_secret_travels_from_kme_1_to_kme_8_with_4_and_6_compromised_and_7_8_broken(network: stack.Stack) -> None:
    assert network.coordinator("link", "down", "kme-7", "kme-8").code == 0
    compromise(network, "kme-4", "kme-6")

    outcome = network.relay("kme-1", "kme-8", "--keys", "10")

    assert outcome["state"] == "confirmed"
    assert outcome["planned_share_messages"] == 17
    assert outcome["share_messages"] == 15
    assert {tuple(route) for route in outcome["missing"]} == {
        ("kme-1", "kme-3", "kme-7", "kme-8"),
        ("kme-1", "kme-4", "kme-7", "kme-8"),
    }
    assert outcome["false_shares"] == []
    relay_id = outcome["relay_id"]
    source, target = network.delivered("kme-1", relay_id), network.delivered("kme-8", relay_id)
    assert [key["key"] for key in source] == [key["key"] for key in target]
    assert len({key["key"] for key in source}) == 10
    assert outcome["key_ids"] == [key["key_id"] for key in source]
    assert outcome["key_ids"][3] == str(key_id(uuid.UUID(relay_id), 3))

    eventually(lambda: leaked(network, relay_id, {"kme-4", "kme-6"}), what="the leaks to arrive")
    assert attack(network, relay_id, "kme-4") is False
    assert attack(network, relay_id, "kme-6") is False
    assert attack(network, relay_id, "kme-4", "kme-6") is False


def test_the_attack_is_a_real_one_kme_5_and_6_together_learn_the_secret(network: stack.Stack) -> None:
    compromise(network, "kme-5", "kme-6")
    relay_id = network.relay("kme-1", "kme-8")["relay_id"]
    eventually(lambda: leaked(network, relay_id, {"kme-5", "kme-6"}), what="the leaks to arrive")
    assert attack(network, relay_id, "kme-5") is False
    assert attack(network, relay_id, "kme-5", "kme-6") is True


def test_a_tampering_kme_is_outvoted_and_a_route_through_it_named(network: stack.Stack) -> None:
    compromise(network, "kme-7", mode="tamper")
    outcome = network.relay("kme-1", "kme-8", "--linger", "5")
    assert outcome["state"] == "confirmed"
    relay_id = outcome["relay_id"]
    assert [k["key"] for k in network.delivered("kme-1", relay_id)] == [
        k["key"] for k in network.delivered("kme-8", relay_id)
    ]
    eventually(lambda: network.coordinator("show", relay_id, "--json").json()["false_shares"], what="a false share")
    shown = network.coordinator("show", relay_id, "--json").json()
    assert all("kme-7" in route for route in shown["false_shares"])


def test_whatever_a_compromised_kme_does_relays_confirm_and_no_route_without_it_is_named(network: stack.Stack) -> None:
    """One relay for each trick, kme-7 doing it: its part of one split of three is lost, and no more."""
    plan = recursive_plan(network.topology, "kme-1", "kme-8")
    seed = campaign.seed()
    rng = Random(seed)
    coalition = Coalition(rng, frozenset({"kme-7"}), plan, network.topology.neighbours, ("honest",))
    to_kme_7 = {route[: route.index("kme-7") + 1] for route in plan.routes() if "kme-7" in route}
    views = {}
    with in_the_place_of(network, "kme-7", coalition), network.talk() as ask:

        def relayed(trick: str) -> RelayView:
            coalition.tricks, coalition.left = (trick,), SENDS_MAX
            relay_id = new_relay_id()
            ask(stack.asked(relay_id, "kme-1", "kme-8", "recursive", 20.0))

            def over() -> RelayView | None:
                view = ask(ShowRequest(relay=str(relay_id), follow=False))
                return view if isinstance(view, RelayView) and view.state in TERMINAL else None

            return eventually(over, what=f"the relay under attack by {trick} to end (seed {seed})")

        def came(view: RelayView) -> bool:
            return {route for relay, route in coalition.pool if relay == view.relay_id} == to_kme_7

        # Its links have to agree on key anew; relays do without it meanwhile.
        eventually(lambda: came(relayed("honest")), what="kme-7 to be reached by all shares that go through it")
        for trick in TRICKS:
            views[trick] = relayed(trick)
            eventually(partial(came, views[trick]), what=f"what goes through kme-7 under {trick} (seed {seed})")
        assert {trick: view.state for trick, view in views.items()} == dict.fromkeys(TRICKS, "confirmed"), seed

        def named(trick: str) -> list[tuple[str, ...]]:
            view = ask(ShowRequest(relay=str(views[trick].relay_id), follow=False))
            return [*view.false_shares, *view.equivocating]

        eventually(lambda: named("flip"), what="a flipped share to be named")
        assert all("kme-7" in route for trick in TRICKS for route in named(trick)), seed

    def released(kme: str) -> dict[str, str]:
        keys = {key["relay_id"]: key for key in network.all_keys(kme)}
        return {trick: keys[str(view.relay_id)].get("key", "") for trick, view in views.items()}

    eventually(lambda: all(released("kme-1").values()) and all(released("kme-8").values()), what="the keys")
    assert released("kme-1") == released("kme-8")


def test_without_kme_6_the_relay_fails_in_time_and_says_what_was_missing(network: stack.Stack) -> None:
    network.containers["kme-6"].kill()
    outcome = network.relay("kme-1", "kme-8", "--timeout", "4")
    assert outcome["state"] == "failed"
    assert 4 <= outcome["elapsed_s"] < 8
    assert {tuple(route) for route in outcome["missing"]} == {
        ("kme-1", "kme-2", "kme-6", "kme-8"),
        ("kme-1", "kme-3", "kme-6", "kme-8"),
        ("kme-1", "kme-4", "kme-6", "kme-8"),
    }
    assert "kme-1 " in outcome["reason"]
    assert "1 of the 2" in outcome["reason"]
    # Destroyed at the source, never released at the target.
    relay_id = outcome["relay_id"]
    eventually(lambda: all(k["state"] == "failed" for k in network.keys("kme-1", relay_id)))
    assert all("key" not in key for key in network.keys("kme-1", relay_id) + network.keys("kme-8", relay_id))


def test_a_thousand_keys_in_one_relay(network: stack.Stack) -> None:
    outcome = network.relay("kme-1", "kme-8", "--keys", "1000")
    assert outcome["state"] == "confirmed"
    source, target = (network.delivered(kme, outcome["relay_id"]) for kme in ("kme-1", "kme-8"))
    assert [key["key"] for key in source] == [key["key"] for key in target]
    assert len({key["key"] for key in source}) == 1000


def test_relays_between_all_56_ordered_pairs_of_kmes_run_at_once(network: stack.Stack) -> None:
    kmes = network.topology.kmes
    relays = {str(new_relay_id()): pair for pair in permutations(kmes, 2)}
    # Nobody answers until all are asked for: then they all run at the same time.
    for kme in kmes:
        network.containers[kme].pause()
    with network.talk() as ask:
        for relay_id, pair in relays.items():
            assert ask(stack.asked(uuid.UUID(relay_id), *pair, "best", 120.0)).state == "planned"
    for kme in kmes:
        network.containers[kme].unpause()

    def states() -> dict[str, str]:
        listed = network.coordinator("relays", "--limit", "1000", "--json").json()["relays"]
        return {relay["relay_id"]: relay["state"] for relay in listed if relay["relay_id"] in relays}

    eventually(lambda: states() == dict.fromkeys(relays, "confirmed"), timeout_s=120, what="all to be confirmed")
    held = {kme: eventually(lambda kme=kme: _released(network, kme, relays), what=f"{kme}'s keys") for kme in kmes}
    for relay_id, (source, target) in relays.items():
        assert held[source][relay_id] == held[target][relay_id]
        assert [kme for kme in kmes if relay_id in held[kme]] == [kme for kme in kmes if kme in (source, target)]
    assert len({key for keys in held.values() for key in keys.values()}) == len(relays) == 56


def _released(network: stack.Stack, kme: str, relays: dict[str, tuple[str, str]]) -> dict[str, str] | None:
    """Return the key of each of ``relays`` that ``kme`` is an end of, once it has released them all."""
    found = {key["relay_id"]: key for key in network.all_keys(kme) if key["relay_id"] in relays}
    released = {relay_id: key["key"] for relay_id, key in found.items() if key["state"] == "delivered"}
    return released if len(released) == 2 * (len(network.topology.kmes) - 1) else None


def test_the_coordinator_finishes_what_was_under_way_when_it_was_killed(network: stack.Stack) -> None:
    before = network.relay("kme-1", "kme-8")["relay_id"]
    network.containers["kme-8"].pause()
    answer = network.coordinator("relay", "kme-1", "kme-8", "--timeout", "60", "--no-wait")
    assert answer.code == 0, answer.err
    relay_id = answer.out.strip()
    network.containers["coordinator"].kill()
    network.containers["kme-8"].unpause()
    network.containers["coordinator"].start()

    def state(relay: str) -> str:
        shown = network.coordinator("show", relay, "--json")
        return str(shown.json()["state"]) if shown.code == 0 else ""

    eventually(lambda: state(relay_id) == "confirmed", timeout_s=40, what="the relay to be finished")
    assert state(before) == "confirmed"


def test_the_logs_alone_tell_the_way_of_every_share(network: stack.Stack) -> None:
    outcome = network.relay("kme-1", "kme-8", "--linger", "5")
    relay_id = outcome["relay_id"]
    eventually(lambda: len(_events(network, "kme-8", "share.collected", relay_id)) == 7)
    sent = [line for kme in network.topology.kmes for line in _events(network, kme, "share.sent", relay_id)]
    assert len(sent) == 17
    for line in sent:
        assert line["link"] == ">".join(line["route"].split(">")[-2:])
        assert line["threshold"] >= 1
        assert line["index"] >= 1
    split = {line["route"] for kme in network.topology.kmes for line in _events(network, kme, "share.split", relay_id)}
    assert split == {"kme-1", "kme-1>kme-2", "kme-1>kme-3", "kme-1>kme-4"}
    forwarded = [line for kme in network.topology.kmes for line in _events(network, kme, "share.forwarded", relay_id)]
    assert len(forwarded) == 7
    assert {line["route"] for line in _events(network, "kme-8", "share.collected", relay_id)} == {
        line["route"] for line in sent if line["route"].endswith("kme-8")
    }
    assert _events(network, "kme-8", "split.rebuilt", relay_id)
    assert _events(network, "coordinator", "relay.confirmed", relay_id)


def _events(network: stack.Stack, service: str, event: str, relay_id: str) -> list[dict[str, object]]:
    return [line for line in network.logs(service) if line["event"] == event and line.get("relay_id") == relay_id]


@pytest.mark.parametrize("body", [b"", b"\xc1 not msgpack", b"\x81\xa1v\x02", b"x" * 200_000])
def test_a_bad_message_on_a_link_is_dead_lettered_and_the_kme_goes_on(network: stack.Stack, body: bytes) -> None:
    queue = link_queue("kme-5", "kme-8")
    before = len(_rejections(network))
    # Only kme-5 may write there, so the attacker has its password.
    network.publish("kme-5", "kme.kme-5", queue, body)
    eventually(lambda: len(_rejections(network)) > before, what="the rejection in the log")
    assert _rejections(network)[-1]["link"] == "kme-5>kme-8"
    assert network.relay("kme-1", "kme-8")["state"] == "confirmed"


def _rejections(network: stack.Stack) -> list[dict[str, object]]:
    return [line for line in network.logs("kme-8") if line["event"] == "share.rejected"]


def test_what_is_asked_wrongly_is_refused_in_one_line(network: stack.Stack) -> None:
    for arguments, code, part in [
        (["relay", "kme-1", "kme-9"], 2, "kme-9"),
        (["relay", "kme-1", "kme-1"], 2, "kme-1"),
        (["relay", "kme-1", "kme-8", "--keys", "0"], 2, "keys"),
        (["relay", "kme-1", "kme-8", "--key-size", "129"], 2, "129"),
        (["relay", "kme-1", "kme-8", "--timeout", "0.01"], 2, "timeout"),
        (["link", "down", "kme-1", "kme-8"], 2, "no QKD link"),
        (["show", "ffffffff"], 2, "ffffffff"),
    ]:
        answer = network.coordinator(*arguments)
        assert answer.code == code, (arguments, answer)
        assert part in answer.err
        assert answer.out == ""
        assert "Traceback" not in answer.err


def test_a_wrong_password_and_a_silent_broker_are_told_apart(network: stack.Stack) -> None:
    wrong = network.coordinator("network", QKDRELAY_CLI_USER="cli-nobody")
    assert wrong.code == 3
    assert "password" in wrong.err
    secrets = {"QKDRELAY_CLI_PASSWORD": "x", "QKDRELAY_CLI_KEY": "00" * 32}
    silent = stack.command("coordinator", "network", QKDRELAY_BROKER="127.0.0.1:1", **secrets)
    assert silent.code == 3
    assert "127.0.0.1:1" in silent.err


def test_stop_is_quick_and_clean(network: stack.Stack) -> None:
    container = network.containers["kme-2"]
    container.stop(timeout=15)
    container.reload()
    assert container.attrs["State"]["ExitCode"] == 0


def test_no_container_logs_a_secret(network: stack.Stack) -> None:
    relay_id = network.relay("kme-1", "kme-8", "--keys", "3")["relay_id"]
    keys = [key["key"] for key in network.delivered("kme-8", relay_id)]
    for service, container in network.containers.items():
        text = container.logs().decode()
        environment = container.attrs["Config"]["Env"]
        known = [value for entry in environment for value in _secrets_in(entry)]
        for secret in [*keys, *known]:
            assert secret not in text, service


def _secrets_in(entry: str) -> list[str]:
    name, _, value = entry.partition("=")
    if name == "QKDRELAY_LINKS":
        return [link["secret"] for link in json.loads(value).values()]
    if name == "QKDRELAY_CONTROL_KEYS":
        return list(json.loads(value).values())
    return [value] if name.endswith(("PASSWORD", "CONTROL_KEY", "CLI_KEY")) else []
