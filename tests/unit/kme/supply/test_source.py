"""The masters' side: what is cut when, who is served in which order, and what becomes of refusals and starts."""

import pytest

from kme.applications import BadRequestError, TryLaterError
from kme.supply.asking import TIMES_MAX
from kme.supply.demand import HOT_S
from kme.supply.figures import supplies
from kme.supply.model import ONLY_DIRECT, Pair, SupplyLimits, Want
from kme.supply.source import SourceSide
from qkdrelay.messages import codec
from qkdrelay.messages.assignments import Assign, NoSupply, PeerStarted
from qkdrelay.messages.reports import Reports
from qkdrelay.network.directory import Directory, PairSettings
from qkdrelay.service.batch import Batch
from support.supply import NOW, SAES, Draws, PlainTarget, Taker, supply_relay

PAIR, OTHER = Pair("m1", "s1"), Pair("m2", "s2")
KEYS = Want(PAIR, 256, 1)


class Source:
    """A source and the target beside it; nothing passes between them but by `deliver`."""

    def __init__(self, directory=SAES, **limits):
        self.batch, self.draws, self.now = Batch(), Draws(), NOW
        self.side = SourceSide("here", self.batch, self.draws, SupplyLimits(**limits))
        self.target, self.told, self.sent, self.events = PlainTarget(), {}, [], []
        self.do(self.side.adopt, directory, lambda pair: False, NOW)

    def do(self, change=lambda: None, *given, connected=True, **named):
        """Do it in a batch; return what was sent."""
        self.batch.begin()
        change(*given, **named)
        said = self.side.tick(self.now, connected=connected)
        self.told.update((answer.asker, answer.result) for answer in self.side.serving.answers)
        self.batch.end()
        sent = [each for each in said if isinstance(each, Assign)]
        self.sent += sent
        self.events += [each.event for each in said if not isinstance(each, Assign)]
        return sent

    def relay(self, *, confirmed=True, **what):
        relay = supply_relay(self.draws, **what)
        self.do(self.side.started, relay)
        if confirmed:
            self.confirm(relay)
        return relay

    def confirm(self, relay):
        self.target.relays[relay.relay_id] = relay
        self.do(self.side.confirmed, relay.relay_id, self.now)

    def ask(self, want=KEYS, number=1, *, demanded=False):
        taker = Taker()
        self.do(self.side.serving.take, taker, want, number, self.now, is_demanded=demanded)
        return taker

    def deliver(self):
        while self.sent:
            self.do(self.side.on_command, self.target.on_assign(self.sent.pop(0)), self.now)

    def command(self, message):
        return self.do(self.side.on_command, message, self.now)

    def refuse(self, assign, reason, byte=0, tag=0):
        self.command(assign.assignment.refused(reason, byte, tag))

    def ready(self, want=KEYS):
        return self.side.memory.ready.count(want, self.now)

    def stored(self, want=KEYS):
        return self.side.serving.stored(want, self.now)

    def later(self, seconds, **how):
        self.now += seconds
        return self.do(**how)


@pytest.fixture
def served():
    """A source with a pair in use: some keys are ready, and there is supply left."""
    source = Source()
    source.relay(size=32_768)
    source.ask()
    source.deliver()
    assert source.ready() >= 128
    return source


def error_of(source, taker):
    return type(source.told[taker]), str(source.told[taker])


# --- requests ------------------------------------------------------------------------------------------


def test_a_cold_pair_waits_for_one_assignment_and_the_next_request_is_served_at_once():
    source = Source()
    source.relay(size=32_768)
    first = source.ask()
    assert first not in source.told
    assert len(source.sent) == 1
    source.deliver()
    assert len(source.told[first]) == 1
    assert len(source.told[source.ask(number=128)]) == 128


def test_a_pair_that_is_not_in_use_has_nothing_cut_for_it():
    source = Source()
    source.relay(size=32_768)
    source.later(1.0)
    assert source.sent == []
    assert source.stored() == 1_024


