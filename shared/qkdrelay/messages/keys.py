"""Amounts of keys of one relay, and key_IDs (protocol, section 5)."""

from __future__ import annotations

from uuid import UUID, uuid5

from qkdrelay.errors import RequestRefusedError

KEY_COUNT_MAX = 16_384
KEY_SIZE_BITS_MIN, KEY_SIZE_BITS_MAX = 64, 65_536
KEY_BYTES_MAX = 512 * 1024
"""Keys of one relay, together; with its header such a share fits the broker's message limit."""


class KeyAmountError(RequestRefusedError):
    """So many keys, or keys of this size, cannot be relayed at once."""


def key_id(relay_id: UUID, index: int) -> UUID:
    """Return the key_ID of key ``index`` (from 0) of a relay: UUIDv5(relay_id, str(index)) (protocol, section 5)."""
    return uuid5(relay_id, str(index))


def check_key_amount(key_count: int, key_size_bits: int) -> None:
    """Raise KeyAmountError unless one relay can carry this amount of keys."""
    if not 1 <= key_count <= KEY_COUNT_MAX:
        raise KeyAmountError(f"{key_count} keys were asked for; 1 to {KEY_COUNT_MAX} are possible")
    if key_size_bits % 8 or not KEY_SIZE_BITS_MIN <= key_size_bits <= KEY_SIZE_BITS_MAX:
        low, high = KEY_SIZE_BITS_MIN, KEY_SIZE_BITS_MAX
        raise KeyAmountError(f"key size {key_size_bits} bits; it must be a multiple of 8 from {low} to {high}")
    if key_count * key_size_bits // 8 > KEY_BYTES_MAX:
        raise KeyAmountError(
            f"{key_count} keys of {key_size_bits} bits are more than {KEY_BYTES_MAX} bytes, the most for one relay"
        )
