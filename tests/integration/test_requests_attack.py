"""Whoever has the broker in hand, between the command line and the coordinator: strips, alters, forges, replays,
reflects and reorders requests and answers, in any of its ways, also over a restart."""

from dataclasses import replace
from itertools import combinations

import msgspec
import pytest

from coordinator.commands import CommandQueue
from qkdrelay.broker.memory import MemoryClient
from qkdrelay.broker.names import REPLIES_EXCHANGE
from qkdrelay.client import CoordinatorClient
from qkdrelay.errors import BrokerUnreachableError, RequestRefusedError
from qkdrelay.messages import codec, dialogue
from qkdrelay.messages.answers import Acknowledged, RelayView, Reply
from qkdrelay.messages.control import FixedDemand, SignedMessage
from qkdrelay.messages.plans import decode_plan
from qkdrelay.messages.relay_ids import new_relay_id
from qkdrelay.messages.requests import (
    DropRequest,
    LabRequest,
    LinkRequest,
    OpenDemand,
    RelaysRequest,
    Request,
    RequeueRequest,
    ShowRequest,
)
from qkdrelay.network.names import CLI, COORDINATOR
from support.kme import NOW
from support.network import DIAMOND, Network, relay_request, topology
from support.plans import learns

TWO = OpenDemand(compromised=2, failed=0, tampering=0)
UP, DOWN = (LinkRequest(a="kme-1", b="kme-2", up=up) for up in (True, False))


class Broker:
    """What carries requests and answers of ``network``: ``change`` gets each and returns those to pass on instead."""

    def __init__(self, network, exchange="cli", change=lambda body: [body]):
        self.seen, self.change, self.network = [], change, network
        publish = network.hub.publish

        def altered(user, publication):
            if publication.exchange != exchange:
                return publish(user, publication)
            self.seen.append(publication.body)
            for body in self.change(publication.body):
                publish(user, replace(publication, body=body))
            return None

        network.hub.publish = altered


def with_body(signed, change):
    """The signed message with another request or answer in it."""
    message = codec.decode(signed, SignedMessage)
    kind = Request if message.sender == CLI else Reply
    inner = codec.decode(message.body, kind)
    body = codec.encode(msgspec.structs.replace(inner, body=change(inner.body)))
    return codec.encode(msgspec.structs.replace(message, body=body))


def silent(network, body):
    """Ask, and have no answer."""
    with pytest.raises(BrokerUnreachableError, match="did not answer"):
        network.client.ask(body, object)


def state(network):
    """All that a request may change at the coordinator and the KMEs."""
    store = network.coordinator_store
    labs = {kme: (kept.journal.meta.get("lab_mode"), kept.waiting.links_down()) for kme, kept in network.stores.items()}
    return store.links.down(), store.relays.count(supply=True), labs


# --- requests --------------------------------------------------------------------------------------

REWRITTEN = {
    "withstand": None,
    "source": "kme-2",
    "target": "kme-7",
    "key_count": 2,
    "key_size_bits": 128,
    "timeout_s": 3600.0,
    "policy": "recursive",
    "allow_unprotected": True,
    "follow": False,
    "relay_id": new_relay_id(NOW),
}


@pytest.mark.parametrize("field", REWRITTEN)
def test_no_field_of_a_request_can_be_rewritten(field):
    network = Network()
    change = lambda body: msgspec.structs.replace(body, **{field: REWRITTEN[field]})  # noqa: E731
    Broker(network, change=lambda signed: [with_body(signed, change)])
    silent(network, relay_request("kme-1", "kme-8", withstand=TWO))
    assert network.coordinator_store.relays.count(supply=True) == 0
    ((kme, queue, reason),) = network.dead_letters()
    assert (kme, queue) == (COORDINATOR, "coordinator.requests")
    assert reason.startswith("the signature does not verify: QKDRELAY_CLI_KEY is another there, or somebody forges")


