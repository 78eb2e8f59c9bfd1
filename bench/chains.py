"""Part `chains`: the bare chain against others like it, in turn on one broker: it has to be the fastest there is.

What the services need of the broker (an exchange for each KME, which it alone may write; limits of queues) is left out
or made otherwise in some of them, and so is what the chain has of its own.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

from bench import bare
from bench.against_broker import TOPOLOGY, message_size
from bench.bare import Way
from qkdrelay.network.planner import recursive_plan
from qkdrelay.network.topology_file import load_topology
from support import rabbitmq

Definitions = dict[str, Any]
AS_IT_IS = "as it is"
SIZES = {1: 1, 256: 5, 4096: 25}
"""Keys of a relay, and by what the number of relays in a round is divided."""


def _topics(definitions: Definitions) -> None:
    for exchange in definitions["exchanges"]:
        if exchange["type"] == "direct":
            exchange["type"] = "topic"


def _no_limits(definitions: Definitions) -> None:
    definitions["policies"] = []
    for queue in definitions["queues"]:
        del queue["arguments"]["x-single-active-consumer"]


def _any_exchange(definitions: Definitions) -> None:
    for granted in definitions["permissions"]:
        granted["write"] = ".*"


def _plain(definitions: Definitions) -> None:
    _no_limits(definitions)
    _any_exchange(definitions)


VARIANTS: dict[str, tuple[Way, Callable[[Definitions], None]]] = {
    AS_IT_IS: (Way(), lambda _: None),
    "topic exchanges": (Way(), _topics),
    "the default exchange": (Way(default_exchange=True), _any_exchange),
    "no policies, any number of consumers": (Way(), _no_limits),
    "pika's own streams": (Way(pikas_streams=True), lambda _: None),
    "topic exchanges, pika's own streams": (Way(pikas_streams=True), _topics),
    "the default exchange, no policies": (Way(default_exchange=True), _plain),
    "the default exchange, no policies, pika's own streams": (Way(default_exchange=True, pikas_streams=True), _plain),
}


def measure(relays: int, rounds: int) -> dict[int, dict[str, Any]]:
    """Return for each number of keys and variant the median relays/s, and their ratio to the chain's as it is."""
    topology = load_topology(TOPOLOGY)
    plan = recursive_plan(topology, topology.kmes[0], topology.kmes[-1])
    found: dict[int, dict[str, Any]] = {}
    with rabbitmq.running() as server:
        for keys, divisor in SIZES.items():
            with ExitStack() as cleanup:
                chains = {}
                for name, (way, adjust) in VARIANTS.items():
                    host = cleanup.enter_context(server.vhost(topology.kmes, topology.links, adjust=adjust))
                    chain = bare.running(host, topology, plan, message_size(keys), way)
                    chains[name] = cleanup.enter_context(chain).relay
                found[keys] = _compare(chains, max(40, relays // divisor), rounds)
    return found


def _compare(chains: dict[str, Callable[[int], bare.Times]], relays: int, rounds: int) -> dict[str, Any]:
    rates: dict[str, list[float]] = {name: [] for name in chains}
    names = list(chains)
    for relay in chains.values():
        relay(max(1, relays // 4))
    for turn in range(rounds):
        for place in range(len(names)):  # each is first, and last, as often as the others
            name = names[(place + turn) % len(names)]
            times = chains[name](relays)
            rates[name].append(relays / (max(t[1] for t in times) - min(t[0] for t in times)))
    return {
        name: {
            "relays_per_s": statistics.median(own),
            "ratio": statistics.median(a / b for a, b in zip(own, rates[AS_IT_IS], strict=True)),
            "rounds": own,
        }
        for name, own in rates.items()
    }
