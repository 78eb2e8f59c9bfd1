"""Fairness among shares that wait for their link: which may wait, and which is next.

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


def origin_of(share: SendShare) -> str:
    """Return the KME that a share came from; the share's route ends in that KME, this one and the next."""
    return share.route[-3] if len(share.route) > 2 else share.route[-2]


class WaitingQuota:
    """What waits, counted."""

    def __init__(self, rows: Iterable[tuple[str, str, int, int]]) -> None:
        """``rows`` are (peer, origin, shares, their bytes)."""
        self._queues: dict[str, set[str]] = {}
        self._of_peer: dict[str, tuple[int, int]] = {}
        self._shares: Counter[str] = Counter()
        self._bytes: Counter[str] = Counter()
        for peer, origin, shares, size in rows:
            self._count(peer, origin, shares, size)

    def _count(self, peer: str, origin: str, shares: int, size: int) -> None:
        self._queues.setdefault(peer, set()).add(origin)
        before, bytes_before = self.of(peer)
        self._of_peer[peer] = before + shares, bytes_before + size
        self._shares[origin] += shares
        self._bytes[origin] += size

    def add(self, share: SendShare) -> None:
        """Count one more."""
        self._count(share.route[-1], origin_of(share), 1, len(share.payload))

    def origins(self, peer: str) -> Collection[str]:
        """Return where the shares that wait for the link to ``peer`` came from."""
        return self._queues.get(peer, ())

    def of(self, peer: str) -> tuple[int, int]:
        """Return how many shares wait for the link to ``peer``, and their bytes."""
        return self._of_peer.get(peer, (0, 0))

    def peers(self) -> Collection[str]:
        """Return the KMEs that something waits for."""
        return self._queues.keys()

    def is_full_for(self, share: SendShare) -> bool:
        """Whether ``share`` must not wait.

        An origin may have as much as is left free, so that there is always room for another one (dynamic thresholds:
        Choudhury and Hahne, IEEE/ACM Transactions on Networking 6(2), 1998).
        """
        origin, size = origin_of(share), len(share.payload)
        free, free_bytes = WAITING_MAX - self._shares.total(), WAITING_BYTES_MAX - self._bytes.total()
        return self._shares[origin] >= free or self._bytes[origin] + size > free_bytes


class FairQueue:
    """The order on one link: next is the origin that has had the least key while shares waited.

    Start-time fair queueing (Goyal, Vin, Cheng, SIGCOMM 1996), by bytes of key: of n origins with shares waiting each
    gets 1/n of the link, however many and however long its shares are. Who had nothing to send saves nothing up.
    """

    def __init__(self, batch: Batch) -> None:
        self._had: dict[str, int] = BatchDict(batch)
        self._time = Cell(batch, 0)
        """What the origin had that was next last: one that comes anew begins there."""

    def next(self, waiting: Iterable[str]) -> str:
        """Return which origin is next of those with shares ``waiting``, at least one."""
        order = sorted(waiting)
        self._had.update({origin: max(self._time.value, self._had.get(origin, 0)) for origin in order})
        origin = min(order, key=self._had.__getitem__)
        self._time.value = self._had[origin]
        return origin

    def served(self, origin: str, length: int) -> None:
        """Note that a share of ``origin`` drew ``length`` bytes of key."""
        self._had[origin] += length
