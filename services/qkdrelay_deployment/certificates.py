"""The certificates of a deployment: an authority of its own, one for the broker, one for each of its clients."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric.ec import (
    SECP256R1,
    EllipticCurvePrivateKey,
    EllipticCurvePublicKey,
    generate_private_key,
)
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from qkdrelay.broker.rabbitmq.tls import AUTHORITY, CERTIFICATE, KEY
from qkdrelay.errors import SettingsError
from qkdrelay.escaping import escaped

AUTHORITY_VALID: Final = timedelta(days=3650)
VALID: Final = timedelta(days=397)
RENEW_BEFORE: Final = timedelta(days=30)
"""A certificate with less than this left is replaced."""
CLOCK_SKEW: Final = timedelta(hours=1)
"""What is issued is good from so long ago."""

AUTHORITY_KEY: Final = "ca-key.pem"

PublicKey = EllipticCurvePublicKey | RSAPublicKey


@dataclass(frozen=True)
class Authority:
    """A certificate authority. Its key stays with who provisions, and may be kept elsewhere once all is issued."""

    certificate: x509.Certificate
    key: EllipticCurvePrivateKey

    @classmethod
    def new(cls, network: str) -> Authority:
        """Make an authority for the network of this name."""
        key = generate_private_key(SECP256R1())
        subject = _name(f"qkdrelay {escaped(network)}"[:64])
        builder = _builder(subject, subject, key.public_key(), AUTHORITY_VALID)
        builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        return cls(
            builder.add_extension(_usage(signs_certificates=True), critical=True).sign(key, hashes.SHA256()), key
        )

    @property
    def pem(self) -> str:
        """The certificate as PEM."""
        return _pem(self.certificate)

    def issue(self, name: str, hosts: Sequence[str] = (), valid: timedelta = VALID) -> tuple[str, str]:
        """Return (certificate, private key) as PEM: a server's for ``hosts``, or a client's if there are none."""
        key = generate_private_key(SECP256R1())
        return self.certify(key.public_key(), name, hosts, valid), _key_pem(key)

    def certify(self, key: PublicKey, name: str, hosts: Sequence[str] = (), valid: timedelta = VALID) -> str:
        """Return a certificate as of `issue` for a key whose private part somebody else has."""
        purpose = ExtendedKeyUsageOID.SERVER_AUTH if hosts else ExtendedKeyUsageOID.CLIENT_AUTH
        issuer = x509.AuthorityKeyIdentifier.from_issuer_public_key(self.key.public_key())
        builder = _builder(_name(name), self.certificate.subject, key, valid)
        builder = builder.add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        builder = builder.add_extension(_usage(signs_certificates=False), critical=True)
        builder = builder.add_extension(x509.ExtendedKeyUsage([purpose]), critical=False)
        builder = builder.add_extension(issuer, critical=False)
        if hosts:
            builder = builder.add_extension(x509.SubjectAlternativeName(alternatives(hosts)), critical=False)
        return _pem(builder.sign(self.key, hashes.SHA256()))


def certificate_files(
    directory: Path, network: str, server: str, hosts: Sequence[str], clients: Iterable[str]
) -> dict[Path, str]:
    """Return all that belongs into ``directory``: kept what is there and good for another while, new what is not.

    The authority, and a folder each for ``server``, which answers under ``hosts``, and for every client, with
    ``ca.pem``, ``cert.pem`` and ``key.pem``. Raises SettingsError if the authority's key is needed and not there,
    or damaged; OSError if something there cannot be read.
    """
    certificate, authority = stored_authority(directory, network)
    files = authority_files(directory, certificate, authority)
    for name, names in {server: hosts, **dict.fromkeys(clients, ())}.items():
        folder = directory / name
        pair = kept_pair(folder, certificate, names) or issued_pair(directory, authority, name, names)
        files |= pair_files(folder, certificate, pair)
    return files


def authority_files(directory: Path, certificate: x509.Certificate, authority: Authority | None) -> dict[Path, str]:
    """Return the files of an authority in ``directory``; that of its key only if it is there."""
    files = {directory / AUTHORITY: _pem(certificate)}
    return files | ({directory / AUTHORITY_KEY: _key_pem(authority.key)} if authority else {})


def issued_pair(directory: Path, authority: Authority | None, name: str, hosts: Sequence[str]) -> tuple[str, str]:
    """Return a new certificate and its key, as of `Authority.issue`; SettingsError if the authority's key is away."""
    if authority:
        return authority.issue(name, hosts)
    raise SettingsError(
        f"{directory / AUTHORITY_KEY} is not there, and {name} needs a new certificate",
        hint=f"put it back, or delete {directory} to begin with a new authority",
    )


