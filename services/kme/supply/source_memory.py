"""The memory of the masters' side: supply, assignments on their way, ready keys, requests that wait, what is in use."""

from __future__ import annotations

from collections.abc import Callable

from kme.supply.asking import Asking
from kme.supply.demand import Uses
from kme.supply.model import Block, Pair, SupplyLimits
from kme.supply.ready import ReadyKeys
from kme.supply.relays import SourceSupply
from kme.supply.tallies import Tallies
from kme.supply.waiters import Waiters
from qkdrelay.network.directory import NO_SAES, Directory
from qkdrelay.service.batch import Batch, BatchDict, Cell

_RESTS_S = 10.0
"""Seconds for which nothing more is assigned where an assignment was refused for want of room, or for its SAEs."""


class Holdings:
    """How many bytes are assigned and not handed out: in all, and of each master."""

    def __init__(self, batch: Batch, limits: SupplyLimits) -> None:
        self._limits = limits
        self._all = Cell(batch, 0)
        self._of: dict[str, int] = BatchDict(batch)

    @property
    def all(self) -> int:
        """Bytes in all."""
        return self._all.value

    def of(self, master: str) -> int:
        """Return the bytes of one master."""
        return self._of.get(master, 0)

    def room(self, master: str) -> int:
        """Return how many bytes more a master may have."""
        return max(0, min(self._limits.bytes_all - self.all, self._limits.bytes_each - self.of(master)))

    def add(self, master: str, length: int) -> None:
        """Count bytes that were assigned; negative for those that are here no longer."""
        self._all.value += length
        if left := self.of(master) + length:
            self._of[master] = left
        else:
            self._of.pop(master, None)


class Rests:
    """Targets and pairs that refused an assignment lately, and why: to try again at once would burn supply."""

    def __init__(self, batch: Batch) -> None:
        self._since: dict[str | Pair, tuple[float, str]] = BatchDict(batch)

    def begin(self, where: str | Pair, why: str, now: float) -> None:
        """Have nothing assigned to this target, or pair, for a while."""
        self._since[where] = now, why

    def why(self, where: str | Pair, now: float) -> str:
        """Return why nothing is assigned there now; nothing if it may be."""
        since, why = self._since.get(where, (0.0, ""))
        # A distance, not a difference: the clock may be stepped back.
        return why if why and abs(now - since) < _RESTS_S else ""

    def end(self, now: float) -> bool:
        """Forget what is over; return whether there was any."""
        over = [where for where in self._since if not self.why(where, now)]
        for where in over:
            del self._since[where]
        return bool(over)


class SourceMemory:
    """What one KME has in memory for its applications as masters; a start begins with none of it."""

    def __init__(self, name: str, batch: Batch, random: Callable[[int], bytes], limits: SupplyLimits) -> None:
        """``name`` is the KME's; ``random`` draws assign_ids."""
        self.name, self.limits = name, limits
        self.supply = SourceSupply(name, batch, random, limits)
        self.asking = Asking(batch)
        self.ready = ReadyKeys(batch)
        self.waiters = Waiters(batch, limits)
        self.demand = Uses(batch, limits)
        self.tallies = Tallies(batch, limits)
        self.holdings = Holdings(batch, limits)
        self.rests = Rests(batch)
        self._directory = Cell(batch, NO_SAES)

    @property
    def directory(self) -> Directory:
        """Of the KME, as it is now."""
        return self._directory.value

    @directory.setter
    def directory(self, directory: Directory) -> None:
        self._directory.value = directory

    def peers(self) -> set[str]:
        """Return the KMEs that the SAEs of the directory are at, and those there is supply for."""
        return {sae.kme for sae in self.directory.saes.values()} | set(self.supply.targets())

    def let_go(self, block: Block) -> None:
        """Take note that what is left of a block is here no longer."""
        self.holdings.add(block.pair.master, -block.bytes_left)
