"""Health and metrics over HTTP: true answers, of a loop that turns and of one that does not."""

import threading
import time
from contextlib import contextmanager

import pytest
from prometheus_client import CollectorRegistry, Counter

from qkdrelay.broker.port import Delivery, Received
from qkdrelay.errors import StoreError
from qkdrelay.messages.codec import VERSION
from qkdrelay.service import http, loop
from qkdrelay.service.health import ALIVE_S, Health, monitoring
from qkdrelay.service.http import serving
from qkdrelay.service.journal import Journal
from qkdrelay.service.loop import Loop
from qkdrelay.service.metrics import Metrics
from qkdrelay.service.process import StopRequest
from support.clock import Clock
from support.http import get
from support.slow_msgpack import packed
from support.waiting import eventually


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(http, "LOOK_EVERY_S", 0.02)
    monkeypatch.setattr(loop, "_RETRY_S", 0.05)


@pytest.fixture
def health():
    return Health(Clock())


@pytest.fixture
def port(health):
    registry = CollectorRegistry()
    Counter("something", "It happens.", registry=registry).inc()
    with serving(monitoring(registry, health), ("127.0.0.1", 0), setting="HTTP") as port:
        yield port


def test_a_service_that_has_just_started_is_alive_and_not_ready(port):
    assert get(port, "/healthz") == (200, "ok\n")
    assert get(port, "/readyz") == (503, "not connected to the broker\n")


def test_a_connected_service_whose_store_takes_commits_is_ready(health, port):
    health.turned(problem="")
    assert get(port, "/readyz") == (200, "ok\n")
    health.turned(problem="the store is full")
    assert get(port, "/readyz") == (503, "the store is full\n")
    assert get(port, "/healthz") == (200, "ok\n")
    health.turned(problem="\x1b[2J\nok\ud800")
    assert get(port, "/readyz") == (503, "\\u001b[2J\\nok\\ud800\n")
    health.turned(problem="", remark="nothing is bound to a key")
    assert get(port, "/readyz") == (200, "ok, but nothing is bound to a key\n")
    assert get(port, "/healthz") == (200, "ok\n")


def test_what_else_does_not_work_in_a_service_that_is_ready_is_said():
    health, said = Health(), []
    health.turned(problem="", remark="a queue is missing")
    application = monitoring(CollectorRegistry(), health, remark=lambda: "a file is broken")
    page = application({"PATH_INFO": "/readyz"}, lambda status, headers: said.append(status))
    assert (said, [*page]) == (["200 OK"], [b"ok, but a queue is missing; a file is broken\n"])


def test_a_loop_that_is_stuck_is_neither_alive_nor_ready_until_it_turns(health, port):
    health.turned(problem="")
    health._clock.forward(ALIVE_S)
    assert get(port, "/healthz") == (200, "ok\n")
    health._clock.forward(1)
    for path in ("/healthz", "/readyz"):
        assert get(port, path) == (503, "the loop has not turned for 31 s\n")
    health.turned(problem="")
    assert get(port, "/healthz") == get(port, "/readyz") == (200, "ok\n")


def test_metrics_are_served_with_those_of_the_process(port):
    status, text = get(port, "/metrics")
    assert status == 200
    assert "something_total 1.0" in text
    assert "process_resident_memory_bytes" in text


@pytest.mark.parametrize("path", ["/", "/metrics/", "/healthz/x", "/../etc/passwd", "/" + "x" * 60_000])
def test_nothing_else_is_there(port, path):
    assert get(port, path)[0] == 404


# --- the loop --------------------------------------------------------------------------------------


class Broker:
    """A broker that is there, and has nothing, unless a test says so."""

    connected, holds = True, False
    brings = ()
    refused, unrouted, blocked = {}, {}, ""

    def __init__(self):
        self.go_on = threading.Event()

    def receive(self, limit, timeout_s, resting=()):
        if self.connected == "hangs":
            self.holds = True
            self.go_on.wait(60)
            self.connected = True
        time.sleep(0.001)
        brought, self.brings = list(self.brings), ()
        return Received(brought, [], self.connected, 1, 1, self.refused, self.unrouted, self.blocked)

    def start(self): ...
    def wake(self): ...
    def acknowledge(self, deliveries): ...
    def publish(self, publications): ...
    def close(self, timeout_s): ...


class Idle:
    """A service that does nothing but say that it does."""

    def __init__(self, path):
        self.journal, self.metrics = Journal(path, "idle", ""), Metrics()

    def tick(self, now, *, connected, reconnected, away):
        self.journal.meta.set("tick", b"")

    def committed(self): ...
    def start(self, now): ...

    def wait_s(self, now):
        return 0.0

    def measure(self): ...


@pytest.fixture
def running(tmp_path):
    broker, stop, made = Broker(), StopRequest(), []

    def run():
        # SQLite wants to be used by the thread that opened it.
        made.append(Loop(Idle(tmp_path / "store.sqlite"), broker))
        made[0].run(stop)

    thread = threading.Thread(target=run)
    thread.start()
    loop = eventually(lambda: made and made[0])
    application = monitoring(loop.service.metrics.registry, loop.health)
    with serving(application, ("127.0.0.1", 0), setting="HTTP") as port:
        yield loop, broker, lambda path="/readyz": get(port, path)
        broker.go_on.set()
        stop.set()
        thread.join(20)


