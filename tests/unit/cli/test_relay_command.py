"""`coordinator relay` from request to exit status."""

from __future__ import annotations

from uuid import UUID

from qkdrelay.errors import BrokerUnreachableError
from qkdrelay.messages.keys import key_id
from qkdrelay.messages.relay_ids import new_relay_id
from qkdrelay.network.names import COORDINATOR
from qkdrelay.network.topology import Topology
from support.plans import REFERENCE_RELAY, TOPOLOGIES

PLANNED_7_8 = ["kme-1>kme-3>kme-7>kme-8", "kme-1>kme-4>kme-7>kme-8"]


def test_a_confirmed_relay_is_told_in_few_lines(here):
    relay_id = str(new_relay_id(here.clock()))
    result = here.run(*REFERENCE_RELAY, "--keys", "10", "--id", relay_id)
    assert result.code == 0
    assert result.err == ""
    lines = result.out.splitlines()
    assert lines[0].startswith("confirmed  kme-1 to kme-8, 10 keys of 256 bits, in ")
    assert f"relay       {relay_id}" in lines
    assert f"key ids     {key_id(UUID(relay_id), 0)}" in lines
    assert "            ... and 7 more (--json has all)" in lines
    assert "shares      17 of 17 crossed their links; 7 of 7 reached kme-8" in lines
    assert all(len(line) <= 80 for line in lines)


def test_the_keys_of_both_ends_have_the_ids_it_prints(here):
    data = here.run(*REFERENCE_RELAY, "--keys", "5", "--key-size", "128", "--json").data
    relay_id = UUID(data["relay_id"])
    assert data["key_ids"] == [str(key_id(relay_id, i)) for i in range(5)]
    keys = here.network.keys("kme-1", relay_id)
    assert keys == here.network.keys("kme-8", relay_id)
    assert len(keys) == 5 * 16


def test_json_has_the_whole_outcome(here):
    data = here.run(*REFERENCE_RELAY, "--json").data
    assert data["elapsed_s"] >= 0
    assert {
        name: data[name]
        for name in data.keys() - {"relay_id", "key_ids", "elapsed_s", "created_at", "shares", "planned_shares"}
    } == {
        "source": "kme-1",
        "target": "kme-8",
        "state": "confirmed",
        "reason": "",
        "policy": "recursive",
        "withstand": {"compromised": 1, "failed": 0, "tampering": 0},
        "protected": True,
        "relies_on": [],
        "key_count": 1,
        "key_size_bits": 256,
        "share_messages": 17,
        "planned_share_messages": 17,
        "missing": [],
        "stuck": [],
        "short_splits": [],
        "false_shares": [],
        "disputed": [],
        "equivocating": [],
        "released_at": ["kme-8", "kme-1"],
        "final": True,
    }
    assert data["shares"] == data["planned_shares"]
    assert sum(data["shares"].values()) == 17
    assert data["shares"]["kme-5>kme-8"] == 2
    assert data["shares"]["kme-6>kme-8"] == 3


def test_by_default_the_best_plan_is_taken_as_the_list_of_plans_says(here, run):
    data = here.run("relay", "kme-1", "kme-8", "--json").data
    assert (data["state"], data["policy"], data["planned_share_messages"]) == ("confirmed", "best", 9)
    topology = str(TOPOLOGIES / "eight-kmes.toml")
    listed = run("plan", "kme-1", "kme-8", "--topology", topology, "--json").data["plans"]
    [chosen] = [plan for plan in listed if plan["chosen"]]
    assert chosen["policy"] == "best"
    assert (chosen["withstands"]["compromised"], chosen["withstands"]["failed"]) == (1, 1)
    used = {f"{kme}>{after}" for kme, successors in chosen["successors"].items() for after in successors}
    assert used == set(data["shares"])


def test_the_policy_and_what_is_to_be_withstood_are_the_askers_choice(here):
    data = here.run("relay", "kme-1", "kme-8", "--withstand", "compromised=2,failed=0", "--json").data
    assert (data["state"], data["policy"], data["planned_share_messages"]) == ("confirmed", "best", 9)
    assert here.run("relay", "kme-1", "kme-8", "--policy", "recursive", "--json").data["policy"] == "recursive"


