"""The command `kme`: run a KME, look at its keys."""

from __future__ import annotations

import time
from typing import Annotated
from uuid import UUID

import typer
from rich.table import Table

from kme.keys import listed
from kme.links import Link
from kme.node import NodeSettings
from kme.settings import KmeSettings, StoreSettings
from kme.store import KmeStore
from kme.worker import KmeService
from qkdrelay.broker.names import kme_queues
from qkdrelay.broker.rabbitmq import RabbitMqBroker
from qkdrelay.errors import RequestRefusedError
from qkdrelay.link.key import SimulatedLinkKey
from qkdrelay.monitor import served
from qkdrelay.observability import set_up_logging
from qkdrelay.service import BATCH_S, GATHER_S, Loop, prepare_process
from qkdrelay.settings import key_bytes, load
from qkdrelay.terminal import Action, app_with, console, note, print_json, run_app, say

app = app_with("A Key Management Entity: one node of a QKD network that relays keys.")

KEYS_SHOWN_MAX = 100_000
SCRUB_WITHIN_S = 5.0
"""How long `kme forget` tries to empty the log of a store that is in use."""


@app.command()
def run() -> None:
    """Run this KME until SIGTERM. Settings come from the environment (QKDRELAY_...).

    Example: QKDRELAY_KME=kme-1 QKDRELAY_BROKER=127.0.0.1:5672 ... kme run
    """
    stop = prepare_process()
    settings = load(KmeSettings)
    set_up_logging(settings.log_format, settings.log_level)
    name = settings.kme
    links = {
        peer: Link(
            link.suite,
            *(
                SimulatedLinkKey(
                    key_bytes(link.secret),
                    *ends,
                    rate_bps=link.rate_bps,
                    buffer_bytes=link.buffer_bytes,
                    clock=time.monotonic,
                )
                for ends in ((name, peer), (peer, name))
            ),
        )
        for peer, link in settings.links.items()
    }
    store = KmeStore(settings.store, name)
    node = NodeSettings(name, frozenset(links), settings.withstand_compromised, settings.lab)
    service = KmeService(node, store, links, key_bytes(settings.control_key))
    queues = kme_queues(name, [(name, peer) for peer in links])
    broker = RabbitMqBroker(settings.rabbitmq(name, queues))
    loop = Loop(service, broker, batch_s=BATCH_S, gather_s=GATHER_S)
    with served(settings.http, service.metrics.registry, loop.health):
        loop.run(stop)


@app.command()
def keys(
    *,
    reveal: Annotated[bool, typer.Option("--reveal", help="Show the bytes of delivered keys, base64.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    limit: Annotated[int, typer.Option(min=1, max=KEYS_SHOWN_MAX, help="Show at most so many, newest first.")] = 1000,
) -> None:
    """List the keys relayed to or from this KME: id, size, relay, state, and what their relay withstands.

    That is how many compromised, failed and tampering KMEs its plan was checked here to withstand: what was asked for,
    and at least what this KME's own settings demand (QKDRELAY_WITHSTAND_COMPROMISED).

    Example: infra/docker/compose.sh exec kme-8 kme keys --json
    """
    settings = load(StoreSettings)
    found = listed(KmeStore(settings.store, settings.kme, access="read"), reveal=reveal, limit=limit)
    if as_json:
        print_json({"kme": settings.kme, "keys": found})
        return
    table = Table("key id", "bits", "with", "state", "relay", "withstands", *(["key"] if reveal else []), box=None)
    for key in found:
        row = [key["key_id"], str(key["size_bits"]), key["peer"], key["state"], key["relay_id"][:8]]
        row.append(",".join(f"{what}={number}" for what, number in key["withstands"].items() if number) or "nothing")
        table.add_row(*row, *([key.get("key", "")] if reveal else []))
    console().print(table if found else "no keys yet")


@app.command(cls=Action)
def forget(relay: Annotated[UUID, typer.Argument(metavar="RELAY", help="The relay's whole id.")]) -> None:
    """Delete the delivered keys of one relay here, for good; the KME may be running.

    Also what is here of a relay that nobody has decided an hour after its deadline.

    Example: infra/docker/compose.sh exec kme-8 kme forget 34224f85-5280-4774-9b84-8554e90983ce
    """
    settings = load(StoreSettings)
    store = KmeStore(settings.store, settings.kme, access="beside")
    with store.transaction():
        gone = store.forget_relay(relay, time.time())
    if not gone:
        raise RequestRefusedError(f"no keys of relay {relay} are delivered here", hint="`kme keys --json` has the ids")
    until = time.monotonic() + SCRUB_WITHIN_S
    while not (clean := store.scrub()) and time.monotonic() < until:
        time.sleep(0.05)  # between two of the running service's transactions
    say(f"the keys of relay {relay} are deleted")
    if not clean:
        note("the store was in use all the time: its log holds them until the KME is started again")


def main() -> None:
    """Run the command line."""
    run_app(app)


if __name__ == "__main__":
    main()
