"""`coordinator watch` shows causes above their effects, in whatever order the KMEs' reports come."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from itertools import pairwise
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qkdrelay.broker.memory import MemoryClient
from qkdrelay.client import reported
from qkdrelay.messages.control import SetLab, SetLink
from qkdrelay.messages.reports import (
    Alarm,
    Collected,
    Confirmed,
    Done,
    Expected,
    Forwarded,
    Hello,
    Rebuilt,
    Report,
    Split,
    Started,
    Waiting,
)
from qkdrelay_cli.render.report_order import HELD_MAX, HOLD_S, RELAY_HELD_MAX, Ordered
from qkdrelay_cli.render.reports import report_as_data, report_in_words
from support.fuzzing import fuzzed
from support.messages import values
from support.network import Network

RELAY = UUID(int=7)


@pytest.fixture(scope="module", params=["recursive", "best"])
def happened(request):
    """Each KME's reports of one relay, as it made them; one link was down for a while."""
    network = Network()
    client = MemoryClient(network.hub, watch=["results.#"])
    network.cut("kme-7", "kme-8")
    network.relay("kme-1", "kme-8", policy=request.param)
    network.mend("kme-7", "kme-8")
    network.later(5)
    by_kme = defaultdict(list)
    while (message := client.receive(0.0)) is not None:
        kme, reports = reported(message[1], message[2])
        by_kme[kme] += [report for report in reports if not isinstance(report, Done | Hello)]
    assert {type(report) for reports in by_kme.values() for report in reports} >= {Split, Collected, Rebuilt, Confirmed}
    return by_kme


def shown(seen):
    return [(each.kme, each.report) for each in seen]


def in_turn(by_kme, random):
    """The reports as they could come: each KME's in its order."""
    kmes = [kme for kme, reports in by_kme.items() for _ in reports]
    random.shuffle(kmes)
    left = {kme: iter(reports) for kme, reports in by_kme.items()}
    return [(kme, next(left[kme])) for kme in kmes]


def causes(kme, report, everything):
    """What must have happened before."""
    kinds = {Rebuilt: (Started, Expected), Confirmed: (Rebuilt, Started, Expected)}
    for other, cause in everything:
        if isinstance(cause, kinds.get(type(report), ())) or (
            isinstance(report, Split | Forwarded | Collected)
            and (
                (isinstance(cause, Split | Forwarded) and cause.route == report.route[:-1])
                or (isinstance(cause, Waiting) and cause.route == report.route)
            )
        ):
            yield other, cause


def test_causes_are_shown_above_their_effects(happened):
    @fuzzed(60)
    @given(st.randoms(use_true_random=False))
    def check(random):
        arrived = in_turn(happened, random)
        ordered = Ordered()
        for number, (kme, report) in enumerate(arrived):
            assert list(ordered.add(kme, report, float(number), 0.0)) == []
        seen = list(ordered.due(math.inf))
        place = {each: number for number, each in enumerate(shown(seen))}
        assert Counter(shown(seen)) == Counter(arrived)
        for kme, reports in happened.items():
            assert [report for other, report in shown(seen) if other == kme] == reports
        for each in arrived:
            assert all(place[cause] < place[each] for cause in causes(*each, arrived))
        # The splits whose shares were there when the target rebuilt the secret.
        until = next(n for n, report in enumerate(happened["kme-8"]) if isinstance(report, Rebuilt))
        used = {report.route for report in happened["kme-8"][:until] if isinstance(report, Collected)}
        confirmed = min(place[each] for each in arrived if isinstance(each[1], Confirmed))
        above = {report.route for _, report in shown(seen)[:confirmed] if isinstance(report, Split | Forwarded)}
        assert {route[:n] for route in used for n in range(1, len(route))} <= above
        assert all(one.at <= other.at for one, other in pairwise(seen))

    check()


REPORTS = st.lists(st.tuples(st.sampled_from(["kme-1", "kme-2", "kme-3"]), values(Report)), max_size=30)