def test_a_wish_that_cannot_be_met_is_refused_with_an_alternative(here):
    result = here.run(*REFERENCE_RELAY, "--withstand", "failed=1")
    assert (result.code, result.out) == (2, "")
    assert result.err == (
        "error: no recursive plan from kme-1 to kme-8 withstands compromised=1,failed=1\n"
        "hint: --policy best does, with 9 share messages\n"
    )
    assert here.run("relays", "--json").data["total"] == 0


def test_a_relay_that_relies_on_trusted_kmes_is_labelled_so(place):
    ends = tuple((a, b) for a, b in ("sa", "sb", "ax", "bx", "xc", "xd", "ct", "dt"))
    here = place(topology=Topology("waist", tuple("sabxcdt"), ends, {}, {"x": "trusted"}), withstand_compromised=0)
    refused = here.run("relay", "s", "t")
    assert (refused.code, refused.out) == (2, "")
    assert "if x can be trusted, as the topology says, is taken with --allow-unprotected" in refused.err
    told = here.run("relay", "s", "t", "--allow-unprotected")
    assert told.code == 0
    assert "relies on   the honesty of x\n" in told.out
    data = here.run("relay", "s", "t", "--allow-unprotected", "--json").data
    assert (data["policy"], data["protected"], data["relies_on"]) == ("trusted", False, ["x"])


def test_what_is_withstood_less_than_was_asked_for_is_said(here):
    wish = ("--withstand", "compromised=3,failed=0", "--allow-unprotected")
    told = here.run("relay", "kme-1", "kme-8", *wish)
    assert (told.code, "withstands less than was asked for" in told.err) == (0, True), told
    assert "compromised 2, not 3" in told.err
    enough = here.run("relay", "kme-1", "kme-8", "--withstand", "compromised=2,failed=0", "--allow-unprotected")
    assert (enough.code, enough.err) == (0, "")


def test_a_broken_link_is_named_and_does_not_stop_the_relay(here):
    assert here.run("link", "down", "kme-7", "kme-8").out == "the QKD link kme-7 - kme-8 is down\n"
    result = here.run(*REFERENCE_RELAY)
    assert result.code == 0
    assert "15 of 17 crossed their links; 5 of 7 reached kme-8" in result.out
    at = result.out.index("missing     waits at kme-7: the QKD link to kme-8 is down")
    assert all(route in result.out[at:] for route in PLANNED_7_8)


def test_a_broken_link_in_json(here):
    here.run("link", "down", "kme-8", "kme-7")
    data = here.run(*REFERENCE_RELAY, "--json").data
    assert data["state"] == "confirmed"
    assert (data["share_messages"], data["planned_share_messages"]) == (15, 17)
    assert data["shares"]["kme-7>kme-8"] == 0
    assert [">".join(route) for route in data["missing"]] == PLANNED_7_8
    assert {stuck["reason"] for stuck in data["stuck"]} == {"link.down"}


def test_a_link_that_is_up_again_carries(here):
    here.run("link", "down", "kme-7", "kme-8")
    assert here.run("link", "up", "kme-7", "kme-8").code == 0
    assert here.run(*REFERENCE_RELAY, "--json").data["shares"]["kme-7>kme-8"] == 2


def test_a_failed_relay_exits_1_and_says_what_was_missing(here):
    here.stop("kme-6")
    here.run("link", "down", "kme-7", "kme-8")
    result = here.run(*REFERENCE_RELAY, "--timeout", "5")
    assert result.code == 1
    assert result.out.startswith("failed  kme-1 to kme-8")
    assert "missing     no news from kme-6\n              kme-1>kme-2>kme-6>kme-8\n" in result.out
    assert "too few     the split on kme-1 has 0 of the 2 shares it needs" in result.out
    assert "key ids" not in result.out


def test_a_failed_relay_has_no_keys_in_json(here):
    here.stop("kme-8")
    result = here.run(*REFERENCE_RELAY, "--timeout", "2", "--json")
    assert result.code == 1
    assert result.data["state"] == "failed"
    assert result.data["key_ids"] == []
    assert result.data["reason"] == "the target kme-8 did not answer in time"


def test_a_false_share_is_named_by_its_route(lab):
    assert lab.run("lab", "compromise", "kme-2", "--mode", "tamper").code == 0
    result = lab.run(*REFERENCE_RELAY)
    assert result.code == 0
    assert (
        "false       a KME on the route, the splitter included, altered the share\n            kme-1>kme-2\n"
        in result.out
    )
    assert lab.run(*REFERENCE_RELAY, "--json").data["false_shares"] == [["kme-1", "kme-2"]]


