"""Part 2: splitting and combining, against other libraries. Plain Shamir on both sides, and ours with its AMD code."""

from __future__ import annotations

import ctypes
import ctypes.util
import os
import timeit
from collections.abc import Callable
from functools import partial
from typing import Any, TypeAlias

import pyshamir
import shamirs
import sslib.shamir
from Crypto.Protocol.SecretSharing import Shamir as Pycryptodome
from shamir_mnemonic import shamir as mnemonic

from qkdrelay.randomness import random_bytes
from qkdrelay.service.process import keep_freed_memory
from qkdrelay.sharing import amd, shamir

SIZES = (32, 1024, 32 * 1024, 1024 * 1024)
SCHEMES = ((2, 3), (3, 5))
PATIENCE_S = 2.0
"""What would take longer is not run; it is as slow as the size before says."""
_BLOCK = 16
_PRIME = 2**521 - 1
_FIELD_BYTES = 64

Split: TypeAlias = Callable[[bytes, int, int], Any]
"""(secret, threshold, shares) -> shares."""
Combine: TypeAlias = Callable[[Any, int], bytes]
"""(shares, threshold) -> secret, from the first ``threshold`` of them."""


def _ours(secret: bytes, k: int, n: int) -> list[bytes]:
    return shamir.split(secret, n, k, random_bytes)


def _our_combine(shares: list[bytes], k: int) -> bytes:
    return shamir.combine({x: shares[x - 1] for x in range(1, k + 1)})


def _ours_encoded(secret: bytes, k: int, n: int) -> list[bytes]:
    return shamir.split(amd.encode(secret, random_bytes), n, k, random_bytes)


def _our_decode(shares: list[bytes], k: int) -> bytes:
    return amd.decode(_our_combine(shares, k))


def _random_alone(secret: bytes, k: int, _n: int) -> bytes:
    return random_bytes((k - 1) * len(secret))


def _copies_alone(secret: bytes, _k: int, n: int) -> list[bytearray]:
    return [bytearray(secret) for _ in range(n)]


def _blocks(secret: bytes, size: int) -> list[bytes]:
    return [secret[start : start + size] for start in range(0, len(secret), size)]


def _shamirs(secret: bytes, k: int, n: int) -> Any:
    parts = [int.from_bytes(part) for part in _blocks(secret, _FIELD_BYTES)]
    size = min(len(secret), _FIELD_BYTES)
    return size, [shamirs.shares(part, quantity=n, modulus=_PRIME, threshold=k) for part in parts]


def _shamirs_combine(shares: Any, k: int) -> bytes:
    size, parts = shares
    return b"".join(int(shamirs.interpolate(part[:k], threshold=k)).to_bytes(size) for part in parts)


def _pycryptodome(secret: bytes, k: int, n: int) -> Any:
    return [Pycryptodome.split(k, n, block) for block in _blocks(secret, _BLOCK)]


def _pycryptodome_combine(shares: Any, k: int) -> bytes:
    return b"".join(Pycryptodome.combine(part[:k]) for part in shares)


def _sslib(secret: bytes, k: int, n: int) -> Any:
    return [sslib.shamir.split_secret(part, k, n) for part in _blocks(secret, _BLOCK)]


def _sslib_combine(shares: Any, k: int) -> bytes:
    return b"".join(sslib.shamir.recover_secret({**part, "shares": part["shares"][:k]}) for part in shares)


PYTHON: dict[str, tuple[Split, Combine]] = {
    "pyshamir": (lambda s, k, n: pyshamir.split(s, n, k), lambda shares, k: bytes(pyshamir.combine(shares[:k]))),
    "shamirs": (_shamirs, _shamirs_combine),
    "shamir-mnemonic": (
        lambda s, k, n: mnemonic._split_secret(k, n, s),
        lambda shares, k: mnemonic._recover_secret(k, shares[:k]),
    ),
    "sslib": (_sslib, _sslib_combine),
    "pycryptodome": (_pycryptodome, _pycryptodome_combine),
}
OURS: dict[str, tuple[Split, Combine]] = {
    "qkdrelay": (_ours, _our_combine),
    "qkdrelay with AMD": (_ours_encoded, _our_decode),
}

