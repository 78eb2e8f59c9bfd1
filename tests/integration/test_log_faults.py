"""A service whose log cannot be written runs as if nothing were, and counts what was lost."""

from __future__ import annotations

import fcntl
import json
import os
import re
import signal
import socket
import subprocess
import sys
import urllib.request
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from support.ports import free_port
from support.waiting import eventually

F_SETPIPE_SZ = 1031
PAGE = 4096
OPENER = urllib.request.build_opener(urllib.request.ProxyHandler({}))
KEY = "ab" * 32
COMMANDS = {"kme": "kme run", "coordinator": "coordinator serve"}
PROGRAMS = Path(sys.executable).parent

RELAY = """
import sys
from pathlib import Path
from qkdrelay_demo.network import EmbeddedNetwork
from qkdrelay.network.topology_file import reference_topology
from qkdrelay.service.logs import lines_lost, set_up_logging
from qkdrelay.service.process import prepare_process

prepare_process()
set_up_logging("json", "debug")
network = EmbeddedNetwork(reference_topology())
states = {network.relay("kme-1", "kme-8").state for _ in range(3)}
Path(sys.argv[1]).write_text(f"{states} {lines_lost() > 20}")
"""


@pytest.mark.parametrize(
    ("output", "loses"),
    [
        *((">/dev/full", True), (">&-", True), ("2>&1 >/dev/full", True), ("| head -n 1", True)),
        *((">/dev/null", False), ("2>/dev/full", False), ("2>&-", False), ("2>&- | cat", False)),
    ],
)
def test_relays_go_on_whatever_becomes_of_the_log(output, loses, tmp_path):
    script = f'set -o pipefail; "{sys.executable}" -c "$0" told {output}'
    done = subprocess.run(["bash", "-c", script, RELAY], cwd=tmp_path, capture_output=True, timeout=120, check=False)
    assert (done.returncode, done.stderr) == (0, b"")
    assert (tmp_path / "told").read_text() == f"{{'confirmed'}} {loses}"


class Service:
    """A service without a broker: it tries again and again, and logs each time."""

    def __init__(self, name, output, folder, broker="127.0.0.1:1"):
        self.port = free_port()
        settings = {
            "KME": "kme-1",
            "LINKS": json.dumps({"kme-2": {"secret": KEY}}),
            "CONTROL_KEY": KEY,
            "CLI_KEY": KEY,
            "CONTROL_KEYS": json.dumps({f"kme-{number}": KEY for number in range(1, 9)}),
            "TOPOLOGY": "eight-kmes",
            "BROKER": broker,
            "BROKER_PASSWORD": "p",
            "STORE": str(folder / "store.sqlite"),
            "HTTP": f"127.0.0.1:{self.port}",
        }
        self.process = subprocess.Popen(
            ["bash", "-c", f"exec {PROGRAMS}/{COMMANDS[name]} {output}"],
            env={**os.environ, **{f"QKDRELAY_{key}": value for key, value in settings.items()}},
            cwd=folder,
            stdin=subprocess.DEVNULL,
        )

    def get(self, path):
        with suppress(OSError), OPENER.open(f"http://127.0.0.1:{self.port}{path}", timeout=20) as answer:
            return answer.read().decode()
        return ""

    def lost(self):
        found = re.search(r"^qkdrelay_log_lines_lost_total ([0-9.e+]+)$", self.get("/metrics"), re.MULTILINE)
        return float(found[1]) if found else 0.0

    def stop(self):
        assert self.process.poll() is None, "it ended by itself"
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(timeout=30)


@contextmanager
def service(*arguments):
    running = Service(*arguments)
    try:
        yield running
    finally:
        running.process.kill()
        running.process.wait()


@pytest.mark.parametrize("output", [">/dev/full", ">&-", ">/dev/full 2>&1", ">&- 2>&-"])
@pytest.mark.parametrize("name", COMMANDS)
def test_a_service_runs_counts_and_stops_as_always(name, output, tmp_path):
    with service(name, output, tmp_path) as running:
        eventually(lambda: running.lost() > 0, timeout_s=60, what="a count of lost lines")
        assert running.get("/healthz") == "ok\n"
        assert running.stop() == 0
        # What was closed has not become the store's or a connection's.
        assert (tmp_path / "store.sqlite").read_bytes().startswith(b"SQLite format 3\x00")


def test_a_reader_that_has_gone_does_not_end_the_service(tmp_path):
    os.mkfifo(tmp_path / "log")
    with service("kme", ">log", tmp_path) as running:
        with (tmp_path / "log").open() as reader:
            assert json.loads(reader.readline())["event"]
        eventually(lambda: running.lost() > 0, timeout_s=60, what="a count of lost lines")
        with (tmp_path / "log").open() as reader:
            lost = json.loads(reader.readline())
            assert (lost["event"], lost["level"], lost["reason"]) == ("log.lost", "warning", "Broken pipe")
            assert lost["lines"] >= 1
            assert running.stop() == 0


def test_a_reader_that_has_stopped_does_not_stop_the_service(tmp_path):
    os.mkfifo(tmp_path / "log")
    reading = os.open(tmp_path / "log", os.O_RDONLY | os.O_NONBLOCK)
    writing = os.open(tmp_path / "log", os.O_WRONLY)
    fcntl.fcntl(writing, F_SETPIPE_SZ, PAGE)
    os.write(writing, b"\n" * PAGE)
    with socket.create_server(("127.0.0.1", 0)) as broker:
        broker.settimeout(60)
        address = f"127.0.0.1:{broker.getsockname()[1]}"
        with service("kme", ">log", tmp_path, address) as running:
            for _ in range(6):  # after each of these it logs, and tries again
                broker.accept()[0].close()
            assert running.get("/healthz") == "ok\n"
            assert running.stop() == 0
    os.close(writing)
    with os.fdopen(reading) as rest:
        assert rest.read().strip() == ""