def test_disputed_shares_are_listed_by_the_sets_that_disagree(lab):
    lab.run("lab", "compromise", "kme-5", "--mode", "tamper")
    lab.run("link", "down", "kme-7", "kme-8")
    result = lab.run(*REFERENCE_RELAY, "--timeout", "2")
    assert result.code == 1
    assert (
        "disputed    the shares of the split on kme-1>kme-2 do not fit together:\n"
        "              kme-1>kme-2>kme-5>kme-8\n"
        "              kme-1>kme-2>kme-6>kme-8\n"
    ) in result.out


def test_late_shares_are_waited_for_as_long_as_asked(here):
    here.stop("kme-5")
    here.after(3, here.stop)
    begun = here.clock.now
    data = here.run(*REFERENCE_RELAY, "--linger", "10", "--json").data
    assert data["share_messages"] == 17
    assert data["final"]
    assert here.clock.now - begun < 4


def test_without_lingering_late_shares_are_not_waited_for(here):
    here.stop("kme-5")
    begun = here.clock.now
    data = here.run(*REFERENCE_RELAY, "--linger", "0", "--json").data
    assert data["state"] == "confirmed"
    assert data["share_messages"] < 17
    assert here.clock.now - begun < 1


def test_a_broker_lost_after_the_decision_does_not_change_it(here):
    def lose():
        raise BrokerUnreachableError("the connection to the broker was lost")

    here.stop("kme-5")
    here.after(2, lose)
    result = here.run(*REFERENCE_RELAY, "--linger", "5")
    assert (result.code, result.err) == (0, "")
    assert result.out.startswith("confirmed")


def test_no_wait_prints_the_id_of_a_relay_the_coordinator_knows(here):
    here.stop("kme-1")
    begun = here.clock.now
    result = here.run(*REFERENCE_RELAY, "--no-wait")
    assert result.code == 0
    assert here.clock.now - begun < 1
    assert here.network.show(UUID(result.out.strip())).state == "planned"


def test_asking_twice_with_one_id_starts_one_relay(here):
    relay_id = str(new_relay_id(here.clock()))
    first = here.run(*REFERENCE_RELAY, "--id", relay_id, "--json").data
    again = here.run(*REFERENCE_RELAY, "--id", relay_id, "--json").data
    assert first == again
    assert len(here.run("relays", "--json").data["relays"]) == 1


def test_a_silent_coordinator_is_no_failure_of_the_relay(here):
    here.stop(COORDINATOR)
    begun = here.clock.now
    relay_id = str(new_relay_id(here.clock()))
    result = here.run(*REFERENCE_RELAY, "--id", relay_id)
    assert (result.code, result.out) == (3, "")
    assert here.clock.now - begun < 6
    error, hint = result.err.splitlines()
    assert error == "error: the broker took the request, but the coordinator did not answer within 5 s"
    assert hint.startswith("hint: look whether the coordinator is running")
    assert f"coordinator show {relay_id}" in hint


def test_a_restarted_coordinator_is_found_again(place, tmp_path):
    here = place(folder=tmp_path)
    here.stop("kme-1")
    here.after(1, lambda: here.stop("kme-1", COORDINATOR))
    here.after(9, lambda: (here.restart(COORDINATOR), here.stop()))
    result = here.run(*REFERENCE_RELAY, "--timeout", "30")
    assert result.code == 0
    assert result.out.startswith("confirmed")
    assert result.err == "the coordinator has become silent; waiting for it\n"


def test_a_coordinator_that_stays_away_is_given_up_after_the_deadline(here):
    here.stop("kme-1")
    here.after(1, lambda: here.stop("kme-1", COORDINATOR))
    begun = here.clock.now
    result = here.run(*REFERENCE_RELAY, "--timeout", "8")
    assert result.code == 3
    assert "has not said in time how the relay ended; last it was planned" in result.err
    assert 8 < here.clock.now - begun < 25


def test_while_it_waits_it_asks_again_but_is_answered_once(here):
    here.stop("kme-1")
    result = here.run(*REFERENCE_RELAY, "--timeout", "10")
    assert result.code == 1
    assert here.sent > 3
    assert here.network.loops[COORDINATOR].service.subscriptions.followers_count() <= 1
