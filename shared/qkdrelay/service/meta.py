"""Single values kept in a store, by name."""

from __future__ import annotations

from qkdrelay.service.tables import Table


class Meta(Table):
    """Values by name; written at once. The table is the database's own (`qkdrelay.storage.database`)."""

    def get(self, key: str) -> bytes | None:
        """Return a value, or None. Raises StoreError."""
        row = self.one("SELECT value FROM meta WHERE key = ?", key)
        return None if row is None else self._store.parsed(bytes, row[0])

    def set(self, key: str, value: bytes | None) -> None:
        """Keep a value, or delete it (None)."""
        if value is None:
            self._db.execute("DELETE FROM meta WHERE key = ?", (key,))
        else:
            self._db.execute("INSERT OR REPLACE INTO meta VALUES (?, ?)", (key, value))
