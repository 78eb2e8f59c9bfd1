"""What applications may ask: the parts of a request, from its query or its body; strict where a key could be lost."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any, Final
from urllib.parse import parse_qsl
from uuid import UUID

from kme.applications import KEY_SIZE_BITS_DEFAULT, KEYS_PER_REQUEST_MAX, BadRequestError, KeyRequest
from qkdrelay.messages.keys import KEY_SIZE_BITS_MAX, KEY_SIZE_BITS_MIN

NOT_A_MULTIPLE: Final = "size shall be a multiple of 8"
NOT_SUPPORTED: Final = "not all extension_mandatory parameters are supported"
"""Texts that the standard prescribes."""
COMPROMISED: Final = "qkdrelay_compromised"
"""The extension with which a client demands, and is told, how many compromised KMEs keys withstand."""
LEVEL_MAX: Final = 1_000
QUERY_FIELDS_MAX: Final = 32
_UUID: Final = re.compile(r"[0-9a-fA-F]{8}(?:-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}")
_DIGITS: Final = re.compile(r"-?[0-9]{1,18}")
_SHOWN_MAX: Final = 40


def read_query(text: str) -> dict[str, str]:
    """Return the fields of a query. Raises BadRequestError: one that stands twice has no meaning."""
    try:
        pairs = parse_qsl(text, keep_blank_values=True, max_num_fields=QUERY_FIELDS_MAX)
    except ValueError:
        raise BadRequestError(f"the query has more than {QUERY_FIELDS_MAX} fields") from None
    return _once(pairs, "the query")


def read_body(body: bytes) -> dict[str, Any]:
    """Return the JSON object that a body is; an empty one asks for nothing. Raises BadRequestError."""
    if not body.strip():
        return {}
    try:
        value = json.loads(body.decode("utf-8"), object_pairs_hook=_members, parse_constant=_constant)
    except BadRequestError:
        raise
    except (ValueError, RecursionError):  # also what is not UTF-8, numbers too long, lists too deep
        raise BadRequestError("the body is not JSON") from None
    if not isinstance(value, dict):
        raise BadRequestError("the body must be a JSON object")
    return value


def _members(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    return _once(pairs, "the body")


def _once(pairs: Sequence[tuple[str, Any]], where: str) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise BadRequestError(f"a name stands twice in {where}")
    return found


def _constant(_name: str) -> object:
    raise BadRequestError("the body has a number that is none of JSON's")


def only_once(query: Mapping[str, str], body: Mapping[str, Any], names: Sequence[str]) -> None:
    """Raise BadRequestError if these are asked for in the query although there is a body."""
    if body and (both := [name for name in names if name in query]):
        raise BadRequestError(f"{both[0]} stands in the query, and there is a body: say all in one of them")


def keys_wanted(slave: str, asked: Mapping[str, Any]) -> KeyRequest:
    """Return the request for keys that these fields make. Raises BadRequestError, as do all below."""
    if "additional_slave_SAE_IDs" in asked and asked["additional_slave_SAE_IDs"] is not None:
        raise BadRequestError("additional_slave_SAE_IDs: keys are for one slave here (max_SAE_ID_count is 0)")
    number = _whole("number", asked.get("number"), 1)
    if not 1 <= number <= KEYS_PER_REQUEST_MAX:
        raise BadRequestError(f"number is {number}; it must be from 1 to {KEYS_PER_REQUEST_MAX} (max_key_per_request)")
    size = _whole("size", asked.get("size"), KEY_SIZE_BITS_DEFAULT)
    if size % 8:
        raise BadRequestError(NOT_A_MULTIPLE)
    if not KEY_SIZE_BITS_MIN <= size <= KEY_SIZE_BITS_MAX:
        raise BadRequestError(f"size is {size} bits; it must be from {KEY_SIZE_BITS_MIN} to {KEY_SIZE_BITS_MAX}")
    _objects("extension_optional", asked.get("extension_optional"))
    return KeyRequest(slave, number, size, _demanded(_objects("extension_mandatory", asked.get("extension_mandatory"))))


def _demanded(extensions: Sequence[Mapping[str, Any]]) -> int | None:
    level: int | None = None
    for extension in extensions:
        for name, value in extension.items():
            if name != COMPROMISED:
                raise BadRequestError(NOT_SUPPORTED, details=[{"extension_mandatory": _shown(name)}])
            if type(value) is not int or not 0 <= value <= LEVEL_MAX:
                raise BadRequestError(f"{COMPROMISED} must be a whole number from 0 to {LEVEL_MAX}")
            level = value if level is None else max(level, value)
    return level


def key_ids_wanted(asked: Mapping[str, Any]) -> list[UUID]:
    """Return the key_IDs of a body."""
    listed = asked.get("key_IDs")
    if not isinstance(listed, list) or not listed:
        raise BadRequestError('key_IDs must be a list, such as [{"key_ID": "..."}]')
    if len(listed) > KEYS_PER_REQUEST_MAX:
        raise BadRequestError(f"{len(listed)} key_IDs; at most {KEYS_PER_REQUEST_MAX} can be asked for at once")
    # Some clients send bare texts.
    ids = [parse_key_id(entry.get("key_ID") if isinstance(entry, dict) else entry) for entry in listed]
    if len(set(ids)) < len(ids):
        raise BadRequestError("a key_ID stands twice in key_IDs")
    return ids


def parse_key_id(text: object) -> UUID:
    """Return the key_ID that a text is, whatever the case of its letters."""
    if not isinstance(text, str) or not _UUID.fullmatch(text):
        raise BadRequestError(f"{_shown(text)} is no key_ID: it must be a UUID")
    return UUID(text)


def _whole(name: str, value: object, default: int) -> int:
    """Return a whole number: one of JSON, or digits of a query (`from_query`)."""
    if value is None:
        return default
    if type(value) is not int:
        raise BadRequestError(f"{name} is {_shown(value)}; it must be a whole number")
    return value


def from_query(query: Mapping[str, str]) -> dict[str, Any]:
    """Return the fields of a query for keys as a body would have them."""
    asked: dict[str, Any] = {}
    for name, value in query.items():
        if name in ("number", "size"):
            if not _DIGITS.fullmatch(value):
                raise BadRequestError(f"{name} is {_shown(value)}; it must be a whole number")
            asked[name] = int(value)
        elif name in ("additional_slave_SAE_IDs", "extension_mandatory", "extension_optional"):
            raise BadRequestError(f"{name} can be asked for in a body only (POST)")
    return asked


def _objects(name: str, value: object) -> list[dict[str, Any]]:
    if value is None:
        return []
    if not isinstance(value, list) or not all(isinstance(entry, dict) for entry in value):
        raise BadRequestError(f"{name} must be a list of objects")
    return value


def _shown(value: object) -> str:
    text = json.dumps(value, ensure_ascii=True, default=lambda _: "?")
    return text if len(text) <= _SHOWN_MAX else f"{text[:_SHOWN_MAX]}..."
