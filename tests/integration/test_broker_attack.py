"""Whoever has the broker in hand: each field and each byte changed, old messages, floods, key that became known."""

import os
from uuid import uuid4

import msgspec
import pytest

from qkdrelay.broker.names import control_queue, link_queue, results_queue
from qkdrelay.errors import ForgedMessageError
from qkdrelay.link.envelope import one_time_tag, seal, unseal
from qkdrelay.link.simulated import SimulatedLinkKey
from qkdrelay.messages import codec, signing
from qkdrelay.messages.control import Commands, SetLink, SignedMessage
from qkdrelay.messages.link import SealedMessage, ShareHeader
from qkdrelay.messages.plans import encode_plan
from qkdrelay.messages.reports import Alarm, Reports
from qkdrelay.network.key_cost import SLOT_BYTES
from qkdrelay.network.names import COORDINATOR
from qkdrelay.network.plan import Hop, Plan
from support.network import Network, ask

pytestmark = pytest.mark.usefixtures("restless")

LINK = ("kme-3", "kme-5")
SUITES = ["otp", "aes-256-gcm"]


def held_back(suite="otp"):
    """A network in which the share over LINK waits for kme-5, and that sealed share."""
    network = Network(suite=suite)
    network.stop("kme-5")
    network.relay("kme-1", "kme-8", policy="recursive")
    return network, next(p.body for p in network.sealed if p.routing_key == link_queue(*LINK))


def before(network, bodies):
    """Put ``bodies`` before the honest messages in the queue of LINK; they are nothing that a KME has sealed."""
    queue = network.hub.queues[link_queue(*LINK)]
    honest = list(queue.ready)
    for _ in honest:
        queue.take()
    for body in bodies:
        network.on_link(*LINK, body)
    del network.sealed[-len(bodies) :]
    for message in honest:
        queue.add(message)


def none_was_lost(network):
    """The share that was held back arrives, and so does everything else; then a relay as if nothing had been."""
    relay = next(iter(network.coordinator_store.relays.latest(1, supply=True)))
    assert network.show(relay.relay_id).missing == ()
    assert network.show(relay.relay_id).state == "confirmed"
    assert network.relay("kme-1", "kme-8", policy="recursive").missing == ()
    assert all(len(messages) == 1 for messages in network.slots().values())


def with_header(body, **changes):
    message = codec.decode(body, SealedMessage)
    header = msgspec.structs.replace(codec.decode(message.header, ShareHeader), **changes)
    return codec.encode(msgspec.structs.replace(message, header=codec.encode(header)))


OTHER_PART = Plan("kme-5", "kme-8", {"kme-5": Hop(("kme-7",), 1), "kme-7": Hop(("kme-8",), 1)})
CHANGES = {
    "link": [("kme-2", "kme-5"), ("kme-5", "kme-3"), ("kme-3", "kme-6")],
    "epoch": [bytes(16), b"\xff" * 16],
    "number": [1, 2, 40_000, 2_000_000, 2**62],
    "pad_offset": [1, 16, 32, 128, 2**40, 2**62],
    "relay_id": [uuid4()],
    "route": [("kme-3", "kme-5"), ("kme-1", "kme-4", "kme-3", "kme-5"), ("kme-2", "kme-3", "kme-5")],
    "plan": [encode_plan(OTHER_PART), b"", encode_plan(Plan("kme-5", "kme-5", {}))],
    "deadline": [0.0, 1_700_000_031.0, 4e9],
}


@pytest.mark.parametrize("suite", SUITES)
def test_no_field_of_a_header_can_be_changed_and_no_forgery_uses_up_the_honest_number(suite):
    assert set(CHANGES) == set(ShareHeader.__struct_fields__)
    network, genuine = held_back(suite)
    forged = [with_header(genuine, **{field: value}) for field, values in CHANGES.items() for value in values]
    before(network, forged)
    network.resume("kme-5")
    letters = network.dead_letters()
    assert len(letters) == len(forged)
    assert {letter[:2] for letter in letters} == {("kme-5", link_queue(*LINK))}
    assert {letter[2] for letter in letters} == {"the seal does not verify", "the message was sealed for another link"}
    none_was_lost(network)


