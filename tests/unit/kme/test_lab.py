"""What a KME does on orders about its links, and in the lab as a compromised one; and that it is honest otherwise."""

import os
from dataclasses import replace
from itertools import count
from uuid import UUID

import pytest

from kme.blocks.computed import ComputedSource
from kme.effects import LogEvent, SendShare
from kme.forwarding import Forwarding, RejectedShareError
from kme.lab import Lab
from kme.link_keys import Link
from kme.model import NodeSettings
from kme.service import KmeService
from kme.store import open_kme_store
from qkdrelay.broker.names import LEAKS_KEY, control_queue, results_queue
from qkdrelay.broker.port import Delivery
from qkdrelay.messages import codec, signing
from qkdrelay.messages.control import Commands, Expect, SetLab, SetLink, SignedMessage
from qkdrelay.messages.leaks import Leak, open_leak
from qkdrelay.messages.reports import Done, Reports
from qkdrelay.network.names import COORDINATOR
from support import plans
from support.kme import NOW, RELAY, Kme, only, terms
from support.network import Network

PLAN = plans.eight()
TO_5, TO_8 = ("kme-1", "kme-3", "kme-5"), ("kme-1", "kme-3", "kme-5", "kme-8")
PAYLOAD, KEY = os.urandom(160), os.urandom(32)
MODES = ("leak", "withhold", "tamper")


def lab_order(mode):
    return SetLab(command_id=UUID(int=5), mode=mode)


class Ordered:
    """A service with nobody around it, and what it reports."""

    def __init__(self, *, lab=False):
        source = ComputedSource(bytes(32), "kme-5", "kme-8", rate_bps=1, buffer_bytes=1024, clock=lambda: 0.0)
        self.store, self._numbers = open_kme_store(None, "kme-5"), count()
        me = NodeSettings("kme-5", frozenset({"kme-8"}), lab=lab)
        self.service = KmeService(me, self.store, {"kme-8": Link("otp", source)}, KEY)

    def order(self, command):
        """Return the answers to a command of the coordinator."""
        body, number = Commands(items=(command,)), next(self._numbers)
        signed = signing.sign(KEY, COORDINATOR, "kme-5", epoch=bytes(16), number=number, body=body)
        with self.store.journal.transaction():
            delivery = Delivery(control_queue("kme-5"), "", "", signed, redelivered=False, token=(1, 1))
            assert self.service.handle(delivery, NOW)
            self.service.tick(NOW, connected=False, reconnected=False)
        sent = self.store.journal.outbox.drain_committed()
        reports = [each.body for each in sent if each.routing_key == results_queue("kme-5")]
        bodies = [codec.decode(codec.decode(body, SignedMessage).body, Reports) for body in reports]
        return [report for body in bodies for report in body.items]


# --- links -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("up", [False, True])
def test_a_link_is_turned_and_the_command_answered(up):
    ordered, command = Ordered(), SetLink(command_id=UUID(int=5), peer="kme-8", up=False)
    assert ordered.order(command) == [Done(command=command, error="")]
    assert ordered.store.waiting.links_down() == {"kme-8"}
    if up:
        ordered.order(SetLink(command_id=UUID(int=6), peer="kme-8", up=True))
        assert ordered.store.waiting.links_down() == frozenset()


def test_a_link_that_is_not_there_is_named():
    ordered, command = Ordered(), SetLink(command_id=UUID(int=5), peer="kme-2", up=False)
    assert ordered.order(command) == [Done(command=command, error="kme-5 has no link to kme-2")]
    assert ordered.store.waiting.links_down() == frozenset()


# --- the lab ---------------------------------------------------------------------------------------


def test_the_lab_is_obeyed_only_where_the_kmes_own_setting_has_it_on():
    on, off = Ordered(lab=True), Ordered()
    assert on.order(lab_order("leak")) == [Done(command=lab_order("leak"), error="")]
    assert on.store.journal.meta.get("lab_mode") == b"leak"
    assert on.order(lab_order(None)) == [Done(command=lab_order(None), error="")]
    assert on.store.journal.meta.get("lab_mode") is None
    assert off.order(lab_order("leak")) == [Done(command=lab_order("leak"), error="the lab is off at kme-5")]
    assert off.store.journal.meta.get("lab_mode") is None


