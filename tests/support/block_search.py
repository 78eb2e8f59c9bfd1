"""Every state of the exchange of blocks that there is within bounds, by the real code of both its ends.

The broker is the attacker: whatever was sent it may deliver again, in any order, or never, and what no key protects it
makes up. Either end is killed, the receiver's store is restored from a copy, commits fail, connections are cut, clocks
go back, and a device gives a key twice. What a device gave is wiped as it is used; what is computed is not, and is
computed again. ``Faults`` put mistakes back that the rules are there for.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from itertools import chain, combinations
from types import SimpleNamespace

from qkdrelay.errors import ForgedMessageError, NumberReusedError
from qkdrelay.link.blocks import receiver
from qkdrelay.link.blocks.receiver import HeldKey
from qkdrelay.link.blocks.sender import Sender
from qkdrelay.link.envelope import one_time_tag
from qkdrelay.messages.blocks import Announce, BlocksHeld, Facts, HeldBlock, Piece, RefusedBlock, SlotName

LINK = ("u", "v")
SLOTS, PAD = 2, 3
"""Slots and bytes of pad in a block; each message takes a slot and a byte."""
LENGTH = 64 + 32 * SLOTS + PAD


@dataclass(frozen=True)
class Bounds:
    """How much there is of each thing."""

    blocks: int = 2
    messages: int = 3
    kills: int = 1
    """Of the sender, and of the receiver."""
    restores: int = 1
    failed_commits: int = 1
    cuts: int = 1
    forged: int = 1
    """Announcements that nobody made."""
    back: int = 1
    """Times that the sender's clock goes back."""
    repeated: int = 1
    """Keys that the device gives the sender again."""
    forgotten: int = 1
    """Times that the receiver forgets which messages it has opened."""
    slotless: int = 1
    """Blocks that are all pad."""


@dataclass(frozen=True)
class Sealed:
    """A message that was sealed."""

    slot_name: SlotName
    pieces: tuple[Piece, ...]
    body: bytes
    tag: bytes


@dataclass(frozen=True)
class Store:
    """What the receiver keeps."""

    newest: bytes = bytes(16)
    blocks: tuple[HeldKey, ...] = ()
    opened: frozenset[tuple[bytes, int, bytes]] = frozenset()
    """Slots that have opened a message, with its tag."""

    @property
    def by_name(self):
        return {each.facts.block: each for each in self.blocks}

    def slot_of(self, name, tag):
        tags = {(block, index): tag for block, index, tag in self.opened}
        return receiver.slot_of(name, tag, self.by_name, lambda name: tags.get((name.block, name.index)))


@dataclass(frozen=True)
class State:
    sender: Sender
    store: Store
    run: int = 1
    fetching: Announce | None = None
    cache: frozenset[str] = frozenset()
    """Ids of keys that were fetched for blocks that are not held."""
    copy: Store | None = None
    sender_copy: Sender | None = None
    """Of a sender that kept its blocks in its store."""
    # What the broker has.
    runs: frozenset[int] = frozenset({1})
    announced: frozenset[Announce] = frozenset()
    proofs: frozenset[HeldBlock] = frozenset()
    sealed: frozenset[Sealed] = frozenset()
    """Messages whose commit succeeded."""
    # What the devices did.
    given: int = 0
    fetched: frozenset[int] = frozenset()
    # What must hold.
    used: frozenset[tuple[bytes, int]] = frozenset()
    """Bytes of key, by what they are and where in it, that sealed something."""
    opened: frozenset[Sealed] = frozenset()
    # What is left of the bounds.
    left: Bounds = Bounds()
    clock: int = 0
    announcements: int = 0


class ViolatedError(AssertionError):
    """A rule does not hold."""


def spend(left, name):
    return replace(left, **{name: getattr(left, name) - 1})


