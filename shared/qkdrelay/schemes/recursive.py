"""The recursive sharing over a plan: what a KME hands on, and how the target rebuilds the secret.

A KME with one successor forwards its payload; a KME with several encodes it (``amd``) and splits it among
them (``shamir``), as if it were a secret of its own. The source encodes even if it has one successor. The
route a share has taken names it: split and index follow from the route and the plan.

Rebuilding (protocol, section 3) goes from the longest routes inwards. Each split with at least its threshold
k of shares yields the *set* of payloads that some k of them decode to (`agreement`: how they are found, and when
one is enough), and each of these is tried as a share of the split above. So a false share that was correctly
re-split is caught one level up, and the secret is what the source's split decodes to.

Then it goes outwards again to say who was wrong. AMD fixes the value of a polynomial at 0, not the
polynomial. Another polynomial with the true value at 0 meets the true one in at most k-2 further points
(both have degree k-1 or less), so if at most k-1 shares are false, at most (k-2) + (k-1) = 2k-3 shares agree
with it. Hence only a polynomial that at least 2k-2 shares agree with, and whose payload the level above has
confirmed, is trusted: the shares off it are named false, and those on it are confirmed for the level below.
Everything else that does not fit together is *disputed*: false shares that cancel at 0 make honest ones
look wrong, and no report may be turned into a weapon.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field

from qkdrelay.schemes.share_tree import Graph, Route, SplitNode, Tree, unfold
from qkdrelay.sharing import amd, shamir
from qkdrelay.sharing.agreement import Agreement, agreements
from qkdrelay.sharing.shamir import Random
from qkdrelay.sharing.work import CALL, Budget, Steps, finished

SEARCH_MAX = 1 << 30
"""Work one rebuild may put into searching among false shares. Each split has an equal part: none starves another."""
RELAY_SEARCH_MAX = 4 * SEARCH_MAX
"""Work that searching may take for one relay, however often shares come late and it begins anew."""


@dataclass(frozen=True, slots=True)
class SplitStatus:
    """A split that fell short: the route of the KME that made it, the shares present and those needed."""

    route: Route
    present: int
    needed: int


@dataclass(frozen=True, slots=True)
class DisputedSplit:
    """A split whose shares contradict each other, and the routes of those that agree with one another.

    ``sets`` holds each agreeing set, then one set of its own for each share that is in none; if no subset
    decodes, these are all there is.
    """

    route: Route
    sets: tuple[tuple[Route, ...], ...]


@dataclass(frozen=True, slots=True)
class RebuildResult:
    """The outcome of a rebuild; all routes in the plan's order.

    ``secret`` is there if exactly one decodes; ``ambiguous`` says that several do, which takes KMEs that can
    learn the secret. ``exhausted``: the bound on work was hit, so there may be more to find. ``splits``
    are those with fewer shares than their threshold, ``missing`` the routes from source to target with
    nothing on them. ``false`` are the routes whose payload was altered, each as long as the KMEs on it only
    forward: a KME on the route altered it, or so many below it as could have learned it.
    """

    secret: bytes | None = field(repr=False)
    splits: tuple[SplitStatus, ...]
    missing: tuple[Route, ...]
    ambiguous: bool = False
    exhausted: bool = False
    false: tuple[Route, ...] = ()
    disputed: tuple[DisputedSplit, ...] = ()


def deal(graph: Graph, payload: bytes, random: Random) -> list[tuple[str, bytes]]:
    """Return what the relay's source sends: (successor, share) for each, encoded even if there is only one.

    Draws the code's randomness first (``amd.encode``), then the split's (``shamir.split``).
    """
    successors = graph.successors(graph.source)
    codeword = amd.encode(payload, random)
    shares = shamir.split(codeword, len(successors), graph.threshold(graph.source), random)
    return list(zip(successors, shares, strict=True))


def reshare(graph: Graph, payload: bytes, random: Random) -> list[tuple[str, bytes]]:
    """Return what a KME on the way, ``graph.source``, sends on of the payload it received.

    ``graph`` is the part of the plan below it. With one successor the payload goes on unchanged; with more
    it is encoded and split as in :func:`deal`; at the target nothing is left to send.
    """
    successors = graph.successors(graph.source)
    if len(successors) < 2:
        return [(successor, payload) for successor in successors]
    return deal(graph, payload, random)


def rebuild(
    graph: Graph,
    held: Mapping[Route, bytes],
    payload_length: int,
    *,
    search: int = SEARCH_MAX,
    may_name: Callable[[str], bool] = lambda _kme: True,
) -> RebuildResult:
    """Return what the payloads in ``held`` amount to, as `rebuilding` does, in one go."""
    return finished(rebuilding(graph, held, payload_length, budget=Budget(search), may_name=may_name))


def rebuilding(
    graph: Graph,
    held: Mapping[Route, bytes],
    payload_length: int,
    *,
    budget: Budget,
    may_name: Callable[[str], bool] = lambda _kme: True,
) -> Steps[RebuildResult]:
    """Find in steps what the payloads in ``held`` (route -> payload) amount to; see the module's docstring.

    At the target all routes end there; routes that end inside the plan count just as well, which is how an
    adversary's view is evaluated: a payload at v is held if v is in it, or if k of v's children are held.
    ``payload_length`` is the secret's, in bytes. What is on no route of the plan or has the wrong length is
    ignored. Searching takes from ``budget``, at most `SEARCH_MAX`; the rest is in proportion to the shares.
    ``may_name`` says of a KME that splits whether those below it who may be compromised hold fewer
    shares than it takes to learn what it split: the rule of 2k-2 rests on it, so only then are false shares of
    that split named, or the route to it, and not disputed. Nothing is interpolated unless enough is there to
    reach the secret. Never raises on data.
    """
    tree = unfold(graph, held, payload_length)
    yield 12 * CALL * (len(tree.splits) + len(tree.held) + len(tree.missing))
    root = (graph.source,)
    reach = tree.within_reach()
    if root not in reach:
        return RebuildResult(None, _short(tree, reach), tree.missing)
    payloads, found, exhausted = yield from _inwards(tree, root, reach, budget)
    secrets = payloads.get(root, ())
    secret = secrets[0] if len(secrets) == 1 else None
    false, disputed = _outwards(tree, root, secret, payloads, found, may_name=may_name)
    short = _short(tree, payloads)
    return RebuildResult(secret, short, tree.missing, len(secrets) > 1, exhausted, false, disputed)


def _short(tree: Tree, there: Collection[Route]) -> tuple[SplitStatus, ...]:
    statuses = (SplitStatus(s.route, s.present(there), s.threshold) for s in tree.splits.values())
    return tuple(status for status in statuses if status.present < status.needed)


_Payloads = Mapping[Route, Sequence[bytes]]
_Found = Mapping[Route, Sequence[Agreement]]


def _inwards(
    tree: Tree, root: Route, reach: Collection[Route], budget: Budget
) -> Steps[tuple[_Payloads, _Found, bool]]:
    """Resolve each split, those below first: the payloads on each route, the agreements, the bound hit."""
    ready = [split for split in reversed(list(tree.splits.values())) if split.route in reach]
    part = min(budget.left, SEARCH_MAX) // max(1, len(ready))
    majorities = tree.majorities()
    payloads: dict[Route, Sequence[bytes]] = {route: (payload,) for route, payload in tree.held.items()}
    found: dict[Route, Sequence[Agreement]] = {}
    exhausted = False
    for split in ready:
        shares = {x: payloads[child] for x, child in split.children.items() if child in payloads}
        if len(shares) < split.threshold:
            continue
        # Above the source's split nobody could choose; who can learn its secret has won anyway.
        decisive = split.route == root or split.route in majorities
        found[split.route], hit = yield from agreements(shares, split.threshold, budget, part=part, decisive=decisive)
        exhausted = exhausted or hit
        distinct = tuple({agreement.payload: None for agreement in found[split.route]})
        if distinct:
            payloads[split.route] = distinct
    return payloads, found, exhausted


def _outwards(
    tree: Tree,
    root: Route,
    secret: bytes | None,
    payloads: _Payloads,
    found: _Found,
    *,
    may_name: Callable[[str], bool],
) -> tuple[tuple[Route, ...], tuple[DisputedSplit, ...]]:
    """Say, from the source outwards, which shares are false and which splits are disputed."""
    false: list[Route] = []
    disputed: list[DisputedSplit] = []
    stack: list[tuple[Route, bytes | None]] = [(root, secret)]
    while stack:
        route, confirmed = stack.pop()
        split = tree.splits.get(route)
        if split is None:
            continue
        nameable = may_name(route[-1])
        trusted = _trusted(found.get(route, ()), confirmed, split.threshold) if nameable else None
        if trusted is None and route in found:
            disputed += _dispute(split, payloads, found[route])
        below: list[tuple[Route, bytes | None]] = []
        unnamed = False
        for x, child in split.children.items():
            if trusted is None or child not in payloads:
                below.append((child, None))
            elif x in trusted.places:
                below.append((child, payloads[child][trusted.places[x]]))
            elif child not in tree.splits or may_name(child[-1]):
                # What is below a false payload says nothing about those below.
                false.append(child)
            else:
                unnamed = True
        if unnamed:
            disputed += _dispute(split, payloads, found[route])
        stack.extend(reversed(below))
    return tuple(false), tuple(disputed)


def _trusted(found: Sequence[Agreement], confirmed: bytes | None, threshold: int) -> Agreement | None:
    """Return the one polynomial that can be told to be the true one, if there is one."""
    strong = [a for a in found if a.payload == confirmed and len(a.places) >= 2 * threshold - 2]
    return strong[0] if len(strong) == 1 else None


def _dispute(split: SplitNode, payloads: _Payloads, found: Sequence[Agreement]) -> list[DisputedSplit]:
    """Return the dispute in this split: none if all its shares are in one agreeing set."""
    there = {x: child for x, child in split.children.items() if child in payloads}
    if len(found) == 1 and len(found[0].places) == len(there):
        return []
    agreeing = {tuple(there[x] for x in sorted(agreement.places)): None for agreement in found}
    grouped = {child for routes in agreeing for child in routes}
    alone = [(child,) for child in there.values() if child not in grouped]
    return [DisputedSplit(split.route, (*agreeing, *alone))]
