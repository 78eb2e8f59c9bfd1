"""What cannot be done is refused in one line that names it, with a hint; what is asked for is shown as it is."""

from uuid import UUID, uuid4

import pytest

from coordinator import admission as module
from qkdrelay.broker.memory import MemoryClient
from qkdrelay.client import relay_request
from qkdrelay.errors import RequestRefusedError
from qkdrelay.messages.answers import Acknowledged, RelaySummary
from qkdrelay.messages.control import FixedDemand
from qkdrelay.messages.plans import decode_plan
from qkdrelay.messages.relay_ids import new_relay_id
from qkdrelay.messages.requests import (
    AttackRequest,
    LabRequest,
    LinkRequest,
    NetworkRequest,
    OpenDemand,
    RelaysRequest,
    ShowRequest,
)
from qkdrelay.network.topology import Topology
from support.kme import NOW
from support.network import DIAMOND, Network, of

ISLANDS = of(["a", "b", "c", "d"], [("a", "b"), ("c", "d")])
THREE_WAYS = of("sabct", [(a, b) for way in "abc" for a, b in (("s", way), (way, "t"))])
LINE = of(["a", "b", "c"], [("a", "b"), ("b", "c")])


@pytest.fixture(scope="module")
def network():
    return Network(DIAMOND)


def refused(network, request):
    with pytest.raises(RequestRefusedError) as error:
        network.ask(request)
    text, hint = str(error.value), error.value.hint
    assert "\n" not in text + (hint or "")
    return text, hint or ""


def relay(**changed):
    return relay_request(**{"source": "kme-1", "target": "kme-4", "relay_id": new_relay_id(NOW), **changed})


@pytest.mark.parametrize(
    ("changed", "named", "hinted"),
    [
        ({"source": "kme-x"}, "'kme-x'", "did you mean 'kme-"),
        ({"target": "paris"}, "'paris'", "known: kme-1, kme-2"),
        ({"target": "kme-1"}, "source and target are both kme-1", "two different"),
        ({"source": ""}, "''", "known"),
        ({"source": "KME-1"}, "'KME-1'", ""),
        ({"source": "a\nb"}, r"'a\nb'", ""),
        ({"key_count": 0}, "0 keys", "--keys"),
        ({"key_count": 20_000}, "20000 keys", "--keys"),
        ({"key_size_bits": 100}, "100 bits", "--key-size"),
        ({"key_size_bits": 0}, "0 bits", "multiple of 8 from 64 to 65536"),
        ({"key_count": 16_384, "key_size_bits": 1024}, "524288 bytes", "--keys"),
        ({"timeout_s": 0.5}, "0.5 s", "--timeout"),
        ({"timeout_s": 0.0}, "0 s", "--timeout"),
        ({"timeout_s": -3.0}, "-3 s", "--timeout"),
        ({"timeout_s": 1e9}, "from 1 to 3600 s", "--timeout"),
        ({"timeout_s": float("nan")}, "nan s", "--timeout"),
        ({"timeout_s": float("inf")}, "inf s", "--timeout"),
    ],
)
def test_a_relay_that_cannot_be_is_refused_by_name(network, changed, named, hinted):
    before = network.ask(RelaysRequest(limit=10, supply=False)).total
    text, hint = refused(network, relay(**changed))
    assert named in text
    assert hinted in text + hint
    assert network.ask(RelaysRequest(limit=10, supply=False)).total == before


def test_where_there_is_no_path_there_is_no_relay():
    text, _ = refused(Network(ISLANDS), relay(source="a", target="c"))
    assert "no path from a to c" in text


def test_a_plan_that_no_message_to_the_ends_can_have_is_refused(network, monkeypatch):
    monkeypatch.setattr(module, "PLAN_BYTES_MAX", 60)
    text, hint = refused(network, relay())
    assert "at most 60 fit a message" in text
    assert "--policy" in hint


def test_a_relay_that_one_kme_could_read_is_refused_unless_it_is_allowed_and_then_shown_as_such():
    network = Network(LINE, withstand_compromised=0)
    text, hint = refused(network, relay(source="a", target="c"))
    assert text == "no plan withstands compromised=1: 1 path joins a and c, and that takes 2"
    assert "--allow-unprotected" in hint
    view = network.relay("a", "c", allow_unprotected=True)
    assert (view.state, view.protected) == ("confirmed", False)


