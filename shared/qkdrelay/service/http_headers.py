"""The headers of a request, read strictly: what another server might read otherwise is none.

As RFC 9112 asks: a proxy and a server that disagree about where a request ends could be made to mix up requests.
"""

from __future__ import annotations

import re
from typing import Final, Protocol

_NAME: Final = re.compile(rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_VALUE: Final = re.compile(rb"[\t\x20-\x7e\x80-\xff]*")
_ONCE: Final = frozenset((b"Content-Length", b"Host", b"Transfer-Encoding"))


class Lines(Protocol):
    """What headers are read from."""

    def readline(self) -> bytes:
        """Return the next line, with its end."""
        ...


def read_headers(lines: Lines, headers: dict[bytes, bytes]) -> None:
    """Add the headers up to the empty line; a name that stands again has its values together. Raises ValueError."""
    while (line := lines.readline()) != b"\r\n":
        name, colon, value = line.partition(b":")
        if not (colon and line.endswith(b"\r\n") and _NAME.fullmatch(name) and _VALUE.fullmatch(value := value[:-2])):
            raise ValueError("a line of the header is none")
        name, value = name.title(), value.strip()
        if name in headers:
            if name in _ONCE:
                raise ValueError(f"{name.decode()} stands twice in the header")
            value = headers[name] + b", " + value
        headers[name] = value
