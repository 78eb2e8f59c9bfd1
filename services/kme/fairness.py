"""Shares that wait for their link: who may wait, and whose turn it is.

A KME cannot tell what a compromised neighbour invents from an honest relay, and passes both on. So what it passes on is
shared out by where it came from (its *origin*: the KME that sent it here, or this one): a neighbour that floods
takes from the others neither the room to wait in nor more than its share of a link's key.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable

from kme.effects import SendShare
from qkdrelay.service.batch import Batch, BatchDict, Cell

WAITING_MAX, WAITING_BYTES_MAX = 40_000, 128 << 20
"""Shares that wait, and their bytes; of one origin alone at most half as many."""


def origin(share: SendShare) -> str:
    """Return the KME that a share came from; the share's route ends in that KME, this one and the next."""
    return share.route[-3] if len(share.route) > 2 else share.route[-2]


class WaitingQuota:
    """What waits, counted."""

    def __init__(self, rows: Iterable[tuple[str, str, int, int]]) -> None:
        """``rows`` are (peer, origin, shares, their bytes)."""
        self._queues: dict[str, set[str]] = {}
        self._shares: Counter[str] = Counter()
        self._bytes: Counter[str] = Counter()
        for peer, whose, shares, size in rows:
            self._count(peer, whose, shares, size)

    def _count(self, peer: str, whose: str, shares: int, size: int) -> None:
        self._queues.setdefault(peer, set()).add(whose)
        self._shares[whose] += shares
        self._bytes[whose] += size

    def add(self, share: SendShare) -> None:
        """Count one more."""
        self._count(share.route[-1], origin(share), 1, len(share.payload))

    def origins(self, peer: str) -> Collection[str]:
        """Return where the shares that wait for the link to ``peer`` came from."""
        return self._queues.get(peer, ())

    def peers(self) -> Collection[str]:
        """Return the KMEs that something waits for."""
        return self._queues.keys()

    def is_full_for(self, share: SendShare) -> bool:
        """Whether ``share`` must not wait.

        An origin may have as much as is left free, so that there is always room for another one (dynamic thresholds:
        Choudhury and Hahne, IEEE/ACM Transactions on Networking 6(2), 1998).
        """
        whose, size = origin(share), len(share.payload)
        free, free_bytes = WAITING_MAX - self._shares.total(), WAITING_BYTES_MAX - self._bytes.total()
        return self._shares[whose] >= free or self._bytes[whose] + size > free_bytes


class FairQueue:
    """Whose share is next on one link: that of the origin that has had the least key while shares waited.

    Start-time fair queueing (Goyal, Vin, Cheng, SIGCOMM 1996), by bytes of key: of n origins with shares waiting each
    gets 1/n of the link, however many and however long its shares are. Who had nothing to send saves nothing up.
    """

    def __init__(self, batch: Batch) -> None:
        self._had: dict[str, int] = BatchDict(batch)
        self._time = Cell(batch, 0)
        """What the one had whose turn it was last: who comes anew begins there."""

    def next(self, waiting: Iterable[str]) -> str:
        """Return the origin whose turn it is of those with shares ``waiting``, at least one."""
        order = sorted(waiting)
        self._had.update({whose: max(self._time.value, self._had.get(whose, 0)) for whose in order})
        whose = min(order, key=self._had.__getitem__)
        self._time.value = self._had[whose]
        return whose

    def served(self, whose: str, length: int) -> None:
        """Note that a share of ``whose`` drew ``length`` bytes of key."""
        self._had[whose] += length
