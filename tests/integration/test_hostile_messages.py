"""Whoever has the broker in hand can write into any queue: what it gets is a dead letter with a reason."""

import os
from uuid import UUID

import msgspec
import pytest

from qkdrelay.broker.names import control_queue, link_queue, results_queue
from qkdrelay.messages import codec, signing
from qkdrelay.messages.blocks import Announce, BlocksHeld, Facts, SlotName
from qkdrelay.messages.control import Cancel, Commands, SetLink, SignedMessage
from qkdrelay.messages.link import SealedMessage, ShareHeader
from qkdrelay.messages.reports import Alarm, Confirmed, Expected, Refused, Reports, Split, Waiting
from qkdrelay.network.names import COORDINATOR
from qkdrelay.network.plan import Hop, Plan
from support import wire_slow as slow
from support.network import Network, sealed_by
from support.slow_msgpack import packed

pytestmark = pytest.mark.usefixtures("restless")

LINK = ("kme-3", "kme-5")


@pytest.fixture
def network():
    """A network that has carried one relay; `taken` is the share message that went over LINK."""
    network = Network()
    network.relay("kme-1", "kme-8")
    return network


def fresh(network):
    """A message for LINK that was not brought there yet."""
    return sealed_by(network, *LINK, ("kme-2", *LINK), Plan("kme-5", "kme-8", {"kme-5": Hop(("kme-8",), 1)}), bytes(96))


def taken(network, link=LINK):
    return next(p.body for p in network.sealed if p.routing_key == link_queue(*link))


def altered(body, **changes):
    message = codec.decode(body, SealedMessage)
    if header := {name: value for name, value in changes.items() if name in ShareHeader.__struct_fields__}:
        changed = msgspec.structs.replace(codec.decode(message.header, ShareHeader), **header)
        return codec.encode(msgspec.structs.replace(message, header=codec.encode(changed)))
    return codec.encode(msgspec.structs.replace(message, **changes))


def goes_on(network):
    """The network relays as if nothing had happened, and says nothing more is wrong."""
    letters = len(network.dead_letters())
    view = network.relay("kme-1", "kme-8")
    assert (view.state, view.missing) == ("confirmed", ())
    assert network.keys("kme-1", view.relay_id) == network.keys("kme-8", view.relay_id) != None  # noqa: E711
    assert len(network.dead_letters()) == letters


LINK_MESSAGES = {
    "empty": (lambda body: b"", "not a MessagePack message"),
    "noise": (lambda body: os.urandom(200), ""),
    "not a map": (lambda body: packed([1, 2]), "not a map"),
    "truncated": (lambda body: body[:-1], "not a MessagePack message"),
    "extended": (lambda body: body + b"\x00", "not a MessagePack message"),
    "oversized": (lambda body: bytes(codec.MESSAGE_BYTES_MAX + 1), "at most 1048576"),
    "an earlier version": (lambda body: body.replace(b"\xa1v\x03", b"\xa1v\x01", 1), "protocol version"),
    "no version there could be": (lambda body: body.replace(b"\xa1v\x03", b"\xa1v\xcc\xff", 1), "protocol version"),
    "a signed message": (lambda body: slow.message(slow.MESSAGES["SignedMessage"][0]), "not a valid message"),
    "no header": (lambda body: altered(body, header=b""), "not a MessagePack message"),
    "no ciphertext": (lambda body: altered(body, ciphertext=b""), "no body"),
    "zero tag": (lambda body: altered(body, tag=bytes(16)), "the seal does not verify"),
    "zero ciphertext": (lambda body: altered(body, ciphertext=bytes(160)), "the seal does not verify"),
    "last bit": (lambda body: body[:-1] + bytes([body[-1] ^ 1]), "the seal does not verify"),
    "another slot": (lambda body: altered(body, slot=slot_of(body, index=20)), "the seal does not verify"),
    "far slot": (lambda body: altered(body, slot=slot_of(body, index=2**62)), "and no slot 4611686018427387904"),
    "a slot that was used": (lambda body: altered(body, slot=slot_of(body, index=0)), "the seal does not verify"),
    "another pad": (lambda body: altered(body, pad=()), "the seal does not verify"),
    "another relay": (lambda body: altered(body, relay_id=UUID(int=1)), "the seal does not verify"),
    "another route": (lambda body: altered(body, route=("kme-1", "kme-2", "kme-3", "kme-5")), "does not verify"),
    "later deadline": (lambda body: altered(body, deadline=1700000031.0), "the seal does not verify"),
    "another link": (lambda body: altered(body, link=("kme-2", "kme-5")), "sealed for another link"),
    "the way back": (lambda body: altered(body, link=LINK[::-1]), "sealed for another link"),
    "another block": (lambda body: altered(body, slot=SlotName(bytes(16), 0)), "no block of key of that name is held"),
    "no announcement": (lambda body: packed({"v": 3, "type": "announce"}), "not a valid message"),
    "no news of blocks": (lambda body: packed({"v": 3, "type": "held", "link": 7}), "not a valid message"),
    "neither of them": (lambda body: packed({"v": 3, "type": "wanted"}), "not a valid message"),
    "blocks of another link": (lambda body: news(LINK), "of another link"),
    "an announcement on the way back": (lambda body: announced(LINK[::-1]), "for another link"),
    "more slots than key": (lambda body: announced(LINK, slots=2), "has no room for 2 slots"),
}


