"""A store's files: one owner by whatever name, nobody in their place unseen, and one line for whatever is wrong."""

import errno
import fcntl
import gc
import os
import shutil
import sqlite3
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import pytest

from qkdrelay.errors import StoreError, StoreInUseError
from qkdrelay.service.journal import Journal
from qkdrelay.storage import log as log_module

SCHEMA = "CREATE TABLE things (id INTEGER PRIMARY KEY, value BLOB NOT NULL);"


def opened(path, **options):
    return Journal(path, "kme kme-1", SCHEMA, **options)


def set_meta(store, value):
    with store.transaction():
        store.meta.set("value", value)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "store" / "kme.sqlite"


@pytest.fixture
def store(path):
    store = opened(path)
    set_meta(store, b"one")
    yield store
    store.close()


def refused(path, **options):
    """Return the one line that says why a store is refused; nothing is changed by that."""
    before = contents(path)
    with pytest.raises(StoreError) as error:
        opened(path, **options)
    assert contents(path) == before
    assert "\n" not in str(error.value)
    assert error.value.hint
    return str(error.value)


def contents(path):
    """What is in the folder but for the index of the log, which any reader makes anew, and an empty log."""
    files = [file for file in path.parent.glob("*") if file.is_file() and not file.name.endswith("-shm")]
    return {file.name: file.read_bytes() for file in files if file.stat().st_size}


def killed(path, to):
    """Copy what a kill leaves behind: the files as they are, nothing closed."""
    shutil.copytree(path.parent, to)
    return to / path.name


# --- one owner -------------------------------------------------------------------------------------


@pytest.fixture(params=["symbolic link", "link to the folder", "dots", "dangling link"])
def other_name(request, store, path, tmp_path):
    match request.param:
        case "symbolic link":
            name = tmp_path / "link.sqlite"
            name.symlink_to(path)
        case "link to the folder":
            (tmp_path / "folder").symlink_to(path.parent)
            name = tmp_path / "folder" / path.name
        case "dots":
            name = path.parent / ".." / path.parent.name / path.name
        case "dangling link":
            store.close()
            path.unlink()
            name = tmp_path / "link.sqlite"
            name.symlink_to(path)
            owner = opened(name)
            yield path
            owner.close()
            return
    yield name


def test_a_store_has_one_owner_whatever_it_is_called(other_name):
    with pytest.raises(StoreInUseError, match="in use by another process"):
        opened(other_name)


def test_a_store_that_is_dropped_unclosed_is_free_and_leaves_nothing_open(path):
    def descriptors():
        return sum(1 for _ in Path("/proc/self/fd").iterdir())

    gc.collect()
    before = descriptors()
    dropped = opened(path)
    with pytest.raises(StoreInUseError):
        opened(path)
    del dropped
    gc.collect()
    assert descriptors() == before
    again = opened(path)
    again.close()
    assert descriptors() == before


def test_another_process_is_refused_by_any_name(store, path, tmp_path):
    (tmp_path / "link.sqlite").symlink_to(path)
    script = "import sys, pathlib, qkdrelay.service.journal as j; j.Journal(pathlib.Path(sys.argv[1]), 'kme kme-1', '')"
    for name in (path, tmp_path / "link.sqlite"):
        ended = subprocess.run([sys.executable, "-c", script, str(name)], capture_output=True, text=True, check=False)
        assert "StoreInUseError" in ended.stderr
    set_meta(store, b"two")


def test_a_hard_link_is_refused_by_either_name(store, path, tmp_path):
    store.close()
    os.link(path, tmp_path / "other.sqlite")
    for name in (path, tmp_path / "other.sqlite"):
        for access in ("own", "read"):
            assert "has 2 names" in refused(name, access=access)


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.ESTALE, errno.EIO, errno.EOPNOTSUPP, errno.EACCES])
def test_a_file_system_that_gives_no_lock_is_told_for_what_it_is(path, monkeypatch, number):
    def fails(*_):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "flock", fails)
    assert refused(path).endswith(f"cannot be locked: {os.strerror(number)}")


# --- files that are no whole store -----------------------------------------------------------------


def test_a_main_file_from_before_beside_a_newer_log_is_refused(store, path, tmp_path):
    store.scrub()
    old = path.read_bytes()
    set_meta(store, b"two")
    store.scrub()
    set_meta(store, b"three")
    copy = killed(path, tmp_path / "killed")
    copy.write_bytes(old)
    assert "kme.sqlite and kme.sqlite-wal do not belong together" in refused(copy)
    assert "do not belong together" in refused(copy, access="read")


