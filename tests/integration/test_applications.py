"""Keys for applications on a whole network in one process: what one SAE takes, the other fetches, and nobody else."""

import base64

import pytest
from prometheus_client import generate_latest

from kme.applications import (
    MANDATORY_NOT_MET,
    BadRequestError,
    KeyRequest,
    NotAllowedError,
    PairStatus,
    TryLaterError,
)
from qkdrelay.errors import StoreError, TopologyError
from qkdrelay.messages.assignments import Assign, NoSupply, Supplies
from qkdrelay.network.directory import Directory, PairSettings, Sae
from support.applications import DIRECTORY, SAES, Applications, Whole, caller
from support.memory import FailingCommits
from support.network import Killed


@pytest.fixture
def network():
    return Applications()


@pytest.fixture
def stored(tmp_path):
    """The same network, with stores that survive a start."""
    return Applications(folder=tmp_path)


def same(network, taken, slave, master):
    fetched = network.fetch(slave, master, [key.key_id for key in taken])
    assert [(key.key_id, key.key) for key in fetched] == [(key.key_id, key.key) for key in taken]
    return True


@pytest.mark.parametrize(("number", "size_bits"), [(1, 256), (128, 256), (5, 1_024), (3, 64), (2, 65_536)])
def test_what_the_master_takes_the_slave_fetches_three_hops_away(network, number, size_bits):
    taken = network.take("sae-1", "sae-8", number, size_bits)
    assert len({key.key for key in taken}) == number
    assert {len(key.key) * 8 for key in taken} == {size_bits}
    assert {(key.compromised, key.route) for key in taken} == {(1, "relayed")}
    assert same(network, taken, "sae-8", "sae-1")
    with pytest.raises(BadRequestError):
        network.fetch("sae-8", "sae-1", [taken[0].key_id])


def test_nobody_else_fetches_them(network):
    taken = network.take("sae-1", "sae-8")
    for slave, master, error in (
        ("sae-9", "sae-1", NotAllowedError),
        ("sae-8", "sae-2", BadRequestError),
        ("sae-5", "sae-1", BadRequestError),
    ):
        with pytest.raises(error):
            network.fetch(slave, master, [taken[0].key_id])
    assert same(network, taken, "sae-8", "sae-1")


def test_two_saes_of_one_kme_need_no_relay(network):
    taken = network.take("sae-1", "sae-2", 3)
    assert {key.route for key in taken} == {"local"}
    assert same(network, taken, "sae-2", "sae-1")
    assert network.courier.relays == {}


def test_both_directions_and_all_pairs_have_keys_of_their_own(network):
    pairs = [("sae-1", "sae-8"), ("sae-8", "sae-1"), ("sae-2", "sae-8"), ("sae-1", "sae-9"), ("sae-5", "sae-1")]
    taken = {pair: network.take(*pair, 40) for pair in pairs}
    assert len({key.key for keys in taken.values() for key in keys}) == 200
    for (master, slave), keys in taken.items():
        assert same(network, keys, slave, master)


def test_a_cold_pair_of_kmes_is_answered_with_its_first_relay(network):
    assert network.courier.relays == {}
    taken = network.take("sae-1", "sae-8")
    assert len(network.courier.relays) == 1
    assert same(network, taken, "sae-8", "sae-1")


def test_ready_keys_are_served_while_coordinator_and_broker_are_down(network):
    network.take("sae-1", "sae-8")
    broker = network.loops["kme-1"].broker
    broker._connect = lambda: None
    with network.hub.lock:
        broker._here.lose()
    network.settle()
    keys = network.keys_of["kme-1"]
    answers = [keys.take(caller("sae-1"), KeyRequest("sae-8", number, 256)) for number in (64, 64, 127, 2)]
    network.settle()
    assert [len(answer.result(timeout=0)) for answer in answers[:3]] == [64, 64, 127]


@pytest.mark.parametrize(
    ("master", "slave", "error"),
    [
        ("sae-1", "sae-7", BadRequestError),
        ("sae-1", "sae-1", NotAllowedError),
    ],
)
def test_who_may_not_gets_nothing(network, master, slave, error):
    with pytest.raises(error):
        network.take(master, slave)
    assert network.courier.relays == {}


def test_an_sae_of_another_kme_or_with_another_certificate_gets_nothing(network):
    keys = network.keys_of["kme-1"]
    pinned = {**DIRECTORY.saes, "sae-2": Sae("sae-2", "kme-1", "11" * 32)}
    network.directories["kme-1"] = Directory(pinned)
    network.pass_time(1.1)
    answers = [keys.take(caller(sae), KeyRequest("sae-8", 1, 256)) for sae in ("sae-8", "sae-2", "nobody")]
    network.courier.run()
    for answer in answers:
        with pytest.raises(NotAllowedError):
            answer.result(timeout=0)


