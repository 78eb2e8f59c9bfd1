"""Networks of several sites, each with a broker of its own: they relay as one, and who has one has no other."""

import os
from collections import Counter
from dataclasses import replace
from itertools import count, permutations, product
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from coordinator.store.dead_letters import DEAD_LETTERS_MAX
from qkdrelay.broker.contents import DEAD_LETTERS_BYTES_MAX
from qkdrelay.broker.memory import Elsewhere, MemoryBroker, MemoryClient
from qkdrelay.broker.names import (
    DEAD_LETTER_EXCHANGE,
    DEAD_LETTERS_QUEUE,
    LEAD_QUEUE,
    LEAKS_KEY,
    LEAKS_QUEUE,
    control_queue,
    dead_key,
    kme_exchange,
    link_queue,
    parse_link_queue,
    requests_queue,
    results_queue,
)
from qkdrelay.broker.port import Publication, place
from qkdrelay.client import REPORTS, reported
from qkdrelay.errors import RequestRefusedError
from qkdrelay.messages import codec, signing
from qkdrelay.messages.control import Commands, SetLink
from qkdrelay.messages.leaks import Leak, seal_leak
from qkdrelay.messages.reports import Alarm, DeadLetter, Hello, Rebuilt, Reports, Split
from qkdrelay.messages.requests import (
    AttackRequest,
    AttentionRequest,
    DeadLetterRequest,
    DeadLettersRequest,
    DropRequest,
    RequeueRequest,
)
from qkdrelay.network.names import CLI, COORDINATOR, site_user
from qkdrelay.network.sites import Site
from qkdrelay.network.topology import one_site_each
from support.fuzzing import fuzzed
from support.hostile import TEXT
from support.kme import NOW
from support.network import DIAMOND, REFERENCE, Killed, Network, ask

EACH = one_site_each(REFERENCE)
"""A site for each KME, called as that; the coordinator is at kme-1's."""


def at_sites(topology, coordinator, **kmes):
    sites = {site: Site(tuple(f"kme-{n}" for n in numbers), f"{site}.example") for site, numbers in kmes.items()}
    return replace(topology, sites=sites, coordinator=coordinator)


APART = at_sites(REFERENCE, "hq", west=(1, 2, 3), mid=(4, 5), east=(6, 7, 8), hq=())
AMONG = at_sites(REFERENCE, "mid", west=(1, 2, 3), mid=(4, 5), east=(6, 7, 8))
TOPOLOGIES = {"each": EACH, "apart": APART, "among": AMONG}
DIAMONDS = {"each": one_site_each(DIAMOND), "apart": at_sites(DIAMOND, "hq", west=(1, 2), east=(3, 4), hq=())}


@pytest.fixture(params=TOPOLOGIES)
def topology(request):
    return TOPOLOGIES[request.param]


@pytest.fixture
def network():
    return Network(EACH)


def is_sound(network, relay_id):
    """The relay is confirmed with the same keys at both ends; no slot and no pad was used twice."""
    view = network.show(relay_id)
    assert (view.state, view.missing, view.false_shares, view.disputed, view.stuck) == ("confirmed", (), (), (), ())
    source, target = (network.keys(end, relay_id) for end in (view.source, view.target))
    assert source == target
    assert len(source) == view.key_count * view.key_size_bits // 8
    used_once(network)
    return source


def used_once(network):
    slots, pads = network.slots(), network.pads()
    assert all(len(messages) == 1 for messages in slots.values())
    assert len(slots) == len({body for _, body in network.headers()})
    assert len(set(pads)) == len(pads)


def goes_on(network, source="kme-2", target="kme-7"):
    """A relay between these confirms, over every KME that there is a way over, and nothing more is wrong."""
    letters = len(network.dead_letters())
    is_sound(network, network.relay(source, target).relay_id)
    assert len(network.dead_letters()) == letters


def hold_nothing(network):
    """No queue of any broker has anything left: all was read where it was written."""
    return {(site, queue) for site, hub in network.hubs.items() for queue in hub.queues if hub.depth(queue)} == set()


# --- they relay as one -----------------------------------------------------------------------------


@pytest.mark.parametrize("policy", ["recursive", "best", "disjoint"])
def test_every_kme_relays_to_every_other(topology, policy):
    network, keys = Network(topology, withstand_compromised=0), set()
    for source, target in permutations(topology.kmes, 2):
        view = network.relay(source, target, policy=policy, allow_unprotected=True)
        keys.add(is_sound(network, view.relay_id))
    assert len(keys) == 56
    assert network.dead_letters() == []
    assert hold_nothing(network)


