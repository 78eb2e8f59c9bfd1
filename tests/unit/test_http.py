"""The HTTP server of a service: right answers, and bounded whatever is asked, however slowly."""

import socket
import threading
from contextlib import ExitStack, contextmanager, suppress
from types import SimpleNamespace

import pytest
from structlog.testing import capture_logs

from qkdrelay.errors import SettingsError
from qkdrelay.service import http, http_connections
from qkdrelay.service.http import serving
from qkdrelay.service.http_connections import HttpLimits
from qkdrelay.service.moderation import LINES_MAX
from support.http import get
from support.waiting import eventually

CONNECTIONS_MAX = HttpLimits().connections
LARGE = 16 << 20
"""Bytes that no socket's buffers take."""


def application(environ, start_response):
    """Says ok or more, or fails; reads no body."""
    path = environ["PATH_INFO"]
    if path == "/fails":
        raise ZeroDivisionError
    start_response("200 OK" if path in ("/ok", "/large") else "404 Not Found", [("Content-Type", "text/plain")])
    return [bytes(65_536)] * (LARGE // 65_536) if path == "/large" else [b"ok\n"]


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(http, "LOOK_EVERY_S", 0.02)


@contextmanager
def served(**limits):
    with serving(application, ("127.0.0.1", 0), setting="QKDRELAY_HTTP", limits=HttpLimits(**limits)) as port:
        yield port


@pytest.fixture
def port():
    with served() as port:
        yield port


@pytest.fixture
def hasty():
    """The port of a server that gives nobody much time."""
    with served(request_s=0.3) as port:
        yield port


@pytest.fixture
def silent(capfd):
    """Fails if anything is logged or printed."""
    with capture_logs() as logged:
        yield
    assert not logged
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("path", ["/", "/ok/", "/../etc/passwd", "/" + "x" * 60_000])
def test_nothing_else_is_there(port, path):
    assert get(port, path)[0] == 404


def connect(port, data=b"", source="127.0.0.1", receive_bytes=None):
    connection = socket.socket()
    connection.settimeout(20)
    if receive_bytes:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_bytes)
    connection.bind((source, 0))
    connection.connect(("127.0.0.1", port))
    connection.sendall(data)
    return connection


def answer(connection):
    """All that comes until the connection is cut."""
    received = bytearray()
    with suppress(ConnectionResetError):
        while data := connection.recv(65536):
            received += data
    return bytes(received)


def workers(*, busy=False):
    return [
        thread for thread in threading.enumerate() if thread.name.startswith("CP Server") and (thread.conn or not busy)
    ]


@pytest.mark.parametrize("version", [b"1.0", b"1.1"])
def test_each_version_of_the_protocol_gets_its_answer_and_an_end(port, silent, version):
    with connect(port, b"GET /ok HTTP/%b\r\n\r\n" % version) as connection:
        head, _, body = answer(connection).partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 200 OK\r\n")
    assert body == (b"ok\n" if version == b"1.0" else b"3\r\nok\n\r\n0\r\n\r\n")


HALF = {
    "nothing": b"",
    "a line": b"GET /ok HTTP/1.0\r\n",
    "no line": b"G" * 70_000,
    "garbage": b"\x00\xff\r\n\r\n",
    "TLS": bytes.fromhex("16030100c8010000c40303") + bytes(range(192)),
    "an address that is none": b"GET //[ HTTP/1.1\r\n\r\n",
    "half a body": b"POST /ok HTTP/1.1\r\nContent-Length: 9\r\n\r\nx",
    "a length that is none": b"POST /ok HTTP/1.1\r\nContent-Length: x\r\n\r\n",
    "chunks that are none": b"POST /ok HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
}


@pytest.mark.parametrize("data", HALF.values(), ids=HALF)
def test_who_asks_half_a_question_is_cut_off_in_time(hasty, silent, data):
    with connect(hasty, data) as connection:
        answer(connection)
    assert get(hasty, "/ok")[0] == 200


def test_an_answer_that_takes_long_to_find_is_given_all_the_same(monkeypatch):
    """A request that waits for keys has waited as long as any client may; the answer was dropped, keys with it."""
    clock = SimpleNamespace(now=0.0, monotonic=lambda: clock.now)
    monkeypatch.setattr(http_connections, "time", clock)

    def slow(environ, start_response):
        clock.now += 60.0
        return application(environ, start_response)

    with serving(slow, ("127.0.0.1", 0), setting="QKDRELAY_HTTP", limits=HttpLimits(request_s=5.0)) as port:
        assert get(port, "/ok") == (200, "ok\n")


def test_who_dribbles_is_cut_off_too(hasty, silent):
    with connect(hasty, b"GET /ok HTTP/1.0\r\n") as connection:

        def dribble():
            connection.sendall(b"a")
            connection.settimeout(0.01)
            try:
                # An answer may come first, that it took too long.
                return connection.recv(1) == b""
            except TimeoutError:
                return False

        def cut():
            try:
                return dribble()
            except OSError:
                return True

        eventually(cut, what="the connection to be cut")


ENDLESS = {
    "a body": (b"POST /ok HTTP/1.1\r\nContent-Length: 8000000000\r\n\r\n", b"x" * 65_536),
    "a body in chunks": (
        b"POST /ok HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n",
        b"10000\r\n" + b"x" * 65_536 + b"\r\n",
    ),
    "a line": (b"GET /", b"x" * 65_536),
    "headers": (b"GET /ok HTTP/1.1\r\n", b"X: " + b"x" * 1_000 + b"\r\n"),
    "a header": (b"GET /ok HTTP/1.1\r\nX: ", b"x" * 65_536),
    "questions": (b"", b"GET /ok HTTP/1.1\r\n\r\n"),
}


