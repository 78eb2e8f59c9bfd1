"""The page in a real browser: what it shows is what the coordinator says, as text, and to everybody."""

import json
import socket
import time
from dataclasses import replace
from uuid import UUID

import pytest

from qkdrelay.as_data.relays import tree_as_data
from qkdrelay.messages.reports import Alarm
from qkdrelay_demo.live import LiveNetwork
from qkdrelay_page.board import RELAY
from support.browser import browsing, driven, needs_chromium
from support.network import REFERENCE, Network
from support.page import Shown, shown
from support.waiting import eventually

pytestmark = needs_chromium

MARKUP = """<script>document.title='taken'</script><img src=x onerror="document.title='taken'"><b>'"&amp;"""
VIEWS = (
    "#map",
    "#map/kme-6",
    "#map/kme-7:kme-8",
    "#relay/latest",
    "#supplies",
    "#attention",
    "#plan",
    "#plan/kme-1/kme-8?compromised=kme-4%2Ckme-6&cut=kme-7%3Akme-8",
)


def each(selector, key, value):
    """An expression: of each element, ``value`` by ``key``."""
    return f"Object.fromEntries([...document.querySelectorAll('{selector}')].map(e => [e.{key}, e.{value}]))"


READY = {
    "#map": "document.querySelectorAll('#kmes .kme').length === 8 && document.querySelector('#side tbody tr')",
    "#relay": "document.querySelector('#state')?.textContent === 'confirmed'",
    "#supplies": "document.querySelector('#whole table')",
    "#attention": "document.querySelector('#whole .items')",
    "#plan": "document.querySelector('#ask') && (!location.hash.includes('?') || document.querySelector('#delivered'))",
}


SHOWN = "['#state', '[data-count=share_messages]'].map(s => document.querySelector(s)?.textContent ?? '')"


def network(**options):
    return Network(**{"lab": True, "clock": time.time, **options})


@pytest.fixture(scope="module", autouse=True)
def browser():
    with driven():
        yield


@pytest.fixture(scope="module")
def there():
    """The reference network with the reference scenario's harm, and what is there to be seen of it."""
    with shown(LiveNetwork) as page:
        page.network.stopped = frozenset()
        page.do(page.made.tick)
        page.relay = page.do(lambda: relayed(page.network))
        yield page


def relayed(on, **wishes):
    return on.relay("kme-1", "kme-8", **{"policy": "recursive", "key_count": 3, **wishes})


@pytest.fixture(scope="module", params=[False, True], ids=["light", "dark"])
def eye(request, browser, there):
    """A browser; every test in it leaves no error in the console and has asked no other host."""
    with browsing(dark=request.param) as tab:
        tab.open(there.url)
        yield tab


@pytest.mark.parametrize("view", VIEWS)
def test_each_view_is_accessible_and_says_nothing_to_the_console_or_to_others(there, eye, view):
    eye.open(there.url + view)
    eye.wait_for(READY[view.split("/")[0].split("?")[0]])
    assert eye.violations() == []
    assert eye.errors == []
    assert eye.hosts == {f"127.0.0.1:{there.port}"}


def test_the_map_is_the_network(there, eye):
    eye.open(there.url + "#map")
    eye.wait_for(READY["#map"])
    states = eye.page.evaluate(each(".link", "dataset.key", "dataset.states"))
    assert set(states) == {":".join(link) for link in REFERENCE.links}
    assert {link for link, state in states.items() if state != "up up"} == {"kme-7:kme-8"}
    assert states["kme-7:kme-8"] == "down down"
    kinds = eye.page.evaluate(each(".kme", "dataset.key", "getAttribute('class')"))
    assert {kme for kme, kind in kinds.items() if "compromised" in kind} == {"kme-4", "kme-6"}
    eye.page.click("a.kme[data-key='kme-6'] .disc")
    eye.wait_for("document.querySelector('#side h2').textContent === 'kme-6'")
    assert "healthy, compromised in the lab: leak" in eye.text("#side dl")
    eye.page.focus("a.link[data-key='kme-7:kme-8']")
    eye.page.keyboard.press("Enter")
    eye.wait_for("document.querySelector('#side h2').textContent === 'QKD link kme-7 - kme-8'")


def test_what_is_counted_of_a_relay_is_what_trace_and_show_count(there, eye):
    view = there.relay
    eye.open(f"{there.url}#relay/{view.relay_id}")
    eye.wait_for(READY["#relay"])
    shown_states = eye.page.evaluate(each("[data-route]", "dataset.route", "dataset.state"))
    traced = {}

    def walk(node):
        traced[">".join(node["route"])] = node["state"]
        if node["state"] not in ("stuck", "not seen"):
            for child in node.get("children", ()):
                walk(child)

    walk(tree_as_data(view)["flow"])
    assert shown_states == traced
    counts = eye.page.evaluate(each("[data-count]", "dataset.count", "textContent"))
    assert counts == {
        "share_messages": "15",
        "planned_share_messages": str(view.planned_share_messages),
        "arrived": str(len(view.collected)),
    }
    assert eye.text("[data-split='kme-1']") == "kme-1: 2 of 3 there, 2 needed ✓"
    assert "waits" in eye.text("[data-route='kme-1>kme-4>kme-7>kme-8']")
    assert "learned nothing: kme-4 and kme-6" in eye.text("#learned")


