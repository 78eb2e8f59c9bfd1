"""The rules of confirmation and of assignments, looked at in every state that there is within bounds.

And each mistake that the rules are there for, put back, is found; so are states that are of interest, which shows that
the models get there at all.
"""

import re

import pytest

from support.spin import MODELS, Searches, require_spin

RELAY, ASSIGNMENT = "relay.pml", "assignment.pml"
SMALL = ("CUTS=2", "KEYS_MAX=1", "BYTES=2")
QUIET = ("STRIKES=0",)
NOTHING_OLD = ("OLD_MAX=0",)
LIVE = ("LIVE", "CUTS=2", *QUIET)

RULES = {
    RELAY: [
        (),
        ("SUPPLY",),
        ("LYING",),
        ("LYING", "SUPPLY"),
        ("LIVE",),
        ("LIVE", "SUPPLY"),
        ("LIVE", "LYING"),
        ("LIVE", "LYING", "SUPPLY"),
    ],
    ASSIGNMENT: [
        ("LYING", "CUTS=3", *QUIET),
        ("LYING", "CUTS=2", "OLD_MAX=2", *QUIET),
        ("LYING", "CUTS=2", "EARLY", *QUIET),
        ("LYING", "CUTS=2", "TIME", "KEYS_MAX=1"),
        ("LYING", "CUTS=2", "TIME", *NOTHING_OLD),
        ("LYING", "CUTS=3", "RELAYS=2", "BYTES=2", "TAGS=2", "KEYS_MAX=1", *QUIET),
        ("CUTS=2", *QUIET),
        ("EARLY", *SMALL, *QUIET),
        SMALL,
        ("TIME", *SMALL, *QUIET),
        ("TIME", *SMALL, *NOTHING_OLD),
        ("LYING", "BYTES=2", "TAGS=2", *LIVE, *NOTHING_OLD),
        ("LYING", "EARLY", "KEYS_MAX=1", "BYTES=2", "TAGS=2", *LIVE, *NOTHING_OLD),
        ("LYING", "KEYS_MAX=1", "BYTES=2", "TAGS=2", *LIVE),
        ("KEYS_MAX=1", "BYTES=2", *LIVE, *NOTHING_OLD),
    ],
}

FAULTS = {
    RELAY: [
        ("NO_PROOF", "LYING"),
        ("TERMS", "LYING"),
        ("PROOF_BEFORE_COMMIT",),
        ("GIVES_UP_RELEASED", "LYING"),
        ("FAILED_PASSES_ON",),
        ("SUPPLY_IN_STORE", "SUPPLY"),
        ("SUPPLY_IN_STORE", "SUPPLY", "LYING"),
        ("WAITS_FOR_EVER", "LIVE"),
        ("WAITS_FOR_EVER", "LIVE", "SUPPLY", "LYING"),
    ],
    ASSIGNMENT: [
        ("TAG_KEY_IN_RANGE", "LYING", "CUTS=2", *QUIET),
        ("MARK_FALLS", "LYING", "CUTS=2", *NOTHING_OLD),
        ("HINT_LOWERS", "LYING", "CUTS=2", *QUIET),
        ("REPEAT_WITH_OTHER_PAIR", "LYING", "CUTS=2", *QUIET),
        ("ANSWER_UNTAGGED", "LYING", "CUTS=2", *QUIET),
        ("ANSWER_TAG_NAMES_START", "LYING", "CUTS=2", *QUIET),
        ("ANSWER_TAG_NAMES_START", "CUTS=2", *QUIET),
        ("READY_IN_STORE", "LYING", "CUTS=2", *QUIET),
        ("READY_IN_STORE", "CUTS=2", *QUIET),
        ("HANDS_OUT_UNANSWERED", "CUTS=2", *QUIET),
        ("HANDS_OUT_UNANSWERED", "CUTS=2", *NOTHING_OLD),
        ("DELETES_TOO_SOON", "LYING", "CUTS=2", "TIME", *QUIET),
        ("WAITS_FOR_EVER", "LYING", *LIVE, *NOTHING_OLD),
        ("ASKS_FOR_EVER", "LYING", *LIVE, *NOTHING_OLD),
    ],
}

