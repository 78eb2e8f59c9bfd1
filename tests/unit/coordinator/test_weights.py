"""Weights of supply: as the directory of SAEs has them now, and as it had them last while it is broken."""

import pytest

from coordinator.supply.accounts import Place
from coordinator.supply.weights import Weights
from qkdrelay.errors import TopologyError
from qkdrelay.network.directory import Directory, PairSettings, Sae
from qkdrelay.service.batch import Batch
from support.network import Network

AT = {"a": "kme-1", "b": "kme-1", "x": "kme-8", "y": "kme-8", "z": "kme-5"}
SAES = {sae: Sae(sae, kme) for sae, kme in AT.items()}
PAIRS = {
    ("a", "x"): PairSettings(weight=3),
    ("b", "y"): PairSettings(weight=7),
    ("a", "y"): PairSettings(level=2, weight=9),
    ("x", "a"): PairSettings(weight=2),
}
DIRECTORY = Directory(SAES, PAIRS)


class Read:
    """A directory that is read, or cannot be."""

    def __init__(self):
        self.found = DIRECTORY

    def __call__(self):
        if isinstance(self.found, Directory):
            return self.found
        raise TopologyError(self.found)


@pytest.fixture
def read():
    return Read()


@pytest.fixture
def weights(read):
    weights = Weights(read, Batch())
    assert weights.look() == ""
    return weights


def test_a_place_has_the_greatest_weight_of_its_pairs_of_that_level(weights):
    assert weights(Place("kme-1", "kme-8", 1)) == 7
    assert weights(Place("kme-1", "kme-8", 2)) == 9
    assert weights(Place("kme-8", "kme-1", 1)) == 2
    assert weights(Place("kme-1", "kme-8", 0)) == weights(Place("kme-1", "kme-5", 1)) == 1


def test_what_changes_counts_from_then_on(weights, read):
    read.found = Directory(SAES, {("a", "x"): PairSettings(weight=5)})
    assert weights.look() == ""
    assert weights(Place("kme-1", "kme-8", 1)) == 5
    assert weights(Place("kme-8", "kme-1", 1)) == 1


def test_while_it_is_broken_the_last_one_counts_and_that_is_said_once(weights, read):
    for fault in ("saes.toml:3: 'x'", "saes.toml: gone"):
        read.found = fault
        assert [weights.look(), weights.look()] == [fault, ""]
        assert weights(Place("kme-1", "kme-8", 1)) == 7
    read.found = DIRECTORY
    assert weights.look() == ""
    read.found = "saes.toml: gone"
    assert weights.look() == "saes.toml: gone"


def test_a_batch_that_is_undone_takes_over_nothing_for_good(read):
    batch = Batch()
    weights = Weights(read, batch)
    batch.begin()
    weights.look()
    batch.undo()
    assert weights(Place("kme-1", "kme-8", 1)) == 1
    weights.look()
    assert weights(Place("kme-1", "kme-8", 1)) == 7


def test_the_coordinator_goes_by_its_directory_as_it_is_now():
    network = Network(directories={"coordinator": DIRECTORY})
    supply = network.loops["coordinator"].service.supply
    place = Place("kme-1", "kme-8", 1)
    assert supply._weights(place) == 7
    network.directories["coordinator"] = Directory(SAES)
    network.time.forward(2.0)
    network.settle()
    assert supply._weights(place) == 1