RANDOM_ALONE, COPIES_ALONE = "its random bytes alone", "as many copies of the secret alone"
"""What a split draws, and memory for what it returns: part of every split, and none of ours can take less."""


def _gfshare() -> dict[str, tuple[Split, Combine]]:
    """Return libgfshare (C, of Debian's package libgfshare2), if it is installed."""
    path = os.environ.get("LIBGFSHARE") or ctypes.util.find_library("gfshare")
    if path is None:
        return {}
    lib = ctypes.CDLL(path)
    for name in ("gfshare_ctx_init_enc", "gfshare_ctx_init_dec"):
        getattr(lib, name).restype = ctypes.c_void_p
    # The library's own source of randomness, weak and quick: its users have to bring another.
    source = ctypes.c_void_p.in_dll(lib, "gfshare_bad_idea_but_fill_rand_using_random")
    ctypes.c_void_p.in_dll(lib, "gfshare_fill_rand").value = source.value

    def split(secret: bytes, k: int, n: int) -> list[bytes]:
        context = ctypes.c_void_p(lib.gfshare_ctx_init_enc(bytes(range(1, n + 1)), n, k, len(secret)))
        lib.gfshare_ctx_enc_setsecret(context, secret)
        shares = []
        for place in range(n):
            buffer = ctypes.create_string_buffer(len(secret))
            lib.gfshare_ctx_enc_getshare(context, place, buffer)
            shares.append(buffer.raw)
        lib.gfshare_ctx_free(context)
        return shares

    def combine(shares: list[bytes], k: int) -> bytes:
        size = len(shares[0])
        context = ctypes.c_void_p(lib.gfshare_ctx_init_dec(bytes(range(1, k + 1)), k, size))
        for place in range(k):
            lib.gfshare_ctx_dec_giveshare(context, place, shares[place])
        buffer = ctypes.create_string_buffer(size)
        lib.gfshare_ctx_dec_extract(context, buffer)
        lib.gfshare_ctx_free(context)
        return buffer.raw

    return {"libgfshare (C)": (split, combine)}


def measure() -> dict[str, Any]:
    """Return microseconds of splitting and combining: scheme -> library -> size -> (split, combine).

    Beside the libraries stands what a split cannot do without.
    """
    keep_freed_memory()  # as the services do; for all libraries
    libraries = {**OURS, **PYTHON, **_gfshare()}
    results: dict[str, Any] = {}
    for k, n in SCHEMES:
        scheme = results[f"{k} of {n}"] = {}
        for name, library in libraries.items():
            scheme[name] = _of_each_size(name, *library, k, n)
        for name, work in {RANDOM_ALONE: _random_alone, COPIES_ALONE: _copies_alone}.items():
            scheme[name] = {size: {"split_us": _time(partial(work, bytes(size), k, n)) * 1e6} for size in SIZES}
    results["compiled"] = list(_gfshare())
    return results


def _of_each_size(name: str, split: Split, combine: Combine, k: int, n: int) -> dict[int, dict[str, float]]:
    times: dict[int, dict[str, float]] = {}
    slowest = 0.0
    for size in SIZES:
        if slowest * size > PATIENCE_S:
            break
        secret = os.urandom(size)
        shares = split(secret, k, n)
        if combine(shares, k) != secret:
            raise RuntimeError(f"{name} does not give {size} bytes back")
        pair = _time(partial(split, secret, k, n)), _time(partial(combine, shares, k))
        times[size] = {"split_us": pair[0] * 1e6, "combine_us": pair[1] * 1e6}
        slowest = max(pair) / size
    return times


def _time(call: Callable[[], object]) -> float:
    """Return the least time of a call, in seconds, of several series."""
    once = timeit.timeit(call, number=1)
    number = max(1, int(0.05 / max(once, 1e-7)))
    return min(timeit.repeat(call, number=number, repeat=3)) / number