def test_a_pair_in_use_has_its_stock_ready_again_after_each_request():
    source = Source()
    source.relay(size=262_144)
    for number in (1, 128, 128, 40, 128):
        source.ask(number=number)
        source.deliver()
        assert source.ready() >= 128


def test_the_stock_is_as_the_pairs_settings_say():
    source = Source(Directory(SAES.saes, {PAIR: PairSettings(stock=10)}))
    source.relay(size=32_768)
    source.ask()
    source.deliver()
    assert 10 <= source.ready() <= 20


def test_the_first_assignment_leaves_with_a_relay_that_begins_and_counts_once_that_is_confirmed():
    source = Source()
    taker = source.ask()
    assert source.sent == []
    relay = source.relay(confirmed=False, size=32_768)
    (assign,) = source.sent
    # The target has rebuilt and answers, but the answer is passed on before the confirmation.
    source.target.relays[relay.relay_id] = relay
    source.deliver()
    assert taker not in source.told
    assert source.ready() == 0
    source.confirm(relay)
    (key,) = source.told[taker]
    assert source.target.keys[key.key_id][1] == key.key
    assert assign.assignment.relay_id == relay.relay_id


def test_nothing_of_a_relay_that_failed_is_handed_out_whatever_is_answered():
    source = Source()
    taker = source.ask()
    relay = source.relay(confirmed=False, size=32_768)
    source.target.relays[relay.relay_id] = relay
    source.do(source.side.failed, relay.relay_id, source.now)
    source.deliver()
    source.do(source.side.confirmed, relay.relay_id, source.now)
    assert taker not in source.told
    assert (source.ready(), source.stored(), source.side.memory.holdings.all) == (0, 0, 0)


def test_before_the_confirmation_few_assignments_leave_for_the_target_has_to_keep_them():
    source = Source(waiters_each=20)
    for size in range(64, 64 + 20 * 8, 8):
        source.ask(Want(PAIR, size, 1))
    source.relay(confirmed=False, size=65_536)
    assert len(source.sent) == 8


def test_requests_for_the_same_are_served_in_the_order_in_which_they_came_and_all_or_nothing():
    source = Source()
    many, one = source.ask(number=128), source.ask(number=1)
    source.relay(size=2_048)  # 64 keys
    source.deliver()
    assert source.told == {}
    source.relay(size=2_048)
    source.deliver()
    assert len(source.told[many]) == 128
    assert one not in source.told
    source.relay(size=2_048)
    source.deliver()
    assert len(source.told[one]) == 1


def test_who_stands_behind_one_that_has_gone_is_served():
    source = Source()
    many, one = source.ask(number=128), source.ask(number=1)
    source.relay(size=2_048)
    source.deliver()
    many.gone = True
    source.do()
    assert many not in source.told
    assert len(source.told[one]) == 1


def test_what_was_assigned_for_somebody_who_has_gone_is_ready_for_the_next():
    source = Source()
    source.relay(size=2_048)
    taker = source.ask(number=60)
    taker.gone = True
    source.deliver()
    assert taker not in source.told
    assert len(source.told[source.ask(number=60)]) == 60


def test_a_request_waits_for_some_seconds_and_is_told_to_come_again():
    source = Source(wait_s=5.0)
    taker = source.ask()
    source.later(4.9)
    assert taker not in source.told
    assert source.side.wait_s(source.now) == pytest.approx(0.1)
    source.later(0.2)
    assert error_of(source, taker) == (TryLaterError, "there are not enough keys now")


def test_few_requests_of_one_sae_wait_and_bounded_in_all():
    source = Source(waiters=6, waiters_each=4)
    first = [source.ask() for _ in range(5)]
    other = [source.ask(Want(OTHER, 256, 1)) for _ in range(3)]
    assert [taker in source.told for taker in (*first, *other)] == [False] * 4 + [True] + [False] * 2 + [True]
    assert {error_of(source, taker)[0] for taker in (first[4], other[2])} == {TryLaterError}
    assert "m1" in error_of(source, first[4])[1]


