"""What a topology file says of a link: read, with errors of one line that say what would be right, and written."""

from __future__ import annotations

import reprlib
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any, Final, get_args

from qkdrelay.errors import TopologyError
from qkdrelay.network import topology
from qkdrelay.network.devices import AHEAD_BYTES_MAX, AHEAD_BYTES_MIN, DEVICE_RULES
from qkdrelay.network.key_cost import Suite
from qkdrelay.network.names import Link
from qkdrelay.network.toml_file import did_you_mean, toml_text
from qkdrelay.network.topology import DeviceNote, LinkNote, SourceKind

_EXAMPLE: Final = '{ rate_bps = 4000, buffer_bytes = 65536, suite = "otp" }'
_ENTRIES: Final[Mapping[SourceKind, tuple[str, ...]]] = {
    "simulated": ("source", "suite", "rate_bps", "buffer_bytes"),
    "etsi014": ("source", "suite", "rate_bps", "serialise", "keeps_uncollected", "ahead_bytes", "devices"),
}
_BOUNDS: Final = {
    "rate_bps": (topology.RATE_BPS_MIN, topology.RATE_BPS_MAX),
    "buffer_bytes": (topology.BUFFER_BYTES_MIN, topology.BUFFER_BYTES_MAX),
    "ahead_bytes": (AHEAD_BYTES_MIN, AHEAD_BYTES_MAX),
}
_OTHER: Final[Mapping[SourceKind, str]] = {
    "etsi014": 'leave it out, or say source = "etsi014", and the devices at both ends',
    "simulated": "leave it out: what devices keep is theirs to say",
}
"""What to do with an entry of links with that source, at a link with the other."""


def parse_note(said: object, ends: Link, where: str) -> LinkNote:
    """Return what a file says of the link between ``ends``; ``where`` begins its errors (TopologyError)."""
    if not isinstance(said, dict):
        raise TopologyError(f"{where}: what follows the two KMEs must be a table", hint=_EXAMPLE)
    source = said.get("source", "simulated")
    _check_word("source", source, get_args(SourceKind), where)
    for entry, value in said.items():
        _check_entry(entry, value, source, where)
    if source == "simulated":
        return LinkNote(**said)
    return LinkNote(**{**said, "devices": _devices(said.get("devices"), ends, where)})


def note_text(note: LinkNote) -> str:
    """Return the TOML that `parse_note` reads as this note; empty if it says nothing."""
    values = asdict(note, dict_factory=_without_none)
    said = {entry: values[entry] for entry in _ENTRIES[note.source] if entry in values}
    if note.source == "simulated":
        del said["source"]
    return toml_text(said) if said else ""


def _without_none(entries: list[tuple[str, Any]]) -> dict[str, Any]:
    return {entry: value for entry, value in entries if value is not None}


def _check_word(entry: str, value: object, words: tuple[str, ...], where: str) -> None:
    if value not in words:
        raise TopologyError(f"{where}: there is no {entry} {reprlib.repr(value)}", hint=f"known: {', '.join(words)}")


def _check_entry(entry: str, value: object, source: SourceKind, where: str) -> None:
    """Raise TopologyError for an entry that a link with this source cannot have, or not with this value."""
    if entry not in _ENTRIES[source]:
        other = next((kind for kind, entries in _ENTRIES.items() if entry in entries), None)
        if other is None:
            raise TopologyError(f"{where}: unknown entry {entry!r}", hint=did_you_mean(entry, _ENTRIES[source]))
        raise TopologyError(f'{where}: {entry!r} is for links with source = "{other}"', hint=_OTHER[other])
    if entry == "suite":
        _check_word(entry, value, get_args(Suite), where)
    if entry in ("serialise", "keeps_uncollected") and not isinstance(value, bool):
        raise TopologyError(f"{where}: {entry} is {reprlib.repr(value)}; it must be true or false")
    if entry in _BOUNDS:
        least, most = _BOUNDS[entry]
        if type(value) is not int or not least <= value <= most:
            raise TopologyError(f"{where}: {entry} is {value!r}; it must be a whole number from {least} to {most}")


def _devices(said: object, ends: Link, where: str) -> dict[str, DeviceNote]:
    """Return the devices at both ends. Raises TopologyError; it does not repeat a URL, which may hold a password."""
    a, b = ends
    hint = f'devices = {{ {a} = {{ url = "https://HOST", sae = "ID" }}, {b} = {{ ... }} }}'
    if not isinstance(said, dict):
        raise TopologyError(f"{where}: 'devices' must be a table with the device of each end", hint=hint)
    for kme in said:
        if kme not in ends:
            raise TopologyError(f"{where}: 'devices' names {kme!r}, no end of it", hint=did_you_mean(kme, ends))
    for kme in ends:
        if kme not in said:
            raise TopologyError(f"{where}: 'devices' lacks {kme!r}", hint=hint)
    devices = {kme: _device(said[kme], f"{where}: the device of {kme}", hint) for kme in ends}
    if devices[a].sae == devices[b].sae:
        hint = "the devices tell the two ends apart by them"
        raise TopologyError(f"{where}: both ends have the sae {devices[a].sae!r}", hint=hint)
    return devices


def _device(said: object, where: str, hint: str) -> DeviceNote:
    if not isinstance(said, dict):
        raise TopologyError(f"{where} must be a table", hint=hint)
    for entry in said:
        if entry not in DEVICE_RULES:
            raise TopologyError(f"{where}: unknown entry {entry!r}", hint=did_you_mean(entry, tuple(DEVICE_RULES)))
    for entry in ("url", "sae"):
        if entry not in said:
            raise TopologyError(f"{where} lacks {entry!r}", hint=DEVICE_RULES[entry].words)
    for entry, value in said.items():
        rule = DEVICE_RULES[entry]
        if not isinstance(value, str) or not rule.fits(value):
            raise TopologyError(f"{where}: {entry!r} cannot be used", hint=rule.words)
    return DeviceNote(**said)