def test_a_plan_asked_on_the_page_is_the_command_lines(there, eye):
    eye.open(there.url + "#plan")
    eye.wait_for(READY["#plan"])
    eye.page.select_option("#source", "kme-1")
    eye.page.select_option("#target", "kme-8")
    eye.page.select_option("#policy", "recursive")
    eye.page.eval_on_selector("form details", "details => { details.open = true }")
    eye.page.select_option("#failed", ["kme-6"])
    eye.page.click("form button")
    eye.wait_for("document.querySelector('#delivered')")
    assert eye.text("#delivered") == "the keys are not delivered"
    marks = [
        json.loads(mark) for mark in eye.page.eval_on_selector_all("[data-mark]", "all => all.map(b => b.dataset.mark)")
    ]
    assert ["kme-2", "kme-3"] in marks
    assert ["kme-6"] in marks
    eye.page.click('[data-mark=\'["kme-2","kme-3"]\']')
    marked = eye.page.eval_on_selector_all(".kme.marked", "all => all.map(k => k.dataset.key)")
    assert sorted(marked) == ["kme-2", "kme-3"]
    assert eye.errors == []


def test_a_relay_is_seen_live_from_split_to_confirmed():
    """In the demo's slow motion, share by share; nothing is told before it has happened."""
    page, seen = Shown(LiveNetwork), []
    page.start()
    try:
        with page.served(), browsing() as tab:
            tab.open(page.url + "#relay/latest")
            page.do(page.made.tick)  # which asks for the relay
            (relay_id,) = eventually(page.board.relays_watched, what="the browser to look at it")
            for _ in range(200):
                page.do(page.made.tick)
                page.do(page.asks.turn)
                now = json.loads(page.board._sections[f"{RELAY}{relay_id}"][1])["show"]
                figures = json.dumps([now["state"], str(now["share_messages"])], separators=(",", ":"))
                tab.wait_for(f"JSON.stringify({SHOWN}) === {json.dumps(figures)}")
                seen.append((now["state"], now["share_messages"]))
                if now["state"] == "confirmed":
                    break
            counts = [count for _, count in seen]
            assert seen[-1][0] == "confirmed", seen
            assert counts == sorted(counts)
            assert len(set(counts)) >= 3, seen
            assert tab.errors == []
    finally:
        page.close()


def test_shares_that_do_not_fit_together_are_not_shown_as_enough():
    """A KME that tampers and a link that is down: as many came as are needed, and the keys could not be rebuilt."""

    def harmed():
        there = network()
        there.cut("kme-7", "kme-8")
        there.compromise("kme-3", "tamper")
        return there

    with shown(harmed) as page, browsing(still=True) as tab:
        relay = page.do(lambda: relayed(page.network, timeout_s=1.0))
        tab.open(f"{page.url}#relay/{relay.relay_id}")
        tab.wait_for("document.querySelector('#state')?.textContent === 'failed'")
        assert "do not fit together" in tab.text("#side dl")
        assert tab.text("[data-split='kme-1']").startswith("kme-1: 0 of 3 there")
        tab.page.eval_on_selector("#step", "s => { s.value = 4; s.dispatchEvent(new Event('input')) }")
        assert tab.text("#step-text") == "kme-8 has too few good shares to rebuild the keys"
        assert tab.page.locator(".threshold.met").count() == 2  # what kme-2 and kme-3 had been sent


def test_a_replay_goes_through_the_steps_and_can_be_stopped_and_set(there, eye):
    eye.open(f"{there.url}#relay/{there.relay.relay_id}")
    eye.wait_for(READY["#relay"])
    eye.page.eval_on_selector("#step", "s => { s.value = 0; s.dispatchEvent(new Event('input')) }")
    assert eye.text("#step-text") == "kme-1 has 3 keys of 256 bits for kme-8"
    eye.page.eval_on_selector("#step", "s => { s.value = 1; s.dispatchEvent(new Event('input')) }")
    assert eye.text("#step-text") == "kme-1 splits what it has, 2 of 3 needed: 3 of 3 shares crossed"
    assert eye.page.locator(".threshold.met").count() == 0
    eye.page.click("#play")
    eye.wait_for("document.querySelector('#play').textContent === 'Pause'")
    eye.wait_for("document.querySelectorAll('.share').length > 0")
    eye.wait_for("document.querySelector('#play').textContent === 'Replay'")
    assert "confirmed, in" in eye.text("#step-text")
    assert eye.page.locator(".threshold.met").count() == 3


def test_who_wants_nothing_to_move_sees_nothing_move(there):
    with browsing(still=True) as tab:
        tab.open(f"{there.url}#relay/latest")
        tab.wait_for(READY["#relay"])
        assert tab.page.locator("#play").inner_text() == "Replay"
        assert tab.page.eval_on_selector(".level", "l => getComputedStyle(l).transitionDuration") == "0s"


