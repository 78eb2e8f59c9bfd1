"""Part `applications`: keys for applications over ETSI GS QKD 014, against the same server with a constant answer."""

from __future__ import annotations

import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from bench import constant, stack, supply_cost
from bench.against_broker import TOPOLOGY, quantiles
from bench.https import Answer, Client, Work, client
from bench.saes import BUSY, MASTERS_AT, SAES, SLAVES_AT, STOCK_MOST, TWO, Applications, path
from qkdrelay.network.topology_file import load_topology
from support import rabbitmq
from support.ports import free_port
from support.waiting import eventually

REQUESTS = 100
"""One after the other, in one round of the latency."""
REST_S = 0.02
"""Between two that meet an idle system."""
CONNECTIONS = 16
PER_CONNECTION = 60
MANY = 128
"""Keys in one request; as many as may be."""
COLD_PAIRS = 30
COLD_KMES = 10
PAIRS = (0, 250, 500, 1_000)
READY_WITHIN_S = 120.0
ONCE = Work((f"/api/v1/keys/{BUSY[1]}/status",))
"""Asked on each connection at first: one that has asked is kept for long."""
MEASURED_S = 5.5
"""So often, and more, a KME measures what it has."""


def measure(rounds: int) -> dict[str, Any]:
    """Return all of it, by what is measured."""
    topology = load_topology(TOPOLOGY)
    folder = Path(tempfile.mkdtemp(prefix="qkdrelay-bench-"))
    results: dict[str, Any] = {"link_key": supply_cost.measure()}
    with ExitStack() as cleanup:
        cleanup.callback(shutil.rmtree, folder)
        applications = Applications.new(folder / "saes", TWO, (BUSY,))
        server = cleanup.enter_context(rabbitmq.running())
        host = cleanup.enter_context(server.vhost(topology.kmes, topology.links))
        more = applications.settings()
        full = cleanup.enter_context(stack.running(host, topology, TOPOLOGY, folder, more=more))
        other = cleanup.enter_context(_constant(applications, folder))
        bench = Bench(applications, full, other)
        results["one_key"] = bench.one_key(rounds)
        results["connections"] = bench.connections(rounds)
        results["many_keys"] = bench.many_keys(rounds)
        results["cold"] = bench.cold()
        results["pairs"] = bench.pairs()
    return results


@contextmanager
def _constant(applications: Applications, folder: Path) -> Iterator[int]:
    """Run the server with the constant answer; yield its port."""
    port = free_port()
    arguments = [str(port), str(applications.folder / MASTERS_AT), str(folder / "constant.sqlite")]
    process = subprocess.Popen([sys.executable, "-m", "bench.constant", *arguments], stdout=subprocess.PIPE)
    try:
        assert process.stdout is not None
        assert process.stdout.readline().decode().strip() == constant.READY
        yield port
    finally:
        process.terminate()
        process.wait(20)


