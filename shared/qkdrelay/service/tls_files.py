"""Files of TLS in a directory: one end's certificate and key, and the authority of those at the other end."""

from __future__ import annotations

import ssl
from pathlib import Path
from typing import Final

from cryptography import x509

from qkdrelay.errors import SettingsError

CA_FILE: Final = "ca.pem"
CERTIFICATE_FILE: Final = "cert.pem"
KEY_FILE: Final = "key.pem"
REVOKED_FILE: Final = "crl.pem"
"""The authority of the others, our certificate and its key; certificates revoked, if any."""


def stamps(directory: Path) -> list[tuple[int, int, int] | None]:
    """Return what is another as soon as one of the files is."""
    found: list[tuple[int, int, int] | None] = []
    for name in (CA_FILE, CERTIFICATE_FILE, KEY_FILE, REVOKED_FILE):
        try:
            stat = (directory / name).stat()
            found.append((stat.st_mtime_ns, stat.st_ino, stat.st_size))
        except OSError:
            found.append(None)
    return found


def expiry(file: Path) -> float:
    """Return when the certificate in a PEM file expires, in seconds since 1970; 0 if it cannot be read."""
    try:
        return x509.load_pem_x509_certificate(file.read_bytes()).not_valid_after_utc.timestamp()
    except (OSError, ValueError):
        return 0.0


def load_files(context: ssl.SSLContext, directory: Path, *, about: str, hint: str | None) -> None:
    """Load the files into a context. Raises SettingsError for one missing or wrong, with what it is ``about``."""

    def wrong(what: str, error: Exception) -> SettingsError:
        reason = getattr(error, "reason", None) or getattr(error, "strerror", None) or str(error)
        return SettingsError(f"{about}: {what} in {directory} cannot be used: {reason}", hint=hint)

    try:
        context.load_cert_chain(directory / CERTIFICATE_FILE, directory / KEY_FILE, password=_no_password)
    except (OSError, ValueError) as error:
        raise wrong(f"{CERTIFICATE_FILE} and {KEY_FILE}", error) from None
    try:
        context.load_verify_locations(directory / CA_FILE)
    except (OSError, ValueError) as error:
        raise wrong(CA_FILE, error) from None
    if (directory / REVOKED_FILE).exists():
        try:
            context.load_verify_locations(directory / REVOKED_FILE)
        except (OSError, ValueError) as error:
            raise wrong(REVOKED_FILE, error) from None
        context.verify_flags |= ssl.VERIFY_CRL_CHECK_LEAF


def _no_password() -> str:
    """Nobody is there to type one, and OpenSSL would ask at the terminal."""
    raise ValueError("the key is protected by a password; take one that is not")
