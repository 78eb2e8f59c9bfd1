"""Whatever becomes of the reader of a log: who writes goes on at once, and what was lost is counted and told."""

import fcntl
import gc
import io
import os
import subprocess
import sys
import threading

import pytest

from qkdrelay.service.log_writer import QUEUED_BYTES_MAX, LogWriter
from support.waiting import eventually

F_SETPIPE_SZ = 1031
PAGE = 4096
LINE = "x" * 999
TOO_MANY = 3 * QUEUED_BYTES_MAX // len(LINE)


def told(lines, why):
    return f"lost {lines}: {why}"


def losses(lines):
    return [line for line in lines if line.startswith("lost ")]


def lost_in(lines):
    return sum(int(line.split()[1].rstrip(":")) for line in losses(lines))


class Reader(threading.Thread):
    """Reads a descriptor to its end."""

    def __init__(self, descriptor):
        super().__init__(daemon=True)
        self._descriptor, self._data = descriptor, []
        self.start()

    def run(self):
        while data := os.read(self._descriptor, 1 << 16):
            self._data.append(data)

    @property
    def lines(self):
        return b"".join(self._data).decode().splitlines()


class Pipe:
    """A pipe with little room, who writes into it, and who reads it."""

    def __init__(self):
        self._reading, self.writing = os.pipe()
        fcntl.fcntl(self.writing, F_SETPIPE_SZ, PAGE)
        self.stream = os.fdopen(self.writing, "w")
        self.writer = LogWriter(self.stream, told)

    def read(self):
        return Reader(self._reading)

    def close(self):
        reader = self.read()
        self.writer.close(20)
        self.stream.close()
        reader.join(20)
        os.close(self._reading)


@pytest.fixture
def pipe():
    pipe = Pipe()
    yield pipe
    pipe.close()


def test_a_reader_that_has_stopped_holds_nobody_up_and_learns_what_it_missed(pipe):
    writer = pipe.writer
    for number in range(TOO_MANY):
        writer.write(f"{number} {LINE}")
    assert 0 < writer.lost < TOO_MANY
    reader = pipe.read()
    eventually(lambda: losses(reader.lines), what="the line that tells of the loss")
    writer.write("after\nthat")
    eventually(lambda: reader.lines[-1] == "that", what="what came later")
    assert losses(reader.lines) == [f"lost {writer.lost}: they were not read in time"]
    got = TOO_MANY - writer.lost
    numbers = [line.split()[0] for line in reader.lines]
    assert numbers == [*map(str, range(got)), "lost", "after", "that"]
    writer.close()


def test_a_batch_that_is_longer_than_what_may_wait_is_written_to_who_reads(pipe):
    writer = pipe.writer
    reader = pipe.read()
    lines = [f"{number} {LINE}" for number in range(TOO_MANY)]
    writer.write("\n".join(lines))
    writer.close(60)
    eventually(lambda: len(reader.lines) == TOO_MANY)
    assert (reader.lines, writer.lost) == (lines, 0)


def test_an_end_with_a_reader_that_has_stopped_comes_soon(pipe):
    writer = pipe.writer
    for _ in range(100):
        writer.write(LINE)
    writer.close(0.05)
    assert writer._thread.is_alive()  # it waits for the reader, and dies with the process


def test_what_waits_is_written_at_the_end(pipe):
    writer = pipe.writer
    for number in range(200):
        writer.write(f"{number} {LINE}")
    reader = pipe.read()
    writer.close(20)
    eventually(lambda: len(reader.lines) == 200)
    assert writer.lost == 0


def test_a_pipe_that_somebody_made_non_blocking_loses_nothing(pipe):
    os.set_blocking(pipe.writing, False)
    writer = pipe.writer
    for number in range(200):
        writer.write(f"{number} {LINE}")
    reader = pipe.read()
    eventually(lambda: len(reader.lines) == 200)
    assert [line.split()[0] for line in reader.lines] == list(map(str, range(200)))
    assert writer.lost == 0
    writer.close()


