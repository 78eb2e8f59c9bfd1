"""Both ends of a link agree on blocks of key over a broker that does what it likes, with their stores and sources."""

import random
from collections import deque
from itertools import pairwise
from types import SimpleNamespace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kme.blocks.computed import ComputedSource
from kme.blocks.exchange import ANNOUNCE_AGAIN_S, HELD_AGAIN_S, HELD_EVERY_S, BlockExchange, Granted
from kme.devices.answers import DeviceKey
from kme.devices.line import Drawn, Fetched, LineState
from kme.devices.source import DeviceSource
from kme.store.held_keys import SCHEMA, HeldKeys
from qkdrelay.errors import ForgedMessageError, NumberReusedError, StoreError
from qkdrelay.link.blocks.receiver import ENDED_S
from qkdrelay.messages import codec
from qkdrelay.messages.blocks import Announce, BlocksHeld
from qkdrelay.service.journal import Journal

NOW = 1_790_000_000.0
SECRET = bytes(range(32))


class Devices:
    """A pair of devices: keys that one end has drawn and the other has not fetched."""

    def __init__(self, key_bytes=32, at_once=128):
        self.uncollected, self.drawn, self.key_bytes, self.at_once = {}, 0, key_bytes, at_once


class Line:
    """A line to one device whose answers come at once."""

    def __init__(self, devices):
        self.devices, self.outcomes, self.kept = devices, [], {}

    def draw(self, number):
        keys = []
        for _ in range(min(number, self.devices.at_once)):
            self.devices.drawn += 1
            key = DeviceKey(f"key {self.devices.drawn}", random.Random(self.devices.drawn).randbytes(32))
            self.devices.uncollected[key.key_id] = key
            keys.append(key)
        self.outcomes.append(Drawn(tuple(keys)))
        return True

    def fetch(self, key_ids):
        for key_id in key_ids:
            if key_id in self.devices.uncollected:
                self.kept[key_id] = self.devices.uncollected.pop(key_id)
        is_all = all(key_id in self.kept for key_id in key_ids)
        keys = tuple(self.kept[key_id] for key_id in key_ids) if is_all else ()
        self.outcomes.append(Fetched(tuple(key_ids), keys, "" if is_all else "no such keys"))
        return True

    def is_drawing(self):
        return False

    def take(self):
        outcomes, self.outcomes = self.outcomes, []
        return outcomes

    def held(self, key_ids):
        for key_id in key_ids:
            self.kept.pop(key_id, None)

    def state(self):
        return LineState(rate_bps=1_000)


class End:
    """One end of the link, with a store in memory."""

    def __init__(self, pair, me, peer):
        self.pair, self.me, self.peer = pair, me, peer
        self.journal = Journal(None, f"kme {me}", SCHEMA)
        self.held = HeldKeys(self.journal)
        self.start()

    def start(self):
        """Begin anew: all memory is lost."""
        self.journal.batch.undo()
        run = self.pair.random.randbytes(16)
        options = {"batch": self.journal.batch, "run": run, "random": self.pair.random.randbytes}
        source = self.pair.source(self.me, self.peer)
        self.exchange = BlockExchange((self.me, self.peer), self.pair.suite, source, self.held, **options)

    def do(self, work, *, fails=False):
        """Work in one transaction; return what came of it, or None if its commit fails."""
        try:
            with self.journal.transaction():
                found = work()
                if fails:
                    self.journal.connection.execute("nothing that SQLite knows")
        except StoreError:
            return None
        self.exchange.committed()
        self.journal.batch.end()
        return found

    def tick(self, slots=10, pad=4_000, **options):
        found = self.do(lambda: self.exchange.tick(Granted(slots, pad), self.pair.now), **options) or []
        self.pair.wires[self.me] += [codec.encode(each) for each in found]
        return found

    def take(self, body, **options):
        """Take an announcement or what the peer holds."""
        kind = Announce if b"facts" in body[:20] else BlocksHeld
        message = codec.decode(body, kind)
        if kind is Announce:
            self.do(lambda: self.exchange.on_announce(message), **options)
        else:
            self.exchange.on_held(message, self.pair.now)

    def open(self, sealed, **options):
        """Open a message and return its pad, or why not."""
        key = sealed.key

        def work():
            if self.exchange.slot(key.slot_name, sealed.tag) is None:
                return "again"
            assert self.exchange.slot(key.slot_name, sealed.tag) == key.slot
            pad = self.exchange.pad(key.pieces, sealed.length)
            self.exchange.opened(key.slot_name, sealed.tag, key.pieces)
            return pad

        try:
            return self.do(work, **options)
        except (ForgedMessageError, NumberReusedError) as error:
            return str(error)


