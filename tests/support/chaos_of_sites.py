"""Kill, stop, pause and cut off what a network of sites consists of, and look from the outside at what became of all.

    python -m support.chaos_of_sites --times 300 --relays 3000 --seed 7

does so with eight sites, prints the figures and ends with status 1 if a promise was broken.
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pika

from qkdrelay.broker.names import VHOST
from qkdrelay.broker.rabbitmq.client import RabbitMqClient
from qkdrelay.broker.rabbitmq.settings import RabbitMqSettings
from qkdrelay.network.names import CLI, COORDINATOR, OPERATOR
from qkdrelay.network.topology import Topology
from qkdrelay.network.topology_file import reference_topology
from qkdrelay.service import dotenv_file
from support.chaos import BROKER, STOPPED, Figures, Watch, chosen, ended
from support.proxy import Proxy
from support.recorder import Ledger, Recorder
from support.sites import Bundles, bundles, until_whole
from support.waiting import eventually

LOOPBACK = "127.0.0.1"
DECK = {
    "service killed": 7,
    "service paused": 3,
    STOPPED: 2,
    "broker killed": 1,
    "broker paused": 2,
    "site's connections cut": 2,
    "site's connections cut in mid-message": 1,
    "site's connections hang": 1,
    "site parted": 2,
}
"""Of so many disturbances so many are of a kind, in any order."""
AT_ONCE_MAX = 4
"""Services, brokers and ways that are disturbed at a time."""
SHORT_S, LONG_S = (0.0, 4.0), (22.0, 32.0)
"""How long a disturbance lasts; one in `LONG_ONE_IN` is longer than two heartbeats."""
LONG_ONE_IN = 8
PAUSE_S = 0.7
SAID_EVERY = 50
UP_WITHIN_S = 180.0


class Sites:
    """A running network of sites (a `Watched`): its containers, and the ways between them."""

    def __init__(self, running: Bundles) -> None:
        """Of what `bundles` made for chaos."""
        import docker  # noqa: PLC0415 - slow, and only these tests need it

        self.bundles, self.topology = running, running.topology
        self._said = {site: dotenv_file.read(running.folder / site / ".env") for site in self.topology.sites}
        self.services: dict[str, Any] = {}
        """Docker's own container objects of KMEs and coordinator, by name."""
        self.brokers: dict[str, Any] = {}
        """By site."""
        client = docker.from_env()
        for site, said in self._said.items():
            of_site = {"label": f"com.docker.compose.project={said['COMPOSE_PROJECT_NAME']}"}
            for container in client.containers.list(filters=of_site):
                service = container.labels["com.docker.compose.service"]
                if service == BROKER:
                    self.brokers[site] = container
                elif service in (*self.topology.kmes, COORDINATOR):
                    self.services[service] = container

    @property
    def cli_key(self) -> bytes:
        """What the command line at the coordinator's site signs with."""
        return bytes.fromhex(self._said[self.topology.coordinator]["QKDRELAY_CLI_KEY"])

    def client(self) -> RabbitMqClient:
        """Return a connection as the command line at the coordinator's site has one."""
        said = self._said[self.topology.coordinator]
        address = f"{LOOPBACK}:{said['QKDRELAY_AMQP_PORT']}"
        return RabbitMqClient(
            RabbitMqSettings(addresses=address, vhost=VHOST, user=CLI, password=said["QKDRELAY_CLI_PASSWORD"])
        )

    def keys(self, kme: str) -> list[dict[str, Any]]:
        """Return the keys at ``kme`` as the person there sees them, delivered ones with their bytes."""
        answer = self.services[kme].exec_run(["kme", "keys", "--json", "--reveal", "--limit", "100000"])
        assert answer.exit_code == 0, answer.output
        keys: list[dict[str, Any]] = json.loads(answer.output)["keys"]
        return keys

    def recorders(self, ledger: Ledger) -> list[Recorder]:
        """Record into a ledger, from now on, what goes over QKD links."""
        return [Recorder(self._operators_way(said), ledger) for said in self._said.values()]

    def log(self, service: str) -> str:
        """Return what a service has said."""
        return str(self.services[service].logs().decode(errors="replace"))

    def _operators_way(self, said: dict[str, str]) -> pika.ConnectionParameters:
        credentials = pika.PlainCredentials(OPERATOR, said["QKDRELAY_OPERATOR_PASSWORD"])
        return pika.ConnectionParameters(LOOPBACK, int(said["QKDRELAY_AMQP_PORT"]), VHOST, credentials)


