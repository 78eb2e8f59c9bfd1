"""The latest of each section of the page, and who looks: written by one thread, read by the server's."""

from __future__ import annotations

import json
import threading
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Final
from uuid import UUID

from qkdrelay.errors import QkdRelayError
from qkdrelay.network.topology import Topology

VIEWERS_MAX: Final = 64
RELAYS_WATCHED_MAX: Final = 16
"""Different relays that are looked at at a time: each is asked for again and again."""


class TooManyViewersError(QkdRelayError):
    """There are as many viewers as there may be, or they look at as many different relays."""


class Board:
    """What is shown. A viewer is given the latest of a section, however many came before that it did not fetch."""

    def __init__(self) -> None:
        self._news = threading.Condition()
        self._sections: dict[str, tuple[int, bytes]] = {}
        """Each with the number of its last change."""
        self._changes = 0
        self._viewers = 0
        self._relays: Counter[UUID] = Counter()
        self._has_come = False
        self._is_closed = False
        self.topology: Topology | None = None
        """The network as it is now; None until it is known."""

    def put(self, section: str, content: object) -> None:
        """Show ``content`` (of JSON's types) as a section; whoever looks is told if it has changed."""
        data = json.dumps(content, separators=(",", ":"), allow_nan=False).encode()
        with self._news:
            before = self._sections.get(section)
            if before is None or before[1] != data:
                self._changes += 1
                self._sections[section] = (self._changes, data)
                self._news.notify_all()

    def drop(self, section: str) -> None:
        """Show a section no longer."""
        with self._news:
            self._sections.pop(section, None)

    @contextmanager
    def viewer(self, relay: UUID | None = None) -> Iterator[Viewer]:
        """Count a viewer, who looks at ``relay``, too. Raises TooManyViewersError."""
        with self._news:
            if self._viewers >= VIEWERS_MAX:
                raise TooManyViewersError(f"{VIEWERS_MAX} viewers look already", hint="close another page, or wait")
            if relay is not None and relay not in self._relays and len(self._relays) >= RELAYS_WATCHED_MAX:
                text = f"{RELAYS_WATCHED_MAX} different relays are looked at already"
                raise TooManyViewersError(text, hint="look at one of those, or wait")
            self._viewers += 1
            self._relays.update([relay] if relay else [])
            self._has_come = True
            self._news.notify_all()
        try:
            yield Viewer(self, relay)
        finally:
            with self._news:
                self._viewers -= 1
                self._relays.subtract([relay] if relay else [])
                self._relays += Counter()  # leaves out those at which nobody looks any more

    @property
    def viewers(self) -> int:
        """How many look."""
        return self._viewers

    def relays_watched(self) -> tuple[UUID, ...]:
        """Return the relays that somebody looks at."""
        with self._news:
            return tuple(self._relays)

    def has_come(self) -> bool:
        """Whether a viewer has come since this was asked last."""
        with self._news:
            came, self._has_come = self._has_come, False
        return came

    def wait(self, timeout_s: float) -> None:
        """Wait until a viewer comes or something changes, or it is closed."""
        with self._news:
            if not self._has_come and not self._is_closed:
                self._news.wait(timeout_s)

    def close(self) -> None:
        """Send all viewers away."""
        with self._news:
            self._is_closed = True
            self._news.notify_all()

    def changed(self, seen: Mapping[str, int], relay: str, timeout_s: float) -> dict[str, tuple[int, bytes]] | None:
        """Return the sections that are not as they were ``seen``; None once it is closed, nothing after the time."""

        def news() -> dict[str, tuple[int, bytes]]:
            return {
                name: section
                for name, section in self._sections.items()
                if section[0] != seen.get(name) and (name == relay or not name.startswith(RELAY))
            }

        with self._news:
            self._news.wait_for(lambda: self._is_closed or news(), timeout_s)
            return None if self._is_closed else news()


RELAY: Final = "relay "
"""Begins the name of a section with one relay, which its viewers are given alone."""


class Viewer:
    """One who looks, and what it has been given."""

    def __init__(self, board: Board, relay: UUID | None) -> None:
        self._board, self._relay = board, f"{RELAY}{relay}"
        self._seen: dict[str, int] = {}

    def next(self, timeout_s: float) -> dict[str, bytes] | None:
        """Return what is new by section, waiting for it; None once there is to be nothing any more."""
        news = self._board.changed(self._seen, self._relay, timeout_s)
        if news is None:
            return None
        self._seen |= {name: number for name, (number, _) in news.items()}
        return {name.partition(" ")[0]: data for name, (_, data) in news.items()}
