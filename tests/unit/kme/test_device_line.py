"""The thread that asks a QKD device: one thing at a time, later and later after failures, and no key given twice."""

import threading

import pytest

from kme.devices import line
from kme.devices.answers import DeviceError, DeviceKey, DeviceRefusesError, DeviceStatus
from kme.devices.line import DeviceLine, Drawn, Fetched
from kme.devices.source import DeviceSource
from support.waiting import eventually


class Device:
    """A device in memory: a row of answers, each a list of keys or an error; without one it gives nothing."""

    def __init__(self):
        self.draws, self.fetches, self.asked = [], [], []
        self.busy, self.most_at_once = 0, 0
        self.may_answer = threading.Event()
        self.may_answer.set()
        self.is_closed = False

    def draw(self, number):
        return self._answer(("draw", number), self.draws)

    def fetch(self, key_ids):
        keys = self._answer(("fetch", tuple(key_ids)), self.fetches)
        return [next(key for key in keys if key.key_id.lower() == key_id.lower()) for key_id in key_ids]

    def close(self):
        self.is_closed = True

    def _answer(self, what, answers):
        self.busy += 1
        self.most_at_once = max(self.most_at_once, self.busy)
        self.asked.append(what)
        self.may_answer.wait(20)
        self.busy -= 1
        answer = answers.pop(0) if answers else DeviceError("it gives none now (503)")
        if isinstance(answer, Exception):
            raise answer
        return answer


def keys(*names):
    return [DeviceKey(name, name.encode() * 8) for name in names]


@pytest.fixture
def device():
    return Device()


@pytest.fixture
def asking(device, monkeypatch):
    monkeypatch.setattr(line, "PAUSE_S", 0.02)
    monkeypatch.setattr(line, "_AGAIN_S", 0.02)
    woken = threading.Event()
    found = DeviceLine(device)
    found.woken = woken
    found.start(woken.set)
    yield found
    device.may_answer.set()
    found.stop()
    assert device.is_closed


def outcome(asking):
    (found,) = eventually(asking.take)
    return found


def test_keys_are_drawn_and_fetched_and_somebody_is_woken(asking, device):
    device.draws, device.fetches = [keys("a", "b")], [keys("c", "d")]
    assert asking.draw(2)
    assert outcome(asking) == Drawn(tuple(keys("a", "b")))
    assert asking.woken.is_set()
    assert asking.fetch(["d", "c"])
    assert outcome(asking) == Fetched(("d", "c"), tuple(keys("d", "c")))
    assert (asking.state().drawn, asking.state().fetched, asking.state().why) == (2, 2, "")


def test_one_thing_is_asked_at_a_time_and_what_ages_comes_first(asking, device):
    device.may_answer.clear()
    device.draws, device.fetches = [keys("a"), keys("b")], [keys("c")]
    assert asking.draw(1)
    eventually(lambda: device.asked)
    assert asking.fetch(["c"])
    assert not asking.draw(1)
    assert not asking.fetch(["c"])
    device.may_answer.set()
    found = []
    eventually(lambda: found.extend(asking.take()) or len(found) == 2)
    assert [type(each) for each in found] == [Drawn, Fetched]
    assert device.most_at_once == 1


def test_who_is_woken_can_ask_at_once(device):
    asking, asked = DeviceLine(device), []
    device.draws = [keys("a"), keys("b"), keys("c")]
    asking.start(lambda: asked.append(asking.draw(1)))
    assert asking.draw(1)
    eventually(lambda: len(asked) >= 3)
    asking.stop()
    assert asked[:3] == [True] * 3


def test_a_draw_that_fails_says_why_and_is_refused_for_longer_and_longer(device):
    now, pauses = [0.0], []
    asking = DeviceLine(device, lambda: now[0])
    for _ in range(8):
        began = now[0]
        while not asking.draw(1):
            now[0] += 0.5
        pauses.append(now[0] - began)
        asking._draw_now()
        assert asking.take() == [Drawn((), "it gives none now (503)")]
        assert asking.state().why == "it gives none now (503)"
    assert pauses == [0.0, 1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 60.0]
    now[0] += 60.0
    device.draws = [keys("a")]
    assert asking.draw(1)
    asking._draw_now()
    assert (asking.state().why, asking.state().failures) == ("", 8)
    assert asking.draw(1)


class Sparing(Device):
    """A device that has some keys, gives some at once, and none where more is asked for; it may say so."""

    def __init__(self, has, gives=128, *, says=(True, True)):
        super().__init__()
        self.has, self.gives, self.says = has, gives, says

    def status(self):
        self.asked.append(("status",))
        return DeviceStatus(self.has if self.says[0] else None, 256, self.gives if self.says[1] else None)

    def draw(self, number):
        self.asked.append(("draw", number))
        if number > min(self.has, self.gives):
            raise DeviceRefusesError("it gives none now (503)")
        self.has -= number
        return [DeviceKey(f"{self.has + each}", f"{self.has + each:08}".encode()) for each in range(number)]

    def fetch(self, key_ids):
        self.asked.append(("fetch", len(key_ids)))
        if len(key_ids) > self.gives:
            raise DeviceRefusesError("it gives none now (400)")
        return keys(*key_ids)


