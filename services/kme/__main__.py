"""The command `kme`: run a KME, look at its keys."""

# ruff: noqa: PLC0415 - imports stand where they are needed, so that `--help` is quick, and completion by the shell

from __future__ import annotations

from typing import Annotated

import typer

from qkdrelay.terminal import ActionCommand, app_with, console, note, print_json, run_app, say

app = app_with("A Key Management Entity: one node of a QKD network that relays keys.")

KEYS_SHOWN_MAX = 100_000


@app.command()
def run() -> None:
    """Run this KME until SIGTERM. Settings come from the environment (QKDRELAY_...).

    Example: QKDRELAY_KME=kme-1 QKDRELAY_BROKER=127.0.0.1:5672 ... kme run
    """
    from kme import bootstrap

    bootstrap.run()


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
    from rich.table import Table

    from kme.keys import listed
    from kme.settings import StoreSettings
    from kme.store import open_kme_store
    from qkdrelay.service.settings import load

    settings = load(StoreSettings)
    found = listed(open_kme_store(settings.store, settings.kme, access="read"), reveal=reveal, limit=limit)
    if as_json:
        print_json({"kme": settings.kme, "keys": found})
        return
    table = Table("key id", "bits", "with", "state", "relay", "withstands", *(["key"] if reveal else []), box=None)
    for key in found:
        row = [key["key_id"], str(key["size_bits"]), key["peer"], key["state"], key["relay_id"][:8]]
        row.append(",".join(f"{what}={number}" for what, number in key["withstands"].items() if number) or "nothing")
        table.add_row(*row, *([key.get("key", "")] if reveal else []))
    console().print(table if found else "no keys yet")


@app.command(cls=ActionCommand)
def forget(
    relay: Annotated[str, typer.Argument(metavar="RELAY", help="The relay's id, or its first 4 digits or more.")],
) -> None:
    """Delete the delivered keys of one relay here, for good; the KME may be running.

    Also keys that are held, from an hour after the relay's deadline. The id stays refused.

    Example: infra/docker/compose.sh exec kme-8 kme forget 5fa9423f
    """
    from kme.forgetting import forget_relay as forget_keys
    from kme.settings import StoreSettings
    from qkdrelay.service.settings import load

    settings = load(StoreSettings)
    relay_id, clean = forget_keys(settings.store, settings.kme, relay)
    say(f"the keys of relay {relay_id} are deleted")
    if not clean:
        note("the store is being read all the time: its log holds them until that ends")


def main() -> None:
    """Run the command line."""
    run_app(app)


if __name__ == "__main__":
    main()
