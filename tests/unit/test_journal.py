"""A service's durable memory: what is committed stays, what is given out is given once, what is deleted is gone."""

import os
import sqlite3
import stat
import subprocess
import sys
import time

import pytest

from qkdrelay.broker.port import Publication
from qkdrelay.errors import ForgedMessageError, NumberReusedError, StoreError
from qkdrelay.service import journal as module
from qkdrelay.service import numbers
from qkdrelay.service.journal import Journal
from qkdrelay.service.numbers import EPOCHS_MAX, WINDOW_BACK, WINDOW_ENDED
from support.waiting import eventually

SCHEMA = "CREATE TABLE things (id INTEGER PRIMARY KEY, value BLOB NOT NULL);"
EPOCH, TAG, OTHER_TAG = bytes(16), b"t" * 16, b"u" * 16


def opened(path, name="kme kme-1", **options):
    return Journal(path, name, SCHEMA, **options)


@pytest.fixture
def journal(tmp_path):
    store = opened(tmp_path / "store" / "kme.sqlite")
    yield store
    store.close()


@pytest.fixture
def path(tmp_path):
    return tmp_path / "store" / "kme.sqlite"


# --- one file, one owner ---------------------------------------------------------------------------


def test_one_process_holds_a_store(journal, path):
    with pytest.raises(StoreError, match="in use by another process") as error:
        opened(path)
    assert error.value.hint
    journal.close()
    opened(path).close()


def test_a_store_is_given_free_when_its_process_is_killed(path):
    script = """
import sys
from pathlib import Path
from qkdrelay.service.journal import Journal
store = Journal(Path(sys.argv[1]), "kme kme-1", sys.argv[2])
print("held", flush=True)
sys.stdin.read()
"""
    holder = subprocess.Popen(
        [sys.executable, "-c", script, str(path), SCHEMA], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert holder.stdout.readline() == b"held\n"
    with pytest.raises(StoreError, match="in use by another process"):
        opened(path)
    holder.kill()
    holder.wait()
    opened(path).close()


def test_a_reader_may_look_in_beside_the_process_that_holds_it(journal, path):
    with journal.transaction():
        journal.meta.set("seen", b"yes")
    reader = opened(path, access="read")
    assert reader.meta.get("seen") == b"yes"
    with pytest.raises(StoreError), reader.transaction():
        reader.meta.set("seen", b"no")
    reader.close()


def test_a_reader_makes_no_store(tmp_path):
    with pytest.raises(StoreError, match="there is no store"):
        opened(tmp_path / "none.sqlite", access="read")
    assert list(tmp_path.iterdir()) == []


def test_anothers_store_is_refused_by_name_and_left_as_it_was(journal, path):
    with journal.transaction():
        journal.meta.set("kept", b"this")
    journal.close()
    with pytest.raises(StoreError, match="belongs to kme kme-1, not to kme kme-2"):
        opened(path, "kme kme-2")
    again = opened(path)
    assert again.meta.get("kept") == b"this"
    again.close()


def test_a_store_of_another_format_is_refused(journal, path):
    journal.close()
    with sqlite3.connect(path) as db:
        db.execute("PRAGMA user_version=99")
    with pytest.raises(StoreError, match="format 99"):
        opened(path)


def test_a_file_that_is_no_store_is_refused(tmp_path):
    (tmp_path / "kme.sqlite").write_bytes(b"not a database, surely" * 100)
    with pytest.raises(StoreError, match="cannot be used"):
        opened(tmp_path / "kme.sqlite")


def test_a_folder_that_cannot_be_made_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match=r"file/kme\.sqlite cannot be opened") as error:
        opened(tmp_path / "file" / "kme.sqlite")
    assert "writable" in error.value.hint


@pytest.mark.parametrize("name", ["a b", "what?mode=memory", "50%41", "a#b", "é"])
def test_a_path_is_taken_as_it_is_written(tmp_path, name):
    path = tmp_path / name / f"{name}.sqlite"
    store = opened(path)
    with store.transaction():
        store.meta.set("here", b"1")
    reader = opened(path, access="read")
    assert reader.meta.get("here") == b"1"
    reader.close()
    store.close()
    assert [p.name for p in path.parent.iterdir()] == [path.name]