def test_another_stores_log_is_refused(store, path, tmp_path):
    copy = killed(path, tmp_path / "killed")
    other = opened(tmp_path / "other" / "kme.sqlite")
    set_meta(other, b"other")
    shutil.copy(tmp_path / "other" / "kme.sqlite-wal", copy.parent / "kme.sqlite-wal")
    assert "do not belong together" in refused(copy)
    other.close()


def test_what_a_kill_leaves_is_a_store(store, path, tmp_path):
    again = opened(killed(path, tmp_path / "killed"))
    assert again.meta.get("value") == b"one"
    again.close()


def test_a_main_file_alone_is_a_store_as_it_was_carried_over(store, path, tmp_path):
    store.scrub()
    set_meta(store, b"two")
    copy = killed(path, tmp_path / "killed")
    (copy.parent / "kme.sqlite-wal").unlink()
    again = opened(copy)
    assert again.meta.get("value") == b"one"
    again.close()


def test_a_copy_by_sqlite_itself_is_a_store(store, path, tmp_path):
    copy = tmp_path / "copy.sqlite"
    with sqlite3.connect(path) as source, sqlite3.connect(copy) as target:
        source.backup(target)
    again = opened(copy)
    assert again.meta.get("value") == b"one"
    again.close()


def test_a_lost_main_file_is_not_made_anew_beside_its_log(store, path, tmp_path):
    copy = killed(path, tmp_path / "killed")
    copy.write_bytes(b"")
    assert "kme.sqlite is empty, but kme.sqlite-wal is not" in refused(copy)
    copy.unlink()
    assert "kme.sqlite is missing, but kme.sqlite-wal is not" in refused(copy)
    assert not copy.exists()


def folder(path):
    path.mkdir()


def fifo(path):
    os.mkfifo(path)


def noise(path):
    path.write_bytes(os.urandom(20_000))


