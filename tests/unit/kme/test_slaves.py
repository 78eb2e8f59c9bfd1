"""The slaves' side of keys for applications: what is assigned, refused, fetched, and destroyed."""

from contextlib import suppress
from itertools import pairwise
from uuid import uuid4

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule
from msgspec import structs

from kme.applications import ApplicationError, BadRequestError, Caller, NotAllowedError, TryLaterError
from kme.effects import LogEvent, WipeDeleted
from kme.store import applications
from kme.supply.directory_changes import loses_keys
from kme.supply.model import Pair
from kme.supply.slave_keys import CLOCKS_S
from qkdrelay.link.assignment import assigned_tag_is_valid
from qkdrelay.messages.assignments import Assigned, AssignRefused
from qkdrelay.messages.keys import key_id
from support.slaves import Slaves, moved, pinned, without
from support.supply import NOW, SAES, Draws

S1, S2 = Caller("s1", "aa" * 32), Caller("s2", "bb" * 32)


@pytest.fixture
def slaves(tmp_path):
    return Slaves(Draws(), tmp_path / "kme.sqlite")


def refused(answer):
    assert isinstance(answer, AssignRefused), answer
    return answer.reason, answer.first_free_byte, answer.first_free_tag


def ids(message):
    assignment = message.assignment
    return [key_id(assignment.assign_id, number) for number in range(assignment.key_count)]


def test_what_is_assigned_is_answered_under_the_second_key_and_fetched_once(slaves):
    source = slaves.supply()
    message = source.assign(offset=64, number=1)
    answer = slaves.assign(message)
    assert isinstance(answer, Assigned)
    assert assigned_tag_is_valid(source.payload.tag_pair(1), message.assignment, answer.tag)
    found = slaves.fetch(S1, "m1", ids(message)[::-1], NOW + 5)
    assert [key.key for key in found] == [source.payload.keys[96:128], source.payload.keys[64:96]]
    assert {(key.compromised, key.route) for key in found} == {(1, "direct")}
    assert [round(key.age_s) for key in found] == [5, 5]
    with pytest.raises(BadRequestError, match="not found on KME"):
        slaves.fetch(S1, "m1", ids(message)[:1])


def test_the_same_again_is_answered_with_the_same_bytes_and_another_under_its_id_is_not(slaves):
    source = slaves.supply()
    message = source.assign()
    answer = slaves.assign(message)
    assert slaves.assign(message) == answer
    other = source.assign(offset=64, number=1, assign_id=message.assignment.assign_id)
    assert refused(slaves.assign(other)) == ("reused", 64, 1)
    slaves.restart()
    assert slaves.assign(message) == answer


OTHERS = [
    {"offset": 64},
    {"tag_number": 1},
    {"master": "m2"},
    {"slave": "s2"},
    {"key_size_bits": 512},
    {"key_count": 1},
    {"usable_until": NOW + 2e5},
    {"assign_id": uuid4()},
]


@pytest.mark.parametrize("other", OTHERS)
def test_a_field_that_was_changed_on_the_way_is_refused_and_nothing_is_kept(slaves, other):
    source = slaves.supply()
    message = source.assign()
    changed = structs.replace(message, assignment=structs.replace(message.assignment, **other))
    assert refused(slaves.assign(changed)) == ("tag", 0, 0)
    assert isinstance(slaves.assign(message), Assigned)


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"relay_id": uuid4()}, "unknown-relay"),
        ({"source": "near"}, "unknown-relay"),
        ({"target": "near"}, "unknown-relay"),
        ({"offset": 4096 - 32}, "range"),
        ({"offset": 4096}, "range"),
        ({"key_count": 129}, "range"),
        ({"number": 2, "tag_pair": 1}, "range"),
        ({"tag_pair": 1}, "tag"),
        ({"usable_until": NOW - 1}, "expired"),
        ({"usable_until": NOW + 40 * 86_400}, "expired"),
        ({"master": "s2"}, "sae"),
        ({"master": "nobody"}, "sae"),
        ({"slave": "m1"}, "sae"),
        ({"slave": "n1"}, "sae"),
        ({"slave": "nobody"}, "sae"),
    ],
)
def test_what_does_not_hold_is_refused_and_changes_nothing(slaves, fields, reason):
    source = slaves.supply()
    answer = slaves.assign(source.assign(**fields))
    assert refused(answer)[0] == reason
    if reason != "unknown-relay":
        assert refused(answer)[1:] == (0, 0)
    assert isinstance(slaves.assign(source.assign()), Assigned)


