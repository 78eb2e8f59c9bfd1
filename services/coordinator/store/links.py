"""QKD links that were told to stop carrying."""

from __future__ import annotations

from qkdrelay.network.names import Link
from qkdrelay.service.tables import Table

SCHEMA = """
CREATE TABLE down (a TEXT NOT NULL, b TEXT NOT NULL, PRIMARY KEY (a, b)) WITHOUT ROWID;
"""


class LinkTable(Table):
    """The links that are down; written at once."""

    def down(self) -> tuple[Link, ...]:
        """Return them, sorted."""
        return tuple(self.all("SELECT a, b FROM down ORDER BY a, b"))

    def forget(self) -> None:
        """Forget which links were told to stop: another coordinator has told KMEs since, and they know."""
        self.run("DELETE FROM down")

    def switch(self, link: Link, *, up: bool) -> None:
        """Keep whether a link carries."""
        query = "DELETE FROM down WHERE a = ? AND b = ?" if up else "INSERT OR IGNORE INTO down VALUES (?, ?)"
        self.run(query, *link)
