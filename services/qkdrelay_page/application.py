"""The page over HTTP: its files, a stream of what is new, plans. It answers GET and HEAD, and nothing else there is."""

from __future__ import annotations

import hashlib
import ipaddress
import json
from collections.abc import Collection, Iterable, Iterator
from contextlib import ExitStack
from importlib.resources import files
from typing import Final
from urllib.parse import parse_qsl
from uuid import UUID
from wsgiref.types import StartResponse, WSGIApplication, WSGIEnvironment

from qkdrelay.errors import QkdRelayError, RequestRefusedError
from qkdrelay_page.board import Board, TooManyViewersError, Viewer
from qkdrelay_page.plans import BusyError, Planning

STILL_S: Final = 10.0
"""Seconds without news after which a stream says that it is there: who has gone is noticed by that."""
QUERY_MAX: Final = 4_096
POLICY: Final = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
_HEADERS: Final = [
    ("Content-Security-Policy", POLICY),
    ("X-Content-Type-Options", "nosniff"),
    ("Referrer-Policy", "no-referrer"),
    ("Cross-Origin-Opener-Policy", "same-origin"),
    ("Cross-Origin-Resource-Policy", "same-origin"),
]
_TYPES: Final = {
    "html": "text/html; charset=utf-8",
    "css": "text/css; charset=utf-8",
    "js": "text/javascript; charset=utf-8",
    "svg": "image/svg+xml",
}
_JSON: Final = ("Content-Type", "application/json")
_FRESH: Final = ("Cache-Control", "no-store")
_BAD: Final = "400 Bad Request"


def page_application(board: Board, hosts: Collection[str] = ()) -> WSGIApplication:
    """Return the application that shows ``board``; under addresses, as localhost, and under the names ``hosts``."""
    answers = _Answers(board)

    def application(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        host = environ.get("HTTP_HOST")
        if host is not None and not _is_ours(host, hosts):
            hint = "ask by the address, or have the name listed in QKDRELAY_PAGE_HOSTS"
            return _error(start_response, "421 Misdirected Request", "this host does not show the page", hint)
        if environ["REQUEST_METHOD"] not in ("GET", "HEAD"):
            message = "the page can only be looked at"
            return _error(start_response, "405 Method Not Allowed", message, "GET", [("Allow", "GET, HEAD")])
        return answers.answer(environ["PATH_INFO"], environ.get("QUERY_STRING", ""), environ, start_response)

    return application


def _is_ours(host: str, hosts: Collection[str]) -> bool:
    """Whether a browser that asks with this Host means us: not one that a foreign name was made to lead here."""
    name = host.rpartition(":")[0] if host.rpartition(":")[2].isdecimal() and not host.endswith("]") else host
    if name.lower() in ("localhost", *hosts):
        return True
    try:
        ipaddress.ip_address(name.strip("[]"))
    except ValueError:
        return False
    return True


def _error(
    start: StartResponse, status: str, message: str, hint: str | None, headers: Iterable[tuple[str, str]] = ()
) -> list[bytes]:
    start(status, [_JSON, _FRESH, *_HEADERS, *headers])
    return [json.dumps({"message": message, "hint": hint}).encode() + b"\n"]


class _Answers:
    def __init__(self, board: Board) -> None:
        self._board, self._planning = board, Planning(board)
        self._files = {f"/{entry.name}": entry.read_bytes() for entry in files("qkdrelay_page.static").iterdir()}
        self._files["/"] = self._files["/index.html"]
        self._tags = {path: f'"{hashlib.sha256(data).hexdigest()[:16]}"' for path, data in self._files.items()}

    def answer(self, path: str, query: str, environ: WSGIEnvironment, start: StartResponse) -> Iterable[bytes]:
        """Answer a GET."""
        try:
            if path == "/events":
                return self._events(_parsed(query), start, is_head=environ["REQUEST_METHOD"] == "HEAD")
            if path == "/plan":
                return self._plan(_parsed(query), start)
        except (TooManyViewersError, BusyError) as error:
            return _error(start, "503 Service Unavailable", str(error), error.hint, [("Retry-After", "10")])
        except QkdRelayError as error:
            return _error(start, _BAD, str(error), error.hint)
        return self._file(path, environ, start)

    def _file(self, path: str, environ: WSGIEnvironment, start: StartResponse) -> Iterable[bytes]:
        data = self._files.get(path)
        if data is None:
            return _error(start, "404 Not Found", "there is no such page", "it is at /")
        tag = self._tags[path]
        headers = [("ETag", tag), ("Cache-Control", "no-cache"), *_HEADERS]
        if environ.get("HTTP_IF_NONE_MATCH") == tag:
            start("304 Not Modified", headers)
            return []
        kind = _TYPES["html" if path == "/" else path.rpartition(".")[2]]
        start("200 OK", [("Content-Type", kind), ("Content-Length", str(len(data))), *headers])
        return [data]

    def _plan(self, asked: dict[str, str], start: StartResponse) -> Iterable[bytes]:
        data = json.dumps(self._planning.answer(asked)).encode()
        start("200 OK", [_JSON, ("Content-Length", str(len(data))), _FRESH, *_HEADERS])
        return [data]

    def _events(self, asked: dict[str, str], start: StartResponse, *, is_head: bool) -> Iterable[bytes]:
        if unknown := sorted(asked.keys() - {"relay"}):
            raise RequestRefusedError(f"{unknown[0]!r} is nothing to ask", hint="there is relay, with its whole id")
        try:
            relay = UUID(asked["relay"]) if "relay" in asked else None
        except ValueError:
            raise RequestRefusedError("relay is no whole id of a relay", hint="as the list of relays has it") from None
        headers = [("Content-Type", "text/event-stream"), ("X-Accel-Buffering", "no"), _FRESH, *_HEADERS]
        if is_head:  # nobody would read, and nobody be seen to go
            start("200 OK", headers)
            return []
        stack = ExitStack()
        viewer = stack.enter_context(self._board.viewer(relay))
        start("200 OK", headers)
        return _Stream(viewer, stack)


def _parsed(query: str) -> dict[str, str]:
    if len(query) > QUERY_MAX:
        raise RequestRefusedError(f"the question is longer than {QUERY_MAX} characters", hint="a shorter one")
    try:
        pairs = parse_qsl(query, keep_blank_values=True, strict_parsing=bool(query), max_num_fields=20, errors="strict")
    except ValueError:
        raise RequestRefusedError("the question cannot be read", hint="such as ?source=kme-1&target=kme-8") from None
    if len(dict(pairs)) < len(pairs):
        raise RequestRefusedError("something is asked twice", hint="each once, with commas between several")
    return dict(pairs)


class _Stream:
    """Server-sent events; the server closes it when who looks has gone, or takes nothing any more."""

    def __init__(self, viewer: Viewer, stack: ExitStack) -> None:
        self._viewer, self._stack = viewer, stack
        self._chunks = self._made()

    def __iter__(self) -> Iterator[bytes]:
        return self._chunks

    def _made(self) -> Iterator[bytes]:
        yield b"retry: 2000\n\n"
        while (news := self._viewer.next(STILL_S)) is not None:
            events = [b"event: %s\ndata: %s\n\n" % (name.encode(), data) for name, data in news.items()]
            yield b"".join(events) or b": still here\n\n"

    def close(self) -> None:
        """Count the viewer no longer."""
        self._stack.close()
