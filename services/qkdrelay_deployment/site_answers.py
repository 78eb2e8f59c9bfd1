"""What the authority has answered, accepted at the site that it is for."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey

from qkdrelay.broker.rabbitmq.tls import AUTHORITY, CERTIFICATE
from qkdrelay.errors import RequestRefusedError
from qkdrelay.network.names import site_user
from qkdrelay.network.topology import Topology
from qkdrelay.network.topology_file import parse_topology
from qkdrelay_deployment.certificates import alternatives
from qkdrelay_deployment.compose import DEPLOYED_TOPOLOGY
from qkdrelay_deployment.files import write_file, writing
from qkdrelay_deployment.site_certificates import broker_hosts, broker_name
from qkdrelay_deployment.site_papers import (
    UNREADABLE,
    Signed,
    certificate_fingerprint,
    check_certificate,
    check_dates,
    check_made,
    check_signature,
    check_site_name,
    key_files,
    load_certificate,
    own_key,
    paper_text,
    read_paper,
)
from qkdrelay_deployment.site_requests import SiteStep, certified_hosts, require_site

ACCEPTED: Final = "deploy/accepted.signed"
"""Of a site's folder: what the authority has last answered. Nothing in it is secret."""


def accept_signed(path: Path, directory: Path, *, replace: bool = False) -> SiteStep:
    """Put what the authority has answered in place, at the site in ``directory`` that it is for.

    With ``replace`` it may be of another authority, or older, than what was accepted before. RequestRefusedError for
    what is not for this site, SettingsError for what is here.
    """
    answer = read_paper(path, Signed, "the authority's answer to a site's request")
    site = check_site_name(answer.site, path)
    root = directory / site
    keys = [own_key(file, site) for file in key_files(root)]
    authority = load_certificate(answer.authority, f"the authority's in {path}")
    _check_authority(authority, path)
    check_signature(path, answer, authority, "the authority that it names")
    check_made(path, answer.made)
    topology = answered_topology(answer, path)
    _check_issued(answer, path, authority, keys, topology)
    with writing(directory):
        if not replace:
            _check_succeeds(answer, path, root, authority)
        for file, pem in zip(key_files(root), (answer.site_certificate, answer.broker_certificate), strict=True):
            write_file(file.parent / CERTIFICATE, pem, mode=0o644)
            write_file(file.parent / AUTHORITY, answer.authority, mode=0o644)
        write_file(root / DEPLOYED_TOPOLOGY, answer.topology, mode=0o644)
        write_file(root / ACCEPTED, paper_text(answer), mode=0o644)
    return SiteStep(root, certificate_fingerprint(authority), site)


def answered_topology(answer: Signed, path: Path) -> Topology:
    """Return the network as the site may see it; TopologyError, or RequestRefusedError if the site is not in it."""
    topology = parse_topology(answer.topology, str(path))
    require_site(topology, answer.site)
    return topology


def _check_authority(authority: x509.Certificate, path: Path) -> None:
    what = f"the authority's certificate in {path}"
    try:
        authority.verify_directly_issued_by(authority)
        can_sign = authority.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    except (*UNREADABLE, InvalidSignature, x509.ExtensionNotFound):
        can_sign = False
    if not can_sign:
        raise RequestRefusedError(f"{what} is not one of an authority", hint="ask for it again")
    check_dates(authority, what)


def _check_issued(
    answer: Signed,
    path: Path,
    authority: x509.Certificate,
    keys: list[EllipticCurvePrivateKey | RSAPrivateKey],
    topology: Topology,
) -> None:
    names = (site_user(answer.site), broker_name(answer.site))
    hosts = ((), broker_hosts(topology, answer.site))
    pems = (answer.site_certificate, answer.broker_certificate)
    for pem, name, key, known in zip(pems, names, keys, hosts, strict=True):
        what = f"the certificate of {name} in {path}"
        found = load_certificate(pem, what)
        check_certificate(found, name, authority, what)
        if found.public_key() != key.public_key():
            hint = f"send {answer.site}.request again, as it is now, and have that signed"
            raise RequestRefusedError(f"{what} is not for the key that is here", hint=hint)
        if certified_hosts(found) != (alternatives(known) or None):
            raise RequestRefusedError(f"{what} is for another host than the topology says", hint="ask for it again")


def _check_succeeds(answer: Signed, path: Path, root: Path, authority: x509.Certificate) -> None:
    """Raise RequestRefusedError for what is of another authority, or older, than what is here."""
    for file in key_files(root):
        there = file.parent / AUTHORITY
        if there.exists() and load_certificate(there.read_bytes(), str(there)) != authority:
            raise _of_another(path, there)
    kept = accepted(root)
    if kept is not None and load_certificate(kept.authority, str(root / ACCEPTED)) != authority:
        raise _of_another(path, root / ACCEPTED)
    if kept is not None and answer.made < kept.made:
        what = f"{path} is older than what was accepted already"
        raise RequestRefusedError(what, hint="bring the latest; or --replace, to go back")


def _of_another(path: Path, there: Path) -> RequestRefusedError:
    hint = "if the network has a new one, and its operator reads you the same fingerprint: --replace"
    return RequestRefusedError(f"{path} is of another authority than {there}", hint=hint)


def accepted(root: Path) -> Signed | None:
    """Return what the site in ``root`` has accepted; None if nothing yet."""
    path = root / ACCEPTED
    return read_paper(path, Signed, "what the authority has answered") if path.exists() else None