def cut(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 8192 // 2 * 8192])


def torn_page(path):
    content = bytearray(path.read_bytes())
    content[-8192:] = os.urandom(8192)
    path.write_bytes(content)


def something_else(path):
    with sqlite3.connect(path) as db:
        db.execute("CREATE TABLE theirs (x)")


@pytest.mark.parametrize("make", [folder, fifo, noise, something_else])
def test_what_is_no_store_is_refused_in_one_line(path, make):
    path.parent.mkdir()
    make(path)
    for access in ("own", "read"):
        assert str(path) in refused(path, access=access)


@pytest.mark.parametrize("damage", [cut, torn_page])
def test_a_damaged_store_is_refused_in_one_line(store, path, damage):
    with store.transaction():
        store.connection.executemany("INSERT INTO things VALUES (?, ?)", [(n, os.urandom(3_000)) for n in range(50)])
    store.close()
    damage(path)
    assert "cannot be used" in refused(path)


def test_somebody_who_reads_all_the_time_holds_up_a_start_for_seconds_and_is_named(store, path, tmp_path, monkeypatch):
    monkeypatch.setattr("qkdrelay.storage.database.BUSY_TIMEOUT_S", 0.1)
    copy = killed(path, tmp_path / "killed")
    reader = sqlite3.connect(copy, isolation_level=None)
    reader.execute("BEGIN")
    reader.execute("SELECT * FROM meta").fetchone()
    with pytest.raises(StoreError, match="somebody has been reading it") as error:
        opened(copy)
    assert error.value.hint
    reader.close()
    opened(copy).close()


SECRET = "SELECT CAST(CAST('secret-' AS BLOB) || x'ff' AS TEXT)"
"""A text that cannot be read as one."""


@pytest.mark.parametrize(
    "act",
    [
        lambda db: db.execute("SELECT 'secret-' FROM nowhere"),
        lambda db: db.executemany("INSERT INTO nowhere VALUES (?)", [(b"secret-",)]),
        lambda db: db.one(SECRET),
        lambda db: db.all(SECRET),
        lambda db: db.execute(SECRET).fetchone(),
        lambda db: db.execute(SECRET).fetchall(),
        lambda db: next(db.execute(SECRET)),
    ],
)
def test_a_transaction_in_which_a_statement_failed_is_not_committed_whoever_made_what_of_it(store, act):
    def swallowed():
        store.meta.set("value", b"two")
        with suppress(StoreError):
            act(store.connection)

    with pytest.raises(StoreError, match="cannot be used") as error, store.transaction():
        swallowed()
    assert "\n" not in str(error.value)
    assert "secret-" not in str(error.value)
    assert error.value.__suppress_context__
    assert store.meta.get("value") == b"one"
    set_meta(store, b"three")
    assert store.meta.get("value") == b"three"


# --- files that change under a running service ------------------------------------------------------


def moved(path):
    path.rename(path.with_name("away"))


def deleted(path):
    path.unlink()


def replaced(path):
    copy = path.with_name("copy")
    shutil.copy(path, copy)
    copy.rename(path)


def written_over(path):
    path.write_bytes(path.read_bytes())


def log_deleted(path):
    path.with_name("kme.sqlite-wal").unlink()


def written_by_another(path):
    with sqlite3.connect(path) as db:
        db.execute("PRAGMA wal_autocheckpoint=0")
        db.execute("INSERT INTO meta VALUES ('theirs', x'00')")
        db.commit()


@pytest.mark.parametrize("change", [moved, deleted, replaced, written_over, log_deleted, written_by_another])
def test_a_store_that_somebody_changes_takes_no_more_work(store, path, change):
    change(path)
    here = contents(path)
    for _ in range(2):
        with pytest.raises(StoreError, match=f"the store {path} (was|is not there)") as error:
            set_meta(store, b"two")
        assert error.value.hint
        assert "\n" not in str(error.value)
    assert not store.scrub()
    store.close()
    assert contents(path) == here, "what is there now is another's, and stays as it is"


def test_a_store_that_was_replaced_by_another_leaves_that_ones_log_alone(store, path, tmp_path):
    copy = killed(path, tmp_path / "killed")
    for name in ("kme.sqlite", "kme.sqlite-wal"):
        (path.parent / name).unlink()
        shutil.move(copy.parent / name, path.parent / name)
    here = contents(path)
    with pytest.raises(StoreError, match="was replaced while in use"):
        set_meta(store, b"two")
    store.close()
    assert contents(path) == here
    again = opened(path)
    assert again.meta.get("value") == b"one"
    again.close()


# --- the log ---------------------------------------------------------------------------------------


def test_the_log_is_carried_over_once_it_is_long_and_shows_where_a_reader_hinders_that(store, path, monkeypatch):
    monkeypatch.setattr(log_module, "LOG_BYTES", 1 << 20)
    monkeypatch.setattr(log_module, "_HINDERED_REST_S", 0.0)

    def write(times):
        for _ in range(times):
            with store.transaction():
                store.connection.execute("INSERT OR REPLACE INTO things VALUES (1, ?)", (os.urandom(300_000),))

    write(20)
    assert store.sizes().log < 2 << 20
    reader = sqlite3.connect(path, isolation_level=None)
    reader.execute("BEGIN")
    reader.execute("SELECT * FROM things").fetchone()
    write(20)
    assert store.sizes().log > 4 << 20
    reader.close()
    write(1)
    assert store.scrub()
    assert store.sizes().log == 0


def test_a_log_that_was_long_is_not_carried_over_with_each_commit_from_then_on(path, monkeypatch):
    monkeypatch.setattr(log_module, "LOG_BYTES", 1 << 20)
    monkeypatch.setattr("qkdrelay.storage.database.LOG_BYTES_KEPT", (1 << 20) - 1)
    store = opened(path)

    def versions(times, size):
        """How often the main file is written: it is, only where the log is carried over."""
        found = set()
        for _ in range(times):
            with store.transaction():
                store.connection.execute("INSERT OR REPLACE INTO things VALUES (?, ?)", (size, os.urandom(size)))
            with store.transaction():
                pass
            found.add(path.stat().st_mtime_ns)
        return len(found)

    versions(4, 300_000)
    assert versions(2, 300_000) == 1
    assert versions(10, 100) == 1
    assert 4 <= versions(20, 300_000) <= 10
    store.close()


def test_whoever_reads_carries_nothing_over(store, path, tmp_path):
    """Neither beside the owner nor where there is none: two processes never meet at it."""
    copy = killed(path, tmp_path / "killed")
    for place in (path, copy):
        before = contents(place)
        reader = opened(place, access="read")
        assert reader.meta.get("value") == b"one"
        assert not reader.scrub()
        reader.close()
        assert contents(place) == before
