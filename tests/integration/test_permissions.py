"""Least privilege: every user tries every command on every queue and exchange, and may do what is written here only."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from fnmatch import fnmatchcase
from itertools import product
from typing import Any

import pika
import pytest
from pika.exceptions import AMQPConnectionError, ChannelClosedByBroker, ConnectionClosedByBroker, UnroutableError

from qkdrelay.broker.contents import CONNECTIONS_MAX, CONNECTIONS_PER_QUEUE
from support.rabbitmq import RabbitMqServer, VirtualHost

pytestmark = pytest.mark.rabbitmq

# kme-1 and kme-10 differ where a pattern without an end would not.
KMES = ("kme-1", "kme-2", "kme-10")
LINKS = (("kme-1", "kme-2"), ("kme-10", "kme-2"))
USERS = (*KMES, "coordinator", "cli", "page", "operator")
QUEUES = (
    *("link.kme-1.kme-2", "link.kme-2.kme-1", "link.kme-10.kme-2", "link.kme-2.kme-10"),
    *(f"kme.{kme}.control" for kme in KMES),
    *(f"results.{kme}" for kme in KMES),
    *("coordinator.requests", "coordinator.requests.page", "coordinator.lead", "dead-letters", "lab.leaks"),
)
EXCHANGES = (*(f"kme.{kme}" for kme in KMES), "coord", "cli", "page", "replies", "events", "dlx", "amq.topic")
KINDS = {"events": "topic", "amq.topic": "topic", "dlx": "fanout"}

# The table of design document "RabbitMQ", once more and in another form: names as a shell would match them.
READ = {kme: (f"link.*.{kme}", f"kme.{kme}.control") for kme in KMES} | {
    "coordinator": (
        *("results.*", "coordinator.requests", "coordinator.requests.page", "coordinator.lead"),
        *("dead-letters", "lab.leaks"),
    ),
    "cli": ("cli.q.*", "replies", "events"),
    "page": ("page.q.*", "replies"),
    "operator": (),
}
WRITE = {kme: (f"kme.{kme}",) for kme in KMES} | {
    "coordinator": ("coord", "replies"),
    "cli": ("cli", "cli.q.*"),
    "page": ("page", "page.q.*"),
    "operator": (),
}
CONFIGURE: dict[str, tuple[str, ...]] = dict.fromkeys(USERS, ()) | {"cli": ("cli.q.*",), "page": ("page.q.*",)}
ROUTED = {kme: (f"link.{kme}.*", f"results.{kme}", f"dead.{kme}", "lab.leaks") for kme in KMES} | {
    # What it puts back from the dead letters; the tag inside is the sender's, and its receiver checks it.
    "coordinator": ("kme.*.control", "link.*.*", "coordinator.lead"),
    "cli": ("requests",),
    "page": ("requests",),
}

Command = Callable[[Any], object]


class Person:
    """One user's connection; a refusal costs the channel, so there is a new one after it."""

    def __init__(self, host: VirtualHost, user: str) -> None:
        credentials = pika.PlainCredentials(user, host.passwords[user])
        at, _, port = host.addresses.partition(":")
        self.user = user
        self.connection = pika.BlockingConnection(pika.ConnectionParameters(at, int(port), host.vhost, credentials))
        self._channel: Any = None

    def may(self, command: Command) -> bool:
        """Try it; False if access is refused."""
        if self._channel is None:
            self._channel = self.connection.channel()
            self._channel.confirm_delivery()
        try:
            command(self._channel)
        except ChannelClosedByBroker as refusal:
            self._channel = None
            # 405: to get single messages is refused to everybody where there is a single active consumer.
            if refusal.reply_code not in (403, 405):
                raise
            return refusal.reply_code != 403
        return True

    def reads(self, name: str) -> bool:
        return matches(name, READ[self.user])

    def writes(self, name: str) -> bool:
        return matches(name, WRITE[self.user])

    def configures(self, name: str) -> bool:
        return matches(name, CONFIGURE[self.user])


def matches(name: str, patterns: tuple[str, ...]) -> bool:
    return any(fnmatchcase(name, pattern) and name.count(".") == pattern.count(".") for pattern in patterns)


@pytest.fixture(scope="module")
def host(rabbitmq: RabbitMqServer) -> Iterator[VirtualHost]:
    with rabbitmq.vhost(KMES, LINKS, lab=True) as host:
        yield host


@pytest.fixture(params=USERS)
def person(host: VirtualHost, request: pytest.FixtureRequest) -> Iterator[Person]:
    person = Person(host, request.param)
    yield person
    person.connection.close()


def test_what_is_there_is_what_is_tried(host: VirtualHost) -> None:
    def there(kind: str) -> set[str]:
        return {each["name"] for each in host.server.call("GET", f"{kind}/{host.vhost}")}

    assert there("queues") == set(QUEUES)
    assert {name for name in there("exchanges") if name and not name.startswith("amq.")} == set(EXCHANGES) - {
        "amq.topic"
    }


def test_every_command_on_every_queue_and_exchange(person: Person) -> None:
    tried = {}
    for command, name, act, expected in [*on_queues(person), *on_exchanges(person), *bindings(person)]:
        tried[command, name] = (person.may(act), expected)
    assert len(tried) > 300
    assert {what: got for what, (got, expected) in tried.items() if got != expected} == {}


Case = tuple[str, str, Command, bool]


