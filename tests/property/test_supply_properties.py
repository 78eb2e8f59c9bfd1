"""What is handed out at the source, the target holds, once, for that pair: whatever is replayed, forged or undone."""

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, initialize, invariant, multiple, rule
from msgspec.structs import replace

from kme.applications import ApplicationError
from kme.supply.model import Pair, SupplyLimits, Want
from kme.supply.source import SourceSide
from qkdrelay.messages.assignments import Assign, Assigned, NoSupply, PeerStarted
from qkdrelay.network.directory import Directory
from qkdrelay.service.batch import Batch
from support.memory import remembered
from support.supply import NOW, SAES, Draws, PlainTarget, Taker, supply_relay

SMALL = SupplyLimits(waiters=6, waiters_each=4, bytes_all=20_000, bytes_each=15_000, bytes_ahead=2_048, pending=20)
MASTERS, SLAVES = st.sampled_from(["m1", "m2"]), st.sampled_from(["s1", "s2"])
SIZES = st.sampled_from([64, 256, 4096])
REASONS = st.sampled_from(["unknown-relay", "range", "sae", "tag", "full", "expired", "reused"])


class Applications(RuleBasedStateMachine):
    """One source, one honest target, and between them somebody who does what he likes with their messages."""

    relays, assigns, answers = Bundle("relays"), Bundle("assigns"), Bundle("answers")

    @initialize()
    def begin(self):
        self.batch, self.draws, self.now = Batch(), Draws(), NOW
        self.source = SourceSide("here", self.batch, self.draws, SMALL)
        self.target, self.copy = PlainTarget(), None
        self.cursors = {}
        self.on_their_way = []
        self.takers, self.handed_out, self.ranges, self.sent = {}, set(), set(), {}
        self.struck, self.confirmed, self.restored = set(), set(), 0
        self.do(lambda: self.source.adopt(SAES, lambda pair: False, self.now))
        # Something to lose.
        self.relay_goes_well(1)
        self.copy = self.target.copy()
        self.asks(Want(Pair("m1", "s1"), 256, 1), 3)
        self.everything_is_delivered()

    def do(self, change, *, undone=False):
        """Do it in a batch; return the assignments that leave, unless the batch is undone."""
        before = remembered(self.source, self.batch)
        self.batch.begin()
        change()
        said = self.source.tick(self.now, connected=True)
        if undone:
            self.batch.undo()
            assert remembered(self.source, self.batch) == before
            return []
        for answer in self.source.serving.answers:
            self.told(answer)
        self.batch.end()
        assigns = [each for each in said if isinstance(each, Assign)]
        self.on_their_way += assigns
        for assign in assigns:
            key = (assign.assignment.relay_id, assign.assignment.tag_number)
            # One key tags one message, whatever happens.
            assert self.sent.setdefault(key, assign) == assign
        return assigns

    def told(self, answer):
        want, number = self.takers.pop(answer.asker)
        assert answer.asker.begun
        if isinstance(answer.result, ApplicationError):
            return
        assert len(answer.result) == number
        for key in answer.result:
            pair, held, place = self.target.keys[key.key_id]
            assert (pair, held) == (want.pair, key.key)
            assert place[0] in self.confirmed
            assert len(key.key) * 8 == want.size_bits
            assert key.compromised >= want.level or key.route == "direct"
            assert key.key_id not in self.handed_out
            self.handed_out.add(key.key_id)
            where = {(place[0], at) for at in range(place[1], place[2])}
            assert not where & self.ranges
            self.ranges |= where

    # --- relays ----------------------------------------------------------------------------------

    @rule(target=relays, size=st.sampled_from([64, 1024, 8192]), tags=st.integers(1, 4), level=st.integers(0, 2),
          route=st.sampled_from(["direct", "relayed"]), undone=st.booleans())  # fmt: skip
    def a_relay_begins(self, size, tags, level, route, undone):
        relay = supply_relay(self.draws, size=size, tags=tags, level=level, route=route)
        self.waiting_assigns = self.do(lambda: self.source.started(relay), undone=undone)
        return multiple() if undone else multiple((relay, tuple(self.waiting_assigns)))

    @rule(target=assigns, relay=relays)
    def what_left_with_it(self, relay):
        return multiple(*relay[1])

    @rule(relay=relays)
    def the_target_rebuilds(self, relay):
        self.target.relays[relay[0].relay_id] = relay[0]

    @rule(target=assigns, relay=relays, undone=st.booleans())
    def it_is_confirmed(self, relay, undone):
        """Only what the target holds can be."""
        if relay[0].relay_id not in self.target.relays:
            return multiple()
        if not undone:
            self.confirmed.add(relay[0].relay_id)
        return multiple(*self.do(lambda: self.source.confirmed(relay[0].relay_id, self.now), undone=undone))

    @rule(target=assigns, relay=relays)
    def it_fails_at_the_source(self, relay):
        if self.source.memory.supply.get(relay[0].relay_id) is None:
            return multiple()
        if self.source.memory.supply.get(relay[0].relay_id).is_confirmed:
            return multiple()
        return multiple(*self.do(lambda: self.source.failed(relay[0].relay_id, self.now)))

    @rule(target=assigns, level=st.integers(0, 2))
    def a_relay_goes_well(self, level):
        return multiple(*self.relay_goes_well(level))

    def relay_goes_well(self, level):
        relay = supply_relay(self.draws, size=8192, tags=4, level=level)
        first = self.do(lambda: self.source.started(relay))
        self.target.relays[relay.relay_id] = relay
        self.confirmed.add(relay.relay_id)
        return *first, *self.do(lambda: self.source.confirmed(relay.relay_id, self.now))

    # --- requests ----------------------------------------------------------------------------------

    @rule(target=assigns, master=MASTERS, slave=SLAVES, number=st.integers(1, 12), size=SIZES,
          level=st.integers(0, 2), undone=st.booleans())  # fmt: skip
    def somebody_asks(self, master, slave, number, size, level, undone):
        if not self.source.memory.directory.allows(master, slave):
            return multiple()
        return multiple(*self.asks(Want(Pair(master, slave), size, level), number, undone=undone))

    def asks(self, want, number, *, undone=False):
        taker = Taker()
        self.takers[taker] = want, number
        return self.do(
            lambda: self.source.serving.take(taker, want, number, self.now, is_demanded=False), undone=undone
        )

    @rule(number=st.integers(0, 5))
    def a_client_goes(self, number):
        waiting = [taker for taker in self.takers if not taker.begun]
        if waiting:
            waiting[number % len(waiting)].gone = True

    # --- messages ----------------------------------------------------------------------------------

    def everything_is_delivered(self):
        came = []
        while self.on_their_way:
            answer = self.target.on_assign(self.on_their_way.pop(0))
            came += self.do(lambda answer=answer: self.source.on_command(answer, self.now))
        return multiple(*came)

    delivered = rule(target=assigns)(everything_is_delivered)
    delivered_again = rule(target=assigns)(lambda self: self.everything_is_delivered())

    @rule(target=answers, assign=assigns)
    def an_assignment_reaches_the_target(self, assign):
        return self.restored, self.target.on_assign(assign)

    @rule(target=answers, assign=assigns, key_count=st.integers(1, 30), offset=st.integers(0, 900), slave=SLAVES)
    def an_altered_one_does(self, assign, key_count, offset, slave):
        fields = {"key_count": key_count, "offset": offset, "slave": slave}
        altered = replace(assign.assignment, **fields)
        return self.restored, self.target.on_assign(Assign(assignment=altered, tag=assign.tag))

    @rule(target=assigns, answer=answers, undone=st.booleans())
    def an_answer_reaches_the_source(self, answer, undone):
        restored, message = answer
        if restored != self.restored:  # it came before the news that the target has started again
            return multiple()
        return multiple(*self.do(lambda: self.source.on_command(message, self.now), undone=undone))

    @rule(target=assigns, answer=answers, other=answers)
    def an_answer_with_another_tag_does(self, answer, other):
        (_, answer), (_, other) = answer, other
        if not (isinstance(answer, Assigned) and isinstance(other, Assigned)) or answer.tag == other.tag:
            return multiple()
        return multiple(*self.do(lambda: self.source.on_command(replace(answer, tag=other.tag), self.now)))

    @rule(target=assigns, assign=assigns, tag=st.binary(min_size=16, max_size=16))
    def a_forged_answer_does(self, assign, tag):
        forged = assign.assignment.answered(tag)
        return multiple(*self.do(lambda: self.source.on_command(forged, self.now)))

    @rule(target=assigns, assign=assigns, reason=REASONS, byte=st.integers(0, 9_000), tag=st.integers(0, 6))
    def a_forged_refusal_does(self, assign, reason, byte, tag):
        forged = assign.assignment.refused(reason, byte, tag)
        return multiple(*self.do(lambda: self.source.on_command(forged, self.now)))

    @rule(target=assigns, kme=st.sampled_from(["there", "near", "nobody"]), incarnation=st.integers(0, 3))
    def a_start_is_told(self, kme, incarnation):
        told = PeerStarted(kme=kme, incarnation=incarnation.to_bytes(16))
        return multiple(*self.do(lambda: self.source.on_command(told, self.now)))

    @rule(target=assigns, level=st.integers(0, 2), best=st.none() | st.integers(0, 2))
    def no_supply_is_told(self, level, best):
        told = NoSupply(target="there", level=level, best=best, reason="no link key")
        return multiple(*self.do(lambda: self.source.on_command(told, self.now)))

    # --- time --------------------------------------------------------------------------------------

    @rule(target=assigns, seconds=st.sampled_from([0.0, 0.5, 3.0, 700.0, -5.0, 8 * 86_400.0]), undone=st.booleans())
    def time_passes(self, seconds, undone):
        self.now += seconds
        return multiple(*self.do(lambda: None, undone=undone))

    @rule(target=assigns, name=st.sampled_from(["m1", "s1"]))
    def an_sae_is_struck_off_here(self, name):
        saes = {sae_id: sae for sae_id, sae in SAES.saes.items() if sae_id != name or name in self.struck}
        self.struck ^= {name}
        directory = Directory(saes)
        over = lambda pair: not directory.allows(*pair)  # noqa: E731
        return multiple(*self.do(lambda: self.source.adopt(directory, over, self.now)))

    @rule(name=st.sampled_from(["m2", "s2"]))
    def an_sae_is_struck_off_there(self, name):
        self.target.struck ^= {name}

    @rule()
    def the_targets_store_is_copied(self):
        self.copy = self.target.copy()

    @rule(target=assigns)
    def the_target_comes_back_with_an_old_copy(self):
        """And the source hears of it, before anything that the target says then; what it said before came before."""
        if self.copy is None:
            return multiple()
        self.target.restore(self.copy)
        self.on_their_way.clear()
        self.restored += 1
        told = PeerStarted(kme="there", incarnation=(100 + self.restored).to_bytes(16))
        return multiple(*self.do(lambda: self.source.on_command(told, self.now)))

    # --- what always holds -------------------------------------------------------------------------

    @invariant()
    def cursors_only_rise(self):
        for relay in self.source.memory.supply.of("there"):
            byte, tag = self.cursors.get(relay.relay_id, (0, 0))
            assert relay.next_byte >= byte
            assert relay.next_tag >= tag
            self.cursors[relay.relay_id] = relay.next_byte, relay.next_tag

    @invariant()
    def what_is_held_is_counted(self):
        memory = self.source.memory
        blocks = [*memory.ready.all(), *(asked.block for asked in memory.asking.all())]
        assert memory.holdings.all == sum(block.bytes_left for block in blocks)
        for master in ("m1", "m2"):
            held = sum(block.bytes_left for block in blocks if block.pair.master == master)
            assert memory.holdings.of(master) == held <= SMALL.bytes_each
        assert len(memory.asking) <= SMALL.pending + len(self.sent)
        assert len(memory.waiters) <= SMALL.waiters


TestApplications = Applications.TestCase
TestApplications.settings = settings(max_examples=60, stateful_step_count=60)
