"""One QKD device, asked over ETSI GS QKD 014: this KME is an application (SAE) of it, and so is the peer at its end.

For the direction from u to v, u is the master and draws keys, and v the slave and fetches them by their ids. What a
device has given it does not give again, so nothing is asked for twice: whoever calls decides what becomes of an error.
"""

from __future__ import annotations

import http.client
import json
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path
from typing import Any, Final, TypeVar
from urllib.parse import quote

from kme.devices.answers import (
    KEYS_MAX,
    DeviceError,
    DeviceKey,
    DeviceRefusesError,
    DeviceStatus,
    in_order,
    keys_of,
    status_of,
    words_of,
)
from kme.devices.remembered import RememberedIds
from qkdrelay.errors import SettingsError
from qkdrelay.escaping import escaped
from qkdrelay.network.devices import DEVICE_RULES, url_parts
from qkdrelay.service import tls_files

WITHIN_S: Final = 10.0
"""Seconds that a device has for an answer, from the first byte of the question to the last of the answer."""
ANSWER_BYTES_MAX: Final = 256 << 10
"""More than 128 keys of 1,024 bits take, with ids and spaces."""
IDLE_S: Final = 5.0
"""Seconds after which a connection is not used again: the device may have closed it, and a question would be lost."""
T = TypeVar("T")
_WORDS_MAX: Final = 200
_LATE: Final = f"no whole answer within {WITHIN_S:g} s"
_NOT_NOW: Final = frozenset(
    {HTTPStatus.BAD_REQUEST, HTTPStatus.UNAUTHORIZED, HTTPStatus.NOT_FOUND, HTTPStatus.SERVICE_UNAVAILABLE}
)
"""What devices answer when they have no keys, each its own way."""


@dataclass(frozen=True, slots=True)
class DeviceSettings:
    """Where a device is, and as whom to ask it."""

    url: str
    """https://HOST[:PORT][/PATH], up to what stands before /api/v1/keys."""
    peer_sae: str
    """The id by which the device knows who asks at the other end."""
    tls: Path
    """Directory with ``ca.pem``, the device's authority, and ``cert.pem`` and ``key.pem``, which it knows us by."""
    server_name: str | None = None
    """The name in the device's certificate, where it is not that of the host."""


