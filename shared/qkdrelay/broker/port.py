"""The port to a message broker, for services and for clients of the coordinator."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from types import TracebackType
from typing import Final, Protocol, Self

from qkdrelay.errors import QkdRelayError
from qkdrelay.messages.codec import MESSAGE_BYTES_MAX

CLIENT_PREFETCH: Final = 100
"""Messages that a `Client` has at a time, not taken yet."""


class MessageTooLargeError(QkdRelayError):
    """A publication's body is larger than `MESSAGE_BYTES_MAX`."""


@dataclass(frozen=True, slots=True)
class Delivery:
    """One message as it arrived; it stays the broker's until it is acknowledged."""

    queue: str
    exchange: str
    """The exchange it was published to: the only trustworthy name of its sender."""
    routing_key: str
    body: bytes = field(repr=False)
    redelivered: bool
    token: tuple[int, int]
    """The adapter's own: (generation, number within queue and generation). Stale ones are ignored by `acknowledge`."""
    site: str = ""
    """The site whose broker it was read at; empty for the service's own. Of its KMEs alone that broker may speak."""

    @property
    def place(self) -> str:
        """Name the queue so that no other is meant: queues of several brokers may have one name."""
        return place(self.queue, self.site)


def place(queue: str, site: str) -> str:
    """Name a queue at the broker of a site; of one at the service's own site (empty) it is the queue's name."""
    return f"{queue} at {site}" if site else queue


@dataclass(frozen=True, slots=True)
class Publication:
    """One message to publish.

    ``id`` is the caller's and comes back in `Received.confirmed`. With ``id=None`` the message is an
    observation: at most once, not persistent, not mandatory, never retried, and no outcome is reported.
    """

    id: int | None
    exchange: str
    routing_key: str
    body: bytes = field(repr=False)
    urgent: bool = True
    """Whether somebody waits for it: what is not urgent may be gathered for a moment, in its order."""


@dataclass(frozen=True, slots=True)
class SiteState:
    """How it is with the broker of another site, at which a service reads."""

    connections: int = 0
    """Times that it was connected to."""
    away: str = ""
    """Why nothing can be read there at this moment; empty if it can."""
    refused: Mapping[str, str] = field(default_factory=dict)
    """The queues there that cannot be used at this moment, and why."""


@dataclass(frozen=True, slots=True)
class Received:
    """The outcome of `Broker.receive`; each field may be empty."""

    deliveries: list[Delivery]
    confirmed: list[int]
    """Ids of publications the broker has taken over and routed to at least one queue."""
    connected: bool
    """Whether both directions work at this moment with the service's own broker, for one queue at least."""
    generation: int
    """Grows by one with each new connection to consume from, and each queue that can be consumed again; 0 before."""
    publishing: int
    """Grows by one with each new connection to publish on."""
    refused: Mapping[str, str] = field(default_factory=dict)
    """By name, the queues and exchanges of the service's own broker that cannot be used at this moment, and why."""
    unrouted: Mapping[str, str] = field(default_factory=dict)
    """Routing keys to which nothing is bound, with their exchanges, as the last attempt to publish showed."""
    blocked: str = ""
    """The broker's reason to take no publications at this moment ("low on disk"); empty if it takes them."""
    version: str = ""
    """The broker's, as it says itself."""
    nodes: int = 1
    """Addresses of the broker this user was given: of a cluster, the nodes that each queue should be on."""
    sites: Mapping[str, SiteState] = field(default_factory=dict)
    """The other sites that are read at."""
    returned: Collection[str] = ()
    """The places of queues whose channel was lost since the last call: what of them was delivered before, and is not
    acknowledged, is the broker's again and comes again."""

    @property
    def hindrance(self) -> str:
        """A line on what keeps part of it from working; empty for nothing."""
        if self.blocked:
            return f"the broker takes nothing: {self.blocked}"
        if self.refused:
            return _listed([f"{name} cannot be used: {why}" for name, why in self.refused.items()])
        return "" if self.connected else "not connected to the broker"

    @property
    def remark(self) -> str:
        """A line on what does not get where it is to go while all else works; empty for nothing."""
        unrouted = [f"nothing is bound to {key} at exchange {where}" for key, where in self.unrouted.items()]
        away = [f"site {site} cannot be read: {state.away}" for site, state in self.sites.items() if state.away]
        refused = [
            f"{place(queue, site)} cannot be used: {why}"
            for site, state in self.sites.items()
            for queue, why in state.refused.items()
        ]
        return _listed(unrouted + away + refused)

    @property
    def away(self) -> frozenset[str]:
        """The sites at which nothing can be read at this moment."""
        return frozenset(site for site, state in self.sites.items() if state.away)


