"""MessagePack with limits: the one place that turns messages into bytes and back.

Every decode is bounded in size, depth and counts, and everything that can be wrong with bytes
raises MalformedMessageError.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable
from functools import lru_cache
from threading import Lock
from typing import Annotated, Any, TypeVar, cast

import msgpack
import msgspec

from qkdrelay.errors import InvalidPlanError, MalformedMessageError
from qkdrelay.messages import Bodies
from qkdrelay.network.plan import KMES_MAX, PLANS_KEPT, SUCCESSORS_MAX, Hop, Plan

VERSION = 1
"""Of the protocol; every encoded message carries it as ``v``."""
MESSAGE_BYTES_MAX = 1 << 20
"""Also the broker's own limit. It, times the prefetch, times the queues consumed, bounds the memory in use."""
_COUNT_MAX = 65_536
_DEPTH_MAX = 12
_BUILTIN = (bytes,)
# msgspec crashes when one thread uses what it has of a type while another is still building it.
_BUILDING = Lock()

T = TypeVar("T")


_ENCODER = msgspec.msgpack.Encoder()
_VERSION_FIELD = b"\xa1v\x01"
_FIXMAP, _FIXMAP_MAX, _MAP_16 = 0x80, 15, 0xDE


def encode(message: msgspec.Struct) -> bytes:
    """Return the message's bytes; equal messages have equal bytes."""
    fields = _ENCODER.encode(message)
    count, start = _map_length(fields)
    encoded = _map_header(count + 1) + _VERSION_FIELD + fields[start:]
    if len(encoded) > MESSAGE_BYTES_MAX:
        raise MalformedMessageError(f"the message has {len(encoded)} bytes; at most {MESSAGE_BYTES_MAX} are allowed")
    return encoded


def decode(data: bytes, kind: type[T], size_max: int = MESSAGE_BYTES_MAX) -> T:
    """Return the message of type ``kind`` in ``data``, or raise MalformedMessageError saying what is wrong where."""
    # What is no longer than this has no more parts, nor longer ones, than are allowed.
    message = _decode_own(data, kind) if len(data) <= min(size_max, _COUNT_MAX) else None
    return _decode_any(data, kind, size_max) if message is None else message


def _decode_own(data: bytes, kind: type[T]) -> T | None:
    """Return the message if ``data`` is just what `encode` makes of it, at once; None for whatever else it may be."""
    try:
        count, start = _map_length(data)
        if data[start : start + len(_VERSION_FIELD)] != _VERSION_FIELD:
            return None
        message: T = _decoder(cast(Hashable, kind)).decode(_map_header(count - 1) + data[start + len(_VERSION_FIELD) :])
        # Fields named twice and the like are not told by this decoder, but they would not come out the same.
        return message if encode(cast(msgspec.Struct, message)) == data else None
    except (msgspec.MsgspecError, MalformedMessageError, IndexError, ValueError, RecursionError):
        return None


