"""Names of every exchange, queue, routing key and user on the broker.

Who writes is told by the exchange, who reads by the queue: each KME ``u`` may write the exchange
``kme.u`` and nothing else, and read the queues named after it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Final

from qkdrelay.errors import TopologyError
from qkdrelay.network.names import CLI, CLIENTS, COORDINATOR, KME_NAME, client_queue_prefix

VHOST: Final = "qkdrelay"
COORD_EXCHANGE: Final = "coord"
REPLIES_EXCHANGE: Final = "replies"
EVENTS_EXCHANGE: Final = "events"
DEAD_LETTER_EXCHANGE: Final = "dlx"
DEAD_LETTERS_QUEUE: Final = "dead-letters"
LEAKS_QUEUE: Final = "lab.leaks"
LEAD_QUEUE: Final = "coordinator.lead"
"""The queue of the token by which one of several coordinators knows that it leads, and the token's routing key."""
REQUESTS_KEY: Final = "requests"
LEAKS_KEY: Final = "lab.leaks"
REQUESTS_AGE_MS_MAX: Final = 30_000
LEAKS_AGE_MS_MAX: Final = 600_000
TOKEN_AGE_MS_MAX: Final = 15_000
ANSWERS_AGE_MS_MAX: Final = 60_000
ASKING_AT_ONCE: Final = 4
_BETWEEN_SERVICES: Final = re.compile(r"link\.[^.]+\.[^.]+|kme\.[^.]+\.control|results\.[^.]+")


def kme_exchange(kme: str) -> str:
    """Name the exchange that only ``kme`` may write."""
    return f"kme.{kme}"


def parse_kme_exchange(exchange: str) -> str:
    """Name the KME that wrote to ``exchange``; `TopologyError` if it is no KME's exchange."""
    prefix, _, kme = exchange.partition(".")
    if prefix != "kme" or not KME_NAME.fullmatch(kme):
        raise TopologyError(f"{exchange!r} is not the exchange of a KME")
    return kme


def client_exchange(client: str) -> str:
    """Name the exchange that only the client (one of `CLIENTS`) may write."""
    return client


def requests_queue(client: str) -> str:
    """Name the queue of a client's requests: one for each, for the page must not fill the command line's."""
    return "coordinator.requests" if client == CLI else f"coordinator.requests.{client}"


def answer_queues(site: str) -> tuple[str, ...]:
    """Name the queues at the coordinator's broker by which command lines at another site are answered.

    Each is read by one at a time; so many may be at work at once.
    """
    return tuple(f"{client_queue_prefix(CLI, site)}{number}" for number in range(ASKING_AT_ONCE))


def link_queue(sender: str, receiver: str) -> str:
    """Name one direction of a QKD link: the queue, and the routing key that leads to it."""
    return f"link.{sender}.{receiver}"


def parse_link_queue(queue: str) -> tuple[str, str]:
    """Return (sender, receiver) of a link's queue; `TopologyError` if ``queue`` is not one."""
    prefix, *ends = queue.split(".")
    if prefix != "link" or len(ends) != 2 or not all(map(KME_NAME.fullmatch, ends)):
        raise TopologyError(f"{queue!r} is not the queue of a QKD link")
    return ends[0], ends[1]


def control_queue(kme: str) -> str:
    """Name the queue, and its routing key, by which the coordinator reaches ``kme``."""
    return f"kme.{kme}.control"


def results_queue(kme: str) -> str:
    """Name the queue, and its routing key, by which ``kme`` reaches the coordinator.

    One for each KME: in a shared one a flooder would have the others' messages refused.
    """
    return f"results.{kme}"


def parse_results_queue(queue: str) -> str:
    """Name the KME whose reports a queue, or a routing key, is for; `TopologyError` if it is for none."""
    prefix, _, kme = queue.partition(".")
    if prefix != "results" or not KME_NAME.fullmatch(kme):
        raise TopologyError(f"{queue!r} is not the queue of a KME's reports")
    return kme


def is_between_services(queue: str) -> bool:
    """Whether it is by this queue that a KME reaches another or the coordinator, or is reached by that."""
    return _BETWEEN_SERVICES.fullmatch(queue) is not None


def dead_key(kme: str) -> str:
    """Name the routing key under which ``kme`` publishes what it rejects, with the reason."""
    return f"dead.{kme}"


def kme_queues(kme: str, links: Iterable[tuple[str, str]]) -> tuple[str, ...]:
    """List the queues ``kme`` reads: its control queue first, then its links' incoming directions."""
    incoming = sorted(link_queue(u, v) for u, v in directions(links) if v == kme)
    return (control_queue(kme), *incoming)


def coordinator_queues(kmes: Iterable[str], *, lab: bool = False) -> tuple[str, ...]:
    """List the queues the coordinator reads; of several sites' KMEs, those at its own site's broker."""
    return (*map(requests_queue, CLIENTS), *_queues_of(kmes, lab=lab))


def site_queues(kmes: Iterable[str], *, lab: bool = False) -> tuple[str, ...]:
    """List the queues at the broker of these KMEs, another than the coordinator's, that the coordinator reads."""
    return (requests_queue(CLI), *_queues_of(kmes, lab=lab))


def _queues_of(kmes: Iterable[str], *, lab: bool) -> tuple[str, ...]:
    leaks = (LEAKS_QUEUE,) if lab else ()
    return (DEAD_LETTERS_QUEUE, *leaks, *(results_queue(kme) for kme in kmes))


def by_site(kme: str, peers: Iterable[str], site_of: Mapping[str, str]) -> dict[str, tuple[str, ...]]:
    """Return the queues that ``kme`` reads, by the site of whoever writes them: that is where a queue is.

    ``site_of`` has the sites of those of its ``peers``, and of the coordinator, that are elsewhere; ``""`` is its own.
    """
    places: dict[str, list[str]] = {"": []}
    writers = {control_queue(kme): COORDINATOR} | {link_queue(peer, kme): peer for peer in sorted(peers)}
    for queue, writer in writers.items():
        places.setdefault(site_of.get(writer, ""), []).append(queue)
    return {site: tuple(queues) for site, queues in places.items()}


def directions(links: Iterable[tuple[str, str]]) -> list[tuple[str, str]]:
    """Return both directions of each pair, each once, however often the pair is named."""
    return sorted({direction for u, v in links for direction in ((u, v), (v, u))})
