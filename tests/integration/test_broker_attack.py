"""Whoever has the broker in hand: each field and each byte changed, old messages, floods, key that became known."""

import os
from dataclasses import replace
from functools import partial
from uuid import uuid4

import msgspec
import pytest

from kme.blocks.computed import block_key
from qkdrelay.broker.names import control_queue, link_queue, results_queue
from qkdrelay.errors import ForgedMessageError
from qkdrelay.link.blocks.content import KeyBlock, pad_bytes
from qkdrelay.link.blocks.receiver import HeldKey, held, pad_of, slot_of
from qkdrelay.link.envelope import one_time_tag, seal, unseal
from qkdrelay.messages import codec, signing
from qkdrelay.messages.blocks import Announce, Facts, Piece, SlotName
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
    network.hub.drop("kme-5")
    network.relay("kme-1", "kme-8", policy="recursive")
    return network, next(p.body for p in network.sealed if p.routing_key == link_queue(*LINK))


def before(network, bodies):
    """Put ``bodies`` before the honest messages in the queue of LINK; they are nothing that a KME has sealed."""
    queue = network.hub.queues[link_queue(*LINK)]
    honest = list(queue.ready)
    assert honest
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
    header = msgspec.structs.replace(header_of(body), **changes)
    return codec.encode(msgspec.structs.replace(message, header=codec.encode(header)))


def header_of(body):
    return codec.decode(codec.decode(body, SealedMessage).header, ShareHeader)


OTHER_PART = Plan("kme-5", "kme-8", {"kme-5": Hop(("kme-7",), 1), "kme-7": Hop(("kme-8",), 1)})
CHANGES = {
    "link": [("kme-2", "kme-5"), ("kme-5", "kme-3"), ("kme-3", "kme-6")],
    "slot": lambda block, other: [
        *(SlotName(block, index) for index in (1, 2, 1_000, 40_000, 2_000_000, 2**62)),
        *(SlotName(name, 0) for name in (other, bytes(16), b"\xff" * 16)),
    ],
    "pad": lambda block, other: [
        *((Piece(block, offset, 160),) for offset in (1, 16, 32, 128, 2**40, 2**62)),
        *((Piece(name, 0, 160),) for name in (other, bytes(16), b"\xff" * 16)),
        (Piece(block, 0, 80), Piece(block, 80, 80)),
        (Piece(block, 80, 80), Piece(block, 0, 80)),
        (Piece(block, 0, 80), Piece(other, 0, 80)),
        (Piece(block, 0, 80), Piece(block, 0, 80)),
        tuple(Piece(block, at, 1) for at in range(160)),
    ],
    "relay_id": [uuid4()],
    "route": [("kme-3", "kme-5"), ("kme-1", "kme-4", "kme-3", "kme-5"), ("kme-2", "kme-3", "kme-5")],
    "plan": [encode_plan(OTHER_PART), b"", encode_plan(Plan("kme-5", "kme-5", {}))],
    "deadline": [0.0, 1_700_000_031.0, 4e9],
}
REASONS = {
    "the seal does not verify",
    "the message was sealed for another link",
    "no block of key of that name is held",
}


def all_refused(monkeypatch, network, forged):
    """Return the dead letters: one for each, once those that claim to be of a later version have waited in vain."""
    later = [body for body in forged if codec.later_version(body)]
    assert 0 < len(later) == len(forged) - len(network.dead_letters())
    monkeypatch.setattr("qkdrelay.service.reception.HELD_S_MAX", 0.0)
    network.settle()
    assert len(network.dead_letters()) == len(forged)
    return network.dead_letters()


@pytest.mark.parametrize("suite", SUITES)
def test_no_field_of_a_header_can_be_changed_and_no_forgery_uses_up_the_honest_slot(suite):
    assert set(CHANGES) == set(ShareHeader.__struct_fields__)
    network, genuine = held_back(suite)
    block = header_of(genuine).slot.block
    other = next(name for name in network.stores["kme-5"].held_keys.of("kme-3") if name != block)
    forged = [
        with_header(genuine, **{field: value})
        for field, values in CHANGES.items()
        for value in (values(block, other) if callable(values) else values)
    ]
    forged += [with_header(genuine, pad=())] if suite == "otp" else []
    assert genuine not in forged
    before(network, forged)
    network.resume("kme-5")
    letters = network.dead_letters()
    assert len(letters) == len(forged)
    assert {letter[:2] for letter in letters} == {("kme-5", link_queue(*LINK))}
    far = {letter[2] for letter in letters if "and no slot" in letter[2]}
    assert {letter[2] for letter in letters} - far == REASONS
    slots = network.stores["kme-5"].held_keys.of("kme-3")[block].facts.slots
    assert len(far) == sum(name.index >= slots for name in CHANGES["slot"](block, other))
    none_was_lost(network)