class Device:
    """One end of a pair of QKD devices. For one thread."""

    def __init__(self, settings: DeviceSettings, *, files_may_come: bool = False) -> None:
        """Read the files. Raises SettingsError for a URL or file that cannot be used; nothing is asked yet.

        If ``files_may_come`` those that are missing are told by whatever is asked instead, until they are there.
        """
        self._settings = settings
        self._about = f"the device {escaped(settings.url)}"
        if (parts := url_parts(settings.url)) is None:
            raise SettingsError("the device's URL cannot be used", hint=DEVICE_RULES["url"].words)
        host, port, path = parts
        self._address = host, port
        self._path = f"{path}/api/v1/keys/{quote(settings.peer_sae, safe='')}"
        self._given = RememberedIds()
        self._connection: _Connection | None = None
        self._used_at = 0.0
        self._stamps: list[tuple[int, int, int] | None] | None = None
        if not files_may_come:
            self._read_files()

    def status(self) -> DeviceStatus:
        """Ask what there is. Raises DeviceError."""
        return self._ask("GET", "status", status_of)

    def draw(self, number: int, size_bits: int | None = None) -> list[DeviceKey]:
        """Draw up to ``number`` keys as master, of the device's own size unless told; what came may be fewer.

        Raises DeviceError, also for a key that was given before. Keys may be gone then; nothing asks for them again.
        """
        asked = {"number": number, **({} if size_bits is None else {"size": size_bits})}
        return self._ask("POST", "enc_keys", lambda body: self._new_keys(keys_of(body), number), asked)

    def fetch(self, key_ids: Sequence[str]) -> list[DeviceKey]:
        """Fetch as slave what the peer has drawn: all of these keys, in this order. Raises DeviceError."""
        if not 1 <= len(key_ids) <= KEYS_MAX:
            raise DeviceError(f"{len(key_ids)} keys cannot be asked for at once; 1 to {KEYS_MAX} can")
        asked = {"key_IDs": [{"key_ID": key_id} for key_id in key_ids]}
        return self._ask("POST", "dec_keys", lambda body: in_order(keys_of(body), key_ids), asked)

    def close(self) -> None:
        """Close the connection, if there is one."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def _new_keys(self, keys: list[DeviceKey], number: int) -> list[DeviceKey]:
        """Return keys that were drawn. Raises DeviceError if they are too many, or one of them was given before."""
        if len(keys) > number:
            raise DeviceError(f"{len(keys)} keys came where {number} were asked for")
        if self._given.has_any(ids := [key.key_id for key in keys]):
            raise DeviceError("a key came that was given before")
        self._given.add(ids)
        return keys

    def _read_files(self) -> None:
        stamps = tls_files.stamps(self._settings.tls)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        hint = "the device's authority, and the certificate and key that it knows this KME by"
        tls_files.load_files(context, self._settings.tls, about=self._about, hint=hint)
        self._context, self._stamps = context, stamps

    def _ask(self, method: str, what: str, read: Callable[[bytes], T], asked: dict[str, Any] | None = None) -> T:
        """Return what ``read`` makes of a good answer. Raises DeviceError for any other; it says what was asked."""
        try:
            return read(self._answer(method, what, asked))
        except DeviceError as error:
            raise type(error)(f"{what}: {error}") from None

    def _answer(self, method: str, what: str, asked: dict[str, Any] | None) -> bytes:
        """Return the body of a good answer. Raises DeviceError for any other, in words."""
        body = None if asked is None else json.dumps(asked).encode()
        headers = {"Accept": "application/json", **({} if body is None else {"Content-Type": "application/json"})}
        with self._connected() as connection:
            connection.request(method, f"{self._path}/{what}", body, headers)
            answer = connection.getresponse()
            data = _read(answer)
        if answer.status == HTTPStatus.OK:
            return data
        kind = DeviceRefusesError if answer.status in _NOT_NOW else DeviceError
        raise kind(_refusal(answer.status, answer.getheader("Location"), words_of(data)))

    @contextmanager
    def _connected(self) -> Iterator[_Connection]:
        """Yield a connection, which is kept if all goes well. Raises DeviceError for whatever goes wrong with it."""
        if self._stamps != tls_files.stamps(self._settings.tls):
            self.close()
            try:
                self._read_files()
            except SettingsError as error:
                raise DeviceError(str(error)) from None
        if time.monotonic() - self._used_at > IDLE_S:
            self.close()
        connection = self._connection or _Connection(*self._address, self._context, self._settings.server_name)
        self._connection = None
        # Else what comes drop by drop would take for ever: a socket's own limit is for each drop.
        alarm = threading.Timer(WITHIN_S, connection.give_up)
        alarm.daemon = True
        alarm.start()
        try:
            yield connection
        except (OSError, http.client.HTTPException, ValueError) as error:
            connection.close()
            raise DeviceError(_in_words(error, is_late=connection.is_late)) from None
        except BaseException as error:
            connection.close()
            if isinstance(error, DeviceError) and connection.is_late:
                raise DeviceError(_LATE) from None
            raise
        finally:
            alarm.cancel()
        if connection.is_late:
            connection.close()
            raise DeviceError(_LATE)
        self._connection, self._used_at = connection, time.monotonic()


class _Connection(http.client.HTTPSConnection):
    """A connection that somebody else can end, to whom a certificate may give another name than the host's."""

    def __init__(self, host: str, port: int, context: ssl.SSLContext, server_name: str | None) -> None:
        super().__init__(host, port, timeout=WITHIN_S, context=context)
        self._tls, self._name = context, server_name or host
        self.is_late = False

    def connect(self) -> None:
        """Connect, and check whose certificate it is."""
        plain = socket.create_connection((self.host, self.port), WITHIN_S)
        try:
            plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self.sock = plain
            self.sock = self._tls.wrap_socket(plain, server_hostname=self._name)
        except BaseException:
            plain.close()
            raise

    def give_up(self) -> None:
        """End whatever goes on; for another thread."""
        self.is_late = True
        there = self.sock
        if there is not None:
            with suppress(OSError):
                there.shutdown(socket.SHUT_RDWR)


def _read(answer: http.client.HTTPResponse) -> bytes:
    data = answer.read(ANSWER_BYTES_MAX + 1)
    if len(data) > ANSWER_BYTES_MAX:
        raise DeviceError(f"the answer is longer than {ANSWER_BYTES_MAX >> 10} KiB")
    if not answer.isclosed():
        raise DeviceError("the answer broke off")
    return data


def _refusal(status: int, location: str | None, words: str) -> str:
    if location is not None:
        return f"it answers {status} and sends us to {escaped(location, _WORDS_MAX)}; give the URL that it means"
    said = f": {words}" if words else ""
    if status in _NOT_NOW:
        return f"it gives none now ({status}{said})"
    return f"it answers {status}{said}"


def _in_words(error: Exception, *, is_late: bool) -> str:
    """Return what went wrong with a connection."""
    if is_late or isinstance(error, TimeoutError):
        return _LATE
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"its certificate is not to be trusted: {escaped(error.verify_message, _WORDS_MAX)}"
    if isinstance(error, http.client.RemoteDisconnected | ssl.SSLEOFError | ssl.SSLZeroReturnError):
        return "it closed the connection without an answer"
    if isinstance(error, ssl.SSLError):
        return f"TLS failed, perhaps because it does not trust our certificate: {escaped(error.reason or 'unknown')}"
    if isinstance(error, http.client.HTTPException | ValueError):
        return "what it answers is no HTTP"
    return f"no connection: {escaped(getattr(error, 'strerror', None) or str(error), _WORDS_MAX)}"
