"""TLS to the broker, by a directory with the authority's certificate and, if there are, this user's own."""

from __future__ import annotations

import ssl
from pathlib import Path
from typing import Final

from qkdrelay.errors import SettingsError

AUTHORITY: Final = "ca.pem"
CERTIFICATE: Final = "cert.pem"
KEY: Final = "key.pem"

_HINT: Final = "`make certs` writes a complete set"


def client_context(directory: Path) -> ssl.SSLContext:
    """Return what connects by TLS 1.2 or later to a broker that the authority in ``directory`` vouches for.

    ``ca.pem`` is the only authority that is trusted, and the broker's certificate must name the host. With
    ``cert.pem`` and ``key.pem`` the broker is told who connects. Raises SettingsError naming the file that is wrong.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    authority, certificate, key = (directory / name for name in (AUTHORITY, CERTIFICATE, KEY))
    _check_readable(authority)
    try:
        context.load_verify_locations(authority)
    except ssl.SSLError:
        raise SettingsError(f"{authority}: no certificate in PEM format", hint=_HINT) from None
    if not certificate.exists() and not key.exists():
        return context
    _check_readable(certificate)
    _check_readable(key)
    try:
        # Without a password, OpenSSL would ask the terminal for that of an encrypted key.
        context.load_cert_chain(certificate, key, password="")
    except ssl.SSLError as error:
        if error.reason == "KEY_VALUES_MISMATCH":
            raise SettingsError(f"{key}: not the key of {certificate}", hint=_HINT) from None
        raise SettingsError(
            f"{certificate} and {key}: not a certificate and its unencrypted key, both in PEM format", hint=_HINT
        ) from None
    return context


_FAULTS: Final = (
    # What OpenSSL calls it, what that means here, what would be right. Alerts are what the broker says of this side.
    (
        ("ALERT_CERTIFICATE_REQUIRED", "ALERT_HANDSHAKE_FAILURE"),
        "the broker at {where} asks for a certificate of its clients",
        "put cert.pem and key.pem beside {authority}",
    ),
    (
        ("ALERT_CERTIFICATE_EXPIRED",),
        "the broker at {where} refuses this client's certificate: it has expired",
        "renew {certificate}: `make certs`",
    ),
    (
        ("ALERT_UNKNOWN_CA", "ALERT_BAD_CERTIFICATE", "ALERT_CERTIFICATE_UNKNOWN", "ALERT_DECRYPT_ERROR"),
        "the broker at {where} refuses this client's certificate: the authority that it trusts did not issue it",
        "use a certificate of the broker's own authority for {certificate}",
    ),
    (
        ("ALERT_UNSUPPORTED_CERTIFICATE",),
        "the broker at {where} refuses this client's certificate: it is not one for a client",
        "use a client's certificate for {certificate}: `make certs`",
    ),
    (
        ("Hostname mismatch", "IP address mismatch"),
        "the certificate of the broker at {where} is for another host",
        "use a host name that is in the broker's certificate, or give the broker one for this name",
    ),
    (
        ("certificate has expired",),
        "the certificate of the broker at {where} has expired",
        "renew the broker's certificate: `make certs`, then restart the broker",
    ),
    (
        ("certificate is not yet valid",),
        "the certificate of the broker at {where} is not valid yet",
        "compare this machine's clock with that of the machine that issued it",
    ),
    (
        ("CERTIFICATE_VERIFY_FAILED",),
        "the certificate of the broker at {where} is not from the authority in {authority}",
        "use the ca.pem of the authority that issued the broker's certificate",
    ),
    (
        ("SSLZeroReturnError", "closed (EOF)", "UNEXPECTED_EOF"),
        "what answers at {where} hung up in the middle of TLS",
        "is the broker still starting?",
    ),
    (
        ("WRONG_VERSION_NUMBER", "RECORD_LAYER_FAILURE"),
        "what answers at {where} does not speak TLS",
        "the usual port for TLS is {port}; unset QKDRELAY_BROKER_TLS to do without",
    ),
    (
        ("ALERT_PROTOCOL_VERSION", "UNSUPPORTED_PROTOCOL"),
        "the broker at {where} and this client have no version of TLS in common",
        "allow TLS 1.2 or 1.3 at the broker",
    ),
)


def tls_fault(error: str, where: str, directory: Path, port: int) -> tuple[str, str] | None:
    """Return what was wrong and what would be right, if ``error``, an error of OpenSSL or pika's around it, says so.

    ``port`` is the usual one for TLS.
    """
    files = {
        "where": where,
        "port": port,
        "authority": directory / AUTHORITY,
        "certificate": directory / CERTIFICATE,
    }
    for signs, message, hint in _FAULTS:
        if any(sign in error for sign in signs):
            return message.format(**files), hint.format(**files)
    return None


def _check_readable(path: Path) -> None:
    try:
        path.open("rb").close()
    except OSError as error:
        raise SettingsError(f"{path}: cannot be read: {error.strerror}", hint=_HINT) from None
