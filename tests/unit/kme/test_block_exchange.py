"""Both ends of a link agree on blocks of key over a broker that does what it likes, with their stores and sources."""

import random
from collections import deque
from dataclasses import replace
from itertools import pairwise
from types import SimpleNamespace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kme.blocks.ahead import AHEAD_MIN, AHEAD_S, NOTHING_WAITS, Granted, Needed
from kme.blocks.announcing import ANNOUNCE_AGAIN_S
from kme.blocks.computed import ComputedSource
from kme.blocks.exchange import BlockExchange
from kme.blocks.holding import HELD_AGAIN_S, HELD_EVERY_S
from kme.blocks.ration import RATION, RATION_S
from kme.devices.answers import DeviceKey
from kme.devices.line import Drawn, Fetched, LineState
from kme.devices.source import DeviceSource
from kme.store import held_keys
from kme.store.held_keys import SCHEMA, HeldKeys
from qkdrelay.errors import ForgedMessageError, NumberReusedError, StoreError
from qkdrelay.link.blocks import receiver
from qkdrelay.link.blocks.receiver import ENDED_S
from qkdrelay.link.blocks.sender import ANNOUNCED_S, SURPLUS_MAX
from qkdrelay.messages import codec
from qkdrelay.messages.blocks import PIECES_MAX, Announce, BlocksHeld, HeldBlock, RefusedBlock
from qkdrelay.network.whereabouts import NO_KEY, NOT_AGREED
from qkdrelay.service.journal import Journal

NOW = 1_790_000_000.0
SECRET = bytes(range(32))


class Devices:
    """A pair of devices: keys that one end has drawn and the other has not fetched."""

    def __init__(self, key_bytes=32, at_once=128, *, keeps=False):
        self.uncollected, self.drawn, self.key_bytes, self.at_once = {}, 0, key_bytes, at_once
        self.keeps = keeps


class Line:
    """A line to one device whose answers come at once."""

    def __init__(self, devices):
        self.devices, self.outcomes, self.kept = devices, [], {}
        self.keeps_uncollected = devices.keeps

    def draw(self, number):
        keys = []
        for _ in range(min(number, self.devices.at_once)):
            self.devices.drawn += 1
            key = random.Random(self.devices.drawn).randbytes(self.devices.key_bytes)
            key = DeviceKey(f"key {self.devices.drawn}", key)
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
        self.given_up = []
        self.start()

    def start(self):
        """Begin anew: all memory is lost."""
        self.journal.batch.undo()
        self.held = HeldKeys(self.journal)
        self.source = self.pair.source(self.me, self.peer)
        self.exchange = BlockExchange(
            (self.me, self.peer),
            self.pair.suite,
            self.source,
            self.held,
            journal=self.journal,
            run=self.pair.random.randbytes(16),
            random=self.pair.random.randbytes,
            tell=self.given_up.append,
        )
        self.sending, self.receiving = self.exchange.sending, self.exchange.receiving

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

    def tick(self, needed=NOTHING_WAITS, **options):
        found = self.do(lambda: self.exchange.tick(needed, self.pair.now), **options) or []
        self.pair.wires[self.me] += [codec.encode(each) for each in found]
        return found

    def says(self, kind):
        """Return what it says of this kind with a tick."""
        return [each for each in self.tick() if isinstance(each, kind)]

    def take(self, body, **options):
        """Take an announcement or what the peer holds."""
        if codec.is_of(body, Announce):
            announce = codec.decode(body, Announce)
            self.do(lambda: self.exchange.on_announce(announce, self.pair.now), **options)
        else:
            held = codec.decode(body, BlocksHeld)
            self.do(lambda: self.exchange.on_held(held, self.pair.now), **options)

    def reconnected(self, **options):
        self.do(lambda: self.exchange.reconnected(self.pair.now), **options)

    def open(self, sealed, **options):
        """Open a message and return its pad, or why not."""
        key = sealed.key

        def work():
            slot = self.receiving.slot(key.slot_name, sealed.tag)
            if slot is None:
                return "again"
            assert slot == key.slot
            pad = self.receiving.pad(key.slot_name, key.pieces, sealed.length)
            self.receiving.opened(key.slot_name, sealed.tag, key.pieces)
            return pad

        try:
            return self.do(work, **options)
        except (ForgedMessageError, NumberReusedError) as error:
            return str(error)

    def rows(self):
        """What its store has of the blocks it holds: (slots, pad)."""
        return self.journal.connection.execute("SELECT slots, pad FROM held_keys ORDER BY block").fetchall()


