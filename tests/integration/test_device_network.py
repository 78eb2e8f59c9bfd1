"""A whole network whose links have their key from QKD devices over TLS, whatever those do and whoever is killed."""

import itertools
import os
import threading
from collections import defaultdict

import pytest
from structlog.testing import capture_logs

from kme.blocks import ration, turn_taking
from kme.devices import client, line
from qkdrelay.link.blocks import turns
from qkdrelay.messages import codec
from qkdrelay.messages.blocks import Announce
from support import device_network
from support.device import answer, half, hangs, only, others
from support.device_network import DeviceFiles
from support.network import DIAMOND, of

ROW = of(["kme-1", "kme-2", "kme-3"], [("kme-1", "kme-2"), ("kme-2", "kme-3")])
WITH_DEVICES, SIMULATED = ROW.links
LONG = {"key_count": 96}
"""Of a relay whose share takes most of what is drawn ahead in a `ROW`."""


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    return DeviceFiles(tmp_path_factory.mktemp("devices"), DIAMOND.kmes)


@pytest.fixture
def quick(monkeypatch):
    """Limits and pauses a fifth to a fiftieth as long."""
    monkeypatch.setattr(client, "WITHIN_S", 2.0)
    monkeypatch.setattr(line, "PAUSE_S", 0.02)
    monkeypatch.setattr(line, "PAUSE_MAX_S", 0.1)
    monkeypatch.setattr(line, "FETCH_S", 0.2)
    monkeypatch.setattr(line, "_AGAIN_S", 0.05)
    monkeypatch.setattr(ration, "PAUSE_S", 0.02)
    monkeypatch.setattr(ration, "PAUSE_MAX_S", 0.1)
    monkeypatch.setattr(turns, "TURN_S", 1.2)
    for module in (turns, turn_taking):
        monkeypatch.setattr(module, "USE_S", 0.5)
        monkeypatch.setattr(module, "ASK_S", 0.4)


class Row:
    """A link with devices and a simulated one."""

    def __init__(self, network, pair, logs):
        self.network, self.pair, self.logs = network, pair, logs

    def goes_on(self):
        """Relays that take more key than is drawn ahead cross the link both ways, without anybody's help."""
        both = WITH_DEVICES, WITH_DEVICES[::-1]
        self.network.confirm(*[self.network.ask_for(*way, **LONG) for way in both * 2])

    def more_than_there_is(self):
        """Ask for relays that take more key than can have been drawn ahead."""
        return [self.network.ask_for(*WITH_DEVICES, **LONG) for _ in range(4)]

    def until_it_is_said(self, said, what="why_dry", ways=(WITH_DEVICES,)):
        """Wait until the coordinator shows why the link has no key, or why key was given up, one of ``ways``."""

        def saying():
            return next(filter(None, (self._saying(said, what, way) for way in ways)), None)

        report = self.network.until(saying, lambda: f"{what} to say {said!r}; {self._last}")
        assert report.key.source == "etsi014"
        return report

    def _saying(self, said, what, way):
        report = self.network.said_of(*way)
        self._last = report.key
        return report if said in getattr(report.key, what) else None

    _last = None

    def announced_with_keys_of_another(self):
        """The blocks that were announced with a key of another one."""
        announced = [each.body for each in self.network.over_links if codec.is_of(each.body, Announce)]
        facts = {found.block: found for found in (codec.decode(body, Announce).facts for body in announced)}
        blocks = defaultdict(set)
        for each in facts.values():
            for key_id in each.key_ids:
                blocks[key_id].add(each.block)
        return [facts[block] for found in blocks.values() if len(found) > 1 for block in found]

    def others_go_on(self):
        """A relay over the other link is confirmed meanwhile."""
        self.network.relayed(*SIMULATED)

    def events(self, name):
        """What was logged of the link: the reasons."""
        return [each["reason"] for each in self.logs if each["event"] == name and each["link"] == "kme-1>kme-2"]

    def is_back(self):
        """Whether it was said that there is key again."""
        return any(each["event"] == "link.key_back" and each["link"] == "kme-1>kme-2" for each in self.logs)


@pytest.fixture
def row(files, quick, request):
    options = {"settings": {"ahead_bytes": 4096, **getattr(request, "param", {})}}
    with (
        capture_logs() as logs,
        device_network.running(ROW, files, [WITH_DEVICES], **options) as (network, pairs),
    ):
        yield Row(network, pairs[WITH_DEVICES], logs)