@pytest.mark.parametrize(
    ("device", "drawn"),
    [
        (Sparing(1_000, 10), [0, 10, 10, 10, 10]),
        (Sparing(100), [0, 100, 0, 0]),
        (Sparing(100, says=(False, False)), [0, 64, 0, 0, 32, 0]),
        (Sparing(1_000, 10, says=(False, False)), [0, 0, 0, 0, 8, 0, 8, 0, 8]),
        (Sparing(0), [0, 0, 0]),
    ],
)
def test_of_a_device_that_gives_nothing_fewer_are_asked_for(device, drawn):
    now, came = [0.0], []
    asking = DeviceLine(device, lambda: now[0])
    for _ in drawn:
        while not asking.draw(128):
            now[0] += 0.5
        asking._draw_now()
        (outcome,) = asking.take()
        came.append(len(outcome.keys))
    assert came == drawn
    assert ("draw", 0) not in device.asked


def test_of_a_device_that_cannot_say_what_it_has_fewer_are_asked_for_too(device, monkeypatch):
    def status():
        raise DeviceError("it answers 500")

    monkeypatch.setattr(device, "status", status, raising=False)
    device.draws = [DeviceRefusesError("it gives none now (503)"), DeviceError("it answers 500")]
    asking = DeviceLine(device, iter(range(0, 1_000, 100)).__next__)
    for _ in range(3):
        assert asking.draw(128)
        asking._draw_now()
    assert device.asked == [("draw", 128), ("draw", 64), ("draw", 64)]


def test_a_key_that_both_ends_are_given_to_send_with_is_used_by_neither(device):
    asking = DeviceLine(device)
    device.draws, device.fetches = [keys("A", "b"), keys("c", "D"), keys("e")], [keys("d")]
    assert asking.draw(2)
    asking._draw_now()
    asking.take()
    assert asking.fetch(["a", "x"])
    asking._fetch_now()
    assert asking.take() == [Fetched(("a", "x"), (), "one of its keys was drawn at this end, too")]
    assert len(device.asked) == 1
    assert asking.fetch(["d"])
    asking._fetch_now()
    asking.take()
    for drawn in (Drawn((), "enc_keys: a key came that the other end had drawn"), Drawn(tuple(keys("e")))):
        while not asking.draw(2):
            asking._draw_at = 0.0
        asking._draw_now()
        assert asking.take() == [drawn]


def test_what_was_drawn_bit_by_bit_is_fetched_so(monkeypatch):
    monkeypatch.setattr(line, "_AGAIN_S", 0.0)
    device = Sparing(1_000, 10)
    asking = DeviceLine(device)
    ids = [f"{number}" for number in range(32)]
    for _ in range(2):
        assert asking.fetch(ids)
        while not (outcomes := asking.take()):
            asking._fetch_now()
        assert outcomes == [Fetched(tuple(ids), tuple(keys(*ids)))]
        asking.held(ids)
    bits = [("fetch", number) for number in (10, 10, 10, 2)]
    assert device.asked == [("fetch", 32), ("status",), *bits, *bits]
    assert asking.state().fetched == 64


def test_a_fetch_that_breaks_off_goes_on_with_the_rest(monkeypatch):
    monkeypatch.setattr(line, "_AGAIN_S", 0.0)
    device = Device()
    asking = DeviceLine(device)
    asking._at_once = 2
    device.fetches = [keys("a", "b"), DeviceError("no connection"), keys("c")]
    assert asking.fetch(["a", "b", "c"])
    asking._fetch_now()
    assert asking.take() == []
    asking._fetch_now()
    assert asking.take() == [Fetched(("a", "b", "c"), tuple(keys("a", "b", "c")))]
    assert device.asked == [("fetch", ("a", "b")), ("fetch", ("c",)), ("fetch", ("c",))]
    assert asking.state().fetched == 3


class Giving(Device):
    """A device that gives up to so many keys a request, until it has none."""

    def __init__(self, has, gives=128):
        super().__init__()
        self.has, self.gives, self.given = has, gives, 0

    def draw(self, number):
        self.asked.append(number)
        given = min(number, self.gives, self.has - self.given)
        if not given:
            raise DeviceError("it answers 500")
        self.given += given
        return [DeviceKey(f"{each}", f"{each:08}".encode()) for each in range(self.given - given, self.given)]


@pytest.mark.parametrize(
    ("device", "asked", "drawn"),
    [
        (Giving(1_000), [128, 128, 44], 300),
        (Giving(1_000, gives=100), [128], 100),
        (Giving(128), [128, 128], 128),
        (Giving(150), [128, 128], 150),
    ],
    ids=["all", "fewer at once", "an error after the first", "no more"],
)
def test_of_a_device_that_keeps_what_was_not_fetched_more_is_drawn_with_several_requests(device, asked, drawn):
    asking = DeviceLine(device, keeps_uncollected=True)
    assert asking.draw(300)
    asking._draw_now()
    (outcome,) = asking.take()
    assert (len(outcome.keys), outcome.why, device.asked) == (drawn, "", asked)
    assert len({key.key_id for key in outcome.keys}) == drawn
    assert asking.state().is_limit == (drawn < 300)