_LISTED_MAX = 5


def _listed(texts: Sequence[str]) -> str:
    more = len(texts) - _LISTED_MAX
    return "; ".join(texts[:_LISTED_MAX]) + (f"; and {more} more" if more > 0 else "")


class Broker(Protocol):
    """A connection to a broker that keeps itself alive; a service may read at the brokers of other sites, too.

    It publishes at its own site's only. It reconnects for ever, to each by itself, with jittered and capped back-off,
    and logs why. A queue or an exchange that is missing or refused is named (`Received.refused`) and asked for again;
    the others go on. All methods but `wake` are called from one thread (the service's); network input and output
    happen elsewhere.
    """

    def start(self) -> None:
        """Begin to connect, in the background; until then nothing leaves and nothing comes."""
        ...

    def wake(self) -> None:
        """End a `receive` that waits, or the next one, at once; any thread may call it, and a signal handler."""
        ...

    def receive(self, limit: int, timeout_s: float, resting: Collection[str] = ()) -> Received:
        """Return up to ``limit`` deliveries and all new confirms; wait up to ``timeout_s`` for the first.

        The queues take turns, those that are ``resting`` (by their place) left out: what they have brought stays
        where it is.
        ``limit=0`` waits for confirms only. Raises `BrokerUnreachableError` only if the adapter itself has
        failed for good, which is a defect; a broker that is away is waited for.
        """
        ...

    def acknowledge(self, deliveries: Sequence[Delivery]) -> None:
        """Give the deliveries up for good. Those of an earlier connection are ignored: they come again."""
        ...

    def publish(self, publications: Sequence[Publication]) -> None:
        """Take over the publications; each with an id is tried until the broker confirms it.

        A nack, a return (nothing bound to the key) or a lost connection means: again, after a back-off.
        Confirms are pipelined; the order of publications by one routing key is kept unless one is retried.
        Where an exchange is missing, may not be written or leads to a queue that stands still, what is for others
        goes on.
        How much is handed over unconfirmed is the caller's to bound. Raises `MessageTooLargeError`, and then
        has taken over nothing.
        """
        ...

    def close(self, timeout_s: float) -> None:
        """Stop consuming, flush acknowledgements, wait for outstanding confirms, at most ``timeout_s``.

        What was delivered and not acknowledged goes back to its queue. Confirms that came in
        while closing are returned by one last `receive`.
        """
        ...


class Client(Protocol):
    """A connection to the coordinator, of its command line or the page: a queue of its own, requests out, replies in.

    Every method raises `BrokerUnreachableError`, with a hint, when the broker or the coordinator's queue
    is not there.
    """

    @property
    def address(self) -> str:
        """Name of the client's own queue, and the routing key of replies to it."""
        ...

    def send(self, body: bytes) -> None:
        """Send a request to the coordinator's queue; returns when the broker has it."""
        ...

    def check(self) -> None:
        """Ask the broker whether it takes anything at all at this moment: for when nobody answers."""
        ...

    def receive(self, timeout_s: float) -> tuple[str, str, bytes] | None:
        """Return (exchange, routing key, body) of the next reply or event; None after ``timeout_s``."""
        ...

    def close(self) -> None:
        """Leave; the client's queue goes with it."""
        ...

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()


def check_size(publications: Sequence[Publication]) -> None:
    """Raise `MessageTooLargeError` if one of the bodies is larger than `MESSAGE_BYTES_MAX`."""
    for publication in publications:
        if len(publication.body) > MESSAGE_BYTES_MAX:
            raise MessageTooLargeError(
                f"a message of {len(publication.body)} bytes for {publication.routing_key} "
                f"is larger than {MESSAGE_BYTES_MAX}",
                hint="send it in several",
            )
