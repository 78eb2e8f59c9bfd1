"""Both ends of a link take blocks of key from a pair of QKD devices over TLS, whatever the devices do meanwhile."""

import os
import threading
import time
from collections import deque
from contextlib import ExitStack

import pytest
from cryptography.x509.oid import ExtendedKeyUsageOID

from kme.blocks.ahead import Needed
from kme.blocks.exchange import BlockExchange
from kme.devices import client, line
from kme.devices.client import Device, DeviceSettings
from kme.devices.line import DeviceLine
from kme.devices.source import DeviceSource
from kme.store.held_keys import SCHEMA, HeldKeys
from qkdrelay.messages.blocks import Announce
from qkdrelay.service.journal import Journal
from support.device import Pair, answer, half, hangs, only, others, repeats, serving
from support.saes import Authority
from support.waiting import eventually

ENDS = ("kme-1", "kme-2"), ("kme-2", "kme-1")


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("device")
    authority = Authority(folder / "ca", name="vendor")
    authority.server(folder / "server")
    for name in ("kme-1", "kme-2"):
        (folder / name).mkdir()
        authority.issue(name, names=[name], usage=ExtendedKeyUsageOID.CLIENT_AUTH)
        authority.files(name, folder / name)
    return folder, authority


class Link:
    """Both ends of a link in one thread, and a thread for each device."""

    def __init__(self, folder, port):
        self.devices = [Device(DeviceSettings(f"https://127.0.0.1:{port}", peer, folder / me)) for me, peer in ENDS]
        self.lines = [DeviceLine(device) for device in self.devices]
        self.journals = [Journal(None, f"kme {me}", SCHEMA) for me, _ in ENDS]
        self.held = [HeldKeys(journal) for journal in self.journals]
        options = {"run": os.urandom(16), "random": os.urandom}
        self.exchanges = [
            BlockExchange(ends, "otp", DeviceSource(asking), held, journal=journal, **options)
            for ends, asking, held, journal in zip(ENDS, self.lines, self.held, self.journals, strict=True)
        ]
        self.wires = deque(), deque()
        self.opened = 0

    def turn(self):
        """One turn of both services' loops; each seals what it can, and the other opens it."""
        for here in (0, 1):
            self._do(here, self._say)
            while self.wires[1 - here]:
                self._do(here, self._hear)
            if (key := self.exchanges[here].sending.draw(100)) is not None:
                self._do(1 - here, lambda there, key=key: self._open(there, key))

    def _do(self, end, work):
        with self.journals[end].transaction():
            work(end)
        self.exchanges[end].committed()
        self.journals[end].batch.end()

    def _say(self, here):
        self.wires[here].extend(self.exchanges[here].tick(Needed(4, 400, 100), time.time()))

    def _hear(self, here):
        message = self.wires[1 - here].popleft()
        if isinstance(message, Announce):
            self.exchanges[here].on_announce(message, time.time())
        else:
            self.exchanges[here].on_held(message, time.time())

    def _open(self, there, key):
        holding = self.exchanges[there].receiving
        assert holding.slot(key.slot_name, bytes(16)) == key.slot
        assert holding.pad(key.slot_name, key.pieces, 100) == key.pad
        holding.opened(key.slot_name, bytes(16), key.pieces)
        self.opened += 1

    def until(self, condition, what):
        """Turn until a condition holds."""

        def holds():
            for _ in range(10):
                self.turn()
            return condition()

        return eventually(holds, what=what)

    def goes_on(self):
        """Whether more than all that could be granted by now is opened, in both directions."""
        before = self.opened
        return self.until(lambda: self.opened > before + 1_000, "messages to be opened")


@pytest.fixture
def pair():
    return Pair()


@pytest.fixture
def link(files, pair, monkeypatch):
    monkeypatch.setattr(client, "WITHIN_S", 0.5)
    monkeypatch.setattr(line, "PAUSE_S", 0.02)
    monkeypatch.setattr(line, "PAUSE_MAX_S", 0.1)
    monkeypatch.setattr(line, "FETCH_S", 0.3)
    monkeypatch.setattr(line, "_AGAIN_S", 0.05)
    folder, authority = files
    with ExitStack() as stack, serving(pair, folder / "server", authority.path) as port:
        found = Link(folder, port)
        for asking in found.lines:
            asking.start(lambda: None)
            stack.callback(asking.stop)
        yield found
        pair.end.set()


@pytest.mark.parametrize(
    ("mood", "said"),
    [
        (answer({"message": "dry"}, 503), "it gives none now (503: dry)"),
        (answer(b"<html>oops</html>", 500), "it answers 500"),
        (answer({"message": "no"}, 415), "it answers 415: no"),
        (only("enc_keys", hangs), "no whole answer within"),
        (only("enc_keys", half), "broke off"),
        (only("enc_keys", repeats), "given before"),
    ],
    ids=["dry", "500 in HTML", "415", "hangs", "half an answer", "repeats"],
)
def test_a_link_whose_device_gives_nothing_says_why_and_comes_back_by_itself(link, pair, mood, said):
    link.goes_on()
    pair.mood = mood
    link.until(lambda: all(said in asking.state().why for asking in link.lines), f"both to say {said!r}")
    pair.mood = None
    link.goes_on()
    assert link.lines[0].state().rate_bps > 0


@pytest.mark.parametrize(
    "mood",
    [only("dec_keys", hangs), only("dec_keys", answer({"message": "not here"}, 400)), only("dec_keys", others)],
    ids=["hangs", "has none of them", "gives other keys"],
)
def test_a_device_that_does_not_give_what_the_other_end_drew_costs_blocks_and_nothing_else(link, pair, mood):
    link.goes_on()
    pair.mood = mood
    before = [asking.state().drawn for asking in link.lines]

    def have_drawn():
        return all(asking.state().drawn > drawn + 128 for asking, drawn in zip(link.lines, before, strict=True))

    link.until(have_drawn, "both ends to draw anew")
    pair.mood = None
    link.goes_on()


def test_the_thread_of_the_service_never_waits_for_a_device(link, pair):
    link.goes_on()
    pair.mood = hangs
    slow = threading.Event()
    timer = threading.Timer(5.0, slow.set)
    timer.start()
    for _ in range(200):
        link.turn()
    timer.cancel()
    assert not slow.is_set()
