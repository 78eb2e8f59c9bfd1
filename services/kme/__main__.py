"""The command `kme`: run a KME, look at its keys."""

# ruff: noqa: PLC0415 - imports stand where they are needed, so that `--help` is quick, and completion by the shell

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from qkdrelay.escaping import escaped
from qkdrelay.terminal import ActionCommand, app_with, console, note, print_json, run_app, say

if TYPE_CHECKING:
    from rich.table import Table

    from kme.devices.client import DeviceSettings

app = app_with("A Key Management Entity: one node of a QKD network that relays keys.")

KEYS_SHOWN_MAX = 100_000
KEYS_PER_TRIAL = 128
UUID_CHARACTERS = 36


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
    """List the keys at this KME: those of relays that people asked for, and those for applications, by state.

    With each key is what its plan was checked here to withstand, in compromised, failed and tampering KMEs: what was
    asked for, and at least what this KME's own settings demand (QKDRELAY_WITHSTAND_COMPROMISED). For applications:
    supply that is not assigned yet, pairs whose slave is here with their keys by state, and the keys that it has to
    fetch. Of pairs whose master is here, `coordinator supplies` counts the keys: they are in the KME's memory only.

    Example: infra/docker/compose.sh exec kme-8 kme keys --json
    """
    from kme.keys import has_masters, listed, of_applications
    from kme.settings import StoreSettings
    from kme.store import open_kme_store
    from qkdrelay.service.settings import load

    settings = load(StoreSettings)
    store = open_kme_store(settings.store, settings.kme, access="read")
    found = listed(store, reveal=reveal, limit=limit)
    applications = of_applications(store, reveal=reveal, limit=limit)
    if as_json:
        print_json({"kme": settings.kme, "keys": found, "applications": applications})
        return
    table = _table_of_keys("key id", "bits", "with", "state", "relay", "withstands", reveal=reveal)
    for key in found:
        row = [key["key_id"], str(key["size_bits"]), key["peer"], key["state"], key["relay_id"][:8]]
        row.append(",".join(f"{what}={number}" for what, number in key["withstands"].items() if number) or "nothing")
        table.add_row(*row, *([key.get("key", "")] if reveal else []))
    has_applications = any(applications.values())
    console().print(table if found else f"no keys{'' if has_applications else ' yet'}")
    if has_applications:
        _show_applications(applications, reveal=reveal)
    if has_masters(store, settings.kme):
        note("keys for masters are in this KME's memory only: `coordinator supplies` counts them, by state")


def _table_of_keys(*columns: str, reveal: bool) -> Table:
    """Return a table whose first column is ids, which are whole in a window of any width: they are for copying."""
    from rich.table import Table

    table = Table(*columns, *(["key"] if reveal else []), box=None, pad_edge=False)
    table.columns[0].min_width = UUID_CHARACTERS
    for column in table.columns[1:]:
        column.overflow = "fold"
    return table


def _show_applications(found: dict[str, Any], *, reveal: bool) -> None:
    """Print what there is for applications."""
    from rich.table import Table

    if found["supply"]:
        supply = Table("supply from", "withstands", "bytes", box=None, pad_edge=False)
        for entry in found["supply"]:
            supply.add_row(entry["source"], f"compromised={entry['withstands']['compromised']}", str(entry["bytes"]))
        console().print(supply)
    if found["pairs"]:
        pairs = Table("master", "slave", "keys by state", box=None, pad_edge=False)
        for entry in found["pairs"]:
            states = {name: number for name, number in entry.items() if name not in ("master", "slave")}
            shown = ", ".join(f"{number} {state}" for state, number in states.items())
            pairs.add_row(entry["master"], entry["slave"], shown)
        console().print(pairs)
    if found["keys"]:
        keys = _table_of_keys("key to fetch", "bits", "master", "slave", "withstands", reveal=reveal)
        for entry in found["keys"]:
            row = [entry["key_id"], str(entry["size_bits"]), entry["master"], entry["slave"]]
            row.append(f"compromised={entry['withstands']['compromised']} ({entry['route']})")
            keys.add_row(*row, *([entry["key"]] if reveal else []))
        console().print(keys)


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