def key_of(number):
    """The device's key so many."""
    return b"".join(bytes([number + 1, place]) * 16 for place in range(LENGTH // 32 + 1))[:LENGTH]


def computed(block_id):
    """The key of a link that is computed: 64 KiB of different ids have different key."""
    return b"".join(block_id[6:8] + block_id[-4:] + bytes([place]) * 26 for place in range(LENGTH // 32 + 1))[:LENGTH]


@dataclass(frozen=True)
class Search:
    """One search: what kind of link, within which bounds, with which mistakes."""

    is_device: bool
    bounds: Bounds
    faults: frozenset[str] = frozenset()
    seen: dict = field(default_factory=dict, compare=False)
    come_back: set = field(default_factory=set, compare=False)

    def run(self) -> SimpleNamespace:
        """Visit every state; raises ViolatedError with the way there."""
        start = State(Sender(LINK), Store(), left=self.bounds)
        self.seen[start] = None
        stack, facts = [start], set()
        while stack:
            state = stack.pop()
            try:
                for name, after in self.steps(state):
                    facts.add(name)
                    if after not in self.seen:
                        self.seen[after] = (state, name)
                        self.check(after)
                        stack.append(after)
                self.check_way_back(state)
            except ViolatedError as violated:
                raise ViolatedError(f"{violated}: {' > '.join(self.way(state))}") from None
        return SimpleNamespace(states=len(self.seen), steps=facts)

    def way(self, state):
        names = []
        while (before := self.seen[state]) is not None:
            state, name = before
            names.append(name)
        return reversed(names)

    # --- steps -----------------------------------------------------------------------------------

    def steps(self, state: State) -> Iterator[tuple[str, State]]:
        yield from self.sender_steps(state)
        yield from self.receiver_steps(state)
        yield from self.broker_steps(state)

    def sender_steps(self, state):
        left = state.left
        if left.blocks and state.sender.may_announce:
            yield "announce", self.announce(replace(state, left=spend(left, "blocks")), state.given)
            if left.slotless:
                slotless = replace(state, left=spend(spend(left, "blocks"), "slotless"))
                yield "announce a block without slots", self.announce(slotless, state.given, slots=0)
            if self.is_device and left.repeated and state.given:
                again = replace(state, left=spend(spend(left, "blocks"), "repeated"))
                yield "announce a key that came before", self.announce(again, 0)
        if left.messages and (drawn := state.sender.draw(1)) is not None:
            after = self.seal(replace(state, left=spend(left, "messages")), *drawn)
            yield "seal", after
            if left.failed_commits:
                lost = replace(after.left, failed_commits=left.failed_commits - 1)
                sender = state.sender if "cursor goes back" in self.faults else after.sender
                yield "seal, but the commit fails", replace(state, sender=sender, left=lost)
                yield "seal, and the commit only seems to fail", replace(after, sender=sender, left=lost)
        if left.kills:
            again = state.sender_copy or Sender(LINK)
            yield "kill sender", replace(state, sender=again, left=spend(left, "kills"))
        if "blocks in store" in self.faults and state.sender_copy is None:
            yield "copy sender", replace(state, sender_copy=state.sender)
        if left.cuts:
            yield "cut", replace(state, sender=state.sender.reconnected(), left=spend(left, "cuts"))
        if left.back and state.clock:
            yield "clock back", replace(state, clock=0, left=spend(left, "back"))

    def announce(self, state, number, *, slots=SLOTS):
        """Announce a block of the key that the device gives as the so manieth."""
        key, ids = (key_of(number), (str(number),)) if self.is_device else (computed, ())
        chance = (state.announcements + 1).to_bytes(2) + bytes(4) + (state.announcements + 1).to_bytes(4)
        sender = state.sender.with_block(key, ids, slots, 1.0 + state.clock / 1000, lambda _: chance)
        return replace(
            state,
            sender=sender,
            given=max(state.given, number + 1),
            announced=state.announced | {sender.announces},
            clock=state.clock + 1,
            announcements=state.announcements + 1,
        )

    def seal(self, state, sender, drawn):
        body = bytes([len(state.sealed) + 1])
        ciphertext = bytes(a ^ b for a, b in zip(body, drawn.pad, strict=True))
        sealed = Sealed(drawn.slot_name, drawn.pieces, ciphertext, tag_of(drawn.slot, drawn.pieces, ciphertext))
        keys = {each.block.facts.block: each.block for each in state.sender.blocks}
        places = [(keys[drawn.slot_name.block].key, 64 + 32 * drawn.slot_name.index)]
        places += [
            (keys[piece.block].key, 64 + 32 * keys[piece.block].facts.slots + at)
            for piece in drawn.pieces
            for at in range(piece.offset, piece.offset + piece.length)
        ]
        if not state.used.isdisjoint(places):
            raise ViolatedError("a byte of key seals two messages")
        return replace(state, sender=sender, sealed=state.sealed | {sealed}, used=state.used | set(places))

    def receiver_steps(self, state):
        left = state.left
        if state.fetching is not None:
            yield from self.fetch(state, state.fetching)
        if left.kills:
            yield "kill receiver", self.restarted(replace(state, left=spend(left, "kills")))
        if left.restores and state.copy is None:
            yield "copy", replace(state, copy=state.store)
        if left.restores and state.copy not in (None, state.store):
            yield "restore", self.restarted(replace(state, store=state.copy, left=spend(left, "restores")))
        if left.forgotten and state.store.opened:
            store = replace(state.store, opened=frozenset())
            yield "forget what was opened", replace(state, store=store, left=spend(left, "forgotten"))

    def restarted(self, state):
        run, store = state.run + 1, state.store
        if "computed anew" in self.faults:
            store = replace(store, blocks=tuple(replace(each, used_slots=(), used_pad=()) for each in store.blocks))
        return replace(state, run=run, runs=state.runs | {run}, store=store, fetching=None, cache=frozenset())

    def fetch(self, state, announce):
        """The device answers, or the block is computed; it is held then, or refused."""
        facts = announce.facts
        state = replace(state, fetching=None)
        key = self.fetched(state, facts)
        if key is None:
            yield "the device has no such key", state
            return
        if self.is_device:
            state = replace(
                state, fetched=state.fetched | {int(facts.key_ids[0])}, cache=state.cache | {facts.key_ids[0]}
            )
        if (held := receiver.held(announce, key)) is None:
            yield "refuse", state
            return
        if state.left.failed_commits:
            yield "hold, but the commit fails", replace(state, left=spend(state.left, "failed_commits"))
        newest = max(state.store.newest, facts.block)
        store = replace(state.store, newest=newest, blocks=(*state.store.blocks, held))
        cache = state.cache if "cache keeps" in self.faults else state.cache - set(facts.key_ids)
        proof = HeldBlock(facts.block, held.tag)
        # Held is told once that is committed, and the broker has its proof.
        yield "hold", replace(state, store=store, cache=cache, proofs=state.proofs | {proof})

    def fetched(self, state, facts):
        if not self.is_device:
            return computed(facts.block)
        (key_id,) = facts.key_ids
        number = int(key_id)
        if key_id in state.cache or (number < state.given and number not in state.fetched):
            return key_of(number)
        return None

    def broker_steps(self, state):
        for announce in state.announced:
            if (after := self.take_announce(state, announce)) != state:
                yield "deliver announcement", after
            if state.left.forged:
                facts = replace_facts(announce.facts, slots=1, block=b"\0" * 5 + b"\xff" + bytes(10))
                forged = replace(state, left=spend(state.left, "forged"))
                yield "forge announcement", self.take_announce(forged, Announce(facts, announce.tag, b""))
        for held in self.helds(state):
            sender = self.hear(state, held)
            if sender != state.sender:
                yield "deliver Held", replace(state, sender=sender)
        for sealed in state.sealed:
            if (after := self.open(state, sealed)) != state:
                yield "deliver message", after
            if sealed in state.opened and self.open(state, replace(sealed, tag=bytes(16))) is not state:
                raise ViolatedError("something was opened that nobody sealed")

    def take_announce(self, state, announce):
        if state.fetching is not None:
            return state
        newest = bytes(16) if "held again" in self.faults else state.store.newest
        key_ids = {key_id for each in state.store.blocks for key_id in each.facts.key_ids}
        answer = receiver.answer_to(announce, LINK, newest, b"\xff" * 16, state.store.by_name, key_ids=key_ids)
        return replace(state, fetching=announce) if answer == "fetch" else state

    def helds(self, state) -> Iterator[BlocksHeld]:
        """Whatever the broker can make up: of the honest ones each is among them."""
        mine = [each.block.facts.block for each in state.sender.blocks]
        proofs = sorted((proof for proof in state.proofs if proof.block in mine), key=lambda proof: proof.block)
        some = chain.from_iterable(combinations(proofs, count) for count in range(len(proofs) + 1))
        for held in some:
            for run in state.runs:
                for newest in {bytes(16), state.store.newest}:
                    yield BlocksHeld(LINK, run_bytes(run), newest, held, (), b"", b"")
                yield BlocksHeld(
                    LINK, run_bytes(run), bytes(16), held, tuple(RefusedBlock(name, "") for name in mine), b"", b""
                )

    def hear(self, state, held):
        sender = state.sender.heard(held, 1.0 + state.clock / 1000)
        if "sender ignores runs" in self.faults:
            kept = {each.block.facts.block: each for each in state.sender.blocks}
            kept |= {each.block.facts.block: each for each in sender.blocks}
            return replace(sender, blocks=tuple(kept[name] for name in sorted(kept)))
        if "run follows proof" in self.faults:
            was = {each.block.facts.block for each in state.sender.blocks if each.is_granted}
            return replace(
                sender,
                blocks=tuple(
                    replace(each, run=held.run) if each.is_granted and each.block.facts.block not in was else each
                    for each in sender.blocks
                ),
            )
        return sender

    def open(self, state, sealed):
        """Return the state after the receiver has taken a message, in one commit."""
        blocks = state.store.by_name
        try:
            slot = state.store.slot_of(sealed.slot_name, sealed.tag)
            is_true = slot is not None and tag_of(slot, sealed.pieces, sealed.body) == sealed.tag
            if slot is None or not (is_true or "pad before tag" in self.faults):
                return state
            receiver.pad_of(sealed.slot_name, sealed.pieces, len(sealed.body), blocks)
        except NumberReusedError:
            raise ViolatedError("an honest sender is said to have used key twice") from None
        except ForgedMessageError:
            return state
        if sealed not in state.sealed:
            raise ViolatedError("something was opened that nobody sealed")
        if sealed in state.opened and state.left.restores == self.bounds.restores:
            raise ViolatedError("a message is opened twice")
        before, after = blocks, receiver.wiped(sealed.slot_name, sealed.pieces, blocks)
        if "not wiped" in self.faults:
            after = {
                name: replace(each, slots=before[name].slots, pad=before[name].pad) for name, each in after.items()
            }
        blocks = before | after
        if self.is_device and (slot in blocks[sealed.slot_name.block].slots or not self.is_wiped(sealed, blocks)):
            raise ViolatedError("a device's key that has opened a message is kept")
        kept = tuple(each for each in blocks.values() if not self.is_used_up(each))
        tag = sealed.slot_name.block, sealed.slot_name.index, sealed.tag
        store = replace(state.store, blocks=kept, opened=state.store.opened | {tag})
        return replace(state, store=store, opened=state.opened | {sealed})

    def is_wiped(self, sealed, blocks):
        return not any(
            any(blocks[piece.block].pad[piece.offset : piece.offset + piece.length]) for piece in sealed.pieces
        )

    def is_used_up(self, held):
        if "slots alone" in self.faults:
            return held.used_slots == ((0, held.facts.slots),)
        return held.is_used_up

    # --- what must hold --------------------------------------------------------------------------

    def check(self, state):
        if state.left.restores < self.bounds.restores:
            return
        blocks = state.store.by_name
        for sealed in state.sealed - state.opened:
            try:
                slot = state.store.slot_of(sealed.slot_name, sealed.tag)
                receiver.pad_of(sealed.slot_name, sealed.pieces, len(sealed.body), blocks)
            except ForgedMessageError:
                raise ViolatedError("what was sealed can never be opened") from None
            if slot is None or tag_of(slot, sealed.pieces, sealed.body) != sealed.tag:
                raise ViolatedError("what was sealed does not verify")

    def check_way_back(self, state):
        """With a broker that is honest now, and fresh key, a message comes through."""
        what_counts = state.sender, state.run, state.store, state.fetching, state.cache, state.given, state.fetched
        if what_counts in self.come_back:
            return
        self.come_back.add(what_counts)
        state = replace(state, left=replace(state.left, blocks=9, messages=9), clock=state.clock + 10)
        state = self.listen(state)
        for _ in range(6):
            if state.fetching is not None:
                *_, (_, state) = self.fetch(state, state.fetching)
            if (drawn := state.sender.draw(1)) is not None:
                names = {drawn[1].slot_name.block, *(piece.block for piece in drawn[1].pieces)}
                if not names <= set(state.store.by_name):
                    raise ViolatedError("a sender that has heard its receiver seals under what that does not hold")
                after = self.seal(state, *drawn)
                (sealed,) = after.sealed - state.sealed or {None}
                if sealed is not None and self.open(after, sealed) == after:
                    raise ViolatedError("a message that was just sealed is not opened")
                return
            if state.sender.may_announce:
                state = self.announce(state, state.given)
            if state.sender.announces is not None:
                state = self.take_announce(state, state.sender.announces)
            if state.fetching is not None:
                *_, (_, state) = self.fetch(state, state.fetching)
            state = self.listen(state)
        raise ViolatedError("there is no way back to work")

    def listen(self, state):
        """The receiver says what it holds, and the sender hears it."""
        proofs = tuple(HeldBlock(each.facts.block, each.tag) for each in state.store.blocks)
        refused = ()
        announces = state.sender.announces
        if announces is not None and announces.facts.block not in state.store.by_name and state.fetching is None:
            refused = (RefusedBlock(announces.facts.block, "it cannot be had"),)
        held = BlocksHeld(LINK, run_bytes(state.run), state.store.newest, proofs, refused, b"", b"")
        return replace(state, sender=self.hear(state, held), proofs=state.proofs | set(proofs))


def run_bytes(run):
    return run.to_bytes(16)


def tag_of(slot, pieces, body):
    header = repr([(piece.block, piece.offset, piece.length) for piece in pieces]).encode()
    return one_time_tag(slot, header, body)


def replace_facts(facts: Facts, **changes) -> Facts:
    return Facts(**{name: changes.get(name, getattr(facts, name)) for name in facts.__struct_fields__})