class ChaosOfSites(Watch):
    """One run on one network of sites."""

    def __init__(self, network: Sites, seed: int) -> None:
        super().__init__(network, network.bundles.application, seed)
        self.network = network
        self._ends: dict[str, tuple[float, Callable[[], None]]] = {}
        """What is disturbed now: until when (monotonic clock), and how that ends."""
        self._kinds: dict[str, Callable[[], bool]] = {
            "service killed": self._kill_service,
            "service paused": partial(self._pause, network.services),
            STOPPED: self._stop_service,
            "broker killed": self._kill_broker,
            "broker paused": partial(self._pause, network.brokers),
            "site's connections cut": partial(self._once, Proxy.cut),
            "site's connections cut in mid-message": partial(
                self._for_a_while, "cut_after", lambda: self.choice.randrange(8, 40_000), None
            ),
            "site's connections hang": partial(self._once, Proxy.hang),
            "site parted": partial(self._for_a_while, "is_parted", True, False),
        }

    def disturb_at_random(self, times: int, relays: int) -> None:
        """Disturb so many times at random moments, while up to ``relays`` are asked for; wait until all is whole."""
        done, deck = 0, []
        while done < times:
            self.load.allowed = relays * (done + 1) // times
            time.sleep(self.choice.uniform(0.0, PAUSE_S))
            self._end_what_is_over()
            deck = deck or self._shuffled()
            if len(self._ends) < AT_ONCE_MAX and self._kinds[deck[-1]]():
                self.figures.others[deck.pop()] += 1
                done += 1
                if done % SAID_EVERY == 0:
                    print(f"{done} of {times}, {len(self.load.relays)} relays asked for", flush=True)
        eventually(self._end_what_is_over, timeout_s=2 * LONG_S[1], what="the last disturbances to be over")
        until_whole(self.network.bundles)
        # What is cut off for half a minute at a time cannot always keep up.
        self.load.allowed = min(self.load.allowed, len(self.load.relays))

    def look(self) -> Figures:
        """Compare what there is with what was promised."""
        figures = super().look()
        for service in self.network.services:
            if "Traceback" in self.network.log(service):
                figures.broken.append(f"{service} has said a traceback")
        return figures

    def _shuffled(self) -> list[str]:
        deck = [kind for kind, times in DECK.items() for _ in range(times)]
        self.choice.shuffle(deck)
        return deck

    def _end_what_is_over(self) -> bool:
        """End what has lasted as long as it should; say whether that is all."""
        for name, (until, end) in list(self._ends.items()):
            if time.monotonic() >= until:
                del self._ends[name]
                end()
        return not self._ends

    def _lasts(self, name: str, end: Callable[[], None]) -> None:
        length = LONG_S if self.choice.randrange(LONG_ONE_IN) == 0 else SHORT_S
        self._ends[name] = (time.monotonic() + self.choice.uniform(*length), end)

    def _free(self, names: dict[str, Any]) -> list[str]:
        """Return those that are not disturbed now."""
        return [name for name in names if name not in self._ends]

    # --- the kinds: each says whether there was anything to disturb ---------------------------------

    def _kill_service(self) -> bool:
        """One to three at once."""
        free = self._free(self.network.services)
        for name in self.choice.sample(free, min(len(free), self.choice.choice((1, 1, 1, 2, 3)))):
            container = self.network.services[name]
            container.kill()
            self.count_kill(name)
            self._lasts(name, container.start)
        return bool(free)

    def _stop_service(self) -> bool:
        if not (free := self._free(self.network.services)):
            return False
        name = self.choice.choice(free)
        container = self.network.services[name]
        container.reload()
        started = container.attrs["State"]["StartedAt"]
        # Until it has said something it may not know the signal yet.
        eventually(lambda: _has_said(container, started), timeout_s=UP_WITHIN_S, what=f"{name} to run")
        container.stop(timeout=20)
        if (status := container.wait()["StatusCode"]) != 0:
            self.figures.broken.append(f"{name} ended with status {status} at SIGTERM")
        container.start()
        return True

    def _kill_broker(self) -> bool:
        free = [site for site in self._free(self.network.brokers) if _is_healthy(self.network.brokers[site])]
        if not free:
            return False
        site = self.choice.choice(free)
        self.network.brokers[site].kill()
        self.figures.kills[BROKER] += 1
        self._lasts(site, self.network.brokers[site].start)
        return True

    def _pause(self, containers: dict[str, Any]) -> bool:
        if not (free := self._free(containers)):
            return False
        name = self.choice.choice(free)
        containers[name].pause()
        self._lasts(name, containers[name].unpause)
        return True

    def _once(self, disturb: Callable[[Proxy], object]) -> bool:
        disturb(self.choice.choice(list(self.network.bundles.proxies.values())))
        return True

    def _for_a_while(self, setting: str, disturbed: object, undisturbed: object) -> bool:
        """Cut what goes to a site, and have a setting of its proxy be another for what comes after that."""
        free = [site for site in self.network.bundles.proxies if f"way to {site}" not in self._ends]
        if not free:
            return False
        site = self.choice.choice(free)
        proxy = self.network.bundles.proxies[site]
        setattr(proxy, setting, disturbed)
        proxy.cut()
        self._lasts(f"way to {site}", partial(setattr, proxy, setting, undisturbed))
        return True


def _is_healthy(container: Any) -> bool:
    container.reload()
    return bool(container.attrs["State"].get("Health", {}).get("Status") == "healthy")


def _has_said(container: Any, since: str) -> bool:
    return any(
        line.split(maxsplit=1)[0] >= since for line in container.logs(timestamps=True).decode().splitlines()[-1:]
    )


def network_of(topology: Topology, each: int = 1) -> dict[str, tuple[str, ...]]:
    """Return sites of so many KMEs each, named after their first."""
    kmes = topology.kmes
    return {kmes[first]: kmes[first : first + each] for first in range(0, len(kmes), each)}


def main() -> int:
    """Run the long form; see the module."""
    arguments = chosen(__doc__, "times")
    print(
        f"seed {arguments.seed}: eight sites disturbed {arguments.times} times, {arguments.relays} relays", flush=True
    )
    folder = Path(tempfile.mkdtemp(prefix="qkdrelay-chaos-"))
    topology = reference_topology()
    with bundles(folder, topology, network_of(topology), is_for_chaos=True) as running:
        running.up()
        until_whole(running)
        chaos = ChaosOfSites(Sites(running), arguments.seed)
        chaos.disturb_at_random(arguments.times, arguments.relays)
        figures = chaos.look()
        if figures.broken:
            for service in chaos.network.services:
                (folder / f"{service}.log").write_text(chaos.network.log(service))
            print(f"logs are in {folder}", flush=True)
    return ended(figures, folder)


if __name__ == "__main__":
    sys.exit(main())
