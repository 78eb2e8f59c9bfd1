"""A pair of QKD devices that serve both ends over ETSI GS QKD 014, and can be told to misbehave as in the field."""

from __future__ import annotations

import base64
import json
import secrets
import ssl
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote
from uuid import uuid4

LIMIT_S = 30.0


class Pair:
    """What the two devices share: keys that the master has drawn and the slave has not fetched."""

    def __init__(self):
        self.uncollected = {}
        self.asked = []
        """(method, what, asked for), as they came."""
        self.mood = None
        """What the next answers are: called with the handler, what is asked for and the body; None is well behaved."""
        self.size_bits = 256
        self.stored = 1_000
        self.end = threading.Event()
        """Set when whoever hangs is to stop."""

    def draw(self, number, size_bits=None):
        """Draw keys; all that was not fetched of the draws before stays."""
        keys = [(str(uuid4()), secrets.token_bytes((size_bits or self.size_bits) // 8)) for _ in range(number)]
        self.uncollected.update(keys)
        self.stored -= number
        return keys

    def fetch(self, key_ids):
        """Give keys once."""
        return [(key_id, self.uncollected.pop(key_id)) for key_id in key_ids]


class Handler(BaseHTTPRequestHandler):
    """One connection to either device."""

    protocol_version = "HTTP/1.1"
    timeout = LIMIT_S

    @property
    def pair(self):
        return self.server.pair

    def do_GET(self):
        self.handle_any(b"")

    def do_POST(self):
        self.handle_any(self.rfile.read(int(self.headers.get("Content-Length", 0))))

    def handle_any(self, body):
        sae, what = unquote(self.path).removeprefix("/api/v1/keys/").rsplit("/", 1)
        asked = json.loads(body) if body else {}
        self.pair.asked.append((self.command, sae, what, asked))
        if self.pair.mood is not None:
            self.pair.mood(self, what, asked)
        else:
            self.well(what, asked)

    def well(self, what, asked):
        """Answer as the standard has it."""
        pair = self.pair
        if what == "status":
            self.answer({"stored_key_count": pair.stored, "key_size": pair.size_bits, "max_key_per_request": 128})
        elif what == "enc_keys":
            self.give(pair.draw(asked.get("number", 1), asked.get("size")))
        elif all(each["key_ID"] in pair.uncollected for each in asked["key_IDs"]):
            self.give(pair.fetch([each["key_ID"] for each in asked["key_IDs"]]))
        else:
            self.answer({"message": "one or more keys specified are not found on KME"}, 400)

    def give(self, keys):
        """Answer with keys."""
        listed = [{"key_ID": key_id, "key": base64.b64encode(key).decode()} for key_id, key in keys]
        self.answer({"keys": listed})

    def answer(self, found, status=200, **headers):
        """Answer with JSON, or with bytes as they are."""
        data = found if isinstance(found, bytes) else json.dumps(found).encode()
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_):
        """Say nothing."""


@contextmanager
def serving(pair, directory, authority):
    """Serve both devices at one port; ``directory`` has TLS files, ``authority`` is whom they trust. Yield the port."""

    class Server(ThreadingHTTPServer):
        daemon_threads = True

        def handle_error(self, *_):
            """A client that goes away is not worth a word."""

    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(directory / "cert.pem", directory / "key.pem")
    context.load_verify_locations(authority)
    context.verify_mode = ssl.CERT_REQUIRED
    server = Server(("127.0.0.1", 0), Handler)
    server.pair = pair
    server.socket = context.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    try:
        yield server.server_address[1]
    finally:
        pair.end.set()
        server.shutdown()
        server.server_close()
        thread.join(10)
