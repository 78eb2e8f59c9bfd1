"""Part "fifty_sites": what a coordinator takes that has fifty sites of one KME: connections, memory, time to start.

One broker stands for all fifty: it has every queue, takes the connections to each of them at an address of its own, and
lets each site in by its certificate. So the coordinator does all that it does with fifty brokers, and the machine has
one. Beside it, the coordinator of the same network on one broker.
"""

from __future__ import annotations

import json
import shutil
import statistics
import tempfile
import time
import urllib.error
import urllib.request
from collections import Counter
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from bench.processor import resident_mib, spent
from bench.provisioned import Provisioned, in_sites, on_one_broker
from bench.stack import ROOT, UP_WITHIN_S, Services, Stack
from qkdrelay.broker.definitions import site_contents, site_definitions
from qkdrelay.broker.rabbitmq.tls import CERTIFICATE, KEY
from qkdrelay.network.names import COORDINATOR, site_user
from qkdrelay.network.sites import Site
from qkdrelay.network.topology_file import load_topology
from qkdrelay_deployment.certificates import stored_authority
from qkdrelay_deployment.compose import BROKER_SERVICE, TLS_FOLDER
from qkdrelay_deployment.site_certificates import AUTHORITY_FOLDER, broker_name
from qkdrelay_deployment.variables import AMQP_PORTS, CLI_KEY, password_variable
from support.ports import free_port

TOPOLOGY = ROOT / "infra" / "topologies" / "germany50.toml"
STARTS = 6
REST_S = 10.0
BETWEEN_STARTS_S = 1.0
"""Of the KMEs: fifty at once would keep the machine busy for longer than they wait for each other."""
_OPENER = urllib.request.build_opener(urllib.request.ProxyHandler({}))


def measure() -> dict[str, Any]:
    """Return what the coordinator takes with all sites in reach and no KME, by side, and with all KMEs."""
    topology = load_topology(TOPOLOGY)
    port = free_port()
    placed = {kme: Site((kme,), f"127.0.0.{number}", port) for number, kme in enumerate(topology.kmes, 1)}
    folder = Path(tempfile.mkdtemp(prefix="qkdrelay-bench-"))
    with ExitStack() as cleanup:
        cleanup.callback(shutil.rmtree, folder)
        one, many = on_one_broker(folder / "one", topology), in_sites(folder / "many", topology, placed)
        _stand_for_all(many)
        starts: dict[str, list[dict[str, float]]] = {one.side: [], many.side: []}
        for network in (one, many):
            cleanup.callback(network.remove, network.lead)
            network.start_brokers(network.lead)
        for _ in range(STARTS):
            for network in (one, many):
                starts[network.side].append(_started(network))
                print(f"bench: {network.side}: {starts[network.side][-1]}", flush=True)
        return {
            "network": topology.name,
            "starts": starts,
            "medians": {side: _medians(each) for side, each in starts.items()},
            "with_kmes": _with_kmes(many),
            "connections_at_brokers": _at_brokers(many),
        }


def _medians(found: list[dict[str, float]]) -> dict[str, float]:
    return {name: statistics.median(each[name] for each in found) for name in found[0]}


def _stand_for_all(network: Provisioned) -> None:
    """Have the broker of the coordinator's site have what is at any site's, under a certificate for all addresses."""
    topology, root = network.topology, network.folder / network.lead
    document: dict[str, list[Any]] = {}
    for site in (network.lead, *topology.sites):
        values = network.values(site)
        passwords = {user: values[password_variable(user)] for user in site_contents(topology, site).users}
        for kind, entries in site_definitions(topology, site, passwords).items():
            found = document.setdefault(kind, [])
            found += [entry for entry in entries if _name(entry) not in map(_name, found)]
    for granted in document["permissions"]:
        if granted["user"] in map(site_user, topology.sites):
            granted["read"] = ".*"  # at any site, what is for it
    (root / "deploy" / "definitions.json").write_text(json.dumps(document))
    _, authority = stored_authority(network.folder / AUTHORITY_FOLDER, topology.name)
    assert authority is not None
    pair = authority.issue(broker_name(network.lead), [site.host for site in topology.sites.values()])
    for file, pem in zip((CERTIFICATE, KEY), pair, strict=True):
        (root / TLS_FOLDER / BROKER_SERVICE / file).write_text(pem)


