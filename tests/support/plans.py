"""Plans to share over: the reference network, small ones, random ones; and a whole relay carried by hand."""

import tomllib
from itertools import pairwise
from pathlib import Path

from hypothesis import strategies as st

from qkdrelay.network.plan import Hop, Plan, majority
from qkdrelay.network.threshold_circuit import Circuit
from qkdrelay.schemes import recursive

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


def ladder(n):
    """Four ways side by side, on which each of ``n`` KMEs splits: it keeps a share from the KMEs after it."""
    hops = {"s": Hop(("k0", "k1", "k2", "k3"), 4)}
    for i in range(n):
        on = (f"k{i + 4}", "t") if i + 4 < n else ("t",)
        hops[f"k{i}"] = Hop(on, len(on))
    return Plan.checked("s", "t", hops)


def chain(n):
    """One way on which each of ``n`` KMEs splits, all that are left below it, beside three on which one forwards."""
    hops = {"s": Hop(("k0", "m1", "m2", "m3"), 4), **{f"m{i}": Hop(("t",), 1) for i in (1, 2, 3)}}
    hops |= {f"k{i}": Hop((f"k{i + 1}", "t"), 2) for i in range(n - 1)}
    return Plan.checked("s", "t", {**hops, f"k{n - 1}": Hop(("t",), 1)})


def layers(width, depth):
    """``depth`` layers of ``width`` KMEs, each of which sends to all of the next: so many messages."""
    kmes = [("s",), *(tuple(f"l{layer}-{i}" for i in range(width)) for layer in range(depth)), ("t",)]
    hops = {kme: Hop(after, majority(len(after))) for here, after in pairwise(kmes) for kme in here}
    return Plan.checked("s", "t", hops)


def counted_steps(monkeypatch):
    """Have every check of a plan count instead of looking: (steps, as `coalitions` counts them; sets at once)."""
    steps, sets = [], []

    def evaluate(circuit, masks, full):
        edges = sum(1 + len(gate.children) for gate in circuit.gates)
        sets.append(full.bit_length())
        steps.append(edges * -(-full.bit_length() // 8192))
        return 0

    monkeypatch.setattr(Circuit, "evaluate", evaluate)
    return steps, sets


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
        step = recursive.deal if len(route) == 1 else recursive.reshare
        for successor, share in step(plan.below(route[-1]), payload, random):
            waiting.append(((*route, successor), share))
    return held


def at_target(plan, held):
    """What of ``held`` has arrived at the plan's target."""
    return {route: payload for route, payload in held.items() if route[-1] == plan.target}


def learns(plan, coalition):
    """Whether a coalition of KMEs learns the secret.

    It holds what any of its members receives; a payload at a KME is held if the KME is in the
    coalition or if the threshold of its successors' shares is held.
    """
    held = {kme: kme in coalition for kme in plan.order}
    for kme in reversed(plan.order):
        if kme != plan.target and not held[kme]:
            held[kme] = sum(held[s] for s in plan.successors(kme)) >= plan.threshold(kme)
    return held[plan.source]


def delivers(plan, failed=(), cut=()):
    """Whether the target rebuilds although KMEs have ``failed`` and links are ``cut`` (both directions)."""
    broken = {frozenset(link) for link in cut}
    rebuilt = {plan.target: plan.target not in failed}
    for kme in reversed(plan.order):
        if kme != plan.target:
            good = sum(rebuilt[s] and frozenset((kme, s)) not in broken for s in plan.successors(kme))
            rebuilt[kme] = kme not in failed and good >= plan.threshold(kme)
    return rebuilt[plan.source]