@pytest.mark.parametrize("suite", SUITES)
def test_no_byte_of_a_sealed_message_can_be_changed_and_none_be_left_out(monkeypatch, suite):
    network, genuine = held_back(suite)
    cut = [genuine[:length] for length in range(len(genuine))]
    flipped = [genuine[:at] + bytes([genuine[at] ^ 1 << at % 8]) + genuine[at + 1 :] for at in range(len(genuine))]
    before(network, cut + flipped)
    network.resume("kme-5")
    assert all_refused(monkeypatch, network, cut + flipped)
    none_was_lost(network)


def signed(network, kme, body, number, *, back=False):
    ends = (kme, COORDINATOR) if back else (COORDINATOR, kme)
    key = network.service(COORDINATOR)._keys[kme]
    return signing.sign(key, *ends, epoch=bytes(16), number=number, body=body)


@pytest.mark.parametrize("back", [False, True], ids=["command", "report"])
def test_no_byte_of_a_signed_message_can_be_changed_and_none_be_left_out(monkeypatch, back):
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
    letters = all_refused(monkeypatch, network, forged)
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


def test_what_a_link_says_of_key_brought_to_every_other_does_nothing():
    network = Network()
    ways = [way for a, b in network.topology.links for way in ((a, b), (b, a))]
    for kme in network.topology.kmes:
        network.hub.drop(kme)
    network.settle()
    said = {(tuple(p.routing_key.split(".")[1:]), p.body) for p in network.about_blocks}
    assert {link for link, _ in said} == set(ways)
    before = {way: network.sending(*way).counts.given_up for way in ways}
    for way in ways:
        for link, body in said:
            if link != way:
                network.on_link(*way, body)
        network.later(1.0)
    letters = network.dead_letters()
    assert {letter[2] for letter in letters} == {
        "the announcement is for another link",
        "what is held is of another link",
    }
    assert {letter[1] for letter in letters} <= {link_queue(*way) for way in ways}
    assert {way: network.sending(*way).counts.given_up for way in ways} == before
    assert network.relay("kme-1", "kme-8", policy="recursive").missing == ()


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

SECRET, BLOCKS = b"\x07" * 32, [b"\x01" * 15 + bytes([n]) for n in range(2)]
ROUTE = ("kme-1", "kme-2", "kme-5", "kme-8")
OVER = ROUTE[-2:]


def facts_of(block, link=OVER, *, length=1_184, slots=20):
    return Facts(link=link, block=block, floor=block, length=length, slots=slots, key_ids=())


def key_block(facts):
    return KeyBlock(facts, block_key(SECRET, facts.link, facts.block, facts.length))


def as_it_is(block):
    """What a receiver has of a block: slots, and behind them pad."""
    return HeldKey.of(block)