class Bench:
    """What is measured on one running network."""

    def __init__(self, applications: Applications, full: stack.Stack, other: int) -> None:
        self._applications, self._full, self._other = applications, full, other

    def one_key(self, rounds: int) -> dict[str, Any]:
        """Return p50, p95 and p99 of a single key from ready ones, beside the constant answer, in an idle system."""
        work = Work((path(BUSY[1]),) * REQUESTS, rest_s=REST_S)
        with self._both(1) as sides:
            rounds_of = self._in_turn(sides, work, rounds)
        return _times(rounds_of)

    def connections(self, rounds: int) -> dict[str, Any]:
        """Return requests/s for single keys over 16 connections at once, beside the constant answer."""
        work = Work((path(BUSY[1]),) * PER_CONNECTION)
        with self._both(CONNECTIONS) as sides:
            rounds_of = self._in_turn(sides, work, rounds, before=self._fill)
        rates = {name: [_rate(answers) for answers in own] for name, own in rounds_of.items()}
        ratios = [a / b for a, b in zip(rates["enc_keys"], rates["constant"], strict=True)]
        return {
            **{f"{name}_per_s": statistics.median(own) for name, own in rates.items()},
            "ratio": statistics.median(ratios),
            "rounds": rates,
        }

    def many_keys(self, rounds: int) -> dict[str, Any]:
        """Return keys/s with 128 keys a request and with one, over 16 connections, from ready keys."""
        each = max(1, STOCK_MOST // MANY // CONNECTIONS)
        works = {
            1: Work((path(BUSY[1]),) * PER_CONNECTION),
            MANY: Work((path(BUSY[1], MANY),) * each),
        }
        rates: dict[int, list[float]] = {number: [] for number in works}
        self._fill()
        with client(self._applications.server(BUSY[0]), CONNECTIONS) as asking:
            _all_well(asking.make(ONCE))
            for _ in range(rounds):
                for number, work in works.items():
                    self._fill()
                    rates[number].append(_rate(_all_well(asking.make(work))) * number)
        ratio = statistics.median(a / b for a, b in zip(rates[MANY], rates[1], strict=True))
        return {"keys_per_s": {n: statistics.median(own) for n, own in rates.items()}, "ratio": ratio, "rounds": rates}

    def cold(self) -> dict[str, Any]:
        """Return how long the first key takes of a pair of SAEs, and of a pair of KMEs, and a relay in between."""
        times: dict[str, list[float]] = {"relay": [], "pair_of_saes": [], "pair_of_kmes": []}
        with client(self._applications.server("m-1")) as asking:
            for number in range(COLD_PAIRS):
                times["relay"] += self._relay()
                time.sleep(REST_S * 10)
                times["pair_of_saes"] += self._first(asking, f"s-{number}")
                time.sleep(REST_S * 10)
        for _ in range(COLD_KMES):
            self._restart(MASTERS_AT)
            times["relay"] += self._relay()
            with client(self._applications.server("m-2")) as asking:
                time.sleep(1.0)
                times["pair_of_kmes"] += self._first(asking, "s-2")
        medians = {name: statistics.median(own) for name, own in times.items()}
        return {
            "p50_s": medians,
            "over_a_relay": {name: own / medians["relay"] for name, own in medians.items() if name != "relay"},
            "seconds": times,
        }

    def pairs(self) -> list[dict[str, Any]]:
        """Return memory and start-up of both KMEs by how many pairs of SAEs have ready keys."""
        rows = []
        done = 0
        for pairs in PAIRS:
            while done < pairs:
                master, slaves = f"m-{done // SAES}", min(SAES, pairs - done)
                with client(self._applications.server(master)) as asking:
                    _all_well(asking.make(Work(tuple(path(f"s-{number}") for number in range(slaves)))))
                done += slaves
            if pairs:
                eventually(lambda n=pairs: self._applications.ready_keys() >= n * 127, timeout_s=READY_WITHIN_S)
            memory = {kme: _memory(self._full.services.process_id(kme)) for kme in (MASTERS_AT, SLAVES_AT)}
            rows.append({"pairs": pairs, "memory_mib": memory})
            start_up = {SLAVES_AT: self._restart(SLAVES_AT)}
            if pairs == PAIRS[-1]:
                start_up[MASTERS_AT] = self._restart(MASTERS_AT)
            rows[-1]["start_up_s"] = start_up
        return rows

    # --- helpers -------------------------------------------------------------------------------------

    @contextmanager
    def _both(self, connections: int) -> Iterator[dict[str, Client]]:
        self._fill()  # before connecting: a connection that has not asked is not kept for long
        with (
            client(self._applications.server(BUSY[0]), connections) as ours,
            client(self._applications.server(BUSY[0], port=self._other), connections) as other,
        ):
            for side in (ours, other):
                _all_well(side.make(ONCE))
            yield {"constant": other, "enc_keys": ours}

    def _in_turn(
        self, sides: dict[str, Client], work: Work, rounds: int, before: Callable[[], None] = lambda: None
    ) -> dict[str, list[list[Answer]]]:
        found: dict[str, list[list[Answer]]] = {name: [] for name in sides}
        for side in sides.values():
            _all_well(side.make(Work(work.paths[:10])))
        for turn in range(rounds):
            for name, side in sorted(sides.items(), reverse=bool(turn % 2)):
                before()
                found[name].append(_all_well(side.make(work)))
        return found

    def _fill(self) -> None:
        """Have the busy pair's keys cut ahead, and wait until they are ready."""
        with client(self._applications.server(BUSY[0])) as asking:
            _all_well(asking.make(Work((path(BUSY[1]),))))
        time.sleep(MEASURED_S)  # what is read before is older than the last request
        eventually(lambda: self._applications.ready_keys() >= STOCK_MOST, timeout_s=READY_WITHIN_S, what="ready keys")
        time.sleep(0.5)

    def _relay(self) -> list[float]:
        return [ended - begun for begun, ended in self._full.relay(1)]

    def _first(self, asking: Client, slave: str) -> list[float]:
        return [answer.seconds for answer in _all_well(asking.make(Work((path(slave),))))]

    def _restart(self, kme: str) -> float:
        """Stop and start a KME; return the seconds from its start until it is ready."""
        services = self._full.services
        services.stop(kme)
        began = time.monotonic()
        services.start(kme)
        eventually(lambda: self._applications.is_ready(kme), timeout_s=READY_WITHIN_S, what=f"{kme} to be ready")
        return time.monotonic() - began


def _all_well(answers: list[Answer]) -> list[Answer]:
    """Return them; raise if one is not 200."""
    for answer in answers:
        if answer.status != 200:
            raise RuntimeError(f"an application was answered {answer.status}: {answer.body!r}")
    return answers


def _rate(answers: list[Answer]) -> float:
    """Return answers a second, from the first request to the last answer."""
    return len(answers) / (max(each.came for each in answers) - min(each.asked for each in answers))


def _times(rounds_of: dict[str, list[list[Answer]]]) -> dict[str, Any]:
    """Return quantiles of each side over all rounds, and the medians of their ratios within a round."""
    each = {name: [quantiles([(a.asked, a.came) for a in own]) for own in rounds] for name, rounds in rounds_of.items()}
    whole = {name: quantiles([(a.asked, a.came) for own in rounds for a in own]) for name, rounds in rounds_of.items()}
    ratios = {
        place: [a[place] / b[place] for a, b in zip(each["enc_keys"], each["constant"], strict=True)]
        for place in ("p50", "p95", "p99")
    }
    return {
        "seconds": whole,
        "ratio": {place: whole["enc_keys"][place] / whole["constant"][place] for place in ratios},
        "ratio_in_rounds": ratios,
    }


def _memory(process: int) -> float:
    """Return the memory of a process, in MiB."""
    status = Path(f"/proc/{process}/status").read_text()
    return int(status.partition("VmRSS:")[2].split()[0]) / 1024
