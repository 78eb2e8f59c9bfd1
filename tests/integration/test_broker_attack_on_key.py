"""Whoever has the broker in hand, and what two ends of a link say of key: forged, withheld, doubled, late, of before.

Whatever it does: nobody opens what nobody sealed, no byte of key seals two messages, no KME is blamed for it. What
stops is that link at most, and it goes on once the broker is honest.
"""

from collections import defaultdict
from itertools import pairwise
from random import Random

import msgspec
import pytest

from kme.blocks.ahead import AHEAD_IDLE_MAX, OWN_BYTES
from kme.blocks.announcing import ANNOUNCE_AGAIN_S
from kme.blocks.holding import HELD_EVERY_S
from kme.blocks.ration import PAUSE_MAX_S, RATION, RATION_S
from kme.links import Links
from kme.store.held_keys import HeldKeys
from qkdrelay.broker.names import link_queue, parse_link_queue
from qkdrelay.broker.port import Publication
from qkdrelay.link.blocks.receiver import ENDED_S
from qkdrelay.link.blocks.sender import ANNOUNCED_S
from qkdrelay.messages import codec
from qkdrelay.messages.blocks import Announce, BlocksHeld, HeldBlock, Piece, RefusedBlock
from qkdrelay.messages.link import SealedMessage, ShareHeader
from support.network import Network, is_about_blocks
from support.recorder import Ledger

pytestmark = pytest.mark.usefixtures("restless")

LINK = ("kme-3", "kme-5")
replaced = msgspec.structs.replace


class Broker:
    """The broker of a network, in the hand of somebody who does as ``act`` says with each message of some links.

    ``act`` takes a link and a message, and returns those to pass on in its place.
    """

    def __init__(self, network, act, links=None):
        self.network, self.act, self.links = network, act, links
        self.is_hostile, self.sent = True, defaultdict(list)
        """Of these, the last: what KMEs sent, by queue, from the oldest on."""
        self.ledger, self.kept = Ledger(), []
        self.held_before = {
            name
            for kme, peers in network.links.items()
            for peer in peers
            for name in network.stores[kme].held_keys.of(peer)
        }
        """Blocks of key."""
        self._pass_on = network.hub.publish
        network.hub.publish = self._publish

    def _publish(self, user, publication):
        queue = publication.routing_key
        if not queue.startswith("link."):
            return self._pass_on(user, publication)
        self.ledger.add(queue, publication.body)
        self.sent[queue].append(publication.body)
        link = parse_link_queue(queue)
        if not self.is_hostile or (self.links is not None and link not in self.links):
            return self._pass_on(user, publication)
        for body in self.act(self, link, publication.body):
            self.bring(link, body)
        return None  # as if it had taken the message over

    def bring(self, link, body):
        """Put a message into the queue of a link."""
        exchange = f"kme.{link[0]}"
        assert self._pass_on(link[0], Publication(None, exchange, link_queue(*link), body)) is None

    def bring_kept(self, rng=None):
        """Bring what was kept back, in any order."""
        kept, self.kept[:] = list(self.kept), []
        if rng is not None:
            rng.shuffle(kept)
        with self.network.hub.lock:
            for link, body in kept:
                self.bring(link, body)

    def bring_old(self, rng, count):
        """Bring what was sent before over links, the announcements of key first; by chance."""
        old = [(parse_link_queue(queue), body) for queue, bodies in self.sent.items() for body in bodies]
        with self.network.hub.lock:
            for link, body in sorted(rng.choices(old, k=count), key=lambda each: not is_about_blocks(each[1])):
                self.bring(link, body)


class Accepted(list):
    """What was opened of each link's queue, whole, as often as it was; and the blocks of key that were held."""

    def __init__(self):
        super().__init__()
        self.held = []


@pytest.fixture
def accepted(monkeypatch):
    opened, take, hold = Accepted(), Links.take, HeldKeys.hold

    def noting(links, queue, body):
        share = take(links, queue, body)
        if share is not None:
            opened.append((queue, body))
        return share

    def holding(store, peer, block, now):
        opened.held.append(block.facts)
        hold(store, peer, block, now)

    monkeypatch.setattr(Links, "take", noting)
    monkeypatch.setattr(HeldKeys, "hold", holding)
    return opened


