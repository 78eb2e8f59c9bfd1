"""A relay at an end as the store keeps it: a new field is one more line here."""

from __future__ import annotations

from uuid import UUID

from kme.model import EndpointRelay
from qkdrelay.messages import codec
from qkdrelay.messages.assignments import Supply
from qkdrelay.messages.control import FixedDemand
from qkdrelay.messages.plans import decode_plan, encode_plan
from qkdrelay.messages.reports import Findings
from qkdrelay.network.names import Route, parse_route, route_name
from qkdrelay.service.records import Column, Record

# Names of routes have no such character.
_BETWEEN_ROUTES = " "


def stored_id(relay_id: UUID) -> bytes:
    """Return what is stored of a relay id."""
    return relay_id.bytes


def parse_id(stored: bytes) -> UUID:
    """Return a relay id as it was before it was stored."""
    return UUID(bytes=stored)


def _demand(stored: bytes) -> FixedDemand:
    return codec.decode(stored, FixedDemand)


def _stored_supply(supply: Supply | None) -> bytes | None:
    return None if supply is None else codec.encode(supply)


def _supply(stored: bytes | None) -> Supply | None:
    return None if stored is None else codec.decode(stored, Supply)


def _stored_findings(findings: Findings | None) -> bytes | None:
    return None if findings is None else codec.encode(findings)


def _findings(stored: bytes | None) -> Findings | None:
    return None if stored is None else codec.decode(stored, Findings)


def _stored_routes(routes: tuple[Route, ...]) -> str:
    return _BETWEEN_ROUTES.join(map(route_name, routes))


def _routes(stored: str) -> tuple[Route, ...]:
    return tuple(parse_route(route) for route in stored.split(_BETWEEN_ROUTES) if route)


RELAY = Record(
    EndpointRelay,
    Column("relay_id", "BLOB PRIMARY KEY", stored_id, parse_id),
    Column("role", "TEXT NOT NULL"),
    Column("state", "TEXT NOT NULL", changes=True),
    Column("plan", "BLOB NOT NULL", encode_plan, decode_plan),
    Column("key_count", "INTEGER NOT NULL"),
    Column("key_size_bits", "INTEGER NOT NULL"),
    Column("withstand", "BLOB NOT NULL", codec.encode, _demand),
    Column("supply", "BLOB", _stored_supply, _supply),
    Column("withstand_here", "INTEGER NOT NULL"),
    Column("deadline", "REAL NOT NULL"),
    Column("proof", "BLOB", changes=True),
    Column("findings", "BLOB", _stored_findings, _findings, changes=True),
    Column("equivocating", "TEXT NOT NULL", _stored_routes, _routes, changes=True),
)
"""Everything but the payload, which is no field like the others: it is destroyed (see `kme.store.relays`)."""