def slot_of(body, **changes):
    header = codec.decode(codec.decode(body, SealedMessage).header, ShareHeader)
    return msgspec.structs.replace(header.slot, **changes)


def announced(link, slots=1):
    facts = Facts(link=link, block=b"\x02" * 16, floor=bytes(16), length=96, slots=slots, key_ids=())
    return codec.encode(Announce(facts=facts, tag=bytes(16), turn=b""))


def news(link):
    return codec.encode(BlocksHeld(link, bytes(16), bytes(16), (), (), b"", b""))


@pytest.mark.parametrize("name", LINK_MESSAGES)
def test_a_bad_message_on_a_link_is_dead_lettered_with_its_reason_and_the_kme_goes_on(network, name):
    make, reason = LINK_MESSAGES[name]
    network.on_link(*LINK, make(fresh(network)))
    network.settle()
    ((kme, queue, said),) = network.dead_letters()
    assert (kme, queue) == ("kme-5", link_queue(*LINK))
    assert reason in said
    goes_on(network)


def test_a_message_of_another_link_is_refused_there(network):
    network.on_link(*LINK, taken(network, ("kme-2", "kme-5")))
    network.on_link("kme-5", "kme-3", taken(network))
    network.settle()
    assert {letter[2] for letter in network.dead_letters()} == {"the message was sealed for another link"}
    goes_on(network)


def test_a_replayed_message_is_taken_for_a_redelivery_and_changes_nothing(network):
    for publication in tuple(network.sealed):
        sender, receiver = publication.routing_key.split(".")[1:]
        network.on_link(sender, receiver, publication.body)
    before = len(network.sealed)
    network.settle()
    assert len(network.sealed) == before
    assert network.dead_letters() == []
    goes_on(network)


def test_a_forgery_does_not_use_up_the_slot_of_the_honest_message():
    network = Network()
    network.stop("kme-5")
    network.hub.drop("kme-5")
    view = network.relay("kme-1", "kme-8")
    honest = network.hub.queues[link_queue(*LINK)]
    assert len(honest.ready) == 1
    forged = altered(taken(network), tag=bytes(16))
    network.on_link(*LINK, forged)
    honest.ready.reverse()
    network.resume("kme-5")
    assert [letter[2] for letter in network.dead_letters()] == ["the seal does not verify"]
    assert network.show(view.relay_id).missing == ()


def test_a_flood_of_noise_between_honest_messages_costs_none_of_them():
    network = Network()
    network.stop("kme-5")
    for _ in range(300):
        network.on_link(*LINK, os.urandom(50))
    view = network.relay("kme-1", "kme-8")
    network.resume("kme-5")
    assert len(network.dead_letters()) == 300
    assert network.show(view.relay_id).missing == ()


# --- control and results ---------------------------------------------------------------------------


def signed(network, kme, body, *, key=None, number=10_000, epoch=bytes(16), back=False):
    ends = (kme, COORDINATOR) if back else (COORDINATOR, kme)
    key = network.service(COORDINATOR)._keys[kme] if key is None else key
    return signing.sign(key, *ends, epoch=epoch, number=number, body=body)


CUT = Commands(items=(SetLink(command_id=UUID(int=1), peer="kme-5", up=False),))


def unsigned(body):
    return codec.encode(msgspec.structs.replace(codec.decode(body, SignedMessage), mac=bytes(32)))


CONTROL_MESSAGES = {
    "empty": (lambda network, genuine: b"", "not a MessagePack message"),
    "truncated": (lambda network, genuine: genuine[:-1], "not a MessagePack message"),
    "oversized": (lambda network, genuine: bytes(codec.MESSAGE_BYTES_MAX + 1), "at most"),
    "unsigned": (lambda network, genuine: unsigned(genuine), "the signature does not verify"),
    "last bit": (lambda network, genuine: genuine[:-1] + bytes([genuine[-1] ^ 1]), "the signature does not verify"),
    "foreign key": (lambda network, genuine: signed(network, "kme-3", CUT, key=bytes(32)), "signature does not verify"),
    "for another": (lambda network, genuine: signed(network, "kme-2", CUT), "is not from coordinator to kme-3"),
    "its own report": (
        lambda network, genuine: signed(network, "kme-3", Reports(items=()), back=True),
        "is not from coordinator to kme-3",
    ),
    "no commands": (lambda network, genuine: signed(network, "kme-3", Reports(items=REPORTED)), "not a valid message"),
}
REPORTED = (Alarm(event="a", text="b"),)


