"""Three operators and an authority, each with a folder of their own, and what they send each other."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from qkdrelay.network.topology_file import parse_topology
from qkdrelay_deployment.own_site import write_site
from qkdrelay_deployment.site_answers import accept_signed
from qkdrelay_deployment.site_exchange import offer_secrets, take_offer
from qkdrelay_deployment.site_requests import begin_site, sign_site

TOPOLOGY = """\
name = "three-cities"
kmes = ["kme-1", "kme-2", "kme-3", "kme-4"]
links = [
  ["kme-1", "kme-2"],
  ["kme-2", "kme-3"],
  ["kme-3", "kme-4"],
  ["kme-1", "kme-4", { source = "etsi014", devices = { \
kme-1 = { url = "https://alice.example", sae = "kme-1" }, kme-4 = { url = "https://bob.example", sae = "kme-4" } } }],
]
coordinator = "munich"
[sites]
berlin = { kmes = ["kme-1"], broker = "qkd.berlin.example:5671" }
munich = { kmes = ["kme-2", "kme-3"], broker = "192.0.2.7:5671" }
vienna = { kmes = ["kme-4"], broker = "qkd.vienna.example:5671" }
"""
CITIES = parse_topology(TOPOLOGY, "three-cities.toml")
SITES = tuple(CITIES.sites)
SHARED = {
    ("berlin", "munich"): ("CONTROL_KEY_KME_1", "SITE_KEY_BERLIN", "LINK_SECRET_KME_1__KME_2"),
    ("munich", "vienna"): ("CONTROL_KEY_KME_4", "SITE_KEY_VIENNA", "LINK_SECRET_KME_3__KME_4"),
}


@dataclass(frozen=True)
class Operators:
    """Each in a folder of ``root``; what they send is read where it was written."""

    root: Path

    def request(self, site: str) -> Path:
        return begin_site(CITIES, site, self.root / site).path

    def signed(self, site: str, *, replace: bool = False) -> Path:
        return sign_site(CITIES, self.root / site / f"{site}.request", self.root / "hq", replace=replace).path

    def accept(self, site: str, *, replace: bool = False) -> Path:
        return accept_signed(self.root / "hq" / f"{site}.signed", self.root / site, replace=replace).path

    def offer(self, site: str, other: str, **given: Path) -> Path:
        return offer_secrets(self.root / site, other, **given).path

    def take(self, site: str, other: str, *, replace: bool = False):
        return take_offer(self.root / site / f"{site}-to-{other}.offer", self.root / other, replace=replace)

    def bundle(self, site: str) -> Path:
        return self.root / site / site

    def certified(self) -> Operators:
        """All have what the authority answers, once it knows all."""
        for site in SITES:
            self.request(site)
        for site in (*SITES, *SITES):
            self.signed(site)
        for site in SITES:
            self.accept(site)
        return self

    def provision(self, site: str):
        return write_site(CITIES, site, self.root / site, environment={})