def _name(entry: dict[str, Any]) -> str:
    """Return what there is one of: a user with its permissions has the first ones, those of the coordinator's site."""
    return str(entry.get("name") or (json.dumps(entry) if "source" in entry else entry["user"]))


def _started(network: Provisioned) -> dict[str, float]:
    """Start the coordinator alone, on an empty store, until it can read everywhere; stop it."""
    services, http = _services(network)
    began = time.monotonic()
    process_id = services.start(COORDINATOR)
    try:
        _wait_until_ready(http)
        ready_s, cpu_s = time.monotonic() - began, spent(network.processes)[COORDINATOR]
        time.sleep(1)
        found = {"connections": float(_connections(network).total()), "rss_mib": resident_mib(process_id)}
        return {"ready_s": ready_s, "processor_s": cpu_s, **found}
    finally:
        services.stop()
        for file in network.folder.glob("coordinator.sqlite*"):
            file.unlink()


def _with_kmes(network: Provisioned) -> dict[str, float]:
    """Return the same with all KMEs heard, at rest, and which part of a core that takes."""
    services, http = _services(network)
    try:
        process_id = services.start(COORDINATOR)
        for kme in network.topology.kmes:
            services.start(kme)
            time.sleep(BETWEEN_STARTS_S)
        key = bytes.fromhex(network.values(network.lead)[CLI_KEY])
        stack = Stack(network.client(), key, network.topology, services)
        stack.wait_until_heard()
        _wait_until_ready(http)
        before = spent(network.processes)
        time.sleep(REST_S)
        used, connections = spent(network.processes) - before, _connections(network)
        own = {COORDINATOR, site_user(network.lead)}
        stack.close()
        return {
            "rss_mib": resident_mib(process_id),
            "cores": used[COORDINATOR] / REST_S,
            "connections_of_lead": float(sum(connections[user] for user in own)),
            "connections_of_all": float(connections.total() - 1),
        }
    finally:
        services.stop()


def _services(network: Provisioned) -> tuple[Services, str]:
    """Return the services, all at the one broker, and where the coordinator says how it is."""
    http = f"127.0.0.1:{free_port()}"
    environments = network.environments()
    for own in environments.values():
        own["QKDRELAY_BROKER"] = f"127.0.0.1:{network.values(network.lead)[AMQP_PORTS[0]]}"
    environments[COORDINATOR]["QKDRELAY_HTTP"] = http
    return Services(environments, network.folder, ()), http


def _wait_until_ready(http: str) -> None:
    deadline = time.monotonic() + UP_WITHIN_S
    while True:
        try:
            with _OPENER.open(f"http://{http}/readyz", timeout=5) as answer:
                said = answer.read().decode().strip()
        except (OSError, urllib.error.URLError) as error:
            said = str(error)
        if said == "ok":
            return
        if time.monotonic() > deadline:
            raise RuntimeError(f"the coordinator is not ready: {said}")
        time.sleep(0.02)


def _connections(network: Provisioned) -> Counter[str]:
    """Return the connections at the broker, by user."""
    ask = ("exec", "-T", "rabbitmq", "rabbitmqctl", "--quiet", "list_connections", "--no-table-headers", "user")
    return Counter(network.compose(network.lead, *ask).split())


def _at_brokers(network: Provisioned) -> dict[str, int]:
    """Return, by arithmetic, the connections at the broker of each site: two of each service there, one of each reader.

    A site's KME reads at its neighbours' and at the coordinator's, the coordinator at all.
    """
    topology = network.topology
    found = {}
    for site, here in topology.sites.items():
        near = {peer for kme in here.kmes for peer in topology.neighbours[kme] if peer not in here.kmes}
        leads = site == topology.coordinator
        readers = (set(topology.kmes) - set(here.kmes)) if leads else near | {COORDINATOR}
        found[site] = 2 * (len(here.kmes) + leads) + len(readers)
    return found