class Pair:
    """A link with both ends, and what is on its way."""

    def __init__(self, source="computed", suite="otp", rate_bps=1_000_000, seed=1, buffer_bytes=100_000, **devices):
        self.random, self.now, self.suite, self.secret = random.Random(seed), NOW, suite, SECRET
        self.rate_bps, self.buffer_bytes = rate_bps, buffer_bytes
        keeps = source == "devices that keep"
        self.devices = None if source == "computed" else Devices(keeps=keeps, **devices)
        self.used, self.passed, self.seen = set(), 0.0, NOW
        self.wires = {"kme-1": deque(), "kme-2": deque()}
        self.ends = End(self, "kme-1", "kme-2"), End(self, "kme-2", "kme-1")

    def monotonic(self):
        """A clock that never goes back, and goes on where the other one did."""
        self.passed, self.seen = self.passed + max(0.0, self.now - self.seen), self.now
        return self.passed

    def source(self, me, peer):
        if self.devices is not None:
            return DeviceSource(Line(self.devices), ahead_bytes=self.buffer_bytes)
        options = {"rate_bps": self.rate_bps, "buffer_bytes": self.buffer_bytes, "clock": self.monotonic}
        return ComputedSource(self.secret, me, peer, **options)

    def settle(self, *needed):
        """Let both say what they have to, until nothing new comes."""
        for _ in range(4):
            for end, other in (self.ends, self.ends[::-1]):
                end.tick(*needed)
                while self.wires[end.me]:
                    other.take(self.wires[end.me].popleft())

    def seal(self, sender, length):
        """Seal a message; no byte of key may have sealed another."""
        key = sender.sending.draw(length)
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


@pytest.mark.parametrize("waits", [False, True], ids=["ahead", "waiting"])
@pytest.mark.parametrize("length", [0, 40, 96, 1_000, 9_000, 40_000])
def test_once_the_lengths_of_messages_are_known_slots_and_pad_are_used_up_together(length, waits):
    """And of link key no more than 3 % is lost, to slots that nobody needed and to blocks' own keys."""
    pair = Pair(rate_bps=10**9)
    sender, target = pair.ends
    drawn = carried = 0
    ask = sender.source.ask

    def asked(*amounts):
        nonlocal drawn
        before = sender.source._level
        found = ask(*amounts)
        drawn += round(before - sender.source._level)
        return found

    for number in range(400):
        if number == 100:
            sender.source.ask, there = asked, sender.sending.granted().size
        pair.now += 1.0
        pair.settle(*[Needed(1, length, length)] * waits)
        sealed = pair.seal(sender, length)
        assert target.open(sealed) == sealed.key.pad
        if number >= 100:
            carried += 32 + length
    assert drawn + there - sender.sending.granted().size <= 1.03 * carried


@pytest.mark.parametrize("source", ["computed", "devices", "devices that keep"])
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
                    other.take(body, fails=chance.random() < 0.1)
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
                        assert found == (None if fails else "again")
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
                    sender.reconnected(fails=chance.random() < 0.1)
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
        if sender.says(Announce):
            times.append(pair.now - NOW)
        pair.now += 0.1
    gaps = [round(after - before) for before, after in pairwise(times)]
    assert gaps == list(ANNOUNCE_AGAIN_S[:4])


def test_a_peer_that_is_silent_costs_one_block_and_no_more():
    pair = Pair(rate_bps=0)
    sender, target = pair.ends
    (first,) = sender.says(Announce)
    for _ in range(10_000):
        pair.now += 1.0
        sender.tick()
    assert sender.given_up == ["the other end has not said in time that it holds it"]
    assert sender.sending.available() == pair.buffer_bytes - first.facts.length
    assert sender.sending.why_nothing_is_granted(pair.now) == NOT_AGREED
    assert sender.sending.why_dry(pair.now) == "the other end does not answer"
    # Once it speaks there is a way on.
    pair.wires["kme-1"].clear()
    pair.settle()
    assert target.open(sealed := pair.seal(sender, 10)) == sealed.key.pad
    assert sender.sending.why_dry(pair.now) == ""