@pytest.mark.parametrize(("head", "more"), ENDLESS.values(), ids=ENDLESS)
def test_what_does_not_end_is_cut_off_before_it_is_much(port, silent, head, more):
    sent = 0
    with connect(port, head) as connection, suppress(ConnectionError):
        while sent < LARGE:
            connection.sendall(more)
            sent += len(more)
    assert sent < LARGE
    assert get(port, "/ok")[0] == 200


CROWDS = {
    "idle": b"",
    "half a question": b"GET /ok HTTP/1.0\r\n",
    "many questions at once": b"GET /ok HTTP/1.1\r\n\r\n" * 100,
    "long headers": b"GET /ok HTTP/1.0\r\n" + (b"X: " + b"x" * 60_000 + b"\r\n") * 5,
    "no readers": b"GET /large HTTP/1.0\r\n\r\n",
}


@pytest.mark.parametrize("data", CROWDS.values(), ids=CROWDS)
def test_no_crowd_keeps_who_asks_on_this_machine_from_its_answer(port, silent, data):
    with ExitStack() as crowd:
        for _ in range(10):
            for _ in range(2 * CONNECTIONS_MAX):
                connection = crowd.enter_context(connect(port, source="127.0.0.2"))
                with suppress(OSError):  # cut off already
                    connection.sendall(data)
            assert get(port, "/ok") == (200, "ok\n")
        assert get(port, "/ok", "127.0.0.1")[0] == 200
    assert get(port, "/ok") == (200, "ok\n")


def test_who_does_not_read_the_answer_is_cut_off(hasty, silent):
    crowd = [connect(hasty, b"GET /large HTTP/1.0\r\n\r\n", receive_bytes=1024) for _ in range(20)]
    assert crowd[-1].recv(1) == b"H"
    eventually(lambda: not workers(busy=True), what="the answers to end")
    assert get(hasty, "/ok") == (200, "ok\n")
    for connection in crowd:
        connection.close()


def test_a_crowd_takes_no_more_threads_than_there_are_and_those_go_that_came_first(port):
    idle = [connect(port) for _ in range(3 * CONNECTIONS_MAX)]
    for connection in idle[:-CONNECTIONS_MAX]:
        assert connection.recv(1) == b""
    eventually(lambda: len(workers(busy=True)) == CONNECTIONS_MAX, what="each to have a thread")
    assert len(workers()) == CONNECTIONS_MAX
    assert get(port, "/ok")[0] == 200
    for connection in idle:
        connection.close()


def test_of_too_many_those_from_elsewhere_go_first():
    with served(connections=2) as port:
        near, far = connect(port), connect(port, source="127.0.0.2")
        late = connect(port, source="127.0.0.2")
        assert far.recv(1) == b""
        near.sendall(b"GET /ok HTTP/1.0\r\n\r\n")
        assert b"200 OK" in near.recv(100)
        for connection in (near, far, late):
            connection.close()


def test_of_too_many_those_that_ask_nothing_go_before_those_that_have_asked():
    with served(connections=2) as port:
        asking = connect(port, b"GET /large HTTP/1.0\r\n\r\n")
        assert asking.recv(1) == b"H"
        idle, late = connect(port), connect(port)
        assert idle.recv(1) == b""
        assert len(answer(asking)) > LARGE
        for connection in (asking, idle, late):
            connection.close()


def test_a_failure_of_the_application_is_an_answer_and_few_lines(port, capfd):
    with capture_logs() as logged:
        assert {get(port, "/fails")[0] for _ in range(2 * LINES_MAX)} == {500}
    assert capfd.readouterr() == ("", "")
    assert [(line["event"], line["error"]) for line in logged] == [("http.failed", "ZeroDivisionError")] * LINES_MAX


def test_a_server_stops_soon_whoever_is_still_there():
    with served() as port:
        crowd = [connect(port, data) for data in (*CROWDS.values(), b"GET /large HTTP/1.0\r\n\r\n")]
    assert not workers()
    for connection in crowd:
        connection.close()


def test_the_name_of_this_machine_is_not_asked_for(monkeypatch):
    def asked(*_):
        raise AssertionError("whoever answers for names may take a minute")

    for name in ("getfqdn", "gethostbyaddr", "gethostname"):
        monkeypatch.setattr(socket, name, asked)
    with served() as port:
        assert get(port, "/ok") == (200, "ok\n")


@pytest.mark.parametrize(("address", "host"), [("localhost", "127.0.0.1"), ("0.0.0.0", "127.0.0.1"), ("::1", "[::1]")])
def test_a_name_and_addresses_of_both_families_are_served(address, host):
    with serving(application, (address, 0), setting="QKDRELAY_HTTP") as port:
        assert get(port, "/ok", host) == (200, "ok\n")


def test_an_address_in_use_is_refused_by_name(port):
    refused = pytest.raises(
        SettingsError, match=rf"QKDRELAY_HTTP: 127\.0\.0\.1:{port} cannot be served: Address already in use$"
    )
    with refused, serving(application, ("127.0.0.1", port), setting="QKDRELAY_HTTP"):
        pass


def test_a_name_that_is_none_is_refused_by_name():
    with (
        pytest.raises(SettingsError, match=r"QKDRELAY_HTTP: no\.invalid:1 cannot be served: \w+"),
        serving(application, ("no.invalid", 1), setting="QKDRELAY_HTTP"),
    ):
        pass


def test_without_an_address_nothing_is_served():
    before = threading.active_count()
    with serving(application, None, setting="QKDRELAY_HTTP"):
        assert threading.active_count() == before
