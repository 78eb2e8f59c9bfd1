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
    NotAllowedError,
    TryLaterError,
)
from kme.etsi014 import answers
from kme.etsi014.audit import Audit, AuditEntry, Kind, Outcome
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
_METHODS: Final[dict[Kind, tuple[str, ...]]] = {
    "status": ("GET",),
    "enc_keys": ("GET", "POST"),
    "dec_keys": ("GET", "POST"),
}
_STATUS: Final[dict[type[ApplicationError], tuple[str, Outcome]]] = {
    BadRequestError: ("400 Bad Request", "bad_request"),
    NotAllowedError: ("401 Unauthorized", "not_allowed"),
    TryLaterError: ("503 Service Unavailable", "try_later"),
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

    def __init__(self, keys: ApplicationKeys, audit: Audit, *, id_from: IdFrom, patience_s: float) -> None:
        """``patience_s`` is how long an answer of ``keys`` is waited for."""
        self._keys, self._audit, self._id_from, self._patience_s = keys, audit, id_from, patience_s

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        """Answer one request; every answer is JSON."""
        headers: list[tuple[str, str]] = []
        outcome: Outcome = "ok"
        asked = AuditEntry()
        try:
            status, answer = "200 OK", self._answer(environ, asked)
        except ApplicationError as error:
            status, outcome = _STATUS[type(error)]
            answer = answers.error(error)
            if isinstance(error, TryLaterError):
                headers.append(("Retry-After", str(error.retry_after_s)))
        except _NoSuchPathError as error:
            status, outcome, answer = "404 Not Found", "bad_request", {"message": str(error)}
        except _MethodError as error:
            status, outcome, answer = "405 Method Not Allowed", "bad_request", {"message": str(error)}
            headers.append(("Allow", error.allowed))
        self._audit(asked, outcome, answer.get("message", ""))
        body = json.dumps(answer).encode() + b"\n"  # for people at a terminal
        headers += [("Content-Type", "application/json"), ("Content-Length", str(len(body)))]
        start_response(status, [*headers, ("Cache-Control", "no-store")])
        return [body]

    def _answer(self, environ: WSGIEnvironment, asked: AuditEntry) -> dict[str, Any]:
        body = _body(environ)  # also of what is refused, or it would be taken for the next request
        other, what = _path(environ["PATH_INFO"])
        method = environ["REQUEST_METHOD"]
        if method not in _METHODS[what]:
            raise _MethodError(_METHODS[what])
        asked.kind = what
        caller = asked.caller = caller_of(environ[CLIENT_CERTIFICATE], self._id_from)
        if not SAE_ID.fullmatch(other):
            raise BadRequestError("the path has no SAE ID where one must be")
        asked.other = other
        if method == "GET" and body.strip():
            raise BadRequestError("GET takes no body; use POST")
        if other == caller.sae_id:
            raise BadRequestError("master and slave are the same SAE")
        query, said = read_query(environ.get("QUERY_STRING", "")), read_body(body)
        if what == "status":
            return answers.status(self._wait(self._keys.status(caller, other)), caller.sae_id, other)
        if what == "enc_keys":
            only_once(query, said, ("number", "size"))
            coming = self._keys.take(caller, keys_wanted(other, said or from_query(query)))
        else:
            only_once(query, said, ("key_ID",))
            key_ids = [parse_key_id(query["key_ID"])] if not said and "key_ID" in query else key_ids_wanted(said)
            coming = self._keys.fetch(caller, other, key_ids)
        keys = self._wait(coming)
        asked.keys = [key.key_id for key in keys]
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


def _path(path: str) -> tuple[str, Kind]:
    """Return the SAE ID and the method of the standard that a path names. Raises _NoSuchPathError."""
    *prefix, other, what = ["", "", *path.removesuffix("/").split("/")]
    if prefix[2:] != PREFIX or what not in _METHODS:
        raise _NoSuchPathError("there are /api/v1/keys/{SAE ID}/status, enc_keys and dec_keys")
    return other, what
