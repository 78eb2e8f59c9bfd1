"""The steps of tests/models/assignment.pml, taken by the code: both sides, the target's with a store on disk."""

from __future__ import annotations

from pathlib import Path

from msgspec.structs import replace

from kme.applications import ApplicationError, Caller
from kme.supply.directory_changes import loses_keys
from kme.supply.model import Pair, SupplyLimits, SupplyRelay, Want
from kme.supply.slave_keys import CLOCKS_S
from kme.supply.source import SourceSide
from qkdrelay.messages.assignments import Assign, Assigned, AssignRefused, PeerStarted
from qkdrelay.messages.keys import key_id
from qkdrelay.messages.relay_ids import new_relay_id
from qkdrelay.network.directory import NO_SAES
from qkdrelay.service.batch import Batch
from support.slaves import Slaves, SourceOfSupply, payload_of, without
from support.supply import NOW, SAES, Draws, Taker
from support.traces import Step

UNIT = 8
"""Bytes of code for one of the model: a key of 64 bits, the shortest that there is."""
PAIRS = {1: Pair("m1", "s1"), 2: Pair("m2", "s2")}
DAY_S = 86_400.0
USABLE_S, APART_S = 20 * DAY_S, 2 * DAY_S
"""Assignments are cut so far apart that the time of each is over at the target before the next one's at the source."""
RESTS_S = 11.0
LIMITS = SupplyLimits(usable_s=USABLE_S, bytes_ahead=0)
"""Nothing is cut ahead: what is cut, the model says."""


