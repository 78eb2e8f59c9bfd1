"""What a KME does with a share, and which shares it refuses, by name (protocol, sections 2 and 6.3)."""

import os
from dataclasses import replace

import pytest

from kme import forwarding as module
from kme.effects import KeepRelay, KeepShare, SendShare, TryRebuild
from kme.forwarding import EARLY_BYTES_MAX, EARLY_SHARES_MAX, PAYLOAD_BYTES_MAX, RejectedShareError
from kme.model import LATE_S
from qkdrelay.messages.control import Expect
from qkdrelay.messages.fields import TIMEOUT_S_MAX
from qkdrelay.messages.plans import encode_plan
from qkdrelay.messages.reports import Collected, Forwarded, Split
from qkdrelay.network.plan import Hop, Plan
from qkdrelay.sharing import amd, shamir
from support import plans
from support.kme import NOW, RELAY, Kme, only, terms, told

PLAN = plans.eight()
TO_3, TO_5, TO_8 = ("kme-1", "kme-3"), ("kme-1", "kme-3", "kme-5"), ("kme-1", "kme-3", "kme-5", "kme-8")
PAYLOAD = os.urandom(160)
FINAL = os.urandom(PLAN.share_length(TO_8, 2 * 32 + 32))


@pytest.fixture
def target():
    kme = Kme("kme-8")
    kme.command(Expect(terms=terms()))
    return kme


# --- handing on ------------------------------------------------------------------------------------


def test_with_one_successor_a_share_is_forwarded_unchanged():
    effects = Kme("kme-5").share(TO_5, PAYLOAD)
    (sent,) = only(effects, SendShare)
    assert (sent.route, sent.payload, sent.index, sent.threshold) == (TO_8, PAYLOAD, 1, 1)
    assert sent.plan == PLAN.below("kme-8")
    assert told(effects) == [Forwarded(relay_id=RELAY, route=TO_5)]


def test_with_several_successors_a_share_is_split_among_them_as_a_secret_of_its_own():
    effects = Kme("kme-3").share(TO_3, PAYLOAD)
    sent = only(effects, SendShare)
    assert [s.route for s in sent] == [(*TO_3, kme) for kme in ("kme-5", "kme-6", "kme-7")]
    assert [(s.index, s.threshold) for s in sent] == [(1, 2), (2, 2), (3, 2)]
    assert [s.plan for s in sent] == [PLAN.below(s.route[-1]) for s in sent]
    assert {len(s.payload) for s in sent} == {len(PAYLOAD) + 32}
    assert shamir.combine({s.index: s.payload for s in sent[:2]})[: len(PAYLOAD)] == PAYLOAD
    assert told(effects) == [Split(relay_id=RELAY, route=TO_3, shares=3, threshold=2)]


def test_a_share_that_comes_again_under_new_key_is_split_with_fresh_randomness():
    kme = Kme("kme-3")
    first, second = (only(kme.share(TO_3, PAYLOAD), SendShare) for _ in range(2))
    assert all(a.payload != b.payload for a, b in zip(first, second, strict=True))


@pytest.mark.parametrize("route", [TO_3, TO_5])
def test_the_receiver_is_sent_its_part_of_the_plan_and_no_more(route):
    for sent in only(Kme(route[-1]).share(route, PAYLOAD), SendShare):
        assert set(sent.plan.order) <= set(PLAN.below(route[-1]).order) - {route[-1]}


# --- what does not fit -----------------------------------------------------------------------------


def refused(kme, route=TO_3, payload=PAYLOAD, **changed):
    with pytest.raises(RejectedShareError) as error:
        kme.share(route, payload, **changed)
    return str(error.value)


def test_the_last_hop_of_the_route_is_the_link_it_came_over():
    for route in (TO_5, ("kme-3",), ("kme-1",), ("kme-1", "kme-2"), ("kme-2", "kme-1", "kme-3")):
        said = refused(Kme("kme-3"), route, sender="kme-2")
        assert said == "the route does not end in kme-2 and kme-3, the link it came over"


