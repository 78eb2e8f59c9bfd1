"""The coordinator's part in keys for applications: reports in; refills, carried messages and the view out."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from typing import Final

from coordinator.admission import Admission
from coordinator.commands import CommandQueue
from coordinator.liveness import Liveness
from coordinator.relay_actions import RelayActions
from coordinator.store import CoordinatorStore
from coordinator.supply.accounts import Accounts
from coordinator.supply.courier import Courier
from coordinator.supply.refills import Refills
from coordinator.supply.wants import is_dry
from coordinator.supply.weights import Weights
from qkdrelay.messages.answers import SUPPLIES_SHOWN_MAX, SaePairView, SuppliesView, SupplyView
from qkdrelay.messages.assignments import PAIRS_SHOWN_MAX, Assign, Assigned, AssignRefused, Supplies
from qkdrelay.messages.control import Command
from qkdrelay.messages.reports import LinkReport
from qkdrelay.network.directory import Directory
from qkdrelay.network.topology import Topology
from qkdrelay.service.batch import Cell
from qkdrelay.service.batch_events import BatchEvents

_LOOK_EVERY_S: Final = 1.0


class SupplyRoom:
    """Keys for applications at the coordinator."""

    def __init__(
        self,
        topology: Topology,
        store: CoordinatorStore,
        *,
        admission: Admission,
        relays: RelayActions,
        commands: CommandQueue,
        liveness: Liveness,
        events: BatchEvents,
        directory: Callable[[], Directory],
    ) -> None:
        """``directory`` returns the directory of SAEs, as of `Weights`."""
        batch = store.journal.batch
        self._relays, self._commands, self._liveness, self._events = relays, commands, liveness, events
        self.accounts = Accounts(topology.kmes, batch)
        self._weights = Weights(directory, batch)
        self.refills = Refills(self.accounts, admission, store.relays, batch, self._weights)
        self._courier = Courier(frozenset(topology.kmes), commands, events, batch)
        self._must_look = Cell(batch, value=False)
        self._looked_at = Cell(batch, 0.0)

    def on_report(self, sender: str, report: Assign | Assigned | AssignRefused | Supplies, now: float) -> None:
        """Take a report of a KME."""
        if not isinstance(report, Supplies):
            self._courier.carry(sender, report, now)
            return
        self._must_look.value = True
        if not self.accounts.take(sender, report, now):
            return
        for kme, incarnation in self.accounts.incarnations.items():
            if kme != sender:
                self._courier.tell_start(sender, report.incarnation, kme)
                self._courier.tell_start(kme, incarnation, sender)

    def tick(self, now: float) -> None:
        """Begin the relays that are due."""
        self.refills.settle(now)
        # A distance, not a difference: the clock may be stepped back.
        if not self._must_look.value and abs(now - self._looked_at.value) < _LOOK_EVERY_S:
            return
        self._must_look.value, self._looked_at.value = False, now
        if broken := self._weights.look():
            self._events.note("directory.broken", "error", reason=broken)
        for what in self.refills.next(self._reports(), now):
            if isinstance(what, tuple):
                kme, told = what
                command: Command = told
                self._commands.put(kme, command)
                self._events.note(
                    "supply.none", "warning", kme=kme, target=told.target, compromised=told.level, reason=told.reason
                )
            else:
                self._relays.change(None, what, now)

    def dry(self, now: float) -> int:
        """Return how many places have requests that wait, and nothing stored."""
        return sum(is_dry(said.outgoing) for said in self.accounts.fresh(now).values())

    def view(self, now: float, ends: Collection[str] | None = None) -> SuppliesView:
        """Return what is known, those in want first, as far as it fits an answer.

        Of supplies with an end among ``ends``, or of all; of pairs of SAEs whose master is there.
        """
        places = [known for known in self.accounts.places() if ends is None or not {*known[0][:2]}.isdisjoint(ends)]
        places.sort(key=lambda known: (-known[1].outgoing.waiting, known[0]))
        pairs = [known for known in self.accounts.pairs() if ends is None or known[0] in ends]
        pairs.sort(key=lambda known: (-known[2].waiting, not known[2].low, known[2].master))
        left_out = max(0, len(places) - SUPPLIES_SHOWN_MAX) + max(0, len(pairs) - PAIRS_SHOWN_MAX)
        why = {place: self.refills.why(place, now) for place, _ in places[:SUPPLIES_SHOWN_MAX]}
        return SuppliesView(
            kmes=tuple(sorted(kme for kme in self.accounts.incarnations if ends is None or kme in ends)),
            supplies=tuple(
                SupplyView(
                    source=place.source,
                    said_s_ago=max(0.0, now - said.at),
                    supply=said.outgoing,
                    refills=len(self.refills.under_way.of(place)),
                    served=why[place][0],
                    why=why[place][1],
                )
                for place, said in places[:SUPPLIES_SHOWN_MAX]
            ),
            pairs=tuple(
                SaePairView(kme=kme, said_s_ago=max(0.0, now - at), pair=pair)
                for kme, at, pair in pairs[:PAIRS_SHOWN_MAX]
            ),
            left_out=left_out,
        )

    def wait_s(self, now: float) -> float:
        """Return in how many seconds something is due."""
        if self._must_look.value:
            return 0.0
        return max(self.refills.wait_s(now), _LOOK_EVERY_S - abs(now - self._looked_at.value))

    def _reports(self) -> Iterator[tuple[str, float, LinkReport]]:
        """Yield what each KME said last of each of its links, and when."""
        for kme, (at, hello) in self._liveness.last_hellos.items():
            yield from ((kme, at, link) for link in hello.links)
