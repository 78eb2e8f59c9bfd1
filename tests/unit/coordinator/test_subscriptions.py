"""Those who wait for an answer: also while the coordinator's clock is stepped back."""

import math
from uuid import uuid4

import pytest

from coordinator.clients import Clients
from coordinator.lifecycle import Relay
from coordinator.store import open_coordinator_store
from coordinator.subscriptions import COMMAND_WAIT_S, FOLLOW_MAX_S, Subscriptions
from qkdrelay.messages import codec
from qkdrelay.messages.answers import Refusal, Reply
from qkdrelay.messages.control import SignedMessage
from qkdrelay.messages.requests import NetworkRequest, Request
from qkdrelay.network.names import CLI
from support.kme import RELAY, terms

NOW, HOURS = 1_700_000_000.0, 3 * 3600.0


@pytest.fixture
def store():
    kept = open_coordinator_store(None)
    yield kept
    kept.journal.close()


def request():
    return Request(request_id=uuid4(), reply_to="cli.q.0", at=NOW, body=NetworkRequest())


def said(store, subscriptions, now):
    """What is answered at ``now``."""
    with store.journal.transaction():
        subscriptions.tick(now)
    signed = [codec.decode(publication.body, SignedMessage) for publication in store.journal.outbox.drain_committed()]
    return [codec.decode(message.body, Reply).body for message in signed]


def waiting(store):
    return Subscriptions(store, Clients(store, {CLI: bytes(32)}, {}))


@pytest.mark.parametrize("later", [COMMAND_WAIT_S, HOURS, -HOURS])
def test_who_waits_for_a_command_is_told_in_time_that_it_was_not_answered(store, later):
    subscriptions = waiting(store)
    subscriptions.await_done(request(), "done", {uuid4(): "kme-1"}, NOW)
    assert said(store, subscriptions, NOW + COMMAND_WAIT_S - 0.1) == []
    (refusal,) = said(store, subscriptions, NOW + later)
    assert isinstance(refusal, Refusal)
    assert refusal.unanswered
    assert said(store, subscriptions, NOW + later) == []


@pytest.mark.parametrize("later", [FOLLOW_MAX_S, -HOURS])
def test_who_follows_and_is_gone_is_forgotten(store, later):
    subscriptions = waiting(store)
    subscriptions.follow(request(), uuid4(), NOW)
    said(store, subscriptions, NOW)
    assert subscriptions.followers_count() == 1
    said(store, subscriptions, NOW + later)
    assert subscriptions.followers_count() == 0


def test_the_next_turn_is_when_the_first_caller_is_late(store):
    subscriptions = waiting(store)
    for asked_at in (NOW, NOW + 1):
        subscriptions.await_done(request(), "done", {uuid4(): "kme-1"}, asked_at)
    assert subscriptions.wait_s(NOW + 3) == COMMAND_WAIT_S - 3
    said(store, subscriptions, NOW + COMMAND_WAIT_S)
    assert subscriptions.wait_s(NOW + COMMAND_WAIT_S) == 1
    said(store, subscriptions, NOW + COMMAND_WAIT_S + 1)
    assert subscriptions.wait_s(NOW + COMMAND_WAIT_S + 1) == math.inf


def test_the_next_turn_is_when_a_follower_may_be_shown_what_changed_a_moment_ago(store):
    subscriptions, relay = waiting(store), Relay(terms=terms(), policy="p", protected=True, created_at=NOW)
    with store.journal.transaction():
        store.relays.keep(relay, NOW, told=())
    for until_decided in (False, True):
        subscriptions.follow(request(), RELAY, NOW, until_decided=until_decided)
    assert len(said(store, subscriptions, NOW)) == 1
    assert subscriptions.wait_s(NOW) == math.inf
    subscriptions.changed(RELAY)
    assert said(store, subscriptions, NOW + 0.0625) == []
    at = NOW + 0.0625 + subscriptions.wait_s(NOW + 0.0625)
    assert at == pytest.approx(NOW + 0.1, abs=1e-6)
    assert said(store, subscriptions, at - 0.01) == []
    assert len(said(store, subscriptions, at + 1e-6)) == 1
    assert subscriptions.wait_s(at + 1e-6) == math.inf
