"""What is at one broker: exchanges, queues, bindings, policies, and who may do what with them."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from qkdrelay.broker.names import (
    ANSWERS_AGE_MS_MAX,
    COORD_EXCHANGE,
    DEAD_LETTER_EXCHANGE,
    DEAD_LETTERS_QUEUE,
    EVENTS_EXCHANGE,
    LEAD_QUEUE,
    LEAKS_AGE_MS_MAX,
    LEAKS_KEY,
    LEAKS_QUEUE,
    REPLIES_EXCHANGE,
    REQUESTS_AGE_MS_MAX,
    REQUESTS_KEY,
    TOKEN_AGE_MS_MAX,
    answer_queues,
    client_exchange,
    control_queue,
    coordinator_queues,
    dead_key,
    directions,
    kme_exchange,
    link_queue,
    requests_queue,
    results_queue,
    site_queues,
)
from qkdrelay.network.names import (
    CLI,
    CLIENT_QUEUE,
    CLIENTS,
    COORDINATOR,
    OPERATOR,
    SERVICE_USERS,
    client_queue_prefix,
    site_user,
)

DELIVERY_LIMIT: Final = 1000
"""Every crash counts against all that was prefetched, so a small limit would throw honest messages away."""
_MIB: Final = 1024 * 1024
LINK_BYTES_MAX: Final = 64 * _MIB
CONTROL_BYTES_MAX: Final = 16 * _MIB
RESULTS_BYTES_MAX: Final = 16 * _MIB
REQUESTS_BYTES_MAX: Final = 16 * _MIB
DEAD_LETTERS_BYTES_MAX: Final = 64 * _MIB
LEAKS_BYTES_MAX: Final = 64 * _MIB
TOKENS_BYTES_MAX: Final = 16 * 1024
CLIENT_BYTES_MAX: Final = 16 * _MIB
ANSWERS_BYTES_MAX: Final = 4 * _MIB
CONNECTIONS_MAX: Final = 32
"""Connections that a KME, or another site, may have at a time, beside `CONNECTIONS_PER_QUEUE` for each that it reads.

It needs two, or one for each of its services; but what was cut off is counted until the broker has missed it.
"""
CONNECTIONS_PER_QUEUE: Final = 8
_NOTHING = "^$"


@dataclass(frozen=True)
class BrokerContents:
    """What is at one broker: all of a network, or what is a site's own and what others read there."""

    kmes: Sequence[str]
    """Those that are here."""
    links: Collection[tuple[str, str]]
    """All of the network."""
    controlled: Sequence[str]
    """KMEs that the coordinator reaches by this broker, if it is here."""
    sites: Mapping[str, Collection[str]] = field(default_factory=dict)
    """The other sites that read here: the queues that each does."""
    lab: bool = False

    @property
    def leads(self) -> bool:
        """Whether the coordinator is here."""
        return bool(self.controlled)

    @property
    def users(self) -> tuple[str, ...]:
        """Those with a password."""
        return (*self.kmes, *(SERVICE_USERS if self.leads else (CLI, OPERATOR)))

    @property
    def clients(self) -> tuple[str, ...]:
        """Who asks the coordinator from here: the command line at every site, the page at the coordinator's."""
        return CLIENTS if self.leads else (CLI,)

    @property
    def directions(self) -> list[tuple[str, str]]:
        """The directions of links whose sender is here: that is where their queues are."""
        return [(u, v) for u, v in directions(self.links) if u in self.kmes]


def permissions(broker: BrokerContents) -> Iterator[tuple[str, dict[str, str]]]:
    """Yield (user, what it may)."""
    for kme in broker.kmes:
        yield (
            kme,
            {
                "configure": _NOTHING,
                "write": _any_of(_literal(kme_exchange(kme))),
                "read": _any_of(rf"link\.[^.]+\.{kme}", _literal(control_queue(kme))),
            },
        )
    if broker.leads:
        yield from _permissions_of_coordination(broker)
    else:
        # Its answers are read at the coordinator's broker, by its site.
        yield CLI, {"configure": _NOTHING, "write": _any_of(_literal(client_exchange(CLI))), "read": _NOTHING}
    for site, readable in broker.sites.items():
        yield (
            site_user(site),
            {"configure": _NOTHING, "write": _NOTHING, "read": _any_of(*map(_literal, readable))},
        )
    # An operator sees the management pages; messages are read by those they are meant for.
    yield OPERATOR, {"configure": _NOTHING, "write": _NOTHING, "read": _NOTHING}