def on_queues(person: Person) -> Iterator[Case]:
    arguments = {"x-queue-type": "quorum", "x-single-active-consumer": True}
    for queue in QUEUES:
        reads = person.reads(queue)
        yield "consume", queue, lambda it, q=queue: it.basic_cancel(it.basic_consume(q, lambda *_: None)), reads
        yield "get", queue, lambda it, q=queue: it.basic_get(q, auto_ack=True), reads
        yield "purge", queue, lambda it, q=queue: it.queue_purge(q), reads
        configures = person.configures(queue)
        yield "declare", queue, lambda it, q=queue: it.queue_declare(q, durable=True, arguments=arguments), configures
        yield "delete", queue, lambda it, q=queue: it.queue_delete(q), configures
        # Through the default exchange any queue could be written.
        yield "publish to", queue, lambda it, q=queue: it.basic_publish("", q, b""), False
        # Whoever is let in may look: no permission is asked for. docs/claims.md says so.
        yield "look at", queue, lambda it, q=queue: it.queue_declare(q, passive=True), True
    for queue in ("link.kme-1.kme-10", f"link.{person.user}.kme-2.x", "kme.x.control", "mine"):
        yield "make", queue, lambda it, q=queue: it.queue_declare(q, durable=True), False
    classic = {"x-queue-type": "classic"}
    for client in ("cli", "page"):
        queue = f"{client}.q.x"
        yield (
            "make",
            queue,
            lambda it, q=queue: it.queue_declare(q, exclusive=True, arguments=classic),
            person.user == client,
        )


def on_exchanges(person: Person) -> Iterator[Case]:
    for exchange in EXCHANGES:
        kind = KINDS.get(exchange, "direct")
        writes, configures = person.writes(exchange), person.configures(exchange)
        yield "publish by", exchange, lambda it, e=exchange: it.basic_publish(e, "nowhere", b""), writes
        yield "declare", exchange, lambda it, e=exchange, k=kind: it.exchange_declare(e, k, durable=True), configures
        yield "delete", exchange, lambda it, e=exchange: it.exchange_delete(e), configures
    yield "make", "kme.x", lambda it: it.exchange_declare("kme.x", "direct"), False


def bindings(person: Person) -> Iterator[Case]:
    for source, queue in product(EXCHANGES, QUEUES):
        allowed = person.writes(queue) and person.reads(source)
        yield "bind", f"{source} {queue}", lambda it, e=source, q=queue: it.queue_bind(q, e, "x"), allowed
        yield "unbind", f"{source} {queue}", lambda it, e=source, q=queue: it.queue_unbind(q, e, q), allowed
    for source, target in product(EXCHANGES, EXCHANGES):
        allowed = person.writes(target) and person.reads(source)
        yield "lead", f"{source} {target}", lambda it, e=source, t=target: it.exchange_bind(t, e, "#"), allowed


OWN = {**{kme: f"kme.{kme}" for kme in KMES}, "coordinator": "coord", "cli": "cli", "page": "page"}


def reaches(person: Person, key: str, **properties: Any) -> bool:
    """Publish through the user's own exchange; False if that leads nowhere."""
    message = pika.BasicProperties(**properties)

    def publish(channel: Any) -> None:
        channel.basic_publish(OWN[person.user], key, b"", message, mandatory=True)

    try:
        return person.may(publish)
    except UnroutableError:
        return False


@pytest.mark.parametrize("person", ROUTED, indirect=True)
def test_through_an_exchange_of_ones_own_only_ones_own_queues_are_reached(person: Person) -> None:
    keys = {*QUEUES, "requests", "#", "*.*.*", "event.x", *(f"dead.{kme}" for kme in KMES)}
    own = {key for key in keys if matches(key, ROUTED[person.user])}
    assert own
    assert {key for key in keys if reaches(person, key)} == own
    # RabbitMQ also routes by the headers CC and BCC: by the same bindings.
    assert {key for key in keys if reaches(person, "nowhere", headers={"CC": [key]})} == own
    assert {key for key in keys if reaches(person, "nowhere", headers={"BCC": [key]})} == own


@pytest.mark.parametrize("person", ROUTED, indirect=True)
def test_nobody_can_sign_as_another(person: Person) -> None:
    for other in set(USERS) - {person.user}:
        with pytest.raises(ChannelClosedByBroker, match="user_id"):
            reaches(person, "nowhere", user_id=other)


def test_a_kme_that_takes_all_connections_and_channels_there_are_leaves_those_of_others(
    rabbitmq: RabbitMqServer,
) -> None:
    greedy, other = "kme-71", "kme-72"  # whom no other test has: a user's connections are counted in all virtual hosts
    most = CONNECTIONS_MAX + CONNECTIONS_PER_QUEUE * 2  # of its link, and its commands
    with rabbitmq.vhost((greedy, other), [(greedy, other)]) as host, ExitStack() as held:

        def connect(user: str) -> pika.BlockingConnection:
            connection = Person(host, user).connection
            held.callback(lambda: connection.is_open and connection.close())
            return connection

        taken = [connect(greedy) for _ in range(most)]
        with pytest.raises(AMQPConnectionError, match=f"limit \\({most}\\) is reached"):
            connect(greedy)
        with pytest.raises(ConnectionClosedByBroker, match=f"limit of \\({2 * most}\\)"):
            [taken[0].channel() for _ in range(2 * most + 1)]
        connect(other).channel()
