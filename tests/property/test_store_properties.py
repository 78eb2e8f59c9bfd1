"""What a store keeps in memory beside the file changes nothing, also after a rollback."""

import os
from contextlib import suppress
from copy import deepcopy
from dataclasses import replace
from random import Random, SystemRandom
from uuid import UUID

import pytest

from kme.blocks.computed import block_key
from kme.effects import KeepShare
from kme.model import EndpointRelay
from kme.store import open_kme_store
from qkdrelay.errors import NumberReusedError
from qkdrelay.link.blocks import receiver
from qkdrelay.link.blocks.content import KeyBlock
from qkdrelay.link.blocks.receiver import ENDED_S, HeldKey
from qkdrelay.link.confirmation import Payload
from qkdrelay.messages import codec
from qkdrelay.messages.blocks import Facts, Piece, SlotName
from qkdrelay.service.lru import LruCache
from support import plans
from support.kme import DEMAND

PLAN = plans.eight()
ROUTES = list(PLAN.routes())
RELAYS = [UUID(int=number) for number in range(6)]
NOW = 1_000.0
TRANSACTIONS = 400
COMPUTED, DEVICE = "kme-3", "kme-5"
"""Peers whose blocks are computed, and drawn from a device."""
SLOTS, PAD = 3, 20


class UndoneError(Exception):
    """The transaction is to leave nothing behind."""


class Model:
    """What a KME's store has, in plain dictionaries."""

    def __init__(self):
        self.relays, self.shares, self.given, self.finished, self.outbox = {}, {}, {}, {}, []
        self.held, self.until, self.newest, self.opened = {}, {}, {}, {}

    def held_of(self, peer):
        return {block: held for (of, block), held in self.held.items() if of == peer}

    def drop_shares(self, relay_id):
        self.shares = {key: kept for key, kept in self.shares.items() if key[0] != relay_id}

    def forget_relay(self, relay_id):
        """Return whether there was anything to forget."""
        if relay_id not in self.relays or self.relays[relay_id].state != "delivered":
            return False
        self.relays[relay_id] = replace(self.relays[relay_id], state="forgotten", payload=None, equivocating=())
        self.drop_shares(relay_id)
        return True


def a_relay(random, relay_id):
    state = random.choice(["expecting", "held", "delivered", "failed"])
    keys = {state: Payload(os.urandom(64), b"", os.urandom(32)) for state in ("held", "delivered")}
    equivocating = tuple(random.sample(ROUTES, random.choice([0, 0, 2])))
    return EndpointRelay(
        relay_id,
        "target",
        state,
        PLAN,
        2,
        256,
        DEMAND,
        1,
        NOW + 9,
        keys.get(state),
        equivocating=equivocating,
    )


def do_something(random, store, model):
    """Change or ask both; they must agree on every answer."""
    relay_id, route = random.choice(RELAYS), random.choice(ROUTES)
    acts = ["relay", "share", "drop", "forget", "purge", "number", "finish", "enqueue", "ask", "ask", "ask"]
    match random.choice([*acts, "hold", "open", "open", "ask for key"]):
        case "relay":
            model.relays[relay_id] = a_relay(random, relay_id)
            store.keep_relay(model.relays[relay_id])
        case "share":
            payload, deadline = os.urandom(random.choice([10, 300])), random.choice([NOW - 100, NOW])
            store.shares.keep(KeepShare(relay_id, route, payload, deadline))
            model.shares[relay_id, route] = model.shares.get((relay_id, route), (payload,))[0], deadline
        case "drop":
            store.drop_shares(relay_id)
            model.drop_shares(relay_id)
        case "forget":
            assert store.forget_relay(relay_id, NOW) == model.forget_relay(relay_id)
        case "purge":
            store.purge(NOW)
            model.shares = {key: kept for key, kept in model.shares.items() if kept[1] == NOW}
            for key in [key for key, until in model.until.items() if until < NOW]:
                del model.held[key], model.until[key]
        case "hold":
            hold(random, store, model, random.choice([COMPUTED, DEVICE]))
        case "open":
            open_one(random, store, model, random.choice([COMPUTED, DEVICE]))
        case "ask for key":
            peer = random.choice([COMPUTED, DEVICE])
            held = model.held_of(peer)
            assert store.held_keys.of(peer) == held
            assert store.held_keys.latest(peer) == [held[block] for block in sorted(held)]
            assert store.held_keys.key_ids(peer) == {key_id for each in held.values() for key_id in each.facts.key_ids}
            assert store.held_keys.newest(peer) == model.newest.get(peer, bytes(16))
            for (of, block, index), tag in model.opened.items():
                assert store.held_keys.opened(of, SlotName(block, index)) == tag
        case "number":
            stream = random.choice(["reports", "commands"])
            assert store.journal.numbers.next(stream) == model.given.get(stream, 0)
            model.given[stream] = model.given.get(stream, 0) + 1
        case "finish":
            finish(store, model, random.choice("ab"), bytes([random.randrange(3)] * 16), random.randrange(30), random)
        case "enqueue":
            model.outbox.append(os.urandom(5))
            store.journal.outbox.put("x", "k", model.outbox[-1])
        case "ask":
            collected = {r: payload for (i, r), (payload, _) in model.shares.items() if i == relay_id}
            assert store.relays.get(relay_id) == model.relays.get(relay_id)
            assert store.shares.get(relay_id, route) == collected.get(route)
            if random.random() < 0.5:
                assert store.shares.of(relay_id) == collected
            states = [relay.state for relay in model.relays.values()]
            assert store.relays.pending() == states.count("expecting")
            assert store.relays.key_bytes() == 64 * (states.count("held") + states.count("delivered"))


