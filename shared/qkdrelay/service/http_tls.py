"""TLS of an HTTP server whose clients show certificates: read from files, and again once these have changed."""

from __future__ import annotations

import socket
import ssl
import threading
import time
from pathlib import Path
from typing import Final

import structlog

from qkdrelay.errors import SettingsError

CA_FILE: Final = "ca.pem"
CERTIFICATE_FILE: Final = "cert.pem"
KEY_FILE: Final = "key.pem"
REVOKED_FILE: Final = "crl.pem"
"""Files of a directory: the authority of clients, the server's certificate and key; certificates revoked, if any."""
LOOK_EVERY_S: Final = 1.0
log = structlog.get_logger()


class ClientTls:
    """Contexts for connections of clients; a new one whenever the files have changed."""

    def __init__(self, directory: Path, *, setting: str) -> None:
        """Read the files. Raises SettingsError, with the name of the ``setting``, for one missing or wrong."""
        self._directory, self._setting = directory, setting
        self._lock = threading.Lock()
        self._seen = self._stamps()
        self._looked_at = time.monotonic()
        self._context = self._load()
        self.generation = 0
        """Counts contexts: connections of an earlier one are to end, since what they showed may count no more."""

    def wrap(self, connection: socket.socket) -> ssl.SSLSocket:
        """Return the connection with TLS to be; nothing is read or written yet."""
        self.look()
        return self._context.wrap_socket(connection, server_side=True, do_handshake_on_connect=False)

    def look(self) -> None:
        """Make a new context if the files have changed; if they are wrong, the old one stays, and that is logged."""
        with self._lock:
            if time.monotonic() - self._looked_at < LOOK_EVERY_S:
                return
            self._looked_at = time.monotonic()
            stamps = self._stamps()
            if stamps == self._seen:
                return
            self._seen = stamps
            try:
                self._context = self._load()
            except SettingsError as error:
                log.error("certificates.broken", reason=str(error))  # noqa: TRY400 - foreseen, and told in words
                return
            self.generation += 1
        log.info("certificates.taken_over", directory=str(self._directory))

    def _stamps(self) -> list[tuple[int, int, int] | None]:
        stamps: list[tuple[int, int, int] | None] = []
        for name in (CA_FILE, CERTIFICATE_FILE, KEY_FILE, REVOKED_FILE):
            try:
                found = (self._directory / name).stat()
                stamps.append((found.st_mtime_ns, found.st_ino, found.st_size))
            except OSError:
                stamps.append(None)
        return stamps

    def _load(self) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.verify_mode = ssl.CERT_REQUIRED
        # A session that is resumed would be taken for verified by what counted when it began.
        context.options |= ssl.OP_NO_TICKET | ssl.OP_NO_COMPRESSION | ssl.OP_NO_RENEGOTIATION
        context.num_tickets = 0
        ca, certificate, key, revoked = (
            self._directory / name for name in (CA_FILE, CERTIFICATE_FILE, KEY_FILE, REVOKED_FILE)
        )
        try:
            context.load_cert_chain(certificate, key, password=_no_password)
        except (OSError, ValueError) as error:
            raise self._wrong(f"{CERTIFICATE_FILE} and {KEY_FILE}", error) from None
        try:
            context.load_verify_locations(ca)
        except (OSError, ValueError) as error:
            raise self._wrong(CA_FILE, error) from None
        if revoked.exists():
            try:
                context.load_verify_locations(revoked)
            except (OSError, ValueError) as error:
                raise self._wrong(REVOKED_FILE, error) from None
            context.verify_flags |= ssl.VERIFY_CRL_CHECK_LEAF
        return context

    def _wrong(self, what: str, error: Exception) -> SettingsError:
        reason = getattr(error, "reason", None) or getattr(error, "strerror", None) or str(error)
        return SettingsError(
            f"{self._setting}: {what} in {self._directory} cannot be used: {reason}",
            hint="`coordinator certs` makes them",
        )


def _no_password() -> str:
    """Nobody is there to type one, and OpenSSL would ask at the terminal."""
    raise ValueError("the key is protected by a password; take one that is not")