@pytest.mark.parametrize(
    ("own", "refusing"), [({"a": 1, "c": 1}, "a"), ({"a": 1, "c": 0}, "a"), ({"a": 0, "c": 1}, "c"), ({}, None)]
)
def test_an_end_whose_settings_ask_for_protection_does_not_take_what_the_asker_allows(own, refusing):
    network = Network(LINE, withstand_compromised=0)
    for kme, number in own.items():
        network.demand(kme, number)
    view = network.relay("a", "c", policy=None, allow_unprotected=True)
    if refusing is None:
        assert (view.state, view.protected, view.withstand.compromised) == ("confirmed", False, 0)
        assert network.keys("a", view.relay_id) == network.keys("c", view.relay_id) is not None
        return
    assert view.state == "failed"
    assert view.reason == (
        f"refused by {refusing}: the plan does not withstand 1 compromised KME, which this KME's own settings demand"
        f" (QKDRELAY_WITHSTAND_COMPROMISED=1; in a deployment, WITHSTAND_COMPROMISED_{refusing.upper()} in .env,"
        " then make up)"
    )
    network.demand(refusing, 0)
    others = [kme for kme, number in own.items() if number and kme != refusing]
    again = network.relay("a", "c", policy=None, allow_unprotected=True)
    assert (again.state == "confirmed") == (not others)


@pytest.mark.parametrize(
    ("asked", "demanded"),
    [
        (None, (1, 1, 0)),
        ((1, None, 0), (1, 1, 0)),
        ((2, None, 0), (2, 0, 0)),
        ((1, 0, 0), (1, 0, 0)),
        ((2, 0, 0), (2, 0, 0)),
        ((0, 0, 1), (0, 0, 1)),
        ((0, None, 1), (0, 0, 1)),
    ],
)
def test_what_was_asked_for_is_in_the_terms_and_kept_by_both_ends(reference, asked, demanded):
    view = reference.ask(relay(withstand=OpenDemand(*asked) if asked else None, **REFERENCE_PAIR))
    assert (view.state, view.withstand) == ("confirmed", FixedDemand(*demanded))
    for end in ("kme-1", "kme-8"):
        assert reference.stores[end].relays.get(view.relay_id).withstand == FixedDemand(*demanded)


def test_what_no_plan_withstands_is_demanded_as_far_as_the_best_does_if_that_is_allowed(reference):
    view = reference.ask(relay(withstand=demand(2, 1, 0), allow_unprotected=True, **REFERENCE_PAIR))
    have = view.withstand
    assert (view.state, have.compromised + have.failed) == ("confirmed", 2)
    assert have.compromised <= 2


def test_neighbours_alone_in_their_network_are_asked_for_what_they_were():
    network = Network(of(["a", "b"], [("a", "b")]))
    view = network.ask(relay(source="a", target="b", withstand=demand(3, 2, 1)))
    assert (view.state, view.withstand) == ("confirmed", FixedDemand(compromised=3, failed=2, tampering=1))


def test_relays_under_way_are_bounded(monkeypatch):
    monkeypatch.setattr(module, "UNDECIDED_MAX", 2)
    network = Network(DIAMOND)
    network.stop("kme-4")
    for _ in range(2):
        assert network.relay("kme-1", "kme-4").state == "started"
    text, hint = refused(network, relay())
    assert text == "2 relays are under way"
    assert "later" in hint


@pytest.mark.parametrize("name", ["", "abc", "xyz1", "0123" * 9, "%", "____", "0000'--"])
def test_what_is_no_relay_id_is_refused(network, name):
    text, hint = refused(network, ShowRequest(relay=name, follow=False))
    assert repr(name) in text
    assert "4 hexadecimal digits" in hint


def test_a_relay_nobody_knows_is_refused(network):
    text, hint = refused(network, ShowRequest(relay=str(uuid4()), follow=False))
    assert "there is no relay" in text
    assert "coordinator relays" in hint


def test_a_relay_is_found_by_a_beginning_of_its_id_that_is_its_alone(network):
    ids = [UUID(int=(0xABCD << 112) + n + new_relay_id(NOW).node) for n in (1 << 80, 2 << 90)]
    for relay_id in ids:
        network.ask(relay(relay_id=relay_id))
    text = refused(network, ShowRequest(relay="abcd", follow=False))[0]
    assert text == f"the ids of several relays begin with 'abcd': {ids[0]}, {ids[1]}"
    for relay_id in ids:
        assert network.ask(ShowRequest(relay=str(relay_id).upper(), follow=False)).relay_id == relay_id
    assert network.ask(ShowRequest(relay=ids[0].hex[:12], follow=False)).relay_id == ids[0]