def test_pairs_that_are_not_listed_get_nothing_where_only_those_that_are_do(network):
    listed = Directory(DIRECTORY.saes, {("sae-1", "sae-8"): PairSettings()}, only_pairs=True)
    for kme in network.directories:
        network.directories[kme] = listed
    network.pass_time(1.1)
    assert same(network, network.take("sae-1", "sae-8"), "sae-8", "sae-1")
    with pytest.raises(NotAllowedError):
        network.take("sae-1", "sae-9")


# --- status, and what a client demands -----------------------------------------------------------------


def status(network, master, slave):
    answer = network.keys_of[SAES[master]].status(caller(master), slave)
    network.courier.run()
    return answer.result(timeout=0)


def test_a_status_says_what_there_is_and_has_supply_fetched_for_who_will_ask(network):
    assert status(network, "sae-1", "sae-8") == PairStatus("kme-1", "kme-8", 0, 1)
    network.pass_time(1.1)
    there = status(network, "sae-1", "sae-8").stored_key_count
    assert there == 32_768 // 32
    assert len(network.take("sae-1", "sae-8", 100)) == 100
    assert status(network, "sae-1", "sae-8").stored_key_count >= there - 100
    assert status(network, "sae-1", "sae-2").stored_key_count == 2**31 - 1
    with pytest.raises(BadRequestError):
        status(network, "sae-1", "nobody")


def test_keys_of_the_level_that_is_demanded_are_given_or_it_is_said_that_there_can_be_none(network):
    def on_supplies(kme, report):
        for wanted in report.outgoing:
            if wanted.level > 1:
                best = NoSupply(target=wanted.target, level=wanted.level, best=1, reason="no plan withstands so many")
                network.courier.tell(kme, best)

    assert network.take("sae-1", "sae-8", level=0)[0].compromised == 1  # the pair's settings demand as much
    network.courier.on_supplies = on_supplies
    answer = network.ask("sae-1", "sae-8", level=2)
    with pytest.raises(BadRequestError, match=MANDATORY_NOT_MET) as refused:
        answer.result(timeout=0)
    assert refused.value.details == ({"qkdrelay_compromised": 1},)


def test_a_direct_link_satisfies_any_demand_and_nothing_else_satisfies_all(network):
    (key,) = network.take("sae-5", "sae-8", level=50)
    assert key.route == "direct"
    with pytest.raises(BadRequestError, match=MANDATORY_NOT_MET):
        network.take("sae-1", "sae-8", level=50)


# --- starts, commits that fail, and time ---------------------------------------------------------------


def test_a_start_of_the_masters_kme_burns_what_was_ready_and_nothing_is_given_twice(stored):
    before = stored.take("sae-1", "sae-8", 3)
    stored.restart("kme-1")
    stored.courier.run()
    after = stored.take("sae-1", "sae-8", 3)
    assert not {key.key for key in before} & {key.key for key in after}
    assert same(stored, after, "sae-8", "sae-1")
    assert same(stored, before, "sae-8", "sae-1")
    assert len(stored.courier.relays) == 2


def test_a_start_of_the_slaves_kme_has_what_is_ready_asked_for_again_and_costs_nothing(stored):
    stored.take("sae-1", "sae-8")
    stored.restart("kme-8")
    taken = stored.take("sae-1", "sae-8", 100)
    assert same(stored, taken, "sae-8", "sae-1")
    assert len(stored.courier.relays) == 1
    asked = [report.assignment.assign_id for _, report in stored.courier.said(Assign)]
    assert len(asked) > len(set(asked))


def test_keys_that_the_slaves_kme_lost_with_its_store_are_not_handed_out(stored):
    before = stored.copy_store("kme-8")
    stored.take("sae-1", "sae-8")
    stored.restart("kme-8", before)
    stored.courier.run()
    taken = stored.take("sae-1", "sae-8", 5)
    assert same(stored, taken, "sae-8", "sae-1")
    assert len(stored.courier.relays) == 2


def test_an_sae_struck_off_at_its_kme_ends_what_was_ready_for_it_elsewhere(network):
    network.take("sae-1", "sae-8")
    network.directories["kme-8"] = Directory({k: v for k, v in DIRECTORY.saes.items() if k != "sae-8"})
    network.pass_time(1.1)
    answer = network.ask("sae-1", "sae-8")
    with pytest.raises(TryLaterError, match="kme-8 does not have both SAEs"):
        answer.result(timeout=0)
    assert same(network, network.take("sae-1", "sae-9"), "sae-9", "sae-1")


