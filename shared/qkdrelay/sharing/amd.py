"""The AMD code: an algebraic manipulation detection code, which makes a change to a share show.

Shamir's sharing is malleable: who adds d to a share adds a known multiple of d to the secret. A payload is
therefore encoded before every split. A change made by those who hold fewer shares than the threshold goes
unseen with chance at most (d+1)/2^128 for d blocks, even if they know the message and act last.
Cramer, Dodis, Fehr, Padro, Wichs, "Detection of Algebraic Manipulation", EUROCRYPT 2008.

A message longer than `SHORT` is hashed first, with a random key, and the code goes over key and hash. A change
that leaves both as they were takes two messages of one hash, under a key that is not known to who chooses them:
chance at most 8 ceil(length/16)/2^106, at 512 KiB 2^-88, as for the tags of the messages that carry the shares
(Bernstein, "The Poly1305-AES message-authentication code", FSE 2005, theorem 3.3). Any other changes what the
code goes over, and the code's point is independent of that: chance at most 4/2^128.
"""

from __future__ import annotations

from hmac import compare_digest

from cryptography.hazmat.primitives.poly1305 import Poly1305

from qkdrelay.errors import AmdError, SharingError
from qkdrelay.sharing import gf128
from qkdrelay.sharing.shamir import Random

SHORT = 256
"""Bytes of the longest message that is not hashed. From 96 on hashing is faster, but 16 bytes of link key are dear."""

_KEY = gf128.BLOCK
"""Bytes of the hash's key r."""
_POINT_AND_TAG = 2 * gf128.BLOCK
_ONE = (1).to_bytes(gf128.BLOCK)
_ZERO = bytes(gf128.BLOCK)


def encoded_length(length: int, times: int = 1) -> int:
    """Return the bytes of what becomes of ``length`` bytes when they are encoded ``times`` times."""
    for _ in range(times):
        length += _POINT_AND_TAG if length <= SHORT else _KEY + _POINT_AND_TAG
    return length


def encode(message: bytes, random: Random) -> bytes:
    """Return ``message || x || f``, or ``message || r || x || f`` if it is longer than `SHORT`. It may be empty.

    Draws once: the 16 bytes of x, or the 32 of r and x. Raises SharingError if ``random`` gives another number.
    """
    size = encoded_length(len(message)) - len(message) - gf128.BLOCK
    drawn = random(size)
    if len(drawn) != size:
        raise SharingError(f"the source of randomness gave {len(drawn)} bytes instead of {size}")
    key, point = drawn[: -gf128.BLOCK], drawn[-gf128.BLOCK :]
    return message + (drawn + _tag(message, key, point))


def decode(codeword: bytes) -> bytes:
    """Return the message in ``codeword``; AmdError if it is not a code word. Compares in constant time."""
    size = len(codeword) - _POINT_AND_TAG
    if size > SHORT:
        size -= _KEY
    if encoded_length(size) != len(codeword) or size < 0:
        raise AmdError(f"no code word has {len(codeword)} bytes")
    message, key = codeword[:size], codeword[size:-_POINT_AND_TAG]
    point = codeword[-_POINT_AND_TAG : -gf128.BLOCK]
    if not compare_digest(_tag(message, key, point), codeword[-gf128.BLOCK :]):
        raise AmdError("not a code word of the AMD code: something was altered")
    return message


def _tag(message: bytes, key: bytes, point: bytes) -> bytes:
    """Return f: of the message, or where there is a key of ``r || Poly1305(r, message)`` without its addend."""
    return _polynomial(key + Poly1305.generate_tag(key + _ZERO, message) if key else message, point)


def _polynomial(message: bytes, x: bytes) -> bytes:
    """Return x^(d+2) + sum of block_i * x^i over the d blocks.

    The blocks are the message padded with zeros, its length in bytes, and a zero block if d would be even.

    d+2 must be odd. In characteristic 2 an even power of x + e differs from that of x by even powers below it
    only, at d = 2 by the constant e^4: who knows the message could then match a change to x, unseen.
    """
    size = len(message)
    end = bytes(-size % gf128.BLOCK) + size.to_bytes(gf128.BLOCK)
    if (size + len(end)) // gf128.BLOCK % 2 == 0:
        end += _ZERO
    return gf128.evaluate(message + (end + _ZERO + _ONE), x)
