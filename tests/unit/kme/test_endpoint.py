"""An end of a relay: terms, keys, the confirmation (protocol, sections 5 and 6)."""

import os
from dataclasses import replace

import pytest

from kme import rebuilding, searches
from kme.effects import DropShares, KeepRelay, LogEvent, SendShare, SupplyChanged, TryRebuild
from kme.forwarding import RejectedShareError
from kme.model import LATE_S, SUPPLY_LATE_S
from kme.terms import SUPPLY_S_MAX
from qkdrelay.messages.assignments import Supply
from qkdrelay.messages.codec import MESSAGE_BYTES_MAX
from qkdrelay.messages.control import Cancel, Confirm, Deliver, Expect, FixedDemand, Start
from qkdrelay.messages.fields import TIMEOUT_S_MAX
from qkdrelay.messages.plans import encode_plan
from qkdrelay.messages.relay_ids import new_relay_id
from qkdrelay.messages.reports import (
    Collected,
    Confirmed,
    Expected,
    Findings,
    Rebuilt,
    Refused,
    Reports,
    Split,
    Started,
)
from qkdrelay.messages.signing import sign
from qkdrelay.network.exhaustive import STEPS_MAX
from qkdrelay.network.names import COORDINATOR
from qkdrelay.schemes import recursive
from support import plans
from support.kme import NOTHING, NOW, RELAY, Kme, only, terms, told

PLAN = plans.eight()
LINE = plans.written({"kme-1": (["kme-2"], 1), "kme-2": (["kme-8"], 1)}, "kme-1", "kme-8")
ANY_OF_3 = plans.fan(3, 1)
TAG = bytes(16)
SUPPLY = Supply(until=NOW + 1e5, tag_pairs=2)


def refusal(effects):
    (report,) = told(effects)
    assert isinstance(report, Refused)
    assert only(effects, KeepRelay) == []
    assert only(effects, SendShare) == []
    return report.reason


def started(**changed):
    kme = Kme("kme-1")
    return kme, kme.command(Start(terms=terms(**changed)))


def delivered_shares(effects):
    """Every share that reaches the target when nobody interferes: route -> payload."""
    held, waiting = {}, [(sent.route, sent.payload) for sent in only(effects, SendShare)]
    while waiting:
        route, payload = waiting.pop()
        held[route] = payload
        waiting += [
            ((*route, kme), share) for kme, share in recursive.reshare(PLAN.below(route[-1]), payload, os.urandom)
        ]
    return plans.at_target(PLAN, held)


def both_ends(shares=lambda held: held, **changed):
    """Source and target after the target has rebuilt, and its confirmation tag."""
    source, effects = started(**changed)
    target = Kme("kme-8")
    target.command(Expect(terms=terms(**changed)))
    for route, payload in shares(delivered_shares(effects)).items():
        target.share(route, payload)
    (rebuilt, *_) = told(target.try_rebuild())
    return source, target, rebuilt.proof


def refused(effects):
    """The reason of a refusal, whatever else there is."""
    (reason,) = (report.reason for report in told(effects) if isinstance(report, Refused))
    return reason


ENDS = [("kme-1", Start), ("kme-8", Expect)]
WEAK = [("kme-1", Start, LINE), ("kme-8", Expect, LINE), ("s", Start, ANY_OF_3), ("t", Expect, ANY_OF_3)]


# --- the terms -------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "kind"), ENDS)
@pytest.mark.parametrize(
    ("changed", "reason"),
    [
        ({"plan": b""}, "not a MessagePack message"),
        ({"plan": encode_plan(PLAN.below("kme-2"))}, "does not have this KME as its"),
        ({"plan": encode_plan(PLAN.below("kme-8"))}, "does not have this KME as its"),
        ({"key_count": 16_384, "key_size_bits": 512}, "the most for one relay"),
        ({"deadline": NOW}, "deadline"),
        ({"deadline": NOW + TIMEOUT_S_MAX + LATE_S + 1}, "deadline"),
    ],
)
def test_terms_that_cannot_be_are_refused_with_the_reason_and_the_kmes_name(name, kind, changed, reason):
    if changed.get("plan") == encode_plan(PLAN.below("kme-2")) and name == "kme-8":
        changed = {"plan": encode_plan(plans.closer("eight-kmes", "kme-1", "kme-7"))}
    said = refusal(Kme(name).command(kind(terms=terms(**changed))))
    assert said.startswith(f"{name}: ")
    assert reason in said


