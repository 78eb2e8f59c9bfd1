"""Random bytes for keys and shares: the operating system's, or for many at once OpenSSL's generator fed by it.

And names that nobody else has.
"""

from __future__ import annotations

import os
import ssl
from collections.abc import Callable

LONG = 4096
"""From how many bytes on OpenSSL's generator is quicker. Measured: 32 KiB take 8 us, and the kernel 60."""
_MIXED_IN = 32


def random_bytes(size: int) -> bytes:
    """Return ``size`` bytes, uniform and independent to whoever cannot break AES-256.

    Short draws are ``os.urandom``. For long ones 32 bytes of the operating system's are mixed into OpenSSL's
    generator (AES-256 in counter mode, NIST SP 800-90A), which is thereby seeded anew, and the rest is drawn from it.
    So each draw has a seed of its own, as unpredictable as the kernel's, which is a generator of that kind itself:
    also after a fork, and in two copies of a machine that was halted and is run twice.

    Raises OSError (``ssl.SSLError``) if the generator cannot be seeded.
    """
    if size < LONG:
        return os.urandom(size)
    ssl.RAND_add(os.urandom(_MIXED_IN), float(_MIXED_IN))
    return ssl.RAND_bytes(size)


def epoch_after(last: bytes, now: float, random: Callable[[int], bytes]) -> bytes:
    """Return 16 bytes that nobody else has and that sort by time: milliseconds, then chance.

    After ``last``, which may be empty, also where the clock was stepped back.
    """
    milliseconds = min(max(int(now * 1000), int.from_bytes(last[:6]) + 1), 2**48 - 1)
    return milliseconds.to_bytes(6) + random(10)


def epoch_s(epoch: bytes) -> float:
    """Return when an epoch began by its own account, in seconds since the Unix epoch."""
    return int.from_bytes(epoch[:6]) / 1000