def test_each_message_on_a_link_is_published_at_its_senders_broker(topology):
    network, seen = Network(topology), set()
    for site, hub in network.hubs.items():

        def publish(user, publication, site=site, publish=hub.publish):
            seen.add((site, user, publication.exchange))
            return publish(user, publication)

        hub.publish = publish
    network.relay("kme-1", "kme-8")
    network.settle()
    at = {COORDINATOR: topology.coordinator, **topology.site_of}
    services = {(site, user) for site, user, _ in seen} - {(topology.coordinator, "cli")}
    assert services == {(at[user], user) for user in (COORDINATOR, *topology.kmes)}
    own = {kme: {kme_exchange(kme)} for kme in topology.kmes} | {
        COORDINATOR: {"coord", "replies", "events"},
        "cli": {"cli"},
    }
    assert all(exchange in own[user] for _, user, exchange in seen)


def told(network):
    """What went over QKD links: the routes of the share messages, and the sizes of those."""
    return Counter((header.link, header.route, len(body)) for header, body in network.headers())


def attacked(topology, link_down):
    """kme-4 and kme-6 leak, and a link is down; return what is seen of a relay, and what they learn together."""
    network = Network(topology, lab=True)
    for kme in ("kme-4", "kme-6"):
        network.compromise(kme, "leak")
    if link_down:
        network.cut("kme-7", "kme-8")
    view = network.relay("kme-1", "kme-8")
    attack = network.ask(AttackRequest(relay=str(view.relay_id), kmes=()))
    used_once(network)
    missing, short = set(view.missing), set(view.short_splits)
    seen = (
        view.state,
        view.planned_share_messages,
        missing,
        short,
        {(stuck.route, stuck.reason) for stuck in view.stuck},
    )
    assert network.keys("kme-1", view.relay_id) == network.keys("kme-8", view.relay_id) is not None
    assert network.dead_letters() == []
    return told(network), seen, (attack.kmes, attack.shares_held, attack.learned)


@pytest.mark.parametrize("link_down", [False, True], ids=["all links", "without 7-8"])
def test_with_two_compromised_kmes_it_is_as_with_one_broker(topology, link_down):
    sent, seen, learned = attacked(topology, link_down)
    assert (sent, seen, learned) == attacked(REFERENCE, link_down)
    assert sum(sent.values()) == (15 if link_down else 17)
    assert (seen[0], seen[1]) == ("confirmed", 17)
    assert (learned[0], learned[2]) == (("kme-4", "kme-6"), False)


def test_who_watches_sees_what_kmes_of_all_sites_report(topology):
    network, heard = Network(topology), set()
    with MemoryClient(network.hub, watch=REPORTS) as watching:
        view = network.relay("kme-1", "kme-8")
        network.later(11.0)
        while (message := watching.receive(0.0)) is not None:
            kme, reports = reported(message[1], message[2])
            heard |= {(kme, type(report)) for report in reports}
    assert view.state == "confirmed"
    assert {kme for kme, kind in heard if kind is Hello} == set(topology.kmes)
    assert {kme for kme, kind in heard if kind is Split} == {"kme-1", "kme-2", "kme-3", "kme-4"}
    assert ("kme-8", Rebuilt) in heard


def test_who_watches_is_told_each_report_once(topology):
    network, heard = Network(topology), Counter()
    with MemoryClient(network.hub, watch=REPORTS) as watching:
        network.relay("kme-1", "kme-8")
        while (message := watching.receive(0.0)) is not None:
            heard[message[2]] += 1
    assert set(heard.values()) == {1}


def test_a_site_that_is_cut_off_is_waited_for(network):
    """Whoever reads at kme-3's broker is refused there for a while: what is there waits, and all else goes on."""
    hub = network.hubs["kme-3"]
    for user in (*map(site_user, EACH.sites), "kme-3"):
        hub.drop(user)
    readable, hub.may_read = hub.may_read, lambda _user, _name: False
    view = network.relay("kme-1", "kme-8", policy="recursive")
    assert {route[:3] for route in view.missing} == {("kme-1", "kme-3", kme) for kme in ("kme-5", "kme-6", "kme-7")}
    sites = network.loops["kme-5"].broker.receive(0, 0.0).sites
    assert {name: set(state.refused) for name, state in sites.items() if state.refused} == {
        "kme-3": {"link.kme-3.kme-5"}
    }
    hub.may_read = readable
    network.settle()
    is_sound(network, view.relay_id)


