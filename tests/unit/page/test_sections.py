"""Sections of the page: what the coordinator says, sent again when it has changed and not because time has passed."""

import math
from itertools import combinations

import pytest

from qkdrelay.messages.requests import AttentionRequest, NetworkRequest, ShowRequest, SuppliesRequest
from qkdrelay.network.names import COORDINATOR
from qkdrelay_page import sections
from support.network import DIAMOND, REFERENCE, Network, of, topology
from support.plans import TOPOLOGIES

GRID = of(
    [f"n{x}-{y}" for x in range(10) for y in range(5)],
    [(f"n{x}-{y}", f"n{x + 1}-{y}") for x in range(9) for y in range(5)]
    + [(f"n{x}-{y}", f"n{x}-{y + 1}") for x in range(10) for y in range(4)],
)
"""Of 50 KMEs."""


@pytest.fixture
def network():
    return Network(DIAMOND)


def shown(network):
    return sections.network_section(network.ask(NetworkRequest()))


def attention(network):
    asked = (network.ask(body) for body in (NetworkRequest(), AttentionRequest(), SuppliesRequest()))
    return sections.attention_section(*asked)["items"]


@pytest.mark.parametrize(
    "drawn",
    [*(topology(path.stem) for path in TOPOLOGIES.glob("*.toml")), GRID, of("ab", [("a", "b")])],
    ids=lambda drawn: drawn.name,
)
def test_kmes_stand_apart_on_the_map(drawn):
    placed = sections.layout_section(drawn)
    places = placed["kmes"]
    assert list(places) == list(drawn.kmes)
    assert all(0 <= x <= placed["width"] and 0 <= y <= placed["height"] for x, y in places.values())
    assert min(math.dist(a, b) for a, b in combinations(places.values(), 2)) > 40.0


def test_kmes_are_as_they_were_heard(network):
    assert {kme["state"] for kme in shown(network)["kmes"]} == {"healthy"}
    network.stop("kme-2")
    network.later(20.0)
    network.later(11.0)
    network.step_clock("kme-3", 60.0)
    network.later(11.0)
    kmes = {kme["name"]: kme for kme in shown(network)["kmes"]}
    assert (kmes["kme-2"]["state"], kmes["kme-3"]["state"]) == ("silent", "healthy")
    assert (kmes["kme-1"]["clock_off_s"], kmes["kme-3"]["clock_off_s"]) == (None, 60.0)
    assert [(item["kind"], item["about"]) for item in attention(network)][:2] == [
        ("KME silent", "kme-2"),
        ("clock off", "kme-3"),
    ]


def test_a_kme_that_was_never_heard_is_not_called_silent():
    network = Network(DIAMOND)
    network.stop("kme-2")
    network.restart(COORDINATOR)
    network.later(11.0)
    kmes = {kme["name"]: kme["state"] for kme in shown(network)["kmes"]}
    assert kmes == {"kme-1": "healthy", "kme-2": "not heard yet", "kme-3": "healthy", "kme-4": "healthy"}
    links = {tuple(link["link"]): [way["state"] for way in link["directions"]] for link in shown(network)["links"]}
    assert links["kme-1", "kme-2"] == ["up", "unknown"]


def test_one_direction_may_be_dry_or_down_alone(network):
    network.drain("kme-1", "kme-2")
    network.later(11.0)
    link = shown(network)["links"][0]
    assert link["link"] == ["kme-1", "kme-2"]
    assert [way["state"] for way in link["directions"]][1] == "up"
    assert link["directions"][0]["rate_bps"] == 10_000_000
    network.cut("kme-1", "kme-2")
    items = attention(network)
    assert [item["text"] for item in items] == ["the QKD link kme-1 - kme-2 was ordered down"]


def test_nothing_changes_because_time_passes(network):
    """Else all of it would be sent to everybody a few times a second."""
    network.cut("kme-2", "kme-4")
    network.cut("kme-3", "kme-4")
    relay = network.relay("kme-1", "kme-4")

    def all_of_it():
        view = network.ask(ShowRequest(relay=str(relay.relay_id), follow=False))
        return shown(network), attention(network), sections.relay_section(view, None)

    before = all_of_it()
    network.time.forward(0.4)
    assert all_of_it() == before
    assert before[2]["show"]["elapsed_s"] is None


def test_a_network_has_what_its_links_have():
    network = Network(REFERENCE)
    ways = [way for link in shown(network)["links"] for way in link["directions"]]
    assert len(ways) == 2 * len(REFERENCE.links)
    assert {(way["state"], way["level"], way["waiting"]) for way in ways} == {("up", 1.0, 0)}
