"""Earlier relays, the share flow, the network, the lab, and what can be watched."""

from __future__ import annotations

import json
import subprocess
import sys
from uuid import UUID

import pytest
import typer.main
from msgspec import structs
from rich.console import Console

from qkdrelay import __version__
from qkdrelay.messages.reports import Alarm, Rejected
from qkdrelay.messages.requests import NetworkRequest
from qkdrelay.network.topology import LinkNote, Topology
from qkdrelay_cli import app
from qkdrelay_cli.render import outcome, tree
from qkdrelay_cli.render.network import network_as_tables
from qkdrelay_cli.render.reports import report_in_words
from support.network import DIAMOND, Network
from support.plans import REFERENCE_RELAY


def lines_of(here, view, width=80):
    console = Console(width=width, color_system=None)
    with console.capture() as captured:
        outcome.print_outcome(view, console)
    return captured.get().splitlines()


def tree_of(view, width=80):
    console = Console(width=width, color_system=None)
    with console.capture() as captured:
        console.print(tree.as_tree(view))
    return [line.rstrip() for line in captured.get().splitlines()]


def test_relays_are_listed_newest_first(here):
    first = here.run(*REFERENCE_RELAY, "--json").data["relay_id"]
    here.stop("kme-1")
    second = here.run(*REFERENCE_RELAY, "--no-wait").out.strip()
    data = here.run("relays", "--json").data
    assert data["total"] == 2
    assert [relay["relay_id"] for relay in data["relays"]] == [second, first]
    assert [relay["state"] for relay in data["relays"]] == ["planned", "confirmed"]
    result = here.run("relays", "--limit", "1")
    assert result.out.splitlines()[1].startswith(second[:8])
    assert len(result.out.splitlines()) == 2
    assert result.err == "1 of 2; --limit shows more\n"


def test_a_long_reason_is_not_cut_in_a_pipe(here):
    here.stop("kme-6")
    here.run("link", "down", "kme-7", "kme-8")
    reason = here.run(*REFERENCE_RELAY, "--timeout", "3", "--json").data["reason"]
    assert len(reason) > 60
    assert reason in here.run("relays").out
    assert reason in here.run("show", here.run("relays").out.splitlines()[1][:8]).out


def test_without_relays_the_list_is_empty_and_says_how_to_make_one(here):
    result = here.run("relays")
    assert (result.code, result.out) == (0, "")
    assert "coordinator relay SOURCE TARGET" in result.err


def test_a_relay_is_shown_by_the_beginning_of_its_id(here):
    data = here.run(*REFERENCE_RELAY, "--json").data
    assert here.run("show", data["relay_id"][:6], "--json").data == data
    assert f"relay       {data['relay_id']}\n" in here.run("show", data["relay_id"][:4]).out


def test_a_relay_that_failed_can_be_shown_well(here):
    here.stop("kme-8")
    relay_id = here.run(*REFERENCE_RELAY, "--timeout", "2", "--json").data["relay_id"]
    result = here.run("show", relay_id)
    assert result.code == 0
    assert result.out.startswith("failed")


def test_the_outcome_fits_80_columns(lab):
    lab.run("lab", "compromise", "kme-5", "--mode", "tamper")
    lab.run("link", "down", "kme-7", "kme-8")
    data = lab.run(*REFERENCE_RELAY, "--timeout", "2", "--keys", "100", "--json").data
    view = lab.network.show(UUID(data["relay_id"]))
    assert view.reason
    assert max(map(len, lines_of(lab, view))) <= 80
    assert max(map(len, tree_of(view))) <= 80


def test_unprotected_relays_are_labelled(place):
    chain = Topology("chain", ("a", "b", "c"), (("a", "b"), ("b", "c")))
    here = place(topology=chain, withstand_compromised=0)
    data = here.run("relay", "a", "c", "--allow-unprotected", "--json").data
    assert (data["state"], data["protected"]) == ("confirmed", False)
    shown = here.run("show", data["relay_id"]).out
    assert "protection  none: one compromised KME on the way could learn the keys\n" in shown


