"""Refills of supply: who waits first, nobody left out, no more than there is key for, whatever KMEs claim."""

from contextlib import suppress
from dataclasses import replace
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from coordinator.admission import Admission
from coordinator.lifecycle import Relay
from coordinator.store import open_coordinator_store
from coordinator.supply.accounts import FRESH_S, Accounts, Place
from coordinator.supply.refills import LEAST_BYTES, LEFT_OVER, Refills
from coordinator.supply.suspicions import FADES_S
from coordinator.supply.under_way import LATE_S
from coordinator.supply.wants import AHEAD_S, FIRST_BYTES, HAD_S, SUPPLY_BYTES_MAX, UNDER_WAY_EACH
from qkdrelay.messages.assignments import IncomingSupply, NoSupply, OutgoingSupply, SaePair, Supplies
from qkdrelay.messages.control import FixedDemand
from qkdrelay.messages.reports import LinkReport
from support.kme import NOW, OF_NO_NOTE
from support.network import REFERENCE

BUFFER = 16 << 20
LINKS = [way for a, b in REFERENCE.links for way in ((a, b), (b, a))]
FULL = dict.fromkeys(LINKS, BUFFER)


def said(target="kme-8", level=1, **figures):
    defaults = {"stored_bytes": 0, "pending_bytes": 0, "wanted_bytes": 4096, "assigned_bytes_per_s": 0.0, "waiting": 0}
    return OutgoingSupply(target=target, level=level, why="", **{**defaults, **figures})


def report(*outgoing, incoming=(), incarnation=b"\1" * 16, pairs=()):
    return Supplies(incarnation=incarnation, outgoing=outgoing, incoming=tuple(incoming), pairs=tuple(pairs))


def reports(left, at, unusable=()):
    """What KMEs say of their links: that so many bytes are left, and that no key comes."""
    for a, b in LINKS:
        figures = {"available_bytes": max(0, left.get((a, b), 0)), "buffer_bytes": BUFFER, "rate_bps": 0, "waiting": 0}
        yield a, at, LinkReport(peer=b, up=(a, b) not in unusable, key=OF_NO_NOTE, **figures)


class Refilling:
    """Refills of the reference network, whose relays end as the test says."""

    def __init__(self, weight=lambda _: 1.0, topology=REFERENCE):
        self.store = open_coordinator_store(None)
        batch = self.store.journal.batch
        self.accounts = Accounts(topology.kmes, batch)
        self.refills = Refills(
            self.accounts, Admission(topology, self.store.relays, {}), self.store.relays, batch, weight
        )
        self.now = NOW

    def say(self, kme, *outgoing, **more):
        return self.accounts.take(kme, report(*outgoing, **more), self.now)

    def next(self, left=FULL, unusable=()):
        """Return what is begun, and what sources are told."""
        with self.store.journal.transaction():
            # Said just now: whatever was begun before is taken off already.
            found = list(self.refills.next(reports(left, self.now + 1.0, unusable), self.now))
            for relay in found:
                if isinstance(relay, Relay):
                    self.store.relays.keep(relay, self.now, told=())
        return found

    def end(self, relay, state="confirmed"):
        with self.store.journal.transaction():
            self.store.relays.keep(replace(relay, state=state, reason="why not", ended_at=self.now), self.now, told=())
            self.refills.settle(self.now)


@pytest.fixture
def refilling():
    found = Refilling()
    yield found
    found.store.journal.close()


def size(relay):
    return relay.terms.key_count * relay.terms.key_size_bits // 8


def test_what_is_wanted_is_begun_as_supply_of_its_level(refilling):
    refilling.say("kme-1", said(wanted_bytes=5000, level=2))
    (relay,) = refilling.next()
    terms = relay.terms
    assert (relay.ends, terms.withstand.compromised, size(relay)) == (("kme-1", "kme-8"), 2, 5024)
    assert (terms.supply.tag_pairs, terms.supply.until > NOW + 86_400) == (2, True)
    assert refilling.next() == []


