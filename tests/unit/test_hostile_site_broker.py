"""What the broker of another site may send: it costs the service that site's queues, and nothing at its own broker."""

import os
import socket
import struct
import threading
import time
from contextlib import suppress

import pytest
from pika import frame, spec

from qkdrelay.broker.rabbitmq import RabbitMqBroker
from qkdrelay.broker.rabbitmq.settings import RabbitMqSettings

QUEUE, SITE = "link.kme-3.kme-5", "paris"
WAIT_S = 10.0


class Server:
    """Lets everybody in, as a broker does, and sends ``evil(channel, consumer tag)`` to who asks for the queue."""

    def __init__(self, evil=None, *, at="consume"):
        self.evil, self.at = evil, at
        self.logins = self.sent = 0
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.address = f"127.0.0.1:{self._listening.getsockname()[1]}"
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self):
        self._listening.close()

    def _accept(self):
        with suppress(OSError):
            while True:
                talking, _ = self._listening.accept()
                threading.Thread(target=self._talk, args=(talking,), daemon=True).start()

    def _talk(self, talking):
        def say(channel, method):
            talking.sendall(frame.Method(channel, method).marshal())

        def be_evil(channel, tag):
            self.sent += 1
            talking.sendall(self.evil(channel, tag))

        with suppress(OSError), talking:
            talking.recv(8)
            if self.at == "start":
                be_evil(0, "")
            start = spec.Connection.Start(0, 9, {"version": "4.1.0"}, "PLAIN EXTERNAL", "en_US")
            say(0, start)
            data = b""
            while more := talking.recv(65536):
                data += more
                while data:
                    used, got = frame.decode_frame(data)
                    if got is None:
                        break
                    data = data[used:]
                    method = getattr(got, "method", None)
                    channel = got.channel_number if method is not None else 0
                    match method:
                        case spec.Connection.StartOk():
                            if self.at == "tune":
                                be_evil(0, "")
                            say(0, spec.Connection.Tune(0, 131072, 0))
                        case spec.Connection.Open():
                            self.logins += 1
                            say(0, spec.Connection.OpenOk())
                        case spec.Connection.Close():
                            say(0, spec.Connection.CloseOk())
                            return
                        case spec.Channel.Open():
                            say(channel, spec.Channel.OpenOk())
                        case spec.Channel.Close():
                            say(channel, spec.Channel.CloseOk())
                        case spec.Basic.Qos():
                            say(channel, spec.Basic.QosOk())
                        case spec.Basic.Consume(consumer_tag=tag):
                            say(channel, spec.Basic.ConsumeOk(tag))
                            if self.at == "consume":
                                be_evil(channel, tag)


def method(channel, what):
    return frame.Method(channel, what).marshal()


def raw(kind, channel, payload):
    return struct.pack(">BHL", kind, channel, len(payload)) + payload + b"\xce"


def short(text):
    return bytes([len(text)]) + text


def misnamed(channel, tag):
    """A message whose exchange and routing key are no text."""
    names = short(b"kme.\xff") + short(b"\xff\xfe")
    deliver = struct.pack(">HH", 60, 60) + short(tag.encode()) + struct.pack(">QB", 1, 0) + names
    return raw(1, channel, deliver) + content(channel, 1)


def message(channel, tag, *, size=1, delivery_tag=1, exchange="kme.kme-3"):
    deliver = spec.Basic.Deliver(tag, delivery_tag, False, exchange, QUEUE)
    return method(channel, deliver) + content(channel, size)


def content(channel, size):
    return frame.Header(channel, size, spec.BasicProperties()).marshal() + frame.Body(channel, b"x" * size).marshal()


