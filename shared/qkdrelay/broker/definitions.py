"""RabbitMQ's definitions document for a network: users, permissions, exchanges, queues, bindings, policies."""

from __future__ import annotations

import base64
import hashlib
import os
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from typing import Any, Final

from qkdrelay.broker.names import (
    COORD_EXCHANGE,
    DEAD_LETTER_EXCHANGE,
    DEAD_LETTERS_QUEUE,
    EVENTS_EXCHANGE,
    LEAKS_AGE_MS_MAX,
    LEAKS_KEY,
    LEAKS_QUEUE,
    REPLIES_EXCHANGE,
    REQUESTS_AGE_MS_MAX,
    REQUESTS_KEY,
    VHOST,
    client_exchange,
    control_queue,
    coordinator_queues,
    dead_key,
    directions,
    kme_exchange,
    link_queue,
    requests_queue,
    results_queue,
)
from qkdrelay.errors import SettingsError, TopologyError
from qkdrelay.network.names import (
    CLI,
    CLIENTS,
    COORDINATOR,
    KME_NAME,
    KME_NAME_RULE,
    OPERATOR,
    SERVICE_USERS,
    client_queue_prefix,
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
CLIENT_BYTES_MAX: Final = 16 * _MIB
_NOTHING = "^$"
_SALT_BYTES = 4


def definitions(
    kmes: Sequence[str],
    links: Collection[tuple[str, str]],
    passwords: Mapping[str, str],
    *,
    vhost: str = VHOST,
    lab: bool = False,
) -> dict[str, Any]:
    """Return RabbitMQ's definitions document for a network, ready for ``json.dumps``.

    ``links`` are unordered pairs of KMEs; both directions get a queue. ``passwords`` has one entry for each
    KME and each of `SERVICE_USERS`; only salted SHA-256 hashes of them are in the document. ``lab`` adds the
    queue in which KMEs leak on purpose.

    Raises `TopologyError` for a bad KME name or link, `SettingsError` for a missing or surplus password.
    """
    _check_network(kmes, links)
    _check_passwords(kmes, passwords)
    return {
        "vhosts": [{"name": vhost}],
        "users": [_user(name, passwords[name]) for name in (*kmes, *SERVICE_USERS)],
        "permissions": [{"user": user, "vhost": vhost, **granted} for user, granted in _permissions(kmes, lab)],
        "exchanges": [
            {
                "name": name,
                "vhost": vhost,
                "type": kind,
                "durable": True,
                "auto_delete": False,
                "internal": False,
                "arguments": {},
            }
            for name, kind in _exchanges(kmes)
        ],
        "queues": [
            {
                "name": name,
                "vhost": vhost,
                "durable": True,
                "auto_delete": False,
                # Arguments of an existing queue cannot change, so all that might is a policy.
                "arguments": {"x-queue-type": "quorum", "x-single-active-consumer": True},
            }
            for name in _queues(kmes, links, lab)
        ],
        "bindings": [
            {
                "source": source,
                "vhost": vhost,
                "destination": destination,
                "destination_type": kind,
                "routing_key": key,
                "arguments": {},
            }
            for source, key, kind, destination in _bindings(kmes, links, lab)
        ],
        "policies": [
            {
                "name": name,
                "vhost": vhost,
                "pattern": pattern,
                "apply-to": "queues",
                "priority": 0,
                "definition": definition,
            }
            for name, pattern, definition in _policies(lab)
        ],
    }


def _check_network(kmes: Sequence[str], links: Iterable[tuple[str, str]]) -> None:
    if len(set(kmes)) != len(kmes):
        raise TopologyError("a KME is named twice")
    for kme in kmes:
        if not KME_NAME.fullmatch(kme) or kme in SERVICE_USERS:
            raise TopologyError(
                f"{kme!r} cannot be the name of a KME",
                hint=f"{KME_NAME_RULE}, and none of {', '.join(SERVICE_USERS)}",
            )
    for u, v in links:
        if u == v or u not in kmes or v not in kmes:
            raise TopologyError(f"{u!r} - {v!r} is not a link between two of the network's KMEs")


def _check_passwords(kmes: Sequence[str], passwords: Mapping[str, str]) -> None:
    users = {*kmes, *SERVICE_USERS}
    if missing := sorted(user for user in users if not passwords.get(user)):
        raise SettingsError(f"no password for the broker's users {', '.join(missing)}")
    if surplus := sorted(passwords.keys() - users):
        raise SettingsError(f"passwords for users the network does not have: {', '.join(surplus)}")


def _user(name: str, password: str) -> dict[str, Any]:
    salt = os.urandom(_SALT_BYTES)
    digest = hashlib.sha256(salt + password.encode()).digest()
    return {
        "name": name,
        "password_hash": base64.b64encode(salt + digest).decode(),
        "hashing_algorithm": "rabbit_password_hashing_sha256",
        "tags": ["administrator"] if name == OPERATOR else [],
    }


def _permissions(kmes: Iterable[str], lab: bool) -> Iterator[tuple[str, dict[str, str]]]:
    for kme in kmes:
        yield (
            kme,
            {
                "configure": _NOTHING,
                "write": _any_of(_literal(kme_exchange(kme))),
                "read": _any_of(rf"link\.[^.]+\.{kme}", _literal(control_queue(kme))),
            },
        )
    leaks = (_literal(LEAKS_QUEUE),) if lab else ()
    yield (
        COORDINATOR,
        {
            "configure": _NOTHING,
            "write": _any_of(COORD_EXCHANGE, REPLIES_EXCHANGE),
            "read": _any_of(r"results\.[^.]+", *_requests(), DEAD_LETTERS_QUEUE, *leaks),
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
    # An operator sees the management pages; messages are read by those they are meant for.
    yield OPERATOR, {"configure": _NOTHING, "write": _NOTHING, "read": _NOTHING}


def _requests() -> list[str]:
    return [_literal(requests_queue(client)) for client in CLIENTS]


def _any_of(*patterns: str) -> str:
    """Anchor: RabbitMQ searches, and an open ``kme.kme-1`` would let its user write ``kme.kme-10``."""
    return f"^{patterns[0]}$" if len(patterns) == 1 else f"^({'|'.join(patterns)})$"


def _literal(name: str) -> str:
    """Escape a name. Checked names hold nothing special but dots."""
    return name.replace(".", r"\.")


def _exchanges(kmes: Iterable[str]) -> Iterator[tuple[str, str]]:
    # Direct, since all their keys are spelt out: a short message costs the broker a third less than by topics.
    yield from ((kme_exchange(kme), "direct") for kme in kmes)
    yield COORD_EXCHANGE, "direct"
    yield from ((client_exchange(client), "direct") for client in CLIENTS)
    yield REPLIES_EXCHANGE, "direct"
    yield EVENTS_EXCHANGE, "topic"
    yield DEAD_LETTER_EXCHANGE, "fanout"


def _queues(kmes: Sequence[str], links: Iterable[tuple[str, str]], lab: bool) -> Iterator[str]:
    yield from (link_queue(u, v) for u, v in directions(links))
    yield from map(control_queue, kmes)
    yield from coordinator_queues(kmes, lab=lab)


def _bindings(kmes: Sequence[str], links: Iterable[tuple[str, str]], lab: bool) -> Iterator[tuple[str, str, str, str]]:
    """Yield (source exchange, key, kind of the destination, destination)."""
    for u, v in directions(links):
        yield kme_exchange(u), link_queue(u, v), "queue", link_queue(u, v)
        # The coordinator puts dead letters back. What it could write besides does not pass the seal.
        yield COORD_EXCHANGE, link_queue(u, v), "queue", link_queue(u, v)
    for kme in kmes:
        own = kme_exchange(kme)
        yield COORD_EXCHANGE, control_queue(kme), "queue", control_queue(kme)
        yield own, results_queue(kme), "queue", results_queue(kme)
        # One report serves the coordinator and those who watch: two messages would cost more.
        yield own, results_queue(kme), "exchange", EVENTS_EXCHANGE
        yield own, dead_key(kme), "queue", DEAD_LETTERS_QUEUE
        if lab:
            yield own, LEAKS_KEY, "queue", LEAKS_QUEUE
    for client in CLIENTS:
        yield client_exchange(client), REQUESTS_KEY, "queue", requests_queue(client)
    yield DEAD_LETTER_EXCHANGE, "", "queue", DEAD_LETTERS_QUEUE


def _policies(lab: bool) -> Iterator[tuple[str, str, dict[str, Any]]]:
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
    yield "dead-letters", _any_of(DEAD_LETTERS_QUEUE), {**shed, "max-length-bytes": DEAD_LETTERS_BYTES_MAX}
    if lab:
        leaks = {**shed, "max-length-bytes": LEAKS_BYTES_MAX, "message-ttl": LEAKS_AGE_MS_MAX}
        yield "leaks", _any_of(_literal(LEAKS_QUEUE)), leaks
    # Classic queues: no delivery limit there.
    yield (
        "clients",
        f"^({'|'.join(_literal(client_queue_prefix(client)) for client in CLIENTS)})",
        {"overflow": "drop-head", "max-length-bytes": CLIENT_BYTES_MAX},
    )
