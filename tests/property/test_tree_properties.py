"""Random plans, random losses, random tampering: the target rebuilds exactly what the thresholds allow."""

from random import Random

from hypothesis import given, settings
from hypothesis import strategies as st

from qkdrelay.schemes import recursive
from support.plans import at_target, carry, random_plans
from support.sharing_slow import threshold_circuit

SEEDS = st.integers(0, 2**32)
KEYS = bytes(range(70))


def satisfied(plan, routes):
    """The threshold circuit, evaluated from its definition."""
    hops = {kme: (hop.successors, hop.threshold) for kme, hop in plan.hops.items()}
    return threshold_circuit(hops, plan.source, set(routes))


def some_of(data, values):
    """A random subset, of any density."""
    density = data.draw(st.sampled_from((0.2, 0.5, 0.8, 0.95)))
    random = Random(data.draw(SEEDS))
    return [value for value in values if random.random() < density]


@given(st.data(), random_plans(), SEEDS)
@settings(max_examples=300)
def test_the_secret_is_rebuilt_exactly_when_the_thresholds_say_so(data, plan, seed):
    shares = at_target(plan, carry(plan, KEYS, Random(seed).randbytes))
    came = some_of(data, shares)
    Random(seed).shuffle(came)
    result = recursive.rebuild(plan, {route: shares[route] for route in came}, len(KEYS))
    assert result.secret == (KEYS if satisfied(plan, came) else None)
    assert set(result.missing) == set(shares) - set(came)
    assert (result.false, result.disputed, result.ambiguous, result.exhausted) == ((), (), False, False)


@given(st.data(), random_plans(), SEEDS)
@settings(max_examples=200)
def test_a_coalition_learns_the_secret_exactly_when_it_satisfies_the_circuit(data, plan, seed):
    held = carry(plan, KEYS, Random(seed).randbytes)
    coalition = some_of(data, plan.order[1:-1])
    seen = {route: payload for route, payload in held.items() if route[-1] in coalition}
    assert (recursive.rebuild(plan, seen, len(KEYS)).secret == KEYS) == satisfied(plan, seen)


@given(st.data(), random_plans(), SEEDS)
@settings(max_examples=300)
def test_tampering_never_changes_the_secret_and_names_no_honest_route(data, plan, seed):
    random = Random(seed)
    coalition = set(some_of(data, plan.order[1:-1]))
    altered = set()

    def tamper(route, payload):
        by_sender_or_holder = coalition & set(route[-2:])
        if not by_sender_or_holder or random.random() < 0.4:
            return payload
        altered.add(route)
        return random.randbytes(len(payload))

    shares = at_target(plan, carry(plan, KEYS, random.randbytes, tamper))
    result = recursive.rebuild(plan, shares, len(KEYS))
    untouched = [r for r in shares if not any(r[:end] in altered for end in range(len(r) + 1))]
    assert result.secret in (KEYS, None)
    assert result.secret == KEYS or not satisfied(plan, untouched)
    assert all(coalition & set(route) for route in result.false)


@given(random_plans(), st.dictionaries(st.integers(0, 40), st.binary(max_size=300)), SEEDS)
@settings(max_examples=100)
def test_no_data_makes_it_raise(plan, garbage, seed):
    routes = list(carry(plan, KEYS, Random(seed).randbytes))
    held = {routes[place % len(routes)]: payload for place, payload in garbage.items()}
    secret = recursive.rebuild(plan, held, len(KEYS)).secret
    assert secret is None or held.get((plan.source,)) == secret