def hold(random, store, model, peer):
    """Hold a newer block; those below its floor end then, or have ended long before."""
    name = (int.from_bytes(model.newest.get(peer, bytes(16))) + random.randrange(1, 5)).to_bytes(16)
    floor = random.choice([*model.held_of(peer), name, name])
    length = 64 + 32 * SLOTS + PAD
    ids = () if peer == COMPUTED else (name.hex(),)
    facts = Facts(link=(peer, "kme-8"), block=name, floor=floor, length=length, slots=SLOTS, key_ids=ids)
    held = HeldKey.of(KeyBlock(facts, computed(facts) or os.urandom(length)))
    at = NOW - random.choice([0.0, 2 * ENDED_S])
    store.held_keys.hold(peer, held, at)
    model.held[peer, name], model.newest[peer] = held, name
    for of, block in model.held:
        if of == peer and block < floor:
            model.until.setdefault((of, block), at + ENDED_S)


def open_one(random, store, model, peer):
    """Open a message with a slot and pad that were not used, if there are any."""
    held = model.held_of(peer)
    free = [(block, index) for block, each in held.items() for index in range(SLOTS) if not is_used(each, index)]
    if not free:
        return
    name, tag = SlotName(*random.choice(free)), os.urandom(16)
    offset = random.randrange(PAD)
    pieces = [Piece(block, offset, 1) for block in held if not any(a <= offset < b for a, b in held[block].used_pad)]
    after = receiver.wiped(name, pieces, held)
    store.held_keys.use(peer, name, tag, after)
    model.opened[peer, name.block, name.index] = tag
    for block, each in after.items():
        model.held[peer, block] = each
        if each.is_used_up:
            del model.held[peer, block]
            model.until.pop((peer, block), None)


def is_used(held, index):
    return any(first <= index < after for first, after in held.used_slots)


def computed(facts):
    return None if facts.key_ids else block_key(bytes(32), facts.link, facts.block, facts.length)


def finish(store, model, stream, epoch, number, random):
    place, tag = (stream, epoch, number), bytes([random.randrange(2)] * 16)
    if model.finished.get(place, tag) != tag:
        with pytest.raises(NumberReusedError):
            store.journal.seen.check(*place, tag)
    elif place in model.finished:
        assert store.journal.seen.check(*place, tag) == "finished"
    else:
        assert store.journal.seen.check(*place, tag) == "new"
        store.journal.seen.finish(*place, tag)
        model.finished[place] = tag


def in_the_file(db):
    """Return the model of what a connection of its own reads."""
    model = Model()
    model.shares = {
        (UUID(bytes=relay_id), tuple(route.split(">"))): (payload, deadline)
        for relay_id, route, payload, deadline in db.execute("SELECT relay_id, route, payload, deadline FROM shares")
    }
    model.given = dict(db.execute("SELECT * FROM given"))
    finished = db.execute("SELECT stream, epoch, number, tag FROM finished JOIN heard ON heard = id")
    model.finished = {(stream, epoch, number): tag for stream, epoch, number, tag in finished}
    model.outbox = [body for (body,) in db.execute("SELECT body FROM outbox ORDER BY id")]
    for peer, block, facts, tag, slots, pad, until in db.execute(
        "SELECT peer, block, facts, tag, slots, pad, until FROM held_keys"
    ):
        model.held[peer, block] = codec.decode(facts, Facts), tag, slots, pad
        model.until |= {} if until is None else {(peer, block): until}
    model.newest = dict(db.execute("SELECT peer, block FROM held_newest"))
    model.opened = {
        (*where, slot): tag for *where, slot, tag in db.execute("SELECT peer, block, slot, tag FROM opened")
    }
    return model


def in_a_file(held):
    """What a store has of a block: what can be computed is not in it."""
    return held.facts, held.tag, *((held.slots, held.pad) if held.facts.key_ids else (b"", b""))


def opened(path):
    store = open_kme_store(path, "kme-8")
    cache = store.journal.batch.cache
    store.held_keys.compute_with(COMPUTED, computed)
    store.relays._cached, store.shares._cached = cache(LruCache(3, 10_000)), cache(LruCache(2, 200))
    return store


def test_a_store_answers_as_if_nothing_were_kept_in_memory(tmp_path):
    seed = SystemRandom().getrandbits(32)
    print(f"seed {seed}")
    random, model, path = Random(seed), Model(), tmp_path / "store"
    store = opened(path)
    beside = open_kme_store(path, "kme-8", access="read")
    for _ in range(TRANSACTIONS):
        if random.random() < 0.02:  # a restart
            store.journal.close()
            store = opened(path)
        after, undone = deepcopy(model), random.random() < 0.2
        with suppress(UndoneError), store.journal.transaction():
            for _ in range(random.randrange(12)):
                do_something(random, store, after)
            if undone:
                raise UndoneError
        if undone:
            assert store.journal.outbox.drain_committed() == []
            continue
        published = [publication.body for publication in store.journal.outbox.drain_committed()]
        assert after.outbox == model.outbox + published
        model = after
        found = in_the_file(beside.journal.connection)
        found.relays = {relay.relay_id: relay for relay in beside.relays.latest()}
        held = {key: in_a_file(each) for key, each in model.held.items()}
        assert vars(found) == {**vars(model), "held": held}
    beside.journal.close()
    store.journal.close()