@pytest.mark.parametrize(("name", "kind", "plan"), WEAK)
def test_both_ends_refuse_a_plan_weaker_than_their_own_settings_ask_for(name, kind, plan):
    said = refusal(Kme(name, plan).command(kind(terms=terms(plan))))
    assert "does not withstand 1 compromised KME" in said


@pytest.mark.parametrize(("name", "kind"), ENDS)
def test_an_end_that_asks_for_more_refuses_the_reference_plan(name, kind):
    assert "withstand 2" in refusal(Kme(name, withstand_compromised=2).command(kind(terms=terms())))


@pytest.mark.parametrize(("name", "kind", "plan"), WEAK)
def test_an_end_that_asks_for_nothing_takes_any_plan(name, kind, plan):
    effects = Kme(name, plan, withstand_compromised=0).command(kind(terms=terms(plan, withstand=NOTHING)))
    assert only(effects, KeepRelay)


@pytest.mark.parametrize(("name", "kind"), ENDS)
@pytest.mark.parametrize(
    ("demand", "reason"),
    [
        ((2, 0, 0), "does not withstand 2 compromised KMEs, as demanded"),
        ((0, 0, 2), "does not withstand 2 compromised KMEs, as demanded"),
        ((1, 1, 0), "does not withstand the loss of 1 KME, as demanded"),
        ((0, 0, 1), "does not withstand the loss of 1 KME, as demanded"),
    ],
)
def test_both_ends_refuse_terms_whose_plan_does_not_withstand_what_they_demand(name, kind, demand, reason):
    """Whatever their own settings say; the reference plan withstands one compromised KME, and no loss of kme-6."""
    demanded = FixedDemand(*demand)
    assert reason in refusal(Kme(name, withstand_compromised=0).command(kind(terms=terms(withstand=demanded))))


@pytest.mark.parametrize(("name", "kind"), ENDS)
@pytest.mark.parametrize(("own", "compromised"), [(0, 0), (0, 1), (1, 0), (1, 1)])
def test_an_end_keeps_what_was_demanded_and_what_it_checked(name, kind, own, compromised):
    demand = FixedDemand(compromised=compromised, failed=0, tampering=0)
    kme = Kme(name, withstand_compromised=own)
    kme.command(kind(terms=terms(withstand=demand)))
    assert kme.relay.withstand == kme.relay.context.withstand == demand
    assert kme.relay.checked == FixedDemand(compromised=max(own, compromised), failed=0, tampering=0)


@pytest.mark.parametrize("other", [{"withstand": NOTHING}, {"key_count": 1, "key_size_bits": 512}])
def test_ends_that_were_told_different_terms_do_not_confirm(other):
    source, target = Kme("kme-1"), Kme("kme-8")
    start = source.command(Start(terms=terms()))
    target.command(Expect(terms=terms(**other)))
    for route, payload in delivered_shares(start).items():
        target.share(route, payload)
    (rebuilt, *_) = told(target.try_rebuild())
    assert "is not that of these keys and terms" in refused(
        source.command(Confirm(relay_id=RELAY, proof=rebuilt.proof))
    )
    assert (source.relay.state, target.relay.state) == ("failed", "held")


@pytest.mark.parametrize(("name", "kind"), ENDS)
def test_who_demands_more_than_the_terms_is_named_with_its_setting(name, kind):
    said = refusal(Kme(name, LINE).command(kind(terms=terms(LINE, withstand=NOTHING))))
    assert said.startswith(f"{name}: the plan does not withstand 1 compromised KME")
    assert "QKDRELAY_WITHSTAND_COMPROMISED=1" in said
    assert f"WITHSTAND_COMPROMISED_{name.upper().replace('-', '_')} in .env" in said


