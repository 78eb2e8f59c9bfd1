"""The reference scenario, played on a whole network in this process."""

from __future__ import annotations

import hmac
from dataclasses import dataclass

from qkdrelay.messages.answers import Acknowledged, AttackView, RelayView
from qkdrelay.messages.network_answers import NetworkView
from qkdrelay.messages.reports import Collected, Confirmed, Forwarded, Rebuilt, Split
from qkdrelay.messages.requests import AttackRequest, LabRequest, LinkRequest, NetworkRequest
from qkdrelay.network.demand import Policy
from qkdrelay.network.directory import Directory, Sae
from qkdrelay.network.names import COORDINATOR
from qkdrelay.network.topology import Topology
from qkdrelay.network.topology_file import reference_topology
from qkdrelay_demo.applications import share_a_key
from qkdrelay_demo.network import EmbeddedNetwork
from qkdrelay_demo.observation import ApplicationKey, Attack, Observation
from qkdrelay_demo.observer import Observer


@dataclass(frozen=True)
class Scenario:
    """The actions of a run; what is expected of it is always the reference scenario."""

    source: str = "kme-1"
    target: str = "kme-8"
    policy: Policy = "recursive"
    key_count: int = 3
    key_size_bits: int = 256
    cut_links: tuple[tuple[str, str], ...] = (("kme-7", "kme-8"),)
    compromised: tuple[str, ...] = ("kme-4", "kme-6")
    """They leak all they receive; each attacks alone, then all together."""
    counter_example: tuple[str, ...] = ("kme-5", "kme-6")
    """KMEs that together do learn a second relay's keys: the attack is a real one."""
    master: str = "sae-1"
    slave: str = "sae-8"
    """Applications that use the network once the lab is over; what is cut stays so."""


REFERENCE_SCENARIO = Scenario()


def play(scenario: Scenario = REFERENCE_SCENARIO) -> Observation:
    """Play the scenario on the eight-KME reference network and return what was seen.

    RequestRefusedError if the coordinator refuses a part of it, BrokerUnreachableError if a KME does not obey.
    """
    topology = reference_topology()
    directory = Directory({sae: Sae(sae, kme) for sae, kme in topology.saes.items()})
    having = (*topology.saes.values(), COORDINATOR)
    network = EmbeddedNetwork(topology, lab=True, directories=dict.fromkeys(having, directory))
    observer = Observer(network.hub, topology.links)
    for a, b in scenario.cut_links:
        network.client.ask(LinkRequest(a=a, b=b, up=False), Acknowledged)
    for kme in scenario.compromised:
        network.client.ask(LabRequest(kme=kme, mode="leak"), Acknowledged)
    before = network.client.ask(NetworkRequest(), NetworkView)
    relay = _relay(network, scenario)
    attacks = [_attack(network, relay, (kme,)) for kme in scenario.compromised]
    if len(scenario.compromised) > 1:
        attacks.append(_attack(network, relay, scenario.compromised))
    observer.look()
    relay_id = relay.relay_id
    return Observation(
        relay=relay,
        cut_links=_cut_links(topology, before),
        compromised=tuple(kme.name for kme in before.kmes if kme.lab_mode == "leak"),
        carried=observer.carried(relay_id),
        received=(
            *(report.route for _, report in observer.reports(relay_id, Split) if report.route != (relay.source,)),
            *(report.route for _, report in observer.reports(relay_id, Forwarded)),
            *(report.route for _, report in observer.reports(relay_id, Collected)),
        ),
        rebuilt_by=tuple(kme for kme, _ in observer.reports(relay_id, Rebuilt)),
        confirmed_by=tuple(kme for kme, _ in observer.reports(relay_id, Confirmed)),
        keys_equal=_keys_are_equal(network, relay),
        attacks=tuple(attacks),
        counter_example=_counter_example(network, scenario),
        application=_application(network, scenario),
    )


def _relay(network: EmbeddedNetwork, scenario: Scenario) -> RelayView:
    return network.relay(
        scenario.source,
        scenario.target,
        key_count=scenario.key_count,
        key_size_bits=scenario.key_size_bits,
        policy=scenario.policy,
    )


def _attack(network: EmbeddedNetwork, relay: RelayView, kmes: tuple[str, ...]) -> Attack:
    """Let the adversary, who has what all compromised KMEs leaked, use what ``kmes`` did."""
    view = network.client.ask(AttackRequest(relay=str(relay.relay_id), kmes=kmes), AttackView)
    return Attack(view.relay_id, kmes, view.kmes, view.shares_held, view.learned, view.short_splits)


def _counter_example(network: EmbeddedNetwork, scenario: Scenario) -> Attack:
    """Compromise the KMEs that are too many, relay other keys, and attack in the same way."""
    for kme in scenario.compromised:
        network.client.ask(LabRequest(kme=kme, mode=None), Acknowledged)
    for kme in scenario.counter_example:
        network.client.ask(LabRequest(kme=kme, mode="leak"), Acknowledged)
    return _attack(network, _relay(network, scenario), scenario.counter_example)


def _application(network: EmbeddedNetwork, scenario: Scenario) -> ApplicationKey:
    """Have everybody honest again, and two applications share a key."""
    for kme in scenario.counter_example:
        network.client.ask(LabRequest(kme=kme, mode=None), Acknowledged)
    saes = network.directories[COORDINATOR].saes
    return share_a_key(network, saes[scenario.master], saes[scenario.slave])


def _cut_links(topology: Topology, view: NetworkView) -> tuple[tuple[str, str], ...]:
    down = {(kme.name, link.peer) for kme in view.kmes for link in kme.links if not link.up}
    return tuple((a, b) for a, b in topology.links if {(a, b), (b, a)} <= down)


def _keys_are_equal(network: EmbeddedNetwork, relay: RelayView) -> bool:
    """Compare what the two ends have released, here in the process: keys go nowhere else."""
    at_source, at_target = (network.keys(kme, relay.relay_id) for kme in (relay.source, relay.target))
    size = relay.key_count * relay.key_size_bits // 8
    if at_source is None or at_target is None or len(at_source) != size:
        return False
    return hmac.compare_digest(at_source, at_target)
