"""What a report changes in a relay, and what the ends have to be told in each state."""

from dataclasses import replace

import pytest

from coordinator.lifecycle import Relay, advance, decide, fail_if_overdue, outstanding
from qkdrelay.messages.control import Decide, Expect, Prove, Start
from qkdrelay.messages.reports import (
    Collected,
    Decided,
    Expected,
    Findings,
    Forwarded,
    Rebuilt,
    Refused,
    Started,
    Verified,
)
from qkdrelay.network.names import Route
from qkdrelay.network.whereabouts import Whereabouts
from support import plans
from support.kme import NOW, RELAY, terms

PLAN = plans.eight()
ROUTES: list[Route] = list(PLAN.routes())
S_PROOF, T_PROOF = b"s" * 16, b"t" * 16
PLANNED = Relay(terms=terms(), policy="recursive", protected=True, created_at=NOW)
EXPECTED = replace(PLANNED, expected=True)
STARTED = replace(EXPECTED, state="started", source_proof=S_PROOF)
REBUILT = replace(STARTED, state="reconstructed", target_proof=T_PROOF)
CONFIRMED = replace(REBUILT, state="confirmed", source_verified=True, target_verified=True, ended_at=NOW + 1.0)
FAILED = replace(STARTED, state="failed", reason="because", ended_at=NOW + 1.0)
STATES = {"planned": PLANNED, "expected": EXPECTED, "started": STARTED, "rebuilt": REBUILT}
ENDED = {"confirmed": CONFIRMED, "failed": FAILED}

FROM_TARGET, FROM_SOURCE = "kme-8", "kme-1"
REPORTS = {
    "expected": Expected(relay_id=RELAY),
    "started": Started(relay_id=RELAY, proof=S_PROOF),
    "rebuilt": Rebuilt(relay_id=RELAY, proof=T_PROOF),
    "verified": Verified(relay_id=RELAY, valid=True),
    "not verified": Verified(relay_id=RELAY, valid=False),
    "refused": Refused(relay_id=RELAY, reason="no"),
    "confirmed": Decided(relay_id=RELAY, confirmed=True),
    "destroyed": Decided(relay_id=RELAY, confirmed=False),
    "findings": Findings(relay_id=RELAY, false=(ROUTES[0],), disputed=(), equivocating=(), unclear=""),
}


def told(relay):
    return [(kme, type(command)) for kme, command in outstanding(relay)]


def after(relay, *steps):
    for sender, name in steps:
        relay = advance(relay, sender, REPORTS[name], NOW + 1.0)
    return relay


# --- the way to a confirmed relay ------------------------------------------------------------------


def test_the_way_to_a_confirmed_relay_and_what_is_told_on_it():
    relay = PLANNED
    assert told(relay) == [("kme-8", Expect)]
    relay = after(relay, ("kme-8", "expected"))
    assert told(relay) == [("kme-1", Start)]
    relay = after(relay, ("kme-1", "started"))
    assert (relay.state, told(relay)) == ("started", [])
    relay = after(relay, ("kme-8", "rebuilt"))
    assert relay.state == "reconstructed"
    assert outstanding(relay) == [
        ("kme-1", Prove(relay_id=RELAY, peer_proof=T_PROOF)),
        ("kme-8", Prove(relay_id=RELAY, peer_proof=S_PROOF)),
    ]
    relay = after(relay, ("kme-8", "verified"))
    assert (relay.state, told(relay)) == ("reconstructed", [("kme-1", Prove)])
    relay = after(relay, ("kme-1", "verified"))
    assert (relay.state, relay.ended_at) == ("confirmed", NOW + 1.0)
    assert outstanding(relay) == [(kme, Decide(relay_id=RELAY, confirmed=True)) for kme in ("kme-1", "kme-8")]
    relay = after(relay, ("kme-1", "confirmed"))
    assert told(relay) == [("kme-8", Decide)]
    relay = after(relay, ("kme-8", "confirmed"))
    assert (told(relay), relay.released) == ([], ("kme-1", "kme-8"))


