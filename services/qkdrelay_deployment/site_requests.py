"""A site begun by its own operator: its keys are made there and stay; the authority certifies them."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Final, cast

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, EllipticCurvePrivateKey, generate_private_key
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID

from qkdrelay.errors import RequestRefusedError, SettingsError, TopologyError
from qkdrelay.network.names import site_user
from qkdrelay.network.toml_file import did_you_mean
from qkdrelay.network.topology import Topology, one_site_each
from qkdrelay.network.topology_file import format_topology
from qkdrelay_deployment.certificates import (
    AUTHORITY_KEY,
    RENEW_BEFORE,
    Authority,
    PublicKey,
    alternatives,
    authority_files,
    stored_authority,
)
from qkdrelay_deployment.compose import TLS_FOLDER
from qkdrelay_deployment.files import make_folder, write_file, writing
from qkdrelay_deployment.site_certificates import AUTHORITY_FOLDER, broker_hosts, broker_name
from qkdrelay_deployment.site_papers import (
    RSA_BITS_MIN,
    UNREADABLE,
    VERSION,
    Signed,
    certificate_fingerprint,
    check_certificate,
    good_key,
    key_files,
    keys_fingerprint,
    load_certificate,
    now,
    paper_text,
    private_key,
    read_bounded,
    signed_by,
)
from qkdrelay_deployment.sites import as_seen_from, check_names

_ISSUED: Final = "sites"
"""Of the authority's folder: what it has certified, by name."""
_BLOCK = re.compile(r"-----BEGIN CERTIFICATE REQUEST-----\n[A-Za-z0-9+/=\n]+-----END CERTIFICATE REQUEST-----\n")


@dataclass(frozen=True, slots=True)
class SiteStep:
    """What a step has made of it."""

    path: Path
    fingerprint: str
    """For people to compare with what the other side sees."""
    site: str


def with_sites(topology: Topology) -> Topology:
    """Return the network with its sites: those it names, or each KME one."""
    topology = topology if topology.sites else one_site_each(topology)
    check_names(topology)
    return topology


def require_site(topology: Topology, site: str) -> None:
    """Raise TopologyError for a site that is not in the topology."""
    if site not in topology.sites:
        hint = did_you_mean(site, tuple(topology.sites))
        raise TopologyError(f"there is no site {site!r} in network {topology.name}", hint=hint)


def begin_site(topology: Topology, site: str, directory: Path) -> SiteStep:
    """Make a site's keys in ``directory``, where there are none, and write the request to send.

    TopologyError for a site that is not in ``topology``, SettingsError for a key that is there and damaged.
    """
    topology = with_sites(topology)
    require_site(topology, site)
    root = directory / site
    with writing(directory):
        make_folder(root / "deploy", mode=0o755)
        make_folder(root / TLS_FOLDER, mode=0o700)
        keys = [_kept_key(path) for path in key_files(root)]
        hosts = ((), broker_hosts(topology, site))
        names = (site_user(site), broker_name(site))
        text = "".join(_request(*each) for each in zip(keys, names, hosts, strict=True))
        path = directory / f"{site}.request"
        write_file(path, text, mode=0o644)
    return SiteStep(path, keys_fingerprint(*(key.public_key() for key in keys)), site)


def _kept_key(path: Path) -> EllipticCurvePrivateKey | RSAPrivateKey:
    if (kept := private_key(path)) is not None:
        return kept
    key = generate_private_key(SECP256R1())
    # What a container mounts is for its user to read, behind a folder that is its owner's alone.
    make_folder(path.parent, mode=0o755)
    pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()
    write_file(path, pem, mode=0o644)
    return key


def _request(key: EllipticCurvePrivateKey | RSAPrivateKey, name: str, hosts: tuple[str, ...]) -> str:
    builder = x509.CertificateSigningRequestBuilder(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)]))
    if hosts:
        builder = builder.add_extension(x509.SubjectAlternativeName(alternatives(hosts)), critical=False)
    return builder.sign(key, hashes.SHA256()).public_bytes(Encoding.PEM).decode()


def sign_site(topology: Topology, request: Path, directory: Path, *, replace: bool = False) -> SiteStep:
    """Certify a site's keys by the authority in ``directory``, which is begun if there is none; write the answer.

    A certificate for the same key that lasts is kept. With ``replace`` a site may have other keys than before.
    RequestRefusedError for what is not exactly the request of a site of ``topology``, SettingsError for the authority.
    """
    topology = with_sites(topology)
    site, keys = _requested(topology, request)
    folder = directory / AUTHORITY_FOLDER
    with writing(directory):
        certificate, authority = stored_authority(folder, topology.name)
        if authority is None:
            hint = f"put it back, or delete {folder} to begin with a new authority"
            raise SettingsError(f"{folder / AUTHORITY_KEY} is not there, and signs", hint=hint)
        issued = {
            name: _issued(folder / _ISSUED / f"{name}.pem", authority, name, key, hosts, replace=replace)
            for name, key, hosts in zip(
                (site_user(site), broker_name(site)), keys, ((), broker_hosts(topology, site)), strict=True
            )
        }
        answer = Signed(
            VERSION,
            site,
            int(now().timestamp()),
            authority.pem,
            issued[site_user(site)],
            issued[broker_name(site)],
            _others(topology, site, folder, certificate),
            format_topology(as_seen_from(topology, topology.sites[site].kmes)),
        )
        make_folder(folder, mode=0o700)
        make_folder(folder / _ISSUED, mode=0o755)
        for path, text in authority_files(folder, certificate, authority).items():
            write_file(path, text, mode=0o600 if path.name == AUTHORITY_KEY else 0o644)
        for name, text in issued.items():
            write_file(folder / _ISSUED / f"{name}.pem", text, mode=0o644)
        path = directory / f"{site}.signed"
        write_file(path, paper_text(signed_by(authority.key, answer)), mode=0o644)
    return SiteStep(path, keys_fingerprint(*keys), site)