def test_the_first_free_byte_and_tag_number_only_rise(slaves):
    source = slaves.supply(tags=4)
    first = source.assign(offset=640, number=1)
    assert isinstance(slaves.assign(first), Assigned)
    for offset, number in ((0, 2), (640, 2), (703, 2), (704, 0), (704, 1)):
        assert refused(slaves.assign(source.assign(offset=offset, number=number))) == ("range", 704, 2)
    slaves.fetch(S1, "m1", ids(first))
    slaves.adopt(without(SAES, "s1"), lambda pair: pair.slave == "s1")
    slaves.adopt(SAES, lambda _: False)
    slaves.tick(NOW + 86_400 * 10)
    slaves.restart()
    assert refused(slaves.assign(source.assign(offset=0, number=2))) == ("range", 704, 2)
    assert isinstance(slaves.assign(source.assign(offset=704, number=2)), Assigned)


def test_what_is_assigned_is_in_the_store_once_and_after_the_fetch_not_at_all(slaves):
    source = slaves.supply()
    message = source.assign()
    key = source.payload.keys[:32]

    def copies():
        slaves.store.journal.scrub()
        return slaves.path.read_bytes().count(key)

    assert copies() == 1
    slaves.assign(message)
    assert copies() == 1
    slaves.fetch(S1, "m1", ids(message))
    assert copies() == 0
    assert source.payload.tag_pair(0) not in slaves.path.read_bytes()
    assert any(isinstance(effect, WipeDeleted) for effect in slaves.tick(NOW + 10))


def test_an_assignment_that_comes_before_its_relay_is_rebuilt_is_answered_with_it(slaves):
    source = slaves.supply()
    slaves.change(source.relay("failed"))
    slaves.expecting.add(source.relay_id)
    message = source.assign()
    assert slaves.assign(message) is None
    assert slaves.assign(message) is None
    effects = slaves.change(source.relay())
    assert isinstance(effects[0].report, Assigned)
    assert slaves.fetch(S1, "m1", ids(message))


def test_few_assignments_wait_for_a_relay_and_none_for_one_that_fails(tmp_path):
    slaves = Slaves(Draws(), tmp_path / "kme.sqlite", early=3, early_each=2)
    source = slaves.supply()
    slaves.change(source.relay("failed"))
    slaves.expecting.add(source.relay_id)
    waiting = [source.assign(offset=64 * n, number=n) for n in range(2)]
    assert [slaves.assign(message) for message in waiting] == [None, None]
    assert refused(slaves.assign(source.assign(offset=128, number=1)))[0] == "full"
    slaves.expecting.clear()
    effects = slaves.change(source.relay("failed"))
    assert [refused(effect.report)[0] for effect in effects] == ["unknown-relay"] * 2


def test_one_that_does_not_fit_refuses_all(slaves):
    source = slaves.supply()
    mine, others = source.assign(), source.assign(offset=64, number=1, slave="s2")
    slaves.assign(mine)
    slaves.assign(others)
    for wrong in ([*ids(mine), uuid4()], [*ids(mine), ids(mine)[0]], [], [uuid4() for _ in range(129)]):
        with pytest.raises(BadRequestError):
            slaves.fetch(S1, "m1", wrong)
    with pytest.raises(BadRequestError):
        slaves.fetch(S1, "m2", ids(mine))
    with pytest.raises(NotAllowedError):
        slaves.fetch(S1, "m1", [*ids(mine), *ids(others)])
    with pytest.raises(BadRequestError):
        slaves.fetch(S1, "m1", ids(mine), NOW + 1e5 + CLOCKS_S)
    assert len(slaves.fetch(S1, "m1", ids(mine))) == 2
    assert len(slaves.fetch(S2, "m1", ids(others))) == 2


def test_by_setting_the_same_certificate_fetches_again_for_some_seconds(tmp_path):
    slaves = Slaves(Draws(), tmp_path / "kme.sqlite", fetch_again_s=10.0)
    message = slaves.supply().assign()
    slaves.assign(message)
    found = slaves.fetch(S1, "m1", ids(message))
    assert [key.key for key in slaves.fetch(S1, "m1", ids(message), NOW + 9)] == [key.key for key in found]
    for caller, now in ((Caller("s1", "cc" * 32), NOW + 1), (S1, NOW + 11), (S1, NOW - 1)):
        with pytest.raises(BadRequestError):
            slaves.fetch(caller, "m1", ids(message), now)
    slaves.tick(NOW + 11)
    assert slaves.store.applications.get(ids(message)) == {}
    (count,) = [count.keys for count in slaves.store.applications.counts() if count.state == "fetched"]
    assert count == 2


