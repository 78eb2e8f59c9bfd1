"""Of a network of several sites: what is at whose broker, and who may do what with it there."""

from __future__ import annotations

import json
import re
from collections import Counter
from dataclasses import replace
from typing import Any

import pytest

from qkdrelay.broker.definitions import definitions, site_contents, site_definitions
from qkdrelay.errors import SettingsError, TopologyError
from qkdrelay.network.sites import Site
from qkdrelay.network.topology import Topology, one_site_each
from qkdrelay.network.topology_file import reference_topology

# Names that begin like others, of KMEs and of sites, and a KME that is called as a site.
AT = {"kme-1": "a", "kme-10": "a", "a": "a", "kme-2": "a-b", "b": "a-b", "kme-20": "kme-1"}
KMES = tuple(AT)
LINKS = (
    *(("kme-1", "kme-10"), ("kme-10", "a"), ("kme-1", "kme-2"), ("kme-10", "kme-2"), ("kme-20", "a")),
    *(("kme-1", "kme-20"), ("kme-2", "b"), ("kme-20", "b")),
)
SITES = {
    site: Site(tuple(kme for kme in KMES if AT[kme] == site), f"{site}.example") for site in ("a", "a-b", "kme-1", "hq")
}
APART = Topology("apart", KMES, LINKS, sites=SITES, coordinator="hq")
"""Sites of three KMEs, of two, of one, and of the coordinator alone."""
AMONG = replace(APART, sites={name: site for name, site in SITES.items() if name != "hq"}, coordinator="a")
"""The coordinator is where three of the KMEs are."""
NETWORKS = {"apart": APART, "among": AMONG, "one each": one_site_each(reference_topology())}
CLIENTS = ("cli", "page")


@pytest.fixture(params=NETWORKS)
def network(request: pytest.FixtureRequest) -> Topology:
    return NETWORKS[request.param]


@pytest.fixture(params=[False, True], ids=["real", "lab"])
def lab(request: pytest.FixtureRequest) -> bool:
    return bool(request.param)


def documents(network: Topology, lab: bool) -> dict[str, dict[str, Any]]:
    """The definitions of each site's broker."""
    return {
        site: site_definitions(network, site, {user: f"{user}-secret" for user in users_here(network, site)}, lab=lab)
        for site in network.sites
    }


def users_here(network: Topology, site: str) -> set[str]:
    """Those who get in at a site's broker by password."""
    here = {kme for kme in network.kmes if network.site_of[kme] == site} | {"operator"}
    return here | ({"coordinator", *CLIENTS} if site == network.coordinator else {"cli"})


def names(document: dict[str, Any], kind: str) -> set[str]:
    return {each["name"] for each in document[kind]}


def written_by(network: Topology, queue: str) -> str:
    """The site of whoever writes a queue: by its name, and nothing else."""
    kind, *rest = queue.split(".")
    if kind in ("link", "results"):
        return network.site_of[rest[0]]
    assert kind in ("kme", "coordinator", "cli")
    return network.coordinator


def reader_of(network: Topology, queue: str) -> tuple[str, str]:
    """Who reads a queue, and at which site that is."""
    kind, *rest = queue.split(".")
    if kind == "link":
        return rest[1], network.site_of[rest[1]]
    if kind == "kme":
        return rest[0], network.site_of[rest[0]]
    if kind == "cli":
        return "cli", rest[0]
    return "coordinator", network.coordinator


def is_read_by_services(name: str) -> bool:
    kind, *rest = name.split(".")
    if kind == "kme":
        return rest[-1] == "control"
    return name == "dead-letters" or (kind in ("link", "results", "coordinator", "lab") and bool(rest))


def may_read(network: Topology, site: str, user: str, name: str) -> bool:
    """What is meant: who reads a queue does, at home as itself and elsewhere as its site; clients their own."""
    client, _, own = name.partition(".q.")
    if "." in client and own:
        return site == network.coordinator and user == client.replace("cli", "site")
    if own or name in ("replies", "events"):
        readers = {client} if own else {"cli", "page"} if name == "replies" else {"cli"}
        return site == network.coordinator and user in readers
    if not is_read_by_services(name):
        return False
    reader, home = reader_of(network, name)
    return user == (reader if home == site else f"site.{home}")


def may_write(network: Topology, site: str, user: str, name: str) -> bool:
    """What is meant: everybody its own exchange; nobody who is elsewhere anything."""
    client, _, own = name.partition(".q.")
    if own:
        return site == network.coordinator and user == client
    if user == "coordinator":
        return name in ("coord", "replies") or (name == "events" and len(network.sites) > 1)
    return name == (user if user in CLIENTS else f"kme.{user}")


