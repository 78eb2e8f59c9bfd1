"""Dead letters: what nobody accepted is listed with its reason, shown, put back and deleted."""

import json
import time
from pathlib import Path

import pytest

from kme.blocks.computed import ComputedSource
from kme.link_keys import Link
from qkdrelay.broker.names import dead_key, kme_exchange, link_queue, results_queue
from qkdrelay.broker.port import Publication
from qkdrelay.messages import codec
from qkdrelay.messages.blocks import Announce, BlocksHeld, Facts, HeldBlock
from qkdrelay.messages.link import SealedMessage, ShareHeader
from qkdrelay.messages.reports import DEAD_LETTER_BODY_MAX, DeadLetter
from support.network import is_about_blocks

QUEUE = link_queue("kme-3", "kme-5")
FORGED = b"\x81\xa1v\x03"


def publish(here, user, exchange, key, body):
    """As one would who has that user's password."""
    with here.network.hub.lock:
        assert here.network.hub.publish(user, Publication(None, exchange, key, body)) is None
    here.network.settle()


def forge(here, body=FORGED):
    publish(here, "kme-3", kme_exchange("kme-3"), QUEUE, body)


def letters(here, *options):
    return here.run("dead-letters", "list", "--json", *options).data["dead_letters"]


def claim(here, kme, queue, body=b"body", reason="because"):
    """Have ``kme`` say that it gave a message up."""
    letter = DeadLetter(kme=kme, queue=queue, reason=reason, at=1.0, body=body)
    publish(here, kme, kme_exchange(kme), dead_key(kme), codec.encode(letter))


def refused(result):
    assert (result.code, result.out) == (2, "")
    assert result.err.startswith("error: ")
    return result.err


def test_a_forged_message_is_listed_shown_requeued_refused_again_and_dropped(here):
    forge(here)
    (letter,) = letters(here)
    assert letter["reason"] == "not a valid message: Object missing required field `header`"
    assert (letter["queue"], letter["sender"], letter["given_up_by"]) == (QUEUE, "kme-3", "kme-5")
    assert (letter["size"], letter["whole"]) == (len(FORGED), True)
    number = str(letter["letter"])
    for listed in here.run("dead-letters", "list").out, here.run("dead-letters", "show", number).out:
        assert letter["reason"] in listed
        assert QUEUE in listed
    done = here.run("dead-letters", "requeue", number)
    assert (done.code, done.out) == (0, f"requeued: {number} to {QUEUE}\n")
    (again,) = letters(here)
    assert again["letter"] > letter["letter"]
    assert again["reason"] == letter["reason"]
    assert here.run("dead-letters", "drop", str(again["letter"])).out == "dropped 1 dead letter\n"
    assert letters(here) == []
    assert "no dead letters" in here.run("dead-letters", "list").err


def with_secret(here, secret):
    """Start kme-5 with another secret for its link with kme-3; return what starts it with the one it had."""
    links, limits = here.network.links["kme-5"], {"rate_bps": 1_000_000, "buffer_bytes": 1 << 20}
    before = links["kme-3"]

    def start(link):
        here.clock.now += 1.0
        links["kme-3"] = link
        here.restart("kme-5")

    start(Link("otp", ComputedSource(secret, "kme-5", "kme-3", clock=time.monotonic, **limits)))
    return lambda: start(before)


def test_shares_refused_for_a_mistake_that_was_mended_arrive_when_requeued(place, tmp_path):
    here = place(folder=tmp_path)
    here.stop("kme-5")
    data = here.run("relay", "kme-1", "kme-8", "--policy", "recursive", "--json").data
    missing = ["kme-1", "kme-3", "kme-5", "kme-8"]
    assert missing in data["missing"]
    here.stop()
    mend = with_secret(here, bytes(32))
    here.network.settle()
    (letter,) = letters(here)
    assert letter["reason"] == "no block of key of that name is held"
    assert here.run("show", data["relay_id"], "--json").data["missing"] == [missing]
    mend()
    assert here.run("dead-letters", "requeue", str(letter["letter"])).code == 0
    assert here.run("show", data["relay_id"], "--json").data["missing"] == []
    assert letters(here) == []


def recorded_shares(here):
    """Return a list of what is published on links from now on, but for what is about blocks of key."""
    sealed, publish_in_hub = [], here.network.hub.publish

    def recorded(user, publication):
        if publication.routing_key.startswith("link.") and not is_about_blocks(publication.body):
            sealed.append(publication)
        return publish_in_hub(user, publication)

    here.network.hub.publish = recorded
    return sealed