class AssignmentReplay:
    """Takes the model's steps, and looks whether all is as the model has it."""

    def __init__(self, folder: Path, *, relays: int, size: int, tags: int, early: bool) -> None:
        self.draws, self.size, self.tags = Draws(), size, tags
        self.now = self.there = NOW
        """The time at the source, and at the target."""
        self.target = Slaves(self.draws, folder / "kme.sqlite")
        self.copy: tuple[bytes, frozenset] | None = None
        self.relays: list[SourceOfSupply | None] = [None] * relays
        self.assigns: list[Assign] = []
        self.answers, self.refusals = {}, []
        self.handed_out, self.lost, self.starts = set(), set(), 0
        self.source_starts()
        if not early:
            for number in range(relays):
                self.relay_begins(number)
            for number, relay in enumerate(self.relays):
                self.is_rebuilt(number)
                self.do(lambda relay=relay: self.source.confirmed(relay.relay_id, self.now))

    # --- the source --------------------------------------------------------------------------------

    def source_starts(self) -> None:
        self.batch = Batch()
        self.source = SourceSide("here", self.batch, self.draws, LIMITS)
        self.do(lambda: self.source.adopt(SAES, lambda _: False, self.now))

    def do(self, change) -> tuple[list[Assign], list]:
        """Do it in a batch; return the assignments that are new, and the answers to requests."""
        self.batch.begin()
        change()
        said = self.source.tick(self.now, connected=True)
        answers = list(self.source.serving.answers)
        self.batch.end()
        assigns = [each for each in said if isinstance(each, Assign)]
        known = {assign.assignment.assign_id: assign for assign in self.assigns}
        new = [assign for assign in assigns if assign.assignment.assign_id not in known]
        # What is sent again is the same, byte for byte.
        assert all(known[assign.assignment.assign_id] == assign for assign in assigns if assign not in new)
        return new, answers

    def relay_begins(self, number: int) -> None:
        payload = payload_of(self.draws, self.size * UNIT, self.tags)
        made = SourceOfSupply(new_relay_id(NOW), payload, NOW + 60 * DAY_S)
        self.relays[number] = made
        relay = SupplyRelay(made.relay_id, "there", 1, "direct", made.until, made.until, payload.keys, payload.tag_keys)
        self.target.expecting.add(made.relay_id)
        self.do(lambda: self.source.started(relay))

    def cuts(self, relay: int, pair: int, keys: int) -> None:
        self.now = max(self.now, NOW + len(self.assigns) * APART_S)
        memory, want = self.source.memory, Want(PAIRS[pair], 8 * UNIT, 0)
        if memory.rests.why(want.pair, self.now):
            self.now += RESTS_S
        self.do(lambda: None)  # what is due again is sent, and counts
        taker = Taker()
        there = memory.ready.count(want, self.now) + memory.asking.count(want, self.now)
        ask = self.source.serving.take
        (assign,), _ = self.do(lambda: ask(taker, want, there + keys, self.now, is_demanded=False))
        taker.gone = True
        self.do(lambda: None)
        one = assign.assignment
        assert (one.relay_id, one.key_count, one.length) == (self.relays[relay].relay_id, keys, keys * UNIT)
        assert Pair(one.master, one.slave) == PAIRS[pair]
        self.assigns.append(assign)

    def hears(self, message) -> None:
        self.do(lambda: self.source.on_command(message, self.now))

    def hands_out(self, cut: int, number: int) -> None:
        assignment = self.assigns[cut].assignment
        pair = Pair(assignment.master, assignment.slave)
        want, ask = Want(pair, 8 * UNIT, 0), self.source.serving.take
        _, (answer,) = self.do(lambda: ask(Taker(), want, 1, self.now, is_demanded=False))
        (key,) = answer.result
        assert (key.key_id, key.key) == (self._id(cut, number), self._key(cut, number))
        # Of the code, whatever the model says: once, and the target holds the same, has given it away or has lost it.
        assert key.key_id not in self.handed_out
        self.handed_out.add(key.key_id)
        held = self.target.store.applications.get([key.key_id]).get(key.key_id)
        assert key.key_id in self.lost or (held.key, Pair(held.master, held.slave)) == (key.key, pair)

    # --- the target --------------------------------------------------------------------------------

    def is_rebuilt(self, number: int) -> None:
        relay = self.relays[number]
        self.target.expecting.discard(relay.relay_id)
        self.target.change(relay.relay("held"), self.there)

    def is_asked(self, cut: int) -> None:
        report = self.target.assign(self.assigns[cut], self.there)
        if isinstance(report, Assigned):
            # One key tags one message: the answer is the same, whenever it is given.
            assert self.answers.setdefault(cut, report) == report
        else:
            assert isinstance(report, AssignRefused)
            self.refusals.append((cut, report.first_free_byte // UNIT, report.first_free_tag))

    def is_asked_otherwise(self, cut: int) -> None:
        """Nothing comes of an assignment that was altered."""
        one = self.assigns[cut].assignment
        for changed in ({"master": "m2" if one.master == "m1" else "m1"}, {"key_count": one.key_count + 1}):
            altered = Assign(assignment=replace(one, **changed), tag=self.assigns[cut].tag)
            assert isinstance(self.target.assign(altered, self.there), AssignRefused)

    def fetches(self, cut: int, number: int) -> None:
        (key,) = self._fetched(cut, number)
        assert (key.key_id, key.key) == (self._id(cut, number), self._key(cut, number))
        self.lost.add(key.key_id)  # not lost, but there no more

    def fetches_in_vain(self, cut: int, number: int) -> None:
        try:
            self._fetched(cut, number)
        except ApplicationError:
            return
        raise AssertionError

    def _fetched(self, cut: int, number: int):
        one = self.assigns[cut].assignment
        return self.target.fetch(Caller(one.slave, "00"), one.master, [self._id(cut, number)], self.there)

    def goes_by(self, directory) -> None:
        before = self.target.directory
        known = self._there()
        self.target.adopt(directory, lambda pair: loses_keys(before, directory, pair))
        self.target.tick(self.there)
        self.lost |= known - self._there()

    def copies(self) -> None:
        self.copy = self.target.store.journal.connection.serialize(), frozenset(self.target.expecting)

    def comes_back(self) -> None:
        known, (store, expecting) = self._there(), self.copy
        directory = self.target.directory
        self.target.store.journal.close()
        self.target.path.write_bytes(store)
        self.target.expecting = set(expecting)
        self.target._open()
        self.target.adopt(directory, lambda pair: loses_keys(NO_SAES, directory, pair))
        self.target.tick(self.there)
        self.lost |= known - self._there()

    def _there(self) -> set:
        ids = [self._id(cut, k) for cut in range(len(self.assigns)) for k in (0, 1)]
        return set(self.target.store.applications.get(ids))

    # --- what there is -----------------------------------------------------------------------------

    def _id(self, cut: int, number: int):
        return key_id(self.assigns[cut].assignment.assign_id, number)

    def _key(self, cut: int, number: int) -> bytes:
        one = self.assigns[cut].assignment
        relay = next(relay for relay in self.relays if relay and relay.relay_id == one.relay_id)
        start = one.offset + number * UNIT
        return relay.payload.keys[start : start + UNIT]

    def take(self, step: Step) -> None:
        """Take one step, and compare."""
        cut = int(step.given.get("cut", 0))
        match step.name:
            case "begin":
                self.relay_begins(step.number("relay"))
            case "rebuild":
                self.is_rebuilt(step.number("relay"))
            case "confirm":
                self.do(lambda: self.source.confirmed(self.relays[step.number("relay")].relay_id, self.now))
            case "fail":
                self.do(lambda: self.source.failed(self.relays[step.number("relay")].relay_id, self.now))
            case "cut":
                self.cuts(step.number("relay"), step.number("pair"), step.number("keys"))
            case "assign":
                self.is_asked(cut)
            case "assign full" | "lost":
                pass  # a refusal that the code does not make here, and a message that does not come
            case "assign altered":
                self.is_asked_otherwise(cut)
            case "answer" | "answer again":
                self.hears(self.answers[cut])
            case "answer forged":
                self.hears(self.assigns[cut].assignment.answered(bytes(16)))
            case "refuse":
                self._is_refused(cut, step)
            case "refuse again":
                self.hears(self.assigns[cut].assignment.refused("range", self.size * UNIT, self.tags))
            case "peer started":
                self.starts += 1
                self.hears(PeerStarted(kme="there", incarnation=self.starts.to_bytes(16)))
            case "hand out":
                self.hands_out(cut, step.number("key"))
            case "fetch":
                self.fetches(cut, step.number("key"))
            case "fetch in vain":
                self.fetches_in_vain(cut, step.number("key"))
            case "source over":
                self.now = max(self.now, self.assigns[cut].assignment.usable_until)
                self.do(lambda: None)
            case "target over":
                self.there = max(self.there, self.assigns[cut].assignment.usable_until + CLOCKS_S + 1)
                self.target.tick(self.there)
            case "source restart":
                self.source_starts()
            case "target copy":
                self.copies()
            case "target restore":
                self.comes_back()
            case "strike":
                self.goes_by(without(SAES, PAIRS[step.number("pair")].slave))
            case "take in":
                self.goes_by(SAES)
            case other:
                raise AssertionError(other)
        self._compare(step)

    def _is_refused(self, cut: int, step: Step) -> None:
        byte, tag = map(int, step.given["hint"].split(","))
        self.hears(self.assigns[cut].assignment.refused(step.given["why"].replace("_", "-"), byte * UNIT, tag))

    def _compare(self, step: Step) -> None:
        there = {"STATE": [], "CUT": []}
        for kind, after in step.after:
            there[kind].append(after)
        for number, after in enumerate(there["STATE"]):
            self._compare_relay(number, after)
        assert len(there["CUT"]) == len(self.assigns)
        for number, after in enumerate(there["CUT"]):
            self._compare_cut(number, after)

    def _compare_relay(self, number: int, after: dict[str, str]) -> None:
        relay = self.relays[number]
        if relay is None:
            assert after["end"] == "nothing"
            return
        cursor, free = (tuple(map(int, after[name].split(","))) for name in ("cursor", "free"))
        supply = self.source.memory.supply.get(relay.relay_id)
        if after["has"] == "0":
            assert supply is None
        elif supply is None:
            # Nothing is left of it that could be assigned.
            assert after["end"] == "confirmed"
            assert cursor[0] == self.size or cursor[1] == self.tags
        else:
            assert (supply.next_byte, supply.next_tag) == (cursor[0] * UNIT, cursor[1])
            assert supply.is_confirmed == (after["end"] == "confirmed")
        held = self.target.store.applications.supply(relay.relay_id)
        assert (held is not None) == (after["there"] == "held")
        if held is not None:
            assert (held.first_free_byte, held.first_free_tag) == (free[0] * UNIT, free[1])

    def _compare_cut(self, cut: int, after: dict[str, str]) -> None:
        one = self.assigns[cut].assignment
        asked = self.source.memory.asking.get(one.assign_id)
        blocks = [b for b in self.source.memory.ready.all() if b.assign.assignment.assign_id == one.assign_id]
        is_now = "ready" if blocks else "gone" if asked is None else "answered" if asked.is_answered else "asked"
        assert is_now == after["is"]
        for block in blocks or ([asked.block] if asked else []):
            assert block.first == int(after["next"])
        store = self.target.store.applications
        assert (store.assignment(one.assign_id) is not None) == (after["known"] == "1")
        keys = store.get([self._id(cut, number) for number in (0, 1)])
        assert sum(1 << number for number in (0, 1) if self._id(cut, number) in keys) == int(after["keys"])
