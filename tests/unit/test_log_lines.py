"""Two threads log, the service's and the broker's, and each line stays whole."""

import io
import json
import re
import threading

import pytest
import structlog

from qkdrelay.service.logs import log_all, set_up_logging


class Slow(io.StringIO):
    """A stream that lets another thread in after each write."""

    def __init__(self):
        super().__init__()
        self.turn = threading.Event()

    def write(self, text):
        written = super().write(text)
        self.turn.wait(0.001)
        return written


@pytest.fixture
def out():
    before = structlog.get_config()
    stream = Slow()
    set_up_logging("json", "info", stream)
    yield stream
    structlog.configure(**before)


def test_lines_of_two_threads_do_not_run_into_each_other(out):
    def of_the_broker():
        for number in range(50):
            structlog.get_logger().info("broker.connected", number=number)

    other = threading.Thread(target=of_the_broker)
    other.start()
    for number in range(50):
        log_all([("info", "share.sent", {"number": number}), ("info", "share.split", {"number": number})], kme="kme-1")
    other.join()
    events = [json.loads(line)["event"] for line in out.getvalue().splitlines()]
    assert sorted(set(events)) == ["broker.connected", "share.sent", "share.split"]
    assert len(events) == 150


@pytest.mark.parametrize("form", ["json", "console"])
def test_every_line_has_the_site_it_is_from(form):
    before, stream = structlog.get_config(), io.StringIO()
    set_up_logging(form, "info", stream, site="berlin")
    structlog.get_logger().info("broker.connected", at_site="munich")
    log_all([("info", "share.sent", {"number": 1}), ("info", "share.split", {"number": 1})], kme="kme-1")
    structlog.configure(**before)
    lines = stream.getvalue().splitlines()
    assert len(lines) == 3
    if form == "json":
        assert {json.loads(line)["site"] for line in lines} == {"berlin"}
    else:
        plain = [re.sub(r"\x1b\[[0-9;]*m", "", line) for line in lines]
        assert all(" site=berlin" in line for line in plain)