def test_an_end_that_insists_on_protection_fails_the_relay(place):
    here = place(topology=Topology("chain", ("a", "b", "c"), (("a", "b"), ("b", "c"))))
    result = here.run("relay", "a", "c", "--allow-unprotected", "--json")
    assert result.code == 1
    assert result.data["reason"].startswith("refused by a: ")


def test_the_trace_of_the_reference_scenario(here):
    here.run("link", "down", "kme-7", "kme-8")
    relay_id = here.run(*REFERENCE_RELAY, "--json").data["relay_id"]
    assert tree_of(here.network.show(UUID(relay_id))) == [
        f"{relay_id}  confirmed",
        "kme-1  split, 2 of 3 needed",
        "├── kme-2  split, 2 of 2 needed",
        "│   ├── kme-5  forwarded",
        "│   │   └── kme-8  arrived",
        "│   └── kme-6  forwarded",
        "│       └── kme-8  arrived",
        "├── kme-3  split, 2 of 3 needed",
        "│   ├── kme-5  forwarded",
        "│   │   └── kme-8  arrived",
        "│   ├── kme-6  forwarded",
        "│   │   └── kme-8  arrived",
        "│   └── kme-7  forwarded",
        "│       └── kme-8  waits at kme-7: the QKD link to kme-8 is down",
        "└── kme-4  split, 2 of 2 needed",
        "    ├── kme-6  forwarded",
        "    │   └── kme-8  arrived",
        "    └── kme-7  forwarded",
        "        └── kme-8  waits at kme-7: the QKD link to kme-8 is down",
    ]


def test_the_trace_ends_where_the_news_ends(here):
    here.stop("kme-3", "kme-6")
    relay_id = here.run(*REFERENCE_RELAY, "--timeout", "2", "--json").data["relay_id"]
    shown = tree_of(here.network.show(UUID(relay_id)))
    assert "├── kme-3  no news of it (3 routes end here)" in shown
    assert "│   └── kme-6  no news of it" in shown


def test_a_source_that_sent_nothing_is_named(here):
    here.stop("kme-1")
    data = here.run(*REFERENCE_RELAY, "--timeout", "2", "--json").data
    assert data["share_messages"] == 0
    assert "missing     kme-1 has not said that it sent it\n" in here.run("show", data["relay_id"]).out
    assert "\nkme-1  no news of it\n" in here.run("trace", data["relay_id"]).out


def test_the_trace_marks_false_and_disputed_shares(lab):
    lab.run("lab", "compromise", "kme-2", "--mode", "tamper")
    false = lab.run(*REFERENCE_RELAY, "--json").data["relay_id"]
    assert "├── kme-2  split, 2 of 2 needed  FALSE" in lab.run("trace", false).out
    lab.run("link", "down", "kme-7", "kme-8")
    disputed = lab.run(*REFERENCE_RELAY, "--timeout", "2", "--json").data["relay_id"]
    shown = lab.run("trace", disputed).out
    assert "├── kme-2  split, 2 of 2 needed  disputed" in shown
    assert "├── kme-3  split, 2 of 3 needed  disputed" in shown


def test_the_trace_in_json_is_the_same_tree(here):
    here.run("link", "down", "kme-7", "kme-8")
    relay_id = here.run(*REFERENCE_RELAY, "--json").data["relay_id"]
    data = here.run("trace", relay_id, "--json").data
    root = data["flow"]
    assert (root["kme"], root["state"], root["threshold"], root["shares"]) == ("kme-1", "split", 2, 3)
    states = {}

    def walk(node):
        states[">".join(node["route"])] = (node["state"], node.get("reason"))
        for child in node.get("children", []):
            walk(child)

    walk(root)
    assert len(states) == 1 + 17
    assert states["kme-1>kme-3>kme-7"] == ("forwarded", None)
    assert states["kme-1>kme-3>kme-7>kme-8"] == ("stuck", "link.down")
    assert states["kme-1>kme-2>kme-5>kme-8"] == ("arrived", None)


