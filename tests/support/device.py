"""A pair of QKD devices that serve both ends over ETSI GS QKD 014, and can be told to misbehave as in the field."""

from __future__ import annotations

import base64
import json
import secrets
import ssl
import threading
import time
from collections import defaultdict
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote
from uuid import uuid4

LIMIT_S = 30.0


class Pair:
    """What the two devices share: keys that a master has drawn and its slave has not fetched.

    A direction goes by the id of its slave where keys are drawn, which is the last but one part of the path.
    """

    def __init__(self, *, rate_bps=None, store_bits=1 << 20):
        """Key appears at ``rate_bps`` in each direction, if told, and is kept up to ``store_bits``; none at first."""
        self.uncollected = {}
        self.asked = []
        """(method, sae, what, asked for), as they came."""
        self.mood = None
        """What the next answers are: called with the handler, what is asked for and the body; None is well behaved."""
        self.size_bits = 256
        self.sizes = None
        """Sizes of keys, by turns, if they change."""
        self.most = 128
        """Keys in one answer."""
        self.refuses_more = False
        """Whether nothing is given, at either end, where more are asked for at once."""
        self.stored = 1_000
        self.keeps = True
        """Whether what was not fetched stays when more is drawn, in either direction."""
        self.is_upper = False
        """Whether ids are in upper case, and known so alone."""
        self.takes_s = None
        """Seconds that a draw takes where two at once dead-lock the pair: both are answered nothing then."""
        self.drawn, self.dropped, self.deadlocks = defaultdict(int), 0, 0
        """Keys given by direction; keys of those that nobody had fetched; times that it was dead-locked."""
        self.end = threading.Event()
        """Set when whoever hangs is to stop."""
        self.closes = False
        """Whether connections are closed after each answer."""
        self._rate_bps, self._store_bits, self._began = rate_bps, store_bits, time.monotonic()
        self._levels = defaultdict(lambda: (0.0, self._began))
        self._changed = threading.Condition()
        self._drawing, self._is_stuck = set(), False

    def draw(self, number, size_bits=None, sae=""):
        """Draw keys: what there is, up to so many."""
        with self._changed:
            if not self.keeps:
                self.dropped += len(self.uncollected)
                self.uncollected.clear()
            keys = []
            while len(keys) < min(number, self.most):
                size = size_bits or (next(self.sizes) if self.sizes else self.size_bits)
                if not self._take(sae, size):
                    break
                key_id = str(uuid4())
                keys.append((key_id.upper() if self.is_upper else key_id, secrets.token_bytes(size // 8)))
            self.uncollected.update(keys)
            self.stored -= len(keys)
            self.drawn[sae] += len(keys)
            return keys

    def _take(self, sae, bits):
        """Take so much of what has appeared, or nothing if it is less."""
        if self._rate_bps is None:
            return True
        level, at = self._levels[sae]
        now = time.monotonic()
        level = min(self._store_bits, level + (now - at) * self._rate_bps)
        self._levels[sae] = (level - bits if level >= bits else level), now
        return level >= bits

    def has_turn(self, sae):
        """Take as long as a draw takes; whether it was alone. Two at once hang until whoever asked has gone."""
        with self._changed:
            self._drawing.add(sae)
            if len(self._drawing) > 1:
                self._is_stuck, self.deadlocks = True, self.deadlocks + 1
                self._changed.notify_all()
            self._changed.wait_for(lambda: self._is_stuck, self.takes_s)
            if not self._is_stuck:
                self._drawing.discard(sae)
                return True
        self.end.wait(4 * self.takes_s)
        with self._changed:
            self._drawing.discard(sae)
            self._is_stuck = bool(self._drawing)
        return False

    def fetch(self, key_ids):
        """Give keys once; None if one of them is not there."""
        with self._changed:
            if not all(key_id in self.uncollected for key_id in key_ids):
                return None
            return [(key_id, self.uncollected.pop(key_id)) for key_id in key_ids]

    def fetches(self):
        """The ids that were asked for, as often as they were."""
        wanted = [asked for _, _, what, asked in list(self.asked) if what == "dec_keys"]
        return [each["key_ID"] for asked in wanted for each in asked["key_IDs"]]


class Handler(BaseHTTPRequestHandler):
    """One connection to either device."""

    protocol_version = "HTTP/1.1"
    timeout = LIMIT_S
    disable_nagle_algorithm = True

    @property
    def pair(self):
        return self.server.pair

    def do_GET(self):
        self.handle_any(b"")

    def do_POST(self):
        self.handle_any(self.rfile.read(int(self.headers.get("Content-Length", 0))))

    def handle_any(self, body):
        self.sae, what = unquote(self.path).removeprefix("/api/v1/keys/").rsplit("/", 1)
        asked = json.loads(body) if body else {}
        self.pair.asked.append((self.command, self.sae, what, asked))
        if self.pair.mood is not None:
            self.pair.mood(self, what, asked)
        else:
            self.well(what, asked)

    def well(self, what, asked):
        """Answer as the standard has it."""
        pair = self.pair
        at_once = asked.get("number", 1) if what == "enc_keys" else len(asked.get("key_IDs", ()))
        if what == "status":
            figures = {"stored_key_count": pair.stored, "key_size": pair.size_bits}
            self.answer({**figures, "max_key_per_request": pair.most if pair.refuses_more else 128})
        elif pair.refuses_more and at_once > pair.most:
            self.answer({"message": "too many keys"}, 400)
        elif what == "enc_keys":
            if pair.takes_s is not None and not pair.has_turn(self.sae):
                self.close_connection = True
            elif keys := pair.draw(asked.get("number", 1), asked.get("size"), self.sae):
                self.give(keys)
            else:
                self.answer({"message": "there are no keys"}, 503)
        elif (keys := pair.fetch([each["key_ID"] for each in asked["key_IDs"]])) is not None:
            self.give(keys)
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
        if self.pair.closes:
            self.send_header("Connection", "close")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_):
        """Say nothing."""


# --- moods ---------------------------------------------------------------------------------------


def answer(found, status, **headers):
    """Always the same."""
    return lambda handler, _what, _asked: handler.answer(found, status, **headers)


def only(what, mood):
    """A mood for one kind of question alone."""
    return lambda handler, asked_what, asked: (mood if asked_what == what else type(handler).well)(
        handler, asked_what, asked
    )


def hangs(handler, _what, _asked):
    """No answer, until the end."""
    handler.pair.end.wait(20.0)
    handler.close_connection = True


def half(handler, _what, _asked):
    """Half an answer."""
    handler.wfile.write(b'HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n{"keys": [')
    handler.close_connection = True


def others(handler, _what, asked):
    """Other keys than were asked for."""
    handler.give([(each["key_ID"], secrets.token_bytes(32)) for each in asked["key_IDs"]])


def repeats(handler, _what, _asked):
    """The same key each time."""
    handler.give([("again", bytes(32))])


@contextmanager
def serving(pair, directory, authority):
    """Serve both devices at one port; ``directory`` has TLS files, ``authority`` is whom they trust. Yield the port.

    `Pair.context` is of the server then: another certificate that is loaded into it is for connections to come.
    """

    class Server(ThreadingHTTPServer):
        daemon_threads = True

        def handle_error(self, *_):
            """A client that goes away is not worth a word."""

    pair.context = context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
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