def in_its_time(network, rate_bps=None):
    """Have links get key by the network's clock, not by the world's; and at another rate, but for what is there."""
    for kme, links in network.links.items():
        for peer in links:
            source = network.source(kme, peer)
            source._clock, source._at = network.time, network.time()
            source._rate = source._rate if rate_bps is None else rate_bps / 8


def was_sound(network, broker, accepted):
    """What must be, whatever the broker did."""
    genuine = {(queue, body) for queue, bodies in broker.sent.items() for body in bodies}
    assert set(accepted) <= genuine
    assert len(accepted) == len(set(accepted))
    # Held was what its sender had announced, as it had announced it; and granted what was held.
    bodies = [body for _, body in genuine if codec.is_of(body, Announce)]
    announced = {facts.block: facts for facts in (codec.decode(body, Announce).facts for body in bodies)}
    held = {facts.block: facts for facts in accepted.held}
    since = {name: facts for name, facts in held.items() if name in announced}
    assert since == {name: announced[name] for name in since}
    assert not set(held) - set(announced) - broker.held_before
    for a, b in network.topology.links:
        for way in ((a, b), (b, a)):
            granted = [each.block.facts for each in network.sending(*way)._sender.blocks if each.is_granted]
            assert {facts.block: facts for facts in granted}.items() <= held.items()
    assert broker.ledger.use().reused == []
    relays = network.coordinator_store.relays.latest(1_000, supply=True)
    for relay in relays:
        view = network.show(relay.relay_id)
        assert (view.false_shares, view.disputed, view.equivocating) == ((), (), ())
        source, target = (network.keys(end, view.relay_id) for end in (view.source, view.target))
        assert source in (None, target)
    letters = network.dead_letters()
    assert all(queue.startswith("link.") for _, queue, _ in letters)
    assert not any("has opened another message" in reason or "pad was used" in reason for *_, reason in letters)
    for name, loop in network.loops.items():
        if name in network.links:
            refused = loop.service.metrics.registry.get_sample_value
            assert not refused("qkdrelay_messages_refused_total", {"reason": "number_reused"})
    return relays


def goes_on(network, within_s):
    """Relays go over all links again before so much time has passed; return when."""
    began = network.time()
    while network.time() <= began + within_s:
        network.later(PAUSE_MAX_S / 2)
        ways = [way for a, b in network.topology.links for way in ((a, b), (b, a))]
        if all(network.sending(*way).granted().slots for way in ways):
            view = network.relay("kme-1", "kme-8")
            assert (view.state, view.missing) == ("confirmed", ())
            return network.time() - began
    raise AssertionError([way for way in ways if not network.sending(*way).granted().slots])


# --- all that there is, at random, on all links ----------------------------------------------------


def flipped(rng, data):
    at = rng.randrange(len(data))
    return data[:at] + bytes([data[at] ^ 1 << rng.randrange(8)]) + data[at + 1 :]