def test_what_was_asked_to_be_withstood_is_withstood_or_nothing_is_relayed():
    """The attack that led here: stripped of its --withstand, a request got keys that two KMEs could learn."""
    geant = topology("geant")
    network, far = Network(geant), ((s, t) for s, t in combinations(geant.kmes, 2) if t not in geant.neighbours[s])
    tried = 0
    for source, target in far:
        if tried == 3:
            break
        wishes = {"policy": None, "withstand": TWO}
        try:
            asked = network.ask(relay_request(source, target, **wishes))
        except RequestRefusedError:
            continue
        tried += 1
        plan = decode_plan(asked.plan)
        between = [kme for kme in plan.order if kme not in (source, target)]
        assert not any(learns(plan, pair) for pair in combinations(between, 2))
        assert asked.withstand == FixedDemand(compromised=2, failed=0, tampering=0)
        for end in (source, target):
            assert network.stores[end].relays.get(asked.relay_id).checked.compromised == 2
    assert tried == 3
    count = network.coordinator_store.relays.count(supply=True)
    Broker(network, change=lambda s: [with_body(s, lambda body: msgspec.structs.replace(body, withstand=None))])
    silent(network, relay_request(source, target, **wishes))
    assert network.coordinator_store.relays.count(supply=True) == count


FORGED = {
    "stripped": lambda network, signed: codec.decode(signed, SignedMessage).body,
    "no mac": lambda network, signed: codec.encode(
        msgspec.structs.replace(codec.decode(signed, SignedMessage), mac=bytes(32))
    ),
    "the broker's password for a key": lambda network, signed: dialogue.Asker(
        b"cli-password".ljust(32), "cli.q.0", network.clock
    ).request(DOWN)[1],
    "a KME's control key": lambda network, signed: dialogue.Asker(
        network.control_keys["kme-1"], "cli.q.0", network.clock
    ).request(DOWN)[1],
}


@pytest.mark.parametrize("how", FORGED)
@pytest.mark.parametrize("body", [DOWN, LabRequest(kme="kme-3", mode="leak"), relay_request("kme-1", "kme-4")])
def test_no_request_can_be_forged(how, body):
    network = Network(DIAMOND, lab=True)
    before = state(network)
    Broker(network, change=lambda signed: [FORGED[how](network, signed)])
    silent(network, body)
    assert state(network) == before
    assert len(network.dead_letters()) == 1


def drops_later_letters(network):
    network.as_cli(b"a later letter")
    network.settle()


REPLAYS = {
    "link down": (DOWN, lambda network: network.ask(UP)),
    "link up": (UP, lambda network: network.ask(DOWN)),
    "compromise": (LabRequest(kme="kme-3", mode="tamper"), lambda n: n.ask(LabRequest(kme="kme-3", mode=None))),
    "restore": (LabRequest(kme="kme-3", mode=None), lambda n: n.ask(LabRequest(kme="kme-3", mode="tamper"))),
    "drop all": (DropRequest(letters=None), drops_later_letters),
    "relay": (relay_request("kme-1", "kme-4"), lambda network: None),
}


def at_once(network):
    return network


def a_minute_later(network):
    network.later(61.0)
    return network


def after_a_restart(network):
    network.restart(COORDINATOR)
    network.settle()
    return network


def without_its_store(network):
    network.later(0.1)  # time goes on, and no two moments are the same
    network.loops[COORDINATOR].journal.close()
    network.loops[COORDINATOR].journal.path.unlink()
    network.restart(COORDINATOR)
    network.settle()
    return network


@pytest.mark.parametrize("moment", [at_once, a_minute_later, after_a_restart, without_its_store])
@pytest.mark.parametrize("what", REPLAYS)
def test_a_request_that_is_replayed_does_nothing_again(tmp_path, what, moment):
    body, undo = REPLAYS[what]
    network = Network(DIAMOND, lab=True, folder=tmp_path)
    broker = Broker(network)
    network.ask(body)
    sent = list(broker.seen)
    undo(network)
    before, letters = state(network), network.dead_letters()
    moment(network)
    if moment is without_its_store:  # links and relays it has forgotten; the KMEs have not
        before, letters = state(network), network.dead_letters()
    for signed in sent * 2:
        network.as_cli(signed)
        network.settle()
    assert state(network) == before
    assert network.dead_letters() == letters