def test_each_end_refuses_plans_over_links_it_does_not_have():
    assert "no QKD link to kme-3" in refusal(Kme("kme-1", links=["kme-2", "kme-4"]).command(Start(terms=terms())))
    assert "no QKD link to kme-7" in refusal(Kme("kme-8", links=["kme-5", "kme-6"]).command(Expect(terms=terms())))


@pytest.mark.parametrize(("name", "kind"), ENDS)
def test_undecided_relays_are_bounded(name, kind):
    kme = Kme(name, pending_max=2)
    for _ in range(2):
        assert only(kme.command(kind(terms=terms(relay_id=new_relay_id(NOW)))), KeepRelay)
    assert "2 relays are undecided" in refusal(kme.command(kind(terms=terms(relay_id=new_relay_id(NOW)))))


@pytest.mark.parametrize(("name", "kind"), ENDS)
def test_the_key_store_is_bounded(name, kind):
    kme = Kme(name, key_bytes_max=100)
    assert only(kme.command(kind(terms=terms(relay_id=new_relay_id(NOW)))), KeepRelay)
    assert "full (100 bytes)" in refusal(kme.command(kind(terms=terms(relay_id=new_relay_id(NOW)))))


@pytest.mark.parametrize(("name", "kind"), ENDS)
@pytest.mark.parametrize("changed", [{"key_count": 3}, {"key_size_bits": 128}, {"plan": "other"}, {"supply": SUPPLY}])
def test_a_used_relay_id_is_refused(name, kind, changed):
    kme = Kme(name)
    kme.command(kind(terms=terms()))
    if "plan" in changed:
        hops = {**PLAN.hops, "kme-3": replace(PLAN.hops["kme-3"], threshold=3)}
        changed = {"plan": encode_plan(replace(PLAN, hops=hops))}
    assert "used before" in refusal(kme.command(kind(terms=terms(**changed))))


@pytest.mark.parametrize(("name", "kind"), ENDS)
def test_the_id_of_a_failed_relay_is_refused(name, kind):
    kme = Kme(name)
    kme.command(kind(terms=terms()))
    kme.command(Cancel(relay_id=RELAY))
    assert "used before" in refusal(kme.command(kind(terms=terms())))


def test_an_end_of_one_role_refuses_the_other():
    kme = Kme("kme-8")
    kme.command(Expect(terms=terms()))
    assert "used before" in refusal(kme.command(Start(terms=terms())))


# --- the source ------------------------------------------------------------------------------------


def test_the_source_draws_keys_keeps_them_and_sends_a_share_to_each_successor():
    kme, effects = started()
    assert kme.relay.state == "pending"
    assert len(kme.relay.payload.keys) == 64
    assert [sent.route for sent in only(effects, SendShare)] == [("kme-1", f"kme-{n}") for n in (2, 3, 4)]
    assert [type(report) for report in told(effects)] == [Started, Split]
    kept = next(i for i, effect in enumerate(effects) if isinstance(effect, KeepRelay))
    assert kept < min(i for i, effect in enumerate(effects) if isinstance(effect, SendShare))


def test_a_start_that_comes_again_gives_the_same_answer_and_sends_nothing():
    kme, effects = started()
    before = kme.relay
    again = kme.command(Start(terms=terms()))
    assert told(again) == told(effects)[:1]
    assert only(again, SendShare) == []
    assert kme.relay == before


def test_a_start_that_comes_again_with_another_deadline_is_the_same_relay():
    kme, effects = started()
    assert told(kme.command(Start(terms=terms(deadline=NOW + 60)))) == told(effects)[:1]


def test_two_relays_have_different_keys():
    kme, _ = started()
    kme.command(Start(terms=terms(relay_id=new_relay_id(NOW))))
    parts = [bytes(part) for r in kme.memory.relays.values() for part in (r.payload.keys, r.payload.confirmation_key)]
    assert len(set(parts)) == 4


# --- the target ------------------------------------------------------------------------------------


def test_an_expect_that_comes_again_is_answered_and_changes_nothing():
    kme = Kme("kme-8")
    first = kme.command(Expect(terms=terms()))
    before = kme.relay
    again = kme.command(Expect(terms=terms()))
    assert told(first) == told(again) == [Expected(relay_id=RELAY)]
    assert only(again, KeepRelay) == []
    assert kme.relay == before


