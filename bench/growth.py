"""Parts 3 and 4: link key per byte of secret, and what grows with what. One process, its CPU time, stores on disk."""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any

from qkdrelay.client import relay_request
from qkdrelay.errors import QkdRelayError
from qkdrelay.messages import codec
from qkdrelay.messages.blocks import Announce, BlocksHeld
from qkdrelay.network.key_cost import SLOT_BYTES, Suite
from qkdrelay.network.selection import choose
from qkdrelay.network.topology import Topology
from qkdrelay.network.topology_file import load_topology
from qkdrelay_demo import network as embedded

TOPOLOGY = Path(__file__).parents[1] / "infra" / "topologies" / "eight-kmes.toml"
BATCHES = (1, 16, 256, 4096, 16_384)
AT_ONCE = (1, 10, 100, 1000)
AGES = (10, 10_000, 100_000, 1_000_000)
"""Share messages that have gone over the network's links."""
KEY_BYTES = 32
embedded.LINK_BUFFER_BYTES = 1 << 34


class Counted(embedded.EmbeddedNetwork):
    """A network that counts the shares that are published on its links, and the key that they are sealed with."""

    def __init__(self, topology: Topology, **options: Any) -> None:
        self.messages = self.bytes = self.drawn = 0
        super().__init__(topology, **options)
        publish = self.hub.publish

        def counted(user: str, publication: Any) -> Any:
            is_about_key = any(codec.is_of(publication.body, kind) for kind in (Announce, BlocksHeld))
            if publication.routing_key.startswith("link.") and not is_about_key:
                self.messages += 1
                self.bytes += len(publication.body)
            return publish(user, publication)

        self.hub.publish = counted  # type: ignore[method-assign]
        for kme in topology.kmes:
            for exchange in self.loops[kme].service.links.keys._exchanges.values():
                self._count(exchange.sending)

    def _count(self, sending: Any) -> None:
        draw = sending.draw

        def counted(length: int) -> Any:
            key = draw(length)
            self.drawn += 0 if key is None else SLOT_BYTES + len(key.pad)
            return key

        sending.draw = counted

    def relay_all(self, relays: int, keys: int, policy: str = "recursive") -> float:
        """Run ``relays`` relays at once; return the CPU seconds."""
        source, target = self.topology.kmes[0], self.topology.kmes[-1]
        for _ in range(relays):
            wishes = {"key_count": keys, "timeout_s": 600.0, "policy": policy, "allow_unprotected": True}
            self.client.send(relay_request(source, target, follow=False, **wishes))
        before = time.process_time()
        self.settle()
        return time.process_time() - before


@contextmanager
def network(topology: Topology | None = None, **options: Any) -> Iterator[Counted]:
    """Yield a fresh network with its stores in a folder that is deleted afterwards."""
    with tempfile.TemporaryDirectory() as folder:
        yield Counted(topology or load_topology(TOPOLOGY), folder=Path(folder), **options)


def link_key() -> list[dict[str, Any]]:
    """Return for each suite and batch the link key drawn per byte of secret, and over the plan's minimum."""
    rows = []
    suites: tuple[Suite, ...] = ("otp", "aes-256-gcm")
    for suite in suites:
        for keys in BATCHES:
            with network(suite=suite) as counted:
                counted.relay_all(1, keys)
                secret = keys * KEY_BYTES
                least = counted.messages * secret
                rows.append(
                    {
                        "suite": suite,
                        "keys": keys,
                        "per_secret_byte": counted.drawn / secret,
                        "over_minimum": counted.drawn / least,
                    }
                )
    return rows


def batches() -> list[dict[str, Any]]:
    """Return CPU time, messages and bytes of one relay by how many keys it has."""
    rows = []
    for keys in BATCHES:
        with network() as counted:
            counted.relay_all(1, keys)
            counted.messages = counted.bytes = 0
            seconds = min(counted.relay_all(1, keys) for _ in range(5))
            each = {"messages": counted.messages // 5, "bytes": counted.bytes // 5}
            rows.append({"keys": keys, "cpu_ms": seconds * 1e3, **each})
    return rows


def at_once() -> list[dict[str, Any]]:
    """Return CPU time per relay by how many there are at once."""
    rows = []
    for relays in AT_ONCE:
        with network() as counted:
            counted.relay_all(5, 1)
            seconds = min(counted.relay_all(relays, 1) for _ in range(1 if relays > 100 else 5))
            rows.append({"relays": relays, "cpu_ms_per_relay": seconds * 1e3 / relays})
    return rows


def age() -> list[dict[str, Any]]:
    """Return CPU time per relay of a hundred at once by how many share messages the stores have seen."""
    rows = []
    with network() as counted:
        counted.relay_all(1, 1)
        for seen in AGES:
            while counted.messages < seen:
                counted.relay_all(1_000, 1)
            before = counted.messages
            seconds = min(counted.relay_all(100, 1) for _ in range(5))
            rows.append({"messages_before": before, "cpu_ms_per_relay": seconds * 10})
    return rows


def layered(layers: int, width: int) -> Topology:
    """Return a network of ``layers`` layers of ``width`` KMEs between two ends, each linked to all of the next."""
    levels = [["a"], *([f"k{i}-{j}" for j in range(width)] for i in range(layers)), ["z"]]
    links = [(u, v) for here, there in pairwise(levels) for u in here for v in there]
    return Topology("layered", tuple(kme for level in levels for kme in level), tuple(links))


def networks() -> list[dict[str, Any]]:
    """Return CPU time and messages of a relay as the network deepens and widens, by policy."""
    rows: list[dict[str, Any]] = []
    for policy in ("recursive", "best"):
        for layers in (1, 2, 3, 4, 6, 8):
            for width in (2, 3, 5):
                topology = layered(layers, width)
                row: dict[str, Any] = {"policy": policy, "layers": layers, "width": width}
                rows.append(row)
                try:
                    chosen = choose(topology, "a", "z", policy=policy, allow_unprotected=True)
                except QkdRelayError as error:
                    row["refused"] = str(error)
                    continue
                row["messages"] = chosen.messages
                if chosen.messages <= 1_000:
                    with network(topology, withstand_compromised=0) as counted:
                        counted.relay_all(1, 1, policy)
                        row["cpu_ms"] = min(counted.relay_all(1, 1, policy) for _ in range(3)) * 1e3
    return rows


def memory() -> list[dict[str, Any]]:
    """Return the peak memory of a process with the whole network in it, by relays and keys, each in its own process."""
    rows = []
    for relays, keys in ((1, 1), (100, 1), (1000, 1), (1, 16_384), (7, 14_286)):
        code = f"from bench.growth import peak; print(peak({relays}, {keys}))"
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
        rows.append({"relays": relays, "keys_each": keys, "peak_mib": round(float(done.stdout.split()[-1]))})
    return rows


def peak(relays: int, keys: int) -> float:
    """Run the relays one after the other; return the process's peak memory in MiB."""
    with network() as counted:
        for _ in range(relays):
            counted.relay_all(1, keys)
    # Not getrusage: its peak is that of the parent where that was larger when it forked.
    status = Path("/proc/self/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0]) / 1024
