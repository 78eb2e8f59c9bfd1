"""Secrets that two sites share, handed from one to the other so that nobody else ever has them.

Of two sites that whose name sorts first makes all that they share: the secret of each simulated link between them and,
if one has the coordinator, the control keys of the other's KMEs and the key of its command line. It sends them sealed
(ECDH with the recipient's certified key, HKDF-SHA256, AES-256-GCM) and signed by its own.
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Final

import msgspec
from cryptography import x509
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric.ec import (
    ECDH,
    EllipticCurvePrivateKey,
    EllipticCurvePublicKey,
    generate_private_key,
)
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from qkdrelay.errors import RequestRefusedError, SettingsError
from qkdrelay.network.names import site_user
from qkdrelay.network.topology import Topology
from qkdrelay_deployment.environment import SECRET_BYTES, dotenv_text, shared_variables
from qkdrelay_deployment.files import write_file, writing
from qkdrelay_deployment.site_answers import ACCEPTED, accepted, answered_topology
from qkdrelay_deployment.site_papers import (
    VERSION,
    Offer,
    Signed,
    certificate_fingerprint,
    check_certificate,
    check_made,
    check_signature,
    check_site_name,
    curve_key,
    key_files,
    load_certificate,
    now,
    own_key,
    paper_text,
    read_bounded,
    read_paper,
    signed_by,
)
from qkdrelay_deployment.site_requests import require_site
from qkdrelay_deployment.sites import kept_of
from qkdrelay_deployment.variables import part

OFFER_GOOD: Final = timedelta(days=30)
"""An offer that is older is refused."""
_SECRET = re.compile(rf"[0-9a-f]{{{2 * SECRET_BYTES}}}")


@dataclass(frozen=True)
class SiteHere:
    """A site that has accepted what the authority has answered."""

    root: Path
    site: str
    topology: Topology
    answer: Signed
    authority: x509.Certificate
    certificate: x509.Certificate
    key: EllipticCurvePrivateKey

    def kept(self) -> dict[str, str]:
        """Return what its ``.env`` has. SettingsError."""
        return kept_of(self.root / ".env", part(self.topology, self.site))

    def keep(self, values: Mapping[str, str]) -> None:
        """Write its ``.env``. OSError."""
        write_file(self.root / ".env", dotenv_text(part(self.topology, self.site), values), mode=0o600)


@dataclass(frozen=True, slots=True)
class Exchanged:
    """What was offered or taken: the names of secrets, never what they are."""

    path: Path
    other: str
    names: tuple[str, ...]
    known_already: bool = False


def shared_between(topology: Topology, a: str, b: str) -> tuple[str, ...]:
    """Name the variables of the secrets that two sites share, in the same order for both."""
    first, second = (shared_variables(part(topology, site)) for site in sorted((a, b)))
    return tuple(name for name in first if name in second)


def standing(directory: Path, site: str) -> SiteHere:
    """Return the site of this name in ``directory``. SettingsError or RequestRefusedError if it is not so far yet."""
    root = directory / site
    answer = accepted(root)
    if answer is None:
        what = f"site {site} in {directory} has no certificates yet"
        raise SettingsError(what, hint=f"`coordinator site accept {site}.signed`, with what the authority has answered")
    path = root / ACCEPTED
    if answer.site != site:
        raise SettingsError(f"{path} is of site {answer.site}, not {site}", hint="restore it")
    authority = load_certificate(answer.authority, f"the authority's in {path}")
    check_signature(path, answer, authority, "the authority that it names")
    certificate = load_certificate(answer.site_certificate, f"that of site {site} in {path}")
    check_certificate(certificate, site_user(site), authority, f"the certificate of {site_user(site)}")
    key = own_key(key_files(root)[0], site)
    if key.public_key() != certificate.public_key():
        hint = f"send {site}.request again, have it signed, and accept that"
        raise SettingsError(f"the certificate of {site_user(site)} is not for the key that is here", hint=hint)
    curve_key(key.public_key(), site_user(site))
    assert isinstance(key, EllipticCurvePrivateKey)  # noqa: S101 - as was just checked
    return SiteHere(root, site, answered_topology(answer, path), answer, authority, certificate, key)


def only_site(directory: Path) -> str:
    """Return the one site that is in ``directory``. SettingsError if there is none, or several."""
    try:
        found = sorted(path.parent.parent.name for path in directory.glob(f"*/{ACCEPTED}"))
    except OSError as error:
        raise SettingsError(f"{directory}: {error.strerror}") from None
    if len(found) == 1:
        return found[0]
    if found:
        raise SettingsError(f"several sites are in {directory}: {', '.join(found)}", hint="name one: --site NAME")
    hint = "`coordinator site init NAME`, then `coordinator site accept`; --out says where"
    raise SettingsError(f"no site in {directory} has certificates yet", hint=hint)


def offer_secrets(
    directory: Path, other: str, *, site: str | None = None, certificate: Path | None = None
) -> Exchanged:
    """Make what a site in ``directory`` is to make for another, where it is not there yet, and seal it for that one.

    RequestRefusedError if it is not to make any, or whom to seal it for is not known.
    """
    here = standing(directory, site or only_site(directory))
    require_site(here.topology, other)
    names = _to_share(here, other)
    if other < here.site:
        what = f"{other} makes what {other} and {here.site} share: of two sites, that whose name sorts first"
        raise RequestRefusedError(
            what, hint=f"there: `coordinator site offer {here.site}`; here `coordinator site take`"
        )
    to = _certificate_of(here, other, certificate)
    with writing(directory):
        kept = here.kept()
        made = {name: kept.get(name) or secrets.token_hex(SECRET_BYTES) for name in names}
        _check_secrets(made, f"{here.root / '.env'}")
        here.keep({**kept, **made})
        path = directory / f"{here.site}-to-{other}.offer"
        write_file(path, paper_text(_sealed(here, other, to, made)), mode=0o600)
    return Exchanged(path, other, names)


def take_offer(path: Path, directory: Path, *, replace: bool = False) -> Exchanged:
    """Open another site's offer, at the site in ``directory`` that it is for, and keep what is in it.

    RequestRefusedError for what is not exactly that; with ``replace`` it may be old, and differ from what is here.
    """
    offer = read_paper(path, Offer, "another site's offer")
    if not (directory / check_site_name(offer.recipient, path)).exists():
        raise RequestRefusedError(f"{path} is for site {offer.recipient}, which is not in {directory}")
    here = standing(directory, offer.recipient)
    require_site(here.topology, check_site_name(offer.sender, path))
    names = _to_share(here, offer.sender)
    sender = _check_offer(offer, path, here)
    check_signature(path, offer, sender, site_user(offer.sender))
    check_made(path, offer.made)
    got = _opened(offer, path, here.key)
    if tuple(got) != names:
        what = f"{path} does not hold just what {offer.sender} and {here.site} share"
        raise RequestRefusedError(what, hint="have both sites use the latest answer of the authority")
    _check_secrets(got, str(path))
    with writing(directory):
        kept = here.kept()
        if all(kept.get(name) == value for name, value in got.items()):
            return Exchanged(here.root / ".env", offer.sender, names, known_already=True)
        if not replace:
            _check_new(offer, path, kept, got)
        here.keep({**kept, **got})
    return Exchanged(here.root / ".env", offer.sender, names)


def _to_share(here: SiteHere, other: str) -> tuple[str, ...]:
    if other == here.site:
        raise RequestRefusedError(f"{other} is this site", hint="name another, or see `coordinator provision --site`")
    names = shared_between(here.topology, here.site, other)
    if not names:
        raise RequestRefusedError(f"{here.site} and {other} share no secret", hint="there is nothing to exchange")
    return names


def _certificate_of(here: SiteHere, other: str, file: Path | None) -> x509.Certificate:
    if file is not None:
        pem: str | bytes = read_bounded(file)
        what = str(file)
    elif other in here.answer.others:
        pem, what = here.answer.others[other], f"the certificate of {site_user(other)}"
    else:
        hint = f"have {here.site}.request signed again once {other} is, and accept that; or --certificate FILE"
        raise RequestRefusedError(f"the certificate of {site_user(other)} is not known here yet", hint=hint)
    found = load_certificate(pem, what)
    check_certificate(found, site_user(other), here.authority, what)
    curve_key(found.public_key(), site_user(other))
    return found


def _check_offer(offer: Offer, path: Path, here: SiteHere) -> x509.Certificate:
    """Return the sender's certificate; RequestRefusedError for an offer that cannot be of that site to this one."""
    what = f"the certificate of {site_user(offer.sender)} in {path}"
    sender = load_certificate(offer.sender_certificate, what)
    check_certificate(sender, site_user(offer.sender), here.authority, what)
    if certificate_fingerprint(sender) != offer.sender_fingerprint:
        raise RequestRefusedError(f"{what} is not the one that it names", hint="ask for it again")
    if offer.sender > here.site:
        what = f"{path} is of {offer.sender}, and {here.site} makes what they share"
        raise RequestRefusedError(what, hint=f"here: `coordinator site offer {offer.sender}`")
    if (pem := here.answer.others.get(offer.sender)) is not None:
        known = load_certificate(pem, f"the certificate of {site_user(offer.sender)}")
        newer = known.not_valid_before_utc > sender.not_valid_before_utc
        if newer and known.public_key() != sender.public_key():
            raise RequestRefusedError(f"{what} is of a key that was replaced", hint="ask for a new offer")
    if offer.recipient_fingerprint != certificate_fingerprint(here.certificate):
        what = f"{path} is sealed for another certificate of {here.site} than it has"
        raise RequestRefusedError(what, hint=f"ask {offer.sender} for a new offer, for the certificate that is here")
    return sender