def test_what_is_held_is_told_at_once_when_asked_once_a_second_and_now_and_then():
    pair = Pair()
    sender, target = pair.ends
    (announce,) = sender.says(Announce)
    asked = codec.encode(announce)
    assert len(target.says(BlocksHeld)) == 1
    target.take(asked)
    (told,) = target.says(BlocksHeld)
    assert [each.block for each in told.held] == [announce.facts.block]
    for passed in (0.0, HELD_AGAIN_S / 2):
        pair.now += passed
        target.take(asked)
        assert target.says(BlocksHeld) == []
    pair.now += HELD_AGAIN_S
    assert len(target.says(BlocksHeld)) == 1
    pair.now += HELD_EVERY_S - 1.0
    assert target.says(BlocksHeld) == []
    pair.now += 1.0
    assert len(target.says(BlocksHeld)) == 1


def test_what_cannot_be_held_is_refused_in_words_that_the_sender_hears():
    pair = Pair()
    sender, target = pair.ends
    (announce,) = sender.says(Announce)
    pair.secret = bytes(32)
    target.start()
    target.take(codec.encode(announce))
    pair.now += HELD_AGAIN_S
    (told,) = target.says(BlocksHeld)
    assert told.refused == (RefusedBlock(announce.facts.block, "its key does not fit the announcement"),)
    sender.take(codec.encode(told))
    assert sender.given_up == ["the other end cannot hold it: its key does not fit the announcement"]
    assert target.held.of("kme-1") == {}


def test_a_clock_that_goes_back_stops_nothing():
    pair = Pair()
    pair.settle()
    pair.now -= 86_400.0
    for end in pair.ends:
        end.reconnected()
    for _ in range(3):
        pair.settle()
        pair.now += 31.0
    sealed = pair.seal(pair.ends[0], 10)
    assert pair.ends[1].open(sealed) == sealed.key.pad


@pytest.mark.parametrize("rate_bps", [1_000, 16_000, 1_000_000])
def test_no_more_is_granted_ahead_than_some_seconds_of_the_rate(rate_bps):
    pair = Pair(rate_bps=rate_bps)
    pair.settle()
    sender, _ = pair.ends
    ahead = min(pair.buffer_bytes, max(AHEAD_MIN, AHEAD_S * rate_bps / 8))
    assert ahead / 2 <= sender.sending.granted().size <= ahead + 32 + 128
    before = sender.sending.granted()
    pair.now += 1.0
    pair.settle()
    assert sender.sending.granted() == before


def test_what_waits_is_granted_though_it_is_more_than_is_kept_ahead():
    pair = Pair(rate_bps=1_000)
    sender, target = pair.ends
    for left in (3, 2, 1):
        pair.settle(Needed(left, left * 20_000, 20_000))
        sealed = pair.seal(sender, 20_000)
        assert target.open(sealed) == sealed.key.pad


def test_a_link_with_little_key_at_a_time_carries_what_it_has_key_for():
    pair = Pair(rate_bps=800, buffer_bytes=2_000)
    sender, target = pair.ends
    for length in (1_500, 700, 1, 1_900 - 96, 0, 50):
        for _ in range(40):
            pair.settle(Needed(1, length, length))
            if (sealed := pair.seal(sender, length)) is not None:
                break
            pair.now += 1.0
        assert target.open(sealed) == sealed.key.pad


@pytest.mark.parametrize("source", ["devices", "devices that keep"])
@pytest.mark.parametrize(("key_bytes", "at_once"), [(32, 1), (32, 2), (32, 128)])
@pytest.mark.parametrize("length", [0, 1, 600, 5_000])
def test_devices_that_give_little_at_once_are_asked_until_it_is_enough(source, key_bytes, at_once, length):
    pair = Pair(source, key_bytes=key_bytes, at_once=at_once)
    sender, target = pair.ends
    for _ in range(300):
        pair.settle(Needed(1, length, length))
        if (sealed := pair.seal(sender, length)) is not None:
            break
        pair.now += 0.1
    assert target.open(sealed) == sealed.key.pad


@pytest.mark.parametrize("source", ["devices", "devices that keep"])
def test_a_message_that_takes_many_answers_of_devices_is_made_of_few_pieces(source):
    pair = Pair(source, at_once=4, buffer_bytes=4 << 20)
    sender, target = pair.ends
    while (sealed := pair.seal(sender, 1_000_000)) is None:
        pair.settle(Needed(1, 1_000_000, 1_000_000))
    assert len(sealed.key.pieces) <= PIECES_MAX * 2 / 3
    assert sender.given_up == []
    assert target.open(sealed) == sealed.key.pad


