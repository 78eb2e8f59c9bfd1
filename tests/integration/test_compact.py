"""A link that has carried many messages has a store as small as one that has carried few, and it opens as fast."""

import sqlite3

import pytest

from qkdrelay.service import numbers as module
from qkdrelay.service.journal import Journal

SCHEMA = "CREATE TABLE things (id INTEGER PRIMARY KEY);"
EPOCH = bytes(16)
WINDOW = 500


def carry(path, first, messages, batch=100):
    """What the journal of a KME does with so many messages from a link that it passes on over another."""
    journal = Journal(path, "kme kme-1", SCHEMA)
    for start in range(first, first + messages, batch):
        with journal.transaction():
            for number in range(start, start + batch):
                tag = number.to_bytes(16, "big")
                assert journal.seen.check("link kme-2", EPOCH, number, tag) == "new"
                journal.seen.finish("link kme-2", EPOCH, number, tag)
                journal.numbers.next("link kme-3")
                journal.outbox.put("kme.kme-1", "link.kme-1.kme-3", bytes(300))
        sent = journal.outbox.drain_committed()
        with journal.transaction():
            journal.outbox.confirm([publication.id for publication in sent])
        journal.outbox.backlog.confirmed([publication.id for publication in sent])
    journal.close()


def size(path):
    """Rows of each table, and pages of the file."""
    with sqlite3.connect(path) as db:
        tables = [row[0] for row in db.execute("SELECT name FROM sqlite_schema WHERE type = 'table'")]
        rows = {table: db.execute(f"SELECT count(*) FROM {table}").fetchone()[0] for table in tables}
        return rows, db.execute("PRAGMA page_count").fetchone()[0]


def test_a_store_is_no_larger_after_ten_times_as_many_messages(tmp_path, monkeypatch):
    """With the window scaled down: a million messages, with the one there is, come to the same."""
    monkeypatch.setattr(module, "WINDOW_BACK", WINDOW)
    path = tmp_path / "kme.sqlite"
    carry(path, 0, 3 * WINDOW)
    rows, pages = size(path)
    assert rows["finished"] == WINDOW
    assert rows["outbox"] == 0
    carry(path, 3 * WINDOW, 27 * WINDOW)
    again, more = size(path)
    assert again == rows
    # A page or two may be free at one moment and not at another.
    assert more == pytest.approx(pages, abs=3)