# --- relays ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("links", [DIAMOND.links, DIAMOND.links[::3]], ids=["all links", "some links"])
@pytest.mark.parametrize("suite", ["otp", "aes-256-gcm"])
def test_relays_are_confirmed_over_devices_and_no_byte_of_key_seals_two_messages(files, suite, links):
    with device_network.running(DIAMOND, files, links, suite=suite) as (network, pairs):
        ways = [("kme-1", "kme-4"), ("kme-4", "kme-1"), ("kme-2", "kme-3")]
        network.confirm(*[network.ask_for(*way, key_count=keys) for way in ways for keys in (1, 1, 100)])
        sources = {link: network.said_of(*link).key.source for link in DIAMOND.links}
        use = network.key_use()
    assert {link for link, source in sources.items() if source == "etsi014"} == set(links)
    assert use.reused == []
    assert use.messages >= 2 * 9
    for pair in pairs.values():
        ids = pair.fetches()
        assert len(ids) == len(set(ids)) > 0


# --- devices that give none ------------------------------------------------------------------------


def gives_again(both=False):
    """A mood: good keys, and then the same ones again; or the same at either end."""
    given, asking, is_asked_twice, one_at_a_time = {}, set(), threading.Event(), threading.Lock()

    def mood(handler, _what, asked):
        if both:  # before either has fetched what the other was given
            asking.add(handler.sae)
            if len(asking) > 1:
                is_asked_twice.set()
            is_asked_twice.wait(client.WITHIN_S)
        with one_at_a_time:
            if (end := None if both else handler.sae) not in given:
                given[end] = handler.pair.draw(128, None, handler.sae)
        handler.give(given[end][: asked["number"]])

    return only("enc_keys", mood)