def test_a_stream_that_nobody_else_has_stays_open(tmp_path):
    writer = LogWriter((tmp_path / "log").open("w"), told)
    gc.collect()
    with (tmp_path / "other").open("w"):
        writer.write("one")
        writer.close()
    assert (tmp_path / "log").read_text() == "one\n"
    assert (tmp_path / "other").read_text() == ""


def test_a_reader_that_has_gone_is_replaced_by_another(tmp_path):
    path = tmp_path / "log"
    os.mkfifo(path)
    first = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    with path.open("w") as stream:
        writer = LogWriter(stream, told)
        writer.write("one")
        eventually(lambda: os.read(first, 100) == b"one\n" if not writer._size else None)
        os.close(first)
        writer.write("two\nthree")
        eventually(lambda: writer.lost == 2)
        second = Reader(os.open(path, os.O_RDONLY))
        writer.write("four")
        eventually(lambda: "four" in second.lines)
        assert second.lines == ["lost 2: Broken pipe", "four"]
        writer.write("five")
        eventually(lambda: second.lines[-1] == "five")
        assert len(second.lines) == 3
        writer.close()


def test_a_loss_is_told_although_nothing_more_is_written(tmp_path, monkeypatch):
    monkeypatch.setattr("qkdrelay.service.log_writer._TELL_AGAIN_S", 0.02)
    path = tmp_path / "log"
    os.mkfifo(path)
    first = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    with path.open("w") as stream:
        os.close(first)
        writer = LogWriter(stream, told)
        writer.write("one")
        eventually(lambda: writer.lost == 1)
        second = Reader(os.open(path, os.O_RDONLY))
        eventually(lambda: second.lines == ["lost 1: Broken pipe"])
        writer.close()


FULL_AND_FREE_AGAIN = """
import resource, sys
from qkdrelay.service.log_writer import LogWriter

_, most = resource.getrlimit(resource.RLIMIT_FSIZE)
writer = LogWriter(sys.stdout, lambda lines, why: f"lost {lines}: {why}")
writer.write("before")
resource.setrlimit(resource.RLIMIT_FSIZE, (57, most))
writer.write("\\n".join(f"line {number} of several" for number in range(5)))
writer.write("another")
resource.setrlimit(resource.RLIMIT_FSIZE, (most, most))
writer.write("it works again")
print(writer.lost, file=sys.stderr)
"""


def test_where_a_file_takes_no_more_a_line_that_was_cut_ends_there(tmp_path):
    path = tmp_path / "log"
    with path.open("w") as out:
        script = [sys.executable, "-c", FULL_AND_FREE_AGAIN]
        done = subprocess.run(script, stdout=out, stderr=subprocess.PIPE, text=True, check=True, timeout=60)
    whole = ["before", "line 0 of several", "line 1 of several"]
    assert path.read_text().splitlines() == [*whole, "line 2 of seve", "lost 4: File too large", "it works again"]
    assert done.stderr == "4\n"


def test_lines_of_many_threads_stay_whole(pipe):
    reader, writer = pipe.read(), pipe.writer

    def write(name):
        for number in range(200):
            writer.write(f"{name} {number}\n{name} {number} again")

    threads = [threading.Thread(target=write, args=[name]) for name in "abcd"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    writer.close(20)
    eventually(lambda: len(reader.lines) == 1600)
    for name in "abcd":
        expected = [f"{name} {number}{again}" for number in range(200) for again in ("", " again")]
        assert [line for line in reader.lines if line.startswith(name)] == expected


@pytest.mark.parametrize("stream", [None, "closed", "wrong"])
def test_no_stream_to_write_to_is_a_loss_and_no_more(stream):
    if stream == "closed":
        stream = io.StringIO()
        stream.close()
    elif stream == "wrong":
        stream = io.BytesIO()  # takes no text
        stream.fileno = lambda: -1
    writer = LogWriter(stream, told)
    writer.write("one\ntwo")
    writer.write("three")
    assert writer.lost == 3
    writer.close()


def test_half_a_character_is_written_escaped(tmp_path):
    with (tmp_path / "log").open("w") as stream:
        LogWriter(stream, told).write("a\ud800b")
    assert (tmp_path / "log").read_text() == "a\\ud800b\n"