def test_no_kme_is_on_a_route_twice():
    assert refused(Kme("kme-3"), ("kme-1", "kme-2", "kme-1", "kme-3")) == "the route passes a KME twice"


def test_a_share_back_to_a_kme_on_its_route_is_refused():
    assert refused(Kme("kme-3"), ("kme-3", "kme-1", "kme-3")) == "the route passes a KME twice"


def test_the_deadline_is_within_the_kmes_own_maximum():
    far = NOW + TIMEOUT_S_MAX + LATE_S
    assert "more than 3600 s away" in refused(Kme("kme-3"), deadline=far + 1)
    assert only(Kme("kme-3").share(TO_3, PAYLOAD, deadline=far), SendShare)


def test_a_share_is_dropped_a_minute_after_its_deadline_and_not_before():
    assert refused(Kme("kme-3"), now=NOW + 30 + LATE_S + 0.1) == "the deadline has passed"
    assert only(Kme("kme-3").share(TO_3, PAYLOAD, now=NOW + 30 + LATE_S), SendShare)


@pytest.mark.parametrize(("route", "times"), [(TO_3, 1), (TO_5, 2)])
def test_no_share_is_longer_than_those_of_the_largest_relay(route, times):
    longest = amd.encoded_length(PAYLOAD_BYTES_MAX, times)
    assert only(Kme(route[-1]).share(route, bytes(longest)), SendShare)
    assert refused(Kme(route[-1]), route, bytes(longest + 1)) == (
        f"the share has {longest + 1} bytes, more than any relay's can have"
    )


@pytest.mark.parametrize("plan", [b"", b"\xc0", encode_plan(PLAN)[:-1], encode_plan(PLAN) + b"\x00"])
def test_bytes_that_are_no_plan_are_refused(plan):
    assert "the part of the plan is not valid" in refused(Kme("kme-3"), plan=plan)


def test_a_part_over_budget_is_refused():
    layers = [[f"k{i}-{j}" for j in range(4)] for i in range(6)]
    hops = {"kme-3": Hop(tuple(layers[0]), 3)}
    for layer, below in zip(layers, [*layers[1:], ["t"]], strict=True):
        hops.update({kme: Hop(tuple(below), 1) for kme in layer})
    assert "budget" in refused(Kme("kme-3", links=layers[0]), plan=encode_plan(Plan("kme-3", "t", hops)))


def test_a_part_of_the_plan_begins_at_its_receiver():
    assert (
        refused(Kme("kme-3"), plan=encode_plan(PLAN.below("kme-2"))) == "the part of the plan begins at kme-2, not here"
    )


def test_a_part_that_leads_back_to_the_route_is_refused_by_name():
    back = plans.written({"kme-3": (["kme-5"], 1), "kme-5": (["kme-1"], 1), "kme-1": (["kme-8"], 1)}, "kme-3", "kme-8")
    assert refused(Kme("kme-3"), plan=encode_plan(back)) == "the part of the plan leads back to kme-1"


def test_a_successor_without_a_link_here_is_refused_by_name():
    said = refused(Kme("kme-3", links=["kme-1", "kme-5", "kme-7"]))
    assert said == "kme-3 has no QKD link to kme-6, which the plan names"


def test_a_share_for_a_source_is_refused():
    kme = Kme("kme-8")
    kme.command(Expect(terms=terms()))
    kme.memory.relays[RELAY] = replace(kme.relay, role="source")
    assert refused(kme, TO_8, payload=FINAL) == "the relay does not end here"


# --- the target ------------------------------------------------------------------------------------


def test_a_fitting_share_is_kept_until_the_relays_deadline_and_reported(target):
    effects = target.share(TO_8, FINAL, deadline=NOW + 1)
    assert only(effects, KeepShare) == [KeepShare(RELAY, TO_8, FINAL, NOW + 30.0)]
    assert told(effects) == [Collected(relay_id=RELAY, route=TO_8)]
    assert TryRebuild(RELAY) in effects