def forged_announcement(rng, broker, link, body):
    """An announcement with something else in it."""
    announce = codec.decode(body, Announce)
    facts = announce.facts
    field = rng.choice(("link", "block", "floor", "length", "slots", "key_ids", "tag", "turn", "other tag"))
    if field == "tag":
        return replaced(announce, tag=rng.randbytes(16))
    if field == "turn":
        return replaced(announce, turn=rng.randbytes(8))
    if field == "other tag":
        others = [codec.decode(old, Announce) for old in broker.sent[link_queue(*link)] if codec.is_of(old, Announce)]
        return replaced(announce, tag=rng.choice(others).tag)
    values = {
        "link": (facts.link[::-1], ("kme-1", facts.link[1])),
        "block": (rng.randbytes(16), bytes(16), b"\xff" * 16, facts.block[:6] + rng.randbytes(10), later(facts.block)),
        "floor": (bytes(16), b"\xff" * 16, rng.randbytes(16)),
        "length": (96, facts.length - 1, facts.length // 2, facts.length + 32),
        "slots": (1, facts.slots - 1, facts.slots + 1, facts.length // 32 - 2),
        "key_ids": (("a",), ("a", "a"), tuple("abcdef")),
    }
    return replaced(announce, facts=replaced(facts, **{field: rng.choice(values[field])}))


def later(block):
    """A name that sorts a little after this one."""
    return (int.from_bytes(block[:6]) + 1).to_bytes(6) + block[6:]


def forged_news(rng, broker, link, body):
    """News of what is held, with something else in it."""
    news = codec.decode(body, BlocksHeld)
    before = [codec.decode(old, BlocksHeld) for old in broker.sent[link_queue(*link)] if codec.is_of(old, BlocksHeld)]
    announced = [
        codec.decode(old, Announce) for old in broker.sent[link_queue(*link[::-1])] if codec.is_of(old, Announce)
    ]
    names = [announce.facts.block for announce in announced] + [rng.randbytes(16)]
    match rng.choice(("run", "old run", "newest", "nothing", "less", "tags", "invented", "refused", "turns", "link")):
        case "run":
            return replaced(news, run=rng.randbytes(16), **rng.choice(({}, {"held": ()})))
        case "old run":
            return replaced(news, run=rng.choice(before).run, held=rng.choice(before).held)
        case "newest":
            return replaced(news, newest=rng.choice((bytes(16), b"\xff" * 16, later(max(names)), rng.choice(names))))
        case "nothing":
            return replaced(news, held=(), newest=bytes(16))
        case "less":
            return replaced(news, held=tuple(each for each in news.held if rng.random() < 0.5))
        case "tags":
            return replaced(news, held=tuple(replaced(each, tag=rng.randbytes(16)) for each in news.held))
        case "invented":
            # Whatever was announced and is not held yet, with a tag of the announcement or of chance.
            tags = [announce.tag for announce in announced] + [rng.randbytes(16)]
            held = tuple(HeldBlock(name, rng.choice(tags)) for name in names[-16:])
            return replaced(news, held=held, newest=max(names[:-1] or names))
        case "refused":
            return replaced(news, refused=tuple(RefusedBlock(name, "because") for name in names[-16:]))
        case "turns":
            return replaced(news, asks=rng.randbytes(8), gives=rng.randbytes(8))
        case _:
            return replaced(news, link=news.link[::-1])


def forged_share(rng, broker, link, body):
    """A share turned to another slot or pad, of this block or another, or changed."""
    message = codec.decode(body, SealedMessage)
    header = codec.decode(message.header, ShareHeader)
    names = [
        codec.decode(old, Announce).facts.block for old in broker.sent[link_queue(*link)] if codec.is_of(old, Announce)
    ]
    name = rng.choice([*names, header.slot.block, rng.randbytes(16)])
    match rng.choice(("slot", "block", "pad", "bytes")):
        case "slot":
            header = replaced(header, slot=replaced(header.slot, index=rng.randrange(40)))
        case "block":
            header = replaced(header, slot=replaced(header.slot, block=name))
        case "pad":
            header = replaced(header, pad=(Piece(name, rng.randrange(500), len(message.ciphertext)),))
        case _:
            message = replaced(message, ciphertext=flipped(rng, message.ciphertext))
    return replaced(message, header=codec.encode(header))


def forged(rng, broker, link, body):
    if codec.is_of(body, Announce):
        return codec.encode(forged_announcement(rng, broker, link, body))
    if codec.is_of(body, BlocksHeld):
        return codec.encode(forged_news(rng, broker, link, body))
    return codec.encode(forged_share(rng, broker, link, body))


def anything(rng):
    """Do with each message one of all those things."""

    def act(broker, link, body):
        what = rng.choices(
            ("pass", "double", "withhold", "keep", "forge", "forge besides", "replay", "flip"), (8, 2, 1, 2, 2, 3, 3, 1)
        )[0]
        old = rng.choice(broker.sent[link_queue(*link)])
        match what:
            case "double":
                return [body, body]
            case "withhold":
                return []
            case "keep":
                broker.kept.append((link, body))
                return []
            case "forge":
                return [forged(rng, broker, link, body)]
            case "forge besides":
                return [forged(rng, broker, link, body), body]
            case "replay":
                return [old, body] if rng.random() < 0.5 else [old]
            case "flip":
                return [flipped(rng, body), body]
        return [body]

    return act


@pytest.mark.parametrize("suite", ["otp", "aes-256-gcm"])
@pytest.mark.parametrize("rate_bps", [None, 1_000], ids=["long blocks", "short blocks"])
@pytest.mark.parametrize("seed", range(3))
def test_whatever_is_done_to_what_links_carry_nothing_is_opened_that_was_not_sealed_and_no_key_used_twice(
    tmp_path, accepted, seed, rate_bps, suite
):
    rng = Random(f"{seed}/{rate_bps}/{suite}")
    network = Network(folder=tmp_path, suite=suite)
    in_its_time(network, rate_bps)
    broker = Broker(network, anything(rng))
    kmes = network.topology.kmes
    for kme in kmes:  # what was agreed on before the broker was hostile is dropped
        network.hub.drop(kme)
    for _ in range(12):
        match rng.randrange(4):
            case 0:
                network.restart(rng.choice(kmes))
            case 1:
                network.hub.drop(rng.choice(kmes))
        network.relay(*rng.sample(kmes, 2), allow_unprotected=True)
        network.later(rng.choice((0.0, 0.5, 2.0, 5.0, 31.0, 2 * ENDED_S)))
        broker.bring_kept(rng)
        for _ in range(4):
            broker.bring_old(rng, 30)
            network.settle()
        was_sound(network, broker, accepted)
    assert accepted
    was_sound(network, broker, accepted)
    broker.is_hostile = False
    broker.kept.clear()
    goes_on(network, RATION_S + ANNOUNCED_S + PAUSE_MAX_S)
    was_sound(network, broker, accepted)


# --- one thing, again and again, on one link -------------------------------------------------------


def withholds(kind):
    return lambda broker, link, body: [] if codec.is_of(body, kind) else [body]


def withholds_all_about_key(broker, link, body):
    return [] if is_about_blocks(body) else [body]


def doubles(broker, link, body):
    return [body] * 5


def keeps_and_turns_round(broker, link, body):
    """The newest first, and each only once the next has come."""
    broker.kept.append((link, body))
    kept = [each for way, each in broker.kept if way == link]
    if len(kept) < 3:
        return []
    broker.kept[:] = [each for each in broker.kept if each[0] != link]
    return kept[::-1]


def says_the_first_again(kind):
    def act(broker, link, body):
        if not codec.is_of(body, kind):
            return [body]
        return [next(old for old in broker.sent[link_queue(*link)] if codec.is_of(old, kind))]

    return act


def says_all_again(broker, link, body):
    return [*broker.sent[link_queue(*link)]] if is_about_blocks(body) else [body]


def changes_news(**changes):
    def act(broker, link, body):
        if not codec.is_of(body, BlocksHeld):
            return [body]
        values = {name: value() if callable(value) else value for name, value in changes.items()}
        return [codec.encode(replaced(codec.decode(body, BlocksHeld), **values))]

    return act


def changes_tags(kind):
    def act(broker, link, body):
        if not codec.is_of(body, kind):
            return [body]
        message = codec.decode(body, kind)
        if kind is Announce:
            return [codec.encode(replaced(message, tag=bytes(16)))]
        return [codec.encode(replaced(message, held=tuple(replaced(each, tag=bytes(16)) for each in message.held)))]

    return act


def refuses_all(broker, link, body):
    if not codec.is_of(body, BlocksHeld):
        return [body]
    names = [
        codec.decode(old, Announce).facts.block
        for old in broker.sent[link_queue(*link[::-1])]
        if codec.is_of(old, Announce)
    ]
    news = codec.decode(body, BlocksHeld)
    return [codec.encode(replaced(news, refused=tuple(RefusedBlock(name, "no") for name in names[-64:])))]


def changes_shape(broker, link, body):
    """Known pad were slots then."""
    if not codec.is_of(body, Announce):
        return [body]
    announce = codec.decode(body, Announce)
    slots = announce.facts.length // 32 - 2
    return [codec.encode(replaced(announce, facts=replaced(announce.facts, slots=slots))), body]


RANDOM = Random("runs")
ATTACKS = {
    "withholds announcements": withholds(Announce),
    "withholds what is held": withholds(BlocksHeld),
    "withholds all about key": withholds_all_about_key,
    "doubles": doubles,
    "keeps and turns round": keeps_and_turns_round,
    "says the first announcement again": says_the_first_again(Announce),
    "says again what was held first": says_the_first_again(BlocksHeld),
    "says all again": says_all_again,
    "invents runs": changes_news(run=lambda: RANDOM.randbytes(16)),
    "invents runs that hold nothing": changes_news(run=lambda: RANDOM.randbytes(16), held=()),
    "invents a newest block": changes_news(newest=b"\xff" * 16),
    "invents a newest block of a time that will be": changes_news(newest=b"\x01\xa0" + bytes(14), held=()),
    "says that nothing is held": changes_news(held=(), newest=bytes(16)),
    "refuses all": refuses_all,
    "changes tags of announcements": changes_tags(Announce),
    "changes tags of what is held": changes_tags(BlocksHeld),
    "changes shapes": changes_shape,
}


COST_KEY = {"invents runs that hold nothing"}
"""What has key given up that was granted; the others at most keep more from being granted."""
HOLD_UP_SHARES = {"keeps and turns round"}


def rationed(network, way):
    return len(network.sending(*way)._ration._recent(network.time()))


@pytest.mark.parametrize("attack", ATTACKS)
def test_what_is_done_to_one_link_stops_that_link_at_most_and_it_goes_on_afterwards(tmp_path, accepted, attack):
    network = Network(folder=tmp_path)
    in_its_time(network)
    ways = [LINK, LINK[::-1]]
    broker = Broker(network, ATTACKS[attack], ways)
    others = [way for a, b in network.topology.links for way in ((a, b), (b, a)) if way not in ways]
    for turn, restarted in enumerate((None, *LINK, None)):
        if restarted:
            network.restart(restarted)
            network.settle()
        network.later(1.0)
        before = {way: network.sending(*way).counts.given_up for way in others}
        rations = [rationed(network, way) for way in ways]
        for _ in range(4):
            view = network.relay("kme-1", "kme-8")
            assert view.state == "confirmed"
            assert all(LINK in pairwise(route) for route in view.missing)
            network.later(HELD_EVERY_S)
        assert {way: network.sending(*way).counts.given_up for way in others} == before
        assert all(network.sending(*way).granted().slots for way in others)
        if turn == 0 and attack not in COST_KEY:
            # What is granted stays so, but for the block that was announced before anything was heard.
            assert all(rationed(network, way) <= 1 + had for way, had in zip(ways, rations, strict=True))
            assert len(accepted) == 4 * 17 or attack in HOLD_UP_SHARES
    was_sound(network, broker, accepted)
    broker.is_hostile = False
    waited = goes_on(network, RATION_S + ANNOUNCED_S + PAUSE_MAX_S + ANNOUNCE_AGAIN_S[-1])
    was_sound(network, broker, accepted)
    assert attack in COST_KEY or waited < 5 * 60.0


EVERY_S = 6.0


def test_an_hour_of_runs_that_hold_nothing_costs_a_small_part_of_a_links_key(accepted):
    network = Network()
    in_its_time(network)
    source = network.source(*LINK)
    drawn, lengths = source.drawn, []

    def counted():
        raw = drawn()
        lengths.extend([raw.length] if raw else ())
        return raw

    source.drawn = counted
    broker = Broker(network, lambda broker, link, body: [body])
    news = BlocksHeld(LINK, bytes(16), bytes(16), (), (), b"", b"")
    for _ in range(round(RATION_S / EVERY_S)):
        with network.hub.lock:
            broker.bring(LINK[::-1], codec.encode(replaced(news, run=RANDOM.randbytes(16))))
        network.later(EVERY_S)
    assert RATION - 1 <= rationed(network, LINK) <= RATION
    assert sum(lengths) <= RATION * (AHEAD_IDLE_MAX + OWN_BYTES) <= 0.03 * RATION_S * source.rate_bps() / 8