def busy(refilling, per_s=1e5):
    """Have both ends say that a lot is used, so that a lot may be there."""
    refilling.say(
        "kme-8", incoming=[IncomingSupply(source="kme-1", level=1, stored_bytes=0, assigned_bytes_per_s=per_s)]
    )
    return {"wanted_bytes": 10 << 20, "assigned_bytes_per_s": per_s}


def test_relays_are_large_and_few_of_one_place_are_under_way(refilling):
    much = busy(refilling)
    refilling.say("kme-1", said(**much))
    begun = refilling.next() + refilling.next() + refilling.next()
    assert [size(relay) for relay in begun] == [SUPPLY_BYTES_MAX] * UNDER_WAY_EACH


def test_what_is_there_already_is_reckoned_with(refilling):
    refilling.say("kme-1", said(wanted_bytes=10 << 20, stored_bytes=FIRST_BYTES // 2, pending_bytes=FIRST_BYTES // 2))
    assert refilling.next() == []


def paths(relay):
    return [route for route in relay.plan.routes() if route[-1] == relay.plan.target]


def test_a_refill_takes_as_few_paths_as_its_level_needs_and_none_to_spare(refilling):
    refilling.say("kme-1", said(level=1), said("kme-5", level=0))
    by_target = {relay.ends[1]: relay for relay in refilling.next()}
    assert len(paths(by_target["kme-8"])) == 2
    assert by_target["kme-8"].terms.withstand == FixedDemand(compromised=1, failed=0, tampering=0)
    assert len(paths(by_target["kme-5"])) == 1


def test_paths_go_where_there_is_most_key_and_share_the_network(refilling):
    used = set()
    left = dict(FULL)
    for _ in range(4):
        refilling.say("kme-1", said())
        (relay,) = refilling.next(left)
        links = {link for route in paths(relay) for link in pairwise(route)}
        used |= links
        for link in links:
            left[link] = BUFFER // 2
        refilling.end(relay)
        refilling.now += 1
    assert {link for link in used if link[0] == "kme-1"} == {("kme-1", f"kme-{n}") for n in (2, 3, 4)}
    assert {link for link in used if link[1] == "kme-8"} == {(f"kme-{n}", "kme-8") for n in (5, 6, 7)}


@pytest.mark.parametrize("away", [("kme-6", "kme-8"), ("kme-5", "kme-8"), ("kme-1", "kme-3")])
def test_what_is_down_or_silent_is_gone_around(refilling, away):
    refilling.say("kme-1", said())
    (relay,) = refilling.next(unusable=[away])
    assert away not in {link for route in paths(relay) for link in pairwise(route)}


def test_where_there_is_no_way_around_nothing_is_begun_and_that_is_said(refilling):
    refilling.say("kme-1", said(waiting=1))
    assert refilling.next(unusable=[("kme-5", "kme-8"), ("kme-6", "kme-8")]) == []
    _, why = refilling.refills.why(Place("kme-1", "kme-8", 1), refilling.now)
    assert why in {
        f"there is no way around the QKD link {kme}>kme-8, which carries nothing now" for kme in ("kme-5", "kme-6")
    }
    refilling.now += 1.5
    refilling.say("kme-1", said(waiting=1))
    assert len(refilling.next()) == 1
    served, why = refilling.refills.why(Place("kme-1", "kme-8", 1), refilling.now)
    assert (served, why) == ("requests wait and nothing is there", "")


def test_links_of_a_relay_that_failed_are_gone_around_for_a_while(refilling):
    refilling.say("kme-1", said())
    (failed,) = refilling.next()
    refilling.end(failed, "failed")
    refilling.now += 2
    refilling.say("kme-1", said())
    (other,) = refilling.next()
    assert not {route[-2] for route in paths(other)} <= {route[-2] for route in paths(failed)}
    refilling.end(other)
    refilling.now += 10 * FADES_S
    refilling.say("kme-1", said())
    (again,) = refilling.next()
    assert paths(again) == paths(failed)


def test_a_relay_that_is_late_holds_up_nothing_and_its_links_are_gone_around(refilling):
    """A KME on the way may be down, or lie about its key, long before anybody knows."""
    much = busy(refilling)
    refilling.say("kme-1", said(**much))
    late = refilling.next() + refilling.next()
    assert len(late) == UNDER_WAY_EACH
    refilling.now += LATE_S
    busy(refilling)
    refilling.say("kme-1", said(**much))
    refilling.refills.settle(refilling.now)
    others = refilling.next()
    assert others
    for relay in others:
        assert not {route[-2] for route in paths(relay)} <= {route[-2] for route in paths(late[0])}


def test_what_is_nearly_there_is_left_until_more_is_wanted(refilling):
    refilling.say("kme-1", said(stored_bytes=60_000, wanted_bytes=4_000))
    assert refilling.next() == []


def test_the_emptiest_comes_first_and_key_that_is_worth_more_elsewhere_is_left(refilling):
    nearly_full = {"stored_bytes": 44_000, "wanted_bytes": 20_000}
    refilling.say("kme-1", said("kme-8", **nearly_full), said("kme-5"), said("kme-6", stored_bytes=4096))
    assert [relay.ends[1] for relay in refilling.next()] == ["kme-5", "kme-6", "kme-8"]
    for relay_id, _ in refilling.refills.under_way.all():
        refilling.end(refilling.store.relays.get(relay_id))
    refilling.now += 1
    refilling.say("kme-1", said("kme-8", **nearly_full), said("kme-5"), said("kme-6", wanted_bytes=0))
    scarce = dict.fromkeys(LINKS, BUFFER // 4)
    assert [relay.ends[1] for relay in refilling.next(scarce)] == ["kme-5"]
    _, why = refilling.refills.why(Place("kme-1", "kme-8", 1), refilling.now)
    assert why == "its key is worth less now than that of the links it would take"


def test_of_both_ends_accounts_of_what_is_used_the_lesser_counts(refilling):
    """A source that claims much is not given the network's key for it, nor with the help of its target alone."""
    full = {"wanted_bytes": 10 << 20, "stored_bytes": FIRST_BYTES}
    refilling.say("kme-1", said(**full, assigned_bytes_per_s=1e6))
    assert refilling.next() == []
    used = IncomingSupply(source="kme-1", level=1, stored_bytes=0, assigned_bytes_per_s=100.0)
    refilling.say("kme-8", incoming=[used])
    (relay,) = refilling.next()
    assert size(relay) == AHEAD_S * 100 // 32 * 32 + 32 * bool(AHEAD_S * 100 % 32)


def test_who_waits_comes_first(refilling):
    refilling.say("kme-1", said("kme-8"), said("kme-5", waiting=1), said("kme-6", wanted_bytes=64))
    refilling.say("kme-2", said("kme-8", waiting=3, wanted_bytes=64))
    first = [relay.ends for relay in refilling.next()]
    assert set(first[:2]) == {("kme-1", "kme-5"), ("kme-2", "kme-8")}


def test_of_two_as_empty_who_had_less_lately_comes_first(refilling):
    refilling.say("kme-1", said("kme-8"), said("kme-5", wanted_bytes=64))
    for relay in refilling.next():
        refilling.end(relay)
    for later, first in ((1, "kme-5"), (10 * HAD_S, "kme-5")):
        refilling.now += later
        refilling.say("kme-1", said("kme-8"), said("kme-5", wanted_bytes=64))
        begun = refilling.next()
        assert begun[0].ends[1] == first
        for relay in begun:
            refilling.end(relay)


def test_a_place_that_is_said_to_be_dry_for_ever_starves_nobody(refilling):
    greedy = said("kme-8", waiting=1_000, wanted_bytes=10 << 20)
    served = set()
    for _ in range(6):
        refilling.say("kme-1", greedy, said("kme-5"), said("kme-6"))
        refilling.say("kme-2", greedy)
        for relay in refilling.next():
            served.add(relay.ends)
            refilling.end(relay)
        refilling.now += 1
    assert served == {("kme-1", "kme-8"), ("kme-1", "kme-5"), ("kme-1", "kme-6"), ("kme-2", "kme-8")}


def test_links_keep_a_part_of_their_key_for_others_unless_somebody_waits(refilling):
    little = dict.fromkeys(LINKS, int(LEFT_OVER * BUFFER))
    refilling.say("kme-1", said(wanted_bytes=32_768))
    assert refilling.next(little) == []
    refilling.now += 1
    refilling.say("kme-1", said(wanted_bytes=32_768, waiting=1))
    (relay,) = refilling.next(little)
    assert size(relay) == 32_768


def test_a_relay_is_as_small_as_the_links_key_is_little(refilling):
    refilling.say("kme-1", said(wanted_bytes=32_768, waiting=1))
    (relay,) = refilling.next(dict.fromkeys(LINKS, 20_000))
    assert 10_000 < size(relay) < 20_000
    refilling.end(relay)
    (least,) = refilling.next(dict.fromkeys(LINKS, 0))
    assert size(least) == LEAST_BYTES


def test_key_that_one_refill_draws_is_not_there_for_the_next(refilling):
    outgoing = [said(f"kme-{n}", wanted_bytes=32_768) for n in (5, 6, 7, 8)]
    refilling.say("kme-1", *outgoing)
    left = dict.fromkeys(LINKS, int(LEFT_OVER * BUFFER) + 150_000)
    begun = refilling.next(left)
    drawn = {}
    for relay in begun:
        for link, cost in refilling.refills._admission.link_key_bytes(relay).items():
            drawn[link] = drawn.get(link, 0) + cost
    assert begun
    assert max(drawn.values()) <= 150_000


def test_what_fails_is_tried_again_later_and_later(refilling):
    pauses = []
    for _ in range(4):
        refilling.say("kme-1", said())
        (relay,) = refilling.next()
        refilling.end(relay, "failed")
        began = refilling.now
        while not refilling.next() and refilling.now < began + 100:
            refilling.now += 0.5
            refilling.say("kme-1", said())
        for relay_id, _ in refilling.refills.under_way.all():
            refilling.end(refilling.store.relays.get(relay_id), "failed")
        pauses.append(refilling.now - began)
        refilling.now += 70
    assert pauses[0] < pauses[1] < pauses[2]
    place = Place("kme-1", "kme-8", 1)
    refilling.say("kme-1", said())
    (relay,) = refilling.next()
    refilling.end(relay)
    assert place not in refilling.refills.rests


def test_a_source_is_told_what_the_most_is_where_no_plan_will_do(refilling):
    refilling.say("kme-1", said(level=3, waiting=1))
    ((kme, told),) = refilling.next()
    assert kme == "kme-1"
    assert (told.target, told.level, told.best) == ("kme-8", 3, 2)
    assert isinstance(told, NoSupply)
    assert refilling.next() == []
    assert "withstands" in refilling.refills.why(Place("kme-1", "kme-8", 3), refilling.now)[1]


def test_what_was_in_the_way_is_still_said_while_it_is_tried_again(refilling):
    refilling.say("kme-1", said(waiting=1))
    (relay,) = refilling.next()
    refilling.end(relay, "failed")
    place = Place("kme-1", "kme-8", 1)
    assert refilling.refills.why(place, refilling.now)[1] == "why not"
    refilling.now += 1.0
    (again,) = refilling.next()
    assert refilling.refills.why(place, refilling.now) == ("requests wait and nothing is there", "why not")
    refilling.end(again)
    assert refilling.refills.why(place, refilling.now)[1] == ""


def test_old_accounts_do_not_count(refilling):
    refilling.say("kme-1", said())
    refilling.now += FRESH_S + 1
    assert refilling.next() == []


def test_an_account_of_before_a_start_does_not_count_and_of_others_kmes_nothing_is_kept(refilling):
    assert refilling.say("kme-1", said(), incarnation=b"\2" * 16)
    assert not refilling.say("kme-1", said(wanted_bytes=0), said("kme-5"), incarnation=b"\1" * 16)
    assert [place.target for place, _ in refilling.accounts.places()] == ["kme-8"]
    assert refilling.say("kme-1", said("kme-9"), said("kme-1"), incarnation=b"\3" * 16)
    assert list(refilling.accounts.places()) == []


def test_what_is_under_way_is_known_after_a_start(refilling):
    refilling.say("kme-1", said(wanted_bytes=10 << 20))
    refilling.next()
    relays, batch = refilling.store.relays, refilling.store.journal.batch
    again = Refills(refilling.accounts, Admission(REFERENCE, relays, {}), relays, batch, lambda _: 1.0)
    assert again.under_way.all()[0][0] == refilling.refills.under_way.all()[0][0]


def test_a_commit_that_fails_leaves_nothing_under_way(refilling):
    refilling.say("kme-1", said())
    with suppress(ZeroDivisionError), refilling.store.journal.transaction():
        assert list(refilling.refills.next(reports(FULL, refilling.now), refilling.now))
        raise ZeroDivisionError
    assert not refilling.refills.under_way.all()
    assert not refilling.refills.under_way.of(Place("kme-1", "kme-8", 1))
    assert len(refilling.next()) == 1


KMES = st.sampled_from(REFERENCE.kmes)


@settings(max_examples=40)
@given(
    turns=st.lists(
        st.lists(
            st.tuples(
                st.sampled_from(REFERENCE.kmes),
                st.sampled_from(REFERENCE.kmes),
                st.integers(0, 200_000),
                st.integers(0, 3),
            ),
            max_size=4,
        ),
        max_size=6,
    ),
    left=st.integers(0, 1 << 20),
)
def test_whatever_is_claimed_bounds_are_kept(turns, left):
    refilling = Refilling()
    for turn in turns:
        for source, target, wanted, waiting in turn:
            if source != target:
                refilling.say(source, said(target, wanted_bytes=wanted, waiting=waiting))
        begun = [relay for relay in refilling.next(dict.fromkeys(LINKS, left)) if isinstance(relay, Relay)]
        assert all(0 < size(relay) <= SUPPLY_BYTES_MAX for relay in begun)
        refills = [refill for _, refill in refilling.refills.under_way.all()]
        places = [refill.place for refill in refills]
        for place in set(places):
            assert list(refilling.refills.under_way.of(place)) == [each for each in refills if each.place == place]
        assert all(places.count(place) <= 2 * UNDER_WAY_EACH for place in places)
        young = [each.place for each in refills if not each.is_late(refilling.now)]
        assert all(young.count(place) <= UNDER_WAY_EACH for place in young)
        for place in set(places):
            total = sum(each.size for each in refills if each.place == place)
            assert total <= 2 * (FIRST_BYTES + SUPPLY_BYTES_MAX)
        refilling.now += 1
    refilling.store.journal.close()


def test_pairs_are_kept_as_their_master_s_kme_says(refilling):
    figures = {
        "ready_keys": 3,
        "ready_bytes": 96,
        "handed_out": 1,
        "burned": 2,
        "expired": 0,
        "keys_per_s": 0.5,
        "waiting": 0,
    }
    pair = SaePair(master="a", slave="b", level=1, low=False, why="", **figures)
    refilling.say("kme-1", pairs=[pair])
    assert [(kme, found) for kme, _, found in refilling.accounts.pairs()] == [("kme-1", pair)]


def test_a_source_gets_no_more_turns_for_asking_at_many_levels(refilling):
    """What it had at one level counts at the others."""
    had = {1: 0, 2: 0}
    for _ in range(12):
        refilling.say("kme-1", *(said("kme-8", level=level, waiting=1) for level in (0, 1, 2)))
        refilling.say("kme-2", said("kme-8", waiting=1))
        refilling.refills._planned.take(refilling.now)
        for relay in refilling.next(dict.fromkeys(LINKS, 6_000)):
            had[int(relay.ends[0][-1])] += size(relay)
            refilling.end(relay)
        refilling.now += 1
    assert had[1] <= 1.5 * had[2]