@app.command("try-device", cls=ActionCommand)
def try_device(
    device_of: Annotated[
        str,
        typer.Argument(
            metavar="KME|URL",
            help="The other end of a link of this KME's settings; or where a device is: https://HOST[:PORT][/PATH].",
        ),
    ],
    peer: Annotated[
        str | None,
        typer.Argument(metavar="SAE", help="With a URL: the id by which it knows the KME at the other end."),
    ] = None,
    *,
    tls: Annotated[
        Path | None,
        typer.Option(
            "--tls", metavar="DIR", help="With a URL: folder of ca.pem (the device's authority), cert.pem and key.pem."
        ),
    ] = None,
    server_name: Annotated[
        str | None,
        typer.Option(
            "--server-name", metavar="NAME", help="With a URL: in the device's certificate, if it is not HOST."
        ),
    ] = None,
    number: Annotated[int, typer.Option("--number", min=1, max=KEYS_PER_TRIAL, help="Keys to draw.")] = 1,
    size_bits: Annotated[
        int | None,
        typer.Option("--size", metavar="BITS", min=64, max=1024, help="Of each; the device's own if not told."),
    ] = None,
    fetch: Annotated[
        list[str] | None,
        typer.Option("--fetch", metavar="KEY_ID", help="Fetch these instead, which the peer has drawn."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Try a QKD device over ETSI GS QKD 014, as the KME at this end of a link: draw keys, or fetch what was drawn.

    Draw at one end, and fetch at the other with the ids that are shown: the check must be the same at both. It says
    nothing else of a key. The keys are used for nothing, and gone from the device. With the name of the KME at the
    other end, where the device is, and as whom to ask it, is as this KME's settings say (QKDRELAY_LINKS).

    Example: kme try-device kme-2 --number 2

    Example: kme try-device https://qkd-a.example:443 sae-b --tls certs/qkd-a
    """
    from dataclasses import asdict

    from rich.table import Table

    from kme.devices.client import Device
    from kme.devices.trial import as_master, as_slave

    device = Device(_device_at(device_of, peer, tls, server_name))
    found = as_slave(device, fetch) if fetch else as_master(device, number, size_bits)
    device.close()
    if as_json:
        print_json(asdict(found))
        return
    if found.status is not None:
        for what, figure in (
            ("keys stored", found.status.stored_keys),
            ("bits of a key, unless told", found.status.key_bits),
            ("keys at once, at most", found.status.keys_per_request),
        ):
            say(f"{what}: {'it does not say' if figure is None else figure}")
    table = Table("key id", "bits", "check", box=None, pad_edge=False)
    table.columns[0].min_width = UUID_CHARACTERS
    for key in found.keys:
        table.add_row(escaped(key.key_id), str(key.size_bits), key.check)
    console().print(table)


def _device_at(device_of: str, peer: str | None, tls: Path | None, server_name: str | None) -> DeviceSettings:
    """Return where a device is: as was said with its URL, or else as the settings have it. Raises SettingsError."""
    from kme.devices.client import DeviceSettings
    from kme.settings import DeviceLinkSettings, LinksSettings
    from qkdrelay.errors import SettingsError
    from qkdrelay.network.names import KME_NAME
    from qkdrelay.service.settings import load

    if not KME_NAME.fullmatch(device_of):
        if peer is None or tls is None:
            raise SettingsError(
                "with a URL, SAE and --tls must be given", hint="or name the KME at the other end alone"
            )
        return DeviceSettings(device_of, peer, tls, server_name)
    if peer is not None or tls is not None or server_name is not None:
        raise SettingsError(
            f"the rest is as the settings say of the link with {device_of}", hint="or begin with the device's URL"
        )
    links = load(LinksSettings).links
    link = links.get(device_of)
    if isinstance(link, DeviceLinkSettings):
        return DeviceSettings(link.url, link.peer_sae, link.tls, link.server_name)
    about = f"no link with {device_of}" if link is None else f"a simulated link with {device_of}"
    others = [name for name, each in links.items() if isinstance(each, DeviceLinkSettings)]
    raise SettingsError(f"QKDRELAY_LINKS has {about}", hint=f"with devices: {', '.join(others) or 'none'}")


def main() -> None:
    """Run the command line."""
    run_app(app)


if __name__ == "__main__":
    main()
