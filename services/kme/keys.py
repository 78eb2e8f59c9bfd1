"""The list of a KME's keys, for a person there; with the bytes only when they ask for them."""

from __future__ import annotations

import base64
from typing import Any

import msgspec

from kme.model import EndpointRelay
from kme.store import KmeStore
from kme.store.application_records import SlaveKey
from qkdrelay.messages.keys import key_id


def listed(store: KmeStore, *, reveal: bool, limit: int) -> list[dict[str, Any]]:
    """Return each key of the latest relays that start or end here: id, size, relay, state, peer.

    And what its plan was checked here to withstand. With ``reveal`` a delivered key's bytes are there too, base64 as
    in ETSI GS QKD 014; a pending or held one's never: the other end may not have it.
    """
    keys: list[dict[str, Any]] = []
    with store.journal.reading():
        for relay in store.relays.latest():
            for index in range(relay.key_count):
                if len(keys) >= limit:
                    return keys
                keys.append(_key(relay, index, reveal=reveal))
    return keys


def of_applications(store: KmeStore, *, reveal: bool, limit: int) -> dict[str, Any]:
    """Return what is here for applications: ``supply`` not assigned yet, ``pairs`` by state, ``keys`` to be fetched.

    All is of slaves, which is durable; what masters have is in the KME's memory only, and `coordinator supplies`
    has counts of it. With ``reveal`` the bytes of keys are there too.
    """
    with store.journal.reading():
        pairs: dict[tuple[str, str], dict[str, int]] = {}
        for count in store.applications.counts():
            pairs.setdefault((count.master, count.slave), {})[count.state] = count.keys
        return {
            "supply": [
                {"source": source, "withstands": {"compromised": level}, "bytes": length}
                for source, level, length in store.applications.supply_bytes()
            ],
            "pairs": [{"master": master, "slave": slave, **states} for (master, slave), states in pairs.items()],
            "keys": [_slave_key(key, reveal=reveal) for key in store.applications.latest(limit)],
        }


def has_masters(store: KmeStore, kme: str) -> bool:
    """Whether any SAE is at this KME, by the directory that it went by last."""
    with store.journal.reading():
        return any(sae.kme == kme for sae in store.applications.saes().values())


def _slave_key(key: SlaveKey, *, reveal: bool) -> dict[str, Any]:
    shown: dict[str, Any] = {
        "key_id": str(key.key_id),
        "size_bits": len(key.key) * 8,
        "master": key.master,
        "slave": key.slave,
        "state": "assigned",
        "route": key.route,
        "withstands": {"compromised": key.level},
        "kept_until": key.keep_until,
    }
    return {**shown, "key": base64.b64encode(key.key).decode()} if reveal else shown


def _key(relay: EndpointRelay, index: int, *, reveal: bool) -> dict[str, Any]:
    key: dict[str, Any] = {
        "key_id": str(key_id(relay.relay_id, index)),
        "size_bits": relay.key_size_bits,
        "relay_id": str(relay.relay_id),
        "role": relay.role,
        "peer": relay.peer,
        "state": relay.state,
        "withstands": msgspec.to_builtins(relay.checked),
    }
    if reveal and relay.state == "delivered" and relay.payload is not None:
        size = relay.key_size_bits // 8
        key["key"] = base64.b64encode(relay.payload.keys[index * size : (index + 1) * size]).decode()
    return key
