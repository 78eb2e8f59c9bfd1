"""Settings of a connection to RabbitMQ: the way there, and the bounds it keeps."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import pika

from qkdrelay.broker.names import VHOST
from qkdrelay.broker.rabbitmq.tls import client_context
from qkdrelay.errors import SettingsError
from qkdrelay.messages.link import BUNDLE_MAX

DEFAULT_PORT, DEFAULT_TLS_PORT = 5672, 5671
_PORT = re.compile(r"[0-9]{1,5}")


@dataclass(frozen=True, kw_only=True)
class RabbitMqSettings:
    """One user's way to the broker. Times are in seconds."""

    addresses: str
    """``host:port`` of one broker or, comma-separated, of several nodes of a cluster, tried in turn."""
    user: str
    password: str | None = field(repr=False)
    """Without one the broker knows the user by the certificate in ``tls`` (SASL EXTERNAL)."""
    tls: Path | None = None
    """The directory with the certificates (see `client_context`); without one, there is no TLS."""
    vhost: str = VHOST
    queues: tuple[str, ...] = ()
    """The queues to consume."""
    site: str = ""
    """The site whose broker it is, if it is another one than that of who connects."""
    service: str = ""
    """Who connects, if that is not what the user is called."""
    prefetch: int = 64
    """Messages unacknowledged at a time, for each queue."""
    bundle_max: int = 1
    """Publications for one queue that may travel in one of the broker's messages (`bundle`)."""
    in_flight_max: int = 150
    """Messages sent and not yet confirmed, by one routing key.

    RabbitMQ no longer reads from a connection with 200 to 400 for a queue that stands still.
    """
    in_flight_bytes_max: int = 16 * 1024 * 1024
    connect_timeout_s: float = 5.0
    heartbeat_s: int = 10
    blocked_timeout_s: float = 60.0
    """Seconds that a broker short of memory or disk may block a connection before it is given up."""
    steady_s: float = 10.0
    """A connection that lived this long was a good one: the back-off starts afresh after it."""
    backoff_min_s: float = 0.1
    backoff_max_s: float = 15.0

    def __post_init__(self) -> None:
        """Raise `SettingsError` for what cannot be."""
        if not 1 <= self.prefetch <= 65535:
            raise SettingsError(f"a prefetch of {self.prefetch} is not within 1 to 65535")
        if not 1 <= self.bundle_max <= BUNDLE_MAX:
            raise SettingsError(f"a bundle of {self.bundle_max} is not within 1 to {BUNDLE_MAX}")
        if self.in_flight_max < 1 or self.in_flight_bytes_max < 1:
            raise SettingsError("at least one publication must be allowed in flight")
        if self.tls is not None:
            client_context(self.tls)
        elif self.password is None:
            raise SettingsError("without a password there must be certificates")
        _ = self.hosts

    @property
    def named(self) -> dict[str, str]:
        """What log lines name this connection by."""
        return {"user": self.user, "at_site": self.site} if self.site else {"user": self.user}

    @cached_property
    def hosts(self) -> tuple[tuple[str, int], ...]:
        """``addresses`` taken apart: (host, port) of each."""
        default = DEFAULT_PORT if self.tls is None else DEFAULT_TLS_PORT
        return tuple(
            _parse(address.strip(), default, number) for number, address in enumerate(self.addresses.split(","), 1)
        )

    def parameters(self, address: tuple[str, int], role: str) -> pika.ConnectionParameters:
        """Say to pika how to connect once to ``address``; ``role`` tells one user's connections apart.

        Raises SettingsError if the certificates cannot be used (any more).
        """
        host, port = address
        return pika.ConnectionParameters(
            host=host,
            port=port,
            virtual_host=self.vhost,
            credentials=self._credentials(),
            ssl_options=None if self.tls is None else pika.SSLOptions(client_context(self.tls), host),
            heartbeat=self.heartbeat_s,
            blocked_connection_timeout=self.blocked_timeout_s,
            socket_timeout=self.connect_timeout_s,
            stack_timeout=self.connect_timeout_s,
            connection_attempts=1,
            retry_delay=0,
            client_properties={"connection_name": f"{self.service or self.user} {role}"},
        )

    def _credentials(self) -> pika.PlainCredentials | pika.credentials.ExternalCredentials:
        if self.password is None:
            return pika.credentials.ExternalCredentials()
        return pika.PlainCredentials(self.user, self.password, erase_on_connect=True)


def _parse(address: str, default_port: int, number: int) -> tuple[str, int]:
    """Split ``host``, ``host:port`` or ``[ipv6]:port``, the address of that number; the error does not repeat it."""
    host, colon, port = address.rpartition(":")
    if not colon or address.endswith("]"):
        host, port = address, str(default_port)
    if not host.strip("[]") or not _PORT.fullmatch(port) or not 0 < int(port) < 65536:
        # A URL with a password in it, as likely as not.
        raise SettingsError(f"address {number} of the broker is none", hint="host:port, comma-separated")
    return host.strip("[]"), int(port)
