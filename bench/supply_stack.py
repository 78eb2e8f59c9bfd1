"""Part "supply_stack": all pairs of a running network ask for more than it can give, over ETSI GS QKD 014.

What they get, once the buffers that are full at the start are used up, is held against what threshold plans can give
at best, time-shared.
"""

from __future__ import annotations

import http.client
import json
import shutil
import ssl
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from random import Random
from typing import Any

from bench import stack
from bench.https import WITHIN_S, Server
from bench.saes import Applications, path
from qkdrelay.network.capacity import KmePair, is_protectable, optimum
from qkdrelay.network.key_rates import pairs_of, rates_of
from qkdrelay.network.topology_file import load_topology
from support import rabbitmq
from support.supply_simulation import with_rates

FILE = stack.ROOT / "infra" / "topologies" / "eight-kmes.toml"
STEP_BPS, STEPS = 80_000, 10
"""Rates of links: one to ten steps."""
BUFFER_BYTES = 1 << 20
LOAD = 1.2
"""What pairs ask for, over what they can be given at best."""
KEYS, KEY_BYTES = 128, 32
"""In one request."""
PIECES, PIECE_S = 8, 30.0
"""What is given is counted piece by piece: the first ones use up what was there at the start."""
COUNTED = 5
"""Of the pieces, the last ones."""
_SEED = 3


def measure() -> dict[str, Any]:
    """Return what was given, piece by piece, over the optimum: all pairs together, and the least of them."""
    folder = Path(tempfile.mkdtemp(prefix="qkdrelay-bench-"))
    rates = Random(_SEED)
    network = with_rates(load_topology(FILE), _steps(rates))
    pairs = [pair for pair in pairs_of(network) if is_protectable(network, pair, 1)]
    best = optimum(network, rates_of(network), pairs, 1, "threshold").share / 8
    with ExitStack() as cleanup:
        cleanup.callback(shutil.rmtree, folder)
        homes = {f"sae-{number}": kme for number, kme in enumerate(network.kmes, 1)}
        applications = Applications.new(folder / "saes", homes, ())
        server = cleanup.enter_context(rabbitmq.running())
        host = cleanup.enter_context(server.vhost(network.kmes, network.links))
        more = applications.settings()
        running = stack.running(host, network, FILE, folder, more=more, buffer_bytes=BUFFER_BYTES)
        cleanup.enter_context(running)
        given = _given(applications, pairs, LOAD * best)
    shares = [[got / PIECE_S / best for got in piece] for piece in given]
    last = [sum(shares[-number][pair] for number in range(1, COUNTED + 1)) / COUNTED for pair in range(len(pairs))]
    return {
        "best_bytes_per_s": best,
        "pairs": len(pairs),
        "pieces": [sum(piece) / len(piece) for piece in shares],
        "delivered": sum(last) / len(last),
        "least": min(last),
        "by_pair": {f"{pair.source} to {pair.target}": share for pair, share in zip(pairs, last, strict=True)},
    }


def _steps(rates: Random) -> Iterator[int]:
    while True:
        yield STEP_BPS * rates.randint(1, STEPS)


def _given(applications: Applications, pairs: Sequence[KmePair], bytes_per_s: float) -> list[list[int]]:
    """Have all pairs ask at this rate each; return the bytes that both ends of each got, piece by piece."""
    sae_of = {kme: sae for sae, kme in applications.homes.items()}
    began = time.monotonic()
    until = began + PIECES * PIECE_S
    given = [[0] * len(pairs) for _ in range(PIECES)]
    problems: list[Exception] = []

    def note(number: int, size: int) -> None:
        piece = int((time.monotonic() - began) / PIECE_S)
        if piece < PIECES:
            given[piece][number] += size

    def run(number: int, pair: KmePair) -> None:
        try:
            ends = sae_of[pair.source], sae_of[pair.target]
            _ask(applications, *ends, bytes_per_s, until, lambda size: note(number, size))
        except (OSError, http.client.HTTPException, RuntimeError) as error:
            problems.append(error)

    threads = [threading.Thread(target=run, args=each, daemon=True) for each in enumerate(pairs)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PIECES * PIECE_S + WITHIN_S)
    if problems:
        raise problems[0]
    return given


def _ask(
    applications: Applications,
    master: str,
    slave: str,
    bytes_per_s: float,
    until: float,
    note: Callable[[int], None],
) -> None:
    """Ask for keys at this rate, and have the slave fetch them; what cannot be had now is asked for again."""
    here, there = _connection(applications.server(master)), _connection(applications.server(slave))
    pause = KEYS * KEY_BYTES / bytes_per_s
    due = time.monotonic() + pause * Random(f"{master}{slave}").random()
    while (now := time.monotonic()) < until:
        if due > now:
            time.sleep(min(due, until) - now)
            continue
        here.request("GET", path(slave, KEYS))
        status, body = _answer(here)
        if status == http.client.SERVICE_UNAVAILABLE:
            due = time.monotonic() + min(pause, 1.0)
            continue
        due = max(due + pause, time.monotonic() - 10 * pause)
        keys = _checked(status, body)
        ids = json.dumps({"key_IDs": [{"key_ID": key["key_ID"]} for key in keys]})
        there.request("POST", f"/api/v1/keys/{master}/dec_keys", ids, {"Content-Type": "application/json"})
        got = {key["key_ID"]: key["key"] for key in _checked(*_answer(there))}
        wrong = [number for number, key in enumerate(keys) if got.get(key["key_ID"]) != key["key"]]
        if wrong:
            raise RuntimeError(f"{slave} got {len(got)} keys, {master} {len(keys)}, of which {wrong} are others")
        note(len(keys) * KEY_BYTES)


def _connection(server: Server) -> http.client.HTTPSConnection:
    context = ssl.create_default_context(cafile=str(server.folder / "ca.pem"))
    context.load_cert_chain(server.folder / "cert.pem", server.folder / "key.pem")
    return http.client.HTTPSConnection(server.host, server.port, timeout=WITHIN_S, context=context)


def _answer(connection: http.client.HTTPSConnection) -> tuple[int, bytes]:
    with connection.getresponse() as response:
        return response.status, response.read()


def _checked(status: int, body: bytes) -> list[dict[str, str]]:
    if status != http.client.OK:
        raise RuntimeError(f"status {status}: {body[:200].decode(errors='replace')}")
    return list(json.loads(body)["keys"])