def test_a_message_that_was_handled_before_changes_nothing_when_requeued(here):
    sealed = recorded_shares(here)
    before = here.run("relay", "kme-1", "kme-8", "--policy", "recursive", "--json").data
    body = next(p.body for p in sealed if p.routing_key == QUEUE)
    with here.network.coordinator_store.journal.transaction():
        here.network.coordinator_store.dead_letters.add(here.clock(), "", QUEUE, "the broker gave up", body)
    (letter,) = letters(here)
    assert letter["given_up_by"] == "broker"
    sealed.clear()
    assert here.run("dead-letters", "requeue", str(letter["letter"])).code == 0
    assert [p.routing_key for p in sealed] == [QUEUE]
    assert letters(here) == []
    assert here.run("show", before["relay_id"], "--json").data == before


def test_what_is_shown_of_a_share_is_its_clear_part_only(here):
    sealed = recorded_shares(here)
    relay_id = here.run("relay", "kme-1", "kme-8", "--policy", "recursive", "--json").data["relay_id"]
    genuine = next(p.body for p in sealed if p.routing_key == QUEUE)
    forge(here, genuine[:-1] + bytes([genuine[-1] ^ 1]))
    (letter,) = letters(here)
    assert letter["reason"] == "the seal does not verify"
    number = str(letter["letter"])
    raw = here.run("dead-letters", "show", number, "--raw", "letter", "--json")
    message, header = raw.data["message"], codec.decode(codec.decode(genuine, SealedMessage).header, ShareHeader)
    assert (message["kind"], message["link"], message["relay"]) == ("share", "kme-3>kme-5", relay_id)
    assert message["route"] == "kme-1>kme-3>kme-5"
    assert (message["block"], message["slot"]) == (header.slot.block.hex(), header.slot.index)
    body = Path("letter").read_bytes()
    assert len(body) == raw.data["size"]
    ciphertext = codec.decode(body, SealedMessage).ciphertext
    assert message["pad"] == f"{len(ciphertext)} bytes of 1 blocks"
    shown = here.run("dead-letters", "show", number).out
    assert ciphertext.hex()[:16] not in raw.out + shown
    assert f"ciphertext   {len(ciphertext)} bytes\n" in shown
    assert max(map(len, shown.splitlines())) <= 80


OTHER_LINK, BLOCK = ("kme-1", "kme-2"), bytes(range(16))
FACTS = Facts(link=OTHER_LINK, block=BLOCK, floor=BLOCK, length=4_096, slots=16, key_ids=("a", "b"))


@pytest.mark.parametrize(
    ("message", "shown"),
    [
        (
            Announce(FACTS, bytes(16), b""),
            {
                "kind": "block announced",
                "link": "kme-1>kme-2",
                "block": BLOCK.hex(),
                "size": "4096 bytes",
                "device_keys": 2,
            },
        ),
        (
            BlocksHeld(OTHER_LINK, bytes(16), BLOCK, (HeldBlock(BLOCK, bytes(16)),), (), b"", b""),
            {"kind": "blocks held", "link": "kme-1>kme-2", "blocks": 1},
        ),
    ],
    ids=["announcement", "held"],
)
def test_messages_about_blocks_that_are_refused_are_shown_by_what_they_say(here, message, shown):
    forge(here, codec.encode(message))
    (letter,) = letters(here)
    assert "another link" in letter["reason"]
    number = str(letter["letter"])
    assert here.run("dead-letters", "show", number, "--json").data["message"] == shown
    lines = here.run("dead-letters", "show", number).out.splitlines()
    assert all(any(str(value) in line for line in lines) for value in shown.values())
    assert max(map(len, lines)) <= 80


@pytest.mark.parametrize(
    ("queue", "body", "kind"),
    [
        ("coordinator.requests", b"noise", "unreadable: "),
        (results_queue("kme-3"), b"noise", "unreadable: "),
        (QUEUE, b"", "unreadable: "),
    ],
)
def test_what_cannot_be_read_is_shown_too(here, queue, body, kind):
    claim(here, "kme-3", queue, body)
    message = here.run("dead-letters", "show", str(letters(here)[0]["letter"]), "--json").data["message"]
    assert message["kind"].startswith(kind)


def test_a_command_and_a_request_are_shown_by_what_they_say_in_clear(here):
    bodies = []
    publish_in_hub = here.network.hub.publish
    here.network.hub.publish = lambda user, p: bodies.append(p) or publish_in_hub(user, p)
    here.run("link", "down", "kme-1", "kme-2")
    for key, queue in (("requests", "coordinator.requests"), ("kme.kme-1.control", "kme.kme-1.control")):
        claim(here, "kme-1", queue, next(p.body for p in bodies if p.routing_key == key))
    command, request = (here.run("dead-letters", "show", str(each["letter"]), "--json").data for each in letters(here))
    assert request["message"] == {"kind": "request", "asks": "LinkRequest", "at": here.clock.now}
    assert (command["message"]["kind"], command["message"]["from"], command["message"]["to"]) == (
        "signed",
        "coordinator",
        "kme-1",
    )


