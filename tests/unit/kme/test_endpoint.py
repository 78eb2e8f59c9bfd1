"""An end of a relay: terms, keys, proofs, the decision (protocol, sections 5 and 6)."""

import os
from dataclasses import replace

import pytest

from kme import rebuilding, searches
from kme.effects import DropShares, KeepRelay, LogEvent, SendShare, TryRebuild
from kme.model import LATE_S
from qkdrelay.messages.codec import MESSAGE_BYTES_MAX
from qkdrelay.messages.control import Decide, Expect, FixedDemand, Prove, Start
from qkdrelay.messages.fields import TIMEOUT_S_MAX
from qkdrelay.messages.plans import encode_plan
from qkdrelay.messages.relay_ids import new_relay_id
from qkdrelay.messages.reports import (
    Alarm,
    Collected,
    Decided,
    Expected,
    Findings,
    Rebuilt,
    Refused,
    Reports,
    Split,
    Started,
    Verified,
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


def refusal(effects):
    (report,) = told(effects)
    assert isinstance(report, Refused)
    assert only(effects, KeepRelay) == []
    assert only(effects, SendShare) == []
    return report.reason


def started(**settings):
    kme = Kme("kme-1", **settings)
    return kme, kme.command(Start(terms=terms()))


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


def both_ends(shares=lambda held: held):
    """Source and target after the target has rebuilt."""
    source, effects = started()
    target = Kme("kme-8")
    target.command(Expect(terms=terms()))
    for route, payload in shares(delivered_shares(effects)).items():
        target.share(route, payload)
    (rebuilt, *_) = told(target.try_rebuild())
    return source, target, told(effects)[0].proof, rebuilt.proof


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


def test_ends_that_were_told_different_demands_do_not_prove_their_keys_to_each_other():
    source, target = Kme("kme-1"), Kme("kme-8")
    start = source.command(Start(terms=terms()))
    target.command(Expect(terms=terms(withstand=NOTHING)))
    for route, payload in delivered_shares(start).items():
        target.share(route, payload)
    (rebuilt, *_) = told(target.try_rebuild())
    for kme, proof in ((source, rebuilt.proof), (target, told(start)[0].proof)):
        assert told(kme.command(Prove(relay_id=RELAY, peer_proof=proof))) == [Verified(relay_id=RELAY, valid=False)]


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
@pytest.mark.parametrize("changed", [{"key_count": 3}, {"key_size_bits": 128}, {"plan": "other"}])
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
    kme.command(Decide(relay_id=RELAY, confirmed=False))
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


def test_a_start_that_comes_again_gives_the_same_proof_and_sends_nothing():
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
    parts = [
        bytes(part)
        for r in kme.memory.relays.values()
        for part in (r.payload.keys, r.payload.source_key, r.payload.target_key)
    ]
    assert len(set(parts)) == 6


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
    source, target, _, proof = both_ends()
    assert target.relay.payload == source.relay.payload
    assert source.relay.payload.target_proof_is_valid(source.relay.context, proof)


def test_it_reports_a_rebuild_once():
    _, target, _, _ = both_ends()
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

    _, target, _, _ = both_ends(without)
    target.share(route, bytes([late["payload"][0] ^ 1]) + late["payload"][1:])
    (findings,) = told(target.try_rebuild())
    assert isinstance(findings, Findings)
    assert findings.false == (route,)
    assert target.relay.state == "pending"
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
    _, target, _, _ = both_ends()
    route = ("kme-1", "kme-3", "kme-7", "kme-8")
    target.share(route, bytes(len(target.memory.get(RELAY, route))))
    (findings,) = told(target.try_rebuild())
    assert findings.equivocating == (route,)
    assert findings.false == ()


# --- proof and decision ----------------------------------------------------------------------------


def test_each_end_finds_the_others_proof_valid():
    source, target, source_proof, target_proof = both_ends()
    for end, proof in ((source, target_proof), (target, source_proof)):
        assert told(end.command(Prove(relay_id=RELAY, peer_proof=proof))) == [Verified(relay_id=RELAY, valid=True)]


@pytest.mark.parametrize("wrong", ["zero", "own", "bit"])
def test_neither_end_takes_a_wrong_proof_nor_its_own(wrong):
    source, target, source_proof, target_proof = both_ends()
    for end, own, other in ((source, source_proof, target_proof), (target, target_proof, source_proof)):
        proof = {"zero": TAG, "own": own, "bit": bytes([other[0] ^ 1]) + other[1:]}[wrong]
        assert told(end.command(Prove(relay_id=RELAY, peer_proof=proof))) == [Verified(relay_id=RELAY, valid=False)]
        effects = end.command(Decide(relay_id=RELAY, confirmed=True))
        assert told(effects)[0].event == "decision.unproven"
        assert end.relay.state == "pending"


def test_a_proof_for_a_relay_without_keys_is_refused():
    kme = Kme("kme-8")
    assert "no keys" in refusal(kme.command(Prove(relay_id=RELAY, peer_proof=TAG)))
    kme.command(Expect(terms=terms()))
    assert "no keys" in refusal(kme.command(Prove(relay_id=RELAY, peer_proof=TAG)))


def confirmed(end, proof):
    end.command(Prove(relay_id=RELAY, peer_proof=proof))
    return end.command(Decide(relay_id=RELAY, confirmed=True))


def test_keys_are_released_on_the_decision_and_a_valid_proof():
    source, target, source_proof, target_proof = both_ends()
    for end, proof in ((source, target_proof), (target, source_proof)):
        assert told(confirmed(end, proof)) == [Decided(relay_id=RELAY, confirmed=True)]
        assert end.relay.state == "delivered"
    assert source.relay.payload.keys == target.relay.payload.keys


@pytest.mark.parametrize("end", [0, 1])
def test_keys_are_not_released_on_the_decision_alone(end):
    kme = both_ends()[end]
    (alarm,) = told(kme.command(Decide(relay_id=RELAY, confirmed=True)))
    assert isinstance(alarm, Alarm)
    assert kme.relay.state == "pending"


@pytest.mark.parametrize("end", [0, 1])
def test_keys_are_not_released_on_the_proof_alone(end):
    ends = both_ends()
    ends[end].command(Prove(relay_id=RELAY, peer_proof=ends[3 - end]))
    assert ends[end].relay.state == "pending"


def test_a_target_that_has_not_rebuilt_releases_nothing():
    kme = Kme("kme-8")
    kme.command(Expect(terms=terms()))
    assert told(kme.command(Decide(relay_id=RELAY, confirmed=True)))[0].event == "decision.unproven"


@pytest.mark.parametrize("end", [0, 1])
def test_a_failed_relay_destroys_keys_shares_and_findings(end):
    kme = both_ends()[end]
    effects = kme.command(Decide(relay_id=RELAY, confirmed=False))
    assert told(effects) == [Decided(relay_id=RELAY, confirmed=False)]
    assert DropShares(RELAY) in effects
    assert (kme.relay.state, kme.relay.payload) == ("failed", None)
    assert kme.memory.of(RELAY) == {}


@pytest.mark.parametrize("first", [True, False])
@pytest.mark.parametrize("end", [0, 1])
def test_a_decision_may_come_again_and_never_change(end, first):
    ends = both_ends()
    kme = ends[end]
    kme.command(Prove(relay_id=RELAY, peer_proof=ends[3 - end]))
    kme.command(Decide(relay_id=RELAY, confirmed=first))
    decided = kme.relay
    again = kme.command(Decide(relay_id=RELAY, confirmed=first))
    assert told(again) == [Decided(relay_id=RELAY, confirmed=first)]
    (alarm,) = told(kme.command(Decide(relay_id=RELAY, confirmed=not first)))
    assert alarm.event == "decision.contradicted"
    assert str(RELAY) in alarm.text
    assert kme.relay == decided


def test_a_wrong_proof_after_the_release_takes_nothing_back():
    source, _, _, target_proof = both_ends()
    confirmed(source, target_proof)
    before = source.relay
    assert told(source.command(Prove(relay_id=RELAY, peer_proof=target_proof))) == [
        Verified(relay_id=RELAY, valid=True)
    ]
    assert source.relay == before


def test_the_failure_of_a_relay_nobody_knows_is_carried_out_and_its_confirmation_is_not():
    kme = Kme("kme-8")
    assert told(kme.command(Decide(relay_id=RELAY, confirmed=False))) == [Decided(relay_id=RELAY, confirmed=False)]
    assert kme.command(Decide(relay_id=RELAY, confirmed=True)) == []


def test_to_rebuild_what_is_not_a_targets_does_nothing():
    source, _ = started()
    assert source.try_rebuild() == []
    assert Kme("kme-8").try_rebuild() == []
