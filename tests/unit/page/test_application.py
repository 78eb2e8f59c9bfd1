"""The page over HTTP: looked at and nothing else, with headers that let a browser do no more than is needed."""

import io
import json
import re
import socket
import threading
import time
from pathlib import Path
from uuid import uuid4

import pytest

from qkdrelay_page import application, plans
from qkdrelay_page.application import POLICY, QUERY_MAX, page_application
from qkdrelay_page.board import VIEWERS_MAX, Board
from qkdrelay_page.serving import serving_page
from support.network import REFERENCE
from support.stack import command_here
from support.waiting import eventually

STATIC = Path(application.__file__).parent / "static"


@pytest.fixture
def board():
    board = Board()
    board.topology = REFERENCE
    return board


class Answer:
    def __init__(self, board, path="/", method="GET", hosts=(), **environ):
        path, _, query = path.partition("?")
        said = {"REQUEST_METHOD": method, "PATH_INFO": path, "QUERY_STRING": query, "wsgi.input": io.BytesIO()}

        def start(status, headers):
            self.status, self.headers = status, dict(headers)

        self.parts = page_application(board, hosts)({**said, **environ}, start)

    @property
    def data(self):
        return json.loads(b"".join(self.parts))


@pytest.mark.parametrize("path", ["/", "/index.html", "/page.css", "/page.js", "/map.js", "/icon.svg"])
def test_its_files_come_with_a_policy_that_allows_nothing_from_elsewhere(board, path):
    answer = Answer(board, path)
    assert answer.status == "200 OK"
    assert answer.headers["Content-Security-Policy"] == POLICY
    assert answer.headers["X-Content-Type-Options"] == "nosniff"
    assert "Set-Cookie" not in answer.headers
    again = Answer(board, path, HTTP_IF_NONE_MATCH=answer.headers["ETag"])
    assert (again.status, list(again.parts)) == ("304 Not Modified", [])


@pytest.mark.parametrize(
    "path", ["/", "/events", "/plan?source=kme-1&target=kme-8", "/nothing", "/..%2f", "/static/page.js"]
)
@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE", "LINK"])
def test_it_can_only_be_looked_at(board, method, path):
    answer = Answer(board, path, method)
    assert answer.status == "405 Method Not Allowed"
    assert answer.headers["Allow"] == "GET, HEAD"
    assert board.viewers == 0


@pytest.mark.parametrize("path", ["/nothing", "/../board.py", "/__init__.py", "//page.js", "/page.js/", "/advice.py"])
def test_there_is_nothing_else(board, path):
    assert Answer(board, path).status == "404 Not Found"


@pytest.mark.parametrize(
    "host",
    [
        "127.0.0.1:8080",
        "localhost",
        "LocalHost:8080",
        "[::1]:8080",
        "[::1]",
        "10.0.0.7",
        "qkd.example.org",
        "QKD.example.org:443",
    ],
)
def test_it_answers_under_addresses_and_the_names_that_it_has(board, host):
    assert Answer(board, hosts=("qkd.example.org",), HTTP_HOST=host).status == "200 OK"


@pytest.mark.parametrize(
    "host",
    ["evil.example", "evil.example:8080", "127.0.0.1.evil.example", "", "localhost.", "a:b:c", "qkd.example.org.evil"],
)
def test_a_name_that_somebody_made_lead_here_is_answered_nothing(board, host):
    answer = Answer(board, "/events", hosts=("qkd.example.org",), HTTP_HOST=host)
    assert answer.status == "421 Misdirected Request"
    assert "QKDRELAY_PAGE_HOSTS" in answer.data["hint"]


@pytest.mark.parametrize(
    ("path", "said"),
    [
        ("/plan", "there is no KME ''"),
        ("/plan?source=kme-1&target=kme-99", "there is no KME 'kme-99'"),
        ("/plan?source=kme-1&target=kme-1", "source and target are both"),
        ("/plan?source=kme-1&target=kme-8&policy=magic", "there is no policy 'magic'"),
        ("/plan?source=kme-1&target=kme-8&cut=kme-1:kme-8", "there is no QKD link between"),
        ("/plan?source=kme-1&target=kme-8&cut=kme-1", "there is no KME ''"),
        ("/plan?source=kme-1&target=kme-8&compromised=<script>", "there is no KME '<script>'"),
        ("/plan?source=kme-1&source=kme-2&target=kme-8", "something is asked twice"),
        ("/plan?source=kme-1&target=kme-8&more=1", "'more' is nothing to ask"),
        ("/plan?source=%ff&target=kme-8", "cannot be read"),
        ("/plan?&&&&", "cannot be read"),
        ("/plan?" + "x" * (QUERY_MAX + 1), "longer than"),
        ("/plan?" + "&".join(f"a{n}=1" for n in range(50)), "cannot be read"),
        ("/events?relay=", "no whole id"),
        ("/events?relay=3f2a", "no whole id"),
        ("/events?relay=latest&x=1", "'x' is nothing to ask"),
    ],
)
def test_a_question_that_cannot_be_is_told_in_one_line(board, path, said):
    answer = Answer(board, path)
    assert answer.status == "400 Bad Request"
    assert said in answer.data["message"]
    assert "\n" not in answer.data["message"]
    assert board.viewers == 0


