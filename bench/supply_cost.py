"""Link key drawn for the keys that applications are given, in one process."""

from __future__ import annotations

from typing import Any

from bench.growth import Counted, network
from bench.saes import MASTERS_AT, SLAVES_AT
from kme.applications import Caller, KeyRequest, TryLaterError
from qkdrelay.network.directory import Directory, PairSettings, Sae

MASTER, SLAVE = "m-0", "s-0"
KEYS = 16_384
EACH = (1, 16, 128)
"""Keys in a request."""
KEY_BYTES = 32
TAG_PAIR_BYTES = 64
"""Relayed for each assignment, and handed out to nobody."""


def measure() -> list[dict[str, Any]]:
    """Return for each size of request the link key drawn for a byte handed out, over the plan's minimum.

    The minimum is each byte once for each share message of its relay. What is left of the last relay of supply when the
    last key was handed out goes to who comes next, and does not count.
    """
    return [_measured(each) for each in EACH]


def _measured(each: int) -> dict[str, Any]:
    saes = {MASTER: Sae(MASTER, MASTERS_AT), SLAVE: Sae(SLAVE, SLAVES_AT)}
    directory = Directory(saes, {(MASTER, SLAVE): PairSettings(stock=max(each, 128))})
    with network(directories=dict.fromkeys((MASTERS_AT, SLAVES_AT), directory)) as counted:
        seen = _Seen(counted)
        handed_out = 0
        while handed_out < KEYS:
            handed_out += _take(counted, each)
        left = seen.relayed - seen.cut
        messages = counted.messages / seen.relays
        least = messages * seen.relayed
        return {
            "keys_each": each,
            "keys": handed_out,
            "relays": seen.relays,
            "assignments": seen.assignments,
            "over_minimum": counted.drawn / least,
            "target": 1.05 + TAG_PAIR_BYTES * seen.assignments / seen.cut,
            "left_bytes": left,
        }


def _take(counted: Counted, each: int) -> int:
    """Take keys for the master; return how many: none while there are none."""
    keys = counted.keys_of[MASTERS_AT]
    answer = keys.take(Caller(MASTER, "00" * 32), KeyRequest(SLAVE, each, KEY_BYTES * 8))
    try:
        return len(counted.settle_while(lambda: answer.result(timeout=10.0)))
    except TryLaterError:
        return 0


class _Seen:
    """What the masters' KME takes in as supply, and cuts."""

    def __init__(self, counted: Counted) -> None:
        self.relays = self.relayed = self.assignments = self.cut = 0
        supply = counted.keys_of[MASTERS_AT]._room.source.memory.supply
        add, cut = supply.add, supply.cut

        def added(relay: Any) -> None:
            self.relays += 1
            self.relayed += len(relay.keys)
            add(relay)

        def cut_(*arguments: Any, **options: Any) -> Any:
            block = cut(*arguments, **options)
            if block is not None:
                self.assignments += 1
                self.cut += len(block.keys)
            return block

        supply.add, supply.cut = added, cut_