# --- dead letters ----------------------------------------------------------------------------------


def letters(network):
    """(number, given up by, queue, reason) of each, oldest first."""
    listed = network.ask(DeadLettersRequest(limit=50)).letters
    return [(letter.letter, letter.given_up_by, letter.queue, letter.reason) for letter in reversed(listed)]


def test_what_a_kme_of_any_site_gives_up_is_listed_and_shown(topology):
    network = Network(topology)
    for a, b in topology.links:
        network.on_link(a, b, f"of {a}".encode())
        network.on_link(b, a, f"of {b}".encode())
    network.settle()
    listed = letters(network)
    assert {(by, queue) for _, by, queue, _ in listed} == {
        (receiver, link_queue(sender, receiver)) for a, b in topology.links for sender, receiver in ((a, b), (b, a))
    }
    for number, _, queue, _ in listed:
        assert network.ask(DeadLetterRequest(letter=number)).body == f"of {parse_link_queue(queue)[0]}".encode()
    assert hold_nothing(network)


def given_up(network):
    """Have the coordinator's commands to all KMEs, and one share for kme-8 of each neighbour, be given up by those."""
    for kme in network.topology.kmes:
        network.as_coordinator(kme, b"no command")
    for sender in network.topology.neighbours["kme-8"]:
        network.on_link(sender, "kme-8", b"no share")
    network.settle()
    return letters(network)


def test_only_what_is_at_the_coordinators_own_broker_can_be_put_back(topology):
    network = Network(topology)
    back, refused = [], []
    for number, by, queue, _ in given_up(network):
        site = topology.site_of[parse_link_queue(queue)[0]] if queue.startswith("link.") else topology.coordinator
        if site == topology.coordinator:
            back.append((by, queue))
            assert network.ask(RequeueRequest(letters=(number,))).text == f"requeued: {number} to {queue}"
        else:
            refused.append(number)
            with pytest.raises(RequestRefusedError) as error:
                network.ask(RequeueRequest(letters=(number,)))
            assert str(error.value) == (
                f"dead letter {number} cannot be requeued: {queue} is at the broker of site {site}, "
                "and the coordinator writes at its own only"
            )
            assert error.value.hint == "relay again"
    assert (len(back), len(refused)) == ((9, 2) if topology is AMONG else (8, 3))
    network.settle()
    # What was put back is as wrong as it was.
    after = letters(network)
    assert Counter((by, queue) for _, by, queue, _ in after[-len(back) :]) == Counter(back)
    assert {number for number, *_ in after[: -len(back)]} == set(refused)


def test_where_one_of_several_cannot_be_put_back_none_is(network):
    numbers = tuple(number for number, *_ in given_up(network))
    with pytest.raises(RequestRefusedError, match="is at the broker of site kme-"):
        network.ask(RequeueRequest(letters=numbers))
    assert tuple(number for number, *_ in letters(network)) == numbers
    assert network.ask(DropRequest(letters=numbers)).text == f"dropped {len(numbers)} dead letters"


def test_what_a_broker_of_another_site_gives_up_is_listed_as_that_brokers(network):
    put(network, "kme-3", DEAD_LETTERS_QUEUE, DEAD_LETTER_EXCHANGE, b"came back", link_queue("kme-3", "kme-5"))
    put(network, "kme-1", DEAD_LETTERS_QUEUE, DEAD_LETTER_EXCHANGE, b"came back", link_queue("kme-1", "kme-2"))
    network.settle()
    assert [letter[1:] for letter in letters(network)] == [
        ("broker of site kme-3", "link.kme-3.kme-5", "the broker of site kme-3 gave up delivering it"),
        ("broker", "link.kme-1.kme-2", "the broker gave up delivering it"),
    ]


