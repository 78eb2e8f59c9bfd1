"""A KME's decisions by hand: a memory that carries out what concerns it, terms and headers to decide on."""

import os
from uuid import UUID

from kme.effects import DropShares, KeepRelay, KeepShare, SendReport
from kme.endpoint import Endpoint
from kme.forwarding import Forwarding
from kme.model import NodeSettings
from qkdrelay.messages.blocks import SlotName
from qkdrelay.messages.control import FixedDemand, Terms
from qkdrelay.messages.link import ShareHeader
from qkdrelay.messages.plans import encode_plan
from qkdrelay.messages.reports import LinkKeyReport
from support import plans

NOW = 1_700_000_000.0
RELAY = UUID("00112233-4455-8677-8899-018bcfe56800")
"""Made at `NOW`."""
DEMAND, NOTHING = (FixedDemand(compromised=number, failed=0, tampering=0) for number in (1, 0))
"""What terms demand; and terms that demand nothing."""


OF_NO_NOTE = LinkKeyReport(source="simulated", blocks_granted=1, blocks_given_up=0, why_given_up="", why_dry="")
"""What a KME reports of the key of a link with which nothing is wrong."""


class Relays(dict):
    """A `kme.memory.RelayMemory`."""

    def pending(self):
        return sum(relay.state in ("expecting", "pending") for relay in self.values())

    def ids_refused_until(self):
        return 0.0

    def key_bytes(self):
        return sum(relay.key_count * relay.key_size_bits // 8 for relay in self.values())


class Memory:
    """What a node may ask its store, kept in dictionaries; the `kme.memory.ShareMemory` is itself."""

    def __init__(self):
        self.relays, self.collected, self.shares = Relays(), {}, self

    def of(self, relay_id):
        return {route: kept.payload for (relay, route), kept in self.collected.items() if relay == relay_id}

    def count(self, relay_id):
        return len(self.of(relay_id))

    def get(self, relay_id, route):
        return self.of(relay_id).get(route)

    def early(self):
        early = [kept for (relay, _), kept in self.collected.items() if relay not in self.relays]
        return len(early), sum(len(kept.payload) for kept in early)

    def carry_out(self, effects):
        for effect in effects:
            match effect:
                case KeepRelay(relay=relay):
                    self.relays[relay.relay_id] = relay
                case KeepShare():
                    self.collected.setdefault((effect.relay_id, effect.route), effect)
                case DropShares(relay_id=relay_id):
                    self.collected = {key: kept for key, kept in self.collected.items() if key[0] != relay_id}
        return effects


class Kme:
    """One KME of the reference network, deciding."""

    def __init__(self, name, plan=None, *, links=None, random=os.urandom, **settings):
        self.plan = plan or plans.eight()
        near = {b if a == name else a for a, b in self.plan.links if name in (a, b)}
        me = NodeSettings(name, frozenset(near if links is None else links), **{"has_applications": True, **settings})
        self.forwarding, self.endpoint, self.memory = Forwarding(me, random), Endpoint(me, random), Memory()
        self.name = name

    def share(self, route, payload, *, sender=None, now=NOW, **changed):
        """Let a share come in over the link from ``sender``, the one it should come over unless given."""
        wanted = header(self.plan, tuple(route), **changed)
        return self.memory.carry_out(self.forwarding.on_share(sender or route[-2], wanted, payload, self.memory, now))

    def command(self, command, *, now=NOW):
        return self.memory.carry_out(self.endpoint.on_command(command, self.memory, now))

    def end(self):
        """Let this end end the relay by itself."""
        return self.memory.carry_out(self.endpoint.end([self.relay]))

    def try_rebuild(self):
        return self.memory.carry_out(self.endpoint.rebuilder.try_rebuild(RELAY, self.memory))

    @property
    def relay(self):
        return self.memory.relays[RELAY]


def terms(for_plan=None, /, **changed):
    fields = {
        "relay_id": RELAY,
        "plan": encode_plan(for_plan or plans.eight()),
        "key_count": 2,
        "key_size_bits": 256,
        "withstand": DEMAND,
        "supply": None,
        "deadline": NOW + 30.0,
    }
    return Terms(**{**fields, **changed})


def header(whole, route, /, **changed):
    fields = {
        "link": route[-2:] if len(route) > 1 else (route[0], route[0]),
        "slot": SlotName(bytes(16), 0),
        "pad": (),
        "relay_id": RELAY,
        "route": route,
        "plan": encode_plan(whole.below(route[-1])) if route[-1] in whole.order else b"",
        "deadline": NOW + 30.0,
    }
    return ShareHeader(**{**fields, **changed})


def told(effects):
    """The reports among ``effects``."""
    return [effect.report for effect in effects if isinstance(effect, SendReport)]


def only(effects, kind):
    return [effect for effect in effects if isinstance(effect, kind)]
