"""The server that the interface for applications is compared with: the same, over the same TLS, with a constant answer.

It commits once a request, to a file of SQLite's with the settings that stores have.

python -m bench.constant PORT TLS FILE
"""

from __future__ import annotations

import json
import sqlite3
import sys
import threading
from collections.abc import Iterable
from pathlib import Path
from wsgiref.types import StartResponse, WSGIEnvironment

from kme.etsi014.server import LIMITS
from qkdrelay.service.http import serving
from qkdrelay.service.http_tls import ClientTls
from qkdrelay.service.process import prepare_process
from support.rabbitmq import LOOPBACK

READY = "ready"
KEY = {
    "key_ID": "6f8c7b2e-93c1-5a7b-8d55-0f6ce2b8b7a1",
    "key": "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=",
    "key_extension": {"qkdrelay_compromised": 1, "qkdrelay_route": "relayed", "qkdrelay_age_s": 12},
}
BODY = json.dumps({"keys": [KEY]}).encode()
_PRAGMAS = ("journal_mode=WAL", "synchronous=FULL", "page_size=8192", "secure_delete=ON")


class Constant:
    """A WSGI application that says the same to everybody, each time after a commit."""

    def __init__(self, file: Path) -> None:
        self._lock = threading.Lock()
        self._number = 0
        self._db = sqlite3.connect(file, isolation_level=None, check_same_thread=False)
        for pragma in _PRAGMAS:
            self._db.execute(f"PRAGMA {pragma}")
        self._db.execute("CREATE TABLE answers (id INTEGER PRIMARY KEY, number INTEGER)")

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        """Answer one request."""
        environ["wsgi.input"].read()
        with self._lock:
            self._number += 1
            self._db.execute("BEGIN IMMEDIATE")
            self._db.execute("INSERT OR REPLACE INTO answers VALUES (1, ?)", (self._number,))
            self._db.execute("COMMIT")
        headers = [("Content-Type", "application/json"), ("Content-Length", str(len(BODY)))]
        start_response("200 OK", [*headers, ("Cache-Control", "no-store")])
        return [BODY]


def main() -> None:
    """Serve until SIGTERM; say when."""
    port, tls, file = sys.argv[1:]
    stop = prepare_process()
    certificates = ClientTls(Path(tls), setting="TLS")
    with serving(Constant(Path(file)), (LOOPBACK, int(port)), setting="PORT", limits=LIMITS, tls=certificates):
        print(READY, flush=True)
        while not stop.wait(60.0):
            pass


if __name__ == "__main__":
    main()