def _check_new(offer: Offer, path: Path, kept: Mapping[str, str], got: Mapping[str, str]) -> None:
    if now().timestamp() - offer.made > OFFER_GOOD.total_seconds():
        what = f"{path} is older than {OFFER_GOOD.days} days"
        raise RequestRefusedError(what, hint=f"ask {offer.sender} for a new one; or --replace, if it is meant")
    if other := [name for name in got if kept.get(name, got[name]) != got[name]]:
        what = f"{', '.join(other)} in .env is not what {path} has"
        raise RequestRefusedError(what, hint=f"--replace, if {offer.sender} has renewed it; it is in use until then")


def _check_secrets(values: Mapping[str, str], where: str) -> None:
    for name, value in values.items():
        if not _SECRET.fullmatch(value):
            what = f"{name} in {where} is not {2 * SECRET_BYTES} hexadecimal digits"
            raise SettingsError(what, hint="delete the line, and a new one is made; or ask for it again")


def _sealed(here: SiteHere, other: str, to: x509.Certificate, values: Mapping[str, str]) -> Offer:
    recipient = curve_key(to.public_key(), site_user(other))
    ephemeral = generate_private_key(recipient.curve)
    offer = Offer(
        v=VERSION,
        sender=here.site,
        recipient=other,
        made=int(now().timestamp()),
        sender_fingerprint=certificate_fingerprint(here.certificate),
        recipient_fingerprint=certificate_fingerprint(to),
        sender_certificate=here.answer.site_certificate,
        ephemeral=ephemeral.public_key().public_bytes(Encoding.X962, PublicFormat.UncompressedPoint),
        nonce=secrets.token_bytes(12),
    )
    cipher = AESGCM(_key(ephemeral, recipient, offer))
    sealed = cipher.encrypt(offer.nonce, msgspec.json.encode(dict(values)), _header(offer))
    return signed_by(here.key, msgspec.structs.replace(offer, sealed=sealed))


def _opened(offer: Offer, path: Path, key: EllipticCurvePrivateKey) -> dict[str, str]:
    try:
        ephemeral = EllipticCurvePublicKey.from_encoded_point(key.curve, offer.ephemeral)
        plain = AESGCM(_key(key, ephemeral, offer)).decrypt(offer.nonce, offer.sealed, _header(offer))
        return msgspec.json.decode(plain, type=dict[str, str])
    except (ValueError, InvalidTag, msgspec.DecodeError):
        what = f"{path} cannot be opened with the key that is here"
        raise RequestRefusedError(what, hint=f"ask {offer.sender} for a new one") from None


def _key(private: EllipticCurvePrivateKey, public: EllipticCurvePublicKey, offer: Offer) -> bytes:
    said = ("qkdrelay offer", offer.v, offer.sender, offer.recipient)
    info = msgspec.json.encode((*said, offer.sender_fingerprint, offer.recipient_fingerprint))
    shared = private.exchange(ECDH(), public)
    return HKDF(hashes.SHA256(), 32, salt=None, info=info).derive(shared)


def _header(offer: Offer) -> bytes:
    return msgspec.json.encode(msgspec.structs.replace(offer, sealed=b"", signature=b""))