def test_early_shares_count_once_their_terms_come_and_those_that_do_not_fit_do_not():
    _, effects = started()
    shares = delivered_shares(effects)
    kme = Kme("kme-8")
    for route, payload in shares.items():
        kme.share(route, payload, deadline=NOW + 1)
    kme.share(("kme-9", "kme-5", "kme-8"), b"of no route")
    short = next(iter(shares))
    kme.memory.collected[RELAY, short] = replace(kme.memory.collected[RELAY, short], payload=b"short")
    effects = kme.command(Expect(terms=terms()))
    collected = [report.route for report in told(effects) if isinstance(report, Collected)]
    assert set(collected) == set(shares) - {short}
    assert TryRebuild(RELAY) in effects
    rejected = only(effects, LogEvent)
    assert {note.event for note in rejected} == {"share.rejected"}
    assert {note.fields["route"] for note in rejected} == {("kme-9", "kme-5", "kme-8"), short}
    assert isinstance(told(kme.try_rebuild())[0], Rebuilt)


def test_the_target_rebuilds_the_sources_keys_and_proves_it():
    source, target, proof = both_ends()
    assert target.relay.payload == source.relay.payload
    assert target.relay.state == "held"
    assert source.relay.payload.proof_is_valid(source.relay.context, proof)


def test_a_target_makes_its_confirmation_tag_in_the_commit_that_keeps_the_keys_and_not_before():
    source, effects = started()
    target = Kme("kme-8")
    said = told(target.command(Expect(terms=terms())))
    for route, payload in delivered_shares(effects).items():
        said += told(target.share(route, payload))
    assert not any(isinstance(report, Rebuilt) for report in said)
    rebuilt = target.try_rebuild()
    (kept,) = only(rebuilt, KeepRelay)
    assert (kept.relay.state, kept.relay.payload) == ("held", source.relay.payload)
    assert isinstance(told(rebuilt)[0], Rebuilt)


def test_a_target_that_is_asked_again_says_again_that_it_has_the_keys():
    _, target, proof = both_ends()
    assert told(target.command(Expect(terms=terms()))) == [Rebuilt(relay_id=RELAY, proof=proof)]


def test_it_reports_a_rebuild_once():
    _, target, _ = both_ends()
    assert target.try_rebuild() == []


def test_too_few_shares_change_nothing():
    kme = Kme("kme-8")
    kme.command(Expect(terms=terms()))
    _, effects = started()
    route, payload = next(iter(delivered_shares(effects).items()))
    kme.share(route, payload)
    assert kme.try_rebuild() == []
    assert kme.relay.state == "expecting"


def test_a_late_false_share_is_found_after_the_rebuild():
    route = ("kme-1", "kme-3", "kme-7", "kme-8")
    late = {}

    def without(held):
        late["payload"] = held[route]
        return {r: payload for r, payload in held.items() if r != route}

    _, target, _ = both_ends(without)
    target.share(route, bytes([late["payload"][0] ^ 1]) + late["payload"][1:])
    (findings,) = told(target.try_rebuild())
    assert isinstance(findings, Findings)
    assert findings.false == (route,)
    assert target.relay.state == "held"
    assert target.try_rebuild() == []


def test_however_many_splits_may_be_named_the_work_is_that_of_one_check_of_a_plan(monkeypatch):
    plan, asked = plans.chain(490), []
    steps, _ = plans.counted_steps(monkeypatch)

    def ask_for_each_route(plan, held, length, *, budget, may_name):
        asked.extend(may_name(kme) for kme in [*plan.hops] * 3)
        yield 1
        return recursive.RebuildResult(None, (), ())

    monkeypatch.setattr(searches, "rebuilding", ask_for_each_route)
    monkeypatch.setattr(rebuilding, "least_shares", lambda _plan: 0)
    target = Kme("t", plan, withstand_compromised=3)
    target.command(Expect(terms=terms(plan)))
    steps.clear()
    target.try_rebuild()
    assert len(asked) == 3 * len(plan.hops)
    assert {True, False} == set(asked)
    assert 0 < sum(steps) <= 2 * STEPS_MAX


