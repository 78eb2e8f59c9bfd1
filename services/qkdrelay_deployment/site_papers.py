"""What travels between a site, the network's authority and other sites: files that are read exactly, or refused.

Each is one line of JSON, signed over all that it says; what is not byte for byte as we would write it is refused.
"""

from __future__ import annotations

import hashlib
from datetime import UTC, datetime
from pathlib import Path
from typing import Final, TypeVar

import msgspec
from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric.ec import (
    ECDSA,
    SECP256R1,
    SECP384R1,
    SECP521R1,
    EllipticCurvePrivateKey,
    EllipticCurvePublicKey,
)
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey, RSAPublicKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_pem_private_key

from qkdrelay.broker.rabbitmq.tls import KEY
from qkdrelay.errors import RequestRefusedError, SettingsError
from qkdrelay.network.names import KME_NAME
from qkdrelay_deployment.certificates import CLOCK_SKEW, PublicKey
from qkdrelay_deployment.compose import BROKER_SERVICE, SITE_CERTIFICATE, TLS_FOLDER
from qkdrelay_deployment.site_certificates import common_name

PAPER_BYTES_MAX: Final = 4 << 20
VERSION: Final = 1
RSA_BITS_MIN: Final = 3072
UNREADABLE: Final = (
    ValueError,
    TypeError,
    UnsupportedAlgorithm,
    x509.DuplicateExtension,
    x509.InvalidVersion,
    x509.UnsupportedGeneralNameType,
)
"""What certificates and requests from outside raise when they are read, or their parts."""
_CURVES: Final = (SECP256R1, SECP384R1, SECP521R1)


class Signed(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="kind", tag="qkdrelay-signed"):
    """The authority's answer to a site's request."""

    v: int
    site: str
    made: int
    """When, in seconds since 1970."""
    authority: str
    site_certificate: str
    broker_certificate: str
    others: dict[str, str]
    """Certificates of other sites, as far as they are known, by site."""
    topology: str
    signature: bytes = b""


class Offer(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="kind", tag="qkdrelay-offer"):
    """Secrets that one site has made for what it shares with another, which alone can open them."""

    v: int
    sender: str
    recipient: str
    made: int
    sender_fingerprint: str
    recipient_fingerprint: str
    sender_certificate: str
    ephemeral: bytes
    nonce: bytes
    sealed: bytes = b""
    signature: bytes = b""


Paper = TypeVar("Paper", Signed, Offer)


def now() -> datetime:
    """Return the time that everything here goes by."""
    return datetime.now(UTC)


def paper_text(paper: Signed | Offer) -> str:
    """Return the file that a paper travels as."""
    return msgspec.json.encode(paper).decode() + "\n"


def read_paper(path: Path, kind: type[Paper], what: str) -> Paper:
    """Return what ``path`` says; RequestRefusedError if it is not exactly such a paper, SettingsError if unreadable."""
    content = read_bounded(path)
    hint = f"ask for {what} again, and bring it here as it is"
    try:
        paper = msgspec.json.decode(content, type=kind)
    except (msgspec.DecodeError, RecursionError, UnicodeError):
        raise RequestRefusedError(f"{path} is not {what}, or was damaged on its way", hint=hint) from None
    if paper.v != VERSION:
        raise RequestRefusedError(f"{path} is of version {paper.v}, not {VERSION}", hint="use one version at all sites")
    if paper_text(paper).encode("utf-8", "replace") != content:
        raise RequestRefusedError(f"{path} was altered on its way", hint=hint)
    return paper


def read_bounded(path: Path) -> bytes:
    """Return the bytes of a file from outside; SettingsError if it cannot be read or is far too long."""
    try:
        with path.open("rb") as file:
            content = file.read(PAPER_BYTES_MAX + 1)
    except OSError as error:
        raise SettingsError(f"{path}: {error.strerror}") from None
    if len(content) > PAPER_BYTES_MAX:
        raise RequestRefusedError(f"{path} is longer than anything that sites send: over {PAPER_BYTES_MAX} bytes")
    return content


def signed_by(key: EllipticCurvePrivateKey, paper: Paper) -> Paper:
    """Return a paper with a signature over all that it says."""
    return msgspec.structs.replace(paper, signature=key.sign(_said(paper), ECDSA(hashes.SHA256())))


def check_signature(path: Path, paper: Signed | Offer, certificate: x509.Certificate, who: str) -> None:
    """Raise RequestRefusedError unless whom ``certificate`` names has signed exactly this."""
    try:
        curve_key(certificate.public_key(), who).verify(paper.signature, _said(paper), ECDSA(hashes.SHA256()))
    except InvalidSignature:
        what = f"{path} is not signed by {who}, or was altered"
        raise RequestRefusedError(what, hint="ask for it again") from None


def _said(paper: Signed | Offer) -> bytes:
    return msgspec.json.encode(msgspec.structs.replace(paper, signature=b""))