@pytest.mark.parametrize(
    ("a", "b", "named", "hinted"),
    [
        ("kme-1", "kme-4", "no QKD link between kme-1 and kme-4", "kme-1 is linked to kme-2, kme-3"),
        ("kme-1", "kme-9", "'kme-9'", "did you mean"),
        ("kme-1", "kme-1", "kme-1", ""),
    ],
)
def test_a_link_that_is_not_there_is_refused(network, a, b, named, hinted):
    text, hint = refused(network, LinkRequest(a=a, b=b, up=False))
    assert named in text
    assert hinted in hint


def test_without_the_lab_its_commands_say_so(network):
    for request in (LabRequest(kme="kme-2", mode="leak"), AttackRequest(relay="abcd", kmes=())):
        text, hint = refused(network, request)
        assert text == "the lab is off"
        assert "LAB=1" in hint


def test_a_lab_command_for_a_kme_that_is_not_there_is_refused():
    assert "'kme-9'" in refused(Network(DIAMOND, lab=True), LabRequest(kme="kme-9", mode="leak"))[0]


def test_a_command_that_a_kme_does_not_answer_is_said_to_wait_for_it():
    network = Network(DIAMOND)
    client = MemoryClient(network.hub)
    network.stop("kme-2")
    body = LinkRequest(a="kme-1", b="kme-2", up=False)
    asker = network.asker(client.address)
    request, signed = asker.request(body)
    client.send(signed)
    network.later(0.0)
    network.later(4.9)
    assert client.receive(0.0) is None
    network.later(0.2)
    answer = asker.answer(client.receive(0.0)[2], {request.request_id}).body
    assert answer.text == "kme-2 did not answer within 5 s"
    network.resume("kme-2")
    assert network.stores["kme-2"].waiting.links_down() == {"kme-1"}


def test_the_network_is_shown_as_the_kmes_say_it_is():
    network = Network(DIAMOND, lab=True)
    assert isinstance(network.ask(LinkRequest(a="kme-2", b="kme-1", up=False)), Acknowledged)
    network.ask(LabRequest(kme="kme-3", mode="tamper"))
    network.stop("kme-4")
    network.later(12.0)
    view = network.ask(NetworkRequest())
    assert (view.name, view.lab, view.links, view.down) == ("diamond", True, DIAMOND.links, (("kme-1", "kme-2"),))
    kmes = {kme.name: kme for kme in view.kmes}
    assert list(kmes) == list(DIAMOND.kmes)
    assert kmes["kme-3"].lab_mode == "tamper"
    assert kmes["kme-4"].heard_s_ago >= 12.0 > kmes["kme-3"].heard_s_ago
    assert {(link.peer, link.up) for link in kmes["kme-1"].links} == {("kme-2", False), ("kme-3", True)}


def test_the_latest_relays_are_listed_newest_first():
    network = Network(DIAMOND)
    made = []
    for _ in range(3):
        network.time.forward(1.0)
        made.append(network.relay("kme-1", "kme-4").relay_id)
    view = network.ask(RelaysRequest(limit=2, supply=False))
    assert [each.relay_id for each in view.relays] == made[:0:-1]
    assert view.total == 3


def test_a_clock_that_is_off_by_more_than_five_seconds_raises_an_alarm(capsys):
    network = Network(DIAMOND)
    capsys.readouterr()
    network.time.forward(20.0)
    ahead = network.loops["kme-2"]
    ahead.clock = lambda: network.time() + 5.5
    network.settle()
    said = [line for line in capsys.readouterr().out.splitlines() if "clock.skewed" in line]
    assert len(said) == 1
    assert "kme-2" in said[0]
    assert "+5.5 s" in said[0]


# --- the plan of a relay ----------------------------------------------------------------------------


REFERENCE_PAIR = {"source": "kme-1", "target": "kme-8"}
WAIST = Topology(
    "waist",
    tuple("sabxcdt"),
    tuple((a, b) for a, b in ("sa", "sb", "ax", "bx", "xc", "xd", "ct", "dt")),
    {},
    {"x": "trusted"},
)


@pytest.fixture(scope="module")
def reference():
    return Network()


def demand(compromised=1, failed=0, tampering=0):
    return OpenDemand(compromised=compromised, failed=failed, tampering=tampering)