@pytest.mark.parametrize("kind", ["false", "disputed", "equivocating"])
def test_findings_fit_a_message_however_long_the_routes_are(monkeypatch, kind):
    routes = tuple(tuple(f"{i}-{n}".ljust(32, "x") for n in range(250)) for i in range(200))
    result = recursive.RebuildResult(None, (), ())
    target = Kme("kme-8")
    target.command(Expect(terms=terms()))
    if kind == "false":
        result = replace(result, false=routes)
    elif kind == "disputed":
        result = replace(result, disputed=tuple(recursive.DisputedSplit(route[:1], ((route,),)) for route in routes))
    else:
        target.memory.relays[RELAY] = replace(target.relay, equivocating=routes)

    def rebuilt(*_arguments, **_options):
        yield 1
        return result

    monkeypatch.setattr(searches, "rebuilding", rebuilt)
    monkeypatch.setattr(rebuilding, "least_shares", lambda _plan: 0)
    (findings,) = told(target.try_rebuild())
    body = Reports(items=(findings,))
    assert len(sign(bytes(32), "kme-8", COORDINATOR, epoch=bytes(16), number=2**62, body=body)) > MESSAGE_BYTES_MAX / 2
    assert 0 < len(getattr(findings, kind)) < len(routes)
    assert findings.unclear == "cut"


def test_equivocation_is_among_the_findings():
    _, target, _ = both_ends()
    route = ("kme-1", "kme-3", "kme-7", "kme-8")
    target.share(route, bytes(len(target.memory.get(RELAY, route))))
    (findings,) = told(target.try_rebuild())
    assert findings.equivocating == (route,)
    assert findings.false == ()


# --- the confirmation ------------------------------------------------------------------------------


def test_the_source_releases_its_keys_once_the_tag_of_the_target_verifies_and_not_before():
    source, target, proof = both_ends()
    assert source.relay.state == "pending"
    assert told(source.command(Confirm(relay_id=RELAY, proof=proof))) == [Confirmed(relay_id=RELAY)]
    assert source.relay.state == "delivered"
    assert source.relay.payload.keys == target.relay.payload.keys


def test_whatever_the_coordinator_says_the_source_has_nothing_that_the_target_has_not():
    source, _ = started()
    source_commands = (Confirm(relay_id=RELAY, proof=TAG), Deliver(relay_id=RELAY), Start(terms=terms()))
    for command in (*source_commands, Cancel(relay_id=RELAY), *source_commands):
        source.command(command)
        assert not source.relay.is_released
    target = Kme("kme-8")
    for command in (Deliver(relay_id=RELAY), Expect(terms=terms()), Deliver(relay_id=RELAY)):
        target.command(command)
    assert target.relay.state == "expecting"
    assert target.relay.payload is None


@pytest.mark.parametrize("wrong", ["zero", "bit"])
def test_a_wrong_tag_destroys_the_keys_at_the_source_and_the_right_one_is_too_late(wrong):
    source, target, proof = both_ends()
    other = TAG if wrong == "zero" else bytes([proof[0] ^ 1]) + proof[1:]
    effects = source.command(Confirm(relay_id=RELAY, proof=other))
    assert refused(effects).startswith("kme-1: the confirmation tag of kme-8 is not that of")
    assert (source.relay.state, source.relay.payload) == ("failed", None)
    assert DropShares(RELAY) in effects
    assert "no keys" in refusal(source.command(Confirm(relay_id=RELAY, proof=proof)))
    assert target.relay.state == "held"


def test_a_tag_for_a_relay_without_keys_is_refused():
    assert "no keys" in refusal(Kme("kme-1").command(Confirm(relay_id=RELAY, proof=TAG)))


def test_a_target_does_not_take_its_own_tag():
    _, target, proof = both_ends()
    before = target.relay
    assert "no keys" in refusal(target.command(Confirm(relay_id=RELAY, proof=proof)))
    assert target.relay == before


