"""Rebuilding among false shares: the payloads that the definition gives, and never more work than the bound."""

from random import Random

from hypothesis import assume, given, settings
from hypothesis import strategies as st

from qkdrelay.schemes import recursive
from qkdrelay.sharing import gf256
from qkdrelay.sharing.work import attempt
from support.plans import at_target, carry, fan, random_plans, written
from support.sharing_slow import payloads, xor
from support.work import counted

SEEDS = st.integers(0, 2**32)
KEYS = bytes(range(20))


def altered(random, payload, route):
    """What somebody makes of a payload who knows no other of its split."""
    match random.randrange(4):
        case 0:
            return random.randbytes(len(payload))
        case 1:  # the same on every route: what honest KMEs split again
            return xor(payload, bytes([1]).ljust(len(payload), b"\0"))
        case 2:  # one difference with a factor of its own
            return xor(payload, bytes([random.randrange(1, 256)]) * len(payload))
    return xor(payload, bytes([gf256.multiply(len(route), random.choice((1, 2, 3)))]) * len(payload))


@given(random_plans(kmes_max=6), SEEDS, st.sampled_from((0.1, 0.3, 0.6)))
@settings(max_examples=150)
def test_the_secret_is_what_the_definition_says_however_few_shares_are_good(plan, seed, bad):
    assume(plan.share_messages <= 40)
    random = Random(seed)

    def tamper(route, payload):
        return altered(random, payload, route) if len(route) > 1 and random.random() < bad else payload

    held = at_target(plan, carry(plan, KEYS, random.randbytes, tamper))
    came = {route: share for route, share in held.items() if random.random() < 0.9}
    hops = {kme: (hop.successors, hop.threshold) for kme, hop in plan.hops.items()}
    said = payloads(hops, (plan.source,), came)
    result = recursive.rebuild(plan, came, len(KEYS))
    assert not result.exhausted
    assert ({result.secret} if result.secret is not None else set()) == (said if len(said) == 1 else set())
    assert result.ambiguous == (len(said) > 1)


@st.composite
def splits(draw):
    """n, k, and which shares have come, of those how many are false."""
    n = draw(st.integers(2, 60))
    k = draw(st.integers(1, n))
    random = Random(draw(SEEDS))
    there = sorted(random.sample(range(1, n + 1), draw(st.integers(k, n))))
    return n, k, there, random


@given(st.data(), splits())
@settings(max_examples=150)
def test_within_half_of_what_is_redundant_the_secret_comes_without_a_search(data, split):
    n, k, there, random = split
    bad = set(random.sample(there, data.draw(st.integers(0, (len(there) - k) // 2))))
    assume(len(bad) < k)
    shares = at_target(fan(n, k), carry(fan(n, k), KEYS, random.randbytes))
    came = {}
    for x in there:
        route = ("s", f"m{x}", "t")
        came[route] = altered(random, shares[route], route) if x in bad else shares[route]
    result, work, _ = counted(fan(n, k), came, len(KEYS), search=0)
    _, honest, _ = counted(fan(n, k), {route: shares[route] for route in came}, len(KEYS))
    assert (result.secret, result.exhausted, result.ambiguous) == (KEYS, False, False)
    assert work <= 6 * honest


def camps(random, plan, came):
    """Each share from one of several relays' sharings of different secrets, whose sizes differ."""
    several = [carry(plan, random.randbytes(len(KEYS)), random.randbytes) for _ in range(random.randrange(1, 5))]
    return {route: random.choice(several)[route] for route in came}


def crowded(random, plan, came):
    """As many payloads at each split as can be: all valid, few of which agree."""
    return {route: carry(plan, random.randbytes(len(KEYS)), random.randbytes)[route] for route in came}


def noise(random, _plan, came):
    return {route: random.randbytes(len(share)) for route, share in came.items()}


def cancelling(random, plan, came):
    """Differences that are those of polynomials which are 0 at 0, on most routes."""
    d = random.randrange(1, 256)
    return {
        route: xor(share, bytes([gf256.multiply(d, random.randrange(3))]) * len(share)) for route, share in came.items()
    }


def copies(_random, _plan, came):
    """One share for all of its length."""
    first = {len(share): share for share in came.values()}
    return {route: first[len(share)] for route, share in came.items()}


@given(
    st.one_of(random_plans(kmes_max=7), st.builds(fan, st.integers(20, 60), st.integers(1, 20))),
    SEEDS,
    st.sampled_from((camps, crowded, noise, cancelling, copies)),
    st.sampled_from((0, 40, 400)),
)
@settings(max_examples=150)
def test_whatever_the_shares_are_the_work_is_bounded_and_the_outcome_is_the_same_again(plan, seed, how, attempts):
    assume(plan.share_messages <= 150)
    random, search = Random(seed), attempts * attempt(10, 200)
    honest = at_target(plan, carry(plan, KEYS, random.randbytes))
    held = how(random, plan, honest)
    result, work, found = counted(plan, held, len(KEYS), search=search)
    needed = counted(plan, honest, len(KEYS))[1]
    assert work <= 20 * needed + 2 * search
    assert counted(plan, held, len(KEYS), search=search) == (result, work, found)


def test_payloads_that_multiply_from_level_to_level_are_bounded_by_the_work():
    """Nine payloads at each of nine inner splits, any five of which may be those that fit: 9^5 times 126 subsets."""
    inner = {f"a{i}": ([f"b{i}-{j}" for j in range(9)], 1) for i in range(9)}
    hops = {"s": ([*inner], 5), **inner}
    plan = written({**hops, **{leaf: (["t"], 1) for leaves, _ in inner.values() for leaf in leaves}}, "s", "t")
    random = Random(7)
    several = [carry(plan, random.randbytes(len(KEYS)), random.randbytes) for _ in range(9)]
    came = at_target(plan, several[0])
    held = {route: several[(int(route[1][1]) + int(route[2][-1])) % 9][route] for route in came}
    result, work, found = counted(plan, held, len(KEYS), search=1 << 24)
    assert (result.secret, result.exhausted) == (None, True)
    assert max(len(places) for places in found) <= 9
    assert work <= 20 * counted(plan, came, len(KEYS))[1] + 2 * (1 << 24)
