"""Whatever a message, a file or an argument says: each way out shows it, and none of it steers, hides or is markup."""

import json
import re
import sys
from contextlib import suppress
from uuid import UUID
from xml.etree import ElementTree as ET

import msgspec
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from qkdrelay.errors import BrokerUnreachableError, RequestRefusedError
from qkdrelay.escaping import NAME_MAX, escaped
from qkdrelay.messages.answers import Acknowledged, DeadLetterSummary, DeadLettersView, DeadLetterView, Stuck
from qkdrelay.messages.control import SetLink
from qkdrelay.messages.reports import Alarm, Done, Refused, Rejected, Waiting
from qkdrelay.messages.requests import NetworkRequest, RelaysRequest, ShowRequest
from qkdrelay.network.demand import Demand
from qkdrelay.network.selection import choose, plans
from qkdrelay.network.topology import Topology
from qkdrelay.network.topology_file import reference_topology
from qkdrelay.terminal import console
from qkdrelay_cli import session
from qkdrelay_cli.render.reports import report_in_words
from qkdrelay_demo.network import EmbeddedNetwork
from qkdrelay_demo.observation import Claim
from qkdrelay_demo.story import _table
from qkdrelay_pictures.pairs import draw_pairs
from qkdrelay_pictures.plan import draw_plan
from qkdrelay_pictures.png import as_png
from support.fuzzing import fuzzed
from support.hostile import ANY_TEXT, TEXT, steering
from support.svg import SVG

RELAY = UUID(int=7)
BAD = r"bad \[/x] share"
WORST = "\x1b[2J\u202e\u2028\x9b2J\ud800\n[/x][red]\u200b:warning:"
ROUTE = ("kme-1", "kme-3", "kme-7", "kme-8")


@pytest.fixture(params=[False, True], ids=["plain", "coloured"])
def colours(request, monkeypatch):
    if request.param:
        monkeypatch.setenv("FORCE_COLOR", "1")
    return request.param


@pytest.fixture(scope="module")
def real():
    """What a coordinator answers: a relay, the list of relays, the network."""
    network = EmbeddedNetwork(reference_topology())
    relay = network.relay("kme-1", "kme-8", policy="recursive")
    requests = (
        ShowRequest(relay=str(relay.relay_id), follow=False),
        RelaysRequest(limit=5, supply=False),
        NetworkRequest(),
    )
    return [network.client.ask(request, object) for request in requests]


def said(text, shown, *, colours=False):
    """Whether ``text`` can be read in what was shown, none of which steers."""
    assert steering(shown, colours=colours) == []
    return escaped(text).strip() in re.sub(r"\x1b\[[0-9;]*m", "", shown)


def answers(text, real):
    """Yield commands with an answer that has ``text`` wherever there is text, and how it is shown."""
    relay, relays, network = real
    letter = DeadLetterSummary(
        letter=1, at=1.0, age_s=1.0, queue=text, sender=text, given_up_by=text, size=3, whole=True, reason=text
    )
    waiting = Stuck(route=ROUTE, reason=text)
    failed = msgspec.structs.replace(relay, state="failed", reason=text, policy=text, collected=(), missing=(ROUTE,))
    failed = msgspec.structs.replace(failed, stuck=(waiting,), split=(), forwarded=())
    summary = msgspec.structs.replace(relays.relays[0], reason=text)
    yield ("dead-letters", "list"), DeadLettersView(letters=(letter,), total=2), text
    yield ("dead-letters", "show", "1"), DeadLetterView(letter=letter, body=b""), text
    yield ("relays",), msgspec.structs.replace(relays, relays=(summary,)), text
    yield ("show", "abcd"), failed, text
    yield ("trace", "abcd"), failed, text
    yield ("network",), msgspec.structs.replace(network, name=text), text[:NAME_MAX]
    yield ("link", "down", "a", "b"), Acknowledged(text=text), text
    yield ("relays",), RequestRefusedError(text, hint=text), text
    yield ("network",), BrokerUnreachableError(text, hint=text), text


def test_whatever_the_coordinator_answers_is_shown_as_it_is(run, real, monkeypatch, colours):
    @fuzzed(12)
    @given(ANY_TEXT)
    @example(BAD)
    @example(WORST)
    def check(text):
        for command, answer, shown in answers(text, real):

            def ask(*_, answer=answer):
                if isinstance(answer, Exception):
                    raise answer
                return answer

            monkeypatch.setattr(session, "ask", ask)
            result = run(*command)
            assert said(shown, result.out + result.err, colours=colours), (command, result)
            assert result.err.count("\n") <= 2

    check()


def test_json_says_what_it_was(run, real, monkeypatch):
    @fuzzed(12)
    @given(TEXT.filter(bool))
    @example(WORST)
    def check(text):
        for command, answer, _ in answers(text, real):
            if isinstance(answer, Exception) or command == ("link", "down", "a", "b"):
                continue
            monkeypatch.setattr(session, "ask", lambda *_, answer=answer: answer)
            result = run(*command, "--json")
            assert steering(result.out) == []
            result.out.encode()
            assert text in strings(json.loads(result.out)), command

    check()


