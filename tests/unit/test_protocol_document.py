"""What docs/protocol.md says is what the code does, as far as a test can tell."""

import re
from pathlib import Path

import pytest

from kme import fairness, forwarding, link_keys, links
from kme.blocks import ahead, announcing, holding, ration
from kme.store import held_keys
from qkdrelay import randomness
from qkdrelay.link.blocks import receiver, sender, turns
from qkdrelay.messages import blocks, codec, control, dialogue, fields, keys, link, plans, reports
from qkdrelay.messages.reports import SKEW_MAX_S
from qkdrelay.network import plan
from qkdrelay.service import loop, numbers, reception
from qkdrelay.sharing import amd

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "docs" / "protocol.md").read_text()
SECTIONS = set(re.findall(r"^#{2,3} (\d+(?:\.\d+)?)\b", TEXT, re.MULTILINE))
CODE = [path for top in ("shared", "services", "tests", "bench") for path in sorted((ROOT / top).rglob("*.py"))]


def cited(text):
    """The numbers of sections of the protocol that a text cites."""
    flat = " ".join(text.split())
    for listed in re.findall(r"(?i)protocol, sections? ([\d.]+(?:(?:,| and) [\d.]+)*)", flat):
        yield from (number.rstrip(".") for number in re.findall(r"\d[\d.]*", listed))


def test_each_section_that_the_code_cites_is_there():
    found = {(path.name, number) for path in CODE for number in cited(path.read_text())}
    assert len(found) > 10
    assert {(name, number) for name, number in found if number not in SECTIONS} == set()


def test_a_section_that_is_not_there_would_be_found():
    assert set(cited('"(protocol, sections 2 and 6.3)" and "(protocol,\n section 11)"')) == {"2", "6.3", "11"}
    assert "11" not in SECTIONS


def test_sections_are_cited_in_one_way_only():
    """Else the test above would not see them."""
    for path in CODE:
        for found in re.finditer(r"(?i)(.{10})sections? \d", " ".join(path.read_text().split())):
            assert found[1].lower().endswith("protocol, ") or path == Path(__file__), f"{path}: {found[0]}"


@pytest.mark.parametrize(("length", "tag"), re.findall(r"\((\d+) bytes[^|]*\| ([0-9a-f]{32}) \|", TEXT))
def test_the_codes_of_the_amd_table_are_the_codes(length, tag):
    message = bytes(number % 256 for number in range(int(length)))
    assert amd.encode(message, lambda size: bytes(range(size)))[-16:].hex() == tag


def test_the_table_has_both_forms_of_the_amd_code():
    lengths = [int(length) for length in re.findall(r"\((\d+) bytes[^|]*\| [0-9a-f]{32} \|", TEXT)]
    assert min(lengths) <= amd.SHORT < max(lengths)


LIMITS = {
    "keys of one relay": (
        keys.KEY_COUNT_MAX,
        keys.KEY_SIZE_BITS_MIN,
        keys.KEY_SIZE_BITS_MAX,
        keys.KEY_BYTES_MAX,
    ),
    "time limit of a relay": (int(fields.TIMEOUT_S_MIN), int(fields.TIMEOUT_S_MAX)),
    "size of a plan": (plan.KMES_MAX, plan.SUCCESSORS_MAX, plan.SHARE_MESSAGES_MAX),
    "unconfirmed messages of a service": (loop.OUTBOX_MAX, loop.OUTBOX_BYTES_MAX >> 20),
    "block of link key": (
        blocks.BLOCK_BYTES_MIN,
        blocks.BLOCK_BYTES_MAX,
        blocks.SLOTS_MAX,
        blocks.KEY_IDS_MAX,
        receiver.BLOCKS_MAX,
    ),
    "sealed and unconfirmed, of one link": (links.BACKLOG_MAX, links.BACKLOG_BYTES_MAX >> 20),
    "shares that wait": (fairness.WAITING_MAX, fairness.WAITING_BYTES_MAX >> 20),
    "undecided relays at an end": (
        forwarding.NodeSettings("kme-1", frozenset()).pending_max,
        forwarding.NodeSettings("kme-1", frozenset()).key_bytes_max >> 20,
    ),
}


@pytest.mark.parametrize("what", LIMITS)
def test_the_limits_are_those_of_the_code(what):
    (row,) = re.findall(rf"^\| {what} \| (.*) \|$", TEXT, re.MULTILINE)
    assert tuple(int(number.replace(",", "")) for number in re.findall(r"[\d,]*\d", row)) == LIMITS[what]