def test_only_the_owner_may_read_its_files(path):
    old = os.umask(0o000)
    try:
        store = opened(path)
        with store.transaction():
            store.meta.set("key", b"value")
    finally:
        os.umask(old)
    modes = {file.name: stat.S_IMODE(file.stat().st_mode) for file in path.parent.iterdir()}
    assert {f"{path.name}{end}" for end in ("", "-wal", "-shm")} == set(modes)
    assert set(modes.values()) == {0o600}
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    store.close()


def test_a_file_that_others_could_read_is_closed_to_them(journal, path):
    journal.close()
    path.chmod(0o644)
    opened(path).close()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_commits_survive_a_power_cut_by_setting(journal):
    settings = {
        name: journal.connection.execute(f"PRAGMA {name}").fetchone()[0]
        for name in ("journal_mode", "synchronous", "secure_delete", "temp_store")
    }
    assert settings == {"journal_mode": "wal", "synchronous": 2, "secure_delete": 1, "temp_store": 2}


def test_each_start_begins_an_epoch_of_its_own_that_sorts_after_those_before(journal, path):
    epochs = [journal.numbers.epoch]
    journal.close()
    for _ in range(3):
        start = time.time_ns() // 1_000_000
        eventually(lambda start=start: time.time_ns() // 1_000_000 > start)
        again = opened(path)
        epochs.append(again.numbers.epoch)
        again.close()
    assert [len(epoch) for epoch in epochs] == [16] * 4
    assert epochs == sorted(set(epochs))


def test_an_epoch_sorts_after_those_before_also_where_the_clock_was_stepped_back(journal, path, monkeypatch):
    """Or peers that remember many epochs would refuse all that is sealed in it, for as long as the step was."""
    before = journal.numbers.epoch
    journal.close()
    monkeypatch.setattr(numbers.time, "time", lambda: 1.0)
    again = opened(path)
    assert again.numbers.epoch > before
    again.close()


def test_a_connection_begins_an_epoch_of_its_own_with_the_first_message_on_it(journal, path):
    epochs = [journal.numbers.epoch]
    for _ in range(3):
        start = time.time_ns() // 1_000_000
        eventually(lambda start=start: time.time_ns() // 1_000_000 > start)
        journal.numbers.end_epoch()
        with journal.transaction():
            assert journal.numbers.epoch == journal.numbers.epoch
        epochs.append(journal.numbers.epoch)
    assert epochs == sorted(set(epochs))
    journal.close()
    again = opened(path)
    assert again.numbers.epoch > epochs[-1]
    again.close()


def test_an_epoch_that_was_not_committed_is_not_gone_on_with(journal, path, monkeypatch):
    """Where the clock is stepped back, what the store does not know could come again, and sort before it."""
    journal.numbers.end_epoch()
    seen = []

    def fail():
        with journal.transaction():
            seen.append(journal.numbers.epoch)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    with journal.transaction():
        kept = journal.numbers.epoch
    assert kept != seen[0]
    journal.close()
    monkeypatch.setattr(numbers.time, "time", lambda: 1.0)
    again = opened(path)
    assert again.numbers.epoch > kept
    again.close()


def test_an_epoch_that_was_committed_outlives_a_transaction_that_fails(journal):
    with journal.transaction():
        epoch = journal.numbers.epoch
    with pytest.raises(ZeroDivisionError), journal.transaction():
        raise ZeroDivisionError
    assert journal.numbers.epoch == epoch


# --- transactions and the outbox -------------------------------------------------------------------


def test_what_fails_leaves_nothing_behind(journal):
    with journal.transaction():
        assert journal.numbers.next("s") == 0
        journal.seen.finish("s", EPOCH, 1, TAG)

    def act():
        journal.numbers.next("s")
        journal.seen.finish("s", EPOCH, 2, TAG)
        journal.outbox.put("x", "k", b"body")
        journal.outbox.publish_once("x", "k", b"body")
        journal.meta.set("m", b"1")
        journal.outbox.confirm([1])
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError), journal.transaction():
        act()
    assert journal.outbox.drain_committed() == []
    assert journal.outbox.unconfirmed(0.0) == []
    assert journal.meta.get("m") is None
    assert journal.seen.check("s", EPOCH, 2, TAG) == "new"
    with journal.transaction():
        assert journal.numbers.next("s") == 1


def test_an_outbox_survives_with_the_same_bytes_in_order_until_it_is_confirmed(journal, path):
    bodies = [bytes([n]) * n for n in (1, 200, 3)]
    with journal.transaction():
        for body in bodies:
            journal.outbox.put("kme.kme-1", "link.kme-1.kme-2", body)
    fresh = journal.outbox.drain_committed()
    assert [p.body for p in fresh] == bodies
    assert journal.outbox.drain_committed() == []
    journal.close()
    again = opened(path)
    assert again.outbox.unconfirmed(0.0) == fresh
    with again.transaction():
        again.outbox.confirm([fresh[0].id, fresh[2].id])
    assert again.outbox.unconfirmed(0.0) == [fresh[1]]
    assert again.connection.execute("PRAGMA secure_delete").fetchone() == (1,), "all else is wiped as before"
    again.close()


def test_an_id_of_the_outbox_is_never_given_twice(journal, path):
    with journal.transaction():
        journal.outbox.put("x", "k", b"1")
    first = journal.outbox.drain_committed()[0].id
    with journal.transaction():
        journal.outbox.confirm([first])
    journal.close()
    again = opened(path)
    with again.transaction():
        again.outbox.put("x", "k", b"2")
    assert again.outbox.drain_committed()[0].id > first
    again.close()


def test_an_observation_is_published_after_the_commit_and_kept_nowhere(journal):
    with journal.transaction():
        journal.outbox.publish_once("replies", "cli.q.1", b"answer")
    assert journal.outbox.drain_committed() == [Publication(None, "replies", "cli.q.1", b"answer")]
    assert journal.outbox.unconfirmed(0.0) == []


def test_a_disk_that_does_not_take_the_commit_is_a_store_error(journal, path):
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    journal.connection.execute("PRAGMA busy_timeout=0")
    with pytest.raises(StoreError, match="does not take a commit"), journal.transaction():
        pytest.fail("nothing is done without the file")
    other.execute("ROLLBACK")
    other.close()
    with journal.transaction():
        journal.meta.set("after", b"1")
    assert journal.meta.get("after") == b"1"


# --- numbers ---------------------------------------------------------------------------------------


def test_a_number_is_given_once_also_after_reopening(journal, path):
    given = []
    with journal.transaction():
        given += [journal.numbers.next("link kme-2") for _ in range(5)]
    journal.close()
    for _ in range(3):
        again = opened(path)
        with again.transaction():
            given += [again.numbers.next("link kme-2") for _ in range(2)]
        again.close()
    assert given == list(range(11))


def test_streams_of_numbers_are_apart(journal):
    with journal.transaction():
        assert [journal.numbers.next(stream) for stream in ("a", "b", "a", "b", "b")] == [0, 0, 1, 1, 2]


def test_a_number_that_was_finished_is_a_redelivery_and_with_another_tag_a_forgery(journal):
    assert journal.seen.check("s", EPOCH, 5, TAG) == "new"
    with journal.transaction():
        journal.seen.finish("s", EPOCH, 5, TAG)
    assert journal.seen.check("s", EPOCH, 5, TAG) == "finished"
    with pytest.raises(ForgedMessageError, match="number 5 of s"):
        journal.seen.check("s", EPOCH, 5, OTHER_TAG)
    assert journal.seen.check("s", EPOCH, 4, TAG) == "new"
    assert journal.seen.check("other", EPOCH, 5, OTHER_TAG) == "new"
    assert journal.seen.check("s", b"e" * 16, 5, OTHER_TAG) == "new"


def test_a_number_is_taken_once_and_with_another_tag_it_is_a_forgery(journal):
    with journal.transaction():
        assert journal.seen.take("s", EPOCH, 5, TAG)
        assert not journal.seen.take("s", EPOCH, 5, TAG)
        with pytest.raises(NumberReusedError):
            journal.seen.take("s", EPOCH, 5, OTHER_TAG)
    assert journal.seen.check("s", EPOCH, 5, TAG) == "finished"


def test_looking_at_a_number_finishes_nothing(journal):
    with journal.transaction():
        journal.seen.check("s", EPOCH, 5, TAG)
    assert journal.seen.check("s", EPOCH, 5, OTHER_TAG) == "new"


def test_finished_numbers_are_known_after_reopening(journal, path):
    with journal.transaction():
        journal.seen.finish("s", EPOCH, 5, TAG)
    journal.close()
    again = opened(path)
    assert again.seen.check("s", EPOCH, 5, TAG) == "finished"
    again.close()


def test_numbers_too_far_behind_are_refused(journal):
    high = 100_000
    with journal.transaction():
        journal.seen.finish("s", EPOCH, high, TAG)
    for number in (high - WINDOW_BACK, 0):
        with pytest.raises(ForgedMessageError, match="too far behind"):
            journal.seen.check("s", EPOCH, number, TAG)
    for number in (high - WINDOW_BACK + 1, high - 1, high + 1):
        assert journal.seen.check("s", EPOCH, number, TAG) == "new"


@pytest.mark.parametrize("lost", [1, WINDOW_BACK, 1_048_577, 2**40, 2**62 - 100_000])
def test_however_many_messages_were_lost_the_next_one_is_taken(journal, path, lost):
    high = 100_000
    with journal.transaction():
        journal.seen.finish("s", EPOCH, high, TAG)
    assert journal.seen.check("s", EPOCH, high + lost, TAG) == "new"
    with journal.transaction():
        journal.seen.finish("s", EPOCH, high + lost, TAG)
    journal.close()
    again = opened(path)
    assert again.seen.check("s", EPOCH, high + lost, TAG) == "finished"
    assert again.seen.check("s", EPOCH, high + lost + 1, TAG) == "new"
    again.close()


def test_a_new_epoch_begins_at_any_number_and_has_its_window_from_there(journal):
    high = 3_000_000
    assert journal.seen.check("s", EPOCH, high, TAG) == "new"
    with journal.transaction():
        journal.seen.finish("s", EPOCH, high, TAG)
    with pytest.raises(ForgedMessageError, match="too far behind"):
        journal.seen.check("s", EPOCH, 0, TAG)


def test_a_late_number_does_not_move_the_window_back(journal):
    with journal.transaction():
        for number in (10_000, 9_000):
            journal.seen.finish("s", EPOCH, number, TAG)
    with pytest.raises(ForgedMessageError, match="too far behind"):
        journal.seen.check("s", EPOCH, 10_000 - WINDOW_BACK, TAG)


def test_of_many_epochs_the_latest_are_remembered_and_older_ones_refused(journal):
    epochs = [n.to_bytes(16, "big") for n in range(10, 10 + EPOCHS_MAX + 5)]
    with journal.transaction():
        for epoch in epochs:
            assert journal.seen.check("s", epoch, 7, TAG) == "new"
            journal.seen.finish("s", epoch, 7, TAG)
    for epoch in epochs[5:]:
        assert journal.seen.check("s", epoch, 7, TAG) == "finished"
    for epoch in (*epochs[:5], bytes(16)):
        with pytest.raises(ForgedMessageError, match="older than the 64"):
            journal.seen.check("s", epoch, 7, TAG)
    assert journal.seen.check("s", b"x" * 16, 7, TAG) == "new"
    assert journal.seen.check("other", epochs[0], 7, TAG) == "new"
    assert journal.connection.execute("SELECT count(*) FROM finished").fetchone()[0] == EPOCHS_MAX


def test_under_another_key_a_stream_begins_anew_and_no_other_one(journal):
    for stream in ("s", "other"):
        journal.seen.verified_under(stream, b"a key")
        with journal.transaction():
            journal.seen.finish(stream, EPOCH, 7, TAG)
    journal.seen.verified_under("s", b"a key")
    assert journal.seen.check("s", EPOCH, 7, TAG) == "finished"
    journal.seen.verified_under("s", b"another")
    assert journal.seen.check("s", EPOCH, 7, TAG) == "new"
    assert journal.seen.check("other", EPOCH, 7, TAG) == "finished"
    assert journal.seen.epochs() == {"other": 1}


def test_once_a_new_epoch_has_begun_less_is_remembered_of_the_old_and_the_rest_refused(journal):
    with journal.transaction():
        for n in range(2 * WINDOW_ENDED):
            journal.seen.finish("s", EPOCH, n, TAG)
        journal.seen.finish("s", b"x" * 16, 0, TAG)
    kept = journal.connection.execute("SELECT count(*) FROM finished").fetchone()[0]
    assert kept == WINDOW_ENDED + 1
    for number in (0, WINDOW_ENDED - 1):
        with pytest.raises(ForgedMessageError, match="too far behind"):
            journal.seen.check("s", EPOCH, number, TAG)
    assert journal.seen.check("s", EPOCH, WINDOW_ENDED, TAG) == "finished"
    assert journal.seen.check("s", EPOCH, 2 * WINDOW_ENDED, TAG) == "new"


def test_to_begin_an_epoch_costs_no_look_at_what_is_remembered_of_the_others(journal):
    """Whoever sends can begin one with each message, and choose epochs that are all remembered."""
    numbers = f"WITH RECURSIVE n(i) AS (SELECT 0 UNION ALL SELECT i + 1 FROM n WHERE i < {WINDOW_ENDED - 1})"
    with journal.transaction():
        for i in range(EPOCHS_MAX - 1):
            row = (i + 1, "s", b"\xff" * 15 + bytes([i]), WINDOW_ENDED - 1, -1)
            journal.connection.execute("INSERT INTO heard VALUES (?, ?, ?, ?, ?)", row)
            journal.connection.execute(f"{numbers} INSERT INTO finished SELECT ?, i, ? FROM n", (i + 1, TAG))
    steps = 0

    def count():
        nonlocal steps
        steps += 1

    journal.connection.set_progress_handler(count, 100)
    with journal.transaction():
        journal.seen.finish("s", EPOCH, 0, TAG)
    journal.connection.set_progress_handler(None, 0)
    assert (
        journal.connection.execute("SELECT count(*) FROM finished").fetchone()[0] == (EPOCHS_MAX - 1) * WINDOW_ENDED + 1
    )
    assert 0 < steps * 100 < 100 * EPOCHS_MAX


@pytest.mark.parametrize("step", [1, 2, 255, 257], ids="every {}. number".format)
def test_what_is_remembered_of_a_stream_is_bounded_whatever_numbers_are_used(journal, step):
    with journal.transaction():
        for n in range(3 * WINDOW_BACK):
            journal.seen.finish("s", EPOCH, 1 + 2 * step * n, TAG)
    kept = journal.connection.execute("SELECT count(*) FROM finished").fetchone()[0]
    assert kept <= WINDOW_BACK
    last = 1 + 2 * step * (3 * WINDOW_BACK - 1)
    assert journal.seen.check("s", EPOCH, last, TAG) == "finished"


def test_everything_within_the_window_is_remembered(journal):
    with journal.transaction():
        for n in range(2 * WINDOW_BACK):
            journal.seen.finish("s", EPOCH, n, TAG)
    for n in range(WINDOW_BACK, 2 * WINDOW_BACK):
        assert journal.seen.check("s", EPOCH, n, TAG) == "finished"


# --- deleting --------------------------------------------------------------------------------------


def on_disk(path):
    return b"".join(file.read_bytes() for file in path.parent.iterdir())


def test_deleted_bytes_are_nowhere_in_the_files_after_a_scrub(journal, path):
    secret = os.urandom(64)
    with journal.transaction():
        journal.connection.execute("INSERT INTO things VALUES (1, ?)", (secret,))
        journal.connection.execute("INSERT INTO things VALUES (2, ?)", (bytes(3) + secret * 300,))
    assert secret in on_disk(path)
    with journal.transaction():
        journal.connection.execute("DELETE FROM things")
    journal.scrub()
    assert secret not in on_disk(path)


def test_overwritten_bytes_are_nowhere_in_the_files_after_a_scrub(journal, path):
    secret = os.urandom(64)
    with journal.transaction():
        journal.connection.execute("INSERT INTO things VALUES (1, ?)", (secret,))
    with journal.transaction():
        journal.connection.execute("UPDATE things SET value = x''")
    journal.scrub()
    assert secret not in on_disk(path)


def test_a_scrub_that_a_reader_hinders_says_so(journal, path):
    with journal.transaction():
        journal.connection.execute("INSERT INTO things VALUES (1, x'00')")
    reader = sqlite3.connect(path, isolation_level=None)
    reader.execute("BEGIN")
    reader.execute("SELECT * FROM things").fetchone()
    with journal.transaction():
        journal.connection.execute("DELETE FROM things")
    assert not journal.scrub()
    reader.close()
    assert journal.scrub()


def test_the_module_says_which_format_it_writes(journal):
    assert journal.connection.execute("PRAGMA user_version").fetchone()[0] == module._SCHEMA_VERSION
