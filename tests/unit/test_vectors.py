"""The vectors of tests/vectors/wire.json, and those that the protocol and the standards publish."""

import json
from dataclasses import replace
from pathlib import Path
from uuid import UUID

import msgspec
import pytest

from kme.blocks.computed import block_key
from qkdrelay.link import assignment, confirmation
from qkdrelay.link.blocks.content import KeyBlock
from qkdrelay.link.envelope import one_time_tag, one_time_tag_is_valid, seal, unseal
from qkdrelay.messages import (
    answers,
    assignments,
    blocks,
    codec,
    control,
    dialogue,
    keys,
    leaks,
    link,
    plans,
    reports,
    requests,
    signing,
)
from support import wire_slow as slow

VECTORS = json.loads((Path(__file__).parents[1] / "vectors" / "wire.json").read_text())
CASES = VECTORS["messages"]
MODULES = (control, reports, link, blocks, leaks, requests, answers)
KINDS = {name: kind for module in MODULES for name, kind in vars(module).items()}
KINDS["Context"] = confirmation.Context


def fields(message):
    """A message taken apart field by field, as the vectors write it."""
    match message:
        case msgspec.Struct() if message.__struct_config__.array_like:
            return [fields(getattr(message, name)) for name in message.__struct_fields__]
        case msgspec.Struct():
            tag = message.__struct_config__.tag
            taken = {name: fields(getattr(message, name)) for name in message.__struct_fields__}
            return {"type": tag, **taken} if tag else taken
        case bytes():
            return {"hex": message.hex()}
        case UUID():
            return str(message)
        case tuple():
            return [fields(item) for item in message]
    return message


def key_block(case):
    facts = codec.decode(bytes.fromhex(case["announced"]), blocks.Announce).facts
    return KeyBlock(facts, bytes.fromhex(case["key"]))


BLOCKS = VECTORS["blocks"]["cases"]


def test_the_file_is_what_the_slow_implementation_makes():
    assert slow.vectors() == VECTORS


def test_every_message_of_the_protocol_has_a_vector():
    seen = set()

    def visit(value):
        if isinstance(value, msgspec.Struct):
            seen.add(type(value))
            for name in value.__struct_fields__:
                visit(getattr(value, name))
        elif isinstance(value, tuple):
            for item in value:
                visit(item)

    for case in CASES:
        visit(codec.decode(bytes.fromhex(case["bytes"]), KINDS[case["kind"]]))
    every = {
        kind
        for module in (control, assignments, reports, link, blocks, leaks)
        for kind in vars(module).values()
        if isinstance(kind, type) and issubclass(kind, control.Message) and kind is not control.Message
    }
    assert every - seen == set()


@pytest.mark.parametrize("case", CASES, ids=lambda c: c["kind"])
def test_a_message_has_these_bytes_and_these_bytes_are_that_message(case):
    data = bytes.fromhex(case["bytes"])
    message = codec.decode(data, KINDS[case["kind"]])
    assert fields(message) == case["fields"]
    assert codec.encode(message) == data


@pytest.mark.parametrize("data", VECTORS["plans"])
def test_a_plan(data):
    plan = plans.decode_plan(bytes.fromhex(data))
    assert plan.target == "kme-4"
    assert plans.encode_plan(plan).hex() == data


@pytest.mark.parametrize("case", BLOCKS, ids=["computed", "the next", "a device's"])
def test_what_a_block_says_of_itself(case):
    block = key_block(case)
    assert fields(block.facts) == case["facts"]
    announce = block.announce(bytes.fromhex(case["turn"]))
    assert codec.encode(announce).hex() == case["announced"]
    assert block.is_announced_by(announce)
    assert block.held_tag().hex() == case["held_tag"]
    assert block.is_held_with(bytes.fromhex(case["held_tag"]))


@pytest.mark.parametrize("case", BLOCKS[:2], ids=["computed", "the next"])
def test_the_key_of_a_computed_block(case):
    facts = key_block(case).facts
    secret = bytes.fromhex(VECTORS["blocks"]["secret"])
    assert block_key(secret, facts.link, facts.block, facts.length).hex() == case["key"]


