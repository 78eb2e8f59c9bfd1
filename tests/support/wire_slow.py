"""The wire format once more: slow, from the protocol's text, with no line in common with the code under test.

Poly1305 from RFC 8439, AES from FIPS 197, GCM from SP 800-38D. Run as a script it prints tests/vectors/wire.json.
"""

import functools
import hashlib
import hmac
import json

from support.slow_msgpack import packed


def poly1305(key, data):
    r = int.from_bytes(key[:16], "little") & 0x0FFFFFFC0FFFFFFC0FFFFFFC0FFFFFFF
    total = 0
    for at in range(0, len(data), 16):
        total = (total + int.from_bytes(data[at : at + 16] + b"\x01", "little")) * r % (2**130 - 5)
    return ((total + int.from_bytes(key[16:], "little")) % 2**128).to_bytes(16, "little")


def one_time_tag(key, context, data):
    return poly1305(key, len(context).to_bytes(8, "big") + context + data)


def xor(a, b):
    return bytes(x ^ y for x, y in zip(a, b, strict=True))


# --- AES-256-GCM -----------------------------------------------------------------------------------


def times(a, b):
    product = 0
    while b:
        product ^= a * (b & 1)
        a, b = (a << 1) ^ (0x11B * (a >> 7)), b >> 1
    return product


def _sbox(byte):
    inverse = next((i for i in range(256) if times(byte, i) == 1), 0)
    turned = 0x63
    for shift in range(5):
        turned ^= (inverse << shift | inverse >> 8 - shift) & 0xFF
    return turned


SBOX = [_sbox(byte) for byte in range(256)]


def round_keys(key):
    words = [list(key[i : i + 4]) for i in range(0, 32, 4)]
    rcon = 1
    for i in range(8, 60):
        word = words[-1]
        if i % 8 == 0:
            word = [SBOX[byte] for byte in word[1:] + word[:1]]
            word[0] ^= rcon
            rcon = times(rcon, 2)
        elif i % 8 == 4:
            word = [SBOX[byte] for byte in word]
        words.append([a ^ b for a, b in zip(words[-8], word, strict=True)])
    return [bytes(byte for word in words[i : i + 4] for byte in word) for i in range(0, 60, 4)]


def aes256(key, block):
    keys = round_keys(key)
    state = xor(block, keys[0])
    for number, round_key in enumerate(keys[1:], 1):
        state = [SBOX[state[(i + 4 * (i % 4)) % 16]] for i in range(16)]
        if number < 14:
            state = [
                times(state[i], 2) ^ times(state[j], 3) ^ state[k] ^ state[m]
                for c in range(0, 16, 4)
                for i, j, k, m in ((c + r, c + (r + 1) % 4, c + (r + 2) % 4, c + (r + 3) % 4) for r in range(4))
            ]
        state = xor(state, round_key)
    return state


def ghash(h, data):
    """``data`` in blocks of 16; bit 0 is the leftmost, as in SP 800-38D"""
    h, total = int.from_bytes(h, "big"), 0
    for at in range(0, len(data), 16):
        x, v, product = total ^ int.from_bytes(data[at : at + 16], "big"), h, 0
        for bit in range(127, -1, -1):
            product ^= v * (x >> bit & 1)
            v = v >> 1 ^ (0xE1 << 120) * (v & 1)
        total = product
    return total.to_bytes(16, "big")


