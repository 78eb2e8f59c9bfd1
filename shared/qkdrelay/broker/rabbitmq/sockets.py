"""pika's socket services, with one of its faults mended."""

from __future__ import annotations

from functools import partial
from typing import Any, Final

from pika.adapters.utils.selector_ioloop_adapter import SelectorIOServicesAdapter

RESET_ON_CONNECTING: Final = "the connection was reset as soon as it was made"


class Sockets(SelectorIOServicesAdapter):  # type: ignore[misc] # pika has no types that can be relied on
    """Reports a connection that is reset at the very moment it is made, as it reports any other failure.

    A broker that restarts behind a proxy or a container's published port does that. pika 1.4.4 raises ValueError
    then ("Expected connected socket"), through the I/O loop, and that would be the end of the service.
    """

    def create_streaming_connection(self, *arguments: Any, on_done: Any, **named: Any) -> Any:
        """See pika; ``on_done`` gets the connection or what went wrong."""
        try:
            return super().create_streaming_connection(*arguments, on_done=on_done, **named)
        except ValueError:
            return self.call_later(0, partial(on_done, ConnectionResetError(RESET_ON_CONNECTING)))