STRANGE = {"amq.default", "amq.topic", "cli.q.1", "page.q.1", "cli.x.q.0", "x", "link", "results", "site.a"}


def test_everybody_may_what_is_meant_and_nothing_else(network: Topology, lab: bool) -> None:
    tried = 0
    for site, document in documents(network, lab).items():
        there = {name for kind in ("exchanges", "queues") for name in names(document, kind)} | STRANGE
        for granted in document["permissions"]:
            user = granted["user"]
            for name in there:
                asked = site, user, name
                assert bool(re.search(granted["read"], name)) == may_read(network, *asked), asked
                assert bool(re.search(granted["write"], name)) == may_write(network, *asked), asked
                assert bool(re.search(granted["configure"], name)) == (
                    name == f"{user}.q.1" and site == network.coordinator
                ), asked
                tried += 1
    assert tried > 100


def test_no_permission_opens_what_is_at_another_site_but_to_who_reads_it_there(network: Topology, lab: bool) -> None:
    """What is not there cannot be read; if somebody made it there, nobody else could either."""
    everywhere = documents(network, lab)
    anywhere = {name for each in everywhere.values() for kind in ("exchanges", "queues") for name in names(each, kind)}
    for site, document in everywhere.items():
        here = {name for kind in ("exchanges", "queues") for name in names(document, kind)}
        for granted in document["permissions"]:
            user = granted["user"]
            for name in anywhere - here:
                assert not re.search(granted["write"], name), (site, user, name)
                if re.search(granted["read"], name):
                    assert user == reader_of(network, name)[0], (site, user, name)


def test_whoever_reads_a_queue_has_a_user_where_it_is(network: Topology, lab: bool) -> None:
    for site, document in documents(network, lab).items():
        for queue in names(document, "queues"):
            readers = [each["user"] for each in document["permissions"] if re.search(each["read"], queue)]
            reader, home = reader_of(network, queue)
            assert readers == [reader if home == site else f"site.{home}"], (site, queue)


def test_users_are_those_who_are_there_and_the_sites_that_read_there(network: Topology, lab: bool) -> None:
    for site, document in documents(network, lab).items():
        users = [each["name"] for each in document["users"]]
        reading = {f"site.{reader_of(network, queue)[1]}" for queue in names(document, "queues")} - {f"site.{site}"}
        assert Counter(users) == Counter([*users_here(network, site), *reading])
        assert Counter(each["user"] for each in document["permissions"]) == Counter(users)


def test_no_local_user_has_a_name_like_a_sites(network: Topology) -> None:
    for site in network.sites:
        assert not [user for user in site_contents(network, site).users if user.startswith("site.")]


def test_sites_get_in_by_certificate_alone_and_are_no_administrators(network: Topology, lab: bool) -> None:
    for site, document in documents(network, lab).items():
        others = [each for each in document["users"] if each["name"].startswith("site.")]
        assert others or len(network.sites) == 1
        for user in others:
            assert (user["password_hash"], user["tags"]) == ("", []), site
            assert 0 < user["limits"]["max-connections"] < user["limits"]["max-channels"]
        local = [each for each in document["users"] if not each["name"].startswith("site.")]
        assert all(len(each["password_hash"]) == 48 for each in local)
        assert [each["name"] for each in local if each["tags"]] == ["operator"]
        assert "secret" not in json.dumps(document)


def one_broker(network: Topology, lab: bool) -> dict[str, Any]:
    users = (*network.kmes, "coordinator", *CLIENTS, "operator")
    return definitions(network.kmes, network.links, dict.fromkeys(users, "secret"), lab=lab)


def test_all_queues_together_are_those_of_one_broker_each_where_its_writer_is(network: Topology, lab: bool) -> None:
    """But for those that a command line has at each other site: to ask, and, at the coordinator's, to be answered."""
    at_each = {"dead-letters", "coordinator.requests"} | ({"lab.leaks"} if lab else set())
    everywhere = documents(network, lab)
    found: Counter[str] = Counter()
    for site, document in everywhere.items():
        here = [each["name"] for each in document["queues"]]
        assert at_each <= set(here)
        assert {written_by(network, queue) for queue in here if queue not in at_each} == {site}
        answered = Counter(queue.split(".")[1] for queue in here if queue.startswith("cli."))
        others = network.sites.keys() - {site}
        assert answered == (Counter(dict.fromkeys(others, 4)) if site == network.coordinator else {})
        found.update(queue for queue in here if not queue.startswith("cli."))
    one = one_broker(network, lab)
    assert found == Counter({queue: len(everywhere) if queue in at_each else 1 for queue in names(one, "queues")})
    for queue in (each for document in everywhere.values() for each in document["queues"]):
        classic = {"x-queue-type": "classic"} if queue["name"].startswith("cli.") else None
        assert queue["arguments"] == (classic or one["queues"][0]["arguments"])