@pytest.mark.parametrize(("policy", "messages"), [(None, 9), ("recursive", 17), ("disjoint", 9), ("best", 9)])
def test_a_relay_takes_the_plan_of_its_policy(reference, policy, messages):
    view = reference.ask(relay(policy=policy, **REFERENCE_PAIR))
    assert view.policy == (policy or "best")
    assert (view.planned_share_messages, view.protected) == (messages, True)


def test_best_takes_as_few_paths_as_the_demand_takes(reference):
    view = reference.ask(relay(policy="best", withstand=demand(1, 0), **REFERENCE_PAIR))
    assert (view.state, view.planned_share_messages) == ("confirmed", 6)


def test_what_the_policy_asked_for_cannot_another_is_named_for(reference):
    text, hint = refused(reference, relay(withstand=demand(1, 1), policy="recursive", **REFERENCE_PAIR))
    assert text == "no recursive plan from kme-1 to kme-8 withstands compromised=1,failed=1"
    assert hint == "--policy best does, with 9 share messages"


def test_of_equally_good_paths_those_with_more_key_left_are_taken():
    """Two disjoint paths of three are taken; the one whose first link is nearly dry is the third."""
    network = Network(THREE_WAYS)
    before = network.ask(relay(source="s", target="t", withstand=demand(1, 0)))
    used = decode_plan(before.plan).successors("s")
    dry, spare = (
        used[0],
        *({"a", "b", "c"} - set(used)),
    )
    network.limit_key("s", dry, network.time, rate_bps=1, buffer_bytes=1 << 20)
    network.drain("s", dry)
    network.later(60.0)
    after = network.ask(relay(source="s", target="t", withstand=demand(1, 0)))
    assert set(decode_plan(after.plan).successors("s")) == {used[1], spare}


def test_what_no_plan_can_is_refused_with_the_bound_and_the_best_there_is(reference):
    text, hint = refused(reference, relay(withstand=demand(2, 1), **REFERENCE_PAIR))
    assert text.endswith("3 disjoint paths join kme-1 and kme-8, and that takes 4")
    assert hint == "possible with policy best: --withstand compromised=2,failed=0"
    text, hint = refused(reference, relay(withstand=demand(2, 1), policy="recursive", **REFERENCE_PAIR))
    assert text == "no recursive plan from kme-1 to kme-8 withstands compromised=2,failed=1"
    assert hint == "possible with policy recursive: --withstand compromised=1,failed=0"


def test_an_unknown_policy_is_refused(reference):
    text, hint = refused(reference, relay(policy="clever", **REFERENCE_PAIR))
    assert text == "there is no policy 'clever'"
    assert hint == "known: best, disjoint, recursive, trusted"


def test_trust_in_a_kme_is_asked_for_by_name_and_shown():
    network = Network(WAIST, withstand_compromised=0)
    _, hint = refused(network, relay(source="s", target="t"))
    assert hint == (
        "a plan that does if x can be trusted, as the topology says, is taken with --allow-unprotected,"
        " if the settings of both ends allow it, too (QKDRELAY_WITHSTAND_COMPROMISED=0)"
    )
    view = network.ask(relay(source="s", target="t", allow_unprotected=True))
    assert (view.state, view.policy, view.protected, view.relies_on) == ("confirmed", "trusted", False, ("x",))


def test_to_ask_for_no_protection_is_not_to_allow_none():
    network = Network(LINE, withstand_compromised=0)
    text, hint = refused(network, relay(source="a", target="c", withstand=demand(0, 0)))
    assert text == "one compromised KME could learn keys relayed from a to c"
    assert hint.startswith("--allow-unprotected")


def test_where_there_is_nobody_else_a_relay_is_protected():
    view = Network(of(["a", "b"], [("a", "b")])).ask(relay(source="a", target="b"))
    assert (view.state, view.protected) == ("confirmed", True)


def test_who_does_not_follow_is_told_once_how_the_relay_ended():
    network = Network(DIAMOND)
    client, answers, request = MemoryClient(network.hub), [], relay(follow=False)
    asker = network.asker(client.address)
    asked, _ = asker.request(request)
    for _ in range(2):
        client.send(asker.request(request, asked.request_id)[1])
        network.settle()
        while (message := client.receive(0.0)) is not None:
            answers.append(asker.answer(message[2], {asked.request_id}).body)
    # Asked twice it is one relay, and each asking has its answer.
    assert [(type(answer), answer.state) for answer in answers] == [(RelaySummary, "confirmed")] * 2
    assert {answer.relay_id for answer in answers} == {request.relay_id}