def of_size(bits):
    return lambda handler, _what, _asked: handler.give([(os.urandom(8).hex(), bytes(bits // 8))])


@pytest.mark.parametrize(
    ("mood", "said"),
    [
        (answer({"message": "dry"}, 503), "enc_keys: it gives none now (503: dry)"),
        (answer({"message": "no key"}, 400), "enc_keys: it gives none now (400: no key)"),
        (answer({"message": "not yet"}, 401), "enc_keys: it gives none now (401: not yet)"),
        (answer({}, 404), "enc_keys: it gives none now (404)"),
        (answer({"message": "no"}, 415), "enc_keys: it answers 415: no"),
        (answer({}, 307, Location="https://qkd/x/"), "enc_keys: it answers 307 and sends us to https://qkd/x/"),
        (answer(b"<html>oops</html>", 500), "enc_keys: it answers 500"),
        (answer(b"<html>oops</html>", 200), "enc_keys: the answer is no key container: JSON is malformed"),
        (answer({"keys": []}, 200), "enc_keys: the answer is no key container: Expected `array` of length >= 1"),
        (only("enc_keys", of_size(4096)), "no key container: Expected `bytes` of length <= 128 - at `$.keys[0].key`"),
        (only("enc_keys", hangs), "enc_keys: no whole answer within"),
        (only("enc_keys", half), "enc_keys: the answer broke off"),
        (gives_again(), "a key came that was given before"),
    ],
    ids=["503", "400", "401", "404", "415", "307", "500", "HTML", "none", "size", "hangs", "half", "again"],
)
def test_a_link_whose_device_gives_no_key_says_why_and_what_waits_leaves_when_it_gives_some(row, mood, said):
    row.goes_on()
    row.pair.mood = mood
    waiting = row.more_than_there_is()
    report = row.until_it_is_said(said)
    assert report.waiting > 0
    row.others_go_on()
    assert any(not row.network.show(relay_id).final for relay_id in waiting)
    row.pair.mood = None
    row.network.confirm(*waiting)
    row.goes_on()
    assert row.network.until(lambda: not row.network.said_of(*WITH_DEVICES).key.why_dry)
    assert any(said in reason for reason in row.events("link.key_dry"))
    assert row.is_back()
    assert row.network.key_use().reused == []


@pytest.mark.parametrize(
    ("mood", "said"),
    [
        (answer({"message": "not here"}, 400), "cannot hold it: dec_keys: it gives none now (400: not here)"),
        (hangs, "cannot hold it: dec_keys: no whole answer within"),
        (others, "cannot hold it: its key does not fit the announcement"),
    ],
    ids=["has none of them", "hangs", "other keys"],
)
def test_a_device_that_does_not_give_what_the_other_end_drew_costs_blocks_and_says_so(row, mood, said):
    row.goes_on()
    row.pair.mood = only("dec_keys", mood)
    waiting = row.more_than_there_is()
    row.until_it_is_said(said, "why_given_up")
    row.others_go_on()
    row.pair.mood = None
    row.network.confirm(*waiting)
    row.goes_on()
    assert any(said in reason for reason in row.events("link.key_given_up"))
    assert row.network.key_use().reused == []


def test_a_key_that_both_ends_are_given_to_send_with_seals_nothing(row, monkeypatch):
    row.goes_on()
    monkeypatch.setattr(client, "WITHIN_S", 10.0)
    row.pair.mood = gives_again(both=True)
    waiting = row.more_than_there_is() + [row.network.ask_for(*WITH_DEVICES[::-1], **LONG) for _ in range(4)]
    # Of the two ends the one that draws later gives up.
    both = WITH_DEVICES, WITH_DEVICES[::-1]
    row.until_it_is_said("one of its keys was drawn at this end, too", "why_given_up", both)
    row.pair.mood = None
    row.network.confirm(*waiting)
    twice = {facts.block for facts in row.announced_with_keys_of_another()}
    assert twice
    assert twice.isdisjoint(header.slot.block for header, _ in row.network.headers())


def test_nobody_waits_for_a_device_that_hangs(row, monkeypatch):
    row.goes_on()
    monkeypatch.setattr(client, "WITHIN_S", 60.0)
    row.pair.mood, before = only("enc_keys", hangs), len(row.pair.asked)
    waiting = row.more_than_there_is()
    asking = row.network.line(*WITH_DEVICES)

    def is_asked():
        drawn = any((sae, what) == ("kme-2", "enc_keys") for _, sae, what, _ in row.pair.asked[before:])
        return drawn and asking.is_drawing()

    row.network.until(is_asked, "the device to be asked")
    row.others_go_on()
    assert asking.is_drawing()
    row.pair.mood = None
    row.pair.end.set()
    row.network.confirm(*waiting)


def test_a_device_whose_certificate_has_expired_is_spoken_to_once_it_has_another(row, files, tmp_path):
    row.goes_on()
    files.authority.server(tmp_path, days=-1)
    row.pair.closes = True
    row.pair.context.load_cert_chain(tmp_path / "cert.pem", tmp_path / "key.pem")
    waiting = row.more_than_there_is() + row.more_than_there_is()
    row.until_it_is_said("certificate has expired")
    row.others_go_on()
    row.pair.context.load_cert_chain(files.server / "cert.pem", files.server / "key.pem")
    row.network.confirm(*waiting)
    assert row.is_back()


def test_what_is_missing_at_a_start_is_said_and_the_link_works_once_it_is_there(files, quick, tmp_path):
    late = DeviceFiles(tmp_path, ["kme-2"])
    (tmp_path / "kme-1").mkdir()
    with (
        capture_logs() as logs,
        device_network.running(ROW, late, [WITH_DEVICES], settings={"ahead_bytes": 4096}) as (network, pairs),
    ):
        row = Row(network, pairs[WITH_DEVICES], logs)
        waiting = row.more_than_there_is()
        row.until_it_is_said(str(tmp_path / "kme-1"))
        row.others_go_on()
        late.issue("kme-1")
        network.confirm(*waiting)
        row.goes_on()
        assert row.is_back()


# --- devices that are odd --------------------------------------------------------------------------


@pytest.mark.parametrize(
    "odd",
    [
        {"is_upper": True},
        {"most": 1},
        {"most": 2},
        {"size_bits": 64},
        {"size_bits": 1024},
        {"sizes": itertools.cycle((128, 256, 64, 512))},
    ],
    ids=["upper case", "one at a time", "two at a time", "64 bits", "1,024 bits", "sizes that change"],
)
def test_keys_are_taken_as_a_device_gives_them(row, odd):
    row.goes_on()
    for name, value in odd.items():
        setattr(row.pair, name, value)
    row.goes_on()
    row.goes_on()
    assert row.events("link.key_given_up") == row.events("link.key_dry") == []
    assert row.network.key_use().reused == []


def test_of_a_device_that_gives_nothing_where_more_are_asked_for_fewer_are_drawn_and_fetched_at_once(row):
    row.goes_on()
    row.pair.most, row.pair.refuses_more = 10, True
    row.goes_on()
    refused = len(row.events("link.key_dry"))
    row.goes_on()
    row.goes_on()
    assert len(row.events("link.key_dry")) == refused <= 2
    assert row.events("link.key_given_up") == []
    assert row.network.key_use().reused == []


@pytest.mark.parametrize("row", [{"keeps_uncollected": True, "ahead_bytes": 65_536}], indirect=True)
def test_of_devices_that_keep_what_was_not_fetched_blocks_are_made_of_several_answers(row):
    relays = [row.network.ask_for(*way, key_count=1_500) for way in (WITH_DEVICES, WITH_DEVICES[::-1]) * 3]
    row.network.confirm(*relays)
    fetched = [len(asked["key_IDs"]) for _, _, what, asked in row.pair.asked if what == "dec_keys"]
    assert max(fetched) == 128
    granted = sum(row.network.said_of(*way).key.blocks_granted for way in (WITH_DEVICES, WITH_DEVICES[::-1]))
    assert sum(fetched) > 2 * 128 * granted
    assert row.events("link.key_given_up") == row.events("link.key_dry") == []
    assert row.network.key_use().reused == []


@pytest.mark.parametrize("row", [{"serialise": True, "keeps_uncollected": True}], indirect=True)
def test_in_turns_one_request_is_drawn_at_once(row):
    row.pair.takes_s = 0.02
    row.goes_on()
    assert not row.network.line(*WITH_DEVICES).keeps_uncollected
    assert row.pair.deadlocks == 0


def test_a_device_that_drops_what_is_not_fetched_costs_blocks_where_both_ends_draw_at_once(row):
    row.pair.keeps = False
    said = "cannot hold it: dec_keys: it gives none now"

    def is_said():
        row.goes_on()
        given_up = [each["reason"] for each in row.logs if each["event"] == "link.key_given_up"]
        return any(said in reason for reason in given_up)

    row.network.until(is_said, "blocks to be given up")
    assert row.pair.dropped
    row.goes_on()
    assert row.network.key_use().reused == []


def test_devices_that_dead_lock_say_so(row):
    row.pair.takes_s = 0.1
    waiting = row.more_than_there_is() + [row.network.ask_for(*WITH_DEVICES[::-1], **LONG) for _ in range(4)]
    row.until_it_is_said("enc_keys: it closed the connection without an answer")
    assert row.pair.deadlocks
    row.others_go_on()
    row.pair.takes_s = None
    row.network.confirm(*waiting)


@pytest.mark.parametrize("row", [{"serialise": True}], indirect=True)
@pytest.mark.parametrize(
    "odd",
    [{"takes_s": 0.02}, {"keeps": False}, {"keeps": False, "most": 8}],
    ids=["dead-locks", "drops", "drops and gives few"],
)
def test_in_turns_such_devices_work_and_both_directions_get_their_share(row, odd):
    for name, value in odd.items():
        setattr(row.pair, name, value)
    row.goes_on()
    row.goes_on()
    assert (row.pair.deadlocks, row.pair.dropped) == (0, 0)
    there, back = (row.pair.drawn[kme] for kme in WITH_DEVICES)
    assert 1 / 2 < there / back < 2
    assert row.events("link.key_given_up") == row.events("link.key_dry") == []


# --- kills -----------------------------------------------------------------------------------------


def held(network, kme, peer):
    """The ids of keys that are held."""
    return {key_id for each in network.stores[kme].held_keys.of(peer).values() for key_id in each.facts.key_ids}


def test_no_key_is_used_or_fetched_twice_whoever_is_killed_restored_or_cut_off(files, quick, tmp_path):
    with device_network.running(DIAMOND, files, DIAMOND.links, folder=tmp_path) as (network, pairs):
        ways = [("kme-1", "kme-4"), ("kme-4", "kme-1")]

        def relays():
            network.confirm(*[network.ask_for(*way, key_count=20) for way in ways for _ in range(3)])

        relays()
        copy = network.copy_store("kme-2")
        relays()
        under_way = [network.ask_for(*way, key_count=20) for way in ways]
        network.restart("kme-2")
        network.confirm(*under_way)
        relays()
        network.hub.drop("kme-2")
        relays()
        before = held(network, "kme-2", "kme-1")
        fetched = len(pairs["kme-1", "kme-2"].fetches())
        network.restart("kme-2", copy)
        network.settle()
        relays()
        assert before
        assert before.isdisjoint(pairs["kme-1", "kme-2"].fetches()[fetched:])
        network.hub.drop("kme-2")
        relays()
        given_up = network.said_of("kme-1", "kme-2").key
        use = network.key_use()
    assert given_up.why_given_up == "the other end has begun anew, and does not hold it"
    assert use.reused == []
    for pair in pairs.values():
        ids = pair.fetches()
        assert len(ids) == len(set(ids))
