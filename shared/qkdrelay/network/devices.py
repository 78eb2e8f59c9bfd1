"""What may be said of a QKD device: where it is, and by which names it is known."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final
from urllib.parse import urlsplit

AHEAD_BYTES_MIN, AHEAD_BYTES_MAX = 4 << 10, 4 << 20
"""Key of devices that may be drawn ahead and kept to send with, for each direction."""
AHEAD_BYTES_DEFAULT: Final = 64 << 10

_HTTPS_PORT: Final = 443
_KEYS: Final = "/api/v1/keys"
"""What the standard has in each path; clients add it themselves."""
_URL = re.compile(r"https://[A-Za-z0-9._~:/%!$&'()*+,;=\[\]-]{1,500}")
_SAE = re.compile(r"[!-~](?:[ -~]{0,126}[!-~])?")
_SERVER_NAME = re.compile(r"(?=.{1,253}\Z)[A-Za-z0-9_-]{1,63}(?:\.[A-Za-z0-9_-]{1,63})*")


def url_parts(url: str) -> tuple[str, int, str] | None:
    """Return host, port and path of a device's URL; None if it is none."""
    if not _URL.fullmatch(url):
        return None
    try:
        parts = urlsplit(url)
        port = _HTTPS_PORT if parts.port is None else parts.port
    except ValueError:
        return None
    path = parts.path.rstrip("/")
    return (parts.hostname, port, path) if parts.hostname and port and _KEYS not in path else None


def _is_server_name(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return _SERVER_NAME.fullmatch(name) is not None
    return True


@dataclass(frozen=True, slots=True)
class TextRule:
    """What a text must be."""

    fits: Callable[[str], object]
    """What this returns is true if the text is right."""
    words: str


DEVICE_RULES: Final[Mapping[str, TextRule]] = {
    "url": TextRule(url_parts, f"https://HOST[:PORT][/PATH], without {_KEYS}"),
    "sae": TextRule(_SAE.fullmatch, "1 to 128 printable characters of ASCII, no blank first or last"),
    "server_name": TextRule(_is_server_name, "the name of a host, or an address, as the device's certificate has it"),
}
"""Of what a topology file says of a device."""
