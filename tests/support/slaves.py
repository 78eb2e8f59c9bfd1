"""The slaves' side of keys for applications in tests: a KME with supply from another, and assignments of it."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from uuid import UUID, uuid4

from kme.model import EndpointRelay
from kme.store import open_kme_store
from kme.supply.slave_keys import SlaveLimits
from kme.supply.target import TargetSide
from qkdrelay.link.assignment import assign_tag
from qkdrelay.link.confirmation import Payload
from qkdrelay.messages.assignments import Assign, Assignment, Supply
from qkdrelay.messages.control import FixedDemand
from qkdrelay.messages.relay_ids import new_relay_id
from qkdrelay.network.directory import Directory, Sae
from qkdrelay.network.key_cost import TAG_PAIR_BYTES
from qkdrelay.network.plan import Hop, Plan
from support.supply import NOW, SAES

PLAN = Plan("here", "there", {"here": Hop(("there",), 1)})


def payload_of(draws, size, tags):
    """Return keys of which no two bytes ranges are alike, and tag keys."""
    draws(1)
    keys = b"".join((draws.drawn * 1_000_000 + at).to_bytes(8) for at in range(size // 8))
    return Payload(keys, os.urandom(TAG_PAIR_BYTES * tags), os.urandom(32))


@dataclass
class SourceOfSupply:
    """What the source knows of one relay of supply, and how it assigns."""

    relay_id: UUID
    payload: Payload = field(repr=False)
    until: float

    def relay(self, state="held"):
        """Return the relay as it is at the target."""
        supply = Supply(until=self.until, tag_pairs=len(self.payload.tag_keys) // TAG_PAIR_BYTES)
        demand = FixedDemand(compromised=1, failed=0, tampering=0)
        bits, at = len(self.payload.keys) * 8 // 8, NOW + 30
        payload = self.payload if state == "held" else None
        return EndpointRelay(self.relay_id, "target", state, PLAN, 8, bits, demand, 1, at, payload, supply)

    def assign(self, offset=0, number=0, *, tag_pair=None, **other):
        """Return an assignment with its tag; ``tag_pair`` is that of the tag keys, else of its number."""
        fields = {
            "assign_id": uuid4(),
            "relay_id": self.relay_id,
            "source": "here",
            "target": "there",
            "tag_number": number,
            "offset": offset,
            "master": "m1",
            "slave": "s1",
            "key_size_bits": 256,
            "key_count": 2,
            "usable_until": NOW + 1e5,
        } | other
        assignment = Assignment(**fields)
        pair = self.payload.tag_pair(number) if tag_pair is None else self.payload.tag_pair(tag_pair)
        return Assign(assignment=assignment, tag=assign_tag(pair, assignment))


class Slaves:
    """A target's side with a store of its own."""

    def __init__(self, draws, path=None, directory=SAES, **limits):
        self.draws, self.directory, self.limits = draws, directory, SlaveLimits(**limits)
        self.path, self.expecting = path, set()
        self._open()

    def _open(self):
        self.store = open_kme_store(self.path, "there")
        self.side = TargetSide(
            "there",
            self.store.journal.batch,
            self.store.applications,
            is_expected=lambda relay_id: relay_id in self.expecting,
            random=self.draws,
            limits=self.limits,
        )
        self.adopt(self.directory, lambda _: False)

    def restart(self, directory=None):
        """Begin again from the store, maybe with another directory than before."""
        self.store.journal.close()
        self.directory = directory or self.directory
        self._open()

    def _do(self, work):
        with self.store.journal.transaction():
            result = work()
        self.store.journal.batch.end()
        return result

    def adopt(self, directory, is_over):
        self.directory = directory
        return self._do(lambda: self.side.adopt(directory, is_over))

    def supply(self, size=4096, tags=2, until=NOW + 1e6):
        """Have a relay of supply released here."""
        source = SourceOfSupply(new_relay_id(NOW), payload_of(self.draws, size, tags), until)
        self.change(source.relay())
        return source

    def change(self, relay, now=NOW):
        return self._do(lambda: self.side.relay_changed(relay, now))

    def assign(self, message, now=NOW):
        """Return the answer to an assignment."""
        effects = self._do(lambda: self.side.on_assign(message, now))
        return effects[0].report if effects else None

    def fetch(self, caller, master, key_ids, now=NOW):
        return self._do(lambda: self.side.fetch(caller, master, key_ids, now))

    def tick(self, now):
        return self._do(lambda: self.side.tick(now))


def without(directory, sae):
    """Return a directory without an SAE."""
    return Directory({name: entry for name, entry in directory.saes.items() if name != sae}, directory.pairs)


def moved(directory, sae, kme):
    """Return a directory in which an SAE is at another KME."""
    return Directory({**directory.saes, sae: Sae(sae, kme)}, directory.pairs)


def pinned(directory, sae):
    """Return a directory in which an SAE has another certificate."""
    return Directory({**directory.saes, sae: Sae(sae, directory.saes[sae].kme, "ef" * 32)}, directory.pairs)