_AGAIN = ", ".join(f"{pause:.0f}" for pause in announcing.ANNOUNCE_AGAIN_S)
STATED = [
    f"it waits, unacknowledged, for {reception.HELD_S_MAX / 60:.0f} minutes at most, and is then refused",
    f"sooner, once {reception.PASSED_BYTES_MAX:,} bytes of others have come by its queue",
    f"bytes of the block, {blocks.BLOCK_BYTES_MIN} to {blocks.BLOCK_BYTES_MAX:,}, and slots, 0 to {blocks.SLOTS_MAX:,}",
    f"in this order, at most {blocks.KEY_IDS_MAX:,}; none if it is computed",
    f"that are held, at most {blocks.HELD_MAX}, each with the proof",
    f"pieces, at most {blocks.PIECES_MAX}, in order",
    f"Of one link {link_keys._ABOUT_BLOCKS_PER_S:.0f} a second are looked at",
    f"those same bytes after {_AGAIN}, {announcing.ANNOUNCE_AGAIN_S[-1]:.0f} .. s",
    f"every {holding.HELD_EVERY_S:.0f} s; at once at a start",
    f"| announced | {sender.ANNOUNCED_S:.0f} s have passed |",
    f"the next one in {ration.PAUSE_S:.0f} s, then in 2, 4 .. {ration.PAUSE_MAX_S:.0f} s",
    f"with {ration.RATION} of them in {ration.RATION_S:,.0f} s",
    f"from {ahead.AHEAD_MIN >> 10} to {ahead.AHEAD_IDLE_MAX >> 10} KiB, or up to {ahead.AHEAD_MAX >> 20} MiB",
    f"or {receiver.BLOCKS_MAX:,} blocks are held, and the oldest",
    f"of more than {receiver.BLOCKS_MAX:,} the oldest is deleted",
    f"and so it is with {sender.SURPLUS_MAX} newer ones",
    f"are kept for {receiver.ENDED_S:,.0f} s more",
    f"the tags of at least {held_keys.OPENED_MAX:,} are remembered",
    f"not within {turns.TURN_S:.0f} s of its start",
    f"once, within {turns.USE_S:.0f} s of asking",
    f"in `asks` {turns.NONCE_BYTES} bytes of chance, others after {turns.ASK_S:.0f} s",
    f"at most {plan.KMES_MAX} KMEs, and it unfolds to at most {plan.SHARE_MESSAGES_MAX:,} share messages",
    f"KMEs sorted; at most {plans.PLAN_BYTES_MAX:,} bytes",
    f"the operating system's for less than {randomness.LONG >> 10} KiB",
    f"Receivers remember the latest {numbers.EPOCHS_MAX} epochs",
    f"More than {numbers.WINDOW_BACK:,} behind the highest of its epoch",
    f"or more than {numbers.WINDOW_ENDED:,} once a newer epoch has begun",
    f"the deadline is ahead, and at most {fields.TIMEOUT_S_MAX + forwarding.LATE_S:,.0f} s",
    f"within a deadline's most, {fields.TIMEOUT_S_MAX:,.0f} s",
    f"a hello at most {plan.KMES_MAX - 1} links",
    f"a difference of more than {SKEW_MAX_S:.0f} s raises an alarm",
    f"if it was sent within the last {dialogue.REQUEST_AGE_MAX_S:.0f} s",
    f"bodies: [message, ..]}}`, at most {link.BUNDLE_MAX}.",
]


@pytest.mark.parametrize("said", STATED)
def test_a_number_in_a_sentence_is_that_of_the_code(said):
    assert said in " ".join(TEXT.split())


@pytest.mark.parametrize(
    "kind", [blocks.Facts, blocks.Announce, blocks.BlocksHeld, link.SealedMessage, link.ShareHeader]
)
def test_the_messages_of_a_link_have_the_fields_that_are_listed(kind):
    """In this order: it is that of the encoding."""
    (listed,) = re.findall(rf"^    {kind.__name__} {{(.*)}}$", TEXT, re.MULTILINE)
    while (flat := re.sub(r"\[[^][]*\]|{[^{}]*}", "", listed)) != listed:
        listed = flat
    names = [field.split(":")[0].strip() for field in listed.split(",")]
    config = kind.__struct_config__
    assert names == [*([] if config.tag is None else [config.tag_field]), *kind.__struct_fields__]


def test_messages_have_the_size_and_the_numbers_that_are_said():
    assert f"At most {codec.MESSAGE_BYTES_MAX:,} bytes" in TEXT
    assert f"`v` = {codec.VERSION}" in TEXT
    assert f"at most {control.COMMANDS_MAX} commands or {reports.REPORTS_MAX:,} reports" in TEXT