def test_an_old_copy_of_the_coordinators_store_does_not_bring_old_requests_back(tmp_path):
    network = Network(DIAMOND, folder=tmp_path)
    broker, copy = Broker(network), network.copy_store(COORDINATOR)
    network.later(1.0)
    network.ask(DOWN)
    network.ask(UP)
    relay = network.relay("kme-1", "kme-4")
    network.later(1.0)
    network.restart(COORDINATOR, copy)
    network.settle()
    assert network.coordinator_store.relays.get(relay.relay_id) is None
    for signed in broker.seen[:3]:
        network.as_cli(signed)
        network.settle()
    assert network.coordinator_store.links.down() == ()
    assert network.coordinator_store.relays.count(supply=True) == 0


def test_a_requeued_letter_is_not_requeued_by_a_replay():
    network = Network(DIAMOND)
    network.cut("kme-1", "kme-2")
    network.mend("kme-1", "kme-2")
    network.on_link("kme-1", "kme-2", b"noise")
    network.settle()
    broker = Broker(network)
    network.ask(RequeueRequest(letters=(1,)))
    letters = network.dead_letters()
    network.as_cli(broker.seen[0])
    network.settle()
    assert network.dead_letters() == letters


def test_a_request_that_waited_for_the_coordinator_is_asked_again_and_carried_out_once(tmp_path):
    network = Network(DIAMOND, folder=tmp_path)
    network.stop(COORDINATOR)
    client = MemoryClient(network.hub)
    asker = network.asker(client.address)
    request, signed = asker.request(DOWN)
    client.send(signed)
    network.time.forward(1.0)
    network.restart(COORDINATOR)
    network.resume(COORDINATOR)
    assert network.coordinator_store.links.down() == ()
    asker.answer(client.receive(0.0)[2], {request.request_id})
    client.send(asker.request(DOWN, request.request_id)[1])
    network.settle()
    assert isinstance(asker.answer(client.receive(0.0)[2], {request.request_id}).body, Acknowledged)
    assert network.coordinator_store.links.down() == (("kme-1", "kme-2"),)


@pytest.mark.parametrize("off_s", [-3 * 3600.0, -2.0, 2.0, 3 * 3600.0])
def test_a_command_line_whose_clock_is_off_is_served_all_the_same(off_s):
    network = Network(DIAMOND)
    network.step_clock(COORDINATOR, off_s)
    network.later(0.0)
    assert isinstance(network.ask(DOWN), Acknowledged)
    # Its deadline is by the coordinator's clock, which the KMEs may not share.
    assert isinstance(network.ask(relay_request("kme-1", "kme-4")), RelayView)
    assert network.coordinator_store.relays.count(supply=True) == 1


def test_a_request_in_a_batch_that_fails_is_carried_out_once_it_does_not(monkeypatch):
    network = Network(DIAMOND)
    send, failures = CommandQueue.send, iter([True])

    def failing(self):
        if self._commands and next(failures, False):
            raise ZeroDivisionError
        send(self)

    monkeypatch.setattr(CommandQueue, "send", failing)
    assert isinstance(network.ask(DOWN), Acknowledged)
    assert network.coordinator_store.links.down() == (("kme-1", "kme-2"),)
    assert network.dead_letters() == []


def test_what_the_broker_gives_out_again_is_not_carried_out_again():
    network = Network(DIAMOND)
    acknowledge = network.loops[COORDINATOR].broker.acknowledge
    network.loops[COORDINATOR].broker.acknowledge = lambda deliveries: None
    network.ask(DOWN)
    network.loops[COORDINATOR].broker.acknowledge = acknowledge
    network.ask(UP)
    network.hub.drop(COORDINATOR)
    network.settle()
    assert network.coordinator_store.links.down() == ()
    assert network.dead_letters() == []


# --- answers ---------------------------------------------------------------------------------------


class Wired:
    """A client of ``network`` for a `CoordinatorClient`: while it waits, the network works and its clock goes on."""

    def __init__(self, network):
        self.network, self._client = network, MemoryClient(network.hub)
        self.address, self.send, self.check = self._client.address, self._client.send, self._client.check

    def receive(self, timeout_s):
        self.network.settle()
        message = self._client.receive(0.0)
        if message is None:
            self.network.time.forward(min(timeout_s, 0.5))
        return message


