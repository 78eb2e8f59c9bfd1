"""The certificates of the interface for applications: an authority apart, one for each KME, one for each SAE.

All that the authority issues to SAEs is on a list of its own, so that whoever is struck off can be revoked, earlier
certificates too, and an SAE that gets an id again is not known by a certificate that somebody else has kept.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

import msgspec
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.serialization import Encoding

from qkdrelay.broker.rabbitmq.tls import CERTIFICATE
from qkdrelay.errors import SettingsError
from qkdrelay_deployment.certificates import (
    CLOCK_SKEW,
    VALID,
    Authority,
    authority_files,
    issued_pair,
    kept_pair,
    pair_files,
    stored_authority,
)

REVOKED: Final = "crl.pem"
ISSUED: Final = "issued.json"
LOCAL_HOSTS: Final = ("localhost", "127.0.0.1", "::1")


class Issued(msgspec.Struct, frozen=True):
    """A certificate that an SAE was issued."""

    sae: str
    until: datetime
    revoked: bool = False


@dataclass(frozen=True, slots=True)
class SaeCertificates:
    """All that belongs into the folders of the authority, the KMEs and the SAEs, by path."""

    authority: dict[Path, str]
    kmes: dict[Path, str]
    saes: dict[Path, str]
    not_revoked: tuple[str, ...]
    """SAEs whose certificates are to be revoked and cannot be, because the authority's key is away."""


def sae_certificates(
    network: str,
    authority_folder: Path,
    kmes: dict[str, Path],
    saes: dict[str, Path],
    renew: Collection[str] = (),
    *,
    address: str | None = None,
) -> SaeCertificates:
    """Return the certificates that are to be: those in the folders of KMEs and SAEs kept while they last.

    Those of KMEs are for their names, this host, and the ``address`` that others reach them at, if they do.
    An SAE that was issued one and is not among ``saes`` is revoked; one of ``renew`` is, too, and gets another.
    SettingsError as of `qkdrelay_deployment.certificates`; OSError.
    """
    certificate, authority = stored_authority(authority_folder, f"SAEs of {network}")
    issued = {
        serial: msgspec.structs.replace(entry, revoked=entry.revoked or entry.sae not in saes or entry.sae in renew)
        for serial, entry in _read_issued(authority_folder / ISSUED).items()
        if entry.until > datetime.now(UTC)
    }
    of_saes: dict[Path, str] = {}
    for sae, folder in saes.items():
        pair = kept_pair(folder, certificate)
        if pair and sae in renew:
            serial, entry = _entry(sae, pair[0])
            issued[serial] = msgspec.structs.replace(entry, revoked=True)
        if pair is None or issued.get(_entry(sae, pair[0])[0], _NEVER).revoked:
            pair = issued_pair(authority_folder, authority, sae, ())
        serial, entry = _entry(sae, pair[0])
        issued.setdefault(serial, entry)
        of_saes |= pair_files(folder, certificate, pair)
    revoked = {serial: entry.sae for serial, entry in issued.items() if entry.revoked}
    listed, not_revoked = _revocations(authority_folder / REVOKED, certificate, authority, revoked)
    of_kmes: dict[Path, str] = {}
    for kme, folder in kmes.items():
        hosts = (kme, *LOCAL_HOSTS, *([address] if address else []))
        pair = kept_pair(folder, certificate, hosts) or issued_pair(authority_folder, authority, kme, hosts)
        of_kmes |= pair_files(folder, certificate, pair) | {folder / REVOKED: listed}
    own = authority_files(authority_folder, certificate, authority)
    own |= {authority_folder / ISSUED: _issued_text(issued), authority_folder / REVOKED: listed}
    return SaeCertificates(own, of_kmes, of_saes, not_revoked)


def sae_certificate_end(folder: Path) -> datetime | None:
    """Return the end of the validity of the certificate in an SAE's folder; None if there is none."""
    try:
        return x509.load_pem_x509_certificate((folder / CERTIFICATE).read_bytes()).not_valid_after_utc
    except (OSError, ValueError):
        return None


_NEVER = Issued("", datetime.fromtimestamp(0, UTC))


def _entry(sae: str, pem: str) -> tuple[str, Issued]:
    certificate = x509.load_pem_x509_certificate(pem.encode())
    return f"{certificate.serial_number:x}", Issued(sae, certificate.not_valid_after_utc)


def _read_issued(path: Path) -> dict[str, Issued]:
    try:
        issued = msgspec.json.decode(path.read_bytes(), type=dict[str, Issued])
        for serial, entry in issued.items():
            int(serial, 16)
            entry.until.astimezone(UTC)
    except FileNotFoundError:
        return {}
    except (ValueError, OverflowError):
        raise SettingsError(
            f"{path} is not the list of certificates issued to SAEs",
            hint=f"restore it, or delete {path.parent} to begin with a new authority",
        ) from None
    return issued


def _issued_text(issued: dict[str, Issued]) -> str:
    return msgspec.json.format(msgspec.json.encode(issued), indent=1).decode() + "\n"


def _revocations(
    path: Path, certificate: x509.Certificate, authority: Authority | None, revoked: dict[str, str]
) -> tuple[str, tuple[str, ...]]:
    """Return the list of revoked certificates (PEM) that is to be in ``path``, and the SAEs that it lacks."""
    listed = _read_revocations(path, certificate)
    there = {} if listed is None else {f"{entry.serial_number:x}": entry for entry in listed}
    missing = {serial: sae for serial, sae in revoked.items() if serial not in there}
    if listed is not None and not missing:
        return listed.public_bytes(Encoding.PEM).decode(), ()
    if authority is None:
        if listed is None:
            hint = f"put the authority's key into {path.parent} for a moment, and do this again"
            raise SettingsError(f"{path}, the list of revoked certificates, is not there", hint=hint)
        return listed.public_bytes(Encoding.PEM).decode(), tuple(sorted(set(missing.values())))
    now = datetime.now(UTC)
    # No certificate lasts longer: what was revoked before has ended.
    kept = [entry for entry in there.values() if now - entry.revocation_date_utc < VALID]
    return _signed_revocations(authority, [*kept, *(_revoked(int(serial, 16), now) for serial in missing)], now), ()


def _read_revocations(path: Path, certificate: x509.Certificate) -> x509.CertificateRevocationList | None:
    """Return the list in ``path``; None if it is not there, damaged, or another authority's."""
    public_key = certificate.public_key()
    try:
        listed = x509.load_pem_x509_crl(path.read_bytes())
        return listed if listed.is_signature_valid(public_key) else None  # type: ignore[arg-type]
    except (FileNotFoundError, ValueError, TypeError):
        return None


def _revoked(serial: int, now: datetime) -> x509.RevokedCertificate:
    return x509.RevokedCertificateBuilder().serial_number(serial).revocation_date(now).build()


def _signed_revocations(authority: Authority, entries: Iterable[x509.RevokedCertificate], now: datetime) -> str:
    builder = x509.CertificateRevocationListBuilder(authority.certificate.subject).last_update(now - CLOCK_SKEW)
    # Good until there is another: the interface would refuse everybody once it had ended.
    builder = builder.next_update(authority.certificate.not_valid_after_utc)
    builder = builder.add_extension(x509.CRLNumber(int(now.timestamp() * 1e6)), critical=False)
    issuer = x509.AuthorityKeyIdentifier.from_issuer_public_key(authority.key.public_key())
    builder = builder.add_extension(issuer, critical=False)
    for entry in entries:
        builder = builder.add_revoked_certificate(entry)
    return builder.sign(authority.key, hashes.SHA256()).public_bytes(Encoding.PEM).decode()
