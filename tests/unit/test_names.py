"""The names on the broker, and who may do what with them."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from typing import Any

import pytest

from qkdrelay.broker import names
from qkdrelay.broker.definitions import definitions
from qkdrelay.errors import SettingsError, TopologyError

KMES = ["kme-1", "kme-2", "kme-10"]
LINKS = [("kme-1", "kme-2"), ("kme-2", "kme-10")]
USERS = [*KMES, "coordinator", "cli", "page", "operator"]
PASSWORDS = {user: f"{user}-secret" for user in USERS}


def make(**others: Any) -> dict[str, Any]:
    return definitions(KMES, LINKS, PASSWORDS, **others)


def permissions(document: dict[str, Any]) -> dict[str, tuple[str, str, str]]:
    return {
        granted["user"]: (granted["configure"], granted["write"], granted["read"])
        for granted in document["permissions"]
    }


def bindings(document: dict[str, Any]) -> set[tuple[str, str, str, str]]:
    return {
        (each["source"], each["routing_key"], each["destination_type"], each["destination"])
        for each in document["bindings"]
    }


def allowed(user: str, action: str) -> set[str]:
    """All names of objects on the broker that a permission opens, searched as RabbitMQ searches."""
    document = make()
    objects = {each["name"] for kind in ("exchanges", "queues") for each in document[kind]}
    granted = dict(zip(("configure", "write", "read"), permissions(document)[user], strict=True))
    return {name for name in {*objects, "amq.default", "cli.q.1", "lab.leaks"} if re.search(granted[action], name)}


def test_permissions_are_those_of_the_design() -> None:
    assert permissions(make()) == {
        "kme-1": ("^$", r"^kme\.kme-1$", r"^(link\.[^.]+\.kme-1|kme\.kme-1\.control)$"),
        "kme-2": ("^$", r"^kme\.kme-2$", r"^(link\.[^.]+\.kme-2|kme\.kme-2\.control)$"),
        "kme-10": ("^$", r"^kme\.kme-10$", r"^(link\.[^.]+\.kme-10|kme\.kme-10\.control)$"),
        "coordinator": (
            "^$",
            "^(coord|replies)$",
            r"^(results\.[^.]+|coordinator\.requests|coordinator\.requests\.page|coordinator\.lead|dead-letters)$",
        ),
        "cli": (r"^cli\.q\..*$", r"^(cli|cli\.q\..*)$", r"^(cli\.q\..*|replies|events)$"),
        "page": (r"^page\.q\..*$", r"^(page|page\.q\..*)$", r"^(page\.q\..*|replies)$"),
        "operator": ("^$", "^$", "^$"),
    }


def test_a_kme_reaches_its_own_and_nothing_else() -> None:
    assert allowed("kme-1", "write") == {"kme.kme-1"}
    assert allowed("kme-1", "read") == {"link.kme-2.kme-1", "kme.kme-1.control"}
    assert allowed("kme-1", "configure") == set()


def test_only_kmes_read_links_and_only_the_coordinator_reads_results() -> None:
    for user in ("coordinator", "cli", "page", "operator"):
        assert not [name for name in allowed(user, "read") if name.startswith("link.")]
    readers = {user for user in USERS if "results.kme-1" in allowed(user, "read")}
    assert readers == {"coordinator"}


def test_nobody_writes_the_default_exchange() -> None:
    assert not [user for user in USERS if "amq.default" in allowed(user, "write")]


def test_every_link_has_a_queue_for_each_direction() -> None:
    document = definitions(KMES, [*LINKS, ("kme-2", "kme-1")], PASSWORDS)
    links = [each["name"] for each in document["queues"] if each["name"].startswith("link.")]
    assert sorted(links) == [
        "link.kme-1.kme-2",
        "link.kme-10.kme-2",
        "link.kme-2.kme-1",
        "link.kme-2.kme-10",
    ]
    for source in ("kme.kme-1", "coord"):
        assert (source, "link.kme-1.kme-2", "queue", "link.kme-1.kme-2") in bindings(document)


def test_bindings_of_control_reports_and_events() -> None:
    found = bindings(make())
    assert {
        each for each in found if "link." not in each[1] and "kme-2" not in each[1] and "kme-10" not in each[1]
    } == {
        ("coord", "kme.kme-1.control", "queue", "kme.kme-1.control"),
        ("coord", "coordinator.lead", "queue", "coordinator.lead"),
        ("kme.kme-1", "results.kme-1", "queue", "results.kme-1"),
        ("kme.kme-1", "results.kme-1", "exchange", "events"),
        ("kme.kme-1", "dead.kme-1", "queue", "dead-letters"),
        ("cli", "requests", "queue", "coordinator.requests"),
        ("page", "requests", "queue", "coordinator.requests.page"),
        ("dlx", "", "queue", "dead-letters"),
    }


def test_every_binding_joins_what_is_declared() -> None:
    document = make(lab=True)
    exchanges = {each["name"] for each in document["exchanges"]}
    queues = {each["name"] for each in document["queues"]}
    for source, _, kind, destination in bindings(document):
        assert source in exchanges
        assert destination in (queues if kind == "queue" else exchanges)


def test_every_queue_is_bounded_by_one_policy() -> None:
    document = make(lab=True)
    for queue in [*(each["name"] for each in document["queues"]), "cli.q.1", "page.q.1", "cli.berlin.q.0"]:
        matching = [each for each in document["policies"] if re.search(each["pattern"], queue)]
        assert len(matching) == 1, queue
        definition = matching[0]["definition"]
        assert definition["max-length-bytes"] > 0
        refuses = definition["overflow"] == "reject-publish"
        assert refuses == (queue not in ("dead-letters", "lab.leaks", "coordinator.lead") and ".q." not in queue)
        assert ("dead-letter-exchange" in definition) == refuses
        if refuses:
            assert definition["delivery-limit"] == 1000


def test_queue_arguments_are_only_those_that_never_change() -> None:
    for queue in make(lab=True)["queues"]:
        assert queue["arguments"] == {"x-queue-type": "quorum", "x-single-active-consumer": True}


def test_leaks_have_a_queue_only_in_a_lab() -> None:
    assert "leaks" not in json.dumps(make())
    lab = make(lab=True)
    assert ("kme.kme-1", "lab.leaks", "queue", "lab.leaks") in bindings(lab)
    readers = [user for user, granted in permissions(lab).items() if re.search(granted[2], "lab.leaks")]
    assert readers == ["coordinator"]


def test_passwords_are_salted_hashes() -> None:
    users = {user["name"]: user for user in make()["users"]}
    assert set(users) == set(USERS)
    for name, user in users.items():
        salted = base64.b64decode(user["password_hash"])
        assert salted[4:] == hashlib.sha256(salted[:4] + PASSWORDS[name].encode()).digest()
        assert user["hashing_algorithm"] == "rabbit_password_hashing_sha256"
    assert "secret" not in json.dumps(make())
    assert len({base64.b64decode(user["password_hash"])[:4] for user in users.values()}) == len(users)


def test_kmes_alone_have_a_limit_of_connections() -> None:
    limits = {user["name"]: user["limits"] for user in make()["users"] if "limits" in user}
    assert set(limits) == set(KMES)
    assert all(0 < limit["max-connections"] < limit["max-channels"] < 1000 for limit in limits.values())


def test_only_the_operator_sees_the_management_pages() -> None:
    assert {user["name"] for user in make()["users"] if user["tags"]} == {"operator"}


@pytest.mark.parametrize("kme", ["", "KME", "a.b", "a|b", "x" * 33, "kme-1\n", "cli", "coordinator", "operator"])
def test_bad_names_of_kmes_are_refused(kme: str) -> None:
    with pytest.raises(TopologyError):
        definitions([kme], [], {**PASSWORDS, kme: "secret"})


@pytest.mark.parametrize("link", [("kme-1", "kme-1"), ("kme-1", "kme-3")])
def test_bad_links_are_refused(link: tuple[str, str]) -> None:
    with pytest.raises(TopologyError):
        definitions(KMES, [link], PASSWORDS)


def test_every_user_needs_a_password_and_nobody_else_has_one() -> None:
    with pytest.raises(SettingsError, match="kme-2"):
        definitions(KMES, LINKS, {**PASSWORDS, "kme-2": ""})
    with pytest.raises(SettingsError, match="stranger"):
        definitions(KMES, LINKS, {**PASSWORDS, "stranger": "secret"})


def test_link_queues_are_parsed_as_they_are_made() -> None:
    assert names.parse_link_queue(names.link_queue("kme-1", "kme-10")) == ("kme-1", "kme-10")
    assert names.parse_kme_exchange(names.kme_exchange("kme-1")) == "kme-1"


@pytest.mark.parametrize("queue", ["", "link", "link.a", "link.a.b.c", "results.a", "link.A.b", "link..b"])
def test_other_queues_are_not_links(queue: str) -> None:
    with pytest.raises(TopologyError):
        names.parse_link_queue(queue)


def test_a_kme_reads_its_control_queue_and_the_links_that_end_at_it() -> None:
    assert names.kme_queues("kme-2", LINKS) == (
        "kme.kme-2.control",
        "link.kme-1.kme-2",
        "link.kme-10.kme-2",
    )
