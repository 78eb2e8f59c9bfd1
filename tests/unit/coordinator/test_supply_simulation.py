"""Refills over a while on a virtual clock, against what the linear program says a network can give."""

from random import Random

import pytest

from qkdrelay.network.capacity import is_protectable, optimum
from qkdrelay.network.key_rates import pairs_of, rates_of
from qkdrelay.network.planner import without
from support.network import REFERENCE
from support.supply_simulation import Simulation, with_rates

PAIRS = [pair for pair in pairs_of(REFERENCE) if is_protectable(REFERENCE, pair, 1)]


def network(*, unequal):
    rates = Random(3)
    return with_rates(REFERENCE, (200_000 * (rates.randint(1, 10) if unequal else 5) for _ in REFERENCE.links))


@pytest.mark.parametrize("unequal", [False, True], ids=["equal rates", "rates of 1 to 10"])
def test_near_what_is_possible_hardly_a_request_waits(unequal):
    outcome = Simulation(network(unequal=unequal), PAIRS, 0.9).run(240.0, warm_up=120.0)
    assert outcome.served >= 0.98
    assert outcome.worst >= 0.9


def test_beyond_it_what_there_is_is_given_and_shared():
    simulation = Simulation(network(unequal=False), PAIRS, 1.2)
    simulation.left = dict.fromkeys(simulation.left, 0.0)
    outcome = simulation.run(240.0, warm_up=120.0)
    delivered = [pair.delivered / outcome.seconds / simulation.share for pair in outcome.pairs]
    assert sum(delivered) / len(delivered) >= 0.9
    assert min(delivered) >= 0.6


def test_supply_takes_little_more_key_than_the_cheapest_paths():
    alone = [pair for pair in PAIRS if (pair.source, pair.target) == ("kme-1", "kme-8")]
    outcome = Simulation(network(unequal=False), alone, 0.3).run(240.0, warm_up=60.0)
    assert outcome.link_key / outcome.given <= 6 * 1.05
    assert outcome.served == 1.0


def test_a_kme_that_fails_is_gone_around_in_seconds():
    simulation = Simulation(network(unequal=False), PAIRS, 0.7, failures=True)
    simulation._fails_at = simulation.now + 150.0
    outcome = simulation.run(240.0, warm_up=120.0)
    assert outcome.served >= 0.98
    assert outcome.worst >= 0.8


def without_kme(bad):
    """The pairs that can do without a KME, and how much of what all could have they could then have."""
    left, equal = without(REFERENCE, [bad]), network(unequal=False)
    pairs = [pair for pair in PAIRS if bad not in (pair.source, pair.target) and is_protectable(left, pair, 1)]
    rates = {link: rate for link, rate in rates_of(equal).items() if bad not in link}
    whole = optimum(equal, rates_of(equal), pairs, 1, "threshold").share
    return pairs, optimum(left, rates, pairs, 1, "threshold").share / whole


@pytest.mark.parametrize(
    ("bad", "drops"), [("kme-3", 1.0), ("kme-6", 1.0), ("kme-8", 1.0), ("kme-3", 0.5), ("kme-6", 0.1)]
)
def test_a_kme_that_claims_full_links_and_drops_what_goes_over_it_is_gone_around(bad, drops):
    pairs, left = without_kme(bad)
    simulation = Simulation(network(unequal=False), pairs, 0.9 * left, idle=[bad], drops=drops)
    outcome = simulation.run(240.0, warm_up=240.0)
    assert outcome.served >= 0.98
    assert outcome.worst >= 0.9


def test_an_end_that_confirms_nothing_turns_relays_away_from_nobody_else():
    """Every relay to kme-8 speaks against those that it went over."""
    others, _ = without_kme("kme-8")
    outcome = Simulation(network(unequal=False), PAIRS, 0.8, idle=["kme-8"]).run(240.0, warm_up=240.0)
    ends = {(pair.source, pair.target) for pair in others}
    assert min(pair.share for pair in outcome.pairs if pair.place[:2] in ends) >= 0.95


def test_kmes_that_claim_to_be_dry_and_to_use_everything_get_their_turn_and_no_more():
    greedy = {"kme-1", "kme-5", "kme-8"}
    simulation = Simulation(network(unequal=False), PAIRS, 0.9, greedy=greedy)
    outcome = simulation.run(240.0, warm_up=240.0)
    honest = [pair for pair in outcome.pairs if not greedy & set(pair.place[:2])]
    assert sum(pair.delivered for pair in honest) >= 0.9 * sum(pair.wanted for pair in honest)
    assert min(pair.delivered / pair.wanted for pair in honest) >= 0.8