@pytest.mark.parametrize("suite", SUITES)
def test_no_byte_of_a_sealed_message_can_be_changed_and_none_be_left_out(suite):
    network, genuine = held_back(suite)
    cut = [genuine[:length] for length in range(len(genuine))]
    flipped = [genuine[:at] + bytes([genuine[at] ^ 1 << at % 8]) + genuine[at + 1 :] for at in range(len(genuine))]
    before(network, cut + flipped)
    network.resume("kme-5")
    assert len(network.dead_letters()) == 2 * len(genuine)
    none_was_lost(network)


def signed(network, kme, body, number, *, back=False):
    ends = (kme, COORDINATOR) if back else (COORDINATOR, kme)
    key = network.service(COORDINATOR)._keys[kme]
    return signing.sign(key, *ends, epoch=bytes(16), number=number, body=body)


@pytest.mark.parametrize("back", [False, True], ids=["command", "report"])
def test_no_byte_of_a_signed_message_can_be_changed_and_none_be_left_out(back):
    network = Network()
    body = Reports(items=(Alarm(event="a", text="b"),)) if back else Commands(items=(SetLink(uuid4(), "kme-5", False),))
    genuine = signed(network, "kme-3", body, 0, back=back)
    send = network.as_kme if back else network.as_coordinator
    changed = {
        "sender": "kme-4",
        "recipient": "kme-4",
        "epoch": b"\xff" * 16,
        "number": 1,
        "body": codec.encode(Commands(items=())),
        "mac": bytes(32),
    }
    assert set(changed) == set(SignedMessage.__struct_fields__)
    forged = [
        codec.encode(msgspec.structs.replace(codec.decode(genuine, SignedMessage), **{field: value}))
        for field, value in changed.items()
    ]
    forged += [genuine[:length] for length in range(len(genuine))]
    forged += [genuine[:at] + bytes([genuine[at] ^ 1 << at % 8]) + genuine[at + 1 :] for at in range(len(genuine))]
    for body in forged:
        send("kme-3", body)
    network.settle()
    letters = network.dead_letters()
    assert len(letters) == len(forged)
    queue = results_queue("kme-3") if back else control_queue("kme-3")
    assert {letter[1] for letter in letters} == {queue}
    assert network.stores["kme-3"].waiting.links_down() == frozenset()
    # The genuine one, last, is none the worse for it.
    send("kme-3", genuine)
    network.loops["kme-3"].step(0.0)
    assert back or network.stores["kme-3"].waiting.links_down() == {"kme-5"}
    network.settle()
    assert len(network.dead_letters()) == len(forged)


def test_old_messages_of_every_queue_brought_to_every_queue_do_nothing():
    network = Network()
    network.relay("kme-1", "kme-8", policy="recursive")
    old = {publication.body for publication in network.sealed}
    for sender, receiver in [link for a, b in network.topology.links for link in ((a, b), (b, a))]:
        for body in old:
            network.on_link(sender, receiver, body)
    count = len(network.sealed) - len(old)
    network.settle()
    # On its own link a message is known and done with; on each other one it is refused.
    assert len(network.dead_letters()) == count - len(old)
    assert {letter[2] for letter in network.dead_letters()} == {"the message was sealed for another link"}
    none_was_lost(network)


@pytest.mark.parametrize("cut", [True, False])
def test_an_old_order_brought_to_a_kme_that_lost_its_store_does_not_last(tmp_path, cut):
    network = Network(folder=tmp_path)
    orders = []
    publish = network.hub.publish

    def recorded(user, publication):
        if publication.routing_key == control_queue("kme-3"):
            orders.append(publication.body)
        return publish(user, publication)

    network.hub.publish = recorded
    network.cut("kme-3", "kme-5")
    if not cut:
        network.mend("kme-3", "kme-5")
    old = list(orders)
    network.stores["kme-3"].journal.close()
    for file in (tmp_path / "kme-3").iterdir():
        file.unlink()
    network.restart("kme-3")
    for body in old[:1] if not cut else ():
        network.as_coordinator("kme-3", body)
    network.loops["kme-3"].step(0.0)
    network.settle()
    network.later(11.0)
    assert network.stores["kme-3"].waiting.links_down() == ({"kme-5"} if cut else frozenset())
    assert network.relay("kme-1", "kme-8").state == "confirmed"


def test_a_flood_on_one_link_holds_up_no_other():
    network = Network()
    for _ in range(3_000):
        network.on_link("kme-2", "kme-5", os.urandom(100))
    relay_id = ask(network, "kme-3", "kme-8")
    for _ in range(12):
        for loop in network.loops.values():
            loop.step(0.0)
    assert network.coordinator_store.relays.get(relay_id).state == "confirmed"
    assert network.hub.depth(link_queue("kme-2", "kme-5")) > 1_000


