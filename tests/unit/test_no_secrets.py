"""No key, share or confirmation key is in a log line, an error, a repr, a report or the coordinator's store."""

import base64
import dataclasses
import hashlib
import json
import os
import traceback
from contextlib import ExitStack, suppress
from random import Random
from uuid import uuid4

import pytest
import structlog
from prometheus_client import generate_latest
from pydantic import ValidationError

from attack.case import Case
from attack.coalition import TRICKS
from attack.sealed import Sealed
from kme.blocks import computed
from kme.blocks.computed import ComputedSource
from kme.blocks.source import FetchedKey, RawKey
from kme.devices.answers import DeviceKey
from kme.devices.line import Drawn, Fetched
from kme.effects import KeepShare, SendShare
from kme.forwarding import Forwarding
from kme.links import Links, Opened
from kme.model import EndpointRelay
from kme.rebuilding import Rebuilder
from kme.settings import KmeSettings
from qkdrelay.broker.names import LEAKS_KEY
from qkdrelay.broker.port import Delivery, Publication, Received
from qkdrelay.errors import QkdRelayError
from qkdrelay.link.blocks.content import KeyBlock
from qkdrelay.link.blocks.receiver import HeldKey
from qkdrelay.link.blocks.sender import SealingKey, Sender
from qkdrelay.link.confirmation import Payload
from qkdrelay.messages import codec
from qkdrelay.messages.blocks import Facts, SlotName
from qkdrelay.messages.leaks import Leak
from qkdrelay.network.planner import recursive_plan
from qkdrelay.service.logs import set_up_logging
from qkdrelay.service.settings import load
from qkdrelay_page.board import Board
from support import plans
from support.kme import DEMAND, NOW, RELAY, header
from support.network import REFERENCE, Network
from support.page import watching

PLAN = plans.eight()
SECRET = os.urandom(64)


def forms(secret):
    """A secret as it might be written down."""
    return {
        secret,
        secret.hex().encode(),
        secret.hex().upper().encode(),
        base64.b64encode(secret)[:-4],
        base64.urlsafe_b64encode(secret)[:-4],
        repr(secret)[2:-1].encode(),
        json.dumps(repr(secret))[3:-2].encode(),
        str(list(secret))[1:-1].encode(),
    }


def found(secrets, text):
    data = text if isinstance(text, bytes) else text.encode()
    return [number for number, secret in enumerate(secrets) if any(form in data for form in forms(secret))]


class Recorder:
    """Everything secret that was drawn, derived or carried."""

    def __init__(self, monkeypatch):
        self.secrets = set()
        block_key, draw = computed.block_key, Sender.draw
        on_share, send, to_bytes = Forwarding.on_share, Links.send, Payload.to_bytes
        monkeypatch.setattr(computed, "block_key", lambda *a: self.note_block(block_key(*a)))
        monkeypatch.setattr(Sender, "draw", lambda *a: self.note_drawn(draw(*a)))
        monkeypatch.setattr(
            Forwarding, "on_share", lambda s, k, h, payload, *a: on_share(s, k, h, self.note(payload), *a)
        )
        monkeypatch.setattr(Links, "send", lambda s, share: send(s, self.note_share(share)))
        monkeypatch.setattr(Payload, "to_bytes", lambda s: self.note(to_bytes(s)))

    def random(self, size):
        return self.note(os.urandom(size))

    def note(self, secret):
        for at in range(0, len(secret) - 15, 16):
            self.secrets.add(bytes(secret[at : at + 16]))
        return secret

    def note_block(self, key):
        """Note a block's own keys, and its first slot and last pad: all of it would be too much to look for."""
        self.note(key[:96] + key[-32:])
        return key

    def note_drawn(self, drawn):
        if drawn is not None:
            self.note(drawn[1].slot)
            self.note(drawn[1].pad)
        return drawn

    def note_share(self, share):
        self.note(share.payload)
        return share


@pytest.fixture
def recorder(monkeypatch):
    yield Recorder(monkeypatch)
    structlog.reset_defaults()
    structlog.contextvars.clear_contextvars()