def test_all_exchanges_together_are_those_of_one_broker_each_where_its_writer_is(network: Topology, lab: bool) -> None:
    everywhere = documents(network, lab)
    kinds = {each["name"]: each["type"] for each in one_broker(network, lab)["exchanges"]}
    for site, document in everywhere.items():
        of_all = {"coord", "cli", "page", "replies", "events"} if site == network.coordinator else {"cli"}
        own = {f"kme.{kme}" for kme in network.kmes if network.site_of[kme] == site}
        assert {each["name"]: each["type"] for each in document["exchanges"]} == {
            name: kinds[name] for name in {"dlx", *own, *of_all}
        }


def test_a_queue_is_reached_through_its_writers_exchange_and_where_the_coordinator_is_through_its_own(
    network: Topology, lab: bool
) -> None:
    for site, document in documents(network, lab).items():
        leads = site == network.coordinator
        expected = {("dlx", "", "queue", "dead-letters")}
        for kme in (kme for kme in network.kmes if network.site_of[kme] == site):
            own = f"kme.{kme}"
            expected |= {
                (own, f"results.{kme}", "queue", f"results.{kme}"),
                (own, f"dead.{kme}", "queue", "dead-letters"),
            }
            expected |= {(own, "lab.leaks", "queue", "lab.leaks")} if lab else set()
            expected |= {(own, f"results.{kme}", "exchange", "events")} if leads else set()
            queues = {f"link.{kme}.{b if a == kme else a}" for a, b in network.links if kme in (a, b)}
            expected |= {(exchange, q, "queue", q) for q in queues for exchange in (own, *["coord"][: int(leads)])}
        expected |= {("cli", "requests", "queue", "coordinator.requests")}
        if leads:
            expected |= {("coord", "coordinator.lead", "queue", "coordinator.lead")}
            answers = [f"cli.{other}.q.{n}" for other in network.sites if other != site for n in range(4)]
            expected |= {("replies", queue, "queue", queue) for queue in answers}
            expected |= {("coord", f"kme.{kme}.control", "queue", f"kme.{kme}.control") for kme in network.kmes}
            expected |= {("page", "requests", "queue", "coordinator.requests.page")}
        found = [(e["source"], e["routing_key"], e["destination_type"], e["destination"]) for e in document["bindings"]]
        assert Counter(found) == Counter(dict.fromkeys(expected, 1))


def test_every_queue_is_bounded_as_at_one_broker(network: Topology, lab: bool) -> None:
    for document in documents(network, lab).values():
        assert document["policies"] == one_broker(network, lab)["policies"]


def test_each_broker_needs_its_own_users_passwords_and_no_others() -> None:
    passwords = dict.fromkeys(users_here(AMONG, "a"), "secret")
    assert site_definitions(AMONG, "a", passwords)
    with pytest.raises(SettingsError, match="kme-10"):
        site_definitions(AMONG, "a", {**passwords, "kme-10": ""})
    for stranger in ("kme-2", "site.a-b"):
        with pytest.raises(SettingsError, match=stranger):
            site_definitions(AMONG, "a", {**passwords, stranger: "secret"})


def test_a_network_of_one_site_is_that_of_one_broker(lab: bool) -> None:
    sites = {"all": Site(KMES, "all.example")}
    (document,) = documents(Topology("one", KMES, LINKS, sites=sites, coordinator="all"), lab).values()
    one = one_broker(APART, lab)
    for kind in ("permissions", "exchanges", "queues", "bindings", "policies", "vhosts"):
        assert sorted(map(json.dumps, document[kind])) == sorted(map(json.dumps, one[kind]))
    assert names(document, "users") == names(one, "users")


def test_a_network_that_cannot_be_is_refused_for_each_site() -> None:
    for wrong in (replace(AMONG, kmes=(*KMES, "cli")), replace(AMONG, links=(("kme-1", "nobody"),))):
        with pytest.raises(TopologyError):
            site_definitions(wrong, "a", {})