def test_a_service_that_loses_its_broker_is_not_ready_until_it_is_back(running):
    _, broker, asked = running
    eventually(lambda: asked() == (200, "ok\n"))
    broker.connected = False
    eventually(lambda: asked() == (503, "not connected to the broker\n"))
    broker.connected = True
    eventually(lambda: asked() == (200, "ok\n"))


def test_a_service_names_what_the_broker_does_not_let_it_use(running):
    _, broker, asked = running
    eventually(lambda: asked() == (200, "ok\n"))
    broker.refused = {"link.kme-1.kme-2": "404 NOT_FOUND"}
    eventually(lambda: asked() == (503, "link.kme-1.kme-2 cannot be used: 404 NOT_FOUND\n"))
    broker.refused = {f"q{number}": "404" for number in range(9)}
    listed = "; ".join(f"q{number} cannot be used: 404" for number in range(5))
    eventually(lambda: asked() == (503, f"{listed}; and 4 more\n"))
    broker.blocked = "low on disk"
    eventually(lambda: asked() == (503, "the broker takes nothing: low on disk\n"))
    broker.blocked, broker.refused, broker.unrouted = "", {}, {"link.kme-1.kme-2": "kme.kme-1"}
    eventually(lambda: asked() == (200, "ok, but nothing is bound to link.kme-1.kme-2 at exchange kme.kme-1\n"))
    assert asked("/healthz") == (200, "ok\n")


def test_a_service_for_which_messages_of_a_later_version_wait_is_ready_and_says_so(running):
    _, broker, asked = running
    eventually(lambda: asked() == (200, "ok\n"))
    queue, later = "link.kme-1.kme-2", packed({"v": VERSION + 1})
    broker.brings = [Delivery(queue, "kme.kme-1", queue, later, redelivered=False, token=(1, 1), site="berlin")]
    waits = f"messages of protocol version {VERSION + 1} wait in {queue} at berlin: this is version {VERSION}; upgrade"
    eventually(lambda: asked() == (200, f"ok, but {waits}\n"))
    assert asked("/healthz") == (200, "ok\n")
    assert "qkdrelay_messages_held" in asked("/metrics")[1]


def test_what_the_broker_does_not_let_a_service_use_is_measured_for_as_long_as_it_lasts(tmp_path):
    broker = Broker()
    loop = Loop(Idle(tmp_path / "store.sqlite"), broker)

    def measured():
        loop.step(0)
        loop.measure()
        names = ("qkdrelay_broker_refused", "qkdrelay_broker_blocked", "qkdrelay_broker_connected")
        families = loop.service.metrics.registry.collect()
        samples = [sample for family in families for sample in family.samples if sample.name in names]
        return {sample.labels.get("name", sample.name[len("qkdrelay_broker_") :]): sample.value for sample in samples}

    assert measured() == {"connected": 1, "blocked": 0}
    broker.refused, broker.unrouted = {"queue": "404"}, {"key": "exchange"}
    assert measured() == {"connected": 1, "blocked": 0, "queue": 1, "key": 1}
    broker.connected, broker.blocked, broker.refused = False, "low on disk", {}
    assert measured() == {"connected": 0, "blocked": 1, "key": 1}


def test_a_loop_that_hangs_is_not_alive(running):
    loop, broker, asked = running
    eventually(lambda: asked()[0] == 200)
    broker.connected = "hangs"
    eventually(lambda: broker.holds)
    loop.health._clock = lambda: time.monotonic() + 2 * ALIVE_S
    status, reason = asked("/healthz")
    assert status == 503
    assert "the loop has not turned for" in reason
    broker.go_on.set()
    eventually(lambda: asked("/healthz")[0] == 200)


def test_a_full_disk_makes_a_service_unready_until_a_write_succeeds(running):
    loop, _, asked = running
    eventually(lambda: asked()[0] == 200)
    journal, transaction, full = loop.journal, loop.journal.transaction, threading.Event()

    @contextmanager
    def on_a_full_disk():
        before = journal.connection.total_changes
        with transaction():
            yield
            if full.is_set() and journal.connection.total_changes != before:
                raise StoreError("the store is full")

    journal.transaction = on_a_full_disk
    full.set()
    eventually(lambda: asked() == (503, "the store is full\n"))
    # With nothing to write a commit succeeds, and proves nothing.
    loop.service.tick = lambda *arguments, **options: None
    failures = loop.service.metrics.store_failures._value
    before = failures.get()
    eventually(lambda: failures.get() >= before + 3)
    assert asked() == (503, "the store is full\n")
    full.clear()
    eventually(lambda: asked() == (200, "ok\n"))


def test_what_fails_again_and_again_is_not_ready_and_says_so(running):
    loop, _, asked = running
    eventually(lambda: asked()[0] == 200)

    def failing(*arguments, **options):
        raise ZeroDivisionError

    loop.service.tick = failing
    eventually(lambda: asked() == (503, "a batch could not be handled (ZeroDivisionError); the log says more\n"))