def scenario(network, monkeypatch):
    """Everything that can go well or wrong, once."""
    network.relay("kme-1", "kme-8", key_count=3)
    network.compromise("kme-5", "leak")
    network.compromise("kme-7", "tamper")
    network.cut("kme-2", "kme-6")
    network.relay("kme-1", "kme-8")
    network.stop("kme-6")
    network.wait(network.relay("kme-1", "kme-8").relay_id)
    network.resume("kme-6")
    body = network.sealed[0].body
    sender, receiver = network.sealed[0].routing_key.split(".")[1:]
    network.on_link(sender, receiver, body[:-1] + bytes([body[-1] ^ 1]))
    network.on_link(sender, receiver, b"noise")
    network.as_coordinator("kme-3", b"noise")
    network.as_kme("kme-3", b"noise")
    network.settle()
    on_share, try_rebuild = Forwarding.on_share, Rebuilder.try_rebuild

    def failing_on_share(self, sender, head, payload, *rest):
        held = payload + payload  # a local variable that a traceback might print
        if head.route[-1] == "kme-3":
            raise ZeroDivisionError(len(held))
        return on_share(self, sender, head, payload, *rest)

    def failing_try(self, relay_id, memory, *turn, keep):
        shares = memory.shares.of(relay_id)
        if len(shares) > 2:
            raise KeyError(len(shares))
        return try_rebuild(self, relay_id, memory, *turn, keep=keep)

    with monkeypatch.context() as patch:
        patch.setattr(Forwarding, "on_share", failing_on_share)
        network.relay("kme-1", "kme-8")
        patch.setattr(Rebuilder, "try_rebuild", failing_try)
        network.relay("kme-1", "kme-8")


@pytest.mark.parametrize("form", ["json", "console"])
def test_whatever_happens_no_secret_is_logged_reported_or_kept_by_the_coordinator(
    recorder, monkeypatch, capfd, tmp_path, form
):
    set_up_logging(form, "debug")
    published = []
    network = Network(lab=True, folder=tmp_path, random=recorder.random)
    publish = network.hub.publish

    def recorded(user, publication):
        published.append(publication)
        return publish(user, publication)

    monkeypatch.setattr(network.hub, "publish", recorded)
    keys = network.control_keys.values()
    for key in keys:
        recorder.note(key)
    scenario(network, monkeypatch)
    seen = looked_at(network)
    out, err = capfd.readouterr()
    secrets = sorted(recorder.secrets)
    assert len(secrets) > 1000
    assert b'"learned"' in seen
    assert none_of(secrets, seen)
    for event in ("share.split", "share.forwarded", "relay.confirmed", "share.rejected", "service.message_failed"):
        assert event in out
    assert "ZeroDivisionError" in out
    assert none_of(secrets, out.encode())
    assert none_of(secrets, err.encode())
    assert any(publication.routing_key == LEAKS_KEY for publication in published)
    assert none_of(secrets, b"\n".join(publication.body for publication in published))
    assert any("kme-3" in letter[1] for letter in network.dead_letters())
    assert none_of(secrets, b"".join(file.read_bytes() for file in (tmp_path / "coordinator").iterdir()))
    # The search itself finds what is there.
    held = b"".join(file.read_bytes() for file in (tmp_path / "kme-1").iterdir())
    assert not none_of(secrets, held)


def looked_at(network):
    """All that the page shows of a network and its relays."""
    board = Board()
    asks, relays = watching(network, board), network.coordinator_store.relays.latest(10, supply=True)
    with ExitStack() as viewers:
        for relay in relays:
            viewers.enter_context(board.viewer(relay.relay_id))
        for _ in range(len(relays) + 1):
            asks.turn()
        return b"".join(viewers.enter_context(board.viewer(relay.relay_id)).next(0.0)["relay"] for relay in relays)


