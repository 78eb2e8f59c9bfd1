"""The port between the interface for applications (`kme.etsi014`) and the keys a KME has for them (`kme.supply`).

Everything here is called from threads of the HTTP server and answered by the loop's, after the commit.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Literal, Protocol
from uuid import UUID

from qkdrelay.errors import QkdRelayError
from qkdrelay.network.directory import Directory

Route014 = Literal["direct", "relayed", "local"]
"""How a key came: over the two KMEs' own link, by others, or between two SAEs at one KME."""


@dataclass(frozen=True, slots=True)
class Caller:
    """Who asks: the SAE that a verified client certificate names, and that certificate."""

    sae_id: str
    fingerprint: str
    """SHA-256 of the certificate (DER), in hexadecimal digits."""


@dataclass(frozen=True, slots=True)
class KeyRequest:
    """A request for keys to share with a slave; what was asked for is possible as far as its form goes."""

    slave: str
    number: int
    size_bits: int
    level: int | None = None
    """Compromised KMEs that the keys are to withstand; None: as the pair's settings say."""


@dataclass(frozen=True, slots=True)
class ApplicationKey:
    """A key as it is handed out."""

    key_id: UUID
    key: bytes = field(repr=False)
    compromised: int
    """KMEs besides the two ends that may be compromised: as the terms demanded and both ends checked."""
    route: Route014
    age_s: float
    """Seconds since its relay was made."""


@dataclass(frozen=True, slots=True)
class PairStatus:
    """What there is for a master and a slave now."""

    source_kme: str
    target_kme: str
    stored_key_count: int
    """Keys of the default size that are ready or can be cut."""
    compromised: int
    """Of the pair's settings."""


KEY_SIZE_BITS_DEFAULT = 256
KEYS_PER_REQUEST_MAX = 128
KEY_COUNT_SHOWN_MAX = 2**31 - 1
"""Clients read the figures of a status as 32-bit integers."""


class ApplicationError(QkdRelayError):
    """A request that gets no keys; the message is the answer's, and ``details`` more of it."""

    def __init__(self, message: str, *, details: Sequence[dict[str, object]] = ()) -> None:
        super().__init__(message)
        self.details = tuple(details)


class BadRequestError(ApplicationError):
    """What can never be (400)."""


class NotAllowedError(ApplicationError):
    """Who may not (401)."""


class TryLaterError(ApplicationError):
    """What cannot be now (503)."""

    def __init__(self, message: str, *, retry_after_s: int = 1, details: Sequence[dict[str, object]] = ()) -> None:
        super().__init__(message, details=details)
        self.retry_after_s = retry_after_s


NOT_FOUND = "one or more keys specified are not found on KME"
MANDATORY_NOT_MET = "not all extension_mandatory request options could be met"
"""Texts that the standard prescribes and the keys' side says."""


class ApplicationKeys(Protocol):
    """The keys of a KME, as its interface for applications asks for them.

    Answers are futures, errors `ApplicationError`. Whoever gives up waiting cancels the future.
    """

    def directory(self) -> Directory:
        """Return the directory as it is now; any thread may ask."""
        ...

    def status(self, caller: Caller, slave: str) -> Future[PairStatus]:
        """Return what there is for the caller as master and ``slave``."""
        ...

    def take(self, caller: Caller, request: KeyRequest) -> Future[list[ApplicationKey]]:
        """Take keys for the caller as master: all that was asked for, at once or after some seconds, or an error."""
        ...

    def fetch(self, caller: Caller, master: str, key_ids: Sequence[UUID]) -> Future[list[ApplicationKey]]:
        """Fetch keys for the caller as slave, in the order asked for: all, or an error and none is taken."""
        ...
