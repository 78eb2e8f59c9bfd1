"""An end takes no relay id twice: not after the relay failed, nor once its keys are forgotten, however late."""

from dataclasses import replace
from uuid import UUID, uuid4

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kme.effects import KeepRelay
from kme.endpoint import Endpoint
from kme.model import LATE_S, NodeSettings
from kme.store import open_kme_store
from qkdrelay.errors import RequestRefusedError
from qkdrelay.messages.control import Cancel, Expect
from qkdrelay.messages.fields import TIMEOUT_S_MAX
from qkdrelay.messages.relay_ids import CLOCKS_DIFFER_S, VALID_S, check_relay_id, digits, made_at, new_relay_id, the_one
from qkdrelay.messages.reports import Refused
from support.kme import NOW, terms, told


class Target:
    """The target of relays, with a store and a clock that may be stepped."""

    def __init__(self):
        self.store, self.now = open_kme_store(None, "kme-8"), NOW
        self.endpoint = Endpoint(NodeSettings("kme-8", frozenset(f"kme-{n}" for n in range(1, 8))), bytes)

    def command(self, command):
        with self.store.journal.transaction():
            effects = self.endpoint.on_command(command, self.store, self.now)
            for effect in effects:
                if isinstance(effect, KeepRelay):
                    self.store.keep_relay(effect.relay)
        return effects

    def takes(self, relay_id, timeout_s=30.0):
        """Whether a relay of this id is a new one here."""
        effects = self.command(Expect(terms=terms(relay_id=relay_id, deadline=self.now + timeout_s)))
        return any(isinstance(effect, KeepRelay) for effect in effects)

    def forget(self, relay_id, later):
        """Forget its keys, as if it had been rebuilt."""
        with self.store.journal.transaction():
            relay = self.store.relays.get(relay_id)
            if relay is not None and relay.state == "expecting":
                self.store.keep_relay(replace(relay, state="held"))
            return self.store.forget_relay(relay_id, self.now + later)

    def purge(self):
        with self.store.journal.transaction():
            self.store.purge(self.now)


def test_an_id_says_when_it_was_made_and_is_random_otherwise():
    ids = {new_relay_id(NOW + 0.25) for _ in range(100)}
    assert len({relay_id.hex[:8] for relay_id in ids}) > 90, "people name relays by their first digits"
    assert {made_at(relay_id) for relay_id in ids} == {NOW + 0.25}
    assert {(relay_id.version, relay_id.variant) for relay_id in ids} == {(8, "specified in RFC 4122")}


@pytest.mark.parametrize(
    ("age_s", "taken"),
    [(0, True), (-CLOCKS_DIFFER_S, True), (VALID_S, True), (-CLOCKS_DIFFER_S - 1, False), (VALID_S + 1, False)],
)
def test_only_ids_made_lately_are_taken(age_s, taken):
    target = Target()
    assert target.takes(new_relay_id(NOW - age_s)) == taken


@pytest.mark.parametrize("relay_id", [uuid4(), UUID(int=0), UUID(int=2**128 - 1)])
def test_what_is_no_such_id_is_refused_with_what_it_is(relay_id):
    with pytest.raises(RequestRefusedError, match="was not made lately"):
        check_relay_id(relay_id, NOW)


@settings(max_examples=200)
@given(st.data())
def test_no_id_is_taken_twice_whatever_becomes_of_relay_and_clock(data):
    target, taken = Target(), []
    for _ in range(data.draw(st.integers(5, 25))):
        match data.draw(st.sampled_from(["new", "again", "again", "fail", "forget", "time", "step", "purge"])):
            case "new":
                made = target.now - data.draw(st.floats(-2 * CLOCKS_DIFFER_S, 1.2 * VALID_S))
                relay_id = new_relay_id(max(0.0, made))
                if target.takes(relay_id, data.draw(st.floats(1, TIMEOUT_S_MAX + LATE_S))):
                    taken.append(relay_id)
            case "again" if taken:
                assert not target.takes(data.draw(st.sampled_from(taken)), data.draw(st.floats(1, TIMEOUT_S_MAX)))
            case "fail" if taken:
                target.command(Cancel(relay_id=data.draw(st.sampled_from(taken))))
            case "forget" if taken:
                target.forget(data.draw(st.sampled_from(taken)), data.draw(st.sampled_from([0.0, 1e5])))
            case "time":
                target.now += data.draw(st.floats(0, 3 * VALID_S))
            case "step":
                target.now += data.draw(st.floats(-10 * VALID_S, 10 * VALID_S))
            case "purge":
                target.purge()
    target.now += 10 * VALID_S
    target.purge()
    target.now -= 10 * VALID_S
    assert not any(target.takes(relay_id) for relay_id in taken)


def test_what_is_remembered_of_failed_and_forgotten_relays_ends():
    target = Target()
    for _ in range(20):
        relay_id = new_relay_id(target.now)
        assert target.takes(relay_id)
        target.command(Cancel(relay_id=relay_id))
        target.now += VALID_S
        target.purge()
    assert len(list(target.store.relays.latest())) <= 3


def test_a_forgotten_id_is_refused():
    target = Target()
    relay_id = new_relay_id(NOW)
    assert target.takes(relay_id)
    assert target.forget(relay_id, 1e5)
    assert not target.takes(relay_id)
    (refused,) = told(target.command(Expect(terms=terms(relay_id=relay_id, deadline=NOW + 60.0, key_count=1))))
    assert isinstance(refused, Refused)
    assert "used before" in refused.reason


def test_a_relay_is_named_by_any_beginning_that_is_its_alone():
    store = open_kme_store(None, "kme-8")
    ids = [UUID(f"abcd{n:04x}-0000-8000-8000-018bcfe56800") for n in range(12)]
    target = Target()
    target.store = store
    for relay_id in ids:
        assert target.takes(relay_id)
    for written in ("ABCD0003", "abcd0003-0000-8", str(ids[3])):
        assert the_one(written, store.relays.named(digits(written), 9), "") == ids[3]
    with pytest.raises(RequestRefusedError) as error:
        the_one("abcd", store.relays.named(digits("abcd"), 9), "")
    assert str(error.value).endswith(f"{ids[0]}, {', '.join(map(str, ids[1:8]))}, ...")
    with pytest.raises(RequestRefusedError, match="there is no relay 'abcd1'"):
        the_one("abcd1", store.relays.named(digits("abcd1"), 9), "`kme keys` lists them")
    for wrong in ("", "abc", "xyz1", "a" * 33, "abcd\n", "%_%_"):
        with pytest.raises(RequestRefusedError, match="is no relay id"):
            digits(wrong)
