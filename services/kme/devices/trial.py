"""A device tried: whether a link could have its key from it. The keys that this draws are used for nothing."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

from kme.devices.answers import DeviceKey, DeviceStatus
from kme.devices.client import Device


@dataclass(frozen=True, slots=True)
class TriedKey:
    """A key as one end has it, without the key."""

    key_id: str
    size_bits: int
    check: str
    """The same at both ends if the key is; it says nothing else of it."""


@dataclass(frozen=True, slots=True)
class Trial:
    """What came of it."""

    status: DeviceStatus | None
    """None where a slave asked: it fetches, and asks for nothing else."""
    keys: Sequence[TriedKey]


def as_master(device: Device, number: int, size_bits: int | None) -> Trial:
    """Ask for the status, and draw keys. Raises DeviceError."""
    status = device.status()
    return Trial(status, [_tried(key) for key in device.draw(number, size_bits)])


def as_slave(device: Device, key_ids: Sequence[str]) -> Trial:
    """Fetch what the other end has drawn. Raises DeviceError."""
    return Trial(None, [_tried(key) for key in device.fetch(key_ids)])


def _tried(key: DeviceKey) -> TriedKey:
    check = hashlib.sha256(b"qkdrelay device check" + key.key_id.lower().encode() + key.key).hexdigest()[:8]
    return TriedKey(key.key_id, 8 * len(key.key), check)