@pytest.mark.parametrize("dishonest", [False, True], ids=["honest coordinator", "dishonest coordinator"])
def test_whatever_a_coalition_does_no_secret_is_logged_reported_counted_or_kept_by_the_coordinator(
    recorder, monkeypatch, capfd, tmp_path, dishonest
):
    set_up_logging("json", "debug")
    plan = recursive_plan(REFERENCE, "kme-1", "kme-8")
    case = Case(REFERENCE, plan, "recursive", 1, frozenset({"kme-3", "kme-6"}), TRICKS, dishonest=dishonest)
    attacked = Sealed(case, Random(1), folder=tmp_path, random=recorder.random)
    network, published = attacked.network, []
    publish = network.hub.publish

    def recorded(user, publication):
        published.append(publication.body)
        return publish(user, publication)

    monkeypatch.setattr(network.hub, "publish", recorded)
    for kme in case.kmes:
        recorder.note(network.control_keys[kme])
    for _ in range(6):
        attacked.relay()
    said = "".join(capfd.readouterr())
    metrics = b"".join(generate_latest(network.service(name).metrics.registry) for name in network.loops)
    kept = b"".join(file.read_bytes() for file in (tmp_path / "coordinator").iterdir())
    secrets = sorted(recorder.secrets)
    assert len(secrets) > 300
    assert "share.rejected" in said
    assert b"qkdrelay_messages_refused_total" in metrics
    for where in (
        said.encode(),
        metrics,
        kept,
        b"\n".join(published),
        "\n".join(map(str, network.dead_letters())).encode(),
    ):
        assert none_of(secrets, where)


def test_a_leak_that_is_no_message_is_not_kept_by_the_coordinator(tmp_path):
    network = Network(lab=True, folder=tmp_path)
    leak = codec.encode(Leak(kme="kme-5", relay_id=RELAY, route=("kme-1", "kme-5"), payload=SECRET))
    for body in (leak[:-1], leak + b"\x00", SECRET):
        network.inject("kme-5", "kme.kme-5", "lab.leaks", body)
    network.settle()
    assert len(network.dead_letters()) == 3
    kept = b"".join(file.read_bytes() for file in (tmp_path / "coordinator").iterdir())
    assert found([SECRET[:16], SECRET[32:48]], kept) == []


def none_of(secrets, data):
    """Whether none of many secrets of 16 bytes is in ``data``, in any form."""
    wanted = {form[:16] for secret in secrets for form in forms(secret) if len(form) >= 16}
    return not any(data[at : at + 16] in wanted for at in range(len(data) - 15))


PAYLOAD = Payload(SECRET, SECRET, SECRET[32:])
END = EndpointRelay(RELAY, "target", "pending", PLAN, 2, 256, DEMAND, 1, NOW, PAYLOAD)
ROUTE = ("kme-1", "kme-3", "kme-5", "kme-8")
FACTS = Facts(link=("a", "b"), block=bytes(16), floor=bytes(16), length=128, slots=1, key_ids=("id",))
BLOCK = KeyBlock(FACTS, SECRET + SECRET)
DEVICE_KEY = DeviceKey("id", SECRET)


def asked(source):
    """A source that has key that was asked for, and some that was fetched."""
    assert source.ask(128, 96)
    assert source.fetch(Facts(link=("b", "a"), block=bytes(16), floor=bytes(16), length=96, slots=1, key_ids=()))
    return source


HOLDERS = [
    PAYLOAD,
    END,
    dataclasses.replace(END, state="delivered"),
    SendShare(RELAY, ROUTE, PLAN.below("kme-8"), NOW, SECRET, 1, 1),
    KeepShare(RELAY, ROUTE, SECRET, NOW),
    Leak(kme="kme-5", relay_id=RELAY, route=ROUTE, payload=SECRET),
    Opened("kme-5", header(PLAN, ROUTE), SECRET),
    Publication(1, "kme.kme-1", "lab.leaks", SECRET),
    Delivery("q", "e", "k", SECRET, redelivered=False, token=(1, 1)),
    Received(
        [Delivery("q", "e", "k", SECRET, redelivered=False, token=(1, 1))],
        [],
        connected=True,
        generation=1,
        publishing=1,
    ),
    asked(ComputedSource(SECRET[:32], "a", "b", rate_bps=1, buffer_bytes=1_000, clock=lambda: 0.0)),
    RawKey(128, (), lambda _: SECRET + SECRET),
    FetchedKey(FACTS, SECRET + SECRET),
    BLOCK,
    HeldKey.of(BLOCK),
    Sender(("a", "b")).with_block(SECRET + SECRET, ("id",), 1, NOW, os.urandom),
    SealingKey(SlotName(bytes(16), 0), (), SECRET, SECRET),
    DEVICE_KEY,
    Drawn((DEVICE_KEY,)),
    Fetched(("id",), (DEVICE_KEY,)),
]