def test_a_link_that_is_cut_is_seen_cut_within_two_seconds_and_mended_likewise():
    with shown(network) as page, browsing() as tab:
        tab.open(page.url)
        tab.wait_for("document.querySelectorAll('.link').length === 13")
        for action, states in ((page.network.cut, "down down"), (page.network.mend, "up up")):
            began = time.monotonic()
            page.do(lambda action=action: action("kme-3", "kme-7"))
            tab.wait_for(f"document.querySelector('[data-key=\"kme-3:kme-7\"]').dataset.states === '{states}'")
            assert time.monotonic() - began < 2.0


def test_one_direction_that_is_cut_or_dry_is_told_from_the_other():
    with shown(network) as page, browsing() as tab:
        there = page.network
        tab.open(page.url)
        tab.wait_for("document.querySelectorAll('.link').length === 13")
        page.do(lambda: there.drain("kme-3", "kme-7"))
        tab.wait_for("document.querySelector('[data-key=\"kme-3:kme-7\"]').dataset.states === 'dry up'")
        tab.open(page.url + "#attention")
        tab.wait_for("document.querySelector('[data-kind=\"link dry\"]')")
        assert "Relay less at once over this link" in tab.text("[data-kind='link dry']")


def test_after_the_page_was_away_it_is_there_again_and_says_so_meanwhile():
    page = Shown(network)
    page.start()
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    try:
        with browsing() as tab:
            with page.served(port):
                tab.open(page.url)
                tab.wait_for("document.querySelector('#standing').textContent === 'live'")
            tab.wait_for("document.querySelector('#standing').textContent === 'reconnecting'")
            page.do(lambda: page.network.cut("kme-3", "kme-7"))
            page.board._is_closed = False
            with page.served(port):
                tab.wait_for("document.querySelector('#standing').textContent === 'live'")
                tab.wait_for("document.querySelector('[data-key=\"kme-3:kme-7\"]').dataset.states === 'down down'")
    finally:
        page.close()


def test_when_the_coordinator_is_silent_the_page_says_so_and_looks_stale():
    with shown(network) as page, browsing() as tab:
        tab.open(page.url)
        tab.wait_for("document.querySelectorAll('.link').length === 13")
        page.do(lambda: page.network.stop("coordinator"))
        tab.wait_for("!document.querySelector('#trouble').hidden")
        assert "the coordinator did not answer" in tab.text("#trouble")
        assert tab.violations() == []
        page.do(lambda: page.network.resume("coordinator"))
        tab.wait_for("document.querySelector('#trouble').hidden")


def test_what_the_network_says_is_text_whatever_it_says():
    """Names, alarms, reasons of refusals and of letters come from KMEs, which may be compromised."""

    def harm():
        there.service("kme-2")._reporting.report(Alarm(event=MARKUP, text=MARKUP))
        there.inject("kme-3", "kme.kme-3", "dead.kme-3", MARKUP.encode())
        there.demand("kme-8", 3)
        return there.relay("kme-1", "kme-8", policy="recursive")

    with shown(lambda: network(topology=replace(REFERENCE, name=MARKUP))) as page, browsing() as tab:
        there = page.network
        relay = page.do(harm)
        page.do(there.service("kme-2")._hello.expire)
        page.do(there.settle)
        assert relay.state == "failed"
        tab.open(page.url)
        tab.wait_for("document.querySelectorAll('.link').length === 13")
        assert tab.text("#network") == MARKUP
        for view, shows in (
            (f"#relay/{relay.relay_id}", "document.querySelector('#state')"),
            ("#plan/kme-1/kme-8", "document.querySelector('#answer table')"),
            ("#plan/<b>/<img%20src=x>?policy=<script>", "document.querySelector('#answer .bad')"),
            ("#map/<b>", "document.querySelector('#side table')"),
            ("#relay/<b>", "document.querySelector('#side')"),
            ("#attention", f"document.querySelector('#whole').textContent.includes({json.dumps(MARKUP)})"),
        ):
            tab.open(page.url + view)
            tab.wait_for(shows)
            found = (
                "document.querySelectorAll('main script, main img, main b, header script, header img, header b').length"
            )
            assert tab.page.evaluate(found) == 0
            assert "taken" not in tab.page.title().split(" - ")[0]
        errors = [error for error in tab.errors if "400 (Bad Request)" not in error]
        assert errors == []


def test_a_narrow_window_has_everything_and_scrolls_in_one_direction(there):
    with browsing(width=360, height=740) as tab:
        for view in VIEWS:
            tab.open(there.url + view)
            tab.wait_for(READY[view.split("/")[0].split("?")[0]])
            assert tab.page.evaluate("document.documentElement.scrollWidth <= innerWidth"), view
            assert tab.violations() == []


def test_a_relay_that_is_not_there_is_said_not_to_be(there, eye):
    eye.open(f"{there.url}#relay/{UUID(int=7)}")
    eye.wait_for("document.querySelector('#side .bad')?.textContent.startsWith('there is no relay')")
    assert eye.errors == []
