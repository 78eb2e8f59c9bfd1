"""The sharing once more: slow, from the definitions, with no line in common with the code under test.

Run as a script it prints tests/vectors/sharing.json.
"""

import hashlib
import json
from itertools import combinations, product

from support.wire_slow import poly1305

EIGHT = {
    "kme-1": (["kme-2", "kme-3", "kme-4"], 2),
    "kme-2": (["kme-5", "kme-6"], 2),
    "kme-3": (["kme-5", "kme-6", "kme-7"], 2),
    "kme-4": (["kme-6", "kme-7"], 2),
    "kme-5": (["kme-8"], 1),
    "kme-6": (["kme-8"], 1),
    "kme-7": (["kme-8"], 1),
}
CHAIN = {"a": (["b"], 1), "b": (["c", "d", "e", "f"], 3), **{kme: (["g"], 1) for kme in "cdef"}}


def carryless(a, b):
    product = 0
    while b:
        if b & 1:
            product ^= a
        a, b = a << 1, b >> 1
    return product


def reduced(a, modulus):
    while a.bit_length() >= modulus.bit_length():
        a ^= modulus << (a.bit_length() - modulus.bit_length())
    return a


def mul8(a, b):
    return reduced(carryless(a, b), 0x11B)


def mul128(a, b):
    return reduced(carryless(a, b), (1 << 128) | 0b10000111)


def xor(a, b):
    return bytes(x ^ y for x, y in zip(a, b, strict=True))


def evaluate128(blocks, r):
    """sum of block_i * r^i over i = 1..d, all as integers"""
    total, power = 0, 1
    for block in blocks:
        power = mul128(power, r)
        total ^= mul128(block, power)
    return total


def amd_codeword(message, drawn, *, zero_block=True):
    covered, x = message, drawn
    if len(message) > 256:
        r, x = drawn[:16], drawn[16:]
        covered = r + poly1305(r + bytes(16), message)
    padded = covered + bytes((16 - len(covered)) % 16) + len(covered).to_bytes(16, "big")
    blocks = [int.from_bytes(padded[i : i + 16], "big") for i in range(0, len(padded), 16)]
    if zero_block and len(blocks) % 2 == 0:
        blocks.append(0)
    f = evaluate128([*blocks, 0, 1], int.from_bytes(x, "big"))
    return message + drawn + f.to_bytes(16, "big")


def shamir_shares(secret, n, coefficients):
    """coefficients of x, x^2, ...; one byte string each"""
    shares = []
    for x in range(1, n + 1):
        share, power = secret, 1
        for coefficient in coefficients:
            power = mul8(power, x)
            share = xor(share, bytes(mul8(power, byte) for byte in coefficient))
        shares.append(share)
    return shares


def stream(route):
    """A replayable source of randomness for the KME at the end of ``route``."""
    data, at = hashlib.shake_256("/".join(route).encode()).digest(1 << 14), 0

    def random(size):
        nonlocal at
        at += size
        return data[at - size : at]

    return random


def tree_payloads(hops, source, payload):
    """route -> payload, each KME drawing from the stream of its route"""
    payloads = {}

    def visit(route, held):
        payloads["/".join(route)] = held.hex()
        successors, k = hops.get(route[-1], ([], 0))
        if len(successors) > 1 or (successors and route == (source,)):
            random = stream(route)
            codeword = amd_codeword(held, random(16 if len(held) <= 256 else 32))
            drawn = random((k - 1) * len(codeword))
            size = len(codeword)
            coefficients = [drawn[i * size : (i + 1) * size] for i in range(k - 1)]
            shares = shamir_shares(codeword, len(successors), coefficients)
        else:
            shares = [held] * len(successors)
        for successor, share in zip(successors, shares, strict=True):
            visit((*route, successor), share)

    visit((source,), payload)
    return payloads


def threshold_circuit(hops, source, held):
    """Whether the routes in ``held`` suffice: a payload is held, or k of its children are."""

    def reached(route):
        if route in held:
            return True
        successors, k = hops.get(route[-1], ([], 1))
        return sum(reached((*route, successor)) for successor in successors) >= k

    return reached((source,))


def inverse8(a):
    return next(b for b in range(1, 256) if mul8(a, b) == 1)


def interpolated8(points):
    """The value at 0 of the polynomial through ``points`` (x, bytes)."""
    total = bytes(len(points[0][1]))
    for x, y in points:
        weight = 1
        for other, _ in points:
            if other != x:
                weight = mul8(weight, mul8(other, inverse8(x ^ other)))
        total = xor(total, bytes(mul8(weight, byte) for byte in y))
    return total


def amd_message(codeword):
    """The message in a code word, or None."""
    size = len(codeword) - 32 if len(codeword) - 32 <= 256 else len(codeword) - 48
    whole = size >= 0 and amd_codeword(codeword[:size], codeword[size:-16]) == codeword
    return codeword[:size] if whole else None


def payloads(hops, route, held):
    """All payloads that ``held`` (route -> payload) may mean on ``route``: whatever some k shares decode to."""
    if route in held:
        return {held[route]}
    successors, k = hops.get(route[-1], ([], 1))
    below = [payloads(hops, (*route, successor), held) for successor in successors]
    if len(successors) == 1 and len(route) > 1:
        return below[0]
    found = set()
    for xs in combinations(range(1, len(successors) + 1), k):
        for values in product(*(below[x - 1] for x in xs)):
            found.add(amd_message(interpolated8(list(zip(xs, values, strict=True)))))
    return found - {None}


def vectors():
    def pattern(label, size):
        return hashlib.shake_256(label.encode()).digest(size)

    shamir = []
    published = ("000102fdfeff", "a0b1c2d3e4f5", 2, 3)
    drawn = [
        (pattern(f"secret {k} {n}", 20).hex(), pattern(f"{k} {n}", 20 * (k - 1)).hex(), k, n)
        for k, n in ((1, 3), (2, 2), (3, 3), (3, 5), (5, 9), (128, 255))
    ]
    for secret, random, k, n in (published, *drawn):
        size = len(secret)
        coefficients = [bytes.fromhex(random[i * size : (i + 1) * size]) for i in range(k - 1)]
        shares = shamir_shares(bytes.fromhex(secret), n, coefficients)
        shamir.append({"k": k, "n": n, "secret": secret, "random": random, "shares": [s.hex() for s in shares]})
    amd = []
    for size in (0, 1, 15, 16, 17, 32, 33, 48, 96, 100, 255, 256, 257, 272, 576):
        message, drawn = bytes(i % 256 for i in range(size)), bytes(range(16 if size <= 256 else 32))
        amd.append({"message": message.hex(), "random": drawn.hex(), "codeword": amd_codeword(message, drawn).hex()})
    trees = []
    # 240 bytes are encoded as a short message first, and then as a long one.
    for hops, source, target, size in (
        (EIGHT, "kme-1", "kme-8", 96),
        (EIGHT, "kme-1", "kme-8", 240),
        (CHAIN, "a", "g", 96),
    ):
        payload = pattern("payload", size)
        payloads = tree_payloads(hops, source, payload)
        trees.append(
            {
                "source": source,
                "target": target,
                "hops": {k: list(v) for k, v in hops.items()},
                "payloads": payloads,
            }
        )
    return {"shamir": shamir, "amd": amd, "tree": trees}


if __name__ == "__main__":
    print(json.dumps(vectors(), indent=1))