def test_the_lowest_level_that_will_do_is_taken_and_a_direct_link_satisfies_any_demand():
    source = Source(Directory(SAES.saes, {PAIR: PairSettings(stock=1)}))
    for level in (3, 2, 1):
        source.relay(level=level, size=2_048)
    for demanded in (1, 2, 3):
        taker = source.ask(Want(PAIR, 4_096, demanded))
        source.deliver()
        assert [key.compromised for key in source.told[taker]] == [demanded]
    source.relay(level=0, route="direct", size=2_048)
    taker = source.ask(Want(PAIR, 16_384, ONLY_DIRECT))
    source.deliver()
    assert [(key.compromised, key.route) for key in source.told[taker]] == [(0, "direct")]


def test_no_relayed_key_meets_a_demand_above_all_levels():
    source = Source()
    source.relay(level=9, size=2_048)
    taker = source.ask(Want(PAIR, 256, ONLY_DIRECT))
    source.later(6.0)
    assert isinstance(source.told[taker], TryLaterError)
    assert source.sent == []


@pytest.mark.parametrize(("demanded", "kind"), [(True, BadRequestError), (False, TryLaterError)])
def test_where_the_network_has_no_such_plan_who_demanded_it_hears_never_and_others_later(demanded, kind):
    source = Source()
    want = Want(PAIR, 256, 2)
    waiting = source.ask(want, demanded=demanded)
    source.command(NoSupply(target="there", level=2, best=1, reason="no plan"))
    soon = source.ask(want, demanded=demanded)
    for taker in (waiting, soon):
        assert type(source.told[taker]) is kind
        assert source.told[taker].details == ({"qkdrelay_compromised": 1},)
    source.later(6.0)
    assert source.ask(want, demanded=demanded) not in source.told


def test_keys_that_are_there_are_handed_out_whatever_the_coordinator_says(served):
    served.command(NoSupply(target="there", level=1, best=0, reason="no plan"))
    assert len(served.told[served.ask()]) == 1


def test_why_there_is_nothing_is_in_the_error():
    source = Source()
    taker = source.ask()
    source.later(3.0)
    source.command(NoSupply(target="there", level=1, best=None, reason="no link key"))
    source.later(2.5)
    assert error_of(source, taker) == (TryLaterError, "there are not enough keys now (no link key)")


# --- answers and refusals ------------------------------------------------------------------------------


def test_an_assignment_is_sent_again_byte_for_byte_at_growing_intervals_and_given_up():
    source = Source()
    source.relay(size=2_048)
    source.ask()
    (first,) = source.sent
    intervals, last = [], source.now
    for _ in range(TIMES_MAX):
        wait_s = source.side.memory.asking.wait_s(source.now)
        assert wait_s > 0
        if again := source.later(wait_s + 0.001):
            assert again == [first]
            intervals.append(source.now - last)
            last = source.now
    assert len(intervals) == TIMES_MAX - 1
    assert intervals == sorted(intervals)
    assert (len(source.side.memory.asking), source.side.memory.holdings.all) == (0, 0)
    assert source.events.count("keys.burned") == 1


def test_nothing_is_sent_while_nobody_can_hear_it_and_nothing_is_given_up():
    source = Source()
    source.relay(size=2_048)
    source.ask()
    for _ in range(100):
        assert source.later(1_000.0, connected=False) == []
    assert len(source.side.memory.asking) == 1
    assert len(source.later(0.0)) == 1