def test_the_network_in_json(lab):
    lab.run("lab", "compromise", "kme-4", "--mode", "withhold")
    lab.run("link", "down", "kme-7", "kme-8")
    lab.run(*REFERENCE_RELAY)
    data = lab.run("network", "--json").data
    assert (data["name"], data["lab"]) == ("eight-kmes", True)
    modes = {kme["name"]: kme["lab_mode"] for kme in data["kmes"]}
    assert modes.pop("kme-4") == "withhold"
    assert set(modes.values()) == {None}
    assert {kme["version"] for kme in data["kmes"]} == {__version__}
    links = {tuple(link["link"]): link for link in data["links"]}
    assert len(links) == 13
    broken = links["kme-7", "kme-8"]
    assert broken["ordered_down"]
    assert [way["up"] for way in broken["directions"]] == [False, False]
    assert [way["up"] for way in links["kme-1", "kme-2"]["directions"]] == [True, True]
    assert all(way["available_bytes"] > 0 for way in broken["directions"])


def test_the_network_for_people(lab):
    lab.run("lab", "compromise", "kme-4", "--mode", "leak")
    lab.run("link", "down", "kme-7", "kme-8")
    result = lab.run("network")
    assert "compromised: leak" in result.out
    broken = next(line for line in result.out.splitlines() if line.startswith("kme-7>kme-8"))
    assert broken.split().count("down") == 3
    assert max(len(line.rstrip()) for line in result.out.splitlines()) <= 80


def test_versions_are_shown_where_there_are_several():
    view = Network(DIAMOND).ask(NetworkRequest())
    first, *others = view.kmes
    mixed = structs.replace(view, kmes=(structs.replace(first, version="99.0"), *others))
    for shown, versions in ((view, []), (mixed, ["99.0", *[__version__] * 3])):
        console = Console(width=120, color_system=None)
        with console.capture() as capture:
            console.print(network_as_tables(shown))
        head, *rows = (line.split() for line in capture.get().split("\n\n")[1].splitlines())
        assert ("version" in head) == bool(versions)
        assert [row[-1] for row in rows if versions] == versions


def test_plans_are_those_of_the_running_network_with_all_that_is_noted_of_it(place):
    ends = tuple((a, b) for a, b in ("sa", "sb", "sc", "at", "bt", "ct"))
    notes = {("s", "a"): LinkNote("aes-256-gcm", None, 65_536)}
    here = place(topology=Topology("three", tuple("sabct"), ends, notes, {"b": "never", "c": "avoid"}))
    [best, *_] = here.run("plan", "s", "t", "--withstand", "failed=0", "--json").data["plans"]
    assert set(best["successors"]) == {"s", "a", "c"}
    assert best["link_key"]["s>a"] != best["link_key"]["a>t"]
    assert {kme["name"]: kme["trust"] for kme in here.run("network", "--json").data["kmes"]}["b"] == "never"
    shown = here.run("network").out
    assert "noted" in shown
    assert next(line for line in shown.splitlines() if line.startswith("c ")).split()[-1] == "avoid"


@pytest.mark.parametrize(("leaking", "learned"), [(("kme-4", "kme-6"), False), (("kme-5", "kme-6"), True)])
def test_an_attack_tells_whether_it_worked_and_exits_0(lab, leaking, learned):
    for kme in leaking:
        assert f"{kme} is compromised: it will leak" in lab.run("lab", "compromise", kme, "--mode", "leak").out
    relay_id = lab.run(*REFERENCE_RELAY, "--json").data["relay_id"]
    as_json = lab.run("lab", "attack", relay_id, "--json")
    assert as_json.code == 0
    assert as_json.data["learned"] is learned
    assert as_json.data["kmes"] == list(leaking)
    in_words = lab.run("lab", "attack", relay_id[:8])
    assert in_words.code == 0
    assert in_words.out.startswith("LEARNED the secret of" if learned else "learned nothing of")
    assert f"leaked by {leaking[0]} and {leaking[1]}" in in_words.out