def strings(data):
    if isinstance(data, str):
        yield data
    for item in data.values() if isinstance(data, dict) else data if isinstance(data, list) else ():
        yield from strings(item)


def test_where_the_terminal_has_other_letters_json_is_json(run, real, monkeypatch):
    view = DeadLettersView(letters=(DeadLetterSummary(
        letter=1, at=1.0, age_s=1.0, queue="q", sender="s", given_up_by="k", size=3, whole=True, reason="Zürich 漢字"
    ),), total=1)  # fmt: skip
    monkeypatch.setattr(session, "ask", lambda *_: view)
    sys.stdout.reconfigure(encoding="ascii")
    try:
        assert run("dead-letters", "list", "--json").data["dead_letters"][0]["reason"] == "Zürich 漢字"
        assert "Z\\xfcrich" in run("dead-letters", "list").out
    finally:
        sys.stdout.reconfigure(encoding="utf-8")


def test_whatever_a_kme_reports_is_one_line_for_who_watches(capsys, colours):
    @fuzzed(40)
    @given(ANY_TEXT)
    @example(WORST)
    def check(text):
        for report in (
            Alarm(event=text, text=text),
            Rejected(relay_id=RELAY, route=None, link=("kme-1", "kme-3"), reason=text),
            Waiting(relay_id=RELAY, route=ROUTE, reason=text),
            Refused(relay_id=RELAY, reason=text),
            Done(command=SetLink(command_id=RELAY, peer=text, up=True), error=text),
        ):
            console().print(report_in_words("kme-3", report, 0.0), soft_wrap=True)
            shown = capsys.readouterr().out
            assert said(text, shown, colours=colours)
            assert shown.count("\n") == 1

    check()


def test_a_demo_that_saw_something_else_says_what(capsys, colours):
    @fuzzed(40)
    @given(ANY_TEXT)
    @example(WORST)
    def check(text):
        console().print(_table([Claim("state of the relay", "confirmed", text)]))
        assert steering(capsys.readouterr().out, colours=colours) == []

    check()


@pytest.fixture
def drawn(tmp_path):
    def drawn(name):
        network = Topology(name, ("kme-1", "kme-2", "kme-3"), (("kme-1", "kme-2"), ("kme-2", "kme-3")))
        plan = choose(network, "kme-1", "kme-3", Demand(), None, allow_unprotected=True)
        found = {
            (a, b): plans(network, a, b, Demand(), "best")[0] for a in network.kmes for b in network.kmes if a != b
        }
        return draw_plan(network, plan), draw_pairs(network, found, name, name)

    return drawn


def test_pictures_are_xml_and_show_the_name(drawn):
    @fuzzed(20)
    @given(ANY_TEXT)
    @example(WORST)
    def check(name):
        for picture in drawn(name):
            assert steering(picture) == []
            texts = [text.text or "" for text in ET.fromstring(picture).iter(f"{SVG}text")]
            assert any(escaped(name, NAME_MAX) in text for text in texts)

    check()
    assert as_png(drawn(WORST)[0]).startswith(b"\x89PNG")


def test_files_and_arguments_are_told_escaped(run, tmp_path):
    words = ANY_TEXT.filter(lambda text: "\0" not in text and "/" not in text and text not in ("", ".", ".."))

    @fuzzed(12)
    @given(words, st.sampled_from(["", "--", "--topology="]))
    @example("\x1b[2J\u202e\udc9b\n[/x]", "")
    def check(word, before):
        file = tmp_path / "n.toml"
        for arguments in (
            (before + word,),
            ("plan", "kme-1", "kme-8", "--topology", word),
            ("plan", "kme-1", before + word, "--topology", "eight-kmes"),
            ("plan", "kme-1", "kme-8", "--topology", "eight-kmes", "--svg", word),
            ("plan", "kme-1", "kme-8", "--topology", "eight-kmes", "--withstand", word),
            ("analyse", "kme-1", "kme-8", "--topology", "eight-kmes", "--cut", word, "--compromised", word),
            ("show", before + word),
            ("relays", "--limit", word),
        ):
            result = run(*arguments)
            assert steering(result.out + result.err) == [], arguments
        with suppress(UnicodeEncodeError):
            file.write_text(f"name = {json.dumps(word)}\n{json.dumps(word)} = 1\nkmes = [{json.dumps(word)}]\n")
            result = run("plan", "a", "b", "--topology", str(file))
            assert result.code == 2
            assert steering(result.err) == []

    check()


@pytest.mark.parametrize("command", ["plan", "analyse"])
def test_a_networks_name_is_a_name(run, tmp_path, command):
    name = 'x\x1b[2J\u202e[/x]<b>"&'
    (tmp_path / "n.toml").write_text(
        f"name = {json.dumps(name)}\n" + 'kmes = ["a", "b", "c"]\nlinks = [["a", "b"], ["b", "c"], ["a", "c"]]\n'
    )
    result = run(command, "a", "c", "--topology", "n.toml", "--svg", "n.svg")
    assert result.code == 0
    assert said(name, result.out)
    assert "".join(ET.parse(tmp_path / "n.svg").getroot().itertext()).count(escaped(name)) == 2