@pytest.mark.parametrize("suite", ["otp", "aes-256-gcm"])
@pytest.mark.parametrize(("source", "key_bytes"), [("computed", 1), ("devices", 32), ("devices that keep", 29)])
@pytest.mark.parametrize("lengths", [(19_000,), (40,), (40, 40, 40, 9_000, 700)], ids=["long", "short", "mixed"])
def test_of_blocks_that_were_opened_to_the_end_nothing_is_kept(suite, source, key_bytes, lengths):
    """Though messages are longer than blocks, and devices' keys no whole number of slots."""
    pair = Pair(source, suite, rate_bps=4_000, buffer_bytes=20_000 + key_bytes, key_bytes=key_bytes, at_once=99)
    sender, target = pair.ends
    sent = 0
    while sent < (10 if lengths[0] > 10_000 else 300):
        pad = lengths[sent // 30 % len(lengths)] if suite == "otp" else 0
        pair.now += 5.0
        pair.settle(Needed(1, pad, pad))
        if (sealed := pair.seal(sender, pad)) is not None:
            assert target.open(sealed) == sealed.key.pad
            sent += 1
        assert len(sender.sending._sender.blocks) <= (SURPLUS_MAX + 5 if suite == "otp" else 3)
        assert {*target.held.of("kme-1")} <= {each.block.facts.block for each in sender.sending._sender.blocks}


def test_key_is_being_drawn_until_somebody_has_it():
    """Who gives turns gives none meanwhile: its device may drop what the other end cannot have heard of."""
    source = DeviceSource(Line(Devices()))
    assert not source.is_drawing()
    assert source.ask(4_096, 2_048)
    assert source.is_drawing()
    assert source.drawn().length == 4_096
    assert not source.is_drawing()


def test_of_devices_that_keep_what_was_not_fetched_the_next_keys_are_drawn_while_the_last_are_announced():
    """But no more than one block of them is announced before it is held."""
    needed = Needed(20, 100_000, 5_000)
    for source, drawn in (("devices", 128), ("devices that keep", 128 + 2_048)):
        pair = Pair(source, at_once=2_048)
        sender, target = pair.ends
        announced = [each for _ in range(4) for each in sender.tick(needed) if isinstance(each, Announce)]
        assert len(announced) == 1
        assert pair.devices.drawn == drawn
        target.take(codec.encode(announced[0]))
        (held,) = target.says(BlocksHeld)
        sender.take(codec.encode(held))
        (second,) = (each for each in sender.tick(needed) if isinstance(each, Announce))
        assert set(second.facts.key_ids).isdisjoint(announced[0].facts.key_ids)
        assert len(second.facts.key_ids) == (2_048 if "keep" in source else 128)


@pytest.mark.parametrize("what", ["silent", "refuses"])
def test_what_was_drawn_ahead_waits_for_a_peer_that_is_not_there_or_cannot_hold_it(what):
    pair = Pair("devices that keep", at_once=512)
    sender, target = pair.ends
    needed = Needed(8, 40_000, 5_000)
    (announce,) = (each for _ in range(4) for each in sender.tick(needed) if isinstance(each, Announce))
    drawn = pair.devices.drawn
    if what == "silent":
        pair.now += ANNOUNCED_S + 1
    else:
        refused = (RefusedBlock(announce.facts.block, "no"),)
        sender.take(codec.encode(BlocksHeld(("kme-1", "kme-2"), bytes(16), bytes(16), (), refused, b"", b"")))
    assert not any(isinstance(each, Announce) for _ in range(3) for each in sender.tick(needed))
    assert pair.devices.drawn == drawn
    pair.now += 2.0
    target.receiving.tell_at_once()
    (held,) = target.says(BlocksHeld)
    sender.take(codec.encode(held))
    (again,) = (each for each in sender.tick(needed) if isinstance(each, Announce))
    assert set(again.facts.key_ids).isdisjoint(announce.facts.key_ids)


def test_a_block_below_the_floor_is_kept_for_what_may_still_come_and_then_deleted():
    pair = Pair()
    sender, target = pair.ends
    pair.settle()
    sealed = pair.seal(sender, 10)
    sender.reconnected()
    pair.now += 60.0
    pair.settle()
    assert len(target.held.of("kme-1")) == 2
    assert not target.do(lambda: target.held.purge(pair.now + ENDED_S - 100))
    assert target.open(sealed) == sealed.key.pad
    assert target.do(lambda: target.held.purge(pair.now + ENDED_S + 1))
    assert len(target.held.of("kme-1")) == 1


def test_where_as_many_blocks_are_kept_as_can_be_the_oldest_that_ended_makes_room(monkeypatch):
    monkeypatch.setattr(receiver, "BLOCKS_MAX", 8)
    monkeypatch.setattr(held_keys, "BLOCKS_MAX", 8)
    pair = Pair()
    sender, target = pair.ends
    pair.settle()
    for _ in range(20):
        sender.reconnected()
        pair.now += 1.0
        pair.settle()
        # It is there after a start, too, and no other.
        kept = [name for (name,) in target.journal.connection.execute("SELECT block FROM held_keys ORDER BY block")]
        assert kept == sorted(target.held.of("kme-1"))
        assert len(kept) <= 8
        sealed = pair.seal(sender, 10)
        assert target.open(sealed) == sealed.key.pad
    assert len(target.held.of("kme-1")) == 8


@pytest.mark.parametrize("source", ["computed", "devices"])
def test_what_is_held_comes_back_after_a_start_as_far_as_it_was_not_used(source):
    pair = Pair(source)
    sender, target = pair.ends
    pair.settle()
    first, second = pair.seal(sender, 10), pair.seal(sender, 20)
    target.open(first)
    target.start()
    assert target.open(first) == "again"
    assert target.open(second) == second.key.pad
    target.start()
    assert target.open(second) == "again"


def test_of_a_device_s_key_what_has_opened_a_message_is_wiped_in_the_store():
    pair = Pair("devices")
    sender, target = pair.ends
    pair.settle()
    sealed = pair.seal(sender, 20)
    assert any(sealed.key.slot in slots and sealed.key.pad in pad for slots, pad in target.rows())
    target.open(sealed)
    assert any(bytes(20) in pad and bytes(32) in slots for slots, pad in target.rows())
    assert not any(sealed.key.slot in slots or sealed.key.pad in pad for slots, pad in target.rows())
    # It is said, once, so that the log is wiped, too.
    assert [target.do(lambda: target.held.purge(pair.now)) for _ in range(2)] == [True, False]


def test_what_can_be_computed_is_not_stored():
    pair = Pair()
    pair.settle()
    assert [end.rows() for end in pair.ends] == [[(b"", b"")]] * 2


def test_a_block_of_a_link_whose_secret_is_another_now_opens_nothing_and_the_link_goes_on():
    pair = Pair()
    sender, target = pair.ends
    pair.settle()
    sealed = pair.seal(sender, 10)
    pair.secret = bytes(32)
    target.start()
    assert "no block of key of that name" in target.open(sealed)
    sender.start()
    for _ in range(3):
        pair.now += 31.0
        pair.settle()
    assert target.open(again := pair.seal(sender, 10)) == again.key.pad


def test_of_messages_that_were_opened_so_many_are_remembered_however_often_it_is_started(monkeypatch):
    monkeypatch.setattr(held_keys, "OPENED_MAX", 20)
    monkeypatch.setattr(held_keys, "_FORGET_EVERY", 10)
    pair = Pair(suite="aes-256-gcm", buffer_bytes=500)
    sender, target = pair.ends
    sealed = []
    for number in range(100):
        pair.settle()
        sealed.append(pair.seal(sender, 0))
        assert target.open(sealed[-1]) == b""
        pair.now += 10.0
        if number % 7 == 0:
            target.start()
        target.do(lambda: target.held.purge(pair.now))
    (count,) = target.journal.connection.execute("SELECT count(*) FROM opened").fetchone()
    slots = sender.sending._sender.blocks[0].block.facts.slots
    assert 20 <= count <= 20 + 10 + slots
    assert all(target.open(each) == "again" for each in sealed[-20:])
    # What is not remembered is not opened again either.
    assert target.open(sealed[0]) == "no block of key of that name is held"


# --- what is given up ----------------------------------------------------------------------------------


def test_what_is_granted_is_dropped_with_the_connection_and_counted():
    pair = Pair()
    sender, _ = pair.ends
    pair.settle()
    sender.reconnected()
    assert sender.sending.granted() == Granted(0, 0)
    assert sender.given_up == ["the connection to the broker is another one"]
    assert (sender.sending.counts.granted, sender.sending.counts.given_up) == (1, 1)


@pytest.mark.parametrize("how", ["reconnected", "another run"])
def test_who_has_the_broker_can_have_key_given_up_so_often_in_an_hour_and_no_more(how):
    pair = Pair(rate_bps=10**9)
    sender, _ = pair.ends
    given_up = 0
    for _ in range(600):
        pair.now += 5.0
        pair.settle()
        if sender.sending.granted().slots:
            if how == "reconnected":
                sender.reconnected()
            else:
                run = pair.random.randbytes(16)
                forged = BlocksHeld(("kme-1", "kme-2"), run, bytes(16), (), (), b"", b"")
                sender.take(codec.encode(forged))
            given_up += 1
            assert sender.sending.granted().slots == 0
    assert given_up == RATION - 1  # and the start
    assert sender.sending.why_nothing_is_granted(pair.now) == NOT_AGREED
    assert "the next is drawn in" in sender.sending.why_dry(pair.now)
    # It is a pause, which a start does not shorten, and not the end.
    sender.start()
    pair.settle()
    assert sender.sending.granted().slots == 0
    pair.now += RATION_S
    pair.settle()
    assert sender.sending.granted().slots > 0


def test_a_flood_of_what_cannot_be_held_costs_a_block_a_minute():
    pair = Pair(rate_bps=0)
    sender, _ = pair.ends
    lost = 0
    for _ in range(3_600):
        pair.now += 1.0
        for announce in sender.says(Announce):
            refused = (RefusedBlock(announce.facts.block, "no"),)
            forged = BlocksHeld(("kme-1", "kme-2"), bytes(16), bytes(16), (), refused, b"", b"")
            sender.take(codec.encode(forged))
            lost += 1
    assert lost <= 6 + 3_600 / 60 + 1


def test_forged_proofs_of_holding_grant_nothing():
    pair = Pair()
    sender, _ = pair.ends
    (announce,) = sender.says(Announce)
    held = (HeldBlock(announce.facts.block, bytes(16)),)
    sender.take(codec.encode(BlocksHeld(("kme-1", "kme-2"), bytes(16), bytes(16), held, (), b"", b"")))
    assert sender.sending.granted() == Granted(0, 0)
    assert sender.sending.is_announcing


def test_of_too_many_pieces_no_message_is_made_so_the_oldest_blocks_go():
    pair = Pair()
    sender, _ = pair.ends
    blocks = replace(sender.sending._sender, run=bytes(16))
    for number in range(PIECES_MAX + 44):
        pad = 1 if number < PIECES_MAX + 43 else 1_000
        blocks = blocks.with_block(pair.random.randbytes(96 + pad), (), 1, pair.now, pair.random.randbytes)
        each = blocks.blocks[-1].block
        held = (HeldBlock(each.facts.block, each.held_tag()),)
        blocks = blocks.heard(BlocksHeld(("kme-1", "kme-2"), bytes(16), bytes(16), held, (), b"", b""), pair.now)
    sender.sending._sender = blocks
    key = pair.seal(sender, 500).key
    assert len(key.pieces) == PIECES_MAX
    assert key.pieces[-1].length == 500 - (PIECES_MAX - 1)
    assert sender.given_up == ["its rest was too small to be of use"] * 44


def test_a_source_that_has_nothing_is_said_to_have_no_key():
    pair = Pair(rate_bps=0, buffer_bytes=50)
    sender, _ = pair.ends
    pair.settle(Needed(1, 10, 10))
    assert sender.sending.why_nothing_is_granted(pair.now) == NO_KEY


def test_a_device_that_takes_its_time_or_gave_nothing_is_said_to_have_no_key_while_it_is_asked():
    pair = Pair("devices")
    sender, _ = pair.ends
    line = sender.source._line
    line.draw = lambda _number: True
    sender.tick(Needed(1, 10, 10))
    line.is_drawing = lambda: True
    assert sender.sending.why_nothing_is_granted(pair.now + 1.0) is None
    assert sender.sending.why_nothing_is_granted(pair.now + 3.0) == NO_KEY
    line.state = lambda: LineState(why="enc_keys: it gives none now (503)")
    sender.tick(Needed(1, 10, 10))
    assert sender.sending.why_nothing_is_granted(pair.now) == NO_KEY


def test_while_a_block_is_being_agreed_on_nobody_need_know():
    pair = Pair()
    sender, _ = pair.ends
    sender.tick()
    assert sender.sending.why_nothing_is_granted(pair.now + 1.0) is None
    assert sender.sending.why_nothing_is_granted(pair.now + 3.0) == NOT_AGREED


def test_a_block_that_nobody_held_in_time_is_not_granted_later():
    pair = Pair()
    sender, target = pair.ends
    (announce,) = sender.says(Announce)
    target.take(codec.encode(announce))
    (told,) = [each for each in target.tick() if isinstance(each, BlocksHeld)]
    pair.now += ANNOUNCED_S
    sender.tick()
    sender.take(codec.encode(told))
    assert sender.sending.granted() == Granted(0, 0)