def test_an_attack_can_be_limited_to_some_of_the_leaks(lab):
    for kme in ("kme-5", "kme-6"):
        lab.run("lab", "compromise", kme, "--mode", "leak")
    relay_id = lab.run(*REFERENCE_RELAY, "--json").data["relay_id"]
    data = lab.run("lab", "attack", relay_id, "--kme", "kme-5", "--json").data
    assert (data["kmes"], data["learned"]) == (["kme-5"], False)


def test_a_restored_kme_leaks_no_more(lab):
    lab.run("lab", "compromise", "kme-6", "--mode", "leak")
    assert lab.run("lab", "restore", "kme-6").out == "kme-6 is honest again\n"
    relay_id = lab.run(*REFERENCE_RELAY, "--json").data["relay_id"]
    assert "no KME has leaked a share" in lab.run("lab", "attack", relay_id).out


def watched(here, *arguments):
    """What `watch` printed of one relay before Ctrl-C."""

    def interrupt():
        raise KeyboardInterrupt

    here.after(1, lambda: here.network.relay("kme-1", "kme-8", policy="recursive"))
    here.after(3, interrupt)
    return here.run("watch", *arguments)


def test_watching_shows_each_report_on_a_line(here):
    result = watched(here)
    assert result.code == 0
    assert sum("share.collected" in line for line in result.out.splitlines()) == 7
    line = next(line for line in result.out.splitlines() if "kme-1>kme-3>kme-7>kme-8" in line)
    assert line.split()[1:3] == ["share.collected", "kme-8"]
    assert "kme.hello" not in result.out


def test_watching_in_json_is_one_object_a_line(here):
    result = watched(here, "--json")
    events = [json.loads(line) for line in result.out.splitlines()]
    assert sum(event["event"] == "share.split" for event in events) == 4
    collected = next(event for event in events if event["event"] == "share.collected")
    assert collected["kme"] == "kme-8"
    assert collected["route"][0] == "kme-1"
    assert "proof" not in result.out


def test_reports_without_a_relay_are_readable():
    shown = report_in_words(
        "kme-3", Rejected(relay_id=None, route=None, link=("kme-1", "kme-3"), reason="a\x1b[2Jb"), 0.0
    ).plain
    assert "share.rejected" in shown
    assert "link=kme-1>kme-3" in shown
    assert "\x1b" not in shown
    assert "key.low" in report_in_words("kme-3", Alarm(event="key.low", text="why"), 0.0).plain


def commands(group, path=()):
    for name, command in group.commands.items():
        if hasattr(command, "commands"):
            yield from commands(command, (*path, name))
        else:
            yield (*path, name)


@pytest.mark.parametrize("path", list(commands(typer.main.get_command(app))), ids=" ".join)
def test_every_command_helps_with_an_example(run, path):
    result = run(*path, "--help")
    assert result.code == 0
    assert "Example: " in result.out
    assert max(map(len, result.out.splitlines())) <= 80


def test_help_does_not_wait_for_what_it_does_not_need():
    loaded = "import sys, qkdrelay_cli; print(*sys.modules)"
    modules = subprocess.run([sys.executable, "-c", loaded], capture_output=True, text=True, check=True).stdout.split()
    assert not {"pika", "structlog", "cryptography", "pydantic", "coordinator.service"} & set(modules)


def test_results_are_not_coloured_in_a_pipe(here):
    here.run("link", "down", "kme-7", "kme-8")
    assert "\x1b" not in here.run(*REFERENCE_RELAY).out + here.run("network").out
