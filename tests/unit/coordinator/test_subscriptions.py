"""Those who wait for an answer: also while the coordinator's clock is stepped back."""

from uuid import uuid4

import pytest

from coordinator.store import open_coordinator_store
from coordinator.subscriptions import COMMAND_WAIT_S, FOLLOW_MAX_S, Subscriptions
from qkdrelay.messages import codec
from qkdrelay.messages.answers import Refusal, Reply
from qkdrelay.messages.control import SignedMessage
from qkdrelay.messages.dialogue import Answerer
from qkdrelay.messages.requests import NetworkRequest, Request

NOW, HOURS = 1_700_000_000.0, 3 * 3600.0


@pytest.fixture
def store():
    kept = open_coordinator_store(None)
    yield kept
    kept.journal.close()


def request():
    return Request(request_id=uuid4(), reply_to="cli.q.0", at=NOW, body=NetworkRequest())


def said(store, audience, now):
    """What is answered at ``now``."""
    with store.journal.transaction():
        audience.tick(now)
    signed = [codec.decode(publication.body, SignedMessage) for publication in store.journal.outbox.drain_committed()]
    return [codec.decode(message.body, Reply).body for message in signed]


def waiting(store):
    return Subscriptions(store, Answerer(bytes(32), lambda: store.journal.numbers.epoch))


@pytest.mark.parametrize("later", [COMMAND_WAIT_S, HOURS, -HOURS])
def test_who_waits_for_a_command_is_told_in_time_that_it_was_not_answered(store, later):
    audience = waiting(store)
    audience.await_done(request(), "done", {uuid4(): "kme-1"}, NOW)
    assert said(store, audience, NOW + COMMAND_WAIT_S - 0.1) == []
    (refusal,) = said(store, audience, NOW + later)
    assert isinstance(refusal, Refusal)
    assert refusal.unanswered
    assert said(store, audience, NOW + later) == []


@pytest.mark.parametrize("later", [FOLLOW_MAX_S, -HOURS])
def test_who_follows_and_is_gone_is_forgotten(store, later):
    audience = waiting(store)
    audience.follow(request(), uuid4(), NOW)
    said(store, audience, NOW)
    assert len(audience._followers) == 1
    said(store, audience, NOW + later)
    assert not audience._followers