def authority_fingerprint(directory: Path) -> str:
    """Return what sites compare to know the authority in ``directory``."""
    return certificate_fingerprint(stored_authority(directory / AUTHORITY_FOLDER, "")[0])


def _requested(topology: Topology, path: Path) -> tuple[str, tuple[PublicKey, PublicKey]]:
    """Return whose request it is, and the keys of that site and its broker; RequestRefusedError for anything else."""
    hint = "`coordinator site init` writes it anew, at the site"
    text = read_bounded(path).decode("ascii", "replace").replace("\r\n", "\n")
    if len(blocks := _BLOCK.findall(text)) != 2 or "".join(blocks) != text:
        what = f"{path} is not a site's request: it is to hold two certificate requests and nothing else"
        raise RequestRefusedError(what, hint=hint)
    try:
        first, second = (x509.load_pem_x509_csr(block.encode()) for block in blocks)
        names = [_requested_name(each) for each in (first, second)]
    except UNREADABLE:
        raise RequestRefusedError(f"{path} is not a site's request, or was damaged on its way", hint=hint) from None
    site = names[0].removeprefix("site.")
    if names != [site_user(site), broker_name(site)]:
        what = f"{path} asks for {names[0]!r} and {names[1]!r}; only a site and its broker are certified"
        raise RequestRefusedError(what, hint="site.NAME, then broker.NAME, of one site")
    require_site(topology, site)
    for each, name, hosts in zip((first, second), names, ((), broker_hosts(topology, site)), strict=True):
        _check_request(each, f"{path}: the request for {name}", hosts)
    keys = cast(tuple[PublicKey, PublicKey], (first.public_key(), second.public_key()))
    if keys[0] == keys[1]:
        raise RequestRefusedError(f"{path} has one key for the site and its broker", hint="one each")
    return site, keys


def _requested_name(request: x509.CertificateSigningRequest) -> str:
    parts = list(request.subject)
    alone = len(parts) == 1 and parts[0].oid == NameOID.COMMON_NAME
    return str(parts[0].value) if alone else request.subject.rfc4514_string()


def _check_request(request: x509.CertificateSigningRequest, what: str, hosts: tuple[str, ...]) -> None:
    try:
        proven = request.is_signature_valid
        key = request.public_key()
        asked = [extension.value for extension in request.extensions]
    except UNREADABLE:
        raise RequestRefusedError(f"{what} was damaged on its way", hint="ask for it again") from None
    if not proven:
        raise RequestRefusedError(f"{what} does not prove that who asks has the key", hint="ask for it again")
    if not good_key(key):
        what = f"{what} has a key of a kind that is not certified"
        raise RequestRefusedError(what, hint=f"EC P-256, P-384, P-521, or RSA of {RSA_BITS_MIN} bits or more")
    if asked != ([x509.SubjectAlternativeName(alternatives(hosts))] if hosts else []):
        wanted = f"the hosts {', '.join(hosts)}" if hosts else "none"
        what = f"{what} asks for hosts, or other things, that the topology does not give it"
        raise RequestRefusedError(what, hint=f"{wanted}, and nothing else; have both sides use one topology")


def _issued(
    path: Path, authority: Authority, name: str, key: PublicKey, hosts: tuple[str, ...], *, replace: bool
) -> str:
    """Return the certificate in ``path`` if it can go on being used, else a new one."""
    if not path.exists():
        return authority.certify(key, name, hosts)
    kept = load_certificate(pem := path.read_text(encoding="utf-8"), str(path))
    if kept.public_key() != key:
        if not replace:
            what = f"{name} has been certified with another key"
            hint = "ask its operator: if the keys were made anew there, --replace"
            raise RequestRefusedError(what, hint=hint)
        return authority.certify(key, name, hosts)
    try:
        check_certificate(kept, name, authority.certificate, str(path))
    except RequestRefusedError:
        return authority.certify(key, name, hosts)
    lasts = kept.not_valid_after_utc - now() > RENEW_BEFORE
    return (
        pem if lasts and certified_hosts(kept) == (alternatives(hosts) or None) else authority.certify(key, name, hosts)
    )


def certified_hosts(certificate: x509.Certificate) -> list[x509.GeneralName] | None:
    """Return the hosts that a certificate is for; None if it is for none."""
    try:
        return list(certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value)
    except (*UNREADABLE, x509.ExtensionNotFound):
        return None


def _others(topology: Topology, site: str, folder: Path, authority: x509.Certificate) -> dict[str, str]:
    """Return the certificates of other sites that are good; those of a network of before are left out."""
    found = {}
    for other in topology.sites:
        path = folder / _ISSUED / f"{site_user(other)}.pem"
        if other != site and path.exists():
            pem = path.read_text(encoding="utf-8")
            try:
                check_certificate(load_certificate(pem, str(path)), site_user(other), authority, str(path))
            except RequestRefusedError:
                continue
            found[other] = pem
    return found