def limits(broker: BrokerContents) -> Iterator[tuple[str, dict[str, int]]]:
    """Yield (user, how many connections and channels it may have at a time): of who may be somebody's who takes all."""
    for kme in broker.kmes:
        yield kme, _limits(1 + sum(kme in link for link in broker.links))
    for site, readable in broker.sites.items():
        yield site_user(site), _limits(len(readable))


def _limits(queues: int) -> dict[str, int]:
    connections = CONNECTIONS_MAX + CONNECTIONS_PER_QUEUE * queues
    return {"max-connections": connections, "max-channels": 2 * connections}


def _permissions_of_coordination(broker: BrokerContents) -> Iterator[tuple[str, dict[str, str]]]:
    leaks = (_literal(LEAKS_QUEUE),) if broker.lab else ()
    # What KMEs of other sites report, it passes on to who watches.
    events = (EVENTS_EXCHANGE,) if broker.sites else ()
    yield (
        COORDINATOR,
        {
            "configure": _NOTHING,
            "write": _any_of(COORD_EXCHANGE, REPLIES_EXCHANGE, *events),
            "read": _any_of(r"results\.[^.]+", *_requests(), _literal(LEAD_QUEUE), DEAD_LETTERS_QUEUE, *leaks),
        },
    )
    for client in CLIENTS:
        own_queue = _literal(client_queue_prefix(client)) + ".*"
        # What KMEs say is for the command line to see as it comes; the page shows what the coordinator has verified.
        events = (EVENTS_EXCHANGE,) if client == CLI else ()
        yield (
            client,
            {
                "configure": _any_of(own_queue),
                "write": _any_of(_literal(client_exchange(client)), own_queue),
                "read": _any_of(own_queue, REPLIES_EXCHANGE, *events),
            },
        )


def _requests() -> list[str]:
    return [_literal(requests_queue(client)) for client in CLIENTS]


def _any_of(*patterns: str) -> str:
    """Anchor: RabbitMQ searches, and an open ``kme.kme-1`` would let its user write ``kme.kme-10``."""
    return f"^{patterns[0]}$" if len(patterns) == 1 else f"^({'|'.join(patterns)})$"


def _literal(name: str) -> str:
    """Escape a name. Checked names hold nothing special but dots."""
    return name.replace(".", r"\.")


def exchanges(broker: BrokerContents) -> Iterator[tuple[str, str]]:
    """Yield (name, kind)."""
    # Direct, since all their keys are spelt out: a short message costs the broker a third less than by topics.
    yield from ((kme_exchange(kme), "direct") for kme in broker.kmes)
    if broker.leads:
        yield COORD_EXCHANGE, "direct"
        yield REPLIES_EXCHANGE, "direct"
        yield EVENTS_EXCHANGE, "topic"
    yield from ((client_exchange(client), "direct") for client in broker.clients)
    yield DEAD_LETTER_EXCHANGE, "fanout"


def queues(broker: BrokerContents) -> Iterator[str]:
    """Yield names."""
    yield from (link_queue(u, v) for u, v in broker.directions)
    yield from map(control_queue, broker.controlled)
    yield from (coordinator_queues if broker.leads else site_queues)(broker.kmes, lab=broker.lab)
    if broker.leads:
        yield LEAD_QUEUE
        for site in broker.sites:
            yield from answer_queues(site)


def queue_arguments(queue: str) -> dict[str, Any]:
    """Return what a queue is made with. They cannot change once it exists, so all that might is a policy."""
    if CLIENT_QUEUE.fullmatch(queue):
        # One reader at a time, and the next is told so: of quorum queues none can be had for itself.
        return {"x-queue-type": "classic"}
    return {"x-queue-type": "quorum", "x-single-active-consumer": True}