def pair_files(folder: Path, authority: x509.Certificate, pair: tuple[str, str]) -> dict[Path, str]:
    """Return the files of one certificate and its key, and that of the authority that issued it."""
    return {folder / AUTHORITY: _pem(authority), folder / CERTIFICATE: pair[0], folder / KEY: pair[1]}


def valid_until(certificate: str) -> datetime:
    """Return the end of a PEM certificate's validity."""
    return x509.load_pem_x509_certificate(certificate.encode()).not_valid_after_utc


def stored_authority(directory: Path, network: str) -> tuple[x509.Certificate, Authority | None]:
    """Return the authority in ``directory``: its certificate and, if its key is there, all of it.

    A new one if there is none. SettingsError if it is damaged.
    """
    path, key_path = directory / AUTHORITY, directory / AUTHORITY_KEY
    if not path.exists() and not key_path.exists():
        authority = Authority.new(network)
        return authority.certificate, authority
    try:
        certificate = x509.load_pem_x509_certificate(path.read_bytes())
        key = load_pem_private_key(key_path.read_bytes(), None) if key_path.exists() else None
    except (ValueError, FileNotFoundError):
        raise _damaged(directory) from None
    if key is None:
        return certificate, None
    if not isinstance(key, EllipticCurvePrivateKey) or key.public_key() != certificate.public_key():
        raise _damaged(directory)
    return certificate, Authority(certificate, key)


def _damaged(directory: Path) -> SettingsError:
    return SettingsError(
        f"{directory / AUTHORITY} and {AUTHORITY_KEY} are not the certificate and the key of one authority",
        hint=f"restore them, or delete {directory} to begin with a new authority",
    )


def kept_pair(folder: Path, authority: x509.Certificate, hosts: Sequence[str] = ()) -> tuple[str, str] | None:
    """Return the certificate and the key in ``folder`` if they can go on being used; OSError."""
    try:
        pair = (folder / CERTIFICATE).read_text(), (folder / KEY).read_text()
        certificate = x509.load_pem_x509_certificate(pair[0].encode())
        key = load_pem_private_key(pair[1].encode(), None)
        certificate.verify_directly_issued_by(authority)
        known = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value if hosts else None
    except (FileNotFoundError, ValueError, TypeError, InvalidSignature, x509.ExtensionNotFound):
        return None
    fits = (not hosts or known == x509.SubjectAlternativeName(alternatives(hosts))) and (
        key.public_key() == certificate.public_key()
    )
    lasts = certificate.not_valid_after_utc - datetime.now(UTC) > RENEW_BEFORE
    return pair if fits and lasts else None


def _builder(subject: x509.Name, issuer: x509.Name, key: PublicKey, valid: timedelta) -> x509.CertificateBuilder:
    now = datetime.now(UTC)
    builder = x509.CertificateBuilder(subject_name=subject, issuer_name=issuer, public_key=key)
    builder = builder.serial_number(x509.random_serial_number())
    builder = builder.not_valid_before(now - max(CLOCK_SKEW, CLOCK_SKEW - valid)).not_valid_after(now + valid)
    return builder.add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)


def _usage(*, signs_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signs_certificates,
        key_cert_sign=signs_certificates,
        crl_sign=signs_certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def alternatives(hosts: Sequence[str]) -> list[x509.GeneralName]:
    """Return hosts as a certificate names them."""
    names: list[x509.GeneralName] = []
    for host in hosts:
        try:
            names.append(x509.IPAddress(ipaddress.ip_address(host)))
        except ValueError:
            names.append(x509.DNSName(host))
    return names


def _name(common: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common)])


def _pem(certificate: x509.Certificate) -> str:
    return certificate.public_bytes(Encoding.PEM).decode()


def _key_pem(key: EllipticCurvePrivateKey) -> str:
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()
