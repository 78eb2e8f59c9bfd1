"""MessagePack with limits: the one place that turns messages into bytes and back.

Every decode is bounded in size and counts, and everything that can be wrong with bytes raises
MalformedMessageError.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import lru_cache
from threading import Lock
from typing import Any, Literal, NamedTuple, TypeVar

import msgspec

from qkdrelay.errors import MalformedMessageError

VERSION = 3
"""The protocol's; every encoded message carries it as ``v``, its first field.

Who is not upgraded yet waits with messages of a later one, and refuses whatever else it does not know.
"""
MESSAGE_BYTES_MAX = 1 << 20
"""Also the broker's own limit. It, times the prefetch, times the queues consumed, bounds the memory in use."""
# msgspec crashes when one thread uses what it has of a type while another is still building it.
_BUILDING = Lock()
M = TypeVar("M", bound=msgspec.Struct)
T = TypeVar("T")
_ENCODER = msgspec.msgpack.Encoder()
_VERSION_FIELD = _ENCODER.encode({"v": VERSION})[1:]
_FIXMAP, _FIXMAP_MAX, _MAP_16 = 0x80, 15, 0xDE
_BEGINNING = re.compile(rb"(?:[\x81-\x8f]|\xde(?:\x00[\x10-\xff]|[^\x00].))\xa1v([\x00-\x7f])", re.DOTALL)
"""How a message of any version begins: a map of so many fields, the first of them the version, which is one byte."""


def encode(message: msgspec.Struct) -> bytes:
    """Return the message's bytes; equal messages have equal bytes. Raises MalformedMessageError if it is too long."""
    form = _form(type(message))
    encoded = _ENCODER.encode(form.make(*form.head, *msgspec.structs.astuple(message)))
    _check_size(encoded)
    return encoded


def decode(data: bytes, kind: type[M], size_max: int = MESSAGE_BYTES_MAX) -> M:
    """Return the message of type ``kind`` in ``data``, or raise MalformedMessageError saying what is wrong where.

    Only what `encode` makes is a message. Whoever may write a queue may write anything, so bytes are read once, by a
    decoder that knows the type and ends at the first thing that does not fit: refusing costs no more than accepting.
    """
    _check_size(data, size_max)
    form = _form(kind)
    _check_start(data, form.fields)
    versioned = typed(form.decoder, data)
    # Fields named twice and the like are not told by this decoder, but they do not come out the same.
    if _ENCODER.encode(versioned) != data:
        raise MalformedMessageError(
            "not in its canonical encoding: a field is named twice or out of order, or a number is longer than need be"
        )
    return kind(*msgspec.structs.astuple(versioned)[len(form.head) :])


def is_of(data: bytes, kind: type[msgspec.Struct]) -> bool:
    """Whether ``data`` begins as a message of this kind does, which has a type."""
    start = _form(kind).start
    return data[1 : 1 + len(start)] == start


def later_version(data: bytes) -> int | None:
    """Return the version of a message of a later one than this program's, up to 127; None for all else.

    Only its beginning is read: what else is in it, and whether it is a message at all, that version may tell.
    """
    begun = _BEGINNING.match(data)
    if begun is None or len(data) > MESSAGE_BYTES_MAX:
        return None
    version = begun[1][0]
    return version if version > VERSION else None


def typed(decoder: msgspec.msgpack.Decoder[T], data: bytes) -> T:
    """Return what ``decoder`` reads in ``data``, or raise MalformedMessageError."""
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


def _check_size(data: bytes, size_max: int = MESSAGE_BYTES_MAX) -> None:
    if len(data) > size_max:
        raise MalformedMessageError(f"the message has {len(data)} bytes; at most {size_max} are allowed")


def _check_start(data: bytes, fields: int) -> None:
    """Raise MalformedMessageError unless ``data`` begins as a map of so many fields, the first of them the version.

    One field more may come, to be told which is too many: one that is named again and again would be read as often.
    """
    if not data:
        raise MalformedMessageError("not a MessagePack message: there are no bytes")
    if (later := later_version(data)) is not None:
        raise MalformedMessageError(f"the message is of protocol version {later}, which is later than {VERSION}")
    start = 3 if data[0] == _MAP_16 else 1
    count = int.from_bytes(data[1:3]) if data[0] == _MAP_16 else data[0] - _FIXMAP
    if not 0 < count <= (_FIXMAP_MAX if start == 1 else 0xFFFF):
        raise MalformedMessageError("not a valid message: it is not a map")
    if count > fields + 1:
        raise MalformedMessageError(f"not a valid message: it has {count - 1} fields; at most {fields - 1} are known")
    if data[start : start + len(_VERSION_FIELD)] != _VERSION_FIELD:
        raise MalformedMessageError(f"the message is not of protocol version {VERSION}")


class _Form(NamedTuple):
    """The encoded form of a kind of message: a struct with its version, its tag and its fields."""

    make: Callable[..., msgspec.Struct]
    decoder: msgspec.msgpack.Decoder[msgspec.Struct]
    head: tuple[Any, ...]
    """The values of its first fields, the same in all messages of the kind."""
    fields: int
    start: bytes
    """What follows its first byte in all messages of the kind: the version, and the type."""


@lru_cache(maxsize=64)
def _form(kind: type[msgspec.Struct]) -> _Form:
    with _BUILDING:
        config = kind.__struct_config__
        head = {"v": VERSION} if config.tag is None else {"v": VERSION, str(config.tag_field): config.tag}
        fields: list[tuple[str, Any]] = [(name, Literal[value]) for name, value in head.items()]
        fields += [(field.name, field.type) for field in msgspec.structs.fields(kind)]
        # Without a repr that would show what is secret in some.
        make = msgspec.defstruct(
            kind.__name__, fields, frozen=True, forbid_unknown_fields=True, namespace={"__repr__": object.__repr__}
        )
        decoder, start = msgspec.msgpack.Decoder(make), _ENCODER.encode(head)[1:]
        return _Form(make, decoder, tuple(head.values()), len(fields), start)