def check_made(path: Path, made: int) -> None:
    """Raise RequestRefusedError for what was made in the future."""
    if made > now().timestamp() + CLOCK_SKEW.total_seconds():
        raise RequestRefusedError(f"{path} is from the future", hint="compare this machine's clock with the sender's")


def load_certificate(pem: str | bytes, what: str) -> x509.Certificate:
    """Return a certificate; RequestRefusedError if it is none."""
    try:
        found = x509.load_pem_x509_certificate(pem.encode() if isinstance(pem, str) else pem)
        common_name(found.public_bytes(Encoding.PEM).decode())
        found.public_key()
        list(found.extensions)
    except UNREADABLE:
        raise RequestRefusedError(f"{what} is no certificate", hint="ask for it again") from None
    return found


def check_certificate(found: x509.Certificate, name: str, authority: x509.Certificate, what: str) -> None:
    """Raise RequestRefusedError unless a certificate names ``name`` alone, is the authority's, and is good now."""
    named = common_name(found.public_bytes(Encoding.PEM).decode())
    if named != name:
        raise RequestRefusedError(f"{what} is for {named!r}, not for {name}")
    try:
        found.verify_directly_issued_by(authority)
    except (*UNREADABLE, InvalidSignature):
        hint = "all sites of a network have one authority"
        raise RequestRefusedError(f"{what} is not of this network's authority", hint=hint) from None
    check_dates(found, what)


def check_dates(found: x509.Certificate, what: str) -> None:
    """Raise RequestRefusedError for a certificate that has expired, or is not valid yet."""
    if now() < found.not_valid_before_utc:
        hint = "compare this machine's clock with the authority's"
        raise RequestRefusedError(f"{what} is not valid before {found.not_valid_before_utc:%Y-%m-%d %H:%M}Z", hint=hint)
    if now() >= found.not_valid_after_utc:
        what = f"{what} has expired, on {found.not_valid_after_utc:%Y-%m-%d}"
        raise RequestRefusedError(what, hint="have the request signed again; or compare the clocks")


def certificate_fingerprint(certificate: x509.Certificate) -> str:
    """Return what people and papers tell certificates apart by."""
    return certificate.fingerprint(hashes.SHA256()).hex()


def keys_fingerprint(*keys: PublicKey) -> str:
    """Return what people compare to know that these are the keys."""
    parts = (key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo) for key in keys)
    return hashlib.sha256(b"".join(hashlib.sha256(part).digest() for part in parts)).hexdigest()


def good_key(key: object) -> bool:
    """Whether a private or public key is of a kind that a site may have."""
    if isinstance(key, EllipticCurvePrivateKey | EllipticCurvePublicKey):
        return isinstance(key.curve, _CURVES)
    return isinstance(key, RSAPrivateKey | RSAPublicKey) and key.key_size >= RSA_BITS_MIN


def curve_key(key: object, who: str) -> EllipticCurvePublicKey:
    """Return a public key that can seal and verify; RequestRefusedError if it cannot."""
    if isinstance(key, EllipticCurvePublicKey) and isinstance(key.curve, _CURVES):
        return key
    raise RequestRefusedError(
        f"the key of {who} is not of an elliptic curve", hint="secrets are exchanged with EC keys, as `site init` makes"
    )


def key_files(root: Path) -> tuple[Path, Path]:
    """Return where the private keys of a site, and of its broker, are."""
    return root / TLS_FOLDER / SITE_CERTIFICATE / KEY, root / TLS_FOLDER / BROKER_SERVICE / KEY


def private_key(path: Path) -> EllipticCurvePrivateKey | RSAPrivateKey | None:
    """Return the key in ``path``; None if there is none. SettingsError if it cannot be one."""
    try:
        key = load_pem_private_key(path.read_bytes(), None)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise SettingsError(f"{path}: {error.strerror}") from None
    except (ValueError, TypeError, UnsupportedAlgorithm):
        key = None
    if not good_key(key):
        what = f"{path} is no private key that a site can have: EC P-256, P-384, P-521, or RSA of {RSA_BITS_MIN} bits"
        raise SettingsError(what, hint="restore it; or delete it, and `coordinator site init` makes another")
    return key  # type: ignore[return-value]


def own_key(path: Path, site: str) -> EllipticCurvePrivateKey | RSAPrivateKey:
    """Return a key that must be there; SettingsError."""
    if (key := private_key(path)) is None:
        hint = f"`coordinator site init {site}` makes it, at that site"
        raise SettingsError(f"the private keys of site {site} are not here: no {path}", hint=hint)
    return key


def check_site_name(name: str, path: Path) -> str:
    """Return the name of a site in a paper, which becomes one of a folder; RequestRefusedError for what is no name."""
    if not KME_NAME.fullmatch(name):
        raise RequestRefusedError(f"{path} names {name!r}, which is no site")
    return name