def test_a_request_that_waits_ends_after_some_seconds(network):
    network.courier.refills = False
    answer = network.ask("sae-1", "sae-8")
    network.pass_time(4.0)
    assert not answer.done()
    network.pass_time(1.5)
    with pytest.raises(TryLaterError, match="not enough keys"):
        answer.result(timeout=0)


def test_a_client_that_has_gone_takes_nothing_with_it(network):
    network.courier.refills = False
    gone = network.ask("sae-1", "sae-8", 100)
    assert gone.cancel()
    network.courier.refills = True
    network.pass_time(1.1)
    assert len(network.take("sae-1", "sae-8", 100)) == 100


@pytest.mark.parametrize("fails", [[True], [False, True], [True, True, True], [False, True, False, True]])
@pytest.mark.parametrize("kme", ["kme-1", "kme-8"])
def test_commits_that_fail_give_nothing_twice_and_leave_nothing_behind(network, kme, fails):
    first = network.take("sae-1", "sae-8", 3)
    failing = FailingCommits(network.loops[kme], fails)
    given = [*first]
    for _ in range(6):
        keys = network.keys_of["kme-1"]
        answer = keys.take(caller("sae-1"), KeyRequest("sae-8", 50, 256))
        carry_on(network)
        if answer.exception(timeout=0) is None:
            given += answer.result()
        else:
            assert "store cannot be written" in str(answer.exception())
    assert failing.failed == sum(fails)
    assert failing.left == set()
    assert len({key.key_id for key in given}) == len({key.key for key in given}) == len(given) > 100
    assert same(network, given, "sae-8", "sae-1")


def carry_on(network):
    for _ in range(1_000):
        try:
            return network.courier.run()
        except StoreError:
            pass
    raise AssertionError("there is no end")


# --- what is said of it --------------------------------------------------------------------------------


def test_no_key_is_in_any_line_of_the_log(network, capsys):
    capsys.readouterr()
    taken = network.take("sae-1", "sae-8", 128)
    network.fetch("sae-8", "sae-1", [key.key_id for key in taken])
    with pytest.raises(BadRequestError):
        network.take("sae-1", "nobody")
    said = capsys.readouterr().out
    assert said.count("keys.assigned") >= 1
    relays = network.loops["kme-1"].service._supply.source.memory.supply.of("kme-8")
    secrets = [*(key.key for key in taken), *(relay.tag_keys[:32] for relay in relays)]
    assert len(secrets) > 128
    for secret in secrets:
        for form in (repr(secret)[2:-1], secret.hex(), base64.b64encode(secret).decode()):
            assert form not in said


def figures(network, kme):
    loop = network.loops[kme]
    loop.measure()
    page = generate_latest(loop.service.metrics.registry).decode()
    rows = (line.rsplit(" ", 1) for line in page.splitlines() if not line.startswith("#"))
    return {name: float(value) for name, value in rows}


def test_the_metrics_count_supply_ready_keys_and_what_is_burned(network):
    network.take("sae-1", "sae-8", 5)
    seen = figures(network, "kme-1")
    assert seen['qkdrelay_ready_keys{target="kme-8"}'] >= 128
    assert seen['qkdrelay_supply_bytes{state="confirmed",target="kme-8"}'] > 0
    network.courier.refills = False
    ready = seen['qkdrelay_ready_bytes{target="kme-8"}']
    network.directories["kme-1"] = Directory({k: v for k, v in DIRECTORY.saes.items() if k != "sae-8"})
    network.pass_time(1.1)
    seen = figures(network, "kme-1")
    assert seen['qkdrelay_supply_burned_bytes_total{reason="directory"}'] == ready
    assert seen['qkdrelay_ready_keys{target="kme-8"}'] == 0
    network.ask("sae-2", "sae-9", 128, 65_536)
    assert figures(network, "kme-1")["qkdrelay_application_requests_waiting"] == 1
    network.pass_time(6.0)
    assert figures(network, "kme-1")["qkdrelay_application_waits_in_vain_total"] == 1