def client(network):
    return CoordinatorClient(Wired(network), network.cli_key, network.clock, network.time)


def answer(client, body):
    return client.receive(client.send(body), client.timer() + 2.0)


ANSWERS = {
    "unsigned": lambda signed: [codec.decode(signed, SignedMessage).body],
    "altered": lambda signed: [with_body(signed, lambda body: Acknowledged(text="done"))],
    "confirmed": lambda signed: [
        with_body(
            signed,
            lambda body: msgspec.structs.replace(body, state="confirmed") if isinstance(body, RelayView) else body,
        )
    ],
    "for somebody else": lambda signed: [
        codec.encode(msgspec.structs.replace(codec.decode(signed, SignedMessage), recipient="kme-1"))
    ],
}


@pytest.mark.parametrize("how", ["unsigned", "altered", "for somebody else"])
@pytest.mark.parametrize("body", [DOWN, RelaysRequest(limit=5, supply=False)])
def test_no_answer_can_be_forged(how, body):
    network = Network(DIAMOND)
    Broker(network, REPLIES_EXCHANGE, ANSWERS[how])
    talk = client(network)
    assert answer(talk, body) is None
    assert "is not signed by the coordinator" in str(talk.unanswered(2.0))


def test_a_relay_that_failed_cannot_be_shown_as_confirmed():
    network = Network(DIAMOND)
    network.stop("kme-4")
    Broker(network, REPLIES_EXCHANGE, ANSWERS["confirmed"])
    following = client(network).follow(relay_request("kme-1", "kme-4", timeout_s=1.0))
    with pytest.raises(BrokerUnreachableError):
        following.until_decided()


@pytest.mark.parametrize("reflect", ["request", "answer"])
def test_neither_a_request_nor_an_answer_passes_for_the_other(reflect):
    network = Network(DIAMOND)
    talk = client(network)
    there, back = Broker(network), Broker(network, REPLIES_EXCHANGE)
    if reflect == "request":
        back.change = lambda signed: [there.seen[-1]]
        assert answer(talk, DOWN) is None
        assert "not from coordinator to cli" in str(talk.unanswered(2.0))
    else:
        answer(talk, DOWN)
        network.as_cli(back.seen[-1])
        network.settle()
        assert "not from cli to coordinator" in network.dead_letters()[-1][2]


def test_an_earlier_answer_to_the_same_question_is_none():
    network = Network(DIAMOND)
    view = network.relay("kme-1", "kme-4")
    talk, broker = client(network), Broker(network, REPLIES_EXCHANGE)
    question = ShowRequest(relay=str(view.relay_id), follow=False)
    assert answer(talk, question).state == "confirmed"
    old = broker.seen[-1]
    broker.change = lambda signed: [old] * 3
    assert answer(talk, question) is None


def test_of_answers_in_another_order_the_latest_counts():
    network = Network(DIAMOND)
    network.stop("kme-4")
    broker = Broker(network, REPLIES_EXCHANGE, lambda signed: [])
    talk = client(network)
    following = talk.follow(relay_request("kme-1", "kme-4", timeout_s=30.0))
    assert following.next(0.1) is None
    network.resume("kme-4")
    network.later(1.0)
    kept, broker.change = list(broker.seen), lambda signed: [signed]
    assert len(kept) > 1
    for body in reversed(kept):
        network.inject(COORDINATOR, REPLIES_EXCHANGE, talk.connection.address, body)
    assert following.next(0.1).state == "confirmed"
    assert following.next(0.1) is None


def test_an_answer_to_another_command_line_is_none():
    network = Network(DIAMOND)
    mine, others = client(network), client(network)
    broker = Broker(network, REPLIES_EXCHANGE)
    assert answer(others, RelaysRequest(limit=1, supply=False)).total == 0
    stolen = broker.seen[-1]
    broker.change = lambda signed: [stolen, signed]
    assert answer(mine, DOWN) == Acknowledged(text="the QKD link kme-1 - kme-2 is down")