class Pair:
    """A link with both ends, and what is on its way."""

    def __init__(self, source="computed", suite="otp", rate_bps=1_000_000, seed=1, **devices):
        self.random, self.now, self.suite, self.rate_bps = random.Random(seed), NOW, suite, rate_bps
        self.devices = Devices(**devices) if source == "devices" else None
        self.used, self.latest = set(), NOW
        self.wires = {"kme-1": deque(), "kme-2": deque()}
        self.ends = End(self, "kme-1", "kme-2"), End(self, "kme-2", "kme-1")

    def monotonic(self):
        """A clock that never goes back."""
        self.latest = max(self.latest, self.now)
        return self.latest

    def source(self, me, peer):
        if self.devices is not None:
            return DeviceSource(Line(self.devices))
        options = {"rate_bps": self.rate_bps, "buffer_bytes": 100_000, "clock": self.monotonic}
        return ComputedSource(SECRET, me, peer, **options)

    def settle(self, **options):
        """Let both say what they have to, until nothing new comes."""
        for _ in range(4):
            for end, other in (self.ends, self.ends[::-1]):
                end.tick(**options)
                while self.wires[end.me]:
                    other.take(self.wires[end.me].popleft())

    def seal(self, sender, length):
        """Seal a message; no byte of key may have sealed another."""
        key = sender.exchange.draw(length)
        if key is None:
            return None
        where = {(key.slot, "slot")} | {
            (piece.block, at) for piece in key.pieces for at in range(piece.offset, piece.offset + piece.length)
        }
        assert self.used.isdisjoint(where)
        self.used |= where
        return SimpleNamespace(key=key, length=length, tag=self.random.randbytes(16))


@pytest.mark.parametrize("source", ["computed", "devices"])
@pytest.mark.parametrize("suite", ["otp", "aes-256-gcm"])
def test_after_one_exchange_each_end_has_key_to_send_with_and_the_other_opens_it(source, suite):
    pair = Pair(source, suite)
    pair.settle()
    for sender, target in (pair.ends, pair.ends[::-1]):
        sealed = pair.seal(sender, 300 if suite == "otp" else 0)
        assert target.open(sealed) == sealed.key.pad
        assert target.open(sealed) == "again"


@pytest.mark.parametrize("length", [0, 40, 96, 1_000, 9_000, 40_000])
def test_once_the_lengths_of_messages_are_known_slots_and_pad_are_used_up_together(length):
    """And of link key no more than 3 % is lost, to slots that nobody needed and to blocks' own keys."""
    pair = Pair(rate_bps=10**9)
    sender, target = pair.ends
    drawn = carried = 0
    ask = sender.exchange._source.ask

    def asked(length):
        nonlocal drawn
        before = sender.exchange._source._level
        found = ask(length)
        drawn += round(before - sender.exchange._source._level)
        return found

    for number in range(400):
        if number == 100:
            sender.exchange._source.ask, there = asked, left(sender)
        pair.now += 1.0
        pair.settle(slots=1, pad=length)
        sealed = pair.seal(sender, length)
        assert target.open(sealed) == sealed.key.pad
        if number >= 100:
            carried += 32 + length
    assert drawn + there - left(sender) <= 1.03 * carried


def left(sender):
    there = sender.exchange.granted()
    return 32 * there.slots + there.pad


@pytest.mark.parametrize("source", ["computed", "devices"])
@settings(max_examples=40)
@given(seed=st.integers(0, 2**32))
def test_whatever_the_broker_does_and_whoever_is_killed_no_byte_seals_twice_and_it_goes_on(source, seed):
    pair = Pair(source, seed=seed)
    chance = random.Random(seed)
    sealed, opened, old = [], [], []
    sender, target = pair.ends
    for _ in range(150):
        pair.now += chance.choice([0.0, 0.1, 1.0, 5.0, 40.0])
        match chance.randrange(10):
            case 0 | 1 | 2:
                chance.choice(pair.ends).tick(fails=chance.random() < 0.1)
            case 3 | 4 | 5:
                end, other = chance.choice([pair.ends, pair.ends[::-1]])
                wire = pair.wires[end.me]
                if wire and chance.random() < 0.8:
                    body = wire.popleft()
                    old.append((other, body))
                    if chance.random() < 0.8:
                        other.take(body, fails=chance.random() < 0.1)
                elif old:
                    other, body = chance.choice(old)
                    other.take(body)
            case 6 | 7:
                message = pair.seal(sender, chance.choice([0, 1, 100, 700]))
                if message is not None and chance.random() < 0.9:  # else the commit of what was sealed fails
                    sealed.append(message)
            case 8:
                if sealed:
                    message = chance.choice(sealed)
                    fails = chance.random() < 0.1
                    found = target.open(message, fails=fails)
                    if message in opened:
                        assert found in ("again", None) or "no block" in str(found)
                    elif found is not None:
                        assert found == message.key.pad
                        opened.append(message)
            case _:
                what = chance.randrange(4)
                if what == 0:
                    sender.start()
                elif what == 1:
                    target.start()
                elif what == 2:
                    sender.exchange.reconnected()
    # What was sealed is opened, and then there is a way on.
    for message in sealed:
        if message not in opened:
            assert target.open(message) == message.key.pad
    pair.now += 100.0
    for _ in range(3):
        pair.settle()
        pair.now += 31.0
    pair.settle()
    message = pair.seal(sender, 10)
    assert target.open(message) == message.key.pad


