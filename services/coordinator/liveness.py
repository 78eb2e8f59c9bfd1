"""Which KMEs are alive, whether their clocks are right, and whether their links keep to their orders."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from uuid import uuid4

from msgspec import structs

from coordinator.commands import CommandQueue
from coordinator.relay_actions import RelayActions
from coordinator.store import CoordinatorStore
from qkdrelay.messages.control import Recall, SetLink
from qkdrelay.messages.reports import SKEW_MAX_S, Hello
from qkdrelay.network.topology import Topology
from qkdrelay.randomness import epoch_s
from qkdrelay.service.batch import BatchDict
from qkdrelay.service.batch_events import BatchEvents

EPOCH_AHEAD_S_MAX = 86_400.0
"""How far ahead of now an epoch may be that a KME says it has heard: who invents one must not use up all to come."""
RECALLS_WITHIN_S = 120.0
"""A KME that was told to recall what is under way there has done so by then."""
ORDER_AGAIN_S = 30.0
"""A KME whose link does not keep to its order is given it again so often, whatever it says how often."""


class Liveness:
    """The KMEs as their hellos say they are."""

    def __init__(
        self,
        topology: Topology,
        store: CoordinatorStore,
        relays: RelayActions,
        commands: CommandQueue,
        events: BatchEvents,
    ) -> None:
        batch = store.journal.batch
        self._pairs, self._store = topology.pairs, store
        self._relays, self._commands, self._events = relays, commands, events
        self._last_hellos: dict[str, tuple[float, Hello]] = BatchDict(batch)
        self._said: dict[str, Hello] = batch.scratch({})
        """In this batch, the last of each KME."""
        self._behind: dict[str, None] = BatchDict(batch)
        """KMEs whose clock seemed to be behind."""
        self._ordered: dict[tuple[str, str, bool], float] = BatchDict(batch)
        """Times at which a KME was ordered again to turn its link to another up, or down; seconds since the epoch."""
        self._adopts: dict[str, None] = BatchDict(batch)
        """KMEs whose links are as they say, and not as they were ordered here: another may have ordered since."""
        self._told_to_recall: dict[str, float] = BatchDict(batch)
        """When each KME was, in seconds since the epoch."""
        self.away: Collection[str] = ()
        """The sites at which the coordinator can read nothing now."""

    @property
    def last_hellos(self) -> Mapping[str, tuple[float, Hello]]:
        """The last hello of each KME, and its time in seconds since the epoch."""
        return self._last_hellos

    def begin_anew(self, kmes: Collection[str], now: float) -> None:
        """Ask all KMEs how things are, and take it as they say: another coordinator has led."""
        self._adopts.update(dict.fromkeys(kmes))
        for kme in kmes:
            self._recall(kme, now)

    def _recall(self, kme: str, now: float) -> None:
        self._told_to_recall[kme] = now
        self._commands.put(kme, Recall())

    def recalls(self, kme: str, now: float) -> bool:
        """Whether a KME was told to recall, and may still be about it."""
        return abs(now - self._told_to_recall.get(kme, -math.inf)) < RECALLS_WITHIN_S

    def note(self, kme: str, hello: Hello) -> None:
        """Take note of a hello; of several in a batch the last counts."""
        self._said[kme] = hello

    def tick(self, now: float) -> None:
        """Do what follows from the hellos of this batch."""
        for kme, hello in self._said.items():
            self._take(kme, hello, now)
        self._said.clear()

    def _take(self, kme: str, hello: Hello, now: float) -> None:
        """Take in a hello, and in it the KME's own links, each once."""
        links = {link.peer: link for link in hello.links if frozenset((kme, link.peer)) in self._pairs}
        hello = structs.replace(hello, links=tuple(links.values()))
        self._check_clock(kme, hello.clock - now)
        if kme not in self._last_hellos:
            self._events.note("kme.heard", "info", kme=kme, lab=hello.lab)
        self._last_hellos[kme] = (now, hello)
        self._heed_epoch(kme, hello, now)
        self._relays.remind(kme, now)
        self._hold_links(kme, hello, now)

    def _check_clock(self, kme: str, off_s: float) -> None:
        """Raise the alarm if a clock is off; that it is behind is seen by the second hello: one may have waited."""
        if off_s > SKEW_MAX_S or (off_s < -SKEW_MAX_S and kme in self._behind):
            self._events.note("clock.skewed", "error", kme=kme, text=f"its clock is off by {off_s:+.1f} s")
        if off_s < -SKEW_MAX_S:
            self._behind[kme] = None
        elif kme in self._behind:
            del self._behind[kme]

    def _heed_epoch(self, kme: str, hello: Hello, now: float) -> None:
        """Give orders of an epoch after all that a KME has heard: it carries out no other, whoever's clock is off."""
        if hello.heard is None or not self._store.journal.numbers.is_beyond(hello.heard):
            return
        if epoch_s(hello.heard) > now + EPOCH_AHEAD_S_MAX:
            text = "it has heard orders from too far ahead in time, and carries out no others; look at the clocks"
            self._events.note("epoch.too_far", "error", kme=kme, text=text)
            return
        self._store.journal.numbers.go_beyond(hello.heard)
        self._recall(kme, now)

    def _hold_links(self, kme: str, hello: Hello, now: float) -> None:
        """Order again what a KME's links do not keep to, but not while that is under way.

        It may have lost its store, and with it what it was ordered; or somebody brought it an old order after that.
        """
        if kme in self._adopts:
            del self._adopts[kme]
            for link in hello.links:
                if not link.up:
                    a, b = sorted((kme, link.peer))
                    self._store.links.switch((a, b), up=False)
        down = set(map(frozenset, self._store.links.down()))
        for link in hello.links:
            order = (kme, link.peer, not link.up)
            if link.up != (frozenset(order[:2]) in down):
                continue
            if abs(now - self._ordered.get(order, -math.inf)) >= ORDER_AGAIN_S:
                self._ordered[order] = now
                self._commands.put(kme, SetLink(command_id=uuid4(), peer=link.peer, up=not link.up))
