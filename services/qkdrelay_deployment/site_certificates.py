"""Certificates between sites: the network's authority names each site, and its broker, and nobody else.

A broker lets whoever has a certificate in as the user of that name. So nothing is issued in a name that a user with a
password could have: ``site.NAME`` for a site, ``broker.NAME`` for its broker, whose hosts stand elsewhere in it.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

from cryptography import x509
from cryptography.x509.oid import NameOID

from qkdrelay.network.names import site_user
from qkdrelay.network.topology import Topology
from qkdrelay_deployment.certificates import (
    authority_files,
    issued_pair,
    kept_pair,
    pair_files,
    stored_authority,
)
from qkdrelay_deployment.compose import BROKER_SERVICE, SITE_CERTIFICATE, TLS_FOLDER

AUTHORITY_FOLDER: Final = "authority"
"""Beside the sites' bundles, and for none of them."""
_LOCAL_HOSTS: Final = (BROKER_SERVICE, "localhost", "127.0.0.1", "::1")


class SitesAuthority:
    """The authority of a network of sites, in a folder of its own."""

    def __init__(self, directory: Path, topology: Topology) -> None:
        """Use what is in ``directory``, or begin anew. SettingsError if that is damaged; OSError."""
        self._directory, self._topology = directory, topology
        self._certificate, self._authority = stored_authority(directory, topology.name)

    def files(self) -> dict[Path, str]:
        """Return its own files."""
        return authority_files(self._directory, self._certificate, self._authority)

    def files_of(self, site: str, root: Path) -> dict[Path, str]:
        """Return the certificates of a site's bundle in ``root``: kept what is good for another while, new what is not.

        SettingsError if one is needed and the authority's key is away; OSError.
        """
        broker, own = root / TLS_FOLDER / BROKER_SERVICE, root / TLS_FOLDER / SITE_CERTIFICATE
        return {
            **self._files(broker, broker_name(site), broker_hosts(self._topology, site)),
            **self._files(own, site_user(site), ()),
        }

    def _files(self, folder: Path, name: str, hosts: tuple[str, ...]) -> dict[Path, str]:
        kept = kept_pair(folder, self._certificate, hosts)
        if kept is None or common_name(kept[0]) != name:
            kept = issued_pair(self._directory, self._authority, name, hosts)
        return pair_files(folder, self._certificate, kept)


def broker_name(site: str) -> str:
    """Return the name that a site's broker has a certificate of."""
    return f"broker.{site}"


def broker_hosts(topology: Topology, site: str) -> tuple[str, ...]:
    """Return where a site's broker is reached: by others, and at home."""
    return tuple(dict.fromkeys((topology.sites[site].host, *_LOCAL_HOSTS)))


def common_name(certificate: str) -> str:
    """Return whom a PEM certificate names."""
    names = x509.load_pem_x509_certificate(certificate.encode()).subject.get_attributes_for_oid(NameOID.COMMON_NAME)
    return str(names[0].value) if len(names) == 1 else ""