def test_a_plan_is_what_the_command_line_says(board, capsys):
    answer = Answer(board, "/plan?source=kme-1&target=kme-8&compromised=kme-4,kme-6&cut=kme-7:kme-8").data
    reference = ("kme-1", "kme-8", "--topology", "eight-kmes", "--json")
    assert answer["plan"] == command_here("plan", *reference).json()
    case = ("--compromised", "kme-4,kme-6", "--cut", "kme-7:kme-8")
    assert answer["analysis"] == command_here("analyse", *reference, *case).json()
    assert answer["taken"]["policy"] == answer["analysis"]["policy"]


def test_before_the_network_is_known_no_plan_is_made():
    answer = Answer(Board(), "/plan?source=kme-1&target=kme-8")
    assert answer.status == "503 Service Unavailable"
    assert "not known yet" in answer.data["message"]


def test_plans_are_made_one_at_a_time_and_who_waits_too_long_is_told_so(board, monkeypatch):
    monkeypatch.setattr(plans, "WAIT_S", 0.01)
    planning = plans.Planning(board)
    with planning._one, pytest.raises(plans.BusyError, match="take long"):
        planning.answer({"source": "kme-1", "target": "kme-8"})
    assert planning.answer({"source": "kme-1", "target": "kme-8"})["taken"]["chosen"]


def test_a_stream_has_what_there_is_and_what_changes_and_counts_its_viewer(board):
    board.put("network", {"name": "</script>\n\nevent: x"})
    stream = Answer(board, "/events")
    assert stream.headers["Content-Type"] == "text/event-stream"
    chunks = iter(stream.parts)
    assert next(chunks) == b"retry: 2000\n\n"
    assert next(chunks) == b'event: network\ndata: {"name":"</script>\\n\\nevent: x"}\n\n'
    board.put("relays", [])
    assert next(chunks) == b"event: relays\ndata: []\n\n"
    assert board.viewers == 1
    stream.parts.close()
    assert board.viewers == 0


def test_who_asks_for_the_head_of_a_stream_is_no_viewer(board):
    """Nothing would ever be sent, so nobody would be seen to have gone."""
    answer = Answer(board, "/events", "HEAD")
    assert (answer.status, list(answer.parts), board.viewers) == ("200 OK", [], 0)


def test_one_viewer_too_many_is_asked_to_come_again(board):
    streams = [Answer(board, "/events") for _ in range(VIEWERS_MAX)]
    refused = Answer(board, "/events")
    assert refused.status == "503 Service Unavailable"
    assert refused.headers["Retry-After"] == "10"
    assert Answer(board, "/").status == "200 OK"
    for stream in streams:
        stream.parts.close()
    assert board.viewers == 0


def connected(port, path):
    there = socket.create_connection(("127.0.0.1", port), timeout=20)
    there.sendall(f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n".encode())
    return there


def test_who_has_gone_and_who_reads_nothing_is_counted_no_longer(board, monkeypatch):
    """A viewer whose connection is full holds up nobody, and is sent away."""
    monkeypatch.setattr(application, "STILL_S", 0.05)
    with serving_page(board, ("127.0.0.1", 0), setting="a test") as port:
        gone = connected(port, "/events")
        eventually(lambda: board.viewers == 1, what="a viewer")
        gone.close()
        eventually(lambda: board.viewers == 0, what="its end")
        deaf, reads = connected(port, "/events"), connected(port, f"/events?relay={uuid4()}")
        eventually(lambda: board.viewers == 2, what="two viewers")
        got = []
        threading.Thread(target=lambda: got.extend(iter(lambda: reads.recv(1 << 20), b"")), daemon=True).start()
        began = time.monotonic()

        def full():
            board.put("network", {"much": str(time.monotonic()) + "x" * (1 << 20)})
            return board.viewers == 1

        eventually(full, timeout_s=60.0, what="the one that reads nothing to be sent away")
        assert time.monotonic() - began < 60.0
        assert sum(map(len, got)) > 1 << 20
        deaf.close()
    reads.close()


def test_at_the_end_streams_end_at_once(board):
    with serving_page(board, ("127.0.0.1", 0), setting="a test") as port:
        streams = [connected(port, "/events") for _ in range(20)]
        eventually(lambda: board.viewers == 20, what="the viewers")
    for stream in streams:
        while stream.recv(1 << 16):
            pass
        stream.close()
    assert board.viewers == 0


def test_nothing_is_made_into_markup_and_nothing_comes_from_elsewhere():
    for path in STATIC.iterdir():
        text = path.read_text()
        forbidden = (
            r"innerHTML|outerHTML|insertAdjacent|document\.write|\beval\b|new Function|javascript:|\son\w+=\"|style=\""
        )
        assert not re.search(forbidden, text), path.name
        assert not [url for url in re.findall(r"https?://[^\s\"'`]+", text) if url != "http://www.w3.org/2000/svg"], (
            path.name
        )