@pytest.mark.parametrize("holder", HOLDERS, ids=lambda holder: type(holder).__name__)
def test_the_repr_of_what_holds_a_secret_does_not_show_it(holder):
    for text in (repr(holder), str(holder), f"{[holder]}", repr({"a": holder})):
        assert found([SECRET[:16], SECRET[32:48]], text) == []


@pytest.mark.parametrize("level", ["debug", "error"])
@pytest.mark.parametrize("form", ["json", "console"])
def test_bytes_are_refused_by_the_log_whatever_they_are(capfd, form, level):
    set_up_logging(form, "debug")
    try:
        log = structlog.get_logger()
        getattr(log, level)("some.event", payload=SECRET, other=bytearray(SECRET), relay_id=uuid4())
        with suppress(ZeroDivisionError):
            raise_with_local(SECRET)
        try:
            raise_with_local(SECRET)
        except ZeroDivisionError:
            log.exception("some.failure", key=SECRET)
    finally:
        structlog.reset_defaults()
        structlog.contextvars.clear_contextvars()
    out, err = capfd.readouterr()
    assert "<64 bytes>" in out
    assert "raise_with_local" in out
    assert found([SECRET[:16], SECRET[32:48]], out + err) == []


def raise_with_local(secret):
    local = secret
    return len(local) / 0


# --- settings --------------------------------------------------------------------------------------

KEY = hashlib.sha256(b"control").hexdigest()
SETTINGS = {
    "QKDRELAY_KME": "kme-1",
    "QKDRELAY_BROKER": "broker:5672",
    "QKDRELAY_BROKER_PASSWORD": "correct-horse-battery",
    "QKDRELAY_STORE": "/var/lib/kme.sqlite",
    "QKDRELAY_CONTROL_KEY": KEY,
    "QKDRELAY_LINKS": '{"kme-2": {"secret": "' + "ab" * 32 + '"}}',
}
CANARIES = ("correct-horse-battery", KEY, KEY[:20], "ab" * 10)


@pytest.fixture
def environment(monkeypatch):
    for name, value in SETTINGS.items():
        monkeypatch.setenv(name, value)
    return monkeypatch


def test_the_repr_of_settings_shows_no_secret(environment):
    settings = load(KmeSettings)
    rabbitmq = settings.rabbitmq("kme-1", ())
    for text in (repr(settings), str(settings), str(settings.model_dump()), settings.model_dump_json(), repr(rabbitmq)):
        assert not [canary for canary in CANARIES if canary in text]


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("QKDRELAY_CONTROL_KEY", KEY[:-1]),
        ("QKDRELAY_CONTROL_KEY", KEY + "zz"),
        ("QKDRELAY_LINKS", '{"kme-2": {"secret": "' + "ab" * 31 + '"}}'),
        ("QKDRELAY_LINKS", '{"kme-2": {"secret": "' + "ab" * 32 + '", "rate": 5}}'),
        ("QKDRELAY_LINKS", '{"kme-2": {"secret": "' + "ab" * 32 + '"'),
        ("QKDRELAY_LINKS", '{"kme-2": "' + "ab" * 32 + '"}'),
        ("QKDRELAY_LINKS", '["' + "ab" * 32 + '"]'),
        ("QKDRELAY_LINKS", "ab" * 32),
        ("QKDRELAY_KME", "Not A Name"),
    ],
)
def test_an_error_of_settings_names_the_variable_and_never_a_value(environment, variable, value):
    environment.setenv(variable, value)
    with pytest.raises(QkdRelayError) as error:
        load(KmeSettings)
    said = "".join(traceback.format_exception(error.value)) + str(error.value.hint)
    assert variable in str(error.value)
    assert not [canary for canary in CANARIES if canary in said]


@pytest.mark.parametrize("variable", ["QKDRELAY_CONTROL_KEY", "QKDRELAY_LINKS"])
def test_not_even_the_error_beneath_repeats_its_input(environment, variable):
    environment.setenv(variable, json.dumps({"kme-2": {"secret": KEY + "00"}}) if "LINKS" in variable else KEY + "00")
    with pytest.raises(ValidationError) as error:
        KmeSettings()
    assert "must be 64 hexadecimal digits" in str(error.value)
    assert KEY[:20] not in str(error.value)