# --- crashes ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("diamond", DIAMONDS)
@pytest.mark.parametrize("name", ["kme-1", "kme-2", "kme-4", COORDINATOR])
def test_a_service_that_dies_at_any_crash_point_loses_nothing(tmp_path, diamond, name):
    for point in count():
        network = Network(DIAMONDS[diamond], folder=tmp_path / str(point))
        relay_id = ask(network, "kme-1", "kme-4")
        network.kill_at(name, point)
        try:
            network.settle()
        except Killed:
            network.restart(name)
            network.settle()
        else:
            break
        is_sound(network, relay_id)
        assert len(network.slots()) == 4
        assert network.dead_letters() == []
        assert hold_nothing(network)
    assert point >= {"kme-1": 16, "kme-2": 8, "kme-4": 15, COORDINATOR: 23}[name]


def test_all_services_dying_again_and_again_lose_nothing(topology, tmp_path):
    network = Network(topology, folder=tmp_path)
    relays = [ask(network, "kme-1", "kme-8"), ask(network, "kme-7", "kme-2")]
    for _ in range(20):
        for name in tuple(network.loops):
            network.loops[name].step(0.0)
            network.restart(name)
    network.settle()
    assert is_sound(network, relays[0]) != is_sound(network, relays[1])
    assert network.dead_letters() == []
    assert hold_nothing(network)


def test_a_kme_that_lost_its_commands_is_told_again(tmp_path):
    network = Network(EACH, folder=tmp_path)
    network.stop("kme-8")
    relay_id = ask(network, "kme-1", "kme-8")
    network.settle()
    assert network.lose_commands("kme-8")
    network.resume("kme-8")
    network.later(10.0)
    network.later(10.0)
    is_sound(network, relay_id)


# --- who has one broker in hand --------------------------------------------------------------------


def put(network, site, queue, exchange, body, key=None):
    """Put a message into a queue of a site's broker as its operator can: under any name of an exchange."""
    hub = network.hubs[site]
    with hub.lock:
        hub._enqueue(hub.queues[queue], exchange, queue if key is None else key, body)


def signed(network, kme, body, *, number=10_000):
    """Reports as a KME signs them."""
    return signing.sign(network.control_keys[kme], kme, COORDINATOR, epoch=bytes(16), number=number, body=body)


LIE = Reports(items=(Alarm(event="a lie", text="of another site's KME"),))
ALL_EXCHANGES = (
    *map(kme_exchange, REFERENCE.kmes),
    "coord",
    "cli",
    "page",
    "replies",
    "events",
    "dlx",
    "amq.direct",
    "",
    "kme.",
)


def alarms(network):
    return [(alarm.event, alarm.about) for alarm in network.ask(AttentionRequest()).alarms if alarm.event == "a lie"]


@pytest.mark.parametrize("victim", ["kme-1", "kme-2", "kme-8"])
def test_no_report_of_a_kme_of_another_site_is_believed_even_if_it_is_signed(network, victim):
    """As if kme-3's operator had the control key, too: its broker alone does not speak for the others."""
    with MemoryClient(network.hub, watch=REPORTS) as watching:
        body = signed(network, victim, LIE)
        put(network, "kme-3", results_queue("kme-3"), kme_exchange(victim), body)
        network.settle()
        heard = []
        while (message := watching.receive(0.0)) is not None:
            heard.append(message[2])
    assert body not in heard
    assert alarms(network) == []
    where = f"{victim} is not at site kme-3, whose broker this was read at"
    assert [letter[1:] for letter in letters(network)] == [
        ("coordinator, from site kme-3", results_queue("kme-3"), where)
    ]
    # The number was not taken: what the KME itself says under it counts.
    network.as_kme(victim, body)
    network.settle()
    assert alarms(network) == [("a lie", victim)]
    goes_on(network)


def test_at_the_coordinators_site_none_of_another_is_believed(network):
    put(network, "kme-1", results_queue("kme-1"), kme_exchange("kme-3"), signed(network, "kme-3", LIE))
    network.settle()
    assert alarms(network) == []
    (letter,) = letters(network)
    assert letter[1:] == (
        "coordinator",
        "results.kme-1",
        "kme-3 is not at the coordinator's site, whose broker this was read at",
    )


def test_a_kme_of_the_same_site_signs_for_itself_alone():
    network = Network(APART)
    put(network, "west", results_queue("kme-1"), kme_exchange("kme-2"), signed(network, "kme-1", LIE))
    put(network, "west", results_queue("kme-1"), kme_exchange("kme-2"), signed(network, "kme-2", LIE))
    put(network, "west", results_queue("kme-2"), kme_exchange("kme-9"), signed(network, "kme-2", LIE))
    network.settle()
    assert alarms(network) == [("a lie", "kme-2")]
    assert [letter[2:] for letter in letters(network)] == [
        ("results.kme-1", "the message is not from kme-2 to coordinator"),
        ("results.kme-2", "kme-9 is not a KME of this network"),
    ]


