"""Messages that nobody accepted."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from qkdrelay.messages.reports import DEAD_LETTER_BODY_MAX
from qkdrelay.service.tables import Table

DEAD_LETTERS_MAX = 1_000

SCHEMA = """
CREATE TABLE dead_letters (id INTEGER PRIMARY KEY AUTOINCREMENT, at REAL NOT NULL, kme TEXT NOT NULL,
                           queue TEXT NOT NULL, reason TEXT NOT NULL, body BLOB NOT NULL);
CREATE INDEX dead_letters_by_kme ON dead_letters (kme);
"""
_SELECT = "SELECT id, at, kme, queue, reason, body FROM dead_letters"


@dataclass(frozen=True, slots=True)
class StoredDeadLetter:
    """A message that nobody accepted."""

    id: int
    at: float
    """The time at which the coordinator got it, in seconds since the epoch."""
    kme: str
    """Who gave it up: a service, or a broker, which is empty for the coordinator's own; where it was, if elsewhere."""
    queue: str
    reason: str
    body: bytes = field(repr=False)
    """Cut at `DEAD_LETTER_BODY_MAX`; one of just that length counts as cut."""

    @property
    def whole(self) -> bool:
        """Whether nothing was cut off."""
        return len(self.body) < DEAD_LETTER_BODY_MAX


class DeadLetterTable(Table):
    """Dead letters, the newest `DEAD_LETTERS_MAX`; written at once."""

    def add(self, at: float, kme: str, queue: str, reason: str, body: bytes) -> None:
        """Keep a message that somebody did not accept, cut if it is long.

        Beyond the limit the oldest goes of those of whom there are most: who floods drives out nobody else's.
        """
        insert = "INSERT INTO dead_letters VALUES (NULL, ?, ?, ?, ?, ?)"
        self.run(insert, at, kme, queue, reason, body[:DEAD_LETTER_BODY_MAX])
        if self.count() > DEAD_LETTERS_MAX:
            most = "SELECT kme FROM dead_letters GROUP BY kme ORDER BY count(*) DESC LIMIT 1"
            oldest = f"SELECT min(id) FROM dead_letters WHERE kme = ({most})"
            self.run(f"DELETE FROM dead_letters WHERE id = ({oldest})")

    def count(self) -> int:
        """Return how many are kept."""
        return int(self.one("SELECT count(*) FROM dead_letters")[0])

    def latest(self, limit: int = DEAD_LETTERS_MAX) -> list[StoredDeadLetter]:
        """Return the latest, newest first."""
        return [StoredDeadLetter(*row) for row in self.all(f"{_SELECT} ORDER BY id DESC LIMIT ?", limit)]

    def get(self, number: int) -> StoredDeadLetter | None:
        """Return one, by its id."""
        row = self.one(f"{_SELECT} WHERE id = ?", number)
        return None if row is None else StoredDeadLetter(*row)

    def drop(self, ids: Iterable[int] | None) -> None:
        """Delete these; None: all."""
        if ids is None:
            self.run("DELETE FROM dead_letters")
        else:
            self._db.executemany("DELETE FROM dead_letters WHERE id = ?", ((number,) for number in ids))