def test_a_tag_may_come_again_and_a_wrong_one_takes_nothing_back():
    source, _, proof = both_ends()
    source.command(Confirm(relay_id=RELAY, proof=proof))
    before = source.relay
    for again in (proof, TAG):
        assert told(source.command(Confirm(relay_id=RELAY, proof=again))) == [Confirmed(relay_id=RELAY)]
    assert source.command(Cancel(relay_id=RELAY)) == []
    assert source.relay == before


@pytest.mark.parametrize("name", ["kme-1", "kme-8"])
def test_a_relay_that_was_given_up_is_destroyed_where_nothing_is_released(name):
    effects = started()[1]
    kme = Kme(name)
    kme.command(dict(ENDS)[name](terms=terms()))
    if name == "kme-8":
        route, payload = next(iter(delivered_shares(effects).items()))
        kme.share(route, payload)
    cancelled = kme.command(Cancel(relay_id=RELAY))
    assert told(cancelled) == []
    assert DropShares(RELAY) in cancelled
    assert (kme.relay.state, kme.relay.payload) == ("failed", None)
    assert kme.memory.of(RELAY) == {}
    assert kme.command(Cancel(relay_id=RELAY)) == []


def test_a_target_gives_up_nothing_that_it_has_released():
    _, target, proof = both_ends()
    before = target.relay
    assert target.command(Cancel(relay_id=RELAY)) == []
    assert target.relay == before
    assert told(target.command(Expect(terms=terms()))) == [Rebuilt(relay_id=RELAY, proof=proof)]


def test_a_target_shows_people_once_that_the_source_has_confirmed():
    source, target, _ = both_ends()
    assert told(target.command(Deliver(relay_id=RELAY))) == []
    assert target.relay.state == "delivered"
    assert target.command(Deliver(relay_id=RELAY)) == []
    assert source.command(Deliver(relay_id=RELAY)) == []
    assert source.relay.state == "pending"


def test_what_is_told_of_a_relay_nobody_knows_changes_nothing():
    assert Kme("kme-8").command(Cancel(relay_id=RELAY)) == []
    assert Kme("kme-8").command(Deliver(relay_id=RELAY)) == []


# --- what nobody ends ------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "kind"), ENDS)
def test_what_nothing_was_heard_of_is_given_up_an_hour_after_its_deadline(name, kind):
    kme = Kme(name)
    kme.command(kind(terms=terms()))
    assert kme.relay.ends_at == NOW + 30.0 + 3_600.0
    effects = kme.end()
    assert (kme.relay.state, kme.relay.payload, kme.relay.ends_at) == ("failed", None, None)
    assert [report.reason for report in told(effects)] == (
        ["kme-1: nothing was heard of it for long after its deadline"] if name == "kme-1" else []
    )


def test_keys_that_were_released_do_not_end_by_themselves():
    source, target, proof = both_ends()
    source.command(Confirm(relay_id=RELAY, proof=proof))
    assert source.relay.ends_at is target.relay.ends_at is None


def test_how_far_an_open_relay_is_is_reported_once_more_at_a_start():
    source, target, proof = both_ends()
    expecting = Kme("kme-8")
    expecting.command(Expect(terms=terms()))
    for kme, report in (
        (source, Started(relay_id=RELAY)),
        (expecting, Expected(relay_id=RELAY)),
        (target, Rebuilt(relay_id=RELAY, proof=proof)),
    ):
        before = kme.relay
        assert told(kme.endpoint.recall([before])) == [report]
        assert kme.relay == before


def test_to_rebuild_what_is_not_a_targets_does_nothing():
    source, _ = started()
    assert source.try_rebuild() == []
    assert Kme("kme-8").try_rebuild() == []


# --- supply ----------------------------------------------------------------------------------------


def states(effects):
    return [changed.relay.state for changed in only(effects, SupplyChanged)]