def test_keys_that_nobody_fetches_expire_and_are_named(slaves):
    message = slaves.supply().assign()
    slaves.assign(message)
    assert not [effect for effect in slaves.tick(NOW + 1e5 + CLOCKS_S - 10) if isinstance(effect, LogEvent)]
    (line,) = [effect for effect in slaves.tick(NOW + 1e5 + CLOCKS_S + 10) if isinstance(effect, LogEvent)]
    assert line.event == "keys.expired"
    assert sorted(line.fields["key_ids"]) == sorted(map(str, ids(message)))
    assert slaves.store.applications.held() == {"here": 0}
    # Its time is over at the source, too: nobody asks for it again.
    assert slaves.store.applications.assignment(message.assignment.assign_id) is None


@pytest.mark.parametrize(
    "after", [without(SAES, "s1"), without(SAES, "m1"), moved(SAES, "s1", "near"), moved(SAES, "m1", "near")]
)
def test_who_leaves_the_directory_or_moves_leaves_nothing_to_whoever_has_the_id_next(slaves, after):
    source = slaves.supply()
    mine, others = source.assign(), source.assign(offset=64, number=1, master="m2", slave="s2")
    slaves.assign(mine)
    slaves.assign(others)
    effects = slaves.adopt(after, lambda pair: loses_keys(SAES, after, pair))
    assert [effect.event for effect in effects] == ["keys.destroyed"]
    slaves.adopt(SAES, lambda pair: loses_keys(after, SAES, pair))
    with pytest.raises(BadRequestError):
        slaves.fetch(S1, "m1", ids(mine))
    assert refused(slaves.assign(mine))[0] == "range"
    assert slaves.fetch(S2, "m2", ids(others))


@pytest.mark.parametrize(
    "after", [moved(SAES, "s1", "near"), moved(SAES, "m1", "near"), pinned(SAES, "s1"), pinned(SAES, "m1")]
)
def test_nor_if_that_happened_while_the_kme_did_not_run(slaves, after):
    source = slaves.supply()
    mine, others = source.assign(), source.assign(offset=64, number=1, master="m2", slave="s2")
    slaves.assign(mine)
    slaves.assign(others)
    slaves.restart(after)
    with pytest.raises(BadRequestError):
        slaves.fetch(S1, "m1", ids(mine))
    assert isinstance(slaves.assign(mine), AssignRefused)
    slaves.restart(after)
    assert slaves.fetch(S2, "m2", ids(others))


def test_while_the_keys_of_a_pair_are_being_destroyed_nobody_has_any_of_them(slaves, monkeypatch):
    """Also if the KME is started anew meanwhile."""
    monkeypatch.setattr(applications, "_ENDED_AT_ONCE", 2)
    source = slaves.supply(tags=4)
    messages = [source.assign(offset=64 * n, number=n) for n in range(3)]
    for message in messages:
        slaves.assign(message)
    after = pinned(SAES, "s1")
    slaves.adopt(after, lambda pair: loses_keys(SAES, after, pair))
    for restarts in (False, True):
        left = [message for message in messages if slaves.store.applications.get(ids(message))]
        assert left
        for message in left:
            with pytest.raises(BadRequestError):
                slaves.fetch(S1, "m1", ids(message))
            assert refused(slaves.assign(message))[0] == "sae"
        if restarts:
            break
        slaves.restart(after)
    assert slaves.side.wait_s(NOW) == 0
    while slaves.side.wait_s(NOW) == 0:
        slaves.tick(NOW)
    assert slaves.store.applications.held() == {"here": 0}
    assert isinstance(slaves.assign(source.assign(offset=512, number=3)), Assigned)


def test_each_key_that_is_destroyed_is_named_in_the_log(slaves):
    source = slaves.supply(size=8192, tags=4)
    message = source.assign(key_count=200)
    slaves.assign(message)
    lines = [e.fields for e in slaves.tick(NOW + 1e5 + CLOCKS_S + 10) if isinstance(e, LogEvent)]
    assert sorted(name for line in lines for name in line["key_ids"]) == sorted(map(str, ids(message)))
    assert sum(line["keys"] for line in lines) == 200


def test_there_is_a_limit_to_what_is_kept(tmp_path):
    slaves = Slaves(Draws(), tmp_path / "kme.sqlite", bytes_each=64, bytes_all=128, supply_bytes=8192)
    source = slaves.supply()
    assert isinstance(slaves.assign(source.assign()), Assigned)
    assert refused(slaves.assign(source.assign(offset=64, number=1)))[0] == "full"
    slaves.supply()
    lost = slaves.supply()
    assert refused(slaves.assign(lost.assign()))[0] == "unknown-relay"
    with slaves.store.journal.transaction():
        keys = slaves.side.draw_local(Pair("s1", "s2"), 2, 256, NOW)
        with pytest.raises(TryLaterError):
            slaves.side.draw_local(Pair("s1", "s2"), 1, 256, NOW)
    assert [key.key for key in slaves.fetch(S2, "s1", [key.key_id for key in keys])] == [key.key for key in keys]
    assert {(key.route, key.compromised) for key in keys} == {("local", 3)}


