"""The page's server: what viewers may take up."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from contextlib import contextmanager
from typing import Final

from prometheus_client import CollectorRegistry, Gauge

from qkdrelay.service.http import serving
from qkdrelay.service.http_connections import HttpLimits
from qkdrelay_page.application import page_application
from qkdrelay_page.board import VIEWERS_MAX, Board

_OTHERS: Final = 24
"""Connections for all that is no stream."""
# A stream that its viewer does not read for so long in all is ended; the page begins another by itself. Viewers
# behind a proxy have all one address.
_LIMITS: Final = HttpLimits(
    connections=VIEWERS_MAX + _OTHERS,
    threads=VIEWERS_MAX + _OTHERS,
    slow=_OTHERS,
    each_address=VIEWERS_MAX + _OTHERS,
    request_s=10.0,
    header_bytes=16 * 1024,
    body_bytes=1024,
)


def viewers_metric(board: Board) -> CollectorRegistry:
    """Return the metrics of the page: its viewers."""
    registry = CollectorRegistry()
    Gauge("qkdrelay_page_viewers", "Pages that are open now.", registry=registry).set_function(lambda: board.viewers)
    return registry


@contextmanager
def serving_page(board: Board, address: tuple[str, int], *, setting: str, hosts: Collection[str] = ()) -> Iterator[int]:
    """Serve the page that shows ``board`` while in the ``with``; yield the port. Raises SettingsError."""
    with serving(page_application(board, hosts), address, setting=setting, limits=_LIMITS) as port:
        try:
            yield port
        finally:
            board.close()