class _Bundle(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A `Bundle` that has the version as a field of its own: what is long is not copied once more to put it there."""

    v: Annotated[int, msgspec.Meta(ge=VERSION, le=VERSION)]
    bodies: Bodies


_BUNDLES = msgspec.msgpack.Decoder(_Bundle)


def encode_bundle(bodies: Iterable[bytes]) -> bytes:
    """Return what `encode` makes of the `Bundle` of ``bodies``; they must fit."""
    return _ENCODER.encode(_Bundle(VERSION, tuple(bodies)))


def decode_bundle(data: bytes) -> tuple[bytes, ...] | None:
    """Return the messages in the `Bundle` in ``data``, or None if it is none; unlike `decode`, tells at once."""
    try:
        return _BUNDLES.decode(data).bodies if len(data) <= MESSAGE_BYTES_MAX else None
    except (msgspec.MsgspecError, ValueError, RecursionError):
        return None


@lru_cache(maxsize=64)
def _decoder(kind: Hashable) -> msgspec.msgpack.Decoder[Any]:
    with _BUILDING:
        return msgspec.msgpack.Decoder(kind)


def _map_length(data: bytes) -> tuple[int, int]:
    """Return how many fields the map has that ``data`` begins with, and where they begin."""
    if data[0] == _MAP_16:
        return int.from_bytes(data[1:3]), 3
    return data[0] - _FIXMAP, 1


def _map_header(count: int) -> bytes:
    """Return how a map of so many fields begins; ValueError for a number that cannot be."""
    if count <= _FIXMAP_MAX:
        return bytes((_FIXMAP + count,))
    return bytes((_MAP_16, *count.to_bytes(2)))


def _decode_any(data: bytes, kind: type[T], size_max: int) -> T:
    raw = _unpack(data, size_max)
    if not isinstance(raw, dict):
        raise MalformedMessageError("not a valid message: it is not a map")
    if type(version := raw.pop("v", None)) is not int or version != VERSION:
        raise MalformedMessageError(f"the message is not of protocol version {VERSION}")
    message: T = _convert(raw, kind)
    return message


def _unpack(data: bytes, size_max: int) -> Any:
    if len(data) > size_max:
        raise MalformedMessageError(f"the message has {len(data)} bytes; at most {size_max} are allowed")
    try:
        raw = msgpack.unpackb(
            data,
            raw=False,
            strict_map_key=True,
            object_pairs_hook=_unique,
            max_str_len=65_536,
            max_bin_len=size_max,
            max_array_len=_COUNT_MAX,
            max_map_len=_COUNT_MAX,
            max_ext_len=0,
        )
    except Exception as error:  # msgpack raises five unrelated kinds, and more from its hooks
        raise MalformedMessageError(f"not a MessagePack message: {_reason(error)}") from None
    if _depth(raw) > _DEPTH_MAX:
        raise MalformedMessageError(f"the message is nested deeper than {_DEPTH_MAX}")
    return raw


def _convert(raw: object, kind: Any) -> Any:
    try:
        return msgspec.convert(raw, kind, builtin_types=_BUILTIN)
    except (msgspec.ValidationError, RecursionError) as error:
        raise MalformedMessageError(f"not a valid message: {_where(error)}") from None


def _unique(pairs: list[tuple[Any, Any]]) -> dict[Any, Any]:
    data = dict(pairs)
    if len(data) != len(pairs):
        raise ValueError("a map names a field twice")
    return data


def _reason(error: Exception) -> str:
    """Return the error's class only: its text may quote what was in the bytes."""
    return "a map names a field twice" if type(error) is ValueError and "twice" in str(error) else type(error).__name__


def _where(error: Exception) -> str:
    """Return msgspec's text: it has types and field names; of values only unknown tags, here cut short."""
    return str(error)[:160]


def _depth(raw: object) -> int:
    depth, level = 0, [raw]
    while level and depth <= _DEPTH_MAX:
        level = [
            child
            for item in level
            if isinstance(item, dict | list)
            for child in (item.values() if isinstance(item, dict) else item)
        ]
        depth += 1
    return depth


_WireHop = tuple[int, tuple[str, ...]]
_WirePlan = tuple[str, str, dict[str, _WireHop]]
PLAN_BYTES_MAX = 65_536


@lru_cache(maxsize=PLANS_KEPT)
def encode_plan(plan: Plan) -> bytes:
    """Return the canonical bytes of a plan: [source, target, {kme: [threshold, [successor, ...]]}], KMEs sorted."""
    hops = {kme: [hop.threshold, list(hop.successors)] for kme, hop in sorted(plan.hops.items())}
    encoded: bytes = msgpack.packb([plan.source, plan.target, hops], use_bin_type=True)
    return encoded


@lru_cache(maxsize=PLANS_KEPT)
def decode_plan(data: bytes) -> Plan:
    """Return the plan in ``data``, checked as section 2 of the protocol says.

    Raises MalformedMessageError or InvalidPlanError; bytes that are not the canonical encoding are malformed.
    """
    wire_plan: _WirePlan = _convert(_unpack(data, PLAN_BYTES_MAX), _WirePlan)
    source, target, wire = wire_plan
    if len(wire) > KMES_MAX or any(len(hop[1]) > SUCCESSORS_MAX for hop in wire.values()):
        raise InvalidPlanError("the plan has too many KMEs or successors")
    plan = Plan.checked(source, target, {kme: Hop(hop[1], hop[0]) for kme, hop in wire.items()})
    if encode_plan(plan) != data:
        raise MalformedMessageError("the plan is not in its canonical encoding")
    return plan