@pytest.mark.parametrize(
    ("kme", "queue", "body", "reason"),
    [
        ("kme-5", results_queue("kme-5"), b"x", "is no queue that a KME of this network reads"),
        ("kme-5", "coordinator.requests", b"x", "is no queue that a KME of this network reads"),
        ("kme-5", "link.kme-3.kme-99", b"x", "is no queue that a KME of this network reads"),
        ("kme-2", QUEUE, b"x", "kme-2 gave it up, and does not read link.kme-3.kme-5"),
        ("kme-5", QUEUE, bytes(DEAD_LETTER_BODY_MAX), "it was longer than 65536 bytes, and was cut"),
    ],
)
def test_what_cannot_go_back_is_refused_and_nothing_of_the_request_is_done(here, kme, queue, body, reason):
    claim(here, "kme-5", QUEUE)
    claim(here, kme, queue, body)
    before = letters(here)
    said = refused(here.run("dead-letters", "requeue", *(str(letter["letter"]) for letter in before)))
    assert reason in said
    assert [letter["letter"] for letter in letters(here)] == [letter["letter"] for letter in before]


def test_a_message_that_is_too_long_to_keep_is_cut_and_says_so(here):
    forge(here, bytes(DEAD_LETTER_BODY_MAX + 5))
    publish(here, "cli", "cli", "requests", bytes(DEAD_LETTER_BODY_MAX + 5))
    assert [(letter["size"], letter["whole"]) for letter in letters(here)] == [(DEAD_LETTER_BODY_MAX, False)] * 2
    assert ">=65,536" in here.run("dead-letters", "list").out
    shown = here.run("dead-letters", "show", str(letters(here)[0]["letter"])).out
    assert "the rest was cut off, so it cannot be requeued" in shown


@pytest.mark.parametrize("command", [["show", "77"], ["requeue", "77"], ["drop", "77"]])
def test_a_letter_that_is_not_there_is_named(here, command):
    assert "there is no dead letter 77" in refused(here.run("dead-letters", *command))


@pytest.mark.parametrize("command", [["requeue"], ["requeue", *map(str, range(101))], ["drop"], ["drop", "1", "--all"]])
def test_how_many_must_be_said(here, command):
    refused(here.run("dead-letters", *command))


@pytest.mark.parametrize("number", ["-1", "x", str(2**63)])
def test_a_number_that_can_be_none_is_refused_here(here, number):
    assert here.run("dead-letters", "show", "--", number).code == 2
    assert here.sent == 0


def test_nothing_is_dropped_where_nobody_can_be_asked(here, monkeypatch):
    monkeypatch.setattr("sys.stdin", None)
    result = here.run("dead-letters", "drop", "--all")
    assert result.code == 2
    assert "nobody to ask" in result.err
    assert "--yes" in result.err


def test_all_are_dropped_only_by_who_means_it(here, monkeypatch):
    for _ in range(3):
        forge(here)
    for answer, left in ((False, 3), (True, 0)):
        monkeypatch.setattr("typer.confirm", lambda *_, answer=answer, **__: answer)
        result = here.run("dead-letters", "drop", "--all")
        assert result.code == (0 if answer else 1)
        assert len(letters(here)) == left
    assert result.out == "dropped 3 dead letters\n"
    forge(here)
    assert json.loads(here.run("dead-letters", "drop", "--all", "--yes", "--json").out) == {"dropped": "all"}
    assert letters(here) == []


def test_the_latest_come_first_and_the_rest_is_mentioned(here):
    for _ in range(3):
        forge(here)
    numbers = [letter["letter"] for letter in letters(here)]
    assert numbers == sorted(numbers, reverse=True)
    result = here.run("dead-letters", "list", "--limit", "2")
    assert len(result.out.splitlines()) == 3
    assert result.err == "2 of 3; --limit shows more\n"


def test_what_a_kme_writes_into_its_letter_does_not_steer_the_terminal(here):
    claim(here, "kme-5", "link.\x1b[31mx", reason="\x1b]0;title\x07[red]oops[/red]")
    number = str(letters(here)[0]["letter"])
    for shown in here.run("dead-letters", "list").out, here.run("dead-letters", "show", number).out:
        assert "\x1b" not in shown
        assert "\x07" not in shown
        assert "[red]oops[/red]" in shown


def test_no_reason_hides_the_list_from_all(here):
    for reason in (r"bad \[/x] share", "[/]", "\u2028\u202e\x9b2J\n99  1 s  link.kme-1.kme-2  3  forged"):
        claim(here, "kme-5", QUEUE, reason=reason)
    result = here.run("dead-letters", "list")
    assert (result.code, len(result.out.splitlines())) == (0, 4)
    forged, closing, bad = (line.rstrip().split("  ")[-1] for line in result.out.splitlines()[1:])
    assert (bad, closing) == (r"bad \[/x] share", "[/]")
    assert r"\u2028\u202e\u009b2J\n99" in result.out
    assert forged == "forged"
