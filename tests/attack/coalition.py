"""What compromised KMEs do, each alone and all together: every trick that a share message allows.

A coalition knows the plan, pools whatever any member has received, of this relay and of earlier ones, and decides last.
It acts through its members' own links only, because honest KMEs listen to nothing else.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import permutations
from random import Random
from typing import NamedTuple
from uuid import UUID

from kme.effects import SendShare
from kme.forwarding import sends
from qkdrelay.errors import QkdRelayError
from qkdrelay.messages.link import ShareHeader
from qkdrelay.messages.plans import decode_plan
from qkdrelay.network.names import Route
from qkdrelay.network.plan import Hop, Plan
from qkdrelay.schemes.recursive import reshare
from qkdrelay.sharing import amd, gf256, shamir

ALONE = ("honest", "drop", "flip", "noise", "swap", "foreign", "length", "late", "flood", "equivocate", "uneven")
INVENTED = ("route", "plan")
TOGETHER = ("frame", "gather")
TRICKS = (*ALONE, *INVENTED, *TOGETHER)
PAST_MAX = 50
SENDS_MAX = 300
"""What a coalition sends in one relay: enough, and not without end where members answer one another."""


class Held(NamedTuple):
    """A share a member keeps back for now."""

    member: str
    header: ShareHeader
    payload: bytes


@dataclass
class Coalition:
    """The ``members`` act on one relay along ``plan``, by the ``tricks`` among which they choose for each share."""

    rng: Random
    members: frozenset[str]
    plan: Plan
    neighbours: Mapping[str, tuple[str, ...]]
    tricks: tuple[str, ...]
    past: list[bytes] = field(default_factory=list)
    """Payloads of earlier relays."""

    def __post_init__(self) -> None:
        self.left = SENDS_MAX
        self.pool: dict[tuple[UUID, Route], bytes] = {}
        self.held: list[Held] = []
        self.gathered: defaultdict[tuple[UUID, Route], dict[Route, Held]] = defaultdict(dict)
        self.frames: dict[tuple[UUID, Route], tuple[tuple[int, ...], int]] = {}

    def act(self, member: str, header: ShareHeader, payload: bytes) -> list[SendShare]:
        """Return what ``member`` sends on having received a share."""
        self.pool[header.relay_id, header.route] = payload
        self.past = [*self.past, payload][-PAST_MAX:]
        try:
            part = decode_plan(header.plan)
        except QkdRelayError:
            return []
        if part.source != member or not part.hops or len(header.route) < 2:
            return []
        return self._spend(self._do(self.rng.choice(self.tricks), part, Held(member, header, payload)))

    def later(self) -> list[tuple[str, list[SendShare]]]:
        """Return what the members send that was kept back, now that they have seen all they will see."""
        held, self.held = self.held, []
        gathered, self.gathered = self.gathered, defaultdict(dict)
        late = [(one.member, self._on(one, one.payload)) for one in held]
        for (_, route), group in gathered.items():
            late += self._reshare(route, group)
        return [(member, self._spend(shares)) for member, shares in late]

    def _spend(self, shares: list[SendShare]) -> list[SendShare]:
        shares = shares[: self.left]
        self.left -= len(shares)
        return shares

    # --- one share ---------------------------------------------------------------------------------

    def _do(self, trick: str, part: Plan, one: Held) -> list[SendShare]:
        rng, payload = self.rng, one.payload
        match trick:
            case "honest":
                return self._on(one, payload)
            case "flip":
                return self._on(one, self._flipped(payload))
            case "noise":
                return self._on(one, rng.randbytes(len(payload)))
            case "swap" | "foreign":
                return self._on(one, self._other(trick, one) or self._flipped(payload))
            case "length":
                return self._on(one, payload[: -(-len(payload) // 2)] if rng.random() < 0.5 else payload * 2)
            case "late":
                self.held.append(one)
            case "flood":
                return self._on(one, payload) * rng.randrange(2, 6)
            case "equivocate":
                both = self._on(one, payload) + self._on(one, self._flipped(payload))
                rng.shuffle(both)
                return both
            case "uneven":
                children = reshare(part, payload, rng.randbytes)
                return self._sends(
                    one, part, [(to, self._flipped(s) if rng.random() < 0.5 else s) for to, s in children]
                )
            case "route":
                return self._on_invented_routes(part, one)
            case "plan":
                return self._with_invented_parts(part, one)
            case "frame":
                return self._on(one, self._framing(one))
            case "gather":
                self.gathered[one.header.relay_id, self._split_above(one.header.route)][one.header.route] = one
        return []

    def _on(self, one: Held, payload: bytes) -> list[SendShare]:
        part = decode_plan(one.header.plan)
        return self._sends(one, part, reshare(part, payload, self.rng.randbytes))

    def _sends(self, one: Held, part: Plan, children: list[tuple[str, bytes]]) -> list[SendShare]:
        header = one.header
        return [
            e for e in sends(part, header.relay_id, header.route, header.deadline, children) if isinstance(e, SendShare)
        ]

    def _flipped(self, payload: bytes) -> bytes:
        place = self.rng.randrange(len(payload))
        return payload[:place] + bytes([payload[place] ^ self.rng.randrange(1, 256)]) + payload[place + 1 :]

    def _other(self, trick: str, one: Held) -> bytes | None:
        mine = one.header.relay_id
        others = [p for (relay, _), p in self.pool.items() if relay == mine] if trick == "swap" else self.past
        fitting = [payload for payload in others if len(payload) == len(one.payload) and payload != one.payload]
        return self.rng.choice(fitting) if fitting else None

    def _on_invented_routes(self, part: Plan, one: Held) -> list[SendShare]:
        """The same shares, said to have come another way: any way, or one of the plan's that does not pass here."""
        found = []
        ways = list(self.plan.routes())
        for share in self._on(one, one.payload) + self._on(one, self._flipped(one.payload)):
            names = [kme for kme in self.plan.order if kme not in share.route[-2:]]
            size = self.rng.randrange(len(names) + 1)
            prefixes = [*permutations(names[:4], min(size, 3))][:6]
            for prefix in (*prefixes, self.rng.sample(names, size)):
                found.append(_replace(share, route=(*prefix, *share.route[-2:])))
            peer = share.route[-1]
            others = [way[: way.index(peer) + 1] for way in ways if peer in way and one.member not in way]
            found += [_replace(share, route=way) for way in self.rng.sample(others, min(3, len(others)))]
            found.append(_replace(share, route=(share.route * 2)[-self.rng.randrange(1, 9) :]))
        return found

    def _with_invented_parts(self, part: Plan, one: Held) -> list[SendShare]:
        """The same shares with another plan for those who get them, and shares for KMEs that should get none."""
        found = []
        for share in self._on(one, one.payload):
            found += [_replace(share, plan=self._invented(share.plan)) for _ in range(3)]
        for peer in self.neighbours[one.member]:
            below = Plan(peer, self.plan.target, {peer: Hop((self.plan.target,), 1)})
            if peer not in one.header.route and peer != self.plan.target:
                invented = [below, self._invented(self.plan.below(peer)) if peer in self.plan.order else below]
                found += [
                    SendShare(one.header.relay_id, (*one.header.route, peer), p, one.header.deadline, one.payload, 1, 1)
                    for p in invented
                ]
        return found

    def _invented(self, part: Plan) -> Plan:
        rng, hops = self.rng, dict(part.hops)
        if not hops:
            return part
        kme = rng.choice(sorted(hops))
        successors = list(hops[kme].successors)
        match rng.randrange(4):
            case 0:
                rng.shuffle(successors)
            case 1:
                successors = [part.target]
            case 2:
                successors = rng.sample(part.order, rng.randrange(1, len(part.order) + 1))
            case _:
                successors.append(rng.choice(self.plan.order))
        hops[kme] = Hop(tuple(successors), rng.randrange(len(successors) + 1))
        return Plan(part.source, part.target, hops)

    # --- together ----------------------------------------------------------------------------------

    def _split_above(self, route: Route) -> Route:
        """Return the last split on the way: KMEs have only forwarded since."""
        ends = range(len(route) - 1, 1, -1)
        return next((route[:end] for end in ends if self.plan.is_split(route[end - 1])), route[:1])

    def _x(self, split: Route, route: Route) -> int:
        """Return the index of the share on ``route`` in that split."""
        successors = self.plan.successors(split[-1])
        return successors.index(route[len(split)]) + 1 if route[len(split)] in successors else 1

    def _framing(self, one: Held) -> bytes:
        """Add a polynomial that is 0 at 0 and where honest shares are: together the false ones then fit with those."""
        split = self._split_above(one.header.route)
        hop = self.plan.hops.get(split[-1], Hop((), 1))
        key = one.header.relay_id, split
        if key not in self.frames:
            honest = [x for x, kme in enumerate(hop.successors, 1) if kme not in self.members]
            roots = min(max(0, hop.threshold - 2), len(honest))
            scale = self.rng.randrange(1, 256)
            self.frames[key] = tuple(self.rng.sample(honest, roots)), scale
        at, scale = self.frames[key]
        x = self._x(split, one.header.route)
        value = gf256.multiply(x, scale)
        for root in at:
            value = gf256.multiply(value, x ^ root)
        return _xor(one.payload, bytes([value]) * len(one.payload))

    def _reshare(self, split: Route, group: Mapping[Route, Held]) -> list[tuple[str, list[SendShare]]]:
        """With enough shares of a split learn what was split, and share that or something else anew."""
        points = {self._x(split, route): one.payload for route, one in group.items()}
        hop = self.plan.hops.get(split[-1])
        learned = None
        if hop and len(points) >= hop.threshold and len({len(p) for p in points.values()}) == 1:
            chosen = dict(self.rng.sample(sorted(points.items()), hop.threshold))
            try:
                learned = amd.decode(shamir.combine(chosen))
            except QkdRelayError:
                learned = None
        if learned is None or hop is None:
            return [(one.member, self._on(one, self._framing(one))) for one in group.values()]
        new = learned if self.rng.random() < 0.5 else self._flipped(learned)
        codeword = amd.encode(new, self.rng.randbytes)
        forged = dict(enumerate(shamir.split(codeword, len(hop.successors), hop.threshold, self.rng.randbytes), 1))
        honest = [x for x, kme in enumerate(hop.successors, 1) if kme not in self.members]
        if self.rng.random() < 0.5 and len(honest) >= hop.threshold - 1:
            # Through as many honest shares as can be: those then seem to side with the false ones.
            fixed = {0: codeword}
            for x in self.rng.sample(honest, hop.threshold - 1):
                fixed[x] = shamir.combine(chosen, at=x)
            forged = {x: interpolated(fixed, x) for x in range(1, len(hop.successors) + 1)}
        return [(one.member, self._on(one, forged[self._x(split, route)])) for route, one in group.items()]


def interpolated(points: Mapping[int, bytes], at: int) -> bytes:
    """The value at ``at`` of the polynomial through ``points``, one of which may be at 0, which no sharing allows."""
    value = bytes(len(next(iter(points.values()))))
    for x, y in points.items():
        weight = 1
        for other in points:
            if other != x:
                weight = gf256.multiply(weight, gf256.multiply(at ^ other, gf256.inverse(x ^ other)))
        value = _xor(value, gf256.scale(weight, y))
    return value


def _xor(a: bytes, b: bytes) -> bytes:
    return bytes(x ^ y for x, y in zip(a, b, strict=True))


def _replace(share: SendShare, **changed: object) -> SendShare:
    fields = {name: getattr(share, name) for name in SendShare.__slots__}
    return SendShare(**{**fields, **changed})