def bindings(broker: BrokerContents) -> Iterator[tuple[str, str, str, str]]:
    """Yield (source exchange, key, kind of the destination, destination)."""
    for u, v in broker.directions:
        yield kme_exchange(u), link_queue(u, v), "queue", link_queue(u, v)
        if broker.leads:
            # The coordinator puts dead letters back. What it could write besides does not pass the seal.
            yield COORD_EXCHANGE, link_queue(u, v), "queue", link_queue(u, v)
    for kme in broker.controlled:
        yield COORD_EXCHANGE, control_queue(kme), "queue", control_queue(kme)
    for kme in broker.kmes:
        own = kme_exchange(kme)
        yield own, results_queue(kme), "queue", results_queue(kme)
        if broker.leads:
            # One report serves the coordinator and those who watch: two messages would cost more.
            yield own, results_queue(kme), "exchange", EVENTS_EXCHANGE
        yield own, dead_key(kme), "queue", DEAD_LETTERS_QUEUE
        if broker.lab:
            yield own, LEAKS_KEY, "queue", LEAKS_QUEUE
    if broker.leads:
        yield COORD_EXCHANGE, LEAD_QUEUE, "queue", LEAD_QUEUE
        for queue in (queue for site in broker.sites for queue in answer_queues(site)):
            yield REPLIES_EXCHANGE, queue, "queue", queue
    for client in broker.clients:
        yield client_exchange(client), REQUESTS_KEY, "queue", requests_queue(client)
    yield DEAD_LETTER_EXCHANGE, "", "queue", DEAD_LETTERS_QUEUE


def policies(lab: bool) -> Iterator[tuple[str, str, dict[str, Any]]]:
    """Yield (name, anchored pattern of queues, definition); no queue matches two."""
    kept = {
        "delivery-limit": DELIVERY_LIMIT,
        "dead-letter-exchange": DEAD_LETTER_EXCHANGE,
        "overflow": "reject-publish",
    }
    shed = {"delivery-limit": DELIVERY_LIMIT, "overflow": "drop-head"}
    yield "links", r"^link\.[^.]+\.[^.]+$", {**kept, "max-length-bytes": LINK_BYTES_MAX}
    yield "control", r"^kme\.[^.]+\.control$", {**kept, "max-length-bytes": CONTROL_BYTES_MAX}
    yield "results", r"^results\.[^.]+$", {**kept, "max-length-bytes": RESULTS_BYTES_MAX}
    # Whoever asked has given up by then; a coordinator that was away must not act on it.
    requests = {**kept, "max-length-bytes": REQUESTS_BYTES_MAX, "message-ttl": REQUESTS_AGE_MS_MAX}
    yield "requests", _any_of(*_requests()), requests
    tokens = {**shed, "max-length-bytes": TOKENS_BYTES_MAX, "message-ttl": TOKEN_AGE_MS_MAX}
    yield "tokens", _any_of(_literal(LEAD_QUEUE)), tokens
    yield "dead-letters", _any_of(DEAD_LETTERS_QUEUE), {**shed, "max-length-bytes": DEAD_LETTERS_BYTES_MAX}
    if lab:
        leaks = {**shed, "max-length-bytes": LEAKS_BYTES_MAX, "message-ttl": LEAKS_AGE_MS_MAX}
        yield "leaks", _any_of(_literal(LEAKS_QUEUE)), leaks
    answers = {**shed, "max-length-bytes": ANSWERS_BYTES_MAX, "message-ttl": ANSWERS_AGE_MS_MAX}
    yield "answers", rf"^{CLI}\.[^.]+\.q\.", answers
    # Classic queues: no delivery limit there.
    yield (
        "clients",
        f"^({'|'.join(_literal(client_queue_prefix(client)) for client in CLIENTS)})",
        {"overflow": "drop-head", "max-length-bytes": CLIENT_BYTES_MAX},
    )