@pytest.mark.parametrize("name", CONTROL_MESSAGES)
def test_a_bad_command_is_dead_lettered_with_its_reason_and_not_obeyed(network, name):
    make, reason = CONTROL_MESSAGES[name]
    network.as_coordinator("kme-3", make(network, signed(network, "kme-3", CUT)))
    network.settle()
    ((kme, queue, said),) = network.dead_letters()
    assert (kme, queue) == ("kme-3", control_queue("kme-3"))
    assert reason in said
    assert network.stores["kme-3"].waiting.links_down() == frozenset()
    goes_on(network)


def test_a_command_with_a_number_of_another_command_is_refused(network):
    up = Commands(items=(SetLink(command_id=UUID(int=2), peer="kme-5", up=True),))
    network.as_coordinator("kme-3", signed(network, "kme-3", up))
    network.as_coordinator("kme-3", signed(network, "kme-3", CUT))
    network.settle()
    assert "was used for another message before" in network.dead_letters()[0][2]
    assert network.stores["kme-3"].waiting.links_down() == frozenset()


def test_a_replayed_command_is_not_obeyed_again(network):
    down, up = (
        signed(network, "kme-3", Commands(items=(SetLink(command_id=UUID(int=n), peer="kme-5", up=bool(n)),)), number=n)
        for n in (0, 1)
    )
    for body in (down, up, down):
        network.as_coordinator("kme-3", body)
        network.settle()
    assert network.stores["kme-3"].waiting.links_down() == frozenset()
    assert network.dead_letters() == []


REPORT_MESSAGES = {
    "noise": (lambda network, genuine: os.urandom(64), ""),
    "truncated": (lambda network, genuine: genuine[:-1], "not a MessagePack message"),
    "oversized": (lambda network, genuine: bytes(codec.MESSAGE_BYTES_MAX + 1), "at most"),
    "unsigned": (lambda network, genuine: unsigned(genuine), "the signature does not verify"),
    "another kme's": (
        lambda network, genuine: signed(network, "kme-4", Reports(items=REPORTED), back=True),
        "is not from kme-3 to coordinator",
    ),
    "commands": (lambda network, genuine: signed(network, "kme-3", CUT, back=True), "not a valid message"),
}


@pytest.mark.parametrize("name", REPORT_MESSAGES)
def test_a_bad_report_is_dead_lettered_with_its_reason_and_not_believed(network, name):
    make, reason = REPORT_MESSAGES[name]
    genuine = signed(network, "kme-3", Reports(items=REPORTED), back=True)
    network.as_kme("kme-3", make(network, genuine))
    network.settle()
    ((kme, queue, said),) = network.dead_letters()
    assert (kme, queue) == ("coordinator", results_queue("kme-3"))
    assert reason in said
    goes_on(network)


@pytest.mark.parametrize("body", [b"", b"\xc1", os.urandom(64), slow.message(slow.TERMS), bytes(2**20 + 1)])
def test_a_bad_request_is_dead_lettered_and_the_next_is_answered(network, body):
    network.as_cli(body)
    network.settle()
    ((kme, queue, _),) = network.dead_letters()
    assert (kme, queue) == ("coordinator", "coordinator.requests")
    goes_on(network)


def test_a_request_that_did_not_come_from_the_command_line_is_not_carried_out(network):
    network.hub.bind("kme.kme-3", "stolen", "coordinator.requests")
    request = slow.message({**slow.MESSAGES["Request"][0], "body": slow.REQUESTS[4]})
    network.inject("kme-3", "kme.kme-3", "stolen", request)
    network.settle()
    assert "did not come from a command line" in network.dead_letters()[0][2]
    assert network.coordinator_store.links.down() == ()


def test_what_a_kme_between_says_of_a_relay_is_not_believed(network):
    network.cut("kme-1", "kme-2")
    network.stop("kme-8")
    view = network.relay("kme-1", "kme-8")
    relay_id, route = view.relay_id, ("kme-1", "kme-2", "kme-5")
    lies = (
        Expected(relay_id=relay_id),
        Refused(relay_id=relay_id, reason="kme-3: I do not like it"),
        Confirmed(relay_id=relay_id),
        Split(relay_id=relay_id, route=route, shares=3, threshold=2),
        Split(relay_id=relay_id, route=("kme-1", "kme-4", "kme-3"), shares=3, threshold=2),
        Waiting(relay_id=relay_id, route=route, reason="because"),
    )
    network.as_kme("kme-3", signed(network, "kme-3", Reports(items=lies), back=True))
    network.settle()
    assert msgspec.structs.replace(network.show(relay_id), elapsed_s=0.0) == view
    network.resume("kme-8")
    assert network.show(relay_id).state == "confirmed"


def test_what_is_released_is_not_given_up_any_more(network):
    view = network.relay("kme-1", "kme-8")
    keys = network.keys("kme-1", view.relay_id)
    destroy = Commands(items=(Cancel(relay_id=view.relay_id),))
    for end in ("kme-1", "kme-8"):
        network.as_coordinator(end, signed(network, end, destroy))
        network.settle()
        assert network.keys(end, view.relay_id) == keys
    assert network.show(view.relay_id).state == "confirmed"
