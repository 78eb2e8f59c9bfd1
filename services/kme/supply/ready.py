"""Keys that are ready at the masters' KME: the target has said that it keeps them for the slave. In memory only."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace
from uuid import UUID

from kme.applications import ApplicationKey
from kme.supply.model import Block, Pair, Want, rank
from qkdrelay.messages.keys import key_id
from qkdrelay.messages.relay_ids import made_at
from qkdrelay.service.batch import Batch, BatchDict


class ReadyKeys:
    """The ready keys of one KME by pair of SAEs, oldest first."""

    def __init__(self, batch: Batch) -> None:
        self._blocks: dict[Pair, tuple[Block, ...]] = BatchDict(batch)

    def all(self) -> Iterator[Block]:
        """Yield everything there is."""
        for blocks in self._blocks.values():
            yield from blocks

    def add(self, block: Block) -> None:
        """Have these keys handed out from now on."""
        self._blocks[block.pair] = (*self._blocks.get(block.pair, ()), block)

    def pairs(self) -> list[Pair]:
        """Return the pairs that have any."""
        return list(self._blocks)

    def of(self, pair: Pair) -> tuple[Block, ...]:
        """Return what a pair has."""
        return self._blocks.get(pair, ())

    def count(self, want: Want, now: float) -> int:
        """Return how many keys are ready for what is wanted."""
        return sum(block.count for block in self._fitting(want, now))

    def take(self, want: Want, number: int, now: float) -> list[ApplicationKey]:
        """Take so many keys, or none if there are fewer: those of the lowest level that will do, the oldest first."""
        fitting = sorted(self._fitting(want, now), key=lambda block: rank(block.level, want.level))
        if sum(block.count for block in fitting) < number:
            return []
        taken: list[ApplicationKey] = []
        left: dict[UUID, Block | None] = {}
        for block in fitting:
            if len(taken) == number:
                break
            end = min(block.first + number - len(taken), block.assign.assignment.key_count)
            taken += (_key(block, index, now) for index in range(block.first, end))
            rest = replace(block, first=end)
            left[block.assign.assignment.assign_id] = rest if rest.count else None
        kept = (left.get(block.assign.assignment.assign_id, block) for block in self._blocks[want.pair])
        self._keep(want.pair, [block for block in kept if block is not None])
        return taken

    def remove(self, blocks: Iterable[Block]) -> None:
        """Take blocks away, as they are."""
        for block in blocks:
            of_pair = self._blocks.get(block.pair, ())
            self._keep(block.pair, [each for each in of_pair if each is not block])

    def _fitting(self, want: Want, now: float) -> list[Block]:
        blocks = self._blocks.get(want.pair, ())
        return [block for block in blocks if block.serves(want) and now < block.assign.assignment.usable_until]

    def _keep(self, pair: Pair, blocks: list[Block]) -> None:
        if blocks:
            self._blocks[pair] = tuple(blocks)
        else:
            self._blocks.pop(pair, None)


def _key(block: Block, index: int, now: float) -> ApplicationKey:
    assignment = block.assign.assignment
    length = assignment.key_size_bits // 8
    return ApplicationKey(
        key_id(assignment.assign_id, index),
        block.keys[index * length : (index + 1) * length],
        block.level,
        block.route,
        max(0.0, now - made_at(assignment.relay_id)),
    )