def test_a_command_line_goes_on_over_a_restart_and_takes_nothing_from_before_it(tmp_path):
    network = Network(DIAMOND, folder=tmp_path)
    network.stop("kme-4")
    broker = Broker(network, REPLIES_EXCHANGE)
    talk = client(network)
    following = talk.follow(relay_request("kme-1", "kme-4", timeout_s=60.0))
    assert following.first().state == "planned"
    before = list(broker.seen)
    network.restart(COORDINATOR)
    network.resume("kme-4")
    assert following.until_decided().state == "confirmed"
    address = talk.connection.address
    for body in before:
        network.inject(COORDINATOR, REPLIES_EXCHANGE, address, body)
    assert following.next(0.1) is None


# --- what was asked and what was answered ----------------------------------------------------------


OTHERS = {
    "from": {"source": "kme-2"},
    "to": {"target": "kme-3"},
    "keys": {"key_count": 3},
    "bits a key": {"key_size_bits": 128},
    "compromised": {"withstand": FixedDemand(compromised=0, failed=0, tampering=0)},
    "failed": {"withstand": FixedDemand(compromised=1, failed=1, tampering=0)},
    "tampering": {"withstand": FixedDemand(compromised=1, failed=0, tampering=1)},
    "relay": {"relay_id": new_relay_id(NOW)},
}


@pytest.mark.parametrize("what", OTHERS)
def test_a_coordinator_that_answers_with_another_relay_is_found_out(monkeypatch, what):
    network = Network(DIAMOND)
    signed = dialogue.Answerer.answer

    def lying(self, request, body):
        if isinstance(body, RelayView):
            body = msgspec.structs.replace(body, **OTHERS[what])
        return signed(self, request, body)

    monkeypatch.setattr(dialogue.Answerer, "answer", lying)
    following = client(network).follow(
        relay_request("kme-1", "kme-4", withstand=OpenDemand(compromised=1, failed=0, tampering=0))
    )
    with pytest.raises(BrokerUnreachableError, match=f"a relay that was not asked for: {what} "):
        following.first()


@pytest.mark.parametrize(
    ("changed", "named"),
    [
        ({"key_count": 2}, "keys 1, not 2"),
        ({"key_size_bits": 128}, "bits a key 256, not 128"),
        ({"source": "kme-4", "target": "kme-1"}, "from kme-1, not kme-4"),
        ({"withstand": OpenDemand(compromised=0, failed=0, tampering=0)}, "compromised 1, not 0"),
        ({"withstand": OpenDemand(compromised=1, failed=1, tampering=0)}, "failed 0, not 1"),
    ],
)
def test_an_id_stands_for_one_relay(changed, named):
    network = Network(DIAMOND)
    first = network.relay("kme-1", "kme-4", policy=None)
    wishes = {"source": "kme-1", "target": "kme-4", "relay_id": first.relay_id, **changed}
    with pytest.raises(RequestRefusedError) as refusal:
        network.ask(relay_request(**wishes))
    assert str(refusal.value) == f"relay {first.relay_id} was asked for before, as another: {named}"
    again = network.ask(relay_request("kme-1", "kme-4", relay_id=first.relay_id))
    assert again.relay_id == first.relay_id
    assert network.coordinator_store.relays.count(supply=True) == 1


def test_reading_is_signed_as_well():
    network = Network(DIAMOND)
    asked = dialogue.Asker(bytes(32), network.client.connection.address, network.clock)
    for body in (RelaysRequest(limit=1, supply=False), ShowRequest(relay="abcd", follow=True)):
        network.client.connection.send(asked.request(body)[1])
    network.settle()
    assert network.client.connection.receive(0.0) is None
    assert len(network.dead_letters()) == 2


def test_the_demo_network_is_signed_too():
    network = Network(DIAMOND)
    there, back = Broker(network), Broker(network, REPLIES_EXCHANGE)
    assert isinstance(network.ask(DOWN), Acknowledged)
    for body in (*there.seen, *back.seen):
        assert len(codec.decode(body, SignedMessage).mac) == 32
