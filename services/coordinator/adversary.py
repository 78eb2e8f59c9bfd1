"""Lab only: the adversary, who pools what all compromised KMEs have seen and attacks with the target's own code."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Collection
from uuid import UUID

from coordinator.lifecycle import Relay
from qkdrelay.link.confirmation import Context, Payload
from qkdrelay.messages.answers import AttackView, ShortSplit
from qkdrelay.messages.leaks import Leak
from qkdrelay.network.names import Route
from qkdrelay.schemes.recursive import rebuild

SEARCH_MAX = 1 << 25
"""Work of one attack's search among false shares, some 30 ms: the coordinator does nothing else meanwhile."""
LEAKED_BYTES_MAX = 64 << 20
"""Above it the relays leaked longest ago are forgotten."""


class Adversary:
    """Holds leaked shares in memory only: they are secrets, and the coordinator's store has none."""

    def __init__(self) -> None:
        self._leaks: OrderedDict[UUID, dict[tuple[str, Route], bytes]] = OrderedDict()
        self._bytes = 0

    def see(self, leak: Leak) -> None:
        """Take in one leaked share."""
        held = self._leaks.setdefault(leak.relay_id, {})
        if (leak.kme, leak.route) not in held:
            held[leak.kme, leak.route] = leak.payload
            self._bytes += _size(leak.route, leak.payload)
        while self._bytes > LEAKED_BYTES_MAX:
            _, forgotten = self._leaks.popitem(last=False)
            self._bytes -= sum(_size(route, payload) for (_, route), payload in forgotten.items())

    def attack(self, relay: Relay, kmes: Collection[str] = ()) -> AttackView:
        """Try to rebuild the relay's secret from what ``kmes`` (all, if empty) have leaked of it.

        A rebuilt secret counts only if it gives the confirmation tag that the target has sent, where it has sent one.
        """
        leaked = {
            (kme, route): payload
            for (kme, route), payload in self._leaks.get(relay.relay_id, {}).items()
            if not kmes or kme in kmes
        }
        terms = relay.terms
        amount = terms.key_count, terms.key_size_bits
        context = Context(relay.relay_id, terms.plan, *amount, terms.withstand, terms.supply)
        held = {route: payload for (_, route), payload in leaked.items()}
        result = rebuild(relay.plan, held, context.payload_length, search=SEARCH_MAX)
        proof = relay.target_proof
        learned = result.secret is not None and (
            proof is None or Payload.parse(result.secret, context).proof_is_valid(context, proof)
        )
        return AttackView(
            relay_id=relay.relay_id,
            kmes=tuple(sorted({kme for kme, _ in leaked})),
            shares_held=len(leaked),
            learned=learned,
            short_splits=tuple(ShortSplit(split=s.route, present=s.present, needed=s.needed) for s in result.splits),
        )


def _size(route: Route, payload: bytes) -> int:
    """Return about how many bytes of memory a leak takes, also if nothing was leaked."""
    return 512 + 64 * len(route) + len(payload)