@pytest.mark.parametrize(
    ("error", "is_limit"),
    [(DeviceError("no connection"), False), (DeviceRefusesError("it gives none now (503)"), True)],
    ids=["not there", "dry"],
)
def test_what_a_device_can_give_is_known_of_one_that_is_there_alone(device, error, is_limit):
    now = [0.0]
    asking = DeviceLine(device, lambda: now[0])
    source = DeviceSource(asking, expected_bps=1_000)
    device.status = lambda: DeviceStatus(None, None, None)
    device.draws = [error, keys("a", "b")]
    assert asking.draw(2)
    asking._draw_now()
    assert (source.rate_bps(), source.available(), source.why_dry()) == (0, 0, str(error))
    now[0] = 2.0
    assert asking.draw(2)
    asking._draw_now()
    assert asking.state().is_limit == is_limit
    assert (source.rate_bps(), source.available() > 0) == ((0, False) if is_limit else (1_000, True))


def test_of_any_other_device_one_request_is_drawn_at_once():
    asking = DeviceLine(device := Giving(1_000))
    assert asking.draw(300)
    asking._draw_now()
    assert device.asked == [128]


def test_a_draw_with_several_requests_ends_in_time():
    now = iter(range(0, 100_000, 1_000))
    asking = DeviceLine(device := Giving(1_000), lambda: next(now) / 1_000, keeps_uncollected=True)
    assert asking.draw(1_000)
    asking._draw_now()
    assert device.asked == [128, 128]


def test_a_fetch_is_tried_again_until_the_devices_agree(asking, device):
    device.fetches = [DeviceError("not yet"), DeviceError("not yet"), keys("a")]
    assert asking.fetch(["a"])
    assert outcome(asking) == Fetched(("a",), tuple(keys("a")))
    assert len(device.asked) == 3


def test_a_fetch_that_never_succeeds_ends_with_the_device_s_words(asking, monkeypatch):
    monkeypatch.setattr(line, "FETCH_S", 0.1)
    assert asking.fetch(["a"])
    assert outcome(asking) == Fetched(("a",), (), "it gives none now (503)")
    assert asking.fetch(["b"])


def test_what_a_false_announcement_had_fetched_is_there_for_the_true_one(asking, device):
    """Whoever has the broker can name ids in any selection; a device gives each key once."""
    device.fetches = [keys("a"), keys("B", "c")]
    asking.fetch(["a"])
    outcome(asking)
    asking.fetch(["A", "b", "c"])
    assert [key.key_id for key in outcome(asking).keys] == ["a", "B", "c"]
    assert device.asked == [("fetch", ("a",)), ("fetch", ("b", "c"))]


def test_keys_that_are_held_do_not_come_from_here_again(asking, device, monkeypatch):
    """Else a device that gives its master a key twice would have both ends use it twice."""
    monkeypatch.setattr(line, "FETCH_S", 0.1)
    device.fetches = [keys("a")]
    asking.fetch(["a"])
    outcome(asking)
    asking.held(["A"])
    asking.fetch(["a"])
    assert outcome(asking).why == "it gives none now (503)"


def test_what_is_kept_is_bounded_in_time_and_number(device, monkeypatch):
    monkeypatch.setattr(line, "KEPT_MAX", 2)
    now = [0.0]
    asking = DeviceLine(device, lambda: now[0])
    device.fetches = [keys("a", "b", "c"), keys("a"), keys("b"), keys("b")]
    for key_ids in (["a", "b", "c"], ["b"], ["a"]):
        asking._to_fetch, asking._fetch_until = tuple(key_ids), 100.0
        asking._fetch_now()
    assert device.asked == [("fetch", ("a", "b", "c")), ("fetch", ("a",))]
    now[0] = line.KEPT_S
    asking._to_fetch = ("b",)
    asking._fetch_now()
    assert device.asked[-1] == ("fetch", ("b",))


def test_the_rate_is_what_came_after_the_first_draw(device):
    now = [0.0]
    asking = DeviceLine(device, lambda: now[0])
    for _ in range(4):
        device.draws.append([DeviceKey("a", bytes(128))])
        asking._to_draw = 1
        asking._draw_now()
        now[0] += 2.0
    assert asking.state().rate_bps == 512


def test_no_key_is_shown(asking, device):
    device.draws, device.fetches = [keys("a")], [keys("b")]
    asking.draw(1)
    drawn = outcome(asking)
    asking.fetch(["b"])
    for shown in (repr(drawn), repr(outcome(asking)), repr(asking.state())):
        assert "aaaa" not in shown
        assert "bbbb" not in shown


def test_it_ends_also_while_it_waits(device):
    asking = DeviceLine(device)
    asking.start(lambda: None)
    asking.draw(1)
    eventually(asking.take)
    asking.fetch(["a"])
    asking.stop()
    assert device.is_closed
    assert not asking._thread.is_alive()
