"""Plans to share over: the reference network, small ones, random ones; and a whole relay carried by hand."""

import tomllib
from pathlib import Path

from hypothesis import strategies as st

from qkdrelay.network.plan import Hop, Plan, majority
from qkdrelay.sharing import tree

TOPOLOGIES = Path(__file__).parents[2] / "infra" / "topologies"
REFERENCE_RELAY = ("relay", "kme-1", "kme-8", "--policy", "recursive")
"""On the command line: a relay as in the reference scenario."""


def closer(topology, source, target):
    """The plan in which the successors of a KME are its neighbours strictly closer to the target, in hops."""
    links = tomllib.loads((TOPOLOGIES / f"{topology}.toml").read_text())["links"]
    neighbours = {}
    for a, b in links:
        neighbours.setdefault(a, []).append(b)
        neighbours.setdefault(b, []).append(a)
    distance, queue = {target: 0}, [target]
    for kme in queue:
        for other in neighbours[kme]:
            if other not in distance:
                distance[other] = distance[kme] + 1
                queue.append(other)
    hops, queue = {}, [source]
    for kme in queue:
        if kme == target or kme in hops:
            continue
        successors = sorted(other for other in neighbours[kme] if distance[other] < distance[kme])
        hops[kme] = Hop(tuple(successors), majority(len(successors)))
        queue += successors
    return Plan.checked(source, target, hops)


def eight():
    """kme-1 -> kme-8 over the eight-KME reference network."""
    return closer("eight-kmes", "kme-1", "kme-8")


def fan(n, k):
    """s splits k of n among KMEs that forward to t."""
    middle = tuple(f"m{i}" for i in range(1, n + 1))
    return Plan.checked("s", "t", {"s": Hop(middle, k), **{kme: Hop(("t",), 1) for kme in middle}})


def written(hops, source, target):
    """The plan with hops given as {kme: (successors, threshold)}."""
    return Plan.checked(source, target, {kme: Hop(tuple(successors), k) for kme, (successors, k) in hops.items()})


@st.composite
def random_plans(draw, kmes_max=7):
    """Acyclic plans with reconverging paths, forwards and any thresholds."""
    names = [f"k{i}" for i in range(draw(st.integers(2, kmes_max)))]
    drawn = {}
    for place, kme in enumerate(names[:-1]):
        later = names[place + 1 :]
        successors = tuple(draw(st.lists(st.sampled_from(later), min_size=1, max_size=5, unique=True)))
        drawn[kme] = Hop(successors, draw(st.integers(1, len(successors))))
    reached = {names[0]}
    for kme in names[:-1]:
        if kme in reached:
            reached.update(drawn[kme].successors)
    return Plan.checked(names[0], names[-1], {kme: hop for kme, hop in drawn.items() if kme in reached})


def carry(plan, payload, random, tamper=lambda route, payload: payload):
    """Run a whole relay by hand: route -> payload at its end, for every route of the plan.

    ``tamper`` may replace the payload a KME works on; what it returns is what is handed on.
    """
    held, waiting = {}, [((plan.source,), payload)]
    while waiting:
        route, payload = waiting.pop()
        held[route] = payload = tamper(route, payload)
        step = tree.start if len(route) == 1 else tree.hand_on
        for successor, share in step(plan.below(route[-1]), payload, random):
            waiting.append(((*route, successor), share))
    return held


def at_target(plan, held):
    """What of ``held`` has arrived at the plan's target."""
    return {route: payload for route, payload in held.items() if route[-1] == plan.target}
