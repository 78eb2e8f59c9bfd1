"""A store's files, copied at any moment and put together anyhow, are one that was there before, or are refused."""

import shutil
import sqlite3
import tempfile
from contextlib import suppress
from pathlib import Path

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, initialize, precondition, rule

from qkdrelay.errors import StoreError
from qkdrelay.service.journal import Journal

SCHEMA = "CREATE TABLE things (id INTEGER PRIMARY KEY, value BLOB NOT NULL);"
ROWS = 24
PAGE = 8192
ALL = [*range(ROWS)]
MEMORY = Path("/dev/shm")


class Files(RuleBasedStateMachine):
    """One store whose owner commits, carries over, is killed and restarted, beside readers and whoever copies files."""

    mains, logs = Bundle("mains"), Bundle("logs")

    def __init__(self):
        super().__init__()
        # Where there is one, in memory: a disk would have to sync thousands of times.
        self.folder = Path(tempfile.mkdtemp(dir=MEMORY if MEMORY.is_dir() else None))
        self.number = self.commits = 0
        self.there, self.known = (), {()}
        self.reader = self.store = None

    @initialize(target=mains)
    def begin(self):
        self.open(*self.place(None, None))
        self.commit(ALL)
        return self.main()

    # --- what goes on ------------------------------------------------------------------------------

    def place(self, main, log):
        """Put files into a folder of their own, as somebody does who restores them."""
        self.number += 1
        folder = self.folder / str(self.number)
        folder.mkdir()
        path = folder / "kme.sqlite"
        for file, content in ((path, main), (folder / "kme.sqlite-wal", log)):
            if content is not None:
                file.write_bytes(content)
        return path, folder

    def open(self, path, _folder=None):
        self.stop()
        self.store = Journal(path, "kme kme-1", SCHEMA)
        self.path = path

    def stop(self):
        if self.reader is not None:
            self.reader.close()
            self.reader = None
        if self.store is not None:
            self.store.close()

    def main(self):
        return self.path.read_bytes()

    def log(self):
        return self.path.with_name("kme.sqlite-wal").read_bytes()

    def read(self):
        return tuple(self.store.connection.execute("SELECT id, value FROM things ORDER BY id"))

    @rule(ids=st.lists(st.sampled_from(ALL), min_size=1, max_size=ROWS, unique=True))
    def commit(self, ids):
        self.commits += 1
        with self.store.transaction():
            for row in ids:
                value = self.commits.to_bytes(8, "big") * 500
                self.store.connection.execute("INSERT OR REPLACE INTO things VALUES (?, ?)", (row, value))
        self.there = self.read()
        self.known.add(self.there)

    @rule()
    def roll_back(self):
        with suppress(ZeroDivisionError), self.store.transaction():
            self.store.connection.execute("DELETE FROM things")
            assert 1 // 0
        assert self.read() == self.there

    @rule(how=st.sampled_from(["RESTART", "TRUNCATE"]))
    def carry_over(self, how):
        assert self.store._database.log.carry_over(how) or self.reader is not None

    @precondition(lambda self: self.reader is None)
    @rule()
    def begin_to_read(self):
        self.reader = sqlite3.connect(self.path, isolation_level=None)
        self.reader.execute("BEGIN")
        self.reader.execute("SELECT * FROM things").fetchone()

    @precondition(lambda self: self.reader is not None)
    @rule()
    def read_no_more(self):
        self.reader.close()
        self.reader = None

    # --- copies, and what becomes of them ----------------------------------------------------------

    @rule(target=mains)
    def copy_main(self):
        return self.main()

    @rule(target=logs)
    def copy_log(self):
        return self.log()

    @rule()
    def restart(self):
        self.open(self.path)
        assert self.read() == self.there

    @rule()
    def kill(self):
        main, log = self.main(), self.log()
        self.stop()
        self.open(*self.place(main, log))
        assert self.read() == self.there

    @rule(share=st.floats(0, 1))
    def kill_while_it_carries_over(self, share):
        """Pages are carried over in their order; those from one on are still the old ones."""
        before, log = self.main(), self.log()
        if self.reader is not None:
            self.read_no_more()
        self.store._database.log.carry_over("RESTART")
        after = self.main()
        changed = [at for at in range(0, len(after), PAGE) if after[at : at + PAGE] != before[at : at + PAGE]]
        torn = bytearray(before)
        for at in changed[: round(share * len(changed))]:
            torn += bytes(max(0, at + PAGE - len(torn)))
            torn[at : at + PAGE] = after[at : at + PAGE]
        self.stop()
        self.open(*self.place(bytes(torn), log))
        assert self.read() == self.there

    @rule(main=mains, log=st.one_of(logs, st.sampled_from([None, b""])))
    def put_together(self, main, log):
        path, folder = self.place(main, log)
        error = None
        try:
            store = Journal(path, "kme kme-1", SCHEMA)
            found = tuple(store.connection.execute("SELECT id, value FROM things ORDER BY id"))
            store.close()
        except StoreError as refused:
            error = refused
        if error is None:
            assert found in self.known
        else:
            assert error.hint
            assert "\n" not in str(error)
            assert path.read_bytes() == main, "what is refused is left as it is"
        shutil.rmtree(folder)

    @rule(main=mains, log=logs)
    def go_on_with(self, main, log):
        """An old copy is restored, and its history goes on from there."""
        path, _ = self.place(main, log)
        try:
            self.open(path)
        except StoreError:
            self.open(self.path)
        self.there = self.read()
        assert self.there in self.known

    def teardown(self):
        self.stop()
        shutil.rmtree(self.folder)


TestFiles = Files.TestCase
TestFiles.settings = settings(max_examples=60, stateful_step_count=40, suppress_health_check=list(HealthCheck))