def test_assignments_are_taken_so_often(tmp_path):
    slaves = Slaves(Draws(), tmp_path / "kme.sqlite", assigns_per_s=1.0)
    source = slaves.supply(tags=4)
    answers = [slaves.assign(source.assign(offset=64 * n, number=n)) for n in range(3)]
    assert [isinstance(answer, Assigned) for answer in answers] == [True, True, False]
    assert refused(answers[2])[0] == "full"
    assert isinstance(slaves.assign(source.assign(offset=192, number=3), NOW + 1), Assigned)


def test_a_commit_that_fails_leaves_everything_as_it_was(slaves):
    source = slaves.supply()
    message = source.assign()

    class BrokenError(Exception):
        pass

    for _ in range(2):
        with suppress(BrokenError), slaves.store.journal.transaction():
            slaves.side.on_assign(message, NOW)
            raise BrokenError
        assert slaves.store.applications.held() == {}
        assert [slot.stored_bytes for slot in slaves.side.incoming(NOW)] == [4096]
    slaves.assign(message)
    for _ in range(2):
        with suppress(BrokenError), slaves.store.journal.transaction():
            slaves.side.fetch(S1, "m1", ids(message), NOW)
            raise BrokenError
    assert len(slaves.fetch(S1, "m1", ids(message))) == 2


def test_nothing_shows_a_key(slaves):
    source = slaves.supply()
    message = source.assign()
    slaves.assign(message)
    (key, *_) = slaves.store.applications.latest(1)
    supply = slaves.store.applications.supply(source.relay_id)
    for shown in (repr(key), repr(supply), str(key)):
        assert repr(key.key)[2:-1] not in shown
        assert "keys=" not in shown


class SlavesMachine(RuleBasedStateMachine):
    """Assignments in any order, repeated, altered and restored: against what was handed out to whom."""

    @initialize()
    def begin(self):
        self.slaves = Slaves(Draws())
        self.sources = [self.slaves.supply(size=1024, tags=4) for _ in range(2)]
        self.sent, self.accepted, self.fetched = [], {}, set()

    @rule(
        source=st.integers(0, 1),
        offset=st.integers(0, 30),
        number=st.integers(0, 3),
        pair=st.sampled_from(["m1 s1", "m2 s1", "m1 s2"]),
        count=st.integers(1, 3),
    )
    def assign(self, source, offset, number, pair, count):
        master, slave = pair.split()
        fields = {"master": master, "slave": slave, "key_count": count}
        self._take(source, self.sources[source].assign(offset * 32, number, **fields))

    @rule(which=st.integers(0, 50))
    def repeat(self, which):
        if self.sent:
            self._take(*self.sent[which % len(self.sent)])

    def _take(self, source, message):
        self.sent.append((source, message))
        answer = self.slaves.assign(message)
        assignment = message.assignment
        known = self.accepted.get(assignment.assign_id)
        mine = [a for s, a in self.accepted.values() if s == source]
        end = max((a.offset + a.length for a in mine), default=0)
        tag = max((a.tag_number + 1 for a in mine), default=0)
        # An independent account of the rule: what was accepted is answered again, the rest only rises.
        allowed = (
            end <= assignment.offset and tag <= assignment.tag_number and assignment.offset + assignment.length <= 1024
        )
        assert isinstance(answer, Assigned) == (known is not None or allowed)
        if isinstance(answer, Assigned):
            self.accepted[assignment.assign_id] = (source, assignment)
        else:
            assert (answer.first_free_byte, answer.first_free_tag) == (end, tag)

    @rule(which=st.integers(0, 50), caller=st.sampled_from([S1, S2]))
    def fetch(self, which, caller):
        if not self.sent:
            return
        source, message = self.sent[which % len(self.sent)]
        assignment = message.assignment
        for number, name in enumerate(ids(message)):
            with suppress(ApplicationError):
                (key,) = self.slaves.fetch(caller, assignment.master, [name])
                assert name not in self.fetched
                assert caller.sae_id == assignment.slave
                size = assignment.key_size_bits // 8
                start = assignment.offset + number * size
                assert key.key == self.sources[source].payload.keys[start : start + size]
                self.fetched.add(name)

    @invariant()
    def each_byte_is_one_pair_s_and_each_tag_key_tags_one_message(self):
        for source in (0, 1):
            mine = sorted(
                (a.offset, a.offset + a.length, a.tag_number) for s, a in self.accepted.values() if s == source
            )
            assert all(end <= start for (_, end, _), (start, _, _) in pairwise(mine))
            assert len({number for *_, number in mine}) == len(mine)


SlavesMachine.TestCase.settings = settings(max_examples=60, stateful_step_count=30)
TestSlaves = SlavesMachine.TestCase