@pytest.mark.usefixtures("restless")
@pytest.mark.parametrize("exchange", ALL_EXCHANGES)
def test_nothing_in_a_sites_queues_is_taken_for_another_sites(network, exchange):
    """Garbage, and what is in order, in each queue, under each name; what is said of it names who is there."""
    hub, letter = (
        network.hubs["kme-3"],
        codec.encode(DeadLetter(kme="kme-8", at=NOW, queue="x", reason="it was I", body=b"x")),
    )
    for queue in hub.queues:
        for body in (b"", os.urandom(99), letter, signed(network, "kme-8", LIE), bytes(codec.MESSAGE_BYTES_MAX + 1)):
            put(network, "kme-3", queue, exchange, body)
            put(network, "kme-3", queue, exchange, body, dead_key("kme-8"))
    network.settle()
    neighbours = set(EACH.neighbours["kme-3"])
    for _, by, queue, reason in letters(network):
        assert by in {"coordinator, from site kme-3", "broker of site kme-3", "kme-3", *neighbours}, (by, queue, reason)
        if by in neighbours:
            assert queue == link_queue("kme-3", by)
    assert alarms(network) == []
    assert hold_nothing(network)
    goes_on(network)


def test_a_dead_letter_is_that_of_a_kme_only_where_that_is(network):
    lie = codec.encode(
        DeadLetter(kme="kme-8", at=NOW, queue=link_queue("kme-7", "kme-8"), reason="I do not like it", body=b"x")
    )
    put(network, "kme-3", DEAD_LETTERS_QUEUE, kme_exchange("kme-8"), lie, dead_key("kme-8"))
    put(network, "kme-1", DEAD_LETTERS_QUEUE, kme_exchange("kme-8"), lie, dead_key("kme-8"))
    put(network, "kme-8", DEAD_LETTERS_QUEUE, kme_exchange("kme-8"), lie, dead_key("kme-8"))
    network.settle()
    assert {letter[1:] for letter in letters(network)} == {
        ("coordinator", "dead-letters", "kme-8 is not at the coordinator's site, whose broker this was read at"),
        ("coordinator, from site kme-3", "dead-letters", "kme-8 is not at site kme-3, whose broker this was read at"),
        ("kme-8", "link.kme-7.kme-8", "I do not like it"),
    }


@pytest.mark.parametrize("queue", [control_queue("kme-2"), link_queue("kme-1", "kme-2"), link_queue("kme-1", "kme-3")])
def test_what_a_broker_of_another_site_says_it_gave_up_is_not_put_into_a_queue_at_home(network, queue):
    """A command to kme-2 was never at kme-3's broker, and neither was what kme-1 sends."""
    put(network, "kme-3", DEAD_LETTERS_QUEUE, DEAD_LETTER_EXCHANGE, b"smuggled", queue)
    put(network, "kme-1", DEAD_LETTERS_QUEUE, DEAD_LETTER_EXCHANGE, b"given up here", queue)
    network.settle()
    by = {given_up_by: number for number, given_up_by, _, _ in letters(network)}
    assert set(by) == {"broker of site kme-3", "broker"}
    with pytest.raises(RequestRefusedError, match="broker of site kme-3 gave it up, and does not read") as error:
        network.ask(RequeueRequest(letters=(by["broker of site kme-3"],)))
    assert "kme-3" in error.value.hint
    assert network.ask(RequeueRequest(letters=(by["broker"],))).text.endswith(f"to {queue}")


@pytest.mark.usefixtures("restless")
def test_what_leaks_at_a_site_is_its_own_kmes(topology):
    network = Network(topology, lab=True)
    view = network.relay("kme-1", "kme-8")
    thief = topology.site_of["kme-6"]
    for victim in REFERENCE.kmes:
        leak = Leak(kme=victim, relay_id=view.relay_id, route=("kme-1", victim), payload=bytes(96))
        put(network, thief, LEAKS_QUEUE, kme_exchange(victim), seal_leak(network.control_keys[victim], leak), LEAKS_KEY)
        put(network, thief, LEAKS_QUEUE, kme_exchange(victim), b"no leak", LEAKS_KEY)
    network.settle()
    attack = network.ask(AttackRequest(relay=str(view.relay_id), kmes=()))
    assert attack.kmes == topology.sites[thief].kmes
    # What leaks is kept nowhere.
    for number, _, queue, _ in letters(network):
        assert (queue, network.ask(DeadLetterRequest(letter=number)).body) == (LEAKS_QUEUE, b"")
    goes_on(network)