def test_the_coordinator_hears_of_supply_and_pairs_with_each_hello_and_at_once_of_what_is_dry(network):
    network.courier.refills = False
    network.ask("sae-1", "sae-8", 100)
    (kme, dry) = network.courier.said(Supplies)[-1]
    (wanted,) = dry.outgoing
    assert (kme, wanted.target, wanted.level, wanted.waiting) == ("kme-1", "kme-8", 1, 1)
    assert wanted.wanted_bytes >= 32_768 + 100 * 32
    network.courier.refills = True
    network.pass_time(1.1)
    network.pass_time(10.0)
    whole = next(report for kme, report in reversed(network.courier.said(Supplies)) if kme == "kme-1")
    (pair,) = whole.pairs
    assert (pair.master, pair.slave, pair.level, pair.handed_out, pair.low) == ("sae-1", "sae-8", 1, 100, False)
    assert pair.ready_keys >= 128
    assert pair.ready_bytes == pair.ready_keys * 32
    (supply,) = whole.outgoing
    assert supply.stored_bytes > 0
    assert supply.waiting == 0


def test_a_directory_that_is_broken_is_not_taken_over_and_that_is_said(network):
    network.take("sae-1", "sae-8")
    room = network.loops["kme-1"].service._supply

    def broken():
        raise TopologyError("saes.toml:3: not valid TOML")

    room._read = broken
    network.pass_time(1.1)
    assert "saes.toml:3" in room.remark
    assert len(network.take("sae-1", "sae-8")) == 1
    room._read = lambda: DIRECTORY
    network.pass_time(1.1)
    assert room.remark == ""


def test_a_service_that_ends_leaves_nobody_waiting(network):
    network.courier.refills = False
    answer = network.ask("sae-1", "sae-8")
    network.loops["kme-1"].service._supply.give_up(TryLaterError("the KME is stopping"))
    with pytest.raises(TryLaterError, match="stopping"):
        answer.result(timeout=0)


# --- kills ---------------------------------------------------------------------------------------------


class Mortal(Applications):
    """Goes on with a KME that was killed, from its store."""

    def settle(self):
        try:
            super().settle()
        except Killed:
            self.deaths += 1
            self.restart(self.victim)
            self.settle()

    deaths, victim = 0, ""


@pytest.mark.parametrize("kme", ["kme-1", "kme-8"])
@pytest.mark.parametrize("first", range(4))
def test_a_kme_killed_at_any_crash_point_gives_nothing_twice_and_nothing_that_cannot_be_fetched(kme, first, tmp_path):
    """At every fourth crash point of a cold pair's first request and two more, each time in a network of its own."""
    deaths = 0
    for point in range(first, 60, 4):
        network, given = Mortal(folder=tmp_path / str(point)), []
        network.victim = kme
        network.kill_at(kme, point)
        for number in (3, 128, 3):
            answer = network.ask("sae-1", "sae-8", number)
            network.pass_time(6.0)
            if answer.done() and answer.exception() is None:
                given += answer.result()
        given += network.take("sae-1", "sae-8", 5)
        assert len({key.key_id for key in given}) == len({key.key for key in given}) == len(given)
        assert same(network, given, "sae-8", "sae-1")
        deaths += network.deaths
    assert deaths > 3


# --- with the coordinator itself -----------------------------------------------------------------------


def test_the_coordinator_refills_and_carries_and_a_cold_pair_of_kmes_is_served():
    network = Whole()
    for master, slave in (("sae-1", "sae-8"), ("sae-8", "sae-1"), ("sae-2", "sae-9"), ("sae-5", "sae-8")):
        taken = network.take(master, slave, 128)
        assert len({key.key for key in taken}) == 128
        assert same(network, taken, slave, master)


def test_the_coordinator_says_that_no_plan_withstands_so_many():
    network = Whole()
    with pytest.raises(BadRequestError, match=MANDATORY_NOT_MET) as refused:
        network.take("sae-1", "sae-8", level=3)
    (details,) = refused.value.details
    assert details["qkdrelay_compromised"] in (1, 2)


def test_after_a_start_of_the_slaves_kme_the_coordinator_has_ready_keys_asked_for_again(tmp_path):
    network = Whole(folder=tmp_path)
    network.take("sae-1", "sae-8")
    network.restart("kme-8")
    taken = network.take("sae-1", "sae-8", 100)
    assert same(network, taken, "sae-8", "sae-1")


def test_everything_goes_on_after_a_start_of_the_coordinator(tmp_path):
    network = Whole(folder=tmp_path)
    given = network.take("sae-1", "sae-8", 128)
    network.restart("coordinator")
    network.pass_time(10.5)  # it knows nothing of the links before the KMEs' next hello
    for _ in range(12):
        network.pass_time(0.5)
        given += network.take("sae-1", "sae-8", 128)
    assert len({key.key for key in given}) == 13 * 128
    assert same(network, given, "sae-8", "sae-1")
