"""The interface for applications served: over TLS 1.2 or 1.3, to clients with a certificate of the SAEs' authority."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from kme.applications import ApplicationKeys
from kme.etsi014.application import Etsi014
from kme.etsi014.audit import Audit
from kme.etsi014.identity import IdFrom
from qkdrelay.service.http import serving
from qkdrelay.service.http_connections import HttpLimits
from qkdrelay.service.http_tls import ClientTls

MARGIN_S: Final = 10.0
"""Seconds beyond those for which keys are waited for: a commit may take a while, and the bytes have to come and go."""
LIMITS: Final = HttpLimits(
    connections=1_024,
    # A request that waits for keys has a thread: those that wait and those that are slow leave some for others.
    threads=160,
    slow=48,
    each_address=512,
    idle_s=120,
)


@contextmanager
def serving_applications(
    keys: ApplicationKeys,
    audit: Audit,
    address: tuple[str, int] | None,
    certificates: Path,
    *,
    id_from: IdFrom,
    wait_s: float,
) -> Iterator[int]:
    """Serve the interface while in the ``with``; yield the port. No address: nothing is served.

    ``certificates`` is the directory of TLS files (`qkdrelay.service.http_tls`); ``wait_s`` is how long ``keys`` may
    have a request wait. Raises SettingsError.
    """
    if address is None:
        yield 0
        return
    application = Etsi014(keys, audit, id_from=id_from, patience_s=wait_s + MARGIN_S)
    tls = ClientTls(certificates, setting="QKDRELAY_ETSI014_TLS")
    with serving(application, address, setting="QKDRELAY_ETSI014", limits=LIMITS, tls=tls) as port:
        yield port
