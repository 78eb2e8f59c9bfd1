"""The AMD code: an algebraic manipulation detection code, which makes a change to a share show.

Shamir's sharing is malleable: who adds d to a share adds a known multiple of d to the secret. A payload is
therefore encoded before every split. A change made by those who hold fewer shares than the threshold goes
unseen with chance at most (d+1)/2^128 for d blocks, even if they know the message and act last.
Cramer, Dodis, Fehr, Padro, Wichs, "Detection of Algebraic Manipulation", EUROCRYPT 2008.
"""

from __future__ import annotations

from hmac import compare_digest

from qkdrelay.errors import AmdError, SharingError
from qkdrelay.sharing import gf128
from qkdrelay.sharing.shamir import Random

OVERHEAD = 2 * gf128.BLOCK
"""Bytes that encoding adds: the random point r and the tag f."""

_ONE = (1).to_bytes(gf128.BLOCK)
_ZERO = bytes(gf128.BLOCK)


def encode(message: bytes, random: Random) -> bytes:
    """Return ``message || r || f``, 32 bytes longer than the message, which may be empty.

    Draws once: the 16 bytes of r. Raises SharingError if ``random`` gives another number of bytes.
    """
    point = random(gf128.BLOCK)
    if len(point) != gf128.BLOCK:
        raise SharingError(f"the source of randomness gave {len(point)} bytes instead of {gf128.BLOCK}")
    return message + (point + _tag(message, point))


def decode(codeword: bytes) -> bytes:
    """Return the message in ``codeword``; AmdError if it is not a code word. Compares in constant time."""
    if len(codeword) < OVERHEAD:
        raise AmdError(f"a code word has at least {OVERHEAD} bytes, not {len(codeword)}")
    message = codeword[:-OVERHEAD]
    point = codeword[-OVERHEAD : -gf128.BLOCK]
    if not compare_digest(_tag(message, point), codeword[-gf128.BLOCK :]):
        raise AmdError("not a code word of the AMD code: something was altered")
    return message


def _tag(message: bytes, point: bytes) -> bytes:
    """Return f = r^(d+2) + sum of block_i * r^i over the d blocks.

    The blocks are the message padded with zeros, its length in bytes, and a zero block if d would be even.

    d+2 must be odd. In characteristic 2 an even power of r + e differs from that of r by even powers below it
    only, at d = 2 by the constant e^4: who knows the message could then match a change to r, unseen.
    """
    size = len(message)
    end = bytes(-size % gf128.BLOCK) + size.to_bytes(gf128.BLOCK)
    if (size + len(end)) // gf128.BLOCK % 2 == 0:
        end += _ZERO
    return gf128.evaluate(message + (end + _ZERO + _ONE), point)