# --- key that became known -------------------------------------------------------------------------


class SlotsOutOfThePad(SimulatedLinkKey):
    """What the design avoids: one stream of key for everything, and the message says where in it."""

    def slot(self, epoch, number):
        return self.pad(epoch, SLOT_BYTES * number, SLOT_BYTES)


def link_key(kind):
    return kind(b"\x07" * 32, "kme-5", "kme-8", rate_bps=8, buffer_bytes=1 << 20, clock=lambda: 0.0)


def share_header(**changes):
    route = ("kme-1", "kme-2", "kme-5", "kme-8")
    part = encode_plan(Plan("kme-8", "kme-8", {}))
    fields = {"link": route[-2:], "epoch": bytes(16), "number": 500, "pad_offset": 4096, "relay_id": uuid4()}
    return ShareHeader(**{**fields, "route": route, "plan": part, "deadline": 1_700_000_030.0, **changes})


def xored(a, b):
    return bytes(x ^ y for x, y in zip(a, b, strict=True))


def forgeries(known, offset, epoch):
    """Every message that pad known from ``offset`` on could seal, were it also the key of some message's tag."""
    wanted = b"a share of the attacker's choice"
    for at in range(len(known) - SLOT_BYTES + 1):
        for number in {(offset + at) // SLOT_BYTES, at // SLOT_BYTES, at, offset + at, 500, 501}:
            for place in (offset, 0, offset + at):
                header = share_header(epoch=epoch, number=number, pad_offset=place)
                ciphertext = xored(wanted, known[: len(wanted)])
                tag = one_time_tag(known[at : at + SLOT_BYTES], codec.encode(header), ciphertext)
                yield header, SealedMessage(header=codec.encode(header), ciphertext=ciphertext, tag=tag)


def accepted(key, known, offset):
    opened = []
    for epoch in (bytes(16), b"\x01" * 16):
        for header, message in forgeries(known, offset, epoch):
            try:
                opened.append(unseal("otp", header, message, key))
            except ForgedMessageError:
                continue
    return opened


@pytest.mark.parametrize(("kind", "gains"), [(SimulatedLinkKey, False), (SlotsOutOfThePad, True)])
def test_pad_that_became_known_seals_nothing_however_it_is_pointed_to(kind, gains):
    """kme-2 sent this share to kme-5, so it knows the text of what kme-5 sends on, and with it that part of the pad."""
    text, header, key = os.urandom(192), share_header(), link_key(kind)
    message = codec.decode(seal("otp", header, text, key), SealedMessage)
    known = xored(text, message.ciphertext)
    assert known == key.pad(header.epoch, header.pad_offset, len(text))
    opened = accepted(key, known, header.pad_offset)
    # The attack is a real one: where slots are cut out of the pad it succeeds.
    assert bool(opened) == gains
    assert gains == (b"a share of the attacker's choice" in opened)


def test_no_slot_is_anywhere_in_a_pad_of_any_epoch_or_direction():
    ahead = link_key(SimulatedLinkKey)
    back = SimulatedLinkKey(b"\x07" * 32, "kme-8", "kme-5", rate_bps=8, buffer_bytes=1, clock=lambda: 0.0)
    epochs = (bytes(16), bytes(15) + b"\x01")
    pads = [key.pad(epoch, 0, 1 << 16) for key in (ahead, back) for epoch in epochs]
    windows = {pad[at : at + 16] for pad in pads for at in range(len(pad) - 15)}
    slots = [key.slot(epoch, number) for key in (ahead, back) for epoch in epochs for number in range(2_048)]
    assert len(set(slots)) == len(slots)
    assert not any(slot[at : at + 16] in windows for slot in slots for at in (0, 16))


@pytest.mark.parametrize("offset", [0, 1, 16, 128, 129, 10_000])
def test_a_message_pointed_at_known_pad_is_not_opened_and_known_pad_is_not_drawn_again(offset):
    """The broker turns a message it cannot read to a place of the pad it knows, to have it opened with that."""
    network, genuine = held_back()
    before(network, [with_header(genuine, pad_offset=offset or 7)])
    network.resume("kme-5")
    assert [letter[2] for letter in network.dead_letters()] == ["the seal does not verify"]
    none_was_lost(network)
    pads = network.pads()
    assert len(pads) == len(set(pads))