@pytest.mark.parametrize(
    ("byte", "tag", "left"), [(0, 0, 24_576), (30_000, 0, 2_768), (0, 15, 24_576), (0, 16, 0), (2**62, 2**62, 0)]
)
def test_a_refusal_burns_those_keys_and_its_hint_only_raises_the_cursor_within_the_relay(byte, tag, left):
    source = Source()
    relay = source.relay(size=32_768)
    source.ask().gone = True
    assert source.sent[0].assignment.length == 8_192
    source.side.memory.demand.drop([KEYS])
    source.refuse(source.sent[0], "range", byte=byte, tag=tag)
    kept = source.side.memory.supply.get(relay.relay_id)
    assert (kept.bytes_left if kept else 0) == left
    assert source.side.memory.holdings.all == 0


def test_an_unknown_relay_is_dropped():
    source = Source()
    relay = source.relay(size=32_768)
    source.ask()
    source.refuse(source.sent[0], "unknown-relay")
    assert source.side.memory.supply.get(relay.relay_id) is None
    assert source.stored() == 0


def test_a_pair_that_the_target_does_not_know_has_its_ready_keys_burned_and_burns_no_more_supply(served):
    served.ask(Want(PAIR, 512, 1))
    served.refuse(served.sent[-1], "sae")
    assert served.ready() == 0
    before = served.side.memory.supply.left("there", 1, served.now, confirmed=True)
    assert isinstance(served.told[served.ask()], TryLaterError)
    assert served.side.memory.supply.left("there", 1, served.now, confirmed=True) == before
    assert served.ask(Want(Pair("m1", "s2"), 256, 1)) not in served.told
    served.later(11.0)
    assert served.ask() not in served.told


def test_a_target_without_room_is_left_alone_for_a_while():
    source = Source()
    source.relay(size=32_768)
    taker = source.ask()
    source.refuse(source.sent[0], "full")
    source.later(1.0)
    assert len(source.sent) == 1
    source.later(5.0)
    assert "has no room" in str(source.told[taker])
    source.ask()
    source.later(4.5)
    assert len(source.sent) == 2


def test_after_a_start_of_the_target_nothing_is_handed_out_before_it_was_asked_again(served):
    ready = served.ready()
    (before,) = [block.assign for block in served.side.memory.ready.all()]
    started = PeerStarted(kme="there", incarnation=bytes(16))
    assert served.command(started) == [before]
    taker = served.ask()
    assert taker not in served.told
    served.deliver()
    assert len(served.told[taker]) == 1
    assert served.ready() >= ready - 1
    assert served.command(started) == []


def test_what_the_target_does_not_know_any_more_after_its_start_is_burned(served):
    served.target.restore(PlainTarget().copy())
    served.command(PeerStarted(kme="there", incarnation=bytes(16)))
    served.deliver()
    assert (served.ready(), served.stored(), served.side.memory.holdings.all) == (0, 0, 0)


def test_a_start_of_somebody_else_holds_nothing_back(served):
    ready = served.ready()
    for kme in ("near", "nobody"):
        assert served.command(PeerStarted(kme=kme, incarnation=bytes(16))) == []
    assert served.ready() == ready


# --- time, room, and the directory ---------------------------------------------------------------------


def test_ready_keys_expire_and_are_said_to():
    source = Source(usable_s=100.0)
    source.relay(size=32_768)
    source.ask()
    source.deliver()
    source.later(99.0)
    assert source.ready() > 0
    source.later(2.0)
    assert source.ready() == 0
    source.later(5.0)
    assert "keys.expired" in source.events
    assert not [block for block in source.side.memory.ready.all() if block.assign.assignment.usable_until <= source.now]


def test_supply_is_not_assigned_after_its_time():
    source = Source()
    source.relay(size=32_768, until=NOW + 50)
    source.later(51.0)
    assert source.stored() == 0
    assert source.ask() not in source.told
    assert source.sent == []
    assert source.side.memory.supply.targets() == []


