"""Refills over a while on a virtual clock, against what the linear program says a network can give."""

from random import Random

import pytest

from qkdrelay.network.capacity import is_protectable
from qkdrelay.network.key_rates import pairs_of
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