def test_what_is_not_answered_is_said_again_more_and_more_rarely():
    pair = Pair()
    sender, _ = pair.ends
    times = []
    for _ in range(590):
        if any(isinstance(each, Announce) for each in sender.tick()):
            times.append(pair.now - NOW)
        pair.now += 0.1
    gaps = [round(after - before) for before, after in pairwise(times)]
    assert gaps == list(ANNOUNCE_AGAIN_S[:4])


def test_what_is_held_is_told_at_once_when_asked_once_a_second_and_now_and_then():
    pair = Pair()
    sender, target = pair.ends
    (announce,) = [each for each in sender.tick() if isinstance(each, Announce)]
    asked = codec.encode(announce)
    target.tick(slots=0, pad=0)
    target.take(asked)
    assert len(target.tick(slots=0, pad=0)) == 1
    for passed in (0.0, HELD_AGAIN_S / 2):
        pair.now += passed
        target.take(asked)
        assert target.tick(slots=0, pad=0) == []
    pair.now += HELD_AGAIN_S
    assert len(target.tick(slots=0, pad=0)) == 1
    pair.now += HELD_EVERY_S - 1.0
    assert target.tick(slots=0, pad=0) == []
    pair.now += 1.0
    assert len(target.tick(slots=0, pad=0)) == 1


def test_a_clock_that_goes_back_stops_nothing():
    pair = Pair()
    pair.settle()
    pair.now -= 86_400.0
    for end in pair.ends:
        end.exchange.reconnected()
    for _ in range(3):
        pair.settle()
        pair.now += 31.0
    sealed = pair.seal(pair.ends[0], 10)
    assert pair.ends[1].open(sealed) == sealed.key.pad


def test_no_more_is_announced_than_is_wanted():
    pair = Pair()
    pair.settle(slots=0, pad=0)
    assert pair.ends[0].exchange.granted() == Granted(0, 0)
    pair.settle(slots=1, pad=0)
    assert 0 < left(pair.ends[0]) <= 16 << 10


@pytest.mark.parametrize(("key_bytes", "at_once"), [(32, 1), (32, 2), (32, 128)])
def test_devices_that_give_little_at_once_are_asked_until_it_is_a_block(key_bytes, at_once):
    pair = Pair("devices", key_bytes=key_bytes, at_once=at_once)
    pair.settle()
    sealed = pair.seal(pair.ends[0], 0)
    assert pair.ends[1].open(sealed) == b""


def test_a_block_below_the_floor_is_kept_for_what_may_still_come_and_then_deleted():
    pair = Pair()
    sender, target = pair.ends
    pair.settle()
    sealed = pair.seal(sender, 10)
    sender.exchange.reconnected()
    pair.now += 60.0
    pair.settle()
    assert len(target.held.of("kme-1")) == 2
    assert not target.do(lambda: target.held.purge(pair.now + ENDED_S - 100))
    assert target.open(sealed) == sealed.key.pad
    assert target.do(lambda: target.held.purge(pair.now + ENDED_S + 1))
    assert len(target.held.of("kme-1")) == 1


def test_what_is_held_comes_back_after_a_start_as_far_as_it_was_not_used():
    pair = Pair()
    sender, target = pair.ends
    pair.settle()
    first, second = pair.seal(sender, 10), pair.seal(sender, 20)
    target.open(first)
    target.start()
    assert target.open(first) == "again"
    assert target.open(second) == second.key.pad
    assert bytes(20) in b"".join(held.pad for held in target.held.of("kme-1").values())