def test_who_has_the_coordinators_broker_commands_nobody(network):
    """It reads and writes all control queues; it has no KME's key."""
    cut = Commands(items=(SetLink(command_id=UUID(int=1), peer="kme-5", up=False),))
    own_key = network.control_keys["kme-1"]
    for kme in EACH.kmes[1:]:
        forged = signing.sign(own_key, COORDINATOR, kme, epoch=bytes(16), number=10_000, body=cut)
        for exchange in ("coord", kme_exchange("kme-1"), "dlx"):
            put(network, "kme-1", control_queue(kme), exchange, forged)
            put(network, "kme-1", control_queue(kme), exchange, os.urandom(50))
    network.settle()
    assert all(network.stores[kme].waiting.links_down() == frozenset() for kme in EACH.kmes)
    given_up_by = Counter(by for _, by, _, _ in letters(network))
    assert given_up_by == Counter(dict.fromkeys(EACH.kmes[1:], 6))
    goes_on(network)


@pytest.mark.usefixtures("restless")
def test_what_is_taken_from_one_link_is_refused_on_every_other_and_taken_once_on_its_own(network):
    """kme-3's operator has all that came to its broker, and puts it there again wherever it can."""
    network.relay("kme-1", "kme-8")
    stolen = [each.body for each in network.sealed if "kme-3" in parse_link_queue(each.routing_key)]
    sealed = len(network.sealed)
    queues = [link_queue("kme-3", kme) for kme in EACH.neighbours["kme-3"]]
    for queue, body in product(queues, stolen):
        put(network, "kme-3", queue, kme_exchange("kme-3"), body)
    network.settle()
    assert len(network.sealed) == sealed
    assert {reason for *_, reason in letters(network)} == {"the message was sealed for another link"}
    assert len(network.dead_letters()) == len(queues) * len(stolen) - sum(
        each.routing_key in queues for each in network.sealed
    )
    goes_on(network)


def test_queues_that_a_site_makes_for_others_are_read_by_nobody(network):
    hub = network.hubs["kme-3"]
    made = (link_queue("kme-5", "kme-8"), results_queue("kme-5"), control_queue("kme-5"), LEAD_QUEUE)
    for queue in made:
        hub.make_queue(queue)
        put(network, "kme-3", queue, kme_exchange("kme-5"), b"forged")
    goes_on(network)
    assert [hub.depth(queue) for queue in made] == [1] * 4
    assert network.dead_letters() == []


QUEUES = (
    *(link_queue("kme-3", kme) for kme in EACH.neighbours["kme-3"]),
    *(results_queue("kme-3"), requests_queue(CLI), DEAD_LETTERS_QUEUE),
)
NAMES = TEXT | st.sampled_from((*QUEUES, *ALL_EXCHANGES, *map(dead_key, EACH.kmes), control_queue("kme-2")))
BODIES = st.binary(max_size=200) | st.builds(
    lambda kme, queue, reason: codec.encode(
        DeadLetter(kme=kme, queue=queue[:200], reason=reason[:500], at=NOW, body=b"")
    ),
    st.sampled_from(EACH.kmes),
    NAMES,
    TEXT,
)


@fuzzed(25)
@given(st.lists(st.tuples(st.sampled_from(QUEUES), NAMES, NAMES, BODIES), min_size=1, max_size=12))
def test_whatever_a_site_puts_into_its_queues_is_listed_as_from_there(messages):
    network = Network(EACH)
    for queue, exchange, key, body in messages:
        put(network, "kme-3", queue, exchange[:200], body, key[:200])
    network.settle()
    for number, by, queue, _ in letters(network):
        assert by in {"coordinator, from site kme-3", "broker of site kme-3", "kme-3", *EACH.neighbours["kme-3"]}
        assert by not in EACH.neighbours["kme-3"] or queue == link_queue("kme-3", by)
        assert network.ask(DeadLetterRequest(letter=number)).letter.letter == number
    assert network.ask(AttentionRequest()).letters_total == len(letters(network))
    goes_on(network)