@pytest.mark.parametrize(("name", "kind"), ENDS)
@pytest.mark.parametrize(
    ("supply", "reason"),
    [
        (Supply(until=NOW, tag_pairs=1), "time is over"),
        (Supply(until=NOW + SUPPLY_S_MAX + 1, tag_pairs=1), "more than 31 days away"),
        (Supply(until=NOW + 60, tag_pairs=1), "1 pairs of tag keys for 4104 bytes; 2 are needed"),
    ],
)
def test_supply_that_cannot_be_assigned_is_refused(name, kind, supply, reason):
    asked = terms(supply=supply, key_count=513, key_size_bits=64)
    assert reason in refusal(Kme(name).command(kind(terms=asked)))


@pytest.mark.parametrize(("name", "kind"), ENDS)
def test_a_kme_without_applications_takes_no_supply(name, kind):
    asked = terms(supply=Supply(until=NOW + 60, tag_pairs=1))
    assert "has no applications" in refusal(Kme(name, has_applications=False).command(kind(terms=asked)))


def test_supply_brings_keys_and_tag_keys_and_is_confirmed_as_anything_else():
    source, effects = started(supply=SUPPLY)
    assert states(effects) == ["pending"]
    source, target, proof = both_ends(supply=SUPPLY)
    payload = source.relay.payload
    assert [len(payload.tag_pair(n)) for n in range(3)] == [64, 64, 0]
    assert payload.tag_pair(0) != payload.tag_pair(1)
    # At the target whoever keeps supply has it.
    assert (target.relay.state, target.relay.payload, target.relay.key_bytes) == ("held", None, 0)
    assert target.relay.proof == proof == payload.proof(source.relay.context)
    effects = source.command(Confirm(relay_id=RELAY, proof=proof))
    assert told(effects) == [Confirmed(relay_id=RELAY)]
    (changed,) = only(effects, SupplyChanged)
    assert (changed.relay.state, changed.relay.payload) == ("delivered", payload)
    assert (source.relay.state, source.relay.payload) == ("forgotten", None)
    assert told(source.command(Confirm(relay_id=RELAY, proof=proof))) == [Confirmed(relay_id=RELAY)]
    assert only(source.command(Confirm(relay_id=RELAY, proof=proof)), SupplyChanged) == []


@pytest.mark.parametrize(
    "other", [None, Supply(until=NOW + 1e6, tag_pairs=2), Supply(until=NOW + 1e5 + 1, tag_pairs=2)]
)
def test_ends_that_were_told_of_different_supply_do_not_confirm(other):
    """A coordinator that has the source assign for longer than the target keeps, say."""
    source, effects = started(supply=SUPPLY)
    target = Kme("kme-8")
    target.command(Expect(terms=terms(supply=other)))
    rejected = 0
    for route, payload in delivered_shares(effects).items():
        try:
            target.share(route, payload)
        except RejectedShareError:
            rejected += 1
    if other is None:
        assert rejected
        return
    (rebuilt, *_) = told(target.try_rebuild())
    assert "terms" in refused(source.command(Confirm(relay_id=RELAY, proof=rebuilt.proof)))


def test_who_keeps_supply_hears_of_every_change_of_its_relays():
    source, effects = started(supply=SUPPLY)
    assert states(source.command(Cancel(relay_id=RELAY))) == ["failed"]
    target = Kme("kme-8")
    assert states(target.command(Expect(terms=terms(supply=SUPPLY)))) == ["expecting"]
    for route, payload in delivered_shares(effects).items():
        target.share(route, payload)
    rebuilt = target.try_rebuild()
    assert states(rebuilt) == ["held"]
    # What answers an assignment that came before goes out behind the confirmation tag.
    assert isinstance(rebuilt[-1], SupplyChanged)
    assert target.relay.ends_at == SUPPLY.until + SUPPLY_LATE_S
    assert states(target.end()) == ["forgotten"]
    assert (target.relay.state, target.relay.payload, target.relay.ends_at) == ("forgotten", None, None)


def test_a_start_burns_supply_that_is_pending_at_its_source():
    source, _ = started(supply=SUPPLY)
    source.memory.relays[RELAY] = replace(source.relay, payload=None)  # as its store has it
    effects = source.memory.carry_out(source.endpoint.recall([source.relay]))
    assert "in memory only" in refused(effects)
    assert states(effects) == ["failed"]
    assert source.relay.state == "failed"