def test_where_the_lab_is_off_nothing_of_it_is_made(monkeypatch):
    monkeypatch.setattr(Lab, "__init__", None)
    assert isinstance(Ordered().service.forwarding, Forwarding)
    with pytest.raises(TypeError):
        Ordered(lab=True)


class Compromised(Kme):
    """A KME in the lab, in this mode."""

    def __init__(self, mode, name="kme-5"):
        super().__init__(name)
        self.journal = open_kme_store(None, name).journal
        self.forwarding = Lab(self.forwarding, name, self.journal, KEY, os.urandom)
        self.forwarding.on_order(lab_order(mode))

    def leaks(self):
        sent = self.journal.outbox.drain_committed()
        return [open_leak(KEY, self.name, each.body) for each in sent if each.routing_key == LEAKS_KEY]


def test_a_leaking_kme_hands_out_what_it_receives_and_goes_on():
    kme = Compromised("leak")
    effects = kme.share(TO_5, PAYLOAD)
    assert kme.leaks() == [Leak(kme="kme-5", relay_id=RELAY, route=TO_5, payload=PAYLOAD)]
    assert only(effects, SendShare)[0].payload == PAYLOAD


def test_a_withholding_kme_sends_nothing_and_reports_nothing():
    effects = Compromised("withhold").share(TO_5, PAYLOAD)
    assert [type(effect) for effect in effects] == [LogEvent]


def test_a_tampering_kme_sends_something_else():
    effects = Compromised("tamper").share(TO_5, PAYLOAD)
    (sent,) = only(effects, SendShare)
    assert sent.payload != PAYLOAD
    assert len(sent.payload) == len(PAYLOAD)


def test_a_leaking_target_leaks_what_it_collects():
    kme, final = Compromised("leak", name="kme-8"), os.urandom(PLAN.share_length(TO_8, 2 * 32 + 32))
    kme.command(Expect(terms=terms()))
    kme.share(TO_8, final)
    assert kme.leaks() == [Leak(kme="kme-8", relay_id=RELAY, route=TO_8, payload=final)]


@pytest.mark.parametrize("mode", ["withhold", "tamper"])
def test_a_target_collects_what_it_gets_whatever_it_does_to_others(mode):
    kme, final = Compromised(mode, name="kme-8"), os.urandom(PLAN.share_length(TO_8, 2 * 32 + 32))
    kme.command(Expect(terms=terms()))
    kme.share(TO_8, final)
    assert kme.memory.get(RELAY, TO_8) == final


def test_a_kme_that_was_told_to_be_honest_again_is():
    kme = Compromised("tamper")
    kme.forwarding.on_order(lab_order(None))
    assert only(kme.share(TO_5, PAYLOAD), SendShare)[0].payload == PAYLOAD


@pytest.mark.parametrize("mode", MODES)
def test_where_the_lab_is_off_a_kme_is_honest_whatever_its_store_says(mode, tmp_path):
    network, published = Network(lab=True, folder=tmp_path), []
    network.compromise("kme-5", mode)
    network.settings["kme-5"] = replace(network.settings["kme-5"], lab=False)
    network.restart("kme-5")
    assert network.stores["kme-5"].journal.meta.get("lab_mode") == mode.encode()
    publish = network.hub.publish
    network.hub.publish = lambda user, each: (published.append(each.routing_key), publish(user, each))[1]
    view = network.relay("kme-1", "kme-8")
    assert (view.state, view.missing, view.false_shares) == ("confirmed", (), ())
    assert results_queue("kme-5") in published
    assert LEAKS_KEY not in published


@pytest.mark.parametrize("mode", MODES)
def test_a_compromised_kme_refuses_what_does_not_fit_all_the_same(mode):
    kme = Compromised(mode)
    with pytest.raises(RejectedShareError, match="the deadline has passed"):
        kme.share(TO_5, PAYLOAD, now=NOW + 1000)
    assert kme.leaks() == []
