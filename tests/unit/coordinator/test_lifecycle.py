"""What a report changes in a relay, and what the ends have to be told in each state."""

from dataclasses import replace

import pytest

from coordinator.lifecycle import Relay, advance, ended, fail_if_overdue, outstanding, told_again, told_once
from qkdrelay.messages.assignments import Supply
from qkdrelay.messages.control import Cancel, Confirm, Deliver, Expect, Start
from qkdrelay.messages.reports import (
    Collected,
    Confirmed,
    Expected,
    Findings,
    Forwarded,
    Rebuilt,
    Refused,
    Started,
)
from qkdrelay.network.names import Route
from qkdrelay.network.whereabouts import Whereabouts
from support import plans
from support.kme import NOW, RELAY, terms

PLAN = plans.eight()
ROUTES: list[Route] = list(PLAN.routes())
T_PROOF = b"t" * 16
PLANNED = Relay(terms=terms(), policy="recursive", protected=True, created_at=NOW)
EXPECTED = replace(PLANNED, expected=True)
STARTED = replace(EXPECTED, state="started", started=True)
CONFIRMED = replace(STARTED, state="confirmed", target_proof=T_PROOF, released=("kme-8",), ended_at=NOW + 1.0)
FAILED = replace(STARTED, state="failed", reason="because", ended_at=NOW + 1.0)
STATES = {"planned": PLANNED, "expected": EXPECTED, "started": STARTED}
ENDED = {"confirmed": CONFIRMED, "failed": FAILED}

