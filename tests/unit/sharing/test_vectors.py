"""The vectors of tests/vectors/sharing.json, and those the protocol publishes (protocol, section 3)."""

import json
from pathlib import Path

import pytest

from qkdrelay.schemes import recursive
from qkdrelay.sharing import amd, shamir
from support import sharing_slow as slow
from support.plans import at_target, written

VECTORS = json.loads((Path(__file__).parents[2] / "vectors" / "sharing.json").read_text())


def replay(drawn):
    """Randomness that can be drawn once, all of it."""

    def random(size):
        assert size == len(drawn)
        return drawn

    return random


def test_the_file_is_what_the_slow_implementation_makes():
    assert slow.vectors() == VECTORS


@pytest.mark.parametrize("vector", VECTORS["shamir"], ids=lambda v: f"{v['k']} of {v['n']}")
def test_shamir(vector):
    secret, drawn = bytes.fromhex(vector["secret"]), bytes.fromhex(vector["random"])
    shares = shamir.split(secret, vector["n"], vector["k"], replay(drawn))
    assert [share.hex() for share in shares] == vector["shares"]


@pytest.mark.parametrize("vector", VECTORS["amd"], ids=lambda v: f"{len(v['message']) // 2} bytes")
def test_amd(vector):
    codeword = amd.encode(bytes.fromhex(vector["message"]), replay(bytes.fromhex(vector["random"])))
    assert codeword.hex() == vector["codeword"]


@pytest.mark.parametrize(
    "vector", VECTORS["tree"], ids=lambda v: f"{v['source']}-{len(v['payloads'][v['source']]) // 2}"
)
def test_every_payload_on_the_way(vector):
    source, target = vector["source"], vector["target"]
    plan = written(vector["hops"], source, target)
    for name, payload in vector["payloads"].items():
        route = tuple(name.split("/"))
        step = recursive.deal if len(route) == 1 else recursive.reshare
        for successor, share in step(plan.below(route[-1]), bytes.fromhex(payload), slow.stream(route)):
            assert share.hex() == vector["payloads"][f"{name}/{successor}"]


@pytest.mark.parametrize(
    "vector", VECTORS["tree"], ids=lambda v: f"{v['source']}-{len(v['payloads'][v['source']]) // 2}"
)
def test_what_arrives_rebuilds_the_payload(vector):
    plan = written(vector["hops"], vector["source"], vector["target"])
    payloads = {tuple(name.split("/")): bytes.fromhex(p) for name, p in vector["payloads"].items()}
    payload = payloads.pop((plan.source,))
    assert recursive.rebuild(plan, at_target(plan, payloads), len(payload)).secret == payload


@pytest.mark.parametrize(
    ("size", "tag"),
    [
        (0, "004362c303134ceff6bcd738c5db56bc"),
        (17, "8c53d263c1afa2ef77812f6fec270ff5"),
        (32, "600fbc23f7803b9f6b16f5796f4c2d24"),
        (48, "8c2e50744fbb387b10033c763d8e2361"),
    ],
)
def test_the_published_amd_tags(size, tag):
    assert amd.encode(bytes(range(size)), lambda n: bytes(range(n)))[-16:].hex() == tag


def test_the_published_shares():
    coefficient = bytes.fromhex("a0b1c2d3e4f5")
    shares = shamir.split(bytes.fromhex("000102fdfeff"), 3, 2, replay(coefficient))
    assert [share.hex() for share in shares] == ["a0b0c02e1a0a", "5b789d402d0e", "fbc95f93c9fb"]