def slots_out_of_the_pad(block):
    """What the design avoids: one stream of key for everything, and the message says where in it."""
    facts = facts_of(block.facts.block, slots=pad_bytes(block.facts) // SLOT_BYTES)
    return replace(HeldKey.of(block), slots=block.pad, facts=facts)


def share_header(slot, pad):
    part = encode_plan(Plan("kme-8", "kme-8", {}))
    fields = {"link": OVER, "relay_id": uuid4(), "route": ROUTE, "plan": part, "deadline": 1_700_000_030.0}
    return ShareHeader(slot=slot, pad=pad, **fields)


def xored(a, b):
    return bytes(x ^ y for x, y in zip(a, b, strict=True))


WANTED = b"a share of the attacker's choice"


def forgeries(known, at_block, offset):
    """Every message that pad known from ``offset`` on could seal, were it also the key of some message's tag."""
    ciphertext = xored(WANTED, known[: len(WANTED)])
    for at in range(len(known) - SLOT_BYTES + 1):
        tag_key = known[at : at + SLOT_BYTES]
        for block in BLOCKS:
            for index in {(offset + at) // SLOT_BYTES, at // SLOT_BYTES, at, offset + at, 0, 1, 19, 20}:
                for place in (offset, 0, offset + at):
                    header = share_header(SlotName(block, index), (Piece(at_block, place, len(WANTED)),))
                    tag = one_time_tag(tag_key, codec.encode(header), ciphertext)
                    yield header, SealedMessage(header=codec.encode(header), ciphertext=ciphertext, tag=tag)


def opened(blocks, header, message):
    """As a receiver opens it that holds these blocks; None if it does not."""
    try:
        slot = slot_of(header.slot, message.tag, blocks, lambda _: None)
        return unseal("otp", message, slot, partial(pad_of, header.slot, header.pad, blocks=blocks))
    except ForgedMessageError:
        return None


@pytest.mark.parametrize(("kept", "gains"), [(as_it_is, False), (slots_out_of_the_pad, True)])
def test_pad_that_became_known_seals_nothing_however_it_is_pointed_to(kept, gains):
    """kme-2 sent this share to kme-5, so it knows the text of what kme-5 sends on, and with it that part of the pad."""
    whole = [key_block(facts_of(block)) for block in BLOCKS]
    blocks = {block.facts.block: kept(block) for block in whole}
    text, offset, (block, _) = os.urandom(192), 64, whole
    header = share_header(SlotName(BLOCKS[0], 3), (Piece(BLOCKS[0], offset, len(text)),))
    sent = codec.decode(seal("otp", header, text, block.slot(3), block.pad_at(offset, len(text))), SealedMessage)
    assert gains or opened(blocks, header, sent) == text
    known = xored(text, sent.ciphertext)
    assert known == block.pad[offset : offset + len(text)]
    found = {opened(blocks, *forged) for forged in forgeries(known, BLOCKS[0], offset)} - {None}
    # The attack is a real one: where slots are cut out of the pad it succeeds.
    assert bool(found) == gains
    assert gains == (WANTED in found)


def test_no_block_is_held_in_another_shape_so_that_known_pad_would_be_its_slots():
    whole = key_block(facts_of(BLOCKS[0]))
    genuine, known = whole.announce(), whole.pad
    assert held(genuine, whole.key) is not None
    others = [(OVER, BLOCKS[0], BLOCKS[0]), (OVER[::-1], BLOCKS[0], BLOCKS[0]), (OVER, BLOCKS[0], BLOCKS[1])]
    for link, block, floor in others:
        for slots in range(1, 36):
            facts = Facts(link=link, block=block, floor=floor, length=1_184, slots=slots, key_ids=())
            if facts == genuine.facts:
                continue
            context = b"announce" + codec.encode(facts)
            tags = [genuine.tag] + [
                one_time_tag(known[at : at + SLOT_BYTES], context, data)
                for at in range(len(known) - SLOT_BYTES + 1)
                for data in (b"", known)
            ]
            assert not any(held(Announce(facts=facts, tag=tag, turn=b""), whole.key) for tag in tags)


def test_no_slot_is_anywhere_in_a_pad_of_any_block_or_direction():
    names = [bytes(16), bytes(15) + b"\x01", b"\x01" + bytes(15)]
    blocks = [
        key_block(facts_of(name, link, length=1 << 16, slots=800)) for name in names for link in (OVER, OVER[::-1])
    ]
    windows = {block.pad[at : at + 16] for block in blocks for at in range(len(block.pad) - 15)}
    # The keys that a block has of its own are in no slot and no pad either.
    own = [block.key[at : at + SLOT_BYTES] for block in blocks for at in (0, SLOT_BYTES)]
    slots = [block.slot(index) for block in blocks for index in range(block.facts.slots)] + own
    assert len(set(slots)) == len(slots)
    assert not any(slot[at : at + 16] in windows for slot in slots for at in (0, 16))


@pytest.mark.parametrize("offset", [0, 1, 16, 128, 129, 10_000])
def test_a_message_pointed_at_known_pad_is_not_opened_and_known_pad_is_not_drawn_again(offset):
    """The broker turns a message it cannot read to a place of the pad it knows, to have it opened with that."""
    network, genuine = held_back()
    (piece,) = header_of(genuine).pad
    before(network, [with_header(genuine, pad=(msgspec.structs.replace(piece, offset=offset or 7),))])
    network.resume("kme-5")
    assert [letter[2] for letter in network.dead_letters()] == ["the seal does not verify"]
    none_was_lost(network)
    pads = network.pads()
    assert len(pads) == len(set(pads))
