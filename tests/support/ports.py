"""Ports of this machine for what a test is to publish."""

from __future__ import annotations

import random
import socket
from contextlib import suppress

_FIRST, _LAST = 20_000, 29_999
"""Below those that the system gives to connections: one that is down for a moment must not find its own taken."""
_given: set[int] = set()
_choice = random.SystemRandom()


def free_port() -> int:
    """Return a port at which nothing listens, each time another one."""
    return free_ports(1)


def free_ports(number: int) -> int:
    """Return the first of so many such ports in a row."""
    while True:
        first = _choice.randint(_FIRST, _LAST + 1 - number)
        ports = range(first, first + number)
        if _given.isdisjoint(ports) and all(map(_is_free, ports)):
            _given.update(ports)
            return first


def _is_free(port: int) -> bool:
    with socket.socket() as trial, suppress(OSError):
        trial.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        trial.bind(("", port))
        return True
    return False