@pytest.mark.parametrize("case", VECTORS["seals"]["cases"], ids=lambda c: f"{c['suite']} {len(c['body']) // 2} bytes")
def test_a_seal(case):
    held = {block.facts.block: block for block in map(key_block, BLOCKS[:2])}
    name, index = bytes.fromhex(case["slot"][0]["hex"]), case["slot"][1]
    slot, pieces = held[name].slot(index), tuple(blocks.Piece(bytes.fromhex(b["hex"]), *at) for b, *at in case["pad"])
    pad = b"".join(held[piece.block].pad_at(piece.offset, piece.length) for piece in pieces)
    template = codec.decode(slow.message(slow.HEADER), link.ShareHeader)
    header = msgspec.structs.replace(template, slot=blocks.SlotName(name, index), pad=pieces)
    body = bytes.fromhex(case["body"])
    sealed = seal(case["suite"], header, body, slot, pad)
    assert sealed.hex() == case["sealed"]
    message = codec.decode(sealed, link.SealedMessage)
    assert codec.decode(message.header, link.ShareHeader) == header
    assert unseal(case["suite"], message, slot, lambda length: pad[:length]) == body


def test_a_seal_has_pad_of_two_blocks_and_no_byte_of_key_is_in_two():
    cases = VECTORS["seals"]["cases"]
    assert max(len(case["pad"]) for case in cases) == 2
    slots = [(case["slot"][0]["hex"], case["slot"][1]) for case in cases]
    assert len(set(slots)) == len(slots)
    pad = [(b["hex"], offset + at) for case in cases for b, offset, length in case["pad"] for at in range(length)]
    assert len(set(pad)) == len(pad) == sum(len(case["body"]) // 2 for case in cases) // 2


def test_a_signed_message():
    vector = VECTORS["signed"]
    key, data = bytes.fromhex(vector["key"]), bytes.fromhex(vector["bytes"])
    message = codec.decode(data, control.SignedMessage)
    signing.verify(key, "coordinator", "kme-1", message)
    commands = codec.decode(message.body, control.Commands)
    assert fields(commands)["items"] == slow.plain(slow.COMMANDS)
    again = signing.sign(key, "coordinator", "kme-1", epoch=slow.EPOCH, number=vector["number"], body=commands)
    assert again == data


def test_a_request_and_its_answer():
    vector = {name: bytes.fromhex(value) for name, value in VECTORS["dialogue"].items()}
    answerer = dialogue.Answerer(vector["key"], lambda: slow.EPOCH)
    answerer.open(0.0)
    sent_at = slow.MESSAGES["Request"][1]["at"]
    request, standing = answerer.take(vector["request"], sent_at)
    assert (fields(request), standing) == (slow.plain(slow.MESSAGES["Request"][1]), "new")
    asker = dialogue.Asker(vector["key"], request.reply_to)
    answer = asker.answer(vector["answer"], {request.request_id}).body
    assert fields(answer) == slow.plain(slow.REPLIES[0])
    for _ in range(4):
        answerer.answer(request, answer)
    assert answerer.answer(request, answer) == vector["answer"]


@pytest.mark.parametrize("which", [0, 1], ids=["keys", "supply"])
def test_the_confirmation_tag(which):
    vector = VECTORS["confirmation"][which]
    context = codec.decode(slow.message(slow.MESSAGES["Context"][which]), confirmation.Context)
    payload = confirmation.Payload.parse(bytes.fromhex(vector["payload"]), context)
    assert payload.to_bytes().hex() == vector["payload"]
    assert len(payload.to_bytes()) == context.payload_length
    assert len(payload.keys) == 96
    assert payload.proof(context).hex() == vector["tag"]
    assert payload.proof_is_valid(context, bytes.fromhex(vector["tag"]))
    assert not payload.proof_is_valid(context, bytes(16))


SUPPLY = assignments.Supply(until=slow.SUPPLY["until"], tag_pairs=2)


@pytest.mark.parametrize(
    "changed",
    [
        {"relay_id": UUID(int=1)},
        {"plan": b"other"},
        {"key_count": 4},
        {"key_size_bits": 264},
        {"withstand": control.FixedDemand(compromised=0, failed=0, tampering=0)},
        {"supply": None},
        {"supply": msgspec.structs.replace(SUPPLY, until=SUPPLY.until + 1)},
        {"supply": msgspec.structs.replace(SUPPLY, tag_pairs=1)},
    ],
)
def test_the_confirmation_tag_covers_every_term(changed):
    vector = VECTORS["confirmation"][1]
    context = codec.decode(slow.message(slow.MESSAGES["Context"][1]), confirmation.Context)
    payload = confirmation.Payload.parse(bytes.fromhex(vector["payload"]), context)
    other = msgspec.structs.replace(context, **changed)
    assert not payload.proof_is_valid(other, bytes.fromhex(vector["tag"]))


@pytest.mark.parametrize("part", ["keys", "tag_keys", "confirmation_key"])
def test_the_confirmation_tag_covers_the_whole_payload(part):
    vector = VECTORS["confirmation"][1]
    context = codec.decode(slow.message(slow.MESSAGES["Context"][1]), confirmation.Context)
    payload = confirmation.Payload.parse(bytes.fromhex(vector["payload"]), context)
    of_it = getattr(payload, part)
    # Poly1305 does not use all bits of its key; the first one it does.
    other = replace(payload, **{part: bytes([of_it[0] ^ 1]) + of_it[1:]})
    assert not other.proof_is_valid(context, bytes.fromhex(vector["tag"]))


def test_the_tags_of_an_assignment():
    vector = {name: bytes.fromhex(tag) for name, tag in VECTORS["assignment"].items()}
    context = codec.decode(slow.message(slow.MESSAGES["Context"][1]), confirmation.Context)
    pair = confirmation.Payload.parse(bytes.fromhex(VECTORS["confirmation"][1]["payload"]), context).tag_pair(1)
    assigned = codec.decode(slow.message(slow.ASSIGNMENT), assignments.Assignment)
    assert assignment.assign_tag(pair, assigned) == vector["asked"]
    assert assignment.assign_tag_is_valid(pair, assigned, vector["asked"])
    assert not assignment.assign_tag_is_valid(pair, assigned, vector["answered"])
    assert assignment.assigned_tag(pair, assigned) == vector["answered"]
    assert assignment.assigned_tag_is_valid(pair, assigned, vector["answered"])
    assert not assignment.assigned_tag_is_valid(pair, assigned, vector["asked"])


def test_the_published_poly1305_tag():
    tag = "828260dd8cbf4e9b155156261184e7e9"
    key = bytes(range(32))
    assert one_time_tag(key, b"header", b"ciphertext").hex() == tag
    assert slow.one_time_tag(key, b"header", b"ciphertext").hex() == tag
    assert one_time_tag_is_valid(key, b"header", b"ciphertext", bytes.fromhex(tag))
    assert not one_time_tag_is_valid(key, b"headerc", b"iphertext", bytes.fromhex(tag))


def test_the_published_key_id():
    relay_id = UUID("00112233-4455-6677-8899-aabbccddeeff")
    assert str(keys.key_id(relay_id, 0)) == "da2e8476-e5d5-5c88-a5f6-02175d328eab"


def test_the_slow_poly1305_gives_the_tag_of_rfc_8439():
    key = bytes.fromhex("85d6be7857556d337f4452fe42d506a80103808afb0db2fd4abff6af4149f51b")
    assert slow.poly1305(key, b"Cryptographic Forum Research Group").hex() == "a8061dc1305136c6c22b8baf0c0127a9"


def test_the_slow_aes_gives_the_block_of_fips_197():
    block = slow.aes256(bytes(range(32)), bytes.fromhex("00112233445566778899aabbccddeeff"))
    assert block.hex() == "8ea2b7ca516745bfeafc49904b496089"


def test_the_slow_gcm_gives_the_message_of_the_gcm_specification():
    key = bytes.fromhex("feffe9928665731c6d6a8f9467308308feffe9928665731c6d6a8f9467308308")
    plain = bytes.fromhex(
        "d9313225f88406e5a55909c5aff5269a86a7a9531534f7da2e4c303d8a318a721c3c0c95956809532fcf0e2449a6b525b16aedf5aa0de657ba637b39"
    )
    associated = bytes.fromhex("feedfacedeadbeeffeedfacedeadbeefabaddad2")
    ciphertext, tag = slow.aes256_gcm(key, bytes.fromhex("cafebabefacedbaddecaf888"), plain, associated)
    assert ciphertext.hex().startswith("522dc1f099567d07f47f37a32a84427d643a8cdcbfe5c0c9")
    assert tag.hex() == "76fc6ece0f4e1768cddf8853bb2d551b"
