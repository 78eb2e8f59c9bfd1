"""What one queue's reader takes from a broker that does not keep to the protocol: no more than it has asked for."""

from types import SimpleNamespace

import pytest
from pika import BasicProperties
from pika.data import decode_short_string

from qkdrelay.broker.rabbitmq.inbox import Inbox
from qkdrelay.broker.rabbitmq.reader import Reader
from qkdrelay.broker.rabbitmq.settings import RabbitMqSettings

QUEUE, PREFETCH = "link.kme-3.kme-5", 4


class Channel:
    """What is open to a broker of another site: only what is acknowledged is of interest."""

    is_open = True

    def __init__(self):
        self.acknowledged = []

    def basic_ack(self, tag, multiple=False):
        self.acknowledged.append((tag, multiple))


@pytest.fixture
def reader():
    settings = RabbitMqSettings(addresses="a", user="site.kme-5", password="x", queues=(QUEUE,), prefetch=PREFETCH)
    reader = Reader(QUEUE, settings, None, Inbox(1), lambda: None)
    reader.dropped, reader.channel = [], Channel()
    reader._live = SimpleNamespace(drop=lambda _channel, why: reader.dropped.append(why), works=lambda: None)
    reader._begin(reader.channel)
    return reader


def deliver(reader, tag, body=b"x", exchange="kme.kme-3", key=QUEUE):
    method = SimpleNamespace(exchange=exchange, routing_key=key, redelivered=False, delivery_tag=tag)
    reader._deliver(reader.channel, method, BasicProperties(), body)


def taken(reader):
    return reader._inbox.take(1_000_000, 0.0, (), 2).deliveries


def test_as_many_as_were_asked_for_are_taken_and_acknowledged(reader):
    for tag in range(1, PREFETCH + 1):
        deliver(reader, tag)
    deliveries = taken(reader)
    assert len(deliveries) == PREFETCH
    reader.acknowledge(deliveries[0].token[0], {each.token[1] for each in deliveries})
    assert (reader.channel.acknowledged, reader.dropped) == ([(PREFETCH, True)], [])


def test_more_than_were_asked_for_are_not_taken(reader):
    for tag in range(1, 100):
        deliver(reader, tag)
    assert len(taken(reader)) == PREFETCH
    assert set(reader.dropped) == {f"more than {PREFETCH} messages at a time, which nobody asked for"}


@pytest.mark.parametrize("tags", [[7] * 100, [0] * 100, [1, 2, 1, 2] * 50])
def test_messages_under_one_tag_are_not_taken_twice(reader, tags):
    """Counted by their tags they would be one, however many there are."""
    for tag in tags:
        deliver(reader, tag)
    assert len(taken(reader)) == len(set(tags))
    assert set(reader.dropped) == {"two messages under one tag"}


@pytest.mark.parametrize("tags", [[3, 2, 1], [2**64 - 1, 0, 5]])
def test_tags_in_any_order_are_acknowledged_to_whom_they_are_of(reader, tags):
    for tag in tags:
        deliver(reader, tag)
    deliveries = taken(reader)
    reader.acknowledge(deliveries[0].token[0], {each.token[1] for each in deliveries})
    assert reader._outstanding == {}
    deliver(reader, tags[0])
    assert len(taken(reader)) == 1


@pytest.mark.parametrize("name", [b"\xff", b"results.kme-3\xc3", b"kme.\xed\xa0\x80"])
def test_names_that_are_no_text_are_text(reader, name):
    """They go into a store, and are shown."""
    sent, _ = decode_short_string(bytes([len(name)]) + name, 0)
    assert isinstance(sent, bytes)
    deliver(reader, 1, exchange=sent, key=sent)
    (delivery,) = taken(reader)
    for text in (delivery.exchange, delivery.routing_key):
        assert isinstance(text, str)
        assert text.isascii()
        assert "\\x" in text
