"""The far end of keys for applications, slowly and plainly: a target that keeps to the protocol, and those who ask."""

from copy import deepcopy

from kme.supply.model import Pair, SupplyRelay
from qkdrelay.link.assignment import assign_tag_is_valid, assigned_tag
from qkdrelay.messages.keys import key_id
from qkdrelay.messages.relay_ids import new_relay_id
from qkdrelay.network.directory import Directory, Sae
from qkdrelay.network.key_cost import TAG_PAIR_BYTES

NOW = 1_700_000_000.0
SAES = Directory(
    {
        **{name: Sae(name, "here") for name in ("m1", "m2")},
        **{name: Sae(name, "there") for name in ("s1", "s2")},
        "n1": Sae("n1", "near"),
    }
)


class Draws:
    """A random source that can be told what to draw: itself a different number each time."""

    def __init__(self):
        self.drawn = 0

    def __call__(self, size):
        self.drawn += 1
        return self.drawn.to_bytes(size)


def supply_relay(
    draws, target="there", *, size=4096, tags=None, level=1, route="relayed", until=NOW + 1e6, at=NOW, within=1e6
):
    tags = max(1, size // 2048) if tags is None else tags
    keys, tag_keys = draws(size), draws(TAG_PAIR_BYTES * tags)
    # So that no two bytes ranges are alike, nor any tag keys.
    keys = b"".join((draws.drawn * 100_000 + at).to_bytes(8) for at in range(size // 8))
    tag_keys = b"".join(draws(32) for _ in range(2 * tags))
    return SupplyRelay(new_relay_id(at), target, level, route, until, at + within, keys, tag_keys)


class Taker:
    """Who asks for keys, and may be gone before they come."""

    def __init__(self):
        self.gone = self.begun = False

    def is_gone(self):
        return self.gone

    def begin(self):
        self.begun |= not self.gone
        return self.begun


class PlainTarget:
    """The slaves' KME: what it has kept, and the first free byte and tag of each relay, which only rise."""

    def __init__(self, name="there"):
        self.name = name
        self.relays, self.free, self.known, self.keys = {}, {}, {}, {}
        self.struck = set()

    def copy(self):
        return deepcopy(self.__dict__)

    def restore(self, copy):
        self.__dict__ = deepcopy(copy)

    def on_assign(self, message):
        one = message.assignment
        relay = self.relays.get(one.relay_id)
        byte, tag = self.free.get(one.relay_id, (0, 0))

        def refused(reason):
            return one.refused(reason, byte, tag)

        if relay is None:
            return refused("unknown-relay")
        if {one.master, one.slave} & self.struck:
            return refused("sae")
        if one.assign_id in self.known:
            return self.known[one.assign_id][1] if self.known[one.assign_id][0] == message else refused("reused")
        if one.tag_number < tag or (one.tag_number + 1) * TAG_PAIR_BYTES > len(relay.tag_keys):
            return refused("range")
        pair = relay.tag_keys[one.tag_number * TAG_PAIR_BYTES :][:TAG_PAIR_BYTES]
        if not assign_tag_is_valid(pair, one, message.tag):
            return refused("tag")
        if one.offset < byte or one.offset + one.length > len(relay.keys):
            return refused("range")
        self.free[one.relay_id] = one.offset + one.length, one.tag_number + 1
        size = one.key_size_bits // 8
        for index in range(one.key_count):
            at = one.offset + index * size
            key = relay.keys[at : at + size]
            self.keys[key_id(one.assign_id, index)] = Pair(one.master, one.slave), key, (one.relay_id, at, at + size)
        answer = one.answered(assigned_tag(pair, one))
        self.known[one.assign_id] = message, answer
        return answer
