"""SAEs for the benchmark's network: their directory, certificates, and the settings of the KMEs that have them."""

from __future__ import annotations

import urllib.request
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path

from bench.https import Server
from qkdrelay.network.directory import Directory, PairSettings, Sae, directory_text
from qkdrelay_deployment.certificates import Authority
from support.ports import free_port
from support.rabbitmq import LOOPBACK

MASTERS_AT, SLAVES_AT = "kme-1", "kme-8"
SAES = 40
"""At each of the two: 1,600 pairs."""
STOCK_MOST = 4_096
BUSY = "m-0", "s-0"
"""The pair that has as many keys cut ahead as a pair may have; all others have what a pair has by default."""
TWO = {f"{letter}-{n}": kme for letter, kme in (("m", MASTERS_AT), ("s", SLAVES_AT)) for n in range(SAES)}
"""The KME of each SAE."""
_OPENER = urllib.request.build_opener(urllib.request.ProxyHandler({}))


@dataclass(frozen=True)
class Applications:
    """The applications of one network; files are in ``folder``."""

    folder: Path
    homes: Mapping[str, str]
    """The KME of each SAE."""
    ports: Mapping[str, int]
    """Of the interface for applications, by KME."""
    health: Mapping[str, int]

    @classmethod
    def new(cls, folder: Path, homes: Mapping[str, str], busy: Collection[tuple[str, str]]) -> Applications:
        """Make certificates and directory; pairs that are ``busy`` have as many keys cut ahead as a pair may have."""
        folder.mkdir()
        kmes = tuple(sorted(set(homes.values())))
        pairs = dict.fromkeys(busy, PairSettings(stock=STOCK_MOST))
        directory = Directory({sae: Sae(sae, kme) for sae, kme in homes.items()}, pairs)
        (folder / "saes.toml").write_text(directory_text(directory))
        authority = Authority.new("bench")
        for name, hosts in {**dict.fromkeys(kmes, (LOOPBACK,)), **dict.fromkeys(directory.saes, ())}.items():
            (own := folder / name).mkdir()
            certificate, key = authority.issue(name, hosts)
            for file, text in {"ca.pem": authority.pem, "cert.pem": certificate, "key.pem": key}.items():
                (own / file).write_text(text)
                (own / file).chmod(0o600)
        return cls(folder, homes, {kme: free_port() for kme in kmes}, {kme: free_port() for kme in kmes})

    def settings(self) -> dict[str, dict[str, str]]:
        """Return what the services are to be told of them, by service."""
        saes = {"QKDRELAY_SAES": str(self.folder / "saes.toml")}
        own = {
            kme: {
                **saes,
                "QKDRELAY_ETSI014": f"{LOOPBACK}:{port}",
                "QKDRELAY_ETSI014_TLS": str(self.folder / kme),
                "QKDRELAY_HTTP": f"{LOOPBACK}:{self.health[kme]}",
                "QKDRELAY_REQUESTS_PER_S": "1000000",
            }
            for kme, port in self.ports.items()
        }
        return {**own, "coordinator": saes}

    def server(self, sae: str, *, port: int | None = None) -> Server:
        """Return its KME's server as an SAE asks it, or another at ``port``."""
        return Server(port or self.ports[self.homes[sae]], self.folder / sae)

    def ready_keys(self) -> int:
        """Return how many keys are ready at the masters' KME."""
        return int(self.figure("qkdrelay_ready_keys"))

    def figure(self, name: str, kme: str = MASTERS_AT) -> float:
        """Return the sum of a metric of a KME."""
        with _OPENER.open(f"http://{LOOPBACK}:{self.health[kme]}/metrics", timeout=10) as answer:
            lines = answer.read().decode().splitlines()
        return sum(float(line.rpartition(" ")[2]) for line in lines if line.partition("{")[0].split(" ")[0] == name)

    def is_ready(self, kme: str) -> bool:
        """Whether a KME says that it is."""
        try:
            with _OPENER.open(f"http://{LOOPBACK}:{self.health[kme]}/readyz", timeout=10) as answer:
                return bool(answer.status == 200)
        except OSError:
            return False


def path(slave: str, number: int = 1) -> str:
    """Return what a master asks for to get keys for a slave."""
    return f"/api/v1/keys/{slave}/enc_keys" + ("" if number == 1 else f"?number={number}")
