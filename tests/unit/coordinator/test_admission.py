"""Relays are admitted from plain data, and refused with data that each front end words."""

import pytest

from coordinator import admission as module
from coordinator.admission import (
    Admission,
    PlanTooLargeError,
    RelaySpec,
    TimeoutRefusedError,
    TooManyUndecidedError,
)
from coordinator.store import open_coordinator_store
from qkdrelay.messages.control import FixedDemand
from qkdrelay.messages.keys import KeyAmountError
from qkdrelay.network.demand import Demand
from qkdrelay.network.refusals import NoPlanError, UnprotectedError
from support.kme import NOW, RELAY
from support.network import DIAMOND, of

LINE = of(["a", "b", "c"], [("a", "b"), ("b", "c")])


@pytest.fixture
def store():
    kept = open_coordinator_store(None)
    yield kept
    kept.journal.close()


def spec(**changed):
    defaults = {"source": "kme-1", "target": "kme-4", "key_count": 2, "key_size_bits": 256, "timeout_s": 30.0}
    return RelaySpec(**{"relay_id": RELAY, "demand": Demand(1, 0, 0), **defaults, **changed})


def admitted(store, topology=DIAMOND, **changed):
    return Admission(topology, store.relays, {}).admit(spec(**changed), NOW)


def test_a_relay_is_planned_from_plain_data(store):
    relay = admitted(store)
    assert (relay.relay_id, relay.ends, relay.state, relay.protected) == (RELAY, ("kme-1", "kme-4"), "planned", True)
    terms = relay.terms
    assert (terms.key_count, terms.key_size_bits, terms.deadline) == (2, 256, NOW + 30)
    assert terms.withstand == FixedDemand(compromised=1, failed=0, tampering=0)
    assert store.relays.count(supply=True) == 0


@pytest.mark.parametrize(
    ("error", "data", "topology", "changed"),
    [
        (KeyAmountError, {}, DIAMOND, {"key_count": 0}),
        (TimeoutRefusedError, {"timeout_s": 0.5}, DIAMOND, {"timeout_s": 0.5}),
        (NoPlanError, {"demand": Demand(2, 0, 0), "of_policy": True}, DIAMOND, {"demand": Demand(2, 0, 0)}),
        (
            UnprotectedError,
            {"source": "a", "target": "c"},
            LINE,
            {"source": "a", "target": "c", "demand": Demand(0, 0, 0)},
        ),
        (TooManyUndecidedError, {"limit": 1}, DIAMOND, {}),
        (PlanTooLargeError, {"limit": 9}, DIAMOND, {}),
    ],
)
def test_what_cannot_be_is_refused_with_data_and_without_a_word_of_options(
    store, monkeypatch, error, data, topology, changed
):
    if error is TooManyUndecidedError:
        monkeypatch.setattr(module, "UNDECIDED_MAX", 1)
        with store.journal.transaction():
            store.relays.keep(admitted(store), NOW, told=())
    if error is PlanTooLargeError:
        monkeypatch.setattr(module, "PLAN_BYTES_MAX", 9)
    with pytest.raises(error) as refused:
        admitted(store, topology, **changed)
    assert {name: getattr(refused.value, name) for name in data} == data
    assert "--" not in f"{refused.value} {refused.value.hint}"