def aes256_gcm(key, nonce, plain, associated):
    def counter(number):
        return aes256(key, nonce + number.to_bytes(4, "big"))

    def padded(data):
        return data + bytes(-len(data) % 16)

    stream = b"".join(counter(2 + i) for i in range((len(plain) + 15) // 16))
    ciphertext = xor(plain, stream[: len(plain)])
    lengths = (8 * len(associated)).to_bytes(8, "big") + (8 * len(ciphertext)).to_bytes(8, "big")
    tag = xor(ghash(aes256(key, bytes(16)), padded(associated) + padded(ciphertext) + lengths), counter(1))
    return ciphertext, tag


# --- blocks of link key, sealing, signing, confirming ----------------------------------------------


def computed_block(secret, facts):
    """Byte by byte"""
    direction = hashlib.sha256(">".join(facts["link"]).encode()).digest()
    key = hashlib.shake_256(secret + direction + facts["block"]).digest(32)
    return bytes(key_stream_block(key, i // 16)[i % 16] for i in range(facts["length"]))


@functools.cache
def key_stream_block(key, counter):
    return bytes(aes256(key, counter.to_bytes(16, "big")))


def slot(facts, block, index):
    assert 0 <= index < facts["slots"]
    return block[64 + 32 * index : 96 + 32 * index]


def pad(facts, block, offset, length):
    region = block[64 + 32 * facts["slots"] :]
    assert offset + length <= len(region)
    return region[offset : offset + length]


def announced(facts, block, turn=b""):
    tag = one_time_tag(block[:32], b"announce" + message(facts), block[64:])
    return {"type": "announce", "facts": facts, "tag": tag, "turn": turn}


def held_tag(facts, block):
    return one_time_tag(block[32:64], b"hold", hashlib.sha256(message(facts)).digest())


def message(fields):
    return packed({"v": 3, **fields})


def sealed(suite, blocks, header, body):
    """``blocks`` are (facts, key) of every block that the header may name"""
    head = message(header)
    by_name = {facts["block"]: (facts, key) for facts, key in blocks}
    name, index = header["slot"]
    key = slot(*by_name[name], index)
    if suite == "otp":
        ciphertext = xor(body, b"".join(pad(*by_name[name], at, length) for name, at, length in header["pad"]))
        tag = one_time_tag(key, head, ciphertext)
    else:
        ciphertext, tag = aes256_gcm(key, bytes(12), body, head)
    return message({"header": head, "ciphertext": ciphertext, "tag": tag})


def signed(key, fields):
    """``fields`` without mac"""
    mac = hmac.new(key, message({**fields, "mac": bytes(32)}), hashlib.sha256).digest()
    return message({**fields, "mac": mac})


# --- one of each -----------------------------------------------------------------------------------

RELAY = "00112233-4455-6677-8899-aabbccddeeff"
OTHER = "ffeeddcc-bbaa-9988-7766-554433221100"
EPOCH, TAG, MAC = bytes(range(16)), bytes(range(16, 32)), bytes(range(32, 64))
ROUTE = ["kme-1", "kme-2", "kme-4"]
DIAMOND = packed(
    ["kme-1", "kme-4", {"kme-1": [2, ["kme-2", "kme-3"]], "kme-2": [1, ["kme-4"]], "kme-3": [1, ["kme-4"]]}]
)
REST = packed(["kme-2", "kme-4", {"kme-2": [1, ["kme-4"]]}])
DEMAND = {"compromised": 1, "failed": 0, "tampering": 0}
TERMS = {
    "relay_id": RELAY,
    "plan": DIAMOND,
    "key_count": 3,
    "key_size_bits": 256,
    "withstand": DEMAND,
    "supply": None,
    "deadline": 1700000030.5,
}
SUPPLY = {"until": 1700604800.5, "tag_pairs": 2}
ASSIGNMENT = {
    "assign_id": OTHER,
    "relay_id": RELAY,
    "source": "kme-1",
    "target": "kme-4",
    "tag_number": 1,
    "offset": 70_000,
    "master": "sae-1",
    "slave": "SAE_4.b",
    "key_size_bits": 256,
    "key_count": 128,
    "usable_until": 1700604800.5,
}
ANSWERED = {"assign_id": OTHER, "relay_id": RELAY, "source": "kme-1", "target": "kme-4"}
BLOCK, NEXT_BLOCK = bytes(range(64, 80)), bytes(range(65, 81))
FACTS = {
    "link": ["kme-1", "kme-2"],
    "block": BLOCK,
    "floor": BLOCK,
    "length": 64 + 8 * 32 + 1_000,
    "slots": 8,
    "key_ids": [],
}
NEXT_FACTS = {**FACTS, "block": NEXT_BLOCK, "length": 64 + 6 * 32 + 700, "slots": 6}
DEVICE_FACTS = {**FACTS, "length": 5 * 32, "slots": 1, "key_ids": ["1f9c-0", "1f9c-1", "1f9c-2", "1f9c-3", "1f9c-4"]}
TURN = bytes(range(8))
NOTHING_HELD = {"held": [], "refused": [], "asks": b"", "gives": b""}
HEADER = {
    "link": ["kme-1", "kme-2"],
    "slot": [BLOCK, 300],
    "pad": [[BLOCK, 70_000, 200], [NEXT_BLOCK, 0, 100]],
    "relay_id": RELAY,
    "route": ["kme-1", "kme-2"],
    "plan": REST,
    "deadline": 1700000030.5,
}
DISPUTE = {"split": ["kme-1"], "sets": [[["kme-1", "kme-2", "kme-4"]], [["kme-1", "kme-3", "kme-4"]]]}
LINK = {
    "peer": "kme-2",
    "up": True,
    "available_bytes": 16_777_216,
    "buffer_bytes": 33_554_432,
    "rate_bps": 1_000_000,
    "waiting": 0,
    "key": {
        "source": "etsi014",
        "blocks_granted": 70_000,
        "blocks_given_up": 2,
        "why_given_up": "the connection to the broker is another one",
        "why_dry": "",
    },
}
SHORT = {"split": ["kme-1"], "present": 1, "needed": 2}
ASSIGNING = [
    {"type": "assign", "assignment": ASSIGNMENT, "tag": TAG},
    {"type": "assigned", **ANSWERED, "tag": TAG},
    {"type": "assign-refused", **ANSWERED, "reason": "sae", "first_free_byte": 4096, "first_free_tag": 2},
]
COMMANDS = [
    {"type": "expect", "terms": TERMS},
    {"type": "start", "terms": TERMS},
    {"type": "expect", "terms": {**TERMS, "supply": SUPPLY}},
    {"type": "confirm", "relay_id": RELAY, "proof": TAG},
    {"type": "cancel", "relay_id": RELAY},
    {"type": "deliver", "relay_id": RELAY},
    {"type": "set-link", "command_id": OTHER, "peer": "kme-2", "up": False},
    {"type": "set-lab", "command_id": OTHER, "mode": "leak"},
    {"type": "set-lab", "command_id": OTHER, "mode": None},
    {"type": "recall"},
    *ASSIGNING,
    {"type": "peer-started", "kme": "kme-4", "incarnation": EPOCH},
    {"type": "no-supply", "target": "kme-4", "level": 2, "best": 1, "reason": "the network has no such plan"},
    {"type": "no-supply", "target": "kme-4", "level": 1, "best": None, "reason": "too little link key"},
]
REPORTS = [
    {
        "type": "hello",
        "clock": 1700000000.0,
        "version": "0.1.0",
        "lab": True,
        "lab_mode": "tamper",
        "links": [LINK],
        "pending": 2,
        "away": ["munich"],
        "heard": EPOCH,
    },
    {"type": "recalled", "terms": {**TERMS, "supply": SUPPLY}},
    {"type": "expected", "relay_id": RELAY},
    {"type": "started", "relay_id": RELAY},
    {"type": "refused", "relay_id": RELAY, "reason": "kme-4: no"},
    {"type": "split", "relay_id": RELAY, "route": ["kme-1"], "shares": 3, "threshold": 2},
    {"type": "forwarded", "relay_id": RELAY, "route": ["kme-1", "kme-2"]},
    {"type": "waiting", "relay_id": RELAY, "route": ["kme-1", "kme-3"], "reason": "link.key_exhausted"},
    {"type": "collected", "relay_id": RELAY, "route": ROUTE},
    {"type": "waiting", "relay_id": RELAY, "route": ["kme-1", "kme-3"], "reason": ""},
    {
        "type": "rejected",
        "relay_id": None,
        "route": None,
        "link": ["kme-2", "kme-4"],
        "reason": "the seal does not verify",
    },
    {"type": "rejected", "relay_id": RELAY, "route": ROUTE, "link": ["kme-2", "kme-4"], "reason": "it is too long"},
    {"type": "rebuilt", "relay_id": RELAY, "proof": TAG},
    {
        "type": "findings",
        "relay_id": RELAY,
        "false": [ROUTE],
        "disputed": [DISPUTE],
        "equivocating": [ROUTE],
        "unclear": "",
    },
    {"type": "confirmed", "relay_id": RELAY},
    {"type": "done", "command": {"type": "set-link", "command_id": OTHER, "peer": "kme-2", "up": False}, "error": ""},
    {"type": "done", "command": {"type": "set-lab", "command_id": OTHER, "mode": None}, "error": "the lab is off"},
    {"type": "alarm", "event": "link.number_reused", "text": "with other bytes"},
    *ASSIGNING,
    {
        "type": "supplies",
        "incarnation": EPOCH,
        "outgoing": [
            {
                "target": "kme-4",
                "level": 1,
                "stored_bytes": 32_768,
                "pending_bytes": 0,
                "wanted_bytes": 65_536,
                "assigned_bytes_per_s": 12.5,
                "waiting": 1,
                "why": "",
            }
        ],
        "incoming": [{"source": "kme-4", "level": 2, "stored_bytes": 0, "assigned_bytes_per_s": 0.0}],
        "pairs": [
            {
                "master": "sae-1",
                "slave": "SAE_4.b",
                "level": 1,
                "ready_keys": 128,
                "ready_bytes": 4096,
                "handed_out": 70_000,
                "burned": 300,
                "expired": 2,
                "keys_per_s": 0.5,
                "low": False,
                "waiting": 0,
                "why": "too little link key",
            }
        ],
    },
]
REQUESTS = [
    {
        "type": "relay",
        "relay_id": RELAY,
        "source": "kme-1",
        "target": "kme-4",
        "key_count": 1000,
        "key_size_bits": 256,
        "timeout_s": 30.0,
        "policy": None,
        "withstand": None,
        "allow_unprotected": False,
        "follow": False,
    },
    {
        "type": "relay",
        "relay_id": RELAY,
        "source": "kme-1",
        "target": "kme-4",
        "key_count": 1,
        "key_size_bits": 256,
        "timeout_s": 30.0,
        "policy": "best",
        "withstand": {"compromised": 2, "failed": None, "tampering": 1},
        "allow_unprotected": True,
        "follow": True,
    },
    {"type": "relays", "limit": 20, "supply": True},
    {"type": "show", "relay": "0011", "follow": True},
    {"type": "network"},
    {"type": "attention"},
    {"type": "link", "a": "kme-1", "b": "kme-2", "up": False},
    {"type": "lab", "kme": "kme-2", "mode": "withhold"},
    {"type": "attack", "relay": "0011", "kmes": ["kme-2", "kme-3"]},
    {"type": "dead-letters", "limit": 20},
    {"type": "dead-letter", "letter": 17},
    {"type": "requeue", "letters": [17, 18]},
    {"type": "drop", "letters": None},
    {"type": "drop", "letters": [17]},
]
SUMMARY = {
    "type": "summary",
    "relay_id": RELAY,
    "source": "kme-1",
    "target": "kme-4",
    "state": "failed",
    "key_count": 3,
    "key_size_bits": 256,
    "supply": False,
    "created_at": 1700000000.5,
    "elapsed_s": 30.0,
    "reason": "too few shares in time",
}
LETTER = {
    "letter": 17,
    "at": 1700000000.5,
    "age_s": 12.5,
    "queue": "link.kme-1.kme-2",
    "sender": "kme-1",
    "given_up_by": "kme-2",
    "size": 5,
    "whole": True,
    "reason": "not a MessagePack message",
}
REPLIES = [
    {
        "type": "relay",
        "relay_id": RELAY,
        "source": "kme-1",
        "target": "kme-4",
        "state": "failed",
        "reason": "too few shares in time",
        "policy": "recursive",
        "withstand": DEMAND,
        "protected": True,
        "relies_on": ["kme-3"],
        "plan": DIAMOND,
        "key_count": 3,
        "key_size_bits": 256,
        "created_at": 1700000000.5,
        "deadline": 1700000030.5,
        "elapsed_s": 30.0,
        "planned_share_messages": 4,
        "split": [["kme-1"]],
        "forwarded": [["kme-1", "kme-2"]],
        "collected": [ROUTE],
        "missing": [["kme-1", "kme-3", "kme-4"]],
        "stuck": [{"route": ["kme-1", "kme-3"], "reason": "link.down"}],
        "short_splits": [SHORT],
        "false_shares": [],
        "disputed": [DISPUTE],
        "equivocating": [],
        "released_at": ["kme-1"],
        "final": False,
    },
    {"type": "relays", "relays": [SUMMARY], "total": 70_000},
    SUMMARY,
    {
        "type": "network",
        "name": "diamond",
        "lab": True,
        "kmes": [
            {
                "name": "kme-1",
                "trust": None,
                "heard_s_ago": 1.5,
                "clock_off_s": -0.25,
                "version": "0.1.0",
                "lab": True,
                "lab_mode": None,
                "pending": 0,
                "links": [LINK],
            },
            {
                "name": "kme-2",
                "trust": "never",
                "heard_s_ago": None,
                "clock_off_s": None,
                "version": "",
                "lab": False,
                "lab_mode": None,
                "pending": 0,
                "links": [],
            },
        ],
        "links": [["kme-1", "kme-2"]],
        "noted": [{"a": "kme-1", "b": "kme-2", "suite": "aes-256-gcm", "rate_bps": 4_000, "buffer_bytes": None}],
        "down": [],
        "sites": [
            {
                "name": "munich",
                "kmes": ["kme-2"],
                "broker": "munich.example:5671",
                "has_coordinator": False,
                "away_from": ["kme-1"],
            }
        ],
    },
    {
        "type": "attack",
        "relay_id": RELAY,
        "kmes": ["kme-2"],
        "shares_held": 1,
        "learned": False,
        "short_splits": [SHORT],
    },
    {"type": "dead-letters", "letters": [LETTER], "total": 1},
    {
        "type": "attention",
        "alarms": [
            {"at": 1700000000.5, "event": "clock.skewed", "about": "kme-2", "text": "its clock is off by +6.0 s"}
        ],
        "failed": [SUMMARY],
        "letters": [LETTER],
        "letters_total": 1,
    },
    {"type": "dead-letter", "letter": LETTER, "body": b"noise"},
    {"type": "acknowledged", "text": "kme-2 is compromised: it will leak"},
    {"type": "refusal", "text": "the lab is off", "hint": "switch it on", "unanswered": False},
    {"type": "refusal", "text": "no", "hint": None, "unanswered": True},
    {"type": "late", "clock": 1700000100.25},
]
CONTEXT = {"relay_id": RELAY, "plan": DIAMOND, "key_count": 3, "key_size_bits": 256, "withstand": DEMAND}
MESSAGES = {
    "SealedMessage": [{"header": message(HEADER), "ciphertext": bytes(300), "tag": TAG}],
    "ShareHeader": [HEADER, {**HEADER, "slot": [BLOCK, 0], "pad": []}],
    "Announce": [
        {"type": "announce", "facts": FACTS, "tag": TAG, "turn": b""},
        {"type": "announce", "facts": DEVICE_FACTS, "tag": TAG, "turn": TURN},
    ],
    "BlocksHeld": [
        {"type": "held", "link": ["kme-1", "kme-2"], "run": MAC[:16], "newest": bytes(16), **NOTHING_HELD},
        {
            "type": "held",
            "link": ["kme-1", "kme-2"],
            "run": MAC[:16],
            "newest": NEXT_BLOCK,
            "held": [{"block": BLOCK, "tag": TAG}, {"block": NEXT_BLOCK, "tag": TAG}],
            "refused": [{"block": EPOCH, "reason": "it names a key twice"}],
            "asks": TURN,
            "gives": TURN[::-1],
        },
    ],
    "SignedMessage": [
        {"sender": "kme-1", "recipient": "coordinator", "epoch": EPOCH, "number": 2**62, "body": b"body", "mac": MAC}
    ],
    "Terms": [TERMS],
    "Commands": [{"items": [command]} for command in COMMANDS] + [{"items": COMMANDS}],
    "Reports": [{"items": [report]} for report in REPORTS] + [{"items": REPORTS}],
    "Bundle": [{"bodies": [b"one", b""]}, {"bodies": [bytes(300)]}],
    "DeadLetter": [
        {"kme": "kme-4", "queue": "link.kme-2.kme-4", "reason": "not a map", "at": 1700000000.25, "body": b"\xc0"}
    ],
    "Leak": [{"kme": "kme-2", "relay_id": RELAY, "route": ["kme-1", "kme-2"], "payload": bytes(range(256))}],
    "SealedLeak": [{"salt": MAC, "ciphertext": bytes(300)}],
    "Request": [
        {"request_id": OTHER, "reply_to": f"cli.q.{RELAY}", "at": 1700000000.25, "body": body} for body in REQUESTS
    ],
    "Reply": [{"request_id": OTHER, "body": body} for body in REPLIES],
    "Context": [{**CONTEXT, "supply": None}, {**CONTEXT, "supply": SUPPLY}],
}


def plain(value):
    """What JSON can hold; byte strings as {"hex": ...}"""
    if isinstance(value, bytes):
        return {"hex": value.hex()}
    if isinstance(value, list):
        return [plain(item) for item in value]
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    return value


def pattern(label, size):
    return hashlib.shake_256(label.encode()).digest(size)


def blocks(secret):
    """(facts, key): two that are computed, and one of a device's keys"""
    computed = [(facts, computed_block(secret, facts)) for facts in (FACTS, NEXT_FACTS)]
    return [*computed, (DEVICE_FACTS, pattern("device", DEVICE_FACTS["length"]))]


def seals(made):
    """Of the first two blocks, in the order in which a sender takes slots and pad"""
    cases, taken = [], 0
    for number, size in enumerate((1, 15, 16, 17, 128, 1500)):
        here = min(size, 1_000 - taken)
        pieces = [[BLOCK, taken, here]] + [[NEXT_BLOCK, 0, size - here]] * (size > here)
        taken += here
        for suite, where in (("otp", {"pad": pieces}), ("aes-256-gcm", {"slot": [NEXT_BLOCK, number], "pad": []})):
            header, body = {**HEADER, "slot": [BLOCK, number], **where}, pattern(f"body {size}", size)
            data = sealed(suite, made[:2], header, body)
            at = {"slot": plain(header["slot"]), "pad": plain(header["pad"])}
            cases.append({"suite": suite, **at, "body": body.hex(), "sealed": data.hex()})
    return cases


def vectors():
    secret, control_key, cli_key = (pattern(which, 32) for which in ("link secret", "control key", "cli key"))
    made = blocks(secret)
    body = message({"items": COMMANDS})
    fields = {"sender": "coordinator", "recipient": "kme-1", "epoch": EPOCH, "number": 7, "body": body}
    asked = {"sender": "cli", "recipient": "coordinator", "epoch": EPOCH, "number": 3}
    asked["body"] = message(MESSAGES["Request"][1])
    answered = {"sender": "coordinator", "recipient": "cli", "epoch": EPOCH, "number": 4}
    answered["body"] = message(MESSAGES["Reply"][0])
    keys, tag_keys, c_target = pattern("keys", 96), pattern("tag keys", 128), pattern("c_T", 32)
    confirmations = [
        {
            "payload": (carried + c_target).hex(),
            "tag": one_time_tag(c_target, message(context), carried).hex(),
        }
        for context, carried in zip(MESSAGES["Context"], (keys, keys + tag_keys), strict=True)
    ]
    assignments = [one_time_tag(key, message(ASSIGNMENT), b"").hex() for key in (tag_keys[64:96], tag_keys[96:])]
    return {
        "messages": [
            {"kind": kind, "fields": plain(fields), "bytes": message(fields).hex()}
            for kind, examples in MESSAGES.items()
            for fields in examples
        ],
        "plans": [DIAMOND.hex(), REST.hex()],
        "blocks": {
            "secret": secret.hex(),
            "cases": [
                {
                    "facts": plain(facts),
                    "key": key.hex(),
                    "turn": turn.hex(),
                    "announced": message(announced(facts, key, turn)).hex(),
                    "held_tag": held_tag(facts, key).hex(),
                }
                for (facts, key), turn in zip(made, (b"", b"", TURN), strict=True)
            ],
        },
        "seals": {"header": plain(HEADER), "cases": seals(made)},
        "signed": {"key": control_key.hex(), "number": 7, "bytes": signed(control_key, fields).hex()},
        "dialogue": {
            "key": cli_key.hex(),
            "request": signed(cli_key, asked).hex(),
            "answer": signed(cli_key, answered).hex(),
        },
        "confirmation": confirmations,
        "assignment": {"asked": assignments[0], "answered": assignments[1]},
    }


if __name__ == "__main__":
    print(json.dumps(vectors(), indent=1))