def test_the_source_is_told_to_start_only_once_the_target_has_stored_the_terms():
    assert ("kme-1", Start) not in told(PLANNED)
    assert after(PLANNED, ("kme-1", "started")) == PLANNED


def test_a_rebuild_that_is_heard_of_before_the_start_waits_for_it():
    relay = after(EXPECTED, ("kme-8", "rebuilt"))
    assert (relay.state, told(relay)) == ("reconstructed", [("kme-1", Start)])
    relay = after(relay, ("kme-1", "started"))
    assert (relay.state, told(relay)) == ("reconstructed", [("kme-1", Prove), ("kme-8", Prove)])


@pytest.mark.parametrize("order", [("kme-1", "kme-8"), ("kme-8", "kme-1")])
def test_both_ends_must_have_verified(order):
    relay = after(REBUILT, (order[0], "verified"), (order[0], "verified"))
    assert relay.state == "reconstructed"
    assert after(relay, (order[1], "verified")).state == "confirmed"


@pytest.mark.parametrize("state", ["planned", "expected", "started"])
def test_nothing_is_confirmed_without_both_proofs(state):
    relay = after(STATES[state], ("kme-1", "verified"), ("kme-8", "verified"))
    assert relay.state == STATES[state].state


def test_who_verified_before_both_proofs_are_there_is_asked_again():
    relay = after(STARTED, ("kme-1", "verified"), ("kme-8", "verified"), ("kme-8", "rebuilt"))
    assert told(relay) == [("kme-1", Prove), ("kme-8", Prove)]
    assert after(relay, ("kme-1", "verified"), ("kme-8", "verified")).state == "confirmed"


# --- who has a say ---------------------------------------------------------------------------------


@pytest.mark.parametrize("state", [*STATES, *ENDED])
@pytest.mark.parametrize("report", REPORTS)
@pytest.mark.parametrize("sender", ["kme-3", "kme-9"])
def test_a_kme_that_is_no_end_changes_nothing(state, report, sender):
    relay = {**STATES, **ENDED}[state]
    assert after(relay, (sender, report)) is relay


@pytest.mark.parametrize("state", STATES)
@pytest.mark.parametrize(
    ("report", "sender"), [("expected", "kme-1"), ("started", "kme-8"), ("rebuilt", "kme-1"), ("findings", "kme-1")]
)
def test_an_end_has_no_say_in_what_is_the_others(state, report, sender):
    assert after(STATES[state], (sender, report)) == STATES[state]


@pytest.mark.parametrize(
    "report", [Collected(relay_id=RELAY, route=ROUTES[0]), Forwarded(relay_id=RELAY, route=ROUTES[0])]
)
def test_what_becomes_of_shares_does_not_decide(report):
    assert advance(STARTED, "kme-8", report, NOW) is STARTED


@pytest.mark.parametrize("state", STATES)
@pytest.mark.parametrize("sender", ["kme-1", "kme-8"])
def test_either_end_can_fail_it_by_a_refusal_or_a_proof_that_is_not_valid(state, sender):
    refused = after(STATES[state], (sender, "refused"))
    assert (refused.state, refused.reason) == ("failed", f"refused by {sender}: no")
    unequal = after(STATES[state], (sender, "not verified"))
    assert unequal.state == "failed"
    assert sender in unequal.reason
    assert told(unequal) == [("kme-1", Decide), ("kme-8", Decide)]


@pytest.mark.parametrize(
    ("reason", "told"),
    [("kme-8: no", "kme-8: no"), ("kme-1: no", "kme-8: kme-1: no"), ("kme-88: no", "kme-8: kme-88: no")],
)
def test_who_refuses_is_named_and_nobody_else_whatever_it_says(reason, told):
    relay = advance(PLANNED, "kme-8", Refused(relay_id=RELAY, reason=reason), NOW)
    assert relay.reason == f"refused by {told}"


def test_the_first_proof_of_each_end_counts():
    relay = REBUILT
    for sender, report in ((FROM_SOURCE, Started), (FROM_TARGET, Rebuilt)):
        assert advance(relay, sender, report(relay_id=RELAY, proof=b"x" * 16), NOW) is relay