# --- floods ----------------------------------------------------------------------------------------


def in_order(number):
    return codec.encode(
        DeadLetter(kme="kme-8", at=NOW, queue=link_queue("kme-1", "kme-3"), reason=f"flood {number}", body=b"x")
    )


FLOODS = {
    "its own KME's": (kme_exchange("kme-3"), dead_key("kme-3"), in_order),
    "of no form": (kme_exchange("kme-3"), dead_key("kme-3"), lambda _number: os.urandom(20)),
    "another's": (kme_exchange("kme-8"), dead_key("kme-8"), in_order),
    "its broker's": (DEAD_LETTER_EXCHANGE, link_queue("kme-3", "kme-5"), lambda _number: b"x"),
    "in others' queues": (DEAD_LETTER_EXCHANGE, link_queue("kme-1", "kme-2"), lambda _number: b"x"),
}


@pytest.mark.usefixtures("restless")
@pytest.mark.parametrize("kind", FLOODS)
def test_a_flood_of_a_sites_dead_letters_drives_out_nobody_elses(network, kind):
    """Of all others who give something up, and of the coordinator itself, what came before, between and after stays."""
    exchange, key, body = FLOODS[kind]

    def honest(text):
        put(network, "kme-7", link_queue("kme-7", "kme-8"), kme_exchange("kme-7"), b"no share")
        network.as_kme("kme-1", b"")
        network.as_kme("kme-2", b"")
        put(network, "kme-1", DEAD_LETTERS_QUEUE, DEAD_LETTER_EXCHANGE, text, link_queue("kme-1", "kme-2"))
        put(network, "kme-5", DEAD_LETTERS_QUEUE, DEAD_LETTER_EXCHANGE, text, link_queue("kme-5", "kme-8"))

    honest(b"before")
    for half in range(2):
        for number in range(DEAD_LETTERS_MAX * 3 // 4):
            put(network, "kme-3", DEAD_LETTERS_QUEUE, exchange, body(half * DEAD_LETTERS_MAX + number), key)
        honest(b"between")
        network.settle()
    honest(b"after")
    network.settle()
    kept = Counter((kme, queue) for kme, queue, _ in network.dead_letters())
    assert sum(kept.values()) == DEAD_LETTERS_MAX
    others = {("kme-8", "link.kme-7.kme-8"), (COORDINATOR, "results.kme-1"), ("", "link.kme-1.kme-2")}
    others |= {("broker of site kme-5", "link.kme-5.kme-8"), ("coordinator, from site kme-2", "results.kme-2")}
    assert {who: kept[who] for who in others} == dict.fromkeys(others, 4)
    assert len(kept) == len(others) + 1
    goes_on_when_full(network)


def goes_on_when_full(network):
    is_sound(network, network.relay("kme-2", "kme-7").relay_id)


def test_a_flood_under_others_names_costs_that_sites_queue_its_turns_alone(network, capsys):
    """Queues of several brokers have one name; the log says whose it was."""
    for _ in range(50):
        put(network, "kme-3", DEAD_LETTERS_QUEUE, kme_exchange("kme-8"), b"", dead_key("kme-8"))
    network.settle()
    resting = network.loops[COORDINATOR]._resting
    resting._until = dict.fromkeys(resting._until, float("inf"))
    assert set(resting.now()) == {"dead-letters at kme-3"}
    put(network, "kme-3", DEAD_LETTERS_QUEUE, kme_exchange("kme-3"), b"", dead_key("kme-3"))
    for kme in ("kme-1", "kme-2"):
        put(network, kme, DEAD_LETTERS_QUEUE, kme_exchange(kme), b"", dead_key(kme))
    network.settle()
    assert {by for _, by, _, _ in letters(network)} == {"coordinator, from site kme-3", "kme-1", "kme-2"}
    said = capsys.readouterr().out
    assert "dead-letters at kme-3" in said
    resting._until.clear()
    network.settle()
    assert "kme-3" in {by for _, by, _, _ in letters(network)}


def test_a_flood_that_does_not_end_delays_no_relay(network):
    """Before each step of the network there are hundreds of messages more."""
    relay_id = ask(network, "kme-2", "kme-7")
    steps = 0
    while network.coordinator_store.relays.get(relay_id) is None or network.keys("kme-2", relay_id) is None:
        steps += 1
        assert steps < 30
        for _ in range(200):
            put(network, "kme-3", DEAD_LETTERS_QUEUE, kme_exchange("kme-3"), b"", dead_key("kme-3"))
            put(network, "kme-3", results_queue("kme-3"), kme_exchange("kme-3"), b"")
        for loop in network.loops.values():
            loop.step(0.0)
    network.settle()
    is_sound(network, relay_id)


def test_dead_letters_that_nobody_fetches_are_bounded_at_each_site(network):
    """Also while the coordinator is away, a site's own are dropped from the front, and others' are not touched."""
    network.stop(COORDINATOR)
    network.hubs["kme-8"].drop(site_user("kme-1"))
    network.hubs["kme-3"].drop(site_user("kme-1"))
    put(network, "kme-7", link_queue("kme-7", "kme-8"), kme_exchange("kme-7"), b"no share")
    network.settle()
    part = bytes(codec.MESSAGE_BYTES_MAX)
    for _ in range(DEAD_LETTERS_BYTES_MAX // len(part) + 5):
        put(network, "kme-3", DEAD_LETTERS_QUEUE, kme_exchange("kme-3"), part, dead_key("kme-3"))
    assert network.hubs["kme-3"].queues[DEAD_LETTERS_QUEUE].ready_bytes <= DEAD_LETTERS_BYTES_MAX
    network.resume(COORDINATOR)
    assert ("kme-8", "link.kme-7.kme-8") in {(kme, queue) for kme, queue, _ in network.dead_letters()}
    goes_on_when_full(network)


# --- what a site may at others' brokers ------------------------------------------------------------


@pytest.mark.parametrize("site", ["west", "mid", "east", "hq"])
def test_at_others_brokers_a_site_reads_what_is_for_it_and_writes_nothing(site):
    network = Network(APART, lab=True)
    here = APART.sites[site].kmes
    for other, hub in network.hubs.items():
        if other == site:
            continue
        user = site_user(site)
        for exchange in (*hub._kinds, "amq.default", "amq.topic", ""):
            with hub.lock:
                for key in hub.queues:
                    refusal = hub.publish(user, Publication(None, exchange, key, b"x"))
                    assert refusal
                    assert "refused" in refusal or "no exchange" in refusal
        own = {queue for queue in hub.queues if queue.startswith("link.") and parse_link_queue(queue)[1] in here}
        if other == APART.coordinator:
            own |= {*map(control_queue, here), *(f"cli.{site}.q.{number}" for number in range(4))}
        if site == APART.coordinator:
            own |= {queue for queue in hub.queues if queue.startswith("results.")}
            own |= {DEAD_LETTERS_QUEUE, LEAKS_QUEUE, requests_queue(CLI)}
        for name in (*hub._kinds, "amq.topic", "cli.q.x"):
            assert not hub.may_read(user, name)
        asking = MemoryBroker(network.hubs[site], "operator", others=[Elsewhere(other, hub, user, tuple(hub.queues))])
        asking.start()
        sites = asking.receive(0, 0.0).sites
        refused = {place(queue, name): why for name, state in sites.items() for queue, why in state.refused.items()}
        asking.close(0.0)
        assert {f"{queue} at {other}" for queue in hub.queues} - set(refused) == {
            f"{queue} at {other}" for queue in own
        }


def test_a_site_is_nobody_where_it_has_nothing_to_read(network):
    """kme-2 has no link with kme-3, and the coordinator is elsewhere."""
    hub = network.hubs["kme-3"]
    assert not [queue for queue in hub.queues if hub.may_read(site_user("kme-2"), queue)]
    assert [queue for queue in hub.queues if hub.may_read(site_user("kme-5"), queue)] == [link_queue("kme-3", "kme-5")]


def test_who_reads_more_than_once_at_another_site_takes_no_message_of_the_others(network):
    """A second reader, with the user of its site, waits behind the first: what is read, is read by whom it is for."""
    second = MemoryBroker(
        network.hubs["kme-5"],
        "kme-5",
        others=[Elsewhere("kme-3", network.hubs["kme-3"], site_user("kme-5"), [link_queue("kme-3", "kme-5")])],
    )
    second.start()
    goes_on(network, "kme-1", "kme-8")
    assert second.receive(10, 0.0).deliveries == []
    second.close(0.0)