@pytest.mark.parametrize("gone", ["m1", "s1"])
def test_what_there_is_for_an_sae_that_is_struck_off_is_burned(served, gone):
    waiting = served.ask(Want(PAIR, 512, 3))
    saes = {sae_id: sae for sae_id, sae in SAES.saes.items() if sae_id != gone}
    served.do(served.side.adopt, Directory(saes), lambda pair: gone in pair, served.now)
    memory = served.side.memory
    assert (memory.ready.pairs(), memory.holdings.all, len(memory.waiters)) == ([], 0, 0)
    assert isinstance(served.told[waiting], TryLaterError)
    assert KEYS not in memory.demand.uses


def test_no_master_has_more_than_its_room_and_others_have_theirs():
    source = Source(bytes_each=4_096, bytes_all=6_144, bytes_ahead=10**6)
    source.relay(size=65_536)
    source.ask(Want(PAIR, 8_192, 1))
    source.ask(Want(OTHER, 8_192, 1))
    holdings = source.side.memory.holdings
    assert holdings.of("m1") <= 4_096
    assert holdings.of("m2") > 0
    assert holdings.all <= 6_144


def test_assignments_leave_no_faster_than_they_may():
    source = Source(assigns_per_s=2.0, waiters=100, waiters_each=100)
    source.relay(size=65_536)
    for size in range(64, 64 + 20 * 8, 8):
        source.ask(Want(PAIR, size, 1))
    assert len(source.sent) == 4
    assert 0 < source.side.wait_s(source.now) <= 0.5
    source.later(0.5)
    assert len(source.sent) == 5


def test_too_little_supply_is_shared_out_by_weight_in_pieces_that_are_worth_their_tag_keys():
    source = Source(Directory(SAES.saes, {PAIR: PairSettings(weight=3), OTHER: PairSettings(weight=1)}))
    source.relay(size=16_384)
    for pair in (PAIR, OTHER):
        source.ask(Want(pair, 256, 1))
    source.deliver()
    for pair in (PAIR, OTHER):
        source.ask(Want(pair, 256, 1), source.ready(Want(pair, 256, 1)))
    assert source.sent == []
    source.relay(size=8_192, tags=4)
    lengths = {each.assignment.master: each.assignment.length for each in source.sent}
    assert lengths == {"m1": 6_144, "m2": 2_048}


def test_a_dry_supply_is_wanted_and_none_that_nobody_uses():
    source = Source()
    assert source.side.low(source.now) == []
    source.ask()
    assert source.side.low(source.now) == [("there", 1)]
    assert 32_768 < source.side.wanted("there", 1, source.now) < 65_536
    source.relay(confirmed=False, size=65_536)
    assert source.side.low(source.now) == []


def test_what_became_of_the_keys_of_a_pair_is_counted_and_stays_so_when_it_is_not_in_use_any_more(served):
    """Ready, handed out, burned, expired: as the master's KME reports them."""

    def counts():
        (pair,) = supplies(served.side, (), bytes(16), served.now).pairs
        return pair.ready_keys, pair.handed_out, pair.burned, pair.expired

    ready, handed_out, burned, expired = counts()
    assert (ready > 0, burned, expired) == (True, 0, 0)
    served.ask(number=2)
    assert counts() == (ready - 2, handed_out + 2, 0, 0)
    block = next(served.side.memory.ready.all())
    served.do(served.side.burning.ready, [block], "directory", served.now)
    assert counts() == (ready - 2 - block.count, handed_out + 2, block.count, 0)
    left = counts()[0]
    served.later(SupplyLimits().usable_s)
    served.do(served.side.memory.demand.cool, served.now)
    assert counts() == (0, handed_out + 2, block.count, left)


def test_what_is_reported_of_keys_that_nobody_has_asked_for_lately_is_a_message_that_is_taken(served):
    served.later(HOT_S)
    served.do(served.side.memory.demand.cool, served.now)
    report = supplies(served.side, (), bytes(16), served.now)
    assert [(pair.master, pair.keys_per_s, pair.ready_keys > 0) for pair in report.pairs] == [("m1", 0.0, True)]
    reports = Reports(items=(report,))
    assert codec.decode(codec.encode(reports), Reports) == reports