OF_INTEREST = {
    RELAY: {
        "s_state == delivered && t_state == delivered && k_state == confirmed": [()],
        "k_state == given_up && sent_confirm": [(), ("SUPPLY",)],
        "s_state == delivered && t_state == failed": [("LYING",), ("LYING", "SUPPLY")],
        "s_state == failed && T_HOLDS && !s_old": [(), ("LYING",), ("SUPPLY",)],
        "s_state == delivered && s_version == 2": [(), ("LYING", "SUPPLY")],
        "s_state == pending && T_HOLDS && s_terms != t_terms": [("LYING",)],
    },
    ASSIGNMENT: {
        "s_gave[0] == 15 && t_gave[0] == 15": [("LYING", "CUTS=2", *QUIET), ("CUTS=2", *QUIET)],
        # Ready once more after an old copy, and partly handed out before it.
        "s_next[0] == 1 && s_cut[0] == ready && olds == 1 && t_keys[0] != 0": [
            ("LYING", "CUTS=2", *QUIET),
            ("CUTS=2", *QUIET),
        ],
        # A lying coordinator hides a start; an honest one has not told it yet.
        "lost[0] && s_cut[0] == ready": [("LYING", "CUTS=2", *QUIET), ("CUTS=2", *QUIET)],
        # What was lost was refused, since something later is kept.
        "olds == 1 && s_cut[0] == gone && !t_knows[0] && t_knows[1] && s_cut[1] == ready": [
            ("LYING", "CUTS=2", *QUIET),
            ("CUTS=2", *QUIET),
        ],
        "strikes == 1 && struck == 0 && t_knows[1] && a_pair[1] == 2 && s_gave[0] != 0": [("LYING", "CUTS=2"), SMALL],
        "over_t == 2 && t_gave[0] == 1": [("LYING", "TIME", "CUTS=2"), ("TIME", *SMALL)],
        # A hint has raised the cursor past what no assignment had.
        "s_cut[1] == ready && a_byte[1] == 3": [("LYING", "CUTS=2", *QUIET)],
        "s_end[0] == gone && s_cut[1] == ready && a_relay[1] == 1": [
            ("LYING", "CUTS=2", "RELAYS=2", "BYTES=2", "EARLY", *QUIET)
        ],
    },
}


def name(of):
    return " ".join(of) if isinstance(of, tuple) else of


@pytest.fixture(scope="module")
def searches(request):
    """What each test looks for, begun for all tests that are to run, in their order."""
    require_spin()
    searches = Searches()
    for item in request.session.items:
        if item.module is request.module and "searches" in item.fixturenames:
            asked_for(searches, **item.callspec.params)
    yield searches
    searches.end()


def asked_for(searches, model, switches=None, fault=None, state=""):
    """The search for a violation of the rules, with a mistake put back or none, or for a state."""
    if fault is not None:
        return searches.begin(model, f"FAULT_{fault[0]}", *fault[1:])
    return searches.begin(model, *switches, reach=state, thorough=not state)


@pytest.mark.parametrize(("model", "switches"), [(m, s) for m, all_ in RULES.items() for s in all_], ids=name)
def test_a_rule_holds_in_every_state(searches, model, switches):
    found = asked_for(searches, model, switches).result()
    assert found.fault == ""
    assert found.states > 10_000


@pytest.mark.parametrize(("model", "fault"), [(m, f) for m, all_ in FAULTS.items() for f in all_], ids=name)
def test_a_mistake_that_is_put_back_is_found(searches, model, fault):
    found = asked_for(searches, model, fault=fault).result()
    assert found.fault.startswith(("assertion violated", "acceptance cycle"))


def test_every_mistake_that_the_models_know_is_put_back():
    for model, faults in FAULTS.items():
        text = (MODELS / model).read_text()
        assert set(re.findall(r"\bFAULT_([A-Z_]+)\b", text)) == {fault for fault, *_ in faults}


@pytest.mark.parametrize(
    ("model", "state", "switches"),
    [(m, state, s) for m, states in OF_INTEREST.items() for state, all_ in states.items() for s in all_],
    ids=name,
)
def test_a_state_of_interest_is_reached(searches, model, state, switches):
    assert asked_for(searches, model, switches, state=state).result().fault.startswith("assertion violated")