def test_a_target_that_has_rebuilt_has_answered_although_it_was_not_heard_of_before():
    relay = after(PLANNED, ("kme-8", "rebuilt"))
    assert told(relay) == [("kme-1", Start)]
    assert fail_if_overdue(relay, Whereabouts(PLAN), NOW + 30.0).reason == "the source kme-1 did not answer in time"


# --- a decision stays ------------------------------------------------------------------------------


@pytest.mark.parametrize("state", ENDED)
@pytest.mark.parametrize("report", sorted(set(REPORTS) - {"findings"}))
@pytest.mark.parametrize("sender", ["kme-1", "kme-8"])
def test_nothing_changes_a_decision(state, report, sender):
    relay = after(ENDED[state], (sender, report))
    own = report == {"confirmed": "confirmed", "failed": "destroyed"}[state]
    assert replace(relay, released=()) == ENDED[state]
    assert relay.released == ((sender,) if own else ())


def test_findings_count_after_the_decision_too_and_the_latest_does():
    relay = after(CONFIRMED, ("kme-8", "findings"))
    assert relay.findings == REPORTS["findings"]
    later = replace_findings(false=())
    assert advance(relay, "kme-8", later, NOW).findings == later


def replace_findings(**changed):
    return Findings(**{"relay_id": RELAY, "false": (), "disputed": (), "equivocating": (), "unclear": "", **changed})


@pytest.mark.parametrize("state", ENDED)
def test_an_ended_relay_cannot_be_ended_again(state):
    for other in ENDED:
        assert decide(ENDED[state], other, "another", NOW + 5.0) is ENDED[state]
    assert fail_if_overdue(ENDED[state], Whereabouts(PLAN), NOW + 1e6) is ENDED[state]


# --- the deadline ----------------------------------------------------------------------------------


@pytest.mark.parametrize("state", STATES)
def test_a_relay_fails_at_its_deadline_and_not_before(state):
    assert fail_if_overdue(STATES[state], Whereabouts(PLAN), NOW + 29.999) is STATES[state]
    relay = fail_if_overdue(STATES[state], Whereabouts(PLAN), NOW + 30.0)
    assert (relay.state, relay.ended_at) == ("failed", NOW + 30.0)


@pytest.mark.parametrize(
    ("relay", "collected", "reason"),
    [
        (PLANNED, (), "the target kme-8 did not answer in time"),
        (EXPECTED, (), "the source kme-1 did not answer in time"),
        (STARTED, (), "the split on kme-1 has 0 of the 2 it needs"),
        (STARTED, [r for r in ROUTES if "kme-6" not in r], "the split on kme-1 has 1 of the 2 it needs"),
        (STARTED, ROUTES, "it may have lost some since"),
        (replace(STARTED, findings=replace_findings()), ROUTES, "it may have lost some since"),
        (
            replace(STARTED, findings=replace_findings(false=(("kme-1", "kme-2"), ("kme-1", "kme-3")))),
            ROUTES,
            "false ones among them left too few good ones: the split on kme-1 has 1 of the 2 it needs",
        ),
        (
            replace(STARTED, findings=replace_findings(unclear="exhausted")),
            ROUTES,
            "the search for good ones was given up",
        ),
        (replace(STARTED, findings=replace_findings(unclear="cut")), ROUTES, "it may have lost some since"),
        (replace(STARTED, findings=replace_findings(unclear="cut", equivocating=ROUTES)), (), "too few shares in time"),
        (replace(STARTED, findings=replace_findings(unclear="cut", false=ROUTES)), ROUTES, "more than can be listed"),
        (replace(STARTED, findings=replace_findings(unclear="ambiguous")), ROUTES, "more than one secret"),
        (REBUILT, ROUTES, "kme-1 and kme-8 did not confirm in time"),
        (replace(REBUILT, source_verified=True), ROUTES, "kme-8 did not confirm in time"),
    ],
)
def test_it_says_what_was_missing(relay, collected, reason):
    assert reason in fail_if_overdue(relay, Whereabouts(PLAN, collected=collected), NOW + 30.0).reason
