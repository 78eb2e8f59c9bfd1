"""MessagePack with limits: the one place that turns messages into bytes and back.

Every decode is bounded in size and counts, and everything that can be wrong with bytes raises
MalformedMessageError.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable
from functools import lru_cache
from threading import Lock
from typing import Annotated, Any, TypeVar, cast

import msgspec

from qkdrelay.errors import MalformedMessageError
from qkdrelay.messages.link import Bodies

VERSION = 1
"""Of the protocol; every encoded message carries it as ``v``."""
MESSAGE_BYTES_MAX = 1 << 20
"""Also the broker's own limit. It, times the prefetch, times the queues consumed, bounds the memory in use."""
# msgspec crashes when one thread uses what it has of a type while another is still building it.
_BUILDING = Lock()
T = TypeVar("T")
_ENCODER = msgspec.msgpack.Encoder()
_VERSION_FIELD = b"\xa1v\x01"
_FIXMAP, _FIXMAP_MAX, _MAP_16 = 0x80, 15, b"\xde"


def encode(message: msgspec.Struct) -> bytes:
    """Return the message's bytes; equal messages have equal bytes."""
    fields = _ENCODER.encode(message)
    count, start = _map_length(fields)
    encoded = _map_header(count + 1) + _VERSION_FIELD + fields[start:]
    if len(encoded) > MESSAGE_BYTES_MAX:
        raise MalformedMessageError(f"the message has {len(encoded)} bytes; at most {MESSAGE_BYTES_MAX} are allowed")
    return encoded


def decode(data: bytes, kind: type[T], size_max: int = MESSAGE_BYTES_MAX) -> T:
    """Return the message of type ``kind`` in ``data``, or raise MalformedMessageError saying what is wrong where.

    Only what `encode` makes is a message. Whoever may write a queue may write anything, so bytes are read once, by a
    decoder that knows the type and ends at the first thing that does not fit: refusing costs no more than accepting.
    """
    if len(data) > size_max:
        raise MalformedMessageError(f"the message has {len(data)} bytes; at most {size_max} are allowed")
    decoder, fields = _decoder(cast(Hashable, kind))
    message: T = _typed(decoder, _without_version(data, fields))
    # Fields named twice and the like are not told by this decoder, but they do not come out the same.
    if encode(cast(msgspec.Struct, message)) != data:
        raise MalformedMessageError(
            "not in its canonical encoding: a field is named twice or out of order, or a number is longer than need be"
        )
    return message


def _without_version(data: bytes, fields: int) -> bytes:
    """Return the map in ``data`` without its first field, the version, which must be this one.

    Beside it there may be ``fields`` others, and one that is told to be too many: one that is named again and again
    would be read as often.
    """
    count, start = _map_length(data)
    if not data:
        raise MalformedMessageError("not a MessagePack message: there are no bytes")
    if count == 0:
        raise MalformedMessageError("not a valid message: it is not a map")
    if count > 1 + fields + 1:
        raise MalformedMessageError(f"not a valid message: it has {count - 1} fields; at most {fields} are known")
    if data[start : start + len(_VERSION_FIELD)] != _VERSION_FIELD:
        raise MalformedMessageError(f"the message is not of protocol version {VERSION}")
    return _map_header(count - 1) + data[start + len(_VERSION_FIELD) :]


def _typed(decoder: msgspec.msgpack.Decoder[T], data: bytes) -> T:
    try:
        return decoder.decode(data)
    except RecursionError:
        wrong = "not a valid message: it is nested too deep"
    except msgspec.ValidationError as error:
        # It has types and names of fields; of values only unknown tags, here cut short.
        wrong = f"not a valid message: {str(error)[:160]}"
    except (msgspec.DecodeError, ValueError) as error:
        wrong = f"not a MessagePack message: {str(error)[:160]}"
    raise MalformedMessageError(wrong)


class _Bundle(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A `Bundle` that has the version as a field of its own: what is long is not copied once more to put it there."""

    v: Annotated[int, msgspec.Meta(ge=VERSION, le=VERSION)]
    bodies: Bodies


_BUNDLES = msgspec.msgpack.Decoder(_Bundle)


def encode_bundle(bodies: Iterable[bytes]) -> bytes:
    """Return what `encode` makes of the `Bundle` of ``bodies``; they must fit."""
    return _ENCODER.encode(_Bundle(VERSION, tuple(bodies)))


def decode_bundle(data: bytes) -> tuple[bytes, ...] | None:
    """Return the messages in the `Bundle` in ``data``, or None if it is none."""
    if len(data) > MESSAGE_BYTES_MAX or _map_length(data)[0] != len(_Bundle.__struct_fields__):
        return None
    try:
        return _typed(_BUNDLES, data).bodies
    except MalformedMessageError:
        return None


@lru_cache(maxsize=64)
def _decoder(kind: Hashable) -> tuple[msgspec.msgpack.Decoder[Any], int]:
    """Return the decoder of a kind of message, and how many fields it has."""
    with _BUILDING:
        fields = len(msgspec.structs.fields(cast(type[msgspec.Struct], kind)))
        tagged = cast(type[msgspec.Struct], kind).__struct_config__.tag is not None
        return msgspec.msgpack.Decoder(kind), fields + tagged


def _map_length(data: bytes) -> tuple[int, int]:
    """Return how many fields the map has that ``data`` begins with, and where they begin; 0 fields if it is none."""
    if data[:1] == _MAP_16:
        return int.from_bytes(data[1:3]), 3
    return (data[0] - _FIXMAP if data and _FIXMAP <= data[0] <= _FIXMAP + _FIXMAP_MAX else 0), 1


def _map_header(count: int) -> bytes:
    """Return how a map of so many fields begins."""
    if count <= _FIXMAP_MAX:
        return bytes((_FIXMAP + count,))
    return _MAP_16 + count.to_bytes(2)
