"""RabbitMQ's definitions document for a broker: its users, and what is at it."""

from __future__ import annotations

import base64
import hashlib
import os
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

from qkdrelay.broker import contents
from qkdrelay.broker.contents import BrokerContents
from qkdrelay.broker.names import VHOST, answer_queues, control_queue, directions, link_queue, site_queues
from qkdrelay.errors import SettingsError, TopologyError
from qkdrelay.network.names import KME_NAME, KME_NAME_RULE, OPERATOR, SERVICE_USERS, site_user
from qkdrelay.network.topology import Topology

_SALT_BYTES = 4


def definitions(
    kmes: Sequence[str],
    links: Collection[tuple[str, str]],
    passwords: Mapping[str, str],
    *,
    vhost: str = VHOST,
    lab: bool = False,
) -> dict[str, Any]:
    """Return RabbitMQ's definitions document for a network on one broker, ready for ``json.dumps``.

    ``links`` are unordered pairs of KMEs; both directions get a queue. ``passwords`` has one entry for each
    KME and each of `SERVICE_USERS`; only salted SHA-256 hashes of them are in the document. ``lab`` adds the
    queue in which KMEs leak on purpose.

    Raises `TopologyError` for a bad KME name or link, `SettingsError` for a missing or surplus password.
    """
    _check_network(kmes, links)
    return _document(BrokerContents(kmes, links, kmes, lab=lab), passwords, vhost)


def site_definitions(
    topology: Topology, site: str, passwords: Mapping[str, str], *, vhost: str = VHOST, lab: bool = False
) -> dict[str, Any]:
    """Return the same for the broker of one site of a network.

    ``passwords`` has one entry for each of the `site_contents`' users; other sites' get in by certificate alone.
    """
    _check_network(topology.kmes, topology.links)
    return _document(site_contents(topology, site, lab=lab), passwords, vhost)


def site_contents(topology: Topology, site: str, *, lab: bool = False) -> BrokerContents:
    """Return what is at the broker of one site: what those who are there write, and what is read of it by whom."""
    here = topology.sites[site].kmes
    leads = site == topology.coordinator
    readers: dict[str, list[str]] = {name: [] for name in topology.sites if name != site}
    for u, v in directions(topology.links):
        if u in here and v not in here:
            readers[topology.site_of[v]].append(link_queue(u, v))
    if leads:
        for kme in topology.kmes:
            if kme not in here:
                readers[topology.site_of[kme]].append(control_queue(kme))
        for name in readers:
            readers[name] += answer_queues(name)
    else:
        readers[topology.coordinator] += site_queues(here, lab=lab)
    reads = {name: queues for name, queues in readers.items() if queues}
    return BrokerContents(here, topology.links, topology.kmes if leads else (), reads, lab)


def _document(broker: BrokerContents, passwords: Mapping[str, str], vhost: str) -> dict[str, Any]:
    _check_passwords(broker.users, passwords)
    users = [
        *(_user(name, passwords[name]) for name in broker.users),
        *(_user_without_password(site_user(site)) for site in broker.sites),
    ]
    limits = dict(contents.limits(broker))
    return {
        "vhosts": [{"name": vhost}],
        "users": [user | ({"limits": limits[user["name"]]} if user["name"] in limits else {}) for user in users],
        "permissions": [{"user": user, "vhost": vhost, **granted} for user, granted in contents.permissions(broker)],
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
            for name, kind in contents.exchanges(broker)
        ],
        "queues": [
            {
                "name": name,
                "vhost": vhost,
                "durable": True,
                "auto_delete": False,
                "arguments": contents.queue_arguments(name),
            }
            for name in contents.queues(broker)
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
            for source, key, kind, destination in contents.bindings(broker)
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
            for name, pattern, definition in contents.policies(broker.lab)
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


def _check_passwords(names: Iterable[str], passwords: Mapping[str, str]) -> None:
    users = set(names)
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


def _user_without_password(name: str) -> dict[str, Any]:
    """Return a user who gets in by certificate alone: no password has the empty hash."""
    return {"name": name, "password_hash": "", "hashing_algorithm": "rabbit_password_hashing_sha256", "tags": []}
