"""Sealed messages: what leaves a KME over a QKD link (protocol, section 4).

The header travels in the clear and is covered by the tag. A slot seals one message, ever, and so does a byte of pad:
where they come from sees to that (`qkdrelay.link.blocks`).
"""

from __future__ import annotations

from collections.abc import Callable

from cryptography.exceptions import InvalidSignature, InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.poly1305 import Poly1305

from qkdrelay.errors import ForgedMessageError
from qkdrelay.messages import codec
from qkdrelay.messages.link import SealedMessage, ShareHeader
from qkdrelay.network.key_cost import Suite

_TAG_BYTES = 16
# A key that is used for one message needs no nonce beside it.
_NONCE = bytes(12)
_LONG_BYTES = 1024
"""Length from which on numpy is faster than one large integer. Measured."""


def seal(suite: Suite, header: ShareHeader, body: bytes, slot: bytes, pad: bytes) -> bytes:
    """Return the bytes to publish: ``body`` sealed under the slot and the pad that ``header`` names.

    The pad is as long as `pad_needed` says.
    """
    head = codec.encode(header)
    if suite == "otp":
        ciphertext = _xor(body, pad)
        tag = one_time_tag(slot, head, ciphertext)
    else:
        sealed = AESGCM(slot).encrypt(_NONCE, body, head)
        ciphertext, tag = sealed[:-_TAG_BYTES], sealed[-_TAG_BYTES:]
    return codec.encode(SealedMessage(header=head, ciphertext=ciphertext, tag=tag))


def unseal(suite: Suite, sealed: SealedMessage, slot: bytes, pad: Callable[[int], bytes]) -> bytes:
    """Return the body, or raise ForgedMessageError; ``pad`` returns so much of the pad that the header names.

    The tag is checked first, in constant time; nothing is decrypted, and no pad looked for, under a wrong one.
    """
    try:
        if suite == "otp":
            Poly1305.verify_tag(slot, _tagged(sealed.header, sealed.ciphertext), sealed.tag)
            return _xor(sealed.ciphertext, pad(len(sealed.ciphertext)))
        body = AESGCM(slot).decrypt(_NONCE, sealed.ciphertext + sealed.tag, sealed.header)
    except (InvalidSignature, InvalidTag):
        raise ForgedMessageError("the seal does not verify") from None
    pad(0)
    return body


def one_time_tag(key: bytes, context: bytes, data: bytes) -> bytes:
    """Return the 16-byte Poly1305 tag over ``len(context) as 8 bytes || context || data``; ``key`` serves once."""
    return Poly1305.generate_tag(key, _tagged(context, data))


def one_time_tag_is_valid(key: bytes, context: bytes, data: bytes, tag: bytes) -> bool:
    """Whether ``tag`` is the one `one_time_tag` returns; compared in constant time."""
    try:
        Poly1305.verify_tag(key, _tagged(context, data), tag)
    except InvalidSignature:
        return False
    return True


def _tagged(context: bytes, data: bytes) -> bytes:
    return len(context).to_bytes(8, "big") + context + data


def _xor(a: bytes, b: bytes) -> bytes:
    if len(a) >= _LONG_BYTES:
        import numpy as np  # noqa: PLC0415 - slow to load, and most messages are short

        return (np.frombuffer(a, np.uint8) ^ np.frombuffer(b, np.uint8)).tobytes()
    return (int.from_bytes(a, "big") ^ int.from_bytes(b, "big")).to_bytes(len(a), "big")
