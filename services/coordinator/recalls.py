"""Relays that another coordinator began: this one comes to know them from both their ends, and goes on with them."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Collection
from typing import Final

from coordinator.admission import UNDECIDED_MAX, compromised_min
from coordinator.lifecycle import Relay, ended
from coordinator.relay_actions import RelayActions
from coordinator.store import CoordinatorStore
from qkdrelay.errors import QkdRelayError
from qkdrelay.messages import codec
from qkdrelay.messages.control import Terms
from qkdrelay.messages.fields import TIMEOUT_S_MAX
from qkdrelay.messages.plans import decode_plan
from qkdrelay.messages.relay_ids import made_at
from qkdrelay.messages.reports import Recalled
from qkdrelay.network.plan import Plan
from qkdrelay.network.topology import Topology
from qkdrelay.service.batch_events import BatchEvents
from qkdrelay.service.lru import LruCache

POLICY: Final = "recalled"
"""In place of how a plan was found, which its ends do not know."""
_UNDECIDED_MAX: Final = UNDECIDED_MAX // 2
"""Two ends may have made up what they recall: so much is left for what is asked for."""
_SOMEWHERE_ELSE: Final = "another coordinator led when it ended; that one, and its ends, know what became of it"


class Recalls:
    """What ends of relays say of those that are under way, until both ends have said the same.

    One end alone could have it made up, and the other told to begin it.
    """

    def __init__(
        self,
        topology: Topology,
        store: CoordinatorStore,
        relays: RelayActions,
        events: BatchEvents,
        *,
        asked: Callable[[str, float], bool],
        adopted: Callable[[Relay], None],
    ) -> None:
        """``asked`` says whether a KME was told to recall a moment ago; ``adopted`` is told of what is gone on with."""
        self._asked = asked
        self._pairs, self._store = topology.pairs, store
        self._relays, self._events, self._adopted = relays, events, adopted
        self._compromised_min = compromised_min(topology)
        batch = store.journal.batch
        self._said = {kme: batch.cache(LruCache[bytes, bytes](UNDECIDED_MAX)) for kme in topology.kmes}
        """By end and relay, a digest of the terms."""

    def take(self, sender: str, report: Recalled, now: float) -> None:
        """Take what one end says; go on with the relay once the other has said so, too."""
        terms = report.terms
        if self._store.relays.get(terms.relay_id) is not None or not now < terms.deadline <= now + TIMEOUT_S_MAX:
            return
        if not self._asked(sender, now):
            self._misplaced(sender, terms, "nobody has asked for it")
            return
        try:
            plan = decode_plan(terms.plan)
        except QkdRelayError as error:
            self._misplaced(sender, terms, str(error))
            return
        if sender not in (plan.source, plan.target) or not self._is_of_this_network(plan):
            self._misplaced(sender, terms, "it is no end of it, or the plan is none of this network")
            return
        name, digest = terms.relay_id.bytes, hashlib.sha256(codec.encode(terms)).digest()
        other = plan.target if sender == plan.source else plan.source
        if self._said[other].get(name) != digest:
            self._said[sender].keep(name, digest)
        elif self._store.relays.undecided_count() < _UNDECIDED_MAX:
            self._said[other].drop(name)
            relay = Relay(
                terms=terms,
                policy=POLICY,
                protected=terms.withstand.compromised >= self._compromised_min,
                created_at=min(now, made_at(terms.relay_id)),
            )
            # As if it was new: its ends answer how far it is, the same as to whoever told them first.
            self._relays.change(None, relay, now)
            self._adopted(relay)

    def _is_of_this_network(self, plan: Plan) -> bool:
        return self._pairs.issuperset(map(frozenset, plan.links))

    def _misplaced(self, sender: str, terms: Terms, text: str) -> None:
        self._events.note("report.misplaced", "warning", kme=sender, relay_id=terms.relay_id, text=text)

    def disown(self, now: float) -> None:
        """End the relays under way in this store whose time was over before this coordinator came to lead again."""
        for relay in self._store.relays.undecided():
            if relay.terms.deadline <= now:
                self._store.relays.keep(ended(relay, "failed", _SOMEWHERE_ELSE, now), now, told=())


def drop_orders(store: CoordinatorStore, queues: Collection[str]) -> None:
    """Forget what an earlier term left: orders in the outbox, for these queues, and of links that are to be down."""
    for queue in queues:
        store.journal.outbox.drop(queue)
    store.links.forget()