FROM_TARGET, FROM_SOURCE = "kme-8", "kme-1"
REPORTS = {
    "expected": Expected(relay_id=RELAY),
    "started": Started(relay_id=RELAY),
    "rebuilt": Rebuilt(relay_id=RELAY, proof=T_PROOF),
    "refused": Refused(relay_id=RELAY, reason="no"),
    "confirmed": Confirmed(relay_id=RELAY),
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
    assert told(relay) == [("kme-8", Expect), ("kme-1", Start)]
    relay = after(relay, ("kme-8", "expected"))
    assert (relay.state, told(relay)) == ("planned", [("kme-8", Expect), ("kme-1", Start)])
    relay = after(relay, ("kme-1", "started"))
    assert (relay.state, told(relay)) == ("started", [("kme-8", Expect)])
    relay = after(relay, ("kme-8", "rebuilt"))
    assert (relay.state, relay.ended_at, relay.released) == ("confirmed", NOW + 1.0, ("kme-8",))
    assert outstanding(relay) == [("kme-1", Confirm(relay_id=RELAY, proof=T_PROOF))]
    relay = after(relay, ("kme-1", "confirmed"))
    assert (told(relay), relay.released) == ([], ("kme-8", "kme-1"))


@pytest.mark.parametrize("state", STATES)
def test_a_rebuild_confirms_whatever_was_not_heard_of_before(state):
    relay = after(STATES[state], ("kme-8", "rebuilt"))
    assert (relay.state, told(relay)) == ("confirmed", [("kme-1", Confirm)])


@pytest.mark.parametrize("state", STATES)
def test_nothing_but_a_rebuild_of_the_target_confirms(state):
    said = [(kme, report) for kme in ("kme-1", "kme-8", "kme-3") for report in REPORTS if report != "refused"]
    said.remove(("kme-8", "rebuilt"))
    assert after(STATES[state], *said).state in ("planned", "started")


def test_what_is_told_once():
    failed = after(STARTED, ("kme-8", "refused"))
    cancel = Cancel(relay_id=RELAY)
    assert told_once(STARTED, failed) == [("kme-1", cancel), ("kme-8", cancel)]
    assert outstanding(failed) == []
    done = after(CONFIRMED, ("kme-1", "confirmed"))
    assert told_once(CONFIRMED, done) == [("kme-8", Deliver(relay_id=RELAY))]
    assert told_once(STARTED, CONFIRMED) == told_once(done, done) == told_once(failed, failed) == []


@pytest.mark.parametrize("report", REPORTS)
def test_an_end_that_goes_on_with_a_relay_that_has_failed_is_told_to_give_it_up(report):
    cancel = [Cancel(relay_id=RELAY)] if report in ("expected", "started") else []
    for kme in ("kme-1", "kme-8"):
        assert [command for _, command in told_again(FAILED, kme, REPORTS[report])] == cancel
        assert told_again(CONFIRMED, kme, REPORTS[report]) == told_again(STARTED, kme, REPORTS[report]) == []
    assert told_again(FAILED, "kme-3", REPORTS[report]) == []


def test_of_supply_nobody_lists_keys_so_its_target_is_not_told_who_has_them():
    supply = replace(CONFIRMED, terms=terms(supply=Supply(until=NOW + 1e6, tag_pairs=1)))
    assert told_once(supply, after(supply, ("kme-1", "confirmed"))) == []


def test_a_coordinator_that_has_said_failed_never_passes_a_confirmation_tag_on():
    late = after(FAILED, ("kme-1", "started"), ("kme-8", "rebuilt"), ("kme-8", "expected"))
    assert (late, outstanding(late)) == (FAILED, [])


# --- after the answer ------------------------------------------------------------------------------


def test_a_source_that_refuses_what_its_target_has_confirmed_fails_the_relay_after_all():
    relay = after(CONFIRMED, ("kme-1", "refused"))
    assert (relay.state, told(relay), relay.ended_at) == ("failed", [], NOW + 1.0)
    assert relay.reason == "confirmed by kme-8, but refused by kme-1: no"
    assert told_once(CONFIRMED, relay) == []


def test_a_source_that_has_confirmed_takes_nothing_back():
    done = after(CONFIRMED, ("kme-1", "confirmed"))
    assert after(done, ("kme-1", "refused"), ("kme-8", "refused"), ("kme-8", "rebuilt")) == done


def test_a_source_that_comes_back_with_an_old_copy_of_its_store_is_told_again():
    again = after(CONFIRMED, ("kme-1", "confirmed"), ("kme-1", "started"))
    assert told(again) == [("kme-1", Confirm)]
    assert after(again, ("kme-1", "refused")).state == "failed"


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
def test_either_end_can_fail_it_by_a_refusal(state, sender):
    refused = after(STATES[state], (sender, "refused"))
    assert (refused.state, refused.reason) == ("failed", f"refused by {sender}: no")


@pytest.mark.parametrize(
    ("reason", "told"),
    [("kme-8: no", "kme-8: no"), ("kme-1: no", "kme-8: kme-1: no"), ("kme-88: no", "kme-8: kme-88: no")],
)
def test_who_refuses_is_named_and_nobody_else_whatever_it_says(reason, told):
    relay = advance(PLANNED, "kme-8", Refused(relay_id=RELAY, reason=reason), NOW)
    assert relay.reason == f"refused by {told}"


def test_the_first_confirmation_tag_counts():
    assert advance(CONFIRMED, FROM_TARGET, Rebuilt(relay_id=RELAY, proof=b"x" * 16), NOW) is CONFIRMED


# --- the end stays ---------------------------------------------------------------------------------


@pytest.mark.parametrize("report", sorted(set(REPORTS) - {"findings"}))
@pytest.mark.parametrize("sender", ["kme-1", "kme-8"])
def test_nothing_changes_a_failed_relay(report, sender):
    assert after(FAILED, (sender, report)) is FAILED


@pytest.mark.parametrize("report", sorted(set(REPORTS) - {"findings"}))
def test_nothing_that_the_target_says_changes_a_confirmed_relay(report):
    assert after(CONFIRMED, ("kme-8", report)) is CONFIRMED


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
        assert ended(ENDED[state], other, "another", NOW + 5.0) is ENDED[state]
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
        (PLANNED, (), "the source kme-1 and the target kme-8 did not answer in time"),
        (PLANNED, ROUTES, "the source kme-1 and the target kme-8 did not answer in time, although it has begun"),
        (replace(PLANNED, started=True), ROUTES, "the target kme-8 did not answer in time"),
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
    ],
)
def test_it_says_what_was_missing(relay, collected, reason):
    assert reason in fail_if_overdue(relay, Whereabouts(PLAN, collected=collected), NOW + 30.0).reason
