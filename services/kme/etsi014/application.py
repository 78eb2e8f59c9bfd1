"""The interface for applications as a WSGI application: paths, methods, status codes; no store and no sockets."""

from __future__ import annotations

import json
from collections.abc import Iterable
from concurrent.futures import CancelledError, Future
from typing import Any, Final, TypeVar
from wsgiref.types import StartResponse, WSGIEnvironment

from kme.applications import (
    ApplicationError,
    ApplicationKeys,
    BadRequestError,
    Caller,
    NotAllowedError,
    TryLaterError,
)
from kme.etsi014 import answers
from kme.etsi014.identity import IdFrom, caller_of
from kme.etsi014.questions import (
    from_query,
    key_ids_wanted,
    keys_wanted,
    only_once,
    parse_key_id,
    read_body,
    read_query,
)
from qkdrelay.network.names import SAE_ID
from qkdrelay.service.http_connections import CLIENT_CERTIFICATE

PREFIX: Final = ["", "api", "v1", "keys"]
_METHODS: Final = {"status": ("GET",), "enc_keys": ("GET", "POST"), "dec_keys": ("GET", "POST")}
_STATUS: Final[dict[type[ApplicationError], str]] = {
    BadRequestError: "400 Bad Request",
    NotAllowedError: "401 Unauthorized",
    TryLaterError: "503 Service Unavailable",
}
T = TypeVar("T")


class _NoSuchPathError(Exception):
    """There is nothing at this path (404)."""


class _MethodError(Exception):
    """Not with this method (405)."""

    def __init__(self, allowed: tuple[str, ...]) -> None:
        super().__init__(f"the method must be {' or '.join(allowed)}")
        self.allowed = ", ".join(allowed)


class Etsi014:
    """ETSI GS QKD 014 for the SAEs of one KME (a WSGI application)."""

    def __init__(self, keys: ApplicationKeys, *, id_from: IdFrom, patience_s: float) -> None:
        """``patience_s`` is how long an answer of ``keys`` is waited for."""
        self._keys, self._id_from, self._patience_s = keys, id_from, patience_s

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        """Answer one request; every answer is JSON."""
        headers: list[tuple[str, str]] = []
        try:
            status, answer = "200 OK", self._answer(environ)
        except ApplicationError as error:
            status, answer = _STATUS[type(error)], answers.error(error)
            if isinstance(error, TryLaterError):
                headers.append(("Retry-After", str(error.retry_after_s)))
        except _NoSuchPathError as error:
            status, answer = "404 Not Found", {"message": str(error)}
        except _MethodError as error:
            status, answer = "405 Method Not Allowed", {"message": str(error)}
            headers.append(("Allow", error.allowed))
        body = json.dumps(answer).encode() + b"\n"  # for people at a terminal
        headers += [("Content-Type", "application/json"), ("Content-Length", str(len(body)))]
        start_response(status, [*headers, ("Cache-Control", "no-store")])
        return [body]

    def _answer(self, environ: WSGIEnvironment) -> dict[str, Any]:
        body = _body(environ)  # also of what is refused, or it would be taken for the next request
        other, what = _path(environ["PATH_INFO"])
        method = environ["REQUEST_METHOD"]
        if method not in _METHODS[what]:
            raise _MethodError(_METHODS[what])
        caller = caller_of(environ[CLIENT_CERTIFICATE], self._id_from)
        if not SAE_ID.fullmatch(other):
            raise BadRequestError("the path has no SAE ID where one must be")
        if method == "GET" and body.strip():
            raise BadRequestError("GET takes no body; use POST")
        if other == caller.sae_id:
            raise BadRequestError("master and slave are the same SAE")
        query, asked = read_query(environ.get("QUERY_STRING", "")), read_body(body)
        if what == "status":
            return answers.status(self._wait(self._keys.status(caller, other)), caller.sae_id, other)
        if what == "enc_keys":
            return self._take(caller, other, query, asked)
        return self._fetch(caller, other, query, asked)

    def _take(self, caller: Caller, slave: str, query: dict[str, str], asked: dict[str, Any]) -> dict[str, Any]:
        only_once(query, asked, ("number", "size"))
        request = keys_wanted(slave, asked or from_query(query))
        keys = self._wait(self._keys.take(caller, request))
        return answers.container(keys)

    def _fetch(self, caller: Caller, master: str, query: dict[str, str], asked: dict[str, Any]) -> dict[str, Any]:
        only_once(query, asked, ("key_ID",))
        key_ids = [parse_key_id(query["key_ID"])] if not asked and "key_ID" in query else key_ids_wanted(asked)
        keys = self._wait(self._keys.fetch(caller, master, key_ids))
        return answers.container(keys)

    def _wait(self, answer: Future[T]) -> T:
        try:
            return answer.result(timeout=self._patience_s)
        except TimeoutError:
            if answer.cancel():
                raise TryLaterError("the KME does not answer", retry_after_s=5) from None
            return answer.result(timeout=self._patience_s)  # it has come just now, or is about to
        except CancelledError:
            raise TryLaterError("the KME is being stopped", retry_after_s=5) from None


def _body(environ: WSGIEnvironment) -> bytes:
    body: bytes = environ["wsgi.input"].read()
    return body


def _path(path: str) -> tuple[str, str]:
    """Return the SAE ID and the method of the standard that a path names. Raises _NoSuchPathError."""
    *prefix, other, what = ["", "", *path.removesuffix("/").split("/")]
    if prefix[2:] != PREFIX or what not in _METHODS:
        raise _NoSuchPathError("there are /api/v1/keys/{SAE ID}/status, enc_keys and dec_keys")
    return other, what