@pytest.mark.parametrize(
    "route",
    [
        ("kme-3", "kme-5", "kme-8"),
        ("kme-1", "kme-5", "kme-8"),
        ("kme-1", "kme-4", "kme-5", "kme-8"),
        ("kme-2", "kme-1", "kme-3", "kme-5", "kme-8"),
    ],
)
def test_the_target_trusts_its_own_plan_only(target, route):
    part = encode_plan(PLAN.below("kme-8"))
    assert refused(target, route, payload=FINAL, plan=part) == "the route is not one of the relay's plan"


@pytest.mark.parametrize("size", [1, len(FINAL) - 1, len(FINAL) + 1, len(FINAL) + 32])
def test_a_share_of_another_length_is_refused_with_both_lengths(target, size):
    said = refused(target, TO_8, payload=bytes(size))
    assert f"{size} bytes" in said
    assert f"must have {len(FINAL)}" in said


def test_the_same_share_again_changes_nothing(target):
    target.share(TO_8, FINAL)
    effects = target.share(TO_8, FINAL)
    assert [effect.event for effect in effects] == ["share.duplicate"]


def test_a_second_share_with_other_bytes_names_the_route_as_equivocating_once(target):
    target.share(TO_8, FINAL)
    other = bytes(len(FINAL))
    effects = target.share(TO_8, other)
    assert only(effects, KeepRelay)[0].relay.equivocating == (TO_8,)
    assert only(effects, KeepShare) == []
    assert target.memory.get(RELAY, TO_8) == FINAL
    assert [effect.event for effect in target.share(TO_8, other)] == ["share.duplicate"]


def test_shares_for_an_ended_relay_are_late(target):
    target.memory.relays[RELAY] = replace(target.relay, state="failed")
    assert [effect.event for effect in target.share(TO_8, FINAL)] == ["share.late"]


def test_a_header_cannot_stretch_the_relays_deadline(target):
    effects = target.share(TO_8, FINAL, now=NOW + 30 + LATE_S + 1, deadline=NOW + 3000)
    assert [effect.event for effect in effects] == ["share.late"]


def test_shares_before_their_terms_are_kept_unchecked_for_a_minute_whatever_their_deadline():
    kme = Kme("kme-8")
    effects = kme.share(TO_8, b"anything")
    assert only(effects, KeepShare) == [KeepShare(RELAY, TO_8, b"anything", NOW)]
    assert told(effects) == []


def test_early_shares_are_bounded_in_number(monkeypatch):
    monkeypatch.setattr(module, "EARLY_SHARES_MAX", 3)
    kme = Kme("kme-8")
    for n in range(3):
        kme.share(("kme-1", f"a{n}", "kme-5", "kme-8"), b"early")
    assert "too many such shares are kept" in refused(kme, TO_8, payload=b"early")
    assert EARLY_SHARES_MAX == 2_000


def test_early_shares_are_bounded_in_bytes(monkeypatch):
    monkeypatch.setattr(module, "EARLY_BYTES_MAX", 1000)
    kme = Kme("kme-8")
    kme.share(("kme-1", "a", "kme-5", "kme-8"), bytes(600))
    assert "too many such shares are kept" in refused(kme, TO_8, payload=bytes(401))
    assert only(kme.share(TO_8, bytes(400)), KeepShare)
    assert EARLY_BYTES_MAX == 64 << 20


def test_shares_of_expected_relays_are_not_counted_as_early(target, monkeypatch):
    monkeypatch.setattr(module, "EARLY_SHARES_MAX", 1)
    target.share(TO_8, FINAL)
    assert only(target.share(("kme-1", "kme-2", "kme-5", "kme-8"), FINAL), KeepShare)
