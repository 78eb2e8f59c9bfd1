"""Answers of QKD devices, read: tolerant of what is in the field, exact about keys."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Final

import msgspec

from qkdrelay.errors import UnreachableError
from qkdrelay.escaping import escaped

KEY_BITS_MIN, KEY_BITS_MAX = 64, 1_024
KEYS_MAX: Final = 128
"""Keys in one request."""
_KEY_ID_MAX: Final = 128
_WORDS_MAX: Final = 120
"""Characters of a device's own words that are passed on."""
_FIGURE_MAX: Final = 1 << 53


class DeviceError(UnreachableError):
    """A QKD device does not do what it is asked for; the text says what it did."""


class DeviceRefusesError(DeviceError):
    """A device gives none of the keys that it is asked for now: it has too few, or gives fewer at once."""


@dataclass(frozen=True, slots=True)
class DeviceStatus:
    """What a device says of the keys that it shares with its peer; None where it does not say."""

    stored_keys: int | None
    key_bits: int | None
    """Size of a key if none is asked for."""
    keys_per_request: int | None


class DeviceKey(msgspec.Struct, frozen=True, rename={"key_id": "key_ID"}):
    """A key as a device gave it."""

    key_id: Annotated[str, msgspec.Meta(min_length=1, max_length=_KEY_ID_MAX)]
    """As the device wrote it: upper case stays."""
    key: Annotated[bytes, msgspec.Meta(min_length=KEY_BITS_MIN // 8, max_length=KEY_BITS_MAX // 8)]

    def __repr__(self) -> str:
        """Return it without the key."""
        return f"DeviceKey({self.key_id!r})"


class _KeyContainer(msgspec.Struct):
    keys: Annotated[list[DeviceKey], msgspec.Meta(min_length=1, max_length=KEYS_MAX)]


_KEY_CONTAINER: Final = msgspec.json.Decoder(_KeyContainer)


def status_of(body: bytes) -> DeviceStatus:
    """Read the answer to a question for the status. Raises DeviceError."""
    try:
        found = json.loads(body)
    except (ValueError, RecursionError):
        raise DeviceError("the answer is no JSON") from None
    if not isinstance(found, dict):
        raise DeviceError("the answer is no JSON object")
    return DeviceStatus(
        stored_keys=_figure(found, "stored_key_count"),
        key_bits=_figure(found, "key_size"),
        keys_per_request=_figure(found, "max_key_per_request"),
    )


def keys_of(body: bytes) -> list[DeviceKey]:
    """Read a key container: 1 to 128 keys, each under an id of its own. Raises DeviceError."""
    try:
        keys = _KEY_CONTAINER.decode(body).keys
    except msgspec.DecodeError as error:  # it says where in the answer something is wrong, and nothing of a key
        raise DeviceError(f"the answer is no key container: {error}") from None
    except (ValueError, RecursionError):
        raise DeviceError("the answer is no key container: it is no JSON") from None
    if not all(key.key_id.isprintable() for key in keys):
        raise DeviceError("the answer has a key_ID that cannot be printed")
    if len({key.key_id.lower() for key in keys}) < len(keys):
        raise DeviceError("the answer has two keys with one key_ID")
    if len({key.key for key in keys}) < len(keys):
        raise DeviceError("the answer has one key twice, under two key_IDs")
    return keys


def in_order(keys: Sequence[DeviceKey], key_ids: Sequence[str]) -> list[DeviceKey]:
    """Return the keys as they were asked for. Raises DeviceError unless they are all of these and no others."""
    found = {key.key_id.lower(): key for key in keys}
    if found.keys() != {key_id.lower() for key_id in key_ids}:
        missing = sum(key_id.lower() not in found for key_id in key_ids)
        others = len(found) - len(key_ids) + missing
        raise DeviceError(f"of {len(key_ids)} keys that were asked for {missing} are missing, and {others} others came")
    return [found[key_id.lower()] for key_id in key_ids]


def words_of(body: bytes) -> str:
    """Return what a device says in an answer that is none, short and on one line; nothing for markup."""
    try:
        found = json.loads(body)
    except (ValueError, RecursionError):
        text = body.decode(errors="replace").strip()
        return "" if text.startswith("<") else escaped(text[:_WORDS_MAX])
    message = found.get("message") if isinstance(found, dict) else found
    return escaped(message[:_WORDS_MAX]) if isinstance(message, str) else ""


def _figure(found: dict[str, Any], name: str) -> int | None:
    value = found.get(name)
    is_figure = isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= _FIGURE_MAX
    return value if is_figure else None
