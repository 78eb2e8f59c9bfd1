"""Versions of RabbitMQ that are supported, and the check that a broker is of one of them."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final

OLDEST: Final = (3, 10)
NEWEST: Final = (4, 2)
"""From 4.3 on a quorum queue with a single active consumer may stand still for good after a consumer's time-out."""
_LENGTH_MAX: Final = 40


def version_of(server_properties: Mapping[str, object] | None) -> str:
    """Return the version that a broker says it is of; empty if it says none."""
    version = (server_properties or {}).get("version", "")
    text = version.decode(errors="replace") if isinstance(version, bytes) else str(version)
    return text[:_LENGTH_MAX]


def doubt(version: str) -> str | None:
    """Return why a broker of this version may not do, or None if it is supported."""
    found = re.match(r"([0-9]{1,4})\.([0-9]{1,4})(?![0-9])", version)
    supported = f"supported are {_written(OLDEST)} to {_written(NEWEST)}"
    if found is None:
        return f"the broker does not say of which version it is; {supported}"
    if OLDEST <= (int(found[1]), int(found[2])) <= NEWEST:
        return None
    return f"RabbitMQ {version} is not supported; {supported}"


def _written(version: tuple[int, int]) -> str:
    return ".".join(map(str, version))
