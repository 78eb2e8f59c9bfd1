"""Part "page": relays at a fixed rate, and all at once, while fifty look at the page and while nobody does."""

from __future__ import annotations

import json
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from selectors import EVENT_READ, DefaultSelector
from typing import Any

from bench import stack
from bench.against_broker import TOPOLOGY, quantiles
from bench.processor import spent
from qkdrelay.network.topology_file import load_topology
from support import rabbitmq
from support.ports import free_port

VIEWERS = 50
PER_S, SECONDS = 200.0, 6.0
AT_ONCE = 1_000
_SIDES = (0, VIEWERS)


def measure(rounds: int) -> dict[str, Any]:
    """Return p50 (seconds) at a fixed rate and relays/s at once, by how many look, and their ratios within a round."""
    topology = load_topology(TOPOLOGY)
    folder = Path(tempfile.mkdtemp(prefix="qkdrelay-bench-"))
    with ExitStack() as cleanup:
        cleanup.callback(shutil.rmtree, folder)
        server = cleanup.enter_context(rabbitmq.running())
        host = cleanup.enter_context(server.vhost(topology.kmes, topology.links))
        port = free_port()
        full = cleanup.enter_context(stack.running(host, topology, TOPOLOGY, folder, page=port))
        full.relay(200)
        found: dict[int, dict[str, list[float]]] = {side: {"p50": [], "rate": [], "bytes": []} for side in _SIDES}
        used: dict[int, Counter[str]] = {side: Counter() for side in _SIDES}
        for turn in range(rounds):
            for side in _SIDES if turn % 2 else reversed(_SIDES):
                with _looking(port, side) as seen:
                    before = spent()
                    found[side]["p50"].append(quantiles(full.relay(int(PER_S * SECONDS), PER_S))["p50"])
                    used[side] += spent() - before
                    times = full.relay(AT_ONCE)
                    found[side]["rate"].append(AT_ONCE / (max(t[1] for t in times) - min(t[0] for t in times)))
                found[side]["bytes"].append(float(sum(seen)))
    ratios = {
        name: statistics.median(v / n for v, n in zip(found[VIEWERS][name], found[0][name], strict=True))
        for name in ("p50", "rate")
    }
    processor = {
        side: {who: round(s / rounds / SECONDS, 3) for who, s in sorted(each.items())} for side, each in used.items()
    }
    return {"viewers": VIEWERS, "per_s": PER_S, "rounds": found, "ratios": ratios, "cores_used": processor}


@contextmanager
def _looking(port: int, viewers: int) -> Iterator[list[int]]:
    """Have so many look, in a process of their own; the list gets the bytes that each got."""
    if not viewers:
        yield []
        return
    command = [sys.executable, "-m", "bench.page", str(port), str(viewers)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=stack.ROOT) as eyes:
        assert eyes.stdin is not None
        assert eyes.stdout is not None
        eyes.stdout.readline()
        got: list[int] = []
        yield got
        eyes.stdin.close()
        got += json.loads(eyes.stdout.readline())


def look(port: int, viewers: int) -> None:
    """Look until stdin is closed; print a line when all are there, and then what each got."""
    with DefaultSelector() as selector:
        for number in range(viewers):
            there = socket.create_connection(("127.0.0.1", port))
            there.sendall(b"GET /events HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
            selector.register(there, EVENT_READ, number)
        selector.register(sys.stdin, EVENT_READ, None)
        got = [0] * viewers
        print("all look", flush=True)
        while True:
            for key, _ in selector.select():
                if key.data is None:
                    print(json.dumps(got), flush=True)
                    return
                assert isinstance(key.fileobj, socket.socket)
                got[key.data] += len(key.fileobj.recv(1 << 20))


if __name__ == "__main__":
    look(int(sys.argv[1]), int(sys.argv[2]))