EVIL = {
    "noise": lambda channel, tag: os.urandom(5000),
    "zeros": lambda channel, tag: bytes(5000),
    "another protocol": lambda channel, tag: b"HTTP/1.1 400 Bad Request\r\n\r\n",
    "an unknown frame": lambda channel, tag: raw(7, channel, b"x"),
    "an unknown method": lambda channel, tag: raw(1, channel, b"\x7f\xff\x7f\xff"),
    "half a method": lambda channel, tag: raw(1, channel, struct.pack(">HH", 60, 60) + b"\x40x"),
    "no method": lambda channel, tag: raw(1, channel, b""),
    "half a header": lambda channel, tag: raw(2, channel, b"\x00"),
    "a frame with another end": lambda channel, tag: raw(1, channel, b"\x00\x0a\x00\x0a")[:-1] + b"x",
    "a frame without end": lambda channel, tag: struct.pack(">BHL", 3, channel, 2**32 - 1) + bytes(2**21),
    "a body of nothing": lambda channel, tag: frame.Body(channel, b"x").marshal(),
    "a header of nothing": lambda channel, tag: frame.Header(channel, 1, spec.BasicProperties()).marshal(),
    "a body too long": lambda channel, tag: message(channel, tag)[:-9] + frame.Body(channel, b"xxx").marshal(),
    "a message too long": lambda channel, tag: (
        method(channel, spec.Basic.Deliver(tag, 1, False, "", ""))
        + frame.Header(channel, 2**40, spec.BasicProperties()).marshal()
    ),
    "for nobody": lambda channel, tag: message(channel, "nobody"),
    "on no channel": lambda channel, tag: message(99, tag),
    "on channel 0": lambda channel, tag: message(0, tag),
    "too many": lambda channel, tag: b"".join(message(channel, tag, delivery_tag=n) for n in range(1, 200)),
    "under one tag": lambda channel, tag: message(channel, tag) * 200,
    "under names that are no text": misnamed,
    "an answer to nothing": lambda channel, tag: (
        method(channel, spec.Basic.ConsumeOk("x")) + method(channel, spec.Queue.DeclareOk("x", 1, 1))
    ),
    "a confirm": lambda channel, tag: method(channel, spec.Basic.Ack(2**63, True)),
    "a nack": lambda channel, tag: method(channel, spec.Basic.Nack(2**63, True)),
    "a return": lambda channel, tag: (
        method(channel, spec.Basic.Return(312, "NO_ROUTE", "kme.kme-5", "x"))
        + frame.Header(channel, 0, spec.BasicProperties()).marshal()
    ),
    "a command of clients": lambda channel, tag: method(channel, spec.Basic.Publish(0, "x", "x")),
    "one more beginning": lambda channel, tag: method(0, spec.Connection.Start(0, 9, {}, "PLAIN", "en_US")),
    "other terms": lambda channel, tag: method(0, spec.Connection.Tune(1, 1, 1)),
    "open again": lambda channel, tag: method(0, spec.Connection.OpenOk()),
    "a new secret": lambda channel, tag: method(0, spec.Connection.UpdateSecretOk()),
    "a channel's end": lambda channel, tag: raw(
        1, channel, struct.pack(">HHH", 20, 40, 404) + b"\x02\xff\xfe" + bytes(4)
    ),
    "an end": lambda channel, tag: raw(1, 0, struct.pack(">HHH", 10, 50, 320) + b"\x02\xff\xfe" + bytes(4)),
    "a cancel": lambda channel, tag: method(channel, spec.Basic.Cancel(tag)),
    "a cancel of nothing": lambda channel, tag: method(channel, spec.Basic.Cancel("nobody")),
    "blocked": lambda channel, tag: method(0, spec.Connection.Blocked("low on everything")),
    "flow": lambda channel, tag: method(channel, spec.Channel.Flow(False)),
}


def ways(server, hostile):
    own = RabbitMqSettings(addresses=server.address, user="kme-5", password="x", backoff_min_s=0.01, prefetch=4)
    there = RabbitMqSettings(
        addresses=hostile.address,
        user="site.berlin",
        password="x",
        queues=(QUEUE,),
        site=SITE,
        service="kme-5",
        prefetch=4,
        backoff_min_s=0.01,
        backoff_max_s=0.05,
    )
    return own, there


def eventually(holds):
    deadline = time.monotonic() + WAIT_S
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.01)


@pytest.mark.filterwarnings("error::pytest.PytestUnhandledThreadExceptionWarning")
@pytest.mark.parametrize("at", ["consume", "start", "tune"])
@pytest.mark.parametrize("evil", EVIL)
def test_whatever_another_sites_broker_sends_the_own_one_is_not_lost(evil, at):
    own, hostile = Server(), Server(EVIL[evil], at=at)
    way, other = ways(own, hostile)
    broker, deliveries = RabbitMqBroker(way, [other]), []

    def receive():
        received = broker.receive(1000, 0.05)
        deliveries.extend(received.deliveries)
        return received

    broker.start()
    try:
        eventually(lambda: receive().publishing == 1 and hostile.sent >= 1)
        for _ in range(6):  # what fails at once fails again and again
            received = receive()
            assert (received.publishing, received.blocked, received.refused) == (1, "", {})
        assert broker._thread.is_alive()
        assert own.logins == 2
        # From one connection to the next, no more than was asked for.
        assert len(deliveries) <= 4 * hostile.sent
        assert {each.site for each in deliveries} <= {SITE}
    finally:
        broker.close(2.0)
        own.close()
        hostile.close()
    assert not broker._thread.is_alive()


@pytest.mark.parametrize("evil", ["a frame without end", "a message too long", "too many", "under one tag", "noise"])
def test_a_broker_that_sends_what_cannot_be_kept_is_left_and_tried_again(evil):
    own, hostile = Server(), Server(EVIL[evil])
    way, other = ways(own, hostile)
    broker = RabbitMqBroker(way, [other])
    broker.start()
    try:
        eventually(lambda: broker.receive(0, 0.05).publishing == 1 and hostile.sent >= 2)
        eventually(lambda: broker.receive(0, 0.05).remark)
    finally:
        broker.close(2.0)
        own.close()
        hostile.close()


def test_what_is_in_order_is_taken_and_what_has_no_name_is_named():
    own, hostile = Server(), Server(lambda channel, tag: message(channel, tag, delivery_tag=2) + misnamed(channel, tag))
    way, other = ways(own, hostile)
    broker, deliveries = RabbitMqBroker(way, [other]), []
    broker.start()
    try:
        eventually(lambda: deliveries.extend(broker.receive(9, 0.05).deliveries) or len(deliveries) == 2)
    finally:
        broker.close(2.0)
        own.close()
        hostile.close()
    assert [(each.exchange, each.routing_key, each.place) for each in deliveries] == [
        ("kme.kme-3", QUEUE, f"{QUEUE} at {SITE}"),
        ("kme.\\xff", "\\xff\\xfe", f"{QUEUE} at {SITE}"),
    ]
