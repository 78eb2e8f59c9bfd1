"""A pair of QKD devices as the source of a link's key: each device at its site gives the same keys, named by ids."""

from __future__ import annotations

from typing import Final

from kme.blocks.source import FetchedKey, RawKey
from kme.devices.answers import KEYS_MAX, DeviceKey
from kme.devices.line import DeviceLine, Drawn, Fetched
from qkdrelay.messages.blocks import BLOCK_BYTES_MAX, BLOCK_BYTES_MIN, KEY_IDS_MAX, Facts
from qkdrelay.network.devices import AHEAD_BYTES_DEFAULT
from qkdrelay.network.topology import SourceKind

KEY_BYTES_LEAST = 8
"""Of the smallest key that a device may give."""
_PILE_BYTES, _PILE_BYTES_LEAST = 512, 160
"""From how many bytes on the answers of a device that gives few keys at once are a block; then of one that may drop
what was not fetched, and so all but the last answer."""
_PARTS: Final = 24
"""Of what a message lacks, each at least one block: of more than `PIECES_MAX` blocks no message can be made."""


class DeviceSource:
    """One end of a link whose key comes from devices (a `kme.blocks.source.KeySource`)."""

    kind: SourceKind = "etsi014"

    def __init__(self, line: DeviceLine, *, ahead_bytes: int = AHEAD_BYTES_DEFAULT, expected_bps: int = 0) -> None:
        """``line`` is started and stopped by whoever made it; ``ahead_bytes`` of key are had at once at most.

        ``expected_bps`` is the rate until it is known.
        """
        self._line, self._ahead_bytes, self._expected_bps = line, ahead_bytes, expected_bps
        self.draws_ahead = line.keeps_uncollected
        self._pile_bytes = _PILE_BYTES if self.draws_ahead else _PILE_BYTES_LEAST
        self._least = BLOCK_BYTES_MIN
        self._key_bytes, self._keys_max = KEY_BYTES_LEAST, KEYS_MAX
        """Of a key, as of the last ones, and of those that are asked for: one request's, until the size is known."""
        self._pile = list[DeviceKey]()
        """Keys that were drawn and do not make a block yet."""
        self._drawn: RawKey | None = None
        self._fetching: Facts | None = None
        self._fetched: FetchedKey | None = None

    def ask(self, length: int, least: int) -> bool:
        """As of `KeySource`: as many keys as make so many bytes, if a block can have so many."""
        if self._drawn is not None or self._line.is_drawing():
            return False
        pile_bytes = max(self._pile_bytes, least // _PARTS)
        self._least = max(BLOCK_BYTES_MIN, min(least, pile_bytes, self._ahead_bytes))
        self._pack()
        if self._drawn is not None:
            return True
        return self._line.draw(
            max(1, min(self._keys_max, KEY_IDS_MAX - len(self._pile), -(-length // self._key_bytes)))
        )

    def is_drawing(self) -> bool:
        """As of `KeySource`."""
        # In this order: what comes between the two is taken.
        is_drawing = self._line.is_drawing()
        self._take()
        return is_drawing or self._drawn is not None

    def drawn(self) -> RawKey | None:
        """As of `KeySource`."""
        self._take()
        drawn, self._drawn = self._drawn, None
        return drawn

    def fetch(self, facts: Facts) -> bool:
        """As of `KeySource`. A block without ids is none of a device's: its key cannot be had."""
        if self._fetching is not None or self._fetched is not None:
            return False
        if not facts.key_ids:
            self._fetched = FetchedKey(facts, None, "it names no key of the device")
            return True
        if not self._line.fetch(facts.key_ids):
            return False
        self._fetching = facts
        return True

    def fetched(self) -> FetchedKey | None:
        """As of `KeySource`."""
        self._take()
        fetched, self._fetched = self._fetched, None
        return fetched

    def held(self, facts: Facts) -> None:
        """As of `KeySource`."""
        self._line.held(facts.key_ids)

    def computed(self, facts: Facts) -> None:
        """As of `KeySource`."""

    def available(self) -> int:
        """As of `KeySource`: what the device has is not known; while it gives all it is asked for, it has enough."""
        state = self._line.state()
        has_enough = state.drawn and not state.is_limit and not state.why
        return self._ahead_bytes if has_enough else sum(len(key.key) for key in self._pile)

    def capacity(self) -> int:
        """As of `KeySource`."""
        return self._ahead_bytes

    def rate_bps(self) -> int:
        """As of `KeySource`: what was expected, until the device shows that it gives less, or more."""
        state = self._line.state()
        return state.rate_bps if state.is_limit or state.why else max(state.rate_bps, self._expected_bps)

    def drawn_bps(self) -> int:
        """As of `KeySource`."""
        return self._line.state().rate_bps

    def why_dry(self) -> str:
        """As of `KeySource`."""
        return self._line.state().why

    def _take(self) -> None:
        for outcome in self._line.take():
            match outcome:
                case Drawn(keys=keys):
                    self._pile += keys
                    self._pack()
                case Fetched(key_ids=key_ids, keys=keys, why=why):
                    facts, self._fetching = self._fetching, None
                    if facts is not None and facts.key_ids == key_ids:
                        key = None if why else b"".join(key.key for key in keys)[: facts.length]
                        self._fetched = FetchedKey(facts, key, why)

    def _pack(self) -> None:
        """Make a block of what was drawn, if it is long enough; else more is asked for."""
        raw, ids = b"".join(key.key for key in self._pile), tuple(key.key_id for key in self._pile)
        if self._pile:
            self._key_bytes = len(self._pile[0].key)
            self._keys_max = KEY_IDS_MAX if self.draws_ahead else KEYS_MAX
        if len(raw) < self._least and len(ids) < KEY_IDS_MAX:
            return
        self._pile.clear()
        if BLOCK_BYTES_MIN <= len(raw) <= BLOCK_BYTES_MAX and len(ids) <= KEY_IDS_MAX:
            self._drawn = RawKey(len(raw), ids, lambda _block: raw)
