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
from qkdrelay.service.tls_files import load_files, stamps

LOOK_EVERY_S: Final = 1.0
log = structlog.get_logger()


class ClientTls:
    """Contexts for connections of clients; a new one whenever the files have changed."""

    def __init__(self, directory: Path, *, setting: str) -> None:
        """Read the files. Raises SettingsError, with the name of the ``setting``, for one missing or wrong."""
        self._directory, self._setting = directory, setting
        self._lock = threading.Lock()
        self._seen = stamps(self._directory)
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
            found = stamps(self._directory)
            if found == self._seen:
                return
            self._seen = found
            try:
                self._context = self._load()
            except SettingsError as error:
                log.error("certificates.broken", reason=str(error))  # noqa: TRY400 - foreseen, and told in words
                return
            self.generation += 1
        log.info("certificates.taken_over", directory=str(self._directory))

    def _load(self) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.verify_mode = ssl.CERT_REQUIRED
        # A session that is resumed would be taken for verified by what counted when it began.
        context.options |= ssl.OP_NO_TICKET | ssl.OP_NO_COMPRESSION | ssl.OP_NO_RENEGOTIATION
        context.num_tickets = 0
        load_files(context, self._directory, about=self._setting, hint="`coordinator certs` makes them")
        return context
