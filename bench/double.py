"""python -m bench.double FOLDER SETTINGS: one of a pair of devices, in a process of its own.

Both make a key from its id and a secret of theirs, so that neither has to ask the other and both are fast. Prints its
port, and at each line that it reads the bits of key that it has given; it ends where its input does.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

from support.device import Pair, serving


class Device(Pair):  # type: ignore[misc]
    """A device that gives key at a rate, and whatever key it is asked for by id."""

    def __init__(self, *, secret: str, size_bits: int, **limits: Any) -> None:
        """``secret`` is the same at both ends."""
        super().__init__(**limits)
        self.size_bits, self._secret = size_bits, secret
        self._numbers: Iterator[int] = itertools.count(uuid4().int & ~((1 << 48) - 1))

    def draw(self, number: int, _size_bits: int | None = None, sae: str = "") -> list[tuple[str, bytes]]:
        """Draw keys: what there is, up to so many."""
        with self._changed:
            count = min(number, self.most)
            while count and not self._take(sae, count * self.size_bits):
                count //= 2
            self.drawn[sae] += count
            self.asked.clear()
            return self.fetch([str(UUID(int=next(self._numbers))) for _ in range(count)])

    def fetch(self, key_ids: Sequence[str]) -> list[tuple[str, bytes]]:
        """Give keys."""
        return [
            (each, hashlib.shake_128((self._secret + each).encode()).digest(self.size_bits // 8)) for each in key_ids
        ]


def main() -> None:
    """Serve until the input ends."""
    folder, device = Path(sys.argv[1]), Device(**json.loads(sys.argv[2]))
    with serving(device, folder / "server", folder / "ca" / "ca.pem") as port:
        print(port, flush=True)
        for _ in sys.stdin:
            print(sum(device.drawn.values()) * device.size_bits, flush=True)


if __name__ == "__main__":
    main()