@fuzzed(150)
@given(REPORTS)
def test_whatever_comes_is_shown_once(arrived):
    ordered = Ordered()
    seen = [each for kme, report in arrived for each in ordered.add(kme, report, 0.0, 0.0)]
    seen += ordered.due(math.inf)
    assert Counter(map(repr, shown(seen))) == Counter(map(repr, arrived))


def contradicting(number):
    """The ends' reports, each KME's from last to first: every one of them before some other, and after it."""
    stages = [
        Confirmed(relay_id=RELAY),
        Rebuilt(relay_id=RELAY, proof=bytes(16)),
        Started(relay_id=RELAY),
        Expected(relay_id=RELAY),
    ]
    return [(f"kme-{n % 3}", stages[n // 3 % 4]) for n in range(number)]


def test_reports_that_contradict_each_other_are_shown_and_do_not_pile_up():
    ordered, count = Ordered(), 3 * RELAY_HELD_MAX
    seen = [each for kme, report in contradicting(count) for each in ordered.add(kme, report, 0.0, 0.0)]
    assert len(seen) >= count - RELAY_HELD_MAX
    assert len(seen) + len(list(ordered.due(math.inf))) == count


def test_of_many_relays_not_too_much_is_held():
    ordered = Ordered()
    reports = [Expected(relay_id=UUID(int=number)) for number in range(HELD_MAX + 100)]
    assert len([each for report in reports for each in ordered.add("kme-1", report, 0.0, 0.0)]) >= 100


def test_a_report_waits_a_moment_for_its_cause_and_not_longer():
    ordered = Ordered()
    forwarded = Forwarded(relay_id=RELAY, route=("kme-1", "kme-2"))
    split = Split(relay_id=RELAY, route=("kme-1",), shares=3, threshold=2)
    alarm = Alarm(event="key.low", text="why")
    assert ordered.wait_s(0.0, 1.0) == 1.0
    assert list(ordered.add("kme-2", forwarded, 10.0, 0.0)) == []
    assert list(ordered.add("kme-2", alarm, 10.0, 0.0)) == []
    assert ordered.wait_s(0.1, 1.0) == pytest.approx(HOLD_S - 0.1)
    assert list(ordered.add("kme-1", split, 10.2, 0.2)) == []
    assert list(ordered.due(HOLD_S - 0.01)) == []
    seen = list(ordered.due(HOLD_S))
    assert shown(seen) == [("kme-1", split), ("kme-2", forwarded), ("kme-2", alarm)]
    assert [each.at for each in seen] == [10.2, 10.2, 10.2]
    assert list(ordered.due(math.inf)) == []
    assert ordered.wait_s(1.0, 1.0) == 1.0


COMMAND = UUID(int=5)


@pytest.mark.parametrize(
    ("done", "data", "words"),
    [
        (
            Done(command=SetLink(command_id=COMMAND, peer="kme-8", up=False), error=""),
            {"command": "link down", "peer": "kme-8", "outcome": "done", "error": ""},
            "command=link down  peer=kme-8",
        ),
        (
            Done(command=SetLink(command_id=COMMAND, peer="kme-8", up=True), error="kme-7 has no link to kme-8"),
            {"command": "link up", "peer": "kme-8", "outcome": "refused", "error": "kme-7 has no link to kme-8"},
            "outcome=refused  error=kme-7 has no link to kme-8",
        ),
        (
            Done(command=SetLab(command_id=COMMAND, mode="tamper"), error=""),
            {"command": "lab compromise", "mode": "tamper", "outcome": "done", "error": ""},
            "command=lab compromise  mode=tamper",
        ),
        (
            Done(command=SetLab(command_id=COMMAND, mode=None), error=""),
            {"command": "lab restore", "outcome": "done", "error": ""},
            "command=lab restore",
        ),
    ],
)
def test_a_command_that_was_carried_out_is_named(done, data, words):
    told = report_as_data("kme-7", done, 0.0)
    common = {"at": 0.0, "kme": "kme-7", "event": "command.done", "command_id": str(COMMAND)}
    assert told == {**common, **data}
    assert words in report_in_words("kme-7", done, 0.0).plain
    assert f"outcome={data['outcome']}" in report_in_words("kme-7", done, 0.0).plain
