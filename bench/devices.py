"""Part "devices": how much of the rate of a link's devices messages get, over a double that gives it at that rate.

Relays of 256 keys from one neighbour to the other, as processes, with RabbitMQ in a container, ask for more than the
devices have key for.
"""

from __future__ import annotations

import json
import secrets
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from bench import stack
from qkdrelay.network.topology_file import load_topology
from support import rabbitmq
from support.device_network import DeviceFiles

ENDS = "kme-1", "kme-2"
_TOPOLOGY = f"""name = "pair"\nkmes = {json.dumps(ENDS)}\nlinks = [{json.dumps(ENDS)}]\n"""
KEYS = 256
AT_ONCE = 150
"""Relays asked for before the next ones: some more than the key that may be there."""
WARM_S, COUNTED_S = 4.0, 12.0
STORE_S = 1.0
"""Of the rate, that the devices keep."""
CASES = {
    "1 Mbit/s": {"rate_bps": 10**6},
    "10 Mbit/s": {"rate_bps": 10**7},
    "10 Mbit/s, keeps_uncollected": {"rate_bps": 10**7, "keeps": True},
    "10 Mbit/s, keys of 1,024 bits": {"rate_bps": 10**7, "size_bits": 1_024},
    "10 Mbit/s, both": {"rate_bps": 10**7, "size_bits": 1_024, "keeps": True},
}


def measure(rounds: int) -> dict[str, Any]:
    """Return by case what was drawn for messages from one end, over the devices' rate: each round, and the median."""
    found: dict[str, list[float]] = {case: [] for case in CASES}
    with rabbitmq.running() as server:
        for _ in range(rounds):
            for case, settings in CASES.items():
                found[case].append(_share(server, **settings))
                print(f"bench: {case}: {found[case][-1]:.2f} of the rate", flush=True)
    return {case: {"rounds": shares, "median": statistics.median(shares)} for case, shares in found.items()}


def _share(server: Any, *, rate_bps: int, keeps: bool = False, size_bits: int = 256) -> float:
    with ExitStack() as cleanup:
        folder = Path(tempfile.mkdtemp(prefix="qkdrelay-bench-"))
        cleanup.callback(shutil.rmtree, folder)
        file = folder / "pair.toml"
        file.write_text(_TOPOLOGY)
        network = load_topology(file)
        files = DeviceFiles(folder / "tls", ENDS)
        settings = {"rate_bps": rate_bps, "store_bits": STORE_S * rate_bps, "size_bits": size_bits}
        settings["secret"] = secrets.token_hex(16)
        doubles = {me: cleanup.enter_context(_double(files.folder, settings)) for me in ENDS}
        host = cleanup.enter_context(server.vhost(network.kmes, network.links))
        more = {me: {"QKDRELAY_LINKS": _links(doubles[me], files, me, rate_bps, keeps=keeps)} for me in ENDS}
        running = cleanup.enter_context(stack.running(host, network, file, folder, more=more))
        return _drawn_bps(running, doubles[ENDS[0]]) / rate_bps


def _links(double: Double, files: Any, me: str, rate_bps: int, *, keeps: bool) -> str:
    peer = ENDS[me == ENDS[0]]
    where = {"url": f"https://127.0.0.1:{double.port}", "peer_sae": peer, "tls": str(files.of(me))}
    return json.dumps({peer: {"source": "etsi014", **where, "rate_bps": rate_bps, "keeps_uncollected": keeps}})


def _drawn_bps(running: stack.Stack, double: Double) -> float:
    """Have relays asked for until it is counted how much key was drawn for them."""
    problems: list[BaseException] = []
    has_ended = threading.Event()

    def ask() -> None:
        try:
            while not has_ended.is_set():
                running.relay(AT_ONCE, key_count=KEYS)
        except BaseException as error:  # raised below
            problems.append(error)

    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    time.sleep(WARM_S)
    before, began = double.given_bits(), time.monotonic()
    time.sleep(COUNTED_S)
    after, ended = double.given_bits(), time.monotonic()
    has_ended.set()
    thread.join(stack.RELAYS_WITHIN_S)
    if problems:
        raise problems[0]
    return (after - before) / (ended - began)


class Double:
    """The process of one of a pair of devices."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process
        self.port = int(self._line())

    def given_bits(self) -> int:
        """Return the bits of key that were drawn of it."""
        assert self._process.stdin is not None
        self._process.stdin.write("\n")
        self._process.stdin.flush()
        return int(self._line())

    def _line(self) -> str:
        assert self._process.stdout is not None
        return self._process.stdout.readline()


@contextmanager
def _double(folder: Path, settings: dict[str, Any]) -> Iterator[Double]:
    command = [sys.executable, "-m", "bench.double", str(folder), json.dumps(settings)]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    try:
        yield Double(process)
    finally:
        process.kill()
        process.wait(20)
